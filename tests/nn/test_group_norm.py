"""Group norm with its surroundings: the fused CPU path against the definition in float64, forward and back."""

import pytest
import torch
from torch import Tensor, nn

from sfumato.nn.group_norm import group_norm, most_groups


def by_definition(
    x: Tensor, norm: nn.GroupNorm, shift: Tensor | None, scale: Tensor | None, offset: Tensor | None, silu: bool
) -> Tensor:
    """The formula of the module, with torch's reductions and nothing else."""
    u = x if shift is None else x + shift[:, :, None, None]
    grouped = u.unflatten(1, (norm.num_groups, -1))
    centred = grouped - grouped.mean((2, 3, 4), keepdim=True)
    normal = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + norm.eps).sqrt()).flatten(1, 2)
    y = normal * norm.weight[:, None, None] + norm.bias[:, None, None]
    y = y if scale is None else y * (1 + scale[:, :, None, None])
    y = y if offset is None else y + offset[:, :, None, None]
    return y * y.sigmoid() if silu else y


def material(dtype: torch.dtype, *, offset: float = 0.5) -> tuple[Tensor, nn.GroupNorm, list[Tensor]]:
    """A picture whose groups have different means and spreads, a norm and the three (B, C) inputs."""
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 12)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, mean=0.5)
    spread = torch.linspace(0.3, 3, 12)[:, None, None]
    x = (torch.randn(5, 12, 6, 10) * spread + offset * spread).to(dtype).contiguous(memory_format=torch.channels_last)
    return x, norm, [torch.randn(5, 12) for _ in range(3)]


def slopes(out: Tensor, inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    return [g.double() for g in torch.autograd.grad((out.double() * weight).sum(), inputs)]


@pytest.mark.parametrize("layout", ["fused", "plain"])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("told", [(), ("shift",), ("scale", "offset"), ("shift", "scale", "offset")], ids="+".join)
def test_agrees_with_the_definition(layout: str, silu: bool, told: tuple[str, ...]) -> None:
    """bfloat16 channels-last runs the fused path, float32 torch's; both against float64, with all gradients."""
    x, norm, extra = material(torch.bfloat16 if layout == "fused" else torch.float32)
    given = dict(zip(("shift", "scale", "offset"), extra, strict=True))
    given = {name: value.requires_grad_() for name, value in given.items() if name in told}
    inputs = [x.requires_grad_(), norm.weight, norm.bias, *given.values()]
    out = group_norm(x, norm, silu=silu, **given)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    high = nn.GroupNorm(4, 12).double()
    high.weight, high.bias = nn.Parameter(exact[1]), nn.Parameter(exact[2])
    exact[1], exact[2] = high.weight, high.bias
    high_given = {"shift": None, "scale": None, "offset": None, **dict(zip(given, exact[3:], strict=True))}
    wanted = by_definition(exact[0], high, silu=silu, **high_given)
    weight = torch.randn(out.shape, dtype=torch.float64).bfloat16().double()  # the same in both
    # The fused path rounds once, at its end: half a unit of bfloat16's 8 bits. Sums are of float32.
    rounding = 2**-8 if layout == "fused" else 1e-5
    torch.testing.assert_close(out.double(), wanted, rtol=rounding, atol=1e-5)
    for found, true in zip(slopes(out, inputs, weight), slopes(wanted, exact, weight), strict=True):
        same = found.shape == x.shape
        torch.testing.assert_close(found, true, rtol=rounding if same else 2e-5, atol=2e-5 * float(true.abs().max()))


def test_parts_of_the_batch_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused path works on some examples at a time; how many must not matter, not even in the last bit."""
    x, norm, (shift, _, _) = material(torch.bfloat16)
    whole = group_norm(x, norm, shift=shift, silu=True)
    monkeypatch.setattr("sfumato.nn.group_norm.CHUNK", 2 * x[0].numel())  # 2 + 2 + 1 examples
    assert torch.equal(whole, group_norm(x, norm, shift=shift, silu=True))
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert whole.dtype == torch.bfloat16


def test_gradient_of_the_gradient() -> None:
    """Score matching differentiates twice: the fused path gives what float32 gives, to bfloat16's rounding."""
    seconds = []
    for dtype in (torch.bfloat16, torch.float32):
        x, norm, (shift, _, _) = material(torch.bfloat16)
        x = x.to(dtype).requires_grad_()
        out = group_norm(x, norm, shift=shift, silu=True).float().square().sum()
        (slope,) = torch.autograd.grad(out, x, create_graph=True)
        seconds.append(torch.autograd.grad(slope.float().square().sum(), norm.weight)[0])
    torch.testing.assert_close(seconds[0], seconds[1], rtol=0.02, atol=0.02 * float(seconds[1].abs().max()))


def test_most_groups() -> None:
    assert most_groups(32, 128, 256) == 32
    assert most_groups(32, 48, 96) == 24
    assert most_groups(32, 7, 12) == 1
