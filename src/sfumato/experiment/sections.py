"""The `condition:`, `sampling:` and `evaluation:` sections of an experiment."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from sfumato.errors import ConfigError
from sfumato.guidance import Degradation
from sfumato.samplers import Ddim, Sampler, TimeGrid, Trailing

__all__ = ["ConditionConfig", "EvaluationConfig", "SamplingConfig"]

USUAL_DROPOUT = 0.1


def _within(key: str, value: float, low: int, high: int, usual: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} is {value}", expected=f"a number from {low} to {high:,}", fix=f"set {key}: {usual}")


@dataclass(frozen=True, slots=True)
class ConditionConfig:
    """What the network is told besides x_t and the time; nothing by default.

    labels: the class of each example, which the data must have.
    values: the real numbers that belong to each example (`conditions` in an array file, columns of a table).
    image: a picture made of each example, joined to x_t: what the network learns to undo; null for none.
    dropout: share of training examples whose class and values are left out, which guidance needs.
    classes: how many classes there are, for a forecast without the data; the data are checked against it.
    allow_empty_classes: train although a class has no training example; its samples would mean nothing.
    """

    labels: bool = False
    values: bool = False
    image: Degradation | None = None
    dropout: float = 0.1
    classes: int | None = None
    allow_empty_classes: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"condition.dropout is {self.dropout}",
                expected="a share of the examples, from 0 up to, not including, 1, where no label would ever be told",
                fix="set condition.dropout: 0.1",
            )
        if self.classes is not None:
            _within("condition.classes", self.classes, 1, 1_000_000, 10)
        if self.classes is not None and not self.labels:
            raise ConfigError(
                f"condition.classes is {self.classes} and condition.labels is false",
                expected="condition.labels: true with condition.classes, or neither",
                fix="set condition.labels: true, or condition.classes: null",
            )
        if self.dropout not in (0.0, USUAL_DROPOUT) and not self.droppable:
            raise ConfigError(
                f"condition.dropout is {self.dropout} and neither condition.labels nor condition.values is true",
                expected="condition.dropout with condition.labels: true or condition.values: true",
                fix=f"set condition.labels: true, or leave condition.dropout at {USUAL_DROPOUT}",
            )

    @property
    def droppable(self) -> bool:
        """Whether there is something to leave out: a class or values. The picture always stays."""
        return self.labels or self.values

    def __bool__(self) -> bool:
        return self.droppable or self.image is not None


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How samples are drawn when nothing else is asked for.

    sampler: the method.
    steps: intervals of the time grid, and so network calls for methods that make one per step.
    grid: where those intervals lie.
    clip: keep every prediction of x0 within the range of the data.
    micro_batch: samples per network call; fixed, so that the bytes of a sample do not depend on how many are drawn.
    guidance: weight w of classifier-free guidance, D_u + w (D_c - D_u): 0 leaves the label out, 1 is the model as it
        is, null asks for none.
    guidance_interval: lowest and highest noise level sigma/alpha at which that guidance acts; null for all of them.
    autoguidance: weight w of guidance away from a weaker self, D_weak + w (D - D_weak); null for none.
    weaker: the weaker self: a run of a smaller network, an exported file, or an earlier checkpoint's folder.
    classifier_guidance: scale of the gradient of log p(label | x_t), by the run's noisy classifier; null for none.
    dynamic_threshold: share of a sample's values that stay as they are, the others clipped and all rescaled into the
        range of the data (0.995); null clips to that range.
    ema_width: relative width of an average made after training from stored ones, in place of `weights`; null for none.
    weights: `ema` draws with averaged weights, `live` with the trained ones.
    precision: float32, or bfloat16 for speed at the cost of the last bits.
    """

    sampler: Sampler[Any] = Ddim()
    steps: int = 50
    grid: TimeGrid = Trailing()
    clip: bool = True
    micro_batch: int = 64
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    autoguidance: float | None = None
    weaker: str | None = None
    classifier_guidance: float | None = None
    dynamic_threshold: float | None = None
    ema_width: float | None = None
    weights: Literal["ema", "live"] = "ema"
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        _within("sampling.steps", self.steps, 1, 1_000_000, 50)
        _within("sampling.micro_batch", self.micro_batch, 1, 1_000_000, 64)
        for key in ("guidance", "autoguidance", "classifier_guidance"):
            _require_weight(f"sampling.{key}", getattr(self, key))
        _require_guidance_fits(self)
        share, width = self.dynamic_threshold, self.ema_width
        if share is not None and not 0 < share <= 1:
            raise ConfigError(
                f"sampling.dynamic_threshold is {share}",
                expected="a share of a sample's values, above 0 and at most 1",
                fix="set sampling.dynamic_threshold: 0.995",
            )
        if width is not None and not 0 < width <= 12**-0.5:
            raise ConfigError(
                f"sampling.ema_width is {width}",
                expected="a relative width above 0 and at most 0.288, that of the mean of all of training",
                fix="set sampling.ema_width: 0.1",
            )


def _require_weight(key: str, weight: float | None) -> None:
    """Refuse a weight of guidance that is no number, infinite or negative."""
    if weight is None or 0 <= weight < math.inf:
        return
    away = "; a negative weight leads away from what was asked for" if weight < 0 else ""
    raise ConfigError(f"{key} is {weight}{away}", expected="a finite number of 0 or more, or null", fix=f"set {key}: 2")


def _require_guidance_fits(s: "SamplingConfig") -> None:
    """Refuse an interval that is none, or has nothing to act on, and a weaker self without its weight."""
    if s.guidance_interval is not None:
        low, high = s.guidance_interval
        if not 0 <= low < high:
            raise ConfigError(
                f"sampling.guidance_interval is [{low}, {high}]",
                expected="two noise levels sigma/alpha, 0 <= lowest < highest",
                fix="set sampling.guidance_interval: [0.2, 5]",
            )
        if s.guidance is None:
            raise ConfigError(
                "sampling.guidance_interval is set and sampling.guidance is null",
                expected="an interval for a guidance that there is",
                fix="set sampling.guidance: 2, or sampling.guidance_interval: null",
            )
    if (s.autoguidance is None) != (s.weaker is None):
        there, missing = ("weaker", "autoguidance") if s.autoguidance is None else ("autoguidance", "weaker")
        raise ConfigError(
            f"sampling.{there} is {getattr(s, there)} and sampling.{missing} is null",
            expected="a weaker self and a weight, or neither",
            fix=f"set sampling.autoguidance: 2, sampling.weaker: runs/smaller-1, or sampling.{there}: null",
        )


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How training is measured as it goes: always the same examples, noise and noise levels.

    count: at most this many held-out examples.
    noise_levels: how many fixed noise levels, evenly spread over the times of training.
    copies_count: samples that are looked at for copies of training examples (training.copies_every).
    """

    count: int = 512
    noise_levels: int = 8
    copies_count: int = 64

    def __post_init__(self) -> None:
        _within("evaluation.count", self.count, 1, 10**9, 512)
        _within("evaluation.noise_levels", self.noise_levels, 1, 1000, 8)
        _within("evaluation.copies_count", self.copies_count, 2, 1_000_000, 64)
