"""The residual block of Ho et al.'s U-Net against its formula, scaled and shifted by the time, and resampling."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sfumato.nn.resnet import Double, Halve, ResnetBlock


def test_film_of_zero_is_none() -> None:
    """With a projection of zero, scale 1 and shift 0: the block without film and with an embedding of zero."""
    torch.manual_seed(0)
    film = ResnetBlock(8, 12, embedding=16, groups=4, film=True)
    plain = ResnetBlock(8, 12, embedding=16, groups=4)
    for block in (film, plain):
        nn.init.zeros_(block.time_emb_proj.weight)
        nn.init.zeros_(block.time_emb_proj.bias)
    plain.load_state_dict({k: v for k, v in film.state_dict().items() if "time_emb" not in k}, strict=False)
    x, e = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    torch.testing.assert_close(film(x, e), plain(x, e))


def halved(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]) / 4


def repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@pytest.mark.parametrize(("module", "resampled"), [(None, lambda x: x), (Halve(), halved), (Double(), repeated)])
def test_film_block_by_hand(module: nn.Module | None, resampled: Callable[[Tensor], Tensor]) -> None:
    """r (W_s S(x) + W_2 silu(GN(W_1 S(silu(GN x))) (1 + scale) + shift)), (scale, shift) = W_e e + b_e."""
    torch.manual_seed(0)
    block = ResnetBlock(8, 12, embedding=16, groups=4, film=True, residual_scale=0.7, resample=module).double()
    x, e = torch.randn(2, 8, 4, 6, dtype=torch.float64), torch.randn(2, 16, dtype=torch.float64)

    def normed(h: Tensor, norm: nn.GroupNorm) -> Tensor:
        by_group = h.unflatten(1, (4, -1))
        mean, var = by_group.mean((2, 3, 4), keepdim=True), by_group.var((2, 3, 4), keepdim=True, correction=0)
        return ((by_group - mean) / (var + 1e-5).sqrt()).flatten(1, 2) * norm.weight[:, None, None] + (
            norm.bias[:, None, None]
        )

    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    told = e @ block.time_emb_proj.weight.T + block.time_emb_proj.bias
    scale, shift = told[:, :12, None, None], told[:, 12:, None, None]
    h = block.conv1(resampled(nn.functional.silu(normed(x, block.norm1))))
    h = normed(h, block.norm2) * (1 + scale) + shift
    by_hand = 0.7 * (block.conv_shortcut(resampled(x)) + block.conv2(nn.functional.silu(h)))
    torch.testing.assert_close(block(x, e), by_hand, rtol=1e-10, atol=1e-10)  # float64, sums in another order
