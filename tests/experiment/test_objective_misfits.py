"""What an objective needs of the rest: each refusal names both fields, and what it says to set is accepted."""

import re
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.core import Learned, LearnedRange, LossAwareTimes
from sfumato.errors import ConfigError
from sfumato.experiment.build import build_denoiser, resolved
from sfumato.experiment.config import load_experiment
from sfumato.experiment.objective_misfits import variance_misfits
from sfumato.objectives import Hybrid, SohlDicksteinBound, VariationalBound
from sfumato.samplers import Ancestral, PredictorCorrector

CHAIN: dict[str, Any] = {
    "schedule": "Tabulated",
    "schedule.steps": 40,
    "schedule.betas": "Cosine",
    "times": "GridTimes",
    "times.steps": 40,
    "sampling.steps": 40,
}
LEARNED: dict[str, Any] = {"schedule": "LearnedLogSnr", "objective.weighting": "Elbo"}
POINTS: dict[str, Any] = {
    "data.source": "swiss-roll",
    "data.normalize": "standardize",
    "network": {"kind": "FourierMlp"},
}


MISFITS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "a bound without steps": (
        {"objective": "VariationalBound"},
        "objective is VariationalBound and schedule is CosineAngle, which has no steps",
        {"objective": "DenoisingLoss", "objective.weighting": "Elbo"},
    ),
    "a bound off the grid": (
        {k: v for k, v in CHAIN.items() if "times" not in k} | {"objective": "Hybrid"},
        "objective is Hybrid and times is UniformTimes, which leaves the grid",
        {"times": {"kind": "GridTimes", "steps": 40}},
    ),
    "a variance of another chain": (
        {**CHAIN, "objective": {"kind": "VariationalBound", "variance": {"kind": "Learned", "steps": 50}}},
        "objective.variance.steps is 50 and schedule has 40 steps",
        {"objective.variance.steps": 40},
    ),
    "levels of points": (
        {**CHAIN, **POINTS, "objective": {"kind": "VariationalBound", "decoder": "DiscretizedGaussian"}},
        "objective.decoder is DiscretizedGaussian and data.source is swiss-roll, whose points have no levels",
        {"objective.decoder": "GaussianDecoder"},
    ),
    "levels moved": (
        {**CHAIN, "data.normalize": "standardize", "objective": {"kind": "Hybrid", "decoder": "DiscretizedGaussian"}},
        "objective.decoder is DiscretizedGaussian and data.normalize is standardize",
        {"data.normalize": "range"},
    ),
    "a variance that nobody trains": (
        {"sampling.sampler": {"kind": "Ancestral", "variance": "LearnedRange"}},
        "sampling.sampler.variance is LearnedRange and objective is DenoisingLoss, which trains none",
        {"sampling.sampler.variance": "Small"},
    ),
    "a bound that trains none": (
        {
            **CHAIN,
            "objective": {"kind": "VariationalBound", "variance": "Small"},
            "sampling.sampler": {"kind": "Ancestral", "variance": "LearnedRange"},
        },
        "sampling.sampler.variance is LearnedRange and objective is VariationalBound, which trains none",
        {"sampling.sampler.variance": "Small"},
    ),
    "another variance": (
        {
            **CHAIN,
            "objective": "Hybrid",
            "sampling.sampler": {"kind": "Ancestral", "variance": {"kind": "Learned", "steps": 40}},
        },
        "sampling.sampler.variance is Learned(steps=40) and objective.variance is LearnedRange()",
        {"sampling.sampler": {"kind": "Ancestral", "variance": "LearnedRange"}},
    ),
    "steps that a variance does not know": (
        {
            **CHAIN,
            "sampling.steps": 20,
            "objective": {"kind": "VariationalBound", "variance": {"kind": "Learned", "steps": 40}},
            "sampling.sampler": {"kind": "Ancestral", "variance": {"kind": "Learned", "steps": 40}},
        },
        "sampling.sampler.variance is Learned, of single steps of a chain of 40, and sampling.steps is 20",
        {"sampling.steps": 40},
    ),
    "a Jacobian of pictures": (
        {"data.source": "sprites", "objective": "ExactScoreMatching", "network": {"kind": "FourierMlp"}},
        "objective is ExactScoreMatching and data has 3,072 values in an example",
        {"objective": "DenoisingScoreMatching"},
    ),
    "derivatives through batch norm": (
        {"objective": "SlicedScoreMatching", "data.source": "digits"},
        "objective is SlicedScoreMatching and network is ResidualUNet, whose batch normalization joins the examples",
        {"objective": "DenoisingScoreMatching"},
    ),
    "second derivatives, compiled": (
        {**POINTS, "objective": "ExactScoreMatching", "training.compile": "on"},
        "objective is ExactScoreMatching and training.compile is on",
        {"training.compile": "off"},
    ),
    "a schedule that avoids the losses": (
        {"schedule": "LearnedLogSnr"},
        "objective.weighting is OutputError and schedule is LearnedLogSnr",
        {"objective.weighting": "Elbo"},
    ),
    "a schedule without a denoising loss": (
        {"schedule": "LearnedLogSnr", "objective": "DenoisingScoreMatching"},
        "objective is DenoisingScoreMatching and schedule is LearnedLogSnr",
        {"objective": "DenoisingLoss", "objective.weighting": "Elbo"},
    ),
    "a schedule under another distance": (
        {**LEARNED, "objective.distance": "Huber"},
        "objective.distance is Huber and schedule is LearnedLogSnr",
        {"objective.distance": "Mse"},
    ),
    "a continuous bound of a table": (
        {**CHAIN, "objective": "ContinuousBound"},
        "objective is ContinuousBound and schedule is Tabulated, a chain of steps",
        {"objective": "VariationalBound"},
    ),
    "levels of points in continuous time": (
        {**POINTS, "objective": {"kind": "ContinuousBound", "decoder": "DiscretizedGaussian"}},
        "objective.decoder is DiscretizedGaussian and data.source is swiss-roll, whose points have no levels",
        {"objective.decoder": "GaussianDecoder"},
    ),
    "ends without what they cost": (
        {"schedule": "LearnedLogSnr", "schedule.learn_ends": True},
        "schedule.learn_ends is true and objective is DenoisingLoss, which does not know what the ends cost",
        {"objective": "ContinuousBound"},
    ),
    "ends under another bound": (
        {"schedule": "LearnedLogSnr", "schedule.learn_ends": True, "objective": "DenoisingScoreMatching"},
        "schedule.learn_ends is true and objective is DenoisingScoreMatching",
        {"schedule.learn_ends": False, "objective": "ContinuousBound"},
    ),
    "ends at other times": (
        {"schedule": "LearnedLogSnr", "objective": "ContinuousBound", "times": "LogNormalTimes"},
        "times is LogNormalTimes and schedule is LearnedLogSnr, which is a density of times itself",
        {"times": "UniformTimes"},
    ),
    "two densities": (
        {**LEARNED, "times": "LossAwareTimes"},
        "times is LossAwareTimes and schedule is LearnedLogSnr, which is a density of times itself",
        {"times": "UniformTimes"},
    ),
    "a trained schedule within another": (
        {"schedule": {"kind": "Shifted", "resolution": 32, "base": "LearnedLogSnr"}},
        "schedule is Shifted and its base is LearnedLogSnr, which it would not train",
        {"schedule": "LearnedLogSnr", "objective.weighting": "Elbo"},
    ),
}


@pytest.mark.parametrize(("settings", "what", "remedy"), MISFITS.values(), ids=MISFITS)
def test_a_misfit_names_both_fields_and_a_pair_that_fits(
    settings: dict[str, Any], what: str, remedy: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment("digits", settings)
    assert what in caught.value.what
    said = re.sub(r"[,:]", " ", caught.value.fix)
    assert all(key.split(".")[-1] in said.replace(".", " ") for key in remedy), caught.value.fix
    load_experiment("digits", {**{k: v for k, v in settings.items() if k not in remedy}, **remedy})


@pytest.mark.parametrize(
    "objective", [VariationalBound(), Hybrid(), SohlDicksteinBound()], ids=lambda o: type(o).__name__
)
@pytest.mark.parametrize("times", [{"kind": "GridTimes", "steps": 40}, LossAwareTimes()], ids=["grid", "loss-aware"])
def test_bounds_train_on_the_steps_of_a_chain(objective: Any, times: Any) -> None:
    settings = {key: value for key, value in CHAIN.items() if not key.startswith("times")}
    made = load_experiment("digits", {**settings, "times": times, "objective": objective})
    denoiser = build_denoiser(made, shape=(1, 8, 8), data_std=0.5)
    assert denoiser.learn_variance
    assert made.objective.learns_variance


def test_a_trained_variance_is_sampled_with() -> None:
    for variance in (LearnedRange(), Learned(40)):
        sampler = {"kind": "Ancestral", "variance": variance}
        load_experiment("digits", {**CHAIN, "objective": VariationalBound(variance), "sampling.sampler": sampler})


def test_auto_never_compiles_what_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """`training.compile: auto` on a GPU, for a long run: on, but for losses with second derivatives."""
    import torch

    monkeypatch.setattr("sfumato.training.engine.choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr("sfumato.training.engine.multiplies_bfloat16", lambda device: False)
    for objective, compiled in (("ExactScoreMatching", "off"), ("DenoisingScoreMatching", "on")):
        made = load_experiment("digits", {**POINTS, "objective": objective, "training.steps": 6000})
        assert resolved(made, shape=(2,), is_image=False).training.compile == compiled


def test_a_model_is_not_sampled_with_a_variance_that_it_was_not_taught(points: dict[str, Any], tmp_path: Path) -> None:
    """What a network says of one variance means something else of another: nothing in its numbers would tell."""
    folder = sfumato.train(
        "swiss-roll", {**points, "objective": VariationalBound(LearnedRange())}, runs=tmp_path
    ).folder
    model = sfumato.load(folder)
    fitting = model.settings(sampler=Ancestral(LearnedRange()))
    assert list(variance_misfits(model.experiment.objective, fitting)) == []
    with pytest.raises(ConfigError, match=r"variance is Learned\(steps=10\) and objective.variance is LearnedRange"):
        model.sample(2, steps=10, sampler=Ancestral(Learned(10)))
    corrected = PredictorCorrector(Ancestral(LearnedRange()))
    assert list(variance_misfits(model.experiment.objective, model.settings(sampler=corrected))) == []
    with pytest.raises(ConfigError, match=r"predictor\.variance is Learned\(steps=10\) and objective.variance is Le"):
        model.sample(2, steps=10, sampler=PredictorCorrector(Ancestral(Learned(10))))
    simple = sfumato.load(sfumato.train("swiss-roll", points, runs=tmp_path).folder)
    with pytest.raises(ConfigError, match="objective is DenoisingLoss, which trains none"):
        simple.sample(2, sampler=Ancestral(LearnedRange()))
