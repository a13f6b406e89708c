"""-log p of examples that are handed in, by a model alone: of x, or of x given what the model is told."""

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from sfumato.condition import Condition
from sfumato.experiment.build import prepare_data
from sfumato.experiment.conditions import Asked
from sfumato.experiment.evaluation.conventions import convention_of, raw_values
from sfumato.experiment.evaluation.likelihoods import (
    FlowMethod,
    Method,
    require_flow,
    require_likelihood,
    variance_of,
)
from sfumato.experiment.evaluation.subject import Subject, precise
from sfumato.experiment.model import Model

__all__ = ["nll_of"]


def nll_of(
    model: Model, x: NDArray[Any], *, method: Method, seed: int, weights: str, told: Asked | None = None
) -> Tensor:
    """-log p of raw examples x (n, *), nats per example, (n,) float64: in data units, or of levels for pictures.

    `told`: labels and values of a model that is told them, -log p(x | them). A model that goes by pictures is shown
    what its own degradation makes of x. Raises DataError for values that are none of the data's kind, UsageError for
    labels or values that are missing or not the model's.
    """
    raw = raw_values(model.record, x)
    denoiser = precise(model, weights)
    x0 = model.record.normalization.to_model(raw).to(next(denoiser.network.parameters()))
    cond = condition_of_examples(model, raw, x0, Asked() if told is None else told)
    needs_data = not isinstance(method, FlowMethod) and variance_of(model.experiment.objective) is None
    given = prepare_data(model.experiment) if needs_data else None  # to choose a variance on
    subject = Subject(model, denoiser, given, None, x0, "held-out", weights, seed, lambda text: None, cond)
    require_flow(denoiser) if isinstance(method, FlowMethod) else require_likelihood(denoiser)
    return method(subject, convention_of(model.record.normalization, subject.log_scale)).nll


def condition_of_examples(model: Model, raw: Tensor, x0: Tensor, told: Asked) -> Condition | None:
    """What a model is told of raw examples (n, *), on the device and in the dtype of x0, the same in model space.

    Raises UsageError for what is missing, and for what the model is not told.
    """
    goes_by_pictures = model.experiment.condition.image is not None and told.images is None
    asked = replace(told, images=raw.numpy()) if goes_by_pictures else told
    cond = model.condition_of(asked, len(raw))
    if cond is None:
        return None
    values, image = (None if part is None else part.to(x0) for part in (cond.values, cond.image))
    return replace(cond.to(x0.device), values=values, image=image)
