"""What measured learning gives reason to say: of the two examples, of the layers, of the rate."""

import statistics
from collections.abc import Iterator, Sequence

from sfumato.data.wording import counted, shortened
from sfumato.errors import printable
from sfumato.experiment.doctor.learning import FLOW_STEPS, OWN_STEPS, Layer, Learning
from sfumato.experiment.doctor.rates import RateCurve
from sfumato.experiment.doctor.remarks import Remark
from sfumato.training.settings import TrainingConfig

__all__ = ["of_layers", "of_learning", "of_own_rate", "of_rate"]

LEARNT = 0.25  # of the first loss; absolute errors, unlike squares, fall to a tenth in 200 steps only
ENOUGH = 100  # steps, before which a loss that has not fallen proves nothing
THROUGH = 5  # steps after which every layer that starts at 0 has let gradients through
LOST_IN_ADAM = 1e-8  # Adam's epsilon
APART = 1e5  # times the median gradient
GROWN = 1e3  # times the median norm, or the first
SLOW = 30.0  # times below what is recommended
FAST = 3.0  # times above the lowest point: within it the curve, one step for each rate, does not tell
NAMED = 3


def of_learning(found: Learning) -> Iterator[Remark]:
    """Whether two examples were learnt by heart."""
    steps = counted(len(found.losses), "step")
    seen = counted(found.examples, "example")
    fell = f"the loss on {seen} with fixed noise went from {found.first:.4g} to {found.last:.4g} in {steps}"
    if not found.finite:
        what = f"the loss or its gradient was not finite in step {len(found.losses)} on {seen}"
        fix = "--training.precision float32; another --objective.weighting; look at the values of the data"
        yield Remark("two examples", "broken", what, fix)
        return
    short = not found.in_time and (len(found.losses) < ENOUGH or not found.stuck)
    cure = "another --network or --network.widths; check --parameterization, --objective and your own network's forward"
    learnt = found.last <= LEARNT * found.first if found.floor else found.last < found.first
    if learnt:
        yield Remark("two examples", "fine", fell)
    elif short:
        yield Remark("two examples", "note", f"{fell}, too few to tell", "--seconds 120 gives it more time")
    elif found.stuck:
        yield Remark("two examples", "broken", f"{fell}: it cannot learn what it sees every time", cure)
    else:
        yield Remark("two examples", "warning", f"{fell}, where it could be 0: it learns slowly", cure)


def of_own_rate(found: Learning) -> Iterator[Remark]:
    """Whether the rate of the settings, where it is high, lets two examples be learnt at all."""
    if not found.in_time and len(found.losses) < OWN_STEPS:
        return
    told = f"at training.learning_rate {found.rate:g} the loss on {counted(found.examples, 'example')} went from "
    if not found.finite:
        what = f"{told}{found.first:.4g} to what is not finite in {counted(len(found.losses), 'step')}"
    elif found.stuck:
        what = f"{told}{found.first:.4g} to {found.last:.4g} in {counted(len(found.losses), 'step')}: it is too high"
    else:
        return
    fix = f"--training.learning_rate {found.rate / 10:g}; `sfumato doctor --lr` looks for a good one"
    yield Remark("rate", "warning", what, fix)


def of_layers(found: Learning) -> Iterator[Remark]:
    """Dead, lost and exploding layers."""
    if not found.finite or len(found.norms) < THROUGH:
        return
    dead = [layer for layer in found.layers if layer.dead]
    live = [layer for layer in found.layers if not layer.dead]
    if dead:
        share = sum(layer.parameters for layer in dead) / max(1, sum(layer.parameters for layer in found.layers))
        what = (
            f"{_kinds(len(dead))} without any gradient in {min(len(found.losses), FLOW_STEPS)} steps ({share:.1%} "
            f"of the parameters): {_named(dead)}"
        )
        fix = "these weights are never trained: use what they make in the network's forward, or take them out"
        yield Remark("gradients", "warning" if live else "broken", what, fix)
    faint = [layer for layer in live if layer.gradient < LOST_IN_ADAM]
    if faint:
        what = f"gradients below {LOST_IN_ADAM:g}, which Adam loses in its epsilon, in {_kinds(len(faint))}: "
        fix = "--data.normalize standardize, another --objective.weighting, or fewer layers"
        yield Remark("gradients", "warning", what + _named(faint), fix)
    middle = statistics.median(layer.gradient for layer in live) if live else 0.0
    loud = [layer for layer in live if layer.gradient > APART * middle]
    if loud:
        what = f"gradients {APART:g} times those of half of the layers in {_kinds(len(loud))}: {_named(loud)}"
        yield Remark("gradients", "warning", what, "normalise before that layer, or start it smaller")
    grown = max(found.norms) > GROWN * max(found.norms[0], statistics.median(found.norms))
    if grown:
        seen = counted(found.examples, "example")
        what = f"the gradient grew from {found.norms[0]:.3g} to {max(found.norms):.3g} on the same {seen}"
        yield Remark("gradients", "warning", what, "--training.clip_norm 1, a lower --training.learning_rate")
    if live and not (dead or faint or loud or grown):
        sizes = sorted(layer.gradient for layer in live)
        what = f"all {_kinds(len(live))} get gradients, of {sizes[0]:.2g} to {sizes[-1]:.2g}"
        yield Remark("gradients", "fine", what)


def _kinds(count: int) -> str:
    return counted(count, "layer")


def _named(layers: Sequence[Layer]) -> str:
    more = f" and {len(layers) - NAMED:,} more" if len(layers) > NAMED else ""
    return ", ".join(shortened(printable(layer.name)) for layer in layers[:NAMED]) + more


def of_rate(found: RateCurve, training: TrainingConfig) -> Iterator[Remark]:
    """The rate of the settings against the curve."""
    if found.recommended is None or found.best is None:
        what = (
            f"no learning rate from {found.rates[0]:.0e} to {found.rates[-1]:.0e} took as much as a hundredth from the "
            "loss, too little to read one from"
        )
        yield Remark("rate", "note", what, "see the other findings; compare runs of a few rates: `sfumato sweep`")
        return
    rate, good = training.learning_rate, found.flag
    fix = f"--training.learning_rate {good}"
    read = f"the loss is lowest at {found.best:.2g} and a third of that is {good}; training.learning_rate is {rate:g}"
    if found.examples < training.batch_size:
        read += f" (found with batches of {found.examples})"
    if found.diverged is not None and rate >= found.diverged:
        yield Remark("rate", "warning", f"{read}, at which the loss rises", fix)
    elif rate > FAST * found.best:
        yield Remark("rate", "note", f"{read}, far beyond the lowest point", fix)
    elif rate * SLOW < found.recommended:
        yield Remark("rate", "note", f"{read}: a run may be slower than it need be", fix)
    else:
        yield Remark("rate", "fine", read)
