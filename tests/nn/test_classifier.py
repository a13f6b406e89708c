"""Classifiers of noisy data: any shape, one example at a time, smooth, and undecided before training."""

import pytest
import torch

from sfumato.errors import ConfigError
from sfumato.nn.classifier import NoisyClassifierConfig

SHAPES = [(1, 8, 8), (3, 12, 20), (4, 5, 7), (5, 1, 3), (2, 33, 16), (2,), (7,), (3, 11), (2, 3, 4, 5)]


def decided(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, **sizes: int) -> torch.nn.Module:
    """A small classifier whose last layer is not zero."""
    network = NoisyClassifierConfig(**{"width": 8, **sizes}).build(shape, num_classes=5, time_span=2.0).to(dtype)
    head = network.head if len(shape) == 3 else network.body.out
    torch.nn.init.normal_(head.weight)
    return network


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_each_example_alone(shape: tuple[int, ...]) -> None:
    network = decided(shape, depth=2)
    x, time = torch.randn(6, *shape, dtype=torch.float64), torch.linspace(-1, 1, 6, dtype=torch.float64)
    logits = network(x, time)
    assert logits.shape == (6, 5)
    alone = torch.cat([network(x[i : i + 1], time[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(logits, alone, rtol=1e-9, atol=1e-10)  # float64, sums in another order
    assert not torch.allclose(network(x, time + 0.3), logits)  # the time is heard


@pytest.mark.parametrize("shape", [(1, 6, 5), (3,)], ids=str)
def test_the_gradient_is_that_of_finite_differences(shape: tuple[int, ...]) -> None:
    """What guides samples is this gradient; maxima or rectifiers would make it jump."""
    network = decided(shape)
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    time = torch.tensor([0.3, -0.7], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: network(x, time).log_softmax(1), (x,), eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2,)], ids=str)
def test_an_untrained_one_is_undecided(shape: tuple[int, ...]) -> None:
    network = NoisyClassifierConfig().build(shape, num_classes=3, time_span=1.0)
    assert torch.equal(network(torch.randn(2, *shape), torch.rand(2)), torch.zeros(2, 3))


def test_every_parameter_learns() -> None:
    for shape in ((3, 16, 16), (2,)):
        network = decided(shape)
        network(
            torch.randn(4, *shape, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
        ).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("sizes", [{"width": 0}, {"width": 12}, {"depth": 0}], ids=str)
def test_sizes_that_cannot_be(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"width|depth"):
        NoisyClassifierConfig(**sizes)
