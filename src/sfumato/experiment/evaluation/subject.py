"""What is evaluated: one set of weights of a model, beside the data that it was trained on.

Examples are taken evenly over the held-out part (or the training part), and everything drawn follows from one seed and
the place of an example, so that a number depends on (weights, part, n, seed) alone.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sfumato.condition import Condition
from sfumato.core import Denoiser
from sfumato.data import Batch, Split, evenly_from
from sfumato.data.laws import Law, law_of
from sfumato.errors import DataError, UsageError
from sfumato.experiment.build import PreparedData, prepare_data
from sfumato.experiment.model import Model
from sfumato.experiment.session import conditioner_of
from sfumato.experiment.told import in_words
from sfumato.metrics import Fact, require_enough
from sfumato.training.conditioner import Examples

__all__ = ["SLOW", "Part", "Subject", "Timed", "forecast", "pieces", "precise", "slowly", "subject_of"]

Part = Literal["held-out", "training"]
PILOT = 8  # examples in the first timed piece; the second has eight times as many
SLOW = 10.0  # seconds from which on a forecast is printed
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A denoiser with its model, data and settings of the measurement.

    given: the data of the run; None where the examples came alone.
    denoiser: the chosen weights; in float64 for points, where that costs nothing.
    law: the exact law of the data in model space, where it is known.
    x0: (n, *) the examples in model space, on the denoiser's device and in its dtype.
    cond: what the network is told of them; None where it is told nothing.
    """

    model: Model
    denoiser: Denoiser
    given: PreparedData | None
    law: Law | None
    x0: Tensor
    part: Part
    weights: str
    seed: int
    report: Report
    cond: Condition | None = None

    @property
    def data(self) -> PreparedData:
        """The data of the run. Raises DataError where the examples came alone."""
        if self.given is None:
            raise DataError(
                "the data of the run are needed, and the examples came alone",
                expected="a measurement of the run",
                fix="call sfumato.evaluate, or take the flow",
            )
        return self.given

    @property
    def n(self) -> int:
        """Examples that are measured."""
        return len(self.x0)

    @property
    def dim(self) -> int:
        """Values of one example."""
        return self.x0[0].numel()

    @property
    def log_scale(self) -> float:
        """Σ log scale over the values of an example: log p(raw) = log p(model) - log_scale."""
        scale = self.model.record.normalization.scale
        return self.dim / len(scale) * sum(map(math.log, scale))

    def facts(self, **more: Fact) -> dict[str, Fact]:
        """The provenance that every number shares."""
        model = self.model
        return {
            "run": model.experiment.name,
            "digest": model.digest,
            "steps_trained": model.steps_trained,
            "weights": self.weights,
            "data": model.record.fingerprint,
            "split": split_digest(self.data.parts),
            "part": self.part,
            "seed": self.seed,
            **more,
        }

    @property
    def told_as(self) -> str:
        """What the network is told of the examples, in words."""
        return in_words(self.model.condition_shape) or "nothing"

    def told(self, part: slice) -> Condition | None:
        """What the network is told of some of the examples."""
        return None if self.cond is None else self.cond[part]

    def training_examples(self, most: int) -> Examples:
        """Up to `most` training examples, evenly taken, on the denoiser's device and in its dtype."""
        return self.part_examples("training", most)

    def part_examples(self, part: Part, most: int) -> Examples:
        """Up to `most` examples of a part, with what the network is told of them."""
        return examples_of(self.model, self.data, evenly_from(_indices(self.data, part), most), self.x0)


def split_digest(parts: Split) -> str:
    """Which examples are trained on and which are held out: the same for two runs that can be compared on either."""
    digest = hashlib.sha256()
    for indices in (parts.train, parts.held_out):
        digest.update(len(indices).to_bytes(8, "little") + indices.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def examples_of(model: Model, data: PreparedData, indices: Tensor, like: Tensor) -> Examples:
    """The examples `indices` of the data in model space and what the model is told of them, like `like`.

    Nothing is left out, and pictures that are degraded at random always are so in the same way.
    """
    packed, record = data.packed, model.record
    x0 = record.normalization.to_model(packed.values[indices]).to(like)
    labels, values = packed.labels, packed.conditions
    batch = Batch(
        x0,
        None if labels is None else labels[indices].to(x0.device),
        indices,
        None if values is None else record.conditions_to_model(values[indices]).to(x0),
    )
    return Examples(x0, conditioner_of(model.experiment).plain(batch, "evaluated degradation"), indices)


def data_of(model: Model) -> PreparedData:
    """The data that the model was trained on. Raises DataError where they have changed."""
    data = prepare_data(model.experiment)
    if data.record.fingerprint != model.record.fingerprint:
        raise DataError(
            f"the data of {model.experiment.name} are not those that it was trained on "
            f"(fingerprint {data.record.fingerprint[:12]}, trained on {model.record.fingerprint[:12]})",
            expected="the same data",
            fix="put the data back where config.yaml says (data.path), or train on the new ones",
        )
    return data


def subject_of(
    model: Model,
    *,
    weights: str,
    part: Part,
    n: int | None,
    seed: int,
    report: Report,
    most: int = 1000,
    given: PreparedData | None = None,
) -> Subject:
    """A model with `n` examples of a part (None: all, at most `most`).

    `given` are its data where they are in memory already. Raises DataError for data that changed since training or a
    part that is empty, UsageError for weights that the file does not hold and for fewer than two examples.
    """
    if weights not in model.weights:
        raise UsageError(
            f"weights {weights!r} were asked for; this file holds {', '.join(sorted(model.weights))}",
            expected="weights that the file holds",
            fix="leave the weights out (--weights), or evaluate the run folder",
        )
    if n is not None:
        require_enough(n)
    data = data_of(model) if given is None else given
    indices = _indices(data, part)
    if len(indices) == 0:
        raise DataError(
            f"the {part} part of the data is empty",
            expected="examples to measure",
            fix="evaluate the training part (--part training), or train with data.held_out above 0",
        )
    chosen = evenly_from(indices, most if n is None else n)
    require_enough(len(chosen))
    law = law_of(model.experiment.data)
    normalization = model.record.normalization
    in_model_space = None if law is None else law.normalized(normalization.mean, normalization.scale)
    denoiser = precise(model, weights)
    examples = examples_of(model, data, chosen, next(denoiser.network.parameters()))
    return Subject(
        model=model,
        denoiser=denoiser,
        given=data,
        law=in_model_space,
        x0=examples.x0,
        cond=examples.cond,
        part=part,
        weights=weights,
        seed=seed,
        report=report,
    )


def precise(model: Model, weights: str) -> Denoiser:
    """The denoiser with the chosen weights; for points a copy in float64, which costs nothing there."""
    denoiser = model.weights[weights]
    device = next(denoiser.network.parameters()).device
    return denoiser if model.record.is_image or device.type == "mps" else copy.deepcopy(denoiser).double()


def _indices(data: PreparedData, part: Part) -> Tensor:
    return data.parts.held_out if part == "held-out" else data.parts.train


def pieces(subject: Subject, what: str, size: int, calls: Callable[[], float]) -> Iterator[slice]:
    """Slices of the examples: two small ones first, whose times forecast the rest, which is said where it is slow.

    A batch of m examples takes a + b m seconds; two sizes tell both. `calls()` is the number of network calls that an
    example takes, asked for once the small ones are done.
    """
    clock, start, spent = time.perf_counter(), 0, []
    for length in (min(PILOT, size), min(8 * PILOT, size)):
        stop = min(start + length, subject.n)
        if stop > start:
            yield slice(start, stop)
            now = time.perf_counter()
            spent.append(Timed(stop - start, now - clock))
            clock, start = now, stop
    left = forecast(spent, subject.n - start, size)
    if left > SLOW:
        subject.report(slowly(what, calls() * (subject.n - start), left))
    for first in range(start, subject.n, size):
        yield slice(first, min(first + size, subject.n))


def slowly(what: str, calls: float, seconds: float) -> str:
    """The sentence of a forecast: so many network calls of single examples, so long."""
    clock = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"{what}: {calls:,.0f} network calls to go, about {clock}"


@dataclass(frozen=True, slots=True)
class Timed:
    """A batch of `count` examples and the seconds it took."""

    count: int
    seconds: float


def forecast(spent: list[Timed], left: int, size: int) -> float:
    """Seconds for `left` more examples in batches of `size`, from two timed batches of different sizes."""
    if left <= 0 or not spent:
        return 0.0
    last, first = spent[-1], spent[0]
    slope = last.seconds / last.count
    if last.count > first.count:
        slope = min(slope, max(0.0, last.seconds - first.seconds) / (last.count - first.count))
    fixed = max(0.0, last.seconds - slope * last.count)
    return fixed * math.ceil(left / size) + slope * left
