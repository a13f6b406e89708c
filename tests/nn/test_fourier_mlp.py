"""The residual perceptron: its formula in NumPy, its zero start, its features over the span of each time input."""

import numpy as np
import pytest
import torch

from sfumato.condition import Condition
from sfumato.errors import ConfigError
from sfumato.nn import FourierMlp, FourierMlpConfig


def build(time_span: float = 5.0, **changes: int) -> FourierMlp:
    """A network whose output layer no longer is zero."""
    torch.manual_seed(0)
    network = FourierMlpConfig(**changes).build((2,), steps=None, time_span=time_span)
    torch.nn.init.normal_(network.out.weight)
    return network.double()


def silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-x)))


def test_agrees_with_numpy() -> None:
    network = build(width=16, depth=2, frequencies=3)
    x, time = torch.randn(5, 2, dtype=torch.float64), torch.tensor([-2.5, -1.0, 0.0, 0.3, 2.5], dtype=torch.float64)
    w = {name: p.numpy() for name, p in network.state_dict().items()}
    tau = time.numpy()[:, None] / 5
    angles = 2 * np.pi * tau * np.array([0.25, 2.0, 16.0])  # three frequencies, each eight times the one before
    features = np.concatenate([tau, np.sin(angles), np.cos(angles)], axis=1)
    h = x.numpy() @ w["enter.weight"].T + w["enter.bias"]
    for i in range(2):
        b = f"blocks.{i}."
        inner = silu(h) @ w[b + "of_state.weight"].T + w[b + "of_state.bias"] + features @ w[b + "of_time.weight"].T
        h = h + silu(inner) @ w[b + "out.weight"].T + w[b + "out.bias"]
    expected = silu(h) @ w["out.weight"].T + w["out.bias"]
    np.testing.assert_allclose(network(x, time).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_starts_at_zero_and_leaves_it() -> None:
    network = FourierMlpConfig().build((2,), steps=None, time_span=1.0)
    x, time = torch.randn(6, 2), torch.rand(6)
    assert torch.equal(network(x, time), torch.zeros(6, 2))
    (network(x, time) - 1).square().sum().backward()
    assert network.out.weight.grad is not None
    assert float(network.out.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("time_span", [1.0, 5.0, 100.0])
def test_time_is_told_in_shares_of_its_span(time_span: float) -> None:
    """The same share of the span gives the same answer, and its two ends differ."""
    network, x = build(time_span), torch.ones(2, 2, dtype=torch.float64)
    share = torch.tensor([0.0, 1.0], dtype=torch.float64)
    given = network(x, time_span * share)
    torch.testing.assert_close(given, build(1.0)(x, share), rtol=1e-12, atol=1e-12)
    assert float((given[0] - given[1]).detach().abs().max()) > 1e-3


def test_arrays_are_flattened_and_come_back() -> None:
    network = FourierMlpConfig(width=8, depth=1).build((1, 4, 3), steps=10, time_span=10, out_channels=2)
    assert network(torch.randn(5, 1, 4, 3), torch.zeros(5)).shape == (5, 2, 4, 3)


def test_a_point_does_not_depend_on_its_companions() -> None:
    network, x, time = build(), torch.randn(7, 2, dtype=torch.float64), torch.linspace(-2.5, 2.5, 7).double()
    together = network(x, time)
    for i in range(7):
        torch.testing.assert_close(network(x[i : i + 1], time[i : i + 1])[0], together[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("field", ["width", "depth", "frequencies"])
def test_bad_settings_and_shapes_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"network.{field}"):
        FourierMlpConfig(**{field: 0})
    with pytest.raises(ConfigError, match="shape"):
        FourierMlpConfig().check((0,))
    with pytest.raises(ConfigError, match="no input"):
        build()(torch.zeros(1, 2).double(), torch.zeros(1).double(), Condition(labels=torch.tensor([1])))
