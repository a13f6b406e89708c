"""How an edit is carried out: planned and checked, then drawn in micro-batches of one size.

Micro-batches have min(sampling.micro_batch, 8) samples, fewer than in sampling because methods keep what gradients
need; the last is filled up with its last sample. The bytes of variant v of picture p depend on the picture, its seed
K + 1000 p + v, what it is told, and n, and not on how many pictures there are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import NoiseSource
from sfumato.errors import UsageError, printable
from sfumato.experiment.config import SamplingConfig
from sfumato.experiment.edits.methods import METHODS, Condition, Method, Moments
from sfumato.experiment.edits.plans import Place, Plan, Restoring, Varying
from sfumato.experiment.edits.tasks import STRIDE, Edit, Pixels, Restoration, Vary
from sfumato.experiment.guiding import Guide, Requests
from sfumato.experiment.kinds import nearest
from sfumato.experiment.pictures import stored_shape
from sfumato.experiment.samples import Samples, is_whole, require_seed
from sfumato.samplers import Trailing

if TYPE_CHECKING:
    from sfumato.experiment.model import Model

__all__ = ["Edited", "edited", "method_named", "planned", "usual_method"]

AT_ONCE = 8  # samples in a micro-batch, at most: gradients are kept


@dataclass(frozen=True, slots=True, eq=False)
class Edited:
    """Variants of pictures.

    samples: all of them as `Model.sample` gives samples, those of the first picture first.
    shown: what was given as people look at it: uint8 (P, H, W, C'), at the size of the results.
    variants: n, of each picture.
    method: how it was done: moments, pigdm, dps, repaint, condition, or vary.
    noise: standard deviation of the noise that the pictures were taken to have, in 8-bit levels.
    """

    samples: Samples
    shown: Pixels
    variants: int
    method: str
    noise: float = 0.0

    @property
    def images(self) -> Pixels:
        """The results, uint8 (P, n, H, W, C)."""
        assert self.samples.images is not None
        return self.samples.images.reshape(-1, self.variants, *self.samples.images.shape[1:])


def usual_method(model: "Model") -> Method:
    """How a model restores where nobody chooses: by what it was trained to go by, else by matched moments."""
    return Moments() if model.experiment.condition.image is None else Condition()


def method_named(method: "str | Method") -> Method:
    """The method of a name, with its usual settings. Raises UsageError naming the nearest."""
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        near = nearest(str(method), list(METHODS))
        raise UsageError(
            f"there is no method {printable(method)}",
            expected=f"one of {', '.join(METHODS)}",
            fix=f"did you mean {near}?" if near else "leave the method out (--method)",
        )
    return METHODS[method]()


def planned(
    model: "Model", task: Edit, n: int, *, method: "str | Method | None", noise: float | None, seed: int
) -> Plan:
    """What is to be done, checked against the model. Raises UsageError."""
    if not is_whole(n) or not 1 <= n <= STRIDE:
        expected = f"from 1 to {STRIDE} variants of each picture"
        raise UsageError(f"{n!r} variants were asked for", expected=expected, fix="ask for a few (-n 3)")
    stored_shape(model.record)  # refuses points
    if isinstance(task, Restoration):
        plan: Plan = _restoring(model, task, n, method, noise, seed)
    else:
        assert isinstance(task, Vary)
        plan = _varying(model, task, n, method, noise, seed)
    require_seed(seed, STRIDE * len(plan.shown))
    return plan


def _varying(
    model: "Model", task: Vary, n: int, method: "str | Method | None", noise: float | None, seed: int
) -> Varying:
    if method is not None or noise is not None:
        raise UsageError(
            "a method or a noise was given for vary",
            expected="a strength alone: variations are of the picture itself",
            fix="leave out the method and the noise (--method, --noise)",
        )
    start = task.start(model.denoiser.schedule, model.record.data_std)
    pictures = task.checked(stored_shape(model.record))
    x0 = model.record.normalization.to_model(torch.from_numpy(np.ascontiguousarray(pictures)))
    return Varying(n, seed, pictures, x0, start)


def _restoring(
    model: "Model", task: Restoration, n: int, method: "str | Method | None", noise: float | None, seed: int
) -> Restoring:
    record = model.record
    chosen = _chosen(model, task, method)
    given = np.ascontiguousarray(task.given(record))
    off = task.usual_noise if noise is None else noise
    if not 0 <= off < float("inf"):
        raise UsageError(f"noise is {noise}", expected="8-bit levels, 0 or more", fix="noise=0 (--noise 0)")
    normalization, channels = record.normalization, given.shape[-1]
    columns = (normalization.mean[:channels], normalization.scale[:channels])
    mean, scale = (torch.tensor(column, dtype=torch.float32)[:, None, None] for column in columns)
    y = (torch.from_numpy(given).permute(0, 3, 1, 2).to(torch.float32) - mean) / scale
    y = task.operator(record, torch.arange(len(y))).apply(y) if task.holes else y  # nothing of what is hidden
    return Restoring(task, chosen, record, n, seed, float(off), task.shown(record), y)


def _chosen(model: "Model", task: Restoration, method: "str | Method | None") -> Method:
    """The method asked for, or the model's own. Raises UsageError where the two do not go together."""
    own, name = model.experiment.condition.image, model.experiment.name
    chosen = usual_method(model) if method is None else method_named(method)
    task.given_shape(model.record)  # what does not fit the data is refused first
    if own is None and chosen.goes_by_pictures:
        raise UsageError(
            f"the method condition was given to {name!r}, which was trained without pictures to go by",
            expected="moments, pigdm, dps or repaint",
            fix=f"method='moments' (--method moments), or train with condition.image: {task.trained_with.__name__}",
        )
    if own is not None and not (chosen.goes_by_pictures and task.fits(own)):
        raise UsageError(
            f"{task.name} was asked of {name!r}, which was trained to go by {own!r}",
            expected="what it was trained for, by the method condition",
            fix="leave out the method (--method), or choose a run that was trained without condition.image",
        )
    return chosen


def edited(
    plan: Plan,
    guide: Guide,
    config: SamplingConfig,
    requests: Requests,
    *,
    like: Tensor,
    progress: Callable[[int, int], None] | None = None,
) -> Edited:
    """Carry out a plan, in micro-batches; `progress(done, total)` counts steps of the sampler."""
    if config.sampler.adaptive:
        config = replace(config, steps=1, grid=Trailing())
    count, size = plan.count, min(config.micro_batch, AT_ONCE)
    firsts = range(0, count, size)
    done, total = 0, len(firsts) * plan.moves(config)
    rows = torch.arange(count) // plan.n
    seeds = plan.seed + STRIDE * rows + torch.arange(count) % plan.n
    found: list[NDArray[np.uint8]] = []
    for first in firsts:
        index = (first + torch.arange(size)).clamp(max=count - 1)
        part = requests.part(first, size, count=count, device=like.device)
        x: Tensor | None = None
        for x in plan.walk(guide, config, part, Place(rows[index], NoiseSource(seeds[index]), like)):  # noqa: B007
            done += 1
            if progress is not None:
                progress(done, total)
        assert x is not None  # a walk has at least one step
        found.append(guide.record.normalization.to_data(x[: count - first]).cpu().numpy())
    images = plan.finished(np.concatenate(found))
    calls = np.zeros(count, dtype=np.int64)
    samples = Samples(images, None, None, seeds.numpy(), calls)
    return Edited(samples, plan.shown, plan.n, plan.how, plan.noise)
