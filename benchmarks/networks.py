"""How fast is each network? Images/s of training and sampling in our fast path, and ratios to others' ways.

    python benchmarks/networks.py                          every network at 3x32x32, then DdpmUNet beside diffusers
    python benchmarks/networks.py --network DdpmUNet --batch 64 --device cuda

1. Our step and our sampling (bfloat16 autocast where the hardware multiplies it, channels-last, fused AdamW, averages
   by foreach; compiled on a GPU) against the same module in plain eager float32, contiguous.
2. `DdpmUNet` against diffusers' `UNet2DModel` of the same layout, with the same weights, driven as its example of
   unconditional training does: torch.randn, randint, DDPMScheduler.add_noise, mse_loss, clip_grad_norm_, AdamW, a
   cosine rate with warm-up, EMAModel, float32, eager; and its DDIMPipeline against our DDIM of as many steps.

Times are taken in turn; a ratio is the median of five pairs. On a GPU the share of its bfloat16 peak is printed: FLOPs
of the forward pass as torch counts them, times three for a training step.
"""

import argparse
import copy
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from _pairs import Pairs, alternate, machine
from torch import nn
from train_step import bare_step, our_session, our_step

from sfumato.core import batch_noise, derived_generator
from sfumato.experiment.forecast import TRAINING_FLOPS, count_flops
from sfumato.experiment.model import Model
from sfumato.experiment.sections import SamplingConfig
from sfumato.experiment.session import Session
from sfumato.nn import DdpmUNetConfig
from sfumato.samplers import Ddim

# bfloat16 multiply-adds per second without sparsity, as the makers state them, by part of the name
PEAKS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
WARM_UP = 12  # calls before timing on a GPU, where the first ones compile and record graphs


@dataclass(frozen=True)
class Setting:
    """What is measured: pictures (3, size, size), examples per step, steps per sample."""

    size: int
    batch: int
    steps: int
    threads: int
    device: str


def networks(size: int) -> dict[str, dict[str, object]]:
    """Every network of pictures at its canonical setting; the two for large GPUs smaller."""
    return {
        "DdpmUNet": {"attention": [size // 2]},
        "AdditiveUNet": {},
        "BottleneckUNet": {},
        "FilmUNet": {},
        "ResidualUNet": {},
        "Dit": {"patch": 4},
        "Edm2UNet": {"widths": [64, 128, 192], "depth": 2, "attention": [size // 4]},
        "Tiny": {},
    }


def session_of(name: str, setting: Setting) -> Session:
    """A session of cifar10-ddpm with another network, over random bytes."""
    on_gpu = setting.device.startswith("cuda")
    overrides = {
        "network": {"kind": name, **networks(setting.size)[name]},
        "data.size": setting.size,
        "training.batch_size": setting.batch,
        "training.device": setting.device,
        "training.threads": None if on_gpu else setting.threads,
        "training.compile": "on" if on_gpu else "off",
    }
    return our_session("cifar10-ddpm", overrides)


def our_sampling(session: Session, setting: Setting) -> Callable[[], object]:
    """`Model.sample` by DDIM in the precision of training, in one micro-batch."""
    denoiser = copy.deepcopy(session.averaged)
    denoiser.network.to(memory_format=torch.channels_last)
    model = Model(session.experiment, session.data.record, {"ema": denoiser}, "", 0)
    precision = session.experiment.training.precision
    config = SamplingConfig(
        Ddim(),
        setting.steps,
        micro_batch=setting.batch,
        precision="bfloat16" if precision == "bfloat16" else "float32",
    )
    return lambda: model.sample(setting.batch, config=config)


def plain_sampling(session: Session, setting: Setting) -> Callable[[], object]:
    """The same module in eager float32, contiguous, and DDIM written out."""
    network = copy.deepcopy(session.averaged.network).to(memory_format=torch.contiguous_format).eval()
    device = session.engine.device
    levels = torch.linspace(0.01, 0.999, setting.steps + 1, device=device)
    start = batch_noise((setting.batch, 3, setting.size, setting.size), 0, "start").to(device)

    @torch.no_grad()
    def run() -> torch.Tensor:
        x = start
        for now, after in pairwise(levels):
            eps = network(x, torch.full((len(x),), 500.0, device=device))
            x0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(-1, 1)
            x = after.sqrt() * x0 + (1 - after).sqrt() * eps
        return ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()

    return run


def report(what: str, pairs: Pairs, other: str, *, images: int, flops: float, bound: str = "above 1") -> None:
    """Images/s of ours and of the other, their ratio, and the share of the peak where it is known."""
    ours = statistics.median(pairs.b)
    theirs = statistics.median(pairs.a)
    line = f"  {what:9} ours {images / ours:9.1f} images/s, {other} {images / theirs:9.1f}: "
    line += f"ratio {pairs.ratio:.2f} (pairs {pairs.spread}); wanted {bound}"
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((rate for part, rate in PEAKS.items() if part in name), None)
    if peak is not None:
        line += f"; {flops * images / ours / peak:.1%} of the bfloat16 peak"
    print(line, flush=True)


def in_turn(other: Callable[[], object], ours: Callable[[], object], setting: Setting) -> Pairs:
    """Five pairs; on a GPU after both have compiled."""
    for _ in range(WARM_UP if setting.device.startswith("cuda") else 0):
        ours(), other()
    return alternate(other, ours, repeats=10 if setting.device.startswith("cuda") else 1)


def against_plain(name: str, setting: Setting) -> None:
    """One network: our fast path beside the module in plain float32."""
    session = session_of(name, setting)
    flops = count_flops(session)
    precision = session.experiment.training.precision
    print(f"{name}: {session.num_parameters():,} parameters, {flops / 1e9:.3g} GFLOP an image, {precision}")
    plain = bare_step(session, autocast=False, channels_last=False)
    pairs = in_turn(plain, our_step(session), setting)
    report("training", pairs, "plain float32", images=setting.batch, flops=TRAINING_FLOPS * flops)
    pairs = in_turn(plain_sampling(session, setting), our_sampling(session, setting), setting)
    report(f"{setting.steps} steps", pairs, "plain float32", images=setting.batch, flops=setting.steps * flops)


def diffusers_network(config: DdpmUNetConfig, setting: Setting) -> nn.Module:
    """diffusers' network of the layout of `config`."""
    import diffusers

    attends = [setting.size >> level in config.attention for level in range(len(config.widths))]
    network: nn.Module = diffusers.UNet2DModel(
        sample_size=setting.size,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        attention_head_dim=config.head_width,
        dropout=config.dropout,
    )
    return network


def diffusers_step(network: nn.Module, images: torch.Tensor, setting: Setting) -> Callable[[], object]:
    """One step of its unconditional training example, from pictures that are in memory already."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    chain = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
    average.to(images.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rates = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=100_000)
    generator = derived_generator(0, "choice")
    network.train()

    def step() -> float:
        clean = images[torch.randint(len(images), (setting.batch,), generator=generator)]
        noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
        timesteps = torch.randint(0, 1000, (setting.batch,), device=clean.device).long()
        noisy = chain.add_noise(clean, noise, timesteps)
        loss = nn.functional.mse_loss(network(noisy, timesteps).sample.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        average.step(network.parameters())
        return float(loss.detach())

    return step


def diffusers_sampling(network: nn.Module, setting: Setting) -> Callable[[], object]:
    """Its DDIMPipeline, eta 0, to arrays."""
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline = DDIMPipeline(unet=network.eval(), scheduler=DDIMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=setting.batch, num_inference_steps=setting.steps, output_type="np")


def against_diffusers(setting: Setting) -> None:
    """DdpmUNet and diffusers' module with the same weights."""
    if importlib.util.find_spec("diffusers") is None:
        print("diffusers is not installed; pip install 'sfumato[hub]' to compare DdpmUNet with its UNet2DModel")
        return
    session = session_of("DdpmUNet", setting)
    config = session.experiment.network
    assert isinstance(config, DdpmUNetConfig)
    theirs = diffusers_network(config, setting).to(session.engine.device)
    theirs.load_state_dict(session.averaged.network.state_dict(), strict=True)
    print(f"DdpmUNet beside diffusers' UNet2DModel: {session.num_parameters():,} parameters each")
    images = batch_noise((4 * setting.batch, 3, setting.size, setting.size), 0, "images").clamp(-1, 1)
    flops, wanted = count_flops(session), "1.5 or more" if setting.device.startswith("cuda") else "2.5 or more with AMX"
    drive = diffusers_step(theirs, images.to(session.engine.device), setting)
    pairs = in_turn(drive, our_step(session), setting)
    report("training", pairs, "diffusers", images=setting.batch, flops=TRAINING_FLOPS * flops, bound=wanted)
    pairs = in_turn(diffusers_sampling(theirs, setting), our_sampling(session, setting), setting)
    report(f"{setting.steps} steps", pairs, "diffusers", images=setting.batch, flops=setting.steps * flops)


def main() -> None:
    """Print two lines per network, and two beside diffusers, with the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", help="one of them alone; DdpmUNet is then compared with diffusers, too")
    parser.add_argument("--size", type=int, default=32, help="side of the pictures, a multiple of 16")
    parser.add_argument("--batch", type=int, help="examples per step: 16 on a CPU, 128 on a GPU")
    parser.add_argument("--steps", type=int, default=4, help="DDIM steps per sample")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    names = {name.lower(): name for name in networks(32)}
    if options.network is not None and options.network.lower() not in names:
        parser.error(f"--network {options.network}: choose from {', '.join(names.values())}")
    torch.set_num_threads(options.threads)
    setting = Setting(options.size, 0, options.steps, options.threads, options.device)
    batch = options.batch or (128 if setting.device.startswith("cuda") else 16)
    setting = replace(setting, batch=batch)
    print(f"{machine()}; 3x{setting.size}x{setting.size}, batch {batch}")
    for name in [names[options.network.lower()]] if options.network else names.values():
        against_plain(name, setting)
    if options.network is None or options.network.lower() == "ddpmunet":
        against_diffusers(setting)


if __name__ == "__main__":
    main()
