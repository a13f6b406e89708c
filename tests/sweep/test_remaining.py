"""The time that is left: exact on sweeps whose times are known, and never twice the truth at the beginning."""

import pytest

from sfumato.experiment.sweep.remaining import STARTUP, TRUST, Left, Remaining


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def remaining(workers: int, price: float | None) -> tuple[Remaining, Clock]:
    clock = Clock()
    return Remaining(workers=workers, price=lambda arm: price, clock=clock), clock


def left(count: int, steps: int, price: float | None) -> list[Left]:
    return [Left(f"a{k}", steps, price) for k in range(count)]


def test_at_the_beginning_it_is_the_forecast() -> None:
    """Four arms of 100 s on two workers: 200 s and two starts each; not what three seconds of starting suggest."""
    found, clock = remaining(2, 0.1)
    found.started("a0")
    found.started("a1")
    assert found.seconds(left(4, 1000, 0.1)) == pytest.approx((4 * (100 + STARTUP)) / 2)
    clock.now += 2
    assert found.seconds(left(4, 1000, 0.1)) == pytest.approx((4 * (100 + STARTUP) - 2 * 2) / 2)


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_the_pace_goes_over_from_the_forecast_to_what_was_seen(slower: float) -> None:
    """After s seconds of training the pace is (TRUST + s)/(TRUST + s/slower), which ends at `slower`."""
    found, clock = remaining(1, 0.1)
    found.started("a0")
    clock.now += 7
    found.told("a0", 1)
    for step in (2, 11, 101, 1001, 9001):
        at = 1e9 + 7 + (step - 1) * 0.1 * slower
        clock.now = at
        found.told("a0", step)
        work = (step - 1) * 0.1
        pace = (TRUST + slower * work) / (TRUST + work)
        assert found.seconds([Left("a0", 10_000 - step, 0.1)]) == pytest.approx(pace * (10_000 - step) * 0.1)
    assert pace == pytest.approx(slower, rel=0.03)


def test_starting_and_measuring_are_no_part_of_the_pace() -> None:
    """One arm took 5 s to begin, 10 s to train as forecast and 20 s to be measured: so will the other two."""
    found, clock = remaining(1, 0.01)
    found.started("a0")
    clock.now += 5
    found.told("a0", 0)
    clock.now += 10
    found.told("a0", 1000)
    clock.now += 20
    found.ended("a0")
    rest = left(3, 1000, 0.01)[1:]
    assert found.seconds(rest) == pytest.approx(2 * (5 + 10 + 20))
    assert found.seconds(rest, coming=3) == pytest.approx(5 * (5 + 10 + 20))
    found.started("a1")
    clock.now += 6
    found.told("a1", 500)
    assert found.seconds([Left("a1", 500, 0.01)]) == pytest.approx(5 + 20)


def test_it_is_at_least_the_longest_arm() -> None:
    found, _ = remaining(8, 1.0)
    found.started("a0")
    rest = [Left("a0", 100, 1.0), Left("a1", 3, 1.0)]
    assert found.seconds(rest) == pytest.approx(STARTUP + 100)


def test_without_a_forecast_nothing_is_told_before_it_is_known() -> None:
    found, clock = remaining(1, None)
    found.started("a0")
    clock.now += 60
    assert found.seconds(left(1, 100, None)) is None
    found.told("a0", 10)
    assert found.seconds(left(1, 90, None)) is None
    clock.now += TRUST
    found.told("a0", 60)
    assert found.seconds(left(1, 40, None)) == pytest.approx(TRUST * 40 / 50)


def test_an_arm_that_is_resumed_counts_what_it_does_now() -> None:
    """Nine tenths were done yesterday; of them nothing is known but that they are done."""
    found, clock = remaining(1, None)
    found.started("a0")
    clock.now += 3
    found.told("a0", 900)
    clock.now += 50
    found.told("a0", 950)
    assert found.seconds(left(1, 50, None)) == pytest.approx(50)
