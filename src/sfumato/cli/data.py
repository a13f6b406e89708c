"""`sfumato data inspect|pack PATH`: look a data set over before training, or write it into one file for training.

inspect     counts, sizes, modes, values, classes, copies, leakage, the schedule's range, and settings to begin with
pack        --out FILE.safetensors: everything decoded once, mapped into memory by --data.path FILE.safetensors
"""

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import say
from sfumato.cli.sample import whole
from sfumato.errors import UsageError, printable

if TYPE_CHECKING:
    from sfumato.experiment.inspection import Examined, Inspection

__all__ = ["ACTIONS", "arguments", "run"]

ACTIONS: dict[str, tuple[str, ...]] = {"inspect": ("sheet", "write", "recipe", "count"), "pack": ("out",)}
NAMES = tuple(name for names in ACTIONS.values() for name in names)


def arguments(parser: Parser) -> None:
    """Declare the action, where the data are, and what each action takes; settings of the data may follow."""
    parser.usage = (
        "sfumato data inspect PATH [--sheet FILE.png] [--write FILE.yaml] [--recipe RECIPE] [--KEY VALUE …]\n"
        "       sfumato data pack PATH --out FILE.safetensors [--KEY VALUE …]"
    )
    parser.description = (__doc__ or "").partition("\n")[2].strip()
    parser.add_argument("action", metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("path", metavar="PATH", help="whatever --data.path takes, or the name of a set (digits, …)")
    parser.add_argument("--sheet", metavar="FILE", help="draw a contact sheet: .png, .pdf, .svg (inspect)")
    parser.add_argument("-n", "--count", type=whole, metavar="N", help="examples on the sheet (default: 100)")
    parser.add_argument("--write", metavar="FILE.yaml", help="write the recommended settings (inspect)")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="the data and the schedule that it asks for (inspect)")
    parser.add_argument("--out", metavar="FILE", help="the packed file, ending in .safetensors (pack)")
    parser.add_argument("--force", action="store_true", help="replace files that are there already")
    parser.epilog = (
        "Settings: those of data (--data.size 64, or --size 64), --schedule NAME, --seed K of the split.\n"
        "  sfumato data inspect photos/ --sheet contact.png --write mine.yaml\n"
        "  sfumato data inspect photos/ --size 64 --recipe oxford-flowers\n"
        "  sfumato data pack photos/ --size 64 --out photos.safetensors\n"
        "What is looked at, and how: docs/inspection.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Inspect or pack; returns what was found or written."""
    if args.action not in ACTIONS:
        from sfumato.experiment.kinds import nearest

        near = nearest(args.action, list(ACTIONS))
        raise UsageError(
            f"data {printable(args.action)}: there is no such action",
            expected="one of " + ", ".join(ACTIONS),
            fix=f"did you mean {near}?" if near else "sfumato data inspect PATH",
        )
    for name in NAMES:
        if getattr(args, name) is not None and name not in ACTIONS[args.action]:
            option = "-n" if name == "count" else f"--{name}"
            other = next(action for action, names in ACTIONS.items() if name in names)
            what = f"data {args.action}: {option} was given"
            raise UsageError(what, expected=f"{option} with data {other}", fix=f"leave out {option}")
    return _inspect(args, settings) if args.action == "inspect" else _pack(args, settings)


def _examined(args: argparse.Namespace, settings: Settings) -> "Examined":
    """What the words of the command line mean; settings of the data may leave their `data.` out."""
    from sfumato.data import DataConfig
    from sfumato.experiment.inspection import examined

    own = {field.name for field in fields(DataConfig)}
    pairs = [(f"data.{key}" if key.split(".")[0] in own else key, text) for key, text in settings]
    return examined(args.path, pairs, recipe=args.recipe)


def _inspect(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    from sfumato.cli.inspection_text import lines
    from sfumato.experiment.inspection import inspect

    sheet = _free(args.sheet, force=args.force, sheet=True)
    recipe = _free(args.write, force=args.force, sheet=False)
    if args.count is not None and args.count < 1:
        raise UsageError(f"-n is {args.count}", expected="1 or more examples", fix="-n 100")
    if args.count is not None and sheet is None:
        fix = "add --sheet FILE.png; or, for the number of points of a law, --data.count"
        raise UsageError("-n was given without --sheet", expected="-n with --sheet, examples on the sheet", fix=fix)
    found = inspect(_examined(args, settings))
    document = {"path": args.path, **found.document()}
    if sheet is not None:  # files first: whoever reads the report may close the pipe early
        document["sheet"] = _draw(found, sheet, args)
    if recipe is not None and found.advice is not None:
        document["written"] = _write(found, recipe)
    for line in lines(found, args.path):
        say(line)
    if sheet is not None:
        say(f"contact sheet: {printable(sheet)}")
    if recipe is not None:
        _require_advice(found)
        say(f"settings to begin with: {printable(recipe)}")
        say(f"what they take: sfumato train {_quoted(recipe)} --dry-run")
    return document


def _quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return printable(shlex.quote(str(path)))


def _free(name: str | None, *, force: bool, sheet: bool) -> Path | None:
    """The file that is to be written; refused, before anything is read, where it cannot be."""
    if name is None:
        return None
    from sfumato.figures import check_target

    return check_target(name, force=force) if sheet else check_target(name, suffixes=(".yaml", ".yml"), force=force)


def _draw(found: "Inspection", target: Path, args: argparse.Namespace) -> str:
    from sfumato.figures import contact_sheet, save

    sheet = contact_sheet(found.packed, found.facts.copies, count=args.count)
    return str(save(sheet, target, force=args.force))


def _require_advice(found: "Inspection") -> None:
    if found.advice is None:
        raise UsageError(
            "--write: there is nothing to recommend for these data",
            expected="data that vary, of one to three dimensions",
            fix="leave out --write",
        )


def _write(found: "Inspection", target: Path) -> str:
    from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file

    assert found.advice is not None
    storage = LocalStorage()
    try:
        make_folders(target.parent, storage)
        replace_file(target, [found.advice.yaml().encode()], storage)
    except OSError as error:
        raise explained(error, f"writing {printable(target)}", path=target, storage=storage) from None
    return str(target)


def _pack(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    from sfumato.experiment.packing import OF_TRAINING, pack_data, require_free_file
    from sfumato.training.storage import human_bytes

    if args.out is None:
        raise UsageError(
            "data pack: no --out was given", expected="--out FILE.safetensors", fix="--out data.safetensors"
        )
    for key, _ in settings:
        name = key.removeprefix("data.")
        if name in OF_TRAINING or name.split(".")[0] == "schedule":
            raise UsageError(
                f"data pack: --{key} is a setting of training, and decides nothing about the packed file",
                expected="settings of reading: size, channels, limit, background, value_range, bad_files, min_size, …",
                fix="leave it out, and give it to sfumato train",
            )
    out = Path(args.out)
    require_free_file(out, force=args.force)
    asked = _examined(args, settings)
    made = pack_data(asked.data, out, seed=asked.seed, force=args.force)
    packed = made.packed
    for line in packed.report:
        say(f"note       {printable(line)}")
    say(f"examples   {len(packed):,} of {' x '.join(map(str, packed.shape))}")
    speed = len(packed) / max(made.seconds_reading, 1e-9)
    say(f"read       in {made.seconds_reading:.1f} s, {speed:,.0f} a second")
    say(f"file       {printable(out)}, {human_bytes(made.bytes)}, written in {made.seconds_writing:.1f} s")
    say(f"train with --data.path {_quoted(out)}")
    return {
        "out": str(out),
        "bytes": made.bytes,
        "count": len(packed),
        "shape": list(packed.shape),
        "num_classes": packed.num_classes,
        "test_count": packed.test_count,
        "fingerprint": packed.fingerprint,
        "report": list(packed.report),
        "seconds_reading": made.seconds_reading,
        "seconds_writing": made.seconds_writing,
    }
