"""Figures of 2-D models: what is drawn is what was computed, and what is called exact is the closed form."""

import io
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import CosineAngle, LogSnrLinear, OneLevel, Prediction, Rates, Tabulated, Ve
from sfumato.data import DataConfig, Normalization
from sfumato.data.laws import law_of
from sfumato.errors import ConfigError, NumericsError, UsageError
from sfumato.figures import (
    Densities,
    LangevinWalk,
    ScoreField,
    densities,
    gamma,
    langevin_animation,
    langevin_paths,
    score_fields,
    usual_starts,
)
from sfumato.figures.density import kl_on, levels_of, mass_on
from sfumato.figures.field import FINE, measured_field, score_of
from sfumato.figures.history import Levels
from sfumato.figures.plane import Plane, lattice, roomy
from sfumato.figures.strips import Limits
from sfumato.figures.truth import LawTruth, PointsTruth
from sfumato.verify.oracles import DatasetOracle, MixtureOracle

Array = NDArray[np.float64]

NORMAL = Normalization("standardize", (0.3, -0.2), (0.7, 1.4))
LIMITS = Limits((-2.0, 2.0), (-2.0, 2.0))
SCHEDULE = CosineAngle()


def mixture(std: float = 0.1) -> MixtureOracle:
    """Eight Gaussians on the unit circle, as `data.points.Mixture`, moved to the model units of NORMAL."""
    angle = np.arange(8) * np.pi / 4
    mean, scale = np.array(NORMAL.mean), np.array(NORMAL.scale)
    means = (np.stack([np.cos(angle), np.sin(angle)], axis=1) - mean) / scale
    return MixtureOracle(np.ones(8), means, [(std / scale) ** 2] * 8)


def mixture_truth() -> LawTruth:
    law = law_of(DataConfig(source="mixture"))
    assert law is not None
    return LawTruth(law.normalized(NORMAL.mean, NORMAL.scale), "mixture")


def points(count: int = 50) -> Tensor:
    """Points of a spiral, float64 (count, 2)."""
    angle = torch.linspace(1, 9, count, dtype=torch.float64)
    return torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1) / 6


def field_of(learned: Array, exact: Array, side: int) -> ScoreField:
    places = lattice(LIMITS, side).numpy()
    return ScoreField(0.25, 1.5, LIMITS, places, learned, exact, np.zeros((FINE, FINE)), 0.5, 2.0)


def drawn_arrows(figure: Figure, index: int) -> tuple[Array, Array]:
    """Places and vectors of the arrows in a panel."""
    (arrows,) = [part for part in figure.axes[index].collections if hasattr(part, "U")]
    return np.stack([arrows.X, arrows.Y], axis=1), np.stack([arrows.U, arrows.V], axis=1)


def test_arrows_are_the_scores() -> None:
    """Undoing the logarithm gives every score back; both panels and their difference share one scale."""
    grid = lattice(LIMITS, 6).numpy()
    learned, exact = -grid * 3.0, np.stack([-grid[:, 1], grid[:, 0]], axis=1) * 40
    figure = score_fields([field_of(learned, exact, 6)], truth="a rotation")
    for index, wanted in enumerate((learned, exact, learned - exact)):
        places, vectors = drawn_arrows(figure, index)
        sizes = np.hypot(*vectors.T)
        assert np.allclose(places, grid)
        assert np.allclose(vectors * (np.expm1(sizes) / sizes)[:, None], wanted, rtol=1e-12)
    scales = {part.scale for axes in figure.axes for part in axes.collections if hasattr(part, "U")}
    assert len(scales) == 1
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["learned, t = 0.25, log SNR 1.5", "exact", "difference: rms 0.5 of 2 (25 %)"]


@pytest.mark.parametrize("t", [0.02, 0.4, 0.9])
@pytest.mark.parametrize("schedule", [CosineAngle(max_signal_rate=0.99), Ve(), OneLevel(0.1)], ids=repr)
def test_exact_scores_are_the_closed_form(schedule: CosineAngle | Ve | OneLevel, t: float) -> None:
    """In the units of the axes: the mixture's score at alpha, sigma, moved by the chain rule; 1e-9 in float64."""
    found = measured_field(
        lambda x: torch.zeros_like(x), mixture_truth(), Plane(NORMAL), schedule=schedule, t=t, limits=LIMITS, side=5
    )
    r = schedule.rates(t)
    alpha, sigma = float(r.alpha), float(r.sigma)
    power, scale = max(1.0, math.hypot(alpha, sigma)), np.array(NORMAL.scale)
    x = (found.places - np.array(NORMAL.mean)) / scale * power
    wanted = mixture().score(x, alpha, sigma) * power / scale
    assert np.allclose(found.exact, wanted, rtol=1e-9, atol=1e-9)
    assert found.difference == pytest.approx(found.size)  # nothing was learned
    assert found.log_snr == pytest.approx(float(r.log_snr))


def test_shown_densities_have_mass_one() -> None:
    """The change of variables to the axes keeps the mass, also where exploding points are drawn at unit size."""
    truth, plane, limits = mixture_truth(), Plane(NORMAL), Limits((-8.0, 8.0), (-8.0, 8.0))
    for r in (Rates.data(), SCHEDULE.rates(0.5), Ve().rates(0.6)):
        x = plane.inside(lattice(limits, 160), r)
        shown = plane.log_density(truth.log_density(x, r), r).numpy()
        assert mass_on(shown, (16 / 160) ** 2) == pytest.approx(1, abs=2e-3)  # cells as wide as a Gaussian: 1e-3
        assert torch.allclose(plane.shown(x, r), lattice(limits, 160))


def test_a_finite_set_is_its_own_truth() -> None:
    x0, x = points(), 2 * points(40) + 0.3
    truth, oracle = PointsTruth(x0), DatasetOracle(x0.numpy())
    for t in (0.05, 0.5, 1.0):
        r = SCHEDULE.rates(t)
        level = (float(r.alpha), float(r.sigma))
        assert np.allclose(truth.score(x, r).numpy(), oracle.score(x.numpy(), *level), rtol=1e-9, atol=1e-9)
        assert np.allclose(truth.log_density(x, r).numpy(), oracle.log_p(x.numpy(), *level), rtol=1e-9)
    with pytest.raises(UsageError, match="without noise"):
        truth.log_density(x, Rates.data())
    assert "50 points" in truth.name


class Ideal:
    """The best denoiser for a finite set, in any dtype."""

    schedule = SCHEDULE

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        r = SCHEDULE.rates(t)
        score = PointsTruth(points()).score(x_t, r)
        x0 = (x_t.double() + float(r.sigma) ** 2 * score) / float(r.alpha)
        return Prediction(x_t, r, x0.to(x_t))


def test_a_perfect_model_differs_by_nothing() -> None:
    """In float32 the score (alpha x0 - x)/sigma² keeps 5 digits at sigma = 0.1."""
    found = measured_field(
        score_of(Ideal(), 0.2, like=torch.zeros(0)),
        PointsTruth(points()),
        Plane(NORMAL),
        schedule=SCHEDULE,
        t=0.2,
        limits=LIMITS,
    )
    assert found.difference < 1e-5 * found.size
    assert np.allclose(found.learned, found.exact, rtol=1e-4, atol=1e-3)


def test_the_difference_counts_where_points_are() -> None:
    """A constant error of (3, 4) in model units is an rms of |(3, 4)/scale|, wherever the grid lies."""
    truth = PointsTruth(points())
    r = SCHEDULE.rates(0.5)
    error = torch.tensor([3.0, 4.0], dtype=torch.float64)
    for limits in (LIMITS, Limits((50.0, 60.0), (0.0, 10.0))):
        found = measured_field(
            lambda x: truth.score(x, r) + error, truth, Plane(NORMAL), schedule=SCHEDULE, t=0.5, limits=limits
        )
        assert found.difference == pytest.approx(math.hypot(3 / 0.7, 4 / 1.4))


def test_langevin_paths_are_drawn_step_by_step() -> None:
    paths = np.cumsum(np.arange(4 * 3 * 2, dtype=np.float64).reshape(4, 3, 2) / 40, axis=0)
    zero = np.zeros((36, 2))
    figure = langevin_paths(paths, field_of(zero, zero, 6), title="Langevin", truth="nothing")
    walks = [part for part in figure.axes[0].collections if hasattr(part, "U")][1:]
    assert len(walks) == 3
    for index, walk in enumerate(walks):
        assert np.allclose(np.stack([walk.X, walk.Y], axis=1), paths[:-1, index])
        assert np.allclose(np.stack([walk.U, walk.V], axis=1), np.diff(paths[:, index], axis=0))
        assert walk.scale == 1
    moving = langevin_animation(paths, paths, field_of(zero, zero, 6), title="Langevin")
    assert len(moving.frames) == len(paths)
    assert moving.frames[0].tobytes() != moving.frames[-1].tobytes()
    with pytest.raises(UsageError, match="paths of shape"):
        langevin_paths(paths[:1], field_of(zero, zero, 6), title="", truth="")


def test_starts_hold_eslings_where_they_can() -> None:
    assert (1.5, -1.5) in [tuple(place) for place in usual_starts(LIMITS).tolist()]
    far = Limits((10.0, 20.0), (0.0, 10.0))
    assert far.outside(usual_starts(far)) == 0


@pytest.mark.parametrize("bad", [{"steps": 0}, {"step_size": 0.0}, {"decay": 1.1}, {"temperature": math.nan}])
def test_walks_that_are_none(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        LangevinWalk(**bad)  # type: ignore[arg-type]
    assert LangevinWalk().first_step(0.5) == pytest.approx(0.025)
    assert LangevinWalk(step_size=1e-3).first_step(0.5) == 1e-3


def gaussian(std: float, side: int = 60) -> Array:
    x = lattice(LIMITS, side).numpy()
    values = -0.5 * (x**2).sum(axis=1) / std**2 - math.log(2 * math.pi * std**2)
    return np.asarray(values.reshape(side, side))


def test_kl_by_quadrature_is_the_closed_form() -> None:
    """KL(N(0, s² I) ‖ N(0, q² I)) = 2 (log(q/s) + s²/(2 q²) - 1/2) in two dimensions; tails beyond 5 s are 1e-5."""
    s, q = 0.3, 0.4
    found = Densities(LIMITS, gaussian(q), gaussian(s))
    assert found.truth is not None
    wanted = 2 * (math.log(q / s) + s**2 / (2 * q**2) - 0.5)
    assert kl_on(found.truth, found.model, found.cell) == pytest.approx(wanted, abs=1e-6)
    assert mass_on(found.truth, found.cell) == pytest.approx(1, abs=1e-9)


def test_both_densities_share_their_contours() -> None:
    found = Densities(LIMITS, gaussian(0.4), gaussian(0.3))
    figure = densities(found, truth="the law")
    levels = [part.levels.tolist() for axes in figure.axes[:2] for part in axes.collections if hasattr(part, "levels")]
    assert len(levels) == 4  # filled, and lines between
    assert all(each == levels_of(found).tolist() for each in levels)
    colours = [tuple(part.norm.__dict__["_vmin"] for part in axes.collections[:1]) for axes in figure.axes[:2]]
    assert colours[0] == colours[1]
    (told,) = [text.get_text() for text in figure.texts if "KL" in text.get_text()]
    assert "0.138 nats" in told


def test_without_a_law_the_points_are_shown() -> None:
    cloud = points().numpy()
    figure = densities(Densities(LIMITS, gaussian(0.4), None), points=cloud, truth="50 points")
    assert np.allclose(figure.axes[1].collections[0].get_offsets(), cloud)
    assert "no law is known" in figure.axes[1].get_title(loc="left")
    with pytest.raises(UsageError, match="nothing to compare"):
        densities(Densities(LIMITS, gaussian(0.4), None), truth="")
    with pytest.raises(UsageError, match="shape"):
        Densities(LIMITS, gaussian(0.4), gaussian(0.4, side=10))
    with pytest.raises(NumericsError, match="not a number"):
        Densities(LIMITS, np.full((4, 4), math.nan), None)
    with pytest.raises(NumericsError, match="no density can be drawn"):  # contours would be one number
        densities(Densities(LIMITS, np.full((4, 4), -3.6e35), None), points=cloud, truth="50 points")


def test_the_learned_schedule_beside_its_start() -> None:
    learned, start = CosineAngle(), LogSnrLinear()
    losses = Levels(np.array([10.0, 20.0]), np.array([-3.0, 0.0, 3.0]), np.array([[1.0, 1.0, 1.0], [0.1, 0.2, 0.3]]))
    figure = gamma(learned, start=start, losses=losses)
    for line, schedule in zip(figure.axes[0].lines, (learned, start), strict=True):
        t = torch.as_tensor(line.get_xdata())
        assert np.allclose(line.get_ydata(), schedule.log_snr(t))
    for line, schedule in zip(figure.axes[1].lines, (learned, start), strict=True):
        assert np.allclose(line.get_ydata(), -schedule.slope(torch.as_tensor(line.get_xdata())))
    assert figure.axes[2].lines[0].get_ydata().tolist() == [0.1, 0.2, 0.3]
    assert "step 20" in figure.axes[2].get_title(loc="left")
    table = gamma(Tabulated(steps=10))
    assert len(table.axes[0].lines[0].get_xdata()) == 10
    assert "no slope" in gamma(OneLevel(0.1)).axes[1].texts[0].get_text()


def test_only_the_plane_is_shown() -> None:
    for bad in (Normalization("range", (127.5,), (127.5,), (8, 8)), Normalization("none", (0.0,) * 3, (1.0,) * 3)):
        with pytest.raises(UsageError, match="no points of the plane"):
            Plane(bad)
    with pytest.raises(UsageError, match="no points of the plane"):
        PointsTruth(torch.zeros(3, 3))
    limits = roomy(points().numpy())
    assert limits.outside(points().numpy()) == 0


def test_equal_fields_give_equal_bytes() -> None:
    grid = lattice(LIMITS, 6).numpy()
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        score_fields([field_of(-grid, grid, 6)], truth="x").savefig(file, format="png", metadata={"Software": None})
    assert files[0].getvalue() == files[1].getvalue()
