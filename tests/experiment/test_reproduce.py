"""`reproduce`: every arm of every source is an experiment, anchors hold, and small runs go through, on and on."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato
from sfumato.cli.main import main
from sfumato.errors import ConfigError, Interrupted, NumericsError, UsageError
from sfumato.experiment.config import load_experiment
from sfumato.experiment.evaluation import levels
from sfumato.experiment.reproduce import SOURCES, measuring, reproduce, source_named, training
from sfumato.experiment.reproduce.anchors import gap_bits
from sfumato.experiment.reproduce.arnason import MEAN_SQUARE
from sfumato.experiment.reproduce.departures import begun_otherwise, departures, other_data
from sfumato.experiment.reproduce.falbel import FLOWERS, PETS
from sfumato.experiment.reproduce.judgements import Printed
from sfumato.experiment.reproduce.reproducing import anchors_of, experiment_of, own_experiment
from sfumato.experiment.reproduce.source import SCALES, Measure, Part, Source

PARTS = [part for source in SOURCES.values() for part in source.parts]
TINY = {
    "training.steps": "2",
    "training.batch_size": "4",
    "training.precision": "float32",
    "training.preview_every": "0",
    "training.evaluate_every": "0",
    "sampling.steps": "2",
}


def arms_of(part: Part) -> list[list[tuple[str, str]]]:
    """The settings of every arm."""
    return [
        [pair for choice, text in zip(part.choices, texts, strict=True) for pair in choice.pairs(text)]
        for texts in product(*(choice.labels for choice in part.choices))
    ]


def rows_of(part: Part) -> set[tuple[str, ...]]:
    """The source's words for every arm."""
    keys = [choice.key for choice in part.choices]
    return {part.labels(dict(zip(keys, texts, strict=True))) for texts in product(*(c.labels for c in part.choices))}


# --- what the sources are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_arm_is_an_experiment_that_departs_in_nothing_from_itself(part: Part) -> None:
    for settings in arms_of(part):
        full = own_experiment(part, settings)
        assert departures(full, full) == ()
        for scale in SCALES:
            assert load_experiment(experiment_of(part, scale, None), settings).training.steps > 0


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_anchors_agree_or_are_mended(source: Source) -> None:
    """Sizes and tables to the digits that the sources have; what is mended is another number than theirs."""
    for anchor in anchors_of(source):
        assert anchor.verdict in ("agrees", "mended"), anchor
        assert (anchor.here == pytest.approx(anchor.there, rel=1e-4)) != anchor.mended, anchor


def test_mended_anchors_are_what_they_should_be() -> None:
    found = {a.what: a.here for source in SOURCES.values() for a in anchors_of(source) if a.mended}
    assert found["alpha at the end of the linear schedule"] == pytest.approx(0.02, rel=1e-9)
    assert found["alpha at its start"] == pytest.approx(0.95, rel=1e-4)  # at t = 1e-5
    assert found["share of its times at which the noise stands still"] == 0
    assert found["network calls in 5 steps of sampling"] == 5
    assert found["network calls in 200 steps of sampling"] == 200
    assert found["alpha² after 200 steps"] == pytest.approx(3.03e-5, rel=0.01)
    assert found["alpha² at the end of the chain"] < 1e-3
    assert found["bits per picture that this gap costs"] == pytest.approx(0.016, rel=0.05)
    his = load_experiment(own_experiment(SOURCES["arnason"].parts[0]), {"schedule.betas.rescale": "false"})
    assert gap_bits(28 * 28, MEAN_SQUARE)(his) == pytest.approx(74.6, abs=0.1)  # of MNIST, to the digits known


def test_every_printed_row_is_an_arm_and_every_arm_of_falbel_is_printed() -> None:
    for part in PARTS:
        rows = rows_of(part)
        for column in part.judgement.columns if isinstance(part.judgement, Printed) else ():
            assert set(column.printed) <= rows
            assert set(column.errors) <= set(column.printed)
    for part, table in zip(SOURCES["falbel"].parts, (FLOWERS, PETS), strict=True):
        assert rows_of(part) == set(table)


def test_what_his_tables_say_of_his_conclusion() -> None:
    """mae / noise / cosine is best of the flowers, and second worst of the pets."""
    ranks = [
        sorted(table, key=lambda row, t=table: t[row][2]).index(("mae", "noise", "cosine")) for table in (FLOWERS, PETS)
    ]
    assert ranks == [0, 6]


def test_departures_name_what_differs_and_nothing_else() -> None:
    part = SOURCES["falbel"].parts[0]
    own = own_experiment(part, [("schedule", "Trimmed")])
    small = load_experiment(experiment_of(part, "small", {"seed": 3, "data.path": "x.npz"}), {"schedule": "Trimmed"})
    assert departures(small, own) == ("data.size 32, not 64", "training.steps 600, not 25,600")
    cosine = departures(experiment_of(part, "full", None), own)
    assert any(text.startswith("schedule.kind CosineAngle") or "schedule" in text for text in cosine)
    range_scaled = departures(experiment_of(part, "full", {"data.normalize": "range"}), own_experiment(part))
    assert range_scaled == ("data.normalize range, not standardize",)
    assert begun_otherwise(small, replace(small, seed=4)) == ("seed 3, not 4",)
    assert other_data(4542, 8189) == "4,542 examples, not 8,189"
    assert other_data(8189, 8189) is None
    assert other_data(5, None) is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: source_named("falbell"), "there is no source"),
        (lambda: reproduce("falbel", "tiny"), "--scale is 'tiny'"),  # type: ignore[arg-type]
        (lambda: reproduce("falbel", only=["flower"]), "no part 'flower'"),
        (lambda: reproduce("esling", seeds=0), "--seeds is 0"),
        (lambda: SOURCES["falbel"].parts[0].labels({"objective.distance": "Huber"}), "no arm of this source"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()


def test_names_are_found_without_regard_to_case() -> None:
    assert source_named("Falbel") is SOURCES["falbel"]
    part = SOURCES["falbel"].parts[0]
    found = part.labels({"objective.distance": "mae", "parameterization": "NOISE", "schedule": "cosine-angle"})
    assert found == ("mae", "noise", "cosine")


# --- runs ------------------------------------------------------------------------------------------------------------


def with_measures(monkeypatch: pytest.MonkeyPatch, name: str, *measures: Measure) -> None:
    """The source of that name, measured otherwise: on fewer examples."""
    source = SOURCES[name]
    monkeypatch.setitem(
        SOURCES, name, replace(source, parts=tuple(replace(p, measures=measures) for p in source.parts))
    )


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """nickd16's perceptron on a few digits, with a narrow layer."""
    with_measures(monkeypatch, "nickd16", Measure(("noise_error",), 4, 8), Measure(("kid",), 6, 8))
    return {**TINY, "data.source": "digits", "data.size": "8", "data.limit": "60", "network.widths": "[8]"}


def once(pictures: dict[str, str], runs: Path, **more: Any) -> Any:
    """The single arm."""
    return reproduce("nickd16", overrides=pictures, only=["perceptron"], runs=runs, extractor="pixels", **more)


def test_a_single_arm_goes_through_and_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: dict[str, str]
) -> None:
    found = once(pictures, tmp_path)
    (part,) = found.parts
    (arm,) = part.arms
    assert arm.folder == tmp_path / "nickd16-small-perceptron-s0"
    assert not found.failed
    quantities = {f.quantity: f for f in part.findings.findings}
    assert quantities["MSE of the noise"].here is not None
    assert quantities["KID"].here is not None
    assert all(f.verdict == "no number" for f in part.findings.findings)
    assert any(text.startswith("training.steps 2, not 70,275") for text in arm.departures)

    def never(*args: object, **more: object) -> None:
        raise AssertionError("made a second time")

    monkeypatch.setattr(training, "train", never)
    monkeypatch.setattr(measuring, "evaluate", never)
    again = once(pictures, tmp_path)
    assert again.document() == found.document()
    with pytest.raises(ConfigError, match=r"begun with other settings: training\.steps 2, not 3"):
        once({**pictures, "training.steps": "3"}, tmp_path)


def test_another_question_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: dict[str, str]
) -> None:
    once(pictures, tmp_path)
    with_measures(monkeypatch, "nickd16", Measure(("noise_error",), 5, 8))
    (part,) = once(pictures, tmp_path).parts
    here = part.findings.findings[0].here
    assert here is not None
    assert here.n == 5


def test_an_arm_that_fails_is_told_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    real = training.train

    def sometimes(experiment: Any, **more: Any) -> Any:
        if experiment.seed == 0:
            raise NumericsError("the loss is not finite", expected="a number", fix="a smaller learning rate")
        return real(experiment, **more)

    monkeypatch.setattr(training, "train", sometimes)
    words = ["reproduce", "nickd16", "--only", "perceptron", "--runs", str(tmp_path), "--seeds", "2", "--json"]
    words += ["--extractor", "pixels"]
    words += [word for key, text in pictures.items() for word in (f"--{key}", text)]
    assert main([*words, "--out", str(tmp_path / "found.md")]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "PARTIAL"
    (part,) = document["parts"]
    assert [one["seed"] for one in part["failed"]] == [0]
    assert [one["seed"] for one in part["arms"]] == [1]
    assert part["findings"][0]["here"]["n"] == 4
    text = (tmp_path / "found.md").read_text()
    assert "not finite" in text
    assert "| parameters of the perceptron | 1,132,816 | 1,132,816 | agrees |" in text


def test_a_stop_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: dict[str, str]) -> None:
    def stopped(*args: object, **more: object) -> None:
        raise Interrupted("stopped at step 1", expected="2 steps", fix="sfumato resume x")

    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(Interrupted, match="go on with: sfumato reproduce nickd16 --scale small"):
        once(pictures, tmp_path)


def test_esling_is_held_to_the_exact_value(tmp_path: Path) -> None:
    own = {"training.steps": "2", "data.count": "200", "training.batch_size": "64"}
    found = reproduce("esling", overrides=own, only=["roll-ddpm"], runs=tmp_path)
    (finding,) = found.parts[0].findings.findings
    assert finding.there is not None
    assert finding.there.value == 0.6791
    assert finding.should is not None
    assert finding.here is not None
    assert finding.here.value > finding.should.value
    assert finding.verdict == "differs"  # two steps


class Grid:
    """A sweep in this very process: all arms of a grid, trained one after another; those named are failed."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.calls = failing, 0

    def __call__(self, experiment: Any, axes: Any, *, seeds: int, name: str, runs: Path, **more: Any) -> Any:
        from types import SimpleNamespace

        self.calls += 1
        arms = []
        for seed in range(seeds):
            for texts in product(*axes.values()):
                settings = dict(zip(axes, texts, strict=True))
                own = load_experiment(experiment, [*settings.items(), ("seed", str(seed))])
                folder = runs / name / "arms" / f"{'-'.join(texts).lower()}-s{seed}"
                if not folder.exists() and self.failing not in texts:
                    sfumato.train(own, runs=folder.parent, name=folder.name)
                arms.append(SimpleNamespace(name=folder.name, settings=settings, seed=seed, folder=folder))
        return SimpleNamespace(
            arms=tuple(arms),
            state=lambda arm: "failed" if self.failing in arm.settings.values() else "done",
            error=lambda arm: "NUMERICS: no" if self.failing in arm.settings.values() else None,
        )


@pytest.fixture
def few_sprites(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """falbel's eight arms on a few sprites, in this very process, measured on a handful of them."""
    measures = (
        Measure(("noise_error", "image_error"), 4, 8, weights="live"),
        Measure(("kid",), 6, 8, sampling=(("steps", "2"),)),
        Measure(("loss_by_log_snr",), 4, 8),
    )
    with_measures(monkeypatch, "falbel", *measures)
    monkeypatch.setattr(levels, "DRAWS", 2)  # of the attainable loss, which is not looked at
    monkeypatch.setattr(training, "sweep", partial(sfumato.sweep, forecast=False))
    own = {**TINY, "data.source": "sprites", "data.limit": "40", "data.test_part": "true", "network.widths": "[8]"}
    return own | {"network.depth": "1", "network.embedding": "8"}


def test_a_grid_becomes_a_text(tmp_path: Path, few_sprites: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each arm, KID by its order alone, effects, errors by level, samples, and what it comes to."""
    words = ["reproduce", "falbel", "--runs", str(tmp_path), "--launcher", "inline", "--extractor", "pixels", "--json"]
    words += [word for key, text in few_sprites.items() for word in (f"--{key}", text)]
    assert main([*words, "--out", str(tmp_path / "found.md")]) == 0
    document = json.loads(capsys.readouterr().out)  # nothing but the document
    (part,) = document["parts"]
    assert len(part["arms"]) == 8
    assert Path(part["sweep"]) == tmp_path / "falbel-small"
    assert len(part["findings"]) == 24
    assert {f["verdict"] for f in part["findings"]} == {"not compared"}
    linear = [f for f in part["findings"] if f["arm"] == ["mse", "noise", "linear"] and f["quantity"] == "noise_loss"]
    assert linear[0]["there"]["value"] == 0.1399971
    (order,) = part["orders"]
    assert (order["arms"], order["pairs"], order["error"]) == (8, 28, "of the measurement, one seed")
    assert order["best_there"] == ["mae", "noise", "cosine"]
    (table,) = part["levels"]
    assert len(table["rows"]) == 8
    bins = ["-8..-6", "-6..-4", "-4..-2", "-2..0", "0..2", "2..4"]  # the same for both schedules
    assert table["bins"] == bins
    assert all(value is not None for row in table["rows"].values() for value in row)

    assert len(part["effects"]["effects"]) == 6  # of three axes on KID, and of any two
    assert len(part["effects_by_level"]["effects"]) == 3 * len(bins)
    own = {effect["axes"][0]: effect for effect in part["effects"]["effects"][:3]}
    kid = {tuple(f["arm"]): f["here"]["value"] for f in part["findings"] if f["quantity"] == "kid"}
    means = [math.fsum(v for arm, v in kid.items() if arm[0] == loss) / 4 for loss in ("mse", "mae")]
    assert own["objective.distance"]["value"] == pytest.approx(means[1] - means[0], rel=1e-9)

    text = (tmp_path / "found.md").read_text()
    assert "| loss: mse -> mae |" in text
    assert "his conclusion, that mae, noise and cosine together are best," in text
    assert "one seed was trained" in text
    assert "(found-flowers.png)" in text
    assert document["pictures"] == [str(tmp_path / "found-flowers.png")]
    with Image.open(tmp_path / "found-flowers.png") as sheet:
        assert sheet.width > 8 * 32
        assert sheet.height > 8 * 32


def test_an_arm_of_a_grid_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_measures(monkeypatch, "nickd16", Measure(("noise_error",), 4, 8))
    monkeypatch.setattr(training, "sweep", Grid(failing="0.1"))
    own = {**TINY, "data.source": "digits", "data.size": "8", "data.pad": None, "data.limit": "40"}
    own |= {"network.widths": "[8]", "network.attention": "[1]", "network.heads": "1", "network.groups": "2"}
    found = reproduce("nickd16", overrides=own, only=["mnist"], runs=tmp_path)
    assert [one.arm for one in found.failed] == ["0.1 (article)"]
    assert [arm.labels for arm in found.parts[0].arms] == [("0.0 (code)",)]


def test_a_real_sweep_is_trained_read_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arms that `sweep` makes are found under the source's own words; a second seed adds to them."""
    with_measures(monkeypatch, "nickd16", Measure(("noise_error",), 4, 8))
    monkeypatch.setattr(training, "sweep", partial(sfumato.sweep, forecast=False))
    own = {**TINY, "data.source": "digits", "data.size": "8", "data.pad": None, "data.limit": "40"}
    own |= {"network.widths": "[8]", "network.attention": "[1]", "network.heads": "1", "network.groups": "2"}
    for seeds in (1, 2):
        found = reproduce("nickd16", overrides=own, only=["mnist"], runs=tmp_path, launcher="inline", seeds=seeds)
        assert not found.failed
        (part,) = found.parts
        assert sorted((arm.labels[0], arm.seed) for arm in part.arms) == [
            (label, seed) for label in ("0.0 (code)", "0.1 (article)") for seed in range(seeds)
        ]
    dropouts = [load_experiment(arm.folder / "config.yaml").network.dropout for arm in part.arms]  # type: ignore[attr-defined]
    assert dropouts == [float(arm.labels[0][:3]) for arm in part.arms]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("scale", SCALES)
def test_a_dry_run_tells_what_would_be_done(name: str, scale: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", name, "--scale", scale, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["faults"]
    assert all(part["arms"] >= 1 and part["steps"] > 0 for part in document["parts"])


def test_sources_are_listed_and_explained_without_torch() -> None:
    code = (
        "import sys; from sfumato.cli.main import main; assert main(['reproduce']) == 0; "
        "assert main(['reproduce', '--help']) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "yukino1010" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["falbell"], "did you mean falbel"),
        (["falbel", "--only", "flower"], "did you mean --only flowers"),
        (["falbel", "--seeds", "0"], "--seeds is 0"),
        (["falbel", "--scale", "huge"], "--scale is 'huge'"),
        (["falbel", "--out", "no/such/found.md"], "its folder is not there"),
        (["falbel", "--out", "."], "is a folder"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a dry run, which then says nothing else."""
    for more in ([], ["--dry-run"]):
        assert main(["reproduce", *words, *more]) == 2
        said = capsys.readouterr()
        assert says in said.err
        assert not said.out


def test_data_that_are_missing_are_missed_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "falbel", "--runs", str(tmp_path / "runs"), "--data.path", str(tmp_path / "no.npz")]
    assert main(words) == 3
    assert "no.npz" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
