"""Trained models: one that was overfitted on 64 pictures is caught, one of 60,000 digits is not.

The second needs the folder named by SFUMATO_TEST_DATA, with MNIST in `mnist.npz`, and half an hour on two cores.
"""

import os
from pathlib import Path

import pytest

import sfumato

OVERFITTED = {
    "data.limit": 128,
    "data.held_out": 0.5,
    "network.depth": 1,
    "training.steps": 5000,
    "training.preview_every": 0,
    "training.evaluate_every": 0,
    "training.copies_every": 500,
    "sampling.steps": 50,
}


def mnist() -> Path:
    file = Path(os.environ.get("SFUMATO_TEST_DATA", "")) / "mnist.npz"
    if not os.environ.get("SFUMATO_TEST_DATA") or not file.is_file():
        pytest.skip("SFUMATO_TEST_DATA names no folder with mnist.npz")
    return file


class Heard:
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, progress: object) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_a_model_overfitted_on_64_pictures_is_caught(tmp_path: Path) -> None:
    """95 % or more of its samples, and the alarm rings on the way; its training loss is that of knowing by heart."""
    heard = Heard()
    run = sfumato.train("digits", OVERFITTED, runs=tmp_path, reporter=heard)
    found = sfumato.evaluate(run, "memorisation,loss_by_log_snr", n=500)
    share, floor = (found.metrics[f"memorisation[pixels]{end}"] for end in ("", "[floor]"))
    assert share.value >= 0.95
    assert floor.value <= 0.005
    assert any(text.startswith("copies: after step") for text in heard.notes)
    gap = found.metrics["loss_by_log_snr[0..2][gap]"]
    assert gap.value > 10 * gap.std_error


@pytest.mark.proof
@pytest.mark.timeout(3 * 3600)
def test_a_good_model_of_60000_digits_is_cleared(tmp_path: Path) -> None:
    """At most 1 % of its samples, which are digits of the class asked for, as the judge sees them."""
    settings = {"data.path": str(mnist()), "training.preview_every": 0, "training.evaluate_every": 0}
    run = sfumato.train("mnist-conditional-small", settings, runs=tmp_path)
    found = sfumato.evaluate(run, "label_agreement,memorisation", n=1000).metrics
    assert found["label_agreement"].value > 0.93
    assert found["memorisation[pixels]"].value <= 0.01
    assert found["memorisation[judge]"].value <= 0.01
    lean = found["memorisation[pixels][leaning]"]
    assert abs(lean.value) < 4 * lean.std_error
