"""What `sfumato figures` draws of sweeps and samplers: effects, errors by level, arms, quality by steps, progress."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.arguments import Settings
from sfumato.cli.naming import one, trained
from sfumato.cli.numbered import Numbered
from sfumato.cli.output import note
from sfumato.errors import DataError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from PIL.Image import Image

    from sfumato.experiment.model import Model
    from sfumato.figures.quality import StepCurve
    from sfumato.metrics import Estimate

__all__ = ["arms_of", "by_level_of", "effects_of", "progress_of", "steps_of"]

USUAL_STEPS, USUAL_SAMPLERS = "5,10,20,50", "ddim,heun"
MOST_PREVIEWS = 6


def effects_of(args: argparse.Namespace, settings: Settings, target: Path) -> Numbered:
    """The effects of the sweep that is named."""
    from sfumato.experiment.effects import effects
    from sfumato.figures.effects import effects as drawn

    found = effects(one(args, "SWEEP"), args.metrics, runs=args.runs)
    return Numbered(drawn(found), found.document())


def by_level_of(args: argparse.Namespace, settings: Settings, target: Path) -> Numbered:
    """Its errors by noise level, of the noise or (--error image) of the image."""
    from sfumato.experiment.effects import level_curves
    from sfumato.figures.by_level import by_level

    if args.error not in (None, "noise", "image"):
        raise UsageError(f"--error is {args.error}", expected="noise or image", fix="--error image")
    found = level_curves(one(args, "SWEEP"), "image" if args.error == "image" else "noise", runs=args.runs)
    return Numbered(by_level(found), found.document())


def arms_of(args: argparse.Namespace, settings: Settings, target: Path) -> "Figure | Image":
    """Samples of every trained arm of the first seed, in the order of the table, from the same noise."""
    from sfumato.cli.arm_sheets import arm_row
    from sfumato.experiment.sweep import load_sweep
    from sfumato.figures.arms import arms

    found = load_sweep(one(args, "SWEEP"), runs=args.runs)
    rows = []
    for arm in found.arms:
        if arm.seed != found.plan.base.seed or not found.is_trained(arm, found.record(arm)):
            continue
        model = trained(str(arm.folder), args)
        name = ", ".join(arm.settings.values()) or arm.name
        rows.append(arm_row(model, name, count=args.count, seed=args.seed))
    return arms(rows)


def steps_of(args: argparse.Namespace, settings: Settings, target: Path) -> Numbered:
    """The metric against the number of steps, a curve for each sampler."""
    from sfumato.figures.quality import steps

    metric, curves = _step_curves(args, settings)
    numbers = {c.sampler: {s: e.to_plain() for s, e in zip(c.steps, c.found, strict=True)} for c in curves}
    return Numbered(steps(metric, curves), {"metric": metric, "samplers": numbers})


def _step_curves(args: argparse.Namespace, settings: Settings) -> "tuple[str, list[StepCurve]]":
    """The metric of samples by each sampler with each number of steps: its name, and a curve for each sampler."""
    from sfumato.figures.quality import StepCurve

    given = dict(settings)
    counts = _whole_numbers(given.pop("steps", None) or USUAL_STEPS)
    model = trained(one(args, "RUN"), args)
    metric = args.metrics or ("kid" if model.record.is_image else "energy_distance")
    curves, name = [], metric
    for sampler in (args.samplers or USUAL_SAMPLERS).split(","):
        found = []
        for count in counts:
            note(f"{sampler}, {count} steps")
            laid = [*given.items(), ("sampler", sampler.strip()), ("steps", str(count))]
            name, estimate = _measured(model, metric, laid, args)
            found.append(estimate)
        curves.append(StepCurve(sampler.strip(), counts, tuple(found)))
    return name, curves


def _measured(model: "Model", metric: str, settings: Settings, args: argparse.Namespace) -> "tuple[str, Estimate]":
    """The name and the estimate of the one metric."""
    from sfumato.experiment.comparability import is_reference
    from sfumato.experiment.config import sampling_with
    from sfumato.experiment.evaluation import evaluate

    laid = [(key.removeprefix("sampling."), text) for key, text in settings]
    experiment = replace(model.experiment, sampling=sampling_with(model.experiment.sampling, laid))
    measured = evaluate(
        replace(model, experiment=experiment), [metric.partition("[")[0]], n=args.count, seed=args.seed, report=note
    )
    named = [(name, e) for name, e in measured.metrics.items() if not is_reference(name)]
    named = [(name, e) for name, e in named if metric in (name, name.partition("[")[0])]
    if not named:
        raise UsageError(f"{metric} was not measured", expected="a metric of samples", fix="--metrics energy_distance")
    return named[0]


def _whole_numbers(text: str) -> tuple[int, ...]:
    """Numbers of steps, in order."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise UsageError(f"--steps is {text!r}", expected="numbers of steps with commas", fix=f"--steps {USUAL_STEPS}")
    return tuple(sorted({int(word) for word in words}))


def progress_of(args: argparse.Namespace, settings: Settings, target: Path) -> "Figure | Image":
    """The previews of a run, which are drawn from one noise, side by side with their steps."""
    from sfumato.experiment.places import find_run
    from sfumato.experiment.tracking.replaying import previews
    from sfumato.figures.progress import Moment, progress

    folder = find_run(one(args, "RUN"), Path(args.runs))
    found = list(previews(folder))
    if not found:
        raise DataError(
            f"{folder} has no previews",
            expected="a run with training.preview_every above 0, and as many steps",
            fix="train with --training.preview_every 500",
        )
    count = min(args.columns or MOST_PREVIEWS, len(found))
    chosen = [found[round(k * (len(found) - 1) / max(1, count - 1))] for k in range(count)]
    return progress([Moment(step, _preview(path)) for step, path in chosen])


def _preview(path: Path) -> "Image | NDArray[Any]":
    """One preview. Raises DataError for a file that training did not write."""
    import zipfile

    import numpy as np
    from PIL import Image

    try:
        if path.suffix == ".png":
            with Image.open(path, formats=["PNG"]) as image:
                return image.convert("RGB")
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays["values"])
    except (OSError, ValueError, EOFError, KeyError, SyntaxError, zipfile.BadZipFile) as error:
        raise DataError(
            f"the preview {path} cannot be read: {type(error).__name__}",
            expected="a preview as training writes it",
            fix="remove the file",
        ) from None
