"""Spherical interpolation: norms, angles, ends, and the vectors between which it is delicate."""

import math

import pytest
import torch
from torch import Tensor

from sfumato.core import NoiseSource
from sfumato.errors import UsageError
from sfumato.samplers import slerp

SHARES = torch.linspace(0, 1, 9, dtype=torch.float64)


def noises(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return NoiseSource.of(seed=seed, count=shape[0]).initial(shape, like=torch.zeros((), dtype=dtype))


def test_shapes_and_ends() -> None:
    a, b = noises(5, 3, 4, 4, seed=0), noises(5, 3, 4, 4, seed=100)
    path = slerp(a, b, SHARES)
    assert path.shape == (9, 5, 3, 4, 4)
    torch.testing.assert_close(path[0], a, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(path[-1], b, rtol=1e-14, atol=1e-14)
    assert torch.equal(slerp(a, b, SHARES[3]), path[3])
    assert slerp(a.float(), b.float(), SHARES.float()).dtype == torch.float32


def test_directions_turn_at_constant_speed_and_norms_change_linearly() -> None:
    a, b = noises(6, 10, seed=0), 3 * noises(6, 10, seed=100)
    path = slerp(a, b, SHARES)
    w = SHARES[:, None]
    torch.testing.assert_close(path.norm(dim=2), (1 - w) * a.norm(dim=1) + w * b.norm(dim=1), rtol=1e-12, atol=0)
    whole = torch.nn.functional.cosine_similarity(a, b).acos()
    turned = torch.nn.functional.cosine_similarity(path, a[None], dim=2).clamp(-1, 1).acos()
    torch.testing.assert_close(turned, w * whole, rtol=0, atol=1e-7)  # acos near 0 knows half the digits


def test_the_middle_of_two_noises_is_as_long_as_noise() -> None:
    """In 3,000 dimensions |x| is sqrt(3000) ± 0.7; the straight line's middle would be shorter by sqrt(2)."""
    a, b = noises(4, 3000, seed=0), noises(4, 3000, seed=100)
    middle = slerp(a, b, torch.tensor(0.5))
    assert middle.norm(dim=1).tolist() == pytest.approx([math.sqrt(3000)] * 4, abs=4)


def test_a_quarter_turn_by_hand() -> None:
    a, b = torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    third = slerp(a, b, torch.tensor(1 / 3, dtype=torch.float64))
    assert third[0].tolist() == pytest.approx([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)], rel=1e-14)


@pytest.mark.parametrize("apart", [0.0, 1e-300, 1e-16, 1e-9, 1e-4])
def test_parallel_vectors_are_joined_by_a_line(apart: float) -> None:
    a = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    b = 2 * (a + apart * torch.tensor([[0.0, 1.0], [-0.8, 0.6]], dtype=torch.float64))
    path = slerp(a, b, SHARES)
    expected = a + SHARES[:, None, None] * (b - a)
    torch.testing.assert_close(path, expected, rtol=0, atol=1e-15 + apart)


def test_zero_is_a_place_like_any_other() -> None:
    a, b = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    path = slerp(a, b, SHARES)
    assert bool(path.isfinite().all())
    torch.testing.assert_close(path[-1], b)


def test_opposite_vectors_and_other_shapes_are_refused() -> None:
    a = noises(3, 4, seed=0)
    b = noises(3, 4, seed=100)
    b[1] = -2 * a[1]
    with pytest.raises(UsageError, match="sample 1 of the batch is to turn into its opposite"):
        slerp(a, b, SHARES)
    with pytest.raises(UsageError, match=r"shapes \(3, 4\) and \(2, 4\)"):
        slerp(a, b[:2], SHARES)
