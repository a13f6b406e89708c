"""The noise behind pictures: encoding data along the probability-flow ODE, decoding, and paths between two noises.

A model's deterministic sampler is a map from noise to data that can be walked backwards (`samplers.inversion`); how far
an example comes back says how well. Latents here are in units of the prior, so that N(0, I) is their law under the
model whatever the schedule.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import NoiseSource
from sfumato.errors import UsageError
from sfumato.experiment.config import SamplingConfig
from sfumato.experiment.evaluation.conventions import raw_values
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


def encoded(model: "Model", x: NDArray[Any], *, steps: int, sampler: Sampler[Any]) -> Encoded:
    """The latents of raw examples (n, *), as they are stored, and how far each comes back.

    Raises DataError for examples of another kind than the model's, UsageError for a sampler that adds noise.
    """
    denoiser = model.denoiser
    x0 = model.record.normalization.to_model(raw_values(model.record, x)).to(next(denoiser.network.parameters()))
    times = inversion_times(denoiser.schedule, steps)
    found = [round_trip(sampler, denoiser, part, times) for part in x0.split(model.experiment.sampling.micro_batch)]
    latents = torch.cat([one.latent for one in found]) / denoiser.schedule.prior_std
    return Encoded(latents.cpu().numpy(), torch.cat([one.rms for one in found]).cpu().numpy())


def decoded(model: "Model", latents: NDArray[np.float32], *, steps: int, sampler: Sampler[Any]) -> NDArray[np.generic]:
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
    parts = [decode(sampler, denoiser, part, times) for part in start.split(model.experiment.sampling.micro_batch)]
    return model.record.normalization.to_data(torch.cat(parts)).cpu().numpy()


@torch.no_grad()
def interpolated(model: "Model", first: int, second: int, count: int, config: SamplingConfig) -> NDArray[np.generic]:
    """`count` samples on the arc between the noises of two seeds, both ends included, in data units.

    Ends are the samples of `seed=first` and `seed=second`. A sampler that adds noise is refused: its noise would be
    another between the ends. Raises UsageError.
    """
    from sfumato.experiment.model import guided, require_seed

    for seed in (first, second):
        require_seed(seed)
    if count < 2 or not config.sampler.deterministic:
        what = f"{count} samples on a path" if count < 2 else f"a path of samples drawn by {config.sampler!r}"
        raise UsageError(
            what, expected="2 or more, by a deterministic sampler", fix="take sampler='ddim', and more samples"
        )
    denoiser, shape = model.denoiser, (1, *model.record.shape)
    like = torch.empty(0, device=next(denoiser.network.parameters()).device)
    ends = [NoiseSource.of(seed=seed, count=1).initial(shape, like=like) for seed in (first, second)]
    path = slerp(ends[0], ends[1], torch.linspace(0, 1, count, dtype=torch.float64))[:, 0]
    times = config.grid.times(denoiser.schedule, config.steps)
    found = [_walked(model, part, times, config, guided) for part in path.split(config.micro_batch)]
    return model.record.normalization.to_data(torch.cat(found)[:count]).cpu().numpy()


def _walked(model: "Model", path: Tensor, times: list[float], config: SamplingConfig, guided: Any) -> Tensor:
    """The end of the walk from each noise of `path`, in model units; padded to a whole micro-batch."""
    padded = torch.cat([path, path[-1:].expand(config.micro_batch - len(path), *path.shape[1:])])
    start = padded * model.denoiser.schedule.prior_std
    start = start.contiguous(memory_format=torch.channels_last) if start.ndim == 4 else start
    silent = NoiseSource.of(seed=0, count=len(start))
    *_, last = sample(config.sampler, guided(model.denoiser, model.record, config), start, times, noise=silent)
    return last.x[: len(path)]
