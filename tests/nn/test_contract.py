"""What every network keeps that is told conditions: one list of small networks, one list of promises."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from sfumato.condition import Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import (
    AdditiveMlpConfig,
    AdditiveUNetConfig,
    BottleneckUNetConfig,
    DdpmUNetConfig,
    DitConfig,
    Edm2UNetConfig,
    FilmUNetConfig,
    FourierMlpConfig,
    NetworkConfig,
    ResidualUNetConfig,
    StepMlpConfig,
    UNet1dConfig,
)
from sfumato.nn.magnitude import MpConv2d

LABELS_AND_VALUES = ConditionShape(num_classes=3, num_values=2)


@dataclass(frozen=True)
class Case:
    config: NetworkConfig
    space: tuple[int, ...]
    hidden: int = 1  # steps until labels are heard: layers that start at zero stand before them
    starts_at_zero: bool = True

    def build(self, channels: int = 2, *, condition: ConditionShape = LABELS_AND_VALUES, **options: int) -> nn.Module:
        torch.manual_seed(0)
        shape = (channels, *self.space)
        return self.config.build(shape, steps=8, time_span=8, condition=condition, **options)

    def awake(self, channels: int = 2, condition: ConditionShape = LABELS_AND_VALUES) -> nn.Module:
        """In evaluation and float64, and with no layer left at zero."""
        network = self.build(channels, condition=condition).double().eval()
        for parameter in network.parameters():
            if not parameter.abs().max() > 0:
                nn.init.normal_(parameter, std=0.3)
        return network

    def x(self, batch: int = 4, channels: int = 2) -> Tensor:
        return torch.randn(batch, channels, *self.space, dtype=torch.float64)


IMAGES = [
    Case(AdditiveUNetConfig(widths=(8, 16), attention=(2, 3), heads=2, groups=4), (8, 12)),
    Case(BottleneckUNetConfig(widths=(4, 8, 8), planes=4, hidden=8), (8, 12)),
    Case(FilmUNetConfig(widths=(8, 12), depth=1, stem=4, embedding=8, heads=2, head_width=4, groups=4), (8, 12)),
    Case(ResidualUNetConfig(widths=(8, 12), depth=1, embedding=6), (8, 12)),
    Case(
        DdpmUNetConfig(widths=(8, 16), blocks=1, attention=(4,), num_groups=4, film=True, zero_init=True),
        (8, 12),
        hidden=2,
    ),
    Case(DitConfig(patch=4, width=16, depth=1, heads=2, qk_norm=True), (8, 12), hidden=2),
    Case(Edm2UNetConfig(widths=(8, 16), depth=1, attention=(4,), head_width=8), (8, 12), hidden=2),
]
SEQUENCES = [Case(UNet1dConfig(widths=(8, 16), depth=1, embedding=8, heads=2, groups=4), (11,))]
POINTS = [
    Case(StepMlpConfig(widths=(16, 16)), (), starts_at_zero=False),
    Case(FourierMlpConfig(width=16, depth=2), ()),
    Case(AdditiveMlpConfig(widths=(16, 16)), ()),
]


def named(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: type(case.config).__name__.removesuffix("Config"))


EVERY, WITH_PICTURES = named([*IMAGES, *SEQUENCES, *POINTS]), named([*IMAGES, *SEQUENCES])
TIME = torch.tensor([0.0, 2.0, 5.0, 7.0], dtype=torch.float64)
COND = Condition(labels=torch.tensor([0, 2, 1, 0]), values=torch.randn(4, 2, dtype=torch.float64))


@EVERY
def test_an_example_hears_its_own_condition_and_no_other(case: Case) -> None:
    network, x = case.awake(), case.x()
    assert COND.labels is not None
    assert COND.values is not None
    before = network(x, TIME, COND)
    relabelled = Condition(labels=COND.labels + torch.tensor([0, 0, 1, 0]), values=COND.values)
    revalued = Condition(labels=COND.labels, values=COND.values + torch.tensor([[0.0], [1.0], [0.0], [0.0]]))
    for other, moved in ((relabelled, 2), (revalued, 1)):
        change = (network(x, TIME, other) - before).flatten(1).abs().amax(1)
        # far above the rounding of float64; exactly zero where nothing changed
        assert [bool(c > 1e-9) for c in change] == [i == moved for i in range(4)]


@EVERY
def test_dropped_is_unconditional(case: Case) -> None:
    """What a dropped example was told before makes no difference, and None drops all."""
    network, x = case.awake(), case.x()
    nothing = network(x, TIME)
    assert torch.equal(network(x, TIME, COND.unconditional()), nothing)
    half = torch.tensor([True, False, True, False])
    mixed = network(x, TIME, Condition(labels=COND.labels, values=COND.values, dropped=half))
    # float64; a library may block sums of rows differently, and no more
    torch.testing.assert_close(mixed[half], nothing[half], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixed[~half], network(x, TIME, COND)[~half], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(mixed[~half], nothing[~half])


@EVERY
def test_labels_matter_as_soon_as_they_can(case: Case) -> None:
    network = case.build().eval()
    x, time = case.x().float(), TIME.float()
    cond = Condition(labels=COND.labels, values=torch.zeros(4, 2))
    other = Condition(labels=torch.tensor([1, 1, 2, 2]), values=torch.zeros(4, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(case.hidden):
        optimizer.zero_grad()
        (network(x, time, cond) - 1).square().mean().backward()
        optimizer.step()
    assert not torch.equal(network(x, time, cond), network(x, time, other))


@EVERY
def test_untrained_output_is_exactly_zero(case: Case) -> None:
    if not case.starts_at_zero:
        pytest.skip("its last layer starts as PyTorch's do")
    for condition, cond in ((ConditionShape(), None), (LABELS_AND_VALUES, COND)):
        network = case.build(condition=condition).double()
        assert torch.equal(network(case.x(), TIME, cond), torch.zeros(4, 2, *case.space, dtype=torch.float64))


@EVERY
def test_gradient_reaches_every_parameter(case: Case) -> None:
    """Layers that start at zero hide what is behind them: after three steps nothing is hidden any more."""
    network = case.build()
    x, time = torch.randn(8, 2, *case.space), torch.arange(8.0)
    cond = Condition(torch.arange(8) % 3, torch.randn(8, 2), dropped=torch.arange(8) > 5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    target = torch.randn(8, 2, *case.space)
    for _ in range(4):
        optimizer.zero_grad()
        (network(x, time, cond) - target).square().mean().backward()
        optimizer.step()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@EVERY
def test_can_be_differentiated_twice(case: Case) -> None:
    """By x and then by the weights, in training, as score matching does; held against a difference quotient."""
    torch.manual_seed(0)
    network = case.awake().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # running statistics would move between the calls

    def slope(x: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same values are dropped
        (found,) = torch.autograd.grad(network(x, TIME, COND).sum(), x, create_graph=True)
        return found.square().sum()

    weight = next(p for name, p in network.named_parameters() if p.ndim > 1 and "condition" not in name)
    x, direction = case.x().requires_grad_(), torch.randn_like(weight)
    (exact,) = torch.autograd.grad(slope(x), weight)
    step = 1e-7  # a slope jumps at the kinks of a relu and of a maximum: a short step crosses none here
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        values.append(slope(x).detach())
        with torch.no_grad():
            weight -= sign * step * direction
    quotient = (values[0] - values[1]) / (2 * step)
    # a central difference errs by step² and by the rounding of values, 1e-14, over the step
    torch.testing.assert_close((exact * direction).sum(), quotient, rtol=1e-4, atol=1e-6)


@EVERY
def test_an_example_does_not_depend_on_its_companions(case: Case) -> None:
    network, x = case.awake(), case.x()
    together = network(x, TIME, COND)
    for i in range(4):
        alone = network(x[i : i + 1], TIME[i : i + 1], COND[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-10, atol=1e-10)  # float64 sums in another order


@EVERY
def test_time_is_told_in_shares_of_its_span(case: Case) -> None:
    if isinstance(case.config, StepMlpConfig | DdpmUNetConfig):
        pytest.skip("a step's index is a row of its table, or the n of its sinusoids, whatever the span")
    torch.manual_seed(0)
    unit = case.config.build((2, *case.space), steps=None, time_span=1.0, condition=LABELS_AND_VALUES)
    unit.double().eval().load_state_dict(case.awake().state_dict())
    x = case.x()
    assert torch.equal(unit(x, TIME / 8), case.awake()(x, TIME))  # eighths are exact
    first, second = case.awake()(x[:1].expand(2, *x.shape[1:]), TIME[1:3])
    assert float((first - second).detach().abs().max()) > 1e-9  # far above the rounding of float64


@EVERY
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_channels_and_twice_as_many_out(case: Case, channels: int) -> None:
    """Learned variances only double the outputs: the rest of the network is the same."""
    single, double = case.build(channels), case.build(channels, out_channels=2 * channels)
    width = (channels, *case.space)
    assert double(torch.randn(2, *width), torch.zeros(2)).shape == (2, 2 * channels, *case.space)
    others = dict(double.named_parameters())
    changed = [name for name, p in single.named_parameters() if p.shape != others[name].shape]
    assert len({name.rpartition(".")[0] for name in changed}) == 1  # weight and bias of the last layer


@pytest.mark.slow
@EVERY
def test_traces_as_one_graph(case: Case) -> None:
    network, x = case.awake(), case.x()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, TIME, COND), network(x, TIME, COND))


@named(IMAGES)
def test_channels_last_and_bfloat16_survive(case: Case) -> None:
    """Every convolution is given, and gives, bfloat16 in channels-last."""
    if isinstance(case.config, DitConfig):
        pytest.skip("it has no convolutions")
    network = case.build().to(memory_format=torch.channels_last)
    kept: dict[str, bool] = {}

    def watch(name: str) -> None:
        def look(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            kept[name] = out.dtype == torch.bfloat16 and all(
                t.is_contiguous(memory_format=torch.channels_last) for t in (args[0], out)
            )

        network.get_submodule(name).register_forward_hook(look)

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | MpConv2d):
            watch(name)
    x = torch.randn(2, 2, *case.space).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        network(x, torch.zeros(2), Condition(torch.tensor([0, 1]), torch.randn(2, 2)))
    assert [name for name, fine in kept.items() if not fine] == []
    assert len(kept) > 5


@named(IMAGES)
def test_memory_format_does_not_change_the_numbers(case: Case) -> None:
    network, x = case.awake(), case.x()
    rows = network(x, TIME, COND)
    last = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), TIME, COND)
    torch.testing.assert_close(rows, last, rtol=1e-10, atol=1e-10)  # float64, another order of the same sums


@EVERY
def test_bfloat16_stays_near_float64(case: Case) -> None:
    network, x = case.awake(), case.x()
    exact = network(x, TIME, COND)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network.float()(x.float(), TIME.float(), Condition(COND.labels, COND.values.float())).double()
    # eight bits of mantissa through some twenty layers
    assert (rough - exact).square().mean().sqrt() < 0.1 * exact.square().mean().sqrt()


@WITH_PICTURES
def test_a_picture_is_heard_and_needed(case: Case) -> None:
    told = ConditionShape(num_classes=3, num_values=2, image_channels=3)
    network, x, image = case.awake(condition=told), case.x(), case.x(channels=3)
    cond = Condition(labels=COND.labels, values=COND.values, image=image)
    moved = Condition(labels=COND.labels, values=COND.values, image=image.flip(0))
    assert not torch.allclose(network(x, TIME, cond), network(x, TIME, moved))
    assert torch.equal(network(x, TIME, cond.unconditional()), network(x, TIME, Condition(image=image)))
    with pytest.raises(ConfigError, match="no picture to go by"):
        network(x, TIME, COND)


@EVERY
def test_what_it_was_not_built_for_is_refused(case: Case) -> None:
    network, x = case.awake(condition=ConditionShape(num_classes=3)), case.x()
    with pytest.raises(ConfigError, match=r"values.*no input"):
        network(x, TIME, COND)
    with pytest.raises(ConfigError, match=r"labels of shape \(1,\) for 4 examples"):
        network(x, TIME, Condition(labels=torch.tensor([1])))
