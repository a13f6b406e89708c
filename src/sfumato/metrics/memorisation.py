"""Are samples copies of training examples? Nearest neighbours on two sides of equal size, and what chance would do.

    d_T, d_H    distances of a sample to the nearest of K training and of K held-out examples, in pixels or in features
    copy        d_T < c d_H,   c = 1/2 or less
    leaning     (s - e)/(1 - e), s: how often the nearest example of all is a training one, e: their share of all

The nearest of many is nearer than that of few, so both sides hold K. Training examples beyond K make further parts of
K, so that none escapes: a sample is a copy if it is one of an example in any part. Held-out examples beyond K make
further parts whose mean distance is the measure.

To a model that knows the law, and not which examples it was trained on, the two sides are one, and where the data have
D dimensions about a sample

    P(d_T < c d_H) = c^D / (1 + c^D),

because the masses within d_T and d_H are independent and exponential, and in proportion to d^D. No model has seen the
held-out examples, so the pairs of a sample and a part with d_H < c d_T count what chance does, whatever D is: c is the
largest number up to 1/2 at which they are at most one in 400 samples. The share of copies has Wilson's interval (1927).

Leaning needs no threshold: it is 0 in the mean for that model, and q for one that copies q of its samples, however
roughly. Its error is the exact scatter under exchange of the two sides, which are one pool of P examples: of n samples
c_j have their nearest in j, which is a training one with chance e, so that

    Var s = e (1 - e) · P/(P - 1) · Σ_j (c_j - n/P)² / n²

Meehan, Chaudhuri & Dasgupta 2020 test in this spirit with the distances from held-out to training examples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.metrics.estimate import Estimate, Fact, require_enough, share_of
from sfumato.metrics.neighbours import nearest

__all__ = [
    "CHANCE",
    "COPY",
    "Closeness",
    "Interval",
    "Parts",
    "References",
    "chance_share",
    "closeness",
    "copies",
    "copy_share",
    "copy_threshold",
    "equal_parts",
    "interval_of",
    "leaning",
    "wilson",
]

COPY = 1 / 2  # of the distance to a held-out example: nearer than that chance hardly brings a picture
CHANCE = 1 / 400  # share of samples that chance may make copies of
FEWEST = 4  # examples on a side
AT_ONCE = 4000  # references whose features are in memory at once
SURE = 1.959964  # standard deviations of a 95 % interval


class References(Protocol):
    """Examples whose features can be had in pieces; a tensor of features (N, d) is such."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Tensor, /) -> Tensor:
        """Features (m, d) of the examples at `places` (m,)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Places of training and of held-out examples in parts of one size, K (training parts: K or K + 1)."""

    training: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """K."""
        return len(self.held_out[0])

    @property
    def counts(self) -> tuple[int, int]:
        """How many examples either side has."""
        return sum(map(len, self.training)), sum(map(len, self.held_out))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Closeness:
    """How near n samples lie to parts of the training and of the held-out examples.

    training, held_out: (n, B) and (n, A) float64, distance to the nearest of each part; A or B is 1.
    originals, unseen: (n, B) and (n, A) int64, which example that is (its place among all of its side).
    size: K, examples of a part.
    num_training, num_held_out: examples in all the parts of either side.
    """

    training: Tensor
    held_out: Tensor
    originals: Tensor
    unseen: Tensor
    size: int
    num_training: int
    num_held_out: int

    def __len__(self) -> int:
        return len(self.training)

    @property
    def measure(self) -> Tensor:
        """What is far: the distance to a held-out example, mean over parts; (n,)."""
        return self.held_out.mean(1)

    @property
    def ratio(self) -> Tensor:
        """min d_T / d_H, (n,) float64: small for copies; 1 where a sample is an example of both sides."""
        return _quotient(self.training.amin(1), self.measure)

    @property
    def reverse(self) -> Tensor:
        """d_H / d_T of each pair of parts, (n, B, A) float64."""
        return _quotient(self.held_out[:, None, :], self.training[:, :, None])

    def closest(self, count: int) -> Tensor:
        """The samples of smallest ratio, (count,) int64, the smallest first."""
        return self.ratio.sort(stable=True).indices[:count]

    def original(self, samples: Tensor) -> Tensor:
        """The nearest training example of some samples, all parts together: its place."""
        return _of_nearest(self.training[samples], self.originals[samples])

    def held_out_neighbour(self, samples: Tensor) -> Tensor:
        """The nearest held-out example of some samples, all parts together: its place."""
        return _of_nearest(self.held_out[samples], self.unseen[samples])


def _quotient(near: Tensor, far: Tensor) -> Tensor:
    """near/far, broadcast; 1 where both are 0."""
    return torch.where((near == 0) & (far == 0), 1.0, near / far)


def _of_nearest(distances: Tensor, places: Tensor) -> Tensor:
    return places.gather(1, distances.argmin(1, keepdim=True))[:, 0]


def equal_parts(training: int, held_out: int) -> Parts:
    """Parts of equal size: all training examples in as few as are no larger than the held-out set, or the reverse.

    Every B-th example makes a part, so that examples in the order of their classes make parts alike. Raises DataError
    for fewer than 4 examples on a side.
    """
    if min(training, held_out) < FEWEST:
        raise DataError(
            f"{training} training and {held_out} held-out examples: too few to tell a copy from a likeness",
            expected=f"at least {FEWEST} of each",
            fix="train with a larger data.held_out",
        )
    if training >= held_out:
        count = math.ceil(training / held_out)
        mine = tuple(torch.arange(k, training, count) for k in range(count))
        size = len(mine[-1])
        return Parts(mine, (torch.arange(size) * held_out // size,))
    count = held_out // training
    spread = torch.arange(count * training) * held_out // (count * training)
    return Parts((torch.arange(training),), tuple(spread[k::count] for k in range(count)))


def closeness(samples: Sequence[Tensor], training: References, held_out: References) -> Closeness:
    """Distances of n samples to the nearest examples of both sides, in parts of equal size.

    samples: their features (n, d), in as many forms as count as the same (as they are, and mirrored where training
    mirrored them): the nearest form is taken, on both sides alike.
    """
    require_enough(len(samples[0]), 1)
    parts = equal_parts(len(training), len(held_out))
    sides = []
    for references, places in ((training, parts.training), (held_out, parts.held_out)):
        found = [_nearest_of(samples, references, part) for part in places]
        sides.append([torch.stack(each, 1) for each in zip(*found, strict=True)])
    (near, originals), (far, unseen) = sides
    return Closeness(near, far, originals, unseen, parts.size, *parts.counts)


def _nearest_of(samples: Sequence[Tensor], references: References, places: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (n,) to the nearest of the references at `places`, over all forms of the samples, and its place (n,)."""
    count = len(samples[0])
    best, where = torch.full((count,), torch.inf, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
    for piece in places.split(AT_ONCE):
        features = references[piece]
        for form in samples:
            found = nearest(form, features)
            distances, own = found.distances.double().reshape(count), found.indices.reshape(count)
            nearer = distances < best
            best, where = torch.where(nearer, distances, best), torch.where(nearer, piece[own], where)
    return best, where


# ------------------------------------------------------------------------------------------------------------- shares


def copy_threshold(found: Closeness, most: float = COPY, chance: float = CHANCE) -> float:
    """c: the largest up to `most` at which pairs with d_H < c d_T are at most `chance` of the samples."""
    reverse = found.reverse.flatten().sort().values
    allowed = math.floor(chance * len(found) * found.held_out.shape[1])
    return min(most, float(reverse[min(allowed, len(reverse) - 1)]))


def copies(found: Closeness, threshold: float) -> Tensor:
    """Which samples are copies, min d_T < c d_H: (n,) bool."""
    return found.ratio < threshold


def copy_share(found: Closeness, threshold: float, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """The share of samples that are copies, with Wilson's error of one sigma and his interval of 95 %."""
    flagged = copies(found, threshold)
    sure, median = wilson(int(flagged.sum()), len(found)), float(found.ratio.median())
    facts: dict[str, Fact] = {
        "method": "samples nearer to a training example than threshold times as far as a held-out one",
        "threshold": threshold,
        "copies": int(flagged.sum()),
        "share_at_a_third": float(copies(found, 1 / 3).double().mean()),
        "interval": "Wilson, 95 %",
        "interval_low": sure.low,
        "interval_high": sure.high,
        "median_ratio": median if math.isfinite(median) else None,
        **_sizes(found),
    }
    return share_of(flagged, {**facts, **(provenance or {})})


def chance_share(found: Closeness, threshold: float, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """Parts of held-out examples that a sample is a copy of in the same sense, mean over samples: d_H < c d_T.

    What a model that knows no example has in the mean, or a little more: its copies of several parts count singly.
    """
    n = len(found)
    each = (found.reverse < threshold).double().mean(2).sum(1)
    spread = float(each.var(correction=0))
    error = math.sqrt(spread / n + 1 / (4 * n**2)) / (1 + 1 / n)
    facts: dict[str, Fact] = {
        "method": "the same the other way round: held-out examples, which no model has seen",
        "threshold": threshold,
        **_sizes(found),
    }
    return Estimate(float(each.mean()), error, n, {**facts, **(provenance or {})})


def leaning(found: Closeness, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """By how much more often than by chance the nearest example is a training one, as a share of what is possible.

    0 for a model that cannot tell them apart, 1 for one that does nothing but copy. A tie is half. The error is that
    of the former.
    """
    n, everyone = len(found), torch.arange(len(found))
    near, far = found.training.amin(1), found.held_out.amin(1)
    share = float((near < far).double().mean() + 0.5 * (near == far).double().mean())
    pool = found.num_training + found.num_held_out
    expected = found.num_training / pool
    which = torch.where(near < far, found.original(everyone), -1 - found.held_out_neighbour(everyone))
    counts = which.unique(return_counts=True)[1].double()
    centred = float(counts.square().sum()) - n**2 / pool
    error = math.sqrt(expected * (1 - expected) * pool / (pool - 1) * centred) / n
    facts: dict[str, Fact] = {
        "method": "excess of nearest neighbours that are training examples",
        "std_error": "exact, were the two sides exchangeable",
        "share": share,
        "expected_share": expected,
        "z": (share - expected) / error if error > 0 else None,
        **_sizes(found),
    }
    return Estimate((share - expected) / (1 - expected), error / (1 - expected), n, {**facts, **(provenance or {})})


def _sizes(found: Closeness) -> dict[str, Fact]:
    return {"examples_a_side": found.size, "parts": max(found.training.shape[1], found.held_out.shape[1])}


@dataclass(frozen=True, slots=True)
class Interval:
    """From low to high, both included."""

    low: float
    high: float


def wilson(hits: int, n: int, sigmas: float = SURE) -> Interval:
    """Wilson's interval of a share: the p with |p - hits/n| at most `sigmas` sqrt(p (1 - p)/n) (Wilson 1927)."""
    p, z = hits / n, sigmas
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Interval(middle - half if hits > 0 else 0.0, middle + half if hits < n else 1.0)  # rounding aside


def interval_of(share: Estimate) -> Interval:
    """The 95 % interval of a share of n samples."""
    return wilson(round(share.value * share.n), share.n)
