"""The embedded sets, and the larger real ones where SFUMATO_TEST_DATA names them."""

import gzip
import tarfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import DataConfig, describe, load_data, measure, split


def test_digits_are_optdigits() -> None:
    packed = load_data(DataConfig(source="digits"), seed=0)
    assert packed.shape == (1, 8, 8)
    assert packed.class_names == tuple("0123456789")
    assert packed.labels is not None
    # class counts of the data set's own description
    assert torch.bincount(packed.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    ink = (packed.values.double() * 16 / 255).round()
    assert torch.equal((ink * 255 / 16).round().to(torch.uint8), packed.values)  # only the 17 levels occur
    assert int(ink.max()) == 16
    # the first digit, a zero, as every user of this data set knows it
    assert ink[0, :3, :, 0].int().tolist() == [
        [0, 0, 5, 13, 9, 1, 0, 0],
        [0, 0, 13, 15, 10, 15, 5, 0],
        [0, 3, 15, 2, 0, 11, 8, 0],
    ]


def test_sprites_are_labelled_tiles_on_white() -> None:
    packed = load_data(DataConfig(source="sprites"), seed=0)
    told = describe(packed)
    assert (told.count, told.shape, told.num_classes) == (3467, (3, 32, 32), 7)
    assert told.class_names == ("dngn", "effect", "gui", "item", "misc", "mon", "player")
    corners = packed.values[packed.labels == 5][:, 0, 0]
    assert (corners == 255).all(dim=1).double().mean() > 0.9  # monsters stand before a transparent background


def test_embedded_sets_carry_their_licences() -> None:
    folder = files("sfumato.data") / "assets"
    assert "CC BY 4.0" in (folder / "digits.LICENSE.txt").read_text()
    assert "CC0 1.0" in (folder / "sprites.LICENSE.txt").read_text()


def test_embedded_sets_can_be_resized_and_replaced(tmp_path: Path) -> None:
    assert load_data(DataConfig(source="digits", size=16, channels=3, limit=20), seed=0).values.shape == (20, 16, 16, 3)
    np.save(tmp_path / "own.npy", np.zeros((3, 4, 4), np.uint8))
    assert len(load_data(DataConfig(source="digits", path=str(tmp_path / "own.npy")), seed=0)) == 3


def test_sprites_equal_the_tiles_composited(real_data: Path) -> None:
    ours = load_data(DataConfig(source="sprites"), seed=0)
    theirs = load_data(DataConfig(path=str(real_data / "sprites32.npz")), seed=0)
    assert ours.fingerprint == theirs.fingerprint
    tiles = np.load(real_data / "sprites32.npz")["images"].astype(float)
    alpha = tiles[..., 3:]
    exact = np.rint((tiles[..., :3] * alpha + 255 * (255 - alpha)) / 255)
    assert np.array_equal(ours.values.numpy(), exact)


def test_flowers_with_labels_from_1_and_missing_classes(real_data: Path) -> None:
    packed = load_data(DataConfig(path=str(real_data / "flowers64.npz")), seed=0)
    assert (len(packed), packed.shape, packed.num_classes) == (4542, (3, 64, 64), 90)
    missing = {8, 24, 30, 44, 62, 73, 75, 81, 84, 89, 99, 101}
    assert packed.label_values == tuple(k for k in range(1, 103) if k not in missing)
    assert packed.class_names is not None
    named = dict(zip(packed.label_values, packed.class_names, strict=True))
    # as in the published list of the 102 categories, counted from 1
    assert (named[1], named[51], named[74], named[102]) == ("pink primrose", "petunia", "rose", "blackberry lily")


def test_mnist_holds_out_its_test_part(real_data: Path) -> None:
    packed = load_data(DataConfig(path=str(real_data / "mnist.npz"), pad=32), seed=0)
    parts = split(packed, 0.1, seed=0)
    assert (packed.shape, len(parts.train), len(parts.held_out)) == ((1, 32, 32), 60_000, 8_000)
    with gzip.open(real_data / "samples/mnist_idx/train-images-idx3-ubyte.gz") as stream:
        idx = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    assert np.array_equal(packed.values[:10_000, :, :, 0].numpy(), idx)
    x = measure(packed, parts, DataConfig()).to_model(packed.values[:2000])
    x[:, :, 2:30, 2:30] = -1
    assert (x == -1).all(dim=3).all(
        dim=2
    ).double().mean() > 0.98  # paper continues as paper; few digits touch the border


def test_misnamed_pets_are_read_by_content(real_data: Path) -> None:
    """One .jpg is a palette GIF, another a PNG with alpha."""
    folder = real_data / "samples" / "pets"
    packed = load_data(DataConfig(path=str(folder), size=64, cache="off"), seed=0)
    assert (len(packed), packed.shape, packed.num_classes) == (42, (3, 64, 64), 8)
    names = sorted(
        (p.name for p in (folder / "Abyssinian").iterdir()), key=lambda n: int(n.split("_")[1].split(".")[0])
    )
    gif = Image.open(folder / "Abyssinian" / "Abyssinian_34.jpg")
    assert gif.format == "GIF"
    pixels = np.asarray(gif.convert("RGB"))
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side]).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(packed.values[names.index("Abyssinian_34.jpg")].numpy(), np.asarray(square))


def test_flowers_prepared_from_originals_equal_the_prepared_set(real_data: Path) -> None:
    """The array file was made from the same originals by the documented recipe; ours must agree to the last bit."""
    packed = load_data(DataConfig(path=str(real_data / "samples/flowers"), size=64), seed=0)
    assert packed.class_names is not None
    assert len(packed.class_names) == 8
    prepared = np.load(real_data / "flowers64.npz")["images"]
    known = {image.tobytes() for image in prepared}
    assert sum(image.numpy().tobytes() in known for image in packed.values) == len(packed) == 64


@pytest.mark.parametrize(
    ("folder", "shape", "settings"),
    [
        ("cifar10_png", (3, 32, 32), {}),
        ("mnist_png", (1, 28, 28), {}),
        ("emoji_png", (3, 64, 64), {}),
        ("sprites_png", (3, 32, 32), {"channels": 3}),
    ],
)
def test_sample_folders_just_work(real_data: Path, folder: str, shape: tuple, settings: dict) -> None:
    config = DataConfig(path=str(real_data / "samples" / folder), **settings)
    packed = load_data(config, seed=0)
    assert packed.shape == shape
    assert packed.class_names == tuple(sorted(p.name for p in (real_data / "samples" / folder).iterdir()))


def test_a_pet_that_is_a_png_with_alpha_stands_on_the_background(real_data: Path, tmp_path: Path) -> None:
    """Abyssinian_5.jpg is a PNG with alpha; composited by hand: (a c + (255 - a) 255)/255."""
    source = real_data / "samples" / "pets" / "Abyssinian" / "Abyssinian_5.jpg"
    (tmp_path / "cat.jpg").write_bytes(source.read_bytes())
    image = Image.open(source)
    assert (image.format, "A" in image.convert("RGBA").mode) == ("PNG", True)
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    share = rgba[:, :, 3:] / 255
    expected = share * rgba[:, :, :3] + (1 - share) * 255
    packed = load_data(DataConfig(path=str(tmp_path), cache="off"), seed=0)
    assert np.abs(packed.values[0].numpy() - expected).max() <= 1  # one rounding to 8 bits


@pytest.mark.parametrize("folder", ["mnist_png", "sprites_png"])
def test_an_archive_of_a_sample_folder_is_that_folder(real_data: Path, tmp_path: Path, folder: str) -> None:
    path = real_data / "samples" / folder
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as archive:
        archive.add(path, arcname=folder)
    one, other = (load_data(DataConfig(path=str(p), channels=3), seed=0) for p in (path, tmp_path / "set.tgz"))
    assert one.fingerprint == other.fingerprint
    assert one.class_names == other.class_names
