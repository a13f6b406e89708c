"""`sfumato figures KIND …`: pictures of samples, noising, sampling, schedules, the embedding and losses.

grid RUN|FILE.npz        samples as a sheet of pictures or a scatter panel
forward RECIPE|RUN       examples of the data growing noisy, a row for each schedule (--compare adds more)
reverse RUN              samples on their way from noise; an animation when --out ends in .gif or .webp
both-ways RUN            examples on their way into the noise above samples on their way out of it, at the same times
schedules NAME …         alpha, sigma and log-SNR of schedules, recipes or runs, side by side
embedding                the sinusoidal embedding of the noise level
losses RUN …             training and held-out loss of runs
score RUN                learned and exact score of 2-D points as arrows, and their difference, at several times
langevin RUN             Langevin paths over the score of 2-D points; an animation as reverse
density RUN              log-density of a model of 2-D points beside the true one
ema RUN                  held-out loss of averages by their width, made after training; numbers with --json
gamma RUN                log-SNR of a run's schedule and its slope, learned and at the start, and the loss of each level
neighbours RUN           the samples most like training examples, above these and the nearest held-out ones
levels RUN               noise error by log-SNR on both parts of the data: where a model knows its examples by heart
effects SWEEP            what each axis of a sweep does to its metrics, with 95 % intervals
by-level SWEEP           noise error (--error image: of the image) by log-SNR, a curve for each point of the sweep
arms SWEEP               samples of every arm from the same noise, in the order of the table
steps RUN                a metric against the number of steps, by sampler (--samplers ddim,heun --steps 5,10,20,50)
progress RUN             the previews of a run, from one noise, by step (--columns: how many)
network RECIPE|RUN       every stage of the network with its shape and its number of parameters
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli import plane, strip_figures, sweep_figures
from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.naming import POINTS, asked_or_all, experiment_of, is_run, known, one, sampling_of, trained
from sfumato.cli.numbered import Numbered
from sfumato.cli.output import note, say
from sfumato.cli.sample import tell, whole
from sfumato.errors import DataError, UsageError, printable
from sfumato.experiment.digits import with_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from PIL.Image import Image

    from sfumato.experiment.evaluation.subject import Part, Subject
    from sfumato.figures import Animation

    Drawing = Figure | Image | Animation

__all__ = ["KINDS", "arguments", "run"]

MOST_SIDE = 512
_USUAL = ("CosineAngle", "VpSde", "Tabulated", "RectifiedFlow", "Ve")


def arguments(parser: Parser) -> None:
    """Declare the kind, what to draw, and the options that some kinds take."""
    parser.usage = "sfumato figures KIND [RUN|RECIPE|NAME|FILE.npz …] [--out FILE] [options] [--KEY VALUE …]"
    parser.description = (__doc__ or "").partition("\n")[2].strip()
    parser.add_argument("kind", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("what", metavar="WHAT", nargs="*", default=[], help="what to draw, as above")
    parser.add_argument(
        "--out", metavar="FILE", help=".png, .pdf or .svg; reverse, langevin also .gif, .webp (default: KIND.png)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    counting = "grid, forward, reverse, ema, neighbours, levels, arms, steps"
    parser.add_argument("-n", "--count", type=whole, metavar="N", help=f"examples ({counting})")
    parser.add_argument("--columns", type=whole, metavar="C", help="columns (grid) or moments (reverse, progress)")
    parser.add_argument("--seed", type=whole, default=0, metavar="K", help="seed of samples and noise (default: 0)")
    parser.add_argument("--device", default="auto", metavar="D", help="where to compute (default: auto)")
    parser.add_argument("--compare", metavar="NAME", action="append", default=[], help="another schedule (forward)")
    parser.add_argument("--channels", type=whole, default=32, metavar="C", help="of the embedding (default: 32)")
    parser.add_argument("--at", metavar="T[,T…]", help="times up to 1, which is noise (score, langevin)")
    parser.add_argument("--log-snr", metavar="L[,L…]", help="log-SNRs instead of times (score, langevin)")
    parser.add_argument("--start", metavar="X,Y", action="append", default=[], help="start of a path (langevin)")
    parser.add_argument("--metrics", metavar="A,B", help="what is measured (effects, steps)")
    parser.add_argument("--samplers", metavar="A,B", help="samplers to compare (steps; default: ddim,heun)")
    parser.add_argument("--error", metavar="noise|image", help="of what (by-level; default: noise)")
    tell(parser)
    parser.add_argument("--side", type=whole, metavar="N", help="N x N arrows (score, langevin) or cells (density)")
    parser.epilog = (
        "grid, reverse and both-ways take sampler settings (--steps 25 --sampler.eta 1), forward those of an\n"
        "experiment, langevin its own: --steps 10 --step_size 1e-3 --decay 0.9 --temperature 1"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Draw and write; returns the file."""
    from sfumato.experiment.kinds import nearest
    from sfumato.figures import MOVING, STILL, check_target, save

    if args.kind not in KINDS:
        near = nearest(args.kind, list(KINDS))
        fix = f"did you mean {near}?" if near else "run `sfumato figures --help`"
        raise UsageError(f"there is no figure {args.kind!r}", expected="one of " + ", ".join(KINDS), fix=fix)
    kind = KINDS[args.kind]
    target = check_target(
        args.out or f"{args.kind}.png", suffixes=(*STILL, *MOVING) if kind.moves else STILL, force=args.force
    )
    _require_taken(args, settings, kind)
    if args.count is not None and args.count < 1:
        raise UsageError(f"-n is {args.count}", expected="1 or more examples", fix="-n 36")
    drawn = kind.draw(args, settings, target)
    drawing, numbers = (drawn.drawing, drawn.numbers) if isinstance(drawn, Numbered) else (drawn, {})
    path = save(drawing, target, force=args.force)
    size = path.stat().st_size
    say(f"{printable(path)} ({size:,} bytes)")
    return {"out": str(path), "kind": args.kind, "bytes": size, **numbers}


def _grid(args: argparse.Namespace, settings: Settings, target: Path) -> "Drawing":
    from sfumato.figures import grid

    what = one(args, "RUN or FILE.npz")
    if what.endswith(".npz"):
        values, labels = _arrays(Path(what), args.count)
        return grid(values, labels=labels, columns=args.columns)
    model = trained(what, args)
    config = sampling_of(model, settings)
    count = args.count if args.count is not None else 36 if model.record.is_image else POINTS
    asked = asked_or_all(args, model, count)
    samples = model.sample(
        count, seed=args.seed, labels=asked.labels, values=asked.values, images=asked.images, config=config
    )
    names = samples.class_names
    labels = None if samples.labels is None or names is None else [names[label] for label in samples.labels.tolist()]
    shown = samples.values if samples.images is None else samples.images
    assert shown is not None  # a model draws one or the other
    return grid(shown, labels=labels, columns=args.columns)


def _arrays(path: Path, count: int | None) -> "tuple[NDArray[Any], list[object] | None]":
    """The samples of an array file, at most `count`, and their labels."""
    import zipfile
    import zlib

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [name for name in ("images", "values") if name in arrays.files]
            found = {name: arrays[name] for name in (*names, "labels", "class_names") if name in arrays.files}
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        what = f"cannot read {path}: {type(error).__name__}"
        raise DataError(what, expected="an .npz file of samples", fix="check the file") from error
    if not names:
        raise DataError(
            f"{path} holds neither images nor values",
            expected="an .npz file as `sfumato sample` writes it",
            fix="name the arrays images or values",
        )
    labels = _called(path, found["labels"], found.get("class_names")) if "labels" in found else None
    return found[names[0]][:count], None if labels is None else labels[:count]


def _called(path: Path, labels: "NDArray[Any]", names: "NDArray[Any] | None") -> list[object]:
    """What each label is called, by the names that the file gives its classes."""
    from sfumato.data.labels import map_labels

    if names is None:
        return list(labels.tolist())
    classes = map_labels(labels, len(labels), tuple(names.astype(str).tolist()), where=str(path))
    called = classes.values if classes.names is None else classes.names
    return [called[index] for index in classes.indices.tolist()]


def _schedules(args: argparse.Namespace, settings: Settings, target: Path) -> "Drawing":
    from sfumato.figures import schedules

    return schedules([known(name, args.runs) for name in args.what or _USUAL])


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


def _ema(args: argparse.Namespace, settings: Settings, target: Path) -> "Numbered":
    from sfumato.experiment.widths import width_curve
    from sfumato.figures import ema

    curve = width_curve(trained(one(args, "RUN"), args), count=args.count, report=note)
    best, plain = curve.best, curve.ema
    apart = f"{with_error(best.difference, best.difference_error, signed=True)} to the plain EMA's {plain.loss:.4g}"
    say(f"best width {best.width:g}: held-out loss {best.loss:.4g}, {apart}")
    return Numbered(ema(curve), {"curve": curve.document()})


def _neighbours(args: argparse.Namespace, settings: Settings, target: Path) -> "Numbered":
    from sfumato.experiment.evaluation.means import Means
    from sfumato.experiment.evaluation.memorisation import closest_pairs
    from sfumato.figures import neighbours

    subject = _subject(args, settings, "training")
    means = Means.alone(subject.model.experiment.data, note)
    pairs = closest_pairs(subject, 1000 if args.count is None else args.count, means, note)
    return Numbered(neighbours(pairs), {"closest": pairs.to_plain()})


def _levels(args: argparse.Namespace, settings: Settings, target: Path) -> "Numbered":
    from sfumato.experiment.evaluation.levels import losses_by_level, named_losses
    from sfumato.figures import levels

    found = losses_by_level(_subject(args, settings, "held-out"), note)
    return Numbered(levels(found), {"metrics": {name: e.to_plain() for name, e in named_losses(found)}})


def _network(args: argparse.Namespace, settings: Settings, target: Path) -> "Numbered":
    from sfumato.experiment.anatomy import anatomy
    from sfumato.experiment.forecast import stand_in
    from sfumato.figures.network import network

    what = one(args, "RECIPE or RUN")
    experiment = experiment_of(what, args.runs, settings)
    record = trained(what, args).record if is_run(what, args.runs) else stand_in(experiment).record
    told = record.condition_shape(experiment.condition)
    found = anatomy(experiment, shape=record.shape, is_image=record.is_image, condition=told)
    return Numbered(network(found), found.document())


def _subject(args: argparse.Namespace, settings: Settings, part: "Part") -> "Subject":
    """A run as it is evaluated, with settings of the sampling laid over its own."""
    from sfumato.experiment.evaluation.subject import subject_of

    model = trained(one(args, "RUN"), args)
    experiment = replace(model.experiment, sampling=sampling_of(model, settings))
    model = replace(model, experiment=experiment)
    n = args.count if part == "held-out" else 2  # training examples are looked up, not measured
    return subject_of(model, weights="ema", part=part, n=n, seed=args.seed, report=note)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of figure: what draws it, the options that it takes, whether settings may follow, whether it can move."""

    draw: Callable[[argparse.Namespace, Settings, Path], "Drawing | Numbered"]
    options: tuple[str, ...] = ()
    settings: bool = False
    moves: bool = False


TOLD = ("label", "value", "pictures")
KINDS: dict[str, Kind] = {
    "grid": Kind(_grid, ("count", "columns", *TOLD), settings=True),
    "forward": Kind(strip_figures.forward_of, ("count", "compare"), settings=True),
    "reverse": Kind(strip_figures.reverse_of, ("count", "columns", *TOLD), settings=True, moves=True),
    "both-ways": Kind(strip_figures.both_ways_of, ("count", "columns", *TOLD), settings=True),
    "schedules": Kind(_schedules),
    "embedding": Kind(_embedding),
    "losses": Kind(_losses),
    "score": Kind(plane.score, ("at", "log_snr", "side")),
    "langevin": Kind(plane.langevin, ("at", "log_snr", "start", "side"), settings=True, moves=True),
    "density": Kind(plane.density, ("side",)),
    "gamma": Kind(plane.gamma),
    "ema": Kind(_ema, ("count",)),
    "neighbours": Kind(_neighbours, ("count",), settings=True),
    "levels": Kind(_levels, ("count",)),
    "effects": Kind(sweep_figures.effects_of, ("metrics",)),
    "by-level": Kind(sweep_figures.by_level_of, ("error",)),
    "arms": Kind(sweep_figures.arms_of, ("count",)),
    "steps": Kind(sweep_figures.steps_of, ("count", "metrics", "samplers"), settings=True),
    "progress": Kind(sweep_figures.progress_of, ("columns",)),
    "network": Kind(_network, settings=True),
}
OPTIONS = ("count", "columns", "compare", "at", "log_snr", "start", "side", "metrics", "samplers", "error", *TOLD)


def _require_taken(args: argparse.Namespace, settings: Settings, kind: Kind) -> None:
    """Refuse options and settings that the kind of figure would pass over."""
    given = [name for name in OPTIONS if getattr(args, name) not in (None, []) and name not in kind.options]
    if settings and not kind.settings:
        unknown, subject = f"--{settings[0][0]}", "settings only"
        taking = [name for name, other in KINDS.items() if other.settings]
    elif given:
        unknown, subject = "-n" if given[0] == "count" else f"--{given[0].replace('_', '-')}", "it"
        taking = [name for name, other in KINDS.items() if given[0] in other.options]
    else:
        unknown, subject, taking = "", "", []
    if unknown:
        raise UsageError(
            f"figures {args.kind}: unknown option {unknown}",
            expected=f"{subject} with {', '.join(taking)}",
            fix="leave it out, or run `sfumato figures --help`",
        )
    if args.at is not None and args.log_snr is not None:
        raise UsageError("--at and --log-snr were both given", expected="one of them", fix="leave one out")
    if args.side is not None and not 2 <= args.side <= MOST_SIDE:
        raise UsageError(f"--side is {args.side}", expected=f"from 2 to {MOST_SIDE}", fix="--side 24")
