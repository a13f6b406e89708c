"""What `sfumato evaluate RUN` leaves in the run's folder: the numbers, and pictures that belong to them."""

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.output import is_first_process, say
from sfumato.errors import printable

if TYPE_CHECKING:
    from sfumato.experiment.evaluation import Evaluation

__all__ = ["keep"]


def keep(found: "Evaluation", folder: Path | None, name: str) -> dict[str, object]:
    """Write an evaluation below a run's folder, and say where: its `file`, and its `pictures` where it has some.

    Nothing for an exported file (None), and in all processes but the first.
    """
    from sfumato.experiment.evaluation.files import write_evaluation

    if folder is None or not is_first_process():
        return {}
    # stored without the name that the run was given by: the same numbers are the same file
    file = write_evaluation(folder, name, found.stored())
    say(f"written to {printable(file)}")
    pictures = _pictures(found, file)
    return {"file": str(file), **({"pictures": pictures} if pictures else {})}


def _pictures(found: "Evaluation", file: Path) -> list[str]:
    """Pictures of the closest pairs, beside the numbers and named after them; they replace none but their equals."""
    if not found.closest:
        return []
    from sfumato.figures import neighbours, save

    targets = {space: file.with_name(f"{file.stem}-{space}.png") for space in found.closest}
    for space, target in targets.items():
        say(f"closest pairs: {printable(save(neighbours(found.closest[space]), target, force=True))}")
    return [str(target) for target in targets.values()]
