"""Every target under every weighting learns the same thing: the ideal denoiser.

Data are Gaussian, x0 ~ N(0, diag(0.25, 1)), so the ideal eps*(x) = (sigma/S) x with S = alpha² L + sigma² is known, and
so is the floor of the loss, E(eps* - eps)² = alpha² L/S. The model is as plain as can be, F = w(time) c_in x with w
piecewise linear in the time input: it can represent every ideal output, and since MSE is quadratic in w, its trained
state is found exactly, from gradients of the real `DenoisingLoss` of a real `Denoiser` over draws of real `Times`.
Whatever target and weighting it was trained with, it is judged in eps space, in 8 bins of log-SNR, on unseen draws:

    its loss minus the floor is at most 5 % of that of predicting eps = 0, and never below zero by 3 standard errors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from sfumato.core import (
    CosineAngle,
    Denoiser,
    Edm,
    Flow,
    GridTimes,
    Image,
    LinearBetas,
    LogNormalTimes,
    LogSnrInput,
    Noise,
    Parameterization,
    PreviousMean,
    Schedule,
    Score,
    StepInput,
    Tabulated,
    TimeInput,
    Times,
    UniformTimes,
    Velocity,
    derived_generator,
    marginal,
)
from sfumato.objectives import (
    DenoisingLoss,
    Distance,
    Draw,
    EdmLogNormal,
    Elbo,
    Huber,
    ImageError,
    Mae,
    MinSnr,
    Mse,
    NoiseError,
    OutputError,
    ScoreError,
    SigmoidWeight,
    StepElbo,
    Weighting,
)
from sfumato.verify.oracles import GaussianOracle

VARIANCES = torch.tensor([0.25, 1.0], dtype=torch.float64)
ORACLE = GaussianOracle([0.0, 0.0], VARIANCES.numpy())
DATA_STD = float(VARIANCES.mean().sqrt())
TABLE = Tabulated(LinearBetas(), 24)
BINS = 8

TARGETS: dict[str, Parameterization] = {
    "noise": Noise(),
    "image": Image(),
    "velocity": Velocity(),
    "score": Score(),
    "flow": Flow(),
    "edm": Edm(),
}
WEIGHTINGS: dict[str, Weighting] = {
    "plain": OutputError(),
    "noise-error": NoiseError(),
    "image-error": ImageError(),
    "min-snr": MinSnr(),
    "score-error": ScoreError(),
    "elbo": Elbo(),
    "sigmoid": SigmoidWeight(),
    "edm-log-normal": EdmLogNormal(1.0, 1.5),
}


class Hats(nn.Module):
    """F = w(time) x, w (K, D) at K equally spaced values of the time input and linear in between."""

    def __init__(self, first: float, last: float, count: int) -> None:
        super().__init__()
        self.first, self.spacing, self.count = first, (last - first) / (count - 1), count
        self.weight = nn.Parameter(torch.zeros(count, len(VARIANCES), dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        position = ((time - self.first) / self.spacing).clamp(0, self.count - 1)
        lower = position.floor().clamp(max=self.count - 2)
        share = (position - lower)[:, None]
        below = nn.functional.embedding(lower.long(), self.weight.to(x.dtype))
        above = nn.functional.embedding(lower.long() + 1, self.weight.to(x.dtype))
        return ((1 - share) * below + share * above) * x


@dataclass(frozen=True)
class Setting:
    """A schedule with the time input, the nodes and the times that fit it."""

    schedule: Schedule
    time_input: TimeInput
    times: Times
    nodes: int

    def denoiser(self, parameterization: Parameterization) -> tuple[Denoiser, Hats]:
        ends = self.schedule.rates(torch.tensor([self.schedule.t_min, 1.0], dtype=torch.float64))
        first, last = self.time_input.value(ends).tolist()
        network = Hats(first, last, self.nodes)
        d = Denoiser(network, self.schedule, parameterization, time_input=self.time_input, data_std=DATA_STD)
        return d, network

    def bins(self) -> list[Tensor]:
        """Times in 8 bins: of equal width in log-SNR, or of equally many steps of a table."""
        if self.schedule.num_steps is not None:
            steps = self.schedule.num_steps
            return list((torch.arange(1, steps + 1, dtype=torch.float64) / steps).chunk(BINS))
        ends = self.schedule.log_snr(torch.tensor([self.schedule.t_min, 1.0], dtype=torch.float64))
        grid = torch.linspace(float(ends[0]), float(ends[1]), 1000 * BINS, dtype=torch.float64)
        return list(self.schedule.time(grid).chunk(BINS))


CONTINUOUS = Setting(CosineAngle(), LogSnrInput(), UniformTimes(), 33)
LOG_NORMAL = Setting(CosineAngle(), LogSnrInput(), LogNormalTimes(1.0, 1.5), 33)
DISCRETE = Setting(TABLE, StepInput(24), GridTimes(24), 24)


def examples(t: Tensor, purpose: str) -> tuple[Tensor, Tensor]:
    """x0 from the law and eps, one pair per time."""
    generator = derived_generator(0, purpose)
    z, eps = torch.randn(2, len(t), len(VARIANCES), generator=generator, dtype=torch.float64)
    return VARIANCES.sqrt() * z, eps


def train(setting: Setting, d: Denoiser, network: Hats, loss: DenoisingLoss, count: int) -> None:
    """Put the exact minimiser of the mean loss over `count` draws into the network.

    The loss is quadratic in w, so gradients give its Hessian. Node i meets only its neighbours i ± 1, and dimensions do
    not meet: three probes, each with every third node at 1, show every entry once.
    """
    drawn = setting.times.draw(setting.schedule, count, derived_generator(0, "train-times"))
    x0, eps = examples(drawn.t, "train")
    draw = Draw(drawn.t, eps, drawn.inv_density)

    def gradient(weight: Tensor) -> Tensor:
        network.weight.data = weight
        return torch.autograd.grad(loss(d, x0, draw).values.mean(), network.weight)[0]

    nodes = torch.arange(setting.nodes)
    start = gradient(torch.zeros_like(network.weight))
    hessian = torch.zeros(len(VARIANCES), setting.nodes, setting.nodes, dtype=torch.float64)
    for colour in range(3):
        probe = (nodes % 3 == colour).to(start)[:, None].expand_as(start).contiguous()
        column = gradient(probe) - start
        for i in range(setting.nodes):
            for j in range(max(0, i - 1), min(setting.nodes, i + 2)):
                if j % 3 == colour:
                    hessian[:, i, j] = column[i]
    network.weight.data = torch.linalg.solve(hessian, -start.T).T.contiguous()


def judge(setting: Setting, d: Denoiser, per_bin: int = 20_000) -> None:
    """Excess over the floor in each bin, against that of eps = 0 and against zero."""
    for index, choices in enumerate(setting.bins()):
        t = choices[torch.randint(len(choices), (per_bin,), generator=derived_generator(0, "judge-times", index))]
        x0, eps = examples(t, f"judge-{index}")
        r = setting.schedule.rates(t)
        x_t = marginal(x0, r).sample(eps)
        with torch.no_grad():
            loss = (d(x_t, t).eps - eps).square().mean(1)
        ideal = torch.from_numpy(ORACLE.eps(x_t.numpy(), r.alpha.numpy(), r.sigma.numpy()))
        floor = torch.from_numpy(ORACLE.noise_loss(r.alpha.numpy(), r.sigma.numpy())).mean(1)
        excess = float((loss - (ideal - eps).square().mean(1)).mean())  # paired: the same draws for both
        naive = float((1 - floor).mean())  # of predicting 0, whose loss is E eps² = 1
        assert excess <= 0.05 * naive, f"bin {index}: excess {excess:.3g}, of eps = 0 {naive:.3g}"
        below = loss - floor
        error = float(below.std()) / per_bin**0.5
        assert float(below.mean()) >= -3 * error, f"bin {index}: below the floor"


def learns(setting: Setting, parameterization: Parameterization, weighting: Weighting, count: int) -> None:
    d, network = setting.denoiser(parameterization)
    train(setting, d, network, DenoisingLoss(weighting=weighting), count)
    judge(setting, d)


QUICK = [
    ("velocity", "plain"),
    ("image", "noise-error"),
    ("noise", "image-error"),
    ("edm", "edm-log-normal"),
    ("flow", "elbo"),
]


@pytest.mark.parametrize(("target", "weighting"), QUICK)
def test_a_few_pairs_learn_the_ideal_denoiser(target: str, weighting: str) -> None:
    setting = LOG_NORMAL if weighting == "edm-log-normal" else CONTINUOUS
    learns(setting, TARGETS[target], WEIGHTINGS[weighting], 150_000)


def test_the_mean_of_the_previous_step_learns_it_too() -> None:
    learns(DISCRETE, PreviousMean(TABLE), StepElbo(), 150_000)


@pytest.mark.proof
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_pair_learns_the_ideal_denoiser(target: str, weighting: str) -> None:
    for setting in (CONTINUOUS, LOG_NORMAL):
        learns(setting, TARGETS[target], WEIGHTINGS[weighting], 500_000)


@pytest.mark.proof
@pytest.mark.parametrize("weighting", [*WEIGHTINGS, "step-elbo"])
@pytest.mark.parametrize("target", [*TARGETS, "previous-mean"])
def test_every_pair_learns_it_on_a_chain(target: str, weighting: str) -> None:
    parameterization = {**TARGETS, "previous-mean": PreviousMean(TABLE)}[target]
    learns(DISCRETE, parameterization, {**WEIGHTINGS, "step-elbo": StepElbo()}[weighting], 500_000)


def descend(setting: Setting, loss: DenoisingLoss, steps: int) -> Denoiser:
    """The same model by Adam in float32, batches of 2,048 drawn anew at every step, rate falling to 0."""
    d, network = setting.denoiser(Velocity())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        drawn = setting.times.draw(setting.schedule, 2048, derived_generator(0, "adam-times", step))
        x0, eps = examples(drawn.t, f"adam-{step}")
        losses = loss(d, x0.float(), Draw(drawn.t, eps.float(), drawn.inv_density))
        optimizer.zero_grad()
        losses.values.mean().backward()
        optimizer.step()
    return d


@pytest.mark.parametrize("distance", [Mse(), Mae(), Huber(0.5)], ids=repr)
def test_each_distance_descends_to_the_ideal_denoiser(distance: Distance) -> None:
    """On Gaussian data the conditional median and every symmetric compromise is the mean."""
    judge(CONTINUOUS, descend(CONTINUOUS, DenoisingLoss(distance), 300))


@pytest.mark.parametrize(
    "spoil",
    [lambda eps: 0.7 * eps, lambda eps: eps.roll(1, 0)],
    ids=["thirty per cent short", "another example's"],
)
def test_the_judge_can_say_no(spoil: Callable[[Tensor], Tensor]) -> None:
    """Noise that is not what was added: 30 % short leaves 0.3² = 9 % of the excess of eps = 0, the other all of it."""
    d, network = CONTINUOUS.denoiser(Noise())

    def spoilt(d: Denoiser, x0: Tensor, draw: Draw, cond: Tensor | None = None) -> object:
        r = d.schedule.rates(draw.t)
        output = d.output(marginal(x0, r).sample(draw.eps), r)
        return type("Losses", (), {"values": (output - spoil(draw.eps)).square().mean(1)})

    train(CONTINUOUS, d, network, spoilt, 60_000)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="bin"):
        judge(CONTINUOUS, d)
