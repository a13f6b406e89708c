"""From settings to a denoiser as it samples: guidance inside, the range of the data outside.

    D  ->  D_weak + w (D - D_weak)         autoguidance
       ->  D_u + w (D_c - D_u)             classifier-free, each of the two as autoguidance has it
       ->  + scale ∇ log p(k | x_t)        by a classifier of noisy data
       ->  clipped to the range of the data, or by a dynamic threshold

What these need besides the model (a weaker self, the run's classifier) is loaded once, by `guide_of`; a `Guide` then
makes the denoiser of every micro-batch, whose samples may have weights of their own.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfumato.condition import Condition, ConditionShape
from sfumato.core import Cond, Denoise, Prediction, Schedule
from sfumato.errors import UsageError
from sfumato.experiment.build import DataRecord
from sfumato.experiment.config import SamplingConfig
from sfumato.guidance import AutoGuided, ClassifierGuided, Clipped, Guided, Thresholded
from sfumato.guidance.classifier import LogProb
from sfumato.training.ema import bare_state
from sfumato.training.manifest import silent
from sfumato.training.tensors import check_names

if TYPE_CHECKING:
    from sfumato.core import Denoiser
    from sfumato.experiment.model import Model

__all__ = [
    "Guide",
    "Requests",
    "Told",
    "averaged_denoiser",
    "guide_of",
    "guided",
    "plainly",
    "require_guidance",
    "weights_of",
]


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """What n samples are told, and the weights of guidance of each where they have their own; nothing by default.

    cond: of n examples, on any device. guidance: (n,) float64, in place of the settings' weight.
    """

    cond: Condition | None = None
    guidance: Tensor | None = None

    def part(self, first: int, size: int, *, count: int, device: torch.device) -> "Requests":
        """Those of samples first … first + size - 1 of `count`; the last one stands for those beyond it."""
        index = (first + torch.arange(size)).clamp(max=count - 1)
        cond = None if self.cond is None else self.cond[index].to(device)
        return Requests(cond, None if self.guidance is None else self.guidance[index])

    @property
    def unlabelled(self) -> bool:
        """Whether no sample has a label or values."""
        return self.cond is None or (self.cond.dropped is not None and bool(self.cond.dropped.all()))


@dataclass(frozen=True, slots=True)
class Told:
    """A denoiser that is told of a condition what its network was built for, and nothing else of it.

    takes: what the network was built to be told.
    """

    denoise: Denoise
    takes: ConditionShape

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        if cond is None:
            return self.denoise(x_t, t)
        kept = Condition(
            labels=cond.labels if self.takes.num_classes else None,
            values=cond.values if self.takes.num_values else None,
            image=cond.image if self.takes.image_channels else None,
            dropped=cond.dropped if self.takes.droppable else None,
        )
        return self.denoise(x_t, t, kept if len(kept) else None)


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """A denoiser and what steers it by the settings. `weaker` and `log_prob` are None where the settings have none."""

    denoiser: Denoise
    record: DataRecord
    config: SamplingConfig
    weaker: Denoise | None = None
    log_prob: LogProb | None = None

    def steered(self, asked: Requests | None = None) -> Denoise:
        """The denoiser as it samples a micro-batch; what `asked` are not its own come from the settings."""
        config, d = self.config, self.denoiser
        if self.weaker is not None and config.autoguidance is not None:
            d = AutoGuided(d, self.weaker, config.autoguidance)
        weight = config.guidance if asked is None or asked.guidance is None else asked.guidance
        if weight is not None:
            d = Guided(d, weight, config.guidance_interval)
        if self.log_prob is not None and config.classifier_guidance is not None:
            d = ClassifierGuided(d, self.log_prob, config.classifier_guidance)
        return self.bounded(d)

    def bounded(self, d: Denoise) -> Denoise:
        """With x0 in the range of the data, where they have one and the settings ask for it."""
        low, high = self.record.normalization.low, self.record.normalization.high
        if low is None or high is None:
            return d
        if self.config.dynamic_threshold is not None:
            return Thresholded(d, self.config.dynamic_threshold, low, high)
        return Clipped(d, low, high) if self.config.clip else d


def guided(denoiser: Denoise, record: DataRecord, config: SamplingConfig) -> Denoise:
    """The denoiser as the settings have it sample without anything being asked for: clipped or not."""
    return Guide(denoiser, record, config).steered()


def plainly(config: SamplingConfig) -> SamplingConfig:
    """The settings without what needs more than the model itself: another run, a classifier, stored averages."""
    return replace(config, autoguidance=None, weaker=None, classifier_guidance=None, ema_width=None)


def require_guidance(model: "Model", config: SamplingConfig, *, own: bool = False) -> None:
    """Refuse guidance that the model cannot have; `own` says that samples have weights of their own.

    Raises UsageError.
    """
    name, told = model.experiment.name, model.condition_shape
    if (own or config.guidance is not None) and not (told.droppable and model.experiment.condition.dropout > 0):
        untold = "without labels" if not told.droppable else "with a label on every example (condition.dropout is 0)"
        raise UsageError(
            f"guidance was given to {name!r}, which was trained {untold}",
            expected="a model that was trained with its label and without (condition.dropout above 0)",
            fix="leave out the guidance (--guidance)",
        )
    if config.classifier_guidance is not None and not model.record.label_values:
        raise UsageError(
            f"classifier_guidance was given to {name!r}, whose data have no labels",
            expected="a model of data with labels",
            fix="leave out classifier_guidance (--classifier_guidance)",
        )
    if config.dynamic_threshold is not None and not model.record.is_image:
        raise UsageError(
            f"dynamic_threshold was given to {name!r}, whose data have no range to keep to",
            expected="a model of pictures",
            fix="leave out dynamic_threshold (--dynamic_threshold)",
        )


def weights_of(guidance: object, n: int) -> Tensor:
    """The weights of guidance of n samples, float64 (n,). Raises UsageError for other counts, and for no weights."""
    try:
        each = torch.as_tensor(guidance, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        each = torch.full((1, 1), torch.nan, dtype=torch.float64)
    if each.shape != (n,) or not bool((each.isfinite() & (each >= 0)).all()):
        raise UsageError(
            f"guidance is {str(guidance)[:60]} for {n} samples",
            expected="a finite number of 0 or more, or one for each sample",
            fix="give guidance=2 (--guidance 2)",
        )
    return each


def guide_of(model: "Model", denoiser: "Denoiser", config: SamplingConfig) -> Guide:
    """The guide of these settings, with the weaker self and the classifier loaded.

    Raises UsageError for what does not fit the model, CheckpointError for what is not there.
    """
    weaker = None if config.weaker is None else weaker_self(model, denoiser, config.weaker)
    if config.classifier_guidance is None:
        return Guide(denoiser, model.record, config, weaker)
    return Guide(Told(denoiser, model.condition_shape), model.record, config, weaker, classifier_of(model))


def weaker_self(model: "Model", denoiser: "Denoiser", named: str) -> Denoise:
    """The denoiser of a run, a checkpoint or an exported file that can guide this model away from itself.

    Runs are looked for beside the model's own. Raises UsageError where the data or the conditions differ; another
    schedule will do, where it reaches the same noise levels (`AutoGuided`).
    """
    from sfumato.experiment.load import load  # which makes models

    runs = Path("runs") if model.folder is None else model.folder.parent
    other = load(named, runs=runs, device=str(next(denoiser.network.parameters()).device))
    pairs: dict[str, tuple[object, object]] = {
        "shape of the data": (model.record.shape, other.record.shape),
        "normalization": (model.record.normalization, other.record.normalization),
    }
    if other.condition_shape:
        pairs["condition"] = (model.condition_shape, other.condition_shape)
    if other.condition_shape.num_classes:
        pairs["list of classes"] = (model.record.label_values, other.record.label_values)
    if other.condition_shape.num_values:
        pairs["scale of the values"] = (model.record.conditions, other.record.conditions)
    for what, (one, two) in pairs.items():
        if one != two:
            raise UsageError(
                f"the {what} of {model.experiment.name!r} is {one}, and that of its weaker self {named} is {two}",
                expected="a weaker self of the same data, told the same",
                fix="name a run with the same settings but a smaller network or fewer steps, or leave out autoguidance",
            )
    return Told(other.denoiser, other.condition_shape)


def classifier_of(model: "Model") -> LogProb:
    """log p(k | x_t, t) by the run's classifier of noisy data. Raises UsageError where there can be none."""
    from sfumato.experiment.classifier import load_classifier

    if model.folder is None:
        raise UsageError(
            "an exported file holds no classifier",
            expected="a run folder, for classifier_guidance",
            fix="sample from the run, or leave out classifier_guidance (--classifier_guidance)",
        )
    found: LogProb = load_classifier(model.folder, model)
    return found


def averaged_denoiser(model: "Model", width: float, report: Callable[[str], None] = silent) -> "Denoiser":
    """The denoiser with the average of a relative width, put together from those that training stored.

    Raises UsageError for an exported file and for a width that cannot be had, CheckpointError where nothing is stored.
    """
    from sfumato.experiment.averages import averaged

    if model.folder is None:
        raise UsageError(
            "an exported file holds one average alone",
            expected="a run folder, for ema_width",
            fix="sample from the run, or leave out ema_width (--ema_width)",
        )
    denoiser = copy.deepcopy(model.denoiser)
    place(denoiser, averaged(model.folder, width, report=report))
    return denoiser


def place(denoiser: "Denoiser", tensors: Mapping[str, Tensor]) -> None:
    """Put weights into a denoiser. Raises CheckpointError for names or shapes of another network."""
    live = bare_state(denoiser.network)
    check_names(live, dict(tensors), "the stored averages")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(tensors[name])
