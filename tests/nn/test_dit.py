"""The diffusion transformer: published counts, every part a second time in NumPy, positions, precisions, refusals."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import Dit, DitConfig
from sfumato.nn.dit import DitBlock, grid_positions, patched, unpatched
from sfumato.nn.dot_product import attend

SMALL = DitConfig(patch=2, width=24, depth=2, heads=3)
TOLD = ConditionShape(num_classes=3, num_values=2, image_channels=1)
Array = NDArray[np.float64]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def awake(network: nn.Module, seed: int = 1) -> nn.Module:
    """The network with every parameter drawn from N(0, 0.2²), so that no gate hides what is behind it."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def small(channels: int = 3, *, config: DitConfig = SMALL, condition: ConditionShape = NO_CONDITION) -> Dit:
    network = awake(config.build((channels, 8, 8), steps=None, time_span=5.0, condition=condition))
    assert isinstance(network, Dit)
    return network


def conditions(batch: int) -> Condition:
    return Condition(
        labels=torch.arange(batch) % 3,
        values=torch.randn(batch, 2),
        image=torch.randn(batch, 1, 8, 8),
    )


# --- counts ----------------------------------------------------------------------------------------------------------


def formula(c: DitConfig, channels: int, out: int, classes: int) -> int:
    """The parameters as the module's docstring counts them."""
    D, F, pixels = c.width, round(c.mlp_ratio * c.width), c.patch**2
    block = 4 * D**2 + 4 * D + 2 * D * F + D + F + 6 * D**2 + 6 * D
    ends = 2 * D**2 + 2 * D + (D + 1) * pixels * out + (channels * pixels + 1) * D
    return c.depth * block + ends + 257 * D + (D + 1) * D + (classes + 1) * D


@pytest.mark.parametrize(
    ("width", "depth", "heads", "millions"),
    [(384, 12, 6, 33), (768, 12, 12, 130), (1024, 24, 16, 458), (1152, 28, 16, 675)],
)
def test_parameter_counts_are_those_published(width: int, depth: int, heads: int, millions: int) -> None:
    """Peebles & Xie 2023, table 1 (and 33 M of S), with the learned variance and the 1000 classes and one they had."""
    config = DitConfig(width=width, depth=depth, heads=heads)
    with torch.device("meta"):
        network = config.build(
            (4, 32, 32), steps=1000, time_span=1000.0, out_channels=8, condition=ConditionShape(num_classes=1000)
        )
        assert network(torch.empty(2, 4, 32, 32), torch.empty(2)).shape == (2, 8, 32, 32)
    assert count(network) == formula(config, 4, 8, 1000)
    assert round(count(network) / 1e6) == millions


@pytest.mark.parametrize("config", [SMALL, DitConfig(patch=4, width=16, depth=1, heads=4, mlp_ratio=2.5)])
def test_parameter_formula(config: DitConfig) -> None:
    network = config.build((3, 8, 8), steps=None, time_span=1.0, condition=ConditionShape(num_classes=5))
    assert count(network) == formula(config, 3, 3, 5)


# --- parts, a second time --------------------------------------------------------------------------------------------


def test_patches_are_cut_row_by_row() -> None:
    """Token (i, j) holds channel by channel the pixels of the square at (2i, 2j)."""
    x = torch.randn(2, 3, 4, 6)
    tokens = patched(x, 2)
    assert tokens.shape == (2, 6, 12)
    for i in range(2):
        for j in range(3):
            square = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            assert torch.equal(tokens[:, 3 * i + j], square.reshape(2, 12))


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 8), (2, 1, 2, 4, 6)])
@pytest.mark.parametrize("patch", [1, 2])
def test_patches_put_together_are_the_picture(shape: tuple[int, ...], patch: int) -> None:
    x = torch.randn(shape)
    grid = tuple(n // patch for n in shape[2:])
    assert torch.equal(unpatched(patched(x, patch), patch, grid), x)


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    found = grid_positions((3, 5), 16, like=torch.empty(0, dtype=torch.float64)).numpy()
    for row in range(3):
        for column in range(5):
            for i in range(4):
                turn = 10_000.0 ** (-i / 4)
                at = found[5 * row + column]
                expected = (
                    math.sin(row * turn),
                    math.cos(row * turn),
                    math.sin(column * turn),
                    math.cos(column * turn),
                )
                # float64 sines of angles below 5
                np.testing.assert_allclose((at[i], at[4 + i], at[8 + i], at[12 + i]), expected, rtol=0, atol=1e-14)


def softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def naive_attention(q: Array, k: Array, v: Array) -> Array:
    """softmax(q kᵀ/√d) v of (B, heads, N, d), a pair of tokens at a time."""
    scores = np.zeros((*q.shape[:3], k.shape[2]))
    for i in range(q.shape[2]):
        for j in range(k.shape[2]):
            scores[:, :, i, j] = (q[:, :, i] * k[:, :, j]).sum(-1) / math.sqrt(q.shape[-1])
    return softmax(scores) @ v


@pytest.mark.parametrize("twice", [False, True])
def test_attention_agrees_with_pairs_of_tokens(twice: bool) -> None:
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
    expected = naive_attention(q.numpy(), k.numpy(), v.numpy())
    # float64 sums of five terms
    np.testing.assert_allclose(attend(q, k, v, twice=twice).numpy(), expected, rtol=1e-12, atol=1e-12)


def normal(h: Array) -> Array:
    return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)


def block_by_hand(h: Array, c: Array, w: dict[str, Array], heads: int, qk_norm: bool) -> Array:
    """The block of the module's docstring."""

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def split(x: Array) -> Array:
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    b1, g1, a1, b2, g2, a2 = np.split(linear(c, "modulation")[:, None], 6, axis=-1)
    q, k, v = (split(part) for part in np.split(linear((1 + g1) * normal(h) + b1, "attention.qkv"), 3, axis=-1))
    if qk_norm:
        q = q / np.sqrt((q**2).mean(-1, keepdims=True) + 1e-5) * w["attention.q_norm.weight"]
        k = k / np.sqrt((k**2).mean(-1, keepdims=True) + 1e-5) * w["attention.k_norm.weight"]
    seen = naive_attention(q, k, v).transpose(0, 2, 1, 3).reshape(h.shape)
    h = h + a1 * linear(seen, "attention.out")
    inner = linear((1 + g2) * normal(h) + b2, "mlp.0")
    gelu = 0.5 * inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    return h + a2 * linear(gelu, "mlp.2")


@pytest.mark.parametrize("qk_norm", [False, True])
def test_block_agrees_with_numpy(qk_norm: bool) -> None:
    block = awake(DitBlock(DitConfig(width=24, heads=3, qk_norm=qk_norm))).double()
    h, c = torch.randn(2, 7, 24, dtype=torch.float64), torch.randn(2, 24, dtype=torch.float64)
    w = {name: p.detach().numpy() for name, p in block.named_parameters()}
    expected = block_by_hand(h.numpy(), c.numpy(), w, 3, qk_norm)
    # float64, sums of up to 96 terms of size 1
    np.testing.assert_allclose(block(h, c, twice=False).detach().numpy(), expected, rtol=1e-11, atol=1e-11)


# --- what the network does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 4, 12), (2, 16, 4), (3, 10), (2, 4, 4, 4)], ids=str)
def test_any_number_of_axes_channels_and_sizes_overfits_one_example(shape: tuple[int, ...]) -> None:
    """Shapes of all kinds go in, and what comes out is learned: a target far from 0 is reached."""
    torch.manual_seed(0)
    network = SMALL.build(shape, steps=None, time_span=5.0)
    x, time, target = torch.randn(1, *shape), torch.zeros(1), torch.randn(1, *shape)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (network(x, time) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * target.square().mean()


def test_a_network_takes_other_sizes_than_it_was_built_for() -> None:
    """Positions are those of the picture at hand: the same network built for the other size computes the same."""
    one, other = small(), DitConfig(patch=2, width=24, depth=2, heads=3).build((3, 4, 12), steps=None, time_span=5.0)
    other.load_state_dict(one.state_dict())
    x, time = torch.randn(2, 3, 4, 12), torch.randn(2)
    assert torch.equal(one(x, time), other(x, time))


def test_where_a_patch_is_matters() -> None:
    """A transformer without positions would give a permuted picture the permuted answer."""
    network = small()
    x, time = torch.randn(1, 3, 8, 8), torch.zeros(1)
    moved = network(x.roll(2, dims=3), time).roll(-2, dims=3)
    assert (moved - network(x, time)).abs().max() > 0.01


def test_autocast_keeps_the_sum_of_the_blocks_in_float32() -> None:
    network = small(condition=TOLD)
    kept: list[torch.dtype] = []
    for block in network.blocks:
        block.register_forward_hook(lambda m, args, out: kept.append(out.dtype))
    x, time, cond = torch.randn(2, 3, 8, 8), torch.randn(2), conditions(2)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x, time, cond)
    assert kept == [torch.float32] * 2
    whole = network(x, time, cond)
    # bfloat16 has 8 bits; a few roundings of 2^-8 in a row, of an output of size 1
    assert (half.float() - whole).abs().max() < 0.05 * whole.abs().max()


def test_learned_variance_doubles_the_outputs_only() -> None:
    """The second half of the channels, not of a patch's numbers, is the variance's."""
    network = SMALL.build((3, 8, 8), steps=None, time_span=5.0, out_channels=6)
    with torch.no_grad():
        network.unembed.bias[: 3 * 4] = 1.0  # the patch's first three channels
    mean, variance = network(torch.randn(1, 3, 8, 8), torch.randn(1)).chunk(2, dim=1)
    assert torch.equal(mean, torch.ones(1, 3, 8, 8))
    assert torch.equal(variance, torch.zeros(1, 3, 8, 8))


def test_overfits_two_pictures() -> None:
    """From x_t = x0 + ε of two pictures the network learns which of them it was: the loss falls below 2 % of 1."""
    torch.manual_seed(0)
    network = DitConfig(patch=2, width=48, depth=2, heads=4).build((1, 8, 8), steps=None, time_span=5.0)
    pictures = torch.randn(2, 1, 8, 8).sign()
    x0, time = pictures.repeat(8, 1, 1, 1), torch.zeros(16)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (network((x0 + torch.randn_like(x0)) / math.sqrt(2), time) - x0).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "nearest"), [((3, 30, 33), "28x32 or 32x36"), ((1, 2, 8), "4x8"), ((2, 10), "8 or 12")], ids=str
)
def test_sizes_that_are_not_made_of_patches_are_refused(shape: tuple[int, ...], nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DitConfig(patch=4).check(shape)
    assert caught.value.expected.endswith(f"nearest: {nearest}")
    assert "network.patch to a divisor of" in caught.value.fix
    with pytest.raises(ConfigError):
        DitConfig(patch=4).build(shape, steps=None, time_span=1.0)


def test_points_are_refused() -> None:
    with pytest.raises(ConfigError, match="shape"):
        DitConfig().check((2,))


def test_a_width_without_room_for_positions_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        DitConfig(width=18, heads=3).check((1, 8, 8))
    assert caught.value.fix == "set network.width: 24"  # the next multiple of 4 that three heads divide


@pytest.mark.parametrize(
    "field",
    [{"patch": 0}, {"width": 100}, {"depth": True}, {"heads": 0}, {"mlp_ratio": 0.0}, {"mlp_ratio": float("nan")}],
    ids=str,
)
def test_bad_settings_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"network.{next(iter(field))}"):
        DitConfig(**field)  # type: ignore[arg-type]
