"""Latents of a model: what goes in comes out, ends of a path are the samples of their seeds, noise is refused."""

from pathlib import Path

import numpy as np
import pytest

import sfumato
from sfumato.errors import DataError, UsageError
from sfumato.samplers import Ancestral, Ddim


def test_examples_come_back_and_more_steps_bring_them_closer(digits_run: Path) -> None:
    model = sfumato.load(digits_run)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    coarse, fine = (model.encode(images, steps=steps, sampler=Ddim()) for steps in (8, 64))
    assert fine.latents.shape == (3, 1, 8, 8)
    assert (fine.rms < coarse.rms / 3).all()  # first order each way: about 8 times closer
    best = model.encode(images, steps=64)
    assert (best.rms < 1e-3).all()  # Heun's, the default
    back = model.decode(best.latents, steps=64).astype(int)
    assert np.abs(back - images).max() <= 1  # 1e-3 of [-1, 1] is an eighth of a level


def test_points_of_a_table_come_back(points_run: Path) -> None:
    model = sfumato.load(points_run)
    x = np.array([[0.1, 0.2], [-0.5, 0.3]], dtype=np.float32)
    found = model.encode(x, steps=9)
    scale = np.array(model.record.normalization.scale)
    apart = (model.decode(found.latents, steps=9) - x) / scale
    np.testing.assert_allclose(np.sqrt((apart**2).mean(1)), found.rms, rtol=1e-3, atol=1e-6)  # float32 states


def test_the_ends_of_a_path_are_the_samples_of_their_seeds(digits_run: Path) -> None:
    model = sfumato.load(digits_run)
    path = model.interpolate(3, 7, 5, sampler="ddim")
    assert path.shape == (5, 8, 8, 1)
    for end, seed in ((0, 3), (-1, 7)):
        sampled = model.sample(1, seed=seed, sampler="ddim").images
        assert sampled is not None
        assert np.abs(path[end].astype(int) - sampled[0]).max() <= 1  # slerp rounds in float32


def test_samplers_go_by_name_too(digits_run: Path) -> None:
    model = sfumato.load(digits_run)
    images = np.zeros((1, 8, 8, 1), np.uint8)
    named, given = (model.encode(images, steps=3, sampler=sampler).latents for sampler in ("ddim", Ddim()))
    np.testing.assert_array_equal(named, given)
    decoded = [model.decode(given, steps=3, sampler=sampler) for sampler in ("ddim", Ddim())]
    np.testing.assert_array_equal(*decoded)
    with pytest.raises(UsageError, match="adds fresh noise"):
        model.encode(images, sampler="ancestral")


def test_what_cannot_be_is_refused(digits_run: Path) -> None:
    model = sfumato.load(digits_run)
    with pytest.raises(UsageError, match="seed is -5"):
        model.interpolate(-5, 1)
    with pytest.raises(UsageError, match="adds fresh noise"):
        model.encode(np.zeros((1, 8, 8, 1), np.uint8), sampler=Ancestral())
    with pytest.raises(UsageError, match="deterministic"):
        model.interpolate(0, 1, sampler="ancestral")
    with pytest.raises(UsageError, match="latents of shape"):
        model.decode(np.zeros((1, 8, 8, 1), np.float32))
    with pytest.raises(DataError):
        model.encode(np.zeros((1, 9, 9, 1), np.uint8))


def test_the_round_trip_is_a_metric(digits_run: Path) -> None:
    found = sfumato.evaluate(digits_run, "round_trip").metrics
    assert 0 < found["round_trip[heun]"].value < found["round_trip[ddim]"].value
