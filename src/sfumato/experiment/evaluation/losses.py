"""The run's own objective, held out and on the training part, and the smallest values that it can have.

Each example meets `ROUNDS` draws of (t, eps) like those of training, times stratified over all examples: an unbiased
estimate of what training minimises, with the spread over examples as its error.
"""

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sfumato.core import batch_noise, derived_generator, derived_seed
from sfumato.data.laws import Law
from sfumato.errors import DataError
from sfumato.experiment.evaluation.subject import SLOW, Part, Subject, slowly
from sfumato.metrics import Estimate, mean_of
from sfumato.objectives import DenoisingLoss, Draw, Mse, attainable_loss
from sfumato.objectives.attainable import levels_of, noise_weights
from sfumato.training.conditioner import Examples

__all__ = ["loss_entries", "losses_of", "points_by_heart", "size_of"]

ROUNDS = 16
LAW_DRAWS = 256  # per level
BATCH = 64
MOST_POINTS, MOST_VALUES = 20_000, 4_000_000  # of a data set whose posterior is cheap
Entry = tuple[str, Estimate]


def loss_entries(subject: Subject, note: Callable[[str], None]) -> Iterator[Entry]:
    """loss[held-out], loss[training], and the smallest: loss[attainable] by heart, loss[law] on new examples."""
    parts: list[Part] = ["held-out", "training"] if len(subject.data.parts.held_out) >= 2 else ["training"]
    objective = type(subject.model.experiment.objective).__name__
    for part in parts:
        examples = subject.part_examples(part, max(subject.n, 2))
        facts = subject.facts(objective=objective, draws_per_example=ROUNDS, measured_as=measured_as(subject))
        yield f"loss[{part}]", mean_of(losses_of(subject, examples, part), {**facts, "part": part})
    if not isinstance(subject.model.experiment.objective, DenoisingLoss) or not is_squared(subject):
        note("no smallest loss beside the loss: only that of a squared error is known in closed form")
        return
    if subject.cond is not None:
        note("no smallest loss beside the loss: it is known for networks that are told nothing of the examples")
        return
    yield from attainable_entries(subject, note)
    yield from law_entries(subject, note)


def measured_as(subject: Subject) -> str:
    """All that decides what a loss is a loss of, in words: losses that differ in it are of different quantities."""
    e, record = subject.model.experiment, subject.model.record
    parts = (
        repr(e.objective),
        repr(e.parameterization),
        repr(e.schedule),
        repr(e.times),
        f"data std {record.data_std:.6g}",
        f"{record.normalization.kind} mean {record.normalization.mean} scale {record.normalization.scale}",
        f"told {subject.told_as}",
    )
    return ", ".join(parts)


def losses_of(subject: Subject, examples: Examples, part: str) -> Tensor:
    """The mean of `ROUNDS` losses of each example, (n,) float64; the network is told all that it can be."""
    x0, cond = examples.x0, examples.cond
    experiment, d = subject.model.experiment, subject.denoiser
    rounds, began = [], time.perf_counter()
    for index in range(ROUNDS):
        seed = derived_seed(subject.seed, f"evaluate loss {part}", index)
        drawn = experiment.times.draw(d.schedule, len(x0), derived_generator(seed, "times"))
        noise = [
            batch_noise(tuple(x0.shape), seed, "noise", k).to(x0) for k in range(1 + experiment.objective.num_probes)
        ]
        found = []
        for start in range(0, len(x0), size_of(subject)):
            cut = slice(start, start + size_of(subject))
            draw = Draw(drawn.t[cut], noise[0][cut], drawn.inv_density[cut], tuple(v[cut] for v in noise[1:]))
            told = None if cond is None else cond[cut]
            found.append(experiment.objective(d, x0[cut], draw, told).values.detach().to("cpu", torch.float64))
        rounds.append(torch.cat(found))
        left = (time.perf_counter() - began) * (ROUNDS - 1)
        if index == 0 and left > SLOW:
            subject.report(slowly(f"loss of the {part} part", len(x0) * (ROUNDS - 1), left))
    return torch.stack(rounds).mean(0)


def size_of(subject: Subject) -> int:
    """Examples in memory at once."""
    return BATCH if subject.model.record.is_image else 50 * BATCH


def attainable_entries(subject: Subject, note: Callable[[str], None]) -> Iterator[Entry]:
    """loss[attainable]: the smallest loss of any network on the training part, for a squared error and few points."""
    experiment = subject.model.experiment
    objective = experiment.objective
    assert isinstance(objective, DenoisingLoss)
    points = points_by_heart(subject, note)
    if points is None:
        return
    schedule = subject.denoiser.schedule
    found = attainable_loss(
        points,
        objective,
        schedule=schedule,
        parameterization=subject.denoiser.parameterization,
        times=experiment.times,
        data_std=subject.denoiser.data_std,
        seed=subject.seed,
        draws=max(16, math.ceil(6400 / (schedule.num_steps or 128))),
    )
    facts = subject.facts(method="posterior mean of the training points", part="training", points=len(points))
    yield "loss[attainable]", Estimate(found.value, found.std_error, found.draws, facts)
    note(
        "loss[attainable] is the smallest that any network can reach on the training part; it would have learned the "
        "points by heart"
    )


def points_by_heart(subject: Subject, note: Callable[[str], None]) -> Tensor | None:
    """The training points in model space, mirrored ones among them; None, with a note, for too many of them."""
    count = len(subject.data.parts.train)
    if count > MOST_POINTS or count * subject.dim > MOST_VALUES:
        note(f"no attainable loss: {count:,} training examples are too many for an exact posterior")
        return None
    points = subject.training_examples(count).x0
    return torch.cat([points, points.flip(-1)]) if subject.model.experiment.data.flip else points


def is_squared(subject: Subject) -> bool:
    """Whether the objective is a squared error, whose optimum is a posterior mean."""
    objective = subject.model.experiment.objective
    return isinstance(objective, DenoisingLoss) and isinstance(objective.distance, Mse)


def law_entries(subject: Subject, note: Callable[[str], None]) -> Iterator[Entry]:
    """loss[law]: the smallest expected loss on new examples of a known law; nothing where the law is not known."""
    if subject.law is None:
        return
    try:
        found = law_loss(subject, subject.law)
    except DataError as error:
        note(f"no smallest loss under the law: {error.what}")
        return
    yield "loss[law]", found
    note("loss[law] is the smallest loss that can be expected on new examples, by the exact score of their law")


def law_loss(subject: Subject, law: Law) -> Estimate:
    """E w |eps - eps*|²/D over the levels of training, as (alpha/sigma)² |x_0 - D|², D = (x_t + sigma² score)/alpha.

    In that form nothing cancels where little is left of the data. |eps|²/D, whose mean is known to be 1, is a control
    variate: where eps* is small it explains nearly all of the scatter.
    """
    experiment, d = subject.model.experiment, subject.denoiser
    assert isinstance(experiment.objective, DenoisingLoss)
    drawn = levels_of(d.schedule, experiment.times, 64, subject.seed)
    weighting, target = experiment.objective.weighting, d.parameterization
    weights = drawn.inv_density * noise_weights(weighting, d.schedule.rates(drawn.t), d.schedule, target, d.data_std)
    means, variances = [], []
    for level, (t, weight) in enumerate(zip(drawn.t, weights, strict=True)):
        r, seed = d.schedule.rates(t), derived_seed(subject.seed, "loss of the law", level)
        x0, eps = law.draw(LAW_DRAWS, seed), batch_noise((LAW_DRAWS, 2), seed, "eps").double()
        x_t = r.alpha * x0 + r.sigma * eps
        best = (x_t + r.sigma**2 * law.score(x_t, float(r.alpha), float(r.sigma))) / r.alpha
        least = (r.alpha / r.sigma) ** 2 * (x0 - best).square().mean(1)
        control = eps.square().mean(1) - 1
        slope = (least * control).mean() / control.square().mean()
        left = weight * (least - slope * control)
        means.append(left.mean())
        variances.append(left.var(correction=1) / LAW_DRAWS)
    error = math.sqrt(float(torch.stack(variances).sum())) / len(means)
    facts = subject.facts(method="exact score of the law", part="new examples")
    return Estimate(float(torch.stack(means).mean()), error, LAW_DRAWS * len(means), facts)
