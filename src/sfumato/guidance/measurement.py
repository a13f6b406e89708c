"""A measurement of unknown data, and the linear equations that its noise model leads to.

    y = A x0 + noise_std n,      n ~ N(0, I)

Whatever is assumed of x0 given x_t, x0 ~ N(x0_hat, V), the measurement has y ~ N(A x0_hat, noise_std² + A V A*), and
posterior sampling asks for z in (noise_std² + A V A*) z = y - A x0_hat. That is solved by conjugate gradients, for
every sample of a batch at its own pace, from products with A V A* alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core.rates import spread
from sfumato.errors import UsageError
from sfumato.guidance.operators import LinearOperator

__all__ = ["Measurement", "conjugate_gradients"]


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """y = A x0 + noise_std n: what is known of pictures that are to be sampled.

    operator: A. y: (B, *), or (1, *) for every sample of a batch; in the units of prepared data, 0 where a mask hides
    it. noise_std: standard deviation of the noise on y, in the units of y; 0 for a measurement that is exact. Raises
    UsageError for a negative noise_std, or values of y that are not finite.
    """

    operator: LinearOperator
    y: Tensor
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise_std < math.inf:
            raise UsageError(
                f"the noise_std of a measurement is {self.noise_std}",
                expected="a standard deviation, 0 or above, in the units of prepared data",
                fix="give 0 for a measurement without noise",
            )
        if not bool(self.y.isfinite().all()):
            raise UsageError(
                "a measurement holds values that are not finite",
                expected="finite numbers; 0 where a mask hides the picture",
                fix="fill what is not known with 0",
            )

    def residual(self, x0: Tensor) -> Tensor:
        """y - A x0, (B, *). Raises UsageError where y is not of the shape of A x0."""
        measured = self.operator.apply(x0)
        if self.y.shape[1:] != measured.shape[1:] or len(self.y) not in (1, len(measured)):
            raise UsageError(
                f"a measurement of shape {tuple(self.y.shape)}, and samples are measured as {tuple(measured.shape)}",
                expected="one measurement for each sample of the batch, or one (1, *) for all of them",
                fix="measure a picture of the samples' shape: operator.apply(picture)",
            )
        return self.y.to(x0) - measured


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, *, iterations: int, tolerance: float
) -> Tensor:
    """z with S z = right, (B, *), from S v = product(v), S symmetric and positive for each sample.

    Hestenes & Stiefel 1952. A sample is done when |right - S z| <= tolerance |right|, or where S turns out not to be
    positive along a direction: a network's Jacobian is no exact covariance. `iterations` at most; S may be singular
    where `right` is 0.
    """
    z, rest = torch.zeros_like(right), right
    along, size = rest, squared_norm(rest)
    enough = tolerance**2 * size
    for _ in range(iterations):
        moving = size > enough
        if not bool(moving.any()):
            break
        bent = product(along)
        curvature = dot(along, bent)
        moving &= curvature > 0
        step = torch.where(moving, size / torch.where(moving, curvature, 1.0), 0.0)
        z, rest = z + spread(step, z) * along, rest - spread(step, rest) * bent
        shrunk = squared_norm(rest)
        ratio = torch.where(moving, shrunk / torch.where(moving, size, 1.0), 0.0)
        along = rest + spread(ratio, rest) * along
        size = torch.where(moving, shrunk, 0.0)
    return z


def dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each sample, (B,)."""
    return (a * b).flatten(1).sum(1)


def squared_norm(a: Tensor) -> Tensor:
    """|a|² of each sample, (B,)."""
    return dot(a, a)
