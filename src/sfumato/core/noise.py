"""Randomness as a function: every draw is determined by (seed, purpose, index), never by what was drawn before.

Training draws a whole global batch from one generator derived from (seed, purpose, step): `derived_generator`.

Sampling draws per sample. Sample i of seed K is sample 0 of seed K + i, so its noise is the same bits in any batch. The
numbers come from a counter-based hash (SplitMix64's finalizer, twice, with two keys; Steele, Lea & Flood 2014) and
Box-Muller in float32, which vectorizes over samples and elements, where one generator per sample would not.

A stochastic sampler sees one Brownian path W in log_snr per sample: its increments over [log_snr_t, log_snr_s] are what
it uses as noise, so 20 and 200 steps refine the same picture. W is built by Lévy's midpoint construction on a dyadic
tree, each node's normals being a hash of (seed, node).
"""

import hashlib
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sfumato.core.rates import Rates
from sfumato.errors import ConfigError

__all__ = ["NoiseSource", "batch_noise", "batch_uniforms", "derived_generator", "derived_seed"]

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: the increment of SplitMix64
REACH = 64.0  # the path is defined for log_snr in [-64, 64]
DEPTH = 21  # of the tree: a lattice of 2 REACH / 2^21 = 6e-5 nats, finer than 50,000 steps need


def derived_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed from (seed, purpose, index …) by SHA-256: different purposes and indices share nothing."""
    text = ":".join((str(seed), purpose, *map(str, index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def derived_generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A CPU generator whose stream depends on (seed, purpose, index …) alone."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *index))


def batch_noise(
    shape: tuple[int, ...], seed: int, purpose: str, *index: int, device: torch.device | str = "cpu"
) -> Tensor:
    """N(0, I) of the given shape, float32, for (seed, purpose, index …): a whole global batch at once.

    Drawn on the device by the device's own generator, whose bits are not those of another kind of device: a GPU that
    waits for the CPU to draw 786,432 numbers a step is idle a third of the time.
    """
    generator = torch.Generator(device=device).manual_seed(derived_seed(seed, purpose, *index))
    return torch.randn(shape, generator=generator, device=device)


def batch_uniforms(shape: tuple[int, ...], seed: int, purpose: str, *index: int) -> Tensor:
    """U[0, 1) of the given shape, float64, for (seed, purpose, index …): a few numbers per example, on the CPU.

    Drawn there on every machine, so that which examples lose their label does not depend on the device.
    """
    return torch.rand(shape, generator=derived_generator(seed, purpose, *index), dtype=torch.float64)


def _wrap(value: int) -> int:
    """An unsigned 64-bit constant as the int64 of the same bits; int64 products wrap modulo 2^64 all the same."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finalizer, a bijection of 64 bits that avalanches; int64, in place."""
    z ^= (z >> 30) & ((1 << 34) - 1)  # masked: int64's >> copies the sign
    z *= _wrap(0xBF58476D1CE4E5B9)
    z ^= (z >> 27) & ((1 << 37) - 1)
    z *= _wrap(0x94D049BB133111EB)
    z ^= (z >> 31) & ((1 << 33) - 1)
    return z


def _hashed_normals(keys: Tensor, count: int) -> Tensor:
    """`count` independent N(0, 1) per key; keys (B,) int64 -> (B, count) float32. Row b depends on keys[b] alone."""
    pairs = (count + 1) // 2
    counters = torch.arange(1, pairs + 1, dtype=torch.int64) * _wrap(GOLDEN)
    second_keys = _mix(keys + _wrap(GOLDEN))
    bits = _mix(_mix(keys[:, None] + counters).add_(second_keys[:, None]))
    angle = (bits & 0xFFFFFFFF).to(torch.float32).add_(0.5).mul_(2 * math.pi * 2.0**-32)
    uniform = ((bits >> 32) & 0xFFFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-32)
    radius = uniform.log_().mul_(-2).sqrt_()
    return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)[:, :count]


@dataclass(frozen=True, slots=True)
class NoiseSource:
    """Noise for a batch of samples, one seed each; `seeds` is (B,) int64."""

    seeds: Tensor
    _tree: dict[tuple[int, int, int, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, *, seed: int, count: int, first: int = 0) -> "NoiseSource":
        """Samples first … first + count - 1 of `seed`: their seeds are seed + first + i."""
        return cls(seed + first + torch.arange(count, dtype=torch.int64))

    def _keys(self, purpose: str, index: int = 0) -> Tensor:
        return _mix(_mix(self.seeds.clone()) + derived_seed(0, purpose, index))

    def _normals(self, keys: Tensor, shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
        flat = _hashed_normals(keys, math.prod(shape[1:]))
        return flat.reshape(shape).to(device=like.device, dtype=like.dtype)

    def initial(self, shape: tuple[int, ...], *, like: Tensor) -> Tensor:
        """N(0, I) of shape (B, *) in the dtype and on the device of `like`: where sampling starts, before prior_std."""
        assert shape[0] == len(self.seeds), "one seed per sample"
        return self._normals(self._keys("initial"), shape, like)

    def normal(self, x: Tensor, *, draw: int) -> Tensor:
        """The draw-th independent N(0, I) like x (B, *), for samplers whose noise belongs to no interval of log_snr."""
        return self._normals(self._keys("draw", draw), x.shape, x)

    def fresh(self, index: int) -> "NoiseSource":
        """Other noise for the same samples, independent of this and of that of other indices: for a second walk."""
        return NoiseSource(self._keys("fresh", index))

    def increment(self, t: Rates, s: Rates, x: Tensor) -> Tensor:
        """(W(log_snr_s) - W(log_snr_t))/sqrt(log_snr_s - log_snr_t) ~ N(0, I) like x (B, *), W a Brownian path.

        t and s hold scalars with log_snr_t < log_snr_s. Increments over disjoint intervals are independent; one over a
        union is the weighted sum of those over its parts.
        """
        low, high = (_lattice(float(r.log_snr)) for r in (t, s))
        if low >= high:
            raise ConfigError(
                f"two sampling times are {float(s.log_snr - t.log_snr):.2g} nats of log-SNR apart",
                expected=f"more than {2 * REACH / 2**DEPTH:.2g}, the resolution of a Brownian path, within ±{REACH:g}",
                fix="use fewer steps, or a deterministic sampler",
            )
        start = self._path(low, x.shape)  # first: where the last step ended, whose nodes are still there
        step = self._path(high, x.shape) - start
        return (step / math.sqrt(high - low)).to(device=x.device, dtype=x.dtype)

    def _path(self, position: int, shape: torch.Size) -> Tensor:
        """W at a lattice position in [0, 2^DEPTH], W(0) = 0, in units where a lattice cell has variance 1; float32."""
        count = math.prod(shape[1:])
        start, stop = 0, 1 << DEPTH
        left = torch.zeros(len(self.seeds), count)
        right = self._node(start, stop, count, left, None)
        while start < position < stop:
            middle = (start + stop) // 2
            value = self._node(start, stop, count, left, right)
            start, left, stop, right = (
                (middle, value, stop, right) if position >= middle else (start, left, middle, value)
            )
        return (left if position == start else right).reshape(shape)

    def _node(self, start: int, stop: int, count: int, left: Tensor, right: Tensor | None) -> Tensor:
        """W amid [start, stop] given its ends: their mean plus N(0, (stop - start)/4). Without a right end, W there."""
        key = (start, stop, 0 if right is None else 1, count)
        if key not in self._tree:
            normals = _hashed_normals(self._keys("path", 2 * (start + stop) + key[2]), count)
            if right is None:
                value = math.sqrt(stop - start) * normals
            else:
                value = (left + right) / 2 + math.sqrt((stop - start) / 4) * normals
            self._remember(key, value)
        return self._tree[key]

    def _remember(self, key: tuple[int, int, int, int], value: Tensor) -> None:
        """Keep the nodes on the way to the current position only: memory must not grow with the steps."""
        start, stop = key[:2]
        for other in [k for k in self._tree if k[2] and (k[1] <= start or k[0] >= stop)]:
            del self._tree[other]
        self._tree[key] = value


def _lattice(log_snr: float) -> int:
    """The lattice position of a log_snr, clamped to the reach of the path."""
    return round((min(max(log_snr, -REACH), REACH) + REACH) / (2 * REACH) * (1 << DEPTH))
