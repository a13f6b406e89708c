"""Whether arms come out in the source's order, where a value repeats too badly to be compared itself.

Two arms are apart there if |ln(a/c)| > 1.96 sqrt(2) s, with s the relative scatter of one run from repeat to repeat;
apart here if their difference is told from 0 at p < 0.05 after Holm's correction for all pairs. With one seed the
difference is that of the stored measurements, in pairs (`experiment.difference`); with more, that of means over seeds
(`seeds`). Only pairs that are apart in both say whether the orders agree.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from sfumato.experiment.comparability import mismatches
from sfumato.experiment.difference import LEVEL, difference_of
from sfumato.experiment.evaluations import Number
from sfumato.experiment.reproduce.findings import Order
from sfumato.experiment.reproduce.seeds import Blocks, blocks_of
from sfumato.experiment.significance import holm, two_sided

__all__ = ["order_of", "scatter_of"]

Arm = tuple[str, ...]
WIDE = 1.96  # errors: the level 0.05 of a normal


def scatter_of(repeats: Sequence[tuple[float, float]]) -> float:
    """The relative standard deviation of one run, from pairs of repeats: sqrt(mean (ln a/c)² / 2)."""
    return math.sqrt(math.fsum(math.log(a / c) ** 2 for a, c in repeats) / len(repeats) / 2)


def order_of(
    quantity: str, there: Mapping[Arm, float], here: Mapping[Arm, Sequence[Number]], scatter: float
) -> Order | None:
    """The ranking there and here of the arms that both have, less being better; None for fewer than two of them."""
    arms = [arm for arm in there if here.get(arm)]
    if len(arms) < 2:
        return None
    seeds = min(len(here[arm]) for arm in arms)
    blocks = None if seeds < 2 else blocks_of({arm: [one.value for one in here[arm][:seeds]] for arm in arms})
    means = {arm: here[arm][0].value for arm in arms} if blocks is None else dict(blocks.means)
    pairs = list(combinations(arms, 2))
    p_values = holm([_p_value(a, c, here, blocks) for a, c in pairs])
    told = {pair: p < LEVEL for pair, p in zip(pairs, p_values, strict=True)}
    apart = [(a, c) for a, c in pairs if abs(math.log(there[a] / there[c])) > WIDE * math.sqrt(2) * scatter]
    decided = [(a, c) for a, c in apart if told[a, c]]
    same = sum((there[a] < there[c]) == (means[a] < means[c]) for a, c in decided)
    best = min(arms, key=lambda arm: means[arm])
    tied = [a if c == best else c for a, c in pairs if best in (a, c) and not told[a, c]]
    return Order(
        quantity=quantity,
        arms=len(arms),
        pairs=len(pairs),
        apart=len(apart),
        same=same,
        opposite=len(decided) - same,
        best_there=min(arms, key=lambda arm: there[arm]),
        best_here=best,
        tied=tuple(tied),
        error="of the measurement, one seed" if blocks is None else f"over {seeds} seeds",
    )


def _p_value(one: Arm, other: Arm, here: Mapping[Arm, Sequence[Number]], blocks: Blocks | None) -> float:
    """The chance of such a difference of two arms, were there none; 1 where they were not measured alike."""
    if blocks is None:
        first, second = here[one][0], here[other][0]
        alike = not mismatches(first, second)
        return difference_of("", "", "", first, second).p_value if alike else 1.0
    if blocks.apart is None:
        return 1.0
    value = blocks.means[other] - blocks.means[one]
    t = 0.0 if value == 0 else math.inf if blocks.apart == 0 else value / blocks.apart
    return two_sided(t, blocks.degrees)
