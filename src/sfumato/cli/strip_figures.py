"""What `sfumato figures` draws as strips: examples on their way into the noise, samples on their way out, or both."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Settings
from sfumato.cli.naming import POINTS, asked_or_all, experiment_of, known, one, sampling_of, trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from sfumato.core import Schedule
    from sfumato.experiment.build import PreparedData
    from sfumato.experiment.model import Model
    from sfumato.experiment.samples import Trajectory
    from sfumato.figures import Animation

__all__ = ["both_ways_of", "forward_of", "reverse_of"]


def forward_of(args: argparse.Namespace, settings: Settings, target: Path) -> "Figure":
    """Examples of the data growing noisy, a row for each schedule."""
    from sfumato.experiment.build import prepare_data
    from sfumato.figures import forward
    from sfumato.figures.named import schedule_of

    what = one(args, "RECIPE or RUN")
    experiment = experiment_of(what, args.runs, settings)
    data = prepare_data(experiment)
    count = args.count if args.count is not None else 3 if data.record.is_image else POINTS
    own = schedule_of(experiment, Path(known(what, args.runs)))
    rows: list[Schedule | str] = [own, *(known(name, args.runs) for name in args.compare)]
    return forward(_examples(data, count), rows, normalization=data.record.normalization, seed=args.seed)


def reverse_of(args: argparse.Namespace, settings: Settings, target: Path) -> "Figure | Animation":
    """Samples on their way from noise, as a strip or in motion."""
    from sfumato.figures import animation, is_moving, reverse

    model = trained(one(args, "RUN"), args)
    usual = (25 if is_moving(target) else 3) if model.record.is_image else POINTS
    path = _path(args, settings, model, usual)
    if is_moving(target):
        return animation(path, columns=args.columns)
    columns = {} if args.columns is None else {"columns": args.columns}
    return reverse(path, schedule=model.denoiser.schedule, examples=len(path.states[0]), **columns)


def both_ways_of(args: argparse.Namespace, settings: Settings, target: Path) -> "Figure":
    """Examples on their way into the noise above samples on their way out of it, at the same times."""
    from sfumato.experiment.build import prepare_data
    from sfumato.figures import both_ways

    model = trained(one(args, "RUN"), args)
    path = _path(args, settings, model, 2 if model.record.is_image else POINTS)
    examples = _examples(prepare_data(model.experiment), len(path.states[0]))
    columns = {} if args.columns is None else {"columns": args.columns}
    schedule, normalization = model.denoiser.schedule, model.record.normalization
    return both_ways(path, examples, schedule, normalization=normalization, seed=args.seed, **columns)


def _path(args: argparse.Namespace, settings: Settings, model: "Model", usual: int) -> "Trajectory":
    """Samples with all states on their way, as many as asked for or as are usual."""
    config = sampling_of(model, settings)
    count = min(usual, config.micro_batch) if args.count is None else args.count
    asked = asked_or_all(args, model, count)
    return model.path(
        count, seed=args.seed, labels=asked.labels, values=asked.values, images=asked.images, config=config
    )


def _examples(data: "PreparedData", count: int) -> "Tensor":
    """Stored examples spread evenly over the training part, `count` or all there are."""
    import torch

    total = len(data.parts.train)
    return data.packed.values[data.parts.train[torch.linspace(0, total - 1, min(count, total)).round().long()]]
