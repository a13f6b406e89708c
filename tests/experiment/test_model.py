"""Sampling: the bytes of sample i depend on the model, the seed and i. Not on how many, nor in which batch."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato
from sfumato.core import NoiseSource
from sfumato.errors import NumericsError, UsageError
from sfumato.guidance import Clipped, Counting
from sfumato.samplers import Ancestral, Ddim, DormandPrince, sample


@pytest.fixture(scope="module")
def images(digits_run: Path) -> sfumato.Model:
    """A model whose weights are not tiny: six steps of training barely leave zero."""
    model = sfumato.load(digits_run)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.denoiser.network.conv_out.parameters():  # type: ignore[union-attr]
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def points(points_run: Path) -> sfumato.Model:
    return sfumato.load(points_run)


@pytest.fixture(params=["images", "points"])
def model(request: pytest.FixtureRequest) -> sfumato.Model:
    return request.getfixturevalue(request.param)


def array(samples: sfumato.Samples) -> np.ndarray:
    return samples.images if samples.images is not None else samples.values


STOCHASTIC = {"ddim": Ddim(), "ddim eta 1": Ddim(eta=1.0), "ancestral": Ancestral()}


@pytest.mark.parametrize("sampler", STOCHASTIC.values(), ids=STOCHASTIC)
def test_a_sample_is_the_same_bits_in_any_batch(sampler: Any, model: sfumato.Model) -> None:
    """Micro-batches of 16, the last one filled up: 1, 5, 64 and 100 samples begin with the same ones."""
    hundred = array(model.sample(100, sampler=sampler))
    assert len(np.unique(hundred.reshape(100, -1), axis=0)) == 100
    for count in (1, 5, 64):
        assert array(model.sample(count, sampler=sampler)).tobytes() == hundred[:count].tobytes(), count


@pytest.mark.parametrize("sampler", STOCHASTIC.values(), ids=STOCHASTIC)
def test_sample_i_of_a_seed_is_sample_0_of_a_later_one(sampler: Any, model: sfumato.Model) -> None:
    """Up to the place in the micro-batch, which may move float32 by a rounding and a picture by 1/255."""
    many = model.sample(40, sampler=sampler, seed=5)
    assert many.seeds.tolist() == list(range(5, 45))
    for i in (1, 16, 39):
        one = array(model.sample(1, sampler=sampler, seed=5 + i))[0]
        if one.dtype == np.uint8:
            assert np.abs(one.astype(int) - array(many)[i].astype(int)).max() <= 1
        else:
            np.testing.assert_allclose(one, array(many)[i], rtol=0, atol=1e-5)


def test_the_start_is_the_same_bits_for_the_same_seed() -> None:
    like = torch.empty(0)
    batch = NoiseSource.of(seed=5, count=40).initial((40, 1, 8, 8), like=like)
    for i in (0, 1, 39):
        assert NoiseSource.of(seed=5 + i, count=1).initial((1, 1, 8, 8), like=like)[0].equal(batch[i])


def test_samples_are_what_the_samplers_make(images: sfumato.Model) -> None:
    """The pieces put together by hand: noise, grid, clipped denoiser, sampler, and back to 0..255."""
    config = images.settings(steps=7, sampler="ddim")
    like = torch.empty(0)
    noise = NoiseSource.of(seed=2, count=16)
    x = noise.initial((16, 1, 8, 8), like=like).contiguous(memory_format=torch.channels_last)
    times = config.grid.times(images.denoiser.schedule, 7)
    *_, last = sample(Ddim(), Clipped(images.denoiser, torch.tensor(-1.0), torch.tensor(1.0)), x, times, noise=noise)
    expected = ((last.x.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    assert np.abs(images.sample(16, seed=2, steps=7).images.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_steps_are_network_calls(sampler: str, steps: int, points: sfumato.Model, monkeypatch: Any) -> None:
    """E3: exactly that many, at strictly decreasing times, from t = 1 with the trailing grid."""
    counted = Counting(points.denoiser)
    seen: list[float] = []
    real = Counting.__call__

    def watched(self: Counting, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> Any:
        seen.append(float(t))
        return real(self, x, t, cond)

    monkeypatch.setattr(Counting, "__call__", watched)
    monkeypatch.setitem(points.weights, "ema", counted)  # type: ignore[arg-type]
    monkeypatch.setattr(sfumato.Model, "_like", lambda self, denoiser: torch.empty(0))
    points.sample(3, steps=steps, sampler=sampler)
    assert len(seen) == steps
    assert seen[0] == 1.0
    assert all(t > s for t, s in pairwise(seen))


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"steps": 11}, ["11", "10"]),
        ({"steps": 0}, ["steps is 0"]),
        ({"sampler": "dimm"}, ["did you mean", "Ddim"]),
        ({"weights": "both"}, ["both", "ema"]),
        ({"labels": 3}, ["a label", "without labels"]),
        ({"guidance": 2.0}, ["guidance", "without labels"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"seed": 2**62}, ["seed is"]),
    ],
    ids=str,
)
def test_what_cannot_be_sampled(settings: dict[str, Any], parts: list[str], points: sfumato.Model) -> None:
    """E3: more steps than the chain has, and none; E4: labels for a model without."""
    with pytest.raises(UsageError) as caught:
        points.sample(3, **settings)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


def test_no_samples(points: sfumato.Model) -> None:
    with pytest.raises(UsageError, match="0 samples"):
        points.sample(0)


def test_a_continuous_model_takes_any_number_of_steps(images: sfumato.Model) -> None:
    assert images.sample(2, steps=37).images.shape == (2, 8, 8, 1)


def test_progress_counts_the_steps_of_all_batches(points: sfumato.Model) -> None:
    told: list[tuple[int, int]] = []
    points.sample(20, steps=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]


def test_a_path_ends_in_the_sample(model: sfumato.Model) -> None:
    config = model.settings(steps=5)
    path = model.path(3, seed=4, config=config)
    assert path.times[0] == 1.0
    assert path.times[-1] == 0.0
    assert len(path.times) == len(path.states) == 6
    assert len(path.guesses) == 5
    assert path.states[-1].tobytes() == array(model.sample(3, seed=4, config=config)).tobytes()
    with pytest.raises(UsageError, match="at most one micro-batch, 16"):
        model.path(17)


def test_bfloat16_is_asked_for(images: sfumato.Model) -> None:
    """Off by itself, whatever the training did; when asked for, the picture stays within its eight bits."""
    from dataclasses import replace

    config = images.experiment.sampling
    assert config.precision == "float32"
    exact = images.sample(8, config=config).images.astype(int)
    rough = images.sample(8, config=replace(config, precision="bfloat16")).images.astype(int)
    assert 0 < np.abs(exact - rough).mean() < 8


def test_samples_that_are_not_finite_are_refused(digits_run: Path) -> None:
    """E10: not a black picture."""
    model = sfumato.load(digits_run)
    with torch.no_grad():
        model.denoiser.network.conv_out.bias.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(NumericsError, match=re.escape("3 of 3 samples are not finite")):
        model.sample(3)


@pytest.mark.parametrize(
    "call",
    [{"n": "3"}, {"n": 2.5}, {"n": True}, {"n": 0}, {"n": 1, "seed": "a"}, {"n": 1, "seed": 0.5}, {"n": 1, "seed": -1}],
    ids=str,
)
def test_calls_that_cannot_be_meant_are_refused_in_words_for_both(call: dict[str, Any], points_run: Path) -> None:
    """A remedy for Python, with the option of the command in brackets."""
    with pytest.raises(UsageError) as caught:
        sfumato.load(points_run).sample(**call)
    assert repr(list(call.values())[-1]) in caught.value.what
    assert caught.value.fix in ("ask for 1 or more (-n 36)", "choose a seed such as 0 (--seed 0)")


def test_numpy_counts_too(points_run: Path) -> None:
    model = sfumato.load(points_run)
    assert np.array_equal(model.sample(np.int64(2), seed=np.int32(3)).values, model.sample(2, seed=3).values)


def test_a_model_prints_in_one_short_line(points_run: Path) -> None:
    model = sfumato.load(points_run)
    count = sum(p.numel() for p in model.denoiser.network.parameters())
    assert repr(model) == f"Model(swiss-roll: {count:,} parameters for 2, 6 steps of training)"


def test_an_adaptive_sampler_takes_no_steps_and_says_its_calls(points: sfumato.Model) -> None:
    """The steps of the run do not hinder it; steps asked for do."""
    drawn = points.sample(20, sampler="dormandprince")
    assert drawn.calls.shape == (20,)
    assert drawn.calls.min() >= 2 + 6 + 1  # the start, at least one step, x0 at t_min
    assert (points.sample(3, steps=7).calls == 7).all()
    with pytest.raises(UsageError, match="steps 50 were asked of the sampler DormandPrince") as refused:
        points.sample(4, sampler="dormandprince", steps=50)
    assert refused.value.exit_code == 2
    with pytest.raises(UsageError, match="chooses its own"):
        points.sample(4, sampler=DormandPrince(), steps=50)


def test_an_adaptive_sampler_does_not_care_for_its_batch(points: sfumato.Model) -> None:
    many, few = points.sample(30, sampler="dormandprince"), points.sample(5, sampler="dormandprince")
    assert array(many)[:5].tobytes() == array(few).tobytes()
    assert many.calls[:5].tolist() == few.calls.tolist()


def test_the_path_of_an_adaptive_sampler_is_seen_at_the_times_of_the_grid(points: sfumato.Model) -> None:
    """It ends where the sampler does that goes all the way at once, within the tolerances."""
    config = points.settings(sampler=DormandPrince(rtol=1e-5, atol=1e-5))
    path = points.path(4, config=config)
    assert len(path.states) == config.steps + 1
    ends = array(points.sample(4, config=config))
    assert np.allclose(path.states[-1], ends, atol=1e-2 * np.abs(ends).max())  # float32, 50 restarts
