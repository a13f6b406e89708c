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


def drawn(experiment: Experiment, step: int) -> dict[str, Tensor]:
    """All that a step draws, in the order of the batch."""
    one = session(experiment, prepare_data(experiment))
    [(examples, draw)] = one.step.parts(step)
    found = {"indices": examples.indices, "x0": examples.x0, "eps": draw.eps, "t": draw.t}
    if examples.cond is not None and examples.cond.dropped is not None:
        found["dropped"] = examples.cond.dropped
    return found


def test_batches_of_another_size_are_of_the_same_stream() -> None:
    """Batch size: the same examples in the same order, in other batches. Times and noise belong to the step: others."""
    eight, four = arms("training.batch_size=8,4").values()
    long = torch.cat([drawn(eight, step)["indices"] for step in range(7)])
    short = torch.cat([drawn(four, step)["indices"] for step in range(14)])
    assert torch.equal(long, short)
    assert not torch.equal(drawn(eight, 1)["eps"][:4], drawn(four, 2)["eps"])


def test_mirroring_and_averaging_move_no_other_draw() -> None:
    """Augmentation and EMA: examples, times and noise stay; mirrored is what the coins say, all else as it was."""
    first, *others = arms("data.flip=true,false", "training.ema_decay=0.5,0.9").values()
    one, mirrored = drawn(first, 3), 0
    for experiment in others:
        other = drawn(experiment, 3)
        for key in ("indices", "eps", "t"):
            assert torch.equal(one[key], other[key])
        same = (one["x0"] == other["x0"]).flatten(1).all(1)
        assert torch.equal(one["x0"][~same].flip(-1), other["x0"][~same])
        assert experiment.data.flip is False or bool(same.all())
        mirrored += int((~same).sum())
    assert mirrored > 0


def test_labels_that_are_dropped_rarely_are_dropped_often() -> None:
    """Dropout of labels: from the same uniform numbers, so what a small share drops, a larger one drops too."""
    told = {**DIGITS, "training.batch_size": 40, "condition.labels": True, "condition.classes": 10}
    rare, often = (load_experiment("digits", {**told, "condition.dropout": share}) for share in (0.2, 0.6))
    one, other = drawn(rare, 2), drawn(often, 2)
    for key in ("indices", "x0", "eps", "t"):
        assert torch.equal(one[key], other[key])
    assert 0 < int(one["dropped"].sum()) < int(other["dropped"].sum()) < 40
    assert bool((other["dropped"] | ~one["dropped"]).all())
