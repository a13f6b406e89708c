"""The search that learns: what it is told, that it is a function of that, and what it may not rank by."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import PlatformError, UsageError
from sfumato.experiment.sweep import Optuna, Sweep, Wish, axes_of, open_sweep, sweep, table_of
from sfumato.experiment.sweep.axes import Axis
from sfumato.experiment.sweep.guided import Told, asker, next_point, require_rankable, told_of

needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="the extra hpo is not installed")
RATES = Axis("training.learning_rate", ("1e-5..1e-1:log",))
DISTANCES = Axis("objective.distance", ("mse", "mae"))


def opened(points: dict[str, Any], *axes: str, **more: Any) -> Sweep:
    wish = Wish("swiss-roll", axes_of(axes), points, runs=Path("nowhere"), name="x", **more)
    return open_sweep(wish, lambda text: None)


@pytest.mark.parametrize(
    ("axes", "fields", "told"),
    [
        (["objective.distance=mse,mae"], {}, "ranks nothing there"),
        (["schedule.betas=linear,cosine"], {}, "ranks nothing there"),
        (["training.learning_rate=0.1..0.2"], {"metric": "kid"}, "is not measured of the arms"),
    ],
)
def test_a_metric_that_ranks_nothing_is_refused(
    points: dict[str, Any], axes: list[str], fields: dict[str, Any], told: str
) -> None:
    """Among them losses across losses: no search may prefer the distance whose numbers are smaller."""
    with pytest.raises(UsageError, match=told):
        require_rankable(opened(points, *axes, search=Optuna(4, **fields)))


def test_a_loss_ranks_what_does_not_define_it(points: dict[str, Any]) -> None:
    require_rankable(opened(points, "training.learning_rate=0.1..0.2", search=Optuna(4)))
    silent = {**points, "training.evaluate_every": 0}
    with pytest.raises(UsageError, match="no held-out loss is measured"):
        require_rankable(opened(silent, "training.learning_rate=0.1..0.2", search=Optuna(4)))


def test_without_the_package_the_extra_is_named(points: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(PlatformError, match="needs the package optuna") as refusal:
        asker(opened(points, "training.learning_rate=0.1..0.2", search=Optuna(4)))
    assert "sfumato[hpo]" in refusal.value.fix


def test_what_a_search_is_told(whole: Sweep) -> None:
    """The mean over the seeds where all are done; failed and running points as such; a repeated point twice."""
    from dataclasses import replace

    points = [dict(arm.settings) for arm in whole.arms]
    search = Optuna(9)
    asked = replace(whole, plan=replace(whole.plan, asked=(points[0], points[1], points[0])))
    told = told_of(asked, search, [whole.arms[1]])
    values = [row.figures["held_out_loss"].value for row in table_of(whole).rows]
    assert told == [Told(points[0], values[0]), Told(points[1]), Told(points[0], values[0])]
    lost = replace(asked, plan=replace(asked.plan, asked=(dict(points[0], parameterization="Score"),)))
    assert told_of(lost, search, []) == [Told(dict(points[0], parameterization="Score"), failed=True)]


@needs_optuna
def test_the_next_point_is_a_function_of_what_was_told() -> None:
    told = [Told({RATES.key: f"{10.0**-k:.4g}", DISTANCES.key: "mse"}, float(k)) for k in range(1, 6)]
    told += [
        Told({RATES.key: "0.05", DISTANCES.key: "mae"}, failed=True),
        Told({RATES.key: "0.02", DISTANCES.key: "mae"}),
    ]
    search = Optuna(30, startup=3)
    first = next_point(search, [RATES, DISTANCES], told)
    assert next_point(search, [RATES, DISTANCES], told) == first
    assert next_point(Optuna(30, seed=1, startup=3), [RATES, DISTANCES], told) != first
    assert 1e-5 <= float(first[RATES.key]) <= 1e-1
    assert first[DISTANCES.key] in DISTANCES.values


@needs_optuna
def test_it_learns_where_the_metric_is_small() -> None:
    """(log10 rate + 3)² over 8 decades: after 12 drawn at random, 18 guided points lie nearer to -3 than chance would.

    Uniform points have a median distance of 2 decades from it; those of a search that learns, less than 1.
    """
    import math

    axis, told = Axis("training.learning_rate", ("1e-7..1e1:log",)), []
    search = Optuna(30, startup=12)
    for _ in range(30):
        point = next_point(search, [axis], told)
        told.append(Told(point, (math.log10(float(point[axis.key])) + 3) ** 2))
    distances = sorted(math.sqrt(one.value or 0.0) for one in told[12:])
    assert distances[9] < 1
    best = min(told, key=lambda one: one.value or 0.0)
    assert abs(math.log10(float(best.point[axis.key])) + 3) < 0.5


@needs_optuna
def test_a_guided_sweep_goes_on_to_the_same_points(points: dict[str, Any], tmp_path: Path) -> None:
    """Stopped after two of four trials and gone on with, it has the arms of one that was not stopped."""

    def searched(runs: Path, trials: int) -> Sweep:
        return sweep(
            "swiss-roll",
            {"training.learning_rate": "1e-4..1e-2:log", "training.batch_size": ["4..9"]},
            overrides=points,
            search=Optuna(trials, startup=2),
            launcher="inline",
            runs=runs,
            name="x",
            forecast=False,
            workers=1,
        )

    whole = searched(tmp_path / "one", 4)
    searched(tmp_path / "two", 2)
    again = searched(tmp_path / "two", 4)
    assert [arm.name for arm in again.arms] == [arm.name for arm in whole.arms]
    assert len(whole.arms) == 4
    assert table_of(again).document() == table_of(whole).document()


@needs_optuna
def test_points_that_cannot_be_trained_end_no_search(points: dict[str, Any], tmp_path: Path) -> None:
    """A batch of no examples is a point that failed: it is told to the search, which asks for the next one."""
    wanted = {"search": Optuna(4, startup=4), "launcher": "inline", "name": "x", "forecast": False}
    axes: dict[str, Any] = {"training.batch_size": ["0", "8"], "training.learning_rate": "1e-4..1e-2:log"}
    found = sweep("swiss-roll", axes, overrides=points, runs=tmp_path, **wanted)  # type: ignore[arg-type]
    assert len(found.plan.asked) == 4
    unfit = sum(point["training.batch_size"] == "0" for point in found.plan.asked)
    assert 0 < unfit < 4
    assert [found.state(arm) for arm in found.arms] == ["done"] * (4 - unfit)
    assert [one.failed for one in told_of(found, Optuna(4), [])] == [
        point["training.batch_size"] == "0" for point in found.plan.asked
    ]
    again = sweep(found.folder, launcher="inline", forecast=False)
    assert again.plan.asked == found.plan.asked  # nothing is asked for twice
