"""A sweep of a recipe of pictures, in this process: convolutions, mirrored data, previews, metrics of pictures."""

from pathlib import Path

import sfumato
from sfumato.experiment.sweep import sweep, table_of

TINY = {
    "data.limit": 40,
    "network.widths": (8, 16),
    "network.depth": 1,
    "network.embedding": 8,
    "training.steps": 2,
    "training.batch_size": 8,
    "training.warmup_steps": 1,
    "training.evaluate_every": 2,
    "training.checkpoint_every": 2,
    "training.preview_every": 2,
    "training.preview_count": 4,
    "training.device": "cpu",
    "training.precision": "float32",
    "training.compile": "off",
    "sampling.steps": 2,
    "evaluation.count": 8,
}


def test_arms_of_pictures_are_trained_measured_and_told(tmp_path: Path) -> None:
    """Two schedules, two widths; a plain run of an arm's settings has the same weights, bit for bit."""
    axes = {"schedule": ["CosineAngle", "VpSde"], "network.widths": [(8, 16), (8, 24)]}
    found = sweep(
        "digits", axes, overrides=TINY, metrics="noise_error", n=8, launcher="inline", runs=tmp_path, forecast=False
    )
    assert [arm.name for arm in found.arms] == [
        "cosineangle-widths-8-16-s0", "cosineangle-widths-8-24-s0", "vpsde-widths-8-16-s0", "vpsde-widths-8-24-s0",
    ]  # fmt: skip
    assert [found.state(arm) for arm in found.arms] == ["done"] * 4
    told = table_of(found)
    assert all({"held_out_loss"} < {*row.figures} for row in told.rows)
    assert any("never rank them" in note for note in told.notes)
    assert len({row.figures["held_out_loss"].value for row in told.rows}) == 4
    arm = found.arms[3]
    assert list((arm.folder / "samples").iterdir())
    alone = sfumato.train(arm.folder / "config.yaml", runs=tmp_path, name="alone")
    assert sfumato.load(alone.folder).digest == sfumato.load(arm.folder).digest
