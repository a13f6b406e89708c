"""Betas against the tables of the oracles, for short and long chains, and what is refused."""

import numpy as np
import pytest
import torch

from sfumato.core import (
    Betas,
    ConstantBetas,
    CosineBetas,
    JsdBetas,
    LinearBetas,
    QuadraticBetas,
    SigmoidBetas,
    Tabulated,
    WarmupBetas,
)
from sfumato.errors import ConfigError
from sfumato.verify import oracles

LENGTHS = [1, 2, 3, 200, 1000, 4000]

RULES = {
    "linear": (LinearBetas(), lambda T: oracles.linear_betas(T, 1e-4 * 1000 / T, 0.02 * 1000 / T), 20.0),
    "linear-unscaled": (LinearBetas(1e-5, 1e-2, False), lambda T: oracles.linear_betas(T, 1e-5, 1e-2), 1e-2),
    "quadratic": (QuadraticBetas(1e-5, 1e-2), lambda T: oracles.quadratic_betas(T, 1e-5, 1e-2), 1e-2),
    "sigmoid": (SigmoidBetas(1e-5, 1e-2), oracles.sigmoid_betas, 1e-5 + (1e-2 - 1e-5) / (1 + np.exp(-6))),
    "constant": (ConstantBetas(0.035), lambda T: oracles.constant_betas(T, 0.035), 0.035),
    "cosine": (CosineBetas(), oracles.cosine_betas, 1.0),
    "jsd": (JsdBetas(), oracles.jsd_betas, 1.0),
    "warmup": (WarmupBetas(1e-4, 0.02, 0.5), lambda T: oracles.warmup_betas(T, 1e-4, 0.02, 0.5), 0.02),
}


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("name", RULES)
def test_betas_of_any_length(name: str, steps: int) -> None:
    """The oracle's table, clipped at 0.999; a chain of one step takes the noisy end of the range."""
    betas, rule, only = RULES[name]
    expected = np.minimum(rule(steps) if steps > 1 else [only], 0.999)
    # 1 - f(k+1)/f(k) of the cosine cancels to 1e-16 absolute, 1e-10 of its smallest beta
    np.testing.assert_allclose(betas.values(steps).numpy(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("name", RULES)
def test_alpha_bar_is_the_product(name: str, steps: int) -> None:
    betas, _, _ = RULES[name]
    table = Tabulated(betas, steps)
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    r = table.rates(k / steps)
    bars = oracles.alpha_bar(betas.values(steps).numpy())
    # Logarithms down to -700 carry 1e-13 relative; a float32 table would be off by 1e-7.
    np.testing.assert_allclose((r.alpha**2).numpy(), bars, rtol=1e-11)
    np.testing.assert_allclose((r.sigma**2).numpy(), 1 - bars, rtol=1e-11)


def test_clipping_is_counted() -> None:
    assert CosineBetas().num_clipped(1000) == 1
    assert JsdBetas().num_clipped(50) == 1
    assert LinearBetas().num_clipped(1000) == 0
    assert LinearBetas().num_clipped(20) == 1  # 1000/20 · 0.02 = 1
    assert LinearBetas().num_clipped(10) == int((oracles.linear_betas(10, 0.01, 2.0) >= 0.999).sum())


def test_steps_between_grid_points() -> None:
    """log_snr is linear in t between k/T and (k+1)/T."""
    table = Tabulated(CosineBetas(), 10)
    grid = table.log_snr(torch.arange(1, 11, dtype=torch.float64) / 10)
    for share in (0.0, 0.25, 0.9):
        t = (torch.arange(1, 10, dtype=torch.float64) + share) / 10
        expected = (1 - share) * grid[:-1] + share * grid[1:]
        torch.testing.assert_close(table.log_snr(t), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("steps", [0, -1, 1_000_001])
def test_a_chain_without_steps_is_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=rf"schedule\.steps is {steps}"):
        Tabulated(steps=steps)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LinearBetas(start=0.0), r"start is 0\.0"),
        (lambda: LinearBetas(start=-1e-4), r"start is -0\.0001"),
        (lambda: LinearBetas(end=1.0), r"end is 1\.0"),
        (lambda: QuadraticBetas(end=float("nan")), "end is nan"),
        (lambda: SigmoidBetas(start=2.0), r"start is 2\.0"),
        (lambda: ConstantBetas(0.0), r"is 0\.0"),
        (lambda: CosineBetas(1.0), r"offset is 1\.0"),
        (lambda: CosineBetas(-0.1), r"offset is -0\.1"),
        (lambda: WarmupBetas(fraction=0.0), r"fraction is 0\.0"),
        (lambda: WarmupBetas(fraction=1.5), r"fraction is 1\.5"),
    ],
)
def test_betas_out_of_range_are_refused(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()  # type: ignore[operator]


class Broken(Betas):
    """A rule that goes wrong at one step."""

    def __init__(self, bad: float) -> None:
        self.bad = bad

    def unclipped(self, steps: int) -> torch.Tensor:
        betas = torch.full((steps,), 0.1, dtype=torch.float64)
        betas[2] = self.bad
        return betas

    def __repr__(self) -> str:
        return "Broken()"


@pytest.mark.parametrize("bad", [0.0, -0.5, float("nan")])
def test_a_bad_beta_is_named_with_its_place(bad: float) -> None:
    with pytest.raises(ConfigError, match=rf"beta_3 = {bad} for T = 5"):
        Tabulated(Broken(bad), 5)


def test_a_table_that_runs_out_of_numbers_is_refused() -> None:
    """100 betas of 0.999 leave alpha-bar = 1e-300, the last that float64 can invert; 101 do not."""
    table = Tabulated(ConstantBetas(0.999), 99)
    assert float(table.log_snr(torch.tensor(1.0))) == pytest.approx(99 * np.log(1e-3), rel=1e-12)
    with pytest.raises(ConfigError, match="log-SNR that ends at -698"):
        Tabulated(ConstantBetas(0.999), 101)


def test_the_smallest_betas_still_make_a_schedule() -> None:
    """1 - 1e-17 is 1 in floating point, but log1p knows better: SNR = 1/(k 1e-17)."""
    table = Tabulated(ConstantBetas(1e-17), 3)
    log_snr = table.log_snr(torch.tensor([1, 2, 3], dtype=torch.float64) / 3)
    np.testing.assert_allclose(log_snr.numpy(), -np.log(1e-17 * np.array([1, 2, 3])), rtol=1e-14)
