"""`report`: a run or a sweep as one HTML file that holds everything it shows and asks the network for nothing."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from sfumato.errors import SfumatoError, UsageError, printable
from sfumato.experiment.config import Overrides, SamplingConfig, sampling_with
from sfumato.experiment.environment import environment
from sfumato.experiment.report import sections as parts
from sfumato.experiment.report.drawing import Wish, draw_run
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.neighbours import DataShelf
from sfumato.experiment.report.page import GENERATOR, Page, Section, Shown, Subject, render
from sfumato.experiment.report.subjects import subject_of
from sfumato.experiment.report.wording import sized
from sfumato.experiment.samples import require_seed
from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file

__all__ = ["page_of", "report", "written"]

SECTIONS = (  # in the order in which they are read
    parts.arms,
    parts.remarks,
    parts.effects,
    parts.samples,
    parts.film,
    parts.progress,
    parts.measured,
    parts.levels,
    parts.curves,
    parts.schedules,
    parts.near,
    parts.settings,
    parts.commands,
    parts.provenance,
)
USUAL, USUAL_OF_AN_ARM, MOST = 36, 8, 400
LARGE = 10_000_000  # bytes that many mail servers refuse
Note = Callable[[str], None]


def report(
    run_or_sweep: object,
    out: str | Path | None = None,
    *,
    runs: str | Path = "runs",
    n: int | None = None,
    seed: int = 0,
    real: bool = False,
    sampling: Overrides | None = None,
    device: str = "auto",
    force: bool = False,
    command: str | None = None,
    note: Note | None = None,
) -> Path:
    """Write the report of a run, a checkpoint (RUN/best), a sweep or an exported file; gives the file.

    out: the file; None: report.html in the run's folder. n: samples of each run; None: 36, or 8 of an arm; 0 draws
    nothing. seed: of the first sample. real: whether pictures of the data set may be shown. sampling: settings laid
    over those of each run. force: replace a file that is no report. command: what the page says that made it. note:
    hears what is left out and why. The same input gives the same bytes.

    Raises SfumatoError where there is no such run, or the file cannot be written; what else is missing or damaged is
    left out of the page and said there.
    """
    tell = note if note is not None else lambda text: None
    subject = subject_of(run_or_sweep, Path(runs))
    target = subject.target if out is None else Path(out)
    _require_target(target, force=force)
    wish = _wish(subject, n=n, seed=seed, real=real, sampling=sampling, device=device, runs=Path(runs))
    again = f"sfumato report {shlex.quote(str(target.parent if out is None else run_or_sweep))}"
    page = page_of(subject, wish, again if command is None else command, tell)
    return written(page, target, tell)


def _wish(
    subject: Subject,
    *,
    n: int | None,
    seed: int,
    real: bool,
    sampling: Overrides | None,
    device: str,
    runs: Path,
) -> Wish:
    """What is drawn of each run of a subject. Raises UsageError for numbers that nobody can mean."""
    alone = subject.kind != "sweep"
    count = (USUAL if alone else USUAL_OF_AN_ARM) if n is None else n
    if not 0 <= count <= MOST:
        raise UsageError(
            f"{count} samples were asked for", expected=f"from 0 to {MOST} samples of each run", fix="leave out -n"
        )
    require_seed(seed, max(count, 1))
    given = sampling if sampling is None or isinstance(sampling, Mapping) else tuple(sampling)
    if given is not None:
        sampling_with(SamplingConfig(), given)  # what no run can take is refused before anything is drawn
    return Wish(
        count=count,
        seed=seed,
        runs_drawn=sum(entry.place is not None for entry in subject.entries) or 1,
        frames=24 if alone else 16,
        examples=4 if alone else 3,
        guesses=alone,
        real=real,
        sampling=given,
        device=device,
        runs=runs,
    )


def page_of(subject: Subject, wish: Wish, command: str, note: Note) -> Page:
    """The page of a subject: every run drawn, one after the other."""
    shelf, shown = DataShelf(), []
    for index, entry in enumerate(subject.entries):
        if len(subject.entries) > 1:
            note(f"drawing {entry.name} ({index + 1} of {len(subject.entries)})")
        shown.append(_shown(entry, wish, shelf, note))
    return Page(subject, tuple(shown), wish, command)


def _shown(entry: Entry, wish: Wish, shelf: DataShelf, note: Note) -> Shown:
    """A run with what it drew; without, where its weights cannot be had."""
    if entry.place is None:
        return Shown(entry, None)
    try:
        return Shown(entry, draw_run(entry.place, wish, shelf, note))
    except SfumatoError as error:
        note(f"{entry.name}: nothing is drawn: {error.what}")
        return Shown(entry, None, f"nothing is drawn: {error.what}")


def written(page: Page, target: Path, note: Note) -> Path:
    """Write a page, whole or not at all. Raises ResourceError."""
    version = environment()["versions"]["sfumato"] or "unknown"
    sections: list[Section] = [found for make in SECTIONS if (found := make(page)) is not None]
    content = render(page, parts.header(page), sections, version).encode("utf-8", "backslashreplace")
    storage = LocalStorage()
    try:
        make_folders(target.parent, storage)
        replace_file(target, [content], storage)
    except OSError as error:
        raise explained(error, f"writing {target}", path=target, storage=storage) from None
    if len(content) > LARGE:
        note(f"{target} has {sized(len(content))}: fewer samples make it smaller (-n {max(1, page.wish.count // 2)})")
    return target


def _require_target(target: Path, *, force: bool) -> None:
    """Refuse a folder, another suffix, and a file that is there and no report. Raises UsageError."""
    if target.suffix.lower() not in (".html", ".htm"):
        better = target / "report.html" if target.is_dir() else f"{target}.html"
        raise UsageError(f"--out is {printable(target)}", expected="a file ending in .html", fix=f"--out {better}")
    if target.is_dir():
        raise UsageError(
            f"{printable(target)} is a folder", expected="the name of a file", fix=f"--out {target / 'report.html'}"
        )
    if target.exists() and not force and not _is_report(target):
        raise UsageError(
            f"{printable(target)} exists already, and is no report of sfumato",
            expected="a new file, or an older report, which is replaced",
            fix="choose another --out, or add --force",
        )


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return f'name="generator" content="{GENERATOR} '.encode() in file.read(4096)
    except OSError:
        return False
