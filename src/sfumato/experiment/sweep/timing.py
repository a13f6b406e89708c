"""What a sweep would take, before it starts: seconds, memory and disk of all arms.

Arms that differ only in what costs nothing (seed, schedule, target, learning rate, …) take the same time, so one of
each *kind* is timed, in a process of its own with the threads of an arm. An arm that has trained some steps already is
believed instead. The whole, on W workers, takes at least its longest arm and at least an even share of everything:

    seconds = max( max_i s_i, Σ_i s_i / W ),     s_i = seconds per step x steps that are left
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfumato.data.wording import counted
from sfumato.errors import CheckpointError, ConfigError, DataError, PlatformError, ResourceError, SfumatoError
from sfumato.experiment.config import Experiment, experiment_yaml
from sfumato.experiment.forecast import forecast
from sfumato.experiment.schema import flatten, read, to_plain
from sfumato.experiment.sweep.launching import package_paths
from sfumato.experiment.sweep.plan import Arm
from sfumato.experiment.sweep.standing import duration
from sfumato.experiment.sweep.stored import Sweep, newest_step
from sfumato.experiment.yaml_file import parse_yaml
from sfumato.training.engine import threads
from sfumato.training.record import METRICS, MetricsLog
from sfumato.training.storage import human_bytes

__all__ = ["Outlook", "Pace", "foreseen", "kind_of", "main"]

MOST_KINDS = 8  # that are timed; others are taken for their mean
# What costs no time worth telling: all of what is not named here does.
_FREE = (
    *("name", "description", "seed", "schedule", "parameterization", "times", "time_input", "sampling", "evaluation"),
    *("allow_terminal_signal", "objective.distance", "objective.weighting", "data.held_out"),
    *("training.steps", "training.learning_rate", "training.weight_decay", "training.warmup_steps", "training.decay"),
    *("training.clip_norm", "training.ema_decay", "training.checkpoint_every", "training.keep_checkpoints"),
    *("training.log_every", "training.evaluate_every", "training.preview_every", "training.preview_count"),
    *("training.init_from", "training.on_disk_full", "training.keep_best", "training.initial_weights"),
)
_ERRORS = {kind.code: kind for kind in (ConfigError, DataError, CheckpointError, PlatformError, ResourceError)}


@dataclass(frozen=True, slots=True)
class Pace:
    """What one kind of arm takes. `measured` is false for the mean of other kinds."""

    seconds_per_step: float
    parameters: int | None = None
    memory_bytes: int | None = None
    checkpoint_bytes: int | None = None
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Outlook:
    """The forecast of a sweep: the arms that are left, what each takes, and what all of them do.

    sweep: whose forecast it is; nothing of it need be written yet.
    arms: those that are left, by name.
    paces: of each, by its name; empty where nothing could be timed.
    steps: that each has left.
    workers: arms at a time.
    threads: of each arm.
    notes: sentences.
    """

    sweep: Sweep
    arms: tuple[str, ...]
    paces: Mapping[str, Pace]
    steps: Mapping[str, int]
    workers: int
    threads: int | None
    notes: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """Seconds of training steps alone, all arms and workers together; None where they were not timed."""
        each = [self.paces[name].seconds_per_step * self.steps[name] for name in self.arms if name in self.paces]
        if not each:
            return None if self.arms or self._coming() else 0.0
        scale = max(len(self.arms), self._coming()) / len(each)
        return max(max(each), sum(each) * scale / self.workers)

    def price(self, arm: str) -> float | None:
        """Seconds per step of an arm; of one that a search asked for later, the mean of the others."""
        if arm in self.paces:
            return self.paces[arm].seconds_per_step
        known = [pace.seconds_per_step for pace in self.paces.values()]
        return statistics.fmean(known) if known else None

    def _coming(self) -> int:
        """How many arms are left with those that the search has not asked for yet."""
        coming = self.sweep.plan.coming
        return coming + len(self.arms) if coming else 0

    @property
    def disk_bytes(self) -> int | None:
        """What the checkpoints that are kept will take."""
        sizes = [
            pace.checkpoint_bytes * self.sweep.experiments[name].training.keep_checkpoints
            for name, pace in self.paces.items()
            if pace.checkpoint_bytes is not None
        ]
        return sum(sizes) if sizes else None

    def lines(self) -> list[str]:
        """For people."""
        left = max(len(self.arms), self._coming())
        total = len(self.sweep.arms) + left - len(self.arms)
        threads = "" if self.threads is None else f", {counted(self.threads, 'thread')} each"
        lines = [f"{counted(total, 'arm')}, {left} of them left; {self.workers} at a time{threads}"]
        if self.seconds is None:
            lines.append("time: not forecast")
        elif left:
            lines.append(f"time: about {duration(self.seconds)} of training steps, if nothing else runs here")
        if self.disk_bytes is not None:
            memory = max((pace.memory_bytes or 0 for pace in self.paces.values()), default=0)
            beside = min(self.workers, len(self.arms))
            lines.append(
                f"disk: about {human_bytes(self.disk_bytes)} of checkpoints; memory: up to "
                f"{human_bytes(memory * beside)} for {counted(beside, 'arm')}"
            )
        return [*lines, *self.notes]

    def document(self) -> dict[str, object]:
        """As JSON data."""
        return {
            "arms_left": len(self.arms),
            "workers": self.workers,
            "threads": self.threads,
            "seconds": self.seconds,
            "disk_bytes": self.disk_bytes,
            "seconds_per_step": {name: pace.seconds_per_step for name, pace in self.paces.items()},
            "notes": list(self.notes),
        }


def kind_of(experiment: Experiment) -> str:
    """The settings of an experiment that decide how long its steps take, as text."""
    settings = flatten(to_plain(experiment))
    priced = {k: v for k, v in settings.items() if not any(k == free or k.startswith(f"{free}.") for free in _FREE)}
    return json.dumps(priced, sort_keys=True, default=str)


def foreseen(sweep: Sweep, arms: Sequence[Arm], *, workers: int, timed: bool) -> Outlook:
    """The outlook of the arms that are left; `timed` false: only by what arms have taken so far.

    Raises what stopped the timing where it stopped it for every kind: then no arm can be trained either.
    """
    kinds = {arm.name: kind_of(sweep.experiment(arm)) for arm in sweep.arms}
    found = {kind: Pace(pace) for kind, pace in _observed(sweep, kinds).items()}
    notes: list[str] = []
    new = [kind for kind in dict.fromkeys(kinds[arm.name] for arm in arms) if kind not in found]
    if timed and new:
        found.update(_timed(sweep, arms, kinds, new, notes))
    known = [pace.seconds_per_step for pace in found.values()]
    if known:
        mean = Pace(statistics.fmean(known), measured=False)
        found.update({kind: mean for kind in new if kind not in found})
    return Outlook(
        sweep,
        tuple(arm.name for arm in arms),
        {arm.name: found[kinds[arm.name]] for arm in arms if kinds[arm.name] in found},
        {arm.name: sweep.experiment(arm).training.steps - (newest_step(arm) or 0) for arm in arms},
        workers,
        sweep.plan.base.training.threads,
        tuple(notes),
    )


def _observed(sweep: Sweep, kinds: Mapping[str, str]) -> dict[str, float]:
    """Seconds per step by kind, of arms that have trained some: the median of what they logged."""
    seconds: dict[str, list[float]] = {}
    for arm in sweep.arms:
        log = arm.folder / METRICS
        speeds = [line.get("images_per_second") for line in MetricsLog.read(log)] if log.is_file() else []
        batch = sweep.experiment(arm).training.batch_size
        seconds.setdefault(kinds[arm.name], []).extend(batch / speed for speed in speeds if speed)
    return {kind: statistics.median(found) for kind, found in seconds.items() if found}


def _timed(
    sweep: Sweep, arms: Sequence[Arm], kinds: Mapping[str, str], new: Sequence[str], notes: list[str]
) -> dict[str, Pace]:
    """The paces of kinds that nobody knows yet, by a process that times one arm of each."""
    picked = [new[index * len(new) // min(len(new), MOST_KINDS)] for index in range(min(len(new), MOST_KINDS))]
    if len(picked) < len(new):
        notes.append(f"{len(picked)} of {len(new)} kinds of arms were timed; the others are taken for their mean")
    of_kind = {kinds[arm.name]: arm for arm in reversed(arms)}
    answers = _ask_process([experiment_yaml(sweep.experiment(of_kind[kind])) for kind in picked], sweep)
    found: dict[str, Pace] = {}
    refusals: list[SfumatoError] = []
    for kind, answer in zip(picked, answers, strict=True):
        if "error" in answer:
            refusals.append(_told(answer["error"]))
            notes.append(f"{of_kind[kind].name} cannot be forecast: {refusals[-1].what}")
        else:
            found[kind] = Pace(**answer)
    if refusals and not found:
        raise refusals[0]
    return found


def _told(error: Mapping[str, str]) -> SfumatoError:
    """An error that crossed from the process that timed."""
    kind = _ERRORS.get(error["code"], SfumatoError)
    return kind(error["what"], expected=error["expected"], fix=error["fix"])


def _ask_process(experiments: Sequence[str], sweep: Sweep) -> list[dict[str, Any]]:
    """Forecasts of experiments (as YAML), made apart: nothing of them stays here, not even a GPU's memory."""
    count = sweep.plan.base.training.threads
    own = {"OMP_NUM_THREADS": str(count)} if count is not None else {}
    done = subprocess.run(
        [sys.executable, "-m", "sfumato.experiment.sweep", "pace"],
        input=json.dumps(list(experiments)).encode(),
        capture_output=True,
        env={**os.environ, **own, "PYTHONPATH": package_paths()},
        check=False,
    )
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        why = said[0][:300] if said else f"exit code {done.returncode}"
        raise ResourceError(
            f"the process that times the arms ended: {why}",
            expected="an arm that fits into the memory of this machine",
            fix="smaller arms, or no forecast: --no-forecast",
        ) from None


def answer_to(text: str) -> dict[str, Any]:
    """The forecast of one experiment as plain data, or the error that forbids it."""
    try:
        experiment = read(Experiment, parse_yaml(text, "arm"), origin="arm")
        found = forecast(experiment)
    except SfumatoError as error:
        return {"error": {"code": error.code, "what": error.what, "expected": error.expected, "fix": error.fix}}
    return {
        "seconds_per_step": found.seconds_per_step,
        "parameters": found.parameters,
        "memory_bytes": found.memory_bytes,
        "checkpoint_bytes": found.checkpoint_bytes,
    }


def main() -> int:
    """Answer a JSON list of experiments on stdin with a JSON list of paces on stdout."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    answers = []
    for text in json.load(sys.stdin):
        with threads(None):  # each arm's own, put back
            answers.append(answer_to(text))
    json.dump(answers, stdout)
    return 0
