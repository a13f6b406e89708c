"""Every network with every target and every number of channels: it learns, and what it learned can be sampled.

Crossed completely: thirteen small networks × seven parameterizations × the shapes of their data (1 to 5 channels and a
picture that is not square; sequences of 1 to 5 channels and of another length; vectors of 1 to 5 values). Each goes
through the real denoiser, objective, backward pass, AdamW and two steps of DDIM. Pictures of 1, 3 and 4 channels, which
arrive as bytes, go through a whole session as well. Sizes by name meet shapes on the meta device,
where nothing takes memory; the smallest is trained.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfumato.core import (
    CosineAngle,
    CosineBetas,
    Denoiser,
    Edm,
    Flow,
    GridTimes,
    Image,
    LogSnrInput,
    Noise,
    NoiseSource,
    Parameterization,
    PreviousMean,
    Score,
    StepInput,
    Tabulated,
    UniformTimes,
    Velocity,
    batch_noise,
    derived_generator,
)
from sfumato.data import Normalization
from sfumato.experiment.build import resolved
from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.data_record import DataRecord
from sfumato.experiment.forecast import like_data
from sfumato.experiment.model import Model
from sfumato.experiment.reporting import Silent
from sfumato.experiment.schema import to_plain
from sfumato.experiment.session import Session
from sfumato.nn import (
    AdditiveMlpConfig,
    AdditiveUNetConfig,
    BaseConfig,
    BottleneckUNetConfig,
    DdpmUNetConfig,
    DitConfig,
    Edm2UNetConfig,
    FilmUNetConfig,
    FourierMlpConfig,
    MlpConfig,
    NetworkConfig,
    ResidualUNetConfig,
    SmallConfig,
    StepMlpConfig,
    TinyConfig,
    UNet1dConfig,
)
from sfumato.objectives import DenoisingLoss, Draw
from sfumato.samplers import Ddim, Trailing, sample

TABLE = Tabulated(CosineBetas(), 8)
TARGETS: dict[str, Parameterization] = {
    "noise": Noise(),
    "image": Image(),
    "velocity": Velocity(),
    "score": Score(),
    "flow": Flow(),
    "edm": Edm(),
    "previous-mean": PreviousMean(TABLE),
}
PICTURES = [(1, 8, 8), (2, 8, 8), (3, 8, 8), (4, 8, 8), (5, 8, 8), (3, 8, 12)]
SEQUENCES = [(1, 9), (2, 9), (3, 9), (4, 9), (5, 9), (3, 6)]
VECTORS = [(1,), (2,), (3,), (4,), (5,)]
OF_PICTURES: list[NetworkConfig] = [
    AdditiveUNetConfig(widths=(8,), attention=(1, 2), heads=2, groups=4, dropout=0.0),
    BottleneckUNetConfig(widths=(4, 8), planes=4, hidden=8),
    DdpmUNetConfig(widths=(8, 8), blocks=1, attention=(4,), dropout=0.0, num_groups=4, film=True, zero_init=True),
    FilmUNetConfig(widths=(8,), depth=1, stem=4, embedding=8, heads=2, head_width=4, groups=4),
    FilmUNetConfig(widths=(8,), depth=1, stem=4, embedding=8, norm="batch", attention=False),
    ResidualUNetConfig(widths=(8,), depth=1, embedding=6),
    DitConfig(patch=4, width=8, depth=1, heads=2),
    Edm2UNetConfig(widths=(8, 8), depth=1, attention=(4,), head_width=4),
]
OF_SEQUENCES: list[NetworkConfig] = [UNet1dConfig(widths=(8, 8), depth=1, embedding=8, heads=2, groups=4)]
OF_VECTORS: list[NetworkConfig] = [
    StepMlpConfig(widths=(16,)),
    AdditiveMlpConfig(widths=(16,)),
    FourierMlpConfig(width=16, depth=1),
    MlpConfig(widths=(16,)),
]
CROSSED = [
    (config, shape)
    for configs, shapes in ((OF_PICTURES, PICTURES), (OF_SEQUENCES, SEQUENCES), (OF_VECTORS, VECTORS))
    for config in configs
    for shape in shapes
]


def name_of(config: NetworkConfig) -> str:
    return type(config).__name__.removesuffix("Config")


def denoiser_of(config: NetworkConfig, shape: tuple[int, ...], target: Parameterization) -> Denoiser:
    """A chain of eight steps where network or target counts steps, a continuous schedule for the others."""
    counts = isinstance(config, StepMlpConfig) or isinstance(target, PreviousMean)
    time_input = StepInput(8) if counts else LogSnrInput()
    schedule = TABLE if counts else CosineAngle()
    torch.manual_seed(0)
    network = config.build(shape, steps=schedule.num_steps, time_span=time_input.span)
    return Denoiser(network, schedule, target, time_input=time_input, data_std=0.5)


def one_batch(shape: tuple[int, ...], d: Denoiser, count: int) -> tuple[Tensor, Draw]:
    """Data and one draw that stays."""
    times = UniformTimes() if d.schedule.num_steps is None else GridTimes(d.schedule.num_steps)
    drawn = times.draw(d.schedule, count, derived_generator(0, "t"))
    eps = batch_noise((count, *shape), 0, "eps")
    return 0.5 * batch_noise((count, *shape), 0, "x0").clamp(-2, 2), Draw(drawn.t, eps, drawn.inv_density)


def losses_of(d: Denoiser, x0: Tensor, draw: Draw, *, updates: int, rate: float) -> list[float]:
    """The loss of one batch before each update and after the last."""
    optimizer = torch.optim.AdamW(d.parameters(), lr=rate, weight_decay=0.0)
    found = []
    for _ in range(updates):
        optimizer.zero_grad()
        loss = DenoisingLoss()(d, x0, draw).values.mean()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    with torch.no_grad():
        return [*found, float(DenoisingLoss()(d, x0, draw).values.mean())]


def drawn_from(d: Denoiser, shape: tuple[int, ...], *, count: int, steps: int) -> Tensor:
    d.eval()
    noise = NoiseSource.of(seed=0, count=count)
    times = Trailing().times(d.schedule, steps)
    *_, last = sample(Ddim(), d, noise.initial((count, *shape), like=torch.empty(0)), times, noise=noise)
    return last.x


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
@pytest.mark.parametrize(
    ("config", "shape"), CROSSED, ids=[f"{name_of(c)}-{'x'.join(map(str, s))}" for c, s in CROSSED]
)
def test_learns_a_batch_and_samples(config: NetworkConfig, shape: tuple[int, ...], target: Parameterization) -> None:
    """Three updates on one batch: the loss falls, no tensor is left behind, and what it draws is of the data's size."""
    d = denoiser_of(config, shape, target)
    before = {name: p.detach().clone() for name, p in d.named_parameters()}
    x0, draw = one_batch(shape, d, 4)
    first, *_, last = losses_of(d, x0, draw, updates=3, rate=2e-3)
    assert 0 < last < first  # infinite or undefined losses fail both
    # Layers that start at zero hide what is behind them for a step each, two deep at most. A bias of the keys adds the
    # same to all logits of a query, and softmax does not hear it.
    still = [name for name, p in d.named_parameters() if torch.equal(p, before[name])]
    assert [name for name in still if not name.endswith("to_k.bias")] == []
    drawn = drawn_from(d, shape, count=2, steps=2)
    assert drawn.shape == (2, *shape)
    assert not torch.equal(drawn[0], drawn[1])
    assert drawn.isfinite().all()


def bytes_experiment(config: NetworkConfig, shape: tuple[int, ...]) -> Experiment:
    """The digits' experiment for pictures of another shape."""
    settings = {
        "data.source": "folder",
        "data.size": shape[1],
        "data.channels": None,  # as the data have them
        "network": {"kind": name_of(config), **network_settings(config)},
        "training.batch_size": 4,
        "training.precision": "float32",
        "training.warmup_steps": 0,
        "sampling.steps": 2,
    }
    return load_experiment("digits", settings)


def network_settings(config: NetworkConfig) -> dict[str, object]:
    plain = to_plain(config)
    assert isinstance(plain, dict)
    return plain


def session_of(experiment: Experiment, shape: tuple[int, ...], folder: Path) -> Session:
    """A session over random bytes of this shape."""
    level = (127.5,) * shape[0]
    normalization = Normalization("range", level, level, size=(shape[1], shape[2]), pad=None)
    record = DataRecord(shape, True, 0.5, normalization, None, (), "", 0, 0, ())
    ready = resolved(experiment, shape=shape, is_image=True)
    return Session(ready, like_data(ready, record), folder=folder, reporter=Silent())


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("config", OF_PICTURES, ids=name_of)
def test_bytes_in_and_bytes_out(config: NetworkConfig, channels: int, tmp_path: Path) -> None:
    """A whole step of training on pictures as they are stored, and samples as they are saved."""
    session = session_of(bytes_experiment(config, (channels, 8, 8)), (channels, 8, 8), tmp_path)
    result = session.step(0)
    assert 0 < float(result.loss) < 10  # a target of unit variance and a network that says little
    session.ema.copy_to(session.averaged.network)
    model = Model(session.experiment, session.data.record, {"ema": session.averaged}, "", 1)
    images = model.sample(2, seed=0).images
    assert images.shape == (2, 8, 8, channels)
    assert images.dtype == "uint8"
    assert images.min() < images.max()


SIZED = [
    (1, 8, 8),
    (2, 8, 12),
    (3, 32, 32),
    (4, 7, 7),
    (5, 64, 96),
    (3, 256, 256),
    (1, 9),
    (5, 6),
    (2, 128),
    (1,),
    (5,),
]


@pytest.mark.parametrize("shape", SIZED, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("config", [TinyConfig(), SmallConfig(), BaseConfig()], ids=name_of)
def test_sizes_fit_every_shape(config: NetworkConfig, shape: tuple[int, ...]) -> None:
    """No weights are made: shapes go through the whole graph on the meta device; sizes differ in numbers only."""
    with torch.device("meta"), torch.set_grad_enabled(isinstance(config, TinyConfig)):
        network = config.fitted(shape).build(shape, steps=None, time_span=5.0)
        out = network(torch.empty(2, *shape), torch.empty(2))
        assert out.shape == (2, *shape)
        if out.requires_grad:
            out.sum().backward()
            assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_the_smallest_size_learns(target: Parameterization) -> None:
    """One shape will do: the fitted network is one of those above."""
    d = denoiser_of(TinyConfig(), (2, 12), target)
    x0, draw = one_batch((2, 12), d, 4)
    first, *_, last = losses_of(d, x0, draw, updates=2, rate=1e-3)
    assert 0 < last < first


@dataclass(frozen=True)
class Overfit:
    """A network that is large enough, how it is trained, and how near it comes to the least loss in v."""

    config: NetworkConfig
    shape: tuple[int, ...]
    rate: float = 2e-3
    steps: int = 400
    excess: float = 0.06

    @property
    def name(self) -> str:
        return name_of(self.config)


PICTURE = (1, 8, 8)
OVERFITS = [
    Overfit(AdditiveUNetConfig(widths=(16, 32), attention=(2,), heads=2, groups=8, dropout=0.0), PICTURE),
    Overfit(BottleneckUNetConfig(widths=(16, 32), planes=16, hidden=32), PICTURE),
    Overfit(DdpmUNetConfig(widths=(16, 32), blocks=1, attention=(4,), dropout=0.0, num_groups=8), PICTURE),
    Overfit(FilmUNetConfig(widths=(16, 32), depth=1, stem=16, heads=2, head_width=8), PICTURE),
    Overfit(ResidualUNetConfig(widths=(16, 32), depth=1, embedding=16), PICTURE),
    Overfit(DitConfig(patch=2, width=64, depth=2, heads=2), PICTURE),
    Overfit(Edm2UNetConfig(widths=(16, 32), depth=1, attention=(4,), head_width=16), PICTURE, rate=1e-2, steps=250),
    Overfit(UNet1dConfig(widths=(16, 32), depth=1, embedding=32, heads=2), (1, 32)),
    Overfit(FourierMlpConfig(width=64, depth=2), (16,), steps=1000),
    Overfit(StepMlpConfig(widths=(64, 64)), (16,), rate=5e-3, steps=1500),
    Overfit(TinyConfig(), (1, 16), steps=150),
]


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", OVERFITS, ids=lambda case: case.name)
def test_two_examples_are_learned_by_heart(case: Overfit) -> None:
    """Velocity is known but where noise hides which of the two it was: little error is left, and DDIM finds them."""
    two = batch_noise((1, *case.shape), 3, "pattern").sign().mul(0.7)
    two = torch.cat([two, -two.roll(1, dims=-1)])
    d = denoiser_of(case.config, case.shape, Velocity())
    x0 = two.repeat(16, *(1 for _ in case.shape))
    trained(d, x0, case)
    d.eval()
    fresh = two.repeat(256, *(1 for _ in case.shape))
    draw = a_draw(d, fresh, 10**6)
    with torch.no_grad():
        loss = float(DenoisingLoss()(d, fresh, draw).values.mean())
    assert loss < least_loss(d, two, fresh, draw) + case.excess  # predicting 0 scores from 0.5 to 1
    drawn = drawn_from(d, case.shape, count=16, steps=8)
    distance = (drawn[:, None] - two).square().flatten(2).mean(2).sqrt().min(1)
    assert int((distance.values < 0.25).sum()) >= 12  # the two are about 1 apart; a start between them may stay there
    assert set(distance.indices.tolist()) == {0, 1}


def least_loss(d: Denoiser, two: Tensor, x0: Tensor, draw: Draw) -> float:
    """What the posterior mean of two equally likely points leaves of this draw: |x0 − E[x0 | x_t]|²/sigma², in v."""
    r, points, values = d.schedule.rates(draw.t), two.double().flatten(1), x0.double().flatten(1)
    alpha, sigma = r.alpha[:, None], r.sigma[:, None]
    x_t = alpha * values + sigma * draw.eps.double().flatten(1)
    squares = (x_t[:, None] - alpha[:, None] * points).square().sum(2)
    mean = (-squares / (2 * sigma**2)).softmax(1) @ points
    return float(((mean - values) / sigma).square().mean())


def a_draw(d: Denoiser, x0: Tensor, step: int) -> Draw:
    times = UniformTimes() if d.schedule.num_steps is None else GridTimes(d.schedule.num_steps)
    drawn = times.draw(d.schedule, len(x0), derived_generator(0, "t", step))
    return Draw(drawn.t, batch_noise(tuple(x0.shape), 0, "eps", step), drawn.inv_density)


def trained(d: Denoiser, x0: Tensor, case: Overfit) -> None:
    """AdamW with a rate that falls to zero along a line."""
    optimizer = torch.optim.AdamW(d.parameters(), lr=case.rate, weight_decay=0.0)
    for step in range(case.steps):
        for group in optimizer.param_groups:
            group["lr"] = case.rate * (1 - step / case.steps)
        optimizer.zero_grad()
        DenoisingLoss()(d, x0, a_draw(d, x0, step)).values.mean().backward()
        nn.utils.clip_grad_norm_(d.parameters(), 1.0)
        optimizer.step()
