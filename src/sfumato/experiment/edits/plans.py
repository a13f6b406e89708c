"""Edits made ready: what is known in model units, what the network is told, and what is put back afterwards.

A measurement speaks of stored pictures; where they are padded, it is one of the window that they fill,

    y = A x0[window],    A* y is 0 outside,

and the padding is drawn with the rest. The given levels become model units by the data's own map, y' = (y - mean)/
scale, which A commutes with: its weights sum to 1. Noise of `noise` levels is noise/scale there, the root mean square
over channels where those differ.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.condition import Condition
from sfumato.core import NoiseSource
from sfumato.experiment.conditions import Asked, condition_of
from sfumato.experiment.config import SamplingConfig
from sfumato.experiment.data_record import DataRecord
from sfumato.experiment.edits.methods import METHODS, Method, Site
from sfumato.experiment.edits.tasks import Inpaint, Pixels, Restoration, Vary
from sfumato.experiment.guiding import Guide, Requests
from sfumato.guidance import LinearOperator, Masking, Measurement
from sfumato.samplers import vary

if TYPE_CHECKING:
    from sfumato.experiment.model import Model

__all__ = ["Place", "Plan", "Restoring", "Varying", "Window"]


@dataclass(frozen=True, slots=True, eq=False)
class Window(LinearOperator):
    """A measurement of the picture within its padding: A x[window], (B, C, *padded) -> (B, *).

    inner: A. size: (H, W) of the window. corner: where it begins. padded: (H, W) of x.
    """

    inner: LinearOperator
    size: tuple[int, int]
    corner: tuple[int, int]
    padded: tuple[int, int]

    def apply(self, x: Tensor) -> Tensor:
        (top, left), (high, wide) = self.corner, self.size
        return self.inner.apply(x[:, :, top : top + high, left : left + wide])

    def adjoint(self, y: Tensor) -> Tensor:
        (top, left), (high, wide) = self.corner, self.size
        inside = self.inner.adjoint(y)
        x = inside.new_zeros(*inside.shape[:2], *self.padded)
        x[:, :, top : top + high, left : left + wide] = inside
        return x


class Plan(ABC):
    """What is to be done, checked: n variants of each picture, from which seed on."""

    __slots__ = ()
    n: int
    seed: int
    noise: float
    shown: Pixels

    @property
    def count(self) -> int:
        """Samples in all."""
        return len(self.shown) * self.n

    def each(self, asked: Any) -> Any:
        """One thing for each picture as one for each sample; anything else as it is."""
        several = isinstance(asked, Sequence | np.ndarray | Tensor) and not isinstance(asked, str)
        if self.n > 1 and several and np.ndim(asked) > 0 and len(asked) == len(self.shown):
            return np.asarray(asked).repeat(self.n, axis=0)
        return asked

    def usual(self, config: SamplingConfig) -> SamplingConfig:
        """The settings of sampling where nobody chooses a sampler."""
        return config

    @abstractmethod
    def check(self, config: SamplingConfig) -> None:
        """Refuse settings that cannot do it. Raises UsageError."""

    def moves(self, config: SamplingConfig) -> int:
        """Steps of the walk of a micro-batch, about."""
        return config.steps

    @property
    @abstractmethod
    def how(self) -> str:
        """The name of the method."""

    @abstractmethod
    def told(self, model: "Model", labels: object, values: object, *, steered: bool) -> Condition | None:
        """What the network is told of every sample. Raises UsageError."""

    @abstractmethod
    def walk(self, guide: Guide, config: SamplingConfig, asked: Requests, at: "Place") -> Iterator[Tensor]:
        """x after each step of a micro-batch; at least one."""

    def finished(self, images: Pixels) -> Pixels:
        """The results in data units (P·n, H, W, C), with what is known put back."""
        return images


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a micro-batch is: the picture of each sample, (B,), their noise, and a tensor on the right device."""

    rows: Tensor
    noise: NoiseSource
    like: Tensor

    def start(self, shape: tuple[int, ...], prior_std: float) -> Tensor:
        """x_T (B, C, H, W)."""
        x = self.noise.initial((len(self.rows), *shape), like=self.like) * prior_std
        return x.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True, eq=False)
class Restoring(Plan):
    """A restoration by a method: y (P, *) in model units, and noise_std of it."""

    task: Restoration
    method: Method
    record: DataRecord
    n: int
    seed: int
    noise: float
    shown: Pixels
    y: Tensor

    def usual(self, config: SamplingConfig) -> SamplingConfig:
        return self.method.usual(config)

    def check(self, config: SamplingConfig) -> None:
        self.method.check(config, holes=self.task.holes, noise=self.noise)

    def moves(self, config: SamplingConfig) -> int:
        return self.method.moves(config)

    @property
    def how(self) -> str:
        return next(name for name, kind in METHODS.items() if isinstance(self.method, kind))

    def told(self, model: "Model", labels: object, values: object, *, steered: bool) -> Condition | None:
        asked = Asked(self.each(labels), self.each(values))
        cond = condition_of(replace(model.tellable, degradation=None, steered=steered), asked, self.count)
        if not self.method.goes_by_pictures:
            return cond
        seen = self.task.seen(self.record).repeat_interleave(self.n, dim=0)
        return replace(Condition() if cond is None else cond, image=seen)

    def walk(self, guide: Guide, config: SamplingConfig, asked: Requests, at: Place) -> Iterator[Tensor]:
        known, mask = self._known(at)
        start = at.start(self.record.shape, guide.denoiser.schedule.prior_std)
        return self.method.walk(Site(guide, config, asked, at.noise, start, self._measured(at), known, mask))

    def _measured(self, at: Place) -> Measurement:
        normalization = self.record.normalization
        assert normalization.size is not None
        padded = (self.record.shape[1], self.record.shape[2])
        inner = self.task.operator(self.record, at.rows)
        window = Window(_placed(inner, at.like), normalization.size, normalization.corner, padded)
        scale = float(np.mean(np.square(1 / np.asarray(normalization.scale))) ** 0.5)
        return Measurement(window, self.y[at.rows].to(at.like), self.noise * scale)

    def _known(self, at: Place) -> tuple[Tensor | None, Tensor | None]:
        if not isinstance(self.task, Inpaint):
            return None, None
        given = torch.from_numpy(self.task.given(self.record))[at.rows]
        known = self.record.normalization.to_model(given).to(at.like)
        return known, self.task.padded_known(self.record)[at.rows].to(at.like.device)

    def finished(self, images: Pixels) -> Pixels:
        if not isinstance(self.task, Inpaint) or self.noise:
            return images
        hidden, given = self.task.unknown(self.record)[..., None], self.task.given(self.record)
        return np.where(hidden.repeat(self.n, axis=0), images, given.repeat(self.n, axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Varying(Plan):
    """Variations of x0 (P, C, H, W) from the time `start` on; None where nothing is to change."""

    n: int
    seed: int
    shown: Pixels
    x0: Tensor
    start: float | None
    noise: float = 0.0

    def check(self, config: SamplingConfig) -> None:
        """Any will do."""

    @property
    def how(self) -> str:
        return Vary.name

    def told(self, model: "Model", labels: object, values: object, *, steered: bool) -> Condition | None:
        images = None if model.experiment.condition.image is None else self.shown.repeat(self.n, axis=0)
        asked = Asked(self.each(labels), self.each(values), images)
        return model.condition_of(asked, self.count, seed=self.seed, steered=steered)

    def walk(self, guide: Guide, config: SamplingConfig, asked: Requests, at: Place) -> Iterator[Tensor]:
        x0 = self.x0[at.rows].to(at.like)
        if self.start is None:
            return iter([x0])
        d = guide.steered(asked)
        times = config.grid.times(d.schedule, config.steps)
        walked = vary(config.sampler, d, x0, times, start=self.start, noise=at.noise, cond=asked.cond)
        return (step.x for step in walked)


def _placed(operator: LinearOperator, like: Tensor) -> LinearOperator:
    """The operator with its mask, if any, on the device of `like`."""
    return Masking(operator.mask.to(like.device)) if isinstance(operator, Masking) else operator
