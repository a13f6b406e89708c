"""Figures of sweeps, read back from their axes and pixels."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL.Image import Image

from sfumato.errors import DataError
from sfumato.experiment.effects import Effect, Effects, LevelCurve, LevelCurves
from sfumato.experiment.effects.errors import Error
from sfumato.experiment.effects.levels import LevelPoint
from sfumato.figures import ArmRow, StepCurve, arms, by_level, effects, steps
from sfumato.figures.sheets import CAPTION, GUTTER
from sfumato.metrics import Estimate

CHANGE = Effect("kid", ("a.b",), (("x", "y"),), Error(0.4, 0.1, 10.0, 0.05), 2, 3, "seeds", corrected=0.01)
BOTH = Effect("kid", ("a.b", "c"), (("x", "y"), ("1", "2")), Error(-0.1, 0.2, 10.0, 0.05), 1, 3, "seeds", corrected=1.0)


def test_names_of_two_axes_take_two_lines() -> None:
    named = replace(
        BOTH, axes=("parameterization", "learning_rate"), levels=(("noise", "velocity"), ("0.001", "0.005"))
    )
    (axes,) = effects(Effects("a sweep", (named,), (), ())).axes
    (label,) = axes.get_yticklabels()
    assert label.get_text() == "parameterization noise → velocity\n× learning_rate 0.001 → 0.005"


def test_titles_of_panels_of_points_lie_inside() -> None:
    points = np.random.default_rng(0).normal(size=(50, 2))
    figure = arms([ArmRow(f"arm {index}", points) for index in range(4)])
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    tops = [axes.title.get_window_extent().y1 for axes in figure.axes]
    assert max(tops) <= figure.bbox.height


def test_effects_are_drawn_with_their_intervals() -> None:
    (axes,) = effects(Effects("a sweep", (CHANGE, BOTH), (), ())).axes
    spans = [line for line in axes.lines if len(np.asarray(line.get_xdata())) == 2 and line.get_marker() == "None"]
    drawn = [tuple(np.asarray(line.get_xdata(), dtype=float)) for line in spans[1:]]  # the first is the line at 0
    assert drawn == [pytest.approx(CHANGE.interval), pytest.approx(BOTH.interval)]
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in marks] == [0.4, -0.1]
    assert marks[0].get_markerfacecolor() != "white"  # significant
    assert marks[1].get_markerfacecolor() == "white"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b x → y", "b x → y\n× c 1 → 2"]
    with pytest.raises(DataError, match="no effect"):
        effects(Effects("a sweep", (), (), ()))


def test_levels_are_drawn_where_they_were_met() -> None:
    points = (LevelPoint(-3.0, -2.0, 0.9, 0.01, 2), LevelPoint(-2.0, 0.0, 0.5, 0.02, 2))
    (axes,) = by_level(LevelCurves("a sweep", "noise", (LevelCurve({"schedule": "VpSde"}, points),))).axes
    line = next(line for line in axes.lines if line.get_label() == "VpSde")
    np.testing.assert_array_equal(line.get_xdata(), [-2.5, -1.0])
    np.testing.assert_array_equal(line.get_ydata(), [0.9, 0.5])


def test_pairs_have_one_colour() -> None:
    """Eight curves: two distances by dashes, the four others by colours."""
    points = (LevelPoint(-3.0, -2.0, 0.9, 0.01, 2),)
    curves = tuple(
        LevelCurve({"distance": d, "target": t, "schedule": s}, points)
        for d in ("mse", "mae")
        for t in ("noise", "image")
        for s in ("VpSde", "CosineAngle")
    )
    (axes,) = by_level(LevelCurves("a sweep", "noise", curves)).axes
    looks = {str(line.get_label()): (line.get_color(), line.get_linestyle()) for line in axes.lines}
    of = [looks[curve.name] for curve in curves]
    assert len(set(of)) == 8
    assert [colour for colour, _ in of[:4]] == [colour for colour, _ in of[4:]]
    assert {dashes for _, dashes in of[:4]} == {"-"}


def test_an_arm_far_out_does_not_flatten_the_others() -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.standard_normal((50, 2)) * size for size in (1, 1, 1, 300)]
    drawn = arms([ArmRow(name, cloud) for name, cloud in zip("abcd", clouds, strict=True)])
    assert isinstance(drawn, Figure)
    assert all(np.ptp(axes.get_xlim()) < 12 for axes in drawn.axes[:4])
    assert [bool(axes.get_xlabel()) for axes in drawn.axes[:4]] == [False, False, False, True]


def test_quality_by_steps() -> None:
    found = (Estimate(0.4, 0.01, 100), Estimate(0.1, 0.01, 100))
    (axes,) = steps("kid", [StepCurve("ddim", (5, 50), found)]).axes
    line = next(line for line in axes.lines if line.get_label() == "ddim")
    np.testing.assert_array_equal(line.get_xdata(), [5, 50])
    np.testing.assert_array_equal(line.get_ydata(), [0.4, 0.1])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    heun = tuple(Estimate(0.1, 0.01, 100, {"calls": calls}) for calls in (9, 99))
    ddim = tuple(Estimate(0.1, 0.01, 100, {"calls": calls}) for calls in (5, 50))
    (axes,) = steps("kid", [StepCurve("ddim", (5, 50), ddim), StepCurve("heun", (5, 50), heun)]).axes
    named = {str(line.get_label()) for line in axes.lines}
    assert {"ddim", "heun (9–99 network calls)"} <= named  # its steps cost more


def test_arms_stand_below_their_names() -> None:
    """Row r, column k of the sheet is sample k of arm r, pixel for pixel."""
    rng = np.random.default_rng(0)
    rows = [ArmRow(name, rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)) for name in ("mse", "mae")]
    sheet = arms(rows, scale=1)
    assert isinstance(sheet, Image)
    pixels, tall = np.asarray(sheet), 8 + GUTTER + CAPTION
    for r, row in enumerate(rows):
        for k in range(3):
            top, left = CAPTION + GUTTER + r * tall, GUTTER + k * (8 + GUTTER)
            np.testing.assert_array_equal(pixels[top : top + 8, left : left + 8], np.asarray(row.samples)[k])


def test_arms_of_points_share_their_axes() -> None:
    drawn = arms([ArmRow(name, np.random.default_rng(0).standard_normal((9, 2))) for name in "abcde"])
    assert isinstance(drawn, Figure)
    assert [axes.get_title("left") for axes in drawn.axes[:5]] == list("abcde")
    with pytest.raises(DataError, match="no arm"):
        arms([])
