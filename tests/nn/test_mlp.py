"""The perceptrons: their counts, their formula in NumPy, the tables of the one per step."""

import numpy as np
import pytest
import torch

from sfumato.condition import Condition
from sfumato.errors import ConfigError
from sfumato.nn import MlpConfig, StepMlp, StepMlpConfig


def build(**changes: int) -> StepMlp:
    torch.manual_seed(0)
    return StepMlpConfig().build((2,), **{"steps": 100, "time_span": 100, **changes})  # type: ignore[arg-type]


def test_parameter_counts_are_the_published_ones() -> None:
    assert sum(p.numel() for p in build().parameters()) == 72_066
    with_log_var = StepMlpConfig(widths=(128, 128)).build((2,), steps=100, time_span=100, out_channels=4)
    assert sum(p.numel() for p in with_log_var.parameters()) == 43_012
    score = MlpConfig().build((2,), steps=None, time_span=1.0)
    assert sum(p.numel() for p in score.parameters()) == 17_154


def test_agrees_with_numpy() -> None:
    network = build().double()
    x, step = torch.randn(6, 2, dtype=torch.float64), torch.tensor([0, 1, 50, 98, 99, 3], dtype=torch.float64)
    w = {name: p.numpy() for name, p in network.state_dict().items()}
    h, k = x.numpy(), step.numpy().astype(int)
    for i in range(3):
        linear = h @ w[f"hidden.{i}.linear.weight"].T + w[f"hidden.{i}.linear.bias"]
        h = np.logaddexp(0, w[f"hidden.{i}.gain.weight"][k] * linear)
    expected = h @ w["out.weight"].T + w["out.bias"]
    # torch's softplus is the identity above 20, an error of e⁻²⁰ = 2e-9 at most
    np.testing.assert_allclose(network(x, step).detach().numpy(), expected, rtol=1e-8, atol=1e-8)


def test_gains_start_uniform_between_zero_and_one() -> None:
    gains = torch.cat([layer.gain.weight.flatten() for layer in build().hidden])
    assert gains.min() >= 0
    assert gains.max() < 1
    # mean and variance of 38,400 uniform draws: standard errors 0.0015 and 0.0004; five of each
    assert gains.mean().item() == pytest.approx(1 / 2, abs=0.0075)
    assert gains.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_fractional_steps_are_rounded_and_clamped() -> None:
    network, x = build(), torch.randn(1, 2).expand(6, 2)
    given = network(x, torch.tensor([3.4, 3.6, -0.7, 120.0, 98.51, 0.2]))
    meant = network(x, torch.tensor([3.0, 4.0, 0.0, 99.0, 99.0, 0.0]))
    assert torch.equal(given, meant)
    assert not torch.equal(given[0], given[1])


def test_each_step_trains_its_own_rows() -> None:
    network = build()
    network(torch.randn(4, 2), torch.tensor([7.0, 7.0, 42.0, 7.0])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    for layer in network.hidden:
        rows = layer.gain.weight.grad.abs().amax(1).nonzero().flatten().tolist()
        assert rows == [7, 42]


def test_arrays_are_flattened_and_come_back() -> None:
    network = StepMlpConfig(widths=(16,)).build((1, 4, 3), steps=10, time_span=10, out_channels=2)
    assert network(torch.randn(5, 1, 4, 3), torch.zeros(5)).shape == (5, 2, 4, 3)


def test_a_point_does_not_depend_on_its_companions() -> None:
    network, x, step = build(), torch.randn(9, 2), torch.arange(9.0)
    together = network(x, step)
    for i in range(9):
        torch.testing.assert_close(network(x[i : i + 1], step[i : i + 1])[0], together[i])


@pytest.mark.parametrize(("steps", "time_span"), [(None, 1.0), (100, 1.0)], ids=["continuous", "noise variance"])
def test_needs_a_schedule_and_an_input_that_count_steps(steps: int | None, time_span: float) -> None:
    with pytest.raises(ConfigError, match="one row per step") as caught:
        StepMlpConfig().build((2,), steps=steps, time_span=time_span)
    assert "StepInput" in caught.value.fix


def test_bad_settings_and_shapes_are_refused() -> None:
    for widths in [(), (0,), (128, -1)]:
        with pytest.raises(ConfigError, match=r"network\.widths"):
            StepMlpConfig(widths=widths)
    for shape in [(), (0,)]:
        with pytest.raises(ConfigError, match="shape"):
            StepMlpConfig().check(shape)


def test_a_condition_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ConfigError, match="no input"):
        build()(torch.randn(1, 2), torch.zeros(1), Condition(labels=torch.tensor([1])))


def test_without_time_it_is_a_plain_perceptron() -> None:
    network = MlpConfig(widths=(16, 8)).build((2,), steps=None, time_span=1.0, out_channels=3).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    w = {name: p.numpy() for name, p in network.state_dict().items()}
    h = x.numpy()
    for i in range(2):
        h = np.logaddexp(0, h @ w[f"hidden.{i}.weight"].T + w[f"hidden.{i}.bias"])
    expected = h @ w["out.weight"].T + w["out.bias"]
    given = network(x, torch.arange(5.0, dtype=torch.float64))
    np.testing.assert_allclose(given.detach().numpy(), expected, rtol=1e-8, atol=1e-8)  # softplus, as above
    assert torch.equal(given, network(x, torch.zeros(5)))


def test_without_hidden_layers_it_is_affine() -> None:
    network = MlpConfig(widths=()).build((2,), steps=None, time_span=1.0)
    assert sum(p.numel() for p in network.parameters()) == 6
    with pytest.raises(ConfigError, match="no input"):
        network(torch.zeros(1, 2), torch.zeros(1), Condition(labels=torch.tensor([1])))
    with pytest.raises(ConfigError, match=r"network\.widths"):
        MlpConfig(widths=(0,))
    with pytest.raises(ConfigError, match="Mlp was given data of shape"):
        MlpConfig().check(())
