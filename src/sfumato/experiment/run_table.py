"""The table of runs: which of them, in which order, with which columns. Without torch.

    KEY=VALUE   KEY!=VALUE   KEY<VALUE   KEY<=VALUE   KEY>VALUE   KEY>=VALUE

Numbers are compared as numbers, names without regard to case or dashes, times as far as they are written: a day is all
of it (started=2026-11-23, started<=2026-11-23). A VALUE in quotes is text. A run without KEY has no value: that is
`null`, unequal to everything else, and neither below nor above anything.

Sorting by a number that is better low or high is a ranking, and only numbers of the same quantity are ranked: losses of
the same objective, target, schedule, times and data; distances of the same n, extractor, reference and sampling. Runs
of other quantities form groups, each ranked for itself.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sfumato.errors import UsageError, printable
from sfumato.experiment.comparability import LOSS, NO_MATTER, direction, loss_settings, mismatches
from sfumato.experiment.kinds import canonical, nearest
from sfumato.experiment.records import ALIASES, COLUMNS, RunRecord, list_runs
from sfumato.experiment.tree import Plain

__all__ = ["Condition", "Ranking", "chosen_columns", "known_name", "matching", "ranked", "rows_of", "runs"]

Relation = Literal["=", "!=", "<", "<=", ">", ">="]
_CONDITION = re.compile(r"(.+?)(!=|<=|>=|==|=|<|>)(.*)", re.DOTALL)
_QUOTED = re.compile(r"""(["'])(.*)\1""", re.DOTALL)
TIME = "started"
FIX = "--where schedule=CosineAngle, --where 'training.steps>=3000', --where label!=draft"

LOSSES = ("loss", LOSS)  # of the log
FIGURES = (*LOSSES, "grad_norm", "images_per_second")  # of every record, though none may be written yet
OF_A_SCORE = ("data", "evaluation", "sampling", "condition")  # what decides of which quantity another figure of it is
MOST_FACTS = 3  # in a sentence

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Condition:
    """One of those that a run must meet to be listed."""

    key: str
    relation: Relation
    text: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """The condition that a person wrote. Raises UsageError for what is none."""
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise UsageError(f"--where {printable(text)}", expected="KEY=VALUE, or !=, <, <=, >, >= between", fix=FIX)
        relation: Relation = "=" if found[2] == "==" else found[2]  # type: ignore[assignment]
        return cls(found[1].strip(), relation, found[3].strip())

    def holds(self, record: RunRecord) -> bool:
        """Whether a run meets it."""
        is_equality = self.relation in ("=", "!=")
        if ALIASES.get(self.key, self.key) == "labels" and is_equality and self.wanted is not None:
            has = self.words.lower() in (label.lower() for label in record.labels)
            return has == (self.relation == "=")
        value = record.get(self.key)
        if isinstance(value, str) and ALIASES.get(self.key, self.key) == TIME:
            value = value[: len(self.words)]
        return self._equals(value) == (self.relation == "=") if is_equality else self._orders(value)

    @property
    def words(self) -> str:
        """What was written, without quotes around it."""
        quoted = _QUOTED.fullmatch(self.text)
        return self.text if quoted is None else quoted[2]

    @property
    def wanted(self) -> object:
        """What was written as what it seems to be: a number, yes or no, nothing, or text, as it is within quotes."""
        return Plain(self.text).value() if self.words == self.text else self.words

    def _equals(self, value: object) -> bool:
        wanted = self.wanted
        if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
            return value is wanted
        if _is_number(value) and _is_number(wanted):
            return value == wanted
        return canonical(str(value)) == canonical(self.words)

    def _orders(self, value: object) -> bool:
        """Whether a value lies on that side of the one that was written; False where it has no order."""
        wanted = self.words if isinstance(value, str) else self.wanted
        if not isinstance(value, str) and not (_is_number(value) and _is_number(wanted)):
            return False
        below, equal = value < wanted, value == wanted  # type: ignore[operator]
        return {"<": below, "<=": below or equal, ">": not (below or equal), ">=": not below}[self.relation]


def matching(records: Sequence[RunRecord], conditions: Iterable[str]) -> list[RunRecord]:
    """The records that meet every condition. Raises UsageError for one that means nothing for any of the records."""
    kept = list(records)
    for text in conditions:
        condition = Condition.parse(text)
        key = known_name(records, condition.key, "--where")
        meant = Condition(key, condition.relation, condition.text)
        _require_order(records, meant)
        kept = [record for record in kept if meant.holds(record)]
    return kept


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_order(records: Sequence[RunRecord], condition: Condition) -> None:
    """Refuse `step<abc`: a text that numbers are neither below nor above."""
    if condition.relation in ("=", "!=") or _is_number(condition.wanted):
        return
    values = [value for record in records if (value := record.get(condition.key)) is not None]
    if values and all(_is_number(value) for value in values):
        key, relation = condition.key, condition.relation
        raise UsageError(
            f"--where {key}{relation}{printable(condition.text)}: {key} is a number",
            expected=f"a number after {relation}",
            fix=f"--where '{key}{relation}{values[0]}'",
        )


def known_name(records: Sequence[RunRecord], key: str, option: str) -> str:
    """The name that a person means among those that runs have: `kid` is `kid[judge]` where there is no other KID.

    Raises UsageError for a name that no run knows, suggesting the nearest.
    """
    key = ALIASES.get(key, key.removesuffix(".kind"))
    names: set[str] = set().union(*(record.names() for record in records)) if records else set()
    if not records or key in names or key in FIGURES:
        return key
    measured = {name for record in records for name in record.measured}
    family = sorted(name for name in measured if name.partition("[")[0] == key)
    if len(family) == 1:
        return family[0]
    if family:
        raise UsageError(
            f"{option} {printable(key)}: runs have {len(family)} such numbers, which are different quantities",
            expected=f"one of {', '.join(family)}",
            fix=f"{option} '{family[0]}'",
        )
    near = nearest(key, sorted(names))
    raise UsageError(
        f"{option} {printable(key)}: no run has a setting or figure of that name",
        expected=f"a column ({', '.join(COLUMNS)}), a figure such as held_out_loss, a metric such as kid, or a setting",
        fix=f"did you mean {near}?" if near else "`sfumato runs --json` shows all names",
    )


# ---------------------------------------------------------------------------------------------------------------- order


@dataclass(frozen=True, slots=True)
class Ranking:
    """Records in order: each of `groups` is ordered for itself, `rest` has no value. `why`: what sets groups apart."""

    key: str
    groups: tuple[tuple[RunRecord, ...], ...]
    rest: tuple[RunRecord, ...]
    why: str = ""

    @property
    def records(self) -> list[RunRecord]:
        """All of them, one after another."""
        return [record for group in (*self.groups, self.rest) for record in group]

    @property
    def note(self) -> str | None:
        """Why there is more than one group; None where there is not."""
        if len(self.groups) < 2:
            return None
        return (
            f"{self.key} is not one quantity in all of these runs ({self.why}): they are ranked within "
            f"{len(self.groups)} groups, never across them"
        )

    def group(self, record: RunRecord) -> int | None:
        """The number of a record's group, from 1; None where it has no value."""
        return next((number for number, group in enumerate(self.groups, 1) if record in group), None)


def ranked(records: Sequence[RunRecord], key: str, *, reverse: bool = False) -> Ranking:
    """The records by a name that `known_name` gave, smallest first; those without it come last."""
    values = {id(record): record.get(key) for record in records}
    there = [record for record in records if values[id(record)] is not None]

    def rank(record: RunRecord) -> tuple[int, float, str]:
        value = values[id(record)]
        return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))

    ordered = sorted(there, key=rank, reverse=reverse)  # stable, in both directions: equals stay in the order of names
    groups: list[list[RunRecord]] = []
    why: list[str] = []
    for record in ordered:
        for group in groups:
            apart = _apart(key, group[0], record)
            if not apart:
                group.append(record)
                break
            why += apart
        else:
            groups.append([record])
    rest = tuple(record for record in records if values[id(record)] is None)
    return Ranking(key, tuple(map(tuple, groups)), rest, _facts(why))


def _apart(key: str, one: RunRecord, other: RunRecord) -> list[str]:
    """Why two runs' values of a name are of different quantities; nothing where they can be ranked."""
    base = key.removesuffix(".std_error")
    if base in one.measured and base in other.measured:
        return [mismatch.fact for mismatch in mismatches(one.measured[base], other.measured[base])]
    if base in one.measured or base in other.measured:
        return ["measured by evaluate and in training"]
    if base not in one.figures or base not in other.figures:
        return []
    if base in LOSSES:
        return _differing(loss_settings(one.settings), loss_settings(other.settings))
    if direction(base) is None:
        return []
    keys = [key for key in _differing(one.settings, other.settings) if key not in NO_MATTER]
    return [key for key in keys if any(key == section or key.startswith(f"{section}.") for section in OF_A_SCORE)]


def _differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The keys whose values differ."""
    return [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]


def _facts(why: Sequence[str]) -> str:
    """The first facts that differ, each once, a class under its own key."""
    facts = list(dict.fromkeys(fact.removesuffix(".kind") for fact in why))
    rest = f" and {len(facts) - MOST_FACTS} more" if len(facts) > MOST_FACTS else ""
    return f"{', '.join(facts[:MOST_FACTS])}{rest} differ{'s' if len(facts) == 1 else ''}" if facts else ""


# -------------------------------------------------------------------------------------------------------------- columns


def chosen_columns(records: Sequence[RunRecord], text: str) -> list[str]:
    """The columns that `a,b,c` names. Raises UsageError for one that no run has."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--columns is empty", expected="names with commas between", fix="--columns name,state,loss")
    return list(dict.fromkeys(known_name(records, name, "--columns") for name in names))


def rows_of(records: Sequence[RunRecord], columns: Sequence[str] | None = None) -> list[dict[str, object]]:
    """One flat row for each record, all with the same keys: the columns, or everything that any of them has.

    What a run does not have is None. Lists among the settings become text.
    """
    values = [record.values() for record in records]
    names = list(dict.fromkeys([*COLUMNS, *(name for each in values for name in each)])) if columns is None else columns
    return [{name: _scalar(each.get(name)) for name in names} for each in values]


def _scalar(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def runs(
    folder: str | Path = "runs",
    *,
    where: Sequence[str] | str = (),
    sort: str | None = None,
    reverse: bool = False,
    columns: Sequence[str] | None = None,
    report: Report | None = None,
) -> list[dict[str, object]]:
    """Every run in a folder as a flat record, which `pandas.DataFrame` takes as it is.

        import pandas, sfumato
        table = pandas.DataFrame(sfumato.runs(where="schedule=CosineAngle", sort="held_out_loss"))

    where: conditions such as "training.steps>=3000". sort: a column, figure, metric or setting, smallest first.
    columns: the keys of each record; None for all there are. report: hears what was damaged, and
    why a ranking has groups. Raises UsageError for a name that no run has.
    """
    note: Report = report if report is not None else lambda text: None
    found = list_runs(Path(folder), note)
    kept = matching(found, [where] if isinstance(where, str) else where)
    if sort is not None:
        ranking = ranked(kept, known_name(found, sort, "--sort"), reverse=reverse)
        kept = ranking.records
        if ranking.note is not None:
            note(ranking.note)
    return rows_of(kept, None if columns is None else chosen_columns(found, ",".join(columns)))
