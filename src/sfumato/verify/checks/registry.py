"""Every check, by subject, in the order in which they are run."""

from sfumato.verify.check import Check
from sfumato.verify.checks import (
    bounds,
    editing,
    features,
    flows,
    guidance,
    kernels,
    laws,
    learning,
    likelihoods,
    noise,
    objectives,
    parameterizations,
    samplers,
    schedules,
)

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = (
    *schedules.CHECKS,
    *parameterizations.CHECKS,
    *kernels.CHECKS,
    *samplers.CHECKS,
    *laws.CHECKS,
    *bounds.CHECKS,
    *likelihoods.CHECKS,
    *flows.CHECKS,
    *objectives.CHECKS,
    *learning.CHECKS,
    *guidance.CHECKS,
    *editing.CHECKS,
    *features.CHECKS,
    *noise.CHECKS,
)
