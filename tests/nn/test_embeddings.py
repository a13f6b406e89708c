"""The sinusoidal embedding against its formula, evaluated by Python's math module."""

import math

import pytest
import torch

from sfumato.nn import log_spaced_frequencies, sinusoidal_embedding


def by_hand(time: float, count: int = 16) -> list[float]:
    """falbel's embedding in Python floats: exp(linspace(ln 1, ln 1000, count)), 2πf, sines then cosines."""
    angles = [2 * math.pi * time * math.exp(math.log(1000) * i / (count - 1)) for i in range(count)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


@pytest.mark.parametrize("time", [0.0, 0.0004, 0.25, 0.5, 0.9996, 1.0])
def test_values_are_those_of_the_formula(time: float) -> None:
    frequencies = log_spaced_frequencies(16, like=torch.zeros((), dtype=torch.float64))
    ours = sinusoidal_embedding(torch.tensor([time], dtype=torch.float64), frequencies)
    # float64 angles reach 2π·1000, whose rounding is 1e-12
    torch.testing.assert_close(ours[0], torch.tensor(by_hand(time), dtype=torch.float64), rtol=0, atol=1e-11)


def test_float32_is_precise_enough_for_the_fastest_frequency() -> None:
    times = torch.linspace(0, 1, 101)
    ours = sinusoidal_embedding(times, log_spaced_frequencies(16))
    truth = torch.tensor([by_hand(t) for t in times.double().tolist()])
    # an angle of 6,283 in float32 is rounded by up to 2.4e-4 and its frequency by a few units in the last place
    torch.testing.assert_close(ours, truth, rtol=0, atol=5e-3)


def test_frequencies_stay_in_float32_when_the_time_is_in_bfloat16() -> None:
    time = torch.tensor([0.5], dtype=torch.bfloat16)
    assert log_spaced_frequencies(16, like=time).dtype == torch.float32
    ours = sinusoidal_embedding(time, log_spaced_frequencies(16, like=time))
    torch.testing.assert_close(ours[0], torch.tensor(by_hand(0.5)), rtol=0, atol=5e-3)


def test_a_whole_thousand_of_steps_stays_distinguishable() -> None:
    """Step indices divided by their span T: no two of 1,000 steps share an embedding; undivided, f = 1 is blind."""
    steps = torch.arange(1000, dtype=torch.float64)
    frequencies = log_spaced_frequencies(16, like=steps)
    gaps = torch.pdist(sinusoidal_embedding(steps / 1000, frequencies))
    assert gaps.min() > 0.5
    undivided = sinusoidal_embedding(steps, frequencies)
    assert undivided[:, 0].abs().max() < 1e-9
