"""The curve of widths, read back from its axes."""

from dataclasses import replace

import numpy as np
import pytest

from sfumato.experiment.widths import Scored, WidthCurve
from sfumato.figures import ema

WIDTHS = (0.02, 0.05, 0.08, 0.1, 0.2)


def scored(width: float, loss: float) -> Scored:
    return Scored(width, loss, 0.004, loss - 0.3445, 1e-4, 0.01)


CURVE = WidthCurve(
    run="a run",
    examples=180,
    noise_levels=8,
    step=600,
    ema_step=600,
    stored=(0.05, 0.1),
    missing=(0.01,),
    averages=tuple(scored(width, 0.344 + (width - 0.08) ** 2) for width in WIDTHS),
    ema=scored(0.09, 0.3445),
    live=scored(0.0, 0.345),
)


def test_the_curve_and_its_marks_are_the_numbers() -> None:
    (axes,) = ema(CURVE).axes
    lines = {line.get_label(): line for line in axes.lines}
    curve = lines["put together after training"]
    np.testing.assert_array_equal(curve.get_xdata(), WIDTHS)
    np.testing.assert_array_equal(curve.get_ydata(), [one.loss for one in CURVE.averages])
    assert list(lines["kept while training"].get_xdata()) == [0.05, 0.1]
    plain = lines["plain EMA, width 0.09"]
    assert (list(plain.get_xdata()), list(plain.get_ydata())) == ([0.09], [0.3445])
    assert "no average: 0.345" in lines
    (band,) = axes.collections
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(0.344 - 1e-4)  # the standard error of the difference, not of the loss
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("live", [None, scored(0.0, 9.0), scored(0.0, 0.345)])
@pytest.mark.parametrize("width", [0.001, 0.09, 0.5])
def test_what_lies_far_away_does_not_flatten_the_curve(live: Scored | None, width: float) -> None:
    (axes,) = ema(replace(CURVE, live=live, ema=scored(width, 0.3445))).axes
    low, high = axes.get_ylim()
    assert high - low < 0.1
    assert axes.get_xlim()[0] > 0.01
    assert axes.get_xlim()[1] < 0.3


def test_one_average_alone_can_be_drawn() -> None:
    (axes,) = ema(replace(CURVE, averages=CURVE.averages[1:2])).axes
    assert axes.get_xlim()[0] < 0.05 < axes.get_xlim()[1]
