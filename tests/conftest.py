"""What every test stands on: one thread, known seeds, no network, and a door to larger real data.

Threads are set through the environment before torch is imported, so that the processes that tests start inherit them
and so that tests which need no torch do not pay for importing it.
"""

import importlib
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_name, _value)

# A shell starts what runs in its background deaf to Ctrl-C; tests that press it need an ear.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Connections are refused from here on, and in the processes that tests start: tests/offline/no_network.py.
_GUARD = str(Path(__file__).parent / "offline")
if _GUARD not in (_inherited := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    os.environ["PYTHONPATH"] = os.pathsep.join([_GUARD, *filter(None, _inherited)])
if _GUARD not in sys.path:
    sys.path.insert(0, _GUARD)
no_network = importlib.import_module("no_network")
no_network.install()


@pytest.fixture(scope="session")
def _network_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that refused attempts are written to, by this process and by those that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        log = tmp_path_factory.mktemp("network") / "attempts"
        patch.setenv(no_network.LOG, str(log))
        yield log


@pytest.fixture
def attempts(_network_log: Path) -> Callable[[], list[str]]:
    """What was refused since it was last called. An attempt that no test asks for in this way fails it."""

    def taken() -> list[str]:
        if not _network_log.exists():
            return []
        lines = _network_log.read_text().splitlines()
        _network_log.unlink()
        return lines

    return taken


@pytest.fixture(autouse=True)
def _no_network(attempts: Callable[[], list[str]]) -> Iterator[None]:
    """All connections and look-ups of names but loopback are refused; it does not help to swallow the refusal."""
    yield
    assert attempts() == [], "the test tried to leave this machine"


@pytest.fixture
def no_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even this machine is reached, by this process and by those that the test starts."""
    monkeypatch.setenv(no_network.MODE, "none")


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
