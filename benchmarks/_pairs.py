"""Timing two things against each other: in turn, five pairs, the median of the ratios.

A ratio within one run holds where absolute times do not: the machine's speed drifts, and both sides drift with it.
"""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Pairs", "alternate", "machine"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds per call of A and of B, pair by pair, and the medians."""

    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median over the pairs of A/B."""
        return statistics.median(a / b for a, b in zip(self.a, self.b, strict=True))

    @property
    def spread(self) -> str:
        """Smallest and largest ratio of the pairs."""
        ratios = [a / b for a, b in zip(self.a, self.b, strict=True)]
        return f"{min(ratios):.3f} … {max(ratios):.3f}"

    def line(self, name_a: str, name_b: str, *, bound: str) -> str:
        """One line for people."""
        a, b = statistics.median(self.a) * 1e3, statistics.median(self.b) * 1e3
        return f"{name_a} {a:.2f} ms, {name_b} {b:.2f} ms: ratio {self.ratio:.3f} (pairs {self.spread}); wanted {bound}"


def timed(call: Callable[[], object], repeats: int) -> float:
    """Seconds per call over `repeats` calls."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def alternate(a: Callable[[], object], b: Callable[[], object], *, repeats: int, pairs: int = 5) -> Pairs:
    """Time a and b in turn after one untimed call of each."""
    timed(a, 1), timed(b, 1)
    found = [(timed(a, repeats), timed(b, repeats)) for _ in range(pairs)]
    return Pairs(tuple(a for a, _ in found), tuple(b for _, b in found))


def machine() -> str:
    """The machine beside which a ratio is quoted."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    amx = "AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {amx}, {torch.get_num_threads()} threads, torch {torch.__version__}{gpu}"
