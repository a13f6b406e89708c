"""Two examples learnt by heart: whether gradients reach every layer, and whether the loss falls when they do.

Two training examples at the same four times, each row with its own noise, all drawn once and kept, are one batch on
which the network is trained again and again. The times being shared, they alone do not tell the rows apart: a network
that does not look at x_t stays at about half of the loss. Every draw being fixed, the target is a function of the
input, and a denoising loss can go to 0: where it does not, the settings or the network are at fault and not the data.
Nothing is dropped out, for the same reason. The rate is the doctor's own, 1e-3 after a warm-up of ten steps. Where the
settings ask for a higher one, a fresh network is tried at that for some steps: a rate at which two examples cannot be
learnt is too high for thousands.

Gradient flow is measured in the same steps. A layer that no step gave a gradient is dead: the last layer of many
networks starts at 0 and lets nothing through in the first step, so that more than one is looked at. Adam moves a
weight by rate · m/(sqrt(v) + 1e-8), so that gradients around 1e-8 are lost in its 1e-8.
"""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.condition import Condition
from sfumato.core import batch_noise, derived_generator, derived_seed
from sfumato.data import evenly_from
from sfumato.experiment.session import Session
from sfumato.objectives import Draw
from sfumato.training.conditioner import Examples
from sfumato.training.step import gradient_norm, make_optimizer

__all__ = ["FLOW_STEPS", "OWN_STEPS", "RATE", "Layer", "Learning", "Tally", "overfit"]

STEPS, LEAST_STEPS = 200, 30  # at most; before the loss may end it
OWN_STEPS = 60  # at the rate of the settings
FLOW_STEPS = 20  # in which gradients are measured
EXAMPLES, DRAWS = 2, 4
RATE, WARM_UP, LONGEST = 1e-3, 10, 1.0
STUCK = 0.9  # share of the first loss
GOAL = 0.02  # share of the first loss at which nothing is left to show
PATIENCE = 20.0  # seconds
LAST = 10  # losses whose mean is the last loss


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: a module and the parameters that are its own.

    weight, gradient: root mean squares over its parameters; the gradient's over the steps that were measured, too.
    """

    name: str
    parameters: int
    weight: float
    gradient: float

    @property
    def dead(self) -> bool:
        """Whether no step gave it a gradient."""
        return self.gradient == 0

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Learning:
    """How two examples were learnt by heart.

    examples: how many, 2 unless the data have one. losses: before each step. norms: of the gradients before they were
    clipped. layers: in the order of the network. in_time: false where it ended for want of time. floor: whether 0 is
    the least that the loss can be. rate: of Adam.
    """

    examples: int
    losses: tuple[float, ...]
    norms: tuple[float, ...]
    layers: tuple[Layer, ...]
    in_time: bool
    floor: bool
    rate: float = RATE

    @property
    def finite(self) -> bool:
        """Whether every loss and gradient was."""
        return all(map(math.isfinite, (*self.losses, *self.norms)))

    @property
    def first(self) -> float:
        """The loss before the first step."""
        return self.losses[0]

    @property
    def last(self) -> float:
        """The mean of the last ten losses, the first left out."""
        end = self.losses[1:][-LAST:] or self.losses
        return sum(end) / len(end)

    @property
    def stuck(self) -> bool:
        """Whether the loss stayed where it was, at 0.9 of it or above; without a zero to fall to, whether it rose."""
        return self.last >= STUCK * self.first if self.floor else not self.last < self.first

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "examples": self.examples,
            "draws": DRAWS,
            "steps": len(self.losses),
            "in_time": self.in_time,
            "rate": self.rate,
            "first_loss": self.first,
            "last_loss": self.last,
            "losses": list(self.losses),
            "gradient_norms": list(self.norms),
            "layers": [layer.document() for layer in self.layers],
        }


class Tally:
    """Sums of squared gradients, layer by layer, over the steps in which `add` is called."""

    def __init__(self, network: nn.Module) -> None:
        self.layers: dict[str, list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                self.layers.setdefault(name.rpartition(".")[0] or name, []).append(parameter)
        self.squares = dict.fromkeys(self.layers, 0.0)
        self.steps = 0

    def add(self) -> None:
        """Count the gradients that the parameters have now; a parameter without one counts as 0."""
        self.steps += 1
        for name, parameters in self.layers.items():
            found = [p.grad.double().square().sum() for p in parameters if p.grad is not None]
            self.squares[name] += float(torch.stack(found).sum()) if found else 0.0

    def found(self) -> tuple[Layer, ...]:
        """Root mean squares of what was counted, and of the weights as they are now."""
        layers = []
        for name, parameters in self.layers.items():
            count = sum(p.numel() for p in parameters)
            power = sum(float(p.detach().double().square().sum()) for p in parameters)
            mean = self.squares[name] / (count * max(1, self.steps))
            layers.append(Layer(name, count, math.sqrt(power / count), math.sqrt(mean)))
        return tuple(layers)


def overfit(
    session: Session, *, floor: bool, rate: float = RATE, most: int = STEPS, patience: float = PATIENCE
) -> Learning:
    """Learn two training examples by heart, with the session's network, objective and times; its weights are spoilt.

    floor: whether 0 is the least that the loss can be, so that the test may end early near it.
    """
    denoiser, objective = session.denoiser, session.experiment.objective
    settings = replace(session.experiment.training, learning_rate=rate, weight_decay=0.0)
    optimizer = make_optimizer(denoiser.network, settings, session.engine.device)
    examples, draw = _batch(session), _draw(session)
    tally = Tally(denoiser.network)
    losses: list[float] = []
    norms: list[float] = []
    began, in_time = time.perf_counter(), True
    for step in range(most):
        _seed_dropout(session, step)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
        optimizer.zero_grad(set_to_none=True)
        found = objective(denoiser, examples.x0, draw, examples.cond)
        loss = found.values.mean()
        with nullcontext() if denoiser.clock is None else denoiser.clock.judged(found.judged):
            loss.backward()
        norm = gradient_norm(session.step.weights)
        losses.append(float(loss.detach()))
        norms.append(float(norm))
        if not (math.isfinite(losses[-1]) and math.isfinite(norms[-1])):
            break
        if step < FLOW_STEPS:
            tally.add()
        if step >= LEAST_STEPS and floor and losses[-1] <= GOAL * losses[0]:
            break
        if time.perf_counter() - began > patience:
            in_time = step + 1 == most
            break
        torch.nn.utils.clip_grads_with_norm_(session.step.weights, LONGEST, norm, foreach=True)
        optimizer.step()
    return Learning(len(examples.x0) // DRAWS, tuple(losses), tuple(norms), tally.found(), in_time, floor, rate)


def _batch(session: Session) -> Examples:
    """Each of the two examples as often as there are draws; a quarter of them without what can be left out."""
    chosen = evenly_from(session.data.parts.train, EXAMPLES).repeat_interleave(DRAWS)
    batch = session.batches.take(chosen)
    cond = session.conditioner.plain(batch, "doctor degradation")
    if cond is not None and session.conditioner.droppable:
        dropped = torch.arange(len(chosen)) % DRAWS == DRAWS - 1
        cond = Condition(cond.labels, cond.values, cond.image, dropped.to(batch.x0.device))
    return Examples(batch.x0, cond, batch.indices)


def _draw(session: Session) -> Draw:
    """Times and noise of every row, drawn once from the seed; the times are the same for each example."""
    seed, device = session.experiment.seed, session.engine.device
    examples = len(evenly_from(session.data.parts.train, EXAMPLES))
    drawn = session.experiment.times.draw(session.denoiser.schedule, DRAWS, derived_generator(seed, "doctor times"))
    shape = (examples * DRAWS, *session.data.record.shape)
    probes = tuple(
        _laid(batch_noise(shape, seed, "doctor probe", k, device=device))
        for k in range(session.experiment.objective.num_probes)
    )
    eps = _laid(batch_noise(shape, seed, "doctor noise", device=device))
    return Draw(drawn.t.repeat(examples), eps, drawn.inv_density.repeat(examples), probes)


def _laid(noise: Tensor) -> Tensor:
    """Pictures channels-last in memory, as training lays them."""
    return noise.contiguous(memory_format=torch.channels_last) if noise.ndim == 4 else noise


def _seed_dropout(session: Session, step: int) -> None:
    """Dropout draws from the device's own stream, seeded anew in each step as training seeds it."""
    seed = derived_seed(session.experiment.seed, "doctor dropout", step)
    torch.default_generator.manual_seed(seed)
    if session.engine.device.type == "cuda":
        torch.cuda.manual_seed(seed)
