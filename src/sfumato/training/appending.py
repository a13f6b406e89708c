"""Records that are added to the end of a file in order, and wait in memory while the disk refuses them."""

from collections.abc import Callable
from pathlib import Path
from typing import final

from sfumato.training.storage import Storage

__all__ = ["Queue"]


@final
class Queue:
    """What is still to be appended, `called` so in the one warning that `report` hears where the disk refuses it."""

    def __init__(self, storage: Storage, report: Callable[[str], None], *, called: str) -> None:
        self.waiting: list[bytes] = []
        self._storage = storage
        self._report = report
        self._called = called
        self._warned = False

    def write(self, path: Path) -> None:
        """Append all that waits to the file, each record in one write. Never raises for storage."""
        try:
            while self.waiting:
                self._storage.append(path, self.waiting[0])
                del self.waiting[0]
        except OSError as error:
            if not self._warned:
                self._warned = True
                why = error.strerror or str(error)
                go_on = f"Training goes on; {self._called} wait until it can be written"
                self._report(f"{path} is incomplete: {why}. {go_on}")
