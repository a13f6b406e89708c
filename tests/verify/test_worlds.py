"""The ideal denoisers by a second route: quadrature, finite differences, Monte Carlo, an ODE solver, scipy."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.stats import multivariate_normal

from sfumato.verify.oracles import (
    DatasetOracle,
    GaussianOracle,
    MixtureOracle,
    Oracle,
    alpha_bar,
    linear_betas,
    noise_floor,
    sigmoid_betas,
)

LEVELS = [(0.95, 0.3), (0.6, 0.8), (1.0, 2.5), (0.05, 1.0)]  # VP, VP, VE, almost pure noise

MEAN = np.array([0.3, -0.7, 1.1])
COV = np.array([[0.5, 0.2, -0.1], [0.2, 0.9, 0.3], [-0.1, 0.3, 1.4]])
WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[-1.5, 0.2, 0.0], [1.0, 1.0, -0.5], [0.5, -2.0, 1.0]])
COVS = np.stack([COV, 0.1 * np.eye(3), 0.3 * COV])


def worlds() -> list[Oracle]:
    points = np.random.default_rng(1).normal(size=(7, 3))
    return [
        GaussianOracle(MEAN, COV),
        MixtureOracle(WEIGHTS, MEANS, COVS),
        DatasetOracle(points),
        DatasetOracle(points, weights=np.arange(1.0, 8.0)),
    ]


def some_points(count: int = 6) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(count, 3)) * 1.5


# --- densities against scipy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_log_densities_agree_with_scipy(level: tuple[float, float]) -> None:
    a, s = level
    x = some_points()

    def spread_normal(mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
        return multivariate_normal(a * mean, a**2 * cov + s**2 * np.eye(3)).pdf(x)

    np.testing.assert_allclose(worlds()[0].log_p(x, a, s), np.log(spread_normal(MEAN, COV)), rtol=1e-10)
    mixture = sum(w * spread_normal(m, c) for w, m, c in zip(WEIGHTS, MEANS, COVS, strict=True))
    np.testing.assert_allclose(worlds()[1].log_p(x, a, s), np.log(mixture), rtol=1e-10)
    points = np.random.default_rng(1).normal(size=(7, 3))
    chances = np.arange(1.0, 8.0) / 28
    finite = sum(w * spread_normal(p, np.zeros((3, 3))) for w, p in zip(chances, points, strict=True))
    np.testing.assert_allclose(worlds()[3].log_p(x, a, s), np.log(finite), rtol=1e-9)


def test_nll_and_entropy_agree_with_scipy() -> None:
    oracle, law = GaussianOracle(MEAN, COV), multivariate_normal(MEAN, COV)
    np.testing.assert_allclose(oracle.nll(some_points()), -law.logpdf(some_points()), rtol=1e-12)
    assert oracle.entropy() == pytest.approx(law.entropy(), rel=1e-12)


# --- D and the posterior variance by quadrature over x_0 -------------------------------------------------------------


def normal(x: float, mean: float, var: float) -> float:
    """Density of N(mean, var)."""
    return math.exp(-((x - mean) ** 2) / (2 * var)) / math.sqrt(2 * math.pi * var)


ONE_DIMENSION: dict[str, tuple[Oracle, Callable[[float], float]]] = {
    "gaussian": (GaussianOracle([0.4], [0.7]), lambda x: normal(x, 0.4, 0.7)),
    "mixture": (
        MixtureOracle([0.3, 0.7], [[-1.0], [0.8]], [[0.05], [0.4]]),
        lambda x: 0.3 * normal(x, -1.0, 0.05) + 0.7 * normal(x, 0.8, 0.4),
    ),
}


@pytest.mark.parametrize("level", LEVELS, ids=str)
@pytest.mark.parametrize("name", ONE_DIMENSION)
def test_denoiser_is_the_posterior_mean(name: str, level: tuple[float, float]) -> None:
    oracle, density = ONE_DIMENSION[name]
    a, s = level
    for x in (-2.0, 0.1, 1.3):

        def moment(power: int, x: float = x) -> float:
            value, _ = quad(
                lambda x0: x0**power * density(x0) * normal(x, a * x0, s**2),
                -8,
                8,
                epsabs=0,
                limit=400,
                points=[-1, 0.8],
            )
            return value

        mass, mean, square = moment(0), moment(1) / moment(0), moment(2) / moment(0)
        at = np.array([[x]])
        # quad promises 1.5e-8 relative
        assert oracle.log_p(at, a, s)[0] == pytest.approx(math.log(mass), abs=1e-7)
        assert oracle.denoiser(at, a, s)[0, 0] == pytest.approx(mean, abs=1e-7)
        assert oracle.posterior_variance(at, a, s)[0] == pytest.approx(square - mean**2, abs=1e-7)


def test_two_points_have_the_hyperbolic_tangent() -> None:
    """For ±1 with equal chances E[x_0 | x] = tanh(a x/s²)."""
    x = np.linspace(-2, 2, 9)[:, None]
    a, s = 0.8, 0.6
    denoised = DatasetOracle([[-1.0], [1.0]]).denoiser(x, a, s)
    np.testing.assert_allclose(denoised, np.tanh(a * x / s**2), atol=1e-14)


def test_one_image_is_always_that_image() -> None:
    image = np.random.default_rng(3).normal(size=(3, 4, 5))
    noisy = np.random.default_rng(4).normal(size=(2, 3, 4, 5)) * 50
    for a, s in [(1.0, 80.0), (1.0, 1e-3), (0.006, 1.0)]:
        denoised = DatasetOracle(image[None]).denoiser(noisy, a, s)
        np.testing.assert_allclose(denoised, np.broadcast_to(image, noisy.shape), rtol=1e-12)


def test_images_are_points_in_another_shape() -> None:
    flat, noisy = np.random.default_rng(5).normal(size=(4, 12)), np.random.default_rng(6).normal(size=(3, 12))
    images, seen = flat.reshape(4, 3, 2, 2), noisy.reshape(3, 3, 2, 2)
    for name in ("denoiser", "score", "eps", "velocity"):
        of_images = getattr(DatasetOracle(images), name)(seen, 0.6, 0.8)
        assert of_images.shape == seen.shape
        np.testing.assert_array_equal(of_images.reshape(3, 12), getattr(DatasetOracle(flat), name)(noisy, 0.6, 0.8))
    means, cov = np.stack([flat[0], flat[1]]), np.stack([np.full(12, 0.3), np.full(12, 0.5)])
    shaped = MixtureOracle([1, 2], means.reshape(2, 3, 2, 2), cov).denoiser(seen, 0.6, 0.8)
    np.testing.assert_allclose(shaped.reshape(3, 12), MixtureOracle([1, 2], means, cov).denoiser(noisy, 0.6, 0.8))


# --- relations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS, ids=str)
@pytest.mark.parametrize("oracle", worlds(), ids=lambda o: type(o).__name__)
def test_score_is_the_gradient_of_log_p(oracle: Oracle, level: tuple[float, float]) -> None:
    a, s = level
    x, h = some_points(), 1e-5
    for i in range(3):
        step = h * np.eye(3)[i]
        slope = (oracle.log_p(x + step, a, s) - oracle.log_p(x - step, a, s)) / (2 * h)
        # central differences: truncation h² times the third derivative, rounding 1e-16 |log p|/h
        np.testing.assert_allclose(oracle.score(x, a, s)[:, i], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS, ids=str)
@pytest.mark.parametrize("oracle", worlds(), ids=lambda o: type(o).__name__)
def test_denoiser_follows_from_the_score(oracle: Oracle, level: tuple[float, float]) -> None:
    """Tweedie: D = (x + s² score)/a; and x = a D + s eps, v = a eps − s D."""
    a, s = level
    x = some_points()
    denoised, eps = oracle.denoiser(x, a, s), oracle.eps(x, a, s)
    np.testing.assert_allclose(denoised, (x + s**2 * oracle.score(x, a, s)) / a, atol=1e-10)
    np.testing.assert_allclose(a * denoised + s * eps, x, atol=1e-12)
    np.testing.assert_allclose(oracle.velocity(x, a, s), a * eps - s * denoised, atol=1e-12)


@pytest.mark.parametrize("oracle", worlds(), ids=lambda o: type(o).__name__)
def test_levels_may_differ_by_example(oracle: Oracle) -> None:
    x = some_points(len(LEVELS))
    alphas, sigmas = np.array(LEVELS).T
    for name in ("log_p", "denoiser", "score", "eps", "velocity", "posterior_variance"):
        method = getattr(oracle, name)
        together = method(x, alphas, sigmas)
        apart = np.concatenate([method(x[i : i + 1], *LEVELS[i]) for i in range(len(LEVELS))])
        np.testing.assert_allclose(together, apart, rtol=1e-12, atol=1e-12)


def test_narrow_components_become_a_finite_data_set() -> None:
    x = some_points()
    finite = DatasetOracle(MEANS, WEIGHTS)
    narrow = MixtureOracle(WEIGHTS, MEANS, np.full((3, 3), 1e-12))
    np.testing.assert_allclose(narrow.denoiser(x, 0.6, 0.8), finite.denoiser(x, 0.6, 0.8), atol=1e-10)
    np.testing.assert_allclose(narrow.responsibilities(x, 0.6, 0.8), finite.responsibilities(x, 0.6, 0.8), atol=1e-10)


def test_responsibilities_are_bayes_rule_and_split_the_score() -> None:
    oracle, x = MixtureOracle(WEIGHTS, MEANS, COVS), some_points()
    joint = np.stack([w * multivariate_normal(m, c).pdf(x) for w, m, c in zip(WEIGHTS, MEANS, COVS, strict=True)], 1)
    np.testing.assert_allclose(oracle.responsibilities(x, 1.0, 0.0), joint / joint.sum(1, keepdims=True), rtol=1e-9)
    r = oracle.responsibilities(x, 0.6, 0.8)
    h = 1e-5
    for k in range(3):  # score_k − score = ∇ log p(k | x): what classifier guidance adds
        shift = oracle.given(k).score(x, 0.6, 0.8) - oracle.score(x, 0.6, 0.8)
        for i in range(3):
            up, down = (oracle.responsibilities(x + sign * h * np.eye(3)[i], 0.6, 0.8)[:, k] for sign in (1, -1))
            # log-differences; where the chance of k is tiny its relative rounding is still 1e-16/h
            np.testing.assert_allclose(shift[:, i], (np.log(up) - np.log(down)) / (2 * h), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(r.sum(1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("oracle", worlds(), ids=lambda o: type(o).__name__)
def test_samples_follow_the_law(oracle: Oracle) -> None:
    """Their mean and second moment, against D and the posterior variance at a level that shows nothing of x_0."""
    n = 200_000
    x0 = oracle.sample(n, np.random.default_rng(7))
    blind = (np.zeros((1, 3)), 1e-9, 1.0)
    five_errors = 5 * x0.std(axis=0) / math.sqrt(n)
    assert (np.abs(x0.mean(axis=0) - oracle.denoiser(*blind)[0]) < five_errors).all()
    squares = ((x0 - oracle.denoiser(*blind)) ** 2).sum(axis=1)
    assert abs(squares.mean() - oracle.posterior_variance(*blind)[0]) < 5 * squares.std() / math.sqrt(n)


# --- the probability flow ---------------------------------------------------------------------------------------------


def test_flow_solves_the_ode() -> None:
    """VP with constant rate 1: a = exp(−t/2), s² = 1 − a²; dx/dt = −x/2 − score/2, solved from t = 2 to 0.01."""
    oracle = GaussianOracle(MEAN, COV)

    def pair(t: float) -> tuple[float, float]:
        return math.exp(-t / 2), math.sqrt(-math.expm1(-t))

    def velocity(t: float, x: np.ndarray) -> np.ndarray:
        return -0.5 * x - 0.5 * oracle.score(x[None], *pair(t))[0]

    start = some_points(1)
    solved = solve_ivp(velocity, (2.0, 0.01), start[0], rtol=1e-11, atol=1e-12, method="DOP853").y[:, -1]
    (a, s), (to_a, to_s) = pair(2.0), pair(0.01)
    mapped = oracle.flow(start, alpha=a, sigma=s, to_alpha=to_a, to_sigma=to_s)[0]
    np.testing.assert_allclose(mapped, solved, atol=1e-8)  # what the solver leaves


def endpoint_error(steps: int, *, heun: bool) -> float:
    """Distance from the exact end of dx/dσ = eps on a 2-D mixture, σ from 10 to 0.05 on Karras' grid (ρ = 7)."""
    oracle = MixtureOracle([0.3, 0.7], [[-1.0, 0.5], [1.2, -0.3]], [[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0], [0, 0.5]]])
    start = np.random.default_rng(8).normal(size=(4, 2)) * 10

    def slope(sigma: float, flat: np.ndarray) -> np.ndarray:
        return oracle.eps(flat.reshape(-1, 2), 1.0, sigma).reshape(-1)

    exact = solve_ivp(slope, (10.0, 0.05), start.reshape(-1), rtol=1e-11, atol=1e-11, method="DOP853").y[:, -1]
    grid = np.linspace(10 ** (1 / 7), 0.05 ** (1 / 7), steps + 1) ** 7
    x = start.reshape(-1)
    for t, s in pairwise(grid):
        first = slope(t, x)
        x = x + (s - t) * ((first + slope(s, x + (s - t) * first)) / 2 if heun else first)
    return float(np.abs(x - exact).mean())


@pytest.mark.parametrize(("heun", "order"), [(False, 1.0), (True, 2.0)])
def test_solvers_show_their_order_on_the_mixture(heun: bool, order: float) -> None:
    steps = [64, 128, 256]
    errors = [endpoint_error(n, heun=heun) for n in steps]
    measured = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert measured == pytest.approx(order, abs=0.1)


# --- loss floors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data_var", "loss"), [(1.0, 0.275513), (0.25, 0.173053), (4.0, 0.395407)])
def test_golden_noise_loss_on_the_linear_table(data_var: float, loss: float) -> None:
    bars = alpha_bar(linear_betas(1000))
    floors = [GaussianOracle([0.0], [data_var]).noise_loss(math.sqrt(bar), math.sqrt(1 - bar))[0] for bar in bars]
    assert np.mean(floors) == pytest.approx(loss, abs=5e-7)  # six printed decimals


def test_mmse_and_noise_loss_are_the_same_error_in_two_units() -> None:
    oracle = GaussianOracle(MEAN, COV)
    a, s = 0.6, 0.8
    np.testing.assert_allclose(oracle.noise_loss(a, s), (a / s) ** 2 * oracle.mmse(a, s), rtol=1e-12)
    exact = COV - a**2 * COV @ np.linalg.solve(a**2 * COV + s**2 * np.eye(3), COV)  # conditioning a joint normal
    np.testing.assert_allclose(np.sort(oracle.mmse(a, s)), np.linalg.eigvalsh(exact), rtol=1e-10)


@pytest.mark.parametrize("oracle", worlds(), ids=lambda o: type(o).__name__)
def test_noise_floor_is_the_error_of_the_ideal_network(oracle: Oracle) -> None:
    """The direct Monte-Carlo mean of (eps* − e)², at three levels, within five of its standard errors."""
    rng = np.random.default_rng(9)
    alphas, sigmas = np.array(LEVELS[:3]).T
    floor = noise_floor(oracle, alphas, sigmas, count=20_000, rng=rng)
    x0, e = oracle.sample(60_000, rng), rng.standard_normal((60_000, 3))
    a, s = alphas.repeat(20_000), sigmas.repeat(20_000)
    error = ((oracle.eps(a[:, None] * x0 + s[:, None] * e, a, s) - e) ** 2).mean(axis=1)
    spread = math.hypot(error.std() / math.sqrt(len(error)), floor.std_error)
    assert abs(error.mean() - floor.value) < 5 * spread
    assert floor.std_error < 0.01
    if isinstance(oracle, GaussianOracle):
        exact = np.mean([oracle.noise_loss(a, s).mean() for a, s in LEVELS[:3]])
        assert floor.value == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("betas", "floor", "tolerance"),
    [
        (sigmoid_betas(100, 1e-5, 1e-2), 0.647, 0.008),
        (linear_betas(100, 1e-5, 1e-2), 0.615, 0.008),
        (linear_betas(100, 1e-3, 0.2), 0.172, 0.010),
    ],
    ids=["sigmoid", "linear", "linear to the prior"],
)
def test_golden_floor_of_the_swiss_roll(betas: np.ndarray, floor: float, tolerance: float) -> None:
    """Exact posterior over esling's 10,000 points; the printed values carry the stated uncertainty of their own."""
    rng = np.random.default_rng(10)
    turn = 1.5 * math.pi * (1 + 2 * rng.random(10_000))
    roll = np.stack([turn * np.cos(turn), turn * np.sin(turn)], axis=1) + 0.5 * rng.standard_normal((10_000, 2))
    bars = alpha_bar(betas)
    ours = noise_floor(DatasetOracle(roll / 10), np.sqrt(bars), np.sqrt(1 - bars), count=25, rng=rng)
    assert ours.std_error < 0.006
    assert abs(ours.value - floor) < tolerance + 2 * ours.std_error
