"""How fast is a training step? Two ratios for the 3,562,211-parameter U-Net at batch 64, one for the toy perceptron.

    python benchmarks/train_step.py

1. The same network in plain eager float32 contiguous PyTorch, over our step: how much the fast path gains.
2. Our step over a bare step of the same precision that also draws its batch, clips, and updates AdamW and the average:
what
   the loop costs. The same for the perceptron of 72,066 parameters, where overhead is hardest to hide.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from _pairs import alternate, machine
from torch import Tensor, nn

from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.forecast import stand_in
from sfumato.experiment.reporting import Silent
from sfumato.experiment.session import Session
from sfumato.training.engine import resolve


def our_session(recipe: str, overrides: dict[str, object]) -> Session:
    """A session over random data of the recipe's shape, as `sfumato train` would build it."""
    experiment: Experiment = load_experiment(recipe, {"training.compile": "off", **overrides})
    data = stand_in(experiment)
    experiment = replace(experiment, training=resolve(experiment.training, is_image=data.record.is_image))
    return Session(experiment, data, folder=Path("benchmark"), reporter=Silent())


def our_step(session: Session) -> Callable[[], object]:
    """One step after the other of a session."""
    steps = iter(range(10**9))
    return lambda: session.step(next(steps))


def bare_step(session: Session, *, autocast: bool, channels_last: bool) -> Callable[[], object]:
    """The shortest honest training step in plain PyTorch for the session's network: noise target, MSE, a table."""
    network: nn.Module = copy.deepcopy(session.averaged.network).requires_grad_(True).train()
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    if any(p.ndim == 4 for p in network.parameters()):
        network = network.to(memory_format=format_)
    parameters = list(network.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    steps = session.experiment.schedule.num_steps or 1000
    device = session.engine.device
    alpha_bar = torch.linspace(0.999, 0.001, steps, device=device)
    data, size, shape = session.batches._values, session.batches.batch_size, session.data.record.shape
    count = len(data)

    def normalised(indices: Tensor) -> Tensor:
        picked = data[indices]
        if picked.dtype != torch.uint8:
            return picked
        x0 = picked.permute(0, 3, 1, 2).float() / 127.5 - 1
        return x0.contiguous(memory_format=format_)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        x0 = normalised(torch.randint(0, count, (size,), device=device))
        index = torch.randint(0, steps, (size,), device=device)
        eps = torch.randn(size, *shape, device=device)
        eps = eps.contiguous(memory_format=format_) if eps.ndim == 4 else eps
        a = alpha_bar[index].reshape(-1, *(1 for _ in shape))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            output = network(a.sqrt() * x0 + (1 - a).sqrt() * eps, index.float())
        loss = (output.float() - eps).square().mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if device.type == "cpu" and not bool(norm.isfinite()):
            raise ArithmeticError("the gradient is not finite")
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 0.001)

    return step


def main() -> None:
    """Print the three ratios with the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4, help="U-Net steps per timing")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    unet = our_session("oxford-flowers", {"training.threads": options.threads})
    ours, precision = our_step(unet), unet.experiment.training.precision
    plain = alternate(bare_step(unet, autocast=False, channels_last=False), ours, repeats=options.repeats)
    print(plain.line("U-Net, plain float32", f"our step ({precision})", bound="3.5 or more with AMX"))
    fast = bare_step(unet, autocast=precision == "bfloat16", channels_last=True)
    loop = alternate(ours, fast, repeats=options.repeats)
    print(loop.line("U-Net, our step", f"bare step ({precision})", bound="1.05 or less"))
    toy = our_session("swiss-roll", {"training.threads": options.threads})
    small = alternate(our_step(toy), bare_step(toy, autocast=False, channels_last=False), repeats=300)
    print(small.line("toy perceptron, our step", "bare step (float32)", bound="1.3 or less"))


if __name__ == "__main__":
    main()
