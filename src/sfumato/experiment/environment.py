"""What a run was made with: versions, machine, command; written beside it as environment.json.

No environment variables are recorded.
"""

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

__all__ = ["environment"]

PACKAGES = ("sfumato", "torch", "numpy", "pillow", "safetensors", "accelerate")


def environment() -> dict[str, Any]:
    """Plain data: versions, platform, processor, threads, devices, time and the command's own words."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["sfumato", *sys.argv[1:]],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
