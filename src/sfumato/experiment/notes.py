"""What a person should know of a run before it starts, and when it is extended: sentences, never refusals."""

from collections.abc import Iterator

from sfumato.core import Tabulated
from sfumato.data import shared_examples
from sfumato.data.wording import counted
from sfumato.errors import printable
from sfumato.experiment.build import PreparedData
from sfumato.experiment.config import Experiment
from sfumato.experiment.kinds import kind_name
from sfumato.experiment.session import Session
from sfumato.experiment.told import in_words
from sfumato.training.settings import TrainingConfig
from sfumato.training.step import learning_rate

__all__ = ["extension_notes", "opening_lines", "starting_notes"]


def opening_lines(session: Session, start: int) -> Iterator[str]:
    """Where a run lies, what it learns from, how large it is, what it computes with, and how far it goes."""
    training, record = session.experiment.training, session.data.record
    shape = " x ".join(map(str, record.shape)) if len(record.shape) > 1 else counted(record.shape[0], "number")
    kept = record.count - record.held_out_count
    processes = f", {session.engine.processes} processes" if session.engine.processes > 1 else ""
    steps = counted(training.steps, "step") if start == 0 else f"from step {start:,} to {training.steps:,}"
    yield f"run        {printable(str(session.folder))}"
    yield f"data       {counted(kept, 'example')} of {shape} to train on, {record.held_out_count:,} held out"
    yield f"network    {kind_name(type(session.experiment.network))}, {counted(session.num_parameters(), 'parameter')}"
    told = in_words(record.condition_shape(session.experiment.condition))
    if told:
        yield f"told       {told}"
    yield f"computing  {training.device}, {training.precision}, {counted(training.threads or 1, 'thread')}{processes}"
    yield f"training   {steps}, each of {counted(training.batch_size, 'example')}"


def starting_notes(experiment: Experiment, data: PreparedData) -> Iterator[str]:
    """Clipped betas, held-out examples trained on too, a lone example, a large batch, a warm-up that never ends."""
    schedule, training = experiment.schedule, experiment.training
    if isinstance(schedule, Tabulated) and (clipped := schedule.betas.num_clipped(schedule.steps)):
        yield f"{clipped} of the {schedule.steps:,} betas were 0.999 or more by their formula and are clipped there"
    shared = shared_examples(data.packed, data.parts) if len(data.parts.held_out) else 0
    if shared:
        count = len(data.parts.held_out)
        yield f"{shared:,} of {count:,} held-out examples are trained on too, as copies: held-out figures flatter"
    count = len(data.parts.train)
    if count == 1:
        yield "there is only one training example: the model learns it by heart"
    if training.batch_size > count:
        yield (
            f"training.batch_size is {training.batch_size}, for {counted(count, 'training example')}: "
            f"every step sees each of them {training.batch_size / count:.3g} times"
        )
    if training.warmup_steps >= training.steps:
        last = learning_rate(training, training.steps - 1)
        yield f"the learning rate is still warming up when training ends, at {last:.3g} of {training.learning_rate:.3g}"


def extension_notes(before: TrainingConfig, after: TrainingConfig) -> Iterator[str]:
    """A cosine learning rate is a function of the last step: more steps raise it again."""
    if after.decay == "cosine" and after.steps != before.steps:
        then, now = learning_rate(before, before.steps - 1), learning_rate(after, before.steps)
        yield (
            f"the cosine of the learning rate now ends at step {after.steps:,} instead of {before.steps:,}: "
            f"it goes from {then:.3g} back to {now:.3g}"
        )
