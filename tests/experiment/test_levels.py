"""The loss by noise level against closed forms, and the posterior mean of the training part, its bound."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.cli import main as cli
from sfumato.condition import Condition
from sfumato.core import (
    Denoiser,
    Image,
    LogSnrInput,
    LogSnrLinear,
    Noise,
    OneLevel,
    Parameterization,
    Schedule,
    Tabulated,
    VpSde,
)
from sfumato.data import DataConfig
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import Experiment, SamplingConfig
from sfumato.experiment.evaluation import METRICS, evaluate
from sfumato.experiment.evaluation.levels import bins_of, losses_by_level
from sfumato.experiment.evaluation.subject import subject_of
from sfumato.experiment.model import Model
from sfumato.figures import levels
from sfumato.nn import ResidualUNetConfig

DATA = DataConfig(source="digits", limit=300, held_out=0.4)


class Nothing(nn.Module):
    """Says 0."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        return torch.zeros_like(x)


class Recall(nn.Module):
    """E[x_0 | x_t] where x_0 is one of the training pictures, each as likely."""

    def __init__(self, x0: Tensor, data_std: float) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.x0, self.data_std = x0.flatten(1).double(), data_std

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        log_snr = -8 * time[:, None].double()
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        x_t = x.flatten(1) * (alpha**2 * self.data_std**2 + sigma**2).sqrt()
        squared = (x_t[:, None] - alpha[:, :, None] * self.x0).square().sum(2)
        return ((-squared / (2 * sigma**2)).softmax(1) @ self.x0).float().view_as(x)


def model_of(
    network: nn.Module | None = None,
    parameterization: Parameterization | None = None,
    schedule: Schedule | None = None,
    **data: Any,
) -> Model:
    """A model of digits with this network; None: the one that knows the training part by heart."""
    experiment = Experiment(
        name="levels",
        data=DataConfig(**{**{"source": "digits", "limit": 300, "held_out": 0.4}, **data}),
        network=ResidualUNetConfig(widths=(8,), depth=1, embedding=8),  # not used
        schedule=LogSnrLinear(log_snr_min=-9, log_snr_max=7) if schedule is None else schedule,
        parameterization=Image() if parameterization is None else parameterization,
        time_input=LogSnrInput(),
        sampling=SamplingConfig(steps=10),
    )
    prepared = prepare_data(experiment)
    x0 = prepared.record.normalization.to_model(prepared.packed.values[prepared.parts.train])
    denoiser = Denoiser(
        Recall(x0, prepared.record.data_std) if network is None else network,
        experiment.schedule,
        experiment.parameterization,
        time_input=experiment.time_input,
        data_std=prepared.record.data_std,
    )
    return Model(experiment, prepared.record, {"ema": denoiser.requires_grad_(False).eval()}, "0" * 64, 0)


def powers(model: Model) -> dict[str, float]:
    """E x_0² per value of each part, in model space."""
    data = prepare_data(model.experiment)
    to_model = data.record.normalization.to_model
    sides = {"held-out": data.parts.held_out, "training": data.parts.train}
    return {name: float(to_model(data.packed.values[side]).double().square().mean()) for name, side in sides.items()}


# ---------------------------------------------------------------------------------------------------------------- bins


@pytest.mark.parametrize("schedule", [LogSnrLinear(), LogSnrLinear(log_snr_min=-9, log_snr_max=7), VpSde()], ids=repr)
def test_bins_cover_the_span_once(schedule: Schedule) -> None:
    found = bins_of(schedule)
    ends = schedule.log_snr(torch.tensor([1.0, schedule.t_min], dtype=torch.float64))
    assert (found[0].low, found[-1].high) == pytest.approx((float(ends[0]), float(ends[1])), abs=1e-5)
    for one, after in pairwise(found):
        assert one.high == after.low
        assert one.high % 2 == 0
    assert all(0.01 < one.high - one.low <= 2 for one in found)
    assert found[0].name == f"{2 * math.floor(found[0].low / 2 + 1e-6)}..{2 * math.floor(found[0].low / 2 + 1e-6) + 2}"


def test_times_are_uniform_in_log_snr() -> None:
    schedule = VpSde()
    u = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    for one in bins_of(schedule):
        expected = one.low + (one.high - one.low) * u
        # times of a schedule are accurate to some 1e-12 of their span
        torch.testing.assert_close(schedule.log_snr(one.times(schedule, u)), expected, rtol=0, atol=1e-6)


def test_every_step_of_a_table_is_in_one_bin() -> None:
    schedule = Tabulated(steps=200)
    found, log_snr = bins_of(schedule), schedule.log_snr(torch.arange(1, 201, dtype=torch.float64) / 200)
    assert sorted(step for one in found for step in one.steps or ()) == list(range(1, 201))
    for one in found:
        assert one.steps is not None
        low, high = (float(edge) for edge in one.name.split(".."))
        assert all(low - 1e-5 <= float(log_snr[step - 1]) <= high + 1e-5 for step in one.steps)
        seen = one.times(schedule, torch.linspace(0, 0.9999, 500, dtype=torch.float64)) * 200
        assert sorted({round(float(step)) for step in seen}) == sorted(one.steps)
    (single,) = bins_of(OneLevel(noise_level=0.1))
    assert single.steps == (1,)
    assert single.name == "4..6"  # -2 ln 0.1 = 4.6


# -------------------------------------------------------------------------------------------------------------- losses


def test_a_model_that_guesses_zero() -> None:
    """x0_hat = 0: (alpha/sigma)² E x_0² at each level, whose mean over a bin is (e^b - e^a)/(b - a) E x_0²."""
    model = model_of(Nothing())
    found = evaluate(model, "loss_by_log_snr").metrics
    for one in bins_of(model.denoiser.schedule):
        mean = (math.exp(one.high) - math.exp(one.low)) / (one.high - one.low)
        for part, power in powers(model).items():
            estimate = found[f"loss_by_log_snr[{one.name}][{part}]"]
            # 240 draws of pictures whose power differs by a fifth, and for training two thirds of the pictures
            assert estimate.value == pytest.approx(mean * power, rel=0.04), (one.name, part)
            assert estimate.n == 120
            assert estimate.provenance["unit"] == "noise variance"
        image = found[f"loss_by_log_snr[{one.name}][image]"]
        assert image.value == pytest.approx(powers(model)["held-out"], rel=0.04), one.name  # E x_0² at every level
        assert image.provenance["unit"] == "model units"


def test_a_model_that_says_no_noise_has_loss_one() -> None:
    """eps_hat = 0: E eps² = 1 at every level, on both parts; the gap is nothing."""
    found = evaluate(model_of(Nothing(), Noise()), "loss_by_log_snr").metrics
    for name, estimate in found.items():
        expected = 0.0 if name.endswith("[gap]") else 1.0
        if not name.endswith(("[attainable]", "[image]")):
            assert abs(estimate.value - expected) < 4.5 * estimate.std_error, name  # 27 of them
            assert estimate.std_error < 0.03


def test_what_is_known_by_heart_shows() -> None:
    """The posterior mean of the training part has the attainable loss there, and more on pictures held out.

    Attainable and training are two estimates of one number: the paths are entirely different ones.
    """
    notes: list[str] = []
    model = model_of()
    subject = subject_of(model, weights="ema", part="held-out", n=None, seed=0, report=notes.append)
    found = losses_by_level(subject, notes.append)
    for one in found:
        assert one.attainable is not None
        assert one.held_out is not None
        assert one.gap is not None
        room = 4 * math.hypot(one.training.std_error, one.attainable.std_error)
        assert abs(one.training.value - one.attainable.value) < room + 1e-4, one.span.name
        assert one.gap.value == one.held_out.value - one.training.value
        assert one.gap.std_error == pytest.approx(math.hypot(one.held_out.std_error, one.training.std_error))
    middle = {one.span.name: one for one in found}["0..2"]
    assert middle.gap is not None
    assert middle.gap.value > 10 * middle.gap.std_error
    (said,) = [text for text in notes if "known best" in text]
    assert re.search(r"\b(9[5-9]|10[0-5])% of the way", said), said
    figure = levels(found)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["training"].get_xdata()) == [(one.span.low + one.span.high) / 2 for one in found]
    floor = 1e-3 * max(one.training.value for one in found)
    np.testing.assert_allclose(lines["training"].get_ydata(), [max(one.training.value, floor) for one in found])
    assert {"held out", "training", "known by heart"} <= set(lines)


def test_a_model_that_knows_nothing_by_heart_is_said_not_to() -> None:
    notes = evaluate(model_of(Nothing(), Noise()), "loss_by_log_snr").notes
    assert any("nothing learned by heart shows" in text for text in notes)


def test_it_is_a_function_of_the_seed() -> None:
    model = model_of(Nothing(), Noise())
    first, again, other = (evaluate(model, "loss_by_log_snr", n=40, seed=seed).to_plain() for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert "loss_by_log_snr" in METRICS


def test_without_a_held_out_part_there_is_no_gap() -> None:
    found = evaluate(model_of(Nothing(), Noise(), held_out=0.0), "loss_by_log_snr", part="training", n=40).metrics
    assert {name.rsplit("[", 1)[1] for name in found} == {"training]", "attainable]"}


def test_what_is_slow_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.experiment.evaluation.levels.SLOW", 0.0)
    said: list[str] = []
    evaluate(model_of(Nothing(), Noise()), "loss_by_log_snr", n=40, report=said.append)
    (text,) = said
    assert text.startswith("loss by noise level: ")
    assert f"{2 * 40 * 2 * 8:,} network calls" in text  # two parts, two draws each, eight of nine bins to go


def test_on_the_command_line(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["run", "--runs", str(digits_run.parent), "-n", "6", "--json"]
    assert cli.main(["evaluate", *common, "--metrics", "loss_by_log_snr"]) == 0
    measured = json.loads(capsys.readouterr().out)["metrics"]
    target = tmp_path / "levels.svg"
    assert cli.main(["figures", "levels", *common, "--out", str(target)]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == measured
    assert target.stat().st_size > 1000
