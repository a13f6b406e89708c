"""What may change between a run's checkpoint and its resumption: settings, data, machine."""

from collections.abc import Sequence
from dataclasses import replace

from sfumato.errors import ConfigError, DataError
from sfumato.experiment.build import DataRecord, PreparedData
from sfumato.experiment.config import Experiment
from sfumato.experiment.differing import completed
from sfumato.experiment.schema import flatten, to_plain
from sfumato.experiment.session import Session
from sfumato.training.checkpoint import Snapshot
from sfumato.training.trainer import Reporter

__all__ = ["require_allowed", "warn_of_differences", "with_record_of"]

# What a resumed run may change without being asked twice …
FREE = (
    "training.steps",
    "training.device",
    "training.threads",
    "training.keep_checkpoints",
    "training.keep_best",
    "training.power_ema_disk",
    "training.on_disk_full",
    "training.trackers",
    "training.copies_every",
    "evaluation.copies_count",
)
FREE_DATA = ("data.path", "data.cache", "data.download")
# … and what it may never change, because the weights mean nothing without it.
FIXED = (
    "name",
    "seed",
    "schedule",
    "parameterization",
    "time_input",
    "network",
    "condition.labels",
    "condition.values",
    "condition.image",
    "data.size",
    "data.channels",
    "data.pad",
    "data.normalize",
    "data.held_out",
    "data.test_part",
)


def require_allowed(before: object, after: Experiment, allow_change: Sequence[str]) -> None:
    """Refuse changes of a resumed run that nobody allowed, listing all of them; `before` are settings as plain data.

    What a checkpoint itself says counts too: `config.yaml` may have been edited. "" allows all that can change at all.
    """
    old, new = flatten(completed(before)), flatten(to_plain(after))
    changed = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    never = [key for key in changed if any(within(key, fixed) for fixed in FIXED)]
    if never:
        raise ConfigError(
            "a run cannot be resumed with other " + ", ".join(f"{k} ({old.get(k)} -> {new.get(k)})" for k in never),
            expected="the schedule, parameterization, network, data preparation and seed it was started with",
            fix="train a new run; training.init_from starts from this one's weights",
        )
    allowed = (*FREE, *FREE_DATA, *allow_change)
    asked = [key for key in changed if not any(within(key, free) for free in allowed)]
    if asked:
        raise ConfigError(
            "the run was started with other settings: "
            + ", ".join(f"{k} ({old.get(k)} -> {new.get(k)})" for k in asked),
            expected="the settings it was started with; only training.steps and the device may change unasked",
            fix="add " + " ".join(f"--allow-change {key}" for key in asked) + " if that is meant",
        )


def within(key: str, section: str) -> bool:
    """Whether a dotted key is the section or lies in it."""
    return section in ("", key) or key.startswith(section + ".")


def with_record_of(snapshot: Snapshot, data: PreparedData, allow_change: Sequence[str]) -> PreparedData:
    """The data with the record that the run was started with: normalization and statistics never change on the way.

    Refuses other data than the run's own, unless `data` may change.
    """
    then, now = snapshot.state["data"], data.record
    if then.get("fingerprint") == now.fingerprint:
        return replace(data, record=DataRecord.from_plain(then))
    if "data" in allow_change:
        return data
    raise DataError(
        f"the data have changed: {then.get('count')} examples with fingerprint {str(then.get('fingerprint'))[:12]} "
        f"then, {now.count} with {now.fingerprint[:12]} now",
        expected="the data that the run was started with",
        fix="point --data.path to them, or add --allow-change data (their stream goes on at the step it had reached)",
    )


def warn_of_differences(snapshot: Snapshot, session: Session, reporter: Reporter) -> None:
    """One line when the run goes on, but not bit for bit."""
    state = snapshot.state
    now = session.state()
    names = ("threads", "processes", "device", "precision")
    changed = [f"{name} {state[name]} -> {now[name]}" for name in names if state[name] != now[name]]
    changed += [
        f"{name} {state['versions'].get(name)} -> {version}"
        for name, version in now["versions"].items()
        if name in ("torch", "numpy") and state["versions"].get(name) != version
    ]
    if changed:
        reporter.note("continues, but not bit-identical: " + ", ".join(changed))
