"""nickd16's U-Net: its count layer by layer, its parts a second time from their formulas, and each mend."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import AdditiveUNet, AdditiveUNetConfig
from sfumato.nn.additive_unet import AdditiveBlock, ResidualAttention, interleaved_sinusoid

SMALL = AdditiveUNetConfig(widths=(8, 16), attention=(2, 3), heads=2, groups=4)


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameter_count_is_the_published_one() -> None:
    network = AdditiveUNetConfig().build((1, 32, 32), steps=1000, time_span=1000)
    levels = [*network.down, *network.up]
    assert AdditiveUNetConfig().level_widths == (64, 128, 256, 512, 512, 384)
    assert count(network.conv_in) == 640
    assert [count(level.before, level.after) for level in levels] == [
        *(148_224, 591_360, 2_362_368),
        *(9_443_328, 9_443_328, 5_313_024),
    ]
    assert [count(level.attention) for level in levels] == [0, 66_048, 0, 0, 0, 591_360]
    assert [count(halve) for halve in network.halve] == [73_856, 295_168, 1_180_160]
    assert [count(grow) for grow in network.grow] == [2_097_408, 2_097_408, 1_179_840]
    assert (count(network.head), count(network.norm_out), count(network.conv_out)) == (295_040, 0, 129)
    assert count(network) == 35_178_689


def test_labels_cost_a_row_per_class_and_block() -> None:
    shape = ConditionShape(num_classes=10)
    network = SMALL.build((1, 8, 8), steps=None, time_span=1.0, condition=shape)
    bare = SMALL.build((1, 8, 8), steps=None, time_span=1.0)
    assert count(network) - count(bare) == 11 * 2 * sum(SMALL.level_widths)


# --- the sinusoid ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [8, 64, 384])
def test_sinusoid_of_a_thousand_steps_is_vaswanis(width: int) -> None:
    """At T = 1000: sin and cos of k/10000^(i/(n−1)) for step k, n = width/2 frequencies."""
    step = np.array([0.0, 1.0, 37.0, 999.0])
    rates = 10_000.0 ** -(np.arange(width // 2)[::-1] / (width // 2 - 1))
    angles = step[:, None] * rates
    expected = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(4, width)
    given = interleaved_sinusoid(torch.from_numpy(step) / 1000, width)
    np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=1e-10)  # angles up to 1000 in float64


def block(
    width: int = 8, groups: int = 4, condition: ConditionShape = NO_CONDITION, dropout: float = 0.0
) -> AdditiveBlock:
    return AdditiveBlock(width, groups=groups, dropout=dropout, condition=condition).double()


def heard(groups: int) -> float:
    """How far a block's output moves when the time does, relative to what its branch adds."""
    torch.manual_seed(0)
    part, h = block(8, groups), torch.randn(1, 8, 6, 6, dtype=torch.float64)
    early, late = (part(h, interleaved_sinusoid(torch.tensor([t]).double(), 8), None) for t in (0.2, 0.7))
    return float(((early - late).norm() / (early - h).norm()).detach())


def test_the_time_passes_a_group_norm_of_two_channels_but_not_of_one() -> None:
    """A group norm removes what its channels share, and one channel shares everything: such settings are refused."""
    assert heard(groups=4) > 0.05
    assert heard(groups=8) < 1e-12
    with pytest.raises(ConfigError, match="8 channels, which 8 groups"):
        AdditiveUNetConfig(widths=(8,), attention=(), groups=8)


# --- block and attention from their formulas -------------------------------------------------------------------------


def normalised(x: Tensor, groups: int) -> Tensor:
    """Group norm without scale and shift, by its definition."""
    parts = []
    for part in x.chunk(groups, dim=1):
        mean = part.mean((1, 2, 3), keepdim=True)
        parts.append((part - mean) / ((part - mean).square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt())
    return torch.cat(parts, 1)


def test_block_agrees_with_its_formula() -> None:
    """The embedding enters the branch alone: the shortcut is h, not h + e."""
    part = block(condition=ConditionShape(num_classes=2))
    for parameter in part.parameters():
        nn.init.normal_(parameter)
    h, e = torch.randn(2, 8, 4, 6, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    w = part.state_dict()
    told = w["condition_embedding.class_embedding.weight"][[1, 0]]
    inner = normalised(h + (e + told)[:, :, None, None], 4)
    inner = functional.silu(inner * w["norm1.weight"][:, None, None] + w["norm1.bias"][:, None, None])
    inner = normalised(functional.conv2d(inner, w["conv1.weight"], w["conv1.bias"], padding=1), 4)
    inner = functional.silu(inner * w["norm2.weight"][:, None, None] + w["norm2.bias"][:, None, None])
    expected = h + functional.conv2d(inner, w["conv2.weight"], w["conv2.bias"], padding=1)
    given = part(h, e, Condition(labels=torch.tensor([1, 0])))
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-9)  # float64 sums of 72 terms


def awake_attention(dropout: float = 0.0) -> ResidualAttention:
    torch.manual_seed(0)
    attention = ResidualAttention(8, heads=2, groups=4, dropout=dropout).double()
    nn.init.normal_(attention.out.weight)
    nn.init.normal_(attention.out.bias)
    return attention


@pytest.mark.parametrize("training", [True, False])
def test_attention_agrees_with_the_double_sum(training: bool) -> None:
    attention, x = awake_attention().train(training), torch.randn(2, 8, 2, 3, dtype=torch.float64)
    w = attention.state_dict()
    tokens = normalised(x, 4).flatten(2).transpose(1, 2)
    q, k, v = (tokens @ w["qkv.weight"].T + w["qkv.bias"]).split(8, dim=2)
    out = torch.zeros_like(tokens)
    for b in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            for n in range(6):
                scores = [math.exp(q[b, n, head] @ k[b, m, head] / 2) for m in range(6)]  # 2 = √4
                for m in range(6):
                    out[b, n, head] += scores[m] / sum(scores) * v[b, m, head]
    mixed = out @ w["out.weight"].T + w["out.bias"]
    expected = x + mixed.transpose(1, 2).reshape(2, 8, 2, 3)
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-10)  # float64


def test_untrained_attention_is_the_identity_and_the_network_zero() -> None:
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResidualAttention(8, heads=2, groups=4, dropout=0.5)(x), x)
    network = SMALL.build((3, 8, 4), steps=None, time_span=1.0)
    assert torch.equal(network(torch.randn(2, 3, 8, 4), torch.rand(2)), torch.zeros(2, 3, 8, 4))


# --- dropout ---------------------------------------------------------------------------------------------------------


def test_attention_drops_weights_in_training_only() -> None:
    dropping, x = awake_attention(dropout=0.5), torch.randn(2, 8, 4, 4, dtype=torch.float64)
    assert torch.equal(dropping.eval()(x), awake_attention().eval()(x))
    assert not torch.allclose(dropping.train()(x), dropping(x))


def test_blocks_drop_in_training_only() -> None:
    part, h, e = block(dropout=0.5), torch.randn(2, 8, 4, 4).double(), torch.randn(2, 8).double()
    kept = block()
    kept.load_state_dict(part.state_dict())
    assert torch.equal(part.eval()(h, e, None), kept(h, e, None))
    assert not torch.allclose(part.train()(h, e, None), part(h, e, None))


def test_dropout_reaches_blocks_and_attention() -> None:
    network = AdditiveUNetConfig(widths=(8, 16), attention=(2,), heads=2, groups=4, dropout=0.25).build(
        (1, 8, 8), steps=None, time_span=1.0
    )
    assert [m.dropout for m in network.modules() if isinstance(m, AdditiveBlock)] == [0.25] * 8
    assert [m.dropout for m in network.modules() if isinstance(m, ResidualAttention)] == [0.25]


# --- wiring ----------------------------------------------------------------------------------------------------------


def small() -> AdditiveUNet:
    torch.manual_seed(0)
    network = SMALL.build((3, 8, 8), steps=None, time_span=1.0).eval()
    nn.init.normal_(network.conv_out.weight)
    return network


def test_levels_are_joined_by_the_pictures_of_their_size() -> None:
    """Down levels leave what they made before they halve it; the coarsest is taken first."""
    network = small()
    made: list[Tensor] = []
    taken: list[Tensor] = []
    for level in network.down:
        level.register_forward_hook(lambda m, args, out: made.append(out))
    for module in (network.up[1], network.head):
        module.register_forward_pre_hook(lambda m, args: taken.append(args[0]))
    network(torch.randn(2, 3, 8, 8), torch.rand(2))
    for skip, joined in zip(reversed(made), taken, strict=True):
        assert torch.equal(joined[:, -skip.shape[1] :], skip)


@pytest.mark.parametrize(("widths", "expected"), [((64,), (64, 128)), ((32, 96), (32, 96, 192, 192))])
def test_widths_on_the_way_up(widths: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert AdditiveUNetConfig(widths=widths, attention=(), groups=16).level_widths == expected


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"widths": ()}, "network.widths is empty"),
        ({"widths": (64, 100), "attention": ()}, "level 2 .* 100 channels, which 32 groups do not"),
        ({"widths": (32, 64), "attention": ()}, "level 1 .* 32 channels"),
        ({"attention": (2, 7)}, r"levels are 1 … 6"),
        ({"attention": (2, 2)}, r"levels are 1 … 6"),
        ({"heads": 7}, "level 2 .* 32 groups and 7 heads"),
        ({"dropout": 1.0}, "network.dropout is 1.0"),
        ({"dropout": -0.1}, "network.dropout"),
        ({"dropout": float("nan")}, "network.dropout"),
        ({"groups": 0}, "network.groups"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(field: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        AdditiveUNetConfig(**field)  # type: ignore[arg-type]


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="28x28") as caught:
        AdditiveUNetConfig().check((1, 28, 28))
    assert "data.pad: [32, 32]" in caught.value.fix
    with pytest.raises(ConfigError, match="data of shape"):
        AdditiveUNetConfig().check((2,))
    with pytest.raises(ConfigError, match="6x8"):
        small()(torch.zeros(1, 3, 6, 8), torch.zeros(1))
