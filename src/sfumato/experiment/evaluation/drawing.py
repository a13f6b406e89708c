"""Samples of a run that stand for its data, in parts that are kept: an evaluation that was stopped draws the rest.

A model that is told nothing is asked for nothing. One that is told of its data is told what training examples are, in
the order of the golden section, frac((i + ½) (sqrt 5 - 1)/2): any number of them is spread evenly over the training
part, and sample i is asked for the same whatever that number is; or what other examples are that are named. Guidance is
that of the run's settings. Of samples of which nothing is to be asked nothing is, of any model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.experiment.conditions import NONE
from sfumato.experiment.config import SamplingConfig, experiment_yaml
from sfumato.experiment.evaluation.kept import code_of, key_of, source_of
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.pace import Pace, Progress
from sfumato.experiment.evaluation.subject import Subject
from sfumato.experiment.model import require_seed
from sfumato.experiment.session import weights_digest

__all__ = ["GOLDEN", "drawn_like_data", "drawn_unasked", "how_drawn", "sampling_of"]

PART = 250  # samples in a part, at least: whole micro-batches
CODE = ("core", "nn", "samplers", "guidance", "experiment")  # what draws: samples of other versions are not taken
GOLDEN = (math.sqrt(5) - 1) / 2


def sampling_of(subject: Subject) -> SamplingConfig:
    """The settings that samples of a subject are drawn with: the run's, by the subject's weights."""
    sampling = subject.model.experiment.sampling
    return replace(sampling, weights="live" if subject.weights == "live" else "ema", ema_width=None)


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """What samples are told: classes, numbers and pictures of examples; None for what a model cannot be told."""

    labels: list[int] | str | None
    values: NDArray[np.float32] | str | None
    images: NDArray[np.uint8] | None
    digest: str


def _told(subject: Subject, part: range, examples: Tensor | None) -> _Told:
    """What the samples `part` are told: what `examples` are, one for each sample, or training examples."""
    told, packed, train = subject.model.condition_shape, subject.data.packed, subject.data.parts.train
    share = (torch.arange(part.start, part.stop, dtype=torch.float64) + 0.5) * GOLDEN % 1.0
    golden = train[(share * len(train)).long().clamp(max=len(train) - 1)]
    chosen = golden if examples is None else examples[part.start : part.stop]
    classes = told.num_classes or subject.model.experiment.sampling.classifier_guidance is not None
    labels = packed.labels[chosen].tolist() if classes and packed.labels is not None else None
    values = packed.conditions[chosen].numpy() if told.num_values and packed.conditions is not None else None
    images = packed.values[chosen].numpy() if told.image_channels else None
    nothing = labels is None and values is None and images is None
    return _Told(labels, values, images, "nothing" if nothing else key_of(chosen.tolist()))


def _untold(subject: Subject, part: range) -> _Told:
    """Samples are told nothing; a model that goes by pictures is shown the first training one."""
    told, data = subject.model.condition_shape, subject.data
    labels = NONE if told.num_classes else None
    values = NONE if told.num_values and not told.num_classes else None
    first = data.packed.values[data.parts.train[:1]]
    images = first.repeat(len(part), 1, 1, 1).numpy() if told.image_channels else None
    nothing = labels is None and values is None and images is None
    return _Told(labels, values, images, "nothing" if nothing else "left out")


def drawn_unasked(subject: Subject, count: int, means: Means) -> Tensor:
    """As `drawn_like_data`, of which nothing is asked: pictures uint8 (count, H, W, C).

    Those of a model that is told nothing are the same ones. Raises UsageError for one that cannot leave its label out.
    """
    nowhere = replace(sampling_of(subject), guidance=None, guidance_interval=None, classifier_guidance=None)
    return _drawn(subject, count, means, nowhere, lambda part: _untold(subject, part))


def drawn_like_data(subject: Subject, count: int, means: Means, *, examples: Tensor | None = None) -> Tensor:
    """`count` samples as the data hold them: uint8 (count, H, W, C), or float32 (count, *); by all processes.

    Sample i has seed `subject.seed` + i. examples: indices (count,) of what they are told; None: training examples.
    Raises NumericsError for samples that are not finite.
    """
    return _drawn(subject, count, means, sampling_of(subject), lambda part: _told(subject, part, examples))


def _drawn(
    subject: Subject, count: int, means: Means, config: SamplingConfig, tell: Callable[[range], _Told]
) -> Tensor:
    """Samples that are told what `tell` says of each part, those that are kept and the others."""
    values = subject.data.packed.values
    require_seed(subject.seed, count)
    size = config.micro_batch * math.ceil(PART / config.micro_batch)
    parts = [range(first, min(first + size, count)) for first in range(0, count, size)]
    found = torch.zeros(count, *values.shape[1:], dtype=values.dtype)
    identity = _identity(subject, config)
    missing: list[tuple[range, _Told, str]] = []
    for index in means.team.shares(len(parts)):
        part = parts[index]
        told = tell(part)
        key = key_of(identity, part.start, part.stop, told.digest)
        there = None if identity is None else means.kept.read("samples", key)
        if there is None or there.shape != found[part.start : part.stop].shape:
            missing.append((part, told, key))
        else:
            found[part.start : part.stop] = there
    pace = _pace(subject, config, missing, means.progress)
    done = 0
    for part, told, key in missing:
        drawn = _draw(subject, config, part, told, pace(done))
        found[part.start : part.stop] = drawn
        if identity is not None:
            means.kept.write("samples", key, drawn)
        done += len(part)
    return means.team.joined(found)


def _draw(
    subject: Subject, config: SamplingConfig, part: range, told: _Told, progress: Callable[[int, int], None]
) -> Tensor:
    drawn = subject.model.sample(
        len(part),
        seed=subject.seed + part.start,
        config=config,
        labels=told.labels,
        values=told.values,
        images=told.images,
        progress=progress,
    )
    return torch.from_numpy(drawn.values if drawn.images is None else drawn.images)


def _pace(
    subject: Subject, config: SamplingConfig, missing: list[tuple[range, _Told, str]], progress: Progress | None
) -> Callable[[int], Callable[[int, int], None]]:
    """For each part a function that hears of its sampler steps, and tells of all the samples that are to be drawn."""
    total = sum(len(part) for part, _, _ in missing)
    calls = 0 if config.sampler.adaptive else config.sampler.calls(config.steps)

    def left(share: float) -> str:
        samples = math.ceil(share * total)
        return f"{samples * calls:,} network calls" if calls else f"{samples:,} samples"

    pace = Pace("sampling", left, report=subject.report, progress=progress)
    longest = max((len(part) for part, _, _ in missing), default=1)

    def of_part(before: int) -> Callable[[int, int], None]:
        size = min(longest, total - before)
        return lambda step, steps: pace(round(1000 * (before + size * step / steps)), 1000 * total)

    return of_part


def _identity(subject: Subject, config: SamplingConfig) -> str | None:
    """A digest of all that samples depend on; None where that includes files beside the run, which may change."""
    if config.autoguidance is not None or config.classifier_guidance is not None:
        return None
    network = source_of(type(subject.denoiser.network))  # people write their own, and write them anew
    if network is None:
        return None
    model = subject.model
    experiment = replace(model.experiment, sampling=config)
    device = str(next(subject.denoiser.network.parameters()).device.type)
    weights = weights_digest(model.weights[subject.weights])
    about = (code_of(*CODE), network, torch.__version__, device, experiment_yaml(experiment), model.record.to_plain())
    return key_of(weights, subject.seed, *about)


def how_drawn(subject: Subject, like: str = "what training examples are") -> dict[str, str | int]:
    """How the samples were drawn, for the provenance; `like`: what those of a model that is told something are told."""
    sampling = sampling_of(subject)
    told = subject.model.condition_shape
    steering = ("guidance", "guidance_interval", "classifier_guidance", "autoguidance", "weaker", "dynamic_threshold")
    given = {name: str(getattr(sampling, name)) for name in steering if getattr(sampling, name) is not None}
    asked = told.num_classes or told.num_values or told.image_channels or sampling.classifier_guidance is not None
    calls = {} if sampling.sampler.adaptive else {"calls": sampling.sampler.calls(sampling.steps)}
    return {
        "sampler": repr(sampling.sampler),
        "steps": sampling.steps,
        "grid": repr(sampling.grid),
        "clip": str(sampling.clip),
        "precision": sampling.precision,
        **calls,
        "sampling_seed": subject.seed,
        "asked": like if asked else "nothing",
        **given,
    }
