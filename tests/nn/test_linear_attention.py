"""Linear attention against the sum it stands for, and the symmetries that a reshape without a transpose would break."""

import math

import pytest
import torch
from torch import Tensor

from sfumato.nn.linear_attention import LinearAttention, linear_attention


def by_definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """out_n = Σ_m A_nm v_m, A_nm = Σ_i softmax_i(q_ni) softmax_m(k_mi), term by term."""
    batch, positions, heads, width = q.shape
    out = torch.zeros_like(v)
    for b in range(batch):
        for h in range(heads):
            for n in range(positions):
                for m in range(positions):
                    weight = 0.0
                    for i in range(width):
                        query = math.exp(q[b, n, h, i]) / sum(math.exp(q[b, n, h, j]) for j in range(width))
                        key = math.exp(k[b, m, h, i]) / sum(math.exp(k[b, j, h, i]) for j in range(positions))
                        weight += query * key
                    out[b, n, h] += weight * v[b, m, h]
    return out


def test_agrees_with_the_double_sum() -> None:
    q, k = torch.randn(2, 2, 5, 2, 3, dtype=torch.float64)
    v = torch.randn(2, 5, 2, 4, dtype=torch.float64)
    # float64 sums of some 15 terms of size 1
    torch.testing.assert_close(linear_attention(q, k, v), by_definition(q, k, v), rtol=1e-12, atol=1e-12)


def test_weights_sum_to_one() -> None:
    """Of values that are the same everywhere the average is that value, whatever the queries and keys say."""
    q, k = 5 * torch.randn(2, 3, 100, 4, 8, dtype=torch.float64)
    v = torch.randn(3, 1, 4, 6, dtype=torch.float64).expand(-1, 100, -1, -1)
    torch.testing.assert_close(linear_attention(q, k, v), v, rtol=1e-12, atol=1e-12)  # float64 sums of 100 terms


def test_large_scores_do_not_overflow() -> None:
    q, k = 1e4 * torch.randn(2, 1, 9, 1, 4)
    assert bool(linear_attention(q, k, torch.randn(1, 9, 1, 4)).isfinite().all())


def layer() -> LinearAttention:
    """32 channels, as many heads and as wide as yukino1010's, in float64."""
    return LinearAttention(32, heads=4, head_width=32).double()


def test_permuting_the_pixels_permutes_the_output() -> None:
    x = torch.randn(2, 32, 4, 6, dtype=torch.float64)
    order = torch.randperm(24)
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (4, 6))
    attention = layer()
    expected = attention(x).flatten(2)[:, :, order].unflatten(2, (4, 6))
    # float64, the same sums in another order
    torch.testing.assert_close(attention(shuffled), expected, rtol=1e-10, atol=1e-10)


def test_layer_agrees_with_its_parts() -> None:
    """x + LN(W_o out + b_o), pixel by pixel."""
    attention, x = LinearAttention(7, heads=2, head_width=3).double(), torch.randn(2, 7, 3, 2, dtype=torch.float64)
    torch.nn.init.normal_(attention.norm.weight)
    torch.nn.init.normal_(attention.norm.bias)
    w = attention.state_dict()
    tokens = torch.stack([x[:, :, i, j] for i in range(3) for j in range(2)], dim=1)
    parts = tokens @ w["qkv.weight"].T
    q, k, v = (parts[..., i : i + 6].reshape(2, 6, 2, 3) for i in (0, 6, 12))
    heads = by_definition(q, k, v).reshape(2, 6, 6)
    mixed = heads @ w["out.weight"].T + w["out.bias"]
    spread = ((mixed - mixed.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
    normal = (mixed - mixed.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt() * w["norm.weight"] + w["norm.bias"]
    expected = x + torch.stack([normal[:, n] for n in range(6)], dim=2).reshape(2, 7, 3, 2)
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-10)  # float64


@pytest.mark.parametrize(("channels", "heads", "width"), [(64, 4, 32), (5, 3, 2)])
def test_parameter_count_formula(channels: int, heads: int, width: int) -> None:
    attention = LinearAttention(channels, heads=heads, head_width=width)
    assert sum(p.numel() for p in attention.parameters()) == 4 * channels * heads * width + 3 * channels


def test_memory_grows_with_positions_not_with_their_square() -> None:
    """65,536 positions: the matrix of weights alone would take 17 GB a head."""
    assert LinearAttention(4, heads=1, head_width=4)(torch.randn(1, 4, 256, 256)).shape == (1, 4, 256, 256)
