"""Tables beside pictures and alone: labels, real values, and every fault with its file and line."""

import json
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.data import DataConfig, Packed, load_data
from sfumato.errors import ConfigError, DataError, SfumatoError

Save = Callable[..., None]


def load(path: Path, **settings: object) -> Packed:
    return load_data(DataConfig(path=str(path), **settings), seed=0)  # type: ignore[arg-type]


def refusal(path: Path, **settings: object) -> SfumatoError:
    with pytest.raises((DataError, ConfigError)) as caught:
        load(path, **settings)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def pictures(tmp_path: Path, save_png: Save) -> Path:
    """0.png, 1.png, … 5.png of brightness 0, 10, … 50."""
    for i in range(6):
        save_png(tmp_path / "pictures" / f"{i}.png", 10 * i)
    return tmp_path / "pictures"


def brightness(packed: Packed) -> list[int]:
    return (packed.values[:, 0, 0, 0] // 10).tolist()


def test_a_csv_says_what_belongs_to_each_picture(pictures: Path, untouched: Callable) -> None:
    """In another order than the files', with a column of words and one without a name, as pandas writes."""
    rows = [
        f'{i},{n}.png,{"even" if n % 2 == 0 else "odd"},{n / 4},"a picture, the {n}th",{-n}'
        for i, n in enumerate([3, 0, 5, 1, 2, 4])
    ]
    (pictures / "labels.csv").write_text("\n".join([",file_name,label,angle,caption,height", *rows]))
    untouched()
    packed = load(pictures)
    assert brightness(packed) == [0, 1, 2, 3, 4, 5]
    assert packed.class_names == packed.label_values == ("even", "odd")
    assert packed.labels is not None
    assert packed.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert packed.condition_names == ("angle", "height")
    assert packed.conditions is not None
    assert packed.conditions.dtype == torch.float32
    assert packed.conditions.tolist() == [[n / 4, -n] for n in range(6)]
    assert packed.report == ("ignored 1 column of words: caption",)


def test_json_lines_hold_vectors_and_whole_numbered_classes(pictures: Path) -> None:
    rows = [
        {"file_name": f"{n}.png", "label": 3 * (n % 2) + 1, "box": [n, n + 0.5], "on": n > 2, "tags": {"a": 1}}
        for n in range(6)
    ]
    write_lines(pictures / "metadata.jsonl", rows)
    packed = load(pictures)
    assert (packed.label_values, packed.class_names) == ((1, 4), None)
    assert packed.condition_names == ("box[0]", "box[1]", "on")
    assert packed.conditions is not None
    assert packed.conditions[5].tolist() == [5, 5.5, 1]
    assert packed.report == ("ignored 1 column of words: tags",)


def test_the_columns_can_be_chosen(pictures: Path) -> None:
    rows = [{"FILE": f"{n}.png", "label": n % 2, "breed": f"b{n % 3}", "x": n, "y": -n} for n in range(6)]
    write_lines(pictures / "Labels.jsonl", rows)
    chosen = load(pictures, label="breed", columns=("y", "label"))
    assert chosen.class_names == ("b0", "b1", "b2")
    assert chosen.condition_names == ("y", "label")
    assert chosen.conditions is not None
    assert chosen.conditions[3].tolist() == [-3, 1]
    assert load(pictures, columns=()).conditions is None
    assert load(pictures).condition_names == ("x", "y")
    error = refusal(pictures, columns=("z",))
    assert "no column 'z' (data.columns)" in error.what
    assert error.expected == "one of FILE, label, breed, x, y"
    assert "no column 'species' (data.label)" in refusal(pictures, label="species").what
    assert "Labels.jsonl:1: breed is 'b0'" in refusal(pictures, columns=("breed",)).what


def test_a_table_of_numbers_alone_leaves_the_folders_their_classes(tmp_path: Path, save_png: Save) -> None:
    for n in range(4):
        save_png(tmp_path / "set" / "ab"[n % 2] / f"{n}.png", 10 * n)
    lines = [f"{'ab'[n % 2]}/{n}.png;{n}.5" for n in range(4)]
    (tmp_path / "set" / "labels.csv").write_text("path;angle\r\n" + "\r\n".join(lines) + "\r\n\r\n")
    packed = load(tmp_path / "set")
    assert packed.class_names == ("a", "b")
    assert packed.conditions is not None
    assert packed.conditions[:, 0].tolist() == [0.5, 2.5, 1.5, 3.5]  # a/0, a/2, b/1, b/3


def test_each_folder_may_have_its_own_table(tmp_path: Path, save_png: Save) -> None:
    for folder in ("left", "right"):
        for n in range(2):
            save_png(tmp_path / folder / f"{n}.png", 10 * n)
        write_lines(
            tmp_path / folder / "metadata.jsonl", [{"file_name": f"{n}.png", "label": f"{folder}{n}"} for n in range(2)]
        )
    assert load(tmp_path).class_names == ("left0", "left1", "right0", "right1")
    (tmp_path / "right" / "metadata.jsonl").write_text('{"file_name": "0.png", "class": "x"}\n')
    assert "other columns than in" in refusal(tmp_path).what
    (tmp_path / "right" / "labels.csv").write_text("file\n")
    assert "lie in the same folder" in refusal(tmp_path).what


def test_names_are_found_as_people_write_them(tmp_path: Path, save_png: Save) -> None:
    names = ["a/plain.png", "a/ünï.png", "b/sp ace,comma.png", "c/-rf.png"]
    for i, name in enumerate(names):
        save_png(tmp_path / "set" / unicodedata.normalize("NFD", name), i)
    written = ["./a/plain.png", "a/../a/ünï.png", r"b\sp ace,comma.png", "c/-rf.png"]
    lines = [f'"{name}",{i}' for i, name in enumerate(written)]
    (tmp_path / "set" / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + "\n".join(["filename,label", *lines]).encode())
    packed = load(tmp_path / "set")
    assert packed.labels is not None
    assert packed.values[:, 0, 0, 0].tolist() == packed.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside.png", "..\\outside.png", "deeper/../../outside.png"])
def test_a_row_leads_nowhere_else(pictures: Path, save_png: Save, name: str) -> None:
    save_png(pictures.parent / "outside.png", 99)
    write_lines(pictures / "metadata.jsonl", [{"file_name": n} for n in ("0.png", name)])
    assert f"metadata.jsonl:2: there is no picture {name!r}" in refusal(pictures).what


def test_pictures_and_rows_must_find_each_other(pictures: Path) -> None:
    table = pictures / "labels.csv"
    table.write_text("file,label\n0.png,a\n1.png,b\n2.png,a\n9.png,b\n8.png,a\n3.png,b\n")
    error = refusal(pictures)
    assert "labels.csv:5: there is no picture '9.png' (2 such rows)" in error.what
    assert "--data.bad_files skip" in error.fix
    packed = load(pictures, bad_files="skip")
    assert brightness(packed) == [0, 1, 2, 3]
    left_out = [note.removeprefix("left out ") for note in packed.report]
    assert left_out[:2] == [f"labels.csv:{n}: there is no picture '{9 + 5 - n}.png'" for n in (5, 6)]
    assert left_out[2:] == ["4.png: no row in the table", "5.png: no row in the table"]
    table.write_text("file,label\n" + "".join(f"{n}.png,a\n" for n in range(4)))
    assert "2 of 6 pictures have no row in labels.csv: 4.png, 5.png" in refusal(pictures).what
    table.write_text("file,label\n" + "".join(f"{n}.png,a\n" for n in (0, 1, 2, 1)))
    error = refusal(pictures)
    assert "labels.csv:5: 1.png has a row already" in error.what
    assert "labels.csv:3)" in error.what


def test_a_bad_picture_takes_its_row_along(pictures: Path) -> None:
    write_lines(pictures / "metadata.jsonl", [{"file": f"{n}.png", "label": n, "x": n} for n in range(6)])
    (pictures / "2.png").write_text("text")
    assert "2.png: not a JPEG" in refusal(pictures).what
    packed = load(pictures, bad_files="skip")
    assert packed.label_values == (0, 1, 3, 4, 5)
    assert packed.conditions is not None
    assert packed.conditions[:, 0].tolist() == [0, 1, 3, 4, 5]
    assert brightness(packed) == [0, 1, 3, 4, 5]


def test_a_limit_takes_the_rows_of_its_pictures(pictures: Path) -> None:
    write_lines(pictures / "metadata.jsonl", [{"file": f"{n}.png", "label": 5 - n, "x": n} for n in range(6)])
    packed = load(pictures, limit=3)
    assert brightness(packed) == [0, 2, 4]
    assert packed.label_values == (1, 3, 5)
    assert packed.labels is not None
    assert packed.labels.tolist() == [2, 1, 0]
    assert packed.conditions is not None
    assert packed.conditions[:, 0].tolist() == [0, 2, 4]


CSV_FAULTS = {  # lines after the header `file,label,x`, the first bad one being line 3, and what is said of it
    "missing label": (["0.png,1,0", "1.png,,0"], "labels.csv:3: label is missing", "whole numbers from 0"),
    "missing name": (["0.png,a,0", "1.png,,0"], "labels.csv:3: label is missing", "whole numbers from 0, or names"),
    "negative": (["0.png,1,0", "1.png,-1,0"], "labels.csv:3: label is '-1'", "whole numbers from 0"),
    "fraction": (["0.png,1,0", "1.png,1.5,0"], "labels.csv:3: label is '1.5'", "whole numbers from 0"),
    "not a number": (["0.png,1,0", "1.png,nan,0"], "labels.csv:3: label is 'nan'", "whole numbers from 0"),
    "beyond int64": (["0.png,1,0", "1.png,99999999999999999999,0"], "labels.csv:3: label is '9999", "whole numbers"),
    "misspelt": (["0.png,1,0", "1.png,1o,0", "2.png,2,0"], "labels.csv:3: label is '1o' among 2 whole", "names in all"),
    "a number": (["0.png,a,0", "1.png,10,0", "2.png,b,0"], "labels.csv:3: label is '10' among 2 names", "names in all"),
    "no value": (["0.png,1,0", "1.png,1,"], "labels.csv:3: x is missing", "a finite number in every row"),
    "no finite value": (["0.png,1,0", "1.png,1,-inf"], "labels.csv:3: x is '-inf'", "a finite number"),
    "beyond float32": (["0.png,1,0", "1.png,1,1e39"], "labels.csv:3: x is '1e39'", "a finite number"),
    "a word": (["0.png,1,0", "1.png,1,N/A", "2.png,1,2"], "labels.csv:3: x is 'N/A'", "a finite number"),
    "too few cells": (["0.png,1,0", "1.png,1"], "labels.csv:3: 2 cells, but the first line names 3", "3 cells"),
    "a lone quote": (["0.png,1,0", '"1.png"x,1,0'], "labels.csv:3: ", "CSV"),
    "no file": (["0.png,1,0", ",1,0"], "labels.csv:3: there is no picture in this row", "a picture for each row"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CSV_FAULTS)
def test_a_fault_is_named_with_its_line(pictures: Path, fault: str, untouched: Callable) -> None:
    """D17."""
    lines, said, expected = CSV_FAULTS[fault]
    (pictures / "labels.csv").write_text("\n".join(["file,label,x", *lines]))
    untouched()
    error = refusal(pictures)
    assert said in error.what
    assert expected in error.expected
    assert str(pictures) in error.what


def test_lines_count_as_an_editor_counts_them(pictures: Path) -> None:
    """Blank lines, and text over several lines."""
    text = 'file,label,note\n\n0.png,1,"two\nlines"\n\n1.png,-1,x\n'
    (pictures / "labels.csv").write_text(text)
    assert "labels.csv:6: label is '-1'" in refusal(pictures).what


JSON_FAULTS = {  # the second line, after a good first one, and what is said of it
    "no JSON": ("{file: 1}", "metadata.jsonl:2: Expecting property name"),
    "no object": ("[1, 2]", "metadata.jsonl:2: is a list, not an object"),
    "too deep": ("[" * 100_000, "metadata.jsonl:2: "),
    "long number": ('{"file": "1.png", "label": 1' + "0" * 5000 + "}", "metadata.jsonl:2: label is inf"),
    "list as label": ('{"file": "1.png", "label": [1]}', "metadata.jsonl:2: label is [1]"),
    "other length": ('{"file": "1.png", "label": 1, "v": [1]}', "metadata.jsonl:2: v is [1]"),
    "words in a list": ('{"file": "1.png", "label": 1, "v": [1, "x"]}', "metadata.jsonl:2: v is [1, 'x']"),
    "NaN": ('{"file": "1.png", "label": 1, "v": [1, NaN]}', "metadata.jsonl:2: v is [1, nan]"),
    "left out": ('{"file": "1.png", "label": 1}', "metadata.jsonl:2: v is missing"),
    "number as name": ('{"file": 1, "label": 1, "v": [1, 2]}', "metadata.jsonl:2: there is no picture '1'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_a_bad_line_of_json_is_named(pictures: Path, fault: str) -> None:
    """D17."""
    line, said = JSON_FAULTS[fault]
    good = '{"file": "%d.png", "label": 0, "v": [0, 1]}'
    (pictures / "metadata.jsonl").write_text("\n".join([good % 0, line, good % 2, good % 3, good % 4, good % 5]))
    assert said in refusal(pictures).what


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"file,label\n0.png,\xe9\n", "labels.csv:2: byte 0xe9 is not UTF-8"),
        ("file,label\n0.png,1\n".encode("utf-16"), "is UTF-16"),
        (b"file,label\n0.png,\0\n", "labels.csv:2: holds a NUL"),
        (b"", "there is no row"),
        (b"file,label\n", "there is no row"),
        (b"id,breed\n0,dog\n", "no column names the pictures (columns: id, breed)"),
        (b"file,label,label\n0.png,1,2\n", "labels.csv:1: two columns are called 'label'"),
        (b"file,label,class\n0.png,1,2\n", "the columns label and class may both be the class"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(pictures: Path, content: bytes, said: str) -> None:
    (pictures / "labels.csv").write_bytes(content)
    assert said in refusal(pictures).what


def test_a_table_that_is_a_pipe_does_not_hang(pictures: Path) -> None:
    os.mkfifo(pictures / "labels.csv")
    assert "labels.csv: not a regular file" in refusal(pictures).what


def test_the_settings_of_tables_need_one(pictures: Path, tmp_path: Path) -> None:
    assert "data.label is set, but" in refusal(pictures, label="x").what
    np.savez(tmp_path / "a.npz", values=np.zeros((4, 2), np.float32))
    assert "data.columns is set, but" in refusal(tmp_path / "a.npz", columns=("x",)).what
    for source in ("digits", "moons"):
        with pytest.raises(ConfigError, match=r"data\.label is set"):
            load_data(DataConfig(source=source, label="x"), seed=0)


def test_what_a_table_says_is_cached_and_read_anew_when_it_changes(pictures: Path, private_cache: Path) -> None:
    table = pictures / "metadata.jsonl"
    write_lines(table, [{"file": f"{n}.png", "label": f"c{n % 2}", "x": n} for n in range(6)])
    first, second = load(pictures), load(pictures)
    assert len(list(private_cache.rglob("*.safetensors"))) == 1
    assert first.fingerprint == second.fingerprint
    assert first.conditions is not None
    assert second.conditions is not None
    assert torch.equal(first.conditions, second.conditions)
    assert (
        (first.class_names, first.condition_names)
        == (second.class_names, second.condition_names)
        == (("c0", "c1"), ("x",))
    )
    write_lines(table, [{"file": f"{n}.png", "label": f"c{n % 3}", "x": -n} for n in range(6)])
    third = load(pictures)
    assert third.class_names == ("c0", "c1", "c2")
    assert third.conditions is not None
    assert third.conditions[:, 0].tolist() == [0, -1, -2, -3, -4, -5]
    assert load(pictures, columns=()).conditions is None  # another setting is another entry


# ---- tables that stand alone


def test_a_table_of_points_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("x,y,label\n" + "".join(f"{n},{n / 8},{'ab'[n % 2]}\n" for n in range(8)))
    packed = load(tmp_path / "points.csv")
    assert not packed.is_image
    assert packed.values.tolist() == [[n, n / 8] for n in range(8)]
    assert packed.class_names == ("a", "b")
    assert load(tmp_path / "points.csv", columns=("y",), limit=4).values.tolist() == [[0], [0.25], [0.5], [0.75]]
    assert "data.size is set" in refusal(tmp_path / "points.csv", size=8).what


def test_lists_make_sequences(tmp_path: Path) -> None:
    """One column of lists keeps their shape: (N, length), (N, channels, length)."""
    sequences = np.arange(24).reshape(4, 2, 3)
    write_lines(tmp_path / "s.jsonl", [{"id": f"s{n}", "wave": s.tolist()} for n, s in enumerate(sequences)])
    assert torch.equal(load(tmp_path / "s.jsonl").values, torch.from_numpy(sequences).float())
    (tmp_path / "s.tsv").write_text("wave\n" + "".join(f"{json.dumps(s[0].tolist())}\n" for s in sequences))
    assert torch.equal(load(tmp_path / "s.tsv").values, torch.from_numpy(sequences[:, 0]).float())


def test_a_table_without_numbers_and_one_about_pictures_are_refused(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("name,label\nx,1\ny,2\n")
    assert "no column holds numbers (columns: name, label)" in refusal(tmp_path / "words.csv").what
    (pictures / "labels.csv").write_text("file,label\n0.png,1\n")
    error = refusal(pictures / "labels.csv")
    assert "its column file names pictures" in error.what
    assert error.fix == f"--data.path {pictures}"
    (tmp_path / "nan.csv").write_text("x\n1\nnan\n")
    assert "nan.csv:3: x is 'nan'" in refusal(tmp_path / "nan.csv").what
    os.mkfifo(tmp_path / "pipe.csv")
    assert "neither a folder nor" in refusal(tmp_path / "pipe.csv").what


def test_damaged_tables_are_refused_in_three_lines(pictures: Path) -> None:
    """Random bytes in good tables: a data set or a refusal, nothing else."""
    rng = np.random.default_rng(0)
    rows = [{"file": f"{n}.png", "label": n % 2, "v": [n, 0.5]} for n in range(6)]
    texts = {
        "labels.csv": b"file,label,x\n" + b"".join(b'"%d.png",%d,0.%d\n' % (n, n % 2, n) for n in range(6)),
        "metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
    }
    refused = 0
    for name, text in texts.items():
        for _ in range(100):
            damaged = bytearray(text)
            for position in rng.integers(0, len(text), 2):
                damaged[position] = rng.integers(256)
            (pictures / name).write_bytes(damaged)
            try:
                load(pictures, cache="off")
            except DataError as error:
                refused += len(str(error).splitlines()) == 3
        (pictures / name).unlink()
    assert refused > 100
