"""The `sampling:` and `evaluation:` sections of an experiment."""

from dataclasses import dataclass
from typing import Any, Literal

from sfumato.errors import ConfigError
from sfumato.samplers import Ddim, Sampler, TimeGrid, Trailing

__all__ = ["EvaluationConfig", "SamplingConfig"]


def _within(key: str, value: float, low: int, high: int, usual: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} is {value}", expected=f"a number from {low} to {high:,}", fix=f"set {key}: {usual}")


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How samples are drawn when nothing else is asked for.

    sampler: the method.
    steps: intervals of the time grid, and so network calls for methods that make one per step.
    grid: where those intervals lie.
    clip: keep every prediction of x0 within the range of the data.
    micro_batch: samples per network call; fixed, so that the bytes of a sample do not depend on how many are drawn.
    guidance: weight of classifier-free guidance; null for none.
    weights: `ema` draws with averaged weights, `live` with the trained ones.
    precision: float32, or bfloat16 for speed at the cost of the last bits.
    """

    sampler: Sampler[Any] = Ddim()
    steps: int = 50
    grid: TimeGrid = Trailing()
    clip: bool = True
    micro_batch: int = 64
    guidance: float | None = None
    weights: Literal["ema", "live"] = "ema"
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        _within("sampling.steps", self.steps, 1, 1_000_000, 50)
        _within("sampling.micro_batch", self.micro_batch, 1, 1_000_000, 64)
        if self.guidance is not None:
            _within("sampling.guidance", self.guidance, 0, 1000, 2)


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How the held-out loss is measured: always the same examples, noise and noise levels.

    count: at most this many held-out examples.
    noise_levels: how many fixed noise levels, evenly spread over the times of training.
    """

    count: int = 512
    noise_levels: int = 8

    def __post_init__(self) -> None:
        _within("evaluation.count", self.count, 1, 10**9, 512)
        _within("evaluation.noise_levels", self.noise_levels, 1, 1000, 8)
