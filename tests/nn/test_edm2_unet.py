"""The magnitude-preserving U-Net: published counts, the whole network a second time in NumPy, magnitudes, compilers."""

import copy
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import DdpmUNetConfig, Edm2UNet, Edm2UNetConfig, NetworkConfig
from sfumato.nn.doubling import doubled
from sfumato.nn.edm2_unet import CosineAttention, DecoderBlock, EncoderBlock
from sfumato.nn.magnitude import MpConv2d, MpLinear

SMALL = Edm2UNetConfig(widths=(12, 24), depth=1, attention=(4,), head_width=12)
TOLD = ConditionShape(num_classes=3, num_values=2, image_channels=1)
Array = NDArray[np.float64]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def awake(network: nn.Module, gain: float = 0.5) -> nn.Module:
    """The network with its gains, zero at the start, at `gain`."""
    for name, parameter in network.named_parameters():
        if "gain" in name:
            nn.init.constant_(parameter, gain)
    return network


def small(
    channels: int = 3, *, config: Edm2UNetConfig = SMALL, condition: ConditionShape = NO_CONDITION, seed: int = 1
) -> Edm2UNet:
    torch.manual_seed(seed)
    network = awake(config.build((channels, 8, 8), steps=None, time_span=5.0, condition=condition))
    assert isinstance(network, Edm2UNet)
    return network


def conditions(batch: int, *, dropped: list[bool] | None = None) -> Condition:
    return Condition(
        labels=torch.arange(batch) % 3,
        values=torch.randn(batch, 2),
        image=torch.randn(batch, 1, 8, 8),
        dropped=None if dropped is None else torch.tensor(dropped),
    )


# --- counts ----------------------------------------------------------------------------------------------------------


def formula(c: Edm2UNetConfig, shape: tuple[int, int, int], classes: int) -> int:
    """The weights as the module's docstring counts them, level by level."""
    E, bottom = max(c.widths), len(c.widths) - 1

    def block(first: int, i: int, o: int, attends: bool) -> int:
        return first + 9 * o * o + o * E + 1 + (i * o if i != o else 0) + (4 * o * o if attends else 0)

    def attends(level: int) -> bool:
        return shape[1] // 2**level in c.attention

    total, width, skips = 9 * (shape[0] + 1) * c.widths[0], c.widths[0], [c.widths[0]]
    for level, o in enumerate(c.widths):
        if level:
            total += block(9 * width * width, width, width, False)
            skips.append(width)
        for _ in range(c.depth):
            total += block(9 * o * o, width, o, attends(level))
            width = o
            skips.append(o)
    total += block(9 * width * width, width, width, attends(bottom)) + block(9 * width * width, width, width, False)
    for level in range(bottom, -1, -1):
        if level < bottom:
            total += block(9 * width * width, width, width, False)
        for _ in range(c.depth + 1):
            i, o = width + skips.pop(), c.widths[level]
            total += block(9 * i * o, i, o, attends(level))
            width = o
    return total + 9 * width * shape[0] + 1 + c.widths[0] * E + ((classes + 1) * E if classes else 0)


@pytest.mark.parametrize(("c", "millions"), [(128, 125), (192, 280), (256, 498), (320, 777), (384, 1119), (448, 1523)])
def test_parameter_counts_are_those_published(c: int, millions: int) -> None:
    """Karras et al. 2024, table 2 (XS to XXL), for latents of 64 × 64 and 1000 classes."""
    config = Edm2UNetConfig(widths=(c, 2 * c, 3 * c, 4 * c))
    with torch.device("meta"):
        network = config.build((4, 64, 64), steps=None, time_span=5.0, condition=ConditionShape(num_classes=1000))
    assert count(network) == formula(config, (4, 64, 64), 1000)
    assert round(count(network) / 1e6) == millions


@pytest.mark.parametrize("config", [SMALL, Edm2UNetConfig(widths=(8,), depth=2, attention=(), head_width=3)])
@pytest.mark.parametrize("classes", [0, 5])
def test_parameter_formula(config: Edm2UNetConfig, classes: int) -> None:
    network = config.build((2, 8, 8), steps=None, time_span=1.0, condition=ConditionShape(num_classes=classes))
    assert count(network) == formula(config, (2, 8, 8), classes)


# --- the whole network, a second time --------------------------------------------------------------------------------


class ByHand:
    """The formulas of the module's docstring in NumPy, with the weights of a network under their names."""

    def __init__(self, network: Edm2UNet, head_width: int) -> None:
        self.w = {name: p.detach().numpy() for name, p in network.named_parameters()}
        self.buffers = {name: b.numpy() for name, b in network.named_buffers()}
        self.head_width = head_width

    def unit(self, name: str) -> Array:
        w = self.w[f"{name}.weight"]
        return w / np.sqrt((w.reshape(len(w), -1) ** 2).sum(1)).reshape(-1, *[1] * (w.ndim - 1))

    def conv(self, x: Array, name: str) -> Array:
        w = self.unit(name)
        pad = w.shape[-1] // 2
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        return np.einsum("bchwij,ocij->bohw", sliding_window_view(padded, w.shape[2:], axis=(2, 3)), w)

    @staticmethod
    def silu(x: Array) -> Array:
        return x / (1 + np.exp(-x)) / 0.596

    @staticmethod
    def plus(a: Array, b: Array) -> Array:
        return (0.7 * a + 0.3 * b) / math.sqrt(0.7**2 + 0.3**2)

    def branch(self, x: Array, e: Array, name: str) -> Array:
        h = self.conv(self.silu(x), f"{name}.conv_1")
        scale = 1 + self.w[f"{name}.gain"] * (e @ self.unit(f"{name}.of_embedding").T)
        return self.conv(self.silu(scale[:, :, None, None] * h), f"{name}.conv_2")

    def attention(self, x: Array, name: str) -> Array:
        if f"{name}.qkv.weight" not in self.w:
            return x
        batch, channels, height, width = x.shape
        d = min(self.head_width, channels)
        found = np.zeros_like(x).reshape(batch, channels, -1)
        qkv = self.conv(x, f"{name}.qkv").reshape(batch, 3, channels // d, d, height * width)
        for b in range(batch):
            for head in range(channels // d):
                q, k, v = (part / np.sqrt((part**2).mean(0)) for part in qkv[b, :, head])
                weights = np.exp(q.T @ k / math.sqrt(d))
                weights /= weights.sum(1, keepdims=True)
                found[b, head * d : (head + 1) * d] = (weights @ v.T).T
        return self.plus(x, self.conv(found.reshape(x.shape), f"{name}.out"))

    def shortcut(self, x: Array, name: str) -> Array:
        return self.conv(x, name) if f"{name}.weight" in self.w else x

    def encode(self, x: Array, e: Array, name: str) -> Array:
        x = self.shortcut(x, f"{name}.shortcut")
        x = x / np.sqrt((x**2).mean(1, keepdims=True))
        return self.attention(self.plus(x, self.branch(x, e, f"{name}.branch")), f"{name}.attention")

    def decode(self, x: Array, e: Array, name: str) -> Array:
        y = self.plus(self.shortcut(x, f"{name}.shortcut"), self.branch(x, e, f"{name}.branch"))
        return self.attention(y, f"{name}.attention")

    def __call__(self, x: Array, time: Array) -> Array:
        """Two levels of one block: E / down, E / mid D, D / D(skip) D(skip) / up, D(skip), D(skip)."""
        turns = time[:, None] * self.buffers["embedding.fourier.frequencies"] + self.buffers["embedding.fourier.phases"]
        e = self.silu(math.sqrt(2) * np.cos(2 * np.pi * turns) @ self.unit("embedding.of_time").T)
        skips = [self.conv(np.concatenate([x, np.ones_like(x[:, :1])], 1), "conv_in")]
        skips.append(self.encode(skips[-1], e, "encoder.0"))
        batch, channels, height, width = skips[-1].shape
        half = skips[-1].reshape(batch, channels, height // 2, 2, width // 2, 2).mean((3, 5))
        skips.append(self.encode(half, e, "encoder.1"))
        skips.append(self.encode(skips[-1], e, "encoder.2"))
        h = self.decode(self.decode(skips[-1], e, "mid.0"), e, "mid.1")
        for block in range(5):
            if block == 2:
                h = h.repeat(2, axis=2).repeat(2, axis=3)
            else:
                skip = skips.pop()
                whole = math.sqrt(2 * (h.shape[1] + skip.shape[1]))  # t = ½: √(N/(¼ + ¼)) · ½ of each
                parts = [0.5 * whole / math.sqrt(h.shape[1]) * h, 0.5 * whole / math.sqrt(skip.shape[1]) * skip]
                h = np.concatenate(parts, 1)
            h = self.decode(h, e, f"decoder.{block}")
        return self.w["gain_out"] * self.conv(h, "conv_out")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head_width", [12, 64])
def test_the_whole_network_agrees_with_numpy(training: bool, head_width: int) -> None:
    config = Edm2UNetConfig(widths=(12, 24), depth=1, attention=(8, 4), head_width=head_width)
    network = small(2, config=config).double().train(training)
    x, time = torch.randn(2, 2, 8, 4, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    expected = ByHand(network, head_width)(x.numpy(), time.numpy())
    # float64 through some 20 convolutions of up to 432 terms
    np.testing.assert_allclose(network(x, time).detach().numpy(), expected, rtol=1e-10, atol=1e-10)


# --- magnitudes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [8, 24, 64])
def test_every_block_keeps_magnitude_one_at_the_start(width: int) -> None:
    """Of inputs of magnitude 1, over many seeds: at any width the mean power of each block's output is 1.

    A convolution misses a power of 1 − (1 − 1/(3·16))² = 4 % at the borders of 16 pixels, a branch of two 8 to 16 %, of
    which a block feels 0.09/0.58 = 16 %; attention averages away 1 − 0.49/0.58 = 16 % at most. Chance adds 3 %.
    """
    config = Edm2UNetConfig(widths=(width, 2 * width), depth=1, attention=(4,), head_width=width)
    powers: dict[str, list[float]] = {}
    for seed in range(6):
        network = small(3, config=config, seed=seed).eval()
        awake(network, gain=0.0)
        for name, block in network.named_modules():
            if isinstance(block, EncoderBlock | DecoderBlock):
                into = block.branch.conv_1.weight.shape[1]
                into = into if isinstance(block.shortcut, nn.Identity) else block.shortcut.weight.shape[1]
                with torch.no_grad():
                    x, e = torch.randn(1, into, 32, 32), torch.randn(1, 2 * width)
                    powers.setdefault(name, []).append(block(x, e, twice=False).square().mean().item())
    attends = {name.rpartition(".")[0] for name, m in network.named_modules() if isinstance(m, CosineAttention)}
    assert len(powers) == 10
    assert attends
    for name, found in powers.items():
        least = 0.79 if name in attends else 0.94
        assert least < float(np.mean(found)) < 1.06, name


def test_magnitudes_do_not_drift_through_the_network() -> None:
    """From the first convolution to the last block, at 48 pixels, little is lost but at borders and in attention."""
    config = Edm2UNetConfig(widths=(32, 64), depth=2, attention=(24,), head_width=32)
    torch.manual_seed(0)
    network = config.build((3, 48, 48), steps=None, time_span=5.0).eval()
    seen: list[float] = []
    for block in (network.conv_in, *network.encoder, *network.mid, *network.decoder):
        block.register_forward_hook(lambda m, args, out: seen.append(out.square().mean().sqrt().item()))
    with torch.no_grad():
        network(torch.randn(4, 3, 48, 48), torch.linspace(-2, 2, 4))
    assert len(seen) == 15
    assert min(seen) > 0.75
    assert max(seen) < 1.15


def test_scaling_every_weight_changes_nothing() -> None:
    network = small(condition=TOLD).double()
    x, time, cond = torch.randn(2, 3, 8, 8).double(), torch.randn(2).double(), conditions(2)
    expected = network.eval()(x, time, cond)
    for training in (False, True):
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, MpConv2d | MpLinear):
                    module.weight.mul_(7)
        torch.testing.assert_close(network.train(training)(x, time, cond), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("config", [DdpmUNetConfig(), Edm2UNetConfig()], ids=lambda config: type(config).__name__)
def test_the_remedy_for_attention_where_no_level_is_works(config: NetworkConfig) -> None:
    """The default settings on 8 x 8 pixels: what the refusal says to set is taken."""
    with pytest.raises(ConfigError, match="names the height 16") as refused:
        config.check((1, 8, 8))
    found = re.fullmatch(r"set network\.attention: \[(\d+)\]", refused.value.fix)
    assert found is not None
    replace(config, attention=(int(found[1]),)).check((1, 8, 8))  # type: ignore[call-arg]


# --- training --------------------------------------------------------------------------------------------------------


def two_calls(network: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    return (network(x, time) - 0.5 * network(-x, time)).square().mean()


@pytest.mark.parametrize("wrapper", ["eager", pytest.param("compiled", marks=pytest.mark.slow), "parallel"])
def test_two_calls_before_backward_have_the_gradient_of_both(wrapper: str) -> None:
    """Against evaluation mode, which never writes; the rows are normal beforehand, so lengths agree."""
    network = small(1).double()
    x, time = torch.randn(2, 1, 8, 8).double(), torch.randn(2).double()
    network(x, time)
    reference = copy.deepcopy(network).eval()
    used: nn.Module = network
    if wrapper == "compiled":
        used = torch.compile(network, backend="aot_eager_decomp_partition", fullgraph=True)
    if wrapper == "parallel":
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        used = nn.parallel.DistributedDataParallel(network)
    try:
        two_calls(used, x, time).backward()
    finally:
        if wrapper == "parallel":
            torch.distributed.destroy_process_group()
    two_calls(reference, x, time).backward()
    for (name, found), expected in zip(network.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.proof  # minutes of compiling
@pytest.mark.timeout(900)
def test_inductor_agrees_with_eager() -> None:
    """Compiled for the CPU, in training, two calls: what the partitioner keeps survives the second overwriting."""
    network = small(1, config=Edm2UNetConfig(widths=(8, 16), depth=1, attention=(4,)))
    x, time = torch.randn(2, 1, 8, 8), torch.randn(2)
    network(x, time)
    reference = copy.deepcopy(network)
    two_calls(torch.compile(network, fullgraph=True), x, time).backward()
    two_calls(reference, x, time).backward()
    for (name, found), expected in zip(network.named_parameters(), reference.parameters(), strict=True):
        # float32 sums in another order, relative to the largest entry of each gradient
        atol = 1e-4 * expected.grad.abs().max().item()
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=atol, msg=name)


def test_the_gradient_has_a_gradient_in_training() -> None:
    """Score matching differentiates by x, then by the weights: held against evaluation mode, which never writes."""
    network = small(1).double()
    x, time = torch.randn(1, 1, 8, 8).double().requires_grad_(), torch.zeros(1).double()
    network(x, time)
    found = []
    for module in (network, copy.deepcopy(network).eval()):
        module.zero_grad()
        (slope,) = torch.autograd.grad(module(x, time).sum(), x, create_graph=True)
        (slope.square().sum() + module(x, time).square().sum()).backward()
        found.append([p.grad for p in module.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_run_that_is_resumed_goes_on_exactly() -> None:
    """A state saved between two steps, rows as the optimizer left them, in a network of other random features."""
    network, other = small(1), small(1, seed=9)
    x, time, target = torch.randn(2, 1, 8, 8), torch.randn(2), torch.randn(2, 1, 8, 8)

    def step(module: nn.Module) -> float:
        module.zero_grad()
        loss = (module(x, time) - target).square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.05 * parameter.grad.sign()
        return loss.item()

    step(network)
    other.load_state_dict(copy.deepcopy(network.state_dict()))
    assert [step(network) for _ in range(3)] == [step(other) for _ in range(3)]


def test_overfits_two_pictures() -> None:
    """From x_t = x0 + ε of two pictures the network learns which of them it was: the loss falls below 2 % of 1."""
    torch.manual_seed(0)
    network = Edm2UNetConfig(widths=(16, 32), depth=1, attention=(4,), head_width=32).build(
        (1, 8, 8), steps=None, time_span=5.0
    )
    pictures = torch.randn(2, 1, 8, 8).sign()
    x0, time = pictures.repeat(8, 1, 1, 1), torch.zeros(16)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (network((x0 + torch.randn_like(x0)) / math.sqrt(2), time) - x0).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_dropout_acts_in_training_only() -> None:
    network = small(config=Edm2UNetConfig(widths=(12,), depth=1, attention=(), dropout=0.5))
    x, time = torch.randn(1, 3, 8, 8), torch.zeros(1)
    assert not torch.equal(network(x, time), network(x, time))
    assert torch.equal(network.eval()(x, time), network(x, time))


# --- compilers -------------------------------------------------------------------------------------------------------


def test_doubling_in_compiled_code_is_the_same() -> None:
    x = torch.randn(2, 3, 4, 5)
    compiled = torch.compile(doubled, backend="eager", fullgraph=True)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(compiled(given), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        assert torch.equal(compiled(given), doubled(given))


def test_traces_as_one_graph_in_training() -> None:
    network = small(config=Edm2UNetConfig(widths=(8,), depth=1, attention=(8,)), condition=TOLD)
    x, time, cond = torch.randn(2, 3, 8, 8), torch.randn(2), conditions(2, dropped=[True, False])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, time, cond), network(x, time, cond), rtol=1e-4, atol=1e-5)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Edm2UNetConfig(attention=()).check((3, 28, 64))
    assert caught.value.expected.endswith("nearest: 24x64 or 32x64")
    assert "at most 3 entries" in caught.value.fix
    with pytest.raises(ConfigError):
        Edm2UNetConfig().build((3, 28, 64), steps=None, time_span=1.0)
    with pytest.raises(ConfigError, match="shape"):
        Edm2UNetConfig().check((2,))


def test_heights_that_no_level_has_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Edm2UNetConfig().check((3, 8, 8))
    assert "[8, 4, 2, 1]" in caught.value.expected
    Edm2UNetConfig().check((3, 64, 24))


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Edm2UNetConfig(widths=(32, 80), attention=(8,)).check((3, 16, 16))
    assert "set network.head_width: 16" in caught.value.fix


@pytest.mark.parametrize(
    "field",
    [{"widths": ()}, {"widths": (32, 0)}, {"depth": 0}, {"attention": (0,)}, {"head_width": 1.5}, {"dropout": 1.0}],
    ids=str,
)
def test_bad_settings_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"network.{next(iter(field))}"):
        Edm2UNetConfig(**field)  # type: ignore[arg-type]
