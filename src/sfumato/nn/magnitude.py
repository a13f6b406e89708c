"""Layers that keep the magnitude of what passes through them, whatever their weights have learned.

The magnitude of a tensor is its root mean square. If inputs are uncorrelated and have magnitude 1, so has every output:

    normalised    N(x) = x / rms(x), over the axes named
    linear map    y = ŵ x,  ŵ = w/‖w‖ for each row w, so that y sums squares to ‖ŵ‖² = 1; no bias
    silu          x sigmoid(x) / 0.596, where 0.596² = E[silu(z)²] of z ~ N(0, 1)
    sum           ((1 − t) a + t b) / √((1 − t)² + t²)
    concatenation of N_a and N_b channels: √((N_a + N_b) / ((1 − t)² + t²)) · [(1 − t)/√N_a · a, t/√N_b · b]
    Fourier       √2 cos(2π (f τ + φ)), f ~ N(0, 1), φ ~ U(0, 1)
    one-hot       √K in the place of the class, so that a row of ŵ gives ŵ_k √K

Sums weighted by t favour a (t < ½) or b, and a concatenation lets them contribute in that ratio whatever their widths.

Forced weight normalisation. Only the direction of a row w matters, and the gradient is orthogonal to it:

    ∂L/∂w = (I − ŵ ŵᵀ) ∂L/∂ŵ / ‖w‖.

Steps along a tangent make w longer and the learning rate, relative to w, smaller in a way that nobody decided. Hence in
training mode each use first overwrites the stored rows by N(w), whose entries have magnitude 1: a learning rate of 0.01
then always turns a row by about a hundredth. What follows from this for others:

* The optimizer may do what it likes to the length of w; weight decay of these tensors does nothing. The gradient passes
  through the normalisation, not through the overwriting.
* A checkpoint holds the rows as the optimizer left them, slightly longer than N(w), and the next use makes them N(w),
  resumed or not. Overwriting twice changes nothing but roundings.
* In evaluation mode nothing is written, and rows are normalised for use only. A moving average of weights (its rows are
  shorter than 1 where the weights moved) is thereby the same network as its normalised self.
* The graph of a loss keeps a copy of the rows, never the parameter, so a second use of the same layer before `backward`
  finds autograd content. All processes of a group overwrite their equal weights by equal numbers.

Source: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", sections 2.2 and 2.3,
appendix B (silu, sum, concatenation, Fourier features; the algorithm of forced weight normalisation).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import Condition, ConditionShape

__all__ = [
    "MpConv2d",
    "MpEmbedding",
    "MpFourier",
    "MpLinear",
    "direction",
    "mp_cat",
    "mp_silu",
    "mp_sum",
    "normalised",
]

SILU_MAGNITUDE = 0.596  # √E[silu(z)²] of z ~ N(0, 1), as the paper rounds it (0.5963…)
SMALLEST = 1e-4  # below this magnitude a tensor is a zero; representable in every dtype
FOURIER_SPAN = 5.0  # length of the range of ¼ ln σ, the time that the paper's frequencies are drawn for


def normalised(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """N(x) = x / rms(x) over `axes`, the mean square summed in float32 or more; zeros stay zeros. Shaped as x."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    count = math.prod([x.shape[axis] for axis in axes])
    rms = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=dtype) / math.sqrt(count)
    return x / rms.clamp_min(SMALLEST).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu(x) / 0.596."""
    return functional.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 − t) a + t b) / √((1 − t)² + t²), of magnitude 1 if a and b are uncorrelated and have it."""
    length = math.hypot(1 - t, t)
    return (1 - t) / length * a + t / length * b


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """a (B, N_a, …) and b (B, N_b, …) side by side, scaled so that they contribute as 1 − t to t; (B, N_a + N_b, …)."""
    num_a, num_b = a.shape[1], b.shape[1]
    whole = math.sqrt(num_a + num_b) / math.hypot(1 - t, t)
    return torch.cat([whole * (1 - t) / math.sqrt(num_a) * a, whole * t / math.sqrt(num_b) * b], dim=1)


@torch.library.custom_op("sfumato::kept", mutates_args=())
def kept(x: Tensor) -> Tensor:
    """A copy of x that compiled code keeps for the backward pass.

    A compiler may otherwise make a plain copy a second time from the parameter, in order to save memory, and then finds
    that the next use of the layer has written to the parameter.
    """
    return x.clone()


@kept.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


kept.register_autograd(lambda ctx, gradient: gradient)


def direction(weight: nn.Parameter, *, training: bool) -> Tensor:
    """ŵ: every row of `weight` (out, …) divided by its length; in training the stored rows become N(w) first.

    Autograd is given a copy to remember, because the next call writes to `weight` again.
    """
    rows = tuple(range(1, weight.ndim))
    used: Tensor = weight
    if training:
        with torch.no_grad():
            weight.copy_(normalised(weight, rows))
        used = kept(weight) if torch.compiler.is_compiling() else weight.clone()
    return normalised(used, rows) / math.sqrt(weight[0].numel())


class MpLinear(nn.Module):
    """y = ŵ x: (B, in) → (B, out)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The rows' directions applied to x."""
        return functional.linear(x, direction(self.weight, training=self.training))


class MpConv2d(nn.Module):
    """A convolution with ŵ and as many zeros around as keep the size: (B, in, H, W) → (B, out, H, W).

    With a kernel of 3 a pixel of the border sums fewer values and comes out smaller, of magnitude √(6/9) at an edge.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The kernels' directions applied to x."""
        weight = direction(self.weight, training=self.training)
        return functional.conv2d(x, weight, padding=self.weight.shape[-1] // 2)


class MpFourier(nn.Module):
    """√2 cos(2π (f τ + φ)) with fixed random f and φ: (B,) → (B, width). τ is the time in units of span/5."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, width: int, time_span: float) -> None:
        super().__init__()
        self.scale = FOURIER_SPAN / time_span
        self.register_buffer("frequencies", nn.init.normal_(torch.empty(width)))
        self.register_buffer("phases", nn.init.uniform_(torch.empty(width)))

    def forward(self, time: Tensor) -> Tensor:
        """The features of `time`, in the dtype of the frequencies."""
        turns = self.scale * time[:, None].to(self.frequencies.dtype) * self.frequencies + self.phases
        return math.sqrt(2) * (2 * math.pi * turns).cos()


class MpEmbedding(nn.Module):
    """What the blocks are told of time, class and values: mp_silu((e_time + e_class + e_values)/√n), n of them there.

    e_time   = ŵ Fourier(time)
    e_class  = ŵ √(K+1) onehot(k), where k = K stands for no class
    e_values = ŵ' mp_silu(ŵ u), u = √((V+2)/(V+1)) (a_1, …, a_V, 1, 0), or (0, …, 0, √(V+2)) of a dropped example

    The one and the flag in u stand for the biases that these layers do not have. With a class alone this is the paper's
    sum with t = ½.
    """

    def __init__(self, width: int, *, features: int, time_span: float, condition: ConditionShape) -> None:
        super().__init__()
        self.num_classes, self.num_values = condition.num_classes, condition.num_values
        self.fourier = MpFourier(features, time_span)
        self.of_time = MpLinear(features, width)
        self.of_class = MpLinear(self.num_classes + 1, width) if self.num_classes else None
        self.of_values = MpLinear(self.num_values + 2, width) if self.num_values else None
        self.of_values_out = MpLinear(width, width) if self.num_values else None

    def forward(self, time: Tensor, cond: Condition | None) -> Tensor:
        """(B,) and the condition of a batch → (B, width)."""
        parts = [self.of_time(self.fourier(time))]
        if self.of_class is not None:
            parts.append(self.of_class(self._onehot(cond, time)))
        if self.of_values is not None and self.of_values_out is not None:
            parts.append(self.of_values_out(mp_silu(self.of_values(self._flagged(cond, time)))))
        return mp_silu(sum(parts[1:], parts[0]) / math.sqrt(len(parts)))

    def _onehot(self, cond: Condition | None, time: Tensor) -> Tensor:
        """√(K+1) in the place of each example's class, (B, K+1)."""
        rows = torch.full((len(time),), self.num_classes, dtype=torch.int64, device=time.device)
        if cond is not None and cond.labels is not None:
            rows = cond.labels if cond.dropped is None else torch.where(cond.dropped, rows, cond.labels)
        onehot = functional.one_hot(rows, self.num_classes + 1).to(self.fourier.frequencies.dtype)
        return math.sqrt(self.num_classes + 1) * onehot

    def _flagged(self, cond: Condition | None, time: Tensor) -> Tensor:
        """The input u of the values' perceptron, (B, V+2)."""
        number = self.num_values
        zeros = self.fourier.frequencies.new_zeros((len(time), number + 1))
        absent = functional.pad(zeros, (0, 1), value=math.sqrt(number + 2))
        if cond is None or cond.values is None:
            return absent
        ones = functional.pad(cond.values.to(absent.dtype), (0, 1), value=1.0)
        present = math.sqrt((number + 2) / (number + 1)) * functional.pad(ones, (0, 1))
        return present if cond.dropped is None else torch.where(cond.dropped[:, None], absent, present)
