"""Named sets as a whole: found where people keep them, fetched only when asked to, and silent otherwise."""

import hashlib
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.data import SET_SOURCES, DataConfig, Packed, declared_classes, declared_shape, load_data, sets
from sfumato.data.fetch import Published
from sfumato.errors import DataError

LaidOut = Callable[..., Path]
FETCHED = ("mnist", "fashion-mnist", "cifar10", "cifar100", "oxford-flowers", "oxford-pets")
COUNTS = {"mnist": 42, "fashion-mnist": 42, "cifar10": 23, "cifar100": 23, "oxford-flowers": 9, "oxford-pets": 12}


class Connected(Exception):
    """A connection was tried. Not an OSError, which could be taken for a network that is down."""


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even this machine is reached, and no name is looked up."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise Connected(str(args))

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def published(server: Any, publisher: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The table of sets with small files of the true layout, which the server gives out."""
    small = {}
    for name, files in publisher.fetchable().items():
        named = sets.SETS[name]
        server.files |= {f"{name}/{file}": content for file, content in files.items()}
        items = tuple(
            replace(item, published=described(files, item, f"{server.address}{name}/")) for item in named.items
        )
        small[name] = replace(named, items=items)
    monkeypatch.setattr(sets, "SETS", {**sets.SETS, **small})
    return server


def described(files: dict[str, bytes], item: Any, address: str) -> Published:
    content = files[item.published.name]
    return Published(item.published.name, len(content), hashlib.sha256(content).hexdigest(), (address,))


def load(source: str, **settings: Any) -> Packed:
    size = 8 if source.startswith("oxford") else None
    return load_data(DataConfig(source=source, size=size, **settings), seed=0)


@pytest.mark.parametrize("source", FETCHED)
def test_fetched_once_into_the_cache(
    published: Any, private_cache: Path, source: str, no_longer: Callable[[], None]
) -> None:
    first = load(source, download=True)
    assert len(first) == COUNTS[source]
    folder = private_cache / "sfumato" / "sets" / source
    files = sets.SETS[source].items
    assert sorted(p.name for p in folder.iterdir()) == sorted(item.published.name for item in files)  # type: ignore[union-attr]
    assert len(published.requests) == len(files)
    no_longer()
    assert load(source).fingerprint == load(source, download=True).fingerprint == first.fingerprint
    assert first.report == ()


@pytest.fixture
def no_longer(request: pytest.FixtureRequest) -> Callable[[], None]:
    """From the moment it is called, no connection can be opened."""
    return lambda: request.getfixturevalue("no_connection")


def test_fetched_into_the_path_and_only_what_is_missing(published: Any, publisher: Any, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "digits"
    assert len(load("mnist", path=str(folder), download=True)) == 42
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    del published.requests[:]
    assert len(load("mnist", path=str(folder), download=True)) == 42
    assert [name for name, _ in published.requests] == ["mnist/t10k-labels-idx1-ubyte.gz"]


def test_a_broken_download_goes_on(published: Any, private_cache: Path) -> None:
    published.faults = [("cut", 1000)]
    assert len(load("cifar10", download=True)) == 23
    assert [asked for _, asked in published.requests] == [None, "bytes=1000-"]


def test_a_file_that_was_changed_at_its_address(published: Any, private_cache: Path) -> None:
    content = published.files["cifar10/cifar-10-binary.tar.gz"]
    published.files["cifar10/cifar-10-binary.tar.gz"] = content[:-1] + b"x"
    with pytest.raises(DataError, match="it is another file than the published one"):
        load("cifar10", download=True)
    assert not list((private_cache / "sfumato" / "sets" / "cifar10").iterdir())


@pytest.mark.parametrize("source", SET_SOURCES)
@pytest.mark.parametrize("path", [None, "empty"])
def test_without_asking_nothing_is_fetched(
    no_connection: None, source: str, path: str | None, tmp_path: Path, private_cache: Path
) -> None:
    """Three lines that say which file to put where; no connection, no folder."""
    (tmp_path / "empty").mkdir()
    given = None if path is None else str(tmp_path / path)
    with pytest.raises(DataError) as caught:
        load(source, path=given)
    named = sets.SETS[source]
    first = named.items[0].names[0]
    assert caught.value.what.startswith(f"data.source is {source!r}, and {first}")
    folder = str(private_cache / "sfumato" / "sets" / source)
    assert folder in caught.value.what
    assert f"into {given or folder} yourself, from {named.page}" in caught.value.fix
    assert ("--data.download (with train, resume or data) fetches" in caught.value.fix) == (source != "celeba")
    assert not list(private_cache.iterdir())


def test_the_whole_of_the_data_opens_no_connection(
    no_connection: None, publisher: Any, laid_out: LaidOut, tmp_path: Path
) -> None:
    """F8: every kind of source, read from beginning to end."""
    for source, files in publisher.fetchable().items():
        assert len(load(source, path=str(laid_out(files, source)))) == COUNTS[source]
    assert len(load("celeba", path=str(laid_out(publisher.celeba(), "faces")))) == 7
    for source in ("digits", "sprites", "moons"):
        assert len(load_data(DataConfig(source=source, count=10), seed=0)) >= 10
    np.savez(tmp_path / "own.npz", images=publisher.colour)
    assert len(load("folder", path=str(tmp_path / "own.npz"))) == 23


def test_without_a_network_the_error_says_what_to_do(
    server: Any, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row F8: `--data.download` where nobody answers. The real table, whose hosts no test may reach."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    named = sets.SETS["oxford-flowers"]
    away = replace(
        named,
        items=tuple(replace(i, published=replace(i.published, addresses=(nowhere,))) for i in named.items),  # type: ignore[type-var]
    )
    monkeypatch.setattr(sets, "SETS", {**sets.SETS, "oxford-flowers": away})
    with pytest.raises(DataError) as caught:
        load("oxford-flowers", download=True)
    assert "102flowers.tgz cannot be fetched" in caught.value.what
    assert "344,862,509 bytes with SHA-256 2d01ecc8" in caught.value.expected
    assert f"put the file into {private_cache}/sfumato/sets/oxford-flowers yourself" in caught.value.fix


def test_nowhere_to_put_it(no_connection: None) -> None:
    with pytest.raises(DataError, match=r"neither data\.path nor a cache"):
        load("mnist", cache="off", download=True)
    with pytest.raises(DataError, match=r"not in data\.path, which is not given"):
        load("mnist", cache="off")


@pytest.mark.parametrize("source", ["mnist", "oxford-pets"])
def test_ones_own_data_replace_the_set(
    no_connection: None, publisher: Any, laid_out: LaidOut, tmp_path: Path, source: str, save_png: Callable[..., None]
) -> None:
    """A recipe that names a set takes a folder of pictures or an array, with or without `download`."""
    for i in range(3):
        save_png(tmp_path / "photos" / "images" / f"{i}.png", i, (8, 8, 3))
    np.savez(tmp_path / "own.npz", images=publisher.colour[:5])
    for download in (False, True) if source == "mnist" else (False,):
        assert len(load(source, path=str(tmp_path / "photos"), download=download)) == 3
        assert len(load(source, path=str(tmp_path / "own.npz"), download=download)) == 5


@pytest.mark.parametrize("path", ["nowhere", "nowhere.npz"])
def test_a_path_that_leads_nowhere(no_connection: None, tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="no such"):
        load("mnist", path=str(tmp_path / path))
    if path.endswith("npz"):
        with pytest.raises(DataError, match="no such file"):
            load("mnist", path=str(tmp_path / path), download=True)
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_leads_to_the_cache(
    no_connection: None, publisher: Any, laid_out: LaidOut, private_cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(laid_out(publisher.mnist()), private_cache / "sfumato" / "sets" / "mnist")
    (tmp_path / "empty").mkdir()
    packed = load("mnist", path=str(tmp_path / "empty"))
    assert len(packed) == 42
    assert f"{tmp_path}/empty holds no file of mnist: read from the cache" in packed.report
    (tmp_path / "empty" / "train-images-idx3-ubyte").touch()  # but half a set is not made whole by another one
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz, t10k-images.* are not in"):
        load("mnist", path=str(tmp_path / "empty"))


def test_the_table_is_of_published_files() -> None:
    """What can be checked without a network: lengths, hashes and addresses of the right form, none of them twice."""
    assert tuple(sets.SETS) == SET_SOURCES
    files = [item.published for named in sets.SETS.values() for item in named.items if item.published is not None]
    assert len({file.sha256 for file in files}) == len(files) == 15
    for file in files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.size > 100
        assert file.addresses
        assert all(url.startswith(("https://", "http://fashion-mnist.s3-")) for url in file.urls)
        assert all(address.endswith("/") for address in file.addresses)


@pytest.mark.parametrize(
    ("config", "shape", "classes"),
    [
        (DataConfig(source="mnist", pad=32), (1, 32, 32), 10),
        (DataConfig(source="cifar100"), (3, 32, 32), 100),
        (DataConfig(source="cifar100", label="coarse"), (3, 32, 32), 20),
        (DataConfig(source="oxford-flowers"), None, 102),
        (DataConfig(source="oxford-pets", size=64, label="species"), (3, 64, 64), 2),
        (DataConfig(source="celeba"), (3, 218, 178), None),
        (DataConfig(source="mnist", path="elsewhere"), None, None),
    ],
)
def test_what_is_known_without_the_data(config: DataConfig, shape: tuple[int, ...] | None, classes: int | None) -> None:
    assert (declared_shape(config), declared_classes(config)) == (shape, classes)
