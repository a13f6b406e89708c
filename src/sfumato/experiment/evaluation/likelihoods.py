"""Likelihoods of a trained model with the convention spelled out: by the variational bound, and by the flow.

    nll         nats per dimension of -log p(x), x in the units of the data (points), or of the levels (8-bit pictures)
    bits/dim    nll / log 2 for pictures

A density p(z) of prepared data z = (x - mean)/scale is p(z)/Π scale of x. For pictures the bound gives a probability of
levels through the discretised decoder (Ho et al. 2020, eq. 13); the flow gives a density, of which uniform
dequantisation makes a bound on that of the levels (Theis et al. 2016). Where channels are scaled differently, the bound
too is taken of dequantised data, with a Gaussian decoder.

A schedule whose clean end keeps noise u = sigma/alpha gives a chain whose last step is that wide, and a flow whose
density is that of data blurred by u: both are honest likelihoods of what would be sampled, and not small.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sfumato.condition import Condition
from sfumato.core import (
    Decoder,
    Denoise,
    Denoiser,
    Large,
    NoiseSource,
    OneLevel,
    Small,
    Variance,
    derived_seed,
)
from sfumato.core.optimal import Optimal, fit_optimal
from sfumato.errors import DataError, NumericsError
from sfumato.experiment.evaluation.conventions import Measure
from sfumato.experiment.evaluation.subject import Subject, pieces
from sfumato.guidance import Clipped
from sfumato.likelihood import (
    Bound,
    Divergence,
    Exact,
    Rademacher,
    continuous_bound,
    flow_log_prob,
    variational_bound,
)
from sfumato.metrics import Fact
from sfumato.objectives import ContinuousBound, Hybrid, Objective, SohlDicksteinBound, VariationalBound
from sfumato.samplers import Trailing

__all__ = [
    "BoundMethod",
    "METHODS",
    "FlowMethod",
    "Likelihood",
    "Method",
    "choose_variance",
    "require_flow",
    "require_likelihood",
    "true_nll",
    "variance_of",
]

FEW_DIMENSIONS = 50  # up to which the divergence is taken exactly
DRAWS = 64  # noise levels per example, where a chain has more
CHEAP_DRAWS = 256  # the same in few dimensions
LONG_CHAIN = 1000  # steps of the chain of a continuous schedule whose variance was learned
PILOTS = 64  # training examples on which variances are compared
FITTED_ON = 512  # training examples on which the optimal variance is measured
MOST_NATS = 1e3  # per dimension: a Gaussian says this of what lies 45 standard deviations away
MICRO_BATCH = 64  # pictures in memory at once; points come 50-fold


def require_likelihood(denoiser: Denoiser) -> None:
    """Refuse a model that saw one noise level only: it has a score there and no likelihood. Raises DataError."""
    schedule = denoiser.schedule
    if isinstance(schedule, OneLevel):
        raise DataError(
            f"the schedule {type(schedule).__name__} has one noise level: a score there, and no likelihood",
            expected="a schedule from data to noise",
            fix="measure samples instead (--metrics sliced_wasserstein,energy_distance)",
        )


def require_flow(denoiser: Denoiser) -> None:
    """Refuse a chain of one step: it has a variational bound, and no ODE. Raises DataError."""
    require_likelihood(denoiser)
    if denoiser.schedule.t_min >= 1:
        raise DataError(
            "a chain of one step has a variational bound, and no probability flow",
            expected="two steps or more for the flow",
            fix="take the bound (method='bound', or --metrics loss)",
        )


@dataclass(frozen=True, slots=True, eq=False)
class Likelihood:
    """-log p per example, nats (n,) in the measure's units, and how it was found.

    probe_std_error: standard error of the mean that random probes cause, nats per example; None without probes.
    calls: network calls per example, on average.
    """

    nll: Tensor
    facts: dict[str, Fact]
    probe_std_error: float | None
    calls: float


class Method(Protocol):
    """A way to a likelihood."""

    def __call__(self, subject: Subject, measure: Measure) -> Likelihood:
        """-log p of the subject's examples."""
        ...


@dataclass(frozen=True, slots=True)
class BoundMethod:
    """The variational bound: every step of a short chain, some of a long or an infinite one.

    draws: noise levels that an example sees then; None: 256 in few dimensions, 64 otherwise.
    """

    draws: int | None = None

    def __call__(self, subject: Subject, measure: Measure) -> Likelihood:
        """-log p <= L_T + Σ L_(t-1) + L_0 for each example."""
        variance, how = choose_variance(subject, measure)
        usual = CHEAP_DRAWS if subject.dim <= FEW_DIMENSIONS else DRAWS
        chain = Chain(as_sampled(subject, measure), variance, usual if self.draws is None else self.draws)
        found = []
        for part in pieces(subject, "variational bound", batch_size(subject), lambda: chain.calls):
            noise = noise_of(subject, "bound", part)
            x = measure.prepared(subject.x0[part], noise, on_levels=measure.on_levels)
            found.append(chain.bound(x, measure.decoder, noise, subject.told(part)).total)
        nll = torch.cat(found) + (0.0 if measure.on_levels else measure.from_density(subject.dim))
        facts: dict[str, Fact] = {"variance": how, "chain": chain.describe(), "told": subject.told_as}
        return Likelihood(nll, {**facts, **_wording(measure, True)}, None, chain.calls)


@dataclass(frozen=True, slots=True)
class FlowMethod:
    """The probability-flow ODE, its divergence exact in few dimensions, by random signs otherwise.

    tolerance: relative and absolute, of the solver; None: 1e-5 in few dimensions, 1e-3 otherwise.
    max_steps: after which the solver gives up.
    num_probes: of the divergence.
    """

    tolerance: float | None = None
    max_steps: int = 1000
    num_probes: int = 4

    def __call__(self, subject: Subject, measure: Measure) -> Likelihood:
        """-log p by the change of variables. Raises NumericsError where the solver does not arrive."""
        few = subject.dim <= FEW_DIMENSIONS
        divergence: Divergence = Exact() if few else Rademacher(self.num_probes)
        tolerance = (1e-5 if few else 1e-3) if self.tolerance is None else self.tolerance
        nll, squares = [], []
        denoiser = as_sampled(subject, measure)
        calls: list[Tensor] = []
        for part in pieces(subject, "probability-flow likelihood", batch_size(subject), lambda: mean_calls(calls)):
            noise = noise_of(subject, "flow", part)
            x = measure.prepared(subject.x0[part], noise, on_levels=False)
            with self.in_words_of_options():
                solved = flow_log_prob(
                    denoiser,
                    x,
                    divergence=divergence,
                    noise=noise,
                    rtol=tolerance,
                    atol=tolerance,
                    max_steps=self.max_steps,
                    cond=subject.told(part),
                )
            nll.append(-solved.log_prob)
            calls.append(solved.calls.double())
            if solved.probe_std_error is not None:
                squares.append(solved.probe_std_error.square())
        facts: dict[str, Fact] = {
            "solver": f"Dormand-Prince, tolerances {tolerance:g}",
            "divergence": "exact" if few else f"{self.num_probes} random signs per example",
            "clean_end": clean_end(subject.denoiser),
            "told": subject.told_as,
            **_wording(measure, False),
        }
        probes = float(torch.cat(squares).sum().sqrt()) / subject.n if squares else None
        total = torch.cat(nll) + measure.from_density(subject.dim)
        require_arrival(total, subject.dim)
        return Likelihood(total, facts, probes, mean_calls(calls))

    @contextmanager
    def in_words_of_options(self) -> Iterator[None]:
        """Say what to do about a solver that does not arrive by the names that an evaluation takes."""
        try:
            yield
        except NumericsError as error:
            raise NumericsError(
                f"nll[flow]: {error.what}",
                expected=f"{error.expected}: a model that is trained far enough",
                fix=f"train on, or try --max-steps {10 * self.max_steps}, a larger --tolerance, or other metrics",
            ) from error


def mean_calls(calls: list[Tensor]) -> float:
    """Network calls per example, the mean over batches (B,) of counts."""
    return float(torch.cat(calls).mean())


METHODS: dict[str, Method] = {"flow": FlowMethod(), "bound": BoundMethod()}


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """The ancestral chain of a denoiser: that of its table, or one of infinitely many steps."""

    denoiser: Denoise
    variance: Variance
    draws: int

    @property
    def steps(self) -> int | None:
        """Steps of the chain; None where there are infinitely many."""
        table = self.denoiser.schedule.num_steps
        return LONG_CHAIN if table is None and self.variance.learned else table

    @property
    def visited(self) -> int:
        """Noise levels that an example sees: all of a chain of up to twice `draws` steps."""
        return self.draws if self.steps is None or self.steps > 2 * self.draws else self.steps

    @property
    def calls(self) -> float:
        """Network calls per example."""
        return float(self.visited + 1) if self.steps is None else float(min(self.visited, self.steps - 1) + 1)

    def describe(self) -> str:
        """In words."""
        if self.steps is None:
            return f"infinitely many steps, {self.visited} noise levels per example"
        seen = "all" if self.visited == self.steps else f"{self.visited}"
        return f"{self.steps} steps, {seen} visited per example"

    def bound(self, x0: Tensor, decoder: Decoder, noise: NoiseSource, cond: Condition | None = None) -> Bound:
        """The bound for x0 (B, *), of which the denoiser is told `cond`."""
        d, variance = self.denoiser, self.variance
        if self.steps is None:
            return continuous_bound(
                d, x0, variance=variance, decoder=decoder, noise=noise, draws=self.visited, cond=cond
            )
        times = Trailing().times(self.denoiser.schedule, self.steps)
        sampled = None if self.visited == self.steps else self.visited
        return variational_bound(
            d, x0, times, variance=variance, decoder=decoder, noise=noise, sampled=sampled, cond=cond
        )


def choose_variance(subject: Subject, measure: Measure) -> tuple[Variance, str]:
    """The variance of the run where it trains one; otherwise the best of small, large and optimal on training examples.

    Chosen on the training part, so that the choice does not flatter the held-out number.
    """
    own = variance_of(subject.model.experiment.objective)
    if own is not None:
        return own, f"{type(own).__name__}, the run's own"
    d, fitted = as_sampled(subject, measure), subject.training_examples(FITTED_ON)
    noise = NoiseSource.of(seed=_seed(subject, "fit"), count=len(fitted.x0))
    steps = d.schedule.num_steps
    inner = [] if steps is None else Trailing().times(d.schedule, min(steps, 32))[:-1]
    times = sorted({d.schedule.t_min, *inner}, reverse=True)
    optimal = fit_optimal(d, fitted.x0, times, noise, batch_size=batch_size(subject), cond=fitted.cond)
    candidates: list[Variance] = [Large(), optimal]
    candidates += [] if steps is None else [Small()]
    pilots = subject.training_examples(PILOTS)
    x0 = pilots.x0
    scores = []
    for variance in candidates:
        source = NoiseSource.of(seed=_seed(subject, "pilot"), count=len(x0))
        x = measure.prepared(x0, source, on_levels=measure.on_levels)
        scores.append(float(Chain(d, variance, 16).bound(x, measure.decoder, source, pilots.cond).total.mean()))
    best = candidates[scores.index(min(scores))]
    detail = ", measured on training examples" if isinstance(best, Optimal) else ""
    names = ", ".join(type(c).__name__ for c in candidates)
    return best, f"{type(best).__name__}{detail}: the best of {names} on {len(x0)} training examples"


def variance_of(objective: Objective) -> Variance | None:
    """The variance that an objective trains or states; None for objectives without one."""
    if not isinstance(objective, ContinuousBound | VariationalBound | Hybrid | SohlDicksteinBound):
        return None
    variance: Variance = objective.variance
    return None if isinstance(variance, Optimal) and not variance.is_fitted else variance


def as_sampled(subject: Subject, measure: Measure) -> Denoise:
    """The denoiser whose likelihood is meant: as samples are drawn, with x0 kept within the range of pictures.

    Half a level wider on either side, as far as dequantised data reach. Without it the flow of a network that predicts
    eps may leave all pictures behind at the noisy end, where x0 = (x - sigma eps)/alpha multiplies its errors.
    """
    low, high = subject.model.record.normalization.low, subject.model.record.normalization.high
    if measure.levels is None or low is None or high is None or not subject.model.experiment.sampling.clip:
        return subject.denoiser
    half = torch.tensor(measure.levels.width)[:, None, None] / 2
    return Clipped(subject.denoiser, low - half, high + half)


def require_arrival(nll: Tensor, dim: int) -> None:
    """Refuse a flow that has carried examples out of all proportion: their number would mean nothing.

    Raises NumericsError.
    """
    lost = int((~(nll.abs() / dim < MOST_NATS)).sum())
    if lost:
        raise NumericsError(
            f"the probability flow of this model carries {lost} of {len(nll)} examples away: "
            f"their log-density is below -{MOST_NATS:g} nats per dimension, or none",
            expected="a denoiser that predicts data wherever the flow comes",
            fix="sample with sampling.clip: true, or train with the parameterization Velocity or Edm",
        )


def clean_end(denoiser: Denoiser) -> str:
    """The noise that is left at the clean end of the schedule."""
    r = denoiser.schedule.rates(denoiser.schedule.t_min)
    return f"t_min {denoiser.schedule.t_min:.3g}, density of data blurred by {float(r.noise_level):.3g} model units"


def _wording(measure: Measure, bound: bool) -> dict[str, Fact]:
    if measure.levels is None:
        return {"convention": "density of continuous data, in the units of the data"}
    if bound and measure.on_levels:
        return {
            "convention": "probability of 256 levels by the discretised Gaussian decoder, no dequantisation, offset 0"
        }
    return {"convention": measure.levels.describe()}


def true_nll(subject: Subject) -> Tensor | None:
    """-log p of the examples under the exact law, nats in the units of the data, (n,); None where it is not known.

    Also None for a law without a density, and for a model that is told of the examples: log p(x | c) is no log p(x).
    """
    if subject.law is None or subject.cond is not None:
        return None
    try:
        return -subject.law.log_density(subject.x0) + subject.log_scale
    except DataError:
        return None


def batch_size(subject: Subject) -> int:
    """Examples in memory at once."""
    return MICRO_BATCH if subject.model.record.is_image else 50 * MICRO_BATCH


def noise_of(subject: Subject, purpose: str, part: slice) -> NoiseSource:
    """Noise of the examples of one piece: a function of (seed, purpose, place of the example)."""
    return NoiseSource.of(seed=_seed(subject, purpose), count=part.stop - part.start, first=part.start)


def _seed(subject: Subject, purpose: str) -> int:
    return derived_seed(subject.seed, f"evaluate {purpose}") >> 1  # room for the places of the examples
