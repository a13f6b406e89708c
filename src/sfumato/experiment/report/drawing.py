"""What a run draws for the page: samples of the seeds K, K + 1, …, their way from noise to data, its schedule.

Sample i of every run starts from the noise of seed K + i, so that runs are seen beside one another from the same noise.
Nothing is chosen: the first seeds are shown, whatever comes out. What cannot be drawn (a damaged checkpoint, a model
that goes by real pictures) is left out and said.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.laws import law_of
from sfumato.errors import SfumatoError
from sfumato.experiment.build import DataRecord
from sfumato.experiment.config import Overrides, SamplingConfig, sampling_with
from sfumato.experiment.load import load
from sfumato.experiment.model import Model
from sfumato.experiment.outputs import settings_of
from sfumato.experiment.report.neighbours import DataShelf, Neighbours, neighbours_of
from sfumato.experiment.report.room import film_room, samples_room
from sfumato.experiment.report.schedule_curves import ScheduleCurve, curve_of
from sfumato.experiment.samples import Trajectory

if TYPE_CHECKING:
    from sfumato.experiment.build import PreparedData

__all__ = ["Film", "Picture", "Wish", "draw_run", "film_of", "moments"]

MOST_BYTES = 400_000_000  # of a whole trajectory in memory
POINTS, SHOWN_POINTS = 1000, 600  # points of the plane that are drawn, and those of the data behind them
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is drawn of every run.

    count: samples. seed: of the first one. runs_drawn: how many runs share the page. frames, examples: moments of the
    film and examples in it. guesses: whether the film shows what the model expects, too. real: whether pictures of the
    data set may be shown. sampling: settings laid over each run's own.
    """

    count: int = 36
    seed: int = 0
    runs_drawn: int = 1
    frames: int = 24
    examples: int = 4
    guesses: bool = True
    real: bool = False
    sampling: Overrides | None = None
    device: str = "auto"
    runs: Path = Path("runs")


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """Moments of the way from noise to data.

    steps: of the sampler, done at each moment; the last is the number of all. log_snr: in nats, infinite at the end.
    states: (examples, *) x_t at unit power in data units at each moment. guesses: the x_0 expected there; the sample
    itself at the end; empty where they are not shown.
    """

    steps: tuple[int, ...]
    times: tuple[float, ...]
    log_snr: tuple[float, ...]
    states: tuple[NDArray[np.generic], ...]
    guesses: tuple[NDArray[np.generic], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What was drawn of one run.

    values: samples in data units, (n, *). labels: what each was asked to be, by name; None where nothing was asked.
    side: longer side of a picture on the page. behind: points of the data, where they may be shown.
    sampling: how they were drawn, as `sfumato sample` takes it.
    """

    record: DataRecord
    digest: str
    steps_trained: int
    parameters: int
    sampling: dict[str, object]
    schedule: ScheduleCurve
    values: NDArray[np.generic] | None = None
    labels: tuple[str, ...] | None = None
    side: int = 0
    film: Film | None = None
    behind: NDArray[np.generic] | None = None
    neighbours: Neighbours | None = None
    notes: tuple[str, ...] = field(default=())


def draw_run(place: str, wish: Wish, shelf: DataShelf, note: Note) -> Picture:
    """Load a run and draw what is wished. Raises SfumatoError where its weights cannot be had."""
    model = load(place, runs=wish.runs, device=wish.device, report=note)
    sampling = model.experiment.sampling
    chosen = sampling if wish.sampling is None else sampling_with(sampling, wish.sampling)
    notes: list[str] = []
    bare = Picture(
        record=model.record,
        digest=model.digest,
        steps_trained=model.steps_trained,
        parameters=sum(p.numel() for p in model.denoiser.network.parameters()),
        sampling=settings_of(chosen),
        schedule=curve_of(model.denoiser.schedule),
    )
    if wish.count == 0:
        return bare
    try:
        drawn = _drawn(bare, model, chosen, wish, shelf)
        return replace(drawn, **_beside(model, drawn, wish, shelf, notes), notes=tuple(notes))
    except SfumatoError as error:
        return replace(bare, notes=(f"no samples: {error.what}",))


def _drawn(bare: Picture, model: Model, sampling: SamplingConfig, wish: Wish, shelf: DataShelf) -> Picture:
    """The samples and their film."""
    shape, is_image = model.record.shape, model.record.is_image
    count, side = wish.count if is_image else max(wish.count, POINTS) if len(shape) == 1 else wish.count, 0
    frames, examples = wish.frames, count
    if is_image:
        room = samples_room(shape, wish.runs_drawn, wish.count)
        count, side = room.count, room.side
        rows = 2 if wish.guesses else 1
        film = film_room(shape, wish.runs_drawn, frames=frames, examples=min(wish.examples, count), rows=rows)
        frames, examples, side_of_film = film.frames, film.examples, film.side
    config = replace(sampling, micro_batch=count)
    asked = _asked(model, count, wish, shelf)
    fits = 2 * count * config.steps * math.prod(shape) * (1 if is_image else 4) <= MOST_BYTES
    if fits and not config.sampler.adaptive:
        path = model.path(count, seed=wish.seed, config=config, **asked)
        values, labels = path.states[-1], path.labels
    else:
        samples = model.sample(count, seed=wish.seed, config=config, **asked)
        found = samples.images if samples.images is not None else samples.values
        assert found is not None  # a batch is one or the other
        values = found
        names = samples.class_names
        labels = None if samples.labels is None or names is None else tuple(names[k] for k in samples.labels.tolist())
        few = {key: None if each is None else _first(each, examples) for key, each in asked.items()}
        path = model.path(examples, seed=wish.seed, config=replace(config, micro_batch=examples), **few)
    film_ = film_of(path, model, frames=frames, examples=examples, guesses=wish.guesses)
    if is_image:
        film_ = _smaller(film_, side_of_film)
    told = settings_of(config)
    return replace(bare, values=values, labels=labels, side=side, film=film_, sampling=told)


def film_of(path: Trajectory, model: Model, *, frames: int, examples: int, guesses: bool) -> Film:
    """The moments of a trajectory that are shown."""
    chosen = moments(len(path.states), frames)
    schedule = model.denoiser.schedule
    levels = [float(schedule.rates(_time(path.times[i])).log_snr) if path.times[i] > 0 else math.inf for i in chosen]
    expected = [*path.guesses, path.states[-1]] if guesses else []
    return Film(
        steps=tuple(chosen),
        times=tuple(path.times[i] for i in chosen),
        log_snr=tuple(levels),
        states=tuple(path.states[i][:examples] for i in chosen),
        guesses=tuple(expected[i][:examples] for i in chosen) if expected else (),
    )


def moments(count: int, most: int) -> list[int]:
    """At most `most` of `count` moments, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})


def _time(t: float) -> Any:
    import torch

    return torch.tensor(t, dtype=torch.float64)


def _smaller(film: Film, side: int) -> Film:
    """A film whose pictures have at most `side` pixels."""
    from sfumato.experiment.report.tiles import averaged

    small = [tuple(averaged(f.astype(np.uint8), side) for f in frames) for frames in (film.states, film.guesses)]
    return replace(film, states=small[0], guesses=small[1])


def _first(asked: object, count: int) -> object:
    """What the first samples are asked to be; words say it for any number."""
    return asked[:count] if isinstance(asked, np.ndarray) else asked


def _asked(model: Model, count: int, wish: Wish, shelf: DataShelf) -> dict[str, Any]:
    """What the samples are told: the classes in turn, numbers evenly over their range, pictures where they may be."""
    told, record = model.condition_shape, model.record
    asked: dict[str, Any] = {}
    steered = model.experiment.sampling.classifier_guidance is not None
    if told.num_classes or (steered and record.num_classes):
        asked["labels"] = "all"
    if told.num_values and record.conditions is not None:
        share = (np.arange(count) + 0.5) / count
        low, high = (np.array(part) for part in (record.conditions.low, record.conditions.high))
        asked["values"] = low + share[:, None] * (high - low)
    if told.image_channels:
        asked["images"] = shelf.real_pictures(model, count, allowed=wish.real)
    return asked


def _beside(model: Model, drawn: Picture, wish: Wish, shelf: DataShelf, notes: list[str]) -> dict[str, Any]:
    """What the data say of the samples: their neighbours, or points to show behind them."""
    assert drawn.values is not None
    try:
        data = shelf.of(model)
        if model.record.is_image:
            return {"neighbours": neighbours_of(model, drawn.values, data, shelf, real=wish.real)}
        if wish.real or law_of(model.experiment.data) is not None:
            return {"behind": _some(data)}
    except SfumatoError as error:
        notes.append(f"not compared with the data: {error.what}")
    return {}


def _some(data: "PreparedData") -> NDArray[np.generic]:
    """Training examples, evenly taken."""
    train = data.parts.train
    places = np.arange(min(SHOWN_POINTS, len(train))) * len(train) // min(SHOWN_POINTS, len(train))
    return np.asarray(data.packed.values[train[places.tolist()]].numpy())
