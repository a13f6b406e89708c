"""yukino1010's U-Net: the time scales and shifts every block (FiLM), linear attention at every level.

    e             silu(W_b silu(W_a s + b_a) + b_b + c),   s sinusoids of the time, c the embedding of the condition
    block(h, e)   R h + GN(W_2 silu((1 + γ) GN(W_1 h) + β)),   (γ, β) = W e + b;   R 1×1 where widths differ, else 1

    conv_in 1×1 (C → stem)
    down    one level per width w_1 … w_L: `depth` blocks, each kept as a skip; attention; halve by averaging
    mid     `depth` blocks of width 2 w_L
    up      the levels in reverse: double by repetition; `depth` blocks, each joined by a skip, the last one made first;
            attention
    out     block to `stem`, 1×1 convolution (stem → C), zero at the start

With the widths 64, 128, 128 a 3 × 64 × 64 picture takes 6,179,331 parameters. Each level halves the picture, so height
and width must be multiples of 2^L. yukino1010's article has no attention, and batch norms for the group norms
(`attention: false`, `norm: batch`): 5,849,731 parameters. A class and values are embedded and added to the time; a
picture enters conv_in.

yukino1010 has a silu behind the second norm as well. It bounds what a block may add from below, by −0.28, so that
blocks can push their features up without limit but hardly down; here the norm has the last word, and nothing is
bounded. Attention mixed pixels with channels: see `linear_attention`. Neither mend changes the count.
Source: yukino1010; Perez et al. 2018 (FiLM).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.conditioning import ConditionEmbedding, joined, require_understood
from sfumato.nn.config import NetworkConfig, require_positive, require_widths
from sfumato.nn.doubling import doubled
from sfumato.nn.embeddings import sinusoidal_embedding, step_frequencies
from sfumato.nn.linear_attention import LinearAttention
from sfumato.nn.unet import require_divisible, require_picture

__all__ = ["FilmBlock", "FilmDownLevel", "FilmUNet", "FilmUpLevel", "FilmUNetConfig", "TimeEmbedding"]


NORMS = ("group", "batch")


@dataclass(frozen=True, slots=True)
class FilmUNetConfig(NetworkConfig):
    """A U-Net whose blocks are scaled and shifted by the time, with linear attention at every level, for images.

    widths: channels of each level, finest first; every level halves height and width.
    depth: blocks per level, on the way down and on the way up.
    stem: channels at full resolution, before the first level and after the last.
    embedding: numbers that tell the time, half sines and half cosines.
    heads: heads of every attention.
    head_width: channels of a head.
    groups: groups of every group norm.
    norm: group or batch; a batch norm mixes the noise levels of a batch and is another network at sampling.
    attention: whether there is any.
    """

    widths: tuple[int, ...] = (64, 128, 128)
    depth: int = 2
    stem: int = 32
    embedding: int = 32
    heads: int = 4
    head_width: int = 32
    groups: int = 8
    norm: str = "group"
    attention: bool = True

    def __post_init__(self) -> None:
        require_widths(self.widths, fix="[64, 128]")
        for name in ("depth", "stem", "embedding", "heads", "head_width", "groups"):
            require_positive(name, getattr(self, name))
        if self.norm not in NORMS:
            raise ConfigError(
                f"network.norm is {self.norm!r}", expected=" or ".join(NORMS), fix=f"set network.norm: {NORMS[0]}"
            )
        require_even("embedding", self.embedding)
        if self.shared_by is not None:
            require_groups(self.groups, widths=self.widths, stem=(self.stem,))

    @property
    def shared_by(self) -> int | None:
        """The groups of every norm; None for batch norms."""
        return self.groups if self.norm == "group" else None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` is (C, H, W) with H and W multiples of 2^levels."""
        require_picture("FilmUNet", shape)
        require_divisible(shape[1], shape[2], levels=len(self.widths))

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "FilmUNet":
        """Make the network; any number of `steps` will do, since it sees the time only through its embedding."""
        self.check(shape)
        out = shape[0] if out_channels is None else out_channels
        return FilmUNet(shape[0], out, config=self, time_span=time_span, condition=condition)


def require_even(name: str, value: int) -> None:
    """Raise ConfigError unless the field `name` is even: as many sines as cosines."""
    if value % 2:
        raise ConfigError(
            f"network.{name} is {value}",
            expected="an even number (as many sines as cosines)",
            fix=f"set network.{name}: {value + 1}",
        )


def require_groups(groups: int, **fields: tuple[int, ...]) -> None:
    """Raise ConfigError unless every width of the named fields can be shared evenly by the groups."""
    for name, widths in fields.items():
        for width in widths:
            if width % groups:
                raise ConfigError(
                    f"network.{name} contains {width}, which {groups} groups do not share evenly",
                    expected=f"multiples of network.groups ({groups})",
                    fix=f"use {-(-width // groups) * groups} in network.{name}, or change network.groups",
                )


class TimeEmbedding(nn.Module):
    """silu(W_b silu(W_a s(τ) + b_a) + b_b + c): times (B,) as a share of their span → (B, out_width).

    s are `frequencies` sines and as many cosines (`step_frequencies`); c the embedding of the condition, if any.
    """

    def __init__(self, frequencies: int, hidden: int, out_width: int, *, condition: ConditionShape) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.linear_1 = nn.Linear(2 * frequencies, hidden)
        self.linear_2 = nn.Linear(hidden, out_width)
        self.condition_embedding = ConditionEmbedding(condition, out_width)

    def forward(self, moment: Tensor, cond: Condition | None) -> Tensor:
        """One row per example."""
        sinusoid = sinusoidal_embedding(moment, step_frequencies(self.frequencies, like=moment))
        embedded = self.linear_2(functional.silu(self.linear_1(sinusoid.to(self.linear_1.weight.dtype))))
        told = self.condition_embedding(cond, len(moment))
        return functional.silu(embedded if told is None else embedded + told)


class FilmBlock(nn.Module):
    """R h + GN(W_2 silu((1 + γ) GN(W_1 h) + β)): (B, in, H, W), e (B, E) → (B, out, H, W); batch norms without groups.

    Parameters: 9·i·o + 9·o² + 6·o + 2·o·(E + 1), and i·o + o more where i and o differ.
    """

    def __init__(self, in_channels: int, out_channels: int, *, embedding: int, groups: int | None) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm1 = norm_of(groups, out_channels)
        self.film = nn.Linear(embedding, 2 * out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = norm_of(groups, out_channels)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """Shortcut plus branch."""
        branch = self.norm1(self.conv1(h))
        gain, shift = self.film(e)[:, :, None, None].to(branch.dtype).chunk(2, dim=1)
        branch = functional.silu((1 + gain) * branch + shift)
        return self.shortcut(h) + self.norm2(self.conv2(branch))


def norm_of(groups: int | None, channels: int) -> nn.Module:
    """A group norm, or without groups a batch norm."""
    return nn.BatchNorm2d(channels) if groups is None else nn.GroupNorm(groups, channels)


def attention_of(width: int, config: FilmUNetConfig) -> nn.Module:
    """Linear attention at a level, or nothing."""
    if not config.attention:
        return nn.Identity()
    return LinearAttention(width, heads=config.heads, head_width=config.head_width)


class FilmDownLevel(nn.Module):
    """`depth` blocks, each leaving its output as a skip; linear attention; 2×2 average pooling."""

    def __init__(self, in_channels: int, width: int, *, config: FilmUNetConfig) -> None:
        super().__init__()
        inputs = [in_channels, *[width] * (config.depth - 1)]
        self.blocks = nn.ModuleList(
            FilmBlock(i, width, embedding=config.embedding, groups=config.shared_by) for i in inputs
        )
        self.attention = attention_of(width, config)

    def forward(self, h: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, in, H, W) → (B, width, H/2, W/2); appends the blocks' outputs to `skips` in order."""
        for block in self.blocks:
            h = block(h, e)
            skips.append(h)
        return functional.avg_pool2d(self.attention(h), kernel_size=2)


class FilmUpLevel(nn.Module):
    """Doubling by repetition; `depth` blocks, each joined by the most recent skip not yet used; linear attention."""

    def __init__(self, in_channels: int, width: int, *, config: FilmUNetConfig) -> None:
        super().__init__()
        inputs = [in_channels, *[width] * (config.depth - 1)]
        self.blocks = nn.ModuleList(
            FilmBlock(i + width, width, embedding=config.embedding, groups=config.shared_by) for i in inputs
        )
        self.attention = attention_of(width, config)

    def forward(self, h: Tensor, e: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, in, H, W) → (B, width, 2H, 2W); takes one skip of `width` channels per block off the end of `skips`."""
        h = doubled(h)
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), e)
        return self.attention(h)


class FilmUNet(nn.Module):
    """The U-Net of this module: (B, C, H, W) and time (B,) → (B, C_out, H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        config: FilmUNetConfig,
        time_span: float,
        condition: ConditionShape = NO_CONDITION,
    ) -> None:
        super().__init__()
        self.time_span = time_span
        self.takes = condition
        width_e, widths, stem = config.embedding, config.widths, config.stem

        def block(i: int, o: int) -> FilmBlock:
            return FilmBlock(i, o, embedding=width_e, groups=config.shared_by)

        self.embed = TimeEmbedding(width_e // 2, width_e, width_e, condition=condition)
        self.conv_in = nn.Conv2d(in_channels + condition.image_channels, stem, kernel_size=1)
        self.down = nn.ModuleList(FilmDownLevel(i, w, config=config) for i, w in pairwise((stem, *widths)))
        bottom = 2 * widths[-1]
        self.mid = nn.ModuleList(block(i, bottom) for i in [widths[-1], *[bottom] * (config.depth - 1)])
        rising = (bottom, *reversed(widths))
        self.up = nn.ModuleList(FilmUpLevel(i, w, config=config) for i, w in pairwise(rising))
        self.last = block(widths[0], stem)
        self.conv_out = nn.Conv2d(stem, out_channels, kernel_size=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy images `x` at `time` (in the unit whose range is `time_span` long)."""
        require_understood(self, cond, self.takes, len(x))
        require_divisible(x.shape[2], x.shape[3], levels=len(self.down))
        e = self.embed(time / self.time_span, cond)
        h = self.conv_in(joined(x, cond, self.takes.image_channels))
        skips: list[Tensor] = []
        for level in self.down:
            h = level(h, e, skips)
        for block in self.mid:
            h = block(h, e)
        for level in self.up:
            h = level(h, e, skips)
        return self.conv_out(self.last(h, e))
