"""nickd16's U-Net: sinusoids of the time added in every block, attention at two levels, learned resampling.

    block(h, e)   h + W_2 silu(GN(drop(W_1 silu(GN(h + e)))))             W 3×3, widths unchanged
    attention(h)  h + W_o softmax(q kᵀ/√d) v,   (q, k, v) = W_qkv GN(h)   GN without scale and shift, W_o = 0 at first
    level         block, [attention], block, then resampling

    conv_in 3×3 (C → w_1)
    down    levels 1 … L of widths w_1 … w_L, each kept as a skip; 3×3 convolution of stride 2 to the next width, from
            the last to 2 w_L
    up      levels L+1 … 2L of widths u_1 = 2 w_L, u_{j+1} = u_j/2 + w_{L+1−j}; transposed 4×4 convolution of stride 2
            to u_j/2, joined by the skip of that size
    head    3×3 convolution (u → u/2), GN without scale and shift, silu, 1×1 convolution (u/2 → C)

With the widths 64, 128, 256 | 512, 512, 384 and attention at the levels 2 and 6 a 1 × 32 × 32 picture takes 35,178,689
parameters. Each level halves the picture, so height and width must be multiples of 2^L. The sinusoid of a block has the
block's own width, sine and cosine of a frequency side by side: a group norm takes away what all channels of a group
share, so with two channels to a group (64 channels, 32 groups) only their difference is heard, and sin − cos still
tells every frequency, while sines of two neighbouring slow frequencies would cancel. For the same reason a group of one
channel would not hear the time at all and is refused. A class and values are embedded in every block's own width and
join its sinusoid; a picture enters conv_in beside x_t.

What nickd16 has otherwise, and is mended here without changing the count:

    * attention replaced its input: it is added to it, after a norm that has no parameters, and starts at zero
    * attention dropped weights in evaluation as well: only in training
    * blocks saw the first columns of one 512-column sinusoid, the fastest ones: each has all its frequencies
    * the sinusoid went along the shortcut as well (x + e was what the branch was added to), so that the sum of all of
      them reached the output: it enters the branch only
    * sinusoids were a table of whole steps outside the module's state: they are computed, for any time of any span
    * ReLU: silu. The last convolution began anywhere: at zero, behind a norm that has no parameters

What cannot be mended within the count stays: no layers between the sinusoid and the blocks, and no block at full
resolution on the way up. Source: nickd16; Ho et al. 2020 for the mends.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.conditioning import ConditionEmbedding, joined, require_understood
from sfumato.nn.config import NetworkConfig, require_positive, require_share, require_widths
from sfumato.nn.dropout import dropout
from sfumato.nn.embeddings import sinusoidal_embedding, step_frequencies
from sfumato.nn.unet import require_divisible, require_picture

__all__ = ["AdditiveBlock", "AdditiveLevel", "AdditiveUNet", "AdditiveUNetConfig", "ResidualAttention"]


@dataclass(frozen=True, slots=True)
class AdditiveUNetConfig(NetworkConfig):
    """A wide U-Net with a sinusoid of the time added in every block and attention at chosen levels, for images.

    widths: channels of each level on the way down, finest first; every level halves height and width.
    attention: the levels that have attention, counted 1 … L on the way down and L+1 … 2L on the way up.
    heads: heads of every attention.
    groups: groups of every group norm.
    dropout: share of the values that each block, and of the weights that each attention, drops in training.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    attention: tuple[int, ...] = (2, 6)
    heads: int = 8
    groups: int = 32
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require_widths(self.widths, fix="[64, 128]")
        require_positive("attention", *self.attention)
        require_positive("heads", self.heads)
        require_positive("groups", self.groups)
        require_share("dropout", self.dropout)
        levels = self.level_widths
        strangers = [number for number in self.attention if number > len(levels)]
        if strangers or len(set(self.attention)) < len(self.attention):
            raise ConfigError(
                f"network.attention is {list(self.attention)}, but the levels are 1 … {len(levels)}",
                expected=f"different numbers from 1 to {len(levels)}, two levels for each entry of network.widths",
                fix=f"set network.attention: [{min(2, len(levels))}, {len(levels)}]",
            )
        for number, width in enumerate(levels, start=1):
            self._check_width(number, width)

    def _check_width(self, number: int, width: int) -> None:
        """Raise ConfigError unless a level of this width can be halved, grouped and, where asked, shared by heads."""
        by_heads = self.heads if number in self.attention else 1
        factor = math.lcm(2, self.groups, by_heads)
        if width % factor or width < 2 * self.groups:
            raise ConfigError(
                f"level {number} of network AdditiveUNet would have {width} channels, which "
                f"{self.groups} groups{f' and {self.heads} heads' if by_heads > 1 else ''} do not share evenly",
                expected=f"multiples of {factor}, and two channels or more to a group "
                f"(the levels are {list(self.level_widths)} wide)",
                fix="choose network.widths in multiples of twice network.groups, or a smaller network.groups",
            )

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of the levels 1 … 2L: the given ones on the way down, u_1 … u_L on the way up."""
        return (*self.widths, *_widths_up(self.widths)[:-1])

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` is (C, H, W) with H and W multiples of 2^levels."""
        require_picture("AdditiveUNet", shape)
        require_divisible(shape[1], shape[2], levels=len(self.widths))

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "AdditiveUNet":
        """Make the network; any number of `steps` will do, since it sees the time only through its sinusoids."""
        self.check(shape)
        out = shape[0] if out_channels is None else out_channels
        return AdditiveUNet(shape[0], out, config=self, time_span=time_span, condition=condition)


def _widths_up(widths: tuple[int, ...]) -> tuple[int, ...]:
    """u_1 = 2 w_L, u_{j+1} = u_j/2 + w_{L+1−j}: the widths on the way up, and last that of what enters the head."""
    found = [2 * widths[-1]]
    for skip in reversed(widths):
        found.append(found[-1] // 2 + skip)
    return tuple(found)


class AdditiveBlock(nn.Module):
    """h + W_2 silu(GN(drop(W_1 silu(GN(h + e))))): (B, width, H, W) and e (B, width) → (B, width, H, W)."""

    def __init__(self, width: int, *, groups: int, dropout: float, condition: ConditionShape) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.dropout = dropout
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.condition_embedding = ConditionEmbedding(condition, width)

    def forward(self, h: Tensor, sinusoid: Tensor, cond: Condition | None) -> Tensor:
        """The shortcut stays free of the embedding: what is added there in one block would reach all later ones."""
        told = self.condition_embedding(cond, len(h))
        e = sinusoid if told is None else sinusoid + told
        branch = self.conv1(functional.silu(self.norm1(h + e[:, :, None, None].to(h.dtype))))
        return h + self.conv2(functional.silu(self.norm2(dropout(branch, self.dropout, training=self.training))))


class ResidualAttention(nn.Module):
    """x + W_o softmax(q kᵀ/√d) v over all positions, d = channels/heads: (B, C, *space) → (B, C, *space).

    (q, k, v) = W_qkv GN(x) with a group norm that has no parameters. W_o is zero at the start, so that an untrained
    attention is the identity. Weights are dropped in training only. Parameters: 4 C² + 4 C. Vaswani et al. 2017, eq. 1;
    Ho et al. 2020 (code).
    """

    def __init__(self, channels: int, *, heads: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.GroupNorm(groups, channels, affine=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Every position looks at every position."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C): of a channels-last picture a view, not a copy
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        seen = self._in_training(q, k, v) if self.training else functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(seen.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, x.shape[2:])

    def _in_training(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The formula as it stands: the fused kernel's gradient has no gradient, which some objectives take."""
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(dim=3)
        return dropout(weights, self.dropout, training=True).to(v.dtype) @ v


class AdditiveLevel(nn.Module):
    """Block, attention where `heads` says how many, block: (B, width, H, W) → the same."""

    def __init__(
        self,
        width: int,
        *,
        heads: int | None,
        groups: int,
        dropout: float,
        condition: ConditionShape,
    ) -> None:
        super().__init__()
        self.width = width
        self.before = AdditiveBlock(width, groups=groups, dropout=dropout, condition=condition)
        self.attention = (
            nn.Identity() if heads is None else ResidualAttention(width, heads=heads, groups=groups, dropout=dropout)
        )
        self.after = AdditiveBlock(width, groups=groups, dropout=dropout, condition=condition)

    def forward(self, h: Tensor, moment: Tensor, cond: Condition | None) -> Tensor:
        """`moment` (B,) is the time as a share of its span."""
        sinusoid = interleaved_sinusoid(moment, self.width)
        h = self.attention(self.before(h, sinusoid, cond))
        return self.after(h, sinusoid, cond)


def interleaved_sinusoid(moment: Tensor, width: int) -> Tensor:
    """(sin ω_0 τ, cos ω_0 τ, sin ω_1 τ, …) with the width/2 `step_frequencies`: (B,) → (B, width)."""
    sines_then_cosines = sinusoidal_embedding(moment, step_frequencies(width // 2, like=moment))
    return sines_then_cosines.unflatten(1, (2, -1)).transpose(1, 2).flatten(1)


class AdditiveUNet(nn.Module):
    """The U-Net of this module: (B, C, H, W) and time (B,) → (B, C_out, H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        config: AdditiveUNetConfig,
        time_span: float,
        condition: ConditionShape = NO_CONDITION,
    ) -> None:
        super().__init__()
        self.time_span = time_span
        self.takes = condition

        def level(number: int) -> AdditiveLevel:
            return AdditiveLevel(
                config.level_widths[number - 1],
                heads=config.heads if number in config.attention else None,
                groups=config.groups,
                dropout=config.dropout,
                condition=condition,
            )

        down, up = config.widths, _widths_up(config.widths)
        self.conv_in = nn.Conv2d(in_channels + condition.image_channels, down[0], kernel_size=3, padding=1)
        numbers = range(1, 1 + len(down))
        self.down = nn.ModuleList(level(number) for number in numbers)
        self.halve = nn.ModuleList(
            nn.Conv2d(i, o, kernel_size=3, stride=2, padding=1) for i, o in pairwise((*down, up[0]))
        )
        self.up = nn.ModuleList(level(number + len(down)) for number in numbers)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, kernel_size=4, stride=2, padding=1) for w in up[:-1])
        narrow = up[-1] // 2
        self.head = nn.Conv2d(up[-1], narrow, kernel_size=3, padding=1)
        self.norm_out = nn.GroupNorm(math.gcd(config.groups, narrow), narrow, affine=False)
        self.conv_out = nn.Conv2d(narrow, out_channels, kernel_size=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy images `x` at `time` (in the unit whose range is `time_span` long)."""
        require_understood(self, cond, self.takes, len(x))
        require_divisible(x.shape[2], x.shape[3], levels=len(self.down))
        moment = time / self.time_span
        h = self.conv_in(joined(x, cond, self.takes.image_channels))
        skips: list[Tensor] = []
        for level, halve in zip(self.down, self.halve, strict=True):
            h = level(h, moment, cond)
            skips.append(h)
            h = halve(h)
        for level, grow in zip(self.up, self.grow, strict=True):
            h = torch.cat([grow(level(h, moment, cond)), skips.pop()], dim=1)
        return self.conv_out(functional.silu(self.norm_out(self.head(h))))
