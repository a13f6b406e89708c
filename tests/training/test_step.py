"""A training step is arithmetic on a draw: held against AdamW written out, against its own parts, and against NaN."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.core import derived_generator
from sfumato.errors import NumericsError
from sfumato.experiment.session import Session
from sfumato.training.ema import bare_state
from sfumato.training.settings import TrainingConfig
from sfumato.training.step import TrainStep, learning_rate
from sfumato.training.trainer import flatten_optimizer

Make = Callable[..., Session]


def everything(step: TrainStep) -> dict[str, Tensor]:
    """A copy of all that a step may change."""
    parts = {"model": bare_state(step.denoiser.network), "ema": step.ema.state_dict(), "adam": flatten_optimizer(step)}
    return {f"{part}.{name}": tensor.clone() for part, found in parts.items() for name, tensor in found.items()}


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    assert [name for name in expected if not found[name].equal(expected[name])] == []


@pytest.mark.parametrize(
    ("decay", "warmup", "rates"),
    [
        ("constant", 4, {0: 0.025, 1: 0.05, 2: 0.075, 3: 0.1, 4: 0.1, 13: 0.1}),
        ("constant", 0, {0: 0.1, 13: 0.1}),
        ("cosine", 4, {0: 0.025, 3: 0.1, 4: 0.1, 9: 0.05, 13: 0.05 * (1 - math.cos(0.1 * math.pi))}),
        ("cosine", 0, {0: 0.1, 7: 0.05, 13: 0.05 * (1 - math.cos(math.pi / 14))}),
        ("cosine", 14, {0: 0.1 / 14, 13: 0.1}),  # all of it is warm-up
    ],
)
def test_learning_rate(decay: Any, warmup: int, rates: dict[int, float]) -> None:
    """Values worked out by hand for 14 steps of a peak of 0.1; cos(0.9 pi) = -cos(0.1 pi)."""
    settings = TrainingConfig(steps=14, warmup_steps=warmup, decay=decay, learning_rate=0.1)
    for step, rate in rates.items():
        assert learning_rate(settings, step) == pytest.approx(rate, rel=1e-12), step
    assert all(0 < learning_rate(settings, step) <= 0.1 for step in range(14))  # no step is wasted


@pytest.mark.parametrize("clip", [0.05, 1e6, None])
def test_three_steps_of_adamw_written_out(clip: float | None, session: Make) -> None:
    """w <- w - lr (wd w + m̂ / (sqrt(v̂) + 1e-8)), gradients scaled to the norm `clip` where they exceed it."""
    made = session(settings={"training.clip_norm": clip, "training.weight_decay": 0.1})
    step, settings = made.step, made.experiment.training
    weights = {n: p.detach().double().clone() for n, p in made.denoiser.network.named_parameters()}
    first = {n: torch.zeros_like(w) for n, w in weights.items()}
    second = {n: torch.zeros_like(w) for n, w in weights.items()}
    shadow = {n: w.clone() for n, w in weights.items()}
    for k in range(3):
        gradients, loss = gradients_of(made, k)
        result = step(k)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        assert float(result.loss) == pytest.approx(loss, rel=1e-6)
        assert float(result.grad_norm) == pytest.approx(norm, rel=1e-6)  # before clipping
        scale = 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))
        rate = settings.learning_rate * min(1.0, (k + 1) / settings.warmup_steps)
        for name, gradient in gradients.items():
            g = gradient.double() * scale
            first[name].lerp_(g, 0.1)
            second[name].lerp_(g * g, 0.001)
            m, v = first[name] / (1 - 0.9 ** (k + 1)), second[name] / (1 - 0.999 ** (k + 1))
            weights[name] -= rate * (0.1 * weights[name] + m / (v.sqrt() + 1e-8))
            shadow[name].lerp_(weights[name], 1 - min(0.9, (1 + k) / (10 + k)))
    for name, parameter in made.denoiser.network.named_parameters():
        # float32 against float64; Adam divides by sqrt(v), so a gradient's rounding reaches the weight times lr
        torch.testing.assert_close(parameter.detach().double(), weights[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(step.ema.state_dict()[name].double(), shadow[name], rtol=1e-5, atol=1e-6)


def gradients_of(made: Session, k: int) -> tuple[dict[str, Tensor], float]:
    """The gradient of the mean loss of step k, from the formula for noise prediction: mean over (eps_hat - eps)²."""
    step, size = made.step, made.experiment.training.batch_size
    drawn = step.times.draw(made.denoiser.schedule, size, derived_generator(made.experiment.seed, "times", k))
    eps = torch.randn((size, 2), generator=derived_generator(made.experiment.seed, "noise", k))
    x0 = step.batches.batch(k).x0
    rates = made.denoiser.schedule.rates(drawn.t)
    alpha, sigma = rates.alpha.float()[:, None], rates.sigma.float()[:, None]
    out = made.denoiser.network(alpha * x0 + sigma * eps, (drawn.t * 10 - 1).float())
    loss = (out - eps).square().mean()
    names, parameters = zip(*made.denoiser.network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    return dict(zip(names, found, strict=True)), float(loss.detach())


def test_what_dropout_drops_is_a_function_of_seed_step_and_process(session: Make) -> None:
    """Seen by a network that draws as its dropout would, whatever was drawn before."""

    def drawn(k: int, **settings: Any) -> Tensor:
        made, seen = session(settings=settings), []
        made.step.denoiser.network.register_forward_pre_hook(lambda *_: seen.append(torch.rand(8)))
        torch.rand(k + 3)  # disturbs the generator
        made.step(k)
        return seen[0]

    assert drawn(1).equal(drawn(1))
    assert len({tuple(drawn(k, **{"seed": seed}).tolist()) for k in (0, 1, 2) for seed in (0, 1)}) == 6
    step, of_process = session().step, []
    for rank in (0, 1):
        step.engine = SimpleNamespace(rank=rank, device=torch.device("cpu"))  # type: ignore[assignment]
        step._seed_dropout(1)
        of_process.append(torch.rand(8))
    assert of_process[0].equal(drawn(1))
    assert not of_process[1].equal(of_process[0])


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulated_parts_make_the_same_step(parts: int, session: Make) -> None:
    """k parts of B/k are one batch of B: without batch norm, up to the order of summation."""
    whole, split = session().step, session(settings={"training.accumulate": parts}).step
    for k in range(5):
        one, other = whole(k), split(k)
        assert float(one.loss) == pytest.approx(float(other.loss), abs=1e-5)
        assert float(one.grad_norm) == pytest.approx(float(other.grad_norm), abs=1e-5)
    for name, tensor in everything(whole).items():
        torch.testing.assert_close(everything(split)[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("data", ["points", "digits"])
def test_parts_are_slices_of_one_draw(data: str, session: Make) -> None:
    """Bitwise, mirrored pictures included."""
    [(batch, draw)] = session(data).step.parts(9)
    parts = list(session(data, {"training.accumulate": 4}).step.parts(9))
    assert len(parts) == 4
    assert torch.cat([b.x0 for b, _ in parts]).equal(batch.x0)
    assert torch.cat([b.indices for b, _ in parts]).equal(batch.indices)
    assert torch.cat([d.eps for _, d in parts]).equal(draw.eps)
    assert torch.cat([d.t for _, d in parts]).equal(draw.t)


def test_a_step_depends_on_its_number_and_not_on_the_past(session: Make) -> None:
    """The global generator, and whatever was drawn before, do not matter."""
    one, other = session("digits").step, session("digits").step
    one(4)
    torch.manual_seed(99)
    list(other.parts(17))
    other(4)
    assert_same_bits(everything(other), everything(one))


def poison(step: TrainStep, value: float) -> Any:
    """Make one number of one gradient not finite."""

    def spoiled(gradient: Tensor) -> Tensor:
        spoiled = gradient.clone()
        spoiled.view(-1)[0] = value
        return spoiled

    return step.parameters[0].register_hook(spoiled)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("data", ["points", "digits"])
def test_on_a_device_a_bad_gradient_changes_nothing(data: str, value: float, session: Make) -> None:
    """Weights, moments, counters and averages keep their bits, the host is not waited for, and the flag tells later.

    The CPU's fused AdamW honours the flag like CUDA's, so that the path can be walked here. What batch norm saw is not
    undone: the forward pass was finite.
    """
    clean, step = session(data).step, session(data).step
    for either in (clean, step):
        either.on_host = False
        either(0)
        either.check(1)
    handle = poison(step, value)
    before = everything(step)
    step(1)
    after = everything(step)
    handle.remove()
    changed = {name for name in before if not after[name].equal(before[name])}
    assert all("running" in name or "num_batches" in name for name in changed if name.startswith("model."))
    assert not any(name.startswith(("adam.", "ema.")) for name in changed)
    assert (len(changed) == 0) is (data == "points")
    with pytest.raises(NumericsError, match="1 of the steps before step 2 had a non-finite gradient"):
        step.check(2)
    if data == "points":  # without buffers the next step is the one that it would have been
        clean.ema._calls += 1  # a skipped call counts, on the host, for the warm-up of the average
        clean(2)
        step(2)
        assert_same_bits(everything(step), everything(clean))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("parts", [1, 4])
def test_on_the_host_a_bad_gradient_stops_the_run(parts: int, value: float, session: Make) -> None:
    step = session(settings={"training.accumulate": parts}).step
    step(0)
    poison(step, value)
    before = everything(step)
    with pytest.raises(NumericsError, match=r"step 2: loss \d.*gradient norm (nan|inf); largest loss"):
        step(1)
    assert_same_bits(everything(step), before)
