"""A single noise level as a schedule: what it keeps of the contract, and what it refuses."""

import math

import pytest
import torch

from sfumato.core import (
    Denoiser,
    GridTimes,
    LogSnrInput,
    NoiseVarianceInput,
    OneLevel,
    Score,
    Shifted,
    StepInput,
    UniformTimes,
    check_terminal_signal,
    derived_generator,
)
from sfumato.errors import ConfigError


@pytest.mark.parametrize("level", [0.01, 0.5, 3.0])
def test_there_is_one_pair_of_rates(level: float) -> None:
    """alpha = 1 and sigma = noise_level at t = 1; the constant log-SNR comes back as that time."""
    schedule = OneLevel(level, start=2.0)
    r = schedule.rates(1.0)
    assert float(r.alpha) == 1
    assert float(r.sigma) == pytest.approx(level, rel=1e-14)
    assert float(r.log_snr) == pytest.approx(-2 * math.log(level), rel=1e-13, abs=1e-15)
    assert float(schedule.time(r.log_snr)) == schedule.t_min == 1
    beyond = torch.tensor([math.inf, 0.0, -math.inf], dtype=torch.float64)
    assert torch.equal(schedule.time(beyond), torch.ones(3, dtype=torch.float64))
    batch = schedule.rates(torch.ones(3))
    assert batch.alpha.shape == batch.sigma.shape == (3,)
    assert batch.sigma.dtype == torch.float64
    assert schedule.num_steps == 1
    assert schedule.prior_std == 2.0  # where sampling starts, not sigma(1)
    assert float(schedule.prior.std) == pytest.approx(2.0, rel=1e-14)


def test_training_times_are_that_time() -> None:
    generator = derived_generator(0, "times")
    for times in (UniformTimes(), GridTimes(1)):
        drawn = times.draw(OneLevel(), 5, generator)
        assert torch.equal(drawn.t, torch.ones(5, dtype=torch.float64))
        assert torch.equal(drawn.inv_density, torch.ones(5, dtype=torch.float64))


def test_time_inputs_are_constants() -> None:
    r = OneLevel(0.1).rates(1.0)
    assert float(StepInput(1).value(r)) == 0
    assert float(LogSnrInput().value(r)) == pytest.approx(math.log(0.1) / 4, rel=1e-13)  # Karras et al.'s ¼ ln sigma
    assert float(NoiseVarianceInput().value(r)) == pytest.approx(0.01 / 1.01, rel=1e-13)


def test_there_is_no_slope() -> None:
    for schedule in (OneLevel(), Shifted(128, base=OneLevel())):
        with pytest.raises(ConfigError, match="one step, and so no slope"):
            schedule.slope(torch.ones(()))


def test_it_must_be_allowed_to_end_in_signal() -> None:
    """alpha² data_var/sigma² = 0.7²/0.01²: a diffusion sampler would start where training never was."""
    assert OneLevel().terminal_signal(0.7) == pytest.approx(4900, rel=1e-12)
    with pytest.raises(ConfigError, match=r"(?s)4\.9e\+03 times .*one that ends in noise: a single level never does"):
        check_terminal_signal(OneLevel(), 0.7)

    class Field(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
            return -x

    d = Denoiser(Field(), OneLevel(0.1), Score(), time_input=StepInput(1), data_std=1.0, allow_terminal_signal=True)
    x = torch.tensor([[0.5, -2.0]])
    torch.testing.assert_close(d(x, torch.tensor(1.0)).score, -x, rtol=1e-5, atol=1e-6)  # x0 = x + sigma² score, back


@pytest.mark.parametrize(("name", "value"), [("noise_level", 0.0), ("noise_level", 1e9), ("start", -1.0)])
def test_levels_that_are_none_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"schedule\.{name} is {value}"):
        OneLevel(**{name: value})
    with pytest.raises(ConfigError, match="noise_level is nan"):
        OneLevel(math.nan)
