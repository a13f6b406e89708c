"""Bits per dimension: the conventions of the field, and a floor that no honest number goes below."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from sfumato.core import DiscretizedGaussian, Gaussian, NoiseSource
from sfumato.errors import ConfigError, DataError
from sfumato.likelihood import LevelDecoder, Levels, bits_per_dim, nats_per_dim, to_bits, to_nats

OURS = Levels((-1.0,), (2 / 255,))


def pictures(count: int, *shape: int) -> Tensor:
    """Uniform 8-bit noise, prepared as pictures are here: v/127.5 - 1."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.float64) / 127.5 - 1


def test_the_offsets_of_the_field() -> None:
    """Song et al.'s code: 7 - inverse_scaler(-1), with inverse_scaler (x + 1)/2 for data on [-1, 1], x on [0, 1]."""
    centred, plain = Levels((-1.0,), (2 / 256,)), Levels((0.0,), (1 / 256,))
    assert centred.offset == 7 - (-1 + 1) / 2
    assert plain.offset == 7 - (-1)
    assert OURS.offset == pytest.approx(math.log2(127.5), abs=1e-14)
    three = Levels((0.0, 0.0, 0.0), (2 / 255 / 0.2, 2 / 255 / 0.25, 2 / 255 / 0.5))
    assert three.offset == pytest.approx(OURS.offset + np.log2([0.2, 0.25, 0.5]).mean(), abs=1e-14)
    assert "offset +6.9944 bits/dim" in OURS.describe()


def test_nats_and_bits() -> None:
    log_prob = torch.tensor([-math.log(2) * 24], dtype=torch.float64)
    assert float(bits_per_dim(log_prob, dim=12)) == pytest.approx(2.0, abs=1e-15)
    assert float(bits_per_dim(log_prob, dim=12, offset=7)) == pytest.approx(9.0, abs=1e-15)
    assert float(nats_per_dim(log_prob, dim=12)) == pytest.approx(2 * math.log(2), abs=1e-15)
    assert float(to_nats(to_bits(log_prob))) == pytest.approx(float(log_prob), rel=1e-15)


@pytest.mark.parametrize("std", [0.1, 0.5, 2 / math.sqrt(12), 1.0, 3.0])
def test_uniform_noise_is_never_below_eight_bits(std: float) -> None:
    """By density and offset, or by mass: the entropy of uniform noise is 8 bits, whatever the model says."""
    x = pictures(200, 1, 8, 8)
    spread_out = OURS.dequantized(x, NoiseSource.of(seed=0, count=200), draw=0)
    model = Gaussian(torch.zeros_like(x), torch.tensor(2 * math.log(std), dtype=torch.float64))
    density = bits_per_dim(model.log_prob(spread_out).flatten(1).sum(1), dim=64, offset=OURS.offset)
    mass = bits_per_dim(DiscretizedGaussian().log_prob(x, model).flatten(1).sum(1), dim=64)
    for bits in (density, mass):
        assert float(bits.mean()) > 8 + 1e-3


def test_the_uniform_model_has_eight_bits_exactly() -> None:
    """Its density is 1/(256 widths) on all that dequantised data may be: the bound is reached."""
    log_prob = torch.full((1,), -64 * math.log(256 * 2 / 255), dtype=torch.float64)
    assert float(bits_per_dim(log_prob, dim=64, offset=OURS.offset)) == pytest.approx(8.0, abs=1e-12)


def test_a_smooth_density_and_its_masses_agree() -> None:
    """-log2 of the mass of a bin and of the mean density in it differ by the offset: averaged over the bin, 1e-4."""
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    masses = norm(0.1, 0.3).pdf(levels.numpy()) * 2 / 255
    by_density = bits_per_dim(torch.from_numpy(norm(0.1, 0.3).logpdf(levels.numpy())), dim=1, offset=OURS.offset)
    np.testing.assert_allclose(by_density, -np.log2(masses), rtol=1e-12)


def test_dequantisation_fills_the_bins_evenly() -> None:
    """Each value stays within half a level of its own, uniformly (Kolmogorov-Smirnov at 1e-3), another for each."""
    x = pictures(100, 3, 8, 8)
    levels = Levels((-1.0, -1.0, -1.0), (2 / 255, 2 / 255, 2 / 255))
    filled = levels.dequantized(x, NoiseSource.of(seed=0, count=100), draw=0)
    within = ((filled - x) / (2 / 255) + 0.5).flatten()
    assert 0 <= float(within.min()) < 1e-3
    assert 1 - 1e-3 < float(within.max()) <= 1
    ranks = torch.linspace(0, 1, len(within), dtype=torch.float64)
    assert float((within.sort().values - ranks).abs().max()) < 1.95 / math.sqrt(len(within))
    assert torch.equal(levels.numbers(filled).round().clamp(0, 255), levels.numbers(x).round())
    other = levels.dequantized(x, NoiseSource.of(seed=0, count=100), draw=1)
    assert float((other - filled).abs().max()) > 1e-3
    alone = levels.dequantized(x[7:8], NoiseSource.of(seed=0, count=1, first=7), draw=0)
    assert torch.equal(alone[0], filled[7])


def test_levels_that_differ_by_channel() -> None:
    """Standardised pictures have the masses of the same pictures before: a probability has no units."""
    x = pictures(4, 2, 3, 3)
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(2, 1, 1) for v in ([0.2, -0.1], [0.3, 0.5]))
    levels = Levels(((-1 - 0.2) / 0.3, (-1 + 0.1) / 0.5), (2 / 255 / 0.3, 2 / 255 / 0.5))
    model = Gaussian(torch.full_like(x, 0.1), torch.tensor(-3.0, dtype=torch.float64))
    scaled = Gaussian((model.mean - mean) / std, model.log_var - 2 * std.log())
    plain = DiscretizedGaussian().log_prob(x, model)
    found = LevelDecoder(levels).log_prob((x - mean) / std, scaled)
    torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-10)
    LevelDecoder(levels).require((x - mean) / std)


def test_data_without_levels_are_refused() -> None:
    x = pictures(2, 1, 4, 4)
    OURS.require(x.float())
    for bad in (x + 0.001, x * 1.5, (x[..., :1] + x[..., 1:2]) / 2 + 0.5 / 255, torch.full((1, 1, 1), torch.nan)):
        with pytest.raises(DataError, match="none of the 256 levels of 8-bit data") as refused:
            OURS.require(bad)
        assert refused.value.exit_code == 3
    for low, width, count in (((), (), 256), ((0.0,), (0.0,), 256), ((0.0, 1.0), (1.0,), 256), ((0.0,), (1.0,), 1)):
        with pytest.raises(ConfigError):
            Levels(low, width, count)
