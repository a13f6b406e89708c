"""The point sets: their statistics against closed forms, and their dependence on the seed alone."""

import math

import pytest
import torch

from sfumato.data import POINT_SOURCES, DataConfig, Packed, load_data
from sfumato.data.points import POINT_SETS
from sfumato.errors import ConfigError


def draw(source: str, seed: int = 0, **settings: float) -> Packed:
    return load_data(DataConfig(source=source, **settings), seed=seed)  # type: ignore[arg-type]


def test_every_source_has_its_set() -> None:
    assert tuple(POINT_SETS) == POINT_SOURCES


def test_the_swiss_roll_has_eslings_statistics() -> None:
    """Mean (.20, .01), standard deviation (.66, .70), E x² = .483 a coordinate, for 10,000 points with noise 0.5.

    The published figures have two digits; the standard error of a mean here is .007, of a second moment .005.
    """
    values = draw("swiss-roll").values.double()
    assert values.shape == (10_000, 2)
    assert values.mean(0).tolist() == pytest.approx([0.20, 0.01], abs=0.03)
    assert values.std(0).tolist() == pytest.approx([0.66, 0.70], abs=0.02)
    assert float(values.square().mean()) == pytest.approx(0.483, abs=0.02)


def test_the_swiss_roll_has_the_moments_of_its_formula() -> None:
    """E over a ~ U(3π/2, 9π/2) by quadrature, noise variance added; 200,000 points, tolerance 5 standard errors."""
    angle = torch.linspace(1.5 * math.pi, 4.5 * math.pi, 200_001, dtype=torch.float64)
    roll = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1) / 10
    values = draw("swiss-roll", count=200_000).values.double()
    assert torch.allclose(values.mean(0), roll.mean(0), atol=5 * 0.7 / 200_000**0.5)
    assert torch.allclose(values.square().mean(0), roll.square().mean(0) + 0.05**2, atol=5 * 0.6 / 200_000**0.5)


@pytest.mark.parametrize(("source", "scale"), [(s, 0.1 if s == "swiss-roll" else 1.0) for s in POINT_SOURCES])
def test_the_noise_has_the_std_it_is_given(source: str, scale: float) -> None:
    """Equal seeds draw equal points but for the noise; 20,000 normal draws know their std to .5 %, here 5 of these."""
    difference = draw(source, noise=0.2).values - draw(source, noise=0.0).values
    assert float(difference.double().square().mean().sqrt()) == pytest.approx(
        0.2 * scale * (0.5**0.5 if source == "pinwheel" else 1.0),
        rel=0.025,  # a pinwheel's noise is across the arm only
    )


def test_without_noise_every_set_lies_on_its_curve() -> None:
    roll = draw("swiss-roll", noise=0.0).values.double() * 10
    radius = roll.norm(dim=1)
    assert torch.allclose(
        torch.stack([radius * radius.cos(), radius * radius.sin()], dim=1), roll, atol=1e-4
    )  # float32

    circles = draw("circles", noise=0.0)
    assert circles.labels is not None
    assert torch.allclose(circles.values.norm(dim=1), 1 - 0.5 * circles.labels.float(), atol=1e-6)

    moons = draw("moons", noise=0.0)
    assert moons.labels is not None
    side = 1 - 2 * moons.labels.float()
    arc = moons.values * side[:, None] + torch.tensor([0.5, 0.25])
    assert torch.allclose(arc.norm(dim=1), torch.ones(len(arc)), atol=1e-6)
    assert arc[:, 1].min() >= -1e-6

    mixture = draw("mixture", noise=0.0)
    assert mixture.labels is not None
    angle = mixture.labels * (2 * math.pi / 8)
    assert torch.allclose(mixture.values, torch.stack([angle.cos(), angle.sin()], dim=1), atol=1e-6)

    pinwheel = draw("pinwheel", noise=0.0)
    assert pinwheel.labels is not None
    radius = pinwheel.values.norm(dim=1)
    error = torch.stack([arm(pinwheel.labels, sign * radius) - pinwheel.values for sign in (1, -1)])
    # the rare radius below 0 (3.3 standard deviations) lies on the arm's continuation through the origin
    assert float(error.norm(dim=2).amin(dim=0).max()) < 1e-5


def arm(label: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    turn = label * (2 * math.pi / 5) + along.exp() / 4
    return along[:, None] * torch.stack([turn.cos(), turn.sin()], dim=1)


def test_the_checkerboard_covers_its_eight_squares_evenly() -> None:
    cells = ((draw("checkerboard", count=80_000).values + 1) * 2).floor().long()
    assert cells.min() >= 0
    assert cells.max() <= 3
    assert bool(((cells[:, 0] + cells[:, 1]) % 2 == 0).all())
    counts = torch.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16).double()
    occupied = counts[counts > 0]
    assert len(occupied) == 8
    assert (occupied - 10_000).abs().max() < 5 * math.sqrt(10_000 * 7 / 8)  # five standard deviations of a binomial


@pytest.mark.parametrize("source", POINT_SOURCES)
def test_points_depend_on_the_seed_alone(source: str) -> None:
    first, again, other = (draw(source, seed, count=500) for seed in (7, 7, 8))
    assert first.values.dtype == torch.float32
    assert first.fingerprint == again.fingerprint
    assert torch.equal(first.values, again.values)
    assert first.fingerprint != other.fingerprint
    assert first.values.abs().max() < 3


def test_settings_of_pictures_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.size is set, but data\.source 'moons' draws points"):
        load_data(DataConfig(source="moons", size=64), seed=0)
    with pytest.raises(ConfigError, match=r"data\.flip"):
        load_data(DataConfig(source="moons", flip=True), seed=0)


def test_a_class_that_was_not_drawn_does_not_occur() -> None:
    packed = draw("mixture", count=3)
    assert packed.labels is not None
    assert sorted(set(packed.labels.tolist())) == list(range(packed.num_classes))
    assert packed.num_classes <= 3
