"""A sweep on the disk: its plan in `sweep.yaml`, everything else read off the folders of its arms.

    runs/NAME/  sweep.yaml  arms/ARM/ (a run each)  failures/ARM.json  logs/ARM.log

What is done is what the run folders say, so nothing can disagree with them: an arm is done when its last checkpoint is
whole and what was to be measured of it is stored (`experiment.arms`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sfumato.errors import CheckpointError, ConfigError, SfumatoError
from sfumato.experiment.arms import ArmState, Failure, arm_state, failure_of, lacking, measured_of_arm
from sfumato.experiment.config import Experiment
from sfumato.experiment.kinds import nearest
from sfumato.experiment.records import ARMS, SWEEP, RunRecord, newest_checkpoint, read_run
from sfumato.experiment.schema import read, to_plain
from sfumato.experiment.sweep.axes import Axis
from sfumato.experiment.sweep.plan import Arm, Measures, Plan, planned
from sfumato.experiment.sweep.search import Point, Search
from sfumato.experiment.tree import Branch, Leaf, Node, Plain, Row
from sfumato.experiment.yaml_file import read_yaml, to_yaml
from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file

__all__ = [
    "FORMAT",
    "Sweep",
    "find_sweep",
    "load_sweep",
    "newest_step",
    "plain_plan",
    "read_plan",
    "store_plan",
    "sweeps_in",
]

FORMAT = "sfumato-sweep-1"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep that is stored, as it stands: what becomes of its arms is looked up anew each time.

    folder: its own folder.
    plan: what decides its arms.
    arms: in the order of the table.
    experiments: what each arm trains, by its name.
    notes: what was left out of the plan, as sentences.
    """

    folder: Path
    plan: Plan
    arms: tuple[Arm, ...]
    experiments: Mapping[str, Experiment] = field(repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: Plan, folder: Path) -> "Sweep":
        """The sweep of a plan, in a folder that need not be there yet. Raises ConfigError for a plan without arms."""
        found = planned(plan, folder)
        return cls(folder, plan, found.arms, found.experiments, found.notes)

    @classmethod
    def load(cls, path: str | Path, runs: str | Path = "runs") -> "Sweep":
        """The sweep in a folder, or of a name below `runs`. Raises CheckpointError where there is none."""
        folder = find_sweep(path, Path(runs))
        return cls.of(read_plan(folder), folder)

    def arm(self, name: str) -> Arm:
        """The arm of a name. Raises CheckpointError naming the nearest."""
        found = next((arm for arm in self.arms if arm.name == name), None)
        if found is None:
            names = [arm.name for arm in self.arms]
            near = nearest(name, names)
            raise CheckpointError(
                f"{self.folder} has no arm {name!r}",
                expected=f"one of {', '.join(names[:8])}{' …' if len(names) > 8 else ''}",
                fix=f"did you mean {near}?" if near else "name an arm",
            )
        return found

    def experiment(self, arm: Arm) -> Experiment:
        """What an arm trains."""
        return self.experiments[arm.name]

    def record(self, arm: Arm) -> RunRecord | None:
        """What the arm's run folder says; None where it is not there yet."""
        return read_run(arm.folder) if (arm.folder / "config.yaml").is_file() else None

    def state(self, arm: Arm) -> ArmState:
        """What became of an arm."""
        record = self.record(arm)
        missing = self.unmeasured(arm) if self.is_trained(arm, record) else ()
        return arm_state(None if record is None else record.state, lacking=missing, failure=self.failure(arm))

    def is_trained(self, arm: Arm, record: RunRecord | None) -> bool:
        """Whether a whole checkpoint of the arm has all its steps."""
        return record is not None and record.state == "finished"

    def unmeasured(self, arm: Arm) -> tuple[str, ...]:
        """The metrics that were to be measured of an arm and are not stored, of its last step and averaged weights."""
        wanted = self.plan.measures.metrics
        if not wanted:
            return ()
        return lacking(wanted, measured_of_arm(arm.folder, newest_step(arm)))

    def failure(self, arm: Arm) -> Failure | None:
        """Why an arm failed, where it did."""
        return failure_of(self.folder, arm.name)

    def error(self, arm: Arm) -> str | None:
        """Why an arm failed, in a sentence; None where it did not."""
        failure = self.failure(arm)
        return None if failure is None or self.state(arm) != "failed" else f"{failure.code}: {failure.what}"

    def with_asked(self, point: Point) -> "Sweep":
        """The sweep with one point more that its search asked for."""
        return Sweep.of(replace(self.plan, asked=(*self.plan.asked, point)), self.folder)


def load_sweep(path: str | Path, *, runs: str | Path = "runs") -> Sweep:
    """The sweep in a folder, or of a name below `runs`. Raises CheckpointError where there is none."""
    return Sweep.load(path, runs)


def newest_step(arm: Arm) -> int | None:
    """The step of the newest whole checkpoint of an arm."""
    return newest_checkpoint(arm.folder / "checkpoints")


def find_sweep(path: str | Path, runs: Path) -> Path:
    """The folder of a sweep. Raises CheckpointError naming the nearest."""
    for folder in (Path(path), runs / path):
        if (folder / SWEEP).is_file():
            return folder
    known = [folder.name for folder in sweeps_in(runs)]
    for folder in (Path(path), runs / path):
        if (folder / "config.yaml").is_file():
            raise CheckpointError(
                f"{folder} is a run, not a sweep",
                expected=f"a sweep, which has several runs: a name under {runs} ({', '.join(known[:5]) or 'none'})",
                fix="`sfumato sweep digits --axis KEY=V1,V2` makes one; `sfumato report RUN` tells of a run",
            )
    near = nearest(Path(path).name, known)
    raise CheckpointError(
        f"there is no sweep {str(path)!r}: neither {Path(path)} nor {runs / path} holds a {SWEEP}",
        expected=f"the folder of a sweep, or a name under {runs} ({', '.join(known[:5]) or 'none'})",
        fix=f"did you mean {near}?" if near else "`sfumato sweep digits --axis KEY=V1,V2` makes one",
    )


def sweeps_in(runs: Path) -> list[Path]:
    """The folders of the sweeps in a folder of runs, by name."""
    return sorted(path.parent for path in runs.glob(f"*/{SWEEP}")) if runs.is_dir() else []


def store_plan(plan: Plan, folder: Path) -> None:
    """Write a plan into the folder of its sweep, whole or not at all, unless it stands there. Raises ResourceError."""
    text, path = to_yaml(plain_plan(plan)).encode(), folder / SWEEP
    storage = LocalStorage()
    try:
        if path.is_file() and path.read_bytes() == text:
            return
        make_folders(folder / ARMS, storage)
        replace_file(path, [text], storage)
    except OSError as error:
        raise explained(error, f"writing {path}", path=path, storage=storage) from None


def plain_plan(plan: Plan) -> dict[str, Any]:
    """A plan as YAML data. A point that was asked for is one text, so that thousands stay a small file."""
    return {
        "format": FORMAT,
        "name": plan.name,
        "axes": [{"key": axis.key, "values": list(axis.values)} for axis in plan.axes],
        "seeds": plan.seeds,
        "search": to_plain(plan.search, Search),
        "measures": to_plain(plan.measures),
        "skip_unfit": plan.skip_unfit,
        "asked": [json.dumps(dict(point)) for point in plan.asked],
        "base": to_plain(plan.base),
    }


def read_plan(folder: Path) -> Plan:
    """The plan that is stored in a folder. Raises ConfigError for one that cannot be understood."""
    path = folder / SWEEP
    tree = read_yaml(path).items
    found = _text(tree.get("format"))
    if found != FORMAT:
        raise ConfigError(
            f"{path} is of format {found!r}", expected=FORMAT, fix="use the version of sfumato that wrote it"
        )
    try:
        return Plan(
            name=folder.name,
            base=read(Experiment, tree["base"], origin=str(path)),
            axes=tuple(_axis(node) for node in _row(tree["axes"])),
            seeds=int(_text(tree["seeds"])),
            search=read(_Drawn, Branch({"search": tree["search"]}, str(path))).search,
            measures=read(Measures, tree["measures"], origin=str(path)),
            skip_unfit=_text(tree["skip_unfit"]) == "true",
            asked=tuple(json.loads(_text(node)) for node in _row(tree["asked"])),
        )
    except (KeyError, ValueError, RecursionError) as error:  # UsageErrors among them
        why = error.what if isinstance(error, SfumatoError) else f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{path} cannot be understood: {why}",
            expected="the plan of a sweep, as `sfumato sweep` writes it",
            fix="restore it from a copy, or start the sweep anew under another --name",
        ) from None


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A field of the type that the schema reads by its kind."""

    search: Search


def _axis(node: Node) -> Axis:
    items = node.items if isinstance(node, Branch) else {}
    return Axis(_text(items["key"]), tuple(_text(value) for value in _row(items["values"])))


def _row(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, Row) else ()


def _text(node: Node | None) -> str:
    """The text of a leaf as it was written; "" where there is none."""
    value = node.value if isinstance(node, Leaf) else ""
    return value.text if isinstance(value, Plain) else str(value)
