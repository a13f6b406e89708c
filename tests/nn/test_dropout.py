"""Dropout: the share, the mean, the layout and the gradient."""

import pytest
import torch

from sfumato.nn.dropout import dropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_share_and_mean(share: float) -> None:
    """Of 2^20 values the share that is dropped is within 5 standard errors; kept ones make up for it."""
    torch.manual_seed(0)
    x = torch.ones(1 << 20, dtype=torch.float64)
    y = dropout(x, share, training=True)
    error = 5 * (share * (1 - share) / len(x)) ** 0.5
    assert float((y == 0).double().mean()) == pytest.approx(share, abs=error + 2**-17)
    kept = y[y != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - share)), rtol=2**-15 / (1 - share), atol=0)
    assert float(y.mean()) == pytest.approx(1, abs=error / (1 - share))


def test_values_fall_independently_of_their_neighbours() -> None:
    """The four decisions of one draw, and neighbours across draws: pairs fall together as often as chance has it."""
    torch.manual_seed(1)
    fallen = (dropout(torch.ones(1 << 20), 0.5, training=True) == 0).double() - 0.5
    for distance in range(1, 9):
        together = float((fallen[:-distance] * fallen[distance:]).mean()) / 0.25
        assert abs(together) < 5 / (1 << 10)  # a correlation of 2^20 pairs has an error of 2^-10


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_layout_dtype_and_gradient(layout: torch.memory_format, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    x = torch.ones(2, 3, 5, 7, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    y = dropout(x, 0.25, training=True)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    y.sum().backward()
    assert x.grad is not None
    # dy/dx is the mask and its scale, which is y where x is 1
    assert torch.equal(x.grad, y.detach())


def test_follows_the_seed_and_rests_in_evaluation() -> None:
    x = torch.randn(33)
    first, second = (torch.manual_seed(3) and dropout(x, 0.5, training=True) for _ in range(2))
    assert torch.equal(first, second)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
