"""Power-function averages of the weights, from a few of which averages of any width are put together after training.

    theta_gamma(t) = (gamma+1)/t^(gamma+1) ∫_0^t tau^gamma theta(tau) dtau
                   = beta(t) theta_gamma(t-1) + (1 - beta(t)) theta(t),          beta(t) = (1 - 1/t)^(gamma+1)

t = 1, 2, … counts the updates and theta stays as it is between two of them, for which the second line is exact: update
k of t weighs (k^(gamma+1) - (k-1)^(gamma+1)) / t^(gamma+1). beta(1) = 0, so the random start leaves no trace. The
profile scales with t: its standard deviation is always the share

    sigma_rel = sqrt(gamma+1) / ((gamma+2) sqrt(gamma+3))

of the time trained, the *width* of the average (0.1: nine tenths of its weight lie in the last quarter of training).

Profiles of other widths are combinations of stored ones. With p_i(tau) = (g_i+1) tau^g_i / t_i^(g_i+1) on [0, t_i],

    <p_i, p_j> = (g_i+1)(g_j+1) / ((g_i+g_j+1) max(t)) · (min(t)/max(t))^g,      g that of the profile that ends later

and the x that make Σ x_i p_i nearest to a wanted profile p in L2, among those with Σ x_i = 1, give Σ x_i theta_i: the
same combination of the stored weights. Without that condition weights that do not move would come back scaled, by a
fifth where there are only four to combine. What is left, |Σ x_i p_i - p|/|p|, is told with every fit.

Karras et al. 2024 ("Analyzing and Improving the Training Dynamics of Diffusion Models"), section 3 and appendix C.
Theirs are the average, its width and the least squares; the condition on the sum is ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.errors import CheckpointError, ConfigError
from sfumato.training.shadows import Shadows

__all__ = ["POWER", "WIDEST", "Fit", "PowerEma", "PowerEmas", "Profile", "exponent_of", "fit", "width_of"]

WIDEST = 1 / math.sqrt(12)  # gamma = 0: the mean of all of training
POWER = "power-"  # begins what checkpoints call such an average
_CUTOFF = 1e-12  # of the largest eigenvalue: below it directions are rounding errors of float64


def width_of(exponent: float) -> float:
    """sigma_rel of the exponent gamma > -1. Karras et al. 2024, eq. 4."""
    return math.sqrt(exponent + 1) / ((exponent + 2) * math.sqrt(exponent + 3))


def exponent_of(width: float) -> float:
    """gamma >= 0 of a width sigma_rel in (0, 1/sqrt(12)]: the largest root of

    gamma³ + 7 gamma² + (16 - sigma_rel^-2) gamma + 12 - sigma_rel^-2 = 0.

    Raises ConfigError for a width that no such average has.
    """
    if not 0 < width <= WIDEST:
        raise ConfigError(
            f"the width of an average is {width!r}",
            expected=f"a share of training above 0 and at most {WIDEST:.4f}, that of the mean of all of it",
            fix="for example 0.1",
        )
    steep = width**-2
    return max(0.0, float(max(np.roots([1.0, 7.0, 16.0 - steep, 12.0 - steep]).real)))


@final
class PowerEma:
    """The power-function average of a module's parameters and buffers of one width; see `Shadows` for what they are."""

    def __init__(self, module: nn.Module, *, width: float) -> None:
        self.width = width
        self.exponent = exponent_of(width)
        self._calls = 0
        self._shadows = Shadows(module)

    @property
    def num_updates(self) -> int:
        """The time t: calls of `update` so far, skipped ones included."""
        return self._calls

    def update(self, module: nn.Module, skip: Tensor | None = None) -> None:
        """Average the module's present tensors in; nothing moves where `skip` is true. See `Shadows.move`."""
        self._calls += 1
        # 1 - (1 - 1/t)^(gamma+1) without the difference of numbers near 1
        weight = 1.0 if self._calls == 1 else -math.expm1((self.exponent + 1) * math.log1p(-1 / self._calls))
        self._shadows.move(module, weight, skip)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages (not copied), under the names of the bare module."""
        return self._shadows.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Take up stored averages. A `CheckpointError` names all missing, unexpected or misshapen and loads nothing."""
        self._shadows.load_state_dict(tensors)
        self._calls = num_updates


@final
class PowerEmas:
    """The power-function averages of a run, one for each width; none for no widths."""

    def __init__(self, module: nn.Module, widths: Sequence[float]) -> None:
        self.averages = tuple(PowerEma(module, width=width) for width in widths)

    @property
    def num_updates(self) -> int:
        """The time that all of them are at; 0 where there are none."""
        return max((average.num_updates for average in self.averages), default=0)

    def update(self, module: nn.Module, skip: Tensor | None = None) -> None:
        """Average the module's present tensors into each; nothing moves where `skip` is true."""
        for average in self.averages:
            average.update(module, skip)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each average, under the name that checkpoints know it by ("power-0.05")."""
        return {stored_name(average.width): average.state_dict() for average in self.averages}

    def check(self, stored: Mapping[str, object], updates: Mapping[str, object]) -> None:
        """Refuse averages that cannot be taken up: other widths than these, or some of them missing."""
        names = [stored_name(average.width) for average in self.averages]
        known = sorted(name for name in updates if name.startswith(POWER))
        if sorted(names) != known or any(type(updates[name]) is not int for name in known):
            raise CheckpointError(
                f"the checkpoint counts the averages {_listed(known)}, and the settings ask for {_listed(names)}",
                expected="the power-function averages that the run was started with, or none",
                fix=f"set training.power_ema: [{', '.join(name.removeprefix(POWER) for name in known)}]",
            )
        if missing := [name for name in names if name not in stored]:
            raise CheckpointError(
                f"the checkpoint lacks ema-{missing[0]}.safetensors",
                expected="the power-function averages that its state.json counts",
                fix="use another checkpoint of the run",
            )

    def restore(self, stored: Mapping[str, Mapping[str, Tensor]], updates: Mapping[str, int]) -> None:
        """Take up what a checkpoint kept, after `check`."""
        for average in self.averages:
            name = stored_name(average.width)
            average.load_state_dict(stored[name], num_updates=updates[name])

    def counters(self) -> dict[str, int]:
        """The time of each average, under the names of `tensors`."""
        return {stored_name(average.width): average.num_updates for average in self.averages}


def stored_name(width: float) -> str:
    """What checkpoints call the average of a width."""
    return f"{POWER}{width}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name.removeprefix(POWER) for name in names) or "none"


# ------------------------------------------------------------------------------------------------------- reconstruction


@dataclass(frozen=True, slots=True)
class Profile:
    """p(tau) = (exponent+1) tau^exponent / end^(exponent+1) on [0, end]: how much each moment of training counts."""

    exponent: float
    end: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Weights x_i with sum 1, and the relative distance |Σ x_i p_i - p|/|p| from the wanted profile p."""

    weights: tuple[float, ...]
    residual: float


def fit(profiles: Sequence[Profile], wanted: Profile) -> Fit:
    """The combination of one or more profiles that is nearest to the wanted one in L2, among those with sum 1.

    Solved in float64 with every profile scaled to length 1; the residual is known to about 1e-7. Karras et al. 2024,
    appendix C.3.
    """
    gram, towards = inner(profiles, profiles), inner(profiles, [wanted])[:, 0]
    length = math.sqrt(float(inner([wanted], [wanted])[0, 0]))
    scale = 1 / np.sqrt(np.diag(gram))
    values, vectors = np.linalg.eigh(gram * scale[:, None] * scale)
    held = values > _CUTOFF * values[-1]

    def solved(right: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of the scaled Gram matrix, but for directions that rounding has made."""
        along = vectors[:, held].T @ right
        return np.asarray(vectors[:, held] @ (along / values[held]))

    free, push = solved(towards * scale), solved(scale)  # without the condition; its Lagrange multiplier's direction
    x = scale * (free + push * (1 - scale @ free) / (scale @ push))
    distance = float(x @ gram @ x - 2 * x @ towards) + length**2
    return Fit(tuple(x.tolist()), math.sqrt(max(0.0, distance)) / length)


def inner(first: Sequence[Profile], second: Sequence[Profile]) -> NDArray[np.float64]:
    """<p_i, p_j> = ∫ p_i p_j dtau of all pairs, (I, J) float64, by the module's closed form."""
    g, t = np.array([(p.exponent, p.end) for p in first], dtype=np.float64).T[:, :, None]
    h, s = np.array([(p.exponent, p.end) for p in second], dtype=np.float64).T[:, None, :]
    later, larger, ratio = np.where(t >= s, g, h), np.maximum(t, s), np.minimum(t, s) / np.maximum(t, s)
    return np.asarray((g + 1) * (h + 1) / ((g + h + 1) * larger) * ratio**later)
