"""Posterior sampling: a denoiser of data in general becomes one of data that were measured, y = A x0 + noise_std n.

By Bayes' rule score(x_t | y) = score(x_t) + ∇ log p(y | x_t), that is

    x0_hat + (sigma²/alpha) ∇ log p(y | x_t)

where p(y | x_t) takes all x0 that x_t may have come from. With J = ∂x0_hat/∂x_t, the methods differ in what they assume
of x0 given x_t, N(x0_hat, V):

    Dps                    V = 0, with a step size in the place of 1/noise_std²    (Chung et al. 2023)
    PseudoInverseGuided    V = r² I, one number for a noise level                  (Song, Vahdat et al. 2023)
    MomentMatched          V = (sigma²/alpha) J', which is Cov[x0 | x_t]           (Boys et al. 2023; Rozet et al. 2024)

and for Gaussians ∇ log p(y | x_t) = J' A* (noise_std² + A V A*)⁻¹ (y - A x0_hat). (sigma²/alpha) J is the exact
covariance of x0 given x_t for the ideal denoiser of any law (Efron 2011), so `MomentMatched` is exact for Gaussian
data; the others are not. Each is a denoiser, so that any sampler draws the posterior; products with J' are backward
passes through the network, as many as a method says.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, Prediction, Rates, Schedule
from sfumato.core.rates import spread
from sfumato.errors import UsageError
from sfumato.guidance.extrapolation import check_weight
from sfumato.guidance.measurement import Measurement, conjugate_gradients, squared_norm

__all__ = ["Dps", "MomentMatched", "PseudoInverseGuided"]

TINY = 1e-12  # keeps the direction of a residual of 0 finite, where it does not matter
SOLVED = {torch.float64: 1e-10, torch.float32: 1e-5}  # relative residuals that rounding allows
MANY = 200  # iterations with A A* alone, which cost no network


@dataclass(frozen=True, slots=True)
class Linearised:
    """A prediction at x_t, detached, and the products v -> J' v of its x0; x0 hangs on x in autograd's graph."""

    prediction: Prediction
    x: Tensor
    x0: Tensor

    def pulled(self, v: Tensor) -> Tensor:
        """J' v, (B, *): one backward pass."""
        (product,) = torch.autograd.grad(self.x0, self.x, v, retain_graph=True)
        return product


def linearised(d: Denoise, x_t: Tensor, t: Tensor, cond: Cond | None) -> Linearised:
    """The denoiser at x_t with the graph of its x0, under `no_grad` as well: one call."""
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        p = d(x, t, cond)
    said = None if p.var_output is None else p.var_output.detach()
    return Linearised(replace(p, x_t=x_t, x0=p.x0.detach(), var_output=said), x, p.x0)


def gain(r: Rates, x: Tensor) -> Tensor:
    """sigma²/alpha, which turns a term of the score into one of x0; broadcasts against x (B, *)."""
    return spread(r.sigma**2 / r.alpha, x)


@dataclass(frozen=True, slots=True, eq=False)
class MomentMatched:
    """x0_hat + V A* (noise_std² + A V A*)⁻¹ (y - A x0_hat), V = (sigma²/alpha) J': E[x0 | x_t, y] for Gaussian data.

    Boys et al. 2023 (TMPD); Rozet et al. 2024 (MMPS), eq. 19-20, whose conjugate gradients these are. One call of the
    denoiser and a backward pass for each iteration and one more. Few iterations follow the directions in which the data
    vary most, and so act as a regularisation; D or the number of measurements, if that is smaller, solve exactly.

    measurement: what is known. iterations: of conjugate gradients, at most. tolerance: the relative residual at which a
    sample stops earlier; None for that of rounding. With noise_std 0 the measurement is met exactly where the equations
    are solved; a blur, which nearly loses fine detail, then needs many iterations: give it a noise_std of 0.01 or more.
    """

    denoise: Denoise
    measurement: Measurement
    iterations: int = 5
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UsageError(
                f"{self.iterations} iterations of conjugate gradients",
                expected="1 or more",
                fix="choose 5",
            )

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        at, known = linearised(self.denoise, x_t, t, cond), self.measurement
        p, noise_var, operator = at.prediction, known.noise_std**2, known.operator
        scale = gain(p.rates, x_t)

        def spread_out(v: Tensor) -> Tensor:
            """(noise_std² + A V A*) v."""
            return noise_var * v + operator.apply(scale * at.pulled(operator.adjoint(v)))

        tolerance = SOLVED.get(x_t.dtype, 1e-3) if self.tolerance is None else self.tolerance
        z = conjugate_gradients(spread_out, known.residual(p.x0), iterations=self.iterations, tolerance=tolerance)
        return p.with_x0(p.x0 + scale * at.pulled(operator.adjoint(z)))


@dataclass(frozen=True, slots=True, eq=False)
class PseudoInverseGuided:
    """ΠGDM: x0_hat + (sigma²/alpha) J' A* (noise_std² + r² A A*)⁻¹ (y - A x0_hat) (Song, Vahdat et al. 2023, eq. 7).

    r² = data_std² u²/(data_std² + u²), u = sigma/alpha: the variance of x0 given x_t for data N(0, data_std² I), which
    is the paper's sigma²/(sigma² + 1) for alpha = 1 and unit variance. One call of the denoiser and one backward pass.
    Exact for white Gaussian data; too sure of itself in directions in which data vary less than data_std, where x_t is
    still noise, and not sure enough in others. The paper's algorithm 1 weighs the term otherwise, for DDIM's steps;
    here it is the score, for any sampler. With noise_std 0 the pseudo-inverse of a mask, of means and of grey is exact;
    that of a blur multiplies rounding, give it a noise_std.

    measurement: what is known. data_std: standard deviation of prepared data.
    """

    denoise: Denoise
    measurement: Measurement
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.data_std < math.inf:
            raise UsageError(
                f"the data_std of pseudo-inverse guidance is {self.data_std}",
                expected="the standard deviation of prepared data, a number above 0",
                fix="take the denoiser's data_std",
            )

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        at, known = linearised(self.denoise, x_t, t, cond), self.measurement
        p, noise_var, operator = at.prediction, known.noise_std**2, known.operator
        level, data_var = p.rates.noise_level**2, self.data_std**2
        left = data_var * level / (data_var + level)  # r²
        residual = known.residual(p.x0)

        def spread_out(v: Tensor) -> Tensor:
            """(noise_std² + r² A A*) v."""
            return noise_var * v + spread(left, v) * operator.apply(operator.adjoint(v))

        z = conjugate_gradients(spread_out, residual, iterations=MANY, tolerance=SOLVED.get(x_t.dtype, 1e-3))
        return p.with_x0(p.x0 + gain(p.rates, x_t) * at.pulled(operator.adjoint(z)))


@dataclass(frozen=True, slots=True, eq=False)
class Dps:
    """Diffusion posterior sampling: each step goes on by -scale ∇|y - A x0_hat(x_t)| (Chung et al. 2023, alg. 1).

    As a denoiser, so that samplers need not know: x0_hat - (scale/pull) ∇|y - A x0_hat|, where `pull` is the weight of
    x0 in the mean of an ancestral step from t to t - 1/steps, alpha_s (1 - exp(log_snr_t - log_snr_s)), and 1 for the
    step to data. With `Ancestral` on an even grid (`Trailing`) of as many steps that is their algorithm; deterministic
    samplers take half the score's part, and so half of the move. One call of the denoiser and one backward pass.

    It is a gradient descent of fixed length per step along with the sampling: it takes many steps (the paper's 1,000),
    `scale` is found by trial, and noise_std is not asked: near |y - A x0_hat| = scale it goes to and fro. Kept for
    comparison; the others sample better, in fewer steps.

    measurement: what is known. steps: of the sampling grid. scale: the paper's step size ζ', about 1 for 256×256
    pictures; it grows as the root of the number of measurements.
    """

    denoise: Denoise
    measurement: Measurement
    steps: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_weight(self.scale, "scale of posterior sampling")
        if self.steps < 1:
            raise UsageError(
                f"posterior sampling in {self.steps} steps",
                expected="the number of steps of the sampling grid",
                fix="give the steps that the sampler takes",
            )

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        at = linearised(self.denoise, x_t, t, cond)
        p, operator = at.prediction, self.measurement.operator
        residual = self.measurement.residual(p.x0)
        unit = residual / spread(squared_norm(residual).sqrt().clamp(min=TINY), residual)
        return p.with_x0(p.x0 + spread(self.scale / self.pull(p.rates), x_t) * at.pulled(operator.adjoint(unit)))

    def pull(self, r: Rates) -> Tensor:
        """The weight of x0 in an ancestral step of 1/steps from the rates r, shaped as r.t."""
        s = r.t - 1 / self.steps
        to_data = s < self.schedule.t_min - 1e-9
        then = self.schedule.rates(torch.where(to_data, r.t, s))
        pull = then.alpha * -torch.expm1(r.log_snr - then.log_snr)
        return torch.where(to_data, 1.0, pull)
