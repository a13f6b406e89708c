"""Evaluation: an ideal model must measure as the truth does; what means nothing is refused."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sfumato
from sfumato.core import (
    Denoiser,
    DiscretizedGaussian,
    GridTimes,
    LogSnrInput,
    LogSnrLinear,
    Noise,
    OneLevel,
    RectifiedFlow,
    Small,
    Tabulated,
    Velocity,
)
from sfumato.data import DataConfig, Normalization
from sfumato.data.laws import law_of
from sfumato.errors import DataError, NumericsError, UsageError
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import Experiment, SamplingConfig
from sfumato.experiment.evaluation import METRICS, Evaluation, evaluate, samples
from sfumato.experiment.evaluation.conventions import convention_of, raw_values
from sfumato.experiment.evaluation.files import write_evaluation
from sfumato.experiment.evaluation.likelihoods import Chain, require_likelihood
from sfumato.experiment.evaluation.metrics import WHEN_NAMED
from sfumato.experiment.evaluation.subject import Timed, forecast, subject_of
from sfumato.experiment.model import Model
from sfumato.nn import FourierMlpConfig
from sfumato.objectives import DenoisingLoss, Huber, NoiseError, VariationalBound, attainable_loss
from sfumato.samplers import Ancestral
from sfumato.verify.oracles.worlds import MixtureOracle, noise_floor


class IdealNetwork(nn.Module):
    """eps of x_0 = (mean + std z - shift)/scale, eight means on the unit circle: -sigma times the exact score."""

    def __init__(self, shift: Tensor, scale: Tensor, data_std: float, error: float) -> None:
        super().__init__()
        angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
        self.means = (torch.stack([angle.cos(), angle.sin()], dim=1) - shift) / scale
        self.variances = (0.1 / scale) ** 2
        self.data_std, self.error = data_std, error
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        log_snr = -8 * time.to(x.dtype)[:, None]
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        x_t = x * (alpha**2 * self.data_std**2 + sigma**2).sqrt()
        variance = (alpha**2 * self.variances.to(x) + sigma**2)[:, None]
        apart = alpha[:, None] * self.means.to(x) - x_t[:, None]
        share = (-(apart**2) / (2 * variance)).sum(-1).softmax(1)
        return -sigma * (share[..., None] * apart / variance).sum(1) + self.error * x_t


def mixture_model(normalize: str = "standardize", error: float = 0.0, **changes: Any) -> Model:
    """The model of a mixture of 1,000 points that needs no training; `error` spoils its answers."""
    settings: dict[str, Any] = {
        "name": "ideal",
        "data": DataConfig(source="mixture", count=1000, held_out=0.5, normalize=normalize),
        "network": FourierMlpConfig(),
        "schedule": LogSnrLinear(),
        "parameterization": Noise(),
        "time_input": LogSnrInput(),
        "objective": DenoisingLoss(weighting=NoiseError()),
        "sampling": SamplingConfig(sampler=Ancestral(), steps=100, micro_batch=500, clip=False),
    }
    experiment = Experiment(**{**settings, **changes})
    record = prepare_data(experiment).record
    shift, scale = torch.tensor([record.normalization.mean, record.normalization.scale], dtype=torch.float64)
    denoiser = Denoiser(
        IdealNetwork(shift, scale, record.data_std, error),
        experiment.schedule,
        experiment.parameterization,
        time_input=experiment.time_input,
        data_std=record.data_std,
    )
    return Model(experiment, record, {"ema": denoiser.requires_grad_(False).eval()}, "0" * 64, 0)


@pytest.mark.parametrize("normalize", ["standardize", "range", "none"])
def test_the_flow_of_an_ideal_model_has_the_true_likelihood(normalize: str) -> None:
    """In the units of the data, however these were normalised.

    The prior misses what is left of the data at log-SNR -15 (3e-7), the clean end blurs by 5.5e-4 model units against
    a width of 0.1 (3e-5 nats), and tolerances of 1e-5 add up to some 1e-4.
    """
    found = evaluate(mixture_model(normalize), ["nll"], n=40).metrics
    assert found["nll[flow-true]"].value == pytest.approx(0, abs=3e-4)
    assert found["nll[flow-true]"].std_error < 3e-4
    assert found["nll[flow]"].value == pytest.approx(found["nll[true]"].value, abs=3e-4)
    law = law_of(DataConfig(source="mixture"))
    assert law is not None
    assert found["nll[true]"].value == pytest.approx(law.entropy() / 2, abs=4 * found["nll[true]"].std_error)


def test_the_bound_of_an_ideal_model_is_nearly_tight() -> None:
    """An infinite chain with the ideal denoiser loses nothing but its last step: nll[bound] is the truth in the mean.

    256 noise levels an example leave some scatter; 4 of the paired standard errors, which must be small.
    """
    found = evaluate(mixture_model(), ["nll"], n=300, tolerance=0.01).metrics["nll[bound-true]"]
    assert found.std_error < 0.06  # the noise that an example meets moves its bound by 0.8 nats/dim
    assert abs(found.value) < 4 * found.std_error + 1e-3


def test_a_spoilt_model_is_worse_by_both() -> None:
    good, bad = (evaluate(mixture_model(error=e), ["nll", "loss"], n=60, tolerance=1e-3).metrics for e in (0.0, 0.2))
    for name in ("nll[bound-true]", "nll[flow-true]"):
        assert bad[name].value > good[name].value + 4 * bad[name].std_error, name
    assert bad["loss[held-out]"].value > good["loss[held-out]"].value + 0.02


def test_the_loss_of_an_ideal_model_is_the_floor_of_the_law() -> None:
    """(alpha/sigma)² E[posterior variance]/D of the mixture, by the oracle, over times uniform in t."""
    model = mixture_model("none")
    angles = np.arange(8) * 2 * math.pi / 8
    oracle = MixtureOracle(np.ones(8), np.stack([np.cos(angles), np.sin(angles)], 1), np.full((8, 2), 0.01))
    r = model.denoiser.schedule.rates(torch.linspace(0, 1, 101, dtype=torch.float64)[1:] - 0.005)
    floor = noise_floor(oracle, r.alpha.numpy(), r.sigma.numpy(), count=400, rng=np.random.default_rng(0))
    found = evaluate(model, ["loss"]).metrics
    for part in ("held-out", "training"):
        error = math.hypot(found[f"loss[{part}]"].std_error, floor.std_error)
        assert abs(found[f"loss[{part}]"].value - floor.value) < 4 * error
        assert found[f"loss[{part}]"].std_error < 0.03 * floor.value
    law = found["loss[law]"]
    assert abs(law.value - floor.value) < 4 * math.hypot(law.std_error, floor.std_error)
    assert law.std_error < 0.01 * floor.value
    velocity = evaluate(mixture_model("none", parameterization=Velocity(), objective=DenoisingLoss()), ["loss"], n=2)
    weights = 1 / (r.alpha * r.alpha)  # |v_hat - v|² = |eps_hat - eps|²/alpha²: large where nothing is left of the data
    each = [
        noise_floor(oracle, a, s, count=200, rng=np.random.default_rng(k))
        for k, (a, s) in enumerate(zip(r.alpha, r.sigma, strict=True))
    ]
    expected = sum(float(w) * f.value for w, f in zip(weights, each, strict=True)) / 100
    assert velocity.metrics["loss[law]"].value == pytest.approx(expected, rel=0.03)
    assert velocity.metrics["loss[law]"].std_error < 0.02 * expected
    assert found["loss[attainable]"].value < floor.value  # by heart is better than the law on the training part


def test_samples_of_an_ideal_model_lie_at_the_floor() -> None:
    names = ["sliced_wasserstein", "energy_distance", "mmd", "mode_coverage"]
    found = evaluate(mixture_model(), names, n=500).metrics
    for name in names[:2]:
        assert found[name].value < 1.5 * found[f"{name}[floor]"].value + 2 * found[name].std_error
    assert abs(found["mmd"].value) < 4 * found["mmd"].std_error + 1e-3
    assert found["mode_coverage"].value > 0.9
    bad = evaluate(mixture_model(error=1.0), names, n=500).metrics
    for name in names[:2]:
        assert bad[name].value > 2 * bad[f"{name}[floor]"].value


def test_an_evaluation_is_a_function_of_its_seed() -> None:
    first, again, other = (
        evaluate(mixture_model(), ["nll", "loss", "mmd"], n=10, seed=s, tolerance=1e-2) for s in (3, 3, 4)
    )
    assert first.to_plain() == again.to_plain()
    assert first.metrics["nll[bound]"].value != other.metrics["nll[bound]"].value
    assert first.metrics["nll[true]"].value == other.metrics["nll[true]"].value


def test_every_number_says_where_it_comes_from() -> None:
    found = evaluate(mixture_model(), n=12, tolerance=1e-2)
    assert {name.split("[")[0] for name in found.metrics} == set(METRICS) - {"bits_per_dim", *WHEN_NAMED}
    json.dumps(found.to_plain())
    for name, estimate in found.metrics.items():
        assert estimate.std_error >= 0
        if "[floor]" not in name:
            assert {"weights", "part", "seed", "digest", "data"} <= set(estimate.provenance), name
    flow, bound = (found.metrics[f"nll[{name}]"].provenance for name in ("flow", "bound"))
    assert flow["divergence"] == "exact"
    assert "training examples" in str(bound["variance"])
    assert bound["chain"] == "infinitely many steps, 256 noise levels per example"
    assert any("two models" in note for note in found.notes)


def test_what_the_notes_must_say() -> None:
    huber = mixture_model(objective=DenoisingLoss(distance=Huber()))
    notes = evaluate(huber, ["nll", "loss"], n=10, tolerance=1e-2).notes
    assert any("valid but loose" in note and "no bound" in note for note in notes)
    assert any("no smallest loss" in note for note in notes)
    blurred = mixture_model(schedule=LogSnrLinear(log_snr_max=4.0))
    found = evaluate(blurred, ["nll"], n=10, tolerance=1e-2)
    assert any("keeps noise of 0.14" in note for note in found.notes)
    chosen = str(found.metrics["nll[bound]"].provenance["variance"])
    assert chosen.startswith("Optimal")  # half of Large here, as the data are as narrow as the noise


def test_pictures_in_bits(digits_run: Path) -> None:
    """bits/dim is nats/dim over log 2, the same by `evaluate` and by the model itself."""
    model = sfumato.load(digits_run)
    found = sfumato.evaluate(model, n=4).metrics
    for name in ("bound", "flow"):
        bits, nats = found[f"bits_per_dim[{name}]"], found[f"nll[{name}]"]
        assert bits.value == pytest.approx(nats.value / math.log(2), rel=1e-12)
        assert bits.provenance["unit"] == "bits/dim"
        assert 3 < bits.value < 15  # six steps of training: near what noise takes
    assert "discretised Gaussian" in str(found["bits_per_dim[bound]"].provenance["convention"])
    assert "uniform dequantisation" in str(found["bits_per_dim[flow]"].provenance["convention"])
    assert float(str(found["bits_per_dim[flow]"].provenance["probe_std_error"])) > 0
    data = prepare_data(model.experiment)
    raw = data.packed.values[data.parts.held_out[:4]].numpy()
    each = model.bits_per_dim(raw, method="bound")
    assert each.shape == (4,)
    assert np.allclose(model.log_prob(raw, method="bound"), -each * 64 * math.log(2))
    assert np.allclose(model.bits_per_dim(raw / 127.5 - 1, method="bound"), each)


def test_the_model_gives_densities_of_points() -> None:
    model = mixture_model()
    law = law_of(model.experiment.data)
    assert law is not None
    x = law.draw(20, 7).float()
    assert model.log_prob(x.numpy()) == pytest.approx(law.log_density(x).numpy(), abs=5e-3)
    assert float(model.log_prob(x.numpy(), method="bound").mean()) == pytest.approx(
        float(law.log_density(x).mean()), abs=1.5
    )


def test_a_bound_whose_variance_is_stated_needs_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may be measured where its training data are not; the pilot that chooses a variance needs them."""
    chain: dict[str, Any] = {"schedule": Tabulated(steps=10), "times": GridTimes(steps=10)}
    chain["sampling"] = SamplingConfig(sampler=Ancestral(), steps=10, micro_batch=500, clip=False)
    stated = mixture_model(objective=VariationalBound(variance=Small()), **chain)
    chosen = mixture_model(**chain)
    x = np.ones((2, 2), np.float32)
    before = stated.log_prob(x, method="bound")

    def gone(experiment: Experiment) -> None:
        raise DataError("the data are gone", expected="data", fix="put them back")

    monkeypatch.setattr("sfumato.experiment.evaluation.densities.prepare_data", gone)
    assert np.array_equal(stated.log_prob(x, method="bound"), before)
    with pytest.raises(DataError, match="gone"):
        chosen.log_prob(x, method="bound")


def test_what_is_added_to_a_density_of_pictures() -> None:
    """-log p of dequantised data in model units becomes nats of levels: D log(127.5) for [-1, 1], log(std) else."""
    scaled = convention_of(Normalization("range", (127.5,), (127.5,), (8, 8), None), 0.0)
    assert scaled.from_density(64) == pytest.approx(64 * math.log(127.5))
    assert isinstance(scaled.decoder, DiscretizedGaussian)
    assert (scaled.on_levels, scaled.decoder.low, scaled.decoder.high) == (True, -1.0, 1.0)
    colours = convention_of(Normalization("standardize", (100.0, 90.0, 80.0), (50.0, 60.0, 70.0), (8, 8), None), 0.0)
    assert colours.from_density(192) == pytest.approx(64 * (math.log(50) + math.log(60) + math.log(70)))
    assert not colours.on_levels
    points = convention_of(Normalization("standardize", (0.0, 0.0), (2.0, 3.0)), math.log(6))
    assert points.from_density(2) == pytest.approx(math.log(6))
    assert points.levels is None


def padded() -> None:
    convention_of(Normalization("range", (127.5,), (127.5,), (8, 8), (10, 10)), 0.0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: evaluate(mixture_model(), ["bits_per_dim"]), DataError, "continuous"),
        (lambda: evaluate(mixture_model(), ["slicd_wasserstein"]), UsageError, "slicd"),
        (lambda: evaluate(mixture_model(), ["nll"], n=1), UsageError, "1 examples"),
        (lambda: evaluate(mixture_model(), ["mmd"], n=3), UsageError, "3 examples"),
        (lambda: evaluate(mixture_model(), ["nll"], weights="live"), UsageError, "live"),
        (lambda: evaluate(mixture_model(), ["nll"], n=5, max_steps=2), NumericsError, "did not converge"),
        (lambda: mixture_model().bits_per_dim(np.zeros((3, 2))), DataError, "continuous"),
        (lambda: mixture_model().log_prob(np.zeros((3, 5))), DataError, "shape"),
        (lambda: mixture_model().log_prob(np.zeros((3, 2)), method="guess"), UsageError, "guess"),
        (lambda: mixture_model().log_prob(np.full((3, 2), np.nan)), DataError, "finite"),
        (lambda: mixture_model().log_prob(np.zeros((0, 2), np.float32)), DataError, "no example"),
        (padded, DataError, "padded"),
    ],
)
def test_refusals(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_pictures_that_are_not_8_bit_are_refused(digits_run: Path) -> None:
    """Outside [-1, 1], off the 256 levels, of another shape or type; data that were rounded to 8 bits on the way in."""
    model = sfumato.load(digits_run)
    for bad in (np.full((2, 8, 8, 1), 1.5), np.full((2, 8, 8, 1), 0.3), np.zeros((2, 8, 8), np.uint8)):
        with pytest.raises(DataError):
            model.bits_per_dim(bad)
    assert raw_values(model.record, np.full((2, 8, 8, 1), -1.0)).max() == 0
    rounded = replace(model.record, report=("float32 pixels from 0 to 1 were rounded to 8 bits",))
    with pytest.raises(DataError, match="not 8-bit"):
        evaluate(replace(model, record=rounded), ["bits_per_dim"])
    notes = evaluate(replace(model, record=rounded), n=4).notes
    assert any("bits_per_dim was left out" in note for note in notes)


def test_other_data_are_refused(digits_run: Path) -> None:
    model = sfumato.load(digits_run)
    with pytest.raises(DataError, match="not those"):
        evaluate(replace(model, record=replace(model.record, fingerprint="f" * 64)), ["loss"])


def test_a_single_noise_level_has_no_likelihood() -> None:
    denoiser = Denoiser(
        nn.Linear(2, 2),
        OneLevel(),
        Noise(),
        time_input=LogSnrInput(),
        data_std=1.0,
        allow_terminal_signal=True,
    )
    with pytest.raises(DataError, match="one noise level"):
        require_likelihood(denoiser)


def test_a_chain_of_one_step_has_a_bound_and_no_flow(tmp_path: Path) -> None:
    steps = {"schedule": "Tabulated", "schedule.steps": 1, "schedule.betas": "Constant", "schedule.betas.value": 0.995}
    rest = {"times": "GridTimes", "times.steps": 1, "time_input": "StepInput", "time_input.steps": 1}
    short = {"training.steps": 3, "training.preview_every": 0, "data.count": 60, "sampling.steps": 1}
    run = sfumato.train("swiss-roll", {**steps, **rest, **short}, runs=tmp_path)
    found = evaluate(run, "nll")
    assert "nll[bound]" in found.metrics
    assert "nll[flow]" not in found.metrics
    assert any("no probability flow" in note for note in found.notes)
    assert len(sfumato.load(run).sample(4)) == 4
    with pytest.raises(DataError, match="no probability flow"):
        sfumato.load(run).log_prob(np.zeros((2, 2), np.float32))


def test_a_chain_says_what_it_visits() -> None:
    from sfumato.core import Small, Tabulated

    def chain(schedule: Any, draws: int = 64) -> Chain:
        d = Denoiser(nn.Linear(2, 2), schedule, Noise(), time_input=LogSnrInput(), data_std=1.0)
        return Chain(d, Small(), draws)

    short, long, endless = chain(Tabulated(steps=100)), chain(Tabulated(steps=1000)), chain(RectifiedFlow())
    assert (short.calls, short.describe()) == (100, "100 steps, all visited per example")
    assert (long.calls, long.describe()) == (65, "1000 steps, 64 visited per example")
    assert (endless.calls, endless.describe()) == (65, "infinitely many steps, 64 noise levels per example")


def test_a_forecast_counts_batches_and_examples() -> None:
    """8 examples in 1.16 s and 64 in 2.28 s: 1 s a batch and 20 ms an example."""
    spent = [Timed(8, 1.16), Timed(64, 2.28)]
    assert forecast(spent, 1000, 100) == pytest.approx(10 * 1 + 1000 * 0.02)
    assert forecast(spent[:1], 80, 8) == pytest.approx(11.6)
    assert forecast(spent, 0, 100) == 0


def test_what_is_slow_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """With patience 0 everything is slow: 300 examples less the 72 of the pilots, 257 calls each; 15 of 16 rounds."""
    for module in ("subject", "losses"):
        monkeypatch.setattr(f"sfumato.experiment.evaluation.{module}.SLOW", 0.0)
    said: list[str] = []
    evaluate(mixture_model(), "nll,loss", n=300, tolerance=1e-2, report=said.append)
    assert [text.split(":")[0] for text in said] == [
        "variational bound",
        "probability-flow likelihood",
        "loss of the held-out part",
        "loss of the training part",
    ]
    assert f"{228 * 257:,} network calls to go, about" in said[0]
    assert f"{300 * 15:,} network calls" in said[2]


def test_files_are_whole_and_never_replaced(tmp_path: Path) -> None:
    found = Evaluation({}, ("a note",), "run")
    first = write_evaluation(tmp_path, "ema", found.to_plain())
    assert write_evaluation(tmp_path, "ema", found.to_plain()) == first
    second = write_evaluation(tmp_path, "ema", replace(found, notes=("another",)).to_plain())
    assert sorted(tmp_path.glob("evaluations/*")) == sorted([first, second])
    assert json.loads(first.read_text())["notes"] == ["a note"]


def test_flipped_pictures_count_as_training_points(digits: dict[str, Any], tmp_path: Path) -> None:
    """A run that flips its pictures trains on twice as many: the smallest loss is that of both, a higher one."""
    run = sfumato.train("digits", {**digits, "data.flip": True, "objective.weighting": "NoiseError"}, runs=tmp_path)
    found = evaluate(run, "loss").metrics["loss[attainable]"]
    model = sfumato.load(run)
    data = prepare_data(model.experiment)
    points = data.record.normalization.to_model(data.packed.values[data.parts.train])
    objective = model.experiment.objective
    assert isinstance(objective, DenoisingLoss)
    settings: dict[str, Any] = {
        "schedule": model.denoiser.schedule,
        "parameterization": model.denoiser.parameterization,
        "times": model.experiment.times,
        "data_std": model.denoiser.data_std,
        "seed": 0,
        "draws": 50,
    }
    both = attainable_loss(torch.cat([points, points.flip(-1)]), objective, **settings)
    alone = attainable_loss(points, objective, **settings)
    assert found.value == pytest.approx(both.value, rel=1e-9)
    assert found.value != pytest.approx(alone.value, rel=1e-6)


class Runaway(nn.Module):
    """eps = 40 x where there is more noise than signal, nothing before: there its flow outruns the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        return 40 * x * (time > 0)[:, None, None, None] + 0 * self.nothing


def runaway(run: Path, *, clip: bool) -> Model:
    """A model of the run's pictures whose eps has nothing to do with them."""
    model = sfumato.load(run)
    experiment = replace(
        model.experiment,
        schedule=LogSnrLinear(-8, 8),
        parameterization=Noise(),
        sampling=replace(model.experiment.sampling, clip=clip),
    )
    denoiser = Denoiser(
        Runaway(), experiment.schedule, Noise(), time_input=LogSnrInput(), data_std=model.record.data_std
    ).eval()
    return replace(model, experiment=experiment, weights={"ema": denoiser})


def test_a_flow_that_runs_away_has_no_number(digits_run: Path) -> None:
    """Asked for, it is an error; among all metrics it is left out, with the reason."""
    with pytest.raises(NumericsError):
        evaluate(runaway(digits_run, clip=False), "bits_per_dim", n=3)
    every = evaluate(runaway(digits_run, clip=False), n=3)
    assert "bits_per_dim[flow]" not in every.metrics
    assert {"bits_per_dim[bound]", "loss[held-out]"} <= set(every.metrics)
    assert any(note.startswith("left out: ") for note in every.notes)


def test_a_flow_of_pictures_is_clipped_as_samples_are(digits_run: Path) -> None:
    """With x0 kept in range even that network has a flow: x0 is one of the bounds, and the end near the prior."""
    found = evaluate(runaway(digits_run, clip=True), "bits_per_dim", n=3)
    assert found.metrics["bits_per_dim[flow]"].value < 100
    assert any("sampling.clip" in note for note in found.notes)


def test_the_reference_of_sorted_points_is_of_all_kinds(
    points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clusters, one after the other in the file: what 40 samples are compared with, and floors, are of both."""
    values = np.repeat(np.array([[-5.0, 0.0], [5.0, 0.0]]), 200, axis=0)
    np.save(tmp_path / "sorted.npy", (values + np.random.default_rng(0).standard_normal((400, 2))).astype(np.float32))
    own = {"data.source": "folder", "data.path": str(tmp_path / "sorted.npy"), "data.held_out": 0.5}
    run = sfumato.train("swiss-roll", {**points, **own, "training.steps": 1}, runs=tmp_path).folder
    monkeypatch.setattr(samples, "samples_of", lambda subject, count: torch.zeros(count, 2, dtype=torch.float64))
    for part in ("held-out", "training"):
        subject = subject_of(sfumato.load(run), weights="ema", part=part, n=None, seed=0, report=print)  # type: ignore[arg-type]
        found = samples.compared_of(subject, 40)
        assert found.reference == f"the {part} part"
        assert len(found.pairs) >= 2
        for piece in (found.real, *(piece for pair in found.pairs for piece in pair)):
            assert 12 <= int((piece[:, 0] > 0).sum()) <= 28  # of 40; all or none, were they taken as they come
