"""`sfumato figures KIND …`: pictures of samples, noising, sampling, schedules, the embedding and losses.

grid RUN|FILE.npz        samples as a sheet of pictures or a scatter panel
forward RECIPE|RUN       examples of the data growing noisy, a row for each schedule (--compare adds more)
reverse RUN              samples on their way from noise; an animation when --out ends in .gif or .webp
schedules NAME …         alpha, sigma and log-SNR of schedules, recipes or runs, side by side
embedding                the sinusoidal embedding of the noise level
losses RUN …             training and held-out loss of runs
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import note, say
from sfumato.cli.sample import whole
from sfumato.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from PIL.Image import Image

    from sfumato.core import Schedule
    from sfumato.experiment.config import Experiment, SamplingConfig
    from sfumato.experiment.model import Model
    from sfumato.figures import Animation

    Drawing = Figure | Image | Animation

__all__ = ["KINDS", "arguments", "run"]

_POINTS = 2000  # of a 2-D set, where nobody says how many
_USUAL = ("CosineAngle", "VpSde", "Tabulated", "RectifiedFlow", "Ve")


def arguments(parser: Parser) -> None:
    """Declare the kind, what to draw, and the options that some kinds take."""
    parser.usage = "sfumato figures KIND [RUN|RECIPE|NAME|FILE.npz …] [--out FILE] [options] [--KEY VALUE …]"
    parser.description = (__doc__ or "").partition("\n")[2].strip()
    parser.add_argument("kind", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("what", metavar="WHAT", nargs="*", default=[], help="what to draw, as above")
    parser.add_argument(
        "--out", metavar="FILE", help=".png, .pdf or .svg; reverse also .gif, .webp (default: KIND.png)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("-n", "--count", type=whole, metavar="N", help="examples (grid, forward, reverse)")
    parser.add_argument("--columns", type=whole, metavar="C", help="columns (grid) or moments (reverse)")
    parser.add_argument("--seed", type=whole, default=0, metavar="K", help="seed of samples and noise (default: 0)")
    parser.add_argument("--device", default="auto", metavar="D", help="where to sample (grid, reverse)")
    parser.add_argument("--compare", metavar="NAME", action="append", default=[], help="another schedule (forward)")
    parser.add_argument("--channels", type=whole, default=32, metavar="C", help="of the embedding (default: 32)")
    parser.epilog = (
        "grid and reverse take sampler settings (--steps 25 --sampler.eta 1), forward those of an experiment."
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Draw and write; returns the file."""
    from sfumato.experiment.kinds import nearest
    from sfumato.figures import MOVING, STILL, check_target, save

    if args.kind not in KINDS:
        near = nearest(args.kind, list(KINDS))
        fix = f"did you mean {near}?" if near else "run `sfumato figures --help`"
        raise UsageError(f"there is no figure {args.kind!r}", expected="one of " + ", ".join(KINDS), fix=fix)
    suffixes = (*STILL, *MOVING) if args.kind == "reverse" else STILL
    target = check_target(args.out or f"{args.kind}.png", suffixes=suffixes, force=args.force)
    if settings and args.kind not in ("grid", "forward", "reverse"):
        raise UsageError(
            f"figures {args.kind}: unknown option --{settings[0][0]}",
            expected="settings only with grid, forward and reverse",
            fix="run `sfumato figures --help`",
        )
    if args.count is not None and args.count < 1:
        raise UsageError(f"-n is {args.count}", expected="1 or more examples", fix="-n 36")
    path = save(KINDS[args.kind](args, settings, target), target, force=args.force)
    size = path.stat().st_size
    say(f"{printable(path)} ({size:,} bytes)")
    return {"out": str(path), "kind": args.kind, "bytes": size}


def _grid(args: argparse.Namespace, settings: Settings, target: Path) -> "Drawing":
    from sfumato.figures import grid

    what = _one(args, "RUN or FILE.npz")
    if what.endswith(".npz"):
        values, labels = _arrays(Path(what), args.count)
        return grid(values, labels=labels, columns=args.columns)
    model = _model(what, args)
    config = _sampling(model, settings)
    count = args.count if args.count is not None else 36 if model.record.is_image else _POINTS
    samples = model.sample(count, seed=args.seed, config=config)
    return grid(samples.images if samples.images is not None else samples.values, columns=args.columns)  # type: ignore[arg-type]


def _arrays(path: Path, count: int | None) -> "tuple[NDArray[Any], list[object] | None]":
    """The samples of an array file, at most `count`, and their labels."""
    import zipfile
    import zlib

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [name for name in ("images", "values") if name in arrays.files]
            found = {name: arrays[name][:count] for name in (*names, "labels") if name in arrays.files}
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        what = f"cannot read {path}: {type(error).__name__}"
        raise DataError(what, expected="an .npz file of samples", fix="check the file") from error
    if not names:
        raise DataError(
            f"{path} holds neither images nor values",
            expected="an .npz file as `sfumato sample` writes it",
            fix="name the arrays images or values",
        )
    return found[names[0]], list(found["labels"].tolist()) if "labels" in found else None


def _forward(args: argparse.Namespace, settings: Settings, target: Path) -> "Drawing":
    import torch

    from sfumato.experiment.build import prepare_data
    from sfumato.figures import forward

    experiment = _experiment(_one(args, "RECIPE or RUN"), args.runs, settings)
    data = prepare_data(experiment)
    total = len(data.parts.train)
    count = args.count if args.count is not None else 3 if data.record.is_image else _POINTS
    chosen = data.parts.train[torch.linspace(0, total - 1, min(count, total)).round().long()]
    rows: list[Schedule | str] = [experiment.schedule, *(_known(name, args.runs) for name in args.compare)]
    return forward(data.packed.values[chosen], rows, normalization=data.record.normalization, seed=args.seed)


def _reverse(args: argparse.Namespace, settings: Settings, target: Path) -> "Drawing":
    from sfumato.figures import animation, is_moving, reverse

    model = _model(_one(args, "RUN"), args)
    config = _sampling(model, settings)
    usual = (25 if is_moving(target) else 3) if model.record.is_image else _POINTS
    count = min(usual, config.micro_batch) if args.count is None else args.count
    path = model.path(count, seed=args.seed, config=config)
    if is_moving(target):
        return animation(path, columns=args.columns)
    columns = {} if args.columns is None else {"columns": args.columns}
    return reverse(path, schedule=model.experiment.schedule, examples=count, **columns)


def _schedules(args: argparse.Namespace, settings: Settings, target: Path) -> "Drawing":
    from sfumato.figures import schedules

    return schedules([_known(name, args.runs) for name in args.what or _USUAL])


def _embedding(args: argparse.Namespace, settings: Settings, target: Path) -> "Drawing":
    from sfumato.figures import embedding

    if args.what:
        raise UsageError(f"figures embedding {args.what[0]}", expected="no name", fix="leave it out")
    return embedding(args.channels)


def _losses(args: argparse.Namespace, settings: Settings, target: Path) -> "Drawing":
    from sfumato.experiment.load import find_run
    from sfumato.figures import losses
    from sfumato.training.record import MetricsLog

    if not args.what:
        raise UsageError(
            "figures losses: no run was named", expected="one or more runs", fix="`sfumato runs` lists them"
        )
    folders = [find_run(name, Path(args.runs)) for name in args.what]
    return losses({folder.name: MetricsLog.read(folder / "metrics.jsonl") for folder in folders})


KINDS: dict[str, Callable[[argparse.Namespace, Settings, Path], "Drawing"]] = {
    "grid": _grid,
    "forward": _forward,
    "reverse": _reverse,
    "schedules": _schedules,
    "embedding": _embedding,
    "losses": _losses,
}


def _one(args: argparse.Namespace, what: str) -> str:
    """The one thing to draw."""
    if len(args.what) != 1:
        given = "nothing" if not args.what else " ".join(args.what)
        raise UsageError(
            f"figures {args.kind}: {given} was named", expected=f"one {what}", fix=f"sfumato figures {args.kind} NAME"
        )
    return str(args.what[0])


def _model(what: str, args: argparse.Namespace) -> "Model":
    from sfumato.experiment.load import load

    return load(what, runs=args.runs, device=args.device, report=note)


def _sampling(model: "Model", settings: Settings) -> "SamplingConfig":
    from sfumato.experiment.config import sampling_with

    return sampling_with(model.experiment.sampling, [(key.removeprefix("sampling."), text) for key, text in settings])


def _known(name: str, runs: str) -> str:
    """A run's folder where `name` is a run; other names as they are."""
    folder = Path(runs) / name
    return str(folder) if (folder / "config.yaml").is_file() else name


def _experiment(what: str, runs: str, settings: Settings) -> "Experiment":
    from sfumato.experiment.config import load_experiment

    return load_experiment(_known(what, runs), settings)
