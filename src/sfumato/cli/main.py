"""`sfumato COMMAND …`: finds the command, runs it, and turns whatever happens into an exit code.

    0 done      1 done in part     2 usage, settings     3 data     4 checkpoint     5 numerics     6 disk, memory, lock
    7 device or package missing    70 a bug of ours      75 interrupted, can be resumed             130 second Ctrl-C

With `--json` stdout is exactly one JSON document, `{"error": …}` when the command fails; everything else goes to
stderr.
"""

import argparse
import contextlib
import difflib
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, cast

from sfumato.cli.arguments import Parser, asks_for_help, split
from sfumato.cli.output import error_document, error_text, is_first_process, say, write_json
from sfumato.cli.refusals import refusal_of
from sfumato.errors import Interrupted, ResourceError, SfumatoError, UsageError

__all__ = ["COMMANDS", "Command", "build_parser", "main"]


_ABORTED = Interrupted(
    "interrupted",
    expected="the command left to finish",
    fix="give it again; a stopped run goes on with `sfumato resume`",
)


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `summary` for the list, and whether unknown `--key value` options are settings.

    The module `sfumato.cli.<module>` has `arguments(parser)` and `run(args, settings) -> document`.
    """

    summary: str
    module: str
    takes_settings: bool = False


COMMANDS: dict[str, Command] = {
    "train": Command("train a model from a recipe or a YAML file", "train", takes_settings=True),
    "resume": Command("continue a run exactly where it stopped, or extend it", "resume", takes_settings=True),
    "sample": Command("draw samples from a run or an exported model", "sample", takes_settings=True),
    "edit": Command(
        "inpaint, vary, upscale, deblur, colourise or interpolate pictures with a run", "edit", takes_settings=True
    ),
    "evaluate": Command(
        "measure likelihoods, distances, classes and losses of a run, with errors", "evaluate", takes_settings=True
    ),
    "compare": Command(
        "say whether one run is better than another, how surely, or why not", "compare", takes_settings=True
    ),
    "sweep": Command(
        "train an experiment along axes and seeds; the same command goes on", "sweep", takes_settings=True
    ),
    "effects": Command("tell what each axis of a sweep does to its metrics, with errors", "effects"),
    "classifier": Command("train the classifier of noisy data that steers a run's samples", "classifier"),
    "doctor": Command(
        "look an experiment over before it is trained, each finding with its remedy", "doctor", takes_settings=True
    ),
    "runs": Command("list runs and what became of them", "runs"),
    "reproduce": Command(
        "train and measure the experiments of a source, beside what it printed", "reproduce", takes_settings=True
    ),
    "label": Command("add labels to runs and remove them", "label"),
    "note": Command("write a note on a run, or read its notes", "note"),
    "track": Command("tell TensorBoard or another tracker of a run that is there", "track"),
    "report": Command(
        "write a run or a sweep into one HTML file to look at, print and send", "report", takes_settings=True
    ),
    "recipes": Command("list the experiments that come with sfumato", "recipes"),
    "data": Command("look a data set over before training, or pack it into one file", "data", takes_settings=True),
    "figures": Command("draw samples, noising, sampling, schedules and losses", "figures", takes_settings=True),
    "verify": Command("check every formula against exact answers on this machine", "verify"),
    "export": Command("write the model of a run into one file", "export"),
    "completion": Command("print a completion script for bash, zsh or fish", "completion"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code and never raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    named = words[: words.index("--")] if "--" in words else words
    as_json, debug = "--json" in named, "--debug" in named
    stdout = sys.stdout
    with contextlib.suppress(AttributeError, ValueError):  # stdout may be closed, or a StringIO in a test
        cast("argparse.FileType", stdout).reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
    try:
        with _quiet_stdout(as_json or not is_first_process()):
            document, code = _run(words), 0
    except SystemExit as stop:  # argparse's way out
        document, code = None, stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # the reader has seen enough: `sfumato runs | head`
        return _closed()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError, ValueError):
            print("interrupted", file=sys.stderr)
        document, code = error_document(_ABORTED), 130
    except Exception as error:
        refusal = refusal_of(error)
        if debug:
            traceback.print_exception(error)
        if refusal is None:
            refusal = _bug(error, debug)
        _print_error(refusal)
        document, code = error_document(refusal), refusal.exit_code
    return _finish(document if as_json and is_first_process() else None, code, stdout)


def _run(words: list[str]) -> Mapping[str, object] | None:
    """Find the command among the words and run it; None when only help was asked for."""
    flags = [word for word in words if word in ("--json", "--debug")]
    name = next((word for word in words if not word.startswith("-")), None)
    leading = words[: words.index(name)] if name is not None else words
    if "--version" in leading:
        from sfumato.cli.version import version

        say(f"sfumato {version()}")
        return {"version": version()}
    if name is None or "--help" in leading or "-h" in leading:
        stray = [word for word in leading if word not in ("--json", "--debug", "--help", "-h")]
        if stray:
            raise _unknown("option", stray[0], ["--help", "--version", "--json", "--debug"])
        say(_overview())
        return {"commands": {name: command.summary for name, command in COMMANDS.items()}}
    if name not in COMMANDS:
        raise _unknown("command", name, list(COMMANDS))
    rest = [word for word in leading if word not in flags] + words[words.index(name) + 1 :]
    command = COMMANDS[name]
    parser = build_parser(name)
    parts = split(rest, parser, takes_settings=command.takes_settings)
    if asks_for_help(parts.rest):
        text = parser.format_help().rstrip("\n")
        say(text)
        return {"command": name, "usage": " ".join(parser.format_usage().split()), "help": text}
    args = parser.parse_args(parts.rest)
    run: Callable[..., Mapping[str, object]] = importlib.import_module(f"sfumato.cli.{command.module}").run
    return run(args, parts.settings)


def build_parser(name: str) -> Parser:
    """The parser of a command, with the options that all commands share."""
    command = COMMANDS[name]
    parser = Parser(name, command.summary)
    importlib.import_module(f"sfumato.cli.{command.module}").arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document to stdout, all else to stderr")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sfumato COMMAND …",
            "",
            "Train, sample and look at denoising diffusion models on your own data.",
            "",
            *lines,
            "",
            "`sfumato COMMAND --help` explains a command; every command takes --json and --debug.",
            "Start with: sfumato train digits",
        ]
    )


def _unknown(what: str, given: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    fix = f"did you mean {near[0]}?" if near else "run `sfumato --help`"
    return UsageError(f"there is no {what} {given!r}", expected="one of " + ", ".join(known), fix=fix)


@contextlib.contextmanager
def _quiet_stdout(quiet: bool) -> Iterator[None]:
    """Whatever a command prints goes to stderr: stdout belongs to the JSON document, and to the first process."""
    with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
        yield


def _bug(error: Exception, debug: bool) -> SfumatoError:
    """Our own error: the traceback goes to a file, whose path is printed."""
    text = "".join(traceback.format_exception(error))
    try:
        handle, path = tempfile.mkstemp(prefix="sfumato-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        where = f"send the traceback in {path}"
    except OSError:
        where = "run the command again with --debug"
    return SfumatoError(
        f"{type(error).__name__}: {error}",
        expected="no such error: this is a bug in sfumato",
        fix="report it with the traceback above" if debug else where,
    )


def _print_error(error: SfumatoError) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed; the exit code still speaks
        print(error_text(error), file=sys.stderr)


def _closed() -> int:
    """End quietly after the reader closed the pipe: nothing may be flushed to it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _finish(document: Mapping[str, object] | None, code: int, stdout: IO[str] | None) -> int:
    """Write the document, flush, and give the exit code; output that cannot be written is an error of its own."""
    try:
        if document is not None:
            write_json(document, stdout)
        if stdout is not None:
            stdout.flush()
    except BrokenPipeError:
        _closed()
    except OSError as error:
        fix = "check the disk or the pipe that stdout leads to"
        _print_error(ResourceError(f"stdout: {error.strerror}", expected="a stdout that can be written", fix=fix))
        _closed()
        return code or 6
    return code
