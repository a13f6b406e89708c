"""Group norm with its surroundings against the definition in float64, forward and back."""

import pytest
import torch
from torch import Tensor, nn

from sfumato.nn.group_norm import group_norm, most_groups

NAMES = ("shift", "scale", "offset")


def by_definition(x: Tensor, weight: Tensor, bias: Tensor, told: dict[str, Tensor], silu: bool) -> Tensor:
    """The formula of the module, with torch's reductions and nothing else; 4 groups."""
    extra = {name: told.get(name, torch.zeros(x.shape[:2]).to(x))[:, :, None, None] for name in NAMES}
    grouped = (x + extra["shift"]).unflatten(1, (4, -1))
    centred = grouped - grouped.mean((2, 3, 4), keepdim=True)
    normal = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()).flatten(1, 2)
    y = (normal * weight[:, None, None] + bias[:, None, None]) * (1 + extra["scale"]) + extra["offset"]
    return y * y.sigmoid() if silu else y


def material() -> tuple[Tensor, nn.GroupNorm, dict[str, Tensor]]:
    """A picture whose groups have different means and spreads, a norm and the three (B, C) inputs."""
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 12)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, mean=0.5)
    spread = torch.linspace(0.3, 3, 12)[:, None, None]
    x = (torch.randn(5, 12, 6, 10) * spread + 0.5 * spread).contiguous(memory_format=torch.channels_last)
    return x, norm, {name: torch.randn(5, 12) for name in NAMES}


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("names", [(), ("shift",), ("scale", "offset"), NAMES], ids="+".join)
def test_agrees_with_the_definition(silu: bool, names: tuple[str, ...]) -> None:
    x, norm, extra = material()
    inputs = [t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias, *(extra[n] for n in names))]
    wanted = by_definition(*inputs[:3], dict(zip(names, inputs[3:], strict=True)), silu)
    norm = norm.double()
    norm.weight, norm.bias = nn.Parameter(inputs[1].detach()), nn.Parameter(inputs[2].detach())
    told = {name: extra[name].double().requires_grad_() for name in names}
    here = x.double().requires_grad_()
    found = group_norm(here, norm, silu=silu, **told)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn_like(wanted)
    slopes = torch.autograd.grad((found * weight).sum(), [here, norm.weight, norm.bias, *told.values()])
    torch.testing.assert_close(list(slopes), list(torch.autograd.grad((wanted * weight).sum(), inputs)))


@pytest.mark.parametrize("names", [("shift",), ("scale", "offset")], ids="+".join)
def test_layout_and_type_are_kept(names: tuple[str, ...]) -> None:
    """bfloat16 channels-last, as autocast hands it on, comes back as such and off by its rounding alone."""
    x, norm, extra = material()
    told = {name: extra[name].bfloat16() for name in names}
    out = group_norm(x.bfloat16(), norm, silu=True, **told)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    exact = group_norm(x, norm, silu=True, **{name: value.float() for name, value in told.items()})
    torch.testing.assert_close(out.float(), exact, rtol=0.03, atol=0.03)  # a handful of roundings of 2^-9


def test_most_groups() -> None:
    assert most_groups(32, 128, 256) == 32
    assert most_groups(32, 48, 96) == 24
    assert most_groups(32, 7, 12) == 1
