"""Two-dimensional point sets with known shapes: small enough to see a whole diffusion at a glance.

Each set is a frozen dataclass whose `draw` turns a generator into points; u denotes uniform draws on [0, 1), z standard
normal ones. Everything is computed in float64 and returned in float32.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.data.labels import map_labels
from sfumato.data.packed import Packed, pack
from sfumato.data.seeding import generator
from sfumato.data.settings import DataConfig

__all__ = [
    "POINT_SETS",
    "Checkerboard",
    "Circles",
    "Mixture",
    "Moons",
    "Pinwheel",
    "PointSet",
    "Points",
    "SwissRoll",
    "load_points",
]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """values float64 (N, 2); labels int64 (N,) where the set has natural classes."""

    values: Tensor
    labels: Tensor | None = None


class PointSet(ABC):
    """A distribution on the plane."""

    @abstractmethod
    def draw(self, count: int, source: torch.Generator) -> Points:
        """`count` independent points, a pure function of the state of `source`."""


@dataclass(frozen=True, slots=True)
class SwissRoll(PointSet):
    """Marsland's roll seen from the side: a = 3π/2 (1 + 2u), point (a cos a, a sin a)/10 + noise/10 · z.

    The roll of esling: coordinates (0, 2) of the usual three-dimensional set, divided by 10. With noise 0.5 the mean is
    (.20, .01), the standard deviation (.66, .70), and E x² = .483 per coordinate.
    """

    noise: float = 0.5

    def draw(self, count: int, source: torch.Generator) -> Points:
        angle = 1.5 * math.pi * (1 + 2 * _uniform(source, count))
        roll = angle[:, None] * _unit(angle)
        return Points((roll + self.noise * _normal(source, count, 2)) / 10)


@dataclass(frozen=True, slots=True)
class Moons(PointSet):
    """Two interleaved half circles of radius 1 around (∓1/2, ∓1/4), a = πu; the label says which."""

    noise: float = 0.05

    def draw(self, count: int, source: torch.Generator) -> Points:
        labels = torch.randint(2, (count,), generator=source)
        side = (1 - 2 * labels).double()[:, None]
        half_circle = _unit(math.pi * _uniform(source, count))
        shift = torch.tensor([-0.5, -0.25], dtype=torch.float64)
        return Points(side * (half_circle + shift) + self.noise * _normal(source, count, 2), labels)


@dataclass(frozen=True, slots=True)
class Circles(PointSet):
    """Two concentric circles of radius 1 (label 0) and 1/2 (label 1), a = 2πu."""

    noise: float = 0.03

    def draw(self, count: int, source: torch.Generator) -> Points:
        labels = torch.randint(2, (count,), generator=source)
        radius = (1 - 0.5 * labels.double())[:, None]
        circle = radius * _unit(2 * math.pi * _uniform(source, count))
        return Points(circle + self.noise * _normal(source, count, 2), labels)


@dataclass(frozen=True, slots=True)
class Checkerboard(PointSet):
    """Uniform on the eight squares of a 4x4 board over [-1, 1]² whose column and row number add to an even number."""

    noise: float = 0.0

    def draw(self, count: int, source: torch.Generator) -> Points:
        column = torch.randint(4, (count,), generator=source)
        row = 2 * torch.randint(2, (count,), generator=source) + column % 2
        corner = torch.stack([column, row], dim=1).double()
        inside = torch.rand(count, 2, generator=source, dtype=torch.float64)
        return Points((corner + inside) / 2 - 1 + self.noise * _normal(source, count, 2))


@dataclass(frozen=True, slots=True)
class Mixture(PointSet):
    """Eight equal Gaussians of standard deviation `noise`, their means evenly spaced on the unit circle."""

    noise: float = 0.1

    def draw(self, count: int, source: torch.Generator) -> Points:
        labels = torch.randint(8, (count,), generator=source)
        return Points(_unit(labels.double() * (2 * math.pi / 8)) + self.noise * _normal(source, count, 2), labels)


@dataclass(frozen=True, slots=True)
class Pinwheel(PointSet):
    """Five arms: (r, q) = (1 + 0.3 z, noise · z), turned by 2πk/5 + exp(r)/4, so that each arm bends as it goes out."""

    noise: float = 0.1

    def draw(self, count: int, source: torch.Generator) -> Points:
        labels = torch.randint(5, (count,), generator=source)
        along = 1 + 0.3 * _normal(source, count, 1)[:, 0]
        across = self.noise * _normal(source, count, 1)[:, 0]
        turn = _unit(labels.double() * (2 * math.pi / 5) + along.exp() / 4)
        cosine, sine = turn.unbind(1)
        values = torch.stack([along * cosine - across * sine, along * sine + across * cosine], dim=1)
        return Points(values, labels)


POINT_SETS: dict[str, type[SwissRoll | Moons | Circles | Checkerboard | Mixture | Pinwheel]] = {
    "swiss-roll": SwissRoll,
    "moons": Moons,
    "circles": Circles,
    "checkerboard": Checkerboard,
    "mixture": Mixture,
    "pinwheel": Pinwheel,
}


def load_points(config: DataConfig, *, seed: int) -> Packed:
    """`config.count` points of the set that `config.source` names, a pure function of (source, noise, count, seed)."""
    kind = POINT_SETS[config.source]
    chosen = kind() if config.noise is None else kind(noise=config.noise)
    points = chosen.draw(config.count, generator(seed, f"points {config.source}"))
    values = points.values[: config.limit].float()
    if points.labels is None:
        return pack(values)
    kept = points.labels[: config.limit].numpy()
    classes = map_labels(kept, len(kept), None, where=f"data.source {config.source}")
    return pack(values, labels=classes.indices, label_values=classes.values)


def _uniform(source: torch.Generator, count: int) -> Tensor:
    return torch.rand(count, generator=source, dtype=torch.float64)


def _normal(source: torch.Generator, count: int, width: int) -> Tensor:
    return torch.randn(count, width, generator=source, dtype=torch.float64)


def _unit(angle: Tensor) -> Tensor:
    """(N,) angles to (N, 2) points on the unit circle."""
    return torch.stack([angle.cos(), angle.sin()], dim=1)
