"""The numbers of a sweep's arms, by metric: those that `evaluate` stored, and the held-out loss of the log.

Of several evaluations of an arm those are taken that most arms have alike (n, seed, part, extractor), then those of
most examples. What a grid lacks (arms that failed, or are not there yet) is left out in whole arms or whole seeds, so
that every seed has the same arms: means over seeds are then of the same settings.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from sfumato.experiment.comparability import LOSS, LOSS_ERROR, SAMPLING, mismatches
from sfumato.experiment.effects.contrasts import Place
from sfumato.experiment.evaluations import Fact, Number
from sfumato.experiment.measured import logged_loss, stored_numbers
from sfumato.experiment.records import RunRecord
from sfumato.experiment.sweep.plan import Arm
from sfumato.experiment.sweep.stored import Sweep, newest_step

__all__ = ["Cells", "Incomparable", "apart", "balanced", "compared_across", "numbers_of", "place_of_arm"]

ALIKE = ("seed", "part", "extractor")
BY_NORMALIZED_DATA = ("noise_error", "image_error", "loss_by_log_snr")
SPANS = ("log_snr_low", "log_snr_high")
SAME_SPAN = 1e-3  # nats: schedules that share their ends are 1e-4 apart at their first time

Cells = Mapping[Place, Mapping[int, Number]]  # of each arm's place its number by seed


@dataclass(frozen=True, slots=True)
class Incomparable:
    """Why numbers of two arms are of different things, and what would make them of the same."""

    reason: str
    expected: str


def place_of_arm(sweep: Sweep, arm: Arm) -> Place:
    """The values of an arm in the order of the axes."""
    return tuple(arm.settings[axis.key] for axis in sweep.plan.axes)


def numbers_of(sweep: Sweep) -> dict[str, dict[Place, dict[int, Number]]]:
    """The numbers of all arms that are trained, of their last step and averaged weights, by metric."""
    found: dict[str, list[tuple[Arm, Number]]] = {}
    for arm in sweep.arms:
        record = sweep.record(arm)
        if record is None or not sweep.is_trained(arm, record):
            continue
        for name, number in _of_arm(arm, record):
            found.setdefault(name, []).append((arm, number))
    return {name: _alike(sweep, numbers) for name, numbers in found.items()}


def _of_arm(arm: Arm, record: RunRecord) -> Iterator[tuple[str, Number]]:
    """Every number of an arm, those of one metric in the order of the files."""
    if LOSS in record.figures:
        yield LOSS, logged_loss(record.settings, record.figures[LOSS], record.figures.get(LOSS_ERROR))
    for one in stored_numbers(arm.folder, newest_step(arm), lambda text: None, whole=True):
        if one.number.is_averaged:
            yield one.name, one.number


def _alike(sweep: Sweep, found: list[tuple[Arm, Number]]) -> dict[Place, dict[int, Number]]:
    """Of each arm the one number that was measured as those of most other arms."""
    arms = {(arm.name, _signature(number)) for arm, number in found}
    counts = Counter(signature for _, signature in arms)
    wanted = max(counts, key=lambda signature: (counts[signature], signature))
    cells: dict[Place, dict[int, Number]] = {}
    for arm, number in found:
        if _signature(number) == wanted:
            cells.setdefault(place_of_arm(sweep, arm), {})[arm.seed] = number
    return cells


def _signature(number: Number) -> tuple[int, str]:
    return number.n, repr([number.provenance.get(fact) for fact in ALIKE])


def balanced(cells: Cells) -> dict[Place, dict[int, Number]]:
    """The largest part of the cells in which every place has every seed; of equal ones that of more seeds."""
    seeds = sorted({seed for of_place in cells.values() for seed in of_place})
    seeds.sort(key=lambda seed: -sum(seed in of_place for of_place in cells.values()))
    best: dict[Place, dict[int, Number]] = {}
    for count in range(1, len(seeds) + 1):
        taken = sorted(seeds[:count])
        whole = {
            place: {seed: of_place[seed] for seed in taken}
            for place, of_place in cells.items()
            if all(seed in of_place for seed in taken)
        }
        if whole and len(whole) * count >= sum(map(len, best.values())):
            best = whole
    return best


def compared_across(sweep: Sweep) -> tuple[str, ...]:
    """The settings of the sampling that axes vary: they are what is compared, and may differ."""
    keys = [key.split(".") for axis in sweep.plan.axes for key in axis.key.split("+")]
    return tuple({parts[1] for parts in keys if parts[0] == "sampling" and len(parts) > 1 and parts[1] in SAMPLING})


def apart(
    metric: str, axes: Collection[str], numbers: Collection[Number], across: Collection[str]
) -> Incomparable | None:
    """Why numbers that differ along `axes` cannot be set against each other; None where they can."""
    family = metric.partition("[")[0]
    if family in BY_NORMALIZED_DATA and any("data.normalize" in axis.split("+") for axis in axes):
        return Incomparable(
            f"{family} is in units of normalized data, which differ along data.normalize", "one normalization"
        )
    first, *others = numbers
    for other in others:
        found = mismatches(first, other, across)
        if found:
            return Incomparable("; ".join(map(str, found[:2])), found[0].why)
        if any(not _same_span(first.provenance.get(end), other.provenance.get(end)) for end in SPANS):
            return Incomparable(
                "the schedules reach other noise levels within this bin", "a bin that both schedules span"
            )
    return None


def _same_span(one: Fact, other: Fact) -> bool:
    """Whether two ends of bins are the same; numbers of other metrics have none."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) < SAME_SPAN
    return one is other
