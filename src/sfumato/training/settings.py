"""The `training:` section of an experiment: how long, how fast, how often to save, and on what."""

import math
from dataclasses import dataclass
from typing import Literal

from sfumato.errors import ConfigError

__all__ = ["TrainingConfig"]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Settings of the training loop.

    `auto` values are decided at step 0, written into the run, and never decided again. batch_size is global: all
    processes and all accumulated parts together. Intervals are in steps; 0 switches them off.
    """

    steps: int = 10_000
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    decay: Literal["constant", "cosine"] = "constant"
    clip_norm: float | None = 1.0
    ema_decay: float = 0.999
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 50
    evaluate_every: int = 500
    preview_every: int = 1000
    preview_count: int = 36
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    threads: int | None = None
    init_from: str | None = None
    on_disk_full: Literal["stop", "wait"] = "stop"

    def __post_init__(self) -> None:
        at_least_one = ("steps", "batch_size", "accumulate", "preview_count")
        for name in at_least_one:
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in (
            "warmup_steps",
            "log_every",
            "checkpoint_every",
            "evaluate_every",
            "preview_every",
            "weight_decay",
        ):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("keep_checkpoints", self.keep_checkpoints >= 2, "2 or more, so that one bad file loses nothing")
        self._require("learning_rate", 0 < self.learning_rate <= 10, "above 0, at most 10")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        self._require("clip_norm", self.clip_norm is None or 0 < self.clip_norm < math.inf, "above 0, or null for none")
        few = self.threads is None or 1 <= self.threads <= 256
        self._require("threads", few, "from 1 to 256, or null for all cores")
        self._require("preview_count", self.preview_count <= 4096, "of at most 4096")
        for name in ("steps", "batch_size"):
            self._require(name, getattr(self, name) <= 10**9, "at most 10^9")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"training.batch_size is {self.batch_size} and training.accumulate is {self.accumulate}",
                expected="a global batch that the number of accumulated parts divides",
                fix=f"set training.accumulate to a divisor of {self.batch_size}",
            )

    def _require(self, name: str, good: bool, allowed: str) -> None:
        if not good:
            raise ConfigError(
                f"training.{name} is {getattr(self, name)}",
                expected=f"a value {allowed}",
                fix=f"change training.{name}",
            )
