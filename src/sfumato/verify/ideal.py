"""Oracles in the places of networks: a perfect denoiser for samplers, a perfect network for objectives.

What is left of an error, once the denoiser is exact, is the method's own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core import Cond, NoiseVarianceInput, Prediction, Rates, Schedule
from sfumato.core.rates import spread
from sfumato.verify.oracles import MixtureOracle, Oracle

__all__ = ["MIXTURE", "Ideal", "IdealNetwork", "IdealOfClasses", "mixture"]


def mixture() -> MixtureOracle:
    """Two correlated Gaussians in the plane, about as large as prepared data: nothing in it is symmetric."""
    covs = [[[0.3, 0.1], [0.1, 0.4]], [[0.2, 0.0], [0.0, 0.3]]]
    return MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], covs)


MIXTURE = mixture()


STEP = 1e-4  # of the central difference, as a share of sigma, over which D bends: its error is about 1e-9


class _Denoised(torch.autograd.Function):
    """x_t -> D(x_t) of an oracle, with a derivative.

    D's Jacobian is (alpha/sigma²) Cov[x_0 | x_t], symmetric, so that v' J = (J v)', a central difference along v.
    """

    @staticmethod
    def forward(ctx: Any, x_t: Tensor, oracle: Oracle, r: Rates) -> Tensor:
        ctx.save_for_backward(x_t)
        ctx.oracle, ctx.rates = oracle, r
        return _denoised(x_t, oracle, r)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x_t,), (v,) = ctx.saved_tensors, gradients
        length = v.flatten(1).norm(dim=1).clamp(min=1e-300)
        h = spread(STEP * ctx.rates.sigma / length, v)
        ahead, behind = (_denoised(x_t + way * h * v, ctx.oracle, ctx.rates) for way in (1, -1))
        return (ahead - behind) / (2 * h), None, None


def _denoised(x_t: Tensor, oracle: Oracle, r: Rates) -> Tensor:
    x0 = oracle.denoiser(x_t.detach().double().numpy(), r.alpha.numpy(), r.sigma.numpy())
    return torch.from_numpy(x0).to(x_t.dtype)


@dataclass(frozen=True, slots=True)
class Ideal:
    """An oracle of the data's law as a `Denoise`: x0 = E[x_0 | x_t], exact to float64, its derivative to 1e-8."""

    oracle: Oracle
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        r = self.schedule.rates(t)
        return Prediction(x_t, r, _Denoised.apply(x_t, self.oracle, r))


@dataclass(frozen=True, slots=True)
class IdealOfClasses:
    """An oracle for each label and one for all data, as a `Denoise` that is told labels: E[x_0 | x_t, k].

    Without a condition, and where an example is dropped, the law of all data.
    """

    everything: Oracle
    classes: tuple[Oracle, ...]
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        r = self.schedule.rates(t)
        asked = torch.full((len(x_t),), -1) if cond is None or cond.labels is None else cond.labels
        if cond is not None and cond.dropped is not None:
            asked = torch.where(cond.dropped, -1, asked)
        x0 = torch.zeros_like(x_t)
        for k, law in enumerate((*self.classes, self.everything)):
            mine = asked == (k if k < len(self.classes) else -1)
            if bool(mine.any()):  # an oracle's answer is slow
                x0 = torch.where(spread(mine, x_t).bool(), _Denoised.apply(x_t, law, r), x0)
        return Prediction(x_t, r, x0)


class IdealNetwork(nn.Module):
    """An oracle in the place of a network that predicts eps from c_in x_t and the share of noise.

    With `NoiseVarianceInput` on a variance-preserving schedule: time = sigma², c_in = (alpha² d² + sigma²)^(-1/2).
    """

    def __init__(self, oracle: Oracle, *, data_std: float) -> None:
        super().__init__()
        self.oracle = oracle
        self.data_std = data_std

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """E[eps | x_t] for x = c_in x_t (B, *) and time = sigma² (B,)."""
        sigma = time.double().sqrt()
        r = Rates(time, (1 - time.double()).sqrt(), sigma)
        scale = NoiseVarianceInput().input_scale(r, self.data_std)
        x_t = x.double() / scale.reshape(-1, *(1,) * (x.ndim - 1))
        return torch.from_numpy(self.oracle.eps(x_t.numpy(), r.alpha.numpy(), sigma.numpy())).to(x.dtype)
