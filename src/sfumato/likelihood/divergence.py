"""The trace of a Jacobian, tr(dF/dz) = Σ_i dF_i/dz_i, which is how fast an ODE thins out probability.

Exactly, by one backward pass for each of the D dimensions; or from probes v with E[v v'] = I, by one backward pass
each, E[v' (dF/dz) v] = tr(dF/dz) (Skilling 1989; Hutchinson 1990; Grathwohl et al. 2019). A probe is kept along the
whole path of its sample, so that the integral of its estimates is itself an unbiased estimate, and several of them tell
their spread.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import NoiseSource
from sfumato.errors import ConfigError, UsageError
from sfumato.likelihood.totals import total

__all__ = ["PROBE_DRAW", "Divergence", "Exact", "GaussianProbes", "Rademacher"]

PROBE_DRAW = 1 << 20  # the first draw of the probes: those below are left to noise on the data, which must not match


class Divergence(ABC):
    """How the trace of the Jacobian of a field is found."""

    __slots__ = ()

    @abstractmethod
    def probes(self, z: Tensor, noise: NoiseSource) -> tuple[Tensor, ...]:
        """The directions that one path keeps, each like z (B, *)."""

    @abstractmethod
    def traces(self, output: Tensor, z: Tensor, probes: tuple[Tensor, ...]) -> Tensor:
        """tr(d output/dz) per sample, one estimate a column: (B, K) float64 on the CPU.

        output (B, *) must hang on z (B, *) in autograd's graph, row by row.
        """


@dataclass(frozen=True, slots=True)
class Exact(Divergence):
    """D backward passes, no noise: for points and very small pictures.

    largest: the most dimensions that are taken; more are refused.
    """

    largest: int = 256

    def probes(self, z: Tensor, noise: NoiseSource) -> tuple[Tensor, ...]:
        """None. Raises UsageError above `largest` dimensions."""
        if z[0].numel() > self.largest:
            raise UsageError(
                f"the exact divergence of examples with {z[0].numel()} values takes as many backward passes per step",
                expected=f"at most {self.largest} values",
                fix="take Rademacher probes, which report their standard error, or raise Exact's largest",
            )
        return ()

    def traces(self, output: Tensor, z: Tensor, probes: tuple[Tensor, ...]) -> Tensor:
        flat, found = output.flatten(1), torch.zeros(len(z), dtype=torch.float64)
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), z, retain_graph=True)
            found = found + total(row.flatten(1)[:, i : i + 1])
        return found[:, None]


@dataclass(frozen=True, slots=True)
class Rademacher(Divergence):
    """Probes of random signs: variance 2 Σ_(i≠j) J_ij² for a symmetric Jacobian J, none for a diagonal one.

    num_probes: estimates per sample, from which the standard error comes; one gives none.
    """

    num_probes: int = 4

    def __post_init__(self) -> None:
        check_probes(self.num_probes)

    def probes(self, z: Tensor, noise: NoiseSource) -> tuple[Tensor, ...]:
        return tuple(torch.where(v < 0, -1.0, 1.0).to(z) for v in normals(self.num_probes, z, noise))

    def traces(self, output: Tensor, z: Tensor, probes: tuple[Tensor, ...]) -> Tensor:
        return projections(output, z, probes)


@dataclass(frozen=True, slots=True)
class GaussianProbes(Divergence):
    """Probes from N(0, I): variance 2 |J|² for a symmetric Jacobian, more than random signs; for comparison.

    num_probes: estimates per sample, from which the standard error comes; one gives none.
    """

    num_probes: int = 4

    def __post_init__(self) -> None:
        check_probes(self.num_probes)

    def probes(self, z: Tensor, noise: NoiseSource) -> tuple[Tensor, ...]:
        return normals(self.num_probes, z, noise)

    def traces(self, output: Tensor, z: Tensor, probes: tuple[Tensor, ...]) -> Tensor:
        return projections(output, z, probes)


def normals(count: int, z: Tensor, noise: NoiseSource) -> tuple[Tensor, ...]:
    """`count` draws of N(0, I) like z (B, *)."""
    return tuple(noise.normal(z, draw=PROBE_DRAW + k) for k in range(count))


def projections(output: Tensor, z: Tensor, probes: tuple[Tensor, ...]) -> Tensor:
    """v' (d output/dz) v for each probe v (B, *): (B, K) float64 on the CPU."""
    found = []
    for v in probes:
        (back,) = torch.autograd.grad(output, z, v, retain_graph=True)
        found.append(total(back * v))
    return torch.stack(found, 1)


def check_probes(count: int) -> None:
    """Refuse an estimate from no probe. Raises ConfigError."""
    if count < 1:
        raise ConfigError(f"num_probes is {count}", expected="1 or more", fix="set num_probes: 4")
