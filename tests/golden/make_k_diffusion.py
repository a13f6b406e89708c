"""Golden arrays of k-diffusion's samplers: run once beside an unpacked source of k-diffusion, kept as k_diffusion.npz.

    python tests/golden/make_k_diffusion.py FOLDER        # the folder that holds k_diffusion/sampling.py

k-diffusion depends on torchvision and torchsde, which nothing here may install; its samplers use neither, so both, and
its own `utils`, are stand-ins while `sampling.py` is imported. All runs in float64 on one mixture of two Gaussians.
"""

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.verify.oracles import MixtureOracle

WEIGHTS = [0.3, 0.7]
MEANS = [[1.0, -0.5], [-0.6, 0.8]]
COVS = [[[0.3, 0.1], [0.1, 0.4]], [[0.2, 0.0], [0.0, 0.3]]]
SIGMA_MIN, SIGMA_MAX, STEPS, COUNT = 0.02, 80.0, 30, 6
CHURN, CHURN_MIN, CHURN_MAX, CHURN_NOISE = 6.0, 0.05, 50.0, 1.003
DETERMINISTIC: dict[str, dict[str, float]] = {
    "sample_euler": {},
    "sample_heun": {},
    "sample_dpm_2": {},
    "sample_dpmpp_2s_ancestral": {"eta": 0.0},
    "sample_dpmpp_2m": {},
}


def broadcast(value: Tensor, ndim: int) -> Tensor:
    """What their `utils.append_dims` does: new axes at the end, `ndim` in all."""
    return value.reshape(value.shape + (1,) * (ndim - value.ndim))


def load_sampling(folder: Path) -> types.ModuleType:
    """k_diffusion.sampling without the package around it."""
    for name in ("torchsde", "torchdiffeq", "k_diffusion", "k_diffusion.utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    sys.modules["k_diffusion.utils"].append_dims = broadcast  # type: ignore[attr-defined]
    sys.modules["k_diffusion"].utils = sys.modules["k_diffusion.utils"]  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("k_diffusion.sampling", folder / "k_diffusion" / "sampling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    oracle = MixtureOracle(WEIGHTS, MEANS, COVS)
    return torch.from_numpy(oracle.denoiser(x.numpy(), 1.0, float(sigma[0])))


def scripted(draws: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: next(draws)


def version(folder: Path) -> str:
    lines = (folder / "PKG-INFO").read_text("utf-8").splitlines()
    return next(line for line in lines if line.startswith("Version:")).split()[1]


def main(folder: Path) -> None:
    torch.set_default_dtype(torch.float64)  # their grids are made in it
    k = load_sampling(folder)
    generator = np.random.default_rng(20)
    x = torch.from_numpy(SIGMA_MAX * generator.standard_normal((COUNT, 2)))
    normals = torch.from_numpy(generator.standard_normal((STEPS, COUNT, 2)))
    karras = k.get_sigmas_karras(STEPS, SIGMA_MIN, SIGMA_MAX)
    exponential = k.get_sigmas_exponential(STEPS, SIGMA_MIN, SIGMA_MAX)
    arrays = {"x": x, "normals": normals, "sigmas_karras": karras, "sigmas_exponential": exponential}
    for name, options in DETERMINISTIC.items():
        states: list[Tensor] = []
        end = getattr(k, name)(
            denoiser, x, karras, callback=lambda at, states=states: states.append(at["x"]), disable=True, **options
        )
        arrays[name] = torch.stack([*states, end])
    k.torch.randn_like = scripted(iter(normals))
    arrays["sample_heun_churn"] = k.sample_heun(
        denoiser,
        x,
        exponential,
        disable=True,
        s_churn=CHURN,
        s_tmin=CHURN_MIN,
        s_tmax=CHURN_MAX,
        s_noise=CHURN_NOISE,
    )
    made_by = f"k-diffusion {version(folder)}, torch {torch.__version__}, numpy {np.__version__}"
    settings = np.array([CHURN, CHURN_MIN, CHURN_MAX, CHURN_NOISE])
    target = Path(__file__).with_name("k_diffusion.npz")
    np.savez_compressed(
        target,
        made_by=np.array(made_by),
        weights=np.array(WEIGHTS),
        means=np.array(MEANS),
        covs=np.array(COVS),
        churn_settings=settings,
        **{name: array.numpy() for name, array in arrays.items()},
    )
    print(f"{target}: {made_by}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
