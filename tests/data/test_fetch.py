"""Fetching: every break of a connection is survived, and nothing but the published file is ever taken for it."""

import hashlib
import io
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.data.fetch import Patience, Published, fetch
from sfumato.errors import DataError, ResourceError

CONTENT = np.random.default_rng(1).integers(0, 256, 700_001, np.uint8).tobytes()  # more than one block
QUICK = Patience(timeout=5, attempts=3, pause=0.001)
Server = Any  # conftest.FileServer


@pytest.fixture
def file(server: Server) -> Published:
    server.files["x.bin"] = CONTENT
    return Published("x.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), (server.address,))


@pytest.fixture
def get(file: Published, tmp_path: Path) -> Callable[..., bytes]:
    """Fetch into tmp_path; the file must be the only thing there afterwards."""

    def run(wanted: Published = file, patience: Patience = QUICK) -> bytes:
        path = fetch(wanted, tmp_path, patience=patience, told=io.StringIO())
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
        return path.read_bytes()

    return run


def failing(file: Published, folder: Path, patience: Patience = QUICK) -> DataError:
    """The refusal; nothing lies under the final name afterwards."""
    with pytest.raises(DataError) as caught:
        fetch(file, folder, patience=patience, told=io.StringIO())
    assert not (folder / file.name).exists()
    assert file.sha256 in caught.value.expected
    assert str(folder) in caught.value.fix
    return caught.value


def test_it_is_fetched_once(server: Server, get: Callable[..., bytes]) -> None:
    assert get() == CONTENT
    assert get() == CONTENT
    assert server.requests == [("x.bin", None)]


def test_it_goes_on_from_where_a_connection_broke_off(server: Server, get: Callable[..., bytes]) -> None:
    server.faults = [("cut", 300_000), ("cut", 1), ("cut", 0), ("cut", 0), ("cut", 399_998)]
    assert get() == CONTENT
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=300000-", "bytes=300001-", "bytes=300001-", "bytes=300001-", "bytes=699999-"]


def test_it_goes_on_in_another_process(server: Server, file: Published, tmp_path: Path) -> None:
    server.faults = [("cut", 123_456)] + [("cut", 0)] * 3
    error = failing(file, tmp_path)
    assert "the connection ended after 123,456 of 700,001 bytes" in error.what
    assert (tmp_path / "x.bin.part").stat().st_size == 123_456
    assert fetch(file, tmp_path, told=io.StringIO()).read_bytes() == CONTENT
    assert server.requests[-1] == ("x.bin", "bytes=123456-")


def test_a_server_that_cannot_go_on_is_read_from_the_start(server: Server, get: Callable[..., bytes]) -> None:
    server.ranges = False
    server.faults = [("cut", 500_000)]
    assert get() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=500000-"]


@pytest.mark.parametrize("left", [b"something else", bytes(len(CONTENT)), CONTENT + b"!", b"\0" * (len(CONTENT) + 9)])
def test_leftovers_of_another_file_do_not_survive(get: Callable[..., bytes], tmp_path: Path, left: bytes) -> None:
    (tmp_path / "x.bin.part").write_bytes(left)
    assert get() == CONTENT


def test_a_whole_leftover_needs_no_connection(server: Server, get: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    assert get() == CONTENT
    assert server.requests == []


def test_a_range_that_the_server_lacks_is_asked_for_from_the_start(
    server: Server, file: Published, tmp_path: Path
) -> None:
    """416: what lies there is shorter than what we have. The published file comes later, at the same address."""
    server.files["x.bin"] = CONTENT[:10]
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:500])
    error = failing(file, tmp_path)
    assert "the file there has 10 bytes, the published one 700,001" in error.what
    assert not (tmp_path / "x.bin.part").exists()


def test_another_file_of_the_same_length_is_refused(server: Server, file: Published, tmp_path: Path) -> None:
    server.files["x.bin"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    assert "it is another file than the published one (SHA-256 " in failing(file, tmp_path).what
    assert list(tmp_path.iterdir()) == []


def test_the_next_address_helps_out(server: Server, file: Published, get: Callable[..., bytes]) -> None:
    server.files |= {"wrong/x.bin": b"<html>sorry</html>", "false/x.bin": CONTENT[::-1]}
    folders = ("gone/", "wrong/", "false/", "")
    many = Published("x.bin", file.size, file.sha256, tuple(server.address + folder for folder in folders))
    assert get(many) == CONTENT
    assert [name for name, _ in server.requests] == ["gone/x.bin", "wrong/x.bin", "false/x.bin", "x.bin"]


@pytest.mark.parametrize(("status", "tries"), [(503, 3), (429, 3), (404, 1), (403, 1)])
def test_what_may_pass_is_tried_again(server: Server, file: Published, tmp_path: Path, status: int, tries: int) -> None:
    server.faults = [status] * 9
    assert f"{server.address}x.bin: HTTP {status}" in failing(file, tmp_path).what
    assert len(server.requests) == tries


def test_silence_ends_an_attempt(server: Server, get: Callable[..., bytes]) -> None:
    server.faults = [("hang", 1000)]
    assert get(patience=Patience(timeout=0.2, attempts=2, pause=0)) == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=1000-"]


def test_nobody_there(file: Published, tmp_path: Path) -> None:
    """Without a network there is nothing to wait for: one attempt, and the folder is left as it was."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    nowhere = Published("x.bin", file.size, file.sha256, (f"http://127.0.0.1:{port}/",))
    error = failing(nowhere, tmp_path, Patience(pause=100))
    assert f"http://127.0.0.1:{port}/x.bin: Connection refused" in error.what
    assert list(tmp_path.iterdir()) == []


def test_a_redirection_leads_to_http_alone(server: Server, file: Published, get: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    for goal in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/x", "data:,x"):
        server.moved["moved/x.bin"] = goal
        moved = Published("x.bin", file.size, file.sha256, (f"{server.address}moved/",))
        failing(moved, tmp_path)
    (tmp_path / "secret").unlink()
    server.moved["moved/x.bin"] = f"{server.address}x.bin"
    assert get(moved) == CONTENT


def test_two_at_once_fetch_it_once(server: Server, file: Published, tmp_path: Path) -> None:
    server.faults = [("hang", 1000)]
    found: list[Path] = []
    told = [io.StringIO() for _ in range(3)]
    patience = Patience(timeout=0.3, pause=0.01)
    threads = [
        threading.Thread(target=lambda text=text: found.append(fetch(file, tmp_path, patience=patience, told=text)))
        for text in told
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [tmp_path / "x.bin"] * 3
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
    assert len(server.requests) == 2  # of the one that fetched: silence, then the rest
    assert sum("another process is fetching it; waiting" in text.getvalue() for text in told) == 2


def test_a_folder_that_cannot_be_had(file: Published, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ResourceError, match="cannot be stored"):
            fetch(file, folder, patience=QUICK, told=io.StringIO())


def test_too_little_space_is_said_before_anything_is_fetched(
    server: Server, file: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 600_000})())
    with pytest.raises(ResourceError, match=r"0\.7 MB are to be fetched and 0\.6 MB are free"):
        fetch(file, tmp_path, patience=QUICK, told=io.StringIO())
    assert server.requests == []


def test_a_disk_that_fills_up(server: Server, file: Published, get: Callable[..., bytes], tmp_path: Path) -> None:
    """The system's limit on the length of a file stands for the disk. What fitted is kept, and is gone on from."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(ResourceError, match="File too large"):
            fetch(file, tmp_path, patience=QUICK, told=io.StringIO())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "x.bin.part").stat().st_size == 300_000
    assert get() == CONTENT
    assert server.requests[-1] == ("x.bin", "bytes=300000-")


def test_progress_is_a_line_for_every_tenth(file: Published, tmp_path: Path) -> None:
    told = io.StringIO()
    fetch(file, tmp_path, patience=QUICK, told=told)
    lines = told.getvalue().splitlines()
    assert lines[-1] == "x.bin  0.7 MB of 0.7 MB"
    assert 2 <= len(lines) <= 11


def test_progress_overwrites_itself_on_a_terminal(file: Published, tmp_path: Path) -> None:
    told = io.StringIO()
    told.isatty = lambda: True  # type: ignore[method-assign]
    fetch(file, tmp_path, patience=QUICK, told=told)
    assert told.getvalue().startswith("\rx.bin  ")
    assert told.getvalue().count("\n") == 1
    assert told.getvalue().endswith("0.7 MB of 0.7 MB\n")


def test_who_waited_for_one_that_failed_fetches_it_anew(server: Server, file: Published, tmp_path: Path) -> None:
    """The one before gave up and took its empty part away: what is received now must not go with it."""
    server.faults = [("hang", 0)]
    failed: list[DataError] = []

    def first() -> None:
        with pytest.raises(DataError) as caught:
            fetch(file, tmp_path, patience=Patience(timeout=1.0, attempts=1, pause=0), told=io.StringIO())
        failed.append(caught.value)

    thread = threading.Thread(target=first)
    thread.start()
    while not server.requests:
        pass
    told = io.StringIO()
    assert fetch(file, tmp_path, patience=QUICK, told=told).read_bytes() == CONTENT
    thread.join(20)
    assert len(failed) == 1
    assert "another process is fetching it; waiting" in told.getvalue()
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
