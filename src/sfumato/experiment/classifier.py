"""The classifier of noisy data of a run: trained on its data, schedule, time input and normalisation, kept beside it.

`RUN/classifier.safetensors` holds the weights, and in its metadata what they belong to, how they were trained and how
often they are right at each noise level. A classifier is used only with a model whose data, labels, normalisation,
schedule and time input are those that it was trained with; the denoiser's weights do not matter to it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.core import derived_seed
from sfumato.data import Batches
from sfumato.errors import CheckpointError, DataError, SfumatoError, UsageError
from sfumato.experiment.build import PreparedData, build_classifier, prepare_data
from sfumato.experiment.conditions import names_of
from sfumato.experiment.load import load
from sfumato.experiment.model import Model
from sfumato.experiment.reporting import Silent
from sfumato.experiment.schema import to_plain
from sfumato.metrics import Estimate
from sfumato.nn.classifier import NoisyClassifierConfig
from sfumato.training.classifier import ClassifierSettings, LevelScore, NoisyClassifier, scores_by_level, train_on
from sfumato.training.ema import bare_state
from sfumato.training.engine import multiplies_bfloat16
from sfumato.training.signals import listening
from sfumato.training.tensors import check_names, read_weights, write_single_file
from sfumato.training.trainer import Progress, Reporter

__all__ = ["CLASSIFIER", "ClassifierRecord", "classifier_record", "load_classifier", "train_classifier"]

CLASSIFIER = "classifier.safetensors"
FORMAT = "sfumato-classifier-1"
LEVELS = 8
MOST_SCORED = 1000  # held-out examples


@dataclass(frozen=True, slots=True)
class ClassifierRecord:
    """What a classifier's file says of itself.

    belongs: a digest of each thing that it was trained with. network, settings: how. classes: their names.
    part, scores: how often it is right on which part of the data, one score for each noise level, cleanest first.
    """

    belongs: Mapping[str, str]
    network: NoisyClassifierConfig
    settings: ClassifierSettings
    classes: tuple[str, ...]
    part: str
    scores: tuple[LevelScore, ...]

    def to_plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "belongs": dict(self.belongs),
            "network": asdict(self.network),
            "settings": asdict(self.settings),
            "classes": list(self.classes),
            "part": self.part,
            "scores": [
                {
                    "log_snr": score.log_snr,
                    "accuracy": score.accuracy.value,
                    "accuracy_std_error": score.accuracy.std_error,
                    "cross_entropy": score.cross_entropy.value,
                    "cross_entropy_std_error": score.cross_entropy.std_error,
                    "n": score.accuracy.n,
                }
                for score in self.scores
            ],
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "ClassifierRecord":
        """The inverse of `to_plain`."""
        scores = tuple(
            LevelScore(
                float(one["log_snr"]),
                Estimate(float(one["accuracy"]), float(one["accuracy_std_error"]), int(one["n"])),
                Estimate(float(one["cross_entropy"]), float(one["cross_entropy_std_error"]), int(one["n"])),
            )
            for one in plain["scores"]
        )
        return cls(
            belongs={str(key): str(value) for key, value in plain["belongs"].items()},
            network=NoisyClassifierConfig(**plain["network"]),
            settings=ClassifierSettings(**plain["settings"]),
            classes=tuple(map(str, plain["classes"])),
            part=str(plain["part"]),
            scores=scores,
        )


def train_classifier(
    run: object,
    *,
    settings: ClassifierSettings | None = None,
    network: NoisyClassifierConfig | None = None,
    runs: str | Path = "runs",
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train p(k | x_t, t) on the run's own data and write it beside the run; gives the file.

    Every draw is a function of the run's seed and the step, so that the same command makes the same classifier. Ctrl-C
    leaves the run as it was. Raises UsageError for an exported file or where there is a classifier already (`force`
    replaces it), DataError for data without labels or that changed, NumericsError where the loss is not finite.
    """
    model = run if isinstance(run, Model) else load(run, runs=runs, device=device)
    told: Reporter = Silent() if reporter is None else reporter
    folder = _free_place(model, force)
    settings = ClassifierSettings() if settings is None else settings
    network = NoisyClassifierConfig() if network is None else network
    data = _labelled_data(model)
    classifier = _blank(model, network)
    seed = derived_seed(model.experiment.seed, "classifier")
    place = next(model.denoiser.network.parameters()).device
    batches = Batches(
        data.packed,
        data.parts.train,
        data.record.normalization,
        seed=seed,
        batch_size=settings.batch_size,
        flip=model.experiment.data.flip,
        device=place,
    )
    train_on(
        classifier,
        batches,
        times=model.experiment.times,
        settings=settings,
        seed=seed,
        bfloat16=model.record.is_image and multiplies_bfloat16(place),
        progress=_telling(told, settings),
    )
    part = "held-out" if len(data.parts.held_out) >= 2 else "training"
    among = data.parts.held_out if part == "held-out" else data.parts.train
    scored = batches.take(among[:: max(1, len(among) // MOST_SCORED)][:MOST_SCORED])
    assert scored.labels is not None
    scores = tuple(scores_by_level(classifier, scored.x0, scored.labels, levels=LEVELS, seed=seed))
    record = ClassifierRecord(_belongings(model), network, settings, names_of(model.record), part, scores)
    about = {"format": FORMAT, "classifier": json.dumps(record.to_plain())}
    with listening():  # a Ctrl-C that comes now is late: the file is written whole
        write_single_file(folder / CLASSIFIER, bare_state(classifier.network), about)
    return folder / CLASSIFIER


def load_classifier(folder: Path, model: Model) -> NoisyClassifier:
    """The classifier in a run's folder, on the model's device: (x_t, t, labels) -> log p(k | x_t, t), (B,).

    Raises CheckpointError where there is none, where it is damaged, and where it was trained with other data, another
    schedule, time input or normalisation than the model.
    """
    path = folder / CLASSIFIER
    tensors, record = _read(path)
    belongs = _belongings(model)
    different = [part for part in belongs if record.belongs.get(part) != belongs[part]]
    if different:
        raise CheckpointError(
            f"{path} was trained with {', '.join(f'another {part}' for part in different)} than {folder.name} has now",
            expected="a classifier of the same data, schedule, time input and normalization",
            fix=f"train it again: sfumato classifier {folder} --force",
        )
    classifier = _blank(model, record.network)
    live = bare_state(classifier.network)
    check_names(live, tensors, str(path))
    for name, tensor in live.items():
        tensor.data.copy_(tensors[name])
    place = next(model.denoiser.network.parameters()).device
    return classifier.requires_grad_(False).to(place).eval()


def classifier_record(folder: Path) -> ClassifierRecord:
    """What the file of a run's classifier says of itself. Raises CheckpointError."""
    return _read(folder / CLASSIFIER)[1]


def _read(path: Path) -> tuple[dict[str, Tensor], ClassifierRecord]:
    if not path.exists():
        raise CheckpointError(
            f"{path.parent} holds no classifier of noisy data",
            expected=f"a file {CLASSIFIER}, for classifier_guidance",
            fix=f"sfumato classifier {path.parent}",
        )
    try:
        found = read_weights(path)
    except CheckpointError as error:
        again = f"train it again: sfumato classifier {path.parent} --force"
        raise CheckpointError(error.what, expected=error.expected, fix=again) from None
    about = found.metadata
    try:
        record = ClassifierRecord.from_plain(json.loads(about["classifier"] if about["format"] == FORMAT else "{}"))
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        why = error.what if isinstance(error, SfumatoError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{path} is no classifier that this version knows (format {about.get('format')!r}; {why})",
            expected=f"a file of the format {FORMAT}",
            fix=f"train it again: sfumato classifier {path.parent} --force",
        ) from None
    return found.tensors, record


def _free_place(model: Model, force: bool) -> Path:
    """The run's folder. Raises UsageError where there is none, or where nothing may be replaced."""
    if model.folder is None:
        raise UsageError(
            "an exported file has no data to train a classifier on",
            expected="a run folder, or the name of a run",
            fix="train the classifier of the run that it was exported from",
        )
    path = model.folder / CLASSIFIER
    if path.exists() and not force:
        raise UsageError(
            f"{path} exists already", expected="a run without a classifier", fix="add --force (force=True)"
        )
    return model.folder


def _labelled_data(model: Model) -> PreparedData:
    """The data of the run. Raises DataError for data without labels, and for data that changed since training."""
    if len(model.record.label_values) < 2:
        found = "no labels" if not model.record.label_values else "one class only"
        raise DataError(
            f"the data of {model.experiment.name} have {found}: there is nothing to classify",
            expected="data with labels of two classes or more",
            fix="train a run on labelled data: a folder with a subfolder for each class, or an array file with labels",
        )
    data = prepare_data(model.experiment)
    if data.record.fingerprint != model.record.fingerprint:
        raise DataError(
            f"the data of {model.experiment.name} are not those that it was trained on "
            f"(fingerprint {data.record.fingerprint[:12]}, trained on {model.record.fingerprint[:12]})",
            expected="the same data",
            fix="put the data back where config.yaml says (data.path), or train on the new ones",
        )
    return data


def _blank(model: Model, network: NoisyClassifierConfig) -> NoisyClassifier:
    """The untrained classifier of a model's data, schedule and time input, on the CPU."""
    classes = len(model.record.label_values)
    body = build_classifier(model.experiment, network, shape=model.record.shape, num_classes=classes)
    schedule = model.denoiser.schedule
    return NoisyClassifier(body, schedule, model.experiment.time_input, model.record.data_std)


def _belongings(model: Model) -> dict[str, str]:
    """A digest of each thing that the posterior of the classes depends on, or that the network is shown."""
    plain, record, clock = to_plain(model.experiment), model.record, model.denoiser.clock
    learned = "" if clock is None else str([p.tolist() for p in clock.parameters()])
    parts = {
        "data set": record.fingerprint,
        "shape": list(record.shape),
        "set of labels": list(record.label_values),
        "normalization": [record.normalization.to_dict(), record.data_std],
        "schedule": [plain["schedule"], learned],
        "time input": plain["time_input"],
    }
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for name, part in parts.items()}


def _telling(reporter: Reporter, settings: ClassifierSettings) -> Callable[[int, float], None]:
    """What tells a reporter of steps done, with the speed so far."""
    began = time.perf_counter()

    def tell(done: int, loss: float) -> None:
        speed = done / max(time.perf_counter() - began, 1e-9)
        left = (settings.steps - done) / speed
        reporter.progress(Progress(done, settings.steps, loss, speed * settings.batch_size, left))

    return tell
