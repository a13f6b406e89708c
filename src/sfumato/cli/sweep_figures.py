"""What `sfumato figures` draws of sweeps and samplers: effects, errors by level, arms, quality by steps, progress."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Settings
from sfumato.cli.naming import one, trained
from sfumato.cli.output import note
from sfumato.errors import DataError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from sfumato.experiment.effects import Effects, LevelCurves
    from sfumato.experiment.model import Model
    from sfumato.figures.quality import StepCurve
    from sfumato.metrics import Estimate

__all__ = ["arm_rows", "curves_by_level", "found_effects", "previews", "step_curves"]

USUAL_STEPS, USUAL_SAMPLERS = "5,10,20,50", "ddim,heun"
MOST_PREVIEWS = 6


def found_effects(args: argparse.Namespace) -> "Effects":
    """The effects of the sweep that is named."""
    from sfumato.experiment.effects import effects

    return effects(one(args, "SWEEP"), args.metrics, runs=args.runs)


def curves_by_level(args: argparse.Namespace) -> "LevelCurves":
    """Its errors by noise level, of the noise or (--error image) of the image."""
    from sfumato.experiment.effects import level_curves

    if args.error not in (None, "noise", "image"):
        raise UsageError(f"--error is {args.error}", expected="noise or image", fix="--error image")
    return level_curves(one(args, "SWEEP"), "image" if args.error == "image" else "noise", runs=args.runs)


def arm_rows(args: argparse.Namespace) -> "Figure | Image":
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


def step_curves(args: argparse.Namespace, settings: Settings) -> "tuple[str, list[StepCurve]]":
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


def previews(args: argparse.Namespace) -> "Image":
    """The previews of a run, which are drawn from one noise, side by side with their steps."""
    from PIL import Image

    from sfumato.experiment.places import find_run
    from sfumato.figures.sheets import CAPTION, GUTTER, write_line
    from sfumato.figures.style import INK

    folder = find_run(one(args, "RUN"), Path(args.runs))
    files = sorted((folder / "samples").glob("step-*.png"))
    if not files:
        raise DataError(
            f"{folder} has no previews in pictures",
            expected="a run of pictures with training.preview_every above 0",
            fix="train with --training.preview_every 500",
        )
    most = args.columns or MOST_PREVIEWS
    count = min(most, len(files))
    chosen = [files[round(k * (len(files) - 1) / max(1, count - 1))] for k in range(count)]
    sheets = [Image.open(path).convert("RGB") for path in chosen]
    width = sum(sheet.width + GUTTER for sheet in sheets) - GUTTER
    whole = Image.new("RGB", (width, max(sheet.height for sheet in sheets) + CAPTION), "white")
    left = 0
    for path, sheet in zip(chosen, sheets, strict=True):
        middle = left + sheet.width // 2
        step = int(path.stem.removeprefix("step-"))
        write_line(whole, f"step {step:,}", middle=middle, top=0, room=sheet.width, colour=INK)
        whole.paste(sheet, (left, CAPTION))
        left += sheet.width + GUTTER
    return whole
