"""Score matching: fitting s(x) to the gradient of a log-density without knowing the density.

All three have the same minimiser, grad log p_t, and at each noise level differ by a constant of the data alone:

    exact       ½ |s|² + tr(ds/dx)                        Hyvärinen 2005, theorem 1
    sliced      ½ (v·s)² + v'(ds/dx)v,  E vv' = I         Song et al. 2019, eq. 8;  ½ |s|² + … with less variance
    denoising   ½ |s + eps/sigma|²                        Vincent 2011;  Song & Ermon 2019, eq. 5

each at x_t = alpha x_0 + sigma eps for the t drawn. The first two need no noise in principle, but Hyvärinen's
integration by parts needs a density that has a gradient: of points on a sheet, of 8-bit numbers, or of a finite set of
examples the minimum is -infinity. So data are blurred by the schedule's level here too, and one level (`OneLevel`) is
the classic method. With many levels and `weighted`, lambda = sigma² keeps them comparable (Song & Ermon 2019, eq. 6),
and the denoising loss is D/2 times `DenoisingLoss(weighting=NoiseError())`.

Values are **sums over the elements** of an example, as in those papers, not means as in other losses here. The
denoising loss has a floor that hides the learning: D/(2 sigma²) - ½ E|grad log p_t|², of which only the second part can
be learned; the first is 10,000 for points in the plane at sigma = 0.01.

The score is an affine function of the network's output with float64 coefficients, for any target:

    s = (alpha c_out/sigma²) F - ((1 - alpha c_skip)/sigma²) x_t,

which is F itself for the target `Score`, no difference of large numbers. Derivatives by x_t are taken with autograd and
keep their graph; one example must not change another's output (no batch normalisation).
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sfumato.core import Cond, Denoiser, Rates, marginal
from sfumato.core.rates import spread
from sfumato.errors import ConfigError
from sfumato.objectives.denoising import Draw, Losses, Objective

__all__ = [
    "DenoisingScoreMatching",
    "ExactScoreMatching",
    "Projections",
    "SlicedScoreMatching",
    "score",
]

Projections = Literal["rademacher", "gaussian"]

MAX_EXACT, MAX_SLICED = 128, 16_384  # values per example: one backward pass each; noise of a probe like √D


def score(d: Denoiser, x_t: Tensor, r: Rates, cond: Cond | None = None) -> Tensor:
    """grad log p_t at x_t (B, *) in the denoiser's words, from its output without cancellation; (B, *)."""
    c = d.parameterization.coefficients(r, d.data_std)
    of_output = r.alpha * c.c_out / r.sigma**2
    of_x_t = (1 - r.alpha * c.c_skip) / r.sigma**2
    return spread(of_output, x_t) * d.output(x_t, r, cond) - spread(of_x_t, x_t) * x_t


class ScoreMatching(Objective):
    """A loss of the score at x_t, summed over the elements; `weighted` multiplies it by sigma²."""

    __slots__ = ()
    weighted: bool

    def __call__(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> Losses:
        r = d.schedule.rates(draw.t)
        x_t = marginal(x0, r).sample(draw.eps)
        per_example = self.per_example(lambda x: score(d, x, r, cond), x_t, draw, r)
        factor = draw.inv_density * r.sigma**2 if self.weighted else draw.inv_density
        return Losses(spread(factor, per_example) * per_example)

    @abstractmethod
    def per_example(self, s: Callable[[Tensor], Tensor], x_t: Tensor, draw: Draw, r: Rates) -> Tensor:
        """The loss of the score s at x_t (B, *), without weight or density: (B,)."""


@dataclass(frozen=True, slots=True)
class ExactScoreMatching(ScoreMatching):
    """½ |s|² + tr(ds/dx), the trace of the whole Jacobian, summed over elements (Hyvärinen 2005, theorem 1).

    One backward pass for each value of an example: for points and short vectors, up to 128 values.

    weighted: times sigma², for training at many noise levels.
    """

    weighted: bool = False

    def per_example(self, s: Callable[[Tensor], Tensor], x_t: Tensor, draw: Draw, r: Rates) -> Tensor:
        """½ |s|² + tr(ds/dx): (B,). Raises ConfigError for more than 128 values per example."""
        require_few_values(x_t, MAX_EXACT, "ExactScoreMatching", "SlicedScoreMatching or DenoisingScoreMatching")
        with Differentiable(x_t) as at:
            value = s(at.x)
            flat = value.flatten(1)
            trace = sum(at.derivative(flat[:, i].sum()).flatten(1)[:, i] for i in range(flat.shape[1]))
            return 0.5 * flat.square().sum(1) + trace


_PROJECTIONS: dict[Projections, Callable[[Tensor], Tensor]] = {
    "rademacher": lambda normal: torch.where(normal < 0, -1.0, 1.0).to(normal.dtype),
    "gaussian": lambda normal: normal,
}


@dataclass(frozen=True, slots=True)
class SlicedScoreMatching(ScoreMatching):
    """½ (v·s)² + v'(ds/dx)v for random v, summed over elements, mean over v (Song et al. 2019, eq. 8).

    (v·s)² is the square of the sum, not the sum of squares of v_i s_i: both have the mean |s|², only the first is a
    projection, and the variance-reduced form takes |s|² itself.

    probes: how many v for each example.
    variance_reduced: ½ |s|² in place of ½ (v·s)², the same in the mean (Song et al. 2019, section 3.2).
    projections: rademacher (signs, whose trace estimate varies least) or gaussian.
    weighted: times sigma², for training at many noise levels.
    """

    probes: int = 1
    variance_reduced: bool = False
    projections: Projections = "rademacher"
    weighted: bool = False

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ConfigError(f"objective.probes is {self.probes}", expected="1 or more", fix="set objective.probes: 1")
        if self.projections not in _PROJECTIONS:
            raise ConfigError(
                f"objective.projections is {self.projections!r}",
                expected=f"one of {', '.join(_PROJECTIONS)}",
                fix="set objective.projections: rademacher",
            )

    @property
    def num_probes(self) -> int:
        return self.probes

    def per_example(self, s: Callable[[Tensor], Tensor], x_t: Tensor, draw: Draw, r: Rates) -> Tensor:
        """½ (v·s)² + v'(ds/dx)v, mean over the draw's probes: (B,). Raises ConfigError above 16,384 values."""
        require_few_values(x_t, MAX_SLICED, "SlicedScoreMatching", "DenoisingScoreMatching")
        assert len(draw.probes) == self.probes, "a draw holds as many probes as its objective asks for"
        with Differentiable(x_t) as at:
            value = s(at.x)
            total = torch.zeros_like(value.flatten(1)[:, 0])
            for probe in draw.probes:
                v = _PROJECTIONS[self.projections](probe)
                along = (v * value).flatten(1).sum(1)
                curvature = (v * at.derivative(along.sum())).flatten(1).sum(1)
                square = value.flatten(1).square().sum(1) if self.variance_reduced else along.square()
                total = total + 0.5 * square + curvature
            return total / self.probes


@dataclass(frozen=True, slots=True)
class DenoisingScoreMatching(ScoreMatching):
    """½ |s + eps/sigma|², summed over elements (Vincent 2011; Song & Ermon 2019, eq. 5).

    With `weighted` and many levels this is the NCSN objective (eq. 6). Without it one small level costs D/(2 sigma²)
    whatever is learned.

    weighted: times sigma², for training at many noise levels.
    """

    weighted: bool = False

    def per_example(self, s: Callable[[Tensor], Tensor], x_t: Tensor, draw: Draw, r: Rates) -> Tensor:
        residual = s(x_t) + draw.eps / spread(r.sigma, x_t)
        return 0.5 * residual.square().flatten(1).sum(1)


class Differentiable:
    """x_t with derivatives by it, also where the caller computes without gradients; the graph is kept where it is not.

    A held-out loss runs under `no_grad`, and its value needs ds/dx all the same.
    """

    def __init__(self, x_t: Tensor) -> None:
        self.keeps_graph = torch.is_grad_enabled()
        self.x = x_t.detach().requires_grad_(True)
        self._enabled = torch.enable_grad()

    def __enter__(self) -> "Differentiable":
        self._enabled.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._enabled.__exit__(None, None, None)

    def derivative(self, total: Tensor) -> Tensor:
        """d total/d x, (B, *); 0 where the total does not depend on x."""
        if not total.requires_grad:
            return torch.zeros_like(self.x)
        (gradient,) = torch.autograd.grad(
            total, self.x, retain_graph=True, create_graph=self.keeps_graph, materialize_grads=True
        )
        return gradient


def require_few_values(x: Tensor, most: int, objective: str, instead: str) -> None:
    """Raise ConfigError for examples of more than `most` values."""
    values = x[0].numel()
    if values > most:
        raise ConfigError(
            f"objective is {objective} and an example holds {values:,} values",
            expected=f"at most {most:,}",
            fix=f"set objective: {instead}",
        )
