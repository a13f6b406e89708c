"""Oxford's flowers and pets from archives of the published layout: which picture, which class, which part."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from sfumato.data import DataConfig, Packed, load_data, split
from sfumato.data import pictures as sources
from sfumato.data.oxford import FLOWERS
from sfumato.errors import ConfigError, DataError

LaidOut = Callable[..., Path]


def load(source: str, path: Path, **settings: Any) -> Packed:
    return load_data(DataConfig(source=source, path=str(path), **{"size": 8, **settings}), seed=0)


def reds(packed: Packed) -> list[int]:
    """The red level of each picture, which is one colour all over."""
    levels = packed.values[:, 0, 0, 0]
    assert (packed.values[..., 0] == levels[:, None, None]).all()
    assert (packed.values[..., 1] == 255 - levels[:, None, None]).all()
    return levels.tolist()


def names(packed: Packed) -> list[str]:
    assert packed.labels is not None
    assert packed.class_names is not None
    return [packed.class_names[k] for k in packed.labels.tolist()]


def unpacked(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        return {m.name: members.extractfile(m).read() for m in members}  # type: ignore[union-attr]


ORDER = [1, 3, 7, 20, 40, 2, 9, 21, 33]  # training and validation part, then test part, each by number


@pytest.mark.parametrize("layout", ["archive", "unpacked", "below"])
def test_flowers(publisher: Any, laid_out: LaidOut, layout: str) -> None:
    files = publisher.flowers()
    if layout != "archive":
        files |= unpacked(files.pop("102flowers.tgz"))
    folder = laid_out({f"flowers-102/{k}" if layout == "below" else k: v for k, v in files.items()})
    packed = load("oxford-flowers", folder)
    assert reds(packed) == [6 * number for number in ORDER]
    truth = [int(publisher.flower_labels[number - 1]) for number in ORDER]
    assert [packed.label_values[k] for k in packed.labels.tolist()] == truth  # type: ignore[union-attr]
    assert names(packed) == [FLOWERS[k - 1] for k in truth]
    assert split(packed, 0.2, seed=0).held_out.tolist() == [5, 6, 7, 8]
    assert len(packed.absent_classes) == 102 - len(set(truth))


def test_flowers_pooled(publisher: Any, laid_out: LaidOut) -> None:
    """Without the published parts, the held-out ones are drawn from all, as for any set without a test part."""
    folder = laid_out(publisher.flowers())
    packed = load("oxford-flowers", folder, test_part=False)
    assert packed.test_count == 0
    assert reds(packed) == [6 * number for number in ORDER]
    parts = split(packed, 0.34, seed=0)
    assert len(parts.held_out) == 3
    assert sorted([*parts.train.tolist(), *parts.held_out.tolist()]) == list(range(9))
    assert "4 examples of the source's own test part pooled with the rest" in packed.report


def test_flowers_limited_keep_their_names(publisher: Any, laid_out: LaidOut) -> None:
    packed = load("oxford-flowers", laid_out(publisher.flowers()), limit=2)
    assert reds(packed) == [6 * number for number in (1, 7, 2, 21)]
    assert names(packed) == [FLOWERS[publisher.flower_labels[n - 1] - 1] for n in (1, 7, 2, 21)]
    assert packed.test_count == 2


def test_the_names_of_the_flowers() -> None:
    """102 different ones; some of those whose number everybody quotes."""
    assert len(set(FLOWERS)) == len(FLOWERS) == 102
    numbered = {
        1: "pink primrose",
        12: "colt's foot",
        51: "petunia",
        74: "rose",
        77: "passion flower",
        89: "watercress",
    }
    assert {number: FLOWERS[number - 1] for number in numbered} == numbered
    assert FLOWERS[101] == "blackberry lily"


def test_a_size_is_needed(publisher: Any, laid_out: LaidOut) -> None:
    with pytest.raises(ConfigError, match=r"whose pictures have many sizes, and data\.size is not given"):
        load("oxford-flowers", laid_out(publisher.flowers()), size=None)


def saved(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "arrays", "what"),
    [
        ("setid.mat", {"trnid": [[1]], "valid": [[2]]}, "no row of numbers tstid"),
        ("setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[2]]}, "name pictures twice"),
        ("setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[41]]}, "beyond the 40 that have labels"),
        ("setid.mat", {"trnid": [[0]], "valid": [[2]], "tstid": [[3]]}, "name pictures twice, or beyond"),
        ("imagelabels.mat", {"labels": [[103.0] * 40]}, "its classes run from 103 to 103"),
        ("imagelabels.mat", {"labels": [[1.5] * 40]}, "labels has numbers that are not whole"),
    ],
)
def test_lists_that_do_not_fit(publisher: Any, laid_out: LaidOut, name: str, arrays: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as caught:
        load("oxford-flowers", laid_out({**publisher.flowers(), name: saved(arrays)}))
    assert f"{name}: " in caught.value.what
    assert what in caught.value.what


def test_pictures_that_cannot_be_used(publisher: Any, laid_out: LaidOut) -> None:
    """One is missing, one is text: named, or left out and recorded."""
    files = publisher.flowers()
    pictures = unpacked(files.pop("102flowers.tgz"))
    del pictures["jpg/image_00003.jpg"]
    folder = laid_out({**files, **pictures, "jpg/image_00009.jpg": b"not a picture"})
    with pytest.raises(DataError) as caught:
        load("oxford-flowers", folder)
    assert "2 of 9 pictures cannot be used: image_00009.jpg: not a JPEG" in caught.value.what
    assert "image_00003.jpg: listed and not there" in caught.value.what
    packed = load("oxford-flowers", folder, bad_files="skip")
    kept = [1, 7, 20, 40, 2, 21, 33]
    assert reds(packed) == [6 * number for number in kept]
    assert names(packed) == [FLOWERS[publisher.flower_labels[n - 1] - 1] for n in kept]
    assert packed.test_count == 3
    assert any("left out image_00009.jpg" in line for line in packed.report)
    assert any(line.startswith("left out 1 picture listed and not in") for line in packed.report)


@pytest.mark.parametrize("layout", ["archive", "unpacked"])
def test_pets(publisher: Any, laid_out: LaidOut, layout: str) -> None:
    """The lists are not in order, hold no test picture twice, and one of the files is a GIF."""
    files = publisher.pets()
    if layout == "unpacked":
        files = {name: content for archive in files.values() for name, content in unpacked(archive).items()}
    packed = load("oxford-pets", laid_out(files))
    assert reds(packed) == [10, 20, 110, 120, 60, 70, 160, 170, 30, 130, 80, 180]  # natural order, capitals first
    breeds = ("Abyssinian", "american_bulldog", "Bengal", "pug")
    assert names(packed) == [breeds[red // 50] for red in reds(packed)]
    assert packed.class_names == breeds
    assert packed.label_values == (1, 2, 6, 26)
    assert packed.test_count == 4


def test_pets_as_cats_and_dogs(publisher: Any, laid_out: LaidOut) -> None:
    packed = load("oxford-pets", laid_out(publisher.pets()), label="species")
    assert packed.class_names == ("cat", "dog")
    by_red = dict(zip(reds(packed), names(packed), strict=True))
    assert [by_red[red] for red in (10, 60, 110, 160)] == ["cat", "dog", "cat", "dog"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("pug_1 26 2", "line 1 is 'pug_1 26 2', not NAME CLASS SPECIES BREED"),
        ("pug_1 26 3 1", "line 1 is"),
        ("pug_1 0 2 1", "line 1 is"),
        ("../pug_1 26 2 1", "line 1 is"),
        ("# nothing", "it lists no picture"),
        ("Abyssinian_10 1 1 1", "Abyssinian_10 is listed twice"),
    ],
)
def test_lists_of_pets_with_faults(publisher: Any, laid_out: LaidOut, line: str, what: str) -> None:
    files = {name: content for archive in publisher.pets().values() for name, content in unpacked(archive).items()}
    with pytest.raises(DataError) as caught:
        load("oxford-pets", laid_out({**files, "annotations/trainval.txt": line.encode()}))
    assert what in caught.value.what


def test_the_second_time_nothing_is_decoded(publisher: Any, laid_out: LaidOut, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for another choice of classes or parts either; a change of the archive or of the size decodes anew."""
    decoded: list[int] = []
    decode = sources.decode_bytes

    def counting(content: bytes, preparation: Any) -> Any:
        decoded.append(1)
        return decode(content, preparation)

    monkeypatch.setattr(sources, "decode_bytes", counting)
    folder = laid_out(publisher.pets())
    first = load("oxford-pets", folder)
    assert load("oxford-pets", folder).fingerprint == first.fingerprint
    assert load("oxford-pets", folder, label="species").fingerprint != first.fingerprint
    load("oxford-pets", folder, test_part=False, pad=12)
    assert len(decoded) == 12
    load("oxford-pets", folder, size=6)
    assert len(decoded) == 24
    load("oxford-pets", folder, cache="off")
    assert len(decoded) == 36
    archive = folder / "images.tar.gz"
    archive.write_bytes(archive.read_bytes())
    load("oxford-pets", folder)
    assert len(decoded) == 48


def test_pictures_are_prepared_as_in_a_folder(tmp_path: Path, publisher: Any, laid_out: LaidOut) -> None:
    """The same files, once in the published layout and once as a folder of one's own: equal pixels."""
    rng = np.random.default_rng(0)
    pictures = {}
    for number in ORDER:
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 30 + number, 3), np.uint8)).save(stream, format="JPEG")
        pictures[f"image_{number:05d}.jpg"] = stream.getvalue()
    mats = {name: content for name, content in publisher.flowers().items() if name.endswith(".mat")}
    folder = laid_out({**mats, **{f"jpg/{name}": content for name, content in pictures.items()}})
    ours = load("oxford-flowers", folder, size=16)
    theirs = load_data(DataConfig(path=str(laid_out(pictures, "own")), size=16), seed=0)
    assert np.array_equal(ours.values.numpy()[np.argsort(ORDER)], theirs.values.numpy())


def test_the_real_pictures(real_data: Path, laid_out: LaidOut) -> None:
    """Originals put back into the published layout give the prepared pictures to the last bit."""
    arrays = np.load(real_data / "flowers64.npz")
    place = {int(number): i for i, number in enumerate(arrays["image_ids"])}
    files = sorted((real_data / "samples/flowers").rglob("image_*.jpg"))
    numbers = sorted(int(path.stem.split("_")[1]) for path in files)
    known = [number for number in numbers if number in place]
    assert len(known) > 40
    labels = np.full((1, 8189), 1, np.uint8)
    labels[0, np.array(known) - 1] = [arrays["labels"][place[number]] for number in known]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path in files:
            archive.add(path, f"jpg/{path.name}")
    parts = {"trnid": np.array([known[:20]]), "valid": np.array([known[20:30]]), "tstid": np.array([known[30:]])}
    mats = {"imagelabels.mat": saved({"labels": labels}), "setid.mat": saved(parts)}
    packed = load("oxford-flowers", laid_out({"102flowers.tgz": stream.getvalue(), **mats}), size=64)
    truth = [place[number] for number in known]
    assert np.array_equal(packed.values.numpy(), arrays["images"][truth])
    theirs = [str(arrays["class_names"][k - 1]) for k in arrays["labels"][truth]]
    assert [name for name in names(packed) if name != "lotus"] == [name for name in theirs if "lotus" not in name]
    ours = [name for name in FLOWERS if name != "lotus"]
    assert ours == [str(name) for name in arrays["class_names"] if "lotus" not in str(name)]


def test_the_real_pets(real_data: Path, laid_out: LaidOut) -> None:
    """Two of the originals are not what their names say; both are read, and come out as from a folder."""
    paths = sorted((real_data / "samples/pets").rglob("*.jpg"))
    lines = {path.stem: f"{path.stem} {i + 1} 1 1" for i, path in enumerate(paths)}
    files = {f"images/{path.name}": path.read_bytes() for path in paths}
    lists = {"trainval.txt": list(lines.values())[:30], "test.txt": list(lines.values())[30:]}
    files |= {f"annotations/{name}": "\n".join(rows).encode() for name, rows in lists.items()}
    packed = load("oxford-pets", laid_out(files), size=64, test_part=False)
    own = load_data(DataConfig(path=str(real_data / "samples/pets"), size=64, channels=3, cache="off"), seed=0)
    ours = {values.numpy().tobytes() for values in packed.values}
    assert ours == {values.numpy().tobytes() for values in own.values}
    assert len(packed) == len(own) == 42
