"""Between stored data and model space: x = (raw - mean) / scale, per channel, and back.

Model space is channels first, float32. For images `range` is mean = scale = 127.5: 0..255 to [-1, 1] with both ends
exact. `standardize` takes mean and standard deviation of the training part, for uint8 from an exact histogram.
Padding repeats the border: where the border is background that continues the background, and nowhere does it make an
edge that a model would have to learn. It is cropped away on the way back.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sfumato.data.packed import Packed, Split
from sfumato.data.settings import NORMALIZATIONS, DataConfig
from sfumato.errors import ConfigError, DataError

__all__ = ["Normalization", "data_std", "level_shares", "measure"]

CHUNK_VALUES = 1 << 22  # values per piece of a pass over the data


@dataclass(frozen=True, slots=True)
class Normalization:
    """The affine map, its inverse, and the padding: plain numbers, stored with a run as JSON.

    kind: `range`, `standardize` or `none`. mean, scale: one number for each channel (coordinate of a point), in units
    of the stored data. size: (H, W) of a stored picture, None when the data are not images. pad: padded (H, W) or None.
    """

    kind: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    size: tuple[int, int] | None = None
    pad: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        good = len(self.mean) == len(self.scale) > 0 and all(math.isfinite(m) for m in self.mean)
        if self.kind not in NORMALIZATIONS or not good or not all(math.isfinite(s) and s > 0 for s in self.scale):
            raise ConfigError(
                f"normalization {self.kind!r} with mean {self.mean} and scale {self.scale}",
                expected=f"one of {', '.join(NORMALIZATIONS)}; finite means and positive scales, as many of each",
                fix="use the values that the run stored",
            )

    @property
    def is_image(self) -> bool:
        """Whether the stored data are 8-bit pictures."""
        return self.size is not None

    @property
    def low(self) -> Tensor | None:
        """Model value of black, (C, 1, 1); None when the data have no bounds."""
        return self._level(0.0)

    @property
    def high(self) -> Tensor | None:
        """Model value of white, (C, 1, 1); None when the data have no bounds."""
        return self._level(255.0)

    def to_model(self, raw: Tensor) -> Tensor:
        """uint8 (B, H, W, C), or float (B, *shape), to float32 channels first, padded.

        Images come out in the channels-last memory format, without a copy for it.
        """
        if self.is_image:
            padded = self.padded(raw)
            return self._affine(padded.to(torch.float32, copy=True), channel_axis=-1).permute(0, 3, 1, 2)
        return self._affine(raw.to(torch.float32, copy=True), channel_axis=1)

    def to_data(self, x: Tensor) -> Tensor:
        """Model values, channels first, to uint8 (B, H, W, C): cropped, rounded and clipped; or to float32 (B, *shape).

        Inverse of `to_model`, exactly so on every uint8 value.
        """
        values = x.detach().to(torch.float32)
        raw = values * _column(self.scale, x.device, values.ndim, 1) + _column(self.mean, x.device, values.ndim, 1)
        if self.size is None:
            return raw
        top, left = self._offsets()
        cropped = raw[:, :, top : top + self.size[0], left : left + self.size[1]]
        return cropped.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` gives an equal object back."""
        return {
            "kind": self.kind,
            "mean": list(self.mean),
            "scale": list(self.scale),
            "size": None if self.size is None else list(self.size),
            "pad": None if self.pad is None else list(self.pad),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Normalization":
        """The normalization that `to_dict` wrote."""
        size, pad = plain["size"], plain["pad"]
        return cls(
            kind=plain["kind"],
            mean=tuple(float(v) for v in plain["mean"]),
            scale=tuple(float(v) for v in plain["scale"]),
            size=None if size is None else (int(size[0]), int(size[1])),
            pad=None if pad is None else (int(pad[0]), int(pad[1])),
        )

    def _level(self, raw: float) -> Tensor | None:
        if not self.is_image:
            return None
        levels = [(raw - m) / s for m, s in zip(self.mean, self.scale, strict=True)]
        return torch.tensor(levels, dtype=torch.float32)[:, None, None]

    def _affine(self, values: Tensor, *, channel_axis: int) -> Tensor:
        """(values - mean) / scale in place. Dividing (not multiplying by 1/127.5) makes 255 exactly 1."""
        axis = channel_axis % values.ndim
        mean = _column(self.mean, values.device, values.ndim, axis)
        return values.sub_(mean).div_(_column(self.scale, values.device, values.ndim, axis))

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column at which the stored picture begins within its padding."""
        return self._offsets()

    def _offsets(self) -> tuple[int, int]:
        if self.size is None or self.pad is None:
            return 0, 0
        return (self.pad[0] - self.size[0]) // 2, (self.pad[1] - self.size[1]) // 2

    def padded(self, raw: Tensor) -> Tensor:
        """uint8 (B, H, W, C) with the border repeated up to `pad`; the picture lies in the middle."""
        if self.size is None or self.pad is None or self.pad == self.size:
            return raw
        top, left = self._offsets()
        rows = torch.arange(self.pad[0], device=raw.device).sub(top).clamp(0, self.size[0] - 1)
        columns = torch.arange(self.pad[1], device=raw.device).sub(left).clamp(0, self.size[1] - 1)
        return raw.index_select(1, rows).index_select(2, columns)


@lru_cache(maxsize=64)
def _column(numbers: tuple[float, ...], device: torch.device, ndim: int, axis: int) -> Tensor:
    """`numbers` along `axis` of `ndim` dimensions; kept, so that a GPU step copies nothing from the host."""
    with torch.inference_mode(False):  # a tensor first made while sampling must still serve training
        flat = torch.tensor(numbers if len(set(numbers)) > 1 else numbers[:1], dtype=torch.float32, device=device)
        return flat if len(flat) == 1 else flat.view([-1 if i == axis else 1 for i in range(ndim)])


def measure(packed: Packed, parts: Split, config: DataConfig) -> Normalization:
    """The normalization that `config.normalize` asks for, its statistics taken from the training part alone.

    Points under `range`: the least and the largest training value become -1 and 1, the same map for all coordinates. A
    channel or coordinate that never varies keeps its scale.
    """
    size = (int(packed.values.shape[1]), int(packed.values.shape[2])) if packed.is_image else None
    channels = int(packed.values.shape[3]) if packed.is_image else int(packed.values.shape[1])
    if config.normalize == "none":
        mean, scale = [0.0] * channels, [1.0] * channels
    elif config.normalize == "standardize":
        mean, scale = _statistics(packed, parts.train, channels)
    elif packed.is_image:
        mean, scale = [127.5] * channels, [127.5] * channels
    else:
        train = packed.values[parts.train].double()
        low, high = float(train.min()), float(train.max())
        mean, scale = [(low + high) / 2] * channels, [(high - low) / 2 or 1.0] * channels
    return Normalization(config.normalize, tuple(mean), tuple(scale), size, packed.pad)


def _statistics(packed: Packed, indices: Tensor, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the chosen examples, in float64."""
    if packed.is_image:
        levels = torch.arange(256, dtype=torch.float64)
        share = level_shares(packed, indices, None)
        mean = share @ levels
        variance = (share * (levels - mean[:, None]) ** 2).sum(dim=1)
    else:
        columns = packed.values[indices].double().transpose(0, 1).reshape(channels, -1)
        mean, variance = columns.mean(dim=1), columns.var(dim=1, correction=0)
    spread = variance.sqrt()
    constant = spread <= 1e-7 * mean.abs().clamp(min=1e-30)
    return mean.tolist(), torch.where(constant, torch.ones_like(spread), spread).tolist()


def level_shares(packed: Packed, indices: Tensor, padding: Normalization | None) -> Tensor:
    """Share of each of the 256 levels in each channel, float64 (C, 256), over the chosen pictures, padded or not."""
    channels = int(packed.values.shape[3])
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for piece in _pieces(packed, indices):
        raw = packed.values[piece] if padding is None else padding.padded(packed.values[piece])
        for channel, plane in enumerate(raw.reshape(-1, channels).unbind(1)):
            counts[channel] += torch.bincount(plane, minlength=256)
    return counts.double() / counts.sum(dim=1, keepdim=True)


def _pieces(packed: Packed, indices: Tensor) -> Iterator[Tensor]:
    length = max(1, CHUNK_VALUES // max(1, packed.values[0].numel()))
    for start in range(0, len(indices), length):
        yield indices[start : start + length]


def data_std(packed: Packed, normalization: Normalization, indices: Tensor) -> float:
    """Standard deviation of all values of the chosen examples together, in model space, padding included; float64.

    Raises `DataError` when every value is the same: there is nothing to learn.
    """
    if packed.is_image:
        share = level_shares(packed, indices, normalization) / len(normalization.mean)
        levels = torch.arange(256, dtype=torch.float64).expand_as(share)
        centre, scale = torch.tensor([normalization.mean, normalization.scale], dtype=torch.float64)[:, :, None]
        x = (levels - centre) / scale
        mean = float((share * x).sum())
        std = math.sqrt(float((share * (x - mean) ** 2).sum()))
    else:
        values = normalization.to_model(packed.values[indices]).double()
        mean, std = float(values.mean()), float(values.std(correction=0))
    if std <= 1e-7 * max(1.0, abs(mean)):
        raise DataError(
            "every value of the training data is the same",
            expected="data that vary",
            fix="check --data.path, data.value_range and data.background",
        )
    return std
