"""Editing against closed forms: a model whose network is the exact denoiser of a Gaussian field of 4 x 4 pictures.

What posterior sampling should give is then known; known pixels, consistency and the ends of paths are exact.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sfumato
from sfumato import Colourise, Deblur, Inpaint, Upscale, Vary
from sfumato.condition import Condition
from sfumato.core import Denoiser, Noise, NoiseVarianceInput, VpSde
from sfumato.data import Normalization
from sfumato.errors import SfumatoError, UsageError
from sfumato.experiment.build import DataRecord
from sfumato.experiment.config import Experiment, SamplingConfig
from sfumato.experiment.edits import Moments, Repaint, psnr
from sfumato.experiment.edits.plans import Window
from sfumato.guidance import Blur, Downsampling, Grey, Holes, LowResolution
from sfumato.samplers import Dpmpp2M, UniformLogSnr
from sfumato.verify import oracles

SIDE = 4
PLACES = np.stack(np.meshgrid(range(SIDE), range(SIDE), indexing="ij"), -1).reshape(-1, 2)
FIELD = 0.06 * np.exp(-((PLACES[:, None] - PLACES[None]) ** 2).sum(-1) / 4.5) + 0.004 * np.eye(16)


class LinearNetwork(nn.Module):
    """E[eps | x_t] of N(mean, cov) pictures (C, 4, 4), padded or not, from c_in x_t and sigma²; differentiable."""

    def __init__(self, mean: np.ndarray, cov: np.ndarray, data_std: float) -> None:
        super().__init__()
        values, axes = np.linalg.eigh(cov)
        self.mean, self.values, self.axes = (torch.from_numpy(np.array(each)) for each in (mean, values, axes))
        self.data_std = data_std
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        var = time.double().expand(len(x))[:, None]
        alpha = (1 - var).sqrt()
        x_t = x.double().flatten(1) * (alpha**2 * self.data_std**2 + var).sqrt()
        kept = alpha * self.values / (alpha**2 * self.values + var)
        x0 = self.mean + ((x_t - alpha * self.mean) @ self.axes * kept) @ self.axes.T
        return ((x_t - alpha * x0) / var.sqrt()).reshape(x.shape).to(x.dtype)


def gaussian(channels: int = 1, *, pad: bool = False, steps: int = 24) -> sfumato.Model:
    """A model of Gaussian pictures, colours alike; with `pad` pictures of 2 x 4 within 4 x 4."""
    cov = np.kron(0.3 * np.eye(channels) + 0.7, FIELD)
    mean = 0.1 * np.cos(np.arange(len(cov)))
    std = float(np.sqrt(np.diag(cov).mean()))
    size, padded = ((2, SIDE), (SIDE, SIDE)) if pad else ((SIDE, SIDE), None)
    normalization = Normalization("range", (127.5,) * channels, (127.5,) * channels, size, padded)
    shape = (channels, SIDE, SIDE)
    record = DataRecord(shape, True, std, normalization, None, (), "none", 10, 2, ())
    experiment = Experiment(
        sampling=SamplingConfig(sampler=Dpmpp2M(), grid=UniformLogSnr(), steps=steps, micro_batch=64)
    )
    network = LinearNetwork(mean, cov, std)
    denoiser = Denoiser(network, VpSde(), Noise(), time_input=NoiseVarianceInput(), data_std=std)
    return sfumato.Model(experiment, record, {"ema": denoiser.requires_grad_(False).eval()}, "none", 1)


def law_of(model: sfumato.Model) -> oracles.GaussianOracle:
    network: Any = model.denoiser.network
    cov = network.axes @ torch.diag(network.values) @ network.axes.T
    return oracles.GaussianOracle(network.mean.numpy().reshape(model.record.shape), cov.numpy())


def pictures(model: sfumato.Model, count: int = 2) -> np.ndarray:
    return np.ascontiguousarray(model.sample(count, seed=90).images)


LEFT = np.zeros((SIDE, SIDE), bool)
LEFT[1:, 2:] = True


def against_posterior(model: sfumato.Model, found: np.ndarray, operator: Any, y: np.ndarray, noise: float) -> None:
    """Means within 4.5 standard errors and the trace of the covariance within its sampling error."""
    law, count = law_of(model), len(found)
    units = torch.eye(law.mean.size, dtype=torch.float64).reshape(-1, *model.record.shape)
    matrix = operator(units).flatten(1).T.numpy()
    exact = oracles.posterior(law, matrix, y, noise / 127.5)
    x = (found.transpose(0, 3, 1, 2).reshape(count, -1) / 127.5) - 1
    rounding = (1 / 127.5) ** 2 / 12
    error = np.sqrt((np.diag(exact.cov).clip(0) + rounding) / count)
    # 0.01: 24 steps of Heun, from a schedule that starts with a signal of 0.02; 40 standard errors of pixels known
    assert (np.abs(x.mean(0) - exact.mean.reshape(-1)) < 4.5 * error + 0.01).all()
    ratio = x.var(0).sum() / np.trace(exact.cov)
    assert 0.75 < ratio < 1.3, ratio  # 160 samples of a few directions: 6 % each way, and the steps


def test_inpainting_draws_the_conditional_law() -> None:
    model = gaussian()
    given = pictures(model, 1)
    found = model.edit(Inpaint(given, LEFT), 160)
    assert found.images.shape == (1, 160, 4, 4, 1)
    known = torch.from_numpy(~LEFT)
    y = ((given[0, ..., 0] / 127.5 - 1) * ~LEFT).reshape(-1)
    against_posterior(model, found.images[0], lambda x: x * known, y, 0.0)
    assert (found.images[0][:, ~LEFT] == given[0][~LEFT]).all()
    assert (found.shown[0][LEFT] == 128).all()
    assert found.method == "moments"


def test_upscaling_draws_the_conditional_law_and_agrees_with_what_was_given() -> None:
    model = gaussian()
    small = Upscale(pictures(model, 1), 2).degraded(model.record)
    assert small.pictures.shape == (1, 2, 2, 1)
    found = model.edit(small, 160)
    y = (small.pictures / 127.5 - 1).reshape(-1)
    against_posterior(model, found.images[0], Downsampling(2).apply, y, 0.0)
    means = found.images[0].reshape(160, 2, 2, 2, 2).mean(axis=(2, 4))
    assert np.abs(means - small.pictures[0, ..., 0]).max() < 0.6  # four values rounded, each by half a level at most


def test_noise_is_what_the_pictures_are_off() -> None:
    """Known pixels are measurements then: they are not pasted, and drawn nearer to the law of the data."""
    model = gaussian()
    given = pictures(model, 1)
    found = model.edit(Inpaint(given, LEFT), 160, noise=20)
    known = torch.from_numpy(~LEFT)
    y = ((given[0, ..., 0] / 127.5 - 1) * ~LEFT).reshape(-1)
    against_posterior(model, found.images[0], lambda x: x * known, y, 20.0)
    assert not (found.images[0][:, ~LEFT] == given[0][~LEFT]).all()
    degraded = Upscale(given.repeat(50, axis=0), 2)
    apart = degraded.degraded(model.record, noise=5, seed=3).pictures - degraded.degraded(model.record).pictures * 1.0
    assert abs(apart.std() - 5) < 1  # 200 values: 5 %; and rounding


def test_colours_and_sharpness_are_drawn_given_what_is_left() -> None:
    model = gaussian(3)
    grey = Colourise(pictures(model, 1)).degraded(model.record)
    found = model.edit(grey, 60)
    luma = found.images[0] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma - grey.pictures[0, ..., 0]).max() < 1.01  # three values rounded by half a level, and the given
    blurred = Deblur(pictures(gaussian(), 2), 0.8).degraded(gaussian().record)
    sharp = gaussian().edit(blurred, 2).images
    again = Deblur(sharp[:, 0], 0.8).degraded(gaussian().record)
    assert np.abs(again.pictures.astype(int) - blurred.pictures).max() <= 4  # noise of a level is assumed
    whole = gaussian(3).edit(Colourise(pictures(model, 1)), 2)
    assert whole.shown.shape == (1, 4, 4, 1)


@pytest.mark.parametrize("method", ["pigdm", "dps", "repaint"])
def test_other_methods_fill_in_something_like_it(method: str) -> None:
    """They are approximate (docs/guidance.md says how far off): nearer than the data's own law, which knows nothing."""
    model = gaussian()
    given = pictures(model, 1)
    chosen = Repaint(3) if method == "repaint" else method
    steps = 60 if method == "dps" else 20
    found = model.edit(Inpaint(given, LEFT), 32, method=chosen, steps=steps).images[0]
    assert (found[:, ~LEFT] == given[0][~LEFT]).all()
    law, known = law_of(model), np.diag((~LEFT).reshape(-1).astype(float))
    y = ((given[0, ..., 0] / 127.5 - 1) * ~LEFT).reshape(-1)
    exact = oracles.posterior(law, known, y, 0.0)
    hidden = LEFT.reshape(-1)
    mean = (found.reshape(32, -1) / 127.5 - 1).mean(0)
    apart, ignorant = (np.linalg.norm((m - exact.mean.reshape(-1))[hidden]) for m in (mean, law.mean.reshape(-1)))
    assert apart < 0.5 * ignorant, (apart, ignorant)


def test_padded_pictures_are_measured_within_their_window() -> None:
    model = gaussian(pad=True)
    given = pictures(model, 1)
    assert given.shape == (1, 2, 4, 1)
    mask = np.zeros((2, 4), bool)
    mask[:, 3] = True
    found = model.edit(Inpaint(given, mask), 160)
    assert (found.images[0][:, ~mask] == given[0][~mask]).all()
    law, inside = law_of(model), np.zeros((4, 4), bool)
    inside[1:3] = ~mask
    rows = np.eye(16)[inside.reshape(-1)]
    exact = oracles.posterior(law, rows, given[0, ..., 0][~mask] / 127.5 - 1, 0.0)
    hidden = np.zeros((4, 4), bool)
    hidden[1:3] = mask
    mean = (found.images[0][:, mask] / 127.5 - 1).mean(0)[..., 0]
    error = np.sqrt(np.diag(exact.cov)[hidden.reshape(-1)] / 160)
    assert (np.abs(mean - exact.mean.reshape(-1)[hidden.reshape(-1)]) < 4.5 * error + 0.01).all()
    window = Window(Downsampling(2), (2, 4), (1, 0), (4, 4))
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((3, 1, 4, 4), (3, 1, 1, 2)))
    assert float((window.apply(x) * y).sum()) == pytest.approx(float((x * window.adjoint(y)).sum()), abs=1e-12)


def test_variations_of_no_strength_are_the_picture_and_of_full_strength_samples() -> None:
    model = gaussian()
    given = pictures(model)
    assert (model.edit(Vary(given, 1e-6), 2).images == given[:, None]).all()
    apart = [np.abs(model.edit(Vary(given, s)).images[:, 0] - given.astype(float)).mean() for s in (0.05, 0.3, 0.9)]
    assert apart[0] < apart[1] < apart[2]
    full = model.edit(Vary(given, 1.0), 3).images
    start = float(model.denoiser.schedule.rates(1.0).alpha)
    sampled = np.concatenate([model.sample(3, seed=1000 * p).images for p in range(2)])
    # the signal left at t = 1, alpha x0, is all that tells them apart
    assert np.abs(full.reshape(6, 4, 4, 1).astype(int) - sampled).max() <= 1 + 2 * 127.5 * start
    schedule, std = model.denoiser.schedule, model.record.data_std
    r = schedule.rates(float(Vary(given, 0.3).start(schedule, std) or 0))
    assert float(r.sigma / (r.sigma + r.alpha * std)) == pytest.approx(0.3)


def test_ends_of_a_path_are_the_pictures_and_the_samples() -> None:
    model = gaussian()
    given = pictures(model, 1)[0]
    path = model.interpolate(given, 7, 3, steps=40)
    assert np.abs(path[0].astype(int) - given).max() <= 1
    sampled = model.sample(1, seed=7, steps=200).images
    assert sampled is not None
    assert np.abs(path[2].astype(int) - sampled[0]).max() <= 3  # another grid, which ends at t_min
    seeds = model.interpolate(3, 7, 3)
    assert np.abs(seeds[2].astype(int) - model.sample(1, seed=7).images[0]).max() <= 1  # type: ignore[index]
    with pytest.raises(UsageError, match="guidance"):
        model.interpolate(given, 7, 3, guidance=2)


def test_bytes_do_not_depend_on_how_many_pictures_there_are() -> None:
    model = gaussian(steps=4)
    given = pictures(model, 6)
    many = model.edit(Inpaint(given, LEFT), 3, seed=5)
    few = model.edit(Inpaint(given[:1], LEFT), 3, seed=5)
    assert few.images.tobytes() == many.images[:1].tobytes()
    assert many.samples.seeds.tolist() == [5 + 1000 * p + v for p in range(6) for v in range(3)]
    later = model.edit(Inpaint(given[4:5], LEFT), 3, seed=4005)
    assert np.abs(later.images.astype(int) - many.images[4:5]).max() <= 1  # elsewhere in a micro-batch
    assert len({image.tobytes() for image in many.images.reshape(-1, 16)}) == 18
    masks = np.stack([LEFT if p % 2 else LEFT.T for p in range(6)])
    each = model.edit(Inpaint(given, masks), 1).images[:, 0]
    assert all((each[p][~masks[p]] == given[p][~masks[p]]).all() for p in range(6))


def test_refusals_say_what_would_do(points_run: Path) -> None:
    model, colour = gaussian(), gaussian(3)
    given = pictures(model)
    wrong: dict[str, Any] = {
        "hides nothing": Inpaint(given, np.zeros((4, 4), bool)),
        "hides all": Inpaint(given, np.ones((4, 4), bool)),
        "a mask of shape": Inpaint(given, np.zeros((5, 4), bool)),
        "type uint8 for 2 pictures": Inpaint(given, np.zeros((4, 4), np.uint8)),
        "upscale by 3": Upscale(given, 3),
        "upscale: pictures of shape": Upscale(given, 2),
        "std is 0": Deblur(given, 0),
        "colourise by a model of pictures with 1 channel": Colourise(given),
        "strength is 0": Vary(given, 0),
        "strength is 1.5": Vary(given, 1.5),
        "vary: pictures of shape": Vary(given[:, :3], 0.5),
    }
    for match, task in wrong.items():
        with pytest.raises(UsageError, match=match):
            model.edit(task)
    fine = Inpaint(given, LEFT)
    asked: dict[str, dict[str, Any]] = {
        "there is no method momnts": {"method": "momnts"},
        "without pictures to go by": {"method": "condition"},
        "0 variants": {"n": 0},
        "noise is -1": {"noise": -1},
        "repaint was asked": {"method": "repaint", "noise": 3},
        "dps by DormandPrince": {"method": "dps", "sampler": "dormand-prince"},
        "seed is -1": {"seed": -1},
        "a label was given": {"labels": 3},
        "guidance was given": {"guidance": 2},
    }
    for match, options in asked.items():
        with pytest.raises(UsageError, match=match):
            model.edit(fine, **options)
    with pytest.raises(UsageError, match="did you mean moments"):
        model.edit(fine, method="momnts")
    with pytest.raises(UsageError, match="a method or a noise"):
        model.edit(Vary(given, 0.5), method="moments")
    with pytest.raises(UsageError, match="repaint was asked"):
        colour.edit(Colourise(pictures(colour)), method=Repaint(2))
    with pytest.raises(UsageError, match="model of points"):
        sfumato.load(points_run).edit(fine)
    for settings in (lambda: Moments(0), lambda: Repaint(0)):
        with pytest.raises(SfumatoError):
            settings()


def test_a_model_that_goes_by_pictures_uses_what_it_was_trained_for(digits: dict[str, Any], tmp_path: Path) -> None:
    told = {**digits, "training.steps": 2, "condition.labels": True, "condition.image": LowResolution(2)}
    model = sfumato.load(sfumato.train("digits", told, runs=tmp_path, name="super").folder)
    given = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8, 1)
    task = Upscale(given, 2).degraded(model.record)
    found = model.edit(task, 2, labels=[3, 4], guidance=[1.0, 2.0], steps=2)
    assert (found.method, found.samples.labels.tolist()) == ("condition", [3, 3, 4, 4])  # type: ignore[union-attr]
    assert found.samples.guidance is not None
    assert found.samples.guidance.tolist() == [1, 1, 2, 2]
    alike = model.sample(1, seed=0, labels=3, images=task.pictures[:1], guidance=1.0, steps=2).images
    assert alike is not None
    assert np.abs(found.images[0, 0].astype(int) - alike[0]).max() <= 1
    for wrong in (Upscale(given[:, :2, :2], 4), Inpaint(given, np.eye(8, dtype=bool))):
        with pytest.raises(UsageError, match="trained to go by LowResolution"):
            model.edit(wrong, labels=3)
    assert model.edit(Vary(given, 0.4), labels="all", steps=2).images.shape == (2, 1, 8, 8, 1)
    assert not Deblur(given, 1.0).fits(Blur(2.0))
    assert replace(task, factor=4).fits(LowResolution(4))


def test_psnr_counts_what_it_is_told_to() -> None:
    original = np.zeros((2, 2, 2, 1), np.uint8)
    results = np.zeros((2, 1, 2, 2, 1), np.uint8)
    results[:, 0, 0, 0] = 10
    assert psnr(results, original).tolist() == pytest.approx([10 * np.log10(255**2 / 25)] * 2)
    hidden = np.zeros((2, 2, 2), bool)
    hidden[0, 0, 0], hidden[1, 1, 1] = True, True
    assert psnr(results, original, hidden).tolist() == pytest.approx([28.13, 58.92], abs=0.01)


def test_what_a_trained_network_sees_is_what_it_was_trained_on() -> None:
    """The picture made of what is given is that which training made of the original, to the rounding of 8 bits."""
    model = gaussian(3)
    record, given = model.record, pictures(gaussian(3))
    x0 = record.normalization.to_model(torch.from_numpy(given))
    pairs = [(Upscale(given, 2), LowResolution(2)), (Deblur(given, 0.8), Blur(0.8)), (Colourise(given), Grey())]
    for task, degradation in pairs:
        seen, trained = task.degraded(record).seen(record), degradation.picture(x0)
        assert seen.shape == trained.shape
        assert float((seen - trained).abs().max()) < 0.51 / 127.5
    hole = Holes(smallest=0.5, largest=0.5)
    uniforms = torch.tensor([[0.0, 0.0, 0.0, 0.99]] * 2, dtype=torch.float64)
    corner = np.zeros((4, 4), bool)
    corner[:2, 2:] = True
    assert torch.equal(Inpaint(given, corner).seen(record), hole.picture(x0, uniforms))
