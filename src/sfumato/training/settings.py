"""The `training:` section of an experiment: how long, how fast, how often to save, and on what."""

import math
from dataclasses import dataclass
from typing import Literal

from sfumato.errors import ConfigError

__all__ = ["TrainingConfig"]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Settings of the training loop.

    `auto` values are decided at step 0, written into the run, and never decided again. Intervals are in steps; 0
    switches them off.

    steps: how many optimizer steps to take.
    batch_size: examples per step, of all processes and all accumulated parts together.
    accumulate: parts that a batch is worked through in, one after another, when it does not fit in memory.
    learning_rate: of AdamW, after the warm-up.
    weight_decay: of AdamW.
    warmup_steps: steps over which the learning rate rises from 0.
    decay: `constant` keeps the learning rate, `cosine` lowers it to 0 at the last step.
    clip_norm: longest gradient that is not shortened to this length; null for no limit.
    ema_decay: share of the averaged weights that a step keeps; sampling uses the average.
    power_ema: relative widths of further averages, such as 0.05,0.1, of which any other width can be made after
        training (docs/averages.md); none by default, since each is one more copy of the weights.
    power_ema_every: steps between two times that these averages are stored; the last step always stores them.
    power_ema_disk: GB that the stored ones may take; beyond, every other one is dropped.
    checkpoint_every: steps between two checkpoints; the last step always makes one.
    keep_checkpoints: how many of the newest checkpoints stay on the disk.
    keep_best: also keeps the checkpoint that is best by this: `loss`, the held-out loss, or a metric of `sfumato
        evaluate` such as energy_distance, which is then measured in training; null for none.
    log_every: steps between two lines of metrics.jsonl.
    evaluate_every: steps between two measurements of the held-out loss, and of what decides which checkpoint is best.
    preview_every: steps between two sheets of sample pictures.
    preview_count: samples on such a sheet.
    copies_every: steps between two looks whether samples have become copies of training examples; a note says so.
    device: `auto` takes the first GPU if there is one, else the CPU; or `cpu`, `cuda`, `cuda:1`, `mps`.
    precision: `bfloat16` is faster on GPUs that have it; the weights stay float32.
    compile: whether torch.compile translates the network first: minutes spent once, for faster steps.
    threads: CPU threads; null for all cores. Another number can change the last bits of a result.
    initial_weights: `in_order` draws them one after another; `by_name` each from the seed and its name, so that
        networks that differ elsewhere begin alike (sweeps do so).
    init_from: a run or an exported file whose averaged weights are the first weights.
    on_disk_full: `stop` ends the run, resumable; `wait` tries again until the checkpoint fits.
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
    power_ema: tuple[float, ...] = ()
    power_ema_every: int = 500
    power_ema_disk: float = 8.0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    keep_best: str | None = None
    log_every: int = 50
    evaluate_every: int = 500
    preview_every: int = 1000
    preview_count: int = 36
    copies_every: int = 0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    threads: int | None = None
    initial_weights: Literal["in_order", "by_name"] = "in_order"
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
            "copies_every",
            "weight_decay",
        ):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("keep_checkpoints", self.keep_checkpoints >= 2, "2 or more, so that one bad file loses nothing")
        self._require("learning_rate", 0 < self.learning_rate <= 10, "above 0, at most 10")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        widths = self.power_ema
        narrow = "all different, each from 0.01 to 0.28, or none: []"
        self._require("power_ema", len({*widths}) == len(widths) and all(0.01 <= w <= 0.28 for w in widths), narrow)
        self._require("power_ema_every", 1 <= self.power_ema_every <= 10**9, "1 or more")
        self._require("power_ema_disk", 0 < self.power_ema_disk < math.inf, "above 0, in GB")
        self._require("clip_norm", self.clip_norm is None or 0 < self.clip_norm < math.inf, "above 0, or null for none")
        few = self.threads is None or 1 <= self.threads <= 256
        self._require("threads", few, "from 1 to 256, or null for all cores")
        self._require("preview_count", self.preview_count <= 4096, "of at most 4096")
        for name in ("steps", "batch_size"):
            self._require(name, getattr(self, name) <= 10**9, "at most 10^9")
        if self.keep_best is not None and self.evaluate_every == 0:
            raise ConfigError(
                f"training.keep_best is {self.keep_best} and training.evaluate_every is 0: it is never measured",
                expected="training.evaluate_every of 1 or more with training.keep_best, or training.keep_best: null",
                fix="set training.evaluate_every: 500, or training.keep_best: null",
            )
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"training.batch_size is {self.batch_size} and training.accumulate is {self.accumulate}",
                expected="a global batch that the number of accumulated parts divides",
                fix=f"set training.accumulate: {_nearest_divisor(self.batch_size, self.accumulate)}",
            )

    def _require(self, name: str, good: bool, allowed: str) -> None:
        if not good:
            raise ConfigError(
                f"training.{name} is {getattr(self, name)}",
                expected=f"a value {allowed}",
                fix=f"set training.{name}: {_usual(name)}",
            )


def _usual(name: str) -> object:
    """The default of a field, which is always in range."""
    value = getattr(TrainingConfig(), name)
    return "null" if value is None else list(value) if isinstance(value, tuple) else value


def _nearest_divisor(whole: int, wanted: int) -> int:
    """The largest divisor of `whole` up to `wanted`."""
    return next(part for part in range(min(whole, wanted), 0, -1) if whole % part == 0)
