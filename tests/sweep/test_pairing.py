"""Arms of one seed are paired: the same examples in the same order, the same noise, times from the same uniform
numbers, and the same initial weights wherever names and shapes are the same.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.experiment.build import PreparedData, build_denoiser, prepare_data
from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.reporting import Silent
from sfumato.experiment.session import Session
from sfumato.experiment.sweep import Wish, axes_of, open_sweep

DIGITS: dict[str, Any] = {
    "data.limit": 60,
    "data.flip": True,
    "network.widths": (8, 16),
    "network.depth": 1,
    "network.embedding": 8,
    "training.batch_size": 8,
    "training.device": "cpu",
    "training.precision": "float32",
    "training.compile": "off",
}
AXES = (
    "objective.distance=mse,huber",
    "parameterization=noise,velocity",
    "schedule=CosineAngle,VpSde",
    "network.widths=[8,16],[8,24]",
)


def arms(*axes: str) -> dict[str, Experiment]:
    found = open_sweep(Wish("digits", axes_of(axes), DIGITS, runs=Path("nowhere"), name="paired"), lambda text: None)
    return dict(found.experiments)


def session(experiment: Experiment, data: PreparedData) -> Session:
    return Session(experiment, data, folder=Path("nowhere"), reporter=Silent())


def test_arms_see_the_same_examples_noise_and_uniform_numbers() -> None:
    """16 arms that differ in loss, target, schedule and width, over three steps of an epoch of seven."""
    experiments = arms(*AXES)
    assert len(experiments) == 16
    first: list[list[Tensor]] = []
    for experiment in experiments.values():
        one = session(experiment, prepare_data(experiment))
        seen: list[list[Tensor]] = []
        for step in (0, 1, 6):
            [(examples, draw)] = one.step.parts(step)
            t_min = experiment.schedule.t_min
            seen.append([examples.indices, examples.x0, draw.eps, (draw.t - t_min) / (1 - t_min)])
        first = first or seen
        for mine, theirs in zip(seen, first, strict=True):
            for k in range(3):
                assert torch.equal(mine[k], theirs[k])
            torch.testing.assert_close(mine[3], theirs[3], rtol=0, atol=1e-12)  # there and back in float64
    assert not torch.equal(first[0][2], first[1][2])  # what is compared changes from step to step


def test_another_seed_is_another_repeat() -> None:
    experiment = next(iter(arms(*AXES).values()))
    data = prepare_data(experiment)
    other = load_experiment(experiment, {"seed": 1})
    (one, draw), (two, drawn) = (next(session(e, data).step.parts(0)) for e in (experiment, other))
    assert not torch.equal(one.x0, two.x0)
    assert not torch.equal(draw.eps, drawn.eps)


def weights(experiment: Experiment) -> dict[str, Tensor]:
    network = build_denoiser(experiment, shape=(1, 8, 8), data_std=0.5).network
    return {name: tensor.detach() for name, tensor in network.named_parameters()}


def test_initial_weights_are_the_same_where_names_and_shapes_are() -> None:
    """In one network all of them; across widths and depths every drawn tensor of the same name, shape and law."""
    found = {name: weights(e) for name, e in arms(*AXES, "network.depth=1,2").items()}
    narrow = {name: w for name, w in found.items() if "widths-8-16-depth-1" in name}
    base = next(iter(narrow.values()))
    for other in narrow.values():  # 8 arms that differ in loss, target and schedule
        assert all(torch.equal(base[key], other[key]) for key in base | other)
    for name, other in found.items():
        shared = [key for key in base if key in other and base[key].shape == other[key].shape]
        drawn = [key for key in shared if base[key].ndim > 1 and bool(base[key].any())]
        same = [key for key in drawn if torch.equal(base[key], other[key])]
        assert len(drawn) >= 5, name
        # weights of one shape have one fan-in, and are therefore drawn from one law
        assert same == drawn, name


def test_in_order_they_are_not_the_same_in_networks_that_differ() -> None:
    """What `by_name` is for: one tensor of another shape moves all draws behind it."""
    found = [weights(load_experiment("digits", {**DIGITS, "network.depth": depth})) for depth in (1, 2)]
    drawn = [k for k in found[0] if k in found[1] and found[0][k].ndim > 1 and found[0][k].shape == found[1][k].shape]
    assert any(not torch.equal(found[0][key], found[1][key]) for key in drawn)


@pytest.mark.parametrize("recipe", ["digits", "swiss-roll", "mnist-ddpm-small", "film-ddim-small"])
def test_weights_drawn_by_name_have_the_law_of_those_drawn_in_order(recipe: str) -> None:
    """The same tensors are zero or constant, and the mean squares of all drawn ones together agree within 5 %.

    Their error is sqrt(2/n) at most, below 2 % for the 8,000 values and more of each network.
    """
    shape = (2,) if recipe == "swiss-roll" else (1, 32, 32) if "mnist" in recipe else (3, 64, 64)
    shape = (1, 8, 8) if recipe == "digits" else shape

    def network(how: str) -> dict[str, Tensor]:
        e = load_experiment(recipe, {"training.initial_weights": how})
        return {n: p.detach() for n, p in build_denoiser(e, shape=shape, data_std=0.5).network.named_parameters()}

    named, ordered = network("by_name"), network("in_order")
    assert list(named) == list(ordered)
    squares, count = 0.0, 0
    for key, tensor in ordered.items():
        assert is_constant(tensor) == is_constant(named[key]), key
        if is_constant(tensor):
            assert torch.equal(tensor, named[key]), key
            continue
        scale = tensor.double().square().mean()
        squares += float((named[key].double().square() / scale).sum())
        count += tensor.numel()
        assert not torch.equal(tensor, named[key]), key
    assert count >= 5000
    assert squares / count == pytest.approx(1, abs=0.05)


def is_constant(tensor: Tensor) -> bool:
    """Whether all values are the same, as those of gains and zeroed layers; one value alone may be drawn."""
    return bool((tensor == tensor.flatten()[0]).all()) and (tensor.numel() > 1 or not bool(tensor.any()))


def test_tensors_of_one_network_are_drawn_apart() -> None:
    """No two tensors of one shape hold the same numbers, and none depends on the global stream."""
    experiment = load_experiment("digits", {**DIGITS, "training.initial_weights": "by_name"})
    torch.manual_seed(1)
    found = weights(experiment)
    torch.manual_seed(2)
    again = weights(experiment)
    assert all(torch.equal(found[key], again[key]) for key in found)
    drawn = [tensor for tensor in found.values() if tensor.ndim > 1 and bool(tensor.any())]
    twins = [(a, b) for i, a in enumerate(drawn) for b in drawn[:i] if a.shape == b.shape and torch.equal(a, b)]
    assert not twins
    other = weights(load_experiment(experiment, {"seed": 1}))
    assert all(not torch.equal(a, b) for a, b in zip(drawn, [t for t in other.values() if t.ndim > 1 and bool(t.any())],
                                                     strict=True))  # fmt: skip
