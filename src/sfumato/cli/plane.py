"""Kinds of `sfumato figures` for data on the plane: score, langevin, density; and gamma, a run's schedule.

The truth beside a model is the law that its data were drawn from, where that is known, or else the points themselves.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sfumato.cli.arguments import Settings
from sfumato.cli.naming import one, trained
from sfumato.cli.output import note
from sfumato.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

    from sfumato.core import Schedule
    from sfumato.experiment.model import Model
    from sfumato.experiment.tree import Branch
    from sfumato.figures import Animation, LangevinWalk
    from sfumato.figures.field import Score
    from sfumato.figures.plane import Plane
    from sfumato.figures.strips import Limits
    from sfumato.figures.truth import Truth

    Array = NDArray[np.float64]

__all__ = ["Toy", "density", "gamma", "langevin", "score", "walked"]

CLEANEST, NOISIEST = 5.0, -0.5  # log-SNR in nats between which scores are shown
LANGEVIN_LEVEL = 3.0  # log-SNR: the data can be recognised, and the score is smooth enough to walk on
SWARM = 20  # walkers along each axis of an animation
DENSITY_SIDE = 48
FLOW_TOLERANCE = 1e-4  # of the log-density, per dimension: below what contours show


@dataclass(frozen=True, slots=True, eq=False)
class Toy:
    """A model of points of the plane, what they truly follow, and the part of the plane to show."""

    model: "Model"
    plane: "Plane"
    truth: "Truth"
    limits: "Limits"

    @property
    def schedule(self) -> "Schedule":
        return self.model.denoiser.schedule

    @property
    def like(self) -> "Tensor":
        """An empty tensor of the dtype and on the device of the model."""
        import torch

        return torch.empty(0, device=next(self.model.denoiser.network.parameters()).device)

    def learned(self, t: float) -> "Score":
        """The learned score at time t, in model units."""
        from sfumato.figures.field import score_of

        return score_of(self.model.denoiser, t, like=self.like)


def score(args: argparse.Namespace, settings: Settings, target: Path) -> "Figure":
    """The learned score beside the exact one, a row for each time."""
    from sfumato.figures import score_fields
    from sfumato.figures.field import SIDE, measured_field

    toy = _toy(args)
    side = SIDE if args.side is None else args.side
    fields = [
        measured_field(toy.learned(t), toy.truth, toy.plane, schedule=toy.schedule, t=t, limits=toy.limits, side=side)
        for t in _times(args, toy.schedule, usual=(CLEANEST, (CLEANEST + NOISIEST) / 2, NOISIEST))
    ]
    return score_fields(fields, truth=toy.truth.name)


def langevin(args: argparse.Namespace, settings: Settings, target: Path) -> "Figure | Animation":
    """Langevin paths from the starts, or their animation with a swarm beside them."""
    import torch

    from sfumato.figures import is_moving, langevin_animation, langevin_paths
    from sfumato.figures.field import SIDE, measured_field
    from sfumato.figures.plane import lattice
    from sfumato.figures.style import number, tenths

    toy = _toy(args)
    starts = _starts(args.start, toy.limits)
    toy = replace(toy, limits=_holding(toy.limits, starts))
    walk = _walk(settings, toy)
    times = _times(args, toy.schedule, usual=(LANGEVIN_LEVEL,))
    if len(times) != 1:
        raise UsageError(f"figures langevin at {len(times)} times", expected="one noise level", fix="--log-snr 3")
    (t,) = times
    r = toy.schedule.rates(t)
    side = SIDE if args.side is None else args.side
    field = measured_field(
        toy.learned(t), toy.truth, toy.plane, schedule=toy.schedule, t=t, limits=toy.limits, side=side
    )
    first = walk.first_step(float(r.sigma) * sum(toy.plane.normalization.scale) / 2)
    paths = walked(toy, torch.from_numpy(starts), t, walk, first, seed=args.seed)
    level = f"log SNR {tenths(float(r.log_snr))}"
    if is_moving(target):
        swarm = walked(toy, lattice(toy.limits, SWARM), t, walk, first, seed=args.seed + len(starts))
        return langevin_animation(paths, swarm, field, title=level)
    title = f"Langevin at t = {number(t)}, {level}: {walk.steps} steps"
    sizes = f"step size {number(first, 2)}" + ("" if walk.decay == 1 else f" × {number(walk.decay)}ᵏ")
    return langevin_paths(paths, field, title=title, truth=toy.truth.name, note=sizes)


def _starts(asked: list[str], limits: "Limits") -> "Array":
    """The places asked for, or the usual ones, (K, 2)."""
    import numpy as np

    from sfumato.figures import usual_starts

    return np.array([_place(text) for text in asked]) if asked else usual_starts(limits)


def _holding(limits: "Limits", places: "Array") -> "Limits":
    """The limits, wider where they do not hold all places (K, 2)."""
    import numpy as np

    from sfumato.figures.strips import limits_of

    return limits_of([np.array([limits.x, limits.y]).T, places]) if limits.outside(places) else limits


def density(args: argparse.Namespace, settings: Settings, target: Path) -> "Figure":
    """The log-density of the model's probability flow beside the true one."""
    from sfumato.core import Rates
    from sfumato.data.laws import law_of
    from sfumato.figures import Densities, densities
    from sfumato.figures.plane import lattice

    toy = _toy(args)
    if toy.schedule.num_steps == 1:
        raise UsageError(
            f"{args.what[0]} knows one noise level: its probability flow has no length, and so no density",
            expected="a model of many noise levels",
            fix=f"look at its score: sfumato figures score {args.what[0]}",
        )
    side = DENSITY_SIDE if args.side is None else args.side
    data = Rates.data()
    x = toy.plane.inside(lattice(toy.limits, side), data)
    model = toy.plane.log_density(_flow_log_density(toy, x), data).reshape(side, side).numpy()
    blur = _blur(toy)
    if law_of(toy.model.experiment.data) is None:
        points = toy.plane.shown(toy.truth.draws(), data).numpy()
        return densities(Densities(toy.limits, model, None), points=points, truth=toy.truth.name, note=blur)
    true = toy.plane.log_density(toy.truth.log_density(x, data), data).reshape(side, side).numpy()
    return densities(Densities(toy.limits, model, true), truth=toy.truth.name, note=blur)


def _blur(toy: Toy) -> str:
    """What noise the model's density still holds, where that can be seen: a flow starts at the schedule's t_min."""
    from sfumato.figures.style import number

    left = float(toy.schedule.rates(toy.schedule.t_min).noise_level) * max(toy.plane.normalization.scale)
    visible = left > 0.003 * (toy.limits.x[1] - toy.limits.x[0])
    return (
        f"the model's density holds noise of standard deviation {number(left, 2)}, its schedule's least"
        if visible
        else ""
    )


def gamma(args: argparse.Namespace, settings: Settings, target: Path) -> "Figure":
    """The schedule that a run ended with, and the one that it began with where they differ."""
    from sfumato.errors import CheckpointError
    from sfumato.experiment.load import find_run
    from sfumato.figures import gamma as drawn
    from sfumato.figures.history import levels
    from sfumato.training.record import MetricsLog

    what = one(args, "RUN")
    model = trained(what, args)
    schedule, start = model.denoiser.schedule, model.experiment.schedule
    try:
        losses = levels(MetricsLog.read(find_run(what, Path(args.runs)) / "metrics.jsonl"))
    except CheckpointError:  # an exported file keeps no log
        losses = None
    return drawn(schedule, start=None if schedule == start else start, losses=losses)


def _toy(args: argparse.Namespace) -> Toy:
    """The model named, and the truth of its data; refuses pictures and points of another dimension."""
    from sfumato.core import Rates
    from sfumato.data.laws import law_of
    from sfumato.experiment.build import prepare_data
    from sfumato.figures.plane import Plane, roomy
    from sfumato.figures.truth import LawTruth, PointsTruth

    model = trained(one(args, "RUN"), args)
    if model.condition_shape and not model.experiment.condition.dropout > 0:
        raise UsageError(
            f"figures {args.kind} shows the law of all data, and {args.what[0]} was always told a label or values",
            expected="a model that knows them together too (condition.dropout above 0)",
            fix=f"look at its samples: sfumato figures grid {args.what[0]}",
        )
    normalization = model.record.normalization
    plane = Plane(normalization)
    law = law_of(model.experiment.data)
    truth: Truth
    if law is None:
        note("the law of these data is not known: compared is the finite set of points that was trained on")
        data = prepare_data(model.experiment)
        truth = PointsTruth(normalization.to_model(data.packed.values[data.parts.train]).double())
    else:
        truth = LawTruth(law.normalized(normalization.mean, normalization.scale), model.experiment.data.source)
    return Toy(model, plane, truth, roomy(plane.shown(truth.draws(), Rates.data()).numpy()))


def _times(args: argparse.Namespace, schedule: "Schedule", *, usual: tuple[float, ...]) -> list[float]:
    """The times asked for by --at or --log-snr, or those of the `usual` log-SNRs; a table's are points of its grid."""
    import torch

    wanted = torch.tensor(_numbers(args.log_snr, "--log-snr") or usual, dtype=torch.float64)
    low, high = (float(schedule.rates(t).log_snr) for t in (1.0, schedule.t_min))
    if args.log_snr is not None and not bool(((wanted >= low - 1e-6) & (wanted <= high + 1e-6)).all()):
        raise UsageError(
            f"--log-snr {args.log_snr}",
            expected=f"log-SNRs of the schedule, from {low:.4g} to {high:.4g}",
            fix=f"--log-snr {max(low, min(high, 2.0)):.2g}",
        )
    times = _numbers(args.at, "--at") or schedule.time(wanted).tolist()
    if not all(schedule.t_min - 1e-9 <= t <= 1 for t in times):
        expected = f"times from {schedule.t_min:g} (data) to 1 (noise)"
        raise UsageError(f"--at {args.at}", expected=expected, fix=f"--at {max(schedule.t_min, 0.1):g}")
    steps = schedule.num_steps
    snapped = times if steps is None else [max(1, round(t * steps)) / steps for t in times]
    return sorted(dict.fromkeys(round(t, 9) for t in snapped))


def _numbers(text: str | None, option: str) -> list[float]:
    """Numbers with commas between them; none when the option was not given."""
    if text is None:
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        expected = "numbers with commas between them"
        raise UsageError(f"{option} {text}", expected=expected, fix=f"{option} 0.1,0.5") from None


def _place(text: str) -> tuple[float, float]:
    """A start, X,Y."""
    found = _numbers(text, "--start")
    if len(found) != 2:
        raise UsageError(f"--start {text}", expected="two numbers, X,Y", fix="--start=1.5,-1.5")
    return found[0], found[1]


def _walk(settings: Settings, toy: Toy) -> "LangevinWalk":
    """The walk that the settings describe; what they leave open is the run's own where it samples by such a walk."""
    from sfumato.experiment.config import flag_nodes
    from sfumato.experiment.schema import read
    from sfumato.experiment.tree import assign, tree_of
    from sfumato.figures import LangevinWalk
    from sfumato.samplers import Langevin

    own, sampler = dict[str, object](), toy.model.experiment.sampling.sampler
    if isinstance(sampler, Langevin):
        scale = sum(toy.plane.normalization.scale) / len(toy.plane.normalization.scale)
        own = {
            "steps": min(sampler.iterations, LangevinWalk().steps),
            "step_size": sampler.step_size * scale**2,
            "decay": sampler.decay,
            "temperature": sampler.temperature,
        }
    tree = cast("Branch", tree_of(own, "langevin"))
    for path, node in flag_nodes(settings):
        tree = assign(tree, path, node)
    return read(LangevinWalk, tree, origin="langevin")


def walked(toy: Toy, starts: "Tensor", t: float, walk: "LangevinWalk", first: float, *, seed: int) -> "Array":
    """The states (steps + 1, K, 2) of a walk from starts (K, 2) along the score of the points as they are shown.

    `first` is the first step size.
    """
    import torch

    from sfumato.core import NoiseSource
    from sfumato.samplers.langevin import langevin as steps_of

    learned, r = toy.learned(t), toy.schedule.rates(t)

    def shown_score(x: "Tensor") -> "Tensor":
        return toy.plane.score(learned(toy.plane.inside(x, r)), r)

    noise = NoiseSource.of(seed=seed, count=len(starts))
    states = [starts]
    states += steps_of(
        shown_score,
        starts,
        steps=walk.steps,
        step_size=first,
        decay=walk.decay,
        temperature=walk.temperature,
        noise=noise,
    )
    return torch.stack(states).numpy()


def _flow_log_density(toy: Toy, x: "Tensor") -> "Tensor":
    """log p of clean x (N, 2) in model units under the model's probability flow, (N,) float64."""
    from sfumato.core import NoiseSource
    from sfumato.likelihood import Exact, flow_log_prob

    noise = NoiseSource.of(seed=0, count=len(x))
    start = x.to(toy.like)
    found = flow_log_prob(
        toy.model.denoiser, start, divergence=Exact(), noise=noise, rtol=FLOW_TOLERANCE, atol=FLOW_TOLERANCE
    )
    return found.log_prob.cpu()
