"""What a denoiser says of a noisy x_t: one guess of the data, in every word the field uses for it."""

from dataclasses import dataclass, replace

from torch import Tensor

from sfumato.core.rates import Rates, spread

__all__ = ["Prediction"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a denoiser says of x_t: x0 (B, *), its guess of the data; eps, score and v say the same in other words.

    var_output (B, *): what a network with `learn_variance` says of the variance of the next step, in the words of the
    `Variance` that it was trained with (`LearnedRange`, `Learned`).
    """

    x_t: Tensor
    rates: Rates
    x0: Tensor
    var_output: Tensor | None = None

    @property
    def eps(self) -> Tensor:
        """(x_t - alpha x0)/sigma, (B, *)."""
        r = self.rates
        return (self.x_t - spread(r.alpha, self.x_t) * self.x0) / spread(r.sigma, self.x_t)

    @property
    def score(self) -> Tensor:
        """-eps/sigma, the gradient of log p_t at x_t, (B, *)."""
        r = self.rates
        return (spread(r.alpha, self.x_t) * self.x0 - self.x_t) / spread(r.sigma**2, self.x_t)

    @property
    def v(self) -> Tensor:
        """alpha eps - sigma x0, (B, *)."""
        r = self.rates
        return spread(r.alpha, self.x_t) * self.eps - spread(r.sigma, self.x_t) * self.x0

    def with_x0(self, x0: Tensor) -> "Prediction":
        """The same prediction with another x0: eps, score and v follow it."""
        return replace(self, x0=x0)
