"""Plans: which arms there are, what they are called, and how plans grow."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.config import load_experiment
from sfumato.experiment.sweep import Grid, Measures, Optuna, Random, Wish, axes_of, open_sweep
from sfumato.experiment.sweep.axes import Axis, as_written_once
from sfumato.experiment.sweep.plan import Plan, grown, planned, same_sweep
from sfumato.experiment.sweep.stored import read_plan, store_plan
from sfumato.experiment.sweep.sweeping import _as_it_is_by_now

DISTANCES = Axis("objective.distance", ("mse", "mae"))
TARGETS = Axis("parameterization", ("Noise", "Velocity"))


def plan(*axes: Axis, **fields: Any) -> Plan:
    return Plan("plan", load_experiment("digits"), tuple(axes), **fields)


def quiet(text: str) -> None: ...


def test_every_combination_with_every_seed_in_the_order_of_the_axes() -> None:
    found = planned(plan(DISTANCES, TARGETS, seeds=2), Path("runs/plan"))
    assert [arm.name for arm in found.arms] == [
        "mse-noise-s0", "mse-noise-s1", "mse-velocity-s0", "mse-velocity-s1",
        "mae-noise-s0", "mae-noise-s1", "mae-velocity-s0", "mae-velocity-s1",
    ]  # fmt: skip
    last = found.arms[-1]
    assert (last.settings, last.seed) == ({"objective.distance": "mae", "parameterization": "Velocity"}, 1)
    assert last.folder == Path("runs/plan/arms/mae-velocity-s1")
    wanted = {"objective.distance": "mae", "parameterization": "Velocity", "seed": 1}
    assert found.experiments[last.name] == load_experiment("digits", wanted)


def test_seeds_begin_at_that_of_the_base() -> None:
    base = load_experiment("digits", {"seed": 7})
    found = planned(Plan("p", base, (), seeds=3), Path("p"))
    assert [(arm.name, arm.seed) for arm in found.arms] == [("s7", 7), ("s8", 8), ("s9", 9)]


def test_points_that_mean_the_same_are_one_arm_and_that_is_said() -> None:
    """Row C10: spelled otherwise, in another unit of writing, or without effect."""
    rates = Axis("training.learning_rate", ("1e-3", "0.001", "0.002"))
    found = planned(plan(rates, Axis("schedule", ("CosineAngle", "cosine-angle"))), Path("p"))
    assert [arm.name for arm in found.arms] == [
        "learning_rate-0.001-cosineangle-s0", "learning_rate-0.002-cosineangle-s0",
    ]  # fmt: skip
    assert found.notes[0].startswith("dropped 4 that would repeat another arm: ")


def test_nothing_that_varies_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing varies"):
        plan()
    assert planned(plan(seeds=2), Path("p")).arms[1].name == "s1"


def test_names_are_unique_and_stable_where_slugs_are_not() -> None:
    """Two values of one slug: the second arm's name ends in a digest, which depends on its values alone."""
    labels = Axis("description", ("a b", "a-b", "a/b"))
    names = [arm.name for arm in planned(plan(labels), Path("p")).arms]
    assert len({*names}) == 3
    assert names[0] == "a-b-s0"
    again = [arm.name for arm in planned(plan(Axis("description", ("a b", "a/b"))), Path("p")).arms]
    assert {*again} <= {*names}


def test_long_names_are_cut_and_stay_unique() -> None:
    long = [Axis("description", tuple("x" * 200 + end for end in "ab"))]
    names = [arm.name for arm in planned(plan(*long), Path("p")).arms]
    assert len({*names}) == 2
    assert max(map(len, names)) <= 80


def test_arms_that_cannot_be_trained_are_named_or_left_out() -> None:
    steps = Axis("training.batch_size", ("64", "0"))
    with pytest.raises(ConfigError, match="1 of 2 cannot be trained: batch_size-0-s0") as refusal:
        planned(plan(steps), Path("p"))
    assert "--skip-unfit" in refusal.value.fix
    found = planned(plan(steps, skip_unfit=True), Path("p"))
    assert [arm.name for arm in found.arms] == ["batch_size-64-s0"]
    assert found.notes[0].startswith("left out 1 that cannot be trained, such as batch_size-0-s0")
    with pytest.raises(ConfigError, match="none of the arms can be trained"):
        planned(plan(Axis("training.batch_size", ("0", "-1"))), Path("p"))


def test_a_million_points_want_a_yes_and_are_not_made_first(tmp_path: Path) -> None:
    """Row C10: refused by counting, at once."""
    axes = axes_of(
        [f"training.{key}={','.join(map(str, range(1, 101)))}" for key in ("steps", "batch_size", "log_every")]
    )
    began = time.monotonic()
    with pytest.raises(UsageError, match="1,000,000 arms are asked for") as refusal:
        open_sweep(Wish("digits", axes, runs=tmp_path), quiet)
    assert "--yes" in refusal.value.fix
    assert time.monotonic() - began < 5  # making one takes a millisecond, a million some 20 minutes


@pytest.mark.parametrize(
    "stored",
    [
        plan(DISTANCES, TARGETS, seeds=3),
        plan(Axis("network.widths", ("[8,16]", "[16, 32]")), measures=Measures(("kid", "loss"), 100, "pixels")),
        plan(Axis("data.label", ("012", "1e-3", "null", "no", "'x'", "a: b", "#", "{kind: A}"))),
        plan(Axis("training.learning_rate", ("1e-4..1e-2:log",)), search=Random(30, 2), skip_unfit=True),
        plan(DISTANCES, search=Optuna(9, 1, "kid", 4), asked=({"objective.distance": "mae"},)),
        plan(seeds=4),
    ],
    ids=repr,
)
def test_a_stored_plan_is_read_back_equal(stored: Plan, tmp_path: Path) -> None:
    folder = tmp_path / stored.name
    store_plan(stored, folder)
    assert read_plan(folder) == stored
    before = (folder / "sweep.yaml").stat().st_mtime_ns
    store_plan(stored, folder)
    assert (folder / "sweep.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["", "format: sfumato-sweep-9\n", "format: sfumato-sweep-1\nname: x\n", "[1]\n"])
def test_a_plan_that_cannot_be_understood_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ConfigError):
        read_plan(tmp_path)


def test_plans_grow_by_seeds_values_and_trials() -> None:
    more = grown(plan(DISTANCES, seeds=2), plan(Axis("objective.distance", ("huber", "mse")), seeds=3))
    assert more.axes == (Axis("objective.distance", ("mse", "mae", "huber")),)
    assert more.seeds == 3
    assert grown(plan(DISTANCES, seeds=3), plan(DISTANCES)).seeds == 3  # arms are never dropped
    assert grown(plan(DISTANCES, search=Random(5)), plan(DISTANCES, search=Random(9))).search == Random(9)
    assert grown(plan(DISTANCES, search=Random(9)), plan(DISTANCES, search=Random(5))).search == Random(9)
    measured = plan(DISTANCES, measures=Measures(("loss",)))
    assert grown(measured, plan(DISTANCES)).measures == Measures(("loss",))
    assert grown(plan(DISTANCES), measured).measures == Measures(("loss",))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (plan(DISTANCES, TARGETS), "axes"),
        (plan(TARGETS), "axes"),
        (plan(DISTANCES, search=Random()), "search"),
        (
            replace(plan(DISTANCES), base=load_experiment("digits", {"training.steps": 5})),
            r"training\.steps \(3000 -> 5\)",
        ),
    ],
)
def test_another_sweep_is_never_taken_for_this_one(other: Plan, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        grown(plan(DISTANCES), other)
    assert not same_sweep(plan(DISTANCES), other)


def test_the_values_of_a_search_cannot_change() -> None:
    """More values would draw other points: the arms that were trained would belong to no plan."""
    one, other = (
        plan(Axis("training.batch_size", values), search=Random(3)) for values in (("8", "9"), ("8", "9", "10"))
    )
    with pytest.raises(ConfigError, match="axes"):
        grown(one, other)


def test_which_sweep_a_command_means(points: dict[str, Any], tmp_path: Path) -> None:
    """The one of the same plan, also with more seeds or values; another base or axis is a new one."""

    def opened(*axes: str, **more: Any) -> tuple[str, int]:
        found = open_sweep(Wish("swiss-roll", axes_of(axes), points, runs=tmp_path, **more), quiet)
        store_plan(found.plan, found.folder)
        return found.folder.name, len(found.arms)

    assert opened("objective.distance=mse,mae") == ("swiss-roll-sweep-1", 2)
    assert opened("objective.distance=mse,mae") == ("swiss-roll-sweep-1", 2)
    assert opened("objective.distance=mse,mae,huber") == ("swiss-roll-sweep-1", 3)
    assert opened("objective.distance=mse", seeds=2) == ("swiss-roll-sweep-1", 6)
    assert opened("parameterization=noise,image") == ("swiss-roll-sweep-2", 2)
    assert opened("parameterization=noise,image", threads=3) == ("swiss-roll-sweep-3", 2)
    assert opened("objective.distance=mse,mae", name="mine") == ("mine", 2)
    with pytest.raises(ConfigError, match="started with other settings: axes") as refusal:
        opened("parameterization=noise,image", name="mine")
    assert "--name" in refusal.value.fix
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match="is no sweep"):
        opened("parameterization=noise,image", name="taken")


def test_threads_are_decided_once(points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the cores and the arms, when the sweep is made; never again, whatever the machine has by then."""
    from sfumato.experiment.sweep import machine

    def threads(recipe: str, count: int, **more: Any) -> int | None:
        monkeypatch.setattr(machine, "cores", lambda: 8)
        axes = axes_of([f"training.log_every={','.join(map(str, range(1, count + 1)))}"])
        found = open_sweep(Wish(recipe, axes, runs=tmp_path, **more), quiet)
        store_plan(found.plan, found.folder)
        return found.plan.base.training.threads

    assert threads("swiss-roll", 4) == 1  # points gain nothing from a second thread
    assert threads("digits", 4, name="four") == 2
    assert threads("digits", 2, name="two") == 4
    assert threads("digits", 100, name="many") == 1
    assert threads("digits", 4, name="told", threads=5) == 5
    assert threads("digits", 3, name="of the recipe".replace(" ", "-"), overrides={"training.threads": 7}) == 7
    assert threads("digits", 8, name="four") == 2  # grown, and what it was
    with pytest.raises(ConfigError, match=r"training\.threads \(2 -> 3\)"):
        threads("digits", 4, name="four", threads=3)


def test_the_search_is_no_seed_of_training() -> None:
    with pytest.raises(ConfigError, match="--trials is 0"):
        Random(0)
    with pytest.raises(ConfigError, match="--seeds is 0"):
        plan(DISTANCES, seeds=0)
    assert Grid() == Grid()


def test_numbers_spelled_otherwise_mean_the_same_sweep(tmp_path: Path) -> None:
    """0.1 and 1e-1, CosineAngle and cosine-angle; -1 and 1, 1e-3 and 1e3 are other values."""

    def opened(*axes: str) -> tuple[str, list[str]]:
        found = open_sweep(Wish("digits", axes_of(axes), runs=tmp_path), quiet)
        store_plan(found.plan, found.folder)
        return found.folder.name, [arm.name for arm in found.arms]

    first = opened("training.learning_rate=0.1,0.20", "schedule=CosineAngle")
    assert opened("training.learning_rate=1e-1,2e-1", "schedule=cosine-angle") == first
    assert opened("training.learning_rate=1e-1,2e-1,0.3", "schedule=cosine-angle")[1][:2] == first[1]
    assert [as_written_once(v) for v in ("-1", "1", "1e-3", "1E+3", "0.10", " .1")] == [
        "-1", "1", "0.001", "1000", "0.1", "0.1",
    ]  # fmt: skip


def test_arms_that_are_there_keep_their_names(points: dict[str, Any], tmp_path: Path) -> None:
    """`x` with `y-z` is called as `x-y` with `z` was, which is trained already: refused before anything is mixed up."""

    def opened(*axes: str, **more: Any) -> list[str]:
        found = open_sweep(Wish("swiss-roll", axes_of(axes), points, runs=tmp_path, name="words", **more), quiet)
        store_plan(found.plan, found.folder)
        return [arm.name for arm in found.arms]

    description = "description=x,x-y"
    first = opened(description, "training.init_from=z", skip_unfit=True)
    assert first == ["x-z-s0", "x-y-z-s0"]
    with pytest.raises(ConfigError, match=r"the arm x-y-z-s0 of .* would be another one") as refusal:
        opened(description, "training.init_from=z,y-z", skip_unfit=True)
    assert "--name" in refusal.value.fix
    assert opened(description, "training.init_from=z,other") == ["x-z-s0", "x-other-s0", "x-y-z-s0", "x-y-other-s0"]


def test_a_folder_without_a_plan_is_used_again(points: dict[str, Any], tmp_path: Path) -> None:
    """A sweep that was killed before its plan was written left its lock at most; the same command takes its place."""
    (tmp_path / "swiss-roll-sweep-1" / "arms").mkdir(parents=True)
    (tmp_path / "swiss-roll-sweep-1" / "LOCK").write_text("{}")
    (tmp_path / "swiss-roll-sweep-2").mkdir()
    (tmp_path / "swiss-roll-sweep-2" / "mine.txt").write_text("mine")
    for taken in ("swiss-roll-sweep-1", "swiss-roll-sweep-3"):
        found = open_sweep(
            Wish("swiss-roll", axes_of(["parameterization=velocity"]), points, seeds=2, runs=tmp_path), quiet
        )
        assert found.folder.name == taken
        (found.folder / "arms" / "kept").mkdir(parents=True)


def test_a_search_that_learns_passes_over_what_cannot_be_trained(points: dict[str, Any], tmp_path: Path) -> None:
    """An unfit point is no arm and no error: the search is told that it failed. A grid refuses it."""
    asked = ({"training.batch_size": "8"}, {"training.batch_size": "0"})
    axes = (Axis("training.batch_size", ("0..8",)),)
    found = planned(plan(*axes, search=Optuna(4), asked=asked), Path("p"))
    assert [arm.name for arm in found.arms] == ["batch_size-8-s0"]
    assert found.notes[0].startswith("left out 1 that cannot be trained, such as batch_size-0-s0")
    assert plan(*axes, search=Optuna(4), asked=asked, seeds=3).coming == 6


def test_the_plan_that_another_command_stored_meanwhile_counts(points: dict[str, Any], tmp_path: Path) -> None:
    """Two commands open one sweep; the first adds seeds and ends before the second begins: no seed is dropped."""
    wish: dict[str, Any] = {"overrides": points, "runs": tmp_path, "name": "x"}
    first = open_sweep(Wish("swiss-roll", axes_of(["parameterization=velocity"]), seeds=3, **wish), quiet)
    second = open_sweep(Wish("swiss-roll", axes_of(["parameterization=velocity"]), seeds=2, **wish), quiet)
    store_plan(first.plan, first.folder)
    now = _as_it_is_by_now(second)
    assert (now.plan.seeds, len(now.arms)) == (3, 3)
    elsewhere = {**wish, "runs": tmp_path / "b"}
    other = open_sweep(Wish("swiss-roll", axes_of(["objective.distance=mae"]), seeds=2, **elsewhere), quiet)
    with pytest.raises(ConfigError, match="started with other settings"):
        _as_it_is_by_now(replace(other, folder=first.folder))


def test_a_sweep_that_is_called_as_its_recipe_goes_on(points: dict[str, Any], tmp_path: Path) -> None:
    """The very same command again means the recipe; the name alone means the sweep."""
    wish = Wish("swiss-roll", axes_of(["parameterization=noise"]), points, seeds=2, runs=tmp_path, name="swiss-roll")
    for _ in range(2):
        found = open_sweep(wish, quiet)
        assert len(found.arms) == 2
        store_plan(found.plan, found.folder)
    assert open_sweep(Wish("swiss-roll", runs=tmp_path), quiet).plan == found.plan
