"""falbel's residual U-Net: batch norm, no attention, the noise level joined to the input once.

    conv_in 1×1 (C → e);  concat e planes holding the sinusoidal embedding of the time
    down    one level per width w_1 … w_L: `depth` blocks R, each kept as a skip; halve by averaging
    mid     R(w_L, 2 w_L), R(2 w_L, w_L)
    up      the levels in reverse: double bilinearly; each block is joined by a skip, the last one made first;
            level k ends at w_{k−1} channels, the last at e
    conv_out 1×1 (e → C), zero at the start, so that the untrained network returns exactly 0

e = `embedding`. With the default widths at 3 × 64 × 64 there are 3,562,211 parameters. Each level halves the image, so
height and width must be multiples of 2^L. What else the network is told arrives where the time does, which is the one
place the layout has: an embedding of e numbers is added to that of the time; a picture enters conv_in beside x_t.
Without conditions there is nothing of this, not even a parameter. Source: falbel, after Béres 2022.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.blocks import DownLevel, ResidualBlock, UpLevel
from sfumato.nn.conditioning import ConditionEmbedding, joined, require_understood
from sfumato.nn.config import NetworkConfig, require_positive, require_widths
from sfumato.nn.embeddings import log_spaced_frequencies, sinusoidal_embedding

__all__ = ["ResidualUNet", "ResidualUNetConfig", "require_divisible", "require_heights", "require_picture"]


@dataclass(frozen=True, slots=True)
class ResidualUNetConfig(NetworkConfig):
    """A U-Net of residual blocks without attention, for images.

    widths: channels of each level, finest first; every level halves height and width.
    depth: residual blocks per level, on the way down and on the way up.
    embedding: planes of the time embedding, half sines and half cosines, and channels at full resolution.
    """

    widths: tuple[int, ...] = (32, 64, 96, 128)
    depth: int = 2
    embedding: int = 32

    def __post_init__(self) -> None:
        require_widths(self.widths, fix="[64, 128]")
        require_positive("depth", self.depth)
        require_positive("embedding", self.embedding)
        if self.embedding < 4 or self.embedding % 2:
            raise ConfigError(
                f"network.embedding is {self.embedding}",
                expected="an even number of 4 or more (as many sines as cosines)",
                fix=f"set network.embedding: {max(4, self.embedding + 1)}",
            )

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` is (C, H, W) with H and W multiples of 2^levels."""
        require_picture("ResidualUNet", shape)
        require_divisible(shape[1], shape[2], levels=len(self.widths))

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "ResidualUNet":
        """Make the network; any number of `steps` will do, since it sees the time only through its embedding."""
        self.check(shape)
        return ResidualUNet(
            shape[0],
            shape[0] if out_channels is None else out_channels,
            widths=self.widths,
            depth=self.depth,
            embedding=self.embedding,
            time_span=time_span,
            condition=condition,
        )


def require_picture(network: str, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless `shape` is that of a picture, (C, H, W), with at least one value."""
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(
            f"network {network} was given data of shape {shape}",
            expected="images, (channels, height, width)",
            fix="choose network: FourierMlp for points and vectors, or UNet1d for sequences",
        )


def require_divisible(height: int, width: int, *, levels: int, unhalved: int = 0, patch: int = 1) -> None:
    """Raise ConfigError unless both are positive multiples of patch · 2^levels, naming the nearest sizes that are.

    `unhalved` counts the entries of network.widths whose level does not halve the picture, `patch` is network.patch.
    """
    factor = patch * 2**levels
    if height > 0 and width > 0 and height % factor == 0 and width % factor == 0:
        return
    larger = [max(factor, math.ceil(n / factor) * factor) for n in (height, width)]
    smaller = [max(factor, n // factor * factor) for n in (height, width)]
    common = math.gcd(height, width)
    patched = common // patch if common % patch == 0 else 0
    fitting = (patched & -patched).bit_length() - 1 + unhalved if patched else 0
    entries = f"at most {fitting} {'entry' if fitting == 1 else 'entries'}"
    halved = f"{levels} levels halve them" + (f" after patches of {patch}x{patch}" if patch > 1 else "")
    raise ConfigError(
        f"images of {height}x{width} (height x width) do not fit the {levels + unhalved} levels of network.widths",
        expected=f"height and width in multiples of {factor} ({halved}); "
        f"nearest: {' or '.join(dict.fromkeys(f'{h}x{w}' for h, w in (smaller, larger)))}",
        fix=f"set data.pad: {larger} (samples are cropped back), change data.size, or give network.widths "
        + (entries if fitting else "fewer entries and an even size"),
    )


def require_heights(attention: Sequence[int], there: Sequence[int], shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless every height with attention is that of a level; those that are, or the nearest, remain.

    `there`: the heights of the levels of network.widths. `shape`: (C, H, W).
    """
    absent = [height for height in attention if height not in there]
    if not absent:
        return
    near = [min(there, key=lambda h: (abs(h - absent[0]), h))]
    remaining = [height for height in attention if height in there] or near
    raise ConfigError(
        f"network.attention names the height {absent[0]}; at {shape[1]}x{shape[2]} no level has it",
        expected=f"some of {list(there)}, the heights of the {len(there)} levels of network.widths, or none: []",
        fix=f"set network.attention: {remaining}",
    )


class ResidualUNet(nn.Module):
    """The U-Net of this module: (B, C, H, W) and time (B,) → (B, C_out, H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: tuple[int, ...],
        depth: int,
        embedding: int,
        time_span: float,
        condition: ConditionShape = NO_CONDITION,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.time_span = time_span
        self.takes = condition
        self.conv_in = nn.Conv2d(in_channels + condition.image_channels, embedding, kernel_size=1)
        before = [2 * embedding, *widths[:-1]]
        self.down = nn.ModuleList(DownLevel(i, w, depth=depth) for i, w in zip(before, widths, strict=True))
        bottom = widths[-1]
        self.mid = nn.Sequential(ResidualBlock(bottom, 2 * bottom), ResidualBlock(2 * bottom, bottom))
        after = [*widths[-2::-1], embedding]
        self.up = nn.ModuleList(UpLevel(w, o, depth=depth) for w, o in zip(reversed(widths), after, strict=True))
        self.conv_out = nn.Conv2d(embedding, out_channels, kernel_size=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)
        self.condition_embedding = ConditionEmbedding(condition, embedding)

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy images `x` at `time` (in the unit whose range is `time_span` long)."""
        require_understood(self, cond, self.takes, len(x))
        require_divisible(x.shape[2], x.shape[3], levels=len(self.down))
        h = self.conv_in(joined(x, cond, self.takes.image_channels))
        h = torch.cat([h, self._planes(time, cond, like=h)], dim=1)
        skips: list[Tensor] = []
        for level in self.down:
            h = level(h, skips)
        h = self.mid(h)
        for level in self.up:
            h = level(h, skips)
        return self.conv_out(h)

    def _planes(self, time: Tensor, cond: Condition | None, *, like: Tensor) -> Tensor:
        """Embedding of time and condition, constant over the image: (B, e, H, W), laid out in memory as `like`."""
        frequencies = log_spaced_frequencies(self.embedding // 2, like=time) / self.time_span
        embedded = sinusoidal_embedding(time, frequencies)
        told = self.condition_embedding(cond, len(time))
        embedded = embedded if told is None else embedded + told
        # An expanded view has no memory format of its own: concatenating it would turn channels-last into contiguous.
        return torch.empty_like(like).copy_(embedded[:, :, None, None])
