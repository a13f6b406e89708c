"""A cached result is served to none but the settings that made it: each setting changed in turn, with a warm cache."""

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.data import DataConfig, Packed, load_data
from sfumato.errors import SfumatoError

ANOTHER: dict[str, Any] = {
    "size": 3,
    "channels": 1,
    "normalize": "standardize",
    "flip": True,
    "pad": 9,
    "held_out": 0.5,
    "test_part": False,
    "limit": 2,
    "count": 7,
    "noise": 0.5,
    "background": "black",
    "value_range": (0.0, 100.0),
    "bad_files": "skip",
    "min_size": 5,
    "max_pixels": 20,
    "label": "other",
    "columns": ("x",),
}
WHERE = {"source", "path", "cache", "download"}


def outcome(config: DataConfig, cache: Path) -> object:
    """All that a reader gives, or what it refuses."""
    try:
        packed: Packed = load_data(config, seed=0, cache=cache)
    except SfumatoError as error:
        return str(error)
    conditions = None if packed.conditions is None else packed.conditions.tolist()
    facts = (packed.shape, packed.label_values, packed.class_names, packed.absent_classes, packed.names, packed.report)
    return (packed.fingerprint, conditions, packed.condition_names, packed.test_count, *facts)


def pictures(root: Path, save_png: Callable[..., None]) -> Path:
    rng = np.random.default_rng(0)
    for i in range(6):
        save_png(root / "ab"[i % 2] / f"{i}.png", rng.integers(0, 256, (4, 6, 4), np.uint8))
    return root


def folder(root: Path, save_png: Callable[..., None], publisher: Any) -> DataConfig:
    return DataConfig(path=str(pictures(root / "own", save_png)))


def table(root: Path, save_png: Callable[..., None], publisher: Any) -> DataConfig:
    rows = "".join(f"{'ab'[i % 2]}/{i}.png,{i % 3},{i},{i * i}\n" for i in range(6))
    (pictures(root / "own", save_png) / "labels.csv").write_text("file_name,label,other,x\n" + rows)
    return DataConfig(path=str(root / "own"))


def archive(root: Path, save_png: Callable[..., None], publisher: Any) -> DataConfig:
    shutil.make_archive(str(root / "x"), "gztar", pictures(root / "own", save_png))
    return DataConfig(path=str(root / "x.tar.gz"))


def faces(root: Path, save_png: Callable[..., None], publisher: Any) -> DataConfig:
    for name, content in publisher.celeba().items():
        (root / name).write_bytes(content)
    return DataConfig(source="celeba", path=str(root))


@pytest.mark.parametrize("made", [folder, table, archive, faces])
def test_no_setting_is_missing_from_the_key(
    made: Callable[..., DataConfig], tmp_path: Path, save_png: Callable[..., None], publisher: Any
) -> None:
    """Whatever is read with a cache that knows the defaults is what is read without one."""
    assert {field.name for field in fields(DataConfig)} == {*ANOTHER, *WHERE}
    base = made(tmp_path, save_png, publisher)
    plain = {field.name: getattr(base, field.name) for field in fields(base)}
    warm = tmp_path / "cache"
    outcome(base, warm)
    assert list(warm.rglob("*.safetensors"))
    for name, value in ANOTHER.items():
        config = DataConfig(**{**plain, name: value})
        assert outcome(config, warm) == outcome(config, tmp_path / f"none {name}"), name
    assert outcome(base, warm) == outcome(base, tmp_path / "none")


def test_what_lies_beside_the_pictures_is_told_anew(tmp_path: Path, save_png: Callable[..., None]) -> None:
    config = DataConfig(path=str(pictures(tmp_path / "own", save_png)))
    assert load_data(config, seed=0).report == ()
    (tmp_path / "own" / "notes.txt").write_text("text")
    assert load_data(config, seed=0).report == ("ignored files that are not pictures: 1 .txt",)
    (tmp_path / "own" / "notes.txt").unlink()
    assert load_data(config, seed=0).report == ()


def test_without_remembering_what_was_fetched_is_found_and_nothing_is_kept(publisher: Any, private_cache: Path) -> None:
    """As packing reads: the files of a set lie in the cache folder, its decoded pictures do not."""
    kept = private_cache / "sfumato" / "sets" / "oxford-pets"
    kept.mkdir(parents=True)
    for name, content in publisher.pets().items():
        (kept / name).write_bytes(content)
    assert len(load_data(DataConfig(source="oxford-pets", size=8), seed=0, remember=False)) == 12
    assert not list(private_cache.rglob("*.safetensors"))
