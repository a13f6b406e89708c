"""The learning-rate curve, read back from its axes."""

import math

import numpy as np
import pytest

from sfumato.errors import DataError
from sfumato.experiment.doctor.rates import rates_between, read_curve, smoothed
from sfumato.figures.rates import learning_rates


def test_the_curve_shows_its_numbers() -> None:
    rates = rates_between(1e-6, 1.0, 40)
    losses = [1.0 - 0.02 * k for k in range(30)] + [0.6 + 0.5 * k for k in range(9)] + [math.inf]
    curve = read_curve(rates, losses, 1.0)
    axes = learning_rates(curve, 1e-3).axes[0]
    raw, smooth = axes.lines[:2]
    assert np.array_equal(raw.get_xdata(), rates)
    assert np.allclose(raw.get_ydata()[:39], losses[:39], rtol=0, atol=0)
    assert np.allclose(smooth.get_ydata()[:39], smoothed(losses)[:39], rtol=0, atol=0)
    assert axes.get_xscale() == "log"
    upright = [line.get_xdata()[0] for line in axes.lines[3:]]
    assert upright == [curve.recommended, curve.best, 1e-3]
    assert axes.lines[3].get_label() == f"recommended {curve.flag}"  # as the command says it


def test_nothing_to_draw_is_said() -> None:
    rates = rates_between(1e-6, 1.0, 10)
    with pytest.raises(DataError, match="no loss"):
        learning_rates(read_curve(rates[:1], [math.inf], 1.0))
