"""Arms over seeds: means, their errors, and what is left of two arms' difference when each was trained K times.

    v_as = m_a + b_s + e_as        a of A arms, s of K seeds; arms are paired: a seed is the same data, noise, beginning

    m_a       mean over seeds
    σ²        Σ (v_as - v_a. - v_.s + v_..)² / ((A - 1)(K - 1))      what a seed does to an arm and not to the others
    m_a - m_c error sqrt(2 σ²/K), Student's t with (A - 1)(K - 1) degrees of freedom       (randomised blocks, Fisher)
    m_a       error sqrt(Σ (v_as - v_a.)² / (A (K - 1) K)), the arms pooled: a seed's own part is in it

With one seed the errors are those of the measurement alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfumato.errors import UsageError

__all__ = ["Blocks", "blocks_of"]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Means over seeds by arm, and their errors.

    error: of the mean of an arm. apart: of the difference of two arms, with `degrees` of freedom; None for one arm.
    """

    means: Mapping[tuple[str, ...], float]
    error: float
    apart: float | None
    degrees: int


def blocks_of(values: Mapping[tuple[str, ...], Sequence[float]]) -> Blocks:
    """The analysis of a table of arms by seeds, two seeds or more, each arm with all of them.

    Raises UsageError for arms of different seeds, or of one.
    """
    rows = list(values.values())
    seeds = len(rows[0]) if rows else 0
    if seeds < 2 or any(len(row) != seeds for row in rows):
        raise UsageError(
            "arms of different seeds, or of one, cannot be analysed as blocks",
            expected="every arm with the same two seeds or more",
            fix="train the arms that are missing: give the same command again",
        )
    means = {arm: math.fsum(row) / seeds for arm, row in values.items()}
    within = math.fsum((v - mean) ** 2 for row, mean in zip(rows, means.values(), strict=True) for v in row)
    error = math.sqrt(within / (len(rows) * (seeds - 1) * seeds))
    degrees = (len(rows) - 1) * (seeds - 1)
    if degrees == 0:
        return Blocks(means, error, None, 0)
    grand = math.fsum(means.values()) / len(rows)
    of_seeds = [math.fsum(row[s] for row in rows) / len(rows) for s in range(seeds)]
    rest = math.fsum(
        (row[s] - mean - of_seeds[s] + grand) ** 2
        for row, mean in zip(rows, means.values(), strict=True)
        for s in range(seeds)
    )
    return Blocks(means, error, math.sqrt(2 * rest / degrees / seeds), degrees)
