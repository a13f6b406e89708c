"""What a source printed when it ran an experiment, what it should have printed, and what a run found.

Six recipes follow esling's notebook on the swiss roll (Esling 2021). Its printed losses are those of a last batch of 16
points, at times of a schedule that never ends in noise, so they are shown and not aimed at: what a run is held to is
the exact value, from the law of the roll (`data.laws`) or from the very points it was trained on (`attainable_loss`).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sfumato.core import batch_noise
from sfumato.data.laws import Law, law_of
from sfumato.experiment.build import PreparedData, prepare_data
from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.load import load
from sfumato.experiment.rounding import with_error
from sfumato.experiment.run import Run
from sfumato.metrics import mean_of
from sfumato.objectives import DenoisingLoss, attainable_loss, entropies

__all__ = ["PUBLISHED", "Comparison", "Published", "Truth", "compare_with_source"]

DRAWS = 20_000  # of the law, for its expectations


@dataclass(frozen=True, slots=True)
class Truth:
    """A value ± std_error (None: of one number nothing is known), and in words what it is."""

    value: float
    std_error: float | None
    about: str

    def text(self) -> str:
        """For people."""
        return f"{with_error(self.value, self.std_error)}: {self.about}"


@dataclass(frozen=True, slots=True)
class Published:
    """One printed quantity of a source.

    printed: the numbers as they stand there, oldest first; none where the source cannot be run or read.
    remark: what is wrong with them.
    unit: the quantity and its unit.
    truth: what should have been printed, for the data and schedule of an experiment.
    found: what a run came to, in that unit; None where it held nothing out.
    """

    source: str
    unit: str
    printed: tuple[float, ...]
    remark: str
    truth: Callable[[Experiment, PreparedData], Truth]
    found: Callable[[Run, PreparedData, Truth], Truth | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A source's numbers beside the truth and what a run found with its averaged weights."""

    published: Published
    truth: Truth
    found: Truth | None

    def lines(self) -> tuple[str, ...]:
        """For people."""
        p, t = self.published, self.truth
        printed = " ".join(f"{value:g}" for value in p.printed) or "nothing"
        found = "not measured: no example was held out" if self.found is None else self.found.text()
        return (
            f"{p.unit}",
            f"  {p.source} printed    {printed} ({p.remark})",
            f"  should have been  {t.text()}",
            f"  this run          {found}",
        )

    def document(self) -> dict[str, object]:
        """As JSON data."""
        p, t = self.published, self.truth
        return {
            "source": p.source,
            "unit": p.unit,
            "printed": list(p.printed),
            "remark": p.remark,
            "truth": asdict(t),
            "found": None if self.found is None else asdict(self.found),
        }


def compare_with_source(run: Run) -> Comparison | None:
    """The comparison that a run's recipe promises; None for an experiment that follows no source, or no longer."""
    published = PUBLISHED.get(run.experiment.name)
    if published is None or not follows(run.experiment, load_experiment(run.experiment.name)):
        return None
    data = prepare_data(run.experiment)
    truth = published.truth(run.experiment, data)
    return Comparison(published, truth, published.found(run, data, truth))


def follows(experiment: Experiment, recipe: Experiment) -> bool:
    """Whether what was changed leaves the source's quantity what it is: the same points, objective and schedule."""

    def subject(one: Experiment) -> tuple[object, ...]:
        return one.data.source, one.data.path, one.objective, type(one.schedule), one.parameterization

    return subject(experiment) == subject(recipe)


def model_law(experiment: Experiment, data: PreparedData) -> Law:
    """The data's law in the units of the model."""
    law, normalization = law_of(experiment.data), data.record.normalization
    assert law is not None, "the recipes here are of generated points"
    return law.normalized(normalization.mean, normalization.scale)


def truth_of(values: Tensor, about: str) -> Truth:
    """The mean of independent values with its standard error."""
    found = mean_of(values)
    return Truth(found.value, found.std_error, about)


@dataclass(frozen=True, slots=True)
class Scored:
    """Points of the law at the schedule's one level, and its score there: (N, 2) each."""

    x: Tensor
    score: Tensor


def scored(experiment: Experiment, data: PreparedData) -> Scored:
    """DRAWS points of the law, blurred by the level of t = 1, with their exact scores."""
    law, r = model_law(experiment, data), experiment.schedule.rates(1.0)
    alpha, sigma = float(r.alpha), float(r.sigma)
    eps = batch_noise((DRAWS, 2), experiment.seed, "published").double()
    x = alpha * law.draw(DRAWS, experiment.seed, "published") + sigma * eps
    return Scored(x, law.score(x, alpha, sigma))


def half_fisher(experiment: Experiment, data: PreparedData) -> Tensor:
    """½ |grad log p_1|² at points of the law, summed over coordinates."""
    return scored(experiment, data).score.square().sum(1) / 2


@torch.no_grad()
def score_found(run: Run, data: PreparedData, truth: Truth) -> Truth:
    """The least plus ½ E|s - grad log p|², which is what every form of score matching measures of a score s."""
    exact = scored(run.experiment, data)
    denoiser = load(run.folder).denoiser
    x = exact.x.float().to(next(denoiser.parameters()).device)
    error = denoiser(x, torch.ones((), dtype=torch.float64)).score.cpu().double() - exact.score
    excess = error.square().sum(1) / 2
    mean = float(excess.mean())
    about = f"½ E|s - grad log p|² = {mean:.2f} above that, by the law of the roll"
    return Truth(truth.value + mean, float(excess.std()) / math.sqrt(len(excess)), about)


def held_out_found(run: Run, data: PreparedData, truth: Truth) -> Truth | None:
    """The held-out loss of the averaged weights."""
    loss = run.held_out_loss
    return None if loss is None else Truth(loss, run.held_out_std_error, "on points held out, averaged weights")


def held_out_bits(run: Run, data: PreparedData, truth: Truth) -> Truth | None:
    """The held-out -K in bits per coordinate, relative to the isotropic Gaussian of the prior."""
    loss = held_out_found(run, data, truth)
    if loss is None:
        return None
    bound = torch.tensor(loss.value, dtype=torch.float64)
    bits = float(entropies(run.experiment.schedule).relative_bits(bound))
    return Truth(bits, None if loss.std_error is None else loss.std_error / math.log(2), loss.about)


def least_score_matching(experiment: Experiment, data: PreparedData) -> Truth:
    """min ½ E|s|² + E tr(ds/dx) = -½ E|grad log p|², reached by the score itself (Hyvärinen 2005)."""
    return truth_of(
        -half_fisher(experiment, data),
        "the least possible, -½ E|grad log p|² by the law of the roll, of which this many points are one draw",
    )


def least_denoising(experiment: Experiment, data: PreparedData) -> Truth:
    """min ½ E|s + eps/sigma|² = D/(2 sigma²) - ½ E|grad log p|²."""
    sigma = float(experiment.schedule.rates(1.0).sigma)
    floor = 1 / sigma**2
    part = half_fisher(experiment, data)
    about = (
        f"{floor:g} of it is the noise's own, D/(2 sigma²); a score that is 0 everywhere costs that, the exact one "
        f"{float(part.mean()):.0f} less, and a mean over 10,000 points scatters by {floor / 100:.0f}"
    )
    return truth_of(floor - part, about)


def marginal_entropy(law: Law, alpha: float, sigma: float, seed: int) -> Tensor:
    """-log p(x_t) at DRAWS points of x_t, nats for both coordinates; its mean is the entropy of x_t."""
    eps = batch_noise((DRAWS, 2), seed, "published entropy").double()
    x = alpha * law.draw(DRAWS, seed, "published entropy") + sigma * eps
    return -law.log_density(x, alpha, sigma)


def least_bound_of_2015(experiment: Experiment, data: PreparedData) -> Truth:
    """[H(x_1) - H(x_T)]/D in bits: what the exact reverse chain would have, Gaussian steps never quite."""
    law, schedule = model_law(experiment, data), experiment.schedule
    ends = [schedule.rates(t) for t in (schedule.t_min, 1.0)]
    first, last = (marginal_entropy(law, float(r.alpha), float(r.sigma), experiment.seed) for r in ends)
    about = "at the least: that of the exact reverse chain, H(x_1) - H(x_T) by the law of the roll"
    return truth_of((first - last) / 2 / math.log(2), about)


def least_bound(experiment: Experiment, data: PreparedData) -> Truth:
    """The entropy of the data per coordinate: no bound of -log p can be below it."""
    law = model_law(experiment, data)
    return truth_of(marginal_entropy(law, 1.0, 0.0, experiment.seed) / 2, "at the least: the entropy of the roll's law")


def least_simple(experiment: Experiment, data: PreparedData) -> Truth:
    """The smallest L_simple on the very points: that of their exact posterior mean."""
    assert isinstance(experiment.objective, DenoisingLoss)
    points = data.record.normalization.to_model(data.packed.values[data.parts.train])
    least = attainable_loss(
        points,
        experiment.objective,
        schedule=experiment.schedule,
        parameterization=experiment.parameterization,
        times=experiment.times,
        data_std=data.record.data_std,
        seed=experiment.seed,
    )
    about = f"the smallest that any network can reach on these {len(points):,} points (0.647 on esling's own schedule)"
    return Truth(least.value, least.std_error, about)


SLICE = "½ (v·s)² + v'(ds/dx)v, whose mean is ½ |s|² + tr ds/dx, summed over both coordinates"
PUBLISHED: dict[str, Published] = {
    "roll-score-exact": Published(
        "esling",
        "½ |s|² + tr ds/dx, summed over both coordinates",
        (),
        "the notebook that trains this is not public",
        least_score_matching,
        score_found,
    ),
    "roll-score-sliced": Published(
        "esling",
        SLICE,
        (),
        "its function cannot run: a module is never imported; it would report the value divided by 4",
        least_score_matching,
        score_found,
    ),
    "roll-score-denoising": Published(
        "esling",
        "½ |s + eps/sigma|² at sigma = 0.01, summed over both coordinates",
        (10029.09, 9851.57, 10045.21, 9873.58, 10120.43),
        "the scatter of the noise; no learning can be seen in them",
        least_denoising,
        score_found,
    ),
    "roll-bound": Published(
        "esling",
        "the bound of 2015, bits per coordinate beyond an isotropic Gaussian",
        (207.8255, 7.4859, 12.3981, 3.3500, 3.6001, 1.0092),
        "single batches of 16 points, T terms for T - 1, on a schedule that keeps 78 % of the signal",
        least_bound_of_2015,
        held_out_bits,
    ),
    "roll-variational": Published(
        "esling",
        "the variational bound, nats per coordinate",
        (),
        "its loss_variational cannot run: the network has two outputs of the four that it splits",
        least_bound,
        held_out_found,
    ),
    "roll-ddpm": Published(
        "esling",
        "L_simple, mean over coordinates",
        (0.8983, 1.0721, 0.5609, 0.5364, 0.6147, 0.8374, 0.8312, 0.7542, 0.4159, 0.6791),
        "single batches of 16 points, on a schedule that keeps 78 % of the signal",
        least_simple,
        held_out_found,
    ),
}
