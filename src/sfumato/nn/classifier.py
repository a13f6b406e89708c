"""Classifiers of noisy data: which class x_t belongs to, given the time, as K logits.

    pictures   conv_in (halving, above 16 pixels: the finest level would take most of the time), then levels of residual
               blocks that the time scales and shifts (`resnet`, film), each halved by averaging;
               logits = W' mean over places of silu(GN h) + b'
    the rest   a residual perceptron with Fourier features of the time, on the flattened values

Their gradient by x_t is what guides samples, so everything is smooth: silu, averages, no maxima. The last layer starts
at zero: an untrained classifier holds all classes for equally likely and guides nowhere. After the encoder half of the
U-Net, as Dhariwal & Nichol 2021 (section 4.1), smaller, with the mean over places for their attention pooling.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from sfumato.errors import ConfigError
from sfumato.nn.config import require_positive
from sfumato.nn.embeddings import log_spaced_frequencies, sinusoidal_embedding
from sfumato.nn.fourier_mlp import FourierMlp
from sfumato.nn.resnet import ResnetBlock

__all__ = ["FlatClassifier", "NoisyClassifierConfig", "PictureClassifier"]

GROUPS = 8  # of group norms; widths are multiples of it
TURNS = 16  # frequencies of the time embedding
SMALLEST = 4  # pixels of a side that are not halved any more
UNHALVED = 16  # largest side of which the first convolution keeps every pixel
FLAT_DEPTH, FLAT_FREQUENCIES = 3, 8


@dataclass(frozen=True, slots=True)
class NoisyClassifierConfig:
    """The size of a classifier of noisy data; its shape follows from the data.

    width: channels at the first level of pictures (twice and then four times as many below); units of the layers of a
        perceptron, four times as many.
    depth: residual blocks of each level.
    """

    width: int = 32
    depth: int = 1

    def __post_init__(self) -> None:
        require_positive("width", self.width)
        require_positive("depth", self.depth)
        if self.width % GROUPS:
            raise ConfigError(
                f"the classifier's width is {self.width}",
                expected=f"a multiple of {GROUPS}",
                fix=f"--width {max(GROUPS, round(self.width / GROUPS) * GROUPS)}",
            )

    def build(self, shape: tuple[int, ...], *, num_classes: int, time_span: float) -> nn.Module:
        """A network (x (B, *shape), time (B,)) -> logits (B, K), with fresh weights from torch's global generator."""
        if len(shape) == 3:
            return PictureClassifier(shape, num_classes, width=self.width, depth=self.depth, time_span=time_span)
        return FlatClassifier(shape, num_classes, width=4 * self.width, time_span=time_span)


class PictureClassifier(nn.Module):
    """The encoder of this module: (B, C, H, W) and time (B,) -> logits (B, K)."""

    def __init__(self, shape: tuple[int, ...], num_classes: int, *, width: int, depth: int, time_span: float) -> None:
        super().__init__()
        self.time_span = time_span
        halving = min(shape[1:]) > UNHALVED
        side = min(shape[1:]) // (2 if halving else 1)
        levels = max(1, math.ceil(math.log2(max(1, side) / SMALLEST)) + 1)
        widths = [width * min(4, 2**level) for level in range(levels)]
        embedding = 4 * width
        self.embed = nn.Sequential(
            nn.Linear(2 * TURNS, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.conv_in = nn.Conv2d(shape[0], width, 4 if halving else 3, stride=2 if halving else 1, padding=1)
        self.levels = nn.ModuleList(
            nn.ModuleList(
                ResnetBlock(wide if block else before, wide, embedding=embedding, groups=GROUPS, film=True)
                for block in range(depth)
            )
            for before, wide in zip([width, *widths[:-1]], widths, strict=True)
        )
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Logits for noisy pictures `x` at `time`, in the unit whose range is `time_span` long."""
        frequencies = log_spaced_frequencies(TURNS, lowest=0.25, highest=64.0, like=time) / self.time_span
        e = self.embed(sinusoidal_embedding(time, frequencies))
        h = self.conv_in(x)
        for level, blocks in enumerate(self.levels):
            if level:
                h = functional.avg_pool2d(h, 2, ceil_mode=True)
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, e)
        return self.head(functional.silu(self.norm_out(h)).mean((2, 3)))


class FlatClassifier(nn.Module):
    """The perceptron of this module: (B, *shape) and time (B,) -> logits (B, K)."""

    def __init__(self, shape: tuple[int, ...], num_classes: int, *, width: int, time_span: float) -> None:
        super().__init__()
        self.body = FourierMlp(
            (math.prod(shape),),
            num_classes,
            width=width,
            depth=FLAT_DEPTH,
            frequencies=FLAT_FREQUENCIES,
            time_span=time_span,
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Logits for noisy values `x` at `time`."""
        logits: Tensor = self.body(x.flatten(1), time)
        return logits
