"""From one picture to another through the noises that they come from.

Pictures are encoded (`latents`), seeds are their own noise; the arc between two noises (`samplers.slerp`) is decoded.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.core import NoiseSource
from sfumato.errors import UsageError
from sfumato.experiment.samples import is_whole, require_seed
from sfumato.samplers import slerp

if TYPE_CHECKING:
    from sfumato.experiment.model import Model

__all__ = ["between"]

End = int | NDArray[Any]


def between(
    model: "Model",
    first: End,
    second: End,
    n: int = 11,
    *,
    steps: int = 50,
    sampler: object = "heun",
    labels: object = None,
    values: object = None,
    images: object = None,
) -> NDArray[np.generic]:
    """n examples from `first` to `second`, each a seed or one raw example, both ends included, in data units.

    Pictures come back as `Model.encode` says, a few levels off; seeds as samples of a deterministic sampler. The whole
    path is told the same. Raises UsageError for a sampler that adds noise.
    """
    if n < 2:
        raise UsageError(f"{n} pictures on a path", expected="2 or more", fix="ask for more (-n 11)")
    told = {"labels": labels, "values": values, "images": images}
    ends = [_noise(model, end, steps=steps, sampler=sampler, **told) for end in (first, second)]
    path = slerp(ends[0], ends[1], torch.linspace(0, 1, n, dtype=torch.float64))[:, 0]
    return model.decode(path.numpy(), steps=steps, sampler=sampler, **told)


def _noise(model: "Model", end: End, *, steps: int, sampler: object, **told: Any) -> torch.Tensor:
    """The noise (1, *) of one end, on the CPU."""
    if is_whole(end):
        require_seed(end)
        return NoiseSource.of(seed=int(end), count=1).initial((1, *model.record.shape), like=torch.empty(0))
    raw = np.asarray(end)[None]
    return torch.from_numpy(model.encode(raw, steps=steps, sampler=sampler, **told).latents)
