"""Stages of networks: their shapes, their parameters, and what is drawn of them."""

from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from sfumato.condition import ConditionShape
from sfumato.experiment.anatomy import OWN, Anatomy, anatomy, stages_of
from sfumato.experiment.build import build_network, resolved
from sfumato.experiment.config import load_experiment
from sfumato.figures import network
from sfumato.nn import DitConfig, Edm2UNetConfig, FourierMlpConfig, NetworkConfig, UNet1dConfig

PICTURES = {
    "ResidualUNet": ("digits", (1, 8, 8)),
    "AdditiveUNet": ("mnist-ddpm-small", (1, 32, 32)),
    "BottleneckUNet": ("mnist-bottleneck-conditional-small", (1, 28, 28)),
    "FilmUNet": ("film-ddim-small", (3, 32, 32)),
    "DdpmUNet": ("cifar10-ddpm-small", (3, 32, 32)),
}
KINDS: dict[str, tuple[str, tuple[int, ...], NetworkConfig | None]] = {
    **{name: (recipe, shape, None) for name, (recipe, shape) in PICTURES.items()},
    "StepMlp": ("swiss-roll", (2,), None),
    "FourierMlp": ("swiss-roll", (2,), FourierMlpConfig(width=16, depth=4)),
    "UNet1d": ("swiss-roll", (2, 12), UNet1dConfig(widths=(8, 16), depth=1, embedding=8, heads=2, groups=4)),
    "Dit": ("digits", (1, 8, 8), DitConfig(patch=2, width=32, depth=4, heads=2)),
    "Edm2UNet": ("digits", (1, 8, 8), Edm2UNetConfig(widths=(8, 16), depth=1, attention=(4,), head_width=8)),
}


@pytest.mark.parametrize("told", [ConditionShape(), ConditionShape(num_classes=3)], ids=["alone", "told"])
@pytest.mark.parametrize("kind", KINDS)
def test_stages_add_up_to_the_model(kind: str, told: ConditionShape) -> None:
    """Every network of the package: the parameters of the stages are the model's, and the last shape is its output."""
    recipe, shape, config = KINDS[kind]
    experiment = load_experiment(recipe)
    if config is not None:  # with data of any shape
        experiment = replace(experiment, network=config, data=type(experiment.data)())
    is_image = len(shape) == 3
    found = anatomy(experiment, shape=shape, is_image=is_image, condition=told)
    ready = resolved(experiment, shape=shape, is_image=is_image)
    with torch.device("meta"):
        made = build_network(ready, shape, told)
    assert found.network == kind
    assert found.parameters == sum(p.numel() for p in made.parameters())
    assert found.shape == shape
    assert found.output[1:] == shape[1:]
    assert all(stage.parameters or stage.shape for stage in found.stages)


class Odd(nn.Module):
    """What a network may do: share weights, hold some itself, call its parts in another order, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.norm = nn.LayerNorm(4)
        self.many = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.first = nn.Linear(2, 4)
        self.tied = nn.Linear(2, 4)
        self.tied.weight = self.first.weight
        self.gain = nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.tied(x) + self.first(x)
        for one in self.many:
            h = one(h)
        h = nn.functional.layer_norm(h, (4,), self.norm.weight, self.norm.bias)
        return self.last(h)


def test_shared_and_own_parameters_are_counted_once() -> None:
    odd = Odd()
    found = stages_of(odd, torch.zeros(1, 2))
    told = [(stage.name, stage.shape, stage.parameters, stage.count) for stage in found.stages]
    assert told == [
        ("tied", (4,), 12, 1),
        ("first", (4,), 4, 1),  # its bias alone: the weight is counted above
        ("many.0–2", (4,), 60, 3),
        ("last", (2,), 10, 1),
        ("norm", None, 8, 1),  # never called itself: after what was declared before it
        (OWN, None, 5, 1),
    ]
    assert found.parameters == sum(p.numel() for p in odd.parameters())
    assert odd.training
    assert not odd.last._forward_hooks


def test_what_is_drawn_is_what_was_found() -> None:
    found = anatomy(load_experiment("digits"), shape=(1, 8, 8), is_image=True)
    drawn = network(found)
    assert isinstance(drawn, Figure)
    left, right = drawn.axes
    shapes = [text.get_text() for text in left.texts]
    assert shapes == ["1 × 8 × 8", *(" × ".join(map(str, stage.shape or ())) for stage in found.stages)]
    counts = [int(text.get_text().split()[0].replace(",", "")) for text in right.texts]
    assert sum(counts) == found.parameters
    widths = [bar.get_width() for bar in left.patches]
    assert min(widths) == widths[len(found.stages) // 2]  # an hourglass
    assert f"{found.parameters:,} parameters" in str(drawn.get_suptitle())


def test_the_networks_of_the_sources() -> None:
    """esling's 2-128-128-128-2 with 100 steps, as the source has it."""
    found = anatomy(load_experiment("swiss-roll"), shape=(2,), is_image=False)
    assert isinstance(found, Anatomy)
    assert found.parameters == 72_066
    assert [stage.parameters for stage in found.stages] == [13_184, 29_312, 29_312, 258]
