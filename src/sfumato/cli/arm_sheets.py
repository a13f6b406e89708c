"""Pictures of what arms draw: a row of samples for each, all from the same noise. Generated pictures only."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.output import note
from sfumato.errors import ResourceError, SfumatoError

if TYPE_CHECKING:
    from sfumato.experiment.model import Model
    from sfumato.experiment.reproduce import Reproduction
    from sfumato.experiment.reproduce.outcome import PartOutcome
    from sfumato.experiment.reproduce.pages import Sheet
    from sfumato.figures.arms import ArmRow

__all__ = ["arm_row", "sheets"]

SAMPLES, POINTS = 8, 500


def arm_row(model: "Model", name: str, *, count: int | None = None, seed: int = 0) -> "ArmRow":
    """Samples of a model as the row of a sheet; of each class in turn where it knows classes."""
    from sfumato.figures.arms import ArmRow

    wanted = (SAMPLES if model.record.is_image else POINTS) if count is None else count
    labels = "all" if model.condition_shape.num_classes else None
    samples = model.sample(wanted, seed=seed, labels=labels)
    shown = samples.values if samples.images is None else samples.images
    assert shown is not None  # a model draws one or the other
    return ArmRow(name, shown)


def sheets(found: "Reproduction", beside: Path, device: str = "auto") -> tuple["Sheet", ...]:
    """A sheet of each part that is a grid, and one of all single arms, as PNG files beside a text.

    What cannot be drawn is noted and left out. Raises ResourceError where a file cannot be written.
    """
    grids = [[part] for part in found.parts if part.folder is not None]
    singles = [part for part in found.parts if part.folder is None]
    drawn = []
    for group in [*grids, *([singles] if singles else [])]:
        names = tuple(part.name for part in group if part.arms)
        if not names:
            continue
        suffix = names[0] if len(names) == 1 else "arms"
        file = beside.with_name(f"{beside.stem}-{suffix}.png")
        try:
            drawn.append(_sheet(group, names, file, device))
        except ResourceError:
            raise
        except SfumatoError as error:
            note(f"no samples of {', '.join(names)} are drawn: {error.what}")
    return tuple(drawn)


def _sheet(group: "Sequence[PartOutcome]", names: tuple[str, ...], file: Path, device: str) -> "Sheet":
    """Draw the first seed of every arm, in the order of the table."""
    from PIL import Image

    from sfumato.experiment.load import load
    from sfumato.experiment.reproduce.pages import Sheet
    from sfumato.figures.arms import arms

    own = [arm for part in group for arm in part.arms]
    first = {labels: min(a.seed for a in own if a.labels == labels) for labels in dict.fromkeys(a.labels for a in own)}
    rows: list[ArmRow] = []
    how: dict[str, None] = {}
    for arm in own:
        if arm.seed != first[arm.labels]:
            continue
        model = load(arm.folder, device=device, report=note)
        sampling = model.experiment.sampling
        how[f"{type(sampling.sampler).__name__} in {sampling.steps} steps"] = None
        rows.append(arm_row(model, " ".join(arm.labels)))
    picture = arms(rows)
    try:
        if isinstance(picture, Image.Image):
            picture.save(file)
        else:
            picture.savefig(file)
    except OSError as error:
        raise ResourceError(
            f"{file} cannot be written: {error.strerror or error}",
            expected="a file in a folder that is there",
            fix="choose another --out; the runs and their numbers are kept",
        ) from None
    seeds = ", ".join(str(seed) for seed in sorted(set(first.values())))
    return Sheet(
        names,
        file.name,
        (
            "a row for each arm, in the order of the table; what stands in one column is from one noise, so that what "
            "differs there is what the arms learned",
            f"all are generated, none is chosen: sampling seeds 0 to {max(len(row.samples) for row in rows) - 1}, "  # type: ignore[arg-type]
            f"{' or '.join(how)}, averaged weights of seed {seeds}",
        ),
    )
