"""`Trimmed`: the part of a schedule between two signal rates, against a table made by hand and against itself."""

import numpy as np
import pytest
import torch

from sfumato.core import CosineAngle, LearnedLogSnr, LinearBetas, Noise, RectifiedFlow, Tabulated, Trimmed
from sfumato.core.denoiser import check_terminal_signal
from sfumato.errors import ConfigError
from sfumato.experiment.config import Experiment
from sfumato.verify import oracles

T = torch.linspace(1e-5, 1, 301, dtype=torch.float64)


def test_a_cosine_angle_trimmed_is_the_cosine_angle_between_the_rates() -> None:
    """The angle is linear in t, so any part of it is again linear: another end leaves no trace."""
    trimmed = Trimmed(0.02, 0.95, CosineAngle(0.001, 0.9999))
    # an angle lost three digits on the way through log, exp and atan near the clean end
    torch.testing.assert_close(trimmed.log_snr(T), CosineAngle(0.02, 0.95).log_snr(T), rtol=0, atol=1e-11)


def test_the_linear_schedule_against_a_table_made_by_hand() -> None:
    """log-SNR of NumPy's cumulative product, read by np.interp between the places where alpha is 0.95 and 0.02."""
    bars = oracles.alpha_bar(oracles.linear_betas(1000))
    grid, levels = np.arange(1, 1001) / 1000, np.log(bars / (1 - bars))
    wanted = [np.log(rate**2 / (1 - rate**2)) for rate in (0.95, 0.02)]
    clean, noisy = (float(np.interp(-level, -levels, grid)) for level in wanted)
    assert clean == pytest.approx(0.0966, abs=1e-3)  # 97 of 1000 steps are above alpha = 0.95 (67 above alpha² = 0.95)
    expected = np.interp(clean + T.numpy() * (noisy - clean), grid, levels)
    # log(1 - bar) of a product of 1000 factors near 1: 1e-13 relative where bar is 0.9999
    np.testing.assert_allclose(Trimmed().log_snr(T).numpy(), expected, rtol=0, atol=1e-9)


def test_schedules_that_are_trimmed_alike_share_their_ends() -> None:
    """What falbel's two schedules did not: alpha from 0.9747 to 0.1414 in one, from 0.95 to 0.02 in the other."""
    for schedule in (Trimmed(), CosineAngle(), Trimmed(base=Tabulated(LinearBetas(), 200))):
        end, start = schedule.rates(1.0), schedule.rates(torch.tensor(0.0))
        assert float(end.alpha) == pytest.approx(0.02, rel=1e-12)
        assert float(start.alpha) == pytest.approx(0.95, rel=1e-12)
    check_terminal_signal(Trimmed(), 1.0)


def test_no_time_is_spent_at_one_noise_level() -> None:
    """Clipping left 45 % of the times at two levels; here log-SNR falls by at least a thousandth of its span in 1 %."""
    falls = -Trimmed().log_snr(torch.linspace(0, 1, 101, dtype=torch.float64)).diff()
    assert float(falls.min()) > 1e-3 * float(falls.sum())


def test_an_end_that_the_base_does_not_reach_stays() -> None:
    base = CosineAngle(0.1, 0.9)
    torch.testing.assert_close(Trimmed(0.02, 0.95, base).log_snr(T), base.log_snr(T), rtol=0, atol=1e-4)  # from t_min
    assert float(Trimmed(0.02, 0.8, base).rates(1.0).alpha) == pytest.approx(0.1, rel=1e-12)


def test_it_is_continuous_whatever_it_trims() -> None:
    """A table that is trimmed has no steps: it goes with continuous times."""
    assert Trimmed().num_steps is None
    assert Experiment(schedule=Trimmed(), parameterization=Noise()).schedule.num_steps is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Trimmed(0.95, 0.02), "min_signal_rate and max_signal_rate are"),
        (lambda: Trimmed(base=RectifiedFlow()), "no signal rate"),
        (lambda: Trimmed(base=Tabulated(steps=1)), "no time at which"),
        (lambda: Trimmed(0.02, 0.05, CosineAngle(0.1, 0.9)), "no time at which"),
        (lambda: Experiment(schedule=Trimmed(base=LearnedLogSnr())), "would not train"),
    ],
)
def test_what_cannot_be_trimmed_is_refused(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()  # type: ignore[operator]


def test_the_remedy_for_signal_left_is_a_setting_that_works() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.min_signal_rate: 0\.09") as caught:
        check_terminal_signal(Trimmed(min_signal_rate=0.3), 1.0)
    assert "allow_terminal_signal" in caught.value.fix
    assert Trimmed(min_signal_rate=0.099).terminal_signal(1.0) <= 0.01
    with pytest.raises(ConfigError, match=r"schedule\.base\.min_signal_rate"):
        check_terminal_signal(Trimmed(base=CosineAngle(0.3, 0.99)), 1.0)
