"""`effects`: what each axis of a sweep does to a metric, paired over the other axes and seeds. Without torch.

Several seeds: the scatter of the effect is that among seeds, pooled over all arms unless told otherwise. One seed: that
of the same change at different settings of the other axes, interactions and all. Neither: the error of measuring alone,
which is about these models and not about their settings; this is said.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sfumato.errors import UsageError, printable
from sfumato.experiment.comparability import LOSS, direction
from sfumato.experiment.difference import LEVEL, Uncompared
from sfumato.experiment.effects.contrasts import Contrast, Place, contrasts_of
from sfumato.experiment.effects.errors import (
    Scatter,
    error_of,
    is_uneven,
    own_scatter,
    pooled_scatter,
    repeat_of,
)
from sfumato.experiment.effects.numbers import Cells, Incomparable, apart, balanced, compared_across, numbers_of
from sfumato.experiment.effects.remedies import measuring
from sfumato.experiment.effects.results import Effect, Effects, Repeats
from sfumato.experiment.evaluations import Number
from sfumato.experiment.kinds import nearest
from sfumato.experiment.significance import holm
from sfumato.experiment.sweep.search import Grid
from sfumato.experiment.sweep.stored import Sweep

__all__ = ["corrected", "effects", "effects_on"]

BETWEEN = " and "  # the two values of an interaction
BY_LEVEL = "loss_by_log_snr"  # a dozen numbers of one thing, which are drawn instead (`levels`)


def effects(
    sweep: Sweep | str | Path,
    metrics: Sequence[str] | str | None = None,
    *,
    runs: str | Path = "runs",
    pooled: bool = True,
    interactions: bool = True,
) -> Effects:
    """The main effects of a sweep's axes and the interactions of any two, on metrics that were measured of its arms.

    metrics: names ("kid", "noise_error[mse]"), or one string with commas; None: all that have a better side, but those
    by noise level. pooled: take the scatter of all arms together, which supposes that all scatter alike. interactions:
    whether to tell those too; each is one comparison more to correct for.

    Raises UsageError for a sweep that is no grid, for a metric that was not measured, and where nothing can be told.
    """
    found = sweep if isinstance(sweep, Sweep) else Sweep.load(sweep, runs)
    _require_grid(found)
    numbers = numbers_of(found)
    chosen = _chosen(found, numbers, metrics)
    told: list[Effect] = []
    untold: list[Uncompared] = []
    notes: list[str] = []
    for metric in chosen:
        cells = balanced(numbers[metric])
        notes += _left_out(metric, numbers[metric], cells, found)
        known = len(told)
        for one in effects_on(found, metric, cells, pooled=pooled, interactions=interactions):
            told.append(one) if isinstance(one, Effect) else untold.append(one)
        if len(told) > known:
            notes += _of_its_arms(found, metric, cells, pooled=pooled)
    if not told:
        raise _nothing(untold)
    return corrected(found.plan.name, told, untold, notes)


def corrected(sweep: str, told: Sequence[Effect], untold: Sequence[Uncompared], notes: Sequence[str]) -> Effects:
    """The effects, each corrected for the number of all of them, and how to read them."""
    p_values = holm([effect.p_value for effect in told])
    all_of_them = tuple(replace(effect, corrected=p) for effect, p in zip(told, p_values, strict=True))
    return Effects(sweep, all_of_them, tuple(_without_repeats(untold)), (*notes, *_reading(all_of_them)))


def _without_repeats(untold: Sequence[Uncompared]) -> Iterator[Uncompared]:
    """Without the interactions of a change that is itself not told: they follow from it."""
    changes = {(u.metric, u.first, u.second) for u in untold}
    for one in untold:
        pairs = zip(one.first.split(BETWEEN), one.second.split(BETWEEN), strict=False)
        parts = [(one.metric, first, second) for first, second in pairs]
        if len(parts) == 1 or changes.isdisjoint(parts):
            yield one


def effects_on(
    sweep: Sweep, metric: str, cells: Cells, *, pooled: bool = True, interactions: bool = True
) -> Iterator[Effect | Uncompared]:
    """Every effect on one metric, or why it cannot be told. `cells`: in which every place has every seed."""
    across = compared_across(sweep)
    # What is of another quantity for some arms scatters in another unit there.
    table = _Table(metric, cells, pooled and _of_one_unit(sweep, metric, cells) and not is_uneven(_values(cells)))
    for contrast in contrasts_of(sweep.plan.axes, cells):
        if len(contrast.axes) == 1 or interactions:
            why = _why_not(metric, contrast, cells, across)
            yield table.effect(contrast) if why is None else _uncompared(metric, contrast, why)


@dataclass(frozen=True, slots=True)
class _Table:
    """The numbers of one metric, and whether the scatter of all its arms is taken together."""

    metric: str
    cells: Cells
    pooled: bool

    def effect(self, contrast: Contrast) -> Effect:
        """The mean of a contrast over its repeats, with the error that they tell."""
        seeds = _seeds(self.cells)
        repeats: Repeats
        if len(seeds) > 1:
            found, repeats = [repeat_of(contrast.weights, self._of(seed)) for seed in seeds], "seeds"
        else:
            found = [repeat_of(part, self._of(seeds[0])) for part in contrast.parts]
            repeats = "settings" if len(found) > 1 else "none"
        scatter = self._pooled(contrast, seeds) if self.pooled and repeats == "seeds" else None
        is_pooled = scatter is not None
        scatter = own_scatter(found) if scatter is None else scatter
        shared = repeats == "settings" or self._same_examples(seeds)
        error = error_of(found, scatter, shared=shared)
        pairs, count = len(contrast.parts), len(seeds)
        effect = Effect(self.metric, contrast.axes, contrast.levels, error, pairs, count, repeats, is_pooled)
        return replace(effect, base=self._base(contrast)) if len(contrast.axes) == 1 else effect

    def _base(self, contrast: Contrast) -> float:
        """The mean of the metric over the arms that have the base value."""
        values = [number.value for place in contrast.weights for number in self._below(contrast, place)]
        return math.fsum(values) / len(values)

    def _below(self, contrast: Contrast, place: Place) -> list[Number]:
        return list(self.cells[place].values()) if contrast.weights[place] < 0 else []

    def _of(self, seed: int) -> dict[Place, Number]:
        return {place: of_place[seed] for place, of_place in self.cells.items()}

    def _pooled(self, contrast: Contrast, seeds: Sequence[int]) -> Scatter | None:
        return pooled_scatter(_values(self.cells), list(contrast.weights.values()))

    def _same_examples(self, seeds: Sequence[int]) -> bool:
        """Whether arms of different seeds may have been measured on the same examples."""
        of_place = next(iter(self.cells.values()))
        splits = {of_place[seed].provenance.get("split") for seed in seeds}
        return None in splits or len(splits) < len(seeds)


def _seeds(cells: Cells) -> list[int]:
    return sorted(next(iter(cells.values()))) if cells else []


def _values(cells: Cells) -> list[list[float]]:
    """A row for each arm, a column for each seed."""
    seeds = _seeds(cells)
    return [[of_place[seed].value for seed in seeds] for of_place in cells.values()]


def _of_one_unit(sweep: Sweep, metric: str, cells: Cells) -> bool:
    """Whether the numbers of all arms are of one quantity."""
    keys, across = [axis.key for axis in sweep.plan.axes], compared_across(sweep)
    of_seeds = ([of_place[seed] for of_place in cells.values()] for seed in _seeds(cells))
    return all(apart(metric, keys, numbers, across) is None for numbers in of_seeds)


def _why_not(metric: str, contrast: Contrast, cells: Cells, across: Sequence[str]) -> Incomparable | None:
    """Why a contrast cannot be told; None where all that it subtracts is of one quantity."""
    if not contrast.parts:
        return Incomparable(
            "no arms that differ in that alone are done", "the arms of both values, trained and measured"
        )
    for part in contrast.parts:
        for seed in _seeds(cells):
            found = apart(metric, contrast.axes, [cells[place][seed] for place in part], across)
            if found is not None:
                return found
    return None


def _uncompared(metric: str, contrast: Contrast, why: Incomparable) -> Uncompared:
    sides = [
        BETWEEN.join(f"{axis}={pair[side]}" for axis, pair in zip(contrast.axes, contrast.levels, strict=True))
        for side in (0, 1)
    ]
    return Uncompared(metric, sides[0], sides[1], why.reason, why.expected)


def _require_grid(sweep: Sweep) -> None:
    name = sweep.plan.name
    if not sweep.plan.axes:
        raise UsageError(
            f"the sweep {name} has no axes, only seeds",
            expected="a sweep along axes",
            fix="sfumato sweep … --axis KEY=V1,V2",
        )
    if not isinstance(sweep.plan.search, Grid):
        raise UsageError(
            f"the points of {name} were drawn by {type(sweep.plan.search).__name__.lower()} search: no two arms differ "
            "in one axis alone",
            expected="a grid, in which every value of an axis meets every other",
            fix="sweep a grid around the best points, or look at `sfumato runs --where sweep=" + name + "`",
        )


def _chosen(sweep: Sweep, numbers: Mapping[str, object], metrics: Sequence[str] | str | None) -> list[str]:
    """The names of the metrics that are meant. Raises UsageError for one that no arm has."""
    if not numbers:
        raise UsageError(
            f"no arm of {sweep.plan.name} has a number: none is trained to its end",
            expected="arms that are trained, and measured",
            fix=f"sfumato sweep {sweep.plan.name}",
        )
    if metrics is None:
        told = [name for name in numbers if not name.startswith(BY_LEVEL)]
        return [name for name in told if name == LOSS or direction(name) is not None]
    wishes = [name.strip() for name in metrics.split(",")] if isinstance(metrics, str) else list(metrics)
    chosen: list[str] = []
    for wish in wishes:
        met = [name for name in numbers if wish in (name, name.partition("[")[0])]
        if not met:
            raise UsageError(
                f"no arm of {sweep.plan.name} has a number {printable(wish)}",
                expected=f"one of {', '.join(numbers)}",
                fix=_remedy(sweep, wish, numbers),
            )
        chosen += met
    return list(dict.fromkeys(chosen))


def _remedy(sweep: Sweep, wish: str, numbers: Mapping[str, object]) -> str:
    """What to do about a metric that no arm has: spell it otherwise, or measure it."""
    from sfumato.experiment.evaluation.metrics import METRICS

    family = wish.partition("[")[0]
    near = nearest(wish, list(numbers) if family in METRICS else [*numbers, *METRICS])
    if family not in METRICS:
        return f"did you mean {near}?" if near else "name one of these"
    again = f"measure it: {measuring(sweep, family)}"
    return f"did you mean {near}? Otherwise {again}" if near else again


def _left_out(metric: str, every: Cells, kept: Cells, sweep: Sweep) -> Iterator[str]:
    """What was measured, or should have been, and is not used."""
    used = sum(map(len, kept.values()))
    if used < len(sweep.arms):
        measured = sum(map(len, every.values()))
        yield (
            f"{metric}: {used} of {len(sweep.arms)} arms are used, {len(kept)} settings with {len(_seeds(kept))} seeds "
            f"each; {len(sweep.arms) - measured} have no such number"
        )


def _of_its_arms(sweep: Sweep, metric: str, cells: Cells, *, pooled: bool) -> Iterator[str]:
    """What the arms have that keeps their scatter from being taken together."""
    if not _of_one_unit(sweep, metric, cells):
        yield f"{metric}: of other quantities along an axis that is not ranked; other effects are means over these"
    elif pooled and len(_seeds(cells)) > 1 and is_uneven(_values(cells)):
        yield (
            f"{metric}: one arm scatters far more than the others (Cochran's test, p < {LEVEL}), so each effect has "
            "its own scatter"
        )


def _nothing(untold: Sequence[Uncompared]) -> UsageError:
    reasons = list(dict.fromkeys(f"{u.metric} of {u.first} and {u.second}: {u.reason}" for u in untold))
    expected = "; ".join(dict.fromkeys(u.expected for u in untold[:3])) or "arms that are trained and measured alike"
    return UsageError(
        f"no effect can be told: {'; '.join(reasons[:3]) or 'nothing with a better side was measured'}",
        expected=expected,
        fix="measure what can be compared: the sweep's command again with --metrics kid or loss_by_log_snr",
    )


def _reading(told: Sequence[Effect]) -> Iterator[str]:
    """How the numbers are to be read."""
    holm_of = f", corrected for {len(told)} comparisons by Holm's method" if len(told) > 1 else ""
    yield f"p: the chance of such an effect, were there none; Student's t, two-sided{holm_of}; verdicts at p < {LEVEL}"
    if len(told) > 1:
        yield "intervals are not corrected: each for itself holds the truth in 95 % of sweeps"
    yield "effects are paired: arms of one seed that differ in nothing else, the same examples and noise"
    for pooled, whose in ((True, "of all arms together"), (False, "of the effect itself")):
        of = dict.fromkeys(e.metric for e in told if e.repeats == "seeds" and e.pooled is pooled)
        if of:
            yield f"± of {', '.join(of)}: the scatter among seeds {whose}, and what their examples have in common"
    if any(e.repeats == "settings" for e in told):
        yield (
            "one seed: ± is from the scatter of the same change at other settings, their interactions among it; what "
            "another seed would change at all settings alike is not in it"
        )
    if any(e.repeats == "none" for e in told):
        yield "one seed, and no other setting: ± is of measuring alone, of these models and not of their settings"
    if any(e.repeats != "none" and e.value and e.std_error == e.error.measuring for e in told):
        yield "where all repeats are the same number, ± is of measuring alone"
    if any(e.metric == LOSS for e in told):
        yield f"{LOSS} is stored without pairs; its seeds are taken to hold out other examples (else: loss[held-out])"
