"""A small U-Net for sequences (C, L): residual blocks of group norm, silu and 1-D convolutions, the time by FiLM.

    e             `TimeEmbedding` of the time and of what else the network is told
    block(h, e)   R h + W_2 silu((1 + γ) GN(W_1 silu(GN(h))) + β),   (γ, β) = W e + b;   R 1×1 where widths differ

    conv_in 3 (C → w_1)
    down    per width w_1 … w_D: `depth` blocks, each kept as a skip; all but the last level halve, by a convolution of
            stride 2
    mid     block, attention over all positions (if any), block
    up      the levels in reverse: `depth` blocks, each joined by a skip, the last one made first; all but the last
            level double, by repetition and a convolution
    out     group norm, silu, convolution 3 (w_1 → C), zero at the start

Any length will do: L that is no multiple of 2^(D−1) is continued with zeros at its end, as convolutions do at both, and
what comes out is cut back to L. Source: Ho et al. 2020 for the layout; Dhariwal & Nichol 2021 for scale and shift.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.additive_unet import ResidualAttention
from sfumato.nn.conditioning import joined, require_understood
from sfumato.nn.config import NetworkConfig, require_positive, require_widths
from sfumato.nn.film_unet import TimeEmbedding, require_even, require_groups

__all__ = ["Block1d", "DownLevel1d", "UNet1d", "UNet1dConfig", "UpLevel1d"]


@dataclass(frozen=True, slots=True)
class UNet1dConfig(NetworkConfig):
    """A U-Net of residual blocks for sequences of any length.

    widths: channels of each level, finest first; every level but the last halves the length.
    depth: residual blocks per level, on the way down and on the way up.
    embedding: numbers that tell the time, half sines and half cosines.
    attention: whether all positions look at each other once, at the bottom.
    heads: heads of that attention.
    groups: groups of every group norm.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    depth: int = 2
    embedding: int = 128
    attention: bool = True
    heads: int = 4
    groups: int = 8

    def __post_init__(self) -> None:
        require_widths(self.widths, fix="[32, 64]")
        for name in ("depth", "embedding", "heads", "groups"):
            require_positive(name, getattr(self, name))
        require_even("embedding", self.embedding)
        require_groups(self.groups, widths=self.widths)
        if self.attention and self.widths[-1] % self.heads:
            raise ConfigError(
                f"network.widths ends with {self.widths[-1]}, which {self.heads} heads do not share evenly",
                expected=f"a multiple of network.heads ({self.heads})",
                fix="change network.heads, or set network.attention: false",
            )

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` is (C, L); any length will do."""
        if len(shape) != 2 or min(shape) < 1:
            raise ConfigError(
                f"network UNet1d was given data of shape {shape}",
                expected="sequences, (channels, length)",
                fix="give arrays of shape (N, channels, length), or choose a network for points or images",
            )

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "UNet1d":
        """Make the network; any number of `steps` will do, since it sees the time only through its embedding."""
        self.check(shape)
        out = shape[0] if out_channels is None else out_channels
        return UNet1d(shape[0], out, config=self, time_span=time_span, condition=condition)


class Block1d(nn.Module):
    """R h + W_2 silu((1 + γ) GN(W_1 silu(GN(h))) + β): (B, in, L) and e (B, E) → (B, out, L)."""

    def __init__(self, in_channels: int, out_channels: int, *, embedding: int, groups: int) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv1d(in_channels, out_channels, kernel_size=1)
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv1d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.film = nn.Linear(embedding, 2 * out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """Shortcut plus branch."""
        branch = self.norm2(self.conv1(functional.silu(self.norm1(h))))
        gain, shift = self.film(e)[:, :, None].to(branch.dtype).chunk(2, dim=1)
        return self.shortcut(h) + self.conv2(functional.silu((1 + gain) * branch + shift))


class DownLevel1d(nn.Module):
    """`depth` blocks, each leaving its output as a skip, then `resample`."""

    def __init__(self, in_channels: int, width: int, *, config: UNet1dConfig, resample: nn.Module) -> None:
        super().__init__()
        inputs = [in_channels, *[width] * (config.depth - 1)]
        self.blocks = nn.ModuleList(Block1d(i, width, embedding=config.embedding, groups=config.groups) for i in inputs)
        self.resample = resample

    def forward(self, h: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, in, L) → (B, width, L or L/2); appends the blocks' outputs to `skips` in order."""
        for block in self.blocks:
            h = block(h, e)
            skips.append(h)
        return self.resample(h)


class UpLevel1d(nn.Module):
    """`depth` blocks, each joined by the most recent skip not yet used, then `resample`."""

    def __init__(self, in_channels: int, width: int, *, config: UNet1dConfig, resample: nn.Module) -> None:
        super().__init__()
        inputs = [in_channels, *[width] * (config.depth - 1)]
        self.blocks = nn.ModuleList(
            Block1d(i + width, width, embedding=config.embedding, groups=config.groups) for i in inputs
        )
        self.resample = resample

    def forward(self, h: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, in, L) → (B, width, L or 2L); takes one skip of `width` channels per block off the end of `skips`."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), e)
        return self.resample(h)


def halving(width: int) -> nn.Module:
    """(B, width, L) → (B, width, L/2)."""
    return nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)


def growing(width: int) -> nn.Module:
    """(B, width, L) → (B, width, 2L)."""
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(width, width, kernel_size=3, padding=1))


class UNet1d(nn.Module):
    """The U-Net of this module: (B, C, L) and time (B,) → (B, C_out, L)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        config: UNet1dConfig,
        time_span: float,
        condition: ConditionShape = NO_CONDITION,
    ) -> None:
        super().__init__()
        self.time_span = time_span
        self.takes = condition
        widths, groups, width_e = config.widths, config.groups, config.embedding
        self.multiple = 2 ** (len(widths) - 1)
        top, bottom = widths[0], widths[-1]
        self.embed = TimeEmbedding(width_e // 2, width_e, width_e, condition=condition)
        self.conv_in = nn.Conv1d(in_channels + condition.image_channels, top, kernel_size=3, padding=1)
        self.down = nn.ModuleList(
            DownLevel1d(i, w, config=config, resample=halving(w) if number < len(widths) else nn.Identity())
            for number, (i, w) in enumerate(pairwise((top, *widths)), start=1)
        )
        self.first = Block1d(bottom, bottom, embedding=width_e, groups=groups)
        self.attention = (
            ResidualAttention(bottom, heads=config.heads, groups=groups, dropout=0.0)
            if config.attention
            else nn.Identity()
        )
        self.second = Block1d(bottom, bottom, embedding=width_e, groups=groups)
        self.up = nn.ModuleList(
            UpLevel1d(i, w, config=config, resample=growing(w) if number < len(widths) else nn.Identity())
            for number, (i, w) in enumerate(pairwise((bottom, *reversed(widths))), start=1)
        )
        self.norm_out = nn.GroupNorm(groups, top)
        self.conv_out = nn.Conv1d(top, out_channels, kernel_size=3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy sequences `x` at `time` (in the unit whose range is `time_span` long)."""
        require_understood(self, cond, self.takes, len(x))
        e = self.embed(time / self.time_span, cond)
        length = x.shape[2]
        h = joined(x, cond, self.takes.image_channels)
        h = self.conv_in(functional.pad(h, (0, -length % self.multiple)))
        skips: list[Tensor] = []
        for level in self.down:
            h = level(h, e, skips)
        h = self.second(self.attention(self.first(h, e)), e)
        for level in self.up:
            h = level(h, e, skips)
        return self.conv_out(functional.silu(self.norm_out(h)))[:, :, :length]
