"""A classifier of noisy data, for classifier guidance: p(k | x_t, t) and how it is learned.

    minimise  E -log p(k | x_t, t),   x_t = alpha x_0 + sigma eps,   (x_0, k) from the data, t as in training the run

Whatever the density of times, the minimum at each t is the posterior of the class, whose gradient by x_t is the
difference of the scores of the class and of all data (Dhariwal & Nichol 2021; Song et al. 2021). The network sees
c_in x_t and the time input of the run's denoiser. Batch, times and noise of a step depend on (seed, step) alone.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.core import Schedule, TimeInput, Times, batch_noise, derived_generator, marginal
from sfumato.core.rates import spread
from sfumato.data import Batches
from sfumato.errors import ConfigError, NumericsError
from sfumato.metrics import Estimate, agreement, mean_of

__all__ = ["ClassifierSettings", "LevelScore", "NoisyClassifier", "scores_by_level", "train_on"]

LOG_EVERY = 20
Progress = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """How a classifier of noisy data is trained.

    steps: optimizer steps.
    batch_size: examples per step.
    learning_rate: of AdamW, after a warm-up of 100 steps; falls to 0 along half a cosine.
    weight_decay: of AdamW.
    """

    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        good = {
            "steps": 1 <= self.steps <= 10**9,
            "batch_size": 1 <= self.batch_size <= 10**6,
            "learning_rate": 0 < self.learning_rate <= 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
        }
        for name in (name for name, fine in good.items() if not fine):
            usual = getattr(ClassifierSettings(), name)
            raise ConfigError(
                f"the classifier's {name} is {getattr(self, name)}",
                expected="a number above 0 that training can have",
                fix=f"--{name} {usual}",
            )

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, …"""
        warm = min(1.0, (step + 1) / min(100, self.steps))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@final
class NoisyClassifier(nn.Module):
    """log p(k | x_t, t), differentiable in x_t; `classifier(x_t, t, labels)` is what guidance asks for.

    network: (x (B, *), time (B,)) -> logits (B, K). It is shown c_in x_t in its own dtype, and answers in that of x_t.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, time_input: TimeInput, data_std: float) -> None:
        super().__init__()
        self.network, self.time_input, self.data_std = network, time_input, data_std
        self.schedule = schedule

    def log_probs(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(k | x_t, t) of every class: x_t (B, *), t () or (B,) -> (B, K)."""
        r = self.schedule.rates(t)
        own = next(self.network.parameters())
        shown = (spread(self.time_input.input_scale(r, self.data_std), x_t) * x_t).to(own)
        time = self.time_input.value(r).to(own).expand(len(x_t))
        return functional.log_softmax(self.network(shown, time).to(x_t.dtype), dim=1)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """log p(k | x_t, t) for the label of each example: labels (B,) int64 -> (B,)."""
        return self.log_probs(x_t, t).gather(1, labels.to(x_t.device)[:, None])[:, 0]


def train_on(
    classifier: NoisyClassifier,
    batches: Batches,
    *,
    times: Times,
    settings: ClassifierSettings,
    seed: int,
    bfloat16: bool,
    progress: Progress,
) -> None:
    """Take `settings.steps` steps; `progress(done, loss)` is called every 20 steps and at the end.

    Raises NumericsError when the loss is not finite.
    """
    device = batches.device
    classifier.network.to(device).train()
    if any(parameter.ndim == 4 for parameter in classifier.network.parameters()):
        classifier.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        classifier.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            loss = step_loss(classifier, batches, times, settings, seed, step)
        loss.backward()
        optimizer.step()
        done = step + 1
        if done % LOG_EVERY == 0 or done == settings.steps:
            progress(done, _finite(float(loss.detach()), done))
    classifier.requires_grad_(False).eval()


def step_loss(
    classifier: NoisyClassifier, batches: Batches, times: Times, settings: ClassifierSettings, seed: int, step: int
) -> Tensor:
    """The mean of -log p(k | x_t, t) over batch `step`: a function of (seed, step) and of the weights."""
    batch = batches.batch(step)
    assert batch.labels is not None
    drawn = times.draw(classifier.schedule, settings.batch_size, derived_generator(seed, "classifier times", step))
    eps = batch_noise(tuple(batch.x0.shape), seed, "classifier noise", step, device=batches.device)
    x_t = marginal(batch.x0, classifier.schedule.rates(drawn.t)).sample(eps)
    return -classifier(x_t, drawn.t, batch.labels).mean()


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise NumericsError(
            f"the classifier's loss is {loss} after step {step}; nothing was written",
            expected="a finite loss",
            fix="lower the learning rate (--learning_rate 0.0003)",
        )
    return loss


@dataclass(frozen=True, slots=True)
class LevelScore:
    """How well a classifier does at one noise level: the share it gets right, and its mean -log p, nats."""

    log_snr: float
    accuracy: Estimate
    cross_entropy: Estimate


@torch.no_grad()
def scores_by_level(
    classifier: NoisyClassifier, x0: Tensor, labels: Tensor, *, levels: int, seed: int
) -> Iterator[LevelScore]:
    """Scores of x0 (n, *) with labels (n,) at the middles of `levels` equal parts of the times; noise by the seed."""
    schedule = classifier.schedule
    middles = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    for level, t in enumerate(schedule.t_min + (1 - schedule.t_min) * middles):
        eps = batch_noise(tuple(x0.shape), seed, "classifier held-out", level).to(x0)
        x_t = marginal(x0, schedule.rates(t)).sample(eps)
        found = torch.cat([classifier.log_probs(part, t).cpu() for part in x_t.split(256)])
        nll = -found.double().gather(1, labels.cpu()[:, None])[:, 0]
        yield LevelScore(float(schedule.log_snr(t)), agreement(labels.cpu(), found.argmax(1)), mean_of(nll))
