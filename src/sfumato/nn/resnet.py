"""The residual block of the U-Nets after Ho et al. 2020, and the resampling between their levels.

    h = W_1 ⊛ S(silu(GN_1(x)));   e = W_e silu(embedding) + b_e;
    h = W_2 ⊛ dropout(silu(GN_2(h + e)))                                 as Ho et al., or
    h = W_2 ⊛ dropout(silu(GN_2(h)·(1 + scale) + shift)),  (scale, shift) = e     with `film`;
    output = r (W_s S(x) + h)

W_1, W_2 are 3×3 convolutions (in → out, out → out), W_s a 1×1 one that is there only where in ≠ out. S resamples: it is
the identity, the mean of 2×2 pixels (`Halve`), or each pixel four times (`Double`); blocks that resample are those of
BigGAN, which Song et al. 2021 and Dhariwal & Nichol 2021 took over. r is 1, or 1/√2 (Song et al. 2021). Between levels
Ho et al. have `Downsample`, a 3×3 convolution of stride 2, and `Upsample`, doubling and a 3×3 convolution.

Parameters, of inputs i, outputs o and embeddings E: GN_1 2i; W_1 9io + o; W_e (E + 1) o, twice that with `film`;
GN_2 2o; W_2 9o² + o; W_s io + o. Their names are those of diffusers' `ResnetBlock2D`.
Source: Ho et al. 2020, appendix B; film: Dhariwal & Nichol 2021, section 3 ("adaptive group normalization").
"""

from torch import Tensor, nn
from torch.nn import functional

from sfumato.nn.attention import EPS
from sfumato.nn.doubling import doubled
from sfumato.nn.dropout import dropout
from sfumato.nn.group_norm import group_norm

__all__ = ["Double", "Downsample", "Halve", "ResnetBlock", "Upsample"]


class Halve(nn.Module):
    """The mean of each 2×2 pixels: (B, C, H, W) → (B, C, H/2, W/2)."""

    def forward(self, x: Tensor) -> Tensor:
        """The smaller feature map."""
        return functional.avg_pool2d(x, kernel_size=2)


class Double(nn.Module):
    """Each pixel four times: (B, C, H, W) → (B, C, 2H, 2W)."""

    def forward(self, x: Tensor) -> Tensor:
        """The larger feature map."""
        return doubled(x)


class ResnetBlock(nn.Module):
    """The block of this module: (B, in, H, W) and the activated embedding (B, E) → (B, out, H', W')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embedding: int,
        groups: int,
        dropout: float = 0.0,
        film: bool = False,
        residual_scale: float = 1.0,
        zero_init: bool = False,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.film, self.dropout, self.residual_scale = film, dropout, residual_scale
        self.resample = nn.Identity() if resample is None else resample
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, 2 * out_channels if film else out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        same = in_channels == out_channels
        self.conv_shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        if zero_init:
            for parameter in self.conv2.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """`activated` is silu(embedding), which a network computes once for all its blocks."""
        h = self.conv1(self.resample(group_norm(x, self.norm1, silu=True)))
        e = self.time_emb_proj(activated)
        if self.film:
            scale, offset = e.chunk(2, dim=1)
            h = group_norm(h, self.norm2, scale=scale, offset=offset, silu=True)
        else:
            h = group_norm(h, self.norm2, shift=e, silu=True)
        h = self.conv2(dropout(h, self.dropout, training=self.training))
        total = self.conv_shortcut(self.resample(x)) + h
        return total if self.residual_scale == 1.0 else total * self.residual_scale


class Downsample(nn.Module):
    """3×3 convolution of stride 2: (B, C, H, W) → (B, C, H/2, W/2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """The smaller feature map; the embedding has no part in it."""
        return self.conv(x)


class Upsample(nn.Module):
    """Each pixel four times, then a 3×3 convolution: (B, C, H, W) → (B, C, 2H, 2W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.doubling = Double()

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """The larger feature map; the embedding has no part in it."""
        return self.conv(self.doubling(x))
