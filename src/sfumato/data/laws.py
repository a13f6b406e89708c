"""The laws of the generated 2-D sets: log-density and score at any noise level, to truncation errors below 1e-10.

With x_t = alpha x_0 + sigma eps, eps ~ N(0, I), and y = x_t/alpha = x_0 + (sigma/alpha) eps,

    log p(x_t) = log p_y(x_t/alpha) - D log alpha,      score(x_t) = score_y(x_t/alpha)/alpha.

All sets but one are a Gaussian whose mean m(u), and for some whose covariance C(u), moves along a latent u,

    p_y(y) = ∫ w(u) N(y; m(u), C(u) + diag(std²)) du,   score_y(y) = Σ_u r_u (C(u) + diag(std²))^-1 (m(u) - y),

a sum over u for the `Mixture`, and Gauss-Legendre quadrature otherwise: panels of equal length along the curve, four
times the width of the Gaussian long, with 20 nodes each. The checkerboard is a product of normal CDF differences.
A normalised law is that of (x_0 - mean)/scale; its blur has another width in each raw coordinate, hence std (2,).

float64 throughout. A law without noise and blur has no density on the plane, the checkerboard and the pinwheel with
noise excepted, and is refused.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.data.points import POINT_SETS, Checkerboard, Circles, Mixture, Moons, Pinwheel, PointSet, SwissRoll
from sfumato.data.seeding import generator
from sfumato.data.settings import DataConfig
from sfumato.errors import DataError

__all__ = ["Blurred", "GaussianFamily", "Law", "law_of", "law_of_set"]

CHUNK = 1 << 17  # pairs of a point and a node at once: what fits into a cache
NODES = 20  # of a panel
PANEL = 4.0  # its length in widths of the Gaussian: 20 nodes integrate that to 1e-14
MOST_NODES = 1 << 18
_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, slots=True, eq=False)
class Blurred:
    """log p (B,) in nats and its gradient (B, 2)."""

    log_density: Tensor
    score: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class GaussianFamily:
    """Σ_k exp(log_weights_k) N(means_k, covariances_k): (K,), (K, 2), (K, 2, 2)."""

    log_weights: Tensor
    means: Tensor
    covariances: Tensor

    def at(self, y: Tensor) -> Blurred:
        """Log-density and score at y (B, 2)."""
        precision = torch.linalg.inv(self.covariances)
        constant = self.log_weights - 0.5 * torch.logdet(self.covariances) - _LOG_2PI
        found = [self._part(part, precision, constant) for part in y.split(max(1, CHUNK // len(self.means)))]
        return Blurred(torch.cat([f.log_density for f in found]), torch.cat([f.score for f in found]))

    def _part(self, y: Tensor, precision: Tensor, constant: Tensor) -> Blurred:
        dx, dy = (self.means[:, i] - y[:, i, None] for i in (0, 1))  # (B, K) each
        a, b, c = precision[:, 0, 0], precision[:, 0, 1], precision[:, 1, 1]
        pull_x, pull_y = a * dx + b * dy, b * dx + c * dy
        logits = constant - 0.5 * (dx * pull_x + dy * pull_y)
        log_density = logits.logsumexp(dim=1)
        share = (logits - log_density[:, None]).exp()
        return Blurred(log_density, torch.stack([(share * pull_x).sum(1), (share * pull_y).sum(1)], dim=1))


class Law(ABC):
    """A law on the plane: how its points are drawn, their exact density and score, and their modes if it has any."""

    @abstractmethod
    def blurred(self, y: Tensor, std: Tensor) -> Blurred:
        """Density and score of x_0 + std · N(0, I) at y (B, 2); std (2,), one for each coordinate, at least 0."""

    @abstractmethod
    def draw(self, count: int, seed: int, purpose: str = "law") -> Tensor:
        """`count` independent points (count, 2), a pure function of (seed, purpose)."""

    @property
    def mode_shares(self) -> Tensor | None:
        """Weights of the law's modes (K,); None for a law in one piece."""
        return None

    def mode_of(self, x: Tensor) -> Tensor:
        """Which mode each point (B, 2) belongs to, int64 (B,): the nearest."""
        raise DataError(
            f"{type(self).__name__} has no modes", expected="a law with modes", fix="leave out mode_coverage"
        )

    def log_density(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """log p(x_t = x), nats, (B,) float64; x (B, 2). Clean data by default. Raises DataError where there is none."""
        return self._moved(x, alpha, sigma).log_density - 2 * math.log(alpha)

    def score(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """∇ log p(x_t = x), (B, 2) float64. Raises DataError where the density is 0, or its gradient is not known."""
        score = self._moved(x, alpha, sigma).score / alpha
        if not bool(score.isfinite().all()):
            raise DataError(
                f"{type(self).__name__} has no score at some of the points at noise level {sigma / alpha:g}",
                expected="a noise level above 0, or points where clean data lie",
                fix="ask for the score of blurred data (sigma above 0)",
            )
        return score

    def _moved(self, x: Tensor, alpha: float, sigma: float) -> Blurred:
        y = x.detach().to("cpu", torch.float64) / alpha
        return self.blurred(y, torch.full((2,), sigma / alpha, dtype=torch.float64))

    def normalized(self, mean: Sequence[float], scale: Sequence[float]) -> "Law":
        """The law of (x_0 - mean)/scale, coordinate by coordinate: that of model space."""
        return NormalizedLaw(self, tuple(mean), tuple(scale))

    def entropy(self, *, count: int = 100_000, seed: int = 0) -> float:
        """-E log p(x_0) in nats, the true negative log-likelihood, by `count` draws: error about 1/sqrt(count)."""
        return -float(self.log_density(self.draw(count, seed, "entropy")).mean())


@dataclass(frozen=True, slots=True, eq=False)
class NormalizedLaw(Law):
    """The law of (x_0 - mean)/scale."""

    raw: Law
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def blurred(self, y: Tensor, std: Tensor) -> Blurred:
        mean, scale = torch.tensor([self.mean, self.scale], dtype=torch.float64)
        found = self.raw.blurred(mean + scale * y, scale * std)
        return Blurred(found.log_density + scale.log().sum(), found.score * scale)

    def draw(self, count: int, seed: int, purpose: str = "law") -> Tensor:
        mean, scale = torch.tensor([self.mean, self.scale], dtype=torch.float64)
        return (self.raw.draw(count, seed, purpose) - mean) / scale

    @property
    def mode_shares(self) -> Tensor | None:
        return self.raw.mode_shares

    def mode_of(self, x: Tensor) -> Tensor:
        mean, scale = torch.tensor([self.mean, self.scale], dtype=torch.float64)
        return self.raw.mode_of(mean + scale * x.double())


@dataclass(frozen=True, slots=True, eq=False)
class SetLaw(Law):
    """The law of a point set; `centres` (K, 2) are its modes, equally likely, or there are none."""

    points: PointSet
    centres: Tensor | None

    def draw(self, count: int, seed: int, purpose: str = "law") -> Tensor:
        return self.points.draw(count, generator(seed, f"{purpose} {self.points!r}")).values

    @property
    def mode_shares(self) -> Tensor | None:
        if self.centres is None:
            return None
        return torch.full((len(self.centres),), 1 / len(self.centres), dtype=torch.float64)

    def mode_of(self, x: Tensor) -> Tensor:
        return Law.mode_of(self, x) if self.centres is None else torch.cdist(x.double(), self.centres).argmin(1)


@dataclass(frozen=True, slots=True, eq=False)
class MixtureLaw(SetLaw):
    """Equal Gaussians of standard deviation `std` around the centres, in closed form."""

    std: float = 0.0

    def blurred(self, y: Tensor, std: Tensor) -> Blurred:
        assert self.centres is not None
        variance = _variance(self.std**2, std)
        count = len(self.centres)
        log_weights = torch.full((count,), -math.log(count), dtype=torch.float64)
        return GaussianFamily(log_weights, self.centres, torch.diag(variance).expand(count, 2, 2)).at(y)


@dataclass(frozen=True, slots=True, eq=False)
class CurveLaw(SetLaw):
    """Uniform in u on [0, 1] along one of several equally likely curves u -> (…, 2), plus noise N(0, std² I)."""

    curves: tuple[Callable[[Tensor], Tensor], ...] = ()
    std: float = 0.0

    def blurred(self, y: Tensor, std: Tensor) -> Blurred:
        variance = _variance(self.std**2, std)
        width = float(variance.min().sqrt())
        parts = [_quadrature(curve, (0.0, 1.0), width) for curve in self.curves]
        means = torch.cat([curve(part.u) for curve, part in zip(self.curves, parts, strict=True)])
        log_weights = torch.cat([part.weight for part in parts]).log() - math.log(len(self.curves))
        return GaussianFamily(log_weights, means, torch.diag(variance).expand(len(means), 2, 2)).at(y)


@dataclass(frozen=True, slots=True, eq=False)
class CheckerboardLaw(SetLaw):
    """Uniform on eight squares [a, a + ½] x [b, b + ½], plus noise N(0, std² I): Σ 4/8 ΔΦ(x) ΔΦ(y) over the squares."""

    std: float = 0.0

    def blurred(self, y: Tensor, std: Tensor) -> Blurred:
        assert self.centres is not None
        width = (self.std**2 + std**2).sqrt()
        x, z = (_interval(y[:, i], self.centres[:, i], float(width[i])) for i in (0, 1))
        logits = x.log_mass + z.log_mass + math.log(0.5)
        log_density = logits.logsumexp(dim=1)
        share = (logits - log_density[:, None]).exp()
        score = torch.stack([(share * x.slope).sum(1), (share * z.slope).sum(1)], dim=1)
        return Blurred(log_density, score)


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """log P(y - width z within the interval), (B, K), and its derivative in y."""

    log_mass: Tensor
    slope: Tensor


def _interval(y: Tensor, centre: Tensor, width: float) -> Interval:
    """For centre ± ¼: log[Φ(high) - Φ(low)], in the smaller tail so that nothing cancels; half-open without width."""
    low, high = centre - 0.25 - y[:, None], centre + 0.25 - y[:, None]
    if width == 0:
        inside = (low <= 0) & (high > 0)
        return Interval(inside.double().log(), torch.zeros_like(low))
    low, high = low / width, high / width
    mirrored = low > 0
    near, far = torch.where(mirrored, -low, high), torch.where(mirrored, -high, low)
    log_near, log_far = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
    log_mass = log_near + torch.log1p(-(log_far - log_near).exp())
    bells = [(-0.5 * (z**2 + _LOG_2PI) - log_mass).exp() / width for z in (low, high)]
    return Interval(log_mass, bells[0] - bells[1])


@dataclass(frozen=True, slots=True, eq=False)
class PinwheelLaw(SetLaw):
    """Arms x = r u + q u⊥, u at the angle 2πk/5 + exp(r)/4, r ~ N(1, 0.3²), q ~ N(0, std²).

    With blur: Gaussian in q for a given r, quadrature over r. Without: for each r with u·x = r, q = u⊥·x, the density
    is p(r) p(q)/|1 - q exp(r)/4|, summed over all such r (several where arms meet).
    """

    std: float = 0.1

    def blurred(self, y: Tensor, std: Tensor) -> Blurred:
        if float(std.max()) == 0:
            return self._sharp(y)
        variance = _variance(0.0, std)
        part = _quadrature(lambda r: _arm(r, 0), (1 - 0.3 * 7.5, 1 + 0.3 * 7.5), float(variance.min().sqrt()))
        r = part.u.repeat(5)
        arm = torch.arange(5).repeat_interleave(len(part.u))
        unit = _arm_unit(r, arm)
        across = torch.stack([-unit[:, 1], unit[:, 0]], dim=1)
        log_weights = part.weight.repeat(5).log() + _log_normal(r, 1.0, 0.3) - math.log(5)
        covariances = self.std**2 * across[:, :, None] * across[:, None, :] + torch.diag(variance)
        return GaussianFamily(log_weights, r[:, None] * unit, covariances).at(y)

    def _sharp(self, y: Tensor) -> Blurred:
        if self.std == 0:
            _variance(0.0, torch.zeros(2))
        grid = torch.linspace(1 - 0.3 * 9, 1 + 0.3 * 9, 769, dtype=torch.float64)
        densities = [self._sharp_density(part, grid) for part in y.split(CHUNK // len(grid))]
        return Blurred(torch.cat(densities).log(), torch.full_like(y, math.nan))

    def _sharp_density(self, y: Tensor, grid: Tensor) -> Tensor:
        density = torch.zeros(len(y), dtype=torch.float64)
        for k in range(5):
            arm = torch.tensor(k)
            miss = grid - (y[:, None] * _arm_unit(grid, arm)).sum(-1)  # (B, R): r - u(r)·y
            point, cell = (miss[:, 1:].sign() != miss[:, :-1].sign()).nonzero(as_tuple=True)
            low, high, target = grid[cell], grid[cell + 1], y[point]
            rising = miss[point, cell] < 0
            for _ in range(50):  # bisection, to the last bit
                middle = (low + high) / 2
                below = (middle - (target * _arm_unit(middle, arm)).sum(-1) < 0) == rising
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            unit = _arm_unit(low, arm)
            q = target[:, 1] * unit[:, 0] - target[:, 0] * unit[:, 1]
            log_joint = _log_normal(low, 1.0, 0.3) + _log_normal(q, 0.0, self.std) - math.log(5)
            density.index_add_(0, point, log_joint.exp() / (1 - q * low.exp() / 4).abs())
        return density


def _log_normal(x: Tensor, mean: float, std: float) -> Tensor:
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * _LOG_2PI


def _arm_unit(r: Tensor, arm: Tensor) -> Tensor:
    angle = arm * (2 * math.pi / 5) + r.exp() / 4
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _arm(r: Tensor, arm: int) -> Tensor:
    return r[:, None] * _arm_unit(r, torch.tensor(arm))


def _variance(own: float, std: Tensor) -> Tensor:
    """own + std², (2,). Raises DataError where a coordinate would have neither noise nor blur."""
    variance = own + std.double() ** 2
    if float(variance.min()) <= 0:
        raise DataError(
            "points on a curve, without noise and at noise level 0, have no density on the plane",
            expected="a set with noise (data.noise above 0), or a noise level above 0",
            fix="set data.noise, or leave out what compares with the true density",
        )
    return variance


@dataclass(frozen=True, slots=True, eq=False)
class Quadrature:
    """Nodes u and positive weights, (K,) each: ∫ f du ≈ Σ weight f(u)."""

    u: Tensor
    weight: Tensor


def _quadrature(curve: Callable[[Tensor], Tensor], ends: tuple[float, float], width: float) -> Quadrature:
    """Gauss-Legendre panels over `ends`, each at most `PANEL` widths long along the curve."""
    fine = torch.linspace(*ends, 4001, dtype=torch.float64)
    travelled = torch.cat([torch.zeros(1, dtype=torch.float64), curve(fine).diff(dim=0).norm(dim=1).cumsum(0)])
    panels = max(8, math.ceil(float(travelled[-1]) / (PANEL * width)))
    if panels * NODES > MOST_NODES:
        raise DataError(
            f"a curve blurred by {width:.2g} only needs {panels * NODES:,} nodes of quadrature",
            expected=f"at most {MOST_NODES:,}",
            fix="raise the noise level (or data.noise)",
        )
    edges = _interpolated(torch.linspace(0, float(travelled[-1]), panels + 1, dtype=torch.float64), travelled, fine)
    node, weight = _gauss_legendre(NODES)
    half = edges.diff()[:, None] / 2
    return Quadrature((edges[:-1, None] + half * (1 + node)).flatten(), (half * weight).flatten())


def _interpolated(x: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation of values at increasing `known` points."""
    right = torch.searchsorted(known, x).clamp(1, len(known) - 1)
    share = ((x - known[right - 1]) / (known[right] - known[right - 1])).clamp(0, 1)
    return values[right - 1] + share * (values[right] - values[right - 1])


def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1] from the eigenvectors of the Jacobi matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    beside = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return nodes, 2 * vectors[0] ** 2


def _unit(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _roll(u: Tensor) -> Tensor:
    angle = 1.5 * math.pi * (1 + 2 * u)
    return angle[..., None] * _unit(angle) / 10


def _moon(side: int) -> Callable[[Tensor], Tensor]:
    return lambda u: side * (_unit(math.pi * u) + torch.tensor([-0.5, -0.25], dtype=torch.float64))


def _circle(radius: float) -> Callable[[Tensor], Tensor]:
    return lambda u: radius * _unit(2 * math.pi * u)


def law_of_set(points: PointSet) -> Law:
    """The exact law of a point set."""
    match points:
        case SwissRoll():
            return CurveLaw(points, None, (_roll,), points.noise / 10)
        case Moons():
            return CurveLaw(points, None, (_moon(1), _moon(-1)), points.noise)
        case Circles():
            return CurveLaw(points, None, (_circle(1.0), _circle(0.5)), points.noise)
        case Checkerboard():
            squares = torch.tensor([[c, r] for c in range(4) for r in range(4) if (c + r) % 2 == 0])
            return CheckerboardLaw(points, (squares.double() + 0.5) / 2 - 1, points.noise)
        case Mixture():
            return MixtureLaw(points, _unit(torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)), points.noise)
        case Pinwheel():
            return PinwheelLaw(points, None, points.noise)
        case _:
            raise DataError(
                f"the law of {points!r} is not known", expected="a set of sfumato's own", fix="leave it out"
            )


def law_of(config: DataConfig) -> Law | None:
    """The law that a configuration draws its points from; None for data from files and for pictures."""
    if config.path is not None or config.source not in POINT_SETS:
        return None
    kind = POINT_SETS[config.source]
    return law_of_set(kind() if config.noise is None else kind(noise=config.noise))
