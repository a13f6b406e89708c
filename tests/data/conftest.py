"""Fixtures of the data tests: a private cache folder, the larger real data, and proof that inputs stay untouched."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test may read or write the cache of the person who runs it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def real_data() -> Path:
    """The folder of larger real data sets; the test is skipped, visibly, where there is none."""
    folder = os.environ.get("SFUMATO_TEST_DATA")
    if not folder:
        pytest.skip("SFUMATO_TEST_DATA does not name a folder of real data")
    return Path(folder)


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Call it once the inputs below `tmp_path` are written; at the end of the test they must be as they were."""
    before: dict[str, str] = {}

    def state() -> dict[str, str]:
        files = [p for p in sorted(tmp_path.rglob("*")) if p.is_file() and not p.is_symlink()]
        return {str(p): f"{hashlib.sha256(p.read_bytes()).hexdigest()} {p.stat().st_mtime_ns}" for p in files}

    yield lambda: before.update(state())
    assert before, "the test never took its snapshot"
    assert state() == before


@pytest.fixture
def save_png() -> Callable[..., None]:
    """Write a uint8 array (H, W), (H, W, 3) or (H, W, 4) as a PNG, making its folders."""

    def save(path: Path, pixels: np.ndarray | int = 128, shape: tuple[int, ...] = (4, 4, 3)) -> None:
        array = np.full(shape, pixels, np.uint8) if isinstance(pixels, int) else pixels
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, format="PNG")

    return save
