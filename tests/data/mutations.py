"""Damage to files: what bad disks, bad copies and bad people do to bytes."""

from collections.abc import Sequence

import numpy as np

__all__ = ["damaged"]


def damaged(content: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """`content` after one or two injuries: single bits, other bytes, extreme numbers, cuts, gaps, repeats, splices."""
    for _ in range(rng.integers(1, 3)):
        content = bytes(_injured(bytearray(content), others, rng))
    return content


def _injured(data: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> bytearray:
    # Headers are where damage matters most, and where it is noticed first: one injury in four.
    reach = len(data) if rng.random() < 0.75 else min(len(data), 64)
    if reach < 2:
        return bytearray(others[rng.integers(len(others))])
    start = int(rng.integers(reach))
    length = int(min(rng.integers(1, 64), len(data) - start))
    kind = rng.integers(7)
    if kind == 0:
        data[start] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[start : start + length] = rng.bytes(length)
    elif kind == 2:
        extreme = [b"\xff", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\1\0\0\0"]
        value = extreme[rng.integers(len(extreme))]
        data[start : start + len(value)] = value
    elif kind == 3:
        del data[start:]
    elif kind == 4:
        del data[start : start + length]
    elif kind == 5:
        data[start:start] = data[start : start + length] * int(rng.integers(1, 20))
    else:
        other = others[rng.integers(len(others))]
        data[start:] = other[int(rng.integers(len(other))) :]
    return data
