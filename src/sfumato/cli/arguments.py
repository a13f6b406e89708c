"""Arguments: declared options by argparse, every other `--key value` a setting of the experiment.

    sfumato train digits --runs out --training.steps 3000 --schedule=CosineAngle
                         declared          settings

Splitting them first keeps argparse from taking the value of a setting for a positional argument.
"""

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sfumato.errors import UsageError

__all__ = ["DASHED", "CommandLine", "Parser", "Settings", "asks_for_help", "split"]

NEGATIVE = re.compile(r"-(\.?\d|inf|nan)")
DASHED = "~"  # what stands for the dash of a word that is no option, for argparse would take -tag for one
Settings = list[tuple[str, str | None]]  # a flag without a value has no text


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError, knows no abbreviations, and remembers which options were declared."""

    def __init__(self, command: str, summary: str, *, usage: str | None = None) -> None:
        self.declared: list[str] = []
        self.taking: list[str] = []  # those that take exactly one value
        self.settings_help: Callable[[], str] | None = None  # what --help adds, made only when it is asked for
        self.takes_dashed = False  # whether words such as -tag are values; they become ~tag
        super().__init__(
            prog=f"sfumato {command}".strip(),
            description=summary,
            usage=usage,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As argparse's; the option strings are remembered."""
        action = super().add_argument(*names, **options)
        self.declared += action.option_strings
        self.taking += action.option_strings if action.nargs is None else ()
        return action

    def format_help(self) -> str:
        """argparse's help, followed by the settings where the command takes them."""
        text = super().format_help()
        return text if self.settings_help is None else f"{text}\n{self.settings_help()}\n"

    def error(self, message: str) -> NoReturn:
        """argparse's complaint as a UsageError."""
        wrong = re.fullmatch(r"argument (-[\w-]+)\S*: invalid whole value: (.*)", message, re.DOTALL)
        if wrong is not None:
            what = f"{wrong[1]} needs a whole number, not {wrong[2]}"
            raise UsageError(what, expected="digits alone", fix=f"such as {wrong[1]} 36")
        raise UsageError(f"{self.prog}: {message}", expected=_usage_line(self), fix=f"run `{self.prog} --help`")


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether -h or --help is among the options."""
    options = words[: words.index("--")] if "--" in words else words
    return "-h" in options or "--help" in options


def _usage_line(parser: argparse.ArgumentParser) -> str:
    lines = parser.format_usage().removeprefix("usage: ").strip().split(f"\n{'':7}{parser.prog} ")
    return f" or {parser.prog} ".join(" ".join(line.split()) for line in lines)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """`rest` goes to argparse, `settings` are (key, text) pairs in the order given; no text where none was."""

    rest: list[str]
    settings: Settings


def split(argv: Sequence[str], parser: Parser, *, takes_settings: bool) -> CommandLine:
    """Separate declared options from settings.

    Raises UsageError for an option that is unknown where no settings are taken, naming the nearest, and for an empty
    setting, which a shell makes of a variable that is not set.
    """
    rest: list[str] = []
    settings: Settings = []
    words = list(argv)
    while words:
        word = words.pop(0)
        option, equals, text = word.partition("=")
        if word == "--":
            rest += [word, *words]
            break
        if parser.takes_dashed and word not in parser.declared and re.fullmatch(r"-\w.*", word):
            rest.append(f"{DASHED}{word[1:]}")
            continue
        if not option.startswith("--") or option in parser.declared:
            negative = word in parser.taking and word.startswith("--") and bool(words) and NEGATIVE.match(words[0])
            rest.append(f"{word}={words.pop(0)}" if negative else word)  # "-1,2" looks like an option to argparse
            continue
        _require_setting(option, parser, takes_settings)
        value: str | None = text
        if not equals:
            alone = not words or words[0].startswith("--") or words[0] in parser.declared
            value = None if alone else words.pop(0)
        if value is not None and not value.strip():
            raise UsageError(f"{option} is empty", expected="a value", fix=f"{option} null, or leave out {option}")
        settings.append((option.removeprefix("--"), value))
    return CommandLine(rest, settings)


def _require_setting(option: str, parser: Parser, takes_settings: bool) -> None:
    """Refuse an option that is no setting, or that is nearly a declared one."""
    near = difflib.get_close_matches(option, parser.declared, n=1, cutoff=0.6 if not takes_settings else 0.85)
    if takes_settings and ("." in option or not near):
        return
    options = ", ".join(name for name in parser.declared if name.startswith("--"))
    raise UsageError(
        f"{parser.prog}: unknown option {option}",
        expected=options,
        fix=f"did you mean {near[0]}?" if near else f"run `{parser.prog} --help`",
    )
