"""Examples that occur more than once: value for value, or, of pictures, nearly so.

Exact copies have the same bytes. Near copies are found in two steps. A *perceptual hash* proposes pairs: the picture's
brightness, squeezed to 32x32, goes through the cosine transform

    c_kl = Σ_ij cos(π k (2i + 1)/64) cos(π l (2j + 1)/64) g_ij      k, l = 0..7, not both 0

and bit (k, l) says whether c_kl is above the median of the 63 by more than 1e-4 |c|, so that rounding decides nothing
where symmetry makes coefficients equal. Brightness and contrast do not change a hash, compression, noise and resizing
hardly do. Pairs whose hashes differ in at most 7 bits are looked at. Seven differing bits cannot
touch all eight bytes of a hash, so such a pair agrees in a byte, and only pictures that share one are ever compared.

A hash is not evidence: digits of one class share theirs without being copies. So each proposed pair is *checked* on
thumbnails u, v of 16x16 pixels in all channels, each channel's mean taken away:

    d = 1 - u·v/(|u| |v|) <= 0.01

d is 0 for the same picture, brighter or of more contrast, and about 1 for two pictures that have nothing in common.
Copies that were cropped or turned are not found, mirrored ones only where they are asked for; nor are drawings with
hard edges that were resized when they were small already. Pictures of one colour are no one's near copies.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sfumato.data.packed import Packed, Split, evenly

__all__ = ["MOST_COMPARED", "NEAR", "Copies", "Leakage", "find_copies", "hashes", "leakage"]

NEAR = 0.01  # largest d of a near copy: correlated to 0.99
EQUAL = 1e-4  # share of |c| by which a coefficient must lie above the median
MOST_BITS = 7  # largest number of bits in which the hashes of a proposed pair differ
MOST_COMPARED = 200_000  # distinct pictures whose hashes are compared: the work grows with their square
MOST_PAIRS = 4_000_000  # proposed pairs that are checked
GREY_SIDE, SIDE, FREQUENCIES = 32, 16, 8
BRIGHTNESS = (0.299, 0.587, 0.114)  # ITU-R BT.601
FLAT = 1.0  # squared grey levels: a thumbnail that varies less, on average over its pixels, counts as of one colour
CHUNK = 1 << 24  # values per piece of a pass over the data
BLOCK = 2048  # pictures that are compared with one another at once


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """exact: groups of examples that are equal value for value, each ascending, in the order of their first ones.

    pairs int64 (P, 2): near copies i < j, of every exact group its first example only; distances float64 (P,), their d,
    ascending. compared: how many distinct pictures were looked at for near copies, None for what is no picture.
    complete: whether no pair was left out for want of room. mirrored bool (P,): which pairs are alike when one of the
    two is mirrored, and not, or less, as they are; None where that was not looked for.
    """

    exact: tuple[tuple[int, ...], ...]
    pairs: NDArray[np.int64]
    distances: NDArray[np.float64]
    compared: int | None = None
    complete: bool = True
    mirrored: NDArray[np.bool_] | None = None

    @property
    def num_exact(self) -> int:
        """Examples that repeat an earlier one: leaving these out would leave no exact copy."""
        return sum(len(group) - 1 for group in self.exact)

    @property
    def num_near(self) -> int:
        """Pictures that are in a pair of near copies."""
        return len(np.unique(self.pairs))

    @property
    def num_mirrored(self) -> int | None:
        """Pairs that are alike when one of the two is mirrored; None where that was not looked for."""
        return None if self.mirrored is None else int(self.mirrored.sum())


@dataclass(frozen=True, slots=True)
class Leakage:
    """Held-out examples that training sees too: as exact copies, as near copies (and not exact ones)."""

    held_out: int
    exact: int
    near: int


def find_copies(packed: Packed, *, mirrored: bool = False) -> Copies:
    """Exact and near copies among all examples, in a pass over the data; the same on every call.

    With `mirrored`, pictures are also near copies when one of them mirrored left to right is: for data that training
    mirrors.
    """
    groups: dict[bytes, list[int]] = {}
    for index, example in enumerate(packed.values.numpy()):
        digest = hashlib.blake2b(np.ascontiguousarray(example).data, digest_size=16).digest()
        groups.setdefault(digest, []).append(index)
    exact = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    if not packed.is_image:
        return Copies(exact, np.empty((0, 2), np.int64), np.empty(0))
    firsts = [group[0] for group in groups.values()]
    chosen = torch.tensor([firsts[i] for i in evenly(len(firsts), MOST_COMPARED)])
    chosen = chosen[torch.cat([_power(_thumbnails(p)) for p in _pieces(packed.values, chosen)]) >= FLAT * SIDE**2]
    near = _near(packed.values, chosen, turned=False)
    if mirrored:
        near = _closer(near, _near(packed.values, chosen, turned=True))
    order = np.lexsort((*near.pairs.T[::-1], near.distances))
    return Copies(
        exact,
        chosen.numpy()[near.pairs[order]],
        near.distances[order],
        len(chosen),
        near.complete and len(firsts) <= MOST_COMPARED,
        near.turned[order] if mirrored else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """Pairs i < j of places (P, 2), their d (P,), which of them are mirrored (P,), and whether these are all."""

    pairs: NDArray[np.int64]
    distances: NDArray[np.float64]
    turned: NDArray[np.bool_]
    complete: bool


def _near(values: Tensor, chosen: Tensor, *, turned: bool) -> _Near:
    """The near copies among the chosen pictures, as they are or with one of the two mirrored."""
    codes = hashes(values, chosen)
    pairs, complete = _proposed(codes, hashes(values, chosen, mirrored=True) if turned else codes)
    distances = _distances(values, chosen, pairs, turned=turned)
    good = distances <= NEAR
    return _Near(pairs[good], distances[good], np.full(int(good.sum()), turned), complete)


def _closer(first: _Near, second: _Near) -> _Near:
    """The pairs of both, each once, with the smaller d."""
    pairs = np.concatenate([first.pairs, second.pairs])
    distances = np.concatenate([first.distances, second.distances])
    turned = np.concatenate([first.turned, second.turned])
    order = np.lexsort((turned, distances))
    _, kept = np.unique(pairs[order], axis=0, return_index=True)
    kept = order[kept]
    return _Near(pairs[kept], distances[kept], turned[kept], first.complete and second.complete)


def leakage(copies: Copies, parts: Split) -> Leakage:
    """How many held-out examples of a split have a copy in its training part."""
    held_out = {int(i) for i in parts.held_out}
    train = {int(i) for i in parts.train}
    groups = {group[0]: group for group in copies.exact}
    exact = {i for group in copies.exact if not train.isdisjoint(group) for i in group if i in held_out}
    near: set[int] = set()
    for first, second in copies.pairs.tolist():
        ones, others = groups.get(first, (first,)), groups.get(second, (second,))
        for mine, theirs in ((ones, others), (others, ones)):
            if not train.isdisjoint(theirs):
                near.update(i for i in mine if i in held_out)
    return Leakage(len(held_out), len(exact), len(near - exact))


def hashes(values: Tensor, chosen: Tensor, *, mirrored: bool = False) -> NDArray[np.uint8]:
    """Perceptual hashes of the chosen pictures of `values` uint8 (N, H, W, C): 63 bits and a zero, (n, 8) bytes."""
    n = torch.arange(GREY_SIDE, dtype=torch.float32)
    waves = torch.cos(math.pi / (2 * GREY_SIDE) * (2 * n + 1) * torch.arange(FREQUENCIES)[:, None])
    pieces = [np.empty((0, FREQUENCIES), np.uint8)]
    for pictures in _pieces(values, chosen):
        grey = _brightness(_squeezed(pictures.flip(2) if mirrored else pictures, GREY_SIDE))
        spectrum = (waves @ grey @ waves.T).flatten(1)[:, 1:]
        middle = spectrum.median(dim=1, keepdim=True).values
        bits = spectrum - middle > EQUAL * spectrum.norm(dim=1, keepdim=True)
        pieces.append(np.packbits(F.pad(bits, (0, 1)).numpy(), axis=1))
    return np.concatenate(pieces)


def _pieces(values: Tensor, chosen: Tensor) -> Iterator[Tensor]:
    length = max(1, CHUNK // max(1, values[0].numel()))
    for start in range(0, len(chosen), length):
        yield values[chosen[start : start + length]]


def _squeezed(pictures: Tensor, side: int) -> Tensor:
    """uint8 (B, H, W, C) as means over side x side blocks, float32 (B, C, side, side); small ones are repeated."""
    return F.interpolate(pictures.permute(0, 3, 1, 2).float(), size=(side, side), mode="area")


def _brightness(colours: Tensor) -> Tensor:
    """(B, C, h, w) as (B, h, w): weighted for three channels, the mean of any other number."""
    if colours.shape[1] != len(BRIGHTNESS):
        return colours.mean(dim=1)
    return torch.einsum("bchw,c->bhw", colours, torch.tensor(BRIGHTNESS))


def _proposed(codes: NDArray[np.uint8], others: NDArray[np.uint8]) -> tuple[NDArray[np.int64], bool]:
    """Pairs i < j of rows, one of `codes` and one of `others`, (n, 8) bytes each, that differ in at most MOST_BITS
    bits, (P, 2); whether these are all. Both may be the same array.
    """
    count, same = len(codes), others is codes
    signs = _signs(codes)
    other_signs = signs if same else _signs(others)
    found = np.empty(0, np.int64)
    for column in range(codes.shape[1]):
        rows = _buckets(codes[:, column])
        fresh = [found]
        room = MOST_PAIRS
        for left, right in zip(rows, rows if same else _buckets(others[:, column]), strict=True):
            for pairs in _within(signs, other_signs, left, right):
                fresh.append(pairs[:, 0] * count + pairs[:, 1])
                room -= len(pairs)
                if room < 0:
                    return _numbered(_distinct(np.concatenate(fresh))[:MOST_PAIRS], count), False
        found = _distinct(np.concatenate(fresh))
    return _numbered(found[:MOST_PAIRS], count), len(found) <= MOST_PAIRS


def _signs(codes: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.unpackbits(codes, axis=1)).float().mul_(2).sub_(1)


def _buckets(column: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """The rows of each of the 256 values, ascending."""
    order = np.argsort(column, kind="stable")
    return np.split(order, np.searchsorted(column[order], np.arange(1, 256)))


def _distinct(flat: NDArray[np.int64]) -> NDArray[np.int64]:
    """The different numbers, ascending; by sorting, many times as fast on millions as np.unique, which hashes."""
    ordered = np.sort(flat)
    return ordered[np.concatenate([np.ones(min(1, len(flat)), bool), ordered[1:] != ordered[:-1]])]


def _numbered(flat: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.stack([flat // count, flat % count], axis=1)


def _within(
    signs: Tensor, other_signs: Tensor, left: NDArray[np.int64], right: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Pairs i < j, one of the rows `left` of ±1 and one of the rows `right` of the others, that agree in all but
    MOST_BITS places, in pieces; both sides are ascending, and may be the same.
    """
    least = signs.shape[1] - 2 * MOST_BITS  # the product of two rows is 64 - 2 · differing bits
    same = left is right
    for start in range(0, len(left), BLOCK):
        rows = left[start : start + BLOCK]
        for other in range(start if same else 0, len(right), BLOCK):
            columns = right[other : other + BLOCK]
            alike = signs[rows] @ other_signs[columns].T >= least
            first, second = (alike.triu(1) if same and other == start else alike).nonzero(as_tuple=True)
            pairs = np.stack([rows[first.numpy()], columns[second.numpy()]], axis=1)
            yield pairs if same else np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)


def _distances(values: Tensor, chosen: Tensor, pairs: NDArray[np.int64], *, turned: bool) -> NDArray[np.float64]:
    """d of each pair of places in `chosen`, float64 (P,); with `turned`, of the one and the other mirrored."""
    involved, where = np.unique(pairs, return_inverse=True)
    ends = torch.from_numpy(where.reshape(pairs.shape))
    found = np.empty(len(pairs))
    if not len(involved):
        return found
    wanted = chosen[torch.from_numpy(involved)]
    thumbs = torch.cat([_thumbnails(pictures) for pictures in _pieces(values, wanted)])
    thumbs = thumbs / _power(thumbs).sqrt()[:, None]
    others = thumbs.unflatten(1, (-1, SIDE, SIDE)).flip(3).flatten(1) if turned else thumbs
    for start in range(0, len(pairs), BLOCK):
        first, second = ends[start : start + BLOCK].unbind(1)
        found[start : start + BLOCK] = (_power(thumbs[first] - others[second]) / 2).numpy()  # of unit length: d
    return found


def _thumbnails(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W, C) as SIDE x SIDE thumbnails (B, C · SIDE²), the mean of each channel taken away."""
    thumbs = _squeezed(pictures, SIDE)
    return (thumbs - thumbs.mean(dim=(2, 3), keepdim=True)).flatten(1)


def _power(thumbs: Tensor) -> Tensor:
    """|u|² of each row, (B,)."""
    return thumbs.square().sum(dim=1)
