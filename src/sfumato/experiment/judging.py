"""The judge of a data set: trained once, kept in the cache folder under the fingerprint of the data.

It belongs to the data and not to a run. Its pictures held out are the source's own test part, or a tenth of the
examples, the same for every run of these data. A kept judge that is damaged or of an older version is trained anew.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from sfumato.data import DataConfig, Packed, split
from sfumato.data.cache import default_folder
from sfumato.errors import CheckpointError, DataError
from sfumato.metrics import Judge, Labelled, train_judge
from sfumato.metrics.judge import VERSION
from sfumato.training.engine import multiplies_bfloat16

__all__ = ["judge_of", "judge_place"]

HELD_OUT = 0.1
TIMED = 20  # steps after which the rest is forecast


def judge_of(
    packed: Packed, config: DataConfig, *, device: torch.device | str = "cpu", report: Callable[[str], None]
) -> Judge:
    """The judge of these data, from the cache folder or trained now, which `report` hears of.

    Raises DataError for data that are no pictures or have no labels.
    """
    if not packed.is_image or packed.labels is None:
        raise DataError(
            "a judge tells classes of pictures by their labels, and these data have none",
            expected="8-bit pictures with labels",
            fix="leave out what is judged (label_agreement, class_balance)",
        )
    path = judge_place(packed, config)
    if path is not None and path.is_file():
        try:
            return Judge.load(path)
        except CheckpointError as error:
            report(f"{error.what}: a new judge is trained")
    parts = split(packed, HELD_OUT, 0)
    train, held_out = (Labelled(packed.values[i], packed.labels[i]) for i in (parts.train, parts.held_out))
    place = torch.device(device)
    judge = train_judge(
        train,
        held_out,
        classes=packed.num_classes,
        data=packed.fingerprint,
        bfloat16=multiplies_bfloat16(place),
        device=place,
        progress=_forecasting(report),
    )
    judge.network.cpu()  # as one from the cache
    if path is not None:
        with suppress(OSError):  # a cache that cannot be written is done without
            judge.save(path)
    return judge


def judge_place(packed: Packed, config: DataConfig) -> Path | None:
    """Where the judge of these data is kept; None where nothing is to be kept."""
    folder = default_folder() if config.cache is None else Path(config.cache).expanduser()
    if folder is None or config.cache == "off":
        return None
    key = hashlib.sha256(f"{packed.fingerprint} {packed.test_count} {VERSION}".encode()).hexdigest()
    return folder / "judges" / f"{key[:32]}.safetensors"


def _forecasting(report: Callable[[str], None]) -> Callable[[int, int], None]:
    """Says after some steps how long the training of a judge will take, where that is long."""
    began = time.perf_counter()

    def tell(done: int, steps: int) -> None:
        left = (time.perf_counter() - began) / done * (steps - done)
        if done == TIMED and left > 5:
            report(f"training a judge on the labels of the data, once: {steps:,} steps, about {left:.0f} s")

    return tell
