"""How long a sweep will still take, by its forecast and by what its arms have taken since.

    of an arm       startup + pace · price · (steps left) + closing
    of the sweep    max( the longest arm, Σ over the arms / workers )

`price` is the forecast of a step in seconds. `pace` says how many seconds a second of the forecast takes here, with as
many arms at a time as there are, held-out losses and checkpoints between the steps included:

    pace = (TRUST + Σ seconds) / (TRUST + Σ price · steps)       between the first and the last word of each arm

so the forecast is believed at first and outweighed after TRUST seconds of training. Where nothing was timed, prices are
1 and pace is seconds per step, told once TRUST/2 seconds are behind it. What an arm takes before its first word
(starting its process) and after its last step (measuring) are means over the arms seen, and are no part of the pace.
"""

import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

__all__ = ["Left", "Remaining"]

TRUST = 10.0  # seconds of training that weigh as much as the forecast
STARTUP = 3.0  # seconds that a process takes to import and to begin, before any was seen


@dataclass(frozen=True, slots=True)
class Left:
    """An arm that is not done: its name, its steps that are left, and the seconds that one is forecast to take."""

    name: str
    steps: int
    price: float | None


@dataclass(slots=True)
class _Seen:
    """One arm that was started: when, and its first and last word (when, at which step, at what price)."""

    started: float
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None
    ended: float | None = None


class Remaining:
    """Hears of every arm and tells the seconds that are left. `price` is None for all arms, or for none."""

    def __init__(
        self, *, workers: int, price: Callable[[str], float | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.workers, self.price, self.clock = workers, price, clock
        self.seen: dict[str, _Seen] = {}

    def started(self, arm: str) -> None:
        """A process of the arm was started; what an earlier one took is forgotten."""
        self.seen[arm] = _Seen(self.clock())

    def told(self, arm: str, step: int) -> None:
        """The arm has come to a step. Heard from any thread."""
        seen = self.seen.get(arm)
        if seen is None or (seen.last is not None and step <= seen.last[1]):
            return
        seen.last = (self.clock(), step)
        if seen.first is None:
            seen.first = seen.last

    def ended(self, arm: str) -> None:
        """The arm is done."""
        self.seen[arm].ended = self.clock()

    def seconds(self, left: Collection[Left], *, coming: int = 0) -> float | None:
        """Seconds until all arms are done; None while nothing tells it.

        left: those that are not done. coming: how many more a search will ask for, each like the mean of all others.
        """
        pace = self._pace()
        if pace is None:
            return None
        each = [self._of_arm(one, pace) for one in left]
        if coming:
            each += [statistics.fmean(each) if each else self._of_an_ended_arm()] * coming
        return max(max(each), sum(each) / self.workers) if each else 0.0

    def _pace(self) -> float | None:
        spans = [(name, one.first, one.last) for name, one in list(self.seen.items())]
        busy = sum(last[0] - first[0] for _, first, last in spans if first and last)
        priced = [(self.price(name), last[1] - first[1]) for name, first, last in spans if first and last]
        if all(price is not None for price, _ in priced) and (priced or self._is_forecast()):
            work = sum(price * steps for price, steps in priced if price is not None)
            return (TRUST + busy) / (TRUST + work)
        steps = sum(count for _, count in priced)
        return busy / steps if steps and busy >= TRUST / 2 else None

    def _is_forecast(self) -> bool:
        """Before any arm has spoken: whether those that were started have prices."""
        return any(self.price(name) is not None for name in list(self.seen))

    def _of_arm(self, left: Left, pace: float) -> float:
        """Seconds that an arm will take, of which some may be behind it."""
        startup, closing = self._startup(), self._closing()
        training = pace * left.steps * (1.0 if left.price is None else left.price)
        seen = self.seen.get(left.name)
        if seen is None or seen.ended is not None:
            return startup + training + closing
        if seen.last is None:
            return max(0.0, startup - (self.clock() - seen.started)) + training + closing
        return training + (closing if left.steps else max(0.0, closing - (self.clock() - seen.last[0])))

    def _startup(self) -> float:
        found = [one.first[0] - one.started for one in self.seen.values() if one.first]
        return statistics.fmean(found) if found else STARTUP

    def _closing(self) -> float:
        found = [one.ended - one.last[0] for one in self.seen.values() if one.ended is not None and one.last]
        return statistics.fmean(found) if found else 0.0

    def _of_an_ended_arm(self) -> float:
        found = [one.ended - one.started for one in self.seen.values() if one.ended is not None]
        return statistics.fmean(found) if found else STARTUP
