"""Samples in micro-batches: what is drawn is decided by the model, the seed and what each sample is asked to be.

Every micro-batch has the size that the settings say; the last one is filled up with the seeds that would come next,
asked for what the last sample is. The bytes of sample i therefore depend on its seed and its condition, and neither on
how many samples are drawn nor on what the others are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.core import Denoise, NoiseSource
from sfumato.experiment.build import DataRecord
from sfumato.experiment.config import SamplingConfig
from sfumato.experiment.guiding import Guide, Requests
from sfumato.samplers import Step, Trailing, sample

__all__ = ["Drawn", "draw", "draw_counted", "walk"]

NOTHING = Requests()


@dataclass(frozen=True, slots=True)
class Drawn:
    """Samples in data units, `values` (N, *), and the denoiser calls of each, `calls` (N,) int64; on the CPU."""

    values: Tensor
    calls: Tensor


def walk(
    guide: Guide, config: SamplingConfig, asked: Requests, *, seed: int, first: int, wanted: int, like: Tensor
) -> Iterator[Step]:
    """The steps of one micro-batch: samples first … first + micro_batch - 1 of the seed, in model units.

    `asked` is that of these samples alone, and the first `wanted` of them must come out finite. With an adaptive
    sampler the times of the grid are those at which its path is seen.
    """
    noise = NoiseSource.of(seed=seed, count=config.micro_batch, first=first)
    d = guide.steered(asked)
    start = noise.initial((config.micro_batch, *guide.record.shape), like=like) * d.schedule.prior_std
    if start.ndim == 4:
        start = start.contiguous(memory_format=torch.channels_last)
    times = config.grid.times(d.schedule, config.steps)
    return sample(config.sampler, d, start, times, noise=noise, cond=asked.cond, wanted=wanted)


def draw(
    denoiser: Denoise,
    record: DataRecord,
    config: SamplingConfig,
    *,
    count: int,
    seed: int,
    like: Tensor,
    asked: Requests = NOTHING,
) -> Tensor:
    """`count` samples in data units, on the CPU, by what the settings ask of the denoiser alone (`guiding.plainly`)."""
    return draw_counted(Guide(denoiser, record, config), config, asked, count=count, seed=seed, like=like).values


def draw_counted(
    guide: Guide,
    config: SamplingConfig,
    asked: Requests,
    *,
    count: int,
    seed: int,
    like: Tensor,
    progress: Callable[[int, int], None] | None = None,
) -> Drawn:
    """`count` samples with the calls of each; `progress(done, total)` counts sampler steps of all micro-batches.

    An adaptive sampler takes the whole way in one step.
    """
    if config.sampler.adaptive:
        config = replace(config, steps=1, grid=Trailing())
    size = config.micro_batch
    batches = range(0, count, size)
    done, total = 0, len(batches) * config.steps
    values, calls = [], []
    for first in batches:
        last, part = None, asked.part(first, size, count=count, device=like.device)
        for last in walk(guide, config, part, seed=seed, first=first, wanted=count - first, like=like):  # noqa: B007
            done += 1
            if progress is not None:
                progress(done, total)
        assert last is not None  # a grid has at least one interval
        values.append(guide.record.normalization.to_data(last.x[: count - first]).cpu())
        calls.append(last.calls_each[: count - first])
    return Drawn(torch.cat(values), torch.cat(calls))
