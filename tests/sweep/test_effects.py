"""Effects of sweeps that were really trained: what is read off their folders, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import UsageError
from sfumato.experiment.effects import effects, level_curves
from sfumato.experiment.sweep import Sweep, sweep, table_of


def test_losses_of_other_targets_are_refused(whole: Sweep) -> None:
    """Both axes of it change what a loss is a loss of."""
    with pytest.raises(UsageError, match="no effect can be told") as caught:
        effects(whole)
    assert "the same loss" in caught.value.expected
    with pytest.raises(UsageError, match="by noise level"):
        level_curves(whole)


def test_effects_of_a_rate(points: dict[str, Any], tmp_path: Path) -> None:
    """The effect is the difference of the means over the seeds that the table tells; curves are of the same numbers."""
    axes = {"training.learning_rate": ["0.001", "0.01"]}
    found = sweep(
        "swiss-roll",
        axes,
        seeds=2,
        overrides=points,
        metrics="energy_distance,loss_by_log_snr",
        n=6,
        launcher="inline",
        runs=tmp_path,
        name="rates",
        forecast=False,
    )
    means = table_of(found).means
    for name in ("held_out_loss", "energy_distance"):
        (effect,) = effects(found, name).of(effects(found, name).metrics[0])
        first, second = (mean.figures[effect.metric].value for mean in means)
        assert effect.value == pytest.approx(second - first)
        assert (effect.pairs, effect.seeds, effect.repeats) == (1, 2, "seeds")
    for of in ("noise", "image"):
        curves = level_curves(found, of).curves  # type: ignore[arg-type]
        assert [curve.settings["training.learning_rate"] for curve in curves] == ["0.001", "0.01"]
        for low, high in zip(curves[0].points, curves[0].points[1:], strict=False):
            assert low.high <= high.low + 1e-6
