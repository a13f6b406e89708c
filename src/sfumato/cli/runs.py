"""`sfumato runs`: what was trained, how far it came, and how good it is."""

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import note, say, table
from sfumato.experiment.records import RunRecord, list_runs
from sfumato.experiment.rounding import with_error
from sfumato.experiment.run_table import Ranking, chosen_columns, known_name, matching, ranked, rows_of

__all__ = ["arguments", "run"]

_COLUMNS = ("name", "state", "step", "loss", "held_out_loss", "parameters", "started")
GROUP = "group"


def arguments(parser: Parser) -> None:
    """Declare where to look, what to show and in which order."""
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs, or a sweep (default: runs)")
    parser.add_argument("--sort", metavar="NAME", help="sort by a column, figure, metric or setting, smallest first")
    parser.add_argument("--reverse", action="store_true", help="largest first")
    parser.add_argument(
        "--where", metavar="KEY=VALUE", action="append", default=[], help="show only these; also !=, <, <=, >, >="
    )
    parser.add_argument("--columns", metavar="A,B", help="what to show: columns, figures, metrics, settings")
    parser.add_argument("--csv", action="store_true", help="comma-separated values: --columns, or everything")
    parser.epilog = (
        "examples:\n"
        "  sfumato runs --where schedule=CosineAngle --where 'training.steps>=3000' --sort held_out_loss\n"
        "  sfumato runs --where label=baseline --columns name,kid,kid.std_error,seed\n"
        "  sfumato runs --where sweep=noise-or-image --csv > arms.csv\n"
        "Losses and scores are ranked only among runs where they are the same quantity. docs/tracking.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Print the runs; returns their records, the groups of a ranking, and rows where columns were chosen."""
    folder = Path(args.runs)
    found = list_runs(folder, note)
    records = matching(found, args.where)
    ranking = None
    if args.sort is not None:
        ranking = ranked(records, known_name(found, args.sort, "--sort"), reverse=args.reverse)
        records = ranking.records
    elif args.reverse:
        records = records[::-1]
    columns = None if args.columns is None else chosen_columns(found, args.columns)
    if args.csv:
        _print_csv(records, columns)
    elif records:
        _print_table(records, _shown(records, ranking) if columns is None else columns, ranking)
    elif found:
        say(f"none of the {len(found)} runs in {folder} is like that")
    else:
        say(f"no runs in {folder}; `sfumato train digits` makes one")
    if ranking is not None and ranking.note is not None:
        note(ranking.note)
    document: dict[str, object] = {"runs": [_document(record) for record in records]}
    if ranking is not None:
        document["groups"] = [[record.name for record in group] for group in ranking.groups]
    if columns is not None:
        document["rows"] = rows_of(records, columns)
    return document


def _shown(records: Sequence[RunRecord], ranking: Ranking | None) -> list[str]:
    """The columns of a table for which none were chosen: the usual ones, what was sorted by, and labels."""
    extra = [] if ranking is None or ranking.key in (*_COLUMNS, "steps") else [ranking.key]
    labels = ["labels"] if any(record.labels for record in records) else []
    return [*_COLUMNS[:3], *extra, *_COLUMNS[3:], *labels]


def _print_table(records: Sequence[RunRecord], columns: Sequence[str], ranking: Ranking | None) -> None:
    """The table, with a column for the group where not all can be ranked together, and what no column says."""
    groups = ranking if ranking is not None and ranking.note is not None else None
    heads = [column.replace("held_out_loss", "held-out") for column in columns]
    rows = [[_cell(record, column) for column in columns] for record in records]
    if groups is not None:
        heads.insert(1, GROUP)
        for row, record in zip(rows, records, strict=True):
            row.insert(1, str(groups.group(record) or "-"))
    table(heads, rows)
    for record in records:
        if record.note is not None and "note" not in columns:
            say(f"{record.name}: {record.note}")


def _cell(record: RunRecord, column: str) -> str:
    value = record.get(column)
    if column == "step":
        return "-" if value is None else f"{value:,}/{record.steps:,}" if record.steps is not None else f"{value:,}"
    if column in record.measured:
        number = record.measured[column]
        return with_error(number.value, number.std_error)
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _print_csv(records: Sequence[RunRecord], columns: Sequence[str] | None) -> None:
    """Every row with the same fields: those chosen, or the usual columns first and all else by name."""
    if columns is None:
        everything = sorted(set().union(*(record.names() for record in records)) - set(_COLUMNS)) if records else []
        columns = [*_COLUMNS, *everything]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(records, columns))


def _document(record: RunRecord) -> dict[str, object]:
    measured = {
        name: {
            "value": number.value,
            "std_error": number.std_error,
            "n": number.n,
            "provenance": dict(number.provenance),
        }
        for name, number in record.measured.items()
    }
    return {
        "name": record.name,
        "folder": str(record.folder),
        "sweep": record.sweep,
        "state": record.state,
        "step": record.step,
        "steps": record.steps,
        "started": record.started,
        "parameters": record.parameters,
        "labels": list(record.labels),
        "notes": [{"number": said.number, "when": said.when, "text": said.text} for said in record.notes],
        "note": record.note,
        "figures": dict(record.figures),
        "metrics": measured,
        "settings": dict(record.settings),
    }
