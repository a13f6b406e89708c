"""One training step: a function of the step number and of the state it changes.

    (t, eps, x0, what is told of it) for (seed, step) -> loss -> gradients, clipped -> AdamW -> EMA -> memory of losses

The global batch is drawn whole and then sliced by process and by accumulated part, so the numbers do not depend on how
many share the work. A gradient that is not finite changes nothing: on the CPU the step stops before the optimizer; on a
GPU a flag on the device makes the fused optimizer and the EMA skip, and is read when losses are.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core import Denoiser, LearnedClock, TimeDraw, Times, batch_noise, derived_generator, derived_seed
from sfumato.data import Batches
from sfumato.errors import ConfigError, NumericsError
from sfumato.objectives import Draw, Objective
from sfumato.training.conditioner import Conditioner, Examples
from sfumato.training.ema import Ema
from sfumato.training.engine import Engine
from sfumato.training.power_ema import PowerEmas
from sfumato.training.settings import TrainingConfig

__all__ = ["StepResult", "TrainStep", "gradient_norm", "learning_rate", "make_optimizer"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's mean loss (this process's part) and its gradient's norm before clipping; () on the device."""

    loss: Tensor
    grad_norm: Tensor


def make_optimizer(network: nn.Module, settings: TrainingConfig, device: torch.device) -> torch.optim.AdamW:
    """Fused AdamW over all parameters; a trained clock has no weight decay, which would pull it to a straight line."""
    clocks = [module for module in network.modules() if isinstance(module, LearnedClock)]
    own = [parameter for clock in clocks for parameter in clock.parameters()]
    weights = [p for p in network.parameters() if all(p is not mine for mine in own)]
    groups: list[dict[str, Any]] = [{"params": weights}]
    return torch.optim.AdamW(
        [*groups, {"params": own, "weight_decay": 0.0}] if own else groups,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """The rate of step 0, 1, …: linear warm-up to `learning_rate`, then constant or half a cosine down to 0."""
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.decay == "cosine":
        past_warmup = max(0, step - settings.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * past_warmup / max(1, settings.steps - settings.warmup_steps)))
    return rate


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The length of all their gradients together; () on the device."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)


class TrainStep:
    """Advances a denoiser by one step. `denoiser.network` is what `Engine.prepare` returned."""

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        objective: Objective,
        times: Times,
        batches: Batches,
        shape: tuple[int, ...],
        optimizer: torch.optim.Optimizer,
        ema: Ema,
        power: PowerEmas,
        engine: Engine,
        settings: TrainingConfig,
        seed: int,
        conditioner: Conditioner | None = None,
    ) -> None:
        shares = engine.processes * settings.accumulate
        if settings.batch_size % shares:
            raise ConfigError(
                f"training.batch_size is {settings.batch_size} for {engine.processes} processes with "
                f"training.accumulate {settings.accumulate}",
                expected=f"a multiple of {shares}",
                fix=f"set training.batch_size to {math.ceil(settings.batch_size / shares) * shares}",
            )
        self.denoiser, self.objective, self.times, self.batches = denoiser, objective, times, batches
        self.optimizer, self.ema, self.engine, self.settings, self.seed = optimizer, ema, engine, settings, seed
        self.shape, self.power = shape, power
        self.conditioner = Conditioner() if conditioner is None else conditioner
        self.parameters = [p for p in denoiser.network.parameters() if p.requires_grad]
        self.clock = [] if denoiser.clock is None else list(denoiser.clock.parameters())
        self.weights = [p for p in self.parameters if all(p is not knots for knots in self.clock)]
        self.memory = times.memory(denoiser.schedule)
        self.on_host = engine.device.type == "cpu"
        self.skipped = torch.zeros((), device=engine.device)  # steps that the device flag has skipped

    def __call__(self, step: int) -> StepResult:
        self._seed_dropout(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss, judged = torch.zeros((), device=self.engine.device), []
        for part, (examples, draw) in enumerate(self.parts(step)):
            last = part == self.settings.accumulate - 1
            with nullcontext() if last else self.engine.accelerator.no_sync(self.denoiser.network):
                losses = self.objective(self.denoiser, examples.x0, draw, examples.cond)
                mean = losses.values.mean() / self.settings.accumulate
                with nullcontext() if self.denoiser.clock is None else self.denoiser.clock.judged(losses.judged):
                    mean.backward()
            loss += mean.detach()
            judged.append(losses.judged.detach())
        result = self._update(step, loss)
        self._remember(step, torch.cat(judged))
        return result

    def _remember(self, step: int, values: Tensor) -> None:
        """Tell the times how large the losses were, in the order of the global batch: every process learns the same."""
        if self.memory is None:
            return
        drawn = self._drawn(step)  # the memory is still what it was drawn with
        whole = self.engine.gather_batch(values).to("cpu", torch.float64)
        self.memory.add(drawn.t, whole / drawn.inv_density)

    def _drawn(self, step: int) -> TimeDraw:
        """The times of the global batch."""
        generator = derived_generator(self.seed, "times", step)
        return self.times.draw(self.denoiser.schedule, self.settings.batch_size, generator, self.memory)

    def _seed_dropout(self, step: int) -> None:
        """Dropout draws from the device's own stream; torch.manual_seed would queue a call for each absent device."""
        seed = derived_seed(self.seed, "dropout", step, self.engine.rank)
        torch.default_generator.manual_seed(seed)
        if self.engine.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _update(self, step: int, loss: Tensor) -> StepResult:
        """Clip, step the optimizer and the EMA; nothing moves when the gradient is not finite.

        A trained clock has a gradient in other units, squares of losses: it neither counts for clipping nor is clipped.
        """
        norm = gradient_norm(self.weights)
        whole = norm + gradient_norm(self.clock) if self.clock else norm
        if self.on_host and not math.isfinite(whole):
            raise self._not_finite(step, loss, whole)
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.weights, self.settings.clip_norm, norm, foreach=True)
        skip = None
        if not self.on_host:
            skip = ~whole.isfinite()
            self.skipped += skip
            self.optimizer.grad_scale, self.optimizer.found_inf = None, skip.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.ema.update(self.denoiser.network, skip)
        self.power.update(self.denoiser.network, skip)
        return StepResult(loss, norm)

    def check(self, step: int) -> None:
        """Read the device's flag: raise NumericsError if any step up to here was skipped."""
        if not self.on_host and float(self.skipped) > 0:
            raise NumericsError(
                f"{int(self.skipped)} of the steps before step {step} had a non-finite gradient and were skipped",
                expected="finite gradients",
                fix="lower training.learning_rate, or use training.precision float32; the weights are still finite",
            )

    def parts(self, step: int) -> Iterator[tuple[Examples, Draw]]:
        """This process's share of the global batch, one accumulated part after the other."""
        total, drawn = self.settings.batch_size, self._drawn(step)
        eps = self._normals("noise", step)
        probes = [self._normals("probe", step, k) for k in range(self.objective.num_probes)]
        size = total // (self.engine.processes * self.settings.accumulate)
        for index in range(self.settings.accumulate):
            start = (self.engine.rank * self.settings.accumulate + index) * size
            part = slice(start, start + size)
            batch = self.batches.batch(step, part=part)
            cond = self.conditioner.training(batch, step, total=total, part=part)
            noise, *others = (
                whole[part].contiguous(memory_format=torch.channels_last) if whole.ndim == 4 else whole[part]
                for whole in (eps, *probes)
            )
            examples = Examples(batch.x0, cond, batch.indices)
            yield examples, Draw(drawn.t[part], noise, drawn.inv_density[part], tuple(others))

    def _normals(self, purpose: str, *index: int) -> Tensor:
        """N(0, I) for every example of the global batch, on the device."""
        shape = (self.settings.batch_size, *self.shape)
        return batch_noise(shape, self.seed, purpose, *index, device=self.engine.device)

    def _not_finite(self, step: int, loss: Tensor, norm: Tensor) -> NumericsError:
        """Says which step, which noise level and which examples; found by evaluating the batch once more."""
        worst = self._worst_example(step)
        return NumericsError(
            f"step {step + 1}: loss {float(loss):.4g}, gradient norm {float(norm):.4g}; {worst}",
            expected="finite losses and gradients; the weights before this step are finite and kept",
            fix="lower training.learning_rate, set training.clip_norm, or use training.precision float32; "
            "`sfumato resume` goes on from the last checkpoint",
        )

    @torch.no_grad()
    def _worst_example(self, step: int) -> str:
        """Where the loss is largest, not finite first."""
        found = []
        for examples, draw in self.parts(step):
            values = (
                self.objective(self.denoiser, examples.x0, draw, examples.cond).values.detach().nan_to_num(nan=math.inf)
            )
            at = int(values.argmax())
            level = float(self.denoiser.schedule.rates(draw.t[at]).log_snr)
            found.append((float(values[at]), level, int(examples.indices[at])))
        value, level, index = max(found)
        return f"largest loss {value:.4g} at log-SNR {level:.2f}, example {index} of the data"
