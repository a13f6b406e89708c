"""Schedules: printed values of alpha-bar, tables, inverses, slopes, families, and the wrappers that change a clock."""

import math
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.core import (
    Betas,
    ConstantBetas,
    CosineAngle,
    CosineBetas,
    JsdBetas,
    LinearBetas,
    QuadraticBetas,
    RectifiedFlow,
    Schedule,
    Shifted,
    SigmoidBetas,
    Tabulated,
    Ve,
    VpSde,
    WarmupBetas,
    ZeroTerminalSnr,
)
from sfumato.core.learned import LearnedClock, LearnedLogSnr, PiecewiseLogSnr
from sfumato.verify import oracles
from sfumato.verify.check import AtMost, Check, Near, proves
from sfumato.verify.checks.material import SCHEDULES, largest, rates_over, times_over

__all__ = ["CHECKS"]

Array = NDArray[np.float64]

# (betas, T, alpha-bar at T as printed, half a unit of its last digit as a share)
ANCHORS: dict[str, tuple[Betas, int, float, float]] = {
    "linear 1000": (LinearBetas(), 1000, 4.035829765375676e-5, 1e-12),
    "linear 200, unscaled": (LinearBetas(rescale=False), 200, 0.13218, 5e-5),
    "linear 100, 1e-5 to 1e-2": (LinearBetas(1e-5, 1e-2, False), 100, 0.605207, 1e-6),
    "sigmoid 100": (SigmoidBetas(1e-5, 1e-2), 100, 0.604954, 1e-6),
    "quadratic 100": (QuadraticBetas(1e-5, 1e-2), 100, 0.706919, 1e-6),
    "constant 100": (ConstantBetas(0.035), 100, 0.0283616, 2e-6),
    "wavegrad 1000": (LinearBetas(1e-6, 1e-2), 1000, 0.0066226, 1e-5),
    "cosine 1000": (CosineBetas(), 1000, 2.42877e-9, 2e-6),
    "cosine 4000": (CosineBetas(), 4000, 1.52e-10, 4e-3),
}

TABLES: dict[str, tuple[Betas, Array]] = {
    "linear": (LinearBetas(), oracles.linear_betas(1000)),
    "quadratic": (QuadraticBetas(), oracles.quadratic_betas(1000)),
    "sigmoid": (SigmoidBetas(1e-5, 1e-2), oracles.sigmoid_betas(1000)),
    "constant": (ConstantBetas(0.02), oracles.constant_betas(1000, 0.02)),
    "cosine": (CosineBetas(), oracles.cosine_betas(1000)),
    "jsd": (JsdBetas(), np.minimum(oracles.jsd_betas(1000), 0.999)),
    "warmup": (WarmupBetas(), oracles.warmup_betas(1000, 1e-4, 0.02, 0.1)),
}


def anchor(betas: Betas, steps: int, printed: float) -> float:
    """Relative error of alpha-bar at t = 1."""
    return abs(float(Tabulated(betas, steps).rates(1.0).alpha ** 2) / printed - 1)


def table(betas: Betas, expected: Array) -> float:
    """Largest relative error of sigma² at the grid points, whose product is taken in float64 without cancellation."""
    r = rates_over(Tabulated(betas, len(expected)))
    power = -np.expm1(np.cumsum(np.log1p(-expected)))
    return largest(r.sigma.numpy() ** 2 / power - 1)


def inverse(schedule: Schedule) -> float:
    """Largest |time(log_snr(t)) - t|."""
    t = times_over(schedule)
    return largest(schedule.time(schedule.log_snr(t)) - t)


def clock(schedule: Schedule) -> float:
    """Largest difference of log_snr and 2 log(alpha/sigma) of the rates."""
    return largest(rates_over(schedule).log_snr - schedule.log_snr(times_over(schedule)))


def family(schedule: Schedule) -> float:
    """Largest departure from alpha² + sigma² = 1, alpha = 1 or alpha + sigma = 1."""
    r = rates_over(schedule)
    law = {Ve: r.alpha, RectifiedFlow: r.alpha + r.sigma}.get(type(schedule), r.alpha**2 + r.sigma**2)
    return largest(law - 1)


def slope_of(schedule: Schedule, t: Array) -> Array:
    """dlog_snr/dt, differentiated by hand."""
    match schedule:
        case CosineAngle():
            clean, noisy = math.acos(schedule.max_signal_rate), math.acos(schedule.min_signal_rate)
            angle = clean + t * (noisy - clean)
            return np.asarray(-2 * (noisy - clean) / (np.sin(angle) * np.cos(angle)))
        case VpSde():
            rise = schedule.beta_max - schedule.beta_min
            spent = schedule.beta_min * t + rise * t**2 / 2
            return np.asarray(-(schedule.beta_min + rise * t) / -np.expm1(-spent))
        case Ve():
            return np.full_like(t, -2 * math.log(schedule.sigma_max / schedule.sigma_min))
        case _:
            r = schedule.rates(torch.from_numpy(t))
            stretch = (1 - 2 * schedule.t_min) / (1 - schedule.t_min)
            return np.asarray(-2 * stretch / (r.alpha * r.sigma).numpy())


def slope(schedule: Schedule) -> float:
    """Largest relative error of the slope of log-SNR."""
    t = times_over(schedule)
    return largest(schedule.slope(t).numpy() / slope_of(schedule, t.numpy()) - 1)


def shifted() -> float:
    """log-SNR of a table shifted from 64 to 128 pixels, less the table's own: 2 log(64/128)."""
    base = Tabulated()
    t = times_over(base)
    return largest(Shifted(128, base=base).log_snr(t) - base.log_snr(t) - 2 * math.log(0.5))


def rescaled() -> float:
    """Lin et al.'s rescaling of sqrt(alpha-bar), with the floor that keeps log-SNR at -20 in the place of their 0."""
    base = np.sqrt(oracles.alpha_bar(oracles.linear_betas(1000)))
    floor = 1 / math.sqrt(1 + math.exp(20.0))
    expected = floor + (base - base[-1]) * (base[0] - floor) / (base[0] - base[-1])
    return largest(rates_over(ZeroTerminalSnr()).alpha.numpy() - expected)


def rises(schedule: Schedule) -> float:
    """How many times of the span have a log-SNR that is not below that of the time before."""
    return float((schedule.log_snr(times_over(schedule)).diff() >= 0).sum())


def learned() -> PiecewiseLogSnr:
    """A trained clock of eight parts, with logits from -2 to 2 in no order."""
    clock = LearnedClock(LearnedLogSnr(knots=8))
    with torch.no_grad():
        clock.logits.copy_(torch.tensor([0.5, -2.0, 1.0, 2.0, -1.0, 0.0, 1.5, -0.5]))
    return PiecewiseLogSnr(clock)


def learned_clock() -> float:
    """A learned clock against its formula: falls of 0.99 softmax + 0.01/K, log-SNR straight between them."""
    schedule = learned()
    logits = np.array([0.5, -2.0, 1.0, 2.0, -1.0, 0.0, 1.5, -0.5])
    shares = np.exp(logits) / np.exp(logits).sum()
    knots = 10 - 20 * np.concatenate([[0.0], np.cumsum(0.99 * shares + 0.01 / 8)])
    t = times_over(schedule)
    return largest(schedule.log_snr(t).detach().numpy() - np.interp(t.numpy(), np.linspace(0, 1, 9), knots))


def learned_inverse() -> float:
    """Largest |time(log_snr(t)) - t| of a learned clock."""
    schedule = learned()
    t = times_over(schedule)
    return largest(schedule.time(schedule.log_snr(t).detach()) - t)


def learned_bound() -> float:
    """The continuous bound of N(0, 1/4) under a learned clock depends on its ends alone (Kingma 2021, eq. 18)."""
    schedule, data_var, cells = learned(), 0.25, 8 * 4000
    t = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    snr = schedule.log_snr(t).detach().exp()
    loss = snr * data_var / (1 + snr * data_var)
    ours = float((-schedule.slope(t).detach() / 2 * loss).mean())
    exact = 0.5 * math.log((1 + math.exp(10) * data_var) / (1 + math.exp(-10) * data_var))
    return abs(ours / exact - 1)


CHECKS = (
    *(
        Check(
            f"anchor[{name}]",
            "alpha-bar of the last step as printed, relative (Ho 2020; Nichol 2021; Chen 2020; Esling)",
            AtMost(error),
            partial(anchor, betas, steps, printed),
        )
        for name, (betas, steps, printed, error) in ANCHORS.items()
    ),
    Check(
        "anchor[cosine 1000, clipped betas]",
        "exactly one beta of the cosine table is clipped at 0.999 (Nichol & Dhariwal 2021)",
        Near(1, 0),
        lambda: float(CosineBetas().num_clipped(1000)),
    ),
    *(
        # sigma² of the first steps is 1e-5 to 1e-4: their logarithm keeps 12 digits of it
        Check(
            f"table[{name}]",
            "sigma² = 1 - alpha-bar at every step against the oracle's table, relative",
            AtMost(1e-11),
            partial(table, *pair),
        )
        for name, pair in TABLES.items()
    ),
    *(
        check
        for name, schedule in SCHEDULES.items()
        for check in (
            Check(
                f"inverse[{name}]",
                "time(log_snr(t)) = t over the whole span",
                AtMost(1e-12),
                partial(inverse, schedule),
            ),
            Check(
                f"clock[{name}]",
                "log_snr = 2 log(alpha/sigma) of the rates (Kingma 2021, eq. 2)",
                AtMost(1e-12),
                partial(clock, schedule),
            ),
            Check(
                f"family[{name}]",
                "alpha² + sigma² = 1, alpha = 1 or alpha + sigma = 1",
                AtMost(1e-14),
                partial(family, schedule),
            ),
            Check(
                f"falling[{name}]",
                "log-SNR falls strictly: times at which it does not",
                Near(0, 0),
                partial(rises, schedule),
            ),
        )
    ),
    *(
        Check(
            f"slope[{name}]",
            "dlog_snr/dt against the derivative by hand, relative (Song 2021, eq. 30-33)",
            AtMost(1e-10),
            partial(slope, SCHEDULES[name]),
        )
        for name in ("cosine", "vp", "ve", "flow")
    ),
    Check(
        "wrapper[shifted]",
        "log-SNR moves by 2 log(64/128) for twice the resolution (Hoogeboom 2023, eq. 4)",
        AtMost(1e-12),
        shifted,
    ),
    Check(
        "wrapper[zero terminal]",
        "alpha moved and stretched to the floor (Lin 2024, algorithm 1)",
        AtMost(1e-13),
        rescaled,
    ),
    Check("learned[clock]", proves(learned_clock), AtMost(1e-12), learned_clock),
    Check("learned[inverse]", proves(learned_inverse), AtMost(1e-12), learned_inverse),
    # the midpoint rule, 4,000 cells for each part
    Check("learned[bound depends on the ends]", proves(learned_bound), AtMost(1e-6), learned_bound),
)
