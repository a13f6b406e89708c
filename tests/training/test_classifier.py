"""A classifier of noisy data approaches the exact posterior of a mixture, and its gradient that of the posterior."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.core import (
    CosineAngle,
    GridTimes,
    LinearBetas,
    LogSnrInput,
    LogSnrLinear,
    NoiseVarianceInput,
    Schedule,
    StepInput,
    Tabulated,
    TimeInput,
    Times,
    UniformTimes,
)
from sfumato.data import Batches, DataConfig, load_data, measure, split
from sfumato.errors import ConfigError, NumericsError
from sfumato.nn.classifier import NoisyClassifierConfig
from sfumato.training.classifier import ClassifierSettings, NoisyClassifier, scores_by_level, step_loss, train_on
from sfumato.verify.oracles import MixtureOracle

STD = 0.2
ANGLES = np.arange(8) * (2 * np.pi / 8)
ORACLE = MixtureOracle(np.ones(8), np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1), np.full((8, 2), STD**2))
WAYS: list[tuple[Schedule, TimeInput, Times]] = [
    (LogSnrLinear(), LogSnrInput(), UniformTimes()),
    (CosineAngle(), NoiseVarianceInput(), UniformTimes()),
    (Tabulated(LinearBetas(), 100), StepInput(100), GridTimes(100)),
]


class Ideal(nn.Module):
    """Logits of the exact posterior, from what a network is shown: c_in x_t and the time input."""

    def __init__(self, schedule: Schedule, time_input: TimeInput, data_std: float) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros((), dtype=torch.float64))
        times = torch.linspace(schedule.t_min, 1, 100 if schedule.num_steps else 4001, dtype=torch.float64)
        self.rates = schedule.rates(times)
        self.inputs, self.scales = time_input.value(self.rates), time_input.input_scale(self.rates, data_std)

    def forward(self, shown: Tensor, time: Tensor) -> Tensor:
        at = (time[:, None] - self.inputs).abs().argmin(1)
        x_t = shown / self.scales[at][:, None]
        alpha, sigma = self.rates.alpha[at][:, None], self.rates.sigma[at][:, None]
        means = torch.from_numpy(np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1))
        variance = (alpha * STD) ** 2 + sigma**2
        apart = x_t[:, None] - alpha[:, None] * means
        return -(apart**2).sum(2) / (2 * variance) + self.nothing


def batches(size: int, *, count: int = 20_000, device: str = "cpu") -> Batches:
    config = DataConfig(source="mixture", count=count, noise=STD, normalize="none", held_out=0.0)
    packed = load_data(config, seed=0)
    parts = split(packed, 0.0, 0)
    return Batches(
        packed, parts.train, measure(packed, parts, config), seed=5, batch_size=size, flip=False, device=device
    )


def ideal(way: int) -> NoisyClassifier:
    schedule, time_input, _ = WAYS[way]
    return NoisyClassifier(Ideal(schedule, time_input, 0.7), schedule, time_input, 0.7)


def noisy(schedule: Schedule, t: Tensor, count: int) -> tuple[Tensor, np.ndarray, float, float]:
    """x_t of the mixture at a time, the labels of a draw from the posterior, and the rates."""
    rng, r = np.random.default_rng(3), schedule.rates(t)
    alpha, sigma = float(r.alpha), float(r.sigma)
    x = alpha * ORACLE.sample(count, rng) + sigma * rng.standard_normal((count, 2))
    labels = (ORACLE.responsibilities(x, alpha, sigma).cumsum(1) < rng.random((count, 1))).sum(1).clip(max=7)
    return torch.from_numpy(x), labels, alpha, sigma


def exact_gradient(x: Tensor, labels: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """∇ log p(k | x_t) = score of the class - score of all."""
    own = np.stack([ORACLE.given(k).score(x.numpy(), alpha, sigma) for k in range(8)], axis=1)
    return own[np.arange(len(labels)), labels] - ORACLE.score(x.numpy(), alpha, sigma)


@pytest.mark.parametrize("way", range(3))
def test_an_ideal_network_gives_the_exact_posterior(way: int) -> None:
    """The scale of x_t, the time input, the label of each example and the gradient, all to float64."""
    schedule = WAYS[way][0]
    classifier = ideal(way)
    for step in (20, 55, 90):
        t = (
            torch.tensor(step / 100, dtype=torch.float64)
            if schedule.num_steps
            else classifier.network.rates.t[40 * step]
        )
        x, labels, alpha, sigma = noisy(schedule, t, 50)
        x.requires_grad_()
        found = classifier(x, t, torch.from_numpy(labels))
        expected = np.log(ORACLE.responsibilities(x.detach().numpy(), alpha, sigma))[np.arange(50), labels]
        torch.testing.assert_close(found.detach().numpy(), expected, rtol=1e-8, atol=1e-9)
        (gradient,) = torch.autograd.grad(found.sum(), x)
        torch.testing.assert_close(
            gradient.numpy(), exact_gradient(x.detach(), labels, alpha, sigma), rtol=1e-7, atol=1e-7
        )
        each = classifier(x.detach(), t.expand(50), torch.from_numpy(labels))
        torch.testing.assert_close(each, found.detach())


@pytest.mark.parametrize("way", range(3))
def test_the_loss_of_an_ideal_network_is_the_entropy_of_the_class(way: int) -> None:
    """E -log p(k | x_t, t) over batches is E H(k | x_t) over x_t and the times of training: within 4 errors of both."""
    schedule, _, times = WAYS[way]
    classifier, settings = ideal(way), ClassifierSettings(batch_size=2000)
    data = batches(2000)
    losses = torch.stack([step_loss(classifier, data, times, settings, 7, step).detach() for step in range(10)])
    drawn = times.draw(schedule, 4000, torch.Generator().manual_seed(1)).t
    rng, r = np.random.default_rng(4), schedule.rates(drawn)
    alpha, sigma = r.alpha.numpy(), r.sigma.numpy()
    x = alpha[:, None] * ORACLE.sample(4000, rng) + sigma[:, None] * rng.standard_normal((4000, 2))
    p = ORACLE.responsibilities(x, alpha, sigma)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(1)
    error = math.hypot(float(losses.std()) / math.sqrt(10), entropy.std() / math.sqrt(4000))
    assert float(losses.mean()) == pytest.approx(entropy.mean(), abs=4 * error)


def test_scores_of_an_ideal_network_are_bayes() -> None:
    """Right as often as the largest posterior says, and -log p its entropy; log-SNRs at the middles of equal times."""
    classifier = ideal(0)
    batch = batches(2000).batch(0)
    assert batch.labels is not None
    found = list(scores_by_level(classifier, batch.x0.double(), batch.labels, levels=4, seed=2))
    expected = [15.0 - 30.0 * (level + 0.5) / 4 for level in range(4)]
    assert [score.log_snr for score in found] == pytest.approx(expected, abs=1e-3)  # t_min
    for score in found:
        x, _, alpha, sigma = noisy(classifier.schedule, classifier.schedule.time(torch.tensor(score.log_snr)), 4000)
        p = ORACLE.responsibilities(x.numpy(), alpha, sigma)
        bayes, entropy = p.max(1).mean(), -(p * np.log(np.maximum(p, 1e-300))).sum(1).mean()
        assert score.accuracy.value == pytest.approx(bayes, abs=5 * score.accuracy.std_error)
        assert score.cross_entropy.value == pytest.approx(entropy, abs=5 * score.cross_entropy.std_error + 1e-3)


def trained(steps: int, batch_size: int) -> NoisyClassifier:
    schedule, time_input, times = WAYS[0]
    torch.manual_seed(0)
    network = NoisyClassifierConfig().build((2,), num_classes=8, time_span=time_input.span)
    classifier = NoisyClassifier(network, schedule, time_input, 0.73)
    train_on(
        classifier,
        batches(batch_size),
        times=times,
        settings=ClassifierSettings(steps=steps, batch_size=batch_size, learning_rate=3e-3),
        seed=1,
        bfloat16=False,
        progress=lambda done, loss: None,
    )
    return classifier


def gradient_error(classifier: NoisyClassifier, log_snr: float) -> float:
    """Root mean square error of the gradient beside that of the exact gradient itself, over x_t and its labels."""
    t = classifier.schedule.time(torch.tensor(log_snr, dtype=torch.float64))
    x, labels, alpha, sigma = noisy(classifier.schedule, t, 1000)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(x, t, torch.from_numpy(labels)).sum(), x)
    exact = exact_gradient(x.detach(), labels, alpha, sigma)
    return float(np.sqrt(((gradient.numpy() - exact) ** 2).sum() / (exact**2).sum()))


def test_the_gradient_approaches_that_of_the_posterior() -> None:
    """400 short steps come within 40 %, where no gradient is 100 % off; longer training does better (a proof)."""
    classifier = trained(400, 256)
    for log_snr in (2.0, 0.0, -2.0):
        assert gradient_error(classifier, log_snr) < 0.4


@pytest.mark.proof
def test_the_gradient_comes_close_to_that_of_the_posterior() -> None:
    """3,000 steps: within 15 % where classes are told apart, and closer than after 600 at every level."""
    short, long = trained(600, 512), trained(3000, 512)
    for log_snr in (4.0, 2.0, 0.0, -2.0):
        error = gradient_error(long, log_snr)
        assert error < 0.15
        assert error < gradient_error(short, log_snr)


def test_a_step_is_a_function_of_seed_and_step() -> None:
    times = WAYS[0][2]
    classifier = ideal(0)
    settings, data = ClassifierSettings(batch_size=64), batches(64, count=500)
    one = step_loss(classifier, data, times, settings, 1, 3)
    step_loss(classifier, data, times, settings, 1, 4)
    torch.manual_seed(9)
    assert torch.equal(step_loss(classifier, data, times, settings, 1, 3), one)
    assert not torch.equal(step_loss(classifier, data, times, settings, 1, 4), one)
    assert not torch.equal(step_loss(classifier, data, times, settings, 2, 3), one)


def short(settings: ClassifierSettings, seen: list[int], network: nn.Module | None = None) -> None:
    schedule, time_input, times = WAYS[0]
    body = NoisyClassifierConfig(width=8).build((2,), num_classes=8, time_span=5.0) if network is None else network
    train_on(
        NoisyClassifier(body, schedule, time_input, 0.7),
        batches(16, count=100),
        times=times,
        settings=settings,
        seed=0,
        bfloat16=False,
        progress=lambda done, loss: seen.append(done),
    )


def test_it_reports_now_and_then_and_at_the_end() -> None:
    seen: list[int] = []
    short(ClassifierSettings(steps=50, batch_size=16), seen)
    assert seen == [20, 40, 50]


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    body = NoisyClassifierConfig(width=8).build((2,), num_classes=8, time_span=5.0)
    nn.init.constant_(body.body.out.bias, math.nan)
    with pytest.raises(NumericsError, match="nan after step 20"):
        short(ClassifierSettings(steps=50, batch_size=16), [], body)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}], ids=str
)
def test_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ClassifierSettings(**wrong)  # type: ignore[arg-type]


def test_the_rate_rises_and_falls() -> None:
    settings = ClassifierSettings(steps=1000)
    assert settings.rate(0) == pytest.approx(1e-5)
    assert settings.rate(500) == pytest.approx(5e-4)
    assert settings.rate(999) < 1e-8
