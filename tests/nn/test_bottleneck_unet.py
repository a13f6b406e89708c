"""arnason's U-Net: the channels of its bottom, what arrives there, and that nothing else learns the time."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import BottleneckUNet, BottleneckUNetConfig
from sfumato.nn.bottleneck_unet import Planes, known_values, one_hot

SMALL = BottleneckUNetConfig(widths=(4, 6, 8), planes=5, hidden=7)
BOTH = ConditionShape(num_classes=3, num_values=2)


def bottom_input(network: nn.Module, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
    seen: list[Tensor] = []
    handle = network.bottom.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        network.eval()(x, time, cond)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize(
    ("condition", "channels"),
    [
        (NO_CONDITION, 384),
        (ConditionShape(num_classes=10), 512),
        (ConditionShape(num_values=3), 512),
        (ConditionShape(num_classes=10, num_values=3), 640),
    ],
    ids=str,
)
def test_channels_of_the_bottom_are_the_published_ones(size: int, condition: ConditionShape, channels: int) -> None:
    network = BottleneckUNetConfig().build((1, size, size), steps=200, time_span=200, condition=condition)
    assert network.bottom[0].in_channels == channels
    joined = bottom_input(network, torch.randn(1, 1, size, size), torch.zeros(1))
    assert joined.shape == (1, channels, size // 4, size // 4)


def test_parameter_count_is_that_of_the_layout() -> None:
    """A pair i → o has 9io + 9o² weights and 4o of norms; planes have 2h for a scalar and (h + 1)·p·H·W/16."""

    def pair(i: int, o: int) -> int:
        return 9 * i * o + 9 * o * o + 4 * o

    network = BottleneckUNetConfig().build((1, 28, 28), steps=None, time_span=1.0)
    expected = pair(1, 64) + pair(64, 128) + pair(128, 256) + pair(384, 256) + pair(256, 128) + pair(128, 64)
    expected += (4 * 256 + 1) * 128 + (4 * 128 + 1) * 64  # transposed 2×2 convolutions
    expected += 2 * 128 + 129 * 128 * 49 + (64 + 1)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_planes_are_the_long_vector_laid_out_pixel_by_pixel() -> None:
    planes = Planes(2, 3, 5, size=(2, 4)).double()
    w, a = {n: p.numpy() for n, p in planes.state_dict().items()}, torch.randn(6, 2, dtype=torch.float64)
    hidden = np.maximum(a.numpy() @ w["linear_1.weight"].T + w["linear_1.bias"], 0)
    long = hidden @ w["linear_2.weight"].T + w["linear_2.bias"]
    expected = long.reshape(6, 2, 4, 5).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(planes(a).detach().numpy(), expected, rtol=1e-12, atol=1e-12)  # float64


def small(condition: ConditionShape = BOTH, time_span: float = 200.0) -> BottleneckUNet:
    torch.manual_seed(0)
    return SMALL.build((2, 8, 12), steps=None, time_span=time_span, condition=condition)


def test_the_bottom_is_joined_by_time_label_and_values() -> None:
    network, x, time = small(), torch.randn(3, 2, 8, 12), torch.tensor([0.0, 50.0, 199.0])
    cond = Condition(labels=torch.tensor([2, 0, 1]), values=torch.randn(3, 2))
    joined = bottom_input(network, x, time, cond)
    assert network.label_planes is not None
    assert network.value_planes is not None
    assert cond.values is not None
    parts = [
        network.time_planes(time[:, None] / 200),
        network.label_planes(torch.eye(3)[[2, 0, 1]]),
        network.value_planes(torch.cat([cond.values, torch.ones(3, 1)], 1)),
    ]
    assert torch.equal(joined[:, 8:], torch.cat(parts, 1))


def test_only_the_bottom_learns_time_and_condition() -> None:
    """What goes down, and over the skips, is the same at every time and for every label."""
    network = small().eval()
    seen: list[Tensor] = []
    for level in network.down:
        level.register_forward_hook(lambda m, args, out: seen.append(out))
    x = torch.randn(1, 2, 8, 12)
    network(x, torch.zeros(1), Condition(torch.tensor([0]), torch.zeros(1, 2)))
    network(x, torch.full((1,), 150.0), Condition(torch.tensor([2]), torch.ones(1, 2)))
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)


LABELS, DROPPED = torch.tensor([2, 0, 1]), torch.tensor([False, True, False])


def test_one_hot_rows_and_their_absence() -> None:
    time = torch.zeros(3)
    assert one_hot(Condition(labels=LABELS), 3, like=time).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert one_hot(Condition(labels=LABELS, dropped=DROPPED), 3, like=time).tolist() == [[0, 0, 1], [0] * 3, [0, 1, 0]]
    assert one_hot(None, 3, like=time).tolist() == [[0] * 3] * 3


def test_known_values_and_their_absence() -> None:
    """Zero is a value, and is told apart from none by the 1 behind it."""
    time, values = torch.zeros(3), torch.tensor([[0.0, 0.0], [float("nan"), 1.0], [3.0, 4.0]])
    given = known_values(Condition(values=values, dropped=DROPPED), 2, like=time)
    assert given.tolist() == [[0, 0, 1], [0, 0, 0], [3, 4, 1]]
    assert known_values(None, 2, like=time).tolist() == [[0] * 3] * 3


def test_another_size_than_it_was_built_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="12x8") as caught:
        small()(torch.zeros(1, 2, 12, 8), torch.zeros(1))
    assert "8x12" in caught.value.expected


def test_sizes_that_do_not_halve_are_refused_with_the_number_of_levels_that_would() -> None:
    with pytest.raises(ConfigError, match="3 levels") as caught:
        BottleneckUNetConfig().check((1, 30, 28))
    assert "multiples of 4" in caught.value.expected
    assert "at most 2 entries" in caught.value.fix
    BottleneckUNetConfig(widths=(64, 128)).check((1, 30, 28))
    BottleneckUNetConfig(widths=(64,)).check((1, 27, 5))
    with pytest.raises(ConfigError, match="data of shape"):
        BottleneckUNetConfig().check((2,))


@pytest.mark.parametrize("field", [{"widths": ()}, {"widths": (64, 0)}, {"planes": 0}, {"hidden": 0}], ids=str)
def test_bad_settings_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"network.{next(iter(field))}"):
        BottleneckUNetConfig(**field)  # type: ignore[arg-type]
