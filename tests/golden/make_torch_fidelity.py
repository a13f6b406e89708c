"""Golden numbers of torch-fidelity: KID, FID, precision and recall of given features, and features of its Inception.

    python tests/golden/make_torch_fidelity.py        # with torch-fidelity installed; keeps torch_fidelity.npz

torch-fidelity depends on torchvision, which pins another torch; what is used here does not touch it, so a stand-in will
do. Inception's weights are random ones of the right names and shapes, drawn by `weights_of` here as in the test.
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor

COUNT, DIM = 120, 10


def weights_of(shapes: dict[str, torch.Size], seed: int = 0) -> dict[str, Tensor]:
    """Random weights under which features stay of the size of 1: by name, in alphabetical order."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, shape in sorted(shapes.items()):
        last = name.rsplit(".", 1)[-1]
        if last == "num_batches_tracked":
            found[name] = torch.zeros((), dtype=torch.int64)
        elif last == "running_var":
            found[name] = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) > 1:
            found[name] = torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
        else:
            found[name] = float(".bn.weight" in name) + 0.1 * torch.randn(shape, generator=generator)
    return found


def pictures() -> Tensor:
    """Three pictures uint8 (3, 40, 32, 3) with coarse and fine parts."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(3, 3, 5, 4, generator=generator)
    fine = torch.rand(3, 3, 40, 32, generator=generator)
    mixed = 200 * torch.nn.functional.interpolate(coarse, (40, 32), mode="nearest") + 55 * fine
    return mixed.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def main() -> None:
    for name in ("", ".transforms", ".transforms.functional", ".datasets", ".models"):
        sys.modules[f"torchvision{name}"] = MagicMock()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    from sfumato.metrics.inception import InceptionNetwork

    generator = np.random.default_rng(5)
    x = torch.from_numpy(0.3 + 1.1 * generator.standard_normal((COUNT, DIM)))
    y = torch.from_numpy(generator.standard_normal((COUNT, DIM)))
    settings = {"verbose": False, "kid_subsets": 1, "kid_subset_size": COUNT, "kid_degree": 3, "kid_gamma": None}
    settings |= {"kid_coef0": 1, "rng_seed": 0, "prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False}
    kid = kid_features_to_metric(x, y, **settings)
    statistics = [fid_features_to_statistics(z) for z in (y, x)]
    fid = fid_statistics_to_metric(*statistics, verbose=False)
    shares = prc_features_to_metric(x, y, **settings)  # since 0.4: generated, real
    shapes = {name: tensor.shape for name, tensor in InceptionNetwork().state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        torch.save(weights_of(shapes), weights)
        network = FeatureExtractorInceptionV3("test", ["2048"], feature_extractor_weights_path=str(weights))
    (features,) = network(pictures().permute(0, 3, 1, 2))
    made_by = f"torch-fidelity {version('torch-fidelity')}, torch {torch.__version__}, numpy {np.__version__}"
    target = Path(__file__).with_name("torch_fidelity.npz")
    np.savez_compressed(
        target,
        made_by=np.array(made_by),
        x=x.numpy(),
        y=y.numpy(),
        kid=np.array(kid["kernel_inception_distance_mean"]),
        fid=np.array(fid["frechet_inception_distance"]),
        precision=np.array(shares["precision"]),
        recall=np.array(shares["recall"]),
        inception=features.numpy(),
    )
    print(f"{target}: {made_by}")


if __name__ == "__main__":
    main()
