"""The metrics that there are, by name, what each means something for, and what all of them work with.

    bits_per_dim          pictures: bits_per_dim[bound], bits_per_dim[flow], and the same in nats as nll[…]
    nll                   the same for points, in nats per dimension: nll[bound], nll[flow], beside nll[true] where the
                          law of the data is known, and the paired differences from it
    sliced_wasserstein, energy_distance, mmd
                          points: samples against real ones, each beside its two-sample floor
    mode_coverage         points of a law with modes
    label_agreement       pictures asked for by their class: how often a judge of classes sees it (`classes`)
    class_balance         pictures that nothing was asked of: how far their judged classes are from the data's
    kid, fid, precision, recall, density, coverage
                          pictures: samples against real ones by features, beside what real ones score (`pictures`)
    noise_error, image_error
                          errors of eps and of x_0 over the times of training, absolute and squared (`denoising`)
    round_trip            examples encoded to noise and decoded again: the error of Heun's method and of DDIM
    loss                  the run's objective, held out and on the training part, beside the smallest attainable loss
    loss_by_log_snr       the noise error on both parts in bins of log-SNR: where a model knows by heart (`levels`)
    memorisation          the share of samples that are copies of training examples (`memorisation`)

Every number is an `Estimate`; `evaluating` measures them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from sfumato.errors import DataError, UsageError
from sfumato.experiment.build import DataRecord
from sfumato.experiment.evaluation.classes import CLASS_METRICS, agreement_entries, balance_entries
from sfumato.experiment.evaluation.conventions import convention_of
from sfumato.experiment.evaluation.denoising import ERROR_METRICS, error_entries
from sfumato.experiment.evaluation.document import Notebook
from sfumato.experiment.evaluation.levels import level_entries
from sfumato.experiment.evaluation.likelihoods import BoundMethod, FlowMethod, require_flow, require_likelihood
from sfumato.experiment.evaluation.losses import loss_entries
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.memorisation import memorisation_entries
from sfumato.experiment.evaluation.nats import likelihood_entries
from sfumato.experiment.evaluation.pictures import PICTURE_METRICS, Featured, entries_of
from sfumato.experiment.evaluation.round_trips import round_trip_entries
from sfumato.experiment.evaluation.samples import Compared, mode_entries, require_modes, sample_entries
from sfumato.experiment.evaluation.subject import Subject
from sfumato.experiment.model import Model
from sfumato.metrics import EnergyDistance, Estimate, Extractor, Judge, Mmd, SlicedWasserstein

__all__ = ["METRICS", "WHEN_NAMED", "Settings", "default_metrics", "require_fitting", "require_known"]

Entry = tuple[str, Estimate]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure, beside the examples.

    bound, flow: the two likelihoods.
    compared: the samples and what they are compared with, drawn once, when first asked for.
    judge: of the classes of the data, trained or read once, when first asked for. count: how many samples it judges.
    extractor: of features of pictures, made once, when first asked for.
    pictures: samples and real pictures by those features, drawn once, when first asked for.
    means: with what the work is done.
    """

    bound: BoundMethod
    flow: FlowMethod
    compared: Callable[[], Compared]
    judge: Callable[[], Judge]
    count: int
    extractor: Callable[[], Extractor]
    pictures: Callable[[], Featured]
    means: Means


Metric = Callable[[Subject, Settings, Notebook], Iterable[Entry]]


def default_metrics(model: Model, book: Notebook) -> tuple[str, ...]:
    """All that means something for a model's data; what is left out is noted."""
    record = model.record
    names = (
        ("bits_per_dim", "kid", "loss")
        if record.is_image
        else tuple(n for n in METRICS if n not in ("bits_per_dim", *WHEN_NAMED))
    )
    kept = []
    for name in names:
        try:
            require_fitting(name, record)
            if name in ("bits_per_dim", "nll"):
                require_likelihood(model.denoiser)
            if name == "round_trip":
                require_flow(model.denoiser)
            if name == "mode_coverage":
                require_modes(model)
            kept.append(name)
        except DataError as error:
            book.add(f"{name} was left out: {error.what}")
    return tuple(kept)


def require_known(name: str) -> None:
    """Refuse a metric that there is not, naming the nearest. Raises UsageError."""
    if name not in METRICS:
        near = get_close_matches(name.replace("-", "_"), METRICS, n=1, cutoff=0.5)
        raise UsageError(
            f"there is no metric {name!r}",
            expected="some of " + ", ".join(METRICS),
            fix=f"did you mean {near[0]}?" if near else "--metrics loss",
        )


def require_fitting(name: str, record: DataRecord) -> None:
    """Refuse a metric that means nothing for the data. Raises DataError."""
    if name == "bits_per_dim" and not record.is_image:
        raise DataError(
            "bits/dim counts the levels of 8-bit pictures, and these data are continuous: it means nothing for them",
            expected="8-bit pictures",
            fix="measure the density in nats per dimension (--metrics nll)",
        )
    if name in ("bits_per_dim", "nll"):
        rounded = [text for text in record.report if "rounded to 8 bits" in text]
        if rounded:
            raise DataError(
                f"the pictures were not 8-bit ({rounded[0]}): bits/dim of rounded pictures is not that of the data",
                expected="8-bit pictures",
                fix="measure the loss (--metrics loss), or train on 8-bit pictures",
            )
        convention_of(record.normalization, 0.0)
    if name in PICTURE_METRICS and not record.is_image:
        raise DataError(
            f"{name} compares pictures by their features, and these data are points",
            expected="pictures",
            fix="--metrics sliced_wasserstein,energy_distance,mmd",
        )
    if name in SAMPLE_METRICS and record.is_image:
        raise DataError(
            f"{name} compares points, and these data are pictures",
            expected="points",
            fix="--metrics kid,bits_per_dim,loss",
        )


def _likelihoods(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return likelihood_entries(subject, settings.bound, settings.flow, book.add)


def _losses(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return loss_entries(subject, book.add)


def _modes(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return mode_entries(subject, settings.compared, book.add)


def _agreement(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return agreement_entries(subject, settings.count, settings.judge, settings.means, book.add)


def _balance(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return balance_entries(subject, settings.count, settings.judge, settings.means, book.add)


def _round_trips(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return round_trip_entries(subject, book.add)


def _by_level(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return level_entries(subject, book.add)


def _memorisation(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return memorisation_entries(subject, settings.count, settings.extractor, settings.means, book.add, book.keep)


def _sliced(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return sample_entries("sliced_wasserstein", SlicedWasserstein(), subject, settings.compared, book.add)


def _energy(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return sample_entries("energy_distance", EnergyDistance(), subject, settings.compared, book.add)


def _mmd(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return sample_entries("mmd", Mmd(), subject, settings.compared, book.add)


def _of_pictures(name: str) -> Metric:
    return lambda subject, settings, book: entries_of(name, settings.pictures(), book.add)


def _errors(name: str) -> Metric:
    return lambda subject, settings, book: error_entries(name, subject, book.add)


METRICS: dict[str, Metric] = {
    "bits_per_dim": _likelihoods,
    "nll": _likelihoods,
    "sliced_wasserstein": _sliced,
    "energy_distance": _energy,
    "mmd": _mmd,
    "mode_coverage": _modes,
    "label_agreement": _agreement,
    "class_balance": _balance,
    **{name: _of_pictures(name) for name in PICTURE_METRICS},
    **{name: _errors(name) for name in ERROR_METRICS},
    "round_trip": _round_trips,
    "loss": _losses,
    "loss_by_log_snr": _by_level,
    "memorisation": _memorisation,
}
SAMPLE_METRICS = ("sliced_wasserstein", "energy_distance", "mmd", "mode_coverage")
WHEN_NAMED = (*CLASS_METRICS, *PICTURE_METRICS, *ERROR_METRICS, "loss_by_log_snr", "memorisation")
