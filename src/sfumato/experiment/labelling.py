"""`label` and `note`: say something of a run, found by its name. Without torch."""

from collections.abc import Sequence
from pathlib import Path

from sfumato.experiment.places import find_run
from sfumato.experiment.remarks import Remarks, remarks_of, write_labels, write_note, write_removal

__all__ = ["label", "note"]


def label(
    run: str | Path, add: Sequence[str] = (), remove: Sequence[str] = (), *, runs: str | Path = "runs"
) -> Remarks:
    """Add and remove labels of a run; gives all that is said of it then.

    Raises CheckpointError for a run that is not there, UsageError for what is no label.
    """
    folder = find_run(run, Path(runs))
    if add or remove:
        write_labels(folder, add, remove)
    return remarks_of(folder, lambda text: None)


def note(run: str | Path, text: str | None = None, *, remove: int | None = None, runs: str | Path = "runs") -> Remarks:
    """Write a note on a run, or remove its note of number `remove`; gives all that is said of it then.

    Raises CheckpointError for a run that is not there, UsageError for an empty note or one that is not there.
    """
    folder = find_run(run, Path(runs))
    if remove is not None:
        write_removal(folder, remove)
    if text is not None:
        write_note(folder, text)
    return remarks_of(folder, lambda text: None)
