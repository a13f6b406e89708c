"""The noise behind pictures: encoding data along the probability-flow ODE, decoding, and paths between two noises.

A model's deterministic sampler is a map from noise to data that can be walked backwards (`samplers.inversion`); how far
an example comes back says how well. Latents here are in units of the prior, so that N(0, I) is their law under the
model whatever the schedule.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.condition import Condition
from sfumato.core import NoiseSource
from sfumato.errors import UsageError
from sfumato.experiment.conditions import Asked
from sfumato.experiment.config import SamplingConfig
from sfumato.experiment.evaluation.conventions import raw_values
from sfumato.experiment.guiding import Guide, Requests, guide_of, require_guidance
from sfumato.samplers import Sampler, decode, inversion_times, round_trip, sample, slerp

if TYPE_CHECKING:
    from sfumato.experiment.model import Model

__all__ = ["Encoded", "decoded", "encoded", "interpolated"]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Examples as noise.

    latents: float32 (n, *), channels first, of the law N(0, I) as far as the data are of the model's law.
    rms: float64 (n,), the root of the mean squared difference between an example and what its latent decodes to, in
        units of the prepared data (pictures under `range`: -1 to 1).
    """

    latents: NDArray[np.float32]
    rms: NDArray[np.float64]


def encoded(
    model: "Model", x: NDArray[Any], *, steps: int, sampler: Sampler[Any], cond: Condition | None = None
) -> Encoded:
    """The latents of raw examples (n, *), as they are stored, and how far each comes back.

    Raises DataError for examples of another kind than the model's, UsageError for a sampler that adds noise.
    """
    denoiser = model.denoiser
    x0 = model.record.normalization.to_model(raw_values(model.record, x)).to(next(denoiser.network.parameters()))
    times = inversion_times(denoiser.schedule, steps)
    size = model.experiment.sampling.micro_batch
    found = [round_trip(sampler, denoiser, part, times, cond=told) for part, told in _parts(x0, cond, size)]
    latents = torch.cat([one.latent for one in found]) / denoiser.schedule.prior_std
    return Encoded(latents.cpu().numpy(), torch.cat([one.rms for one in found]).cpu().numpy())


def decoded(
    model: "Model",
    latents: NDArray[np.float32],
    *,
    steps: int,
    sampler: Sampler[Any],
    cond: Condition | None = None,
) -> NDArray[np.generic]:
    """What latents (n, *) decode to, in data units: uint8 (n, H, W, C) for pictures; the inverse of `encoded`."""
    denoiser, shape = model.denoiser, np.shape(latents)
    if shape[1:] != model.record.shape:
        raise UsageError(
            f"latents of shape {shape}",
            expected=f"(n, {', '.join(map(str, model.record.shape))})",
            fix="give the .latents of what encode returns",
        )
    start = torch.from_numpy(np.asarray(latents)).to(next(denoiser.network.parameters())) * denoiser.schedule.prior_std
    times = inversion_times(denoiser.schedule, steps)
    size = model.experiment.sampling.micro_batch
    parts = [decode(sampler, denoiser, part, times, cond=told) for part, told in _parts(start, cond, size)]
    return model.record.normalization.to_data(torch.cat(parts)).cpu().numpy()


def _parts(x: Tensor, cond: Condition | None, size: int) -> Iterator[tuple[Tensor, Condition | None]]:
    """Pieces of x (n, *) with the conditions of their examples, on its device."""
    for first in range(0, len(x), size):
        where = slice(first, first + size)
        yield x[where], None if cond is None else cond[where].to(x.device)


@torch.no_grad()
def interpolated(
    model: "Model", first: int, second: int, count: int, config: SamplingConfig, asked: Asked
) -> NDArray[np.generic]:
    """`count` samples on the arc between the noises of two seeds, both ends included, in data units.

    Ends are the samples of `seed=first` and `seed=second`, asked for the same. A sampler that adds noise is refused:
    its noise would be another between the ends. Raises UsageError.
    """
    from sfumato.experiment.model import require_seed

    for seed in (first, second):
        require_seed(seed)
    if count < 2 or not config.sampler.deterministic:
        what = f"{count} samples on a path" if count < 2 else f"a path of samples drawn by {config.sampler!r}"
        raise UsageError(
            what, expected="2 or more, by a deterministic sampler", fix="take sampler='ddim', and more samples"
        )
    steered = config.classifier_guidance is not None
    require_guidance(model, config)
    requests = Requests(model.condition_of(asked, count, seed=first, steered=steered))
    guide = guide_of(model, model.denoiser, config)
    like = torch.empty(0, device=next(model.denoiser.network.parameters()).device)
    shape = (1, *model.record.shape)
    ends = [NoiseSource.of(seed=seed, count=1).initial(shape, like=like) for seed in (first, second)]
    path = slerp(ends[0], ends[1], torch.linspace(0, 1, count, dtype=torch.float64))[:, 0]
    size = config.micro_batch
    found = []
    for start in range(0, count, size):
        part = requests.part(start, size, count=count, device=like.device)
        found.append(_walked(guide, path[start : start + size], config, part))
    return model.record.normalization.to_data(torch.cat(found)[:count]).cpu().numpy()


def _walked(guide: Guide, path: Tensor, config: SamplingConfig, asked: Requests) -> Tensor:
    """The end of the walk from each noise of `path`, in model units; padded to a whole micro-batch."""
    d = guide.steered(asked)
    padded = torch.cat([path, path[-1:].expand(config.micro_batch - len(path), *path.shape[1:])])
    start = padded * d.schedule.prior_std
    start = start.contiguous(memory_format=torch.channels_last) if start.ndim == 4 else start
    times = config.grid.times(d.schedule, config.steps)
    silent = NoiseSource.of(seed=0, count=len(start))
    *_, last = sample(config.sampler, d, start, times, noise=silent, cond=asked.cond)
    return last.x[: len(path)]
