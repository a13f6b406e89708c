"""The pre-flight doctor: what training would refuse, what it would take, and settings that it does take."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.core import VpSde
from sfumato.data import DataConfig, load_data
from sfumato.data.survey import Size, Survey
from sfumato.errors import ConfigError, DataError, SfumatoError, UsageError
from sfumato.experiment.advice import fitting_size, good_network, good_steps
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.inspection import Inspection, examined, inspect
from sfumato.experiment.packing import pack_data


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def save(path: Path, shape: tuple[int, ...], seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def look(path: Path, **settings: Any) -> Inspection:
    return inspect(examined(str(path), {"data.size": None, **settings}))


def problems(found: Inspection) -> list[str]:
    return [finding.what for finding in found.findings if finding.level == "problem"]


def said(found: Inspection, text: str) -> list[str]:
    return [finding.level for finding in found.findings if text in finding.what]


def refused_by_training(path: Path) -> str:
    with pytest.raises(SfumatoError) as caught:
        load_data(DataConfig(path=str(path)), seed=0)
    return caught.value.what


def test_a_good_folder_is_ready_and_its_advice_is_taken(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", (16, 16, 3), i)
    found = look(tmp_path)
    assert found.ready
    assert problems(found) == []
    assert found.advice is not None
    experiment = load_experiment(Experiment(), found.advice.settings)
    data = prepare_data(experiment)
    assert data.record.shape == (3, 16, 16)
    assert (experiment.training.batch_size, experiment.training.steps) == (8, 3000)
    assert found.advice.parameters == sum(p.numel() for p in network_of(experiment).parameters())
    (tmp_path / "mine.yaml").write_text(found.advice.yaml())
    assert load_experiment(str(tmp_path / "mine.yaml")) == experiment


def network_of(experiment: Experiment) -> Any:
    from sfumato.experiment.build import build_network, resolved

    fitted = resolved(experiment, shape=(3, 16, 16), is_image=True)
    return build_network(fitted, (3, 16, 16))


def test_mixed_sizes_are_a_problem_that_names_what_training_says(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"{i}.png", (40 + i, 50, 3), i)
    found = look(tmp_path)
    (problem,) = problems(found)
    assert "10 different sizes" in problem
    assert "10 different sizes" in refused_by_training(tmp_path)
    assert not found.ready
    assert found.packed.shape == (3, 32, 32)  # nine of ten reach 32 pixels, none 64
    assert found.advice is not None
    assert found.advice.settings["data"]["size"] == 32
    assert look(tmp_path, **{"data.size": 24}).ready
    assert load_data(load_experiment(Experiment(), found.advice.settings).data, seed=0).shape == (3, 32, 32)


def test_an_archive_is_looked_over_as_its_folder(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / "in" / "ab"[i % 2] / f"{i}.png", (20 + i, 30, 3), i)
    (tmp_path / "in" / "a" / "text.png").write_text("text")
    shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "in")
    folder, archive = look(tmp_path / "in"), look(tmp_path / "x.zip")
    assert archive.facts.document() == folder.facts.document()
    assert archive.survey == folder.survey
    assert len(problems(archive)) == len(problems(folder)) == 2


def test_grey_among_colour_is_a_problem(tmp_path: Path) -> None:
    save(tmp_path / "a.png", (8, 8, 3))
    save(tmp_path / "b.png", (8, 8))
    found = look(tmp_path)
    (problem,) = problems(found)
    assert "1 grey and 1 colour pictures" in problem
    assert "1 grey and 1 colour pictures" in refused_by_training(tmp_path)
    assert found.advice is not None
    assert found.advice.settings["data"]["channels"] == 3
    assert look(tmp_path, **{"data.channels": 1}).ready


def test_bad_files_are_a_problem_whether_the_header_tells_or_not(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.png", (32, 32, 3), i)
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])  # a sound header
    assert "cut.png" in "".join(problems(look(tmp_path)))
    (tmp_path / "text.jpg").write_text("text")
    found = look(tmp_path)
    (problem,) = problems(found)
    assert "2 files cannot be used" in problem
    assert "cut.png" in problem
    assert "text.jpg: not a JPEG" in problem
    assert found.facts.count == 4
    assert found.advice is not None
    assert found.advice.settings["data"]["bad_files"] == "skip"
    assert look(tmp_path, **{"data.bad_files": "skip"}).ready


def test_everything_wrong_at_once_is_found_in_one_look(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / f"{i}.png", (8 + i, 8, 3) if i % 2 else (9, 8), i)
    (tmp_path / "empty.gif").touch()
    found = look(tmp_path)
    assert len(problems(found)) == 3
    assert found.facts.count == 6


def test_what_cannot_be_read_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        look(tmp_path / "absent")
    with pytest.raises(DataError, match="the folder is empty"):
        look(tmp_path)
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(DataError, match="1 of 1 picture cannot be used"):
        look(tmp_path)
    np.savez(tmp_path / "bad.npz", images=np.full((3, 4, 4), np.nan))
    with pytest.raises(DataError, match="NaN"):
        look(tmp_path / "bad.npz")
    with pytest.raises(ConfigError, match=r"data\.sizes: unknown key"):
        examined(str(tmp_path), {"data.sizes": 4})


def test_arrays_that_need_a_setting_are_read_without_it_being_given(tmp_path: Path) -> None:
    """Nothing but what training says is lost when a reading has to be forced."""
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).integers(0, 4096, (4, 8, 8), dtype=np.int32))
    with pytest.raises(DataError, match="which values are black and white"):
        look(tmp_path / "x.npz")
    assert look(tmp_path / "x.npz", **{"data.value_range": [0, 4095]}).ready


def test_names_mean_sets_unless_a_file_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert examined("digits").data.source == "digits"
    save(tmp_path / "digits" / "a.png", (8, 8))
    assert examined("digits").data.path == "digits"
    asked = examined("moons", {"data.count": 50, "schedule": "VpSde", "seed": 3})
    assert (asked.data.count, asked.schedule, asked.seed) == (50, VpSde(), 3)
    assert examined("x.npz", recipe="oxford-flowers-small").data.normalize == "standardize"


def test_a_schedule_that_leaves_the_data_is_a_problem() -> None:
    found = inspect(examined("digits", {"schedule.min_signal_rate": 0.3, "data.limit": 200}))
    assert len(problems(found)) == 1
    assert "at t = 1" in problems(found)[0]
    assert inspect(examined("digits", {"data.limit": 200})).ready


def test_copies_across_the_split_and_rare_classes_are_warned_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 8, 8), dtype=np.uint8)
    images[100:] = images[:100]
    labels = np.zeros(200, np.int64)
    labels[:3] = 5
    names = np.array(["many", "b", "c", "d", "e", "few"])
    np.savez(tmp_path / "x.npz", images=images, labels=labels, class_names=names)
    found = look(tmp_path / "x.npz")
    assert found.ready
    assert said(found, "held-out figures flatter") == ["warning"]
    assert said(found, "100 examples repeat an earlier one") == ["warning"]
    assert said(found, "of equal examples with different labels") == ["warning"]
    assert said(found, "no training example of") == ["warning"]
    assert said(found, "labels run from 0 to 5 and leave out 1, 2, 3, 4") == ["note"]
    assert said(found, "fewer than 50 training examples of few") == ["note"]
    assert said(found, "times the examples of the smallest") == ["note"]
    places = [i % 100 for i in found.parts.held_out.tolist()]
    assert found.facts.leakage.exact == sum(places.count(place) == 1 for place in places) > 0


def test_constant_data_are_a_problem_and_not_a_crash(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.full((5, 8, 8), 9, np.uint8))
    found = look(tmp_path / "x.npz")
    assert any("every value of the training data is the same" in p for p in problems(found))
    assert found.advice is None
    assert found.document()["schedule"] is None


@pytest.mark.parametrize(
    ("values", "network"),
    [((40, 2), "FourierMlp"), ((40, 7), "FourierMlp"), ((40, 2, 32), "UNet1d")],
    ids=str,
)
def test_points_vectors_and_sequences_get_settings_too(values: tuple[int, ...], network: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", values=np.random.default_rng(0).normal(0, 9, values).astype(np.float32))
    found = look(tmp_path / "x.npz", **{"data.normalize": "none"})
    assert found.advice is not None
    assert type(found.advice.experiment.network).__name__ == f"{network}Config"
    assert prepare_data(load_experiment(Experiment(), found.advice.settings)).record.shape == values[1:]


def test_a_field_of_four_dimensions_is_looked_at_without_advice(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", values=np.random.default_rng(0).normal(0, 1, (5, 2, 3, 3, 3)).astype(np.float32))
    found = look(tmp_path / "x.npz")
    assert found.advice is None
    assert len(found.facts.channels) == 2


def made(*sizes: tuple[int, int, int]) -> Survey:
    return Survey(0, 0, 0, (), (), tuple(Size(*s) for s in sizes), 0, 0, 0, 0, 0, (), (), 0, 0)


@pytest.mark.parametrize(
    ("sizes", "gpu", "wanted"),
    [
        ([(28, 28, 9)], False, None),
        ([(64, 64, 9)], False, None),
        ([(128, 128, 9)], False, (64, 64)),
        ([(128, 128, 9)], True, None),
        ([(500, 600, 5), (700, 500, 5)], False, (64, 64)),
        ([(500, 600, 5), (700, 500, 5)], True, (128, 128)),
        ([(218, 178, 9)], False, (80, 64)),
        ([(178, 218, 9), (179, 218, 1)], True, (128, 160)),
        ([(500, 600, 8), (20, 30, 2)], False, (16, 16)),
        ([(5, 5, 5), (6, 7, 5)], False, (8, 8)),
        ([(64, 600, 5), (64, 601, 5)], False, (64, 64)),  # a panorama is cropped
    ],
    ids=str,
)
def test_the_recommended_size(sizes: list[tuple[int, int, int]], gpu: bool, wanted: tuple[int, int] | None) -> None:
    """By the rule at the head of the module, worked out by hand."""
    assert fitting_size(made(*sizes), (3, 0, 0), gpu=gpu) == wanted


def test_the_recommended_steps_and_network() -> None:
    assert good_steps(100, 64, gpu=False) == 3000
    assert good_steps(3120, 64, gpu=False) == 9800  # 200 · 3120/64 = 9750
    assert good_steps(60_000, 64, gpu=False) == 20_000
    assert good_steps(100, 64, gpu=True) == 10_000
    assert [good_network(n, gpu) for n, gpu in ((10**6, False), (100, True), (20_000, True))] == [
        "Tiny",
        "Small",
        "Base",
    ]


def test_odd_sides_are_padded_and_grey_stored_in_colour_is_seen(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (30, 27, 26, 1), dtype=np.uint8).repeat(3, axis=3)
    np.savez(tmp_path / "x.npz", images=grey)
    found = look(tmp_path / "x.npz")
    assert found.advice is not None
    assert found.advice.settings["data"]["pad"] == 28
    assert found.advice.settings["data"]["channels"] == 1
    assert prepare_data(load_experiment(Experiment(), found.advice.settings)).record.shape == (1, 28, 28)


def test_packing_keeps_the_data(tmp_path: Path, untouched_source: Callable[[], None]) -> None:
    """The packed form of a folder is the folder: fingerprint, classes, notes, names, split."""
    for i in range(6):
        save(tmp_path / "in" / "ab"[i % 2] / f"{i}.png", (9, 12, 3), i)
    untouched_source()
    config = DataConfig(path=str(tmp_path / "in"), size=8)
    made = pack_data(config, tmp_path / "out" / "x.safetensors")
    direct, packed = (load_data(DataConfig(path=str(p), size=8), seed=0) for p in (tmp_path / "in", made.path))
    assert direct.fingerprint == packed.fingerprint == made.packed.fingerprint
    assert (direct.class_names, direct.report, direct.names) == (packed.class_names, packed.report, packed.names)
    assert made.bytes == made.path.stat().st_size
    with pytest.raises(UsageError, match="exists already"):
        pack_data(config, made.path)
    pack_data(config, made.path, force=True)
    with pytest.raises(UsageError, match="--out is"):
        pack_data(config, tmp_path / "x.npz")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x.safetensors"]


@pytest.fixture
def untouched_source(tmp_path: Path) -> Any:
    """Call it once the inputs are written; at the end of the test they must be as they were."""
    before: dict[Path, bytes] = {}
    yield lambda: before.update({p: p.read_bytes() for p in (tmp_path / "in").rglob("*.png")})
    assert before
    assert before == {p: p.read_bytes() for p in (tmp_path / "in").rglob("*.png")}


def test_a_packed_file_that_the_disk_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, path: Path, chunks: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sfumato.training.storage.LocalStorage.write", full)
    with pytest.raises(SfumatoError) as caught:
        pack_data(DataConfig(source="digits", limit=5), tmp_path / "x.safetensors")
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_packing_refuses_what_training_refuses(tmp_path: Path) -> None:
    save(tmp_path / "a.png", (8, 8, 3))
    save(tmp_path / "b.png", (8, 9, 3))
    with pytest.raises(DataError, match="2 different sizes"):
        pack_data(DataConfig(path=str(tmp_path)), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
