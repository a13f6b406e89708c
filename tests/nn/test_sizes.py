"""Networks by size: the rule at its edges, the table of counts, and that every size fits, trains and stores itself."""

import re

import pytest
import torch
from torch import nn

from sfumato.condition import ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import (
    BaseConfig,
    DdpmUNetConfig,
    FourierMlpConfig,
    NetworkConfig,
    SmallConfig,
    TinyConfig,
    UNet1dConfig,
    sizes,
)

SIZES: list[type[NetworkConfig]] = [TinyConfig, SmallConfig, BaseConfig]
SQUARES = (7, 8, 14, 16, 28, 32, 64, 128, 256)


def millions(config: NetworkConfig, shape: tuple[int, ...]) -> float:
    with torch.device("meta"):
        network = config.build(shape, steps=None, time_span=1.0)
    return sum(p.numel() for p in network.parameters()) / 1e6


@pytest.mark.parametrize("kind", SIZES)
def test_counts_are_those_of_the_table(kind: type[NetworkConfig]) -> None:
    """The table in the module's docstring, to its last digit."""
    assert sizes.__doc__ is not None
    name = kind.__name__.removesuffix("Config")
    row = next(line.split()[1:] for line in sizes.__doc__.splitlines() if line.split()[:1] == [name])
    shapes: list[tuple[int, ...]] = [*((3, side, side) for side in SQUARES), (2,), (1, 128)]
    for text, shape in zip(row, shapes, strict=True):
        digits = len(text.split(".")[1])
        assert round(millions(kind(), shape), digits) == float(text), (name, shape)


@pytest.mark.parametrize(
    ("shape", "widths", "attention"),
    [
        ((3, 32, 32), (32, 64, 64, 64), (16, 8, 4)),
        ((1, 28, 28), (32, 64, 64), (14, 7)),
        ((1, 7, 7), (64,), (7,)),
        ((4, 8, 8), (64, 64), (8, 4)),
        ((3, 256, 256), (16, 16, 32, 32, 64, 64), (16, 8)),
        ((3, 48, 96), (32, 32, 64, 64), (12, 6)),  # 48, 24, 12, 6: another halving would leave 3
        ((3, 96, 48), (32, 32, 64, 64), (24, 12)),  # heights, though the width decides
        ((3, 30, 20), (32, 64), (15,)),  # one factor of two in 30
        ((3, 33, 31), (32,), ()),
        ((3, 16, 512), (64, 64, 64), (4,)),  # 8 × 256 pixels are too many to look at each other
        ((1, 1, 1), (64,), (1,)),
    ],
)
def test_levels_by_the_rule(shape: tuple[int, ...], widths: tuple[int, ...], attention: tuple[int, ...]) -> None:
    fitted = TinyConfig().fitted(shape)
    assert isinstance(fitted, DdpmUNetConfig)
    assert (fitted.widths, fitted.attention) == (widths, attention)
    fitted.check(shape)
    assert fitted.groups == 8


def test_attention_in_the_middle_has_a_limit() -> None:
    assert TinyConfig().fitted((3, 33, 31)).mid_attention  # type: ignore[attr-defined]
    assert not TinyConfig().fitted((3, 251, 257)).mid_attention  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", SIZES)
def test_every_size_from_1_to_70_is_taken(kind: type[NetworkConfig]) -> None:
    """No height, width or length is refused, and what is fitted takes what it was fitted for."""
    for height in range(1, 71):
        for width in (height, 17, 24, 70):
            kind().check((3, height, width))
        kind().check((2, height))
        kind().check((height,))


@pytest.mark.parametrize(
    ("shape", "expected"), [((2,), FourierMlpConfig), ((1, 50), UNet1dConfig), ((2, 3), UNet1dConfig)]
)
def test_other_shapes_get_other_networks(shape: tuple[int, ...], expected: type) -> None:
    assert type(TinyConfig().fitted(shape)) is expected


@pytest.mark.parametrize("shape", [(3, 8, 8), (5, 7, 9), (1, 12, 6), (3,), (2, 21)])
def test_builds_what_it_fits(shape: tuple[int, ...]) -> None:
    """`build` is that of the fitted configuration: the same weights from the same seed, and a step of training."""
    networks: list[nn.Module] = []
    for config in (TinyConfig(), TinyConfig().fitted(shape)):
        torch.manual_seed(0)
        networks.append(
            config.build(shape, steps=None, time_span=1.0, out_channels=2, condition=ConditionShape(num_classes=3))
        )
    first, second = (n.state_dict() for n in networks)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    out = networks[0](torch.randn(2, *shape), torch.rand(2))
    assert out.shape == (2, 2, *shape[1:])
    assert torch.equal(out, torch.zeros_like(out))  # untrained networks of these sizes predict nothing
    out.sum().backward()


@pytest.mark.parametrize("shape", [(), (3, 4, 4, 4), (3, 0, 8)])
def test_other_data_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(shape))):
        SmallConfig().check(shape)
