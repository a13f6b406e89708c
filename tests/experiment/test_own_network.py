"""The network that docs/networks.md tells people to write, written."""

import os
import re
import subprocess
import sys
from pathlib import Path

from sfumato.nn import NetworkConfig

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def test_the_page_says_how_to_add_a_network(tmp_path: Path) -> None:
    """In a process of its own, as a kind stays known where it was once imported."""
    module, use = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "mynet.py").write_text(module, encoding="utf-8")
    short = use.replace('"training.steps": 200', '"training.steps": 3, "training.batch_size": 4, "data.limit": 40')
    assert short != use
    inherited = os.environ.get("PYTHONPATH", "")
    source = str(Path(sys.modules["sfumato"].__path__[0]).parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), source, inherited])}
    done = subprocess.run(
        [sys.executable, "-c", short], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(4, 8, 8, 1)"
    assert "kind: PlainConv" in (tmp_path / "runs" / "digits-1" / "config.yaml").read_text(encoding="utf-8")


def test_the_page_names_every_network() -> None:
    page = PAGE.read_text(encoding="utf-8")
    names = {cls.__name__.removesuffix("Config") for cls in every(NetworkConfig)} - {"Network", "NamedSize"}
    assert {name for name in names if f"`{name}`" not in page} == set()


def every(cls: type) -> set[type]:
    """All classes of the package that derive from `cls`."""
    below = [sub for sub in cls.__subclasses__() if sub.__module__.startswith("sfumato.")]
    return {cls}.union(*map(every, below)) if below else {cls}
