"""nickd16's perceptron: its count, its formula computed a second time, what it hears of the time."""

import math
from itertools import pairwise

import pytest
import torch

from sfumato.condition import ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import AdditiveMlpConfig


def test_parameter_count_is_the_published_one() -> None:
    """784-512-256-256-512-784: i·o + o of each layer."""
    network = AdditiveMlpConfig().build((1, 28, 28), steps=1000, time_span=1000.0)
    sizes = (784, 512, 256, 256, 512, 784)
    assert sum(i * o + o for i, o in pairwise(sizes)) == 1_132_816
    assert sum(p.numel() for p in network.parameters()) == 1_132_816
    assert float(network(torch.randn(2, 1, 28, 28), torch.zeros(2)).detach().abs().max()) == 0  # begins at zero


def test_network_agrees_with_its_formula() -> None:
    """Sines and cosines of 1e-4 to 1 radian a step added to the values, silu between plain layers."""
    torch.manual_seed(0)
    network = AdditiveMlpConfig(widths=(5, 7)).build((1, 2, 3), steps=1000, time_span=1000.0).double()
    torch.nn.init.normal_(network.out.weight)
    x, step = torch.randn(4, 1, 2, 3, dtype=torch.float64), torch.tensor([0.0, 3.0, 400.0, 999.0], dtype=torch.float64)
    radians = [math.exp(math.log(1e-4) * (1 - k / 2)) for k in range(3)]
    angles = step[:, None] * torch.tensor(radians, dtype=torch.float64)
    h = x.flatten(1) + torch.cat([angles.sin(), angles.cos()], dim=1)
    for layer in network.hidden:
        z = h @ layer.weight.T + layer.bias
        h = z / (1 + (-z).exp())
    expected = (h @ network.out.weight.T + network.out.bias).reshape(4, 1, 2, 3)
    torch.testing.assert_close(network(x, step), expected, rtol=1e-12, atol=1e-12)  # float64, the same sums


def test_an_odd_number_of_values_has_one_cosine_less() -> None:
    network = AdditiveMlpConfig(widths=(4,)).build((3,), steps=None, time_span=1.0)
    assert network(torch.randn(2, 3), torch.tensor([0.1, 0.9])).shape == (2, 3)


def test_pictures_to_go_by_and_no_layers_are_refused() -> None:
    with pytest.raises(ConfigError):
        AdditiveMlpConfig(widths=())
    with pytest.raises(ConfigError):
        AdditiveMlpConfig().check_condition(ConditionShape(image_channels=1))
