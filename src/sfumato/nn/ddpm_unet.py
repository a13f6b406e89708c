"""Ho et al.'s U-Net: residual blocks with group norm, attention between pixels, the time in every block.

    conv_in   3×3 (C → w_1); its output is the first skip
    down      per level k, `blocks` times: a residual block R (→ w_k), then attention between pixels at the heights
              that `attention` names; every output is a skip. All levels but the last halve, which gives another skip
    mid       R, attention, R (w_L)
    up        the levels in reverse, blocks + 1 times: joined by the latest skip not yet used, R (→ w_k), attention as
              on the way down. All levels but the last double
    conv_out  silu(GN), 3×3 (w_1 → C)

With `patch` p > 1 each square of p×p pixels is one position of the finest map, its p² C values the channels that
conv_in sees and conv_out gives (Luhman & Luhman 2022): nothing is lost, and the dearest level costs p² times less.

    embedding = W_2 silu(W_1 s + b_1) + b_2,   s = (cos f_i n, sin f_i n),   f_i = 10000^(−2i/w_1),   i = 0 … w_1/2 − 1

with 4 w_1 units, to which the embeddings of class and values are added. n counts steps: with `StepInput` it is the
index itself; a time input with another range is stretched so that its range is 1000 long, as long as the one that these
frequencies were chosen for. A picture to go by is joined to x_t before conv_in.

Names and shapes of the parameters, and the numbers they give, are those of diffusers' `UNet2DModel`, so weights go both
ways; `film`, `head_width`, `num_groups` and `resample_in_blocks` are its resnet_time_scale_shift, attention_head_dim,
norm_num_groups (with attn_norm_num_groups) and its Resnet block types. Two things differ where training starts:
`zero_init`, and the rows of classes, of standard deviation 0.02 instead of 1. With PyTorch's usual weights the
embedding of the time has one of about 0.1: beside rows of 1 the time would drown.
Where diffusers' defaults and Ho et al.'s own code differ, diffusers' are taken, so checkpoints converted from that code
(`freq_shift` 1) would give other numbers here: they have sines before cosines, f_i = 10000^(−i/(w_1/2 − 1)), 1e-6 added
to variances, and padding on one side only where they halve.
With the defaults, which are Ho et al.'s for CIFAR-10, there are 35,746,307 parameters at 3 × 32 × 32.
Source: Ho et al. 2020, appendix B; options: Song et al. 2021 (DDPM++), Dhariwal & Nichol 2021 (ADM), sections 3 and A.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.attention import EPS, PixelAttention
from sfumato.nn.conditioning import ClassEmbedding, ValueEmbedding, joined, require_understood
from sfumato.nn.config import NetworkConfig, require_positive, require_share, require_widths
from sfumato.nn.group_norm import group_norm, most_groups
from sfumato.nn.resnet import Double, Downsample, Halve, ResnetBlock, Upsample
from sfumato.nn.unet import require_divisible, require_heights, require_picture

__all__ = ["DdpmUNet", "DdpmUNetConfig", "TimeEmbedding", "step_features"]

STEPS = 1000  # the length of the range of times that the frequencies were chosen for


@dataclass(frozen=True, slots=True)
class DdpmUNetConfig(NetworkConfig):
    """Ho et al.'s U-Net, for images.

    widths: channels of each level, finest first; every level but the last halves height and width.
    blocks: residual blocks per level on the way down; one more on the way up.
    attention: heights of the feature maps that have attention between pixels.
    mid_attention: whether the coarsest feature map has attention in the middle, too.
    dropout: share of values dropped in every residual block while training.
    head_width: channels per attention head; null for one head.
    num_groups: groups of the group norms, at most; fewer where the number does not divide every width.
    film: whether the time scales and shifts what is normalised, instead of being added before.
    resample_in_blocks: whether residual blocks halve and double, instead of a convolution alone.
    residual_scale: factor on each sum of a residual branch; 0.7071067811865476 keeps the variance.
    qk_norm: whether attention normalises queries and keys, which steadies long training at large learning rates.
    zero_init: whether the last convolution of each branch and of the network start at zero.
    patch: side of the squares of pixels that make one position of the finest feature map.
    """

    widths: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    mid_attention: bool = True
    dropout: float = 0.1
    head_width: int | None = None
    num_groups: int = 32
    film: bool = False
    resample_in_blocks: bool = False
    residual_scale: float = 1.0
    qk_norm: bool = False
    zero_init: bool = False
    patch: int = 1

    def __post_init__(self) -> None:
        require_widths(self.widths, fix="[64, 128]")
        require_positive("attention", *self.attention)
        require_positive("blocks", self.blocks)
        require_positive("num_groups", self.num_groups)
        require_positive("patch", self.patch)
        if self.widths[0] % 2:
            raise ConfigError(
                f"network.widths starts with {self.widths[0]}",
                expected="an even number (as many cosines as sines of the time)",
                fix=f"set network.widths: {[self.widths[0] + 1, *self.widths[1:]]}",
            )
        require_share("dropout", self.dropout)
        require_share("residual_scale", self.residual_scale, least=0.1, most=1.0)
        if self.head_width is not None:
            require_positive("head_width", self.head_width)

    @property
    def groups(self) -> int:
        """The number of groups of every group norm."""
        return most_groups(self.num_groups, *self.widths)

    def heights(self, shape: tuple[int, ...]) -> list[int]:
        """The heights of the feature maps of all levels, finest first."""
        return [shape[1] // self.patch >> level for level in range(len(self.widths))]

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` is (C, H, W), H and W can be halved, and attention finds its heights."""
        require_picture("DdpmUNet", shape)
        require_divisible(shape[1], shape[2], levels=len(self.widths) - 1, unhalved=1, patch=self.patch)
        there = self.heights(shape)
        require_heights(self.attention, there, shape)
        attending = [w for w, height in zip(self.widths, there, strict=True) if height in self.attention]
        for width in [*attending, self.widths[-1]] if self.mid_attention else attending:
            if self.head_width is not None and width % self.head_width:
                raise ConfigError(
                    f"network.head_width is {self.head_width}; a level with attention has {width} channels",
                    expected="a divisor of the width of every level with attention",
                    fix=f"set network.head_width: {most_groups(self.head_width, *attending, width)}, or null",
                )

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "DdpmUNet":
        """Make the network. A range of times that is as long as there are steps is one of step indices."""
        self.check(shape)
        return DdpmUNet(
            self,
            shape,
            shape[0] if out_channels is None else out_channels,
            steps_per_unit=1.0 if steps is not None and time_span == steps else STEPS / time_span,
            condition=condition,
        )


def step_features(index: Tensor, width: int) -> Tensor:
    """(cos f_i n, sin f_i n), f_i = 10000^(−2i/width): n (B,) → (B, width), in float32 at least.

    The order of operations is Ho et al.'s, since the angles near step 1000 keep no more than four decimals in float32.
    """
    dtype = torch.promote_types(index.dtype, torch.float32)
    half = width // 2
    exponents = torch.arange(half, dtype=dtype, device=index.device) * -math.log(10000) / half
    angles = index[:, None].to(dtype) * exponents.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def patched(x: Tensor, side: int) -> Tensor:
    """Squares of `side` pixels as channels: (B, C, H, W) → (B, side² C, H/side, W/side), channels-last where x is."""
    if side == 1:
        return x
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return functional.pixel_unshuffle(x, side).contiguous(memory_format=layout)


class TimeEmbedding(nn.Module):
    """W_2 silu(W_1 s + b_1) + b_2: (B, w) → (B, 4 w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, features: Tensor) -> Tensor:
        """The embedding, not yet activated."""
        return self.linear_2(functional.silu(self.linear_1(features)))


class _Parts:
    """Makes the blocks of one network, which share all their settings but the channels."""

    def __init__(self, config: DdpmUNetConfig) -> None:
        self.config = config

    def block(self, i: int, o: int, resample: nn.Module | None = None) -> ResnetBlock:
        c = self.config
        return ResnetBlock(
            i,
            o,
            embedding=4 * c.widths[0],
            groups=c.groups,
            dropout=c.dropout,
            film=c.film,
            residual_scale=c.residual_scale,
            zero_init=c.zero_init,
            resample=resample,
        )

    def attention(self, width: int) -> PixelAttention:
        c = self.config
        return PixelAttention(
            width,
            groups=c.groups,
            head_width=c.head_width,
            residual_scale=c.residual_scale,
            qk_norm=c.qk_norm,
            zero_init=c.zero_init,
        )

    def attentions(self, width: int, count: int) -> nn.ModuleList:
        """`count` of them, or none at all."""
        return nn.ModuleList(self.attention(width) for _ in range(count))

    def smaller(self, width: int) -> nn.Module:
        return self.block(width, width, Halve()) if self.config.resample_in_blocks else Downsample(width)

    def larger(self, width: int) -> nn.Module:
        return self.block(width, width, Double()) if self.config.resample_in_blocks else Upsample(width)


class DownLevel(nn.Module):
    """Residual blocks (i → o, o → o …), each followed by attention where there is some; then halving where asked."""

    def __init__(self, make: _Parts, i: int, o: int, *, attends: bool, last: bool) -> None:
        super().__init__()
        count = make.config.blocks
        self.resnets = nn.ModuleList(make.block(i if k == 0 else o, o) for k in range(count))
        self.attentions = make.attentions(o, count if attends else 0)
        self.downsamplers = nn.ModuleList([] if last else [make.smaller(o)])

    def forward(self, x: Tensor, activated: Tensor, skips: list[Tensor], *, twice: bool) -> Tensor:
        """(B, i, H, W) → (B, o, H/2, W/2), or as large as it was in the last level; appends its outputs to `skips`."""
        for k, resnet in enumerate(self.resnets):
            x = resnet(x, activated)
            x = self.attentions[k](x, twice=twice) if len(self.attentions) else x
            skips.append(x)
        for smaller in self.downsamplers:
            x = smaller(x, activated)
            skips.append(x)
        return x


class MidLevel(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, make: _Parts, width: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(make.block(width, width) for _ in range(2))
        self.attentions = make.attentions(width, int(make.config.mid_attention))

    def forward(self, x: Tensor, activated: Tensor, *, twice: bool) -> Tensor:
        """(B, w, H, W) → the same shape."""
        x = self.resnets[0](x, activated)
        for attention in self.attentions:
            x = attention(x, twice=twice)
        return self.resnets[1](x, activated)


class UpLevel(nn.Module):
    """Residual blocks, each joined by a skip, with attention as on the way down; then doubling where asked."""

    def __init__(self, make: _Parts, i: int, o: int, *, skips: list[int], attends: bool, last: bool) -> None:
        super().__init__()
        inputs = [i, *[o] * (len(skips) - 1)]
        self.resnets = nn.ModuleList(make.block(a + b, o) for a, b in zip(inputs, skips, strict=True))
        self.attentions = make.attentions(o, len(skips) if attends else 0)
        self.upsamplers = nn.ModuleList([] if last else [make.larger(o)])

    def forward(self, x: Tensor, activated: Tensor, skips: list[Tensor], *, twice: bool) -> Tensor:
        """(B, i, H, W) → (B, o, 2H, 2W), or as large as it was in the last level; takes skips off the end."""
        for k, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), activated)
            x = self.attentions[k](x, twice=twice) if len(self.attentions) else x
        for larger in self.upsamplers:
            x = larger(x, activated)
        return x


class DdpmUNet(nn.Module):
    """The U-Net of this module: (B, C, H, W) and time (B,) → (B, C_out, H, W)."""

    def __init__(
        self,
        config: DdpmUNetConfig,
        shape: tuple[int, ...],
        out_channels: int,
        *,
        steps_per_unit: float,
        condition: ConditionShape,
    ) -> None:
        super().__init__()
        make, widths, first = _Parts(config), config.widths, config.widths[0]
        self.steps_per_unit, self.takes, self.levels, self.patch = steps_per_unit, condition, len(widths), config.patch
        attends = [height in config.attention for height in config.heights(shape)]
        values = config.patch**2  # of each channel, at one position
        self.conv_in = nn.Conv2d(values * (shape[0] + condition.image_channels), first, kernel_size=3, padding=1)
        self.time_embedding = TimeEmbedding(first)
        self.class_embedding = ClassEmbedding(condition.num_classes, 4 * first) if condition.num_classes else None
        self.value_embedding = ValueEmbedding(condition.num_values, 4 * first) if condition.num_values else None
        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            DownLevel(make, i, o, attends=attends[k], last=k == last)
            for k, (i, o) in enumerate(pairwise([first, *widths]))
        )
        self.mid_block = MidLevel(make, widths[-1])
        # Skips in the order they are made: conv_in, then of every level its blocks and its smaller map.
        made = [first] + [w for k, w in enumerate(widths) for _ in range(config.blocks + (k < last))]
        self.up_blocks = nn.ModuleList()
        for k, (i, o) in zip(reversed(range(len(widths))), pairwise([widths[-1], *widths[::-1]]), strict=True):
            skips = [made.pop() for _ in range(config.blocks + 1)]
            self.up_blocks.append(UpLevel(make, i, o, skips=skips, attends=attends[k], last=k == 0))
        self.conv_norm_out = nn.GroupNorm(config.groups, first, eps=EPS)
        self.conv_out = nn.Conv2d(first, values * out_channels, kernel_size=3, padding=1)
        if config.zero_init:
            for parameter in self.conv_out.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy images `x` at `time`, in the unit of the time input that it was built for."""
        require_understood(self, cond, self.takes, len(x))
        require_divisible(x.shape[2], x.shape[3], levels=self.levels - 1, unhalved=1, patch=self.patch)
        twice = x.requires_grad
        activated = self._activated_embedding(time, cond)
        h = self.conv_in(patched(joined(x, cond, self.takes.image_channels), self.patch))
        skips = [h]
        for down in self.down_blocks:
            h = down(h, activated, skips, twice=twice)
        h = self.mid_block(h, activated, twice=twice)
        for up in self.up_blocks:
            h = up(h, activated, skips, twice=twice)
        out = self.conv_out(group_norm(h, self.conv_norm_out, silu=True))
        return functional.pixel_shuffle(out, self.patch) if self.patch > 1 else out

    def _activated_embedding(self, time: Tensor, cond: Condition | None) -> Tensor:
        """silu of the embeddings of time, class and values, (B, 4 w_1); each block projects it."""
        features = step_features(time * self.steps_per_unit, self.conv_in.out_channels)
        embedding = self.time_embedding(features.to(self.conv_in.weight.dtype))
        for part in (self.class_embedding, self.value_embedding):
            if part is not None:
                embedding = embedding + part(cond, len(time))
        return functional.silu(embedding)
