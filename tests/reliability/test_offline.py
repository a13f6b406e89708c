"""F8: with no network at all everything works, and without `--data.download` no connection is ever opened."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SOURCE = Path(sys.modules["sfumato"].__path__[0])
TINY = "--training.steps 2 --training.batch_size 8 --training.preview_every 2 --training.preview_count 2"
SMALL = f"{TINY} --network.widths 8 --network.depth 1 --network.embedding 8 --sampling.steps 2 --data.limit 60"
POINTS = "--data.count 60 --network.widths 16,16 --training.steps 2 --training.batch_size 8 --training.preview_every 0"

# What people do in a day: their own pictures, sets that come along, training, numbers, samples, figures.
JOURNEY = f"""
recipes
data inspect photos --sheet sheet.png --write mine.yaml
data pack photos --out photos.safetensors
train digits {SMALL} --data.path photos --name own
train digits {SMALL} --name a
train digits {SMALL} --name b --training.learning_rate 0.01 --data.path photos.safetensors
train swiss-roll {POINTS} --name points
resume a --training.steps 3
evaluate a --metrics loss,kid,fid,precision,class_balance -n 20
evaluate own --metrics loss,kid -n 6
evaluate a --metrics memorisation -n 6
evaluate points --metrics loss,energy_distance,nll -n 20 --tolerance 1e-2
compare own b --measure --metrics loss -n 6
sample a -n 2 --out drawn.npz
evaluate --samples drawn.npz --reference digits --metrics kid --extractor pixels
edit a inpaint --pictures data --limit 2 --box 2,1,4,5 --out filled
figures grid a -n 4 --out grid.png
figures losses a own --out losses.png
export a --out a.safetensors
runs
verify --list
"""

PROGRAM = """
import sys
from sfumato.cli.main import main
for line in sys.stdin.read().strip().splitlines():
    code = main(line.split())
    print(code, line, flush=True)
"""


def shut_in() -> list[str]:
    """Words before a command that leave it without any network interface, where this system lets a person do that."""
    if shutil.which("unshare") is None:
        return []
    words = ["unshare", "--user", "--map-root-user", "--net"]
    return words if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0 else []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty pictures of their own in two classes."""
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_a_day_without_a_network(
    photos: Path, tmp_path: Path, no_loopback: None, attempts: Callable[[], list[str]]
) -> None:
    """F8. Every command succeeds and not one connection is tried, not even to this machine, with the offline switches
    of other libraries off. Where the system allows it there is no interface either, so that native code has none."""
    switches = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    env = {name: value for name, value in os.environ.items() if name not in switches}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    command = [*shut_in(), sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, input=JOURNEY, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = JOURNEY.strip().splitlines()
    failed = [line for line in lines if f"0 {line}" not in done.stdout.splitlines()]
    assert not failed, done.stderr
    assert attempts() == []
    assert (tmp_path / "runs" / "a" / "checkpoints" / "step-00000003").is_dir()


# --------------------------------------------------------------------------------------------- who may open connections

NETWORK = {"socket", "ssl", "http", "urllib", "ftplib", "smtplib", "telnetlib", "xmlrpc", "socketserver", "asyncio"}
NETWORK |= {"requests", "httpx", "aiohttp", "urllib3", "huggingface_hub", "datasets", "wandb", "gdown", "kagglehub"}
FETCHING = {"data.fetch", "data.hub"}  # both behind `data.download`
NAME_OF_THIS_MACHINE = {"training.lock", "experiment.records"}  # they import socket and call gethostname alone
PLAIN = {"urllib.parse"}  # takes addresses apart, opens none
REMOTE = {"load_state_dict_from_url", "download_url_to_file", "from_pretrained", "hf_hub_download", "snapshot_download"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Name and syntax of the modules that hold one of these words at all."""
    words = re.compile("|".join(NETWORK | REMOTE))
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if words.search(text):
            yield ".".join(path.relative_to(SOURCE).with_suffix("").parts), ast.parse(text)


def imported(tree: ast.Module) -> set[str]:
    """The modules that are imported anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            found.add(node.module)
    return found


def test_only_what_data_download_leads_to_knows_a_network() -> None:
    """F8, by reading: two modules can fetch, two ask this machine for its name, and nobody else knows how."""
    knows: set[str] = set()
    for name, tree in modules():
        knows |= {name for m in imported(tree) - PLAIN if m.split(".")[0] in NETWORK}
        named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        named |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not named & REMOTE, name
        if name in NAME_OF_THIS_MACHINE:
            asked = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
            asked = [node for node in asked if isinstance(node.value, ast.Name) and node.value.id == "socket"]
            assert {node.attr for node in asked} == {"gethostname"}, name
    assert knows == FETCHING | NAME_OF_THIS_MACHINE
