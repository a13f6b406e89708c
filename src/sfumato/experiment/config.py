"""The experiment: one frozen dataclass that says everything a run depends on.

    experiment = load_experiment("digits", {"training.steps": 3000, "schedule": CosineAngle(max_signal_rate=0.98)})

The same dotted keys serve YAML files, command lines (`--schedule CosineAngle --training.batch_size 128`), sweeps and
Python. What each section may hold it checks itself; what must fit between sections is checked here, when the
experiment is made (`consistency`), and everything that does not fit is refused at once.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from sfumato.core import (
    CosineAngle,
    NoiseVarianceInput,
    Parameterization,
    Schedule,
    TimeInput,
    Times,
    UniformTimes,
    Velocity,
)
from sfumato.data.settings import DataConfig
from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.catalog import resolve_recipe
from sfumato.experiment.schema import KIND_OPTIONAL, flatten, read, refuse_all, to_plain
from sfumato.experiment.sections import ConditionConfig, EvaluationConfig, SamplingConfig
from sfumato.experiment.tree import Bare, Branch, Leaf, Node, Plain, assign, overrides_of, tree_of
from sfumato.experiment.yaml_file import parse_yaml, read_yaml, to_yaml
from sfumato.nn import NetworkConfig, ResidualUNetConfig
from sfumato.objectives import DenoisingLoss, Objective
from sfumato.training.settings import TrainingConfig

__all__ = [
    "ConditionConfig",
    "EvaluationConfig",
    "Experiment",
    "Overrides",
    "SamplingConfig",
    "can_name_a_folder",
    "experiment_yaml",
    "flag_nodes",
    "load_experiment",
    "sampling_with",
]

Overrides = Mapping[str, object] | Iterable[tuple[str, str | None]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that a run depends on.

    name: names the run folders.
    description: one line for people.
    seed: the one number that every random draw follows from.
    data: what to learn from.
    condition: what the network is told of each example.
    network: the function that is trained.
    schedule: how much noise there is at each time.
    parameterization: what the network's output means.
    times: which times training looks at.
    time_input: how the network is told the time.
    objective: what is minimised.
    training: how long, how fast, on what.
    sampling: how samples are drawn.
    evaluation: how the held-out loss is measured.
    allow_terminal_signal: train on a schedule that does not end in noise, which sampling then starts from all the same.
    """

    name: str = "experiment"
    description: str = ""
    seed: int = 0
    data: DataConfig = DataConfig()
    condition: ConditionConfig = ConditionConfig()
    network: NetworkConfig = ResidualUNetConfig()
    schedule: Schedule = CosineAngle()
    parameterization: Parameterization = Velocity()
    times: Times = UniformTimes()
    time_input: TimeInput = NoiseVarianceInput()
    objective: Objective = field(default=DenoisingLoss(), metadata=KIND_OPTIONAL)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    allow_terminal_signal: bool = False

    def __post_init__(self) -> None:
        from sfumato.experiment.consistency import misfits

        errors = list(misfits(self))
        errors += [_not_text(key, value) for key, value in flatten(to_plain(self)).items() if not _is_text(value)]
        if not can_name_a_folder(self.name):
            fix = "set name: mine (letters, digits, dots, dashes and underscores)"
            errors.insert(0, ConfigError(f"name is {self.name!r}", expected="a name that can name a folder", fix=fix))
        if not 0 <= self.seed < 2**62:
            fix = "set seed: 0"
            errors.insert(0, ConfigError(f"seed is {self.seed}", expected="a number from 0 to 2^62 - 1", fix=fix))
        refuse_all(errors)


def can_name_a_folder(name: str) -> bool:
    """Letters, digits, dots, dashes and underscores, at most 100, the first a letter or digit: safe in any shell."""
    return _NAME.fullmatch(name) is not None


def _is_text(value: object) -> bool:
    """Whether a setting can be written as UTF-8; names of files that are not come with surrogates in them."""
    return not isinstance(value, str) or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _not_text(key: str, value: object) -> ConfigError:
    return ConfigError(
        f"{key} is {value!r}, which is not UTF-8",
        expected="text that config.yaml can hold",
        fix="rename the file or folder, or make a link to it under another name (ln -s)",
    )


def load_experiment(source: str | Path | Experiment, overrides: Overrides | None = None) -> Experiment:
    """The experiment of a recipe, a YAML file or another experiment, with settings laid over it.

    `overrides` is a mapping of dotted or nested keys to Python values, or the (key, text) pairs of a command line, in
    which a flag without a value has no text.
    Naming a class drops the settings of another class that stood there. Raises one ConfigError that names all that is
    wrong.
    """
    if isinstance(source, Experiment):
        tree = cast(Branch, tree_of(to_plain(source), "experiment"))
    else:
        tree = read_yaml(resolve_recipe(source))
    if overrides is None:
        pairs: list[tuple[tuple[str, ...], Node]] = []
    elif isinstance(overrides, Mapping):
        pairs = list(overrides_of(overrides, "overrides"))
    else:
        pairs = list(flag_nodes(overrides))
    for path, node in sorted(pairs, key=lambda pair: len(pair[0])):  # classes first, then their fields
        tree = assign(tree, path, node)
    return read(Experiment, tree, origin=str(source) if isinstance(source, str | Path) else "experiment")


def flag_nodes(pairs: Iterable[tuple[str, str | None]]) -> Iterable[tuple[tuple[str, ...], Node]]:
    """Paths and nodes of `--key value` pairs; `[…]` and `{…}` are read as YAML."""
    for key, text in pairs:
        origin = f"--{key}"
        if text is None:
            yield tuple(key.split(".")), Leaf(Bare(), origin)
        elif text.lstrip().startswith(("[", "{")):
            yield tuple(key.split(".")), _with_origin(parse_yaml(text, origin), origin)
        else:
            yield tuple(key.split(".")), Leaf(Plain(text), origin)


def _with_origin(node: Node, origin: str) -> Node:
    """The node with every line number replaced by the flag that it came with."""
    if isinstance(node, Branch):
        return Branch({key: _with_origin(item, origin) for key, item in node.items.items()}, origin)
    if isinstance(node, Leaf):
        return Leaf(node.value, origin)
    return type(node)(tuple(_with_origin(item, origin) for item in node.items), origin)


def sampling_with(sampling: SamplingConfig, overrides: Overrides) -> SamplingConfig:
    """`sampling` with settings laid over it, by keys below `sampling`: `sampler`, `sampler.eta`, `steps`, …"""
    base = Branch({"sampling": tree_of(to_plain(sampling), "sampling")})
    pairs = overrides_of(overrides, "overrides") if isinstance(overrides, Mapping) else flag_nodes(overrides)
    pairs = sorted(pairs, key=lambda pair: len(pair[0]))
    for path, node in pairs:
        base = assign(base, ("sampling", *path), node)
    chosen = read(SamplingConfig, base.items["sampling"], origin="sampling")
    if chosen.sampler.adaptive and any(path == ("steps",) for path, _ in pairs):
        _refuse_steps(chosen)
    return chosen


def _refuse_steps(chosen: SamplingConfig) -> None:
    name = type(chosen.sampler).__name__
    raise UsageError(
        f"steps {chosen.steps} were asked of the sampler {name}, which chooses its own",
        expected="tolerances for an adaptive sampler (sampler.rtol, sampler.atol), or a sampler with steps",
        fix="leave the steps out (--steps), or choose another sampler (--sampler ddim)",
    )


def experiment_yaml(experiment: Experiment) -> str:
    """The text of `config.yaml`: every setting of the experiment, defaults included; reads back as an equal
    experiment.
    """
    return to_yaml(to_plain(experiment))
