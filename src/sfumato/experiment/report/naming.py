"""What arms and metrics are called on the page: short, and told apart."""

from collections.abc import Mapping, Sequence

from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import Child, tag
from sfumato.experiment.report.wording import MINUS
from sfumato.experiment.sweep.axes import speaks_for_itself

__all__ = ["arm_name", "by_axes", "metric_name", "state_mark"]

GOOD, BAD = frozenset({"done", "finished"}), frozenset({"failed", "broken"})


def arm_name(entry: Entry, among: Sequence[Entry] = ()) -> str:
    """The values of an arm, and its seed where the arms have several; the name of a run."""
    if not entry.axes:
        return entry.name
    seeds = {other.seed for other in among}
    seed = f", seed {entry.seed}" if entry.seed is not None and len(seeds) > 1 else ""
    return ", ".join(_said(axis, value) for axis, value in entry.axes.items()) + seed


def _said(axis: str, value: str) -> str:
    """A value; what says little alone follows the last word of its setting."""
    plain = value.strip("\"'")
    if speaks_for_itself(plain):
        return plain
    setting = axis.split("+")[0].rpartition(".")[2].replace("_", " ")
    return f"{setting} {plain.replace('-', MINUS, 1) if plain[:1] == '-' else plain}"


def metric_name(metric: str) -> Child:
    """A metric, what stands in its brackets below it."""
    family, bracket, rest = metric.partition("[")
    if not bracket:
        return family.replace("_", " ")
    return [family.replace("_", " "), tag("small", rest.removesuffix("]").replace("][", ", "))]


def state_mark(entry: Entry) -> Child:
    """The state of a run, in colour and in a word."""
    if not entry.state:
        return None
    kind = "good" if entry.state in GOOD else "bad" if entry.state in BAD else "wait"
    return tag("span", entry.state, cls=f"state {kind}")


def by_axes(entry: Entry, axes: Mapping[str, Sequence[str]]) -> list[str]:
    """The values of an arm, in the order of the axes."""
    return [entry.axes.get(axis, "") for axis in axes]
