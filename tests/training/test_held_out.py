"""The held-out loss is a function of the weights: same examples, noise and levels every time, worked out twice here."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sfumato.core import Denoiser
from sfumato.experiment.session import Session
from sfumato.objectives import Draw, Losses, Objective
from sfumato.training.held_out import HeldOut

Make = Callable[..., Session]


def scorer_of(session: Session, levels: int, **rest: Any) -> HeldOut:
    x0 = session.batches.take(session.data.parts.held_out).x0
    return HeldOut(x0, session.experiment.objective, levels, session.experiment.seed, **rest)


def noise(shape: tuple[int, ...], seed: int, level: int) -> torch.Tensor:
    """N(0, I) for (seed, "held-out", level): SHA-256 of the words, its first 63 bits as a seed."""
    digest = hashlib.sha256(f"{seed}:held-out:{level}".encode()).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1))


def test_an_independent_computation(session: Make) -> None:
    """Velocity on a cosine in the angle: v = alpha eps - sigma x0, input scaled to unit variance, by level and mean."""
    made = session("digits", {"seed": 5})
    denoiser, scorer = made.denoiser.eval(), scorer_of(made, levels=3)
    with torch.no_grad():
        for parameter in denoiser.network.conv_out.parameters():
            parameter.normal_()  # an untrained network answers 0
    found = scorer(denoiser)
    x0 = scorer.x0
    first, last = math.acos(0.995), math.acos(0.02)
    losses, log_snrs = [], []
    for level in range(3):
        t_min = denoiser.schedule.t_min
        t = t_min + (1 - t_min) * (level + 0.5) / 3
        angle = first + t * (last - first)
        alpha, sigma = math.cos(angle), math.sin(angle)
        eps = noise(tuple(x0.shape), 5, level)
        scale = 1 / math.sqrt(alpha**2 * made.data.record.data_std**2 + sigma**2)
        with torch.no_grad():
            v = denoiser.network(scale * (alpha * x0 + sigma * eps), torch.full((len(x0),), sigma**2))
        losses.append((v - (alpha * eps - sigma * x0)).square().flatten(1).mean(1).double())
        log_snrs.append(2 * math.log(alpha / sigma))
    each = torch.stack(losses)
    per_example = each.mean(0)
    # float32 convolutions in two layouts of the same batch
    assert found["held_out_by_level"]["loss"] == pytest.approx(each.mean(1).tolist(), rel=1e-5)
    assert found["held_out_by_level"]["log_snr"] == pytest.approx(log_snrs, abs=1e-9)
    assert found["held_out_loss"] == pytest.approx(float(per_example.mean()), rel=1e-5)
    spread = math.sqrt(float(per_example.var()) / len(per_example))
    assert found["held_out_std_error"] == pytest.approx(spread, rel=1e-4)


def test_it_moves_with_the_weights_alone(session: Make) -> None:
    made = session("digits")
    scorer, denoiser = scorer_of(made, levels=2), made.denoiser.eval()
    before = scorer(denoiser)
    torch.manual_seed(77)
    torch.randn(5)
    assert scorer(denoiser) == before
    state = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    denoiser.train()
    made.step(0)
    assert scorer(denoiser.eval())["held_out_loss"] != before["held_out_loss"]
    denoiser.load_state_dict(state)
    assert scorer(denoiser) == before


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_batches_do_not_matter(batch_size: int, session: Make) -> None:
    made = session("digits")
    denoiser = made.denoiser.eval()
    expected = scorer_of(made, levels=2)(denoiser)
    found = scorer_of(made, levels=2, batch_size=batch_size)(denoiser)
    assert found["held_out_loss"] == pytest.approx(expected["held_out_loss"], rel=1e-6)  # float32 kernels by size


@pytest.mark.parametrize(
    ("levels", "steps"), [(1, [6]), (2, [3, 8]), (5, [2, 4, 6, 8, 10]), (10, range(1, 11)), (99, range(1, 11))]
)
def test_levels_of_a_table_are_steps_of_it(levels: int, steps: Any, session: Make) -> None:
    """T = 10: the step of each cell's middle, and each step once when there are more levels than steps."""
    made = session()
    scorer = scorer_of(made, levels=levels)
    times = scorer.times(made.denoiser.schedule)
    assert (times * 10).tolist() == pytest.approx(list(steps), abs=1e-12)
    assert len(scorer(made.denoiser.eval())["held_out_by_level"]["loss"]) == len(list(steps))


def test_one_example_has_no_standard_error(session: Make) -> None:
    made = session()
    scorer = HeldOut(made.batches.take(torch.tensor([3])).x0, made.experiment.objective, 2, 0)
    assert scorer(made.denoiser.eval())["held_out_std_error"] is None


def test_training_reports_it_for_the_averages(session: Make) -> None:
    """The hook scores the averaged weights, of which the live network knows nothing."""
    made = session("digits")
    for step in range(3):
        made.step(step)
    live = {name: tensor.clone() for name, tensor in made.denoiser.network.state_dict().items()}
    scorer = scorer_of(made, levels=2)
    found = made._evaluate(scorer)
    assert all(tensor.equal(live[name]) for name, tensor in made.denoiser.network.state_dict().items())
    assert found["held_out_loss"] != scorer(made.denoiser.eval())["held_out_loss"]
    made.ema.copy_to(made.denoiser.network)
    assert found == scorer(made.denoiser.eval())


@dataclass(frozen=True, slots=True)
class StepSquared(Objective):
    """k² of the step drawn, k = t T: a term that a few levels cannot stand for."""

    @property
    def whole_chain(self) -> bool:
        return True

    def __call__(self, d: Denoiser, x0: torch.Tensor, draw: Draw, cond: torch.Tensor | None = None) -> Losses:
        return Losses((draw.t * 50).round() ** 2)


@pytest.mark.parametrize("levels", [1, 3, 8, 80])
def test_a_bound_is_looked_at_in_every_step(session: Make, levels: int) -> None:
    chain = {"schedule": "Tabulated", "schedule.steps": 50, "times": "GridTimes", "times.steps": 50}
    made = session("digits", {**chain, "time_input": "StepInput", "time_input.steps": 50})
    x0 = torch.zeros(400, *made.data.record.shape)
    scorer = HeldOut(x0, StepSquared(), levels, 0)
    steps = scorer.times_of_examples(made.denoiser.schedule) * 50
    assert set(steps.round().long().flatten().tolist()) == set(range(1, 51))
    found = scorer(made.denoiser)["held_out_loss"]
    mean = sum(k**2 for k in range(1, 51)) / 50
    assert found == pytest.approx(mean, rel=1e-9 if levels == 1 else 0.02)  # parts of T/K steps are not whole for K = 3


@dataclass(frozen=True, slots=True)
class TimeSquared(Objective):
    """t², whose mean over a span that starts at 1e-5 is (1 - 1e-15)/(3 (1 - 1e-5))."""

    @property
    def whole_chain(self) -> bool:
        return True

    def __call__(self, d: Denoiser, x0: torch.Tensor, draw: Draw, cond: torch.Tensor | None = None) -> Losses:
        return Losses(draw.t.square())


@pytest.mark.parametrize("levels", [1, 3])
def test_a_bound_in_continuous_time_is_looked_at_everywhere(session: Make, levels: int) -> None:
    """The midpoint rule with as many places as examples and levels together: 1/12 of a cell's square off."""
    made = session("digits", {"schedule": "CosineAngle"})
    x0 = torch.zeros(400, *made.data.record.shape)
    found = HeldOut(x0, TimeSquared(), levels, 0)(made.denoiser)["held_out_loss"]
    assert found == pytest.approx((1 - 1e-15) / (3 * (1 - 1e-5)), abs=1 / 12 / (400 * levels) ** 2 * 1.01)
