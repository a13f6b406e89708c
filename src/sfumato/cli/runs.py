"""`sfumato runs`: what was trained, how far it came, and how good it is."""

import argparse
import csv
import sys
from collections.abc import Mapping
from pathlib import Path

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import say, table
from sfumato.experiment.records import RunRecord, list_runs, matching, sorted_by

__all__ = ["arguments", "run"]

_COLUMNS = ("name", "state", "step", "loss", "held_out_loss", "parameters", "started")


def arguments(parser: Parser) -> None:
    """Declare where to look, what to show and in which order."""
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--sort", metavar="METRIC", help="sort by a column, figure or setting, smallest first")
    parser.add_argument("--where", metavar="KEY=VALUE", action="append", default=[], help="show only runs with this")
    parser.add_argument("--csv", action="store_true", help="comma-separated values, with every setting and figure")


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Print the runs; returns their records."""
    folder = Path(args.runs)
    found = list_runs(folder)
    records = matching(found if args.sort is None else sorted_by(found, args.sort), args.where)
    if args.csv:
        _print_csv(records)
    elif records:
        extra = [args.sort] if args.sort not in (None, *_COLUMNS, "date", "steps") else []
        swept = ["sweep"] if any(record.sweep is not None for record in records) and "sweep" not in extra else []
        columns = [*_COLUMNS[:1], *swept, *_COLUMNS[1:3], *extra, *_COLUMNS[3:]]
        table(
            [c.replace("held_out_loss", "held-out") for c in columns], [[_cell(r, c) for c in columns] for r in records]
        )
        for record in records:
            if record.note is not None:
                say(f"{record.name}: {record.note}")
    elif found:
        say(f"none of the {len(found)} runs in {folder} is like that")
    else:
        say(f"no runs in {folder}; `sfumato train digits` makes one")
    return {"runs": [_document(record) for record in records]}


def _cell(record: RunRecord, column: str) -> str:
    value = record.get(column)
    if column == "step":
        return "-" if value is None else f"{value:,}/{record.steps:,}" if record.steps is not None else f"{value:,}"
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _print_csv(records: list[RunRecord]) -> None:
    names = sorted(set().union(*(record.names() for record in records)) - set(_COLUMNS)) if records else []
    columns = [*_COLUMNS, *names]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        values = [record.get(column) for column in columns]
        writer.writerow(["" if value is None else value for value in values])


def _document(record: RunRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "folder": str(record.folder),
        "sweep": record.sweep,
        "state": record.state,
        "step": record.step,
        "steps": record.steps,
        "started": record.started,
        "parameters": record.parameters,
        "note": record.note,
        "figures": dict(record.figures),
        "settings": dict(record.settings),
    }
