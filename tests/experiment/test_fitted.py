"""The optimal variance of a run: measured on its own data, kept with it, and refused where there are none."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sfumato
from sfumato.core import (
    CosineAngle,
    NoiseSource,
    OneLevel,
    Optimal,
    RectifiedFlow,
    Schedule,
    Small,
    Tabulated,
    Ve,
    fit_optimal,
)
from sfumato.data import Batches
from sfumato.errors import DataError, UsageError
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import sampling_with
from sfumato.experiment.fitted import CACHE, SEED, fitted, levels, measured
from sfumato.experiment.guiding import Guide
from sfumato.samplers import Ancestral, Ddim, PredictorCorrector


@pytest.fixture
def run(points_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to write into."""
    return Path(shutil.copytree(points_run, tmp_path / "run"))


def table_of(model: sfumato.Model, **changes: object) -> Optimal:
    config = model.settings(sampler=Ancestral(Optimal()), **changes)
    denoiser = model.weights[config.weights]
    sampler = fitted(model, denoiser, Guide(denoiser, model.record, config), config).sampler
    assert isinstance(sampler, Ancestral)
    assert isinstance(sampler.variance, Optimal)
    return sampler.variance


def test_it_samples_by_its_name(run: Path) -> None:
    """As the command line names it: the same samples as with the table handed in, others than with the small one."""
    model = sfumato.load(run)
    config = sampling_with(model.experiment.sampling, [("sampler", "ancestral"), ("sampler.variance", "optimal")])
    named = model.sample(20, config=config).values
    handed = model.sample(20, sampler=Ancestral(table_of(model))).values
    small = model.sample(20, sampler=Ancestral(Small())).values
    assert np.array_equal(named, handed)
    assert not np.allclose(named, small, atol=1e-3)


def test_the_table_is_the_error_on_the_training_data(run: Path) -> None:
    """Every training example of this small run, all levels; so measured again by hand it is the same numbers."""
    model = sfumato.load(run)
    data = prepare_data(model.experiment)
    train = data.parts.train
    batches = Batches(data.packed, train, data.record.normalization, seed=0, batch_size=1, flip=False, device="cpu")
    noise = NoiseSource.of(seed=SEED, count=len(train))
    by_hand = fit_optimal(model.denoiser, batches.take(train).x0, levels(model.denoiser.schedule), noise)
    found = table_of(model)
    assert found.log_snr == by_hand.log_snr
    assert len(found.mmse) == 10  # a chain of ten steps has ten levels
    np.testing.assert_allclose(found.mmse, by_hand.mmse, rtol=1e-12)


def test_the_table_is_kept_for_these_weights(run: Path) -> None:
    """Written once, read thereafter, one for each set of weights; made again when the file is damaged."""
    model = sfumato.load(run)
    first = table_of(model)
    kept = json.loads((run / CACHE).read_text())
    assert [entry["mmse"] for entry in kept.values()] == [list(first.mmse)]
    (key,) = kept
    kept[key]["mmse"][0] = 77.0
    (run / CACHE).write_text(json.dumps(kept))
    assert table_of(sfumato.load(run)).mmse[0] == 77.0  # read, not measured
    assert table_of(model, weights="live") != first
    assert len(json.loads((run / CACHE).read_text())) == 2
    empty = json.dumps({key: {"log_snr": [], "mmse": []}})
    for damage in ("", "[1]", "nonsense", json.dumps({key: {"log_snr": [0.0]}}), json.dumps({key: 3}), empty):
        (run / CACHE).write_text(damage)
        assert table_of(model) == first, damage


def test_a_folder_that_cannot_be_written_is_no_obstacle(run: Path) -> None:
    (run / CACHE).mkdir()
    assert table_of(sfumato.load(run)).is_fitted


def test_a_predictor_is_measured_too() -> None:
    table = Optimal((0.0,), (0.1,))
    asked = PredictorCorrector(Ancestral(Optimal()), corrections=2)
    assert measured(asked, lambda: table) == PredictorCorrector(Ancestral(table), corrections=2)
    for sampler in (Ddim(), Ancestral(Small()), Ancestral(table), PredictorCorrector(Ddim())):
        assert measured(sampler, lambda: pytest.fail("measured in vain")) is sampler


def test_paths_are_measured_as_samples_are(run: Path) -> None:
    model = sfumato.load(run)
    config = model.settings(sampler=Ancestral(Optimal()))
    end = model.path(4, config=config).states[-1]
    np.testing.assert_allclose(end, model.sample(4, config=config).values, rtol=1e-6)


def test_an_exported_file_says_that_it_has_no_data(run: Path, tmp_path: Path) -> None:
    exported = sfumato.load(sfumato.export(run, tmp_path / "model.safetensors"))
    with pytest.raises(UsageError, match=r"(?s)an exported file holds none.*sample from the run.*variance small"):
        exported.sample(2, sampler=Ancestral(Optimal()))
    assert len(exported.sample(2, sampler=Ancestral(Optimal((0.0,), (0.5,))))) == 2


def test_data_that_are_gone_or_others_are_refused(run: Path) -> None:
    model = sfumato.load(run)
    gone = replace(model, record=replace(model.record, fingerprint="0" * 64))
    with pytest.raises(DataError, match=r"(?s)which have changed since it was trained.*variance small"):
        gone.sample(2, sampler=Ancestral(Optimal()))
    data = replace(model.experiment.data, source="folder", path=str(run / "nowhere"))
    lost = replace(model, experiment=replace(model.experiment, data=data))
    with pytest.raises(DataError, match=r"(?s)measured on the data of the run: .*nowhere.*variance small"):
        lost.sample(2, sampler=Ancestral(Optimal()))


@pytest.mark.parametrize(
    "schedule", [CosineAngle(), Ve(), RectifiedFlow(), Tabulated(), Tabulated(steps=10), OneLevel(0.1)], ids=repr
)
def test_levels_span_the_schedule(schedule: Schedule) -> None:
    """Both ends, at most 32, decreasing; equally far apart in log-SNR, or on the grid of a table."""
    times = levels(schedule)
    assert times[0] == 1.0
    assert times[-1] == schedule.t_min
    assert times == sorted(set(times), reverse=True)
    assert len(times) <= 32
    if schedule.num_steps is not None:
        assert all(math.isclose(t * schedule.num_steps, round(t * schedule.num_steps), abs_tol=1e-9) for t in times)
    else:
        gaps = schedule.log_snr(torch.tensor(times, dtype=torch.float64)).diff()
        torch.testing.assert_close(gaps, gaps.mean().expand(31), rtol=1e-6, atol=0)


def test_a_run_that_samples_so_is_trained_all_the_same(points: dict[str, object], tmp_path: Path) -> None:
    """Its previews have nothing measured yet: they are left out, with the reason, and the run goes on to its end."""
    settings = {**points, "sampling.sampler": "ancestral", "sampling.sampler.variance": "optimal"}
    folder = sfumato.train("swiss-roll", {**settings, "training.preview_every": 3}, runs=tmp_path, name="run").folder
    assert not list((folder / "samples").glob("*.npz"))
    assert len(sfumato.load(folder).sample(3)) == 3
