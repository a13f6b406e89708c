"""No test, and so nothing that a test calls, leaves this machine; loopback stays open for several processes."""

import _socket
import asyncio
import contextlib
import multiprocessing
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import no_network
import pytest

Attempts = Callable[[], list[str]]
OUTSIDE = ("192.0.2.1", 80)  # TEST-NET-1 (RFC 5737): nobody answers there
REACHED = "tried to reach ('192.0.2.1', 80)"
LEAVE = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"


def test_a_foreign_address_is_refused(attempts: Attempts) -> None:
    with socket.socket() as outside, pytest.raises(RuntimeError, match=r"tried to reach .*192\.0\.2\.1"):
        outside.connect(OUTSIDE)
    with socket.socket() as outside, pytest.raises(RuntimeError, match="tried to reach"):
        outside.connect_ex(OUTSIDE)
    with socket.socket(type=socket.SOCK_DGRAM) as outside, pytest.raises(RuntimeError, match="tried to reach"):
        outside.sendto(b"", OUTSIDE)
    with socket.socket(type=socket.SOCK_DGRAM) as outside, pytest.raises(RuntimeError, match="tried to reach"):
        outside.sendmsg([b""], (), 0, OUTSIDE)
    assert attempts() == [REACHED] * 4


def test_a_foreign_name_is_not_looked_up(attempts: Attempts) -> None:
    with pytest.raises(RuntimeError, match=r"looked up the name 'example\.org'"):
        urllib.request.urlopen("http://example.org/")
    with pytest.raises(RuntimeError, match="looked up the name"):
        socket.gethostbyname("127.0.0.1.example.org")
    assert len(attempts()) == 2


def test_there_is_no_way_round(attempts: Attempts) -> None:
    """Below the socket module, from another thread, from an event loop."""
    with contextlib.closing(_socket.socket()) as outside, pytest.raises(no_network.NetworkUsed):
        outside.connect(OUTSIDE)
    with ThreadPoolExecutor(1) as pool, pytest.raises(no_network.NetworkUsed):
        pool.submit(socket.create_connection, OUTSIDE).result()
    with pytest.raises(no_network.NetworkUsed):
        asyncio.run(asyncio.wait_for(asyncio.open_connection(*OUTSIDE), 5))
    assert attempts() == [REACHED] * 3


@pytest.mark.parametrize("command", [[sys.executable, "-c", LEAVE], ["bash", "-c", f'"{sys.executable}" -c "{LEAVE}"']])
def test_processes_that_tests_start_stay_here_too(command: list[str], attempts: Attempts) -> None:
    died = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert died.returncode == 1
    assert died.stderr.splitlines()[-1].startswith("no_network.NetworkUsed: a test tried to reach ('192.0.2.1', 80)")
    assert attempts() == [REACHED]


def test_a_spawned_process_stays_here_too(attempts: Attempts) -> None:
    """As the workers of other libraries are started: a new Python, not a copy of this one."""
    worker = multiprocessing.get_context("spawn").Process(target=socket.create_connection, args=(OUTSIDE, 5))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 1
    assert attempts() == [REACHED]


def test_swallowing_the_refusal_does_not_hide_it(attempts: Attempts) -> None:
    """The fixture of every test looks at what is asked for here."""
    with contextlib.suppress(Exception):
        socket.create_connection(OUTSIDE, 5)
    subprocess.run([sys.executable, "-c", f"try: {LEAVE}\nexcept Exception: pass"], timeout=60, check=True)
    assert attempts() == [REACHED] * 2
    assert attempts() == []


def test_loopback_is_open() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
        server.accept()[0] as peer,
    ):
        client.sendall(b"sfumato")
        assert peer.recv(16) == b"sfumato"


def test_loopback_can_be_closed(no_loopback: None, attempts: Attempts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(no_network.NetworkUsed):
            socket.create_connection(server.getsockname(), timeout=5)
        code = f"import socket; socket.create_connection({server.getsockname()!r}, 5)"
        died = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert died.returncode == 1
    assert len(attempts()) == 2


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (("127.0.0.1", 1), True),
        (("127.8.0.1", 1), True),
        (("::1", 1, 0, 0), True),
        ((b"localhost", 1), True),
        ("/run/some.socket", True),
        ((socket.gethostname(), 1), True),
        (("127.0.0.1.example.org", 1), False),
        (("192.168.0.1", 1), False),
        (("0.0.0.1", 1), False),
        (("fe80::1", 1, 0, 0), False),
        ((3, 1), False),  # another machine by AF_VSOCK
    ],
)
def test_what_is_on_this_machine(address: object, local: bool) -> None:
    assert no_network.is_local(address) == local
