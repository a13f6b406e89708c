"""Power-function averages against direct integrals, and what is put together of them against what was tracked."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import CheckpointError, ConfigError
from sfumato.training.ema import bare_state
from sfumato.training.power_ema import WIDEST, PowerEma, PowerEmas, Profile, exponent_of, fit, inner, width_of

WIDTHS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.28)


class Path(nn.Module):
    """A float64 "network" of three weights that go where they are told, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 1e3, dtype=torch.float64))  # a start that would be seen anywhere
        self.register_buffer("count", torch.tensor(0))

    @torch.no_grad()
    def go(self, t: int) -> None:
        self.weight.copy_(path(float(t)))
        self.count.fill_(t)


def path(t: float) -> Tensor:
    """A known trajectory: a line, a decay, an oscillation."""
    return torch.tensor([t, math.exp(-t / 300), math.sin(t / 9)], dtype=torch.float64)


def tracked(widths: tuple[float, ...], steps: int, moments: tuple[int, ...] = ()) -> dict[tuple[int, float], Tensor]:
    """The averages of the trajectory after each of the moments (and the last step), by moment and width."""
    module = Path()
    power = PowerEmas(module, widths)
    found = {}
    for t in range(1, steps + 1):
        module.go(t)
        power.update(module)
        if t in (*moments, steps):
            found |= {(t, a.width): a.state_dict()["weight"].clone() for a in power.averages}
    return found


def density(profile: Profile, tau: np.ndarray) -> np.ndarray:
    """The profile at places tau, by its definition."""
    inside = (profile.exponent + 1) * (tau / profile.end) ** profile.exponent / profile.end
    return np.where(tau <= profile.end, inside, 0.0)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_width_is_that_of_the_profile(width: float) -> None:
    """Mean and variance of the profile by quadrature: std / end is the width that was asked for."""
    end = 7.0
    tau = (np.arange(400_000) + 0.5) / 400_000 * end
    weight = density(Profile(exponent_of(width), end), tau) * end / 400_000
    mean = float((weight * tau).sum())
    spread = math.sqrt(float((weight * (tau - mean) ** 2).sum()))
    assert float(weight.sum()) == pytest.approx(1, rel=1e-6)  # midpoints of cells of a millionth of the profile
    assert spread / end == pytest.approx(width, rel=1e-6)
    assert width_of(exponent_of(width)) == pytest.approx(width, rel=1e-12)


def test_published_exponents() -> None:
    """Karras et al. 2024, section 3.1: sigma_rel 0.05 and 0.10 are gamma = 16.97 and 6.94; the mean of all is 0."""
    assert exponent_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent_of(0.10) == pytest.approx(6.94, abs=0.005)
    assert exponent_of(WIDEST) == pytest.approx(0, abs=1e-7)  # a double root nearby costs half the digits
    for bad in (0.0, -0.1, 0.2888, 1.0, math.nan):
        with pytest.raises(ConfigError, match="width"):
            exponent_of(bad)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("steps", [1, 2, 3, 50, 1000])
def test_the_average_is_the_integral(width: float, steps: int) -> None:
    """(gamma+1)/t^(gamma+1) ∫ tau^gamma theta dtau of the trajectory that rests between updates, summed in float64."""
    gamma = exponent_of(width)
    edges = (np.arange(steps + 1) / steps) ** (gamma + 1)  # the integral of the profile up to each update
    truth = sum(w * path(t) for t, w in enumerate(np.diff(edges), 1))
    found = tracked((width,), steps)[steps, width]
    torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-13)  # a thousand float64 steps


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_many_updates_are_the_integral_over_a_smooth_path(width: float) -> None:
    """theta(tau) = tau has the mean t (gamma+1)/(gamma+2); resting for a step moves it by less than one step."""
    gamma, steps = exponent_of(width), 2000
    found = tracked((width,), steps)[steps, width][0]
    assert float(found) == pytest.approx(steps * (gamma + 1) / (gamma + 2) + 0.5, abs=0.01)


def test_float_buffers_are_averaged_and_counters_copied() -> None:
    module = nn.BatchNorm1d(1)
    power = PowerEma(module, width=0.1)
    for value in (5.0, 1.0, 2.0):
        with torch.no_grad():
            module.weight.fill_(value)
            module.running_var.fill_(value)
        module.num_batches_tracked.fill_(int(value))
        power.update(module)
    found = power.state_dict()
    g = exponent_of(0.1) + 1
    truth = (5.0 + (2**g - 1) * 1.0 + (3**g - 2**g) * 2.0) / 3**g
    assert found["weight"].dtype == torch.float32
    for name in ("weight", "running_var"):
        assert float(found[name]) == pytest.approx(truth, rel=1e-6)  # float32
    assert int(found["num_batches_tracked"]) == 2


def test_a_skipped_update_keeps_every_bit_and_the_time_goes_on() -> None:
    """A GPU's flag is not read by the host: time counts, and the average stays."""
    module = nn.Linear(2, 2)
    power = PowerEma(module, width=0.1)
    power.update(module, torch.tensor(False))
    before = {name: tensor.clone() for name, tensor in power.state_dict().items()}
    with torch.no_grad():
        module.weight.add_(1)
    power.update(module, torch.tensor(True))
    assert all(torch.equal(before[name], tensor) for name, tensor in power.state_dict().items())
    assert power.num_updates == 2


def test_resuming_changes_no_bit() -> None:
    def walked(power: PowerEmas, module: nn.Module, steps: range) -> None:
        for step in steps:
            with torch.no_grad():
                module.weight.copy_(torch.randn(3, 3, generator=torch.Generator().manual_seed(step)))
            power.update(module)

    module = nn.Linear(3, 3)
    whole, first = PowerEmas(module, (0.05, 0.1)), PowerEmas(module, (0.05, 0.1))
    walked(whole, module, range(30))
    walked(first, module, range(12))
    stored = {name: {n: t.clone() for n, t in part.items()} for name, part in first.tensors().items()}
    assert list(stored) == ["power-0.05", "power-0.1"]
    again = PowerEmas(nn.Linear(3, 3), (0.05, 0.1))
    again.check(stored, first.counters())
    again.restore(stored, first.counters())
    walked(again, module, range(12, 30))
    for name, part in whole.tensors().items():
        assert all(torch.equal(tensor, again.tensors()[name][key]) for key, tensor in part.items())
    with pytest.raises(CheckpointError, match=r"counts the averages 0\.05, 0\.1, and the settings ask for 0\.05") as no:
        PowerEmas(module, (0.05,)).check(stored, first.counters())
    assert no.value.fix == "set training.power_ema: [0.05, 0.1]"
    with pytest.raises(CheckpointError, match=r"lacks ema-power-0\.1\.safetensors"):
        again.check({"power-0.05": stored["power-0.05"]}, first.counters())


def test_constants_are_kept() -> None:
    module = Path()
    with torch.no_grad():
        module.weight.fill_(0.3)
    power = PowerEma(module, width=0.05)
    for _ in range(50):
        power.update(module)
    torch.testing.assert_close(
        power.state_dict()["weight"], torch.full((3,), 0.3, dtype=torch.float64), rtol=1e-14, atol=0
    )
    assert bare_state(module).keys() == power.state_dict().keys()


# ------------------------------------------------------------------------------------------------------- reconstruction

MOMENTS = (100, 250, 300, 700, 1000)
STORED = [Profile(exponent_of(width), float(end)) for end in MOMENTS for width in (0.05, 0.1)]


def test_inner_products_are_integrals() -> None:
    """∫ p_i p_j by quadrature, with all orders of end and exponent among the pairs."""
    tau = np.arange(2_000_000, dtype=np.float64) / 2_000 + 0.5 / 2_000  # midpoints: the jumps at the ends fall between
    table = np.stack([density(p, tau) for p in STORED])
    by_sums = table @ table.T / 2_000
    np.testing.assert_allclose(inner(STORED, STORED), by_sums, rtol=1e-7)  # cells of 1/2000 of profiles 5 wide


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15, 0.25])
def test_the_weights_are_least_squares(width: float) -> None:
    """Against a dense solve on a grid with the sum written in, and the residual by quadrature."""
    wanted = Profile(exponent_of(width), 1000.0)
    tau = np.arange(200_000, dtype=np.float64) / 200 + 0.5 / 200
    table = np.stack([density(p, tau) for p in STORED])
    target = density(wanted, tau)
    # x = (…, 1 - Σ rest): the last profile is written as what is left of the sum
    rest, *_ = np.linalg.lstsq((table[:-1] - table[-1]).T, target - table[-1], rcond=None)
    truth = np.append(rest, 1 - rest.sum())
    found = fit(STORED, wanted)
    assert sum(found.weights) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found.weights, truth, rtol=0, atol=2e-5 * np.abs(truth).max())  # the grid's own error
    left = truth @ table - target
    assert found.residual == pytest.approx(math.sqrt((left @ left) / (target @ target)), rel=1e-4)


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_what_was_stored_comes_back(width: float) -> None:
    found = fit(STORED, Profile(exponent_of(width), 1000.0))
    place = STORED.index(Profile(exponent_of(width), 1000.0))
    assert found.weights[place] == pytest.approx(1, abs=1e-9)
    assert found.residual < 1e-7  # of differences of numbers of order 1


@pytest.mark.parametrize("width", [0.02, 0.07, 0.15, 0.25])
def test_another_width_is_what_tracking_it_gives(width: float) -> None:
    """Of 32 moments of two widths; the error is within what Cauchy and Schwarz allow the residual to make of it."""
    moments = tuple(range(50, 1601, 50))
    kept = tracked((0.05, 0.1), 1600, moments)
    truth = tracked((width,), 1600)[1600, width]
    profiles = [Profile(exponent_of(w), float(t)) for t, w in kept]
    wanted = Profile(exponent_of(width), 1600.0)
    found = fit(profiles, wanted)
    combined = sum(x * tensor for x, tensor in zip(found.weights, kept.values(), strict=True))
    length = math.sqrt(float(inner([wanted], [wanted])[0, 0]))
    path_table = torch.stack([path(float(t)) for t in range(1, 1601)])
    spread = (path_table - path_table.mean(0)).square().sum(0).sqrt()
    bound = found.residual * length * spread
    assert bool(((combined - truth).abs() <= bound + 1e-9).all())
    assert found.residual < {0.02: 0.05, 0.07: 0.001, 0.15: 0.003, 0.25: 0.04}[width]
    # A smooth path of range 1 is met better than the bound allows: what is missed wiggles to and fro.
    assert float((combined - truth).abs()[1]) < 0.2 * found.residual


def test_resting_weights_come_back_unscaled() -> None:
    """Of four moments of training, far too few for a width of 0.25: the sum is 1 all the same."""
    few = [Profile(exponent_of(w), float(t)) for t in (1, 2, 3, 4) for w in (0.05, 0.1)]
    found = fit(few, Profile(exponent_of(0.25), 4.0))
    assert sum(found.weights) == pytest.approx(1, abs=1e-12)
    assert found.residual > 0.3


def test_moments_next_to_each_other_do_no_harm() -> None:
    """The last step of a run may be one after a stored moment: profiles that float64 can hardly tell apart."""
    ends = (*range(1000, 64_001, 1000), 64_001)
    near = [Profile(exponent_of(w), float(t)) for t in ends for w in (0.05, 0.1)]
    for width in (0.02, 0.07, 0.2):
        found = fit(near, Profile(exponent_of(width), 64_001.0))
        assert found.residual < 0.015
        assert sum(map(abs, found.weights)) < 100  # what rounding errors of stored weights are multiplied by
