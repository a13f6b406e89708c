"""Diagonal Gaussians against scipy, and their KL against quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from sfumato.core import Gaussian


def some(seed: int) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, log_var = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    return Gaussian(mean, 2 * log_var)


def test_log_prob_is_scipys() -> None:
    g, x = some(0), some(1).mean
    expected = norm(g.mean.numpy(), g.std.numpy()).logpdf(x.numpy())
    np.testing.assert_allclose(g.log_prob(x).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(g.std.numpy() ** 2, np.exp(g.log_var.numpy()), rtol=1e-14)


def test_kl_is_the_integral() -> None:
    p, q = some(2), some(3)

    def integral(m: float, s: float, n: float, u: float) -> float:
        law, other = norm(m, s), norm(n, u)
        return quad(lambda x: law.pdf(x) * (law.logpdf(x) - other.logpdf(x)), m - 12 * s, m + 12 * s, epsabs=1e-13)[0]

    columns = [v.flatten().tolist() for v in (p.mean, p.std, q.mean, q.std)]
    expected = [integral(*row) for row in zip(*columns, strict=True)]
    np.testing.assert_allclose(p.kl(q).flatten().numpy(), expected, rtol=1e-8)


def test_kl_with_itself_is_zero_and_near_itself_keeps_its_digits() -> None:
    g = some(4)
    assert float(g.kl(g).abs().max()) == 0
    near = Gaussian(g.mean, g.log_var + 1e-9)
    # log-ratio δ: δ²/4 to first order; 1e-9 recovered from log_var ~ 1 has six digits left
    np.testing.assert_allclose(near.kl(g).numpy(), 0.25e-18, rtol=1e-5)


def test_sample_is_affine_in_the_noise() -> None:
    g, noise = some(5), some(6).mean
    torch.testing.assert_close(g.sample(noise), g.mean + (g.log_var.exp() ** 0.5) * noise, rtol=1e-14, atol=0)


def test_scalars_broadcast() -> None:
    prior = Gaussian(torch.zeros(()), torch.zeros(()))
    x = some(7).mean.float()
    assert prior.log_prob(x).shape == x.shape
    assert float(prior.log_prob(torch.zeros(()))) == pytest.approx(-0.5 * math.log(2 * math.pi), rel=1e-6)
