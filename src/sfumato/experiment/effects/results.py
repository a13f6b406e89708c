"""Effects as results: each with its error, interval, significance and verdict, and what could not be told."""

from dataclasses import dataclass
from typing import Any, Literal

from sfumato.experiment.comparability import direction
from sfumato.experiment.difference import LEVEL, Uncompared
from sfumato.experiment.effects.errors import Error, quantile
from sfumato.experiment.sweep.axes import axis_names

__all__ = ["Effect", "Effects", "Repeats"]

# What tells how far the effect scatters: seeds, the settings of the other axes, or nothing but measuring.
Repeats = Literal["seeds", "settings", "none"]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change of one axis does to a metric, or what two axes do together beyond what each does alone.

    axes: the keys: one of a main effect, two of an interaction.
    levels: of each axis the base value, and the value that is compared with it.
    error: the value with its error.
    pairs: differences of arms that the value is the mean of.
    seeds: of each of them.
    repeats: what tells the scatter.
    pooled: whether the scatter is that of all arms.
    corrected: p-value corrected for all effects told, by Holm's method.
    base: of a main effect the mean of the metric at the base value.
    """

    metric: str
    axes: tuple[str, ...]
    levels: tuple[tuple[str, str], ...]
    error: Error
    pairs: int
    seeds: int
    repeats: Repeats
    pooled: bool = False
    corrected: float = 1.0
    base: float | None = None

    @property
    def value(self) -> float:
        """How much more of the metric."""
        return self.error.value

    @property
    def std_error(self) -> float:
        """Standard error of the value."""
        return self.error.std_error

    @property
    def p_value(self) -> float:
        """The chance of such an effect or a larger one, were there none; of this comparison alone."""
        return self.error.p_value

    @property
    def interval(self) -> tuple[float, float]:
        """Where the effect lies with 95 % confidence, this one alone."""
        room = quantile(self.error.degrees, LEVEL) * self.std_error
        return self.value - room, self.value + room

    @property
    def name(self) -> str:
        """The change in words: `objective.distance: mse -> mae`."""
        pairs = zip(self.axes, self.levels, strict=True)
        return " x ".join(f"{axis}: {base} -> {other}" for axis, (base, other) in pairs)

    @property
    def verdict(self) -> str:
        """What may be said of the change."""
        if self.value == 0 and self.std_error == 0:
            return "the same"
        if self.std_error == 0:
            return "no error known"
        if self.corrected >= LEVEL:
            return "no effect seen" if len(self.axes) == 1 else "no interaction seen"
        way = "lower" if self.value < 0 else "higher"
        better = direction(self.metric) if len(self.axes) == 1 else None
        said = way if better is None else "better" if way == better else "worse"
        return said if self.repeats != "none" else f"{said}, of these models"

    def to_plain(self) -> dict[str, Any]:
        """As JSON data."""
        low, high = self.interval
        return {
            "metric": self.metric,
            "kind": "main effect" if len(self.axes) == 1 else "interaction",
            "axes": list(self.axes),
            "levels": [list(pair) for pair in self.levels],
            "base": self.base,
            "value": self.value,
            "std_error": self.std_error,
            "measuring_std_error": self.error.measuring,
            "degrees_of_freedom": self.error.degrees,
            "interval": [low, high],
            "pairs": self.pairs,
            "seeds": self.seeds,
            "scatter_from": self.repeats,
            "pooled": self.pooled,
            "p_value": self.p_value,
            "corrected_p_value": self.corrected,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Effects:
    """All effects of a sweep's axes on metrics, what could not be told, and how to read it."""

    sweep: str
    effects: tuple[Effect, ...]
    untold: tuple[Uncompared, ...]
    notes: tuple[str, ...]

    def label(self, effect: Effect) -> str:
        """The change in few words: settings by their last words, where these tell them apart."""
        named = axis_names(list(dict.fromkeys(axis for one in self.effects for axis in one.axes)))
        pairs = zip(effect.axes, effect.levels, strict=True)
        return " × ".join(f"{named[axis]} {base} → {other}" for axis, (base, other) in pairs)

    def of(self, metric: str) -> tuple[Effect, ...]:
        """The effects on one metric: main effects first, in the order of the axes."""
        return tuple(effect for effect in self.effects if effect.metric == metric)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics with effects, in order."""
        return tuple(dict.fromkeys(effect.metric for effect in self.effects))

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "sweep": self.sweep,
            "effects": [effect.to_plain() for effect in self.effects],
            "not_told": [
                {"metric": u.metric, "base": u.first, "compared": u.second, "reason": u.reason} for u in self.untold
            ],
            "notes": list(self.notes),
        }
