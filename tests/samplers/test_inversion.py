"""Encoding data into noise and back: against the closed form of a Gaussian's flow, and the order of the round trip."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import CosineAngle, Denoise, NoiseSource, RectifiedFlow, Schedule, Tabulated, Ve
from sfumato.errors import UsageError
from sfumato.guidance import Counting
from sfumato.samplers import (
    Ancestral,
    Ddim,
    Deis,
    Dpm2,
    Dpmpp2M,
    Dpmpp2S,
    Heun,
    Sampler,
    Trailing,
    UniformLogSnr,
    UniPc,
    decode,
    encode,
    round_trip,
)
from sfumato.verify.oracles import GaussianOracle, MixtureOracle, Oracle

SCHEDULES = {"table": Tabulated(), "angle": CosineAngle(), "ve": Ve(0.01, 80.0), "flow": RectifiedFlow()}
MIXTURE = MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], [[[0.3, 0.1], [0.1, 0.4]], [[0.2, 0.0], [0.0, 0.3]]])
MakeIdeal = Callable[[Oracle, Schedule], Denoise]


def data(oracle: Oracle) -> Tensor:
    return torch.from_numpy(oracle.sample(16, np.random.default_rng(0)))


@pytest.mark.parametrize("sampler", [Heun(), Dpm2(), Dpmpp2S(), Dpmpp2M(), Deis(), UniPc()], ids=repr)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_latent_is_the_flow_of_the_data(name: str, sampler: Sampler[Any], ideal: MakeIdeal) -> None:
    """Backwards as forwards: x_1 of the Gaussian's closed form, from x = alpha x0 at t_min, in 150 steps to 5e-3."""
    schedule, oracle = SCHEDULES[name], GaussianOracle([0.3, -0.7], [[0.5, 0.3], [0.3, 0.9]])
    x0, first, last = data(oracle), schedule.rates(schedule.t_min), schedule.rates(1.0)
    start = (float(first.alpha) * x0).numpy()
    truth = oracle.flow(
        start,
        alpha=float(first.alpha),
        sigma=float(first.sigma),
        to_alpha=float(last.alpha),
        to_sigma=float(last.sigma),
    )
    latent = encode(sampler, ideal(oracle, schedule), x0, UniformLogSnr().times_to_t_min(schedule, 150))
    apart = (latent - torch.from_numpy(truth)) / schedule.prior_std
    assert float(apart.abs().max()) < 5e-3


@pytest.mark.parametrize(("sampler", "order"), [(Ddim(), 1), (Heun(), 2), (Dpm2(), 2), (Dpmpp2S(), 2)], ids=repr)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_round_trip_has_an_order_of_its_own(name: str, sampler: Sampler[Any], order: int, ideal: MakeIdeal) -> None:
    """DDIM comes back with an error h (Song, Meng & Ermon 2021, table 2), second-order methods with h² or better."""
    schedule = SCHEDULES[name]
    d, x0 = ideal(MIXTURE, schedule), data(MIXTURE)
    trips = [round_trip(sampler, d, x0, UniformLogSnr().times_to_t_min(schedule, steps)) for steps in (60, 120)]
    slope = math.log2(float(trips[0].rms.norm() / trips[1].rms.norm()))
    assert slope > order - 0.15
    if order == 1:
        assert slope < 1.15
    assert trips[1].largest < (0.4 if order == 1 else 0.05)


def test_heun_comes_back_closer_than_ddim_in_as_many_calls(ideal: MakeIdeal) -> None:
    schedule = CosineAngle()
    x0 = data(MIXTURE)
    errors = []
    for sampler, steps in ((Ddim(), 40), (Heun(), 20)):
        counting = Counting(ideal(MIXTURE, schedule))
        errors.append(round_trip(sampler, counting, x0, UniformLogSnr().times_to_t_min(schedule, steps)).largest)
        assert counting.calls == 80
    assert errors[1] < errors[0] / 5


def test_what_a_round_trip_reports(ideal: MakeIdeal) -> None:
    """Root mean square per element of each sample, and the largest of all, of what came back against what went in."""
    schedule = CosineAngle()
    d, x0, times = ideal(MIXTURE, schedule), data(MIXTURE), UniformLogSnr().times_to_t_min(schedule, 10)
    trip = round_trip(Ddim(), d, x0, times)
    assert torch.equal(trip.latent, encode(Ddim(), d, x0, times))
    assert torch.equal(trip.decoded, decode(Ddim(), d, trip.latent, times))
    apart = (trip.decoded - x0).numpy()
    assert trip.rms.numpy() == pytest.approx(np.sqrt((apart**2).mean(1)), rel=1e-12)
    assert trip.largest == pytest.approx(np.abs(apart).max(), rel=1e-12)


def test_single_precision_stays_single(ideal: MakeIdeal) -> None:
    schedule = RectifiedFlow()
    times = UniformLogSnr().times_to_t_min(schedule, 100)
    trip = round_trip(Heun(), ideal(MIXTURE, schedule), data(MIXTURE).float(), times)
    assert trip.latent.dtype == trip.decoded.dtype == torch.float32
    assert trip.rms.dtype == torch.float64


@pytest.mark.parametrize("sampler", [Ancestral(), Ddim(eta=0.3), Heun(churn=1.0)], ids=repr)
def test_stochastic_samplers_are_refused(sampler: Sampler[Any], ideal: MakeIdeal) -> None:
    times = UniformLogSnr().times_to_t_min(CosineAngle(), 5)
    for walk in (encode, decode, round_trip):
        with pytest.raises(UsageError, match="adds fresh noise") as caught:
            walk(sampler, ideal(MIXTURE, CosineAngle()), data(MIXTURE), times)
        assert type(sampler).__name__ in str(caught.value)
        assert "Ddim(eta=0)" in caught.value.fix


def test_grids_that_end_at_data_are_refused(ideal: MakeIdeal) -> None:
    d = ideal(MIXTURE, CosineAngle())
    with pytest.raises(UsageError, match="ends at data") as caught:
        encode(Ddim(), d, data(MIXTURE), Trailing().times(CosineAngle(), 5))
    assert "times_to_t_min" in caught.value.fix
    with pytest.raises(UsageError, match="no sampling grid"):
        encode(Ddim(), d, data(MIXTURE), [0.1, 0.5, 1.0])


def test_a_decoded_latent_is_a_sample(ideal: MakeIdeal) -> None:
    """Noise decoded to t_min has the data's mean and variance, of x/alpha with its noise still on it."""
    schedule = Ve(0.01, 80.0)
    oracle = GaussianOracle([0.3, -0.7], [[0.5, 0.3], [0.3, 0.9]])
    count = 3000
    noise = NoiseSource.of(seed=0, count=count).initial((count, 2), like=torch.zeros((), dtype=torch.float64))
    x = decode(Heun(), ideal(oracle, schedule), 80 * noise, UniformLogSnr().times_to_t_min(schedule, 60))
    assert x.mean(0).tolist() == pytest.approx([0.3, -0.7], abs=5 / math.sqrt(count))
    assert torch.cov(x.T).flatten().tolist() == pytest.approx([0.5, 0.3, 0.3, 0.9], abs=6 / math.sqrt(count))
