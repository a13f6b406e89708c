"""Likelihoods of a denoiser: the variational bound of its chain, the density of its ODE, and their units."""

from sfumato.likelihood.bound import (
    Bound,
    continuous_bound,
    prior_term,
    reconstruction_term,
    step_term,
    variational_bound,
)
from sfumato.likelihood.divergence import Divergence, Exact, GaussianProbes, Rademacher
from sfumato.likelihood.flow import FlowLikelihood, LogDensity, flow_bound, flow_log_prob
from sfumato.likelihood.units import LevelDecoder, Levels, bits_per_dim, nats_per_dim, to_bits, to_nats

__all__ = [
    "Bound",
    "Divergence",
    "Exact",
    "FlowLikelihood",
    "GaussianProbes",
    "LevelDecoder",
    "Levels",
    "LogDensity",
    "Rademacher",
    "bits_per_dim",
    "continuous_bound",
    "flow_bound",
    "flow_log_prob",
    "nats_per_dim",
    "prior_term",
    "reconstruction_term",
    "step_term",
    "to_bits",
    "to_nats",
    "variational_bound",
]
