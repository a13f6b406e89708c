"""Everything that can be trained on can be looked over and packed; counts, classes and statistics are its own."""

import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data import SET_SOURCES, DataConfig, load_data
from sfumato.errors import DataError
from sfumato.experiment.inspection import Inspection, examined, inspect
from sfumato.experiment.packing import pack_data

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
LEVELS = np.random.default_rng(1).normal(3, 2, (12, 2, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "sfumato"


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def of_folder(root: Path) -> Path:
    for i, pixels in enumerate(PIXELS):
        path = root / "own" / f"class {i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels))
    return root / "own"


def of_table_beside(root: Path) -> Path:
    (root / "own").mkdir()
    for i, pixels in enumerate(PIXELS):
        (root / "own" / f"{i}.png").write_bytes(png(pixels))
    rows = [json.dumps({"file_name": f"{i}.png", "label": f"class {i % 3}", "x": i}) for i in range(12)]
    (root / "own" / "metadata.jsonl").write_text("\n".join(rows))
    return root / "own"


def of_zip(root: Path) -> Path:
    return Path(shutil.make_archive(str(root / "x"), "zip", of_folder(root)))


def of_tar(root: Path) -> Path:
    return Path(shutil.make_archive(str(root / "x"), "xztar", of_folder(root)))


def of_arrays(root: Path) -> Path:
    names = np.array(["class 0", "class 1", "class 2"])
    np.savez(root / "x.npz", images=PIXELS, labels=np.arange(12) % 3, class_names=names)
    return root / "x.npz"


def of_parquet(root: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"image": [png(p) for p in PIXELS], "label": [f"class {i % 3}" for i in range(12)]}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), root / "x.parquet")
    return root / "x.parquet"


def of_packed(root: Path) -> Path:
    return pack_data(DataConfig(path=str(of_folder(root))), root / "x.safetensors").path


PICTURES = [of_folder, of_table_beside, of_zip, of_tar, of_arrays, of_parquet, of_packed]


def counted(found: Inspection) -> dict[str, int]:
    assert found.facts.classes is not None
    return dict(zip(found.facts.classes.names, found.facts.classes.counts, strict=True))


@pytest.mark.parametrize("made", PICTURES)
def test_pictures_wherever_they_lie(made: Callable[[Path], Path], tmp_path: Path) -> None:
    """The twelve pictures are known: so are their classes and, held against all of them, their statistics."""
    path = made(tmp_path)
    found = inspect(examined(str(path), {"data.held_out": 0.0}))
    assert found.ready
    assert counted(found) == {"class 0": 4, "class 1": 4, "class 2": 4}
    for channel, facts in enumerate(found.facts.channels):
        values = PIXELS[..., channel].astype(float)
        assert facts.mean == pytest.approx(values.mean(), rel=1e-12)  # from an exact histogram in float64
        assert facts.std == pytest.approx(values.std(), rel=1e-12)
        assert (facts.low, facts.high) == (values.min(), values.max())
    assert (found.survey is None) == (made in (of_arrays, of_packed))
    if found.survey is not None:
        assert (found.survey.looked_at, [(s.height, s.width) for s in found.survey.sizes]) == (12, [(16, 16)])
    packed = pack_data(DataConfig(path=str(path)), tmp_path / "again.safetensors")
    assert packed.packed.fingerprint == found.packed.fingerprint
    assert load_data(DataConfig(path=str(packed.path)), seed=0).names == found.packed.names


def of_npz(root: Path) -> Path:
    np.savez(root / "x.npz", values=LEVELS, labels=np.arange(12) % 2)
    return root / "x.npz"


def of_lines(root: Path) -> Path:
    rows = [json.dumps({"series": v.tolist(), "label": i % 2}) for i, v in enumerate(LEVELS)]
    (root / "x.jsonl").write_text("\n".join(rows))
    return root / "x.jsonl"


def of_numbers_in_parquet(root: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"series": [v.tolist() for v in LEVELS], "label": [i % 2 for i in range(12)]}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), root / "x.parquet")
    return root / "x.parquet"


@pytest.mark.parametrize("made", [of_npz, of_lines, of_numbers_in_parquet])
def test_sequences(made: Callable[[Path], Path], tmp_path: Path) -> None:
    found = inspect(examined(str(made(tmp_path)), {"data.held_out": 0.0}))
    assert found.facts.shape == (2, 8)
    assert counted(found) == {"0": 6, "1": 6}
    for channel, facts in enumerate(found.facts.channels):
        assert facts.mean == pytest.approx(LEVELS[:, channel].mean(dtype=np.float64), abs=1e-6)
        assert facts.std == pytest.approx(LEVELS[:, channel].std(dtype=np.float64), abs=1e-6)
    assert found.advice is not None


def test_vectors_in_a_csv_with_windows_line_ends(tmp_path: Path) -> None:
    points = LEVELS.reshape(12, 16)[:, :3]
    rows = "".join(",".join(map(str, row)) + "\r\n" for row in points)
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + ("a,b,c\r\n" + rows).encode())
    found = inspect(examined(str(tmp_path / "x.csv"), {"data.held_out": 0.0}))
    assert [c.mean for c in found.facts.channels] == pytest.approx(points.mean(axis=0).tolist(), abs=1e-6)


def test_parquet_pictures_are_surveyed_like_a_folder(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    cells = [png(PIXELS[0]), png(PIXELS[1][:8]), png(PIXELS[2][..., 0]), b"text"]
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"image": cells}), tmp_path / "x.parquet")
    found = inspect(examined(str(tmp_path / "x.parquet")))
    assert found.survey is not None
    problems = [f.what for f in found.findings if f.level == "problem"]
    assert len(problems) == 3
    assert "row 3: not a JPEG" in problems[0]
    assert "2 different sizes" in problems[1]
    assert "1 grey and 2 colour pictures" in problems[2]


def mnist_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 10)):
        pictures = rng.integers(0, 256, (count, 28, 28), np.uint8)
        for kind, array in (("images-idx3", pictures), ("labels-idx1", np.arange(count) % 10)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            content = gzip.compress(head + array.astype(np.uint8).tobytes())
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(content)
    return folder


def test_a_set_by_its_name_or_where_it_lies(cache: Path, tmp_path: Path) -> None:
    kept = mnist_in(cache / "sets" / "mnist")
    for found in (inspect(examined("mnist")), inspect(examined(str(kept), {"data.source": "mnist"}))):
        assert (found.facts.count, found.facts.held_out, found.facts.test_count) == (40, 10, 10)
        assert counted(found) == {str(k): 4 for k in range(10)}
        assert found.ready
    made = pack_data(DataConfig(source="mnist"), tmp_path / "mnist.safetensors")
    assert (made.packed.test_count, made.packed.fingerprint) == (10, found.packed.fingerprint)
    pooled = pack_data(DataConfig(source="mnist", test_part=False), tmp_path / "pooled.safetensors")
    assert load_data(DataConfig(path=str(pooled.path)), seed=0).test_count == 0
    assert not (cache / "packed").exists()


def test_a_set_given_as_a_folder_of_ones_own_is_recognised(tmp_path: Path) -> None:
    folder = mnist_in(tmp_path / "sets")
    for path in (folder, folder / "train-images-idx3-ubyte.gz"):
        with pytest.raises(DataError) as caught:
            inspect(examined(str(path)))
        assert caught.value.fix.endswith("if this is mnist or fashion-mnist: --data.source mnist")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError) as caught:
        inspect(examined(str(tmp_path / "images")))
    assert "oxford" not in caught.value.fix


@pytest.mark.parametrize("name", SET_SOURCES)
def test_a_set_that_is_not_there_is_refused_with_the_file_to_get(name: str) -> None:
    with pytest.raises(DataError, match=f"data.source is '{name}', and .* not in"):
        inspect(examined(name))


def test_photos_in_place_of_a_recipes_set_are_looked_over(tmp_path: Path) -> None:
    """`--recipe oxford-flowers-small` names a set; the folder beside it is meant, and its files are looked at."""
    path = of_folder(tmp_path)
    (path / "text.png").write_text("text")
    found = inspect(examined(str(path), {"data.size": 8}, recipe="oxford-flowers-small"))
    assert found.survey is not None
    assert found.survey.looked_at == 13
    (problem,) = (f.what for f in found.findings if f.level == "problem")
    assert problem.endswith("text.png: not a JPEG, PNG, WEBP, BMP, GIF or TIFF picture")


def test_mirrored_copies_count_where_training_mirrors(tmp_path: Path) -> None:
    smooth = np.random.default_rng(2).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "x.npz", images=np.concatenate([smooth, smooth[:, :, ::-1]]))
    asked = examined(str(tmp_path / "x.npz"), {"data.held_out": 0.5})
    assert inspect(asked).facts.leakage.near == 0
    found = inspect(examined(str(tmp_path / "x.npz"), {"data.held_out": 0.5, "data.flip": True}))
    trained = set(found.parts.train.tolist())
    across = sum((i + 20) % 40 in trained for i in found.parts.held_out.tolist())
    assert found.facts.leakage.near == across > 0
    assert found.facts.document()["copies"]["mirrored_pairs"] == 20


def test_what_is_recommended_does_not_download_again(cache: Path) -> None:
    mnist_in(cache / "sets" / "mnist")
    found = inspect(examined("mnist", {"data.download": True}))
    assert found.advice is not None
    assert "download" not in found.advice.settings["data"]
