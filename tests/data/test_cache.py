"""The cache of decoded folders: used when nothing changed, rebuilt when damaged, done without when it cannot be."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sfumato.data import DataConfig, Packed, load_data
from sfumato.data import pictures as sources

Save = Callable[..., None]


@pytest.fixture
def pictures(tmp_path: Path, save_png: Save) -> Path:
    for i in range(4):
        save_png(tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png", 10 * i)
    return tmp_path / "pictures"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was really decoded."""
    seen: list[Path] = []
    decode = sources.decode

    def watched(path: Path, preparation: sources.Preparation) -> sources.Picture:
        seen.append(path)
        return decode(path, preparation)

    monkeypatch.setattr(sources, "decode", watched)
    return seen


def load(path: Path, **settings: object) -> Packed:
    return load_data(DataConfig(path=str(path), **settings), seed=0)  # type: ignore[arg-type]


def test_the_second_time_nothing_is_decoded(pictures: Path, decoded: list[Path], private_cache: Path) -> None:
    first = load(pictures, pad=8)
    second = load(pictures, pad=6)
    assert len(decoded) == 4
    assert torch.equal(first.values, second.values)
    assert first.labels is not None
    assert second.labels is not None
    assert torch.equal(first.labels, second.labels)
    assert (first.label_values, first.class_names, first.report) == (
        second.label_values,
        second.class_names,
        second.report,
    )
    assert first.fingerprint == second.fingerprint
    assert (first.shape, second.shape) == ((3, 8, 8), (3, 6, 6))  # the padding is the settings', not the cache's
    assert [p.parent.name for p in private_cache.rglob("*.safetensors")] == ["packed"]


def test_a_changed_file_or_setting_is_decoded_again(pictures: Path, decoded: list[Path], save_png: Save) -> None:
    before = load(pictures)
    load(pictures, size=2)
    assert len(decoded) == 8
    save_png(pictures / "a" / "0.png", 200)
    os.utime(pictures / "a" / "0.png", ns=(1, 1))
    after = load(pictures)
    assert len(decoded) == 12
    assert after.values[0, 0, 0, 0] == 200
    assert after.fingerprint != before.fingerprint
    os.utime(pictures / "a" / "0.png", ns=(2, 2))  # a new date alone: another picture of the same size may lie there
    load(pictures)
    assert len(decoded) == 16


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "emptied", "garbage"])
def test_a_damaged_cache_is_rebuilt(pictures: Path, decoded: list[Path], private_cache: Path, damage: str) -> None:
    good = load(pictures)
    (file,) = private_cache.rglob("*.safetensors")
    intact = file.read_bytes()
    flipped = intact[:-3] + bytes([intact[-3] ^ 1]) + intact[-2:]
    file.write_bytes({"flipped bit": flipped, "cut": intact[:-3], "emptied": b"", "garbage": b"\xff" * 99}[damage])
    assert load(pictures).fingerprint == good.fingerprint
    assert len(decoded) == 8
    assert file.read_bytes() == intact


def test_it_works_without_a_place_for_the_cache(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_cache: Path
) -> None:
    expected = load(pictures, cache="off").fingerprint
    assert not list(private_cache.rglob("*.safetensors"))
    (tmp_path / "file").touch()
    assert load(pictures, cache=str(tmp_path / "file")).fingerprint == expected  # a file stands where it should be
    assert load(pictures, cache="/proc/sfumato").fingerprint == expected  # no folder can be made there
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert load(pictures).fingerprint == expected


def test_an_explicit_folder_wins(pictures: Path, tmp_path: Path, private_cache: Path) -> None:
    load_data(DataConfig(path=str(pictures), cache=str(tmp_path / "ignored")), seed=0, cache=tmp_path / "chosen")
    assert list((tmp_path / "chosen").rglob("*.safetensors"))
    assert not (tmp_path / "ignored").exists()
    assert not list((tmp_path / "chosen").rglob("*.tmp"))
