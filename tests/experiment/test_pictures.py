"""Pictures by their features: a model that draws the data is at the floor, one that does not is not; nothing is redone.

The models need no training: their network is the posterior mean over some of the training pictures, so that every
sample is one of these.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.condition import Condition
from sfumato.core import CosineAngle, Denoiser, Image, LogSnrInput, LogSnrLinear
from sfumato.data import DataConfig
from sfumato.errors import PlatformError, UsageError
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import Experiment, SamplingConfig
from sfumato.experiment.evaluation import METRICS, default_metrics, drawing, evaluate, features, kept, pace, pictures
from sfumato.experiment.evaluation.document import Notebook
from sfumato.experiment.evaluation.kept import Kept
from sfumato.experiment.evaluation.pictures import scattered
from sfumato.experiment.evaluation.subject import subject_of
from sfumato.experiment.model import Model
from sfumato.experiment.sections import ConditionConfig
from sfumato.metrics import judge as judging
from sfumato.metrics import kid
from sfumato.nn import ResidualUNetConfig


class Recall(nn.Module):
    """E[x_0 | x_t] where x_0 is one of some pictures."""

    x0: Tensor

    def __init__(self, x0: Tensor, data_std: float) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.register_buffer("x0", x0)  # a part of the weights, and of their digest
        self.data_std = data_std

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        log_snr = -8 * time[:, None]
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        x_t = x.flatten(1) * (alpha**2 * self.data_std**2 + sigma**2).sqrt()
        squared = (x_t[:, None] - alpha[:, :, None] * self.x0.flatten(1)).square().sum(2)
        return ((-squared / (2 * sigma**2)).softmax(1) @ self.x0.flatten(1)).view_as(x)


def recalling(classes: int = 10, **changes: Any) -> Model:
    """A model of the digits that draws training pictures of the first `classes`."""
    settings: dict[str, Any] = {
        "name": "recall",
        "data": DataConfig(source="digits", held_out=0.4, limit=1000),
        "network": ResidualUNetConfig(widths=(8,), depth=1, embedding=8),  # not used
        "schedule": LogSnrLinear(),
        "parameterization": Image(),
        "time_input": LogSnrInput(),
        "sampling": SamplingConfig(steps=6, micro_batch=100),
    }
    experiment = Experiment(**{**settings, **changes})
    data = prepare_data(experiment)
    assert data.packed.labels is not None
    train = data.parts.train[data.packed.labels[data.parts.train] < classes]
    denoiser = Denoiser(
        Recall(data.record.normalization.to_model(data.packed.values[train]), data.record.data_std),
        experiment.schedule,
        experiment.parameterization,
        time_input=experiment.time_input,
        data_std=data.record.data_std,
    )
    return Model(experiment, data.record, {"ema": denoiser.requires_grad_(False).eval()}, "0" * 64, 0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and judges that look at fewer pictures."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(judging, "MOST_EPOCHS", 5)
    return tmp_path / "cache" / "sfumato" / "evaluations"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(first seed, count) of each call of Model.sample."""
    heard: list[tuple[int, int]] = []
    real = Model.sample

    def sample(self: Model, n: int, **rest: Any) -> Any:
        heard.append((rest["seed"], n))
        return real(self, n, **rest)

    monkeypatch.setattr(Model, "sample", sample)
    return heard


FINE = SamplingConfig(steps=16, micro_batch=100)
NAMES = ["kid", "fid", "precision", "recall", "density", "coverage"]


def test_a_model_that_draws_the_data_is_at_the_floor() -> None:
    """Training pictures against held-out ones, by pixels: within 4 errors of what other training pictures score."""
    found = evaluate(recalling(sampling=FINE), NAMES, n=300, extractor="pixels").metrics
    assert set(found) == {
        *("kid[pixels]", "kid[pixels][subsets]", "kid[pixels][floor]"),
        *("fid[pixels]", "fid[pixels][floor]", "fid[pixels][infinite]"),
        *(f"{name}[pixels]{tail}" for name in NAMES[2:] for tail in ("", "[real]")),
    }
    for name in NAMES:
        beside = "[floor]" if name in ("kid", "fid") else "[real]"
        one, real = found[f"{name}[pixels]"], found[f"{name}[pixels]{beside}"]
        assert one.n == 300
        assert one.provenance["n_reference"] == real.provenance["n_reference"] == 400
        apart = 4 * (one.std_error**2 + real.std_error**2) ** 0.5
        assert abs(one.value - real.value) < apart + 0.05 * abs(real.value), name
    assert abs(found["kid[pixels][subsets]"].value - found["kid[pixels]"].value) < 2 * found["kid[pixels]"].std_error


@pytest.mark.parametrize(("count", "run"), [(100, 10), (1000, 100), (37, 8), (3, 1), (0, 0)])
def test_real_pictures_for_floors_are_of_all_classes(count: int, run: int) -> None:
    """Data sorted by class: any run of the order holds as many of each tenth as its share, give or take two."""
    found = scattered(torch.arange(count) + 5) - 5
    assert sorted(found.tolist()) == list(range(count))
    for first in range(0, count - run + 1, max(run, 1)):
        tenths = torch.bincount(found[first : first + run] * 10 // max(count, 1), minlength=10)
        assert float((tenths - run / 10).abs().max()) <= 2


def test_what_is_missing_is_seen() -> None:
    """Three digits of ten: as precise, far from the data, and recall and coverage fall."""
    good, bad = (evaluate(recalling(k, sampling=FINE), NAMES, n=200, extractor="pixels").metrics for k in (10, 3))
    assert bad["kid[pixels]"].value > 10 * good["kid[pixels]"].std_error
    assert bad["fid[pixels]"].value > 1.5 * good["fid[pixels]"].value
    assert bad["precision[pixels]"].value > good["precision[pixels]"].value - 0.1
    for name in ("recall", "coverage"):
        assert bad[f"{name}[pixels]"].value < 0.7 * good[f"{name}[pixels]"].value


def test_small_grey_pictures_with_labels_have_a_judge() -> None:
    found = evaluate(recalling(), "kid", n=50).metrics["kid[judge]"]
    facts = found.provenance
    assert facts["extractor"] == "judge"
    assert facts["reference"] == "the held-out part"
    wanted = {"extractor_digest", "resize", "reference_digest", "sampler", "steps", "calls", "weights", "n_model"}
    assert wanted <= set(facts)
    json.dumps(found.to_plain())


def test_kid_is_measured_of_pictures_when_nothing_is_named() -> None:
    named = default_metrics(recalling(), Notebook())
    assert "kid" in named
    assert not {"fid", "precision", "noise_error"} & set(named)


@pytest.mark.parametrize(
    ("channels", "classes", "installed", "side", "name"),
    [
        (3, 10, True, 64, "efficientnet-lite0"),
        (3, 10, False, 64, "pixels"),
        (1, 10, True, 28, "judge"),
        (1, 0, True, 28, "pixels"),
        (1, 10, True, 100, "pixels"),
    ],
)
def test_the_usual_extractor(
    channels: int, classes: int, installed: bool, side: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "efficientnet_file", lambda: Path("there") if installed else None)
    packed = prepare_data(recalling().experiment).packed
    values = torch.zeros(2, side, side, channels, dtype=torch.uint8)
    labels = tuple(range(classes))
    assert features.default_extractor(replace(packed, values=values, label_values=labels)) == name


def test_nothing_is_drawn_or_extracted_twice(
    cache: Path, drawn: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 300 here: whole micro-batches of 100, 250 at least. A larger n is drawn on to what is there."""
    model = recalling()
    first = evaluate(model, "kid", n=300, extractor="pixels").metrics["kid[pixels]"]
    assert drawn == [(0, 300)]
    assert len(list((cache / "samples").iterdir())) == 1

    def never(*args: object, **rest: object) -> Tensor:
        raise AssertionError("extracted again")

    with monkeypatch.context() as patch:
        patch.setattr(features, "extract", never)
        again = evaluate(model, ["kid", "precision"], n=300, extractor="pixels").metrics["kid[pixels]"]
    assert drawn == [(0, 300)]
    assert again == first
    evaluate(model, "kid", n=700, extractor="pixels")
    assert drawn == [(0, 300), (300, 300), (600, 100)]
    evaluate(model, "kid", n=300, extractor="pixels", sampling={"steps": 3})
    assert drawn[-1] == (0, 300)  # other settings are other samples
    evaluate(model, "kid", n=300, extractor="pixels", seed=1)
    assert drawn[-1] == (1, 300)


def test_what_was_stopped_goes_on(drawn: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second part fails: the first is kept, and the numbers are those of one that was never stopped."""
    real = Model.sample

    def broken(self: Model, n: int, **rest: Any) -> Any:
        if rest["seed"] == 300:
            raise KeyboardInterrupt
        return real(self, n, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "sample", broken)
        with pytest.raises(KeyboardInterrupt):
            evaluate(recalling(), "kid", n=400, extractor="pixels")
    drawn.clear()
    resumed = evaluate(recalling(), "kid", n=400, extractor="pixels").metrics["kid[pixels]"]
    assert drawn == [(300, 100)]
    off = replace(recalling().experiment.data, cache="off")
    whole = evaluate(recalling(data=off), "kid", n=400, extractor="pixels").metrics["kid[pixels]"]
    assert (resumed.value, resumed.std_error) == (whole.value, whole.std_error)


def test_damaged_parts_are_drawn_again(cache: Path, drawn: list[tuple[int, int]]) -> None:
    evaluate(recalling(), "kid", n=50, extractor="pixels")
    for path in cache.rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    evaluate(recalling(), "kid", n=50, extractor="pixels")
    assert drawn == [(0, 50), (0, 50)]


def test_what_is_slow_is_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "EARLY", 0.0)
    monkeypatch.setattr(pace, "SLOW", -1.0)
    heard: list[str] = []
    steps: list[tuple[str, int, int]] = []
    evaluate(
        recalling(sampling=FINE),
        "kid",
        n=200,
        extractor="pixels",
        report=heard.append,
        progress=lambda *now: steps.append(now),
    )
    # 16 calls a sample; 1 of 32 steps of two micro-batches is done
    assert heard[0].startswith("sampling: 3,104 network calls to go, about ")
    assert any(text.startswith("pixels features of the samples: ") for text in heard)
    assert steps[0][0] == "sampling"
    assert any(done == total for what, done, total in steps if what == "sampling")


def test_a_model_that_is_told_is_told_what_the_data_are(drawn: list[tuple[int, int]]) -> None:
    """Classes in the proportions of the training part; sample i is asked for the same, however many there are."""
    model = recalling(condition=ConditionConfig(labels=True))
    subject = subject_of(model, weights="ema", part="held-out", n=2, seed=0, report=lambda text: None)
    many, few = (drawing._told(subject, range(count), None).labels for count in (600, 50))
    assert many is not None
    assert few == many[:50]
    train = subject.data.packed.labels[subject.data.parts.train]  # type: ignore[index]
    for k in range(10):
        assert many.count(k) / 600 == pytest.approx(float((train == k).double().mean()), abs=0.02)
    found = evaluate(model, "kid", n=20, extractor="pixels").metrics["kid[pixels]"]
    assert found.provenance["asked"] == "what training examples are"


def test_the_training_part_can_be_the_reference() -> None:
    found = evaluate(recalling(), "kid", n=50, part="training", extractor="pixels").metrics
    assert found["kid[pixels]"].provenance["n_reference"] == 600
    assert found["kid[pixels][floor]"].provenance["floor"] == "pictures of the held-out part"


def test_few_pictures_for_many_features_are_warned_of() -> None:
    """E12: 64 features of 8×8 pixels."""
    notes = evaluate(recalling(), "fid", n=40, extractor="pixels").notes
    assert any("40 pictures for 64 features: the covariance is rank-deficient" in note for note in notes)
    notes = evaluate(recalling(), "fid", n=100, extractor="pixels").notes
    assert not any("rank-deficient" in note for note in notes)


def test_too_few_are_refused_or_left_out() -> None:
    """E12: nothing is said of one sample, or by one real picture."""
    with pytest.raises(UsageError, match="1 examples"):
        evaluate(recalling(), "kid", n=1)
    lone = recalling(data=DataConfig(source="digits", limit=40, held_out=0.025))
    with pytest.raises(UsageError, match="1 examples"):
        evaluate(lone, "kid", extractor="pixels")
    found = evaluate(recalling(), "fid,precision", n=2, extractor="pixels")
    assert "fid[pixels]" in found.metrics


def test_constant_pictures_are_finite(tmp_path: Path) -> None:
    """E13: a model that draws one picture only."""
    model = recalling()
    network = model.denoiser.network
    assert isinstance(network, Recall)
    network.x0 = network.x0[:1]
    found = evaluate(model, NAMES, n=20, extractor="pixels").metrics
    assert found["kid[pixels]"].value > 0
    assert found["coverage[pixels]"].value < 0.1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"extractor": "inceptoin"}, UsageError, "did you mean --extractor inception"),
        ({"extractor": "inception"}, PlatformError, "extractor-weights"),
        ({"metrics": "precision", "n": 2, "extractor": "zzz"}, UsageError, "leave it out"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(Path("nowhere")))
    with pytest.raises(error) as refused:
        evaluate(recalling(), options.pop("metrics", "kid"), **{"n": 5, **options})
    assert words in refused.value.fix + refused.value.expected  # type: ignore[attr-defined]


def test_errors_of_noise_and_of_pictures() -> None:
    """x0_hat = the mean: image errors are those of the mean, and eps_hat - eps = (alpha/sigma) (x0 - mean).

    The ratio of the squares is the mean of (alpha/sigma)² over t, which 1,600 stratified times know to some percent.
    """
    flat = recalling(schedule=CosineAngle())
    network = flat.denoiser.network
    assert isinstance(network, Recall)
    network.x0 = network.x0.mean(0, keepdim=True)
    found = evaluate(flat, ["noise_error", "image_error"], n=100)
    errors = found.metrics
    assert set(errors) == {"noise_error[mae]", "noise_error[mse]", "image_error[mae]", "image_error[mse]"}
    data = prepare_data(flat.experiment)
    chosen = data.parts.held_out[torch.arange(100) * len(data.parts.held_out) // 100]
    off = flat.record.normalization.to_model(data.packed.values[chosen]) - network.x0
    assert errors["image_error[mse]"].value == pytest.approx(float(off.square().mean()), rel=1e-4)
    assert errors["image_error[mae]"].value == pytest.approx(float(off.abs().mean()), rel=1e-4)
    r = flat.denoiser.schedule.rates(torch.linspace(flat.denoiser.schedule.t_min, 1, 10_001, dtype=torch.float64))
    ratio = float((r.alpha / r.sigma).square().mean())
    assert errors["noise_error[mse]"].value / errors["image_error[mse]"].value == pytest.approx(ratio, rel=0.05)
    once = float((r.alpha / r.sigma).mean())
    assert errors["noise_error[mae]"].value / errors["image_error[mae]"].value == pytest.approx(once, rel=0.05)
    assert any("0.798" in note for note in found.notes)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    kept = Kept(blocked)
    kept.write("samples", "k" * 64, torch.ones(2))
    assert kept.read("samples", "k" * 64) is None


def test_values_are_those_of_the_samples_themselves() -> None:
    """kid[pixels] of an evaluation is KID of the pixels of what Model.sample draws."""
    model = recalling()
    found = evaluate(model, "kid", n=60, extractor="pixels", seed=5).metrics["kid[pixels]"]
    images = torch.from_numpy(model.sample(60, seed=5).images)
    data = prepare_data(model.experiment)
    x, y = ((z.flatten(1).double() / 127.5 - 1) for z in (images, data.packed.values[data.parts.held_out]))
    assert found.value == pytest.approx(kid(x, y).value, abs=1e-6)  # pixels are float32, kernels of the size of 1


PROGRAM = """
import json, sys
from sfumato.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_does(digits_run: Path, tmp_path: Path) -> None:
    """Each draws and extracts its parts; both know the whole, and the numbers are the same to the bit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["evaluate", str(digits_run), "--metrics", "kid,precision", "-n", "520", "--extractor", "pixels", "--json"]

    def start(number: int, count: int) -> subprocess.Popen[str]:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(number), "LOCAL_RANK": str(number)}
        own = {"XDG_CACHE_HOME": str(tmp_path / f"of-{count}-{number}")}
        world = {**os.environ, **own, **({**place, "WORLD_SIZE": str(count)} if count > 1 else {})}
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            env=world,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    alone = start(0, 1)
    expected = json.loads(alone.communicate(timeout=100)[0])["metrics"]
    pair = [start(number, 2) for number in (0, 1)]
    outputs = [process.communicate(timeout=100) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert json.loads(outputs[0][0])["metrics"] == expected
    assert outputs[1][0] == ""
    for number in (0, 1):  # each drew and kept its own part alone
        parts = list((tmp_path / f"of-2-{number}" / "sfumato" / "evaluations" / "samples").iterdir())
        assert 1 <= len(parts) <= 2


def test_everything_that_samples_depend_on_is_told(drawn: list[tuple[int, int]]) -> None:
    """Another grid, range or precision is another way to draw: `compare` is to see it."""
    facts = [
        evaluate(recalling(), "kid", n=20, extractor="pixels", sampling=changes).metrics["kid[pixels]"].provenance
        for changes in ({}, {"grid": "Karras"}, {"clip": False}, {"precision": "bfloat16"})
    ]
    for other, name in zip(facts[1:], ("grid", "clip", "precision"), strict=True):
        assert {key for key in other if other[key] != facts[0][key]} == {name}
    assert len(drawn) == 4  # and none is taken for another


def test_a_network_that_was_written_anew_draws_anew(
    drawn: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People's own networks: the same weights mean other samples when the file they are written in has changed."""
    for source in ("first", "first", "second"):
        monkeypatch.setattr(drawing, "source_of", lambda kind, source=source: source)
        evaluate(recalling(), "kid", n=20, extractor="pixels")
    assert len(drawn) == 2
    monkeypatch.setattr(drawing, "source_of", lambda kind: None)  # of a notebook nothing is known
    for _ in range(2):
        evaluate(recalling(), "kid", n=20, extractor="pixels")
    assert len(drawn) == 4


def test_the_source_of_a_class_is_its_file() -> None:
    assert kept.source_of(Recall) == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert kept.source_of(type("Unknown", (), {"__module__": "nowhere"})) is None
    assert kept.code_of("metrics") != kept.code_of("metrics", "nn")


def test_what_an_extractor_lacks_is_said_before_anything_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the likelihoods of all examples."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nowhere")
    monkeypatch.setitem(METRICS, "loss", lambda *_: pytest.fail("measured first"))
    with pytest.raises(PlatformError, match="inception needs weights"):
        evaluate(recalling(), "loss,kid", n=20, extractor="inception")


def test_large_comparisons_are_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SLOW", -1.0)
    heard: list[str] = []
    evaluate(recalling(), "kid,fid", n=20, extractor="pixels", report=heard.append)
    for name in ("kid", "fid"):
        assert any(text.startswith(f"{name}: comparing the features of 20 samples with 400 real") for text in heard)
