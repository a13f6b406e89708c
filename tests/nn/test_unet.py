"""falbel's U-Net: its counts, its wiring, and one block computed a second time in NumPy."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sfumato.condition import Condition
from sfumato.errors import ConfigError
from sfumato.nn import ResidualUNet, ResidualUNetConfig
from sfumato.nn.blocks import ResidualBlock

SMALL = ResidualUNetConfig(widths=(8, 12), depth=2, embedding=6)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(channels: int = 3, time_span: float = 1.0, seed: int = 0) -> ResidualUNet:
    """A two-level network whose output layer is no longer zero."""
    torch.manual_seed(seed)
    network = SMALL.build((channels, 8, 8), steps=None, time_span=time_span)
    nn.init.normal_(network.conv_out.weight)
    return network


def test_parameter_counts_are_those_of_the_published_network() -> None:
    network = ResidualUNetConfig().build((3, 64, 64), steps=None, time_span=1.0)
    assert count(network.conv_in) == 128
    assert [[count(b) for b in level.blocks] for level in network.down] == [
        [29_920, 19_616],
        [57_600, 78_144],
        [144_800, 175_584],
        [270_912, 311_936],
    ]
    assert [count(b) for b in network.mid] == [918_528, 476_032]
    assert [[count(b) for b in level.blocks] for level in network.up] == [
        [329_504, 298_720],
        [160_320, 139_776],
        [50_528, 40_224],
        [29_920, 29_920],
    ]
    assert count(network.down) + count(network.mid) + count(network.up) == 3_561_984
    assert count(network.conv_out) == 99
    assert count(network) == 3_562_211


@pytest.mark.parametrize(("i", "o"), [(3, 5), (4, 4), (7, 2)])
def test_block_count_formula(i: int, o: int) -> None:
    assert count(ResidualBlock(i, o)) == 10 * i * o + 9 * o * o + 3 * o + 2 * i


def test_untrained_output_is_exactly_zero() -> None:
    network = ResidualUNetConfig().build((3, 32, 16), steps=None, time_span=1.0)
    out = network(torch.randn(2, 3, 32, 16), torch.rand(2))
    assert torch.equal(out, torch.zeros(2, 3, 32, 16))


# --- one block, a second time ----------------------------------------------------------------------------------------


def conv3x3(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Cross-correlation with one pixel of zeros around; x (B, C, H, W), weight (O, C, 3, 3)."""
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, weight) + bias[:, None, None]


def block_by_hand(x: np.ndarray, w: dict[str, np.ndarray], mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """R(i, o) from its definition, with the given batch-norm statistics."""
    shortcut = np.einsum("bchw,oc->bohw", x, w["shortcut.weight"][:, :, 0, 0]) + w["shortcut.bias"][:, None, None]
    normal = (x - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    normal = normal * w["norm.weight"][:, None, None] + w["norm.bias"][:, None, None]
    h = conv3x3(normal, w["conv1.weight"], w["conv1.bias"])
    h = h / (1 + np.exp(-h))
    return shortcut + conv3x3(h, w["conv2.weight"], w["conv2.bias"])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [(3, 5), (4, 4)])
def test_block_agrees_with_numpy(channels: tuple[int, int], training: bool) -> None:
    torch.manual_seed(1)
    block = ResidualBlock(*channels).double().train(training)
    for tensor in [*block.parameters(), block.norm.running_mean]:
        nn.init.normal_(tensor)
    nn.init.uniform_(block.norm.running_var, 0.5, 2.0)
    x = torch.randn(4, channels[0], 6, 5, dtype=torch.float64)
    w = {name: p.detach().numpy() for name, p in block.state_dict().items()}
    statistics = (x.numpy().mean((0, 2, 3)), x.numpy().var((0, 2, 3)))
    mean, var = statistics if training else (w["norm.running_mean"], w["norm.running_var"])
    expected = block_by_hand(x.numpy(), w, mean, var)
    # float64 sums of some 50 terms of size 1
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-10, atol=1e-10)


# --- wiring ----------------------------------------------------------------------------------------------------------


def test_skips_join_last_made_first_behind_the_upsampled_image() -> None:
    network = small().eval()
    made: dict[nn.Module, Tensor] = {}
    taken: dict[nn.Module, Tensor] = {}
    for level in network.down:
        for block in level.blocks:
            block.register_forward_hook(lambda m, args, out: made.__setitem__(m, out))
    for level in network.up:
        for block in level.blocks:
            block.register_forward_hook(lambda m, args, out: taken.__setitem__(m, args[0]))
    network(torch.randn(2, 3, 8, 8), torch.rand(2))
    sources = [block for level in network.down for block in level.blocks][::-1]
    targets = [block for level in network.up for block in level.blocks]
    for source, target in zip(sources, targets, strict=True):
        skip = made[source]
        assert torch.equal(taken[target][:, -skip.shape[1] :], skip)


def test_embedding_fills_the_second_half_of_the_first_block() -> None:
    """Channels e … 2e−1 hold the embedding of each image's own time, constant over the image."""
    network = small(time_span=4.0).eval()
    seen: list[Tensor] = []
    network.down[0].blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    time = torch.tensor([0.4, 3.0])
    network(torch.randn(2, 3, 8, 4), time)
    frequencies = torch.tensor([1.0, 1000.0**0.5, 1000.0])
    angles = 2 * torch.pi * (time / 4)[:, None] * frequencies
    planes = torch.cat([angles.sin(), angles.cos()], 1)[:, :, None, None].expand(2, 6, 8, 4)
    # the float32 angle at f = 1000 is rounded by 2.4e-4
    torch.testing.assert_close(seen[0][:, 6:], planes, rtol=0, atol=2e-3)


def test_time_in_another_unit_means_the_same() -> None:
    unit, steps = small().eval(), small(time_span=8.0).eval()
    x, time = torch.randn(2, 3, 8, 8), torch.tensor([0.125, 0.75])
    assert torch.equal(unit(x, time), steps(x, time * 8))  # powers of two scale without rounding


def test_output_depends_on_the_time() -> None:
    network = small().eval()
    x = torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1)
    first, second = network(x, torch.tensor([0.2, 0.7]))
    assert (first - second).abs().mean() > 0.01 * first.abs().mean()


def test_gradient_reaches_every_parameter_after_the_first_step() -> None:
    """The zero output layer hides everything at first; one step later every parameter is in play."""
    torch.manual_seed(0)
    network = SMALL.build((3, 8, 8), steps=None, time_span=1.0)
    x, time, target = torch.randn(8, 3, 8, 8), torch.rand(8), torch.randn(8, 3, 8, 8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (network(x, time) - target).square().mean().backward()
        optimizer.step()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # A batch norm takes the mean away, so what only shifts its input has a gradient of rounding size, never exactly 0.
    assert silent == []


def test_evaluation_of_one_image_does_not_depend_on_its_companions() -> None:
    network = small().eval()
    x, time = torch.randn(5, 3, 8, 8), torch.rand(5)
    together = network(x, time)
    for i in range(5):
        alone = network(x[i : i + 1], time[i : i + 1])
        # the same sums, perhaps blocked differently by the convolution library
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (16, 4)])
def test_any_channels_and_any_size_that_divides(channels: int, size: tuple[int, int]) -> None:
    """Sizes only move the frame: away from the border a network sees the same in a larger image.

    Held here as equivariance: shifting the image by one whole pooling period shifts the output, inside.
    """
    network = small(channels).eval()
    assert network(torch.randn(2, channels, *size), torch.rand(2)).shape == (2, channels, *size)
    wide = torch.randn(1, channels, 8, 96)
    a = network(wide, torch.tensor([0.3]))
    b = network(wide.roll(4, dims=3), torch.tensor([0.3]))
    torch.testing.assert_close(a.roll(4, dims=3)[..., 44:56], b[..., 44:56], rtol=1e-4, atol=1e-4)


def test_learned_variance_doubles_the_outputs_only() -> None:
    network = SMALL.build((3, 8, 8), steps=None, time_span=1.0, out_channels=6)
    assert network(torch.randn(1, 3, 8, 8), torch.rand(1)).shape == (1, 6, 8, 8)


def test_channels_last_and_bfloat16_survive_every_block() -> None:
    network = small().to(memory_format=torch.channels_last)
    kept: list[bool] = []

    def look(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        for tensor in (args[0], out):
            last = tensor.is_contiguous(memory_format=torch.channels_last)
            kept.append(tensor.dtype == torch.bfloat16 and last)

    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(look)
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        network(x, torch.rand(2))
    assert kept == [True] * 20


def test_memory_format_does_not_change_the_numbers() -> None:
    network = small().double().eval()
    x, time = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
    rows = network(x, time)
    last = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), time)
    assert last.dtype == torch.float64
    torch.testing.assert_close(rows, last, rtol=1e-10, atol=1e-10)  # float64, another order of the same sums


def test_traces_as_one_graph() -> None:
    network = small().eval()
    x, time = torch.randn(2, 3, 8, 8), torch.rand(2)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, time), network(x, time))


def test_flops_per_image_are_those_of_the_convolutions() -> None:
    """torch's own counter sees all of the work: 2 · (weights of a convolution) · (pixels it runs on)."""
    network = ResidualUNetConfig().build((3, 64, 64), steps=None, time_span=1.0).eval()
    expected = 0

    def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal expected
        assert isinstance(module, nn.Conv2d)
        expected += 2 * module.weight.numel() * out.shape[2] * out.shape[3]

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.randn(1, 3, 64, 64), torch.rand(1))
    assert counter.get_total_flops() == expected > 1e9


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "nearest", "pad"),
    [
        ((3, 50, 50), "48x48 or 64x64", "[64, 64]"),
        ((1, 28, 64), "16x64 or 32x64", "[32, 64]"),
        ((1, 8, 8), "16x16", "[16, 16]"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(shape: tuple[int, ...], nearest: str, pad: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ResidualUNetConfig().check(shape)
    assert f"{shape[1]}x{shape[2]}" in caught.value.what
    assert caught.value.expected.endswith(f"nearest: {nearest}")
    assert f"data.pad: {pad}" in caught.value.fix
    with pytest.raises(ConfigError):
        ResidualUNetConfig().build(shape, steps=None, time_span=1.0)


def test_refused_size_says_how_many_levels_would_fit() -> None:
    with pytest.raises(ConfigError) as caught:
        ResidualUNetConfig().check((1, 28, 28))
    assert "at most 2 entries" in caught.value.fix
    ResidualUNetConfig(widths=(64, 128)).check((1, 28, 28))


def test_points_are_refused() -> None:
    with pytest.raises(ConfigError, match="shape"):
        ResidualUNetConfig().check((2,))


def test_a_condition_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ConfigError, match="no input"):
        small()(torch.randn(1, 3, 8, 8), torch.rand(1), cond=Condition(labels=torch.tensor([1])))


@pytest.mark.parametrize(
    "field",
    [{"widths": ()}, {"widths": (32, 0)}, {"widths": (1.5,)}, {"depth": 0}, {"depth": True}, {"embedding": 7}],
    ids=str,
)
def test_bad_settings_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"network.{next(iter(field))}"):
        ResidualUNetConfig(**field)  # type: ignore[arg-type]
