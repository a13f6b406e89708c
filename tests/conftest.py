"""What every test stands on: one thread, known seeds, no network, and a door to larger real data.

Threads are set through the environment before torch is imported, so that the processes that tests start inherit them
and so that tests which need no torch do not pay for importing it.
"""

import ipaddress
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_name, _value)


class NetworkUsed(RuntimeError):
    """A test tried to leave this machine. Not an OSError: code that treats those as "offline" must not swallow it."""


def is_local(address: Any) -> bool:
    """Whether a socket address stays on this machine: a Unix path, a loopback address, the local host's name."""
    if not isinstance(address, tuple):
        return True  # AF_UNIX and its like
    host = address[0]
    if host in (None, "", b"", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse every connection and every look-up of a name except loopback, for the whole session."""

    def guarded(real: Any, position: int) -> Any:
        def call(self: socket.socket, *args: Any) -> Any:
            if not is_local(args[position]):
                raise NetworkUsed(f"a test tried to reach {args[position]!r}; sfumato works with no network at all")
            return real(self, *args)

        return call

    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if not is_local((host,)):
            raise NetworkUsed(f"a test looked up the name {host!r}; sfumato works with no network at all")
        return resolve(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect, 0))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex, 0))
        patch.setattr(socket.socket, "sendto", guarded(socket.socket.sendto, -1))
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is kept in the cache folder of whoever runs the tests, and nothing of theirs is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _known_seeds() -> None:
    """Give the global generators known seeds: a test's numbers do not depend on the tests before it."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of larger real data sets, named by SFUMATO_TEST_DATA; without it the test is skipped, visibly."""
    named = os.environ.get("SFUMATO_TEST_DATA")
    if not named:
        pytest.skip("set SFUMATO_TEST_DATA to the folder of real data sets to run this test")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"SFUMATO_TEST_DATA names {named}, which is not a folder")
    return folder
