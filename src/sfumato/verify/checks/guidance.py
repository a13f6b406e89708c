"""Guidance: guided predictions of a mixture whose classes are groups of its components, against closed forms.

For the ideal denoiser told the class, everything is known: score + w ∇ log p(k | x_t) for classifier-free guidance of
weight w and, by Bayes' rule, for the exact classifier with scale w. What is compared is eps, which is of the size of 1
at every noise level, at points where x_t is over the whole span of three schedules.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Prediction, Rates
from sfumato.core.rates import spread
from sfumato.guidance import AutoGuided, ClassifierGuided, Counting, Guided, Thresholded
from sfumato.samplers import Heun, UniformLogSnr, sample
from sfumato.verify import oracles
from sfumato.verify.check import AtMost, Check, Near, proves
from sfumato.verify.checks.material import SCHEDULES, largest, normals, worst
from sfumato.verify.ideal import Ideal, IdealOfClasses
from sfumato.verify.oracles import MixtureOracle

__all__ = ["CHECKS", "GROUPS", "LAW", "ExactClassifier", "told"]

WEIGHTS = [0.2, 0.3, 0.1, 0.4]
MEANS = [[1.0, -0.5], [-0.6, 0.8], [0.9, 0.9], [-0.7, -0.6]]
COVS = [[[0.2, 0.1], [0.1, 0.3]], [[0.2, 0.0], [0.0, 0.1]], [[0.1, -0.05], [-0.05, 0.2]], [[0.15, 0.0], [0.0, 0.25]]]
LAW = MixtureOracle(WEIGHTS, MEANS, COVS)
GROUPS = ((0, 2), (1,), (3,))  # the components of each class; the first is itself a mixture
WIDE = MixtureOracle(WEIGHTS, MEANS, 1.5 * np.asarray(COVS))  # what a poorer model of the same data might know
WHERE = ("cosine", "ve", "flow")
COUNT = 24


def told(name: str) -> IdealOfClasses:
    """The ideal denoiser of the classes."""
    return IdealOfClasses(LAW, tuple(oracles.among(LAW, group) for group in GROUPS), SCHEDULES[name])


def labels(count: int = COUNT) -> Cond:
    """Every class in turn."""
    return Cond(labels=torch.arange(count) % len(GROUPS))


def places(name: str) -> tuple[Tensor, Tensor]:
    """x_t (COUNT, 2) where noisy data are, and times (COUNT,) over the span of the schedule."""
    schedule = SCHEDULES[name]
    first, last = schedule.log_snr(torch.tensor([1.0, schedule.t_min], dtype=torch.float64)).tolist()
    r = schedule.rates(schedule.time(torch.linspace(first, last, COUNT, dtype=torch.float64)))
    x0 = 0.9 * normals(COUNT, 2, seed=1)  # about where data are
    return spread(r.alpha, x0) * x0 + spread(r.sigma, x0) * normals(COUNT, 2, seed=2), r.t


def expected_eps(x: Tensor, r: Rates, weights: Tensor) -> Tensor:
    """-sigma (score + w ∇ log p(k | x_t)), each example with its own class and weight."""
    rows = []
    for b, k in enumerate((torch.arange(len(x)) % len(GROUPS)).tolist()):
        alpha, sigma = float(r.alpha[b]), float(r.sigma[b])
        score = oracles.guided_score(LAW, GROUPS[k], float(weights[b]), x[b : b + 1].numpy(), alpha, sigma)
        rows.append(-sigma * torch.from_numpy(score))
    return torch.cat(rows)


class ExactClassifier:
    """log p(k | x_t, t) of the mixture in torch, whose gradient autograd finds: a route of its own."""

    def __init__(self, name: str) -> None:
        self.schedule = SCHEDULES[name]

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        r, joint = self.schedule.rates(t), []
        alpha, sigma = r.alpha.expand(len(x_t)), r.sigma.expand(len(x_t))
        for weight, mean, cov in zip(WEIGHTS, MEANS, COVS, strict=True):
            centre, c = torch.tensor(mean, dtype=torch.float64), torch.tensor(cov, dtype=torch.float64)
            wide = alpha[:, None, None] ** 2 * c + sigma[:, None, None] ** 2 * torch.eye(2, dtype=torch.float64)
            apart = x_t - alpha[:, None] * centre
            distance = (apart * torch.linalg.solve(wide, apart)).sum(1)
            joint.append(np.log(weight) - 0.5 * (distance + torch.logdet(wide)))
        shares = torch.stack(joint, dim=1).log_softmax(dim=1)
        groups = torch.stack([shares[:, list(group)].logsumexp(dim=1) for group in GROUPS], dim=1)
        return groups.gather(1, labels[:, None]).squeeze(1)


def difference(p: Prediction, weights: Tensor) -> float:
    """Largest difference of eps from the closed form."""
    return largest(p.eps - expected_eps(p.x_t, p.rates, weights))


def classifier_free(name: str, weight: float) -> float:
    """Eps of D_u + w (D_c - D_u) against score + w ∇ log p(k | x_t) in closed form."""
    x, t = places(name)
    return difference(Guided(told(name), weight)(x, t, labels()), torch.full((COUNT,), weight, dtype=torch.float64))


def per_sample(name: str) -> float:
    """The same with another weight for each sample of the batch, 0 and 1 among them."""
    x, t = places(name)
    weights = torch.arange(COUNT, dtype=torch.float64) / 4
    return difference(Guided(told(name), weights)(x, t, labels()), weights)


def by_classifier(name: str, scale: float) -> float:
    """The model of all data with the exact classifier against the same closed form: by Bayes' rule, w = scale."""
    x, t = places(name)
    d = ClassifierGuided(Ideal(LAW, SCHEDULES[name]), ExactClassifier(name), scale)
    return difference(d(x, t, labels()), torch.full((COUNT,), scale, dtype=torch.float64))


def interval(name: str) -> float:
    """Guidance within an interval of noise levels, the class's own score outside, against the closed form."""
    (x, t), low, high = places(name), 0.1, 2.0
    level = SCHEDULES[name].rates(t).noise_level
    weights = torch.where((level >= low) & (level <= high), 3.0, 1.0).double()
    return difference(Guided(told(name), 3.0, (low, high))(x, t, labels()), weights)


def autoguidance(name: str, weight: float) -> float:
    """Eps of D_weak + w (D - D_weak) against (1 - w) eps_weak + w eps of two mixtures, the weak one wider."""
    x, t = places(name)
    p = AutoGuided(Ideal(LAW, SCHEDULES[name]), Ideal(WIDE, SCHEDULES[name]), weight)(x, t)
    alpha, sigma = p.rates.alpha.numpy(), p.rates.sigma.numpy()
    good, poor = (torch.from_numpy(law.eps(x.numpy(), alpha, sigma)) for law in (LAW, WIDE))
    return largest(p.eps - (weight * good + (1 - weight) * poor))


def weak_of_another_schedule() -> float:
    """Autoguidance by a weak model of another schedule, asked at the same noise level, against one of the same."""
    x, t = places("cosine")
    inside = SCHEDULES["cosine"].rates(t).noise_level.clamp(0.05, 20)
    t = SCHEDULES["cosine"].time(-2 * inside.log())
    good = Ideal(LAW, SCHEDULES["cosine"])
    same, other = (AutoGuided(good, Ideal(WIDE, SCHEDULES[name]), 2.0)(x, t) for name in ("cosine", "ve"))
    return largest(same.eps - other.eps)


def calls() -> float:
    """Calls at w = 1, at w = 0, outside the interval, without a condition (1 each) and otherwise (2): differences."""
    (x, t), counting = places("cosine"), Counting(told("cosine"))
    asked: list[tuple[Denoise, Cond | None, int]] = [
        (Guided(counting, 1.0), labels(), 1),
        (Guided(counting, 0.0), labels(), 1),
        (Guided(counting, 3.0, (1e6, 1e7)), labels(), 1),
        (Guided(counting, 3.0), None, 1),
        (Guided(counting, 3.0), labels().unconditional(), 1),
        (Guided(counting, 3.0), labels(), 2),
        (AutoGuided(counting, counting, 1.0), labels(), 1),
        (AutoGuided(counting, counting, 2.0), labels(), 2),
    ]
    errors = []
    for d, cond, expected in asked:
        counting.calls = 0
        d(x, t, cond)
        errors.append(counting.calls - expected)
    return worst(*map(abs, errors))


def conditional_samples() -> float:
    """Where 128 Heun steps at w = 1 take noise, against the exact flow of the class's Gaussian."""
    schedule = SCHEDULES["ve"]
    x, t_min = schedule.prior_std * normals(COUNT, 2, seed=3), schedule.rates(schedule.t_min)
    times = UniformLogSnr().times_to_t_min(schedule, 128)
    cond, noise = Cond(labels=torch.full((COUNT,), 1)), NoiseSource.of(seed=0, count=COUNT)
    *_, end = sample(Heun(), Guided(told("ve"), 1.0), x, times, noise=noise, cond=cond)
    start = schedule.rates(1.0)
    exact = LAW.given(1).flow(
        x.numpy(),
        alpha=float(start.alpha),
        sigma=float(start.sigma),
        to_alpha=float(t_min.alpha),
        to_sigma=float(t_min.sigma),
    )
    return largest(end.x - torch.from_numpy(exact))


def threshold() -> float:
    """Dynamic thresholding to [-1, 3] of the values 1 + 2k/10, k = -20 … 20, at the share 0.9: by hand."""
    values = 1 + 2 * torch.arange(-20, 21, dtype=torch.float64) / 10
    schedule = SCHEDULES["cosine"]

    class Fixed:
        def __init__(self) -> None:
            self.schedule = schedule

        def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            return Prediction(x_t, schedule.rates(t), x_t)

    low, high = (torch.tensor(bound, dtype=torch.float64) for bound in (-1, 3))
    p = Thresholded(Fixed(), 0.9, low, high)(values[None], torch.tensor(0.5, dtype=torch.float64))
    s = 1.8  # 37 of 41 values of |k|/10 are at most this: k = -18 … 18
    by_hand = 1 + 2 * ((values - 1) / 2).clamp(-s, s) / s
    return largest(p.x0[0] - by_hand)


CHECKS = (
    *(
        # rounding of eps = (x_t - alpha x0)/sigma down to sigma = e^-10
        Check(
            f"guidance[classifier-free, w={weight:g}, {where}]",
            f"{proves(classifier_free)} (Ho & Salimans 2022)",
            AtMost(1e-9),
            partial(classifier_free, where, weight),
        )
        for weight in (0.0, 0.5, 1.0, 3.0)
        for where in WHERE
    ),
    *(
        Check(f"guidance[{name}, {where}]", f"{proves(measure)} ({paper})", AtMost(1e-9), partial(measure, where))
        for name, measure, paper in (
            ("weights per sample", per_sample, "Ho & Salimans 2022"),
            ("interval", interval, "Kynkäänniemi et al. 2024"),
        )
        for where in WHERE
    ),
    *(
        Check(
            f"guidance[classifier, scale {scale:g}, {where}]",
            f"{proves(by_classifier)} (Dhariwal & Nichol 2021)",
            AtMost(1e-9),
            partial(by_classifier, where, scale),
        )
        for scale in (1.0, 3.0)
        for where in WHERE
    ),
    *(
        Check(
            f"guidance[auto, w={weight:g}, {where}]",
            f"{proves(autoguidance)} (Karras et al. 2024)",
            AtMost(1e-9),
            partial(autoguidance, where, weight),
        )
        for weight in (0.0, 1.0, 2.0)
        for where in WHERE
    ),
    Check("guidance[auto, another schedule]", proves(weak_of_another_schedule), AtMost(1e-9), weak_of_another_schedule),
    Check("guidance[calls]", proves(calls), Near(0, 0), calls),
    # second order: 13 nats in 128 steps leave about h² ≈ 1e-2 times a tenth
    Check("guidance[samples of a class]", proves(conditional_samples), AtMost(2e-3), conditional_samples),
    Check("guidance[dynamic threshold]", f"{proves(threshold)} (Saharia et al. 2022)", AtMost(1e-12), threshold),
)
