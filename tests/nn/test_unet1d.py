"""The U-Net of sequences: its block a second time, its layout, and lengths that do not divide."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.errors import ConfigError
from sfumato.nn import UNet1d, UNet1dConfig
from sfumato.nn.unet1d import Block1d

SMALL = UNet1dConfig(widths=(8, 16, 8), depth=2, embedding=8, heads=2, groups=4)


def build(config: UNet1dConfig = SMALL, channels: int = 2) -> UNet1d:
    torch.manual_seed(0)
    network = config.build((channels, 16), steps=None, time_span=1.0).double().eval()
    nn.init.normal_(network.conv_out.weight)
    return network


def normalised(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Group norm by its definition."""
    parts = []
    for part in x.chunk(groups, dim=1):
        mean = part.mean((1, 2), keepdim=True)
        parts.append((part - mean) / ((part - mean).square().mean((1, 2), keepdim=True) + 1e-5).sqrt())
    return torch.cat(parts, 1) * weight[:, None] + bias[:, None]


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Cross-correlation of width 3 with a zero at either end: three shifted matrix products."""
    wide = functional.pad(x, (1, 1))
    taps = (torch.einsum("oi,bil->bol", weight[:, :, i], wide[:, :, i : i + x.shape[2]]) for i in range(3))
    return sum(taps, bias[:, None])


@pytest.mark.parametrize("widths", [(4, 8), (8, 8)])
def test_block_agrees_with_its_formula(widths: tuple[int, int]) -> None:
    block = Block1d(*widths, embedding=5, groups=4).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    h, e = torch.randn(3, widths[0], 7, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    w = block.state_dict()
    inner = functional.silu(normalised(h, 4, w["norm1.weight"], w["norm1.bias"]))
    inner = normalised(convolved(inner, w["conv1.weight"], w["conv1.bias"]), 4, w["norm2.weight"], w["norm2.bias"])
    film = e @ w["film.weight"].T + w["film.bias"]
    inner = functional.silu((1 + film[:, :8, None]) * inner + film[:, 8:, None])
    shortcut = h
    if widths[0] != 8:
        shortcut = torch.einsum("oi,bil->bol", w["shortcut.weight"][:, :, 0], h) + w["shortcut.bias"][:, None]
    expected = shortcut + convolved(inner, w["conv2.weight"], w["conv2.bias"])
    torch.testing.assert_close(block(h, e), expected, rtol=1e-9, atol=1e-9)  # float64 sums of 24 terms


def test_parameter_count_is_that_of_the_layout() -> None:
    """Block i → o: 3io + 3o² + 4o + 2i + 2o(E + 1), and a shortcut where the widths differ."""

    def block(i: int, o: int, e: int = 128) -> int:
        return 3 * i * o + 3 * o * o + 4 * o + 2 * i + 2 * o * (e + 1) + (i * o + o if i != o else 0)

    down = block(32, 32) * 2 + block(32, 64) + block(64, 64) + block(64, 128) + block(128, 128)
    mid = 2 * block(128, 128) + 4 * 128 * 128 + 4 * 128
    up = 2 * block(256, 128) + block(192, 64) + block(128, 64) + block(96, 32) + block(64, 32)
    resampling = sum(3 * w * w + w for w in (32, 64, 128, 64))
    ends = 2 * (128 * 128 + 128) + (3 * 3 * 32 + 32) + 64 + (3 * 32 * 3 + 3)
    network = UNet1dConfig().build((3, 100), steps=None, time_span=1.0)
    assert sum(p.numel() for p in network.parameters()) == down + mid + up + resampling + ends


@pytest.mark.parametrize("length", [1, 3, 13, 15, 16])
def test_other_lengths_are_continued_with_zeros_and_cut_back(length: int) -> None:
    network, time = build(), torch.tensor([0.3, 0.8]).double()
    x = torch.randn(2, 2, length, dtype=torch.float64)
    whole = functional.pad(x, (0, -length % 4))
    expected = network(whole, time)[:, :, :length]
    torch.testing.assert_close(network(x, time), expected, rtol=1e-12, atol=1e-12)
    assert network(x, time).shape == x.shape


def test_skips_join_last_made_first() -> None:
    network = build()
    made: list[Tensor] = []
    taken: list[Tensor] = []
    for level in network.down:
        for block in level.blocks:
            block.register_forward_hook(lambda m, args, out: made.append(out))
    for level in network.up:
        for block in level.blocks:
            block.register_forward_pre_hook(lambda m, args: taken.append(args[0]))
    network(torch.randn(2, 2, 16).double(), torch.rand(2).double())
    assert len(made) == len(taken) == 6
    for skip, joined in zip(reversed(made), taken, strict=True):
        assert torch.equal(joined[:, -skip.shape[1] :], skip)


def test_attention_is_optional_and_starts_as_the_identity() -> None:
    without = build(UNet1dConfig(widths=(8, 16, 8), depth=2, embedding=8, attention=False, groups=4))
    network = build()
    assert sum(p.numel() for p in network.attention.parameters()) == 4 * 8 * 8 + 4 * 8
    assert list(without.attention.parameters()) == []
    without.load_state_dict({n: p for n, p in network.state_dict().items() if not n.startswith("attention")})
    x, time = torch.randn(2, 2, 16).double(), torch.rand(2).double()
    assert torch.equal(network(x, time), without(x, time))
    nn.init.normal_(network.attention.out.weight)
    assert not torch.allclose(network(x, time), without(x, time))


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"widths": ()}, "network.widths is empty"),
        ({"widths": (32, 60)}, "network.widths contains 60, which 8 groups"),
        ({"heads": 5}, "128, which 5 heads"),
        ({"embedding": 7}, "network.embedding is 7"),
        ({"depth": 0}, "network.depth"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(field: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        UNet1dConfig(**field)  # type: ignore[arg-type]
    UNet1dConfig(heads=5, attention=False)


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8), (0, 5), (1, 0)], ids=str)
def test_what_is_no_sequence_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="UNet1d was given data of shape"):
        UNet1dConfig().check(shape)
