"""arnason's plain U-Net: convolutions with batch norm; the time, a label and values are joined at the bottom only.

    pair(i, o)   two times 3×3 convolution, batch norm, ReLU;   i → o → o
    planes(a)    W_2 ReLU(W_1 a + b_1) + b_2, one long vector laid out as p feature maps of the bottom's size

    down     pairs C → w_1 → … → w_D; each but the last is kept as a skip and halved by 2×2 maxima
    bottom   join planes(τ), planes(label), planes(values); pair (w_D + p · parts) → w_D
    up       D − 1 times: transposed 2×2 convolution of stride 2 to the width of the skip, join the skip, pair
    out      1×1 convolution, zero at the start

"Depth 3" is read as three resolutions, w = 64, 128, 256, with two halvings: 28 × 28 → 14 × 14 → 7 × 7, so that nothing
is padded or cropped. With p = 128 the bottom takes 256 + 128 = 384 channels without a label and 256 + 128 + 128 = 512
with one. Height and width must be multiples of 2^(D−1), and those the network was built for: the long vectors fix them.

The time enters as τ = time/time_span, a share of its span; a raw step index up to T − 1 would saturate the hidden
layer (arnason's way). A label enters as a one-hot vector, values with a 1 behind them that says they are known; of a
dropped example both are all zero, which no label and no value ever is, so ReLU(b_1) is what "not told" looks like.

A baseline, with its known weaknesses kept because they are its layout: skips at full resolution never learn how much
noise there is; a scalar through one hidden layer tells close times apart badly; batch norm mixes the noise levels of a
batch in training and behaves otherwise in sampling, where all examples share one. Source: arnason (a report without
code: the counts 384 and 512, the depth, norm and embeddings are theirs, the rest is the plainest that fits).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.conditioning import joined, require_understood
from sfumato.nn.config import NetworkConfig, require_positive, require_widths
from sfumato.nn.unet import require_divisible, require_picture

__all__ = ["BottleneckUNet", "BottleneckUNetConfig", "Planes"]


@dataclass(frozen=True, slots=True)
class BottleneckUNetConfig(NetworkConfig):
    """A plain convolutional U-Net that learns time and label at its bottom only, for images: a baseline.

    widths: channels of each level, finest first; every level but the last halves height and width.
    planes: feature maps that tell the time; as many again for a label, and for values.
    hidden: units of the hidden layer behind each of these.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    planes: int = 128
    hidden: int = 128

    def __post_init__(self) -> None:
        require_widths(self.widths, fix="[64, 128, 256]")
        require_positive("planes", self.planes)
        require_positive("hidden", self.hidden)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` is (C, H, W) with H and W multiples of 2^(levels − 1)."""
        require_picture("BottleneckUNet", shape)
        require_divisible(shape[1], shape[2], levels=len(self.widths) - 1, unhalved=1)

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "BottleneckUNet":
        """Make the network for images of exactly this shape; any number of `steps` will do."""
        self.check(shape)
        return BottleneckUNet(
            shape,
            shape[0] if out_channels is None else out_channels,
            widths=self.widths,
            planes=self.planes,
            hidden=self.hidden,
            time_span=time_span,
            condition=condition,
        )


class Planes(nn.Module):
    """W_2 ReLU(W_1 a + b_1) + b_2 laid out as feature maps: (B, n) → (B, planes, height, width)."""

    def __init__(self, inputs: int, hidden: int, planes: int, *, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.linear_1 = nn.Linear(inputs, hidden)
        self.linear_2 = nn.Linear(hidden, size[0] * size[1] * planes)

    def forward(self, vector: Tensor) -> Tensor:
        """The long vector is pixel by pixel, so that the maps come out channels-last without a copy."""
        maps = self.linear_2(functional.relu(self.linear_1(vector.to(self.linear_1.weight.dtype))))
        return maps.unflatten(1, (*self.size, -1)).permute(0, 3, 1, 2)


def pair(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions with batch norm and ReLU; the shift of the norm is their bias."""
    layers: list[nn.Module] = []
    for i in (in_channels, out_channels):
        layers += [
            nn.Conv2d(i, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class BottleneckUNet(nn.Module):
    """The U-Net of this module: (B, C, H, W) and time (B,) → (B, C_out, H, W), for one H and W."""

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        *,
        widths: tuple[int, ...],
        planes: int,
        hidden: int,
        time_span: float,
        condition: ConditionShape = NO_CONDITION,
    ) -> None:
        super().__init__()
        self.time_span = time_span
        self.takes = condition
        self.space = tuple(shape[1:])
        halved = 2 ** (len(widths) - 1)
        size = (shape[1] // halved, shape[2] // halved)
        self.down = nn.ModuleList(pair(i, o) for i, o in pairwise((shape[0] + condition.image_channels, *widths)))
        self.time_planes = Planes(1, hidden, planes, size=size)
        self.label_planes = Planes(condition.num_classes, hidden, planes, size=size) if condition.num_classes else None
        values = condition.num_values
        self.value_planes = Planes(values + 1, hidden, planes, size=size) if values else None
        parts = 1 + bool(condition.num_classes) + bool(values)
        self.bottom = pair(widths[-1] + parts * planes, widths[-1])
        rising = list(pairwise(reversed(widths)))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(i, o, kernel_size=2, stride=2) for i, o in rising)
        self.up = nn.ModuleList(pair(2 * o, o) for _, o in rising)
        self.conv_out = nn.Conv2d(widths[0], out_channels, kernel_size=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy images `x` at `time` (in the unit whose range is `time_span` long)."""
        require_understood(self, cond, self.takes, len(x))
        if tuple(x.shape[2:]) != self.space:
            raise ConfigError(
                f"BottleneckUNet was given images of {x.shape[2]}x{x.shape[3]} (height x width)",
                expected=f"{self.space[0]}x{self.space[1]}, which it was built for",
                fix="give images of that size, or choose a network that takes any",
            )
        h = joined(x, cond, self.takes.image_channels)
        skips: list[Tensor] = []
        for number, convolutions in enumerate(self.down):
            h = convolutions(functional.max_pool2d(h, kernel_size=2) if number else h)
            skips.append(h)
        h = self.bottom(torch.cat([skips.pop(), *self._told(time, cond, dtype=h.dtype)], dim=1))
        for grow, convolutions in zip(self.grow, self.up, strict=True):
            h = convolutions(torch.cat([grow(h), skips.pop()], dim=1))
        return self.conv_out(h)

    def _told(self, time: Tensor, cond: Condition | None, *, dtype: torch.dtype) -> list[Tensor]:
        """The planes of the time and of what else the network is told."""
        found = [self.time_planes((time / self.time_span)[:, None])]
        if self.label_planes is not None:
            found.append(self.label_planes(one_hot(cond, self.takes.num_classes, like=time)))
        if self.value_planes is not None:
            found.append(self.value_planes(known_values(cond, self.takes.num_values, like=time)))
        return [planes.to(dtype) for planes in found]


def one_hot(cond: Condition | None, num_classes: int, *, like: Tensor) -> Tensor:
    """One-hot rows (B, K) of the labels, zero where there is none or it is dropped; on the device of `like` (B,)."""
    if cond is None or cond.labels is None:
        return like.new_zeros(len(like), num_classes)
    classes = torch.arange(num_classes, device=like.device)
    rows = cond.labels[:, None] == classes
    return (rows if cond.dropped is None else rows & ~cond.dropped[:, None]).to(like.dtype)


def known_values(cond: Condition | None, num_values: int, *, like: Tensor) -> Tensor:
    """Rows (a_1, …, a_V, 1) of the values, all zero where there are none or they are dropped: (B, V + 1)."""
    if cond is None or cond.values is None:
        return like.new_zeros(len(like), num_values + 1)
    rows = functional.pad(cond.values.to(like.dtype), (0, 1), value=1.0)
    return rows if cond.dropped is None else rows.masked_fill(cond.dropped[:, None], 0)
