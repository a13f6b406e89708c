"""Measurements and degradations: adjoints, literal definitions, shapes and values of what a network sees."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from sfumato.errors import ConfigError, UsageError
from sfumato.guidance import (
    Blur,
    Blurring,
    Degradation,
    Dense,
    Downsampling,
    Grey,
    Greying,
    Holes,
    LinearOperator,
    LowResolution,
    Masking,
    Measurement,
)


def pictures(channels: int = 3, *, count: int = 4, size: tuple[int, int] = (8, 12), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, *size, generator=generator, dtype=torch.float64)


def random_mask() -> Tensor:
    return (torch.rand(4, 1, 8, 12, generator=torch.Generator().manual_seed(3)) > 0.4).double()


MATRIX = torch.randn(7, 3 * 8 * 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OPERATORS = [
    Masking(random_mask()),
    Masking(random_mask().bool()),
    Downsampling(2),
    Downsampling(4),
    Blurring(0.7),
    Blurring(9.0),  # reaches over both borders several times
    Greying(3),
    Dense(MATRIX, (3, 8, 12)),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_adjoint_identity(operator: LinearOperator) -> None:
    """<A x, y> = <x, A* y> and linearity; sums of 300 products of float64."""
    x, other = pictures(), pictures(seed=5)
    y = torch.randn(operator.apply(x).shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    left = (operator.apply(x) * y).flatten(1).sum(1)
    right = (x * operator.adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    together = operator.apply(2 * x - 3 * other)
    torch.testing.assert_close(together, 2 * operator.apply(x) - 3 * operator.apply(other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_dtype_stays_and_examples_are_alone(operator: LinearOperator) -> None:
    x = pictures()
    y = operator.apply(x.float())
    assert y.dtype == operator.adjoint(y).dtype == torch.float32
    if not isinstance(operator, Masking):  # whose masks here are one per example
        torch.testing.assert_close(operator.apply(x[1:2]), operator.apply(x)[1:2], rtol=1e-14, atol=1e-14)


def test_means_over_blocks() -> None:
    x = pictures()
    y = Downsampling(4).apply(x)
    for i in range(2):
        for j in range(3):
            block = x[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            torch.testing.assert_close(y[:, :, i, j], block.mean(dim=(2, 3)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("std", [0.5, 1.3, 4.0])
def test_blur_is_the_blur_of_others(std: float) -> None:
    """Against SciPy's, mirrored at the borders and cut at 4 std, both in float64."""
    x = pictures()
    reach = math.ceil(4 * std)
    theirs = np.stack([[gaussian_filter(c, std, mode="reflect", radius=reach) for c in e] for e in x.numpy()])
    torch.testing.assert_close(Blurring(std).apply(x), torch.from_numpy(theirs), rtol=1e-12, atol=1e-12)


def test_blur_keeps_one_colour() -> None:
    flat = torch.full((1, 2, 8, 12), 0.3, dtype=torch.float64)
    torch.testing.assert_close(Blurring(3.0).apply(flat), flat, rtol=1e-13, atol=0)


def test_grey_is_luma_or_a_mean() -> None:
    x = pictures()
    luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    torch.testing.assert_close(Grey().picture(x), luma[:, None], rtol=1e-14, atol=1e-14)
    many = pictures(5)
    torch.testing.assert_close(Grey().picture(many), many.mean(dim=1, keepdim=True), rtol=1e-14, atol=1e-14)


def test_low_resolution_is_enlarged_again() -> None:
    x = pictures()
    seen = LowResolution(factor=2).picture(x)
    assert seen.shape == x.shape
    small = Downsampling(2).apply(x)
    for i in range(8):
        for j in range(12):
            assert torch.equal(seen[:, :, i, j], small[:, :, i // 2, j // 2])


def test_low_resolution_of_what_is_seen_is_the_same() -> None:
    """The picture that is shown has the means that were measured: A A* (A A*)⁻¹ y = y."""
    x = pictures()
    operator = Downsampling(4)
    y = operator.apply(x)
    torch.testing.assert_close(operator.apply(operator.shown(y)), y, rtol=1e-14, atol=1e-14)


def uniforms(degradation: Degradation, count: int) -> Tensor:
    return torch.rand(count, degradation.num_uniforms, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def test_holes_show_what_is_left_and_where() -> None:
    holes = Holes(count=2, smallest=0.2, largest=0.6)
    x, u = pictures(), uniforms(holes, 4)
    seen = holes.picture(x, u)
    assert seen.shape == (4, 4, 8, 12)
    mask = seen[:, 3:]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(seen[:, :3], mask * x, rtol=0, atol=0)


def test_holes_by_hand() -> None:
    """16 × 8, sides of exactly a half: 8 × 4 pixels; the places 0 … 8 and 0 … 4 are equally likely."""
    holes = Holes(smallest=0.5, largest=0.5)
    u = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.9, 0.1, 0.999, 0.999], [0.9, 0.1, 0.5, 0.25]])
    mask = holes.operator((1, 16, 8), u).mask
    corners = [(0, 0), (8, 4), (4, 1)]  # floor(0.5 * 9), floor(0.25 * 5)
    for b, (row, column) in enumerate(corners):
        expected = torch.ones(16, 8, dtype=torch.bool)
        expected[row : row + 8, column : column + 4] = False
        assert torch.equal(mask[b, 0], expected)


def test_shares_of_holes() -> None:
    """Sides of holes are uniform between the smallest and the largest: mean 3/8 of a side, and so 9/64 of the area."""
    holes = Holes(smallest=0.25, largest=0.5)
    mask = holes.operator((1, 64, 64), uniforms(holes, 4000)).mask
    hidden = 1 - mask.double().mean(dim=(1, 2, 3))
    assert float(hidden.min()) >= 0.25**2
    assert float(hidden.max()) <= 0.5**2
    assert float(hidden.mean()) == pytest.approx(9 / 64, abs=2.5e-3)  # 4 standard errors of 4,000 draws and rounding


@pytest.mark.parametrize("degradation", [LowResolution(2), Holes(3), Grey(), Blur(1.5)], ids=repr)
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_declared_channels(degradation: Degradation, channels: int) -> None:
    x = pictures(channels)
    seen = degradation.picture(x.float(), uniforms(degradation, 4))
    assert seen.shape == (4, degradation.image_channels(channels), 8, 12)
    assert seen.dtype == torch.float32
    degradation.check((channels, 8, 12))


@pytest.mark.parametrize(
    ("degradation", "shape"),
    [(LowResolution(4), (3, 30, 32)), (Grey(), (1, 8, 8)), (Blur(), (2,)), (Holes(), (7,))],
    ids=repr,
)
def test_what_does_not_fit_is_refused(degradation: Degradation, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        degradation.check(shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowResolution(1),
        lambda: Holes(0),
        lambda: Holes(1, 0.5, 0.25),
        lambda: Holes(1, 0.0, 0.5),
        lambda: Holes(1, 0.5, 1.5),
        lambda: Holes(1, math.nan, 0.5),
        lambda: Blur(0.0),
        lambda: Blur(math.nan),
    ],
)
def test_settings_that_cannot_be_meant(make: object) -> None:
    with pytest.raises(ConfigError, match=r"condition\.image"):
        make()  # type: ignore[operator]


def test_bad_masks_and_measurements() -> None:
    with pytest.raises(UsageError, match="shown as one channel"):
        Masking(torch.ones(1, 3, 4, 4)).shown(torch.zeros(2, 3, 4, 4))
    with pytest.raises(UsageError, match="mask"):
        Masking(torch.tensor([0.0, 0.5]))
    with pytest.raises(UsageError, match="holes"):
        Holes().picture(pictures())
    with pytest.raises(UsageError, match="matrix"):
        Dense(MATRIX, (3, 8, 11))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="noise_std"):
            Measurement(Greying(3), torch.zeros(1), bad)
    with pytest.raises(UsageError, match="not finite"):
        Measurement(Greying(3), torch.tensor([math.nan]))
