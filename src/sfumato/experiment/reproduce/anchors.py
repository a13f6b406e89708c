"""Numbers of a source that need no training: sizes of networks, ends of schedules, calls of samplers.

Each takes the experiment at the source's full scale. torch is imported when one is asked for.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from sfumato.experiment.config import Experiment

__all__ = ["alpha_bar", "calls_of", "gap_bits", "parameters", "signal", "still_times", "widest_join", "with_labels"]


def parameters(experiment: "Experiment") -> float:
    """How many numbers the network trains, counted without making them."""
    return float(sum(p.numel() for p in _network(experiment).parameters()))


def widest_join(experiment: "Experiment") -> float:
    """Channels that enter the widest convolution: what a U-Net joins at its bottom."""
    from torch import nn

    return float(max(m.in_channels for m in _network(experiment).modules() if isinstance(m, nn.Conv2d)))


def _network(experiment: "Experiment") -> "nn.Module":
    import torch

    from sfumato.experiment.build import build_network, resolved
    from sfumato.experiment.forecast import stand_in

    record = stand_in(experiment).record
    ready = resolved(experiment, shape=record.shape, is_image=record.is_image)
    with torch.device("meta"):
        return build_network(ready, record.shape, record.condition_shape(ready.condition))


def alpha_bar(t: float | None = None, **settings: str) -> "Callable[[Experiment], float]":
    """alpha² at a time, the clean end by default, of the experiment with settings laid over it."""

    def here(experiment: "Experiment") -> float:
        schedule = _with(experiment, settings).schedule
        return float(schedule.rates(schedule.t_min if t is None else t).alpha ** 2)

    return here


def gap_bits(size: int, mean_square: float) -> "Callable[[Experiment], float]":
    """KL(q(x_1 | x_0) || N(0, 1)) in bits for an example of `size` values: ½ Σ (alpha² x² + sigma² - 1 - ln sigma²)."""

    def here(experiment: "Experiment") -> float:
        r = experiment.schedule.rates(1.0)
        square, variance = float(r.alpha**2), float(r.sigma**2)
        return size * (square * mean_square + variance - 1 - math.log(variance)) / 2 / math.log(2)

    return here


def with_labels(of: "Callable[[Experiment], float]") -> "Callable[[Experiment], float]":
    """The same of a model that is told ten classes."""
    return lambda experiment: of(_with(experiment, {"condition.labels": "true", "condition.classes": "10"}))


def signal(t: float, **settings: str) -> "Callable[[Experiment], float]":
    """alpha at a time, of the experiment with settings laid over it."""
    return lambda experiment: float(_with(experiment, settings).schedule.rates(t).alpha)


def still_times(**settings: str) -> "Callable[[Experiment], float]":
    """The share of the times at which the noise level stands still, of the experiment with settings laid over it."""

    def here(experiment: "Experiment") -> float:
        import torch

        schedule = _with(experiment, settings).schedule
        t = torch.linspace(schedule.t_min, 1.0, 1001, dtype=torch.float64)
        return float((schedule.log_snr(t).diff() > -1e-9).double().mean())

    return here


def calls_of(steps: int) -> "Callable[[Experiment], float]":
    """Network calls that the experiment's sampler makes in so many steps."""
    return lambda experiment: float(experiment.sampling.sampler.calls(steps))


def _with(experiment: "Experiment", settings: dict[str, str]) -> "Experiment":
    from sfumato.experiment.config import load_experiment

    return load_experiment(experiment, list(settings.items())) if settings else experiment
