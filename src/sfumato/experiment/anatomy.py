"""The stages of a network in the order in which they are called: shapes of what they give, numbers of parameters.

A stage is a part that the network names: a child, or a member of one that is a list. Every parameter belongs to the
first stage that holds it, those that the network holds itself to one stage more, so the numbers add up to the model's.
Shapes are those of one example that runs through the network on torch's `meta` device, on which nothing is computed: it
takes no memory and no time, however large the network is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.condition import NO_CONDITION, ConditionShape
from sfumato.experiment.build import build_network, resolved
from sfumato.experiment.config import Experiment
from sfumato.experiment.memory import empty_condition

__all__ = ["Anatomy", "Stage", "anatomy", "stages_of"]

OWN = "(its own)"
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage, or `count` of them that follow each other and are alike.

    kind: what it is made by. shape: of what it gives for one example; None where the network takes only its parameters.
    parameters: of all `count`.
    """

    name: str
    kind: str
    shape: Shape | None
    parameters: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A network: its kind, the shape of an example, the shape of its output, its stages."""

    network: str
    shape: Shape
    output: Shape
    stages: tuple[Stage, ...]

    @property
    def parameters(self) -> int:
        """Of the whole network."""
        return sum(stage.parameters for stage in self.stages)

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        stages = [
            {
                "name": stage.name,
                "kind": stage.kind,
                "shape": None if stage.shape is None else list(stage.shape),
                "parameters": stage.parameters,
                "count": stage.count,
            }
            for stage in self.stages
        ]
        return {
            "network": self.network,
            "shape": list(self.shape),
            "output": list(self.output),
            "parameters": self.parameters,
            "stages": stages,
        }


def anatomy(
    experiment: Experiment, *, shape: Shape, is_image: bool, condition: ConditionShape = NO_CONDITION
) -> Anatomy:
    """The network of an experiment for examples of `shape`, told `condition`."""
    ready = resolved(experiment, shape=shape, is_image=is_image)
    with torch.device("meta"):
        network = build_network(ready, shape, condition)
        inputs = (torch.empty((1, *shape)), torch.empty(1), empty_condition(condition, 1, shape))
        return stages_of(network, *inputs)


def stages_of(network: nn.Module, x: Tensor, *inputs: object) -> Anatomy:
    """The stages of a network that is called once, `network(x, *inputs)`; one example is enough."""
    named, shapes = dict(_parts(network)), dict[str, Shape | None]()

    def watch(name: str) -> Any:
        def seen(module: nn.Module, given: object, found: object) -> None:
            if isinstance(found, Tensor):
                shapes.setdefault(name, tuple(found.shape[1:]))

        return seen

    handles = [part.register_forward_hook(watch(name)) for name, part in named.items()]
    training = network.training
    try:
        with torch.no_grad():
            output = network.eval()(x, *inputs)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    stages = _counted(network, {name: named[name] for name in _in_order(named, shapes)}, shapes)
    return Anatomy(type(network).__name__, tuple(x.shape[1:]), tuple(output.shape[1:]), tuple(_together(stages)))


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a network, and the members of those that are lists."""
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{inner}", part) for inner, part in _parts(child))
        else:
            yield name, child


def _in_order(named: Mapping[str, nn.Module], shapes: Mapping[str, Shape | None]) -> list[str]:
    """The names in the order of the calls; one that is not called follows the one that was declared before it."""
    order = list(shapes)
    before: str | None = None
    for name in named:
        if name not in shapes:
            order.insert(0 if before is None else order.index(before) + 1, name)
        before = name
    return order


def _counted(network: nn.Module, named: Mapping[str, nn.Module], shapes: Mapping[str, Shape | None]) -> Iterator[Stage]:
    """Each stage with the parameters that none before it has; those that do nothing are left out."""
    taken: set[Tensor] = set()
    for name, part in named.items():
        own = set(part.parameters()) - taken
        taken |= own
        shape = shapes.get(name)
        if own or (shape is not None and not isinstance(part, nn.Identity)):
            yield Stage(name, _kind(part), shape, sum(p.numel() for p in own))
    left = set(network.parameters()) - taken
    if left:
        yield Stage(OWN, "", None, sum(p.numel() for p in left))


def _kind(part: nn.Module) -> str:
    """The class, or what a sequence holds."""
    if not isinstance(part, nn.Sequential):
        return type(part).__name__
    held = [type(inner).__name__ for inner in part if any(True for _ in inner.parameters())]
    return " + ".join(f"{held.count(kind)} {kind}" if held.count(kind) > 1 else kind for kind in dict.fromkeys(held))


def _together(stages: Iterator[Stage]) -> Iterator[Stage]:
    """Runs of three or more stages of one list that are alike, as one: blocks.0-11."""
    runs: list[list[Stage]] = []
    for stage in stages:
        if runs and _alike(runs[-1][-1], stage):
            runs[-1].append(stage)
        else:
            runs.append([stage])
    for run in runs:
        if len(run) < 3:
            yield from run
            continue
        name = f"{run[0].name}–{run[-1].name.rpartition('.')[2]}"
        yield replace(run[0], name=name, parameters=sum(stage.parameters for stage in run), count=len(run))


def _alike(one: Stage, other: Stage) -> bool:
    lists = [stage.name.rpartition(".")[0] for stage in (one, other)]
    alike = (one.kind, one.shape, one.parameters) == (other.kind, other.shape, other.parameters)
    return alike and lists[0] == lists[1] != ""
