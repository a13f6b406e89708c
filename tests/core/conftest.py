"""The schedules, targets and chains that every statement about the core is held against."""

import pytest
import torch

from sfumato.core import (
    ConstantBetas,
    CosineAngle,
    CosineBetas,
    Edm,
    Flow,
    Image,
    JsdBetas,
    LearnedLogSnr,
    LogSnrLinear,
    Noise,
    Parameterization,
    PiecewiseLogSnr,
    PreviousMean,
    QuadraticBetas,
    RectifiedFlow,
    Schedule,
    Score,
    Shifted,
    SigmoidBetas,
    Tabulated,
    Trimmed,
    Ve,
    Velocity,
    VpSde,
    WarmupBetas,
    ZeroTerminalSnr,
)


def trained(schedule: LearnedLogSnr) -> PiecewiseLogSnr:
    """A schedule as training may leave it: parts of very different slopes."""
    clock = schedule.clock().requires_grad_(False)
    clock.logits.copy_(2 * torch.sin(5 * torch.arange(schedule.knots)))
    return clock.schedule()


SCHEDULES = {
    "linear-1000": Tabulated(),
    "linear-100": Tabulated(steps=100),  # k/100·100 is not always k in floating point
    "cosine-1000": Tabulated(CosineBetas()),
    "quadratic-50": Tabulated(QuadraticBetas(1e-4, 0.2), 50),
    "sigmoid-100": Tabulated(SigmoidBetas(1e-5, 1e-2), 100),
    "constant-100": Tabulated(ConstantBetas(0.035), 100),
    "jsd-30": Tabulated(JsdBetas(), 30),
    "warmup-200": Tabulated(WarmupBetas(1e-4, 0.05, 0.5), 200),
    "cosine-angle": CosineAngle(),
    "vp-sde": VpSde(),
    "ve": Ve(),
    "flow": RectifiedFlow(),
    "log-snr-linear": LogSnrLinear(),
    "learned": LearnedLogSnr(),
    "learned-trained": trained(LearnedLogSnr(7)),
    "shifted-angle": Shifted(256),
    "shifted-vp-up": Shifted(4, base=VpSde()),  # towards more signal: leaves the bounds at the clean end
    "shifted-flow": Shifted(256, base=RectifiedFlow()),  # leaves the bounds at the noisy end
    "shifted-ve": Shifted(128, base=Ve()),
    "shifted-table": Shifted(128, base=Tabulated(steps=100)),
    "zero-terminal": ZeroTerminalSnr(),
    "zero-terminal-angle": ZeroTerminalSnr(CosineAngle()),
    "zero-terminal-shifted": ZeroTerminalSnr(Shifted(128, base=Tabulated(CosineBetas(), 40))),
    "trimmed-vp": Trimmed(0.05, 0.9, VpSde()),
    "trimmed-angle": Trimmed(base=CosineAngle(0.001, 0.999)),
}

PARAMETERIZATIONS = {
    "noise": Noise(),
    "image": Image(),
    "velocity": Velocity(),
    "score": Score(),
    "flow": Flow(),
    "edm": Edm(),
}

TABLE = Tabulated(CosineBetas(), 12)


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """Each family, clock and wrapper."""
    return request.param


@pytest.fixture(params=PARAMETERIZATIONS.values(), ids=list(PARAMETERIZATIONS))
def parameterization(request: pytest.FixtureRequest) -> Parameterization:
    """Each target that any schedule takes."""
    return request.param


@pytest.fixture(
    params=[*((p, CosineAngle()) for p in PARAMETERIZATIONS.values()), (PreviousMean(TABLE), TABLE)],
    ids=[*PARAMETERIZATIONS, "previous-mean"],
)
def target(request: pytest.FixtureRequest) -> tuple[Parameterization, Schedule]:
    """Each target with a schedule that it fits, the mean of the previous step among them."""
    return request.param
