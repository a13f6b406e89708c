"""The checks themselves: each can fail, none can crash the others, and what is quick stays cheap."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sfumato import samplers
from sfumato.core import Denoise, NoiseSource, Small, decoders, gaussian, kernels, schedules
from sfumato.core.parameterization import Coefficients, Velocity
from sfumato.errors import UsageError
from sfumato.objectives import score_matching
from sfumato.samplers import Ddim, Sampler, Stepped
from sfumato.verify import ideal, oracles
from sfumato.verify.affine import output_variance
from sfumato.verify.check import AtLeast, AtMost, Bound, Check, Near, perform
from sfumato.verify.checks import CHECKS
from sfumato.verify.checks import laws as law_checks
from sfumato.verify.checks import samplers as sampler_checks
from sfumato.verify.checks.material import SCHEDULES, worst
from sfumato.verify.ideal import MIXTURE, Ideal
from sfumato.verify.report import Report, chosen, run_checks

BY_NAME = {check.name: check for check in CHECKS}


def fails(name: str) -> bool:
    return not perform(BY_NAME[name]).passed


# --- bounds and outcomes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "text", "good", "bad"),
    [
        (AtMost(1e-10), "<= 1e-10", [1e-10, -1.0], [1.1e-10, math.nan, math.inf, -math.inf]),
        (AtLeast(1.85), ">= 1.85", [1.85, 3.0], [1.84, math.nan, math.inf]),
        (Near(2, 0.1), "2 ± 0.1", [1.9001, 2.0999], [1.89, 2.11, math.nan]),
        (Near(0, 0), "= 0", [0.0], [1e-300, math.nan]),
    ],
    ids=str,
)
def test_bounds(bound: Bound, text: str, good: list[float], bad: list[float]) -> None:
    """A number that is not finite satisfies no bound, however it is written."""
    assert bound.text == text
    assert all(bound.holds(value) for value in good)
    assert not any(bound.holds(value) for value in bad)


def test_a_check_that_raises_has_failed() -> None:
    def broken() -> float:
        raise RuntimeError("no\nnever")

    outcome = perform(Check("a[b]", "nothing", AtMost(1), broken))
    assert not outcome.passed
    assert math.isnan(outcome.measured)
    assert outcome.note == "RuntimeError: no"


def test_nan_is_never_the_smaller_error() -> None:
    """Python's max(1, nan) is 1."""
    assert math.isnan(worst(1.0, math.nan))
    assert math.isnan(worst(math.nan, 1.0))


# --- the list --------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_say_what_and_where() -> None:
    assert len(BY_NAME) == len(CHECKS) >= 60
    for check in CHECKS:
        kind, bracket, rest = check.name.partition("[")
        assert kind, check.name
        assert bracket, check.name
        assert rest.endswith("]"), check.name
        assert check.about, check.name
        assert "\n" not in check.about, check.name


def test_every_sampler_has_its_checks() -> None:
    """All that `METHODS` names, and every concrete sampler of the package is among them."""
    for name, method in sampler_checks.METHODS.items():
        assert {f"calls[{name}]", f"one point[{name}]"} <= BY_NAME.keys()
        assert method.order is None or all(f"order[{name}, {where}]" in BY_NAME for where in sampler_checks.STEPS)


def test_quick_checks_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the oracles' evaluations, which do not depend on the machine: below 40,000, at about 0.1 ms each."""
    count = 0

    def counted(original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            return original(*args, **options)

        return call

    for kind in (oracles.GaussianOracle, oracles.MixtureOracle, oracles.DatasetOracle):
        for method in ("denoiser", "eps"):
            monkeypatch.setattr(kind, method, counted(getattr(kind, method)))
    quick = chosen(CHECKS, quick=True)
    failed = [outcome for outcome in run_checks(quick, lambda number, check: None) if not outcome.passed]
    assert not failed
    assert len(quick) >= 60
    assert count < 40_000


def test_only_finds_by_parts_of_names() -> None:
    names = [check.name for check in chosen(CHECKS, only=["ORDER[*ve]"])]
    assert "order[ddim, ve]" in names
    assert all("ve]" in name and "order[" in name for name in names)
    assert len(chosen(CHECKS, only=["order[ddim, ve]", "anchor[linear 1000]"])) == 2
    with pytest.raises(UsageError, match="'ordr'") as caught:
        chosen(CHECKS, only=["ordr"])
    assert caught.value.fix == "did you mean order?"
    with pytest.raises(UsageError, match="quick"):
        chosen(CHECKS, only=["order[ddim, ve]"], quick=True)


def test_report_counts_what_failed() -> None:
    checks = [Check("a[1]", "", AtMost(1), lambda: 0.5), Check("a[2]", "", AtMost(1), lambda: math.nan)]
    told: list[int] = []
    report = Report(tuple(run_checks(checks, lambda number, check: told.append(number))))
    assert told == [0, 1]
    assert [o.name for o in report.failed] == ["a[2]"]
    document: dict[str, Any] = report.document()
    assert document["passed"] is False
    assert document["failed"] == 1
    assert {"name", "measured", "bound", "pass"} <= document["checks"][0].keys()
    assert [c["pass"] for c in document["checks"]] == [True, False]


# --- each subject can fail -------------------------------------------------------------------------------------------


class Broken(Sampler[None]):
    """DDIM that forgets a part: `factor` times the noise that should be kept; one call too many is counted."""

    order = 1

    def __init__(self, factor: float, counted: int = 1) -> None:
        self.factor = factor
        self.counted = counted

    def calls(self, steps: int) -> int:
        return steps * self.counted

    def init(self, x: torch.Tensor) -> None:
        return None

    def step(
        self, d: Denoise, x_t: torch.Tensor, *, t: float, s: float, state: None, noise: NoiseSource, cond: Any
    ) -> Stepped[None]:
        stepped = Ddim().step(d, x_t, t=t, s=s, state=state, noise=noise, cond=cond)
        return Stepped(
            stepped.prediction.x0 + self.factor * (stepped.x - stepped.prediction.x0), None, stepped.prediction
        )


def test_order_of_a_method_that_goes_elsewhere() -> None:
    """An error that does not shrink with the steps has no order, and one per step of 1e-3 neither."""
    assert abs(sampler_checks.order(Broken(0.999), "cosine") - 1) > 0.1
    assert sampler_checks.order(Broken(1.0), "cosine") == pytest.approx(sampler_checks.order(Ddim(), "cosine"))


def test_first_order_is_not_second() -> None:
    assert not Near(2, 0.1).holds(sampler_checks.order(Ddim(), "cosine"))


def test_miscounted_calls_are_seen() -> None:
    assert sampler_checks.calls(Broken(1.0)) == 0
    assert sampler_checks.calls(Broken(1.0, counted=2)) > 0


def test_the_reference_is_finer_than_what_it_judges() -> None:
    """The Runge-Kutta endpoint against one of twice the steps, and the errors at most steps are far above that."""
    schedule = SCHEDULES["cosine"]
    start, stop = (float(schedule.rates(t).noise_level) for t in (1.0, schedule.t_min))
    y = (sampler_checks.starts(schedule) / schedule.rates(1.0).alpha).numpy()
    fine = oracles.probability_flow(MIXTURE, y, start=start, stop=stop, steps=1000)
    reference = sampler_checks.endpoints(schedule) / schedule.rates(schedule.t_min).alpha
    assert float(np.abs(reference.numpy() - fine).max()) < 1e-6
    gaussian = oracles.GaussianOracle([0.3, -0.7], [[0.5, 0.3], [0.3, 0.9]])
    exact = gaussian.flow(y, alpha=1.0, sigma=start, to_alpha=1.0, to_sigma=stop)
    ours = oracles.probability_flow(gaussian, y, start=start, stop=stop, steps=200)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-6)


def test_one_path_gives_one_law_however_it_is_cut() -> None:
    """A sampler that asks for halves of each interval beside the whole: the variance is that of the sum."""

    class Halves(Sampler[None]):
        order = 1

        def calls(self, steps: int) -> int:
            return steps

        def init(self, x: torch.Tensor) -> None:
            return None

        def step(
            self, d: Denoise, x_t: torch.Tensor, *, t: float, s: float, state: None, noise: NoiseSource, cond: Any
        ) -> Stepped[None]:
            p = d(x_t, torch.tensor(t, dtype=torch.float64))
            whole, half = (d.schedule.rates(value) for value in (s, (s + t) / 2))
            z = noise.increment(p.rates, whole, x_t) + noise.increment(p.rates, half, x_t)
            return Stepped(x_t + z, None, p)

    schedule = SCHEDULES["ve"]
    times = [1.0, 0.5]
    r = [schedule.rates(t) for t in (1.0, 0.75, 0.5)]
    share = float((r[1].log_snr - r[0].log_snr) / (r[2].log_snr - r[0].log_snr))
    expected = 4.0 + 1 + 1 + 2 * math.sqrt(share)  # of x, of each increment, and twice their covariance
    ours = output_variance(Halves(), schedule, times, data_var=0.25, prior_var=4.0)
    assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["law[ancestral small, 7 of 100, linear]", "law[ddim, 7 of 100, cosine]"])
def test_a_law_sees_a_wrong_variance(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fails(name)
    expected = law_checks.expected_variance
    monkeypatch.setattr(law_checks, "expected_variance", lambda *args: expected(*args) * (1 + 1e-6))
    assert fails(name)


def test_swapped_variances_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "log_var", lambda self, bounds, p: bounds.large)
    for name in (
        "law[ancestral small, 7 of 100, linear]",
        "identity[eta 1 is ancestral small, cosine]",
        "bound[step terms, small, linear table]",
    ):
        assert fails(name), name


def test_swapped_rates_in_the_posterior_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = kernels.mean_weights
    monkeypatch.setattr(kernels, "mean_weights", lambda s, t: replace(original(s, t), keep=original(s, t).keep * 1.001))
    for name in ("identity[posterior mean, linear table]", "law[ancestral small, 7 of 100, linear]"):
        assert fails(name), name


def test_a_wrong_sign_of_velocity_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Velocity.coefficients

    def flipped(self: Velocity, r: Any, data_std: float) -> Coefficients:
        c = original(self, r, data_std)
        return Coefficients(c.c_skip, -c.c_out)

    monkeypatch.setattr(Velocity, "coefficients", flipped)
    assert fails("parameterization[velocity, cosine]")
    assert not fails("parameterization[round trip velocity, cosine]")  # which a sign cannot break


def test_a_clock_that_runs_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = schedules.VpSde.log_snr
    monkeypatch.setattr(schedules.VpSde, "log_snr", lambda self, t: original(self, t) * 1.0001)
    assert fails("inverse[vp]")
    assert fails("slope[vp]")


def test_noise_that_is_too_narrow_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = NoiseSource.initial
    monkeypatch.setattr(NoiseSource, "initial", lambda self, shape, *, like: 0.99 * original(self, shape, like=like))
    assert fails("noise[moments, initial]")
    assert fails("noise[kolmogorov, initial]")


def test_noise_that_knows_its_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = NoiseSource.initial

    def by_place(self: NoiseSource, shape: tuple[int, ...], *, like: torch.Tensor) -> torch.Tensor:
        x = original(self, shape, like=like)
        return x + 1e-6 * torch.arange(len(x), dtype=x.dtype)[:, None]

    monkeypatch.setattr(NoiseSource, "initial", by_place)
    assert fails("noise[batch independence, initial]")


def test_a_short_decoder_breaks_tightness(monkeypatch: pytest.MonkeyPatch) -> None:
    original = oracles.optimal_variances
    monkeypatch.setattr(oracles, "optimal_variances", lambda bars, data_var: 1.001 * original(bars, data_var))
    assert fails("bound[gaussian tightness, L=1]")


def test_ideal_is_the_oracle() -> None:
    schedule = SCHEDULES["flow"]
    x = torch.ones(3, 2, dtype=torch.float64)
    r = schedule.rates(0.4)
    expected = MIXTURE.denoiser(x.numpy(), float(r.alpha), float(r.sigma))
    np.testing.assert_array_equal(Ideal(MIXTURE, schedule)(x, r.t).x0.numpy(), expected)


def test_ideal_has_a_derivative() -> None:
    """Of a mixture, by autograd's own finite differences."""
    x = torch.tensor([[0.3, -0.2], [1.5, 0.4]], dtype=torch.float64, requires_grad=True)
    d = Ideal(MIXTURE, SCHEDULES["vp"])
    t = torch.tensor(0.4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda at: d(at, t).x0, (x,), atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["flow[8-d gaussian]", "flow[mixture, vp]", "flow[jacobian of the ideal denoiser]"],
)
def test_a_wrong_divergence_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ideal, "STEP", 3.0)  # a difference over three sigma is no derivative of a mixture
    original = ideal._denoised
    if name != "flow[mixture, vp]":  # a Gaussian's denoiser is linear: any step will do, a bend will not
        monkeypatch.setattr(ideal, "_denoised", lambda x, oracle, r: original(x, oracle, r) + 1e-3 * x.detach() ** 3)
    assert fails(name)


def test_decoders_and_losses_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "log_ndtr", lambda z: torch.special.log_ndtr(1.001 * z))
    assert fails("likelihood[decoder masses]")
    monkeypatch.undo()
    monkeypatch.setattr(gaussian.Gaussian, "kl", lambda self, other: (self.mean - other.mean) ** 2)
    for name in ("loss[bound, small, L=4]", "loss[bound of 2015, L=1]", "likelihood[bound, large, L=4]"):
        assert fails(name), name


def test_score_matching_that_squares_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """(v·s)² is the square of the sum: with the sum of squares the minimum stays, with half of it, it moves."""
    original = score_matching.SlicedScoreMatching.per_example

    def halved(self: Any, s: Any, x_t: torch.Tensor, draw: Any, r: Any) -> torch.Tensor:
        return original(self, s, x_t, draw, r) + 0.25 * s(x_t).square().sum(1)

    monkeypatch.setattr(score_matching.SlicedScoreMatching, "per_example", halved)
    assert fails("score matching[sliced]")
    assert not fails("score matching[exact]")


def test_samplers_of_the_package_are_all_here() -> None:
    """Every sampler that is exported is verified: in `METHODS`, or by checks of its own."""
    exported = {
        value for value in vars(samplers).values() if isinstance(value, type) and issubclass(value, Sampler)
    } - {Sampler}
    named = {type(method.sampler) for method in sampler_checks.METHODS.values()}
    of_their_own = {"DormandPrince", "Langevin"}  # `flow`, and `law`: one finds its steps, one has a single level
    assert {kind.__name__ for kind in exported - named} <= of_their_own
