"""The experiment: reading, overriding, writing, and the misfits between its sections."""

from pathlib import Path

import pytest
import yaml

from sfumato.core import CosineAngle, CosineBetas, GridTimes, LinearBetas, PreviousMean, Shifted, StepInput, Tabulated
from sfumato.data.settings import DataConfig
from sfumato.errors import ConfigError
from sfumato.experiment.config import Experiment, SamplingConfig, experiment_yaml, load_experiment, sampling_with
from sfumato.experiment.describe import describe
from sfumato.experiment.kinds import kinds
from sfumato.experiment.schema import read
from sfumato.experiment.yaml_file import parse_yaml
from sfumato.nn import ResidualUNetConfig, StepMlpConfig
from sfumato.objectives import DenoisingLoss, Huber, Mae, MinSnr
from sfumato.samplers import Ancestral, Ddim, Sampler


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nschedule:\n  kind: CosineAngle\n  max_signal_rate: 0.9\ntraining:\n  steps: 7\n")
    return path


def refusal(overrides: dict[str, object], source: Path | Experiment | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_experiment(Experiment() if source is None else source, overrides)
    return caught.value


def test_file_flags_and_python_say_the_same(file: Path) -> None:
    flags = [
        ("training.batch_size", "8"),
        ("objective.distance", "mae"),
        ("objective.weighting", "MinSnr"),
        ("seed", "3"),
    ]
    python = {"training.batch_size": 8, "objective": {"distance": Mae()}, "objective.weighting": "min-snr", "seed": 3}
    experiment = load_experiment(file, flags)
    assert experiment == load_experiment(str(file), python)
    assert experiment.schedule == CosineAngle(max_signal_rate=0.9)
    assert experiment.objective == DenoisingLoss(Mae(), MinSnr())
    assert (experiment.training.steps, experiment.training.batch_size, experiment.seed) == (7, 8, 3)


def test_flow_style_flags_and_short_names_of_betas() -> None:
    flags = [("schedule", "{kind: Shifted, resolution: 32, base: {kind: Tabulated, betas: Cosine}}")]
    assert load_experiment(Experiment(), flags).schedule == Shifted(32, base=Tabulated(CosineBetas()))
    flags = [("objective.distance", "huber"), ("objective.distance.delta", "0.5"), ("network.widths", "[8, 16]")]
    built = load_experiment(Experiment(), flags)
    assert (built.objective.distance, built.network) == (Huber(0.5), ResidualUNetConfig(widths=(8, 16)))


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"schedule": Tabulated(CosineBetas(), 100), "times": GridTimes(100), "time_input": StepInput(100)},
        {"schedule": Shifted(32, base=Tabulated(LinearBetas())), "sampling.sampler": Ancestral()},
        {
            "data": DataConfig("moons", pad=None, size=(4, 8)),
            "network": ResidualUNetConfig((8,)),
            "data.source": "folder",
        },
    ],
    ids=str,
)
def test_config_yaml_reads_back_equal(overrides: dict[str, object], tmp_path: Path) -> None:
    experiment = load_experiment(Experiment(), overrides)
    text = experiment_yaml(experiment)
    assert read(Experiment, parse_yaml(text, "config.yaml")) == experiment
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert load_experiment(tmp_path) == experiment  # a run folder stands for its config.yaml
    assert "&id" not in text  # anchors would be refused on reading


def test_unknown_keys_and_nearest_names(file: Path) -> None:
    file.write_text(file.read_text() + "  learnign_rate: 0.1\n")
    error = refusal({}, file)
    assert error.what == f"{file}:7: training.learnign_rate: unknown key 'learnign_rate'"
    assert error.fix == "did you mean training.learning_rate?"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.learning_rate", 0),
        ("training.learning_rate", float("nan")),
        ("training.learning_rate", 1e30),
        ("training.ema_decay", 1.0),
        ("training.batch_size", 0),
        ("training.batch_size", 10**30),
        ("training.steps", -1),
        ("data.size", 0),
        ("data.held_out", 1.5),
        ("seed", -1),
        ("seed", 2**62),
        ("name", "../x"),
        ("sampling.steps", 0),
        ("sampling.guidance", -1),
        ("evaluation.count", 0),
    ],
)
def test_out_of_range_names_field_value_and_range(key: str, value: object) -> None:
    error = refusal({key: value})
    assert key in error.what
    assert str(value) in error.what.replace("'", "")
    assert error.expected


@pytest.mark.parametrize(
    ("overrides", "fields"),
    [
        ({"times": GridTimes(100)}, ("times", "schedule", "Tabulated")),
        ({"schedule": Tabulated(steps=50), "times": GridTimes(100)}, ("times.steps", "schedule.steps", "50")),
        ({"time_input": StepInput(100)}, ("time_input", "schedule", "Tabulated")),
        ({"schedule": Tabulated(steps=50), "time_input": StepInput(100)}, ("time_input.steps", "schedule.steps", "50")),
        ({"network": StepMlpConfig()}, ("network", "time_input", "StepInput")),
        ({"schedule": Tabulated(steps=20), "sampling.steps": 21}, ("sampling.steps", "schedule.steps", "20")),
        ({"parameterization": PreviousMean(Tabulated(steps=9))}, ("parameterization.schedule", "schedule", "same")),
        ({"objective.weighting": "StepElbo"}, ("objective.weighting", "schedule", "Elbo")),
        ({"data.source": "moons", "network": "Mlp"}, ("network is Mlp", "schedule is CosineAngle", "FourierMlp")),
        ({"sampling.guidance": 2.0}, ("sampling.guidance", "condition.labels", "condition.labels: true")),
        (
            {"sampling.guidance": 2.0, "condition.labels": True, "condition.dropout": 0.0},
            ("sampling.guidance", "condition.dropout", "condition.dropout: 0.1"),
        ),
        ({"condition.dropout": 0.2}, ("condition.dropout", "condition.labels", "condition.labels: true")),
        ({"condition.classes": 10}, ("condition.classes", "condition.labels", "condition.labels: true")),
        (
            {"data.source": "moons", "network": "FourierMlp", "condition.image": "Blur"},
            ("condition.image", "(2,)", "condition.image: null"),
        ),
        (
            {"data.source": "digits", "data.pad": 16, "condition.image": "Grey"},
            ("condition.image", "one channel", "condition.image: null"),
        ),
        (
            {"data.size": 30, "network.widths": (8,), "condition.image": {"kind": "LowResolution", "factor": 4}},
            ("condition.image", "30", "2"),
        ),
        ({"data.source": "digits"}, ("8x8", "network.widths", "data")),
        ({"data.source": "moons"}, ("network", "(2,)", "FourierMlp")),
    ],
    ids=str,
)
def test_misfits_name_both_fields_and_a_valid_pair(overrides: dict[str, object], fields: tuple[str, ...]) -> None:
    error = refusal(overrides)
    first, second, valid = fields
    assert first in error.what
    assert second in error.what
    assert valid in error.what + error.expected + error.fix


def test_misfits_are_all_reported_each_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("times:\n  kind: GridTimes\n  steps: 3\nsampling:\n  guidance: 2\ntime_input: StepInput\n")
    error = refusal({}, path)
    assert error.what.startswith("2 problems: (1) ")
    for part in (
        "bad.yaml:1: times is GridTimes and time_input is StepInput",
        "bad.yaml:5: sampling.guidance",
    ):
        assert part in error.what


def test_digits_fit_with_two_levels_or_padding() -> None:
    assert load_experiment(Experiment(), {"data.source": "digits", "network.widths": [32, 64]})
    assert load_experiment(Experiment(), {"data.source": "digits", "data.pad": 16})


def test_sampling_with_keeps_what_is_not_named() -> None:
    run = SamplingConfig(sampler=Ddim(eta=0.3), steps=20)
    assert sampling_with(run, [("sampler", "ddim")]).sampler == Ddim(eta=0.3)
    assert sampling_with(run, [("sampler.eta", "1")]) == SamplingConfig(sampler=Ddim(eta=1.0), steps=20)
    assert sampling_with(run, {"sampler": "ancestral", "steps": 5}) == SamplingConfig(sampler=Ancestral(), steps=5)
    with pytest.raises(ConfigError, match="--sampler: there is no 'dimm'") as caught:
        sampling_with(run, [("sampler", "dimm")])
    assert caught.value.fix == "did you mean Ddim?"


def flag_refusal(source: str | Experiment, *flags: tuple[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_experiment(source, flags)
    return caught.value


def test_a_chain_of_another_length_is_mended_by_one_line() -> None:
    """The remedy of a flag is flags, complete enough to be pasted; that of a file or of Python is settings."""
    error = flag_refusal("swiss-roll", ("schedule.steps", "200"))
    assert error.what.startswith("--schedule.steps: times.steps is 100 and time_input.steps is 100 and ")
    assert error.fix == "--schedule.steps 200 --times.steps 200 --time_input.steps 200"
    words = error.fix.replace("--", "").split()
    assert load_experiment("swiss-roll", list(zip(words[::2], words[1::2], strict=True))).schedule.num_steps == 200
    error = refusal({"schedule": Tabulated(steps=90), "times": GridTimes(80)})
    assert error.fix == "set schedule.steps: 90, times.steps: 90"
    wrapped = {"schedule": Shifted(32, base=Tabulated(steps=9)), "times": GridTimes(8)}
    assert "schedule.base.steps: 9" in refusal(wrapped).fix
    error = flag_refusal("swiss-roll", ("schedule", "VpSde"))
    assert "--times UniformTimes --time_input NoiseVarianceInput, or --schedule Tabulated" in error.fix


@pytest.mark.parametrize(
    ("flag", "value", "fix"),
    [
        ("training.steps", "0", "--training.steps 10000"),
        ("training.clip_norm", "-1", "--training.clip_norm 1.0"),
        ("training.accumulate", "3", "--training.accumulate 2"),
        ("sampling.steps", "0", "--sampling.steps 50"),
        ("evaluation.count", "0", "--evaluation.count 512"),
        ("data.limit", "0", "--data.limit 1000"),
        ("seed", "-1", "--seed 0"),
        ("network.depth", "0", "--network.depth 2"),
        ("network.widths", "0,8", "--network.widths 64,64"),
        ("sampling.sampler.eta", "2", "--sampling.sampler.eta 0"),
    ],
)
def test_a_value_out_of_range_is_answered_with_one_that_works(flag: str, value: str, fix: str) -> None:
    assert flag_refusal(Experiment(), (flag, value)).fix == fix
    _, _, works = fix.partition(" ")
    load_experiment(Experiment(), [(flag, works)])
    key = fix.removeprefix("--").partition(" ")[0]
    assert f"{key}: " in refusal({flag: load_value(value)}).fix  # a setting, where it was no flag


def load_value(text: str) -> object:
    return [int(part) for part in text.split(",")] if "," in text else int(text)


def test_the_sampling_section_alone_says_its_own_flags() -> None:
    with pytest.raises(ConfigError) as caught:
        sampling_with(SamplingConfig(), [("steps", "0")])
    assert caught.value.fix == "--steps 50"


def test_every_setting_is_described() -> None:
    """One line for each field that `train --help` lists, and no class listed twice below another."""
    settings = list(describe(Experiment))
    assert [s.key for s in settings if s.kind is None and not s.about] == []
    kinds = [(s.key, s.kind) for s in settings if s.kind is not None]
    assert len(kinds) == len(set(kinds))
    abouts = {s.key: s.about for s in settings}
    assert abouts["data.count"] != abouts["data.noise"]
    assert any(s.key == "schedule.betas.rescale" for s in settings)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"distance": "Mae"}, DenoisingLoss(Mae())),
        ({}, DenoisingLoss()),
        ({"weighting": {"kind": "MinSnr", "gamma": 3.0}}, DenoisingLoss(weighting=MinSnr(3.0))),
        ({"kind": "denoising-loss", "distance": "Mae"}, DenoisingLoss(Mae())),
    ],
)
def test_an_objective_without_a_kind_is_a_denoising_loss(section: dict[str, object], expected: DenoisingLoss) -> None:
    """As settings were stored when there was no other."""
    written = yaml.safe_load(experiment_yaml(load_experiment("digits")))
    assert read(Experiment, {**written, "objective": section}).objective == expected
    assert load_experiment("digits", {"objective": section}).objective == expected


def test_other_sections_still_name_their_kind() -> None:
    with pytest.raises(ConfigError, match="schedule: has no kind"):
        read(Experiment, {"schedule": {"min_signal_rate": 0.01}})


@pytest.mark.parametrize("kind", sorted(kinds(Sampler)))
def test_every_default_of_a_sampler_reads_back(kind: str) -> None:
    """config.yaml holds all of them: one that cannot be read again would lose the run."""
    experiment = load_experiment("digits", {"sampling.sampler": kind})
    assert read(Experiment, parse_yaml(experiment_yaml(experiment), "again"), origin="again") == experiment
