"""Effects of sweeps that were really trained: what is read off their folders, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.errors import UsageError
from sfumato.experiment.effects import effects, level_curves
from sfumato.experiment.sweep import Sweep, sweep, table_of
from sfumato.experiment.sweep.axes import axes_of
from sfumato.experiment.sweep.opening import Wish, open_sweep
from sfumato.experiment.sweep.table import crosses_losses


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


def test_axes_along_which_losses_are_one_quantity(points: dict[str, Any], tmp_path: Path) -> None:
    """How pictures are turned in training moves the loss and is no other loss; how many levels it is a mean of is."""
    axes = {
        "data.cache": ["auto", "off"],
        "data.flip": ["false", "true"],
        "evaluation.noise_levels": ["2", "3"],
        "evaluation.count": ["4", "5"],
        "schedule.steps+times.steps+time_input.steps": ["10", "12"],
        "network.widths": ["[16,16]", "[8,8]"],
    }
    wish = Wish("swiss-roll", axes_of(axes), points, runs=tmp_path, name="many")
    crossed = ["evaluation.noise_levels", "schedule.steps+times.steps+time_input.steps"]
    assert crosses_losses(open_sweep(wish, lambda text: None)) == crossed


def test_effects_are_of_the_weights_that_the_table_shows(points: dict[str, Any], tmp_path: Path) -> None:
    """An arm that was trained on by hand has numbers of two steps: those of its last one are told by both."""
    axes = {"training.learning_rate": ["0.001", "0.01"]}
    found = sweep("swiss-roll", axes, overrides=points, launcher="inline", runs=tmp_path, name="longer", forecast=False)
    for k, arm in enumerate(found.arms):
        sfumato.resume(arm.folder, {"training.steps": 9})
        folder = arm.folder / "evaluations"
        folder.mkdir(exist_ok=True)
        for step in (6, 9):
            facts = {"weights": "ema", "steps_trained": step}
            number = {"value": step + 0.25 * k, "std_error": 0.1, "n": 6, "provenance": facts}
            document = {"run": arm.name, "metrics": {"energy_distance": number}}
            (folder / f"{step}.json").write_text(json.dumps(document))
    assert [row.figures["energy_distance"].value for row in table_of(found).rows] == [9.0, 9.25]
    (effect,) = effects(found, "energy_distance").effects
    assert (effect.base, effect.value) == (9.0, 0.25)
