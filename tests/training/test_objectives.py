"""Training serves any objective: further draws where it asks for them, its own gradients where it takes them."""

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sfumato.core import Cond, Denoiser, LossAwareTimes, LossMemory, marginal
from sfumato.core.rates import spread
from sfumato.experiment.session import Session
from sfumato.objectives import Draw, Losses, Objective
from sfumato.training.held_out import HeldOut

Make = Callable[..., Session]


class Probing(Objective):
    """(v·F - v'·x0)², with two probes; its value needs the gradient of the output with respect to the input."""

    @property
    def num_probes(self) -> int:
        return 2

    def __call__(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> Losses:
        one, other = draw.probes
        r = d.schedule.rates(draw.t)
        with torch.enable_grad():
            x_t = marginal(x0, r).sample(draw.eps).detach().requires_grad_(True)
            output = d.output(x_t, r, cond)
            (product,) = torch.autograd.grad((output * one).sum(), x_t, create_graph=True)
            values = ((product * other).flatten(1).sum(1) - (one * output).flatten(1).sum(1)).square()
        return Losses(spread(draw.inv_density, values) * values)


def normals(shape: tuple[int, ...], *words: object) -> Tensor:
    """N(0, I) for the words: SHA-256 of them, its first 63 bits as a seed."""
    digest = hashlib.sha256(":".join(map(str, words)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("parts", [1, 4])
def test_probes_are_slices_of_one_draw(parts: int, session: Make) -> None:
    """Further normals for (seed, "probe", step, k), cut like eps; they share nothing with it, nor with one another."""
    made = session(settings={"training.accumulate": parts, "seed": 3})
    made.step.objective = Probing()
    draws = [draw for _, draw in made.step.parts(5)]
    assert len(draws) == parts
    for k in range(2):
        whole = torch.cat([draw.probes[k] for draw in draws])
        assert whole.equal(normals((8, 2), 3, "probe", 5, k))


def test_an_objective_without_probes_draws_none(session: Make) -> None:
    assert all(draw.probes == () for _, draw in session().step.parts(0))


def test_a_step_trains_through_the_gradient_of_the_input(session: Make) -> None:
    made = session(settings={"training.warmup_steps": 1})
    made.step.objective = Probing()
    before = [p.detach().clone() for p in made.step.parameters]
    made.step(0)
    # every layer moves; the output's bias alone can be left by a product of derivatives and of outputs near 0
    assert sum(not p.equal(old) for p, old in zip(made.step.parameters, before, strict=True)) >= len(before) - 1
    assert "largest loss" in made.step._worst_example(1)


def test_held_out_probes_are_always_the_same(session: Make) -> None:
    """Scored without gradients, where the objective takes its own; noise for (seed, "held-out-probe", level, k)."""
    made = session(settings={"seed": 4})
    x0 = made.batches.take(made.data.parts.held_out[:3]).x0
    denoiser = made.denoiser.eval().requires_grad_(False)
    found = HeldOut(x0, Probing(), 2, 4, batch_size=2)(denoiser)
    for level, t in enumerate((0.3, 0.8)):
        eps = normals((3, 2), 4, "held-out", level)
        probes = tuple(normals((3, 2), 4, "held-out-probe", level, k) for k in range(2))
        ones = torch.ones(3, dtype=torch.float64)
        values = Probing()(denoiser, x0, Draw(t * ones, eps, ones, probes)).values
        # batches of two and one against one of three: the order of float32 sums
        assert found["held_out_by_level"]["loss"][level] == pytest.approx(float(values.mean().detach()), rel=1e-5)


def test_what_is_remembered_is_the_loss_itself(session: Make) -> None:
    """Without the density that it was drawn with: mean (eps_hat - eps)² of each example at its step, in batch order."""
    made = session(settings={"times": LossAwareTimes(history=2), "training.accumulate": 2})
    step, memory = made.step, made.step.memory
    assert memory is not None
    k = 0
    while int(memory.seen.min()) < 2:  # uniform until then
        step(k)
        k += 1
    parts = list(step.parts(k))
    assert any(float((draw.inv_density - 1).abs().max()) > 0.1 for _, draw in parts)
    expected = LossMemory(bins=10, history=2, start=0.0)
    expected.restore({name: tensor.clone() for name, tensor in memory.state().items()})
    for batch, draw in parts:
        r = made.denoiser.schedule.rates(draw.t)
        x_t = spread(r.alpha, draw.eps) * batch.x0 + spread(r.sigma, draw.eps) * draw.eps
        with torch.no_grad():
            losses = (made.denoiser.output(x_t, r) - draw.eps).square().mean(1)
        expected.add(draw.t, losses)
    step(k)
    assert memory.seen.equal(expected.seen)
    # multiplied and divided by the density again, in float32
    torch.testing.assert_close(memory.losses, expected.losses, rtol=1e-5, atol=0)
