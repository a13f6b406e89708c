"""Effects of synthetic sweeps, whose truth is known: values, errors, coverage, and what is refused."""

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sfumato.errors import UsageError
from sfumato.experiment.config import load_experiment
from sfumato.experiment.effects import Effect, Effects, contrasts_of, effects, finding
from sfumato.experiment.effects.contrasts import Place
from sfumato.experiment.effects.errors import (
    Error,
    Repeat,
    Scatter,
    error_of,
    is_uneven,
    own_scatter,
    pooled_scatter,
    quantile,
    repeat_of,
)
from sfumato.experiment.effects.finding import effects_on
from sfumato.experiment.effects.numbers import balanced
from sfumato.experiment.evaluations import Number
from sfumato.experiment.significance import cochran
from sfumato.experiment.sweep import Axis, Plan, Random, Sweep

AXES = (Axis("objective.distance", ("mse", "mae")), Axis("training.learning_rate", ("0.001", "0.002", "0.004")))
Cells = dict[Place, dict[int, Number]]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two distances and three rates; nothing of it is trained."""
    return Sweep.of(Plan("grid", load_experiment("swiss-roll"), AXES, seeds=2), tmp_path_factory.mktemp("grid"))


def number(value: float, influences: NDArray[np.float64] | None = None, **facts: str) -> Number:
    error = 0.1 if influences is None else float(np.sqrt(np.square(influences).sum()))
    return Number(value, error, 50, facts, None if influences is None else tuple(influences.tolist()))


def places() -> list[Place]:
    return [(a, b) for a in AXES[0].values for b in AXES[1].values]


def truth(place: Place) -> float:
    """Main effects and an interaction of distance and the highest rate."""
    distance, rate = place
    return 1.0 + 0.3 * (distance == "mae") - 0.2 * (rate == "0.002") + 0.5 * (place == ("mae", "0.004"))


def drawn(rng: np.random.Generator, seeds: int, *, training: float, measuring: float) -> Cells:
    """Numbers with scatter of training, and errors of the same 20 examples in all seeds, alike in some part."""
    common, m = rng.standard_normal(20), 20
    cells: Cells = {}
    for place in places():
        # Examples are hard for each arm in its own way, and that way is the same in each seed: a covariance.
        hard = common + rng.standard_normal(m)
        for seed in range(seeds):
            each = hard + 0.5 * rng.standard_normal(m)
            v = measuring * each
            u = (v - v.mean()) / math.sqrt(m * (m - 1))
            value = truth(place) + training * rng.standard_normal() + v.mean()
            cells.setdefault(place, {})[seed] = number(value, u)
    return cells


def told(grid: Sweep, cells: Cells, *, pooled: bool = True) -> Iterator[Effect]:
    for one in effects_on(grid, "kid", cells, pooled=pooled):
        assert isinstance(one, Effect), one
        yield one


def true_value(levels: tuple[tuple[str, str], ...], axes: tuple[str, ...]) -> float:
    """The effect of a change in the law `truth`, by its definition."""
    if len(axes) == 2:
        (a, b), (c, d) = levels
        return truth((b, d)) - truth((a, d)) - truth((b, c)) + truth((a, c))
    ((a, b),) = levels
    if axes == (AXES[0].key,):
        return statistics.fmean(truth((b, rate)) - truth((a, rate)) for rate in AXES[1].values)
    return statistics.fmean(truth((distance, b)) - truth((distance, a)) for distance in AXES[0].values)


def test_every_change_is_told_once() -> None:
    found = list(contrasts_of(AXES, places()))
    assert [(c.axes, c.levels) for c in found[:3]] == [
        (("objective.distance",), (("mse", "mae"),)),
        (("training.learning_rate",), (("0.001", "0.002"),)),
        (("training.learning_rate",), (("0.001", "0.004"),)),
    ]
    assert len(found) == 5
    assert [len(c.parts) for c in found] == [3, 2, 2, 1, 1]
    assert all(sum(c.weights.values()) == pytest.approx(0, abs=1e-15) for c in found)


def test_exact_numbers_give_exact_effects(grid: Sweep) -> None:
    """Without noise every effect is its definition, with no error; a shift of a whole seed drops out."""
    quiet = np.zeros(20)
    cells = {place: {seed: number(truth(place) + 7.0 * seed, quiet) for seed in (0, 1)} for place in places()}
    for effect in told(grid, cells):
        assert effect.value == pytest.approx(true_value(effect.levels, effect.axes), abs=1e-12)
        assert effect.std_error == pytest.approx(0, abs=1e-12)
        base = [truth(p) + 3.5 for p in places() if dict(zip(AXES, p, strict=True))[AXES[0]] == "mse"]
        if effect.axes == (AXES[0].key,):
            assert effect.base == pytest.approx(statistics.fmean(base))


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(("training", "measuring"), [(0.1, 0.0), (0.1, 0.3), (0.0, 0.3)])
def test_intervals_cover(grid: Sweep, training: float, measuring: float, pooled: bool) -> None:
    """95 % intervals hold the truth in 95 % of sweeps: all five effects, whatever makes the noise."""
    rng, sweeps, held = np.random.default_rng(1), 200, np.zeros(5)
    for _ in range(sweeps):
        for index, effect in enumerate(
            told(grid, drawn(rng, 4, training=training, measuring=measuring), pooled=pooled)
        ):
            low, high = effect.interval
            held[index] += low <= true_value(effect.levels, effect.axes) <= high
    # 200 sweeps: ± 1.5 % a standard deviation. Clamped covariances and Satterthwaite's degrees are approximate.
    assert (held / sweeps > 0.90).all(), held / sweeps
    assert held.mean() / sweeps < 0.995


def test_scatter_alone_would_not_cover(grid: Sweep) -> None:
    """Examples that all seeds share make errors that no scatter among seeds shows."""
    rng, inside = np.random.default_rng(2), 0
    for _ in range(100):
        first = next(told(grid, drawn(rng, 4, training=0.01, measuring=0.5), pooled=False))
        inside += first.interval[0] <= true_value(first.levels, first.axes) <= first.interval[1]
    assert inside >= 88  # of 95 expected, a standard deviation of 2.2


# -------------------------------------------------------------------------------------------------------------- errors


def test_the_error_by_hand() -> None:
    """Three repeats: S² = 1, S²/3, and the covariance of their influences on top."""
    repeats = [Repeat(v, (0.3, 0.4), 0.0, 9.0, 50) for v in (1.0, 2.0, 3.0)]
    found = error_of(repeats, own_scatter(repeats), shared=True)
    assert found.value == pytest.approx(2.0)
    assert found.std_error == pytest.approx(math.sqrt(1 / 3 + 0.25))  # C = 0.3² + 0.4², common to all
    assert found.measuring == pytest.approx(0.5)  # the same examples thrice are no more than once
    assert found.degrees == pytest.approx((1 / 3 + 0.25) ** 2 / ((1 / 3) ** 2 / 2 + 0.25**2 / 1))
    opposite = [Repeat(1.0, (0.3, 0.4), 0.0, 9.0, 50), Repeat(3.0, (-0.3, -0.4), 0.0, 9.0, 50)]
    assert error_of(opposite, own_scatter(opposite), shared=True).std_error == pytest.approx(1.0)  # C is at least 0


def test_what_was_not_stored_is_taken_at_its_largest() -> None:
    repeats = [Repeat(v, None, 0.0, 0.5, 50) for v in (1.0, 3.0)]
    assert error_of(repeats, Scatter(2.0, 1), shared=True).std_error == pytest.approx(math.sqrt(1 + 0.25))
    assert error_of(repeats, Scatter(2.0, 1), shared=False).std_error == pytest.approx(1.0)
    assert error_of(repeats[:1], None, shared=True).std_error == pytest.approx(0.5)


def test_influences_are_subtracted_example_by_example() -> None:
    u = np.array([0.3, -0.4])
    numbers = {("a",): number(1.0, u), ("b",): number(3.0, u)}
    weights: Mapping[Place, float] = {("a",): -1.0, ("b",): 1.0}
    found = repeat_of(weights, numbers)
    assert (found.value, found.variance) == (2.0, 0.0)  # what is hard for both drops out
    apart = repeat_of(weights, {**numbers, ("b",): number(3.0)})
    assert apart.variance == pytest.approx((0.5 + 0.1) ** 2)


def test_pooled_scatter_is_that_of_two_ways() -> None:
    """Rows and columns drop out; what is left of [[1, -1], [-1, 1]] is itself: Σ e² = 4, one degree."""
    values = [[5.0 + 1, 7.0 - 1], [0.0 - 1, 2.0 + 1]]
    found = pooled_scatter(values, [1.0, -1.0])
    assert found is not None
    assert (found.variance, found.degrees) == (pytest.approx(8.0), 1)
    own = own_scatter([Repeat(6.0, None, 0, 0, 9), Repeat(2.0, None, 0, 0, 9)])
    assert own is not None
    assert (own.variance, own.degrees) == (pytest.approx(8.0), 1)


def test_one_wild_arm_is_seen() -> None:
    """Critical values of Cochran's table at 0.05; where one arm is beyond them, no scatter is taken together."""
    for count, degrees, share in ((8, 1, 0.6798), (4, 1, 0.9065), (5, 2, 0.6838), (3, 2, 0.8709)):
        rest = [(1 - share) / (count - 1)] * (count - 1)
        # Of three the bound is a little above the truth; the others agree with the table's four digits.
        assert cochran([share, *rest], degrees) == pytest.approx(0.05, rel=0.002)
    calm = [[5.0, 5.1], [7.0, 7.1], [1.0, 1.3], [2.0, 1.9], [4.0, 4.2], [3.0, 3.1], [6.0, 6.2], [8.0, 8.1]]
    assert not is_uneven(calm)
    assert is_uneven([[5.0, 9.0], *calm[1:]])
    assert cochran([0.0, 0.0], 1) == 1.0


def test_a_wild_arm_leaves_each_effect_its_own_scatter(grid: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = drawn(np.random.default_rng(5), 3, training=0.05, measuring=0.0)
    assert all(effect.pooled for effect in told(grid, cells))
    wild = {**cells, places()[0]: {0: number(0.0), 1: number(9.0), 2: number(-4.0)}}
    assert not any(effect.pooled for effect in told(grid, wild))
    monkeypatch.setattr(finding, "numbers_of", lambda sweep: {"kid": wild})
    assert any("Cochran" in text for text in effects(grid).notes)


def test_equal_repeats_tell_no_scatter(grid: Sweep) -> None:
    """Shares of a few samples may repeat to the digit: that is no proof, and measuring has its error all the same."""
    known = {p: {s: number(truth(p), np.array([0.1, 0.1 * i])) for s in (0, 1)} for i, p in enumerate(places())}
    first = next(told(grid, known, pooled=False))
    assert first.std_error == first.error.measuring == pytest.approx(0.3)  # the means of 3, 4, 5 and 0, 1, 2, tenths
    exact = {p: {s: Number(truth(p), 0.0, 50, {}) for s in (0, 1)} for p in places()}
    assert {effect.verdict for effect in told(grid, exact) if abs(effect.value) > 1e-9} == {"no error known"}
    assert {effect.p_value for effect in told(grid, exact)} == {1.0}


def test_quantiles_of_the_tables() -> None:
    assert quantile(1, 0.05) == pytest.approx(12.7062, abs=1e-4)
    assert quantile(10, 0.05) == pytest.approx(2.2281, abs=1e-4)
    assert quantile(1e6, 0.05) == pytest.approx(1.95996, abs=1e-4)


# ---------------------------------------------------------------------------------------------------- gaps and refusals


def test_every_seed_keeps_the_same_arms() -> None:
    whole = {place: {0: number(1.0), 1: number(1.0)} for place in places()}
    assert balanced(whole) == whole
    begun = {place: dict(list(row.items())[: 2 if place == places()[0] else 1]) for place, row in whole.items()}
    assert {len(row) for row in balanced(begun).values()} == {1}  # a seed that has just begun
    assert len(balanced(begun)) == 6
    lost = {place: row for place, row in whole.items() if place != places()[0]}
    lost[places()[0]] = {0: number(1.0)}
    assert len(balanced(lost)) == 5  # one arm of ten failed
    assert {len(row) for row in balanced(lost).values()} == {2}


def test_other_quantities_are_not_ranked(grid: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that were measured as another loss along one axis: that axis is refused, the other is told."""
    cells = {p: {s: number(truth(p), np.ones(4), measured_as=p[0]) for s in (0, 1)} for p in places()}
    found = list(effects_on(grid, "loss[held-out]", cells))
    assert [isinstance(one, Effect) for one in found] == [False, True, True, False, False]
    assert not any(one.pooled for one in found if isinstance(one, Effect))  # scatter in two units is not pooled
    monkeypatch.setattr(finding, "numbers_of", lambda sweep: {"loss[held-out]": cells})
    told_of = effects(grid, "loss[held-out]")
    assert "of other quantities along an axis" in told_of.notes[0]
    assert [u.first for u in told_of.untold] == ["objective.distance=mse"]  # its interactions follow from it
    assert {"objective.distance" in one.axes for one in told_of.effects} == {False}


def test_bins_of_other_spans_are_not_ranked(grid: Sweep) -> None:
    def of(place: Place) -> Number:
        low = -8.0 if place[0] == "mse" else -7.3
        return Number(1.0, 0.1, 50, {"log_snr_low": low, "log_snr_high": -6.0}, (0.1,))

    first = next(iter(effects_on(grid, "loss_by_log_snr[-8..-6][held-out]", {p: {0: of(p)} for p in places()})))
    assert not isinstance(first, Effect)
    assert "noise levels" in first.reason


def test_one_seed_says_what_its_error_is(grid: Sweep) -> None:
    cells = {place: {0: number(truth(place), np.array([0.01, 0.01 * i]))} for i, place in enumerate(places())}
    found = list(told(grid, cells))
    assert [effect.repeats for effect in found] == ["settings"] * 3 + ["none"] * 2
    last = replace(found[-2], error=replace(found[-2].error, std_error=0.1, value=0.5), corrected=0.01)
    assert last.verdict == "higher, of these models"  # one pair of runs tells nothing of the settings


def test_significance_is_corrected_for_all(grid: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = drawn(np.random.default_rng(3), 3, training=0.05, measuring=0.0)
    monkeypatch.setattr(finding, "numbers_of", lambda sweep: {"kid": cells, "fid": cells})
    found = effects(grid)
    assert len(found.effects) == 10
    smallest = min(found.effects, key=lambda effect: effect.p_value)
    assert smallest.corrected == pytest.approx(min(1.0, 10 * smallest.p_value))
    assert any("10 comparisons by Holm" in text for text in found.notes)
    worse = found.of("kid")[0]
    assert (worse.value > 0, worse.verdict) == (True, "worse")  # of kid less is better
    assert len(effects(grid, "kid", interactions=False).effects) == 3


def test_refusals(grid: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="none is trained"):
        effects(grid)
    with pytest.raises(UsageError, match="random search"):
        effects(Sweep.of(Plan("drawn", grid.plan.base, AXES, search=Random(trials=3)), tmp_path))
    with pytest.raises(UsageError, match="no axes"):
        effects(Sweep.of(Plan("seeds", grid.plan.base, (), seeds=2), tmp_path))
    monkeypatch.setattr(finding, "numbers_of", lambda sweep: {"kid": {p: {0: number(1.0)} for p in places()}})
    with pytest.raises(UsageError, match="has a number energy") as caught:
        effects(grid, "energy_distance")
    assert f"sfumato sweep {grid.folder} --metrics energy_distance" in caught.value.fix
    with pytest.raises(UsageError, match="has a number kidd") as caught:
        effects(grid, "kidd")
    assert caught.value.fix == "did you mean kid?"
    with pytest.raises(UsageError, match="has a number fidd") as caught:
        effects(grid, "fidd")  # which no arm has either
    assert caught.value.fix == "did you mean fid?"


def test_settings_are_called_by_their_last_words_where_these_tell_them_apart() -> None:
    def one(axis: str) -> Effect:
        error = Error(1.0, 0.1, 8, 0.1)
        return Effect("kid", (axis,), (("1", "2"),), error, 1, 2, "seeds")

    told = [one(axis) for axis in ("schedule.steps", "sampling.steps", "training.learning_rate")]
    labels = [Effects("s", tuple(told), (), ()).label(effect) for effect in told]
    assert labels == ["schedule.steps 1 → 2", "sampling.steps 1 → 2", "learning_rate 1 → 2"]
