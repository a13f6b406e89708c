"""The commands: those that made the run, and those that continue, sample, measure and report it."""

import shlex
from collections.abc import Iterator, Mapping

from sfumato.experiment.report.elements import aside, command, folded
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import Html, tag
from sfumato.experiment.report.naming import arm_name
from sfumato.experiment.report.page import Page, Section, section

__all__ = ["commands", "sampling_words"]


def commands(page: Page) -> Section | None:
    """Commands as they were given, and as they can be given now."""
    first = page.shown[0]
    body: list[Html] = []
    if page.alone:
        body += [command(what, line) for what, line in _of_run(page, first.entry)]
    else:
        body += [command(what, line) for what, line in _of_sweep(page)]
        every = [s.entry for s in page.shown]
        arms = [
            tag("div", tag("h3", arm_name(entry, every)), [command(what, line) for what, line in _of_run(page, entry)])
            for entry in every
            if entry.folder is not None
        ]
        body += [folded("Commands for each arm", arms, on_paper=False)] if arms else []
    body.append(command("This page was made by", page.command))
    words = aside("From the folder where the run was trained. Every command takes --help, and --json for programs.")
    return section("commands", "Commands", words, body)


def _of_sweep(page: Page) -> Iterator[tuple[str, str]]:
    """What makes a sweep of these axes, and goes on with this one."""
    place = shlex.quote(str(page.subject.target.parent))
    if page.subject.again:
        yield "The same arms, as a sweep of their own", page.subject.again
    yield "This sweep goes on, and prints its table, with", f"sfumato sweep {place}"


def made_by(entry: Entry) -> str | None:
    """The command that made a run, as environment.json has it."""
    words = entry.environment.get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not words:
        return None
    return shlex.join(words)


def _of_run(page: Page, entry: Entry) -> Iterator[tuple[str, str]]:
    """What was done with a run, and what can be done."""
    made = made_by(entry)
    if made is not None:
        yield "It was trained by", made
    if entry.place is None:
        return
    place = shlex.quote(entry.place)
    if entry.folder is not None:
        yield "The same run again", f"sfumato train {shlex.quote(str(entry.folder / 'config.yaml'))}"
        steps = entry.setting("training.steps")
        if entry.state == "interrupted":
            yield "It goes on with", f"sfumato resume {shlex.quote(str(entry.folder))}"
        elif isinstance(steps, int):
            yield "Train it for longer", f"sfumato resume {shlex.quote(str(entry.folder))} --training.steps {2 * steps}"
    drawn = next((s.picture for s in page.shown if s.entry is entry), None)
    spoken = not entry.setting("condition.values") and entry.setting("condition.image") is None
    if drawn is not None and drawn.values is not None and spoken:  # what a command line can ask for
        words = sampling_words(page, drawn.sampling, len(drawn.values), told=drawn.labels is not None)
        yield "These samples", f"sfumato sample {place} {shlex.join(words)} --out samples.npz"
    yield "Measure it", f"sfumato evaluate {place}"


def sampling_words(page: Page, sampling: Mapping[str, object], count: int, *, told: bool) -> list[str]:
    """The options that draw the samples of the page again, bit for bit."""
    words = ["-n", str(count), "--seed", str(page.wish.seed)]
    words += ["--label", "all"] if told else []
    given = page.wish.sampling or ()
    pairs = given.items() if isinstance(given, Mapping) else given
    for key, value in pairs:
        words += [f"--{key}"] + ([] if value is None else [str(value)])
    return [*words, "--micro_batch", str(sampling["micro_batch"])]
