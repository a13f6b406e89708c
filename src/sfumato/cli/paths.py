"""`sfumato edit RUN interpolate …`: a row of pictures from one seed or file to another."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Settings
from sfumato.cli.naming import trained
from sfumato.cli.output import say
from sfumato.errors import UsageError, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sfumato.experiment.model import Model

__all__ = ["interpolate"]

SHEET, USUAL = "path.png", 11


def interpolate(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Write the pictures on the way and all of them in a row; returns what was written."""
    import numpy as np

    from sfumato.data.wording import counted
    from sfumato.experiment.conditions import Asked
    from sfumato.experiment.config import sampling_with
    from sfumato.experiment.latents import interpolated
    from sfumato.experiment.outputs import require_free_target, settings_of, write_samples
    from sfumato.experiment.pictures import stored_shape
    from sfumato.experiment.samples import Samples
    from sfumato.figures import Column, check_target, edit_sheet, save

    out, n = Path(args.out), USUAL if args.count is None else args.count
    require_free_target(out, max(n, 1), force=args.force, folder=True)
    check_target(out / SHEET, force=args.force)
    model = trained(args.run, args)
    stored_shape(model.record)  # refuses points
    ends = {name: _end(text, name, model) for name, text in (("from", vars(args)["from"]), ("to", args.to))}
    short = [(key, text) for key, text in (("steps", args.steps), ("sampler", args.sampler)) if text is not None]
    config = sampling_with(model.experiment.sampling, [*settings, *short])
    first, second = ends["from"], ends["to"]
    if isinstance(first, int) and isinstance(second, int):
        found = interpolated(model, first, second, n, config, Asked(args.label))
    else:
        sampler = None if args.sampler is None else config.sampler
        found = model.interpolate(first, second, n, labels=args.label, steps=config.steps, sampler=sampler)
    seeds = np.full(n, args.seed, dtype=np.int64)
    images = np.asarray(found, dtype=np.uint8)
    samples = Samples(images, None, None, seeds, np.zeros(n, dtype=np.int64))
    about = {"run": str(args.run), "digest": model.digest, "edit": "interpolate", "from": vars(args)["from"]}
    about |= {"to": args.to, **settings_of(config)}
    files = write_samples(out, samples, about, force=args.force, folder=True)
    columns = [Column(f"{i / (n - 1):.2g}", images[i : i + 1]) for i in range(n)]
    sheet = save(edit_sheet(columns), out / SHEET, force=args.force)
    say(f"{counted(len(files), 'picture')} in {printable(out)}\nthe path: {printable(sheet)}")
    return {"out": str(out), "files": len(files), "sheet": str(sheet), **about}


def _end(text: str | None, name: str, model: "Model") -> "int | NDArray[np.uint8]":
    """A seed, or the first picture of a file."""
    from sfumato.experiment.pictures import read_at, stored_shape

    if text is None:
        raise UsageError(
            f"interpolate without --{name}", expected="a seed or a picture at both ends", fix=f"--{name} 1"
        )
    if text.isdecimal():
        return int(text)
    return read_at(Path(text), model.experiment.data, stored_shape(model.record))[0]
