"""Oracles in the places of networks: a perfect denoiser for samplers, a perfect network for objectives.

What is left of an error, once the denoiser is exact, is the method's own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.core import Cond, NoiseVarianceInput, Prediction, Rates, Schedule
from sfumato.verify.oracles import MixtureOracle, Oracle

__all__ = ["MIXTURE", "Ideal", "IdealNetwork", "mixture"]


def mixture() -> MixtureOracle:
    """Two correlated Gaussians in the plane, about as large as prepared data: nothing in it is symmetric."""
    covs = [[[0.3, 0.1], [0.1, 0.4]], [[0.2, 0.0], [0.0, 0.3]]]
    return MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], covs)


MIXTURE = mixture()


@dataclass(frozen=True, slots=True)
class Ideal:
    """An oracle of the data's law as a `Denoise`: x0 = E[x_0 | x_t], exact to float64."""

    oracle: Oracle
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        r = self.schedule.rates(t)
        x0 = self.oracle.denoiser(x_t.double().numpy(), r.alpha.numpy(), r.sigma.numpy())
        return Prediction(x_t, r, torch.from_numpy(x0).to(x_t.dtype))


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
