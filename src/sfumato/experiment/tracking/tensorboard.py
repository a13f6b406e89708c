"""TensorBoard: event files in the run folder, beside `metrics.jsonl`, so that `tensorboard --logdir runs` lists runs by
their names.

    runs/NAME/events.out.tfevents.000001.sfumato      one file for each start of training: 000002 for the first resume

Each event is appended in one write, so a kill tears nothing. A resumed run cuts the older files back to its
checkpoint's step and goes on in a new file: each step of each curve stands in the files once, in the order of the
steps, whatever the clock said. The new file begins with the mark of a restart, by which a TensorBoard that is looking
on forgets the steps that were cut.

TensorBoard stores numbers in single precision; `metrics.jsonl` has all digits.
"""

import io
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import ResourceError
from sfumato.experiment.preview import preview_picture
from sfumato.experiment.tracking.event_files import framed, records
from sfumato.experiment.tracking.histogram import Histogram
from sfumato.training.appending import Queue
from sfumato.training.storage import LocalStorage, Storage, human_bytes, replace_file

__all__ = ["EventFiles", "event_files", "introduced"]

VERSION = "brain.Event:2"
CONFIG = "config.yaml"
MOST_WAITING = 64_000_000  # bytes that wait in memory for a disk that is full
_NAME = re.compile(r"events\.out\.tfevents\.([0-9]{6,12})\.sfumato")

Report = Callable[[str], None]


def event_files(folder: Path, storage: Storage | None = None) -> list[Path]:
    """Our event files in a run folder, in the order in which they were begun; those of others are left alone."""
    storage = LocalStorage() if storage is None else storage
    return [folder / name for name in sorted(storage.names(folder)) if _NAME.fullmatch(name)]


def indented(text: str) -> str:
    """Text as Markdown shows it letter for letter."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def introduced(config: str, settings: Mapping[str, object]) -> Any:
    """The settings of a run as a Summary: as text, and by dotted key for the page HPARAMS, which sets runs side by
    side. One event: all of it or nothing.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

    shown = {key: v if isinstance(v, bool | int | float | str) else str(v) for key, v in settings.items()}
    text, table = text_pb(CONFIG, indented(config)), hparams_pb(shown)
    return Summary(value=[*text.value, *table.value])


def _is_outdated(there: Any, introduction: Any) -> bool:
    """Whether a Summary introduces the run by other settings. (Two of the same differ in the time they were made.)"""
    if not there.value or there.value[0].tag != CONFIG:
        return False
    return bool(there.value[0].tensor.string_val != introduction.value[0].tensor.string_val)


@final
class EventFiles:
    """The event files of one run, as a tracker. `clock` gives the seconds since 1970 that events are stamped with."""

    def __init__(
        self,
        folder: Path,
        *,
        report: Report,
        storage: Storage | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self._clock = folder, clock
        self.storage = LocalStorage() if storage is None else storage
        self._queue = Queue(self.storage, report, called="events")
        self.path: Path | None = None

    # -------------------------------------------------------------------------------------------------------- beginning

    def begin(self, after: int, introduction: Any = None) -> bool:
        """Cut what is there back to the steps up to `after`, and open a new file. Whether any event is left.

        `introduction`: the settings of the run by now (`introduced`); those that it went on from are replaced by them.
        Raises OSError where a file cannot be cut.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        there = event_files(self.folder, self.storage)
        kept = [self._cut(path, after, introduction) for path in there]
        numbers = [int(match[1]) for path in there if (match := _NAME.fullmatch(path.name))]
        self.path = self.folder / f"events.out.tfevents.{max(numbers, default=0) + 1:06d}.sfumato"
        opening = [Event(wall_time=self._clock(), file_version=VERSION)]
        if after > 0:
            restart = SessionLog(status=SessionLog.START)
            opening.append(Event(wall_time=self._clock(), step=after + 1, session_log=restart))
        self._append(b"".join(framed(event.SerializeToString()) for event in opening))
        return any(kept)

    def clear(self) -> None:
        """Remove every event file of ours, to write them anew."""
        for path in event_files(self.folder, self.storage):
            self.storage.remove(path)

    def _cut(self, path: Path, after: int, introduction: Any) -> bool:
        """Keep the whole records of steps up to `after`, their bytes unchanged. Whether any tells of the run."""
        from tensorboard.compat.proto.event_pb2 import Event

        before, kept, told = bytes(self.storage.read(path)), [], False
        for data in records(before):
            event = Event.FromString(data)
            if introduction is not None and _is_outdated(event.summary, introduction):
                event.summary.CopyFrom(introduction)
                data = event.SerializeToString()
            restart = event.HasField("session_log")
            if event.step <= after + restart:  # a restart carries the step that it goes on with
                kept.append(framed(data))
                told = told or event.HasField("summary")
        content = b"".join(kept)
        if content != before:
            replace_file(path, [content], self.storage, durable=False)
        return told

    # ----------------------------------------------------------------------------------------------------------- events

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """All numbers of a step as one event."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, Summary(value=found))

    def images(self, step: int, name: str, pictures: NDArray[np.uint8]) -> None:
        """The pictures on one sheet; a single one as it is."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        alone = pictures[0] if pictures.shape[3] == 3 else pictures[0, :, :, 0]
        sheet = Image.fromarray(alone) if len(pictures) == 1 else preview_picture(pictures)
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        image = Summary.Image(
            height=sheet.height,
            width=sheet.width,
            colorspace=3 if sheet.mode == "RGB" else 1,
            encoded_image_string=buffer.getvalue(),
        )
        self._write(step, Summary(value=[Summary.Value(tag=name, image=image)]))

    def histogram(self, step: int, name: str, values: Histogram) -> None:
        """The bars as they are. TensorBoard drops empty ones at both ends and stretches the next to `min` and `max`."""
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

        amounts, centres = values.amounts, values.centres
        there = np.flatnonzero(amounts) if amounts.any() else np.arange(len(amounts))
        proto = HistogramProto(
            min=float(values.edges[there[0]]),
            max=float(values.edges[there[-1] + 1]),
            num=float(amounts.sum()),
            sum=float((amounts * centres).sum()),
            sum_squares=float((amounts * centres**2).sum()),
            bucket_limit=values.edges[1:].tolist(),
            bucket=amounts.tolist(),
        )
        self._write(step, Summary(value=[Summary.Value(tag=name, histo=proto)]))

    def text(self, step: int, name: str, text: str) -> None:
        """Words in Markdown."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._write(step, text_pb(name, text))

    def introduce(self, introduction: Any) -> None:
        """The settings of the run (`introduced`), before step 1."""
        self._write(0, introduction)

    def close(self) -> None:
        """Write what waits; whatever the disk still refuses is lost here, and kept in `metrics.jsonl`."""
        self._flush()
        if self._queue.waiting:
            raise ResourceError(
                f"{self.path} lacks {len(self._queue.waiting):,} events, which could not be written",
                expected="a disk with room",
                fix=f"sfumato track {self.folder}",
            )

    # ---------------------------------------------------------------------------------------------------------- writing

    def _write(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=self._clock(), step=step, summary=summary)
        self._append(framed(event.SerializeToString()))

    def _append(self, record: bytes) -> None:
        """Write a record after those that wait. One warning for a disk that refuses; too much of it is given up."""
        self._queue.waiting.append(record)
        self._flush()
        waiting = sum(map(len, self._queue.waiting))
        if waiting > MOST_WAITING:
            raise ResourceError(
                f"{self.path} could not be written, and {human_bytes(waiting)} wait",
                expected="a disk with room",
                fix=f"sfumato track {self.folder}, when there is room",
            )

    def _flush(self) -> None:
        assert self.path is not None, "not begun"
        self._queue.write(self.path)
