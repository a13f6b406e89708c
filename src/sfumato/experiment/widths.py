"""Which width of average is best: the held-out loss of averages put together after training, beside the plain EMA's.

Every average is scored on the same examples, noise and noise levels (`HeldOut`), so that differences between them are
known far better than the losses themselves: the standard error of a mean of paired differences is given with each.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.core import Denoiser
from sfumato.errors import CheckpointError, DataError, UsageError
from sfumato.experiment.averages import COARSEST, StoredAverages
from sfumato.experiment.build import prepare_data
from sfumato.experiment.guiding import averaged_denoiser, place
from sfumato.experiment.model import Model
from sfumato.experiment.session import batches_of, held_out_scorer, weights_digest
from sfumato.training.held_out import HeldOut
from sfumato.training.manifest import silent

__all__ = ["Scored", "WidthCurve", "ema_width", "width_curve", "with_average"]

NARROWEST, BROADEST, POINTS = 0.01, 0.28, 15

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scored:
    """The held-out loss of one set of weights.

    width: sigma_rel; of the plain EMA that of its own profile, 0 for the weights themselves.
    loss, std_error: mean over the examples and its standard error.
    difference, difference_error: loss minus the plain EMA's on the same examples and noise, and its standard error.
    residual: relative L2 distance of the profile from that of this width, where it was put together.
    """

    width: float
    loss: float
    std_error: float
    difference: float
    difference_error: float
    residual: float | None = None


@dataclass(frozen=True, slots=True)
class WidthCurve:
    """Losses of averages by width, increasing, with those of the plain EMA and of the weights themselves.

    step, ema_step: where the averages and the plain EMA end. stored: the widths that training kept. missing: widths
    that the stored moments cannot give.
    """

    run: str
    examples: int
    noise_levels: int
    step: int
    ema_step: int
    stored: tuple[float, ...]
    missing: tuple[float, ...]
    averages: tuple[Scored, ...]
    ema: Scored
    live: Scored | None

    @property
    def best(self) -> Scored:
        """The average of the smallest loss."""
        return min(self.averages, key=lambda scored: scored.loss)

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {**asdict(self), "best": asdict(self.best)}


def with_average(model: Model, width: float, report: Report = silent) -> Model:
    """The model with the average of a width in place of its plain EMA, also under the name of the width.

    Raises UsageError for an exported file and for a width that cannot be had, CheckpointError where nothing is stored.
    """
    denoiser = averaged_denoiser(model, width, report)
    experiment = replace(model.experiment, sampling=replace(model.experiment.sampling, ema_width=None))
    weights = {"ema": denoiser, f"{width:g}": denoiser}
    return replace(model, experiment=experiment, weights=weights, digest=weights_digest(denoiser))


def width_curve(
    model: Model, *, widths: Sequence[float] | None = None, count: int | None = None, report: Report = silent
) -> WidthCurve:
    """Score averages of `widths` (None: 15 from 0.01 to 0.28), and those that training kept, on held-out examples.

    `count`: of examples; None for as many as training scores. Widths that the stored moments cannot give are listed as
    missing. Raises DataError where nothing is held out, CheckpointError where nothing is stored.
    """
    found = _stored(model, report)
    if widths is None:
        widths = np.geomspace(NARROWEST, BROADEST, POINTS).round(4).tolist()
    asked = sorted({*widths, *found.widths})
    possible = [width for width in asked if found.fitted(width).residual <= COARSEST]
    scorer, precise = _scorer(model, count), model.experiment.training.precision == "float32"

    def losses(denoiser: Denoiser) -> Tensor:
        """Of each example, (N,), in the precision of training."""
        with torch.autocast(scorer.x0.device.type, dtype=torch.bfloat16, enabled=not precise):
            return scorer.losses(denoiser).mean(0)

    began = time.perf_counter()
    plain = losses(model.denoiser)
    left = (time.perf_counter() - began) * (len(possible) + 1)
    if left > 10:
        report(f"{len(possible) + 1} more held-out losses, about {left:.0f} s")
    experiment, copied = model.experiment, copy.deepcopy(model.denoiser)
    averages, step = [], 0
    for width in possible:
        average = found.average(width)
        place(copied, average.tensors)
        averages.append(_scored(width, losses(copied), plain, residual=average.residual))
        step = average.step
    live = model.weights.get("live")
    return WidthCurve(
        run=experiment.name,
        examples=len(scorer.x0),
        noise_levels=scorer.levels,
        step=step,
        ema_step=model.steps_trained,
        stored=found.widths,
        missing=tuple(width for width in asked if width not in possible),
        averages=tuple(averages),
        ema=_scored(ema_width(experiment.training.ema_decay, model.steps_trained), plain, plain),
        live=None if live is None else _scored(0.0, losses(live), plain),
    )


def ema_width(decay: float, steps: int) -> float:
    """sigma_rel of the plain EMA after `steps` updates: the standard deviation of its profile over the time trained.

    Update n = 0, 1, … weighs (1 - d_n) Π_{k>n} d_k and lasts from n to n + 1; the start keeps Π d_k at 0. `Ema` says d.
    """
    if steps == 0:
        return 0.0
    n = np.arange(steps, dtype=np.float64)
    decays = np.minimum(decay, (1 + n) / (10 + n))
    later = np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
    weights = (1 - decays) * later
    mean = float(weights @ (n + 0.5))
    square = float(weights @ ((n + 0.5) ** 2 + 1 / 12))
    return math.sqrt(max(0.0, square - mean**2)) / steps


def _stored(model: Model, report: Report) -> StoredAverages:
    if model.folder is None:
        raise UsageError(
            "an exported file holds one average alone",
            expected="a run folder, whose training stored averages (training.power_ema)",
            fix="name the run",
        )
    try:
        return StoredAverages(model.folder, report=report)
    except CheckpointError as error:  # whose remedy, to sample without a width, is none here
        fix = "train a run that stores them: sfumato train RECIPE --training.power_ema 0.05,0.1"
        raise CheckpointError(error.what, expected=error.expected, fix=fix) from error


def _scorer(model: Model, count: int | None) -> HeldOut:
    """What training scored the held-out loss with. Raises DataError for other data and where none are held out."""
    experiment = model.experiment
    data = prepare_data(experiment)
    if data.record.fingerprint != model.record.fingerprint:
        raise DataError(
            f"the data of {experiment.name} are not those that it was trained on",
            expected="the same data",
            fix="put the data back where config.yaml says (data.path)",
        )
    if count is not None:
        experiment = replace(experiment, evaluation=replace(experiment.evaluation, count=count))
    if len(data.parts.held_out) < 2:
        raise DataError(
            f"{len(data.parts.held_out)} examples are held out",
            expected="two or more, to compare averages on",
            fix="train with a larger data.held_out",
        )
    return held_out_scorer(experiment, data, batches_of(experiment, data, next(model.denoiser.parameters()).device))


def _scored(width: float, losses: Tensor, plain: Tensor, *, residual: float | None = None) -> Scored:
    """Means with their standard errors, of the losses (N,) and of their differences to the plain EMA's."""
    root, apart = math.sqrt(len(losses)), losses - plain
    return Scored(
        width=width,
        loss=float(losses.mean()),
        std_error=float(losses.std() / root),
        difference=float(apart.mean()),
        difference_error=float(apart.std() / root),
        residual=residual,
    )
