"""Attention between pixels: against loops in float64, and what permuting pixels must do."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sfumato.nn.attention import PixelAttention


def block(**options: object) -> PixelAttention:
    torch.manual_seed(0)
    attention = PixelAttention(8, groups=2, **options).double()  # type: ignore[arg-type]
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    return attention


def by_loops(x: np.ndarray, w: dict[str, np.ndarray], *, head: int, groups: int, qk_norm: bool) -> np.ndarray:
    """One example (C, N), pixel by pixel and head by head; no residual."""
    channels, pixels = x.shape
    normal = x.reshape(groups, -1)
    normal = (normal - normal.mean(1, keepdims=True)) / np.sqrt(normal.var(1, keepdims=True) + 1e-5)
    n = normal.reshape(channels, pixels) * w["group_norm.weight"][:, None] + w["group_norm.bias"][:, None]
    q, k, v = (w[f"to_{name}.weight"] @ n + w[f"to_{name}.bias"][:, None] for name in "qkv")
    seen = np.zeros((channels, pixels))
    for start in range(0, channels, head):
        part = slice(start, start + head)
        for i in range(pixels):
            logits = []
            for j in range(pixels):
                a, b = q[part, i], k[part, j]
                if qk_norm:
                    a = a / np.sqrt((a**2).mean() + 1e-5) * w["norm_q.weight"]
                    b = b / np.sqrt((b**2).mean() + 1e-5) * w["norm_k.weight"]
                logits.append(float(a @ b) / math.sqrt(head))
            weights = np.exp(np.array(logits) - max(logits))
            seen[part, i] = v[part] @ (weights / weights.sum())
    return w["to_out.0.weight"] @ seen + w["to_out.0.bias"][:, None]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("head", [None, 8, 4, 2])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_agrees_with_loops(head: int | None, qk_norm: bool, twice: bool) -> None:
    attention = block(head_width=head, qk_norm=qk_norm)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    w = {name: p.detach().numpy() for name, p in attention.named_parameters()}
    flat = x.flatten(2).numpy()
    wanted = [by_loops(one, w, head=head or 8, groups=2, qk_norm=qk_norm) for one in flat]
    # float64; the logits reach some tens, so that the softmax amplifies their rounding
    np.testing.assert_allclose(
        attention(x, twice=twice).detach().flatten(2).numpy(), flat + np.stack(wanted), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("head", [8, 2])
def test_pixels_have_no_place(head: int) -> None:
    """Attention knows no positions: permuted pixels give permuted outputs."""
    attention = block(head_width=head)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    moved = x.flatten(2)[:, :, order].unflatten(2, (3, 4))
    torch.testing.assert_close(attention(moved), attention(x).flatten(2)[:, :, order].unflatten(2, (3, 4)))


def test_residual_scale_and_zero_start() -> None:
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    plain, scaled = block(), block(residual_scale=0.5)
    torch.testing.assert_close(scaled(x), plain(x) / 2)
    fresh = PixelAttention(8, groups=2, zero_init=True)
    assert torch.equal(fresh(x.float()), x.float())


@pytest.mark.parametrize("qk_norm", [False, True])
def test_layout_and_type_are_kept(qk_norm: bool) -> None:
    attention = PixelAttention(8, groups=2, qk_norm=qk_norm)
    x = torch.randn(2, 8, 4, 6).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.float(), attention(x.float()), rtol=0.05, atol=0.05)  # some roundings of 2^-9


@pytest.mark.parametrize(("width", "qk_norm"), [(8, False), (8, True), (24, False)])
def test_count(width: int, qk_norm: bool) -> None:
    count = sum(p.numel() for p in PixelAttention(width, groups=2, head_width=4, qk_norm=qk_norm).parameters())
    assert count == 4 * width**2 + 6 * width + (2 * 4 if qk_norm else 0)
