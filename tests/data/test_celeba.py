"""CelebA's layout: faces from the archive or unpacked, attributes as values, persons and attributes as classes."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.data import DataConfig, Packed, load_data, split
from sfumato.errors import ConfigError, DataError

LaidOut = Callable[..., Path]
ORDER = [1, 3, 4, 6, 7, 2, 5]  # training and validation, then the test part


def load(path: Path, **settings: Any) -> Packed:
    return load_data(DataConfig(source="celeba", path=str(path), **settings), seed=0)


def faces(packed: Packed) -> list[int]:
    """Which face each picture is, told by its red level."""
    return (packed.values[:, 0, 0, 0] // 30).tolist()


def unpacked(files: dict[str, bytes], prefix: str = "") -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(files["img_align_celeba.zip"])) as archive:
        pictures = {f"{prefix}{name}": archive.read(name) for name in archive.namelist()}
    return {**{k: v for k, v in files.items() if not k.endswith(".zip")}, **pictures}


def as_csv(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same lists with commas and headers, as they are passed on elsewhere."""
    found = {}
    for name, content in files.items():
        lines = content.decode().splitlines() if name.endswith(".txt") else []
        if name.startswith("list_attr"):
            lines = ["image_id," + ",".join(lines[1].split()), *(",".join(line.split()) for line in lines[2:])]
        elif lines:
            lines = ["image_id,value", *(",".join(line.split()) for line in lines)]
        found[name.replace(".txt", ".csv")] = "\n".join(lines).encode() if lines else content
    return found


def official(files: dict[str, bytes]) -> dict[str, bytes]:
    """In the folders of the authors' own drive."""
    folders = {"img": "Img/", "list_eval": "Eval/"}
    below = {name: next((f for k, f in folders.items() if name.startswith(k)), "Anno/") for name in files}
    return {below[name] + name: content for name, content in files.items()}


LAYOUTS: dict[str, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    "archive": lambda files: files,
    "unpacked": unpacked,
    "nested": lambda files: unpacked(files, "img_align_celeba/"),
    "official": official,
    "tables": as_csv,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_faces_attributes_and_parts(publisher: Any, laid_out: LaidOut, layout: str) -> None:
    packed = load(laid_out(LAYOUTS[layout](publisher.celeba())))
    assert packed.shape == (3, 22, 18)
    assert faces(packed) == ORDER
    assert packed.labels is None
    assert packed.condition_names == ("Bald", "Eyeglasses", "Smiling")
    assert packed.conditions is not None
    assert packed.conditions.tolist() == publisher.attributes[np.array(ORDER) - 1].tolist()
    assert split(packed, 0.1, seed=0).held_out.tolist() == [5, 6]


def test_chosen_attributes_in_their_order(publisher: Any, laid_out: LaidOut) -> None:
    folder = laid_out(publisher.celeba())
    packed = load(folder, columns=("Smiling", "Bald"))
    assert packed.condition_names == ("Smiling", "Bald")
    assert packed.conditions is not None
    assert packed.conditions.tolist() == publisher.attributes[np.array(ORDER) - 1][:, [2, 0]].tolist()
    assert load(folder, columns=()).conditions is None


def test_persons_and_attributes_as_classes(publisher: Any, laid_out: LaidOut) -> None:
    folder = laid_out(publisher.celeba())
    persons = load(folder, label="identity")
    assert persons.labels is not None
    assert persons.label_values == (2, 5, 9)
    found = [persons.label_values[k] for k in persons.labels.tolist()]
    assert found == publisher.persons[np.array(ORDER) - 1].tolist()
    smiling = load(folder, label="Smiling")
    assert smiling.class_names == ("not Smiling", "Smiling")
    assert smiling.labels is not None
    assert (2 * smiling.labels - 1).tolist() == publisher.attributes[np.array(ORDER) - 1][:, 2].tolist()


@pytest.mark.parametrize("key", ["label", "columns"])
def test_unknown_columns_are_named(publisher: Any, laid_out: LaidOut, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key} is 'Smilng'") as caught:
        load(laid_out(publisher.celeba()), **{key: "Smilng" if key == "label" else ("Bald", "Smilng")})
    assert "Bald, Eyeglasses, Smiling" in caught.value.expected


def test_faces_alone(publisher: Any, laid_out: LaidOut) -> None:
    """Without lists: every face, in natural order, nothing held out but a share."""
    files = {"img_align_celeba.zip": publisher.celeba()["img_align_celeba.zip"]}
    packed = load(laid_out(files))
    assert faces(packed) == [1, 2, 3, 4, 5, 6, 7]
    assert (packed.conditions, packed.test_count) == (None, 0)
    with pytest.raises(ConfigError, match="has no such column"):
        load(laid_out(files), label="identity")


def test_some_of_the_faces(publisher: Any, laid_out: LaidOut) -> None:
    """Lists of all and a folder of a few: refused, or those that are there with their own attributes."""
    files = unpacked(publisher.celeba())
    few = {name: content for name, content in files.items() if not name.endswith(("2.jpg", "3.jpg", "6.jpg"))}
    with pytest.raises(DataError, match=r"3 of 7 pictures cannot be used: .*000003\.jpg: listed and not there"):
        load(laid_out(few))
    packed = load(laid_out(few), bad_files="skip")
    assert faces(packed) == [1, 4, 7, 5]
    assert packed.conditions is not None
    assert packed.conditions.tolist() == publisher.attributes[[0, 3, 6, 4]].tolist()
    assert packed.test_count == 1


def changed(name: str, line: int, text: str | None) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    """Another text for a line (from 1), or None to take it out."""

    def change(files: dict[str, bytes]) -> dict[str, bytes]:
        lines = files[name].decode().splitlines()
        lines[line - 1 : line] = [] if text is None else [text]
        return {**files, name: "\n".join(lines).encode()}

    return change


FAULTS = {
    "count": (changed("list_attr_celeba.txt", 1, "8"), "line 1 says '8', and 7 pictures follow"),
    "columns": (changed("list_attr_celeba.txt", 4, "000002.jpg 1 1"), "line 4 is '000002.jpg 1 1'"),
    "not whole": (changed("list_attr_celeba.txt", 4, "000002.jpg 1 x 1"), "line 4 is"),
    "value": (changed("list_attr_celeba.txt", 5, "000003.jpg 1 0 1"), "line 5: Eyeglasses is 0, not 1 or -1"),
    "names": (changed("list_attr_celeba.txt", 2, "Bald Bald Smiling"), "have no names, or the same ones"),
    "path": (changed("list_attr_celeba.txt", 3, "../1.jpg 1 1 1"), "line 3 is"),
    "twice": (changed("list_attr_celeba.txt", 3, "000002.jpg 1 1 1"), "it lists a picture twice"),
    "missing": (changed("identity_CelebA.txt", 4, None), "identity_CelebA.txt: it lists other pictures"),
    "order": (changed("list_eval_partition.txt", 1, "000009.jpg 0"), "list_eval_partition.txt: it lists other"),
    "empty": (lambda files: {**files, "list_eval_partition.txt": b""}, "it lists no picture"),
    "bytes": (lambda files: {**files, "list_eval_partition.txt": b"\xff\xfe"}, "it cannot be read"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_of_the_lists_are_named(publisher: Any, laid_out: LaidOut, kind: str) -> None:
    change, what = FAULTS[kind]
    with pytest.raises(DataError) as caught:
        load(laid_out(change(publisher.celeba())))
    assert what in caught.value.what


@pytest.mark.parametrize("size", [0, 30, 900])
def test_a_damaged_archive_is_named(publisher: Any, laid_out: LaidOut, size: int) -> None:
    files = publisher.celeba()
    folder = laid_out({**files, "img_align_celeba.zip": files["img_align_celeba.zip"][:size]})
    with pytest.raises(DataError, match=r"img_align_celeba\.zip: cannot be read"):
        load(folder)


def test_it_is_never_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"img_align_celeba\.zip is not in") as caught:
        load(tmp_path, download=True)
    assert "--data.download" not in caught.value.fix
    assert "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html" in caught.value.fix
