"""Power-function averages on the disk: some moments of them, from which other widths are put together after training.

    averages/step-00001000-0.05.safetensors        one file for each stored moment and width

Averages are stored after every multiple of `every` steps and after the last one. A cap of the disk leaves room for so
many moments; where that is not enough, only every second, fourth, … stays:

    kept after `done` steps = the multiples of every·2^k up to done, and done itself,
                              k the smallest with ceil(done/(every·2^k)) <= room

They are evenly spread, more than half of what there is room for, and a function of `done` alone: what was dropped is
never wanted again, and a resumed run ends with the same files as one that never stopped. What is not kept goes before
something new is written, so the cap holds at every instant.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from sfumato.errors import CheckpointError, ConfigError, NumericsError
from sfumato.training.power_ema import PowerEmas
from sfumato.training.storage import LocalStorage, Storage, explained, human_bytes
from sfumato.training.tensors import nonfinite, read_weights, single_file_size, write_single_file

__all__ = ["MOST_MOMENTS", "AverageStore", "Moment", "StoredAverage", "kept_steps"]

MOST_MOMENTS = 128  # 64 evenly spread ones already give any width from 0.02 to 0.25 to 1.5 %
FORMAT = "sfumato-average-1"
_NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})-(0\.[0-9]{1,20})\.safetensors")
_TEMPORARY = ".tmp-"


def kept_steps(done: int, every: int, room: int) -> list[int]:
    """The steps whose averages stay when those of `done` are stored, ascending; at most `room` >= 2 of them."""
    stride = every
    while -(-done // stride) > room:
        stride *= 2
    return sorted({*range(stride, done + 1, stride), done})


@dataclass(frozen=True, slots=True, order=True)
class StoredAverage:
    """One file: the average of a width as it was after `step` steps."""

    step: int
    width: float
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The tensors of an average after `updates` updates."""

    updates: int
    tensors: dict[str, Tensor]


@final
class AverageStore:
    """The stored averages of one run folder. One writer at a time, the holder of the run's lock; any number of readers.

    every: steps between two moments.
    cap: bytes that the files may take together.
    """

    def __init__(self, run_folder: Path, *, every: int = 1, cap: float = 0.0, storage: Storage | None = None) -> None:
        self.folder = Path(run_folder) / "averages"
        self.every, self.cap = every, cap
        self.storage = LocalStorage() if storage is None else storage

    # ---------------------------------------------------------------------------------------------------------- writing

    def room(self, power: PowerEmas) -> int:
        """How many moments the cap holds. Raises ConfigError when it is fewer than two."""
        longest = 10**18 - 1  # as many digits as a step may have
        moment = sum(
            single_file_size(average.state_dict(), _about(longest, longest, average.width))
            for average in power.averages
        )
        room = min(MOST_MOMENTS, int(self.cap // moment))
        if room < 2:
            raise ConfigError(
                f"training.power_ema_disk is {human_bytes(self.cap)}, and storing the averages once takes "
                f"{human_bytes(moment)}",
                expected="room for two moments of training at the least; 16 or more are useful",
                fix=f"set training.power_ema_disk: {16 * moment / 1e9:.3g} (GB), or training.power_ema: []",
            )
        return room

    def save(self, step: int, power: PowerEmas) -> None:
        """Store the averages as they are after `step` steps, durably, and drop what is not kept beside them.

        Raises `ResourceError` when storage refuses, `NumericsError` for averages that are not finite; files that are
        kept are then as they were.
        """
        kept = {*kept_steps(step, self.every, self.room(power))} - {step}
        for stored in self.files():
            if stored.step not in kept:
                self._remove(stored.path)
        for average in power.averages:
            tensors = {name: tensor.cpu() for name, tensor in average.state_dict().items()}
            if bad := nonfinite(tensors):
                raise NumericsError(
                    f"the averages of step {step} are not stored: NaN or infinity in {bad}",
                    expected="finite weights and averages",
                    fix="resume from the last checkpoint with a smaller learning rate or stronger gradient clipping",
                )
            about = _about(step, average.num_updates, average.width)
            write_single_file(self._path(step, average.width), tensors, about, storage=self.storage)

    def cut_after(self, step: int) -> None:
        """Remove what was stored after `step` or never finished; for the start of a run that goes on from there."""
        try:
            for name in self.storage.names(self.folder):
                if name.startswith(_TEMPORARY):
                    self.storage.remove(self.folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise explained(error, f"cleaning {self.folder}", path=self.folder, storage=self.storage) from None
        for stored in self.files():
            if stored.step > step:
                self._remove(stored.path)

    def _remove(self, path: Path) -> None:
        try:
            self.storage.remove(path)
        except OSError as error:
            raise explained(error, f"dropping {path}", path=self.folder, storage=self.storage) from None

    def _path(self, step: int, width: float) -> Path:
        return self.folder / f"step-{step:08d}-{width}.safetensors"

    # ---------------------------------------------------------------------------------------------------------- reading

    def files(self) -> list[StoredAverage]:
        """What is there by name, by step and width; nothing is read."""
        try:
            names = self.storage.names(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise explained(error, f"listing {self.folder}", path=self.folder, storage=self.storage) from None
        found = [(self.folder / name, match) for name in names if (match := _NAME.fullmatch(name))]
        return sorted(StoredAverage(int(match[1]), float(match[2]), path) for path, match in found)

    def read(self, stored: StoredAverage) -> Moment:
        """The tensors of one file; every byte is checked. Raises CheckpointError."""
        found = read_weights(stored.path, storage=self.storage)
        updates = found.metadata.get("updates", "")
        about = _about(stored.step, int(updates), stored.width) if updates.isdecimal() else {"format": ""}
        if any(found.metadata.get(key) != text for key, text in about.items()):
            raise CheckpointError(
                f"{stored.path} is not the average of width {stored.width} after step {stored.step}",
                expected=f"a file of format {FORMAT} under the name that training gave it",
                fix="delete it: the others make up for one that is missing",
            )
        return Moment(int(updates), found.tensors)


def _about(step: int, updates: int, width: float) -> dict[str, str]:
    return {"format": FORMAT, "step": str(step), "updates": str(updates), "width": str(width)}
