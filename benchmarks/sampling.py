"""What does the sampler add? Time of `Model.sample` over the time of its network calls alone; 1.02 or less is wanted.

    python benchmarks/sampling.py

One micro-batch of 64 images of 64x64 through the 3,562,211-parameter U-Net, 10 steps, float32 as samples are drawn by
default.
"""

import argparse
from collections.abc import Callable

import torch
from _pairs import alternate, machine

from sfumato.data import Normalization
from sfumato.experiment.build import DataRecord, build_denoiser
from sfumato.experiment.config import load_experiment
from sfumato.experiment.model import Model


def untrained_model(recipe: str, shape: tuple[int, int, int]) -> Model:
    """A model of the recipe with fresh weights: its pictures are noise, its cost is real."""
    experiment = load_experiment(recipe)
    level = (127.5,) * shape[0]
    normalization = Normalization("range", level, level, size=shape[1:], pad=None)
    record = DataRecord(shape, True, 0.5, normalization, None, (), "", 0, 0, ())
    denoiser = build_denoiser(experiment, shape=shape, data_std=0.5).eval().requires_grad_(False)
    denoiser.network.to(memory_format=torch.channels_last)
    return Model(experiment, record, {"ema": denoiser}, "", 0)


def bare_calls(model: Model, *, batch: int, calls: int) -> Callable[[], object]:
    """The network alone, called as often."""
    network = model.denoiser.network
    x = torch.randn(batch, *model.record.shape).contiguous(memory_format=torch.channels_last)
    time = torch.full((batch,), 0.5)

    @torch.no_grad()
    def run() -> None:
        for _ in range(calls):
            network(x, time)

    return run


def main() -> None:
    """Print one ratio per sampler with the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    print(machine())
    model = untrained_model("oxford-flowers", (3, 64, 64))
    batch = model.experiment.sampling.micro_batch
    bare = bare_calls(model, batch=batch, calls=options.steps)
    for sampler in ("ddim", "ancestral"):
        pairs = alternate(lambda s=sampler: model.sample(batch, steps=options.steps, sampler=s), bare, repeats=1)
        print(pairs.line(f"{sampler}, {options.steps} steps", f"{options.steps} network calls", bound="1.02 or less"))


if __name__ == "__main__":
    main()
