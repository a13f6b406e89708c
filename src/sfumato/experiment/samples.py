"""What a model draws: samples with what each was asked to be, whole trajectories, and how many of them may be meant."""

import numbers
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import UsageError

__all__ = [
    "MOST_SAMPLES",
    "Samples",
    "Trajectory",
    "is_number",
    "is_whole",
    "require_alone",
    "require_count",
    "require_seed",
]

MAX_SEED = 2**62
MOST_SAMPLES = 10_000_000  # more are a slip of the finger; they would not fit into memory


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A batch of samples: `images` uint8 (N, H, W, C) or `values` float32 (N, *), and the seed of each, (N,) int64.

    labels: (N,) int64, the class in 0 … K-1 that each sample was asked to be, and class_names, what the K classes are
        called; None where no label was given.
    calls: (N,) int64, the denoiser calls that each sample needed; they differ with an adaptive sampler only.
    conditions: (N, V) float32, the values that each was asked to have, in units of the data, and condition_names.
    guidance: (N,) float64, the weight of guidance of each, where they were given one by one.
    """

    images: NDArray[np.uint8] | None
    values: NDArray[np.float32] | None
    labels: NDArray[np.int64] | None
    seeds: NDArray[np.int64]
    calls: NDArray[np.int64]
    class_names: tuple[str, ...] | None = None
    conditions: NDArray[np.float32] | None = None
    condition_names: tuple[str, ...] | None = None
    guidance: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A whole trajectory in data units: `states` are x at `times`, noise first, `guesses` the x0 predicted on the way.

    Noisy states are at unit power, x_t/sqrt(alpha² + sigma²): nothing changes where variance is preserved, and a state
    of an exploding process can be seen at all. `labels` says what each was asked to be, by name, None where nothing
    was asked.
    """

    times: tuple[float, ...]
    states: tuple[NDArray[np.generic], ...]
    guesses: tuple[NDArray[np.generic], ...]
    labels: tuple[str, ...] | None = None


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value can count; NumPy's whole numbers can, True cannot."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is one number, NumPy's among them."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def require_count(n: object) -> None:
    """Refuse a number of samples that nobody can mean. Raises UsageError."""
    if not is_whole(n) or not 1 <= n <= MOST_SAMPLES:
        expected = f"from 1 to {MOST_SAMPLES:,} samples, a whole number"
        raise UsageError(f"{n!r} samples were asked for", expected=expected, fix="ask for 1 or more (-n 36)")


def require_seed(seed: object, n: int = 1) -> None:
    """Refuse a first seed that n samples cannot count from. Raises UsageError."""
    if not is_whole(seed) or not 0 <= seed <= MAX_SEED - n:
        expected = "a whole number from 0 to 2^62 - n"
        raise UsageError(f"seed is {seed!r}", expected=expected, fix="choose a seed such as 0 (--seed 0)")


def require_alone(**given: object) -> None:
    """Refuse settings of a call that come beside `config`, which would hide them. Raises UsageError."""
    found = {name: value for name, value in given.items() if value is not None}
    if found:
        names = ", ".join(found)
        changes = ", ".join(f"{name}={value!r}" for name, value in found.items())
        raise UsageError(
            f"{names} and config were both given",
            expected="config, which holds all settings of sampling, or single settings",
            fix=f"put {names} into config: config=replace(config, …), or config=model.settings({changes}, …)",
        )
