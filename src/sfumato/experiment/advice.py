"""Settings to begin with, from what the data are: resolution, network, batch and steps, each with its reason.

    size      the pictures' own up to 64 pixels (128 with a GPU), or else the largest power of two up to that which nine
              of ten pictures reach; the pictures' own aspect where nearly all share one
    network   `tiny` on a CPU; with a GPU `small`, and `base` from 20,000 examples on
    batch     64 (128 with a GPU; 512 of what is no picture), at most the examples there are; worked through in parts
              until a step fits half the memory
    steps     200 passes over the training part, within 3,000 and 20,000 (with a GPU within 10,000 and 100,000)

200 passes are what the embedded sets and the flowers were trained for when their samples stopped getting better. These
are places to start from, not optima. Speed is not guessed: `sfumato train FILE --dry-run` measures it.
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sfumato.core import CosineAngle, Schedule
from sfumato.data import DataConfig
from sfumato.data.inspection import DataFacts
from sfumato.data.survey import Survey
from sfumato.experiment.build import build_network, resolved
from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.kinds import kind_name
from sfumato.experiment.memory import least_bytes, total_memory
from sfumato.experiment.schema import to_plain
from sfumato.experiment.yaml_file import to_yaml
from sfumato.training.engine import choose_device

__all__ = ["SCHEDULE", "Advice", "advise", "fitting_size", "good_network", "good_steps"]

SIDES = (8, 16, 32, 64, 128)
PASSES = 200
SCHEDULE = CosineAngle(min_signal_rate=0.01, max_signal_rate=0.9999)  # from next to no noise to next to no data
LARGE = 20_000  # examples from which a GPU's network may be the large one
LEVEL = 4  # sides that this divides can be halved twice
NARROW = (0.25, 1.2)  # standard deviations of the data that need no standardising


@dataclass(frozen=True, slots=True)
class Advice:
    """Settings to begin with. `experiment` is what they make; parameters and flops (of a forward pass) are its own."""

    settings: dict[str, Any]
    experiment: Experiment
    parameters: int
    flops: int
    reasons: tuple[str, ...]

    def yaml(self) -> str:
        """The settings as a file that `sfumato train` takes."""
        return to_yaml(self.settings)

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "settings": self.settings,
            "parameters": self.parameters,
            "flops_per_image": self.flops,
            "reasons": list(self.reasons),
        }


def advise(data: DataConfig, facts: DataFacts, survey: Survey | None, data_std: float) -> Advice:
    """What to begin with for data as `data` reads them, of which `facts` were found; `data_std` is in model space."""
    gpu = choose_device("auto").type != "cpu"
    reasons: list[str] = []
    prepared, shape = _prepared(data, facts, survey, data_std, gpu, reasons)
    usual = 512 if not facts.is_image else 128 if gpu else 64
    batch = _power_of_two(min(usual, facts.train))
    steps = good_steps(facts.train, batch, gpu)
    reasons.append(f"{steps:,} steps of {batch}: {steps * batch / facts.train:,.0f} passes over the training part")
    settings: dict[str, Any] = {
        "name": _name(data),
        "data": _changed(prepared),
        "network": good_network(facts.train, gpu),
        "schedule": to_plain(SCHEDULE, Schedule),
        "parameterization": "Velocity",
        "time_input": "LogSnrInput",
        "training": {
            "steps": steps,
            "batch_size": batch,
            "learning_rate": 1e-3,
            "decay": "cosine",
            "warmup_steps": min(200, steps // 10),
            "ema_decay": 0.998 if steps < 5000 else 0.999,
        },
        "sampling": {"sampler": "Ddim", "steps": 50},
    }
    experiment = resolved(load_experiment(Experiment(), settings), shape=shape, is_image=facts.is_image)
    parts = _parts(experiment, shape)
    if parts > 1:
        settings["training"]["accumulate"] = parts
        experiment = replace(experiment, training=replace(experiment.training, accumulate=parts))
        reasons.append(f"in {parts} parts, so that a step fits half of this machine's memory")
    parameters, flops = _counted(experiment, shape)
    fitted = kind_name(type(experiment.network))
    where = "with a GPU" if gpu else "on a CPU"
    reasons.append(f"network {settings['network']} ({fitted}) for {facts.train:,} training examples {where}")
    if facts.classes is not None and len(facts.classes.names) > 1:
        reasons.append("to draw by class: --condition.labels true --condition.dropout 0.1")
    return Advice(settings, experiment, parameters, flops, tuple(reasons))


def fitting_size(survey: Survey | None, shape: tuple[int, ...], *, gpu: bool) -> tuple[int, int] | None:
    """The height and width to learn pictures at; None for as they are. `shape` (C, H, W) counts without a survey."""
    most = SIDES[-1] if gpu else SIDES[-2]
    if survey is None or not survey.mixed_sizes:
        height, width = shape[1:] if survey is None else (survey.sizes[0].height, survey.sizes[0].width)
        if min(height, width) <= most and max(height, width) <= 2 * most:
            return None
        shorter, ratio = min(height, width), height / width
    else:
        shorter, ratio = survey.shorter_side(0.1), survey.aspect() or 1.0
    side = max((s for s in SIDES if s <= min(shorter, most)), default=SIDES[0])
    if abs(math.log(ratio)) < 0.05 or max(ratio, 1 / ratio) > 2:
        return side, side
    longer = max(side, 8 * round(side * max(ratio, 1 / ratio) / 8))
    return (longer, side) if ratio > 1 else (side, longer)


def good_network(count: int, gpu: bool) -> str:
    """The named size for so many training examples."""
    return "Tiny" if not gpu else "Base" if count >= LARGE else "Small"


def good_steps(count: int, batch: int, gpu: bool) -> int:
    """Steps of PASSES passes, within bounds, in hundreds."""
    least, most = (10_000, 100_000) if gpu else (3_000, 20_000)
    return min(max(100 * math.ceil(PASSES * count / batch / 100), least), most)


def _prepared(
    data: DataConfig, facts: DataFacts, survey: Survey | None, data_std: float, gpu: bool, reasons: list[str]
) -> tuple[DataConfig, tuple[int, ...]]:
    """The data settings to begin with and the shape of an example under them; adds to `reasons`."""
    found, shape = data, facts.shape
    if facts.is_image:
        size = fitting_size(survey, shape, gpu=gpu) if data.size is None else None
        if size is not None:
            found = replace(found, size=size[0] if size[0] == size[1] else size, pad=None)
            shape = (shape[0], *size)
            reasons.append(f"{size[0]}x{size[1]} pixels: {_why(survey, facts, gpu)}")
        padded = tuple(-(-side // LEVEL) * LEVEL for side in shape[1:])
        if padded != shape[1:] and min(shape[1:]) > 2 * LEVEL:
            found = replace(found, pad=padded[0] if padded[0] == padded[1] else (padded[0], padded[1]))
            shape = (shape[0], *padded)
            reasons.append(f"padded to {padded[0]}x{padded[1]}, sides that can be halved twice")
        if facts.grey and data.channels is None:
            found, shape = replace(found, channels=1), (1, *shape[1:])
            reasons.append("one channel: every picture is grey")
    if data.normalize == "range" and not NARROW[0] <= data_std <= NARROW[1]:
        found = replace(found, normalize="standardize")
        reasons.append(f"standardised: the data's standard deviation is {data_std:.3g}")
    return found, shape


def _why(survey: Survey | None, facts: DataFacts, gpu: bool) -> str:
    most = f"{SIDES[-1] if gpu else SIDES[-2]} pixels are much work {'for one GPU' if gpu else 'for a CPU'} already"
    if survey is None:
        return most
    if not survey.mixed_sizes:
        return f"the pictures are {survey.sizes[0].height}x{survey.sizes[0].width}, and {most}"
    return f"nine of ten pictures have a shorter side of {survey.shorter_side(0.1)} or more, and {most}"


def _power_of_two(count: int) -> int:
    """The largest power of two up to count."""
    return 1 << (max(1, count).bit_length() - 1)


def _parts(experiment: Experiment, shape: tuple[int, ...]) -> int:
    """In how many parts a batch must be worked through to take at most half of the memory there is."""
    there = total_memory(torch.device(experiment.training.device))
    batch, parts = experiment.training.batch_size, 1
    while there is not None and parts < batch:
        tried = replace(experiment, training=replace(experiment.training, accumulate=parts))
        if 2 * least_bytes(tried, shape) <= there:
            break
        parts *= 2
    return parts


def _counted(experiment: Experiment, shape: tuple[int, ...]) -> tuple[int, int]:
    """Parameters of the network, and FLOPs of its forward pass for one example; nothing is allocated."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = build_network(experiment, shape).eval()
        network(torch.empty((1, *shape)), torch.empty(1), None)
    return sum(p.numel() for p in network.parameters()), int(counter.get_total_flops())


def _name(data: DataConfig) -> str:
    """A name for runs, after the data."""
    stem = Path(data.path).expanduser().resolve().stem if data.path is not None else data.source
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:60] or "mine"


def _changed(data: DataConfig) -> dict[str, Any]:
    """The data settings that are not their defaults."""
    usual = to_plain(DataConfig())
    return {key: value for key, value in to_plain(data).items() if value != usual[key]}
