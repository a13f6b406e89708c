"""The page of a sweep: all arms in the order of their table, from the same noise; nothing is ranked unduly."""

import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import sfumato
from sfumato.experiment.config import load_experiment
from sfumato.experiment.effects import effects
from sfumato.experiment.remarks import write_labels, write_note
from sfumato.experiment.report.drawing import Film, draw_run
from sfumato.experiment.report.making import _wish, written
from sfumato.experiment.report.neighbours import DataShelf, Neighbours
from sfumato.experiment.report.page import Page, Shown
from sfumato.experiment.report.room import film_room, samples_room
from sfumato.experiment.report.sections.effects import is_significant
from sfumato.experiment.report.subjects import subject_of
from sfumato.experiment.report.wording import number, with_error
from sfumato.experiment.sweep import Plan, Sweep, axes_of
from sfumato.experiment.sweep.stored import store_plan


@pytest.fixture
def report(sweep: Any, read: Any) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        return read(sfumato.report(sweep, **{"n": 2, **options}))

    return make


def test_every_arm_has_a_row_and_its_state(report: Callable[..., Any], sweep: Any) -> None:
    found = report()
    rows = [[cell.text for cell in row.children] for row in found.section("arms").all("tbody")[0].all("tr")]
    assert [row[:3] for row in rows] == [
        ["mse", "CosineAngle", "done"],
        ["mse", "VpSde", "done"],
        ["mae", "CosineAngle", "done"],
        ["mae", "VpSde", "failed"],
    ]
    assert "the loss became <nan> after step 3" in found.section("arms").text
    assert (sweep.folder / "report.html").is_file()


def test_all_arms_start_from_the_same_noise(report: Callable[..., Any], sweep: Any, pixels: Any) -> None:
    """The first moment of every arm is the noise of the seeds; the rows of samples are those of each arm's model."""
    found = report(seed=5)
    strips = found.section("film").all("div", "strip")
    assert len(strips) == 3
    first = [[pixels(img) for img in strip.all("figure", "moment")[0].all("img")] for strip in strips]
    for other in first[1:]:
        # another schedule ends in 0.01 % more or less of the data, which is part of a level of 255
        np.testing.assert_allclose(np.array(other, float), np.array(first[0], float), atol=1)
    rows = found.section("samples").all("div", "row")[1:]
    for arm, row in zip([arm for arm in sweep.arms if arm.folder.is_dir()], rows, strict=True):
        model = sfumato.load(arm.folder)
        drawn = model.sample(2, seed=5, config=_small(model)).images[..., 0]
        np.testing.assert_array_equal([pixels(img) for img in row.all("img")], drawn)


def _small(model: Any) -> Any:
    return replace(model.experiment.sampling, micro_batch=2)


def test_numbers_measured_alike_share_a_column_and_a_scale(
    report: Callable[..., Any], sweep: Any, measure: Callable[..., None]
) -> None:
    """The dot and the whiskers of each arm lie on one scale."""
    values = ((0.10, 0.01), (0.20, 0.02), (0.15, 0.01))
    for arm, (value, error) in zip(sweep.arms[:3], values, strict=True):
        measure(arm.folder, {"kid[pixels]": (value, error, 100), "kid[pixels][floor]": (0.01, 0.001, 100)})
    found = report()
    assert "kidpixelslower is better" in found.section("arms").all("thead")[0].text
    places, widths = [], []
    for row in found.section("arms").all("tbody")[0].all("tr")[:3]:
        drawn = row.one("svg", "dotted")
        places.append(float(drawn.one("circle").attrs["cx"]))
        low, high = drawn.one("path", "whisker").attrs["d"].removeprefix("M").split(" 7.5H")
        widths.append(float(high) - float(low))
        assert drawn.all("path", "floor")
    assert (places[2] - places[0]) / (places[1] - places[0]) == pytest.approx(0.5, abs=0.01)  # one decimal of 112 units
    assert widths[1] / widths[0] == pytest.approx(2, abs=0.05)
    assert (places[1] - places[0]) / widths[1] == pytest.approx(0.10 / 0.04, abs=0.05)


def test_numbers_that_mean_different_things_have_no_column(
    report: Callable[..., Any], sweep: Any, measure: Callable[..., None]
) -> None:
    """Another n is another scale, and losses of other objectives are other quantities: the reason is told instead."""
    for arm, n in zip(sweep.arms[:3], (100, 100, 50), strict=True):
        facts = {"measured_as": f"the loss of {arm.settings['objective.distance']}"}
        measure(arm.folder, {"kid[pixels]": (0.1, 0.01, n)})
        measure(arm.folder, {"loss[held-out]": (0.3, 0.01, 100)}, **facts)
    found = report()
    head = found.section("arms").all("thead")[0].text
    assert "kid" not in head
    assert "loss" not in head
    assert not found.section("arms").all("svg", "dotted")
    told = {node.one("summary").text.partition(":")[0]: node.text for node in found.section("arms").all("details")}
    assert "n is 100 and 50" in told["kid[pixels]"]
    assert "measured_as is" in told["loss[held-out]"]


def test_numbers_measured_alike_are_found_among_several(
    report: Callable[..., Any], sweep: Any, measure: Callable[..., None]
) -> None:
    """One arm was measured twice: the number that goes with the others is taken, not that of most examples."""
    for arm in sweep.arms[:3]:
        measure(arm.folder, {"kid[pixels]": (0.1, 0.01, 100)})
    measure(sweep.arms[0].folder, {"kid[pixels]": (0.7, 0.01, 500)})
    found = report()
    assert "kid" in found.section("arms").all("thead")[0].text
    assert "0.700" not in found.section("arms").text


def test_arms_share_a_panel_only_where_they_share_the_loss(report: Callable[..., Any]) -> None:
    """Three arms, three losses: two distances by one schedule, and another schedule."""
    figures = report().section("training").all("figure")
    assert [figure.one("span", "aside").text for figure in figures] == [
        "mse, CosineAngle",
        "mse, VpSde",
        "mae, CosineAngle",
    ]
    assert all(len(figure.all("g", "dots")) == 1 for figure in figures)


def test_settings_are_those_that_all_arms_share(report: Callable[..., Any]) -> None:
    found = report()
    keys = {row.one("th").text for row in found.section("settings").all("tr") if row.all("td")}
    assert "training.steps" in keys
    assert not {"objective.distance", "schedule", "schedule.kind"} & keys


def test_two_schedules_are_drawn_for_three_arms(report: Callable[..., Any]) -> None:
    figure = report().section("schedule").all("figure")[0]
    names = [item.text for item in figure.all("li")]
    assert len(names) == 2
    assert any("VpSde" in name for name in names)


def test_a_sweep_that_has_only_begun_has_a_page(sweep: Any, read: Any) -> None:
    for arm in sweep.arms[:3]:
        shutil.rmtree(arm.folder)
    found = read(sfumato.report(sweep))
    states = [row.all("td")[1].text for row in found.section("arms").all("tbody")[0].all("tr")]
    assert states == ["waiting", "waiting", "waiting", "failed"]
    assert "samples" not in found.sections


def test_seeds_of_a_point_have_a_mean_and_the_error_of_its_scatter(
    sweep: Any, read: Any, measure: Callable[..., None]
) -> None:
    """Two seeds of one point, in place of two schedules: their mean, and |a - b|/2 for its error."""
    plan = Plan("grid", sweep.plan.base, sweep.plan.axes[:1], seeds=2)
    store_plan(plan, sweep.folder)
    seeded = Sweep.load(sweep.folder)
    for arm, old in zip(seeded.arms[:2], sweep.arms, strict=False):
        old.folder.rename(arm.folder)
    for arm, value in zip(seeded.arms[:2], (0.10, 0.16), strict=True):
        measure(arm.folder, {"kid[pixels]": (value, 0.001, 100)})
    found = read(sfumato.report(sweep.folder, n=0))
    means = found.section("arms").all("table")[1]
    row = means.one("tbody").all("tr")[0]
    assert [cell.text for cell in row.children][:3] == ["mse", "2", "0.130 ± 0.030"]


def test_a_sweep_is_found_by_its_name(sweep: Any) -> None:
    assert sfumato.report("grid", runs=sweep.folder.parent, n=0) == sweep.folder / "report.html"


def test_the_command_means_the_same_arms(report: Callable[..., Any], sweep: Any) -> None:
    """The axes and the settings file of the command make a plan of the same experiments."""
    line = next(n.text for n in report().section("commands").all("code") if "--axis" in n.text)
    words = shlex.split(line)
    axes = axes_of([words[i + 1] for i, word in enumerate(words) if word == "--axis"])
    again = Sweep.of(Plan("again", load_experiment(words[2]), axes), sweep.folder.parent / "again")
    assert [arm.name for arm in again.arms] == [arm.name for arm in sweep.arms]
    mine, theirs = ([s.experiment(arm) for arm in s.arms] for s in (sweep, again))
    for one, other in zip(mine, theirs, strict=True):
        assert one.objective == other.objective
        assert one.schedule == other.schedule
        assert one.training.steps == other.training.steps


@pytest.mark.parametrize("real", [False, True])
def test_eight_arms_of_the_worst_pictures_weigh_less_than_10_mb(sweep: Any, tmp_path: Any, real: bool) -> None:
    """Pure noise of 3 x 64 x 64, which nothing compresses, in every place of the page where a picture can stand."""
    subject = subject_of(sweep, tmp_path)
    wish = _wish(subject, n=None, seed=0, real=real, sampling=None, device="cpu", runs=tmp_path)
    wish = replace(wish, runs_drawn=8)
    drawn = draw_run(str(sweep.arms[0].folder), replace(wish, count=2), DataShelf(), print)
    rng = np.random.default_rng(0)

    def noise(count: int, side: int = 64) -> Any:
        return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)

    room = samples_room((3, 64, 64), 8, wish.count)
    film = film_room((3, 64, 64), 8, frames=wish.frames, examples=wish.examples, rows=1)
    states = tuple(noise(film.examples, film.side) for _ in range(film.frames))
    levels = tuple(range(film.frames))
    near = Neighbours(*[(0,) * 8] * 4, 9, 1.0, 8, *([noise(8), noise(8)] if real else [None, None]))
    picture = replace(
        drawn,
        values=noise(room.count),
        side=room.side,
        film=Film(levels, tuple(map(float, levels)), tuple(map(float, levels)), states),
        neighbours=near,
    )
    shown = tuple(Shown(subject.entries[0], picture) for _ in range(8))
    target = written(Page(subject, shown, wish, "sfumato report"), tmp_path / "worst.html", print)
    assert (room.count, room.side >= 64) == (8, True)  # nothing has to be made smaller
    assert 4_000_000 < target.stat().st_size < 10_000_000


# --------------------------------------------------------------------------------------------------- effects and notes


def _measured_grid(sweep: Any, measure: Callable[..., None]) -> list[Any]:
    """The grid with its fourth arm put in place of the failed one; KID that mae makes worse by 0.1, a schedule not."""
    for file in (sweep.folder / "failures").iterdir():
        file.unlink()
    shutil.copytree(sweep.arms[2].folder, sweep.arms[3].folder)
    config = sweep.arms[3].folder / "config.yaml"
    config.write_text(config.read_text().replace("CosineAngle", "VpSde"))
    for arm, value in zip(sweep.arms, (0.1000, 0.1002, 0.2001, 0.1999), strict=True):
        measure(arm.folder, {"kid[pixels]": (value, 0.001, 100)})
    return list(effects(sweep, "kid").effects)


def test_effects_tell_what_is_significant_and_what_is_not(
    report: Callable[..., Any], sweep: Any, measure: Callable[..., None]
) -> None:
    """Row by row the numbers, p and verdict of `effects`; only what is significant is called so, or stands out."""
    _measured_grid(sweep, measure)
    found = effects(sweep)
    assert {is_significant(effect) for effect in found.effects} == {True, False}
    shown = report(n=0).section("effects")
    told = sum(map(is_significant, found.effects))
    assert shown.all("p")[0].text.startswith(f"{told} of {len(found.effects)} changes {'is' if told == 1 else 'are'}")
    rows = [row for table in shown.all("table") for row in table.one("tbody").all("tr") if row.all("svg", "dotted")]
    every = sorted(found.effects, key=lambda e: (found.metrics.index(e.metric), len(e.axes)))
    assert len(rows) == len(every)
    for row, effect in zip(rows, every, strict=True):
        cells = [cell.text for cell in row.children]
        pairs = zip(effect.axes, effect.levels, strict=True)
        assert cells[0] == "".join(f"{axis.rpartition('.')[2]}: {one} → {two}" for axis, (one, two) in pairs)
        assert cells[2].replace("+", "", 1) == with_error(effect.value, effect.std_error)
        assert cells[4] == ("< 1 × 10⁻¹²" if effect.corrected < 1e-12 else number(effect.corrected, 2))
        assert cells[1] == (f"significant: {effect.verdict}" if is_significant(effect) else effect.verdict)
        assert ("lesser" in row.attrs.get("class", "")) is not is_significant(effect)
        drawn = row.one("svg", "dotted")
        dot = float(drawn.one("circle").attrs["cx"])
        low, high = map(float, drawn.one("path", "whisker").attrs["d"].removeprefix("M").split(" 7.5H"))
        assert dot == pytest.approx((low + high) / 2, abs=0.11)  # the middle of its interval; one decimal
        line = float(drawn.one("path", "floor").attrs["d"].removeprefix("M").split()[0])
        assert (low <= line <= high) is (effect.interval[0] <= 0 <= effect.interval[1])


def test_effects_that_cannot_be_told_are_told_so(report: Callable[..., Any], sweep: Any, read: Any) -> None:
    for arm in sweep.arms[:3]:
        shutil.rmtree(arm.folder)
    assert "No effect can be told yet" in read(sfumato.report(sweep)).section("effects").text


def test_arms_of_one_loss_have_a_column_of_it(sweep: Any, read: Any) -> None:
    """Two seeds of one point share the loss of the log; arms of other schedules and distances do not."""
    apart = read(sfumato.report(sweep, n=0)).section("arms")
    assert "held out loss" not in apart.all("thead")[0].text
    assert "schedule.kind is" in apart.text
    plan = Plan("grid", sweep.plan.base, sweep.plan.axes[:1], seeds=2)
    store_plan(plan, sweep.folder)
    seeded = Sweep.load(sweep.folder)
    sweep.arms[0].folder.rename(seeded.arms[0].folder)
    shutil.copytree(seeded.arms[0].folder, seeded.arms[1].folder)
    found = read(sfumato.report(seeded.folder, n=0)).section("arms")
    assert "held out losslower is better" in found.all("thead")[0].text
    record = seeded.record(seeded.arms[0])
    said = with_error(record.figures["held_out_loss"], record.figures["held_out_std_error"])
    assert said in found.all("tbody")[0].all("tr")[0].text


def test_labels_and_notes_are_shown_as_they_were_written(sweep: Any, read: Any) -> None:
    run, bad = sweep.arms[0].folder, "<img src=x onerror=alert(1)>\nsecond line"
    write_labels(run, ["baseline", "v1.2"], [])
    write_note(run, bad)
    alone = read(sfumato.report(run, n=0))
    assert [li.text for li in alone.one("header").one("ul", "labels").all("li")] == ["baseline", "v1.2"]
    assert alone.section("notes").one("span", "said").text == bad
    together = read(sfumato.report(sweep, n=0)).section("notes")
    assert bad in together.text
    assert len(together.one("tbody").all("tr")) == 1
    assert not [node for node in together.walk() if node.tag == "img"]


def test_forty_arms_are_a_page_that_can_be_read_and_sent(sweep: Any, tmp_path: Any, read: Any) -> None:
    """40 arms of 64 x 64 x 3 noise, with one loss: below 15 MB, few lines named."""
    subject = subject_of(sweep, tmp_path)
    wish = replace(
        _wish(subject, n=None, seed=0, real=False, sampling=None, device="cpu", runs=tmp_path), runs_drawn=40
    )
    drawn = draw_run(str(sweep.arms[0].folder), replace(wish, count=2), DataShelf(), print)
    room, film = samples_room((3, 64, 64), 40, 8), film_room((3, 64, 64), 40, frames=16, examples=3, rows=1)
    rng = np.random.default_rng(0)

    def noise(count: int, side: int) -> Any:
        return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)

    states = tuple(noise(film.examples, film.side) for _ in range(film.frames))
    moments_ = tuple(range(film.frames))
    near = Neighbours(*[(0,) * 8] * 4, 9, 1.0, 8, None, None)
    filmed = Film(moments_, tuple(map(float, moments_)), tuple(map(float, moments_)), states)
    picture = replace(drawn, values=noise(room.count, room.side), side=room.side, film=filmed, neighbours=near)
    base = subject.entries[0]
    entries = [replace(base, name=f"arm {k}", axes={"training.learning_rate": f"{k}e-5"}) for k in range(40)]
    shown = tuple(Shown(entry, picture) for entry in entries)
    many = replace(subject, entries=tuple(entries), axes={"training.learning_rate": ()}, sweep=None)
    target = written(Page(many, shown, wish, "sfumato report"), tmp_path / "forty.html", print)
    assert target.stat().st_size < 15_000_000
    found = read(target)
    assert len(found.section("arms").all("tbody")[0].all("tr")) == 40
    (panel,) = found.section("training").all("figure")
    assert len(panel.all("li")) == 6
    assert len(panel.all("svg")[0].all("g", "faint")) == 34
