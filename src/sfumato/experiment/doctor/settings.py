"""What the settings and the size of the data say before anything is computed.

The average of the weights (`training.ema_decay`) keeps d_n = min(decay, (1 + n)/(10 + n)) of itself in update n. Its
mean age a, in updates, follows

    a_0 = 0,    a_{n+1} = d_n (a_n + 1),

which is a_n = n/10 exactly as long as the warm-up rules, and goes to decay/(1 - decay) once the decay does. The ratio
a/N at the end of N steps says over which share of the run the average reaches back (Karras et al. 2024, sec. 3.1, on
widths relative to the length of a run).
"""

import math
from collections.abc import Iterator

import torch

from sfumato.data import shared_examples
from sfumato.data.wording import counted, shortened
from sfumato.errors import printable
from sfumato.experiment.build import PreparedData
from sfumato.experiment.config import Experiment
from sfumato.experiment.data_record import DataRecord
from sfumato.experiment.doctor.remarks import Level, Remark
from sfumato.training.engine import multiplies_bfloat16
from sfumato.training.settings import TrainingConfig

__all__ = ["mean_age", "of_average", "of_settings", "shown_number"]

SHORTEST_AGE = 0.002  # of the run: below, the average is hardly one
GOOD_AGE = 0.05
FEW_HELD_OUT = 30  # examples, of which a standard error is a guess
MANY_HELD_OUT = 0.5
MANY_COPIES = 0.01  # of the held-out examples: fewer move no figure by more than its error
MANY_PASSES = 2000  # about those of Ho et al. 2020 over CIFAR-10
FEW_OF_CLASS = 50
NAMED = 5
COMPILE_PAYS = 5000  # steps from which a GPU's minutes of compilation come back


def mean_age(decay: float, steps: int) -> float:
    """How many updates ago, in the mean, the weights were that the average after `steps` updates is made of."""
    warm = min(steps, math.ceil(max(0.0, (10 * decay - 1) / (1 - decay))))
    age = warm / 10
    left, limit = steps - warm, decay / (1 - decay)
    return limit + (age - limit) * decay**left


def of_settings(experiment: Experiment, data: PreparedData) -> Iterator[Remark]:
    """Every remark on resolved settings for data as they were read."""
    train, held_out = len(data.parts.train), len(data.parts.held_out)
    yield from of_average(experiment)
    yield from _of_batch(experiment.training, train, is_image=data.record.is_image)
    yield from _of_warm_up(experiment.training)
    yield from _of_held_out(experiment, data, held_out)
    yield from _of_labels(experiment, data.record)
    yield from _of_machine(experiment, is_image=data.record.is_image)


def of_average(experiment: Experiment) -> Iterator[Remark]:
    training = experiment.training
    age = mean_age(training.ema_decay, training.steps)
    asked = training.ema_decay / (1 - training.ema_decay)  # the mean age without the warm-up
    share, better = age / training.steps, max(0.0, 1 - 1 / max(1.0, GOOD_AGE * training.steps))
    spans = f"training.ema_decay {training.ema_decay:g} averages over the last {age:,.0f} of {training.steps:,} steps"
    fix = f"--training.ema_decay {better:.6g}"
    if experiment.sampling.weights == "live":
        yield Remark("average", "note", "samples are drawn with the live weights, not with their average")
    elif asked > training.steps:
        what = (
            f"training.ema_decay {training.ema_decay:g} asks for an average over {asked:,.0f} steps, in a run of "
            f"{training.steps:,}: only the average's own warm-up acts, which makes it one over the last {age:,.0f}"
        )
        yield Remark("average", "warning", what, fix)
    elif training.steps > 1 and share < SHORTEST_AGE:
        yield Remark("average", "note", f"{spans} ({share:.2%}): next to no average", fix)
    else:
        yield Remark("average", "fine", f"{spans} ({share:.1%})")


def _of_batch(training: TrainingConfig, train: int, *, is_image: bool) -> Iterator[Remark]:
    passes = training.steps * training.batch_size / train
    seen = (
        f"{training.steps:,} steps of {training.batch_size} are {shown_number(passes)} passes over {train:,} examples"
    )
    if training.batch_size > train:
        times = training.batch_size / train
        what = f"training.batch_size is {training.batch_size} for {counted(train, 'training example')}: every step "
        fix = f"--training.batch_size {1 << (train.bit_length() - 1)}, or add examples"
        yield Remark("batch", "warning", f"{what}sees each of them {times:.3g} times", fix)
    elif passes < 1:
        needed = math.ceil(train / training.batch_size)
        yield Remark("batch", "warning", f"{seen}: some are never seen", f"--training.steps {needed}")
    elif passes > MANY_PASSES and is_image and training.copies_every == 0:
        what = f"{seen}: a network large enough learns them by heart"
        yield Remark("batch", "note", what, f"--training.copies_every {max(1, training.steps // 10)}, to be told")
    else:
        yield Remark("batch", "fine", seen)


def shown_number(value: float) -> str:
    """Three digits, or as many as stand before the point: 0.0123, 1.14, 1,138."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _of_warm_up(training: TrainingConfig) -> Iterator[Remark]:
    if 2 * training.warmup_steps >= training.steps and training.warmup_steps > 0:
        what = f"training.warmup_steps is {training.warmup_steps:,} of {counted(training.steps, 'step')}"
        rest = "the rate that was asked for is never reached" if training.warmup_steps >= training.steps else "half"
        fix = f"--training.warmup_steps {training.steps // 20}"
        yield Remark("warm-up", "warning", f"{what}: {rest}" + (" of them or more" if rest == "half" else ""), fix)


def _of_held_out(experiment: Experiment, data: PreparedData, held_out: int) -> Iterator[Remark]:
    share = held_out / len(data.packed)
    told = f"{counted(held_out, 'example')} of {len(data.packed):,} held out"
    if held_out == 0:
        what = "nothing is held out: no held-out loss, and memorising is not noticed"
        yield Remark("held-out", "warning", what, "--data.held_out 0.1")
        return
    if held_out < FEW_HELD_OUT:
        what = f"{told}: too few for a held-out loss with a trustworthy error"
        enough = min(MANY_HELD_OUT, FEW_HELD_OUT / len(data.packed))
        yield Remark("held-out", "warning", what, f"--data.held_out {math.ceil(100 * enough) / 100:g}")
    elif share > MANY_HELD_OUT:
        yield Remark("held-out", "warning", f"{told}: more than is trained on", "--data.held_out 0.1")
    else:
        yield Remark("held-out", "fine", f"{told} ({share:.1%})")
    shared = shared_examples(data.packed, data.parts)
    if shared:
        level: Level = "warning" if shared > MANY_COPIES * held_out else "note"
        what = f"{shared:,} of {held_out:,} held-out examples are trained on too, as copies: held-out figures flatter"
        yield Remark("held-out", level, what, "remove the copies; `sfumato data inspect` names them")
    if experiment.training.evaluate_every == 0:
        usual = max(1, experiment.training.steps // 20)
        what = "training.evaluate_every is 0: the held-out loss is never measured"
        yield Remark("held-out", "warning", what, f"--training.evaluate_every {usual}")


def _of_labels(experiment: Experiment, record: DataRecord) -> Iterator[Remark]:
    told, count = experiment.condition, record.num_classes
    if not told.labels:
        if count > 1:
            what = f"the data have {count:,} classes, and the network is not told them"
            yield Remark("labels", "note", what, "--condition.labels true --condition.dropout 0.1")
        return
    if count < 2:
        what = "every example is of one class: the label says nothing"
        yield Remark("labels", "warning", what, "--condition.labels false")
        return
    if told.dropout == 0:
        what = "condition.dropout is 0: the network never works without a label, and cannot be guided by it"
        yield Remark("labels", "warning", what, "--condition.dropout 0.1")
    elif told.dropout > 0.5:
        what = f"condition.dropout is {told.dropout:g}: most examples are trained on without their label"
        yield Remark("labels", "warning", what, "--condition.dropout 0.1")
    counts = list(enumerate(record.class_counts))
    empty = [record.called(label) for label, found in counts if found == 0]
    few = [f"{record.called(label)} ({found})" for label, found in counts if 0 < found < FEW_OF_CLASS]
    if empty:
        what = f"no training example of {_some(empty)}: samples of these classes would mean nothing"
        yield Remark("labels", "warning", what, "add examples, or remove the class")
    if few:
        what = f"fewer than {FEW_OF_CLASS} training examples of {_some(few)}: they are soon learnt by heart"
        yield Remark("labels", "note", what, "add examples of them")
    if not empty and not few and 0 < told.dropout <= 0.5:
        yield Remark("labels", "fine", f"{count:,} classes, left out for {told.dropout:.0%} of the examples")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(shortened(printable(name)) for name in names[:NAMED]) + more


def _of_machine(experiment: Experiment, *, is_image: bool) -> Iterator[Remark]:
    training = experiment.training
    device = torch.device(training.device)
    able = multiplies_bfloat16(device)
    told = f"{training.device}, {training.precision}"
    if training.precision == "bfloat16" and not is_image:
        what = "training.precision is bfloat16, whose three digits are too few for points"
        yield Remark("machine", "warning", what, "--training.precision float32")
    elif training.precision == "bfloat16" and not able:
        what = f"training.precision is bfloat16, which {training.device} does not multiply: slower than float32"
        yield Remark("machine", "warning", what, "--training.precision float32")
    elif training.precision == "float32" and able and is_image:
        what = f"{training.device} multiplies bfloat16, and training.precision is float32"
        yield Remark("machine", "note", what, "--training.precision bfloat16, which is faster")
    else:
        yield Remark("machine", "fine", told)
    if training.compile == "on" and device.type == "cpu":
        what = "training.compile is on, on a CPU: a minute or more of compilation, which pays only after hours"
        yield Remark("machine", "warning", what, "--training.compile off")
    if training.compile == "off" and device.type == "cuda" and training.steps >= COMPILE_PAYS:
        what = f"training.compile is off for {training.steps:,} steps on a GPU"
        yield Remark("machine", "note", what, "--training.compile auto")
