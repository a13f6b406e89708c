"""`sfumato train`: a new run of a recipe or a YAML file; `--dry-run` says what it would take."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import is_fancy, is_first_process, say
from sfumato.errors import SfumatoError, printable

if TYPE_CHECKING:
    from sfumato.experiment.config import ConditionConfig
    from sfumato.experiment.run import Run
    from sfumato.training.trainer import Reporter

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare what is not a setting; everything else, `--KEY VALUE`, changes one."""
    parser.usage = "sfumato train RECIPE|FILE [--runs DIR] [--name NAME] [--dry-run] [--device D] [--KEY VALUE …]"
    parser.add_argument("recipe", metavar="RECIPE|FILE", help="the name of a recipe, or the path of a YAML file")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--name", metavar="NAME", help="the run's name (default: the recipe's name and a number)")
    parser.add_argument("--device", metavar="D", help="short for --training.device")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and a forecast; train nothing")
    parser.epilog = (
        "Any setting may follow as --KEY VALUE or --KEY=VALUE, for example\n"
        "  sfumato train digits --training.steps 3000 --schedule CosineAngle --schedule.max_signal_rate 0.98\n"
    )
    parser.settings_help = settings_help


def settings_help() -> str:
    """Every setting with its default, every class with its fields. Imports torch."""
    from sfumato.experiment.config import Experiment
    from sfumato.experiment.describe import describe

    lines = ["settings, as --KEY VALUE or in a YAML file (classes to choose from are indented):", ""]
    for setting in describe(Experiment):
        if setting.key == "name":  # --name is an option of the command
            continue
        indent = "  " * (setting.depth + 1)
        if setting.kind is not None:
            lines.append(f"{indent}{setting.kind:<22}  {setting.about}".rstrip())
            continue
        default = f" {setting.default}" if setting.default else ""
        about = f"  {setting.about}" if setting.about else ""
        lines.append(f"{indent}--{setting.key}{default}  ({setting.accepts}){about}")
    return "\n".join(lines)


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Train; returns the run, its size, steps and speed."""
    if args.device is not None:
        settings = [*settings, ("training.device", args.device)]
    if args.dry_run:
        return _dry_run(args.recipe, settings)
    from sfumato.experiment.config import load_experiment
    from sfumato.experiment.run import train

    experiment = load_experiment(args.recipe, settings)
    with in_words_of_flags(), reporting() as reporter:
        result = train(experiment, runs=args.runs, name=args.name, reporter=reporter)
    return finished(result)


def _dry_run(recipe: str, settings: Settings) -> Mapping[str, object]:
    from sfumato.experiment.config import load_experiment
    from sfumato.experiment.forecast import forecast

    experiment = load_experiment(recipe, settings)
    with in_words_of_flags():
        found = forecast(experiment)
    say(found.text())
    return found.document()


def finished(result: "Run") -> dict[str, object]:
    """Say how a run went and what to do with it; returns its document."""
    from sfumato.data.wording import counted
    from sfumato.experiment.published import compare_with_source

    loss = "" if result.held_out_loss is None else f", held-out loss {result.held_out_loss:.4f}"
    size = f"{counted(result.steps, 'step')}, {counted(result.parameters, 'parameter')}"
    say(f"{printable(result.folder)}: {size}{loss}")
    if result.best is not None:
        say(f"best: {result.best}; sample it as {printable(result.folder / 'best')}")
    comparison = compare_with_source(result)
    for line in comparison.lines() if comparison is not None else ():
        say(line)
    out = result.folder / "samples" / ("final" if result.is_image else "final.npz")
    say(look_at(result.folder, out, result.experiment.condition, is_image=result.is_image))
    return {
        "run": str(result.folder),
        "parameters": result.parameters,
        "steps": result.steps,
        "images_per_second": result.images_per_second,
        "seconds": result.seconds,
        "held_out_loss": result.held_out_loss,
        **({"best": result.best.to_plain()} if result.best is not None else {}),
        **({"published": comparison.document()} if comparison is not None else {}),
    }


def look_at(run: Path, out: Path, told: "ConditionConfig", *, is_image: bool) -> str:
    """The line that says how to sample from a run or an exported file; `out` is where the samples go."""
    words = f"sfumato sample {shlex.quote(printable(run))} -n {36 if is_image else 1000}{asking(told)}"
    return f"look at it: {words} --out {shlex.quote(printable(out))}"


def asking(told: "ConditionConfig") -> str:
    """The options without which `sfumato sample` would refuse a model that is told these."""
    pictures = "" if told.image is None else " --pictures FOLDER"
    if told.values and told.dropout > 0:  # which numbers mean something is not known here: draw without
        return (" --label none" if told.labels else " --value none") + pictures
    return (" --label all" if told.labels else "") + (" --value A" if told.values else "") + pictures


@contextmanager
def in_words_of_flags() -> "Iterator[None]":
    """Remedies of refusals that come once the settings are read, as flags: they can be added to the command."""
    try:
        yield
    except SfumatoError as error:
        from sfumato.experiment.config import Experiment
        from sfumato.experiment.kinds import keys_of
        from sfumato.experiment.wording import in_flags

        raise in_flags(error, keys_of(Experiment)) from error


@contextmanager
def reporting() -> "Iterator[Reporter]":
    """A live bar on a terminal, plain lines elsewhere; both on stderr, and from one process only."""
    from sfumato.experiment.reporting import Bar, Lines, Silent

    if not is_first_process():
        yield Silent()
    elif is_fancy(sys.stderr):
        with Bar() as bar:
            yield bar
    else:
        yield Lines()
