"""yukino1010's U-Net: its count layer by layer, one block and the embedding computed a second time, what was mended."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import FilmUNet, FilmUNetConfig, step_frequencies
from sfumato.nn.film_unet import FilmBlock, TimeEmbedding

SMALL = FilmUNetConfig(widths=(8, 12), depth=2, stem=4, embedding=8, heads=2, head_width=4, groups=4)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def block_count(i: int, o: int, embedding: int = 32) -> int:
    """9io + 9o² + 6o + 2o(E + 1), and a 1×1 convolution where the widths differ."""
    return 9 * i * o + 9 * o * o + 6 * o + 2 * o * (embedding + 1) + (i * o + o if i != o else 0)


def test_parameter_count_is_the_published_one() -> None:
    network = FilmUNetConfig().build((3, 64, 64), steps=None, time_span=1.0)
    assert count(network.embed) == 2 * (32 * 32 + 32)
    assert count(network.conv_in) == 128
    assert [[count(b) for b in level.blocks] for level in network.down] == [
        [block_count(32, 64), block_count(64, 64)],
        [block_count(64, 128), block_count(128, 128)],
        [block_count(128, 128), block_count(128, 128)],
    ]
    assert [count(b) for b in network.mid] == [block_count(128, 256), block_count(256, 256)]
    assert [[count(b) for b in level.blocks] for level in network.up] == [
        [block_count(256 + 128, 128), block_count(128 + 128, 128)],
        [block_count(128 + 128, 128), block_count(128 + 128, 128)],
        [block_count(128 + 64, 64), block_count(64 + 64, 64)],
    ]
    assert [count(level.attention) for level in (*network.down, *network.up)] == [
        512 * w + 3 * w for w in (64, 128, 128, 128, 128, 64)
    ]
    assert count(network.last) == block_count(64, 32)
    assert count(network.conv_out) == 99
    assert count(network) == 6_179_331


def test_the_network_of_the_article_has_batch_norms_and_no_attention() -> None:
    """Attention of width w has 515 w parameters: 640 widths less; a batch norm has as many as a group norm."""
    network = FilmUNetConfig(norm="batch", attention=False).build((3, 64, 64), steps=None, time_span=1.0)
    assert count(network) == 6_179_331 - 515 * 640 == 5_849_731
    kinds = {type(module).__name__ for module in network.modules()}
    assert "BatchNorm2d" in kinds
    assert not kinds & {"GroupNorm", "LinearAttention"}
    assert FilmUNetConfig(widths=(6,), stem=3, norm="batch").shared_by is None  # nothing to share evenly
    with pytest.raises(ConfigError, match=r"network\.norm is 'layer'"):
        FilmUNetConfig(norm="layer")


def test_batch_norm_at_sampling_is_that_of_training_so_far() -> None:
    """In evaluation an example does not hear the others of its batch; in training it does."""
    torch.manual_seed(0)
    block = FilmBlock(4, 4, embedding=8, groups=None).double()
    h, e = torch.randn(3, 4, 4, 4, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    assert not torch.allclose(block(h, e)[:1], block(h[:1], e[:1]))
    block.eval()
    torch.testing.assert_close(block(h, e)[:1], block(h[:1], e[:1]), rtol=1e-12, atol=1e-12)  # sums of float64


def normalised(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Group norm by its definition."""
    parts = []
    for part in x.chunk(groups, dim=1):
        mean = part.mean((1, 2, 3), keepdim=True)
        parts.append((part - mean) / ((part - mean).square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt())
    return torch.cat(parts, 1) * weight[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize("widths", [(6, 8), (8, 8)])
def test_block_agrees_with_its_formula(widths: tuple[int, int]) -> None:
    block = FilmBlock(*widths, embedding=5, groups=4).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    h, e = torch.randn(3, widths[0], 4, 6, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    w = block.state_dict()
    film = e @ w["film.weight"].T + w["film.bias"]
    gain, shift = film[:, :8, None, None], film[:, 8:, None, None]
    inner = functional.conv2d(h, w["conv1.weight"], w["conv1.bias"], padding=1)
    inner = (1 + gain) * normalised(inner, 4, w["norm1.weight"], w["norm1.bias"]) + shift
    inner = inner / (1 + (-inner).exp())
    branch = functional.conv2d(inner, w["conv2.weight"], w["conv2.bias"], padding=1)
    branch = normalised(branch, 4, w["norm2.weight"], w["norm2.bias"])
    shortcut = h if widths[0] == 8 else functional.conv2d(h, w["shortcut.weight"], w["shortcut.bias"])
    torch.testing.assert_close(block(h, e), shortcut + branch, rtol=1e-9, atol=1e-9)  # float64 sums of 72 terms


def test_a_block_can_push_down_as_far_as_up() -> None:
    """With a silu behind its second norm a branch would end at −0.28 below, whatever the weights."""
    block = FilmBlock(8, 8, embedding=5, groups=4)
    h, e = torch.randn(2, 8, 4, 4), torch.randn(2, 5)
    pushes = []
    for bias in (-50.0, 50.0):
        nn.init.constant_(block.norm2.bias, bias)
        pushes.append((block(h, e) - h).mean())
    torch.testing.assert_close(torch.stack(pushes), torch.tensor([-50.0, 50.0]), rtol=1e-4, atol=0)


def test_embedding_agrees_with_the_formula_of_a_thousand_steps() -> None:
    """sin(k/10000^(i/15)) and cosines of step k, as in Ho's code, when the span is a thousand steps."""
    embed = TimeEmbedding(16, 7, 5, condition=NO_CONDITION).double()
    step = torch.tensor([0.0, 1.0, 500.0, 999.0], dtype=torch.float64)
    rates = torch.tensor([10_000 ** (-i / 15) for i in range(16)][::-1], dtype=torch.float64)
    angles = step[:, None] * rates
    w = embed.state_dict()
    hidden = torch.cat([angles.sin(), angles.cos()], 1) @ w["linear_1.weight"].T + w["linear_1.bias"]
    expected = functional.silu(functional.silu(hidden) @ w["linear_2.weight"].T + w["linear_2.bias"])
    torch.testing.assert_close(embed(step / 1000, None), expected, rtol=1e-9, atol=1e-9)  # angles up to 1000 in float64
    frequencies = step_frequencies(16, like=step)
    torch.testing.assert_close(frequencies * 2 * math.pi / 1000, rates, rtol=1e-12, atol=0)


def test_condition_is_added_to_the_time() -> None:
    shape = ConditionShape(num_classes=3)
    embed = TimeEmbedding(4, 8, 6, condition=shape).double()
    cond, moment = Condition(labels=torch.tensor([2, 0])), torch.tensor([0.1, 0.9], dtype=torch.float64)
    seen: list[Tensor] = []
    embed.linear_2.register_forward_hook(lambda m, args, out: seen.append(out))
    told = embed.condition_embedding(cond, 2)
    assert told is not None
    given = embed(moment, cond)
    torch.testing.assert_close(given, functional.silu(seen[0] + told), rtol=0, atol=0)


def small() -> FilmUNet:
    network = SMALL.build((3, 8, 8), steps=None, time_span=1.0).eval()
    nn.init.normal_(network.conv_out.weight)
    return network


def test_skips_join_last_made_first() -> None:
    network = small()
    made: list[Tensor] = []
    taken: list[Tensor] = []
    for level in network.down:
        for block in level.blocks:
            block.register_forward_hook(lambda m, args, out: made.append(out))
    for level in network.up:
        for block in level.blocks:
            block.register_forward_pre_hook(lambda m, args: taken.append(args[0]))
    network(torch.randn(2, 3, 8, 8), torch.rand(2))
    assert len(made) == len(taken) == 4
    for skip, joined in zip(reversed(made), taken, strict=True):
        assert torch.equal(joined[:, -skip.shape[1] :], skip)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"widths": ()}, "network.widths"),
        ({"widths": (64, 100)}, "contains 100, which 8 groups"),
        ({"stem": 20}, "network.stem contains 20"),
        ({"embedding": 31}, "network.embedding is 31"),
        ({"depth": 0}, "network.depth"),
        ({"heads": 0}, "network.heads"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(field: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FilmUNetConfig(**field)  # type: ignore[arg-type]


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="60x64"):
        FilmUNetConfig().check((3, 60, 64))
    with pytest.raises(ConfigError, match="data of shape"):
        FilmUNetConfig().check((2,))
    with pytest.raises(ConfigError, match="6x8"):
        small()(torch.zeros(1, 3, 6, 8), torch.zeros(1))
