"""A U-Net whose activations and weights keep their magnitudes throughout training.

    in       [x, picture to go by, 1] → 3×3;  the plane of ones stands for all biases
    encoder  levels 0 … n−1: from level 1 on E halves the picture; `depth` blocks E; each block's result is a skip
    decoder  at the deepest level two blocks D; at every higher one D doubles the picture; at each level depth + 1
             blocks D on mp-cat(h, skip; ½), the skip made last taken first
    out      3×3, times a learned gain that starts at 0: the untrained network returns exactly 0

    E(x)     x ← N(W_1 x) over the channels of each pixel, W_1 only where their number changes;  A(x ⊕ B(x))
    D(x)     A(W_1 x ⊕ B(x))                                              ⊕: mp-sum with t = 0.3 for the right side
    B(x)     W_3' mp_silu((1 + g W_e e) · W_3 mp_silu(x)), dropout before W_3';  e the embedding, g a gain from 0
    A(x)     x ⊕ W_o softmax(q kᵀ/√d) v with q, k, v = N(W_qkv x) per head (cosine attention), where a level attends

All W are magnitude-preserving (`magnitude`): their rows are normalised before each use and overwritten in training.
Halving averages 2×2 pixels and doubling repeats them. A block from i to o channels, with an embedding of E numbers, has

    9 o² (E) or 9 i o (D)  +  9 o² + o E + 1  +  i o where i ≠ o  +  4 o² where it attends        weights.

The paper's sizes are widths (c, 2c, 3c, 4c), depth 3, attention at the heights 16 and 8, with c = 128 (XS), 192 (S),
256 (M), 320 (L), 384 (XL), 448 (XXL): 125 M, 280 M, 498 M, 777 M, 1119 M and 1523 M weights for 4 × 64 × 64 latents of
1000 classes. The input's scale c_in and the time ¼ ln σ = −log_snr/8 are what a denoiser with `LogSnrInput` gives.
Rows of magnitude 1 want a larger learning rate than others (0.01 and its inverse square root decay in the paper), and
no weight decay.

Source: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", config G: section 2.3
and appendix B, with its figure of the architecture.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.conditioning import joined, require_understood
from sfumato.nn.config import NetworkConfig, require_positive, require_share, require_widths
from sfumato.nn.dot_product import attend
from sfumato.nn.doubling import doubled
from sfumato.nn.dropout import dropout
from sfumato.nn.magnitude import MpConv2d, MpEmbedding, MpLinear, mp_cat, mp_silu, mp_sum, normalised
from sfumato.nn.unet import require_divisible, require_heights, require_picture

__all__ = ["CosineAttention", "DecoderBlock", "Edm2UNet", "Edm2UNetConfig", "EncoderBlock"]

RESIDUAL_SHARE = 0.3  # t of the sums with a residual branch or with attention
SKIP_SHARE = 0.5  # t of the concatenations with a skip


@dataclass(frozen=True, slots=True)
class Edm2UNetConfig(NetworkConfig):
    """A magnitude-preserving U-Net with attention, for images; best on a GPU.

    widths: channels of each level, finest first; every level but the last halves height and width.
    depth: blocks per level on the way down; one more on the way up.
    attention: heights of the feature maps that have attention between pixels.
    head_width: channels of an attention head; levels with fewer channels have one head.
    dropout: share of values dropped in every block while training.
    """

    widths: tuple[int, ...] = (128, 256, 384, 512)
    depth: int = 3
    attention: tuple[int, ...] = (16, 8)
    head_width: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_widths(self.widths, fix="[64, 128]")
        require_positive("attention", *self.attention)
        require_positive("depth", self.depth)
        require_positive("head_width", self.head_width)
        require_share("dropout", self.dropout)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` is (C, H, W), H and W can be halved, and attention finds its heights."""
        require_picture("Edm2UNet", shape)
        require_divisible(shape[1], shape[2], levels=len(self.widths) - 1, unhalved=1)
        there = [shape[1] >> level for level in range(len(self.widths))]
        require_heights(self.attention, there, shape)
        for width in (self.widths[there.index(height)] for height in self.attention):
            if width > self.head_width and width % self.head_width:
                raise ConfigError(
                    f"network.head_width is {self.head_width}; a level with attention has {width} channels",
                    expected="a divisor of the width of every wider level with attention",
                    fix=f"set network.head_width: {math.gcd(width, self.head_width)}, or change network.widths",
                )

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "Edm2UNet":
        """Make the network; any number of `steps` will do, since it sees the time only through its features."""
        self.check(shape)
        return Edm2UNet(
            self,
            shape,
            shape[0] if out_channels is None else out_channels,
            time_span=time_span,
            condition=condition,
        )


class Branch(nn.Module):
    """B of this module: (B, in, H, W) and the embedding (B, E) → (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, *, embedding: int, dropout: float) -> None:
        super().__init__()
        self.conv_1 = MpConv2d(in_channels, out_channels, kernel=3)
        self.of_embedding = MpLinear(embedding, out_channels)
        self.gain = nn.Parameter(torch.zeros(()))
        self.dropout = dropout
        self.conv_2 = MpConv2d(out_channels, out_channels, kernel=3)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Two convolutions, the result of the first scaled channel by channel as the embedding says."""
        scale = 1 + self.gain * self.of_embedding(embedding)
        h = self.conv_1(mp_silu(x))
        h = mp_silu(h * scale[:, :, None, None].to(h.dtype))
        return self.conv_2(dropout(h, self.dropout, training=self.training))


class CosineAttention(nn.Module):
    """x ⊕ attention between the pixels, with q, k and v of magnitude 1: (B, C, H, W) → (B, C, H, W).

    A mean of values is smaller than they are, unless the pixels are alike: the one part here that may lose magnitude.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = MpConv2d(channels, 3 * channels, kernel=1)
        self.out = MpConv2d(channels, channels, kernel=1)

    def forward(self, x: Tensor, *, twice: bool) -> Tensor:
        """Every pixel looks at every other; `twice`: the result can be differentiated twice."""
        planes = self.qkv(x).permute(0, 2, 3, 1)  # of a channels-last picture a view, and so back again below
        tokens = normalised(planes.flatten(1, 2).unflatten(2, (3, self.heads, -1)), (4,))
        q, k, v = tokens.permute(2, 0, 3, 1, 4)
        found = attend(q, k, v, twice=twice).transpose(1, 2).reshape(*planes.shape[:3], x.shape[1])
        return mp_sum(x, self.out(found.permute(0, 3, 1, 2)), RESIDUAL_SHARE)


class EncoderBlock(nn.Module):
    """E of this module, after halving the picture if `halve`; `heads` = 0 for no attention."""

    def __init__(self, branch: Branch, shortcut: nn.Module, *, heads: int, halve: bool) -> None:
        super().__init__()
        self.halves = halve
        self.shortcut = shortcut
        self.branch = branch
        self.attention = CosineAttention(branch.conv_2.weight.shape[0], heads) if heads else None

    def forward(self, x: Tensor, embedding: Tensor, *, twice: bool) -> Tensor:
        """(B, in, H, W) → (B, out, H, W), or half as high and wide."""
        x = normalised(self.shortcut(functional.avg_pool2d(x, 2) if self.halves else x), (1,))
        x = mp_sum(x, self.branch(x, embedding), RESIDUAL_SHARE)
        return x if self.attention is None else self.attention(x, twice=twice)


class DecoderBlock(nn.Module):
    """D of this module, after doubling the picture if `double`; `heads` = 0 for no attention."""

    def __init__(self, branch: Branch, shortcut: nn.Module, *, heads: int, double: bool) -> None:
        super().__init__()
        self.doubles = double
        self.shortcut = shortcut
        self.branch = branch
        self.attention = CosineAttention(branch.conv_2.weight.shape[0], heads) if heads else None

    def forward(self, x: Tensor, embedding: Tensor, *, twice: bool) -> Tensor:
        """(B, in, H, W) → (B, out, H, W), or twice as high and wide."""
        x = doubled(x) if self.doubles else x
        x = mp_sum(self.shortcut(x), self.branch(x, embedding), RESIDUAL_SHARE)
        return x if self.attention is None else self.attention(x, twice=twice)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Makes the blocks of one network for pictures `height` high."""

    config: Edm2UNetConfig
    height: int
    embedding: int

    def encoder(self, i: int, level: int, *, halve: bool = False) -> EncoderBlock:
        """The block that leads from i channels to those of `level`; one that halves does not attend."""
        o = i if halve else self.config.widths[level]
        branch = Branch(o, o, embedding=self.embedding, dropout=self.config.dropout)
        return EncoderBlock(branch, self._shortcut(i, o), heads=0 if halve else self._heads(level), halve=halve)

    def decoder(self, i: int, level: int, *, double: bool = False, attends: bool = True) -> DecoderBlock:
        """The block that leads from i channels to those of `level`; one that doubles does not attend."""
        o = i if double else self.config.widths[level]
        branch = Branch(i, o, embedding=self.embedding, dropout=self.config.dropout)
        heads = self._heads(level) if attends and not double else 0
        return DecoderBlock(branch, self._shortcut(i, o), heads=heads, double=double)

    def _shortcut(self, i: int, o: int) -> nn.Module:
        return nn.Identity() if i == o else MpConv2d(i, o, kernel=1)

    def _heads(self, level: int) -> int:
        width = self.config.widths[level]
        return max(1, width // self.config.head_width) if self.height >> level in self.config.attention else 0


class Edm2UNet(nn.Module):
    """The U-Net of this module: (B, C, H, W), time (B,) and a condition → (B, C_out, H, W)."""

    def __init__(
        self,
        config: Edm2UNetConfig,
        shape: tuple[int, ...],
        out_channels: int,
        *,
        time_span: float,
        condition: ConditionShape,
    ) -> None:
        super().__init__()
        widths, embedding = config.widths, max(config.widths)
        self.halvings, self.takes = len(widths) - 1, condition
        self.embedding = MpEmbedding(embedding, features=widths[0], time_span=time_span, condition=condition)
        self.conv_in = MpConv2d(shape[0] + condition.image_channels + 1, widths[0], kernel=3)
        make = _Blocks(config, shape[1], embedding)
        encoder, skips = [], [widths[0]]
        for level in range(len(widths)):
            if level:
                encoder.append(make.encoder(skips[-1], level, halve=True))
                skips.append(skips[-1])
            for _ in range(config.depth):
                encoder.append(make.encoder(skips[-1], level))
                skips.append(widths[level])
        self.encoder = nn.ModuleList(encoder)
        bottom, width = len(widths) - 1, widths[-1]
        self.mid = nn.ModuleList([make.decoder(width, bottom), make.decoder(width, bottom, attends=False)])
        decoder = []
        for level in reversed(range(len(widths))):
            if level != bottom:
                decoder.append(make.decoder(width, level, double=True))
            for _ in range(config.depth + 1):
                decoder.append(make.decoder(width + skips.pop(), level))
                width = widths[level]
        self.decoder = nn.ModuleList(decoder)
        self.conv_out = MpConv2d(width, out_channels, kernel=3)
        self.gain_out = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy images `x` at `time`; examples without a condition, or dropped, are unconditional."""
        require_divisible(x.shape[2], x.shape[3], levels=self.halvings, unhalved=1)
        require_understood(self, cond, self.takes, len(x))
        twice, embedding = x.requires_grad, self.embedding(time, cond)
        h = self.conv_in(functional.pad(joined(x, cond, self.takes.image_channels), (0, 0, 0, 0, 0, 1), value=1.0))
        skips = [h]
        for block in self.encoder:
            h = block(h, embedding, twice=twice)
            skips.append(h)
        for block in self.mid:
            h = block(h, embedding, twice=twice)
        for block in self.decoder:
            h = block(h if block.doubles else mp_cat(h, skips.pop(), SKIP_SHARE), embedding, twice=twice)
        return self.gain_out * self.conv_out(h)
