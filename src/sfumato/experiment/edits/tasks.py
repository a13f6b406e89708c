"""What can be done to pictures with a trained model, as values: `model.edit(Upscale(pictures, 4), n=3)`.

A `Restoration` says which linear measurement the given pictures are of the ones that are wanted,

    Inpaint     y = known pixels          Upscale     y = means over factor × factor pixels
    Deblur      y = Gaussian blur         Colourise   y = luma, 0.299 R + 0.587 G + 0.114 B

in 8-bit levels, with noise of a standard deviation that is given in levels too. `Vary` noises a picture and samples
from there. All pictures are uint8 (n, H, W, C), or one (H, W, C), as the model's data are stored.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import NoiseSource, Schedule
from sfumato.data.wording import counted
from sfumato.errors import UsageError
from sfumato.experiment.conditions import DEGRADED
from sfumato.experiment.data_record import DataRecord
from sfumato.experiment.pictures import stored_shape
from sfumato.guidance import (
    Blur,
    Blurring,
    Degradation,
    Downsampling,
    Grey,
    Greying,
    Holes,
    LowResolution,
    Masking,
    PictureOperator,
)

__all__ = ["STRIDE", "Colourise", "Deblur", "Edit", "Inpaint", "Restoration", "Upscale", "Vary"]

Pixels = NDArray[np.uint8]
R = TypeVar("R", bound="Restoration")

STRIDE = 1000  # variant v of picture p has the seed K + STRIDE p + v
MEASURED = DEGRADED + 2  # the draw of a picture's noise that is added to what is measured
UNKNOWN = 128  # the level that holes are shown in


class Edit(ABC):
    """Something to do to pictures; `pictures` is what is given."""

    __slots__ = ()
    name: ClassVar[str]
    pictures: Pixels

    def checked(self, shape: tuple[int, ...]) -> Pixels:
        """The pictures, (n, H, W, C). Raises UsageError for another shape or type, naming that which is needed."""
        raw = np.asarray(self.pictures)
        raw = raw[None] if raw.ndim == 3 else raw
        if raw.dtype != np.uint8 or raw.shape[1:] != shape or not len(raw):
            high, wide, channels = shape
            raise UsageError(
                f"{self.name}: pictures of shape {np.shape(self.pictures)} and type {raw.dtype}",
                expected=f"uint8 pictures of {high} x {wide} with {counted(channels, 'channel')}",
                fix="resize them first; read from files (--pictures) they are cropped and resized",
            )
        return raw


class Restoration(Edit):
    """Pictures of which something was lost."""

    __slots__ = ()
    usual_noise: ClassVar[float] = 0.0
    trained_with: ClassVar[type[Degradation]]

    @abstractmethod
    def operator(self, record: DataRecord, rows: Tensor) -> PictureOperator:
        """A for stored pictures (B, C, H, W), those of `rows`. Raises UsageError where it does not fit the data."""

    @abstractmethod
    def fits(self, own: Degradation) -> bool:
        """Whether a network that goes by `own` was trained for this."""

    @property
    def holes(self) -> bool:
        """Whether what is known is known exactly, pixel by pixel."""
        return False

    def given_shape(self, record: DataRecord) -> tuple[int, int, int]:
        """(h, w, c) of what is given."""
        high, wide, channels = stored_shape(record)
        blank = torch.zeros(1, channels, high, wide)
        c, h, w = self.operator(record, torch.zeros(1, dtype=torch.int64)).apply(blank).shape[1:]
        return h, w, c

    def given(self, record: DataRecord) -> Pixels:
        """What is given, (n, h, w, c), checked."""
        return self.checked(self.given_shape(record))

    def shown(self, record: DataRecord) -> Pixels:
        """What is given as people look at it, as high and wide as what is wanted."""
        return self.given(record)

    def seen(self, record: DataRecord) -> Tensor:
        """What a network that was trained for this goes by: (n, C', H, W) in model units."""
        return record.normalization.to_model(torch.from_numpy(self.shown(record)))

    def degraded(self: R, record: DataRecord, *, noise: float = 0.0, seed: int = 0) -> R:
        """The task of undoing to whole pictures what it undoes: their measurement, noise added, in 8-bit levels."""
        whole = self.checked(stored_shape(record))
        x = torch.from_numpy(whole).permute(0, 3, 1, 2).to(torch.float64)
        operator = self.operator(record, torch.arange(len(whole)))
        y = operator.apply(x)
        if noise:
            source = NoiseSource(seed + STRIDE * torch.arange(len(whole)))
            y = y + noise * source.normal(y, draw=MEASURED)
        levels = y.round().clamp(0, 255).to(torch.uint8)
        return replace(self, pictures=levels.permute(0, 2, 3, 1).contiguous().numpy())  # type: ignore[type-var]


@dataclass(frozen=True, slots=True, eq=False)
class Inpaint(Restoration):
    """Fill in what a mask hides; known pixels come back as they are.

    pictures: uint8 (n, H, W, C). mask: bool, (H, W) for all pictures or (n, H, W), True where it is not known.
    """

    name: ClassVar[str] = "inpaint"
    trained_with: ClassVar[type[Degradation]] = Holes
    pictures: Pixels
    mask: NDArray[np.bool_]

    @property
    def holes(self) -> bool:
        return True

    def unknown(self, record: DataRecord) -> NDArray[np.bool_]:
        """The mask of each picture, (n, H, W).

        Raises UsageError for other shapes, and where nothing or all is hidden.
        """
        raw = np.asarray(self.mask)
        raw = raw[None] if raw.ndim == 2 else raw
        count, size = len(np.asarray(self.pictures)) if np.ndim(self.pictures) == 4 else 1, stored_shape(record)[:2]
        if raw.dtype != np.bool_ or raw.shape[1:] != size or len(raw) not in (1, count):
            raise UsageError(
                f"a mask of shape {np.shape(self.mask)} and type {raw.dtype} for {counted(count, 'picture')}",
                expected=f"bool {size} for all pictures, or {(count, *size)}: True where it is not known",
                fix="give mask > 0, at the size of the pictures",
            )
        hidden = raw.reshape(len(raw), -1)
        if not hidden.any(axis=1).all() or hidden.all(axis=1).any():
            nothing = not hidden.any(axis=1).all()
            raise UsageError(
                f"the mask hides {'nothing' if nothing else 'all of a picture'}",
                expected="some pixels that are known and some that are not",
                fix="mark what to fill in (--mask, --box)" if nothing else "sample without a picture (sfumato sample)",
            )
        found: NDArray[np.bool_] = np.broadcast_to(raw, (count, *size))
        return found

    def operator(self, record: DataRecord, rows: Tensor) -> Masking:
        return Masking(~torch.from_numpy(self.unknown(record).copy())[rows][:, None])

    def fits(self, own: Degradation) -> bool:
        return isinstance(own, Holes)

    def shown(self, record: DataRecord) -> Pixels:
        return np.where(self.unknown(record)[..., None], np.uint8(UNKNOWN), self.given(record))

    def padded_known(self, record: DataRecord) -> Tensor:
        """True where a prepared picture is known, its padding with the pixels that it repeats: bool (n, 1, H, W)."""
        known = torch.from_numpy(~self.unknown(record))[..., None]
        return record.normalization.padded(known).permute(0, 3, 1, 2)

    def seen(self, record: DataRecord) -> Tensor:
        whole = record.normalization.to_model(torch.from_numpy(np.ascontiguousarray(self.given(record))))
        masking = Masking(self.padded_known(record))
        return masking.shown(masking.apply(whole))


@dataclass(frozen=True, slots=True, eq=False)
class Upscale(Restoration):
    """Make pictures larger, by a whole factor.

    pictures: uint8 (n, H/factor, W/factor, C). factor: how many times smaller than the model's they are, 2 or more.
    """

    name: ClassVar[str] = "upscale"
    trained_with: ClassVar[type[Degradation]] = LowResolution
    pictures: Pixels
    factor: int = 4

    def operator(self, record: DataRecord, rows: Tensor) -> Downsampling:
        high, wide, _ = stored_shape(record)
        if self.factor < 2 or high % self.factor or wide % self.factor:
            possible = [f for f in range(2, min(high, wide) + 1) if high % f == 0 == wide % f]
            raise UsageError(
                f"upscale by {self.factor} to {high} x {wide}",
                expected=f"a factor that divides both sides: {', '.join(map(str, possible)) or 'there is none'}",
                fix=f"factor={possible[0]} (--factor {possible[0]})" if possible else "train at another size",
            )
        return Downsampling(self.factor)

    def fits(self, own: Degradation) -> bool:
        return own == LowResolution(self.factor)

    def shown(self, record: DataRecord) -> Pixels:
        return self.given(record).repeat(self.factor, axis=1).repeat(self.factor, axis=2)

    def seen(self, record: DataRecord) -> Tensor:
        enlarged = record.normalization.to_model(torch.from_numpy(self.shown(record)))
        return LowResolution(self.factor).picture(enlarged)  # what padding repeats is averaged as in training


@dataclass(frozen=True, slots=True, eq=False)
class Deblur(Restoration):
    """Undo a Gaussian blur.

    pictures: uint8 (n, H, W, C), blurred. std: of the blur, in pixels.
    """

    name: ClassVar[str] = "deblur"
    usual_noise: ClassVar[float] = 1.0  # a blur nearly loses fine detail: what 8 bits round would be enlarged
    trained_with: ClassVar[type[Degradation]] = Blur
    pictures: Pixels
    std: float = 2.0

    def operator(self, record: DataRecord, rows: Tensor) -> Blurring:
        if not 0 < self.std < float("inf"):
            raise UsageError(f"std is {self.std}", expected="a number of pixels above 0", fix="std=2 (--std 2)")
        return Blurring(self.std)

    def fits(self, own: Degradation) -> bool:
        return own == Blur(self.std)


@dataclass(frozen=True, slots=True, eq=False)
class Colourise(Restoration):
    """Give grey pictures colours.

    pictures: uint8 (n, H, W, 1), or with three channels, whose luma is then taken.
    """

    name: ClassVar[str] = "colourise"
    trained_with: ClassVar[type[Degradation]] = Grey
    pictures: Pixels

    def operator(self, record: DataRecord, rows: Tensor) -> Greying:
        normalization, channels = record.normalization, stored_shape(record)[2]
        alike = len(set(zip(normalization.mean, normalization.scale, strict=True))) == 1
        if channels != 3 or not alike:
            why = f"{counted(channels, 'channel')}" if channels != 3 else "channels that were scaled differently"
            raise UsageError(
                f"colourise by a model of pictures with {why}",
                expected="a model of colour pictures, trained with data.normalize: range",
                fix="choose a run of colour pictures",
            )
        return Greying(channels)

    def given(self, record: DataRecord) -> Pixels:
        if np.shape(self.pictures)[-1:] == (3,):
            return self.degraded(record).given(record)
        return self.checked(self.given_shape(record))

    def fits(self, own: Degradation) -> bool:
        return isinstance(own, Grey)

    def seen(self, record: DataRecord) -> Tensor:
        grey = torch.from_numpy(self.given(record).repeat(3, axis=3))
        return Grey().picture(record.normalization.to_model(grey))


@dataclass(frozen=True, slots=True, eq=False)
class Vary(Edit):
    """Variations of pictures: noise them, and sample from there (SDEdit; Meng et al. 2022).

    pictures: uint8 (n, H, W, C). strength: the share of noise in x_t by standard deviation, sigma/(sigma + alpha
    data_std), in (0, 1]: below that of the schedule's clean end nothing changes, at 1 nothing is kept.
    """

    name: ClassVar[str] = "vary"
    pictures: Pixels
    strength: float = 0.5

    def start(self, schedule: Schedule, data_std: float) -> float | None:
        """The time to sample from, one of the table's where there is one; None where there is no noise to undo.

        Raises UsageError for a strength outside (0, 1].
        """
        if not 0 < self.strength <= 1:
            raise UsageError(
                f"strength is {self.strength}",
                expected="a share of noise above 0, where nothing changes, and at most 1, where nothing is kept",
                fix="strength=0.5 (--strength 0.5)",
            )
        if self.strength == 1:
            return 1.0
        level = torch.tensor(data_std * self.strength / (1 - self.strength), dtype=torch.float64)
        t, steps = float(schedule.time(-2 * level.log())), schedule.num_steps
        t = t if steps is None else round(t * steps) / steps
        return t if t > schedule.t_min else None
