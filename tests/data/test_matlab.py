"""MATLAB files: SciPy writes them, and what we read is what SciPy reads; damage of any kind is a refusal."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from sfumato.data.matlab import read_matlab
from sfumato.errors import DataError

KINDS = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")


def written(arrays: dict[str, object], **options: object) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, arrays, **options)
    return stream.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_numbers_are_read_as_scipy_reads_them(tmp_path: Path, compressed: bool) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {}
    for kind in KINDS:
        for i, shape in enumerate([(1, 1), (1, 3), (5, 1), (4, 7), (2, 3, 4)]):
            values = rng.integers(0, 100, shape) - (50 if kind[0] != "u" else 0)
            arrays[f"{kind}_{i}"] = (values / 4 if kind[0] == "f" else values).astype(kind)
    arrays |= {"flags": np.array([[True, False]]), "x": np.zeros((1, 0)), "short": np.array([[1, 2]], np.uint8)}
    path = tmp_path / "a.mat"
    path.write_bytes(written(arrays, do_compression=compressed))
    found, theirs = read_matlab(path), scipy.io.loadmat(path)
    assert set(found) == set(arrays)
    for name, values in found.items():
        np.testing.assert_array_equal(values, theirs[name], strict=name != "flags")  # ours are 0 and 1


def test_what_is_not_numbers_is_passed_over(tmp_path: Path) -> None:
    cells = np.empty((1, 2), object)
    cells[:] = [[1, "a"]]
    others = {"text": "flowers", "complex": np.array([1 + 2j]), "cells": cells, "record": {"a": 1.0}}
    (tmp_path / "a.mat").write_bytes(written({**others, "labels": np.array([[3, 1]])}))
    assert {name: values.tolist() for name, values in read_matlab(tmp_path / "a.mat").items()} == {"labels": [[3, 1]]}


def test_big_endian_files(tmp_path: Path) -> None:
    """The layout by hand: header, one array of two int16 stored big-endian."""

    def element(kind: int, content: bytes) -> bytes:
        return kind.to_bytes(4, "big") + len(content).to_bytes(4, "big") + content + b"\0" * (-len(content) % 8)

    def words(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "big") for value in values)

    name = b"\0\2\0\1" + b"ab\0\0"  # the short form: length 2, type 1
    matrix = element(6, words(10, 0)) + element(5, words(1, 2)) + name + element(3, b"\xff\xfe\x01\x00")
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00" + b"MI"
    (tmp_path / "a.mat").write_bytes(header + element(14, matrix))
    assert read_matlab(tmp_path / "a.mat")["ab"].tolist() == [[-2, 256]]


def test_damage_is_a_refusal(tmp_path: Path) -> None:
    """Cuts and 300 changed bytes: either a refusal or arrays, never another exception."""
    path, kept = tmp_path / "a.mat", 0
    rng = np.random.default_rng(0)
    plain = written({"labels": np.arange(30)[None], "b": np.ones((3, 3))})
    for whole in (plain, written({"labels": np.arange(300)[None]}, do_compression=True)):
        cuts = [whole[:n] for n in range(0, len(whole), 13)]
        for _ in range(150):
            changed = bytearray(whole)
            changed[rng.integers(124, len(whole))] = rng.integers(256)
            cuts.append(bytes(changed))
        for content in cuts:
            path.write_bytes(content)
            with suppress(DataError):
                read_matlab(path)
                kept += 1
    assert kept < 300  # of about 450


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file", b"\x89HDF\r\n\x1a\n", b"\0" * 200])
def test_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content.ljust(200, b"\0") if content else b"")
    with pytest.raises(DataError, match="expected: a MATLAB file of level 5"):
        read_matlab(tmp_path / "a.mat")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_matlab(tmp_path / "none.mat")
