"""Ho et al.'s U-Net: its count, its embedding of the time, its conditions, and what each option must do."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import DdpmUNet, DdpmUNetConfig
from sfumato.nn.ddpm_unet import step_features
from sfumato.nn.resnet import Downsample, ResnetBlock

SMALL = DdpmUNetConfig(widths=(8, 12), blocks=1, attention=(4,), num_groups=4, dropout=0.0)
ALL = ConditionShape(num_classes=3, num_values=2, image_channels=1)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def built(config: DdpmUNetConfig, shape: tuple[int, ...], condition: ConditionShape = NO_CONDITION) -> DdpmUNet:
    """In step indices, no weight left at zero, so that everything shows in the output."""
    torch.manual_seed(0)
    network = config.build(shape, steps=1000, time_span=1000.0, condition=condition)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return network.eval()


def told(batch: int, *, dropped: bool = False, shape: tuple[int, int] = (8, 8)) -> Condition:
    g = torch.Generator().manual_seed(3)
    mask = torch.full((batch,), dropped)
    return Condition(
        torch.arange(batch) % 3,
        torch.randn(batch, 2, generator=g),
        torch.randn(batch, 1, *shape, generator=g),
        mask,
    )


# --- counts ----------------------------------------------------------------------------------------------------------


def formula(c: DdpmUNetConfig, shape: tuple[int, ...], *, classes: int = 0) -> int:
    """Parameters from the layout alone, block by block."""
    first, e, last = c.widths[0], 4 * c.widths[0], len(c.widths) - 1
    turns = 2 if c.film else 1

    def block(i: int, o: int) -> int:
        shortcut = 0 if i == o else i * o + o
        return 2 * i + 9 * i * o + o + turns * (e + 1) * o + 2 * o + 9 * o * o + o + shortcut

    def attention(w: int) -> int:
        return 4 * w * w + 6 * w + (2 * (c.head_width or w) if c.qk_norm else 0)

    resample = (lambda w: block(w, w)) if c.resample_in_blocks else (lambda w: 9 * w * w + w)
    attends = [shape[1] // 2**k in c.attention for k in range(len(c.widths))]
    total = 9 * shape[0] * first + first + (first + 1) * e + (e + 1) * e + 2 * first + 9 * first * shape[0] + shape[0]
    total += (classes + 1) * e if classes else 0
    total += 2 * block(c.widths[-1], c.widths[-1]) + c.mid_attention * attention(c.widths[-1])
    skips, h = [first], first
    for k, w in enumerate(c.widths):
        for _ in range(c.blocks):
            total += block(h, w) + attends[k] * attention(w)
            h = w
            skips.append(w)
        if k < last:
            total += resample(w)
            skips.append(w)
    for k, w in reversed(list(enumerate(c.widths))):
        for _ in range(c.blocks + 1):
            total += block(h + skips.pop(), w) + attends[k] * attention(w)
            h = w
        total += resample(w) if k else 0
    return total


def test_the_published_count() -> None:
    with torch.device("meta"):
        network = DdpmUNetConfig().build((3, 32, 32), steps=1000, time_span=1000.0)
    assert count(network) == formula(DdpmUNetConfig(), (3, 32, 32)) == 35_746_307


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 28, 28), {"widths": (16, 24, 40), "attention": (14, 7), "blocks": 2}),
        ((2, 8, 12), {"film": True, "resample_in_blocks": True, "blocks": 3}),
        ((5, 7, 7), {"widths": (32,), "attention": (), "mid_attention": False}),
        ((3, 16, 16), {"attention": (16, 8), "qk_norm": True, "head_width": 4}),
    ],
)
def test_counts_by_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    config = DdpmUNetConfig(**{"widths": (16, 24), "attention": (), "num_groups": 8, **options})
    with torch.device("meta"):
        plain = config.build(shape, steps=None, time_span=1.0)
        classes = config.build(shape, steps=None, time_span=1.0, condition=ConditionShape(num_classes=10))
    assert count(plain) == formula(config, shape)
    assert count(classes) == formula(config, shape, classes=10)


# --- time -------------------------------------------------------------------------------------------------------------


def test_step_features_are_their_formula() -> None:
    """cos, then sin, of n·10000^(−2i/w)."""
    n = torch.tensor([0.0, 1.0, 12.5, 999.0], dtype=torch.float64)
    frequencies = torch.tensor([10000 ** (-2 * i / 6) for i in range(3)], dtype=torch.float64)
    angles = n[:, None] * frequencies
    torch.testing.assert_close(step_features(n, 6), torch.cat([angles.cos(), angles.sin()], 1))


@pytest.mark.parametrize(("steps", "span", "time", "index"), [
    (1000, 1000.0, 999.0, 999.0),
    (50, 50.0, 49.0, 49.0),  # step indices stay what they are, however many
    (None, 1.0, 0.25, 250.0),
    (None, 5.0, -2.5, -500.0),
    (1000, 1.0, 0.25, 250.0),  # a table whose network is told the noise variance
])  # fmt: skip
def test_every_time_input_spans_a_thousand_steps(steps: int | None, span: float, time: float, index: float) -> None:
    torch.manual_seed(0)
    network = SMALL.build((1, 8, 8), steps=steps, time_span=span).eval()
    reference = SMALL.build((1, 8, 8), steps=1000, time_span=1000.0).eval()
    reference.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 8, 8)
    # float32: `span` may round the product once
    torch.testing.assert_close(
        network(x, torch.tensor([time])), reference(x, torch.tensor([index])), rtol=1e-5, atol=1e-5
    )


# --- conditions ------------------------------------------------------------------------------------------------------


def test_dropped_is_unconditional() -> None:
    """A dropped example sees the null rows: whatever its label and values, the output is that without any."""
    network = built(SMALL, (2, 8, 8), ConditionShape(num_classes=3, num_values=2))
    x, time, cond = torch.randn(3, 2, 8, 8), torch.tensor([1.0, 400.0, 900.0]), told(3)
    cond = Condition(cond.labels, cond.values)
    plain = network(x, time)
    assert torch.equal(network(x, time, cond.unconditional()), plain)
    assert not torch.allclose(network(x, time, cond), plain)
    some = Condition(cond.labels, cond.values, dropped=torch.tensor([True, False, False]))
    mixed = network(x, time, some)
    torch.testing.assert_close(mixed[0], plain[0])
    torch.testing.assert_close(mixed[1:], network(x, time, cond)[1:])


def test_class_rows_are_diffusers_and_quiet_beside_the_time() -> None:
    network = DdpmUNetConfig(widths=(32, 32), attention=()).build(
        (1, 8, 8), steps=1000, time_span=1000.0, condition=ConditionShape(num_classes=10)
    )
    assert network.get_parameter("class_embedding.weight").shape == (11, 128)
    rows = network.get_parameter("class_embedding.weight").std()
    embedding = network.time_embedding(step_features(torch.arange(1000.0), 32)).std()
    assert rows < embedding / 2


def test_the_picture_reaches_the_output() -> None:
    network = built(SMALL, (2, 8, 8), ConditionShape(image_channels=1))
    x, time, picture = torch.randn(2, 2, 8, 8), torch.tensor([1.0, 400.0]), torch.randn(2, 1, 8, 8)
    by_hand = network.conv_in(torch.cat([x, picture], 1))
    seen: list[Tensor] = []
    network.conv_in.register_forward_hook(lambda m, args, out: seen.append(out))
    network(x, time, Condition(image=picture))
    assert torch.equal(seen[0], by_hand)
    with pytest.raises(ConfigError, match="no picture"):
        network(x, time)


def test_what_it_has_no_input_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="labels"):
        built(SMALL, (1, 8, 8))(torch.randn(1, 1, 8, 8), torch.zeros(1), Condition(torch.zeros(1, dtype=torch.int64)))


# --- options ---------------------------------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {},
    {"film": True, "qk_norm": True},
    {"resample_in_blocks": True, "residual_scale": math.sqrt(0.5)},
    {"zero_init": True, "head_width": 4, "blocks": 2},
]


def with_options(options: dict[str, Any]) -> DdpmUNetConfig:
    return DdpmUNetConfig(
        **{"widths": (8, 12), "blocks": 1, "attention": (4,), "num_groups": 4, "dropout": 0.0} | options
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_parameter_is_dead(options: dict[str, Any]) -> None:
    """Every weight moves the output, null rows included."""
    network = built(with_options(options), (2, 8, 8), ALL).double()
    cond = told(4)
    cond = Condition(cond.labels, cond.values.double(), cond.image.double(), torch.tensor([False, False, False, True]))
    out = network(torch.randn(4, 2, 8, 8).double(), torch.tensor([0.0, 3.0, 500.0, 999.0]).double(), cond)
    (out * torch.randn_like(out)).sum().backward()
    # Keys shift all logits alike: their bias cancels in the softmax, unless the keys are normalised.
    free = "to_k.bias" if not options.get("qk_norm") else "none"
    for name, parameter in network.named_parameters():
        if name.endswith(free):
            continue
        assert parameter.grad is not None, name
        # a row of groups of one example could vanish by chance, a whole tensor cannot
        assert parameter.grad.abs().max() > 1e-9, name


@pytest.mark.parametrize("options", [{}, {"film": True}, {"resample_in_blocks": True}], ids=str)
def test_zero_init_starts_as_nothing(options: dict[str, Any]) -> None:
    """The untrained network returns exactly 0, and every residual block is its shortcut."""
    network = with_options({"zero_init": True, **options}).build((3, 8, 8), steps=None, time_span=1.0)
    x, time = torch.randn(2, 3, 8, 8), torch.rand(2)
    assert torch.equal(network(x, time), torch.zeros_like(x))
    h = torch.randn(2, 12, 4, 4)
    assert torch.equal(network.mid_block(h, torch.randn(2, 32), twice=False), h)


def test_dropout_only_in_training() -> None:
    network = built(with_options({"dropout": 0.5}), (1, 8, 8))
    still = built(with_options({"dropout": 0.0}), (1, 8, 8))
    still.load_state_dict(network.state_dict())
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 4.0])
    assert torch.equal(network(x, time), still(x, time))
    network.train()
    torch.manual_seed(0)
    first, second = network(x, time), network(x, time)
    assert not torch.allclose(first, second)
    torch.manual_seed(0)
    assert torch.equal(network(x, time), first)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_layout_and_precision(options: dict[str, Any]) -> None:
    """Channels-last bfloat16 stays so in every block, and float32 of either layout is the same picture."""
    network = built(with_options(options), (3, 8, 12)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, time = torch.randn(2, 3, 8, 12), torch.tensor([10.0, 900.0])
    last = x.contiguous(memory_format=torch.channels_last)
    made: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, ResnetBlock | Downsample):
            module.register_forward_hook(lambda m, args, out: made.append(out))
    with torch.no_grad():
        exact = network.double()(x.double(), time.double())
        network.float()
        torch.testing.assert_close(network(x, time), exact.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(last, time), exact.float(), rtol=1e-4, atol=1e-5)
        made.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(last, time)
    assert made
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in made)
    assert all(out.dtype == torch.bfloat16 for out in made)
    error = (rough.float() - exact.float()).square().mean().sqrt() / exact.float().square().mean().sqrt()
    assert error < 0.03  # some twenty roundings of 2^-9 each


@pytest.mark.slow
def test_one_graph() -> None:
    """A compiler sees the whole network as one graph, conditions and all, and computes the same."""
    network = built(SMALL, (2, 8, 8), ALL)
    x, time, cond = torch.randn(2, 2, 8, 8), torch.tensor([1.0, 500.0]), told(2)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, time, cond), network(x, time, cond))


def test_flipped_pictures() -> None:
    """With kernels that are their own mirror images, the network commutes with mirroring (but for stride 2)."""
    network = built(with_options({"widths": (8, 12), "resample_in_blocks": True}), (3, 8, 8)).double()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter((module.weight + module.weight.flip(3)) / 2)
    x, time = torch.randn(2, 3, 8, 8).double(), torch.tensor([10.0, 900.0]).double()
    torch.testing.assert_close(network(x.flip(3), time), network(x, time).flip(3))


def test_differentiable_twice() -> None:
    """Score matching differentiates by the input, then by the weights."""
    network = built(SMALL, (1, 8, 8)).double()
    x = torch.randn(2, 1, 8, 8).double().requires_grad_()
    (slope,) = torch.autograd.grad(network(x, torch.zeros(2).double()).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert all(p.grad is not None for n, p in network.named_parameters() if "conv_out.bias" not in n)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape", "said", "remedy"),
    [
        ({}, (1, 8), "was given data of shape", "FourierMlp"),
        ({}, (3, 28, 28), "28x28", r"at most 3 entries"),
        ({"widths": (8, 8, 8, 8), "attention": (16,)}, (3, 256, 256), "height 16", r"\[32\]"),
        ({"widths": (32, 64), "attention": (3,)}, (3, 8, 8), "height 3", r"\[4\]"),
        ({"widths": (32, 64), "attention": (4,), "head_width": 48}, (3, 8, 8), "head_width is 48", "32, or null"),
    ],
)
def test_shapes_that_do_not_fit(options: dict[str, Any], shape: tuple[int, ...], said: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        DdpmUNetConfig(**options).check(shape)
    assert re.search(remedy, refused.value.fix)


@pytest.mark.parametrize(
    "options",
    [
        {"widths": ()},
        {"widths": (33, 64)},
        {"widths": (0, 64)},
        {"attention": (0,)},
        {"blocks": 0},
        {"dropout": 1.0},
        {"dropout": float("nan")},
        {"residual_scale": 0.0},
        {"head_width": 0},
        {"num_groups": 0},
    ],
    ids=str,
)
def test_settings_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DdpmUNetConfig(**options)


def test_groups_divide_every_width() -> None:
    assert DdpmUNetConfig().groups == 32
    assert DdpmUNetConfig(widths=(48, 96)).groups == 24
    assert DdpmUNetConfig(widths=(64, 128), num_groups=20).groups == 16


def test_levels_join_the_latest_skip_first() -> None:
    """The skips of the way up are the outputs of the way down in reverse, each behind the channels that come up."""
    network = built(with_options({"blocks": 2}), (1, 8, 8))
    made, taken = [], []
    network.conv_in.register_forward_hook(lambda m, args, out: made.append(out))
    for level in network.down_blocks:
        for k in range(2):
            last = level.attentions[k] if len(level.attentions) else level.resnets[k]
            last.register_forward_hook(lambda m, args, out: made.append(out))
        for smaller in level.downsamplers:
            smaller.register_forward_hook(lambda m, args, out: made.append(out))
    for level in network.up_blocks:
        for block in level.resnets:
            block.register_forward_hook(lambda m, args, out: taken.append(args[0]))
    network(torch.randn(1, 1, 8, 8), torch.zeros(1))
    assert len(made) == len(taken) == 6
    for skip, joined in zip(reversed(made), taken, strict=True):
        assert torch.equal(joined[:, -skip.shape[1] :], skip)
    assert [a.shape[2] for a, _ in pairwise(taken)] == [4, 4, 4, 8, 8]


def test_patches_are_a_rearrangement() -> None:
    """With patches the network is the plain one on a picture whose squares of pixels became channels."""
    torch.manual_seed(0)
    config = DdpmUNetConfig(widths=(16, 32), blocks=1, attention=(4,), num_groups=8, patch=2)
    ours = config.build((3, 16, 12), steps=None, time_span=1.0, out_channels=6)
    plain = replace(config, patch=1).build((12, 8, 6), steps=None, time_span=1.0, out_channels=24)
    plain.load_state_dict(ours.state_dict(), strict=True)
    x, time = torch.randn(2, 3, 16, 12), torch.tensor([0.2, 0.7])
    squares = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=2).flatten(1, 2)
    out = ours.eval()(x, time)
    theirs = plain.eval()(squares, time).unflatten(1, (6, 4))
    for k, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(out[:, :, i::2, j::2], theirs[:, :, k], rtol=0, atol=0)


def test_patches_that_do_not_fit_are_refused_with_sizes_that_do() -> None:
    config = DdpmUNetConfig(widths=(16, 32), blocks=1, attention=(), num_groups=8, patch=2)
    config.check((1, 28, 28))
    with pytest.raises(ConfigError, match="do not fit") as caught:
        config.check((1, 30, 30))
    assert "multiples of 4" in caught.value.expected
    assert "after patches of 2x2" in caught.value.expected
    assert caught.value.fix.endswith("at most 1 entry")
