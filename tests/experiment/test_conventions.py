"""Conventions of likelihoods: what is drawn to dequantise, and what is said of noise at the clean end."""

import math
from pathlib import Path

import pytest
import torch

import sfumato
from sfumato.core import NoiseSource
from sfumato.data import Normalization
from sfumato.experiment.evaluation.conventions import clean_end_note, convention_of
from sfumato.experiment.evaluation.likelihoods import noise_of
from sfumato.experiment.evaluation.subject import subject_of
from sfumato.likelihood import Rademacher, flow_log_prob


def test_dequantisation_and_probes_are_independent() -> None:
    """E[v' J(x) v] = tr J needs a v that is independent of x, which the sign of the noise on x is not.

    Of 12,800 pairs of signs half agree, give or take 0.5/sqrt(12,800) = 0.0044; the tolerance is five of those.
    """
    measure = convention_of(Normalization("range", (127.5,), (127.5,), (8, 8), None), 0.0)
    noise = NoiseSource.of(seed=0, count=200)
    x0 = torch.zeros(200, 1, 8, 8) + 1 / 255
    offsets = measure.prepared(x0, noise, on_levels=False) - x0
    for probe in Rademacher(4).probes(x0, noise):
        agree = (offsets.sign() == probe).double().mean()
        assert abs(float(agree) - 0.5) < 0.022


def test_pictures_are_told_what_a_blurred_density_costs_at_the_least() -> None:
    """On the peak of N(0, u²), a level 2/255 wide has the probability 2/(255 u sqrt(2 pi)), and no more anywhere."""
    measure = convention_of(Normalization("range", (127.5,), (127.5,), (8, 8), None), 0.0)
    least = -math.log2(2 / 255 / (0.0316 * math.sqrt(2 * math.pi)))
    assert f"{least:.2f} bits/dim" in str(clean_end_note(0.0316, measure))
    assert clean_end_note(5e-4, measure) is None  # a sixteenth of a level


def test_the_error_of_the_probes_is_that_of_the_mean(digits_run: Path) -> None:
    """The mean of n independent estimates errs by sqrt(Σ error²)/n, in nats per example, and less by log 2 in bits."""
    model = sfumato.load(digits_run)
    subject = subject_of(model, weights="ema", part="held-out", n=4, seed=0, report=lambda text: None)
    measure = convention_of(model.record.normalization, subject.log_scale)
    noise = noise_of(subject, "flow", slice(0, 4))
    x = measure.prepared(subject.x0, noise, on_levels=False)
    each = flow_log_prob(subject.denoiser, x, divergence=Rademacher(4), noise=noise, rtol=1e-3, atol=1e-3)
    assert each.probe_std_error is not None
    nats = math.hypot(*each.probe_std_error.tolist()) / 4 / 64
    found = sfumato.evaluate(model, "bits_per_dim", n=4).metrics
    assert found["nll[flow]"].provenance["probe_std_error"] == pytest.approx(nats, rel=1e-6)
    assert found["bits_per_dim[flow]"].provenance["probe_std_error"] == pytest.approx(nats / math.log(2), rel=1e-6)
