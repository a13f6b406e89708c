"""The data against a schedule: closed forms of its ends, the strongest direction by NumPy, the prior term by hand."""

import math

import numpy as np
import pytest
import torch

from sfumato.core import CosineAngle, LogSnrLinear, RectifiedFlow, Schedule, Tabulated, Ve, VpSde
from sfumato.data import DataConfig, Packed, load_data, measure, pack, split
from sfumato.errors import DataError
from sfumato.experiment.reach import principal_std, reach, second_moment

SCHEDULES = [
    CosineAngle(),
    CosineAngle(min_signal_rate=0.01, max_signal_rate=0.9999),
    LogSnrLinear(log_snr_min=-7, log_snr_max=13),
    VpSde(),
    Ve(),
    RectifiedFlow(),
    Tabulated(),
]


def points(normalize: str = "none") -> tuple[Packed, DataConfig]:
    values = np.random.default_rng(0).normal(0.3, 1, (500, 6)) @ np.diag([3, 1, 1, 0.5, 0.5, 0.1])
    return pack(torch.from_numpy(values.astype(np.float32))), DataConfig(normalize=normalize)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_ends_in_closed_form(schedule: Schedule) -> None:
    packed, config = points()
    parts = split(packed, 0.2, 0)
    normalization = measure(packed, parts, config)
    found = reach(schedule, packed, normalization, parts.train)
    x = packed.values[parts.train].numpy().astype(np.float64)
    end, start = schedule.rates(1.0), schedule.rates(schedule.t_min)
    alpha, sigma, prior = float(end.alpha), float(end.sigma), schedule.prior_std
    assert found.data_std == pytest.approx(x.std(), rel=1e-6)  # stored as float32
    assert found.terminal == pytest.approx(schedule.terminal_signal(found.data_std), rel=1e-12)
    assert found.principal_terminal == pytest.approx(found.terminal * (found.principal_std / found.data_std) ** 2)
    assert found.noise_low == pytest.approx(float(start.sigma / start.alpha))
    assert found.noise_high == pytest.approx(sigma / alpha)
    assert found.log_snr_high > found.log_snr_low
    # KL of two Gaussians, value by value, by its definition
    kl = np.log(prior / sigma) + (sigma**2 + (alpha * x) ** 2) / (2 * prior**2) - 0.5
    assert found.prior_bits == pytest.approx(kl.mean() / math.log(2), rel=1e-5, abs=1e-9)  # float32 data
    assert found.prior_bits >= -1e-12
    assert found.grey_levels is None
    assert found.halfway is not None
    half = schedule.rates(found.halfway)
    assert float(half.alpha) * found.data_std == pytest.approx(float(half.sigma), rel=1e-6)


def test_pictures_are_measured_as_the_model_sees_them() -> None:
    """Padding and both kinds of normalising; grey levels are of the stored picture."""
    for settings in ({}, {"pad": 12}, {"normalize": "standardize"}, {"normalize": "standardize", "pad": (8, 10)}):
        config = DataConfig(source="digits", limit=300, **settings)
        packed = load_data(config, seed=0)
        parts = split(packed, 0.1, 0)
        normalization = measure(packed, parts, config)
        x = normalization.to_model(packed.values[parts.train]).double().numpy()
        assert second_moment(packed, normalization, parts.train) == pytest.approx((x**2).mean(), rel=1e-5)
        found = reach(CosineAngle(max_signal_rate=0.995), packed, normalization, parts.train)
        assert found.data_std == pytest.approx(x.std(), rel=1e-5)
        assert found.grey_levels == pytest.approx(found.noise_low * normalization.scale[0])
        flat = x.reshape(len(x), -1)
        assert found.principal_std == pytest.approx(np.linalg.svd(flat - flat.mean(0))[1][0] / len(x) ** 0.5, rel=1e-4)


def test_the_strongest_direction_of_a_part_is_near_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, config = points()
    parts = split(packed, 0.0, 0)
    normalization = measure(packed, parts, config)
    whole = principal_std(packed, normalization, parts.train)
    assert whole == pytest.approx(np.linalg.svd(packed.values - packed.values.mean(0))[1][0] / 500**0.5, rel=1e-5)
    monkeypatch.setattr("sfumato.experiment.reach.MOST_EXAMPLES", 250)
    part = principal_std(packed, normalization, parts.train)
    assert part == pytest.approx(whole, rel=0.2)  # 3 ± 0.13 of 250 draws
    assert part != whole


def test_one_example_has_no_direction() -> None:
    packed = pack(torch.tensor([[1.0, 2.0]]))
    parts = split(packed, 0.0, 0)
    config = DataConfig(normalize="none")
    found = reach(CosineAngle(), packed, measure(packed, parts, config), parts.train)
    assert found.principal_std == 0
    assert found.data_std == pytest.approx(0.5)


def test_data_that_do_not_vary_are_refused() -> None:
    packed = pack(torch.full((4, 2, 2, 1), 9, dtype=torch.uint8))
    parts = split(packed, 0.0, 0)
    with pytest.raises(DataError, match="every value of the training data is the same"):
        reach(CosineAngle(), packed, measure(packed, parts, DataConfig()), parts.train)


def test_a_schedule_may_end_before_half_way() -> None:
    packed = pack(torch.tensor([[0.001], [-0.001]]))
    parts = split(packed, 0.0, 0)
    config = DataConfig(normalize="none")
    assert reach(CosineAngle(), packed, measure(packed, parts, config), parts.train).halfway is None
