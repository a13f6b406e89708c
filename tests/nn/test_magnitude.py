"""Magnitude-preserving layers: exact magnitudes, the algebra of forced normalisation, and what autograd sees of it."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.nn.magnitude import (
    MpConv2d,
    MpEmbedding,
    MpFourier,
    MpLinear,
    direction,
    mp_cat,
    mp_silu,
    mp_sum,
    normalised,
)


def magnitude(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def test_normalised_has_magnitude_one_over_its_axes_and_leaves_zeros() -> None:
    x = 3 * torch.randn(4, 5, 6, dtype=torch.float64)
    np.testing.assert_allclose(normalised(x, (1,)).square().mean(1), 1, rtol=1e-14)  # float64
    np.testing.assert_allclose(normalised(x, (1, 2)).square().mean((1, 2)), 1, rtol=1e-14)
    zeros = torch.zeros(2, 3, requires_grad=True)
    normalised(zeros, (1,)).sum().backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_normalised_in_bfloat16_is_rounded_only() -> None:
    """Of 4096 numbers a sum that is kept in bfloat16 would stop growing at 256 of them, and be wrong by a factor."""
    x = torch.randn(8, 4096).bfloat16()
    # a root mean square and a quotient, each rounded to 8 bits: 2 · 2^-8
    torch.testing.assert_close(normalised(x, (1,)).double(), normalised(x.double(), (1,)), rtol=8e-3, atol=0)


def test_silu_of_normals_has_magnitude_one() -> None:
    """The mean square over a fine grid of quantiles, which is an integral by the midpoint rule."""
    uniforms = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    z = math.sqrt(2) * torch.erfinv(2 * uniforms - 1)
    # the paper's 0.596 stands for 0.59656…: a thousandth is what rounding it costs
    assert magnitude(mp_silu(z)) == pytest.approx(1, abs=1.1e-3)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_sum_of_orthogonal_parts_has_magnitude_one(t: float) -> None:
    a, b = torch.tensor([1.0, 1, -1, -1]).double(), torch.tensor([1.0, -1, 1, -1]).double()
    total = mp_sum(a, b, t)
    assert magnitude(total) == pytest.approx(1, rel=1e-12)
    if t < 1:
        assert (total @ b / (total @ a)).item() == pytest.approx(t / (1 - t), rel=1e-12)  # the shares, as asked


@pytest.mark.parametrize(("num_a", "num_b"), [(4, 4), (2, 14), (9, 1)])
@pytest.mark.parametrize("t", [0.5, 0.3])
def test_concatenation_has_magnitude_one_and_contributes_as_asked(num_a: int, num_b: int, t: float) -> None:
    """Whatever the widths, the two sides' powers stand as (1 − t)² to t²."""
    a, b = torch.ones(3, num_a, 2, dtype=torch.float64), -torch.ones(3, num_b, 2, dtype=torch.float64)
    both = mp_cat(a, b, t)
    assert magnitude(both) == pytest.approx(1, rel=1e-12)
    powers = both[:, :num_a].square().sum(), both[:, num_a:].square().sum()
    assert (powers[1] / powers[0]).item() == pytest.approx((t / (1 - t)) ** 2, rel=1e-12)
    assert (both[:, :num_a] > 0).all()


def test_fourier_features_have_magnitude_one_and_scale_with_the_span() -> None:
    fourier = MpFourier(256, 5.0).double()
    time = torch.linspace(-2.5, 2.5, 4001, dtype=torch.float64)
    # 256 cosines of random phase over a few turns each: 1/√(2·256·…) of spread
    assert magnitude(fourier(time)) == pytest.approx(1, abs=0.05)
    expected = math.sqrt(2) * np.cos(
        2 * np.pi * (time.numpy()[:, None] * fourier.frequencies.numpy() + fourier.phases.numpy())
    )
    np.testing.assert_allclose(fourier(time).numpy(), expected, rtol=0, atol=1e-12)  # float64 angles of size 100
    other = MpFourier(256, 1000.0).double()
    other.load_state_dict(fourier.state_dict())
    torch.testing.assert_close(other(200 * time), fourier(time), rtol=0, atol=1e-10)


# --- weights ---------------------------------------------------------------------------------------------------------


def layers() -> list[tuple[nn.Module, Tensor]]:
    return [
        (MpLinear(6, 40).double(), torch.randn(3, 6, dtype=torch.float64)),
        (MpConv2d(6, 40, kernel=1).double(), torch.randn(3, 6, 4, 5, dtype=torch.float64)),
        (MpConv2d(6, 40, kernel=3).double(), torch.randn(3, 6, 4, 5, dtype=torch.float64)),
    ]


@pytest.mark.parametrize("kind", range(3))
def test_power_is_kept_in_the_mean_over_directions(kind: int) -> None:
    """E[ŵ ŵᵀ] = I/N for rows of uniform direction, so E|y|² is exactly the mean of |x|² over what a row sees.

    That holds of any x, correlated or not; a layer of 20,000 rows leaves 1 % of chance.
    """
    maker = [lambda: MpLinear(6, 20_000), lambda: MpConv2d(6, 20_000, kernel=1), lambda: MpConv2d(6, 20_000, kernel=3)]
    layer = maker[kind]()
    x = torch.randn(6).expand(2, 6) if kind == 0 else torch.randn(6)[None, :, None, None].expand(2, 6, 3, 3)
    y = layer(x) if kind == 0 else layer(x)[:, :, 1, 1]  # of a convolution the pixel that sees no border
    assert magnitude(y) == pytest.approx(magnitude(x), rel=0.02)


@pytest.mark.parametrize("kind", range(3))
def test_only_the_direction_of_a_row_counts(kind: int) -> None:
    layer, x = layers()[kind]
    expected = layer.eval()(x)
    for training in (False, True):
        with torch.no_grad():
            layer.weight.mul_(torch.linspace(0.5, 7, 40).double().view(-1, *[1] * (layer.weight.ndim - 1)))
        torch.testing.assert_close(layer.train(training)(x), expected, rtol=1e-12, atol=1e-12)  # float64


@pytest.mark.parametrize("kind", range(3))
def test_training_overwrites_the_rows_and_evaluation_does_not(kind: int) -> None:
    layer, x = layers()[kind]
    with torch.no_grad():
        layer.weight.mul_(7)
    before = layer.weight.detach().clone()
    layer.eval()(x)
    assert torch.equal(layer.weight, before)
    layer.train()(x)
    rows = layer.weight.detach().flatten(1)
    np.testing.assert_allclose(rows.square().mean(1), 1, rtol=1e-14)
    torch.testing.assert_close(rows, normalised(before.flatten(1), (1,)), rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", range(3))
def test_gradient_is_orthogonal_to_each_row_and_that_of_the_normalised_weight(kind: int) -> None:
    """(I − ŵ ŵᵀ) g/‖w‖ with ‖w‖ = √N after overwriting, whatever length the row had before."""
    layer, x = layers()[kind]
    with torch.no_grad():
        layer.weight.mul_(3)
    out = layer(x)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    unit = direction(layer.weight, training=False).detach().requires_grad_()
    apply = nn.functional.linear if kind == 0 else nn.functional.conv2d
    apply(x, unit, **({} if kind == 0 else {"padding": unit.shape[-1] // 2})).backward(upstream)
    rows, g = unit.detach().flatten(1), unit.grad.flatten(1)
    expected = (g - rows * (rows * g).sum(1, keepdim=True)) / math.sqrt(rows.shape[1])
    torch.testing.assert_close(layer.weight.grad.flatten(1), expected, rtol=1e-11, atol=1e-11)
    assert (layer.weight.grad.flatten(1) * rows).sum(1).abs().max() < 1e-12


def test_a_layer_used_twice_before_backward_has_the_gradient_of_both_uses() -> None:
    """Overwriting between the uses does not disturb what the first one keeps. The reference never writes."""
    layer, x = layers()[2]
    layer(x)  # the rows are normal now, so the reference sees the same length
    reference = copy.deepcopy(layer).eval()
    for used in (layer, reference):
        used.zero_grad()
        (used(x).square().mean() - (used(2 * x) ** 3).mean()).backward()
    torch.testing.assert_close(layer.weight.grad, reference.weight.grad, rtol=1e-11, atol=1e-11)


def test_a_use_without_gradient_between_forward_and_backward_changes_nothing() -> None:
    layer, x = layers()[0]
    loss = layer(x).square().mean()
    with torch.no_grad():
        layer(x)
    loss.backward()
    assert layer.weight.grad.isfinite().all()


def test_the_gradient_has_a_gradient_in_training() -> None:
    """∂/∂w of |∂y/∂x|², with a second use of the layer in between, against a weight that is normalised by hand."""
    layer, x = layers()[0]
    layer(x)
    x.requires_grad_()
    (slope,) = torch.autograd.grad((layer(x) ** 3).sum(), x, create_graph=True)
    (slope.square().sum() + layer(2 * x).square().sum()).backward()
    w = layer.weight.detach().clone().requires_grad_()

    def by_hand(x: Tensor) -> Tensor:
        return x @ (w / w.norm(dim=1, keepdim=True)).T

    (slope,) = torch.autograd.grad((by_hand(x) ** 3).sum(), x, create_graph=True)
    (slope.square().sum() + by_hand(2 * x).square().sum()).backward()
    torch.testing.assert_close(layer.weight.grad, w.grad, rtol=1e-10, atol=1e-10)


# --- embedding -------------------------------------------------------------------------------------------------------

SHAPES = [
    NO_CONDITION,
    ConditionShape(num_classes=10),
    ConditionShape(num_values=1),
    ConditionShape(num_classes=10, num_values=7),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dropped", [False, True])
def test_embedding_has_magnitude_one(shape: ConditionShape, dropped: bool) -> None:
    """Before its last silu the embedding of 2048 numbers is near normal: 5 % are left to chance and correlations."""
    embedding = MpEmbedding(2048, features=256, time_span=5.0, condition=shape)
    cond = Condition(
        labels=torch.arange(64) % 10 if shape.num_classes else None,
        values=torch.randn(64, shape.num_values) if shape.num_values else None,
        dropped=torch.full((64,), dropped),
    )
    assert magnitude(embedding(torch.linspace(-2, 2, 64), cond)) == pytest.approx(1, abs=0.06)


def test_embedding_agrees_with_its_definition() -> None:
    """(e_time + e_class + e_values)/√3 with the one-hot vectors and flags written out; one of three is dropped."""
    embedding = MpEmbedding(
        16, features=8, time_span=5.0, condition=ConditionShape(num_classes=4, num_values=2)
    ).double()
    time, values = torch.randn(3, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    values[1] = math.nan  # unknown, and dropped
    cond = Condition(torch.tensor([2, 0, 3]), values, dropped=torch.tensor([False, True, False]))
    onehot = math.sqrt(5) * torch.eye(5, dtype=torch.float64)[[2, 4, 3]]
    u = math.sqrt(4 / 3) * torch.tensor([[*values[0], 1, 0], [0, 0, 0, math.sqrt(3)], [*values[2], 1, 0]]).double()

    def unit(layer: MpLinear | None) -> Tensor:
        assert layer is not None
        return (layer.weight / layer.weight.norm(dim=1, keepdim=True)).T

    parts = [embedding.fourier(time) @ unit(embedding.of_time), onehot @ unit(embedding.of_class)]
    parts.append(mp_silu(u @ unit(embedding.of_values)) @ unit(embedding.of_values_out))
    expected = mp_silu((parts[0] + parts[1] + parts[2]) / math.sqrt(3))
    torch.testing.assert_close(embedding.eval()(time, cond), expected, rtol=1e-6, atol=1e-6)  # u was float32


def test_values_that_are_dropped_and_unknown_leave_no_trace_in_the_gradient() -> None:
    embedding = MpEmbedding(16, features=8, time_span=5.0, condition=ConditionShape(num_values=1))
    cond = Condition(values=torch.tensor([[math.nan], [1.0]]), dropped=torch.tensor([True, False]))
    embedding(torch.zeros(2), cond).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in embedding.parameters())
