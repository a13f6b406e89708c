"""Anybody's samples: files against files, folders, sets by name and the data of runs."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

import sfumato
from sfumato.data import DataConfig, load_data, split
from sfumato.errors import DataError, UsageError
from sfumato.experiment.compare import Side, compare_sides
from sfumato.experiment.evaluation import evaluate_samples
from sfumato.experiment.evaluations import evaluation_of
from sfumato.metrics import judge as judging


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(judging, "MOST_EPOCHS", 5)


@pytest.fixture(scope="module")
def digits() -> dict[str, np.ndarray]:
    packed = load_data(DataConfig(source="digits", limit=900), seed=0)
    assert packed.labels is not None
    return {"images": packed.values.numpy(), "labels": packed.labels.numpy()}


@pytest.fixture
def files(tmp_path: Path, digits: dict[str, np.ndarray]) -> dict[str, str]:
    """Real digits as samples, noise as samples, other real digits as a reference, with and without a test part."""
    images, labels = digits["images"], digits["labels"]
    noise = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 1), dtype=np.uint8)
    made: dict[str, dict[str, Any]] = {
        "good": {"images": images[0::3]},
        "noise": {"images": noise},
        "data": {"images": images[1::3], "labels": labels[1::3]},
        "parts": {"x_train": images[1::3], "x_test": images[2::3]},
        "large": {"images": images[1::3].repeat(2, 1).repeat(2, 2)},
        "points": {"values": np.random.default_rng(1).standard_normal((200, 2)).astype(np.float32)},
        "moved": {"values": 1 + np.random.default_rng(2).standard_normal((180, 2)).astype(np.float32)},
    }
    for name, arrays in made.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    return {name: str(tmp_path / f"{name}.npz") for name in made}


ALL = "kid,fid,precision,recall,density,coverage"


def test_real_samples_are_at_0_and_noise_is_not(files: dict[str, str]) -> None:
    """Without a test part a third of the reference is kept aside, and the floor is that third against the rest."""
    good, bad = (evaluate_samples(files[name], files["data"], ALL, extractor="pixels") for name in ("good", "noise"))
    kid, floor = good.metrics["kid[pixels]"], good.metrics["kid[pixels][floor]"]
    assert kid.n == 300
    assert (kid.provenance["n_reference"], floor.n) == (200, 100)
    assert abs(kid.value) < 4 * kid.std_error
    assert abs(floor.value) < 4 * floor.std_error
    assert bad.metrics["kid[pixels]"].value > 20 * kid.std_error
    assert bad.metrics["precision[pixels]"].value < 0.1 < 0.6 < good.metrics["precision[pixels]"].value
    assert any("100 of the 300 reference examples are kept aside" in note for note in good.notes)
    assert {"samples", "samples_digest", "reference", "reference_digest", "extractor"} <= set(kid.provenance)


def test_a_test_part_is_the_reference_and_the_rest_the_floor(files: dict[str, str]) -> None:
    held_out, training, everything = (
        evaluate_samples(files["good"], files["parts"], "kid", part=part).metrics  # type: ignore[arg-type]
        for part in ("held-out", "training", "all")
    )
    assert held_out["kid[pixels]"].provenance["n_reference"] == 300
    assert held_out["kid[pixels][floor]"].n == 300
    assert held_out["kid[pixels]"].value != training["kid[pixels]"].value
    assert everything["kid[pixels]"].provenance["n_reference"] == 600
    assert "kid[pixels][floor]" not in everything


def test_the_usual_extractor_is_that_of_the_reference(files: dict[str, str]) -> None:
    """Its labels make a judge; without labels pixels are compared. class_balance goes by the same judge."""
    found = evaluate_samples(files["good"], files["data"], "kid,class_balance", n=100)
    assert {"kid[judge]", "class_balance", "class_balance[floor]"} <= set(found.metrics)
    assert any("no class_balance[corrected]: the judge was measured on fewer" in note for note in found.notes)  # on 30
    assert found.metrics["kid[judge]"].n == 100
    assert "kid[pixels]" in evaluate_samples(files["data"], files["good"]).metrics


def test_the_judges_errors_are_turned_back(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """180 digits are held out from the judge of all: class balance with its errors in it, beside its own floor."""
    monkeypatch.setattr(judging, "MOST_EPOCHS", 15)  # five leave a judge that is refused
    packed = load_data(DataConfig(source="digits"), seed=0)
    assert packed.labels is not None
    np.savez(files["data"], images=packed.values.numpy(), labels=packed.labels.numpy())
    found = evaluate_samples(files["good"], files["data"], "class_balance", part="all").metrics
    corrected, floor = found["class_balance[corrected]"], found["class_balance[corrected][floor]"]
    assert corrected.provenance["judge_confusion_n"] == 180
    assert corrected.provenance["samples"] == files["good"]
    assert floor.provenance["reference"] == corrected.provenance["reference"]
    assert floor.value > found["class_balance[floor]"].value
    assert corrected.value < floor.value + 4 * float(floor.provenance["spread"])  # type: ignore[arg-type]


def test_a_folder_of_pictures(files: dict[str, str], digits: dict[str, np.ndarray], tmp_path: Path) -> None:
    """PNGs give what the array gives."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    for index, image in enumerate(digits["images"][0::3][:40]):
        Picture.fromarray(image[:, :, 0]).save(folder / f"{index:06d}.png")
    np.savez(tmp_path / "same.npz", images=digits["images"][0::3][:40])
    by_folder, by_array = (
        evaluate_samples(path, files["data"], "kid", extractor="pixels").metrics["kid[pixels]"]
        for path in (folder, tmp_path / "same.npz")
    )
    assert by_folder.value == by_array.value


def test_the_reference_is_brought_to_the_size_of_the_samples(files: dict[str, str], tmp_path: Path) -> None:
    """As preparing it at that size does."""
    found = evaluate_samples(files["good"], files["large"], "kid", extractor="pixels").metrics["kid[pixels]"]
    small = load_data(DataConfig(path=files["large"], size=8), seed=0)
    np.savez(tmp_path / "small.npz", images=small.values.numpy())
    expected = evaluate_samples(files["good"], tmp_path / "small.npz", "kid", extractor="pixels").metrics
    assert found.value == expected["kid[pixels]"].value
    both = evaluate_samples(files["good"], files["large"], "kid", data={"size": 4}, extractor="pixels").metrics
    assert both["kid[pixels]"].value != found.value


def test_sets_by_name_and_runs(files: dict[str, str], digits_run: Path) -> None:
    named = evaluate_samples(files["good"], "digits", "kid", extractor="pixels").metrics["kid[pixels]"]
    assert named.provenance["n_reference"] == 1797 - 300
    of_run = evaluate_samples(files["good"], digits_run, "kid", extractor="pixels").metrics["kid[pixels]"]
    assert of_run.provenance["n_reference"] == 6  # what the run held out of its 60
    assert "sfumato.experiment" in sfumato.evaluate_samples.__module__


def test_points(files: dict[str, str]) -> None:
    found = evaluate_samples(files["points"], files["moved"]).metrics
    assert set(found) == {f"{n}{t}" for n in ("sliced_wasserstein", "energy_distance", "mmd") for t in ("", "[floor]")}
    assert found["mmd"].value > 4 * found["mmd"].std_error
    assert found["sliced_wasserstein"].value > 2 * found["sliced_wasserstein[floor]"].value


@pytest.mark.parametrize(
    ("samples", "reference", "options", "error", "words"),
    [
        ("good", "points", {}, DataError, "cannot be compared"),
        ("good", "data", {"metrics": "mmd"}, DataError, "means nothing for pictures"),
        ("points", "moved", {"metrics": "kid"}, DataError, "means nothing for values"),
        ("good", "data", {"metrics": "loss"}, UsageError, "measures a model"),
        ("good", "data", {"metrics": "kdi"}, UsageError, "no metric 'kdi'"),
        ("good", "data", {"n": 1}, UsageError, "1 examples"),
        ("good", "data", {"part": "test"}, UsageError, "part is 'test'"),
        ("good", "data", {"extractor": "judgement"}, UsageError, "no extractor"),
        ("data", "good", {"extractor": "judge"}, DataError, "have none"),
        ("good", "nowhere.npz", {}, DataError, "nowhere.npz"),
    ],
)
def test_refusals(
    samples: str, reference: str, options: dict[str, Any], error: type[Exception], words: str, files: dict[str, str]
) -> None:
    with pytest.raises(error, match=words):
        evaluate_samples(files[samples], files.get(reference, reference), options.pop("metrics", None), **options)


def split_file(folder: Path, digits: dict[str, np.ndarray], seed: int = 3) -> dict[str, Any]:
    """Settings of a run on 400 digits, of which a quarter is held out, and the two parts of its split."""
    np.savez(folder / "own.npz", images=digits["images"][:400])
    data = DataConfig(path=str(folder / "own.npz"), held_out=0.25)
    parts = split(load_data(data, seed=seed), 0.25, seed)
    return {"path": data.path, "train": parts.train, "held_out": parts.held_out, "seed": seed}


def test_copies_among_anybodys_samples(digits: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Training pictures handed in as samples are copies, others are not; both parts are told by x_train and x_test."""
    images = digits["images"]
    np.savez(tmp_path / "parts.npz", x_train=images[0::3], x_test=images[1::3])
    mixed = np.concatenate([images[0:300:3], images[2:302:3]])
    drawn = {"copies": images[0::3][:200], "new": images[2::3][:200], "mixed": mixed}
    found = {}
    for name, samples in drawn.items():
        np.savez(tmp_path / f"{name}.npz", images=samples)
        sides = tmp_path / f"{name}.npz", tmp_path / "parts.npz"
        found[name] = evaluate_samples(*sides, "memorisation", extractor="pixels")
    shares = {name: e.metrics["memorisation[pixels]"] for name, e in found.items()}
    assert shares["copies"].value > 0.95
    assert shares["new"].value < 0.03
    assert shares["mixed"].value == pytest.approx(0.5, abs=0.05)
    assert found["new"].metrics["memorisation[pixels][floor]"].value < 0.03
    assert abs(found["new"].metrics["memorisation[pixels][leaning]"].value) < 4 * 0.1
    closest = found["mixed"].to_plain()["closest"]["pixels"]
    assert all(one["sample"] < 100 and one["ratio"] == 0 for one in closest)  # places in the file
    for one in closest:
        assert np.array_equal(drawn["mixed"][one["sample"]], images[0::3][one["training_example"]])


def test_a_reference_that_says_nothing_of_training_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(DataError, match="nothing says which examples"):
        evaluate_samples(files["good"], files["data"], "memorisation", extractor="pixels")


def test_the_split_is_that_of_the_run(digits: dict[str, np.ndarray], tmp_path: Path) -> None:
    """By its folder, its name and its settings: what it held out is compared with, what it learned is copied."""
    own = split_file(tmp_path, digits)
    settings = {"data.source": "folder", "data.path": own["path"], "data.held_out": 0.25, "seed": own["seed"]}
    small = {"network": {"kind": "ResidualUNet", "widths": [8], "depth": 1, "embedding": 8}, "training.steps": 1}
    run = sfumato.train("digits", {**settings, **small}, runs=tmp_path / "runs", name="mine").folder
    np.savez(tmp_path / "copies.npz", images=digits["images"][:400][own["train"].numpy()][:150])
    told = {"held_out": 0.25}
    for reference, options in (
        (run, {}),
        ("mine", {"runs": tmp_path / "runs"}),
        (own["path"], {"data": told, "seed": own["seed"]}),
    ):
        found = evaluate_samples(tmp_path / "copies.npz", reference, "kid,memorisation", extractor="pixels", **options)
        kid, share = found.metrics["kid[pixels]"], found.metrics["memorisation[pixels]"]
        assert (kid.provenance["n_reference"], kid.provenance["reference"]) == (100, "its held-out part")
        assert share.value > 0.95
        assert share.provenance["training_examples"] == 300


def test_the_same_reference_by_another_path_can_be_compared(files: dict[str, str], tmp_path: Path) -> None:
    """What is compared with is known by what it is, not by where it lies."""
    shutil.copy(files["data"], tmp_path / "elsewhere.npz")
    sides = [
        Side(name, (evaluation_of(evaluate_samples(files[name], path, "kid", n=100, extractor="pixels").stored()),))
        for name, path in (("good", files["data"]), ("noise", str(tmp_path / "elsewhere.npz")))
    ]
    (found, *_) = compare_sides(sides, metrics="kid").differences
    assert found.verdict == "worse"


def test_grey_samples_do_not_take_the_colour_from_a_reference(files: dict[str, str], tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "colour.npz", images=colour)
    with pytest.raises(DataError, match="cannot be compared") as refused:
        evaluate_samples(files["good"], tmp_path / "colour.npz", "kid", extractor="pixels")
    assert "--data.channels 1" in refused.value.fix
    both = evaluate_samples(files["good"], tmp_path / "colour.npz", "kid", extractor="pixels", data={"channels": 1})
    assert both.metrics["kid[pixels]"].value > 0
    assert evaluate_samples(tmp_path / "colour.npz", files["data"], "kid", extractor="pixels").metrics  # nothing lost


def test_a_floor_of_fewer_pictures_is_said_to_be_one(files: dict[str, str]) -> None:
    notes = evaluate_samples(files["good"], files["data"], "fid", extractor="pixels").notes
    assert any("[floor] is that of 100 pictures" in note for note in notes)
