"""The loss by noise level, held out and on the training part: where a model has learned its examples by heart.

    bin           [2k, 2k + 2) nats of log-SNR, over the span of the schedule; of a table, its steps that lie there
    held-out      the mean of |eps_hat - eps|² = (alpha/sigma)² |x_0 - x0_hat|² per value, log-SNR uniform in the bin
    training      the same on the training part
    gap           held-out - training: 0 for a model that learned the law, and not its examples
    attainable    the smallest on the training part, that of its posterior mean (`objectives.attainable`): the model
                  that reaches it draws training examples and nothing else
    image         the mean of |x0_hat - x_0|² per value of the held-out part, in model units

All but `image` are in units of the noise, in which every weighting is defined: 1 for a model that says 0. In one bin
they can be compared between schedules, targets and weightings. The run's own loss has another weight in each bin.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Schedule, batch_noise, batch_uniforms, derived_seed, marginal
from sfumato.experiment.evaluation.losses import points_by_heart, size_of
from sfumato.experiment.evaluation.subject import SLOW, Part, Subject, slowly
from sfumato.metrics import Estimate, difference, mean_of
from sfumato.objectives import attainable_noise_loss
from sfumato.training.conditioner import Examples

__all__ = ["Bin", "BinLosses", "bins_of", "level_entries", "losses_by_level", "named_losses"]

WIDTH = 2.0  # nats
EDGE = 1e-6  # nats that a span may be longer than its bins, by rounding
ROUNDS = 2  # draws of each example in each bin
LEVELS, DRAWS = 16, 64  # of the attainable loss in each bin
Entry = tuple[str, Estimate]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bin:
    """Log-SNRs of a schedule from `low` to `high`, in nats, named by the bin that they lie in.

    steps: those of a table that lie there; None where times are continuous.
    """

    name: str
    low: float
    high: float
    steps: tuple[int, ...] | None = None

    def times(self, schedule: Schedule, u: Tensor) -> Tensor:
        """Times for uniform numbers u in [0, 1): uniform in log-SNR, or over the steps; float64, shaped as u."""
        if self.steps is not None and schedule.num_steps is not None:
            return torch.tensor(self.steps, dtype=torch.float64)[(u * len(self.steps)).long()] / schedule.num_steps
        return schedule.time(self.low + (self.high - self.low) * u).clamp(schedule.t_min, 1.0)


@dataclass(frozen=True, slots=True)
class BinLosses:
    """The losses in one bin. Without a held-out part `held_out` is None, and for large data `attainable`.

    image: the error of x_0 on the held-out part.
    """

    span: Bin
    training: Estimate
    held_out: Estimate | None
    attainable: Estimate | None
    image: Estimate | None = None

    @property
    def gap(self) -> Estimate | None:
        """Held out less training, of independent examples."""
        return None if self.held_out is None else difference(self.held_out, self.training)


@dataclass(frozen=True, slots=True, eq=False)
class LevelErrors:
    """|eps_hat - eps|² and |x0_hat - x_0|² per value of each example: (n,) float64 each."""

    noise: Tensor
    image: Tensor


def bins_of(schedule: Schedule) -> tuple[Bin, ...]:
    """The bins that a schedule reaches, from noise to data; a table leaves out those without a step."""
    steps = schedule.num_steps
    ends = [1.0, schedule.t_min] if steps is None else [k / steps for k in range(steps, 0, -1)]
    levels = [float(level) for level in schedule.log_snr(torch.tensor(ends, dtype=torch.float64))]
    first = math.floor((levels[0] + EDGE) / WIDTH)
    last = max(first + 1, math.ceil((levels[-1] - EDGE) / WIDTH))
    found = []
    for k in range(first, last):
        low, high = k * WIDTH, (k + 1) * WIDTH
        name = f"{low:g}..{high:g}"
        if steps is None:
            found.append(Bin(name, max(low, levels[0]), min(high, levels[-1])))
            continue
        inside = [steps - i for i, level in enumerate(levels) if _bin_of(level, first, last) == k]
        if inside:
            found.append(Bin(name, low, high, tuple(inside)))
    return tuple(found)


def _bin_of(level: float, first: int, last: int) -> int:
    """The number of the bin that a log-SNR lies in, among those from `first` to before `last`."""
    return min(max(math.floor((level + EDGE) / WIDTH), first), last - 1)


def level_entries(subject: Subject, note: Note) -> Iterator[Entry]:
    """The losses of every bin, by their names."""
    return named_losses(losses_by_level(subject, note))


def named_losses(bins: Iterable[BinLosses]) -> Iterator[Entry]:
    """loss_by_log_snr[LOW..HIGH][held-out], [training], [gap], [image] and, where known, [attainable], bin by bin."""
    for found in bins:
        name = f"loss_by_log_snr[{found.span.name}]"
        parts = {
            "held-out": found.held_out,
            "training": found.training,
            "gap": found.gap,
            "attainable": found.attainable,
            "image": found.image,
        }
        for part, estimate in parts.items():
            if estimate is not None:
                yield f"{name}[{part}]", estimate


def losses_by_level(subject: Subject, note: Note) -> tuple[BinLosses, ...]:
    """The losses in every bin, from noise to data; what stands out is noted."""
    parts: list[Part] = ["held-out", "training"] if len(subject.data.parts.held_out) >= 2 else ["training"]
    examples = {part: subject.part_examples(part, max(subject.n, 2)) for part in parts}
    schedule = subject.denoiser.schedule
    points = points_by_heart(subject, note) if subject.cond is None else None
    bins, found = bins_of(schedule), []
    clock = _Clock(subject, sum(len(e.x0) for e in examples.values()) * ROUNDS, len(bins))
    for index, bin_ in enumerate(bins):
        each, images = {}, {}
        for part in parts:
            facts = subject.facts(unit="noise variance", log_snr_low=bin_.low, log_snr_high=bin_.high)
            errors = level_errors(subject, examples[part], bin_, part)
            each[part] = mean_of(errors.noise, {**facts, "part": part, "draws_per_example": ROUNDS})
            told = {**facts, "unit": "model units", "part": part, "draws_per_example": ROUNDS}
            images[part] = mean_of(errors.image, told)
        least = None if points is None else attainable_in(subject, points, bin_)
        found.append(BinLosses(bin_, each["training"], each.get("held-out"), least, images.get("held-out")))
        clock.tell(index + 1)
    note("loss_by_log_snr is |eps_hat - eps|² per value, in bins of log-SNR in nats: 1 for a model that says 0")
    _note_the_gap(found, note)
    return tuple(found)


@torch.no_grad()
def level_errors(subject: Subject, examples: Examples, bin_: Bin, part: str) -> LevelErrors:
    """The errors of each example at log-SNRs of the bin, means over `ROUNDS` draws."""
    d, x0, cond = subject.denoiser, examples.x0, examples.cond
    rounds = []
    for index in range(ROUNDS):
        seed = derived_seed(subject.seed, f"loss by level {part} {bin_.name}", index)
        place = batch_uniforms((len(x0),), seed, "place").argsort()
        u = (place + batch_uniforms((len(x0),), seed, "times")) / len(x0)  # one in each n-th of the bin
        times, eps = bin_.times(d.schedule, u), batch_noise(tuple(x0.shape), seed, "noise").to(x0)
        errors, images = [], []
        for start in range(0, len(x0), size_of(subject)):
            cut = slice(start, start + size_of(subject))
            r = d.schedule.rates(times[cut])
            guess = d(marginal(x0[cut], r).sample(eps[cut]), times[cut], None if cond is None else cond[cut])
            squared = (guess.x0 - x0[cut]).to("cpu", torch.float64).square().flatten(1).mean(1)
            images.append(squared)
            errors.append((r.alpha / r.sigma) ** 2 * squared)
        rounds.append(torch.stack([torch.cat(errors), torch.cat(images)]))
    noise, image = torch.stack(rounds).mean(0)
    return LevelErrors(noise, image)


def attainable_in(subject: Subject, points: Tensor, bin_: Bin) -> Estimate:
    """The smallest noise error on the training points at the bin's log-SNRs."""
    schedule = subject.denoiser.schedule
    t = bin_.times(schedule, (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    seed = derived_seed(subject.seed, f"attainable {bin_.name}")
    found = attainable_noise_loss(points, schedule, t, draws=DRAWS, seed=seed)
    facts = subject.facts(
        unit="noise variance",
        method="posterior mean of the training points",
        part="training",
        points=len(points),
        log_snr_low=bin_.low,
        log_snr_high=bin_.high,
    )
    return Estimate(found.value, found.std_error, found.draws, facts)


def _note_the_gap(found: list[BinLosses], note: Note) -> None:
    """Where the training part is known best beyond what was held out, in errors."""
    gaps = [(bin_, bin_.gap) for bin_ in found]
    known = [(bin_, gap) for bin_, gap in gaps if gap is not None and gap.std_error > 0]
    if not known:
        return
    bin_, gap = max(known, key=lambda pair: pair[1].value / pair[1].std_error)
    sigmas = gap.value / gap.std_error
    if sigmas < 3:
        note("no gap between the held-out and the training part is 3 errors wide: nothing learned by heart shows")
        return
    share = ""
    if bin_.attainable is not None and bin_.held_out is not None:
        room = bin_.held_out.value - bin_.attainable.value
        share = f", {gap.value / room:.0%} of the way to knowing them by heart" if room > 0 else ""
    note(
        f"the training part is known best at log-SNR {bin_.span.name}: its loss is {gap.value:.2g} "
        f"({gap.value / (gap.value + bin_.training.value):.0%}, {sigmas:.0f} errors) below that held out{share}"
    )


@dataclass(slots=True)
class _Clock:
    """Says after the first bin how long the others will take, where that is long."""

    subject: Subject
    calls: int
    bins: int
    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = time.perf_counter()

    def tell(self, done: int) -> None:
        """After `done` bins."""
        left = (time.perf_counter() - self.began) * (self.bins - 1)
        if done == 1 and left > SLOW:
            self.subject.report(slowly("loss by noise level", self.calls * (self.bins - 1), left))
