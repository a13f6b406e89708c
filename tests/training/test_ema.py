"""The moving average against its closed form, and what must never move it."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import CheckpointError, ConfigError
from sfumato.training.ema import Ema, bare_state


class Tied(nn.Module):
    """Two names for one weight, batch statistics, a counter, a constant, a table that is not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("constant", torch.tensor([0.1, 0.7]))
        self.register_buffer("table", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.first(x)))


@torch.no_grad()
def fill(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters(), module.norm.running_mean, module.norm.running_var]:
        tensor.copy_(torch.randn(tensor.shape, generator=generator))


def decays(count: int, decay: float) -> list[float]:
    return [min(decay, (1 + n) / (10 + n)) for n in range(count)]


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("steps", [1, 7, 200])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_constant_weights_have_a_closed_form(decay: float, steps: int, warmup: bool) -> None:
    """After n steps of constant weights w from w_0: w + prod(d_k) (w_0 - w)."""
    module = Tied()
    fill(module, 0)
    start = {name: tensor.double().clone() for name, tensor in bare_state(module).items()}
    ema = Ema(module, decay=decay, warmup=warmup)
    fill(module, 1)
    module.norm.num_batches_tracked.fill_(17)
    for _ in range(steps):
        ema.update(module)
    left = math.prod(decays(steps, decay) if warmup else [decay] * steps)
    assert ema.num_updates == steps
    for name, average in ema.state_dict().items():
        live = bare_state(module)[name]
        if live.is_floating_point():
            truth = live.double() + left * (start[name] - live.double())
            # 1e-6 of the larger of the two ends; 200 roundings of 6e-8 at random add up to 8e-7 at most in practice
            scale = torch.maximum(start[name].abs(), live.double().abs()).max().item()
            torch.testing.assert_close(average.double(), truth, rtol=0, atol=1e-6 * scale)
        else:
            assert torch.equal(average, live)
    assert torch.equal(ema.state_dict()["constant"], module.constant)  # what does not move keeps its bits


def test_moving_weights_agree_with_the_sum_in_double() -> None:
    module = Tied()
    fill(module, 0)
    ema = Ema(module, decay=0.95)
    truth = {name: tensor.double().clone() for name, tensor in bare_state(module).items()}
    for step, decay in enumerate(decays(60, 0.95)):
        fill(module, step + 1)
        ema.update(module)
        for name, live in bare_state(module).items():
            truth[name] = decay * truth[name] + (1 - decay) * live.double()
    for name in ("first.weight", "second.bias", "norm.running_mean", "norm.running_var"):
        # float32 rounds each of 60 steps by 6e-8 of values of order 1
        torch.testing.assert_close(ema.state_dict()[name].double(), truth[name], rtol=0, atol=2e-6)


def test_names_are_those_of_the_bare_module() -> None:
    module = Tied()
    names = set(module.state_dict())
    assert set(Ema(module).state_dict()) == set(bare_state(module)) == names
    compiled = torch.compile(module)
    assert set(bare_state(compiled)) == names
    whole = nn.ModuleDict({"network": torch.compile(module), "module": nn.Linear(1, 1)})
    expected = {f"network.{name}" for name in names} | {"module.weight", "module.bias"}  # a real child called module
    assert set(Ema(whole).state_dict()) == expected


def test_names_under_data_parallel(tmp_path: object) -> None:
    module = Tied()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(module)
        assert set(bare_state(wrapped)) == set(module.state_dict())
        ema = Ema(wrapped)
        fill(module, 3)
        ema.update(wrapped)
        ema.copy_to(module)
    finally:
        torch.distributed.destroy_process_group()


def test_tied_weights_are_averaged_once() -> None:
    module = Tied()
    fill(module, 0)
    start = module.first.weight.detach().clone()
    ema = Ema(module, decay=0.5, warmup=False)
    fill(module, 1)
    ema.update(module)
    middle = (start + module.first.weight.detach()) / 2  # twice would leave a quarter of the start
    for name in ("first.weight", "second.weight"):
        torch.testing.assert_close(ema.state_dict()[name], middle, rtol=1e-6, atol=1e-7)
    assert ema.state_dict()["first.weight"] is ema.state_dict()["second.weight"]


def test_live_weights_are_never_touched_nor_shared() -> None:
    module = Tied()
    fill(module, 0)
    ema = Ema(module, decay=0.5)
    fill(module, 1)
    before = copy.deepcopy(module.state_dict())
    ema.update(module)
    other = Tied()
    ema.copy_to(other)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, ema.state_dict()[name])
    fill(module, 2)
    fill(other, 3)
    assert not any(
        torch.equal(ema.state_dict()[n], module.state_dict()[n]) for n in ("first.weight", "norm.running_var")
    )


def test_a_skipped_update_keeps_every_bit() -> None:
    """Even when the live statistics are not finite; and a flag that is off changes nothing but the last bit."""
    module = Tied()
    fill(module, 0)
    ema, plain = Ema(module, decay=0.9), Ema(module, decay=0.9)
    fill(module, 1)
    module.norm.num_batches_tracked.fill_(5)
    ema.update(module, torch.tensor(False))
    plain.update(module)
    before = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(before[name], tensor)  # a + w (b - a) in three roundings instead of one
    for name, tensor in module.state_dict().items():
        nothing = float("nan") if "running" in name else 3.0  # the optimizer skipped too: parameters are finite
        tensor.fill_(nothing if tensor.is_floating_point() else 9)
    ema.update(module, torch.tensor(True))
    assert all(torch.equal(before[name], tensor) for name, tensor in ema.state_dict().items())


def test_averages_are_float32_or_better() -> None:
    """In bfloat16 a step of 0.1 % would be rounded away."""
    module = nn.Linear(4, 4).bfloat16()
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema = Ema(module, decay=0.999, warmup=False)
    with torch.no_grad():
        module.weight.fill_(2.0)
    for _ in range(100):
        ema.update(module)
    average = ema.state_dict()["weight"]
    assert average.dtype == torch.float32
    torch.testing.assert_close(average, torch.full((4, 4), 2 - 0.999**100), rtol=1e-5, atol=0)
    assert Ema(nn.Linear(2, 2).double()).state_dict()["weight"].dtype == torch.float64
    target = nn.Linear(4, 4).bfloat16()
    ema.copy_to(target)
    assert torch.equal(target.weight, average.bfloat16())


def test_resuming_changes_no_bit() -> None:
    def trained(ema: Ema, module: nn.Module, steps: range) -> None:
        for step in steps:
            fill(module, step)
            ema.update(module)

    module = Tied()
    fill(module, 99)
    whole = Ema(module, decay=0.99)
    first = Ema(module, decay=0.99)
    trained(whole, module, range(30))
    trained(first, module, range(12))
    stored = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    again = Ema(Tied(), decay=0.99)
    again.load_state_dict(stored, num_updates=first.num_updates)
    trained(again, module, range(12, 30))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_a_module_may_move_or_be_replaced() -> None:
    """`module.to` makes new buffers, and DDP another module; the average follows both."""
    module = Tied()
    fill(module, 0)
    ema = Ema(module, decay=0.5, warmup=False)
    module.double()
    fill(module, 1)
    ema.update(module)
    truth = Ema(module).state_dict()
    fill(module, 0)
    middle = (truth["norm.running_mean"] + module.norm.running_mean) / 2
    torch.testing.assert_close(ema.state_dict()["norm.running_mean"].double(), middle, rtol=1e-6, atol=1e-7)
    other = Tied()
    fill(other, 2)
    ema.update(other)
    with pytest.raises(CheckpointError, match="does not fit"):
        ema.update(nn.Linear(3, 3))


def test_stored_averages_must_fit_and_load_whole_or_not() -> None:
    ema = Ema(Tied())
    before = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
    wrong = {name: tensor + 1 for name, tensor in before.items()}
    wrong["norm.running_mean"] = torch.zeros(4)
    with pytest.raises(CheckpointError, match=r"'norm.running_mean': expected 3, found 4"):
        ema.load_state_dict(wrong, num_updates=5)
    with pytest.raises(CheckpointError, match="found nothing"):
        ema.load_state_dict({}, num_updates=5)
    assert ema.num_updates == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in ema.state_dict().items())
    with pytest.raises(CheckpointError, match="'weight'"):
        ema.copy_to(nn.Linear(3, 3))


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="decay"):
        Ema(nn.Linear(1, 1), decay=decay)


def test_channels_last_weights_are_averaged_in_place() -> None:
    """The fused path needs equal strides; the result must not depend on the layout."""
    module = nn.Conv2d(3, 4, 3)
    other = copy.deepcopy(module).to(memory_format=torch.channels_last)
    one, two = Ema(module, decay=0.5), Ema(other, decay=0.5)
    with torch.no_grad():
        for conv in (module, other):
            conv.weight.add_(1)
    one.update(module)
    two.update(other)
    assert two.state_dict()["weight"].stride() == other.weight.stride()
    assert torch.equal(one.state_dict()["weight"], two.state_dict()["weight"])
