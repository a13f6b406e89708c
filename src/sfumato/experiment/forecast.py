"""What a run would take, before it is started: size, work per image, memory, time and disk.

Parameters and FLOPs are counted, memory is the sum of what training keeps, and the time is that of a few real training
steps on random data of the right shape, on this machine, now. Where a step is a lot of work for a CPU, fewer examples
are timed, n of B: seconds = update + (step of n - update) B/n, for the weights are updated once whatever n is; and what
a batch keeps is told from 2 and 4 examples, of which it is an affine function. The data themselves are not needed when
the settings say their shape, and, for a network that is told labels, how many classes there are.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sfumato.condition import NO_CONDITION, ConditionShape
from sfumato.core import batch_noise
from sfumato.data import Normalization, Split, declared_classes, declared_shape, pack
from sfumato.data.wording import counted
from sfumato.errors import ConfigError
from sfumato.experiment.build import DataRecord, PreparedData, prepare_data, resolved
from sfumato.experiment.config import Experiment, Overrides, experiment_yaml, load_experiment
from sfumato.experiment.data_record import ValueFacts
from sfumato.experiment.memory import require_memory
from sfumato.experiment.reporting import Silent
from sfumato.experiment.schema import to_plain
from sfumato.experiment.session import Session
from sfumato.experiment.told import in_words
from sfumato.objectives import Draw
from sfumato.training.conditioner import Examples
from sfumato.training.storage import human_bytes

__all__ = ["Forecast", "forecast"]

PATIENCE = 6.0  # seconds of timed steps at most, after one untimed step
STANDARD = {"range": 0.5, "standardize": 1.0, "none": 1.0}  # the data's standard deviation, as far as it can be told
WORK = 3e11  # FLOPs of a timed step on a CPU, about; seconds on one busy core
TRAINING_FLOPS = 3  # a backward pass costs about two forward passes


@dataclass(frozen=True, slots=True)
class Forecast:
    """The numbers of a run that was not started. FLOPs are of one forward pass; times are of this machine.

    memory_bytes: all that training keeps, activation_bytes of it by one part of a batch for the backward pass.
    condition: what the network is told.
    timed_examples: how many examples the timed steps had; None for whole batches.
    """

    experiment: Experiment
    shape: tuple[int, ...]
    parameters: int
    flops_per_image: int
    memory_bytes: int
    activation_bytes: int
    checkpoint_bytes: int
    seconds_per_step: float
    condition: ConditionShape = NO_CONDITION
    timed_examples: int | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training steps alone."""
        return self.seconds_per_step * self.experiment.training.steps

    @property
    def micro_batch(self) -> int:
        """Examples that are in the network at once, in one process."""
        return self.experiment.training.batch_size // self.experiment.training.accumulate

    def document(self) -> dict[str, Any]:
        """As JSON data; the complete settings are under `experiment`."""
        return {
            "experiment": to_plain(self.experiment),
            "shape": list(self.shape),
            "condition": asdict(self.condition),
            "parameters": self.parameters,
            "flops_per_image": self.flops_per_image,
            "training_flops_per_image": TRAINING_FLOPS * self.flops_per_image,
            "memory_bytes": self.memory_bytes,
            "activation_bytes": self.activation_bytes,
            "checkpoint_bytes": self.checkpoint_bytes,
            "seconds_per_step": self.seconds_per_step,
            "timed_examples": self.timed_examples or self.experiment.training.batch_size,
            "images_per_second": self.experiment.training.batch_size / self.seconds_per_step,
            "steps": self.experiment.training.steps,
            "seconds": self.seconds,
        }

    def text(self) -> str:
        """For people: the settings, then the numbers."""
        training = self.experiment.training
        minutes = self.seconds / 60
        clock = f"{minutes / 60:.1f} hours" if minutes >= 120 else f"{minutes:.1f} minutes"
        timed = "" if self.timed_examples is None else f" on {counted(self.timed_examples, 'example')}"
        lines = [
            experiment_yaml(self.experiment),
            f"example            {' x '.join(map(str, self.shape))}",
            *([f"told               {in_words(self.condition)}"] if self.condition else []),
            f"parameters         {self.parameters:,}",
            f"work per image     {self.flops_per_image / 1e9:.4g} GFLOP forward, about {TRAINING_FLOPS}x that to train",
            f"memory             about {human_bytes(self.memory_bytes)} (weights, optimizer, averages, one batch)",
            f"activations        {human_bytes(self.activation_bytes)} of it, kept from the forward pass of "
            f"{counted(self.micro_batch, 'example')} for the backward pass",
            f"disk               {human_bytes(self.checkpoint_bytes)} a checkpoint, {training.keep_checkpoints} kept",
            f"speed              {training.batch_size / self.seconds_per_step:,.0f} images/s, measured here now{timed} "
            f"({training.device}, {training.precision}, {counted(training.threads or 1, 'thread')})",
            f"time               about {clock} for {counted(training.steps, 'step')} of {training.batch_size}, "
            "if nothing else runs here",
        ]
        return "\n".join(lines)


def forecast(recipe: str | Path | Experiment, overrides: Overrides | None = None) -> Forecast:
    """Count and time what training would take; writes nothing.

    Raises ConfigError for settings that do not fit, and when neither the settings nor the data tell the examples'
    shape.
    """
    experiment = load_experiment(recipe, overrides)
    data = stand_in(experiment)
    record, condition = data.record, data.record.condition_shape(experiment.condition)
    experiment = resolved(experiment, shape=record.shape, is_image=record.is_image)
    require_memory(experiment, record.shape, condition)
    session = Session(experiment, data, folder=Path("forecast"), reporter=Silent())
    parameters = session.num_parameters()
    flops = count_flops(session)
    few = few_examples(session, flops)
    activations = saved_bytes(session, whole=few is None)
    more = len(experiment.training.power_ema)  # averages
    copies = 4 * (6 + more) * parameters  # float32 weights, gradient, two moments, average and its copy for evaluation
    return Forecast(
        experiment=experiment,
        shape=record.shape,
        parameters=parameters,
        flops_per_image=flops,
        memory_bytes=copies + activations,
        activation_bytes=activations,
        checkpoint_bytes=4 * (4 + more) * parameters,
        seconds_per_step=time_steps(session, few),
        condition=condition,
        timed_examples=few,
    )


def stand_in(experiment: Experiment) -> PreparedData:
    """Random data of the shape that the settings declare; the real ones are read only if they alone can tell it.

    Raises ConfigError where neither settings nor data tell the shape, or the number of classes to be told.
    """
    told, shape = experiment.condition, declared_shape(experiment.data)
    classes = declared_classes(experiment.data) if told.labels and told.classes is None else told.classes
    if shape is None or (told.labels and classes is None):
        require_readable(experiment, shape)
        return like_data(experiment, prepare_data(experiment).record)
    if told.image is not None:
        told.image.check(shape)
    is_image = len(shape) == 3
    if is_image:
        ones = (127.5,) * shape[0]
        normalization = Normalization("range", ones, ones, size=(shape[1], shape[2]), pad=None)
    else:
        normalization = Normalization("none", (0.0,) * shape[0], (1.0,) * shape[0])
    labels = tuple(range(classes or 0))
    facts = ValueFacts((0.0,), (1.0,), (-1.0,), (1.0,)) if told.values else None
    std = STANDARD[experiment.data.normalize]
    record = DataRecord(shape, is_image, std, normalization, None, labels, "", 0, 0, (), conditions=facts)
    return like_data(experiment, record)


def require_readable(experiment: Experiment, shape: tuple[int, ...] | None) -> None:
    """Raise ConfigError when the data are needed and the settings do not say where they are."""
    data = experiment.data
    if data.path is not None or data.source != "folder":
        return
    if shape is None:
        raise ConfigError(
            "the shape of the examples is not known: neither data.size nor data.path is given",
            expected="data.size (and data.channels), or the data themselves",
            fix="--data.size 64, or --data.path path/to/images",
        )
    raise ConfigError(
        "condition.labels is true, and how many classes there are is not known: "
        "neither condition.classes nor data.path is given",
        expected="condition.classes, or the data themselves",
        fix="--condition.classes 10, or --data.path path/to/images",
    )


def like_data(experiment: Experiment, record: DataRecord) -> PreparedData:
    """Random examples with the shape and the conditions that the record tells of."""
    shape, batch = record.shape, experiment.training.batch_size
    if record.is_image:
        count = min(2 * batch, 256)
        values = batch_noise((count, *shape[1:], shape[0]), 0, "stand-in").mul(64).add(128).clamp(0, 255)
        values = values.to(torch.uint8)
        normalization = replace(record.normalization, size=(shape[1], shape[2]), pad=None)
    else:
        count, normalization = 4096, record.normalization
        values = batch_noise((count, *shape), 0, "stand-in")
    packed = pack(
        values,
        labels=torch.arange(count) % record.num_classes if record.num_classes else None,
        label_values=record.label_values,
        conditions=batch_noise((count, record.num_values), 0, "stand-in values") if record.num_values else None,
    )
    found = replace(record, normalization=normalization, fingerprint=packed.fingerprint, count=count)
    return PreparedData(packed, Split(torch.arange(count), torch.arange(0)), replace(found, held_out_count=0))


def count_flops(session: Session) -> int:
    """FLOPs of one forward pass for one example."""
    shape = session.data.record.shape
    x = torch.zeros((2, *shape), device=session.engine.device)
    batch = session.batches.take(torch.tensor([0, 0]))
    cond = session.conditioner.plain(batch, "forecast")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        session.averaged(x, torch.full((2,), 0.5, dtype=torch.float64), cond)
    return int(counter.get_total_flops()) // 2


def few_examples(session: Session, flops: int) -> int | None:
    """How many examples in one process to time instead of a batch; None for all of them.

    An accelerator is fast enough for all, and a compiled network would be compiled anew for other sizes.
    """
    settings = session.experiment.training
    own = settings.batch_size // session.engine.processes
    if session.engine.device.type != "cpu" or settings.compile == "on" or TRAINING_FLOPS * flops * own <= WORK:
        return None
    few = max(1, int(WORK / (TRAINING_FLOPS * flops)))
    return few if few < own // settings.accumulate else None


def saved_bytes(session: Session, *, whole: bool = True) -> int:
    """Bytes that one micro-batch's forward pass keeps for the backward pass, each storage counted once.

    Not `whole`: from 2 and 4 examples of it. What it keeps is a + b n for n examples: a are the tensors that the
    examples are slices of and what is made of weights, b is of each example.
    """
    examples, draw = next(iter(session.step.parts(0)))
    count = len(examples.x0)
    if whole or count <= 4:
        return bytes_kept(session, examples, draw, count)
    two, four = (bytes_kept(session, examples, draw, n) for n in (2, 4))
    return two + (four - two) * (count - 2) // 2


def bytes_kept(session: Session, examples: Examples, draw: Draw, n: int) -> int:
    """Bytes that the forward pass of the first n examples keeps for the backward pass."""
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    cond = None if examples.cond is None else examples.cond[:n]
    first = Draw(draw.t[:n], draw.eps[:n], draw.inv_density[:n], tuple(probe[:n] for probe in draw.probes))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = session.experiment.objective(session.denoiser, examples.x0[:n], first, cond)
    own = {p.untyped_storage().data_ptr() for p in session.step.parameters}
    del losses  # what it keeps must live until here, or addresses would be used twice
    return sum(size for pointer, size in seen.items() if pointer not in own)


def time_steps(session: Session, few: int | None = None) -> float:
    """Seconds of one training step: the median of a few after the first; of `few` examples and scaled, if given."""
    step, settings = session.step, session.experiment.training
    if few is None:
        return median_seconds(session, step)
    small = copy.copy(step)
    small.settings = replace(settings, batch_size=few * session.engine.processes, accumulate=1)
    found = median_seconds(session, small)
    began = time.perf_counter()
    step.optimizer.step()
    step.ema.update(step.denoiser.network, None)
    step.power.update(step.denoiser.network, None)
    update = min(time.perf_counter() - began, found)
    return update + (found - update) * settings.batch_size / small.settings.batch_size


def median_seconds(session: Session, step: Callable[[int], object]) -> float:
    """Seconds of one step: the median of a few after the first, or the first where that is long enough."""
    began = time.perf_counter()
    step(0)
    first = time.perf_counter() - began
    if first > PATIENCE:
        return first
    times: list[float] = []
    spent = 0.0
    while spent < PATIENCE and len(times) < 20:
        began = time.perf_counter()
        step(len(times) + 1)
        if session.engine.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        spent += times[-1]
    return sorted(times)[len(times) // 2]
