"""`sfumato edit RUN ACTION …`: pictures filled in, varied, enlarged, sharpened, coloured, or led over into others.

inpaint     --mask FILE or --box TOP,LEFT,HEIGHT,WIDTH says what to fill in; known pixels come back as they are
vary        --strength S in (0, 1]: the share of noise that a picture is given before it is sampled anew
upscale     --factor F: pictures F times as high and wide
deblur      --std S: undo a Gaussian blur of S pixels
colourise   grey pictures in colours
interpolate --from A --to B, each a seed or a picture: -n pictures on the way
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.naming import trained
from sfumato.cli.output import note, say
from sfumato.cli.sample import progress_bar, tell, weights_in_turn, whole
from sfumato.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sfumato.experiment.config import SamplingConfig
    from sfumato.experiment.edits import Edit, Edited, Method
    from sfumato.experiment.model import Model

    Pixels = NDArray[np.uint8]

__all__ = ["ACTIONS", "arguments", "run"]

SHEET = "before-after.png"
USUAL = 8  # pictures, where nobody says how many
RESTORING = ("method", "noise", "degrade", "pictures", "limit", "value", "guidance", "weights")
ACTIONS: dict[str, tuple[str, ...]] = {
    "inpaint": ("mask", "box", *RESTORING),
    "vary": ("strength", "pictures", "limit", "value", "guidance", "weights"),
    "upscale": ("factor", *RESTORING),
    "deblur": ("std", *RESTORING),
    "colourise": RESTORING,
    "interpolate": ("from", "to"),
}
NAMES = {"mask", "box", "strength", "factor", "std", "from", "to", *RESTORING}


def arguments(parser: Parser) -> None:
    """Declare the action, what it needs, and what all of them take; settings of sampling may follow."""
    parser.usage = (
        "sfumato edit RUN inpaint|vary|upscale|deblur|colourise --pictures PATH|data [options] --out FOLDER\n"
        "       sfumato edit RUN interpolate --from SEED|FILE --to SEED|FILE [-n 11] --out FOLDER"
    )
    parser.description = (__doc__ or "").partition("\n")[2].strip()
    parser.add_argument("run", metavar="RUN", help="a run folder, the name of a run, a checkpoint or an exported file")
    parser.add_argument("action", metavar="ACTION", help=", ".join(ACTIONS))
    tell(parser)
    parser.add_argument("--mask", metavar="FILE", help="white (above 127) is filled in; one for all, or a folder")
    parser.add_argument("--box", metavar="TOP,LEFT,HEIGHT,WIDTH", help="the rectangle to fill in, in pixels")
    parser.add_argument("--strength", type=float, metavar="S", help="of variations, 0 to 1 (default: 0.5)")
    parser.add_argument("--factor", type=whole, metavar="F", help="how many times larger (default: 4)")
    parser.add_argument("--std", type=float, metavar="S", help="of the blur, in pixels (default: 2)")
    parser.add_argument("--from", dest="from", metavar="SEED|FILE", help="where the path starts")
    parser.add_argument("--to", metavar="SEED|FILE", help="where the path ends")
    parser.add_argument("--degrade", action="store_true", help="the pictures are originals: degrade them, then compare")
    parser.add_argument("--method", metavar="M", help="moments (default), pigdm, dps, repaint, condition")
    parser.add_argument("--noise", type=float, metavar="L", help="noise of what is given, in 8-bit levels (default: 0)")
    parser.add_argument("-n", "--count", type=whole, metavar="N", help="variants of each picture (default: 1)")
    parser.add_argument("--limit", type=whole, metavar="P", help=f"pictures at most (default: {USUAL})")
    parser.add_argument("--steps", metavar="S", help="steps of the sampler (default: the run's)")
    parser.add_argument("--sampler", metavar="NAME", help="ddim, heun, … (default: the run's)")
    parser.add_argument("--guidance", metavar="W[,W…]", help="weight of classifier-free guidance")
    parser.add_argument("--weights", metavar="ema|live", help="averaged or last weights (default: the run's, ema)")
    parser.add_argument("--seed", type=whole, default=0, metavar="K", help="variant v of picture p has K + 1000 p + v")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--device", default="auto", metavar="D", help="where to compute (default: auto)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the pictures and the sheet go")
    parser.add_argument("--force", action="store_true", help="replace pictures that are there already")
    parser.epilog = (
        "--pictures data takes held-out pictures of the run's own data, and degrades them.\n"
        "Settings follow: --method.iterations 10, --method.scale 0.3, --method.resamplings 5, --sampler.eta 1, …\n"
        "  sfumato edit flowers-1 inpaint --pictures mine/ --box 10,10,20,20 -n 3 --out filled\n"
        "  sfumato edit flowers-1 upscale --pictures data --factor 4 --out larger\n"
        "  sfumato edit flowers-1 interpolate --from 1 --to rose.png --out path"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Edit, write pictures and a sheet of before and after; returns what was written and how it was made."""
    from sfumato.experiment.outputs import require_free_target, settings_of

    _require_action(args)
    if args.action == "interpolate":
        from sfumato.cli.paths import interpolate

        return interpolate(args, settings)
    out, n = Path(args.out), 1 if args.count is None else args.count
    require_free_target(out, 1, force=args.force, folder=True)
    _require_sheet(out / SHEET, force=args.force)
    model = trained(args.run, args)
    method = _method(args, settings, model)
    own = weights_in_turn(args.guidance)
    config = _config(args, settings, model, method, weight=args.guidance if own is None else repr(own[0]))
    job = _job(args, model)
    count = len(job.task.pictures) * max(n, 1)
    require_free_target(out, count, force=args.force, folder=True)
    started = time.perf_counter()
    with progress_bar() as progress:
        found = model.edit(
            job.task,
            n,
            method=method,
            noise=args.noise,
            seed=args.seed,
            labels=args.label,
            values=args.value,
            guidance=None if own is None else [own[i % len(own)] for i in range(count)],
            config=config,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    how = settings_of(config) if own is None else {**settings_of(config), "guidance": own}
    return _written(args, model, job, found, how, seconds)


def _require_action(args: argparse.Namespace) -> None:
    """Refuse an unknown action, and options that the action has no use for."""
    from sfumato.experiment.kinds import nearest

    if args.action not in ACTIONS:
        near = nearest(args.action, list(ACTIONS))
        fix = f"did you mean {near}?" if near else "run `sfumato edit --help`"
        raise UsageError(f"there is no edit {printable(args.action)}", expected=", ".join(ACTIONS), fix=fix)
    given = vars(args)
    for name in sorted(NAMES - set(ACTIONS[args.action])):
        if given[name] is not None and given[name] is not False:
            taken = ", ".join(f"--{option}" for option in ACTIONS[args.action])
            raise UsageError(f"--{name} was given to {args.action}", expected=taken, fix=f"leave out --{name}")
    if args.action != "interpolate" and args.pictures is None:
        raise UsageError(
            f"{args.action} without pictures",
            expected="a folder, a picture, an .npz file, or data for held-out pictures of the run",
            fix="--pictures data",
        )


def _require_sheet(path: Path, *, force: bool) -> None:
    from sfumato.figures import check_target

    check_target(path, force=force)


def _method(args: argparse.Namespace, settings: Settings, model: "Model") -> "Method | None":
    """The method with its settings; None for variations, which have none."""
    from sfumato.experiment.config import flag_nodes
    from sfumato.experiment.edits import Choice, method_named, usual_method
    from sfumato.experiment.schema import read, to_plain
    from sfumato.experiment.tree import Branch, assign, tree_of

    own = [(key, text) for key, text in settings if key.startswith("method.")]
    if args.action == "vary":
        if own:
            raise UsageError(f"--{own[0][0]} was given to vary", expected="--strength", fix=f"leave out --{own[0][0]}")
        return None
    chosen = usual_method(model) if args.method is None else method_named(args.method)
    tree = cast(Branch, tree_of(to_plain(Choice(chosen)), "method"))
    for path, node in flag_nodes(own):
        tree = assign(tree, path, node)
    return read(Choice, tree, origin="--method").method


def _config(
    args: argparse.Namespace, settings: Settings, model: "Model", method: "Method | None", *, weight: str | None
) -> "SamplingConfig":
    """The run's settings of sampling, or those that the method is used with, with those of the command over them."""
    from sfumato.experiment.config import sampling_with

    if weight is not None and not weight.strip():
        raise UsageError("--guidance is empty", expected="a weight", fix="--guidance 2, or leave out --guidance")
    short = {"steps": args.steps, "sampler": args.sampler, "guidance": weight, "weights": args.weights}
    named = [(key.removeprefix("sampling."), text) for key, text in settings if not key.startswith("method.")]
    named += [(key, text) for key, text in short.items() if text is not None]
    base = model.experiment.sampling
    if method is not None and not any(key.split(".")[0] == "sampler" for key, _ in named):
        base = method.usual(base)
    return sampling_with(base, named)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What is to be done, the originals to compare with, if there are any, and the settings for the metadata."""

    task: "Edit"
    originals: "Pixels | None"
    compared: bool
    about: dict[str, object]


def _job(args: argparse.Namespace, model: "Model") -> Job:
    """The task, its pictures read and, where they are originals, degraded."""
    from sfumato.experiment import edits
    from sfumato.experiment.pictures import stored_shape

    shape, whole_ones = stored_shape(model.record), args.degrade or args.pictures == "data"
    if args.action == "vary":
        strength = 0.5 if args.strength is None else args.strength
        return Job(edits.Vary(_pictures(args, model, shape), strength), None, False, {"strength": strength})
    if args.action == "inpaint":
        pictures = _pictures(args, model, shape)
        task: Any = edits.Inpaint(pictures, _mask(args, model, len(pictures)))
        about: dict[str, object] = {"mask": args.mask} if args.box is None else {"box": args.box}
    else:
        factor = 4 if args.factor is None else args.factor
        std = 2.0 if args.std is None else args.std
        kinds: dict[str, tuple[type[Any], dict[str, object]]] = {
            "upscale": (edits.Upscale, {"factor": factor}),
            "deblur": (edits.Deblur, {"std": std}),
            "colourise": (edits.Colourise, {}),
        }
        kind, about = kinds[args.action]
        wanted = shape if whole_ones or args.action == "colourise" else _blank(kind, about).given_shape(model.record)
        _blank(kind, about).given_shape(model.record)  # what does not fit the data is refused before they are read
        pictures = _pictures(args, model, wanted)
        task = kind(pictures, **about)
    if not whole_ones:
        return Job(task, pictures if args.action == "inpaint" else None, False, about)
    task = task.degraded(model.record, noise=args.noise or 0.0, seed=args.seed)
    return Job(task, pictures, True, about)


def _blank(kind: type[Any], about: Mapping[str, object]) -> Any:
    """The task without pictures, for its sizes."""
    import numpy as np

    return kind(np.zeros((0, 0, 0, 0), np.uint8), **about)


def _pictures(args: argparse.Namespace, model: "Model", shape: tuple[int, int, int]) -> "Pixels":
    """The pictures, at most --limit of them."""
    from sfumato.experiment.evaluation.subject import data_of
    from sfumato.experiment.pictures import read_at

    most = USUAL if args.limit is None else args.limit
    if most < 1:
        raise UsageError(f"--limit is {most}", expected="1 or more pictures", fix=f"--limit {USUAL}")
    if args.pictures == "data":
        data = data_of(model)
        indices = data.parts.held_out if len(data.parts.held_out) else data.parts.train
        held: Pixels = data.packed.values[indices[:most]].numpy()
        return held
    if not Path(args.pictures).exists():
        raise DataError(
            f"--pictures {printable(args.pictures)}: there is no such file or folder",
            expected="a folder of pictures, a picture, an .npz file, or data for held-out pictures of the run",
            fix="--pictures data",
        )
    found = read_at(Path(args.pictures), model.experiment.data, shape)
    if len(found) > most:
        note(f"the first {most} of {len(found)} pictures are edited (--limit)")
    return found[:most]


def _mask(args: argparse.Namespace, model: "Model", count: int) -> "NDArray[np.bool_]":
    """What is to be filled in: bool, (H, W), or one for each of `count` pictures."""
    import numpy as np

    from sfumato.experiment.pictures import read_at, stored_shape

    high, wide, _ = stored_shape(model.record)
    if (args.mask is None) == (args.box is None):
        raise UsageError(
            "inpaint needs either a mask or a box",
            expected="what to fill in",
            fix=f"--box {high // 4},{wide // 4},{high // 2},{wide // 2}",
        )
    if args.mask is not None:
        found = read_at(Path(args.mask), model.experiment.data, (high, wide, 1))[..., 0] > 127
        return found[0] if len(found) == 1 else found[:count]
    try:
        top, left, height, width = (int(part) for part in args.box.split(","))
    except ValueError:
        top = left = height = width = -1
    if min(top, left) < 0 or min(height, width) < 1 or top + height > high or left + width > wide:
        raise UsageError(
            f"--box {printable(args.box)}",
            expected=f"top,left,height,width in pixels, within pictures of {high} x {wide}",
            fix=f"--box {high // 4},{wide // 4},{high // 2},{wide // 2}",
        )
    mask = np.zeros((high, wide), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _written(
    args: argparse.Namespace, model: "Model", job: Job, found: "Edited", settings: dict[str, object], seconds: float
) -> dict[str, object]:
    """Write the pictures and the sheet, and say what became of them."""
    from sfumato.data.wording import counted
    from sfumato.experiment.outputs import write_samples
    from sfumato.figures import Column, edit_sheet, save

    how = {"edit": args.action, **job.about, "method": found.method, "noise": found.noise, "variants": found.variants}
    about = {"run": str(args.run), "digest": model.digest, **how, **settings}
    out = Path(args.out)
    files = write_samples(out, found.samples, about, force=args.force, folder=True)
    before = [] if job.originals is None else [Column("before", job.originals)]
    heads = ["after"] if found.variants == 1 else [str(v + 1) for v in range(found.variants)]
    after = [Column(head, found.images[:, v]) for v, head in enumerate(heads)]
    sheet = save(edit_sheet([*before, Column("given", found.shown), *after]), out / SHEET, force=args.force)
    measured = _psnr(job, found, model)
    pictures = counted(len(found.shown), "picture")
    say(f"{counted(len(files), 'result')} of {pictures} in {printable(out)} ({found.method}, {seconds:.1f} s)")
    if measured:
        error = f" ± {measured['std_error']:.2f}" if measured["std_error"] is not None else ""
        say(f"PSNR to the originals {measured['value']:.2f}{error} dB")
    say(f"before and after: {printable(sheet)}")
    document = {"out": str(out), "files": len(files), "sheet": str(sheet), "seed": args.seed, "seconds": seconds}
    return {**document, "pictures": len(found.shown), "psnr": measured, **about}


def _psnr(job: Job, found: "Edited", model: "Model") -> dict[str, Any] | None:
    """PSNR in decibels with its standard error over pictures; of inpainting over what was hidden."""
    import torch

    from sfumato.experiment.edits import Inpaint, psnr
    from sfumato.metrics import mean_of

    if not job.compared or job.originals is None:
        return None
    hidden = job.task.unknown(model.record) if isinstance(job.task, Inpaint) else None
    each = psnr(found.images, job.originals, hidden)
    if len(each) == 1:
        return {"value": float(each[0]), "std_error": None, "n": 1}
    estimate = mean_of(torch.from_numpy(each))
    return {"value": estimate.value, "std_error": estimate.std_error, "n": estimate.n}
