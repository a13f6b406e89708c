"""Decoding against pixels whose values are known beforehand."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data.decoding import BadPicture, Preparation, decode, prepare_pixels, quiet

PLAIN = Preparation()


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The array a camera writes: EXIF says on which side of the scene row 0 and column 0 of the file lie."""
    swapped = upright.swapaxes(0, 1)
    return {
        1: upright,  # row 0 top, column 0 left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: swapped,  # left, top
        6: swapped[::-1],  # right, top
        7: swapped[::-1, ::-1],  # right, bottom
        8: swapped[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_all_orientations_are_one_picture(tmp_path: Path, kind: str, orientation: int) -> None:
    """D8."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24], upright[:16, 24:], upright[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    path = tmp_path / "picture"
    Image.fromarray(np.ascontiguousarray(stored_as(upright, orientation))).save(path, kind, exif=exif, **options)
    pixels = decode(path, PLAIN).pixels
    assert pixels.shape == upright.shape
    error = np.abs(pixels.astype(int) - upright).mean()
    assert error < (2 if kind == "JPEG" else 1e-9)  # JPEG is lossy, the others are exact


def test_red_in_cmyk_and_in_adobe_ycck_is_red(tmp_path: Path) -> None:
    """D5."""
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    pixels = decode(tmp_path / "red.jpg", PLAIN).pixels
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 2  # JPEG at quality 100


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_256_levels(tmp_path: Path, kind: str, dtype: str) -> None:
    """D6."""
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    image = Image.frombytes("I;16" if dtype == "<u2" else "I;16B", (16, 16), ramp.astype(dtype).tobytes())
    image.save(tmp_path / "ramp", kind)
    assert np.array_equal(decode(tmp_path / "ramp", PLAIN).pixels[:, :, 0].ravel(), np.arange(256))


def test_sixteen_bit_colour_keeps_its_levels(tmp_path: Path) -> None:
    """D6: written by hand, because Pillow writes no 16-bit RGB."""
    ramp = np.repeat((np.arange(256, dtype=">u2") * 257)[:, None], 3, axis=1)
    rows = b"\0" + ramp.tobytes()
    path = tmp_path / "rgb16.png"
    path.write_bytes(png(256, 1, depth=16, colour=2, data=zlib.compress(rows)))
    assert np.array_equal(decode(path, PLAIN).pixels[0, :, 0], np.arange(256))


def test_float_tiff_needs_its_range(tmp_path: Path) -> None:
    """D6."""
    path = tmp_path / "float.tiff"
    Image.fromarray(np.array([[0.0, 0.5], [0.75, 1.0]], np.float32)).save(path)
    with pytest.raises(BadPicture, match=r"data\.value_range"):
        decode(path, PLAIN)
    scaled = decode(path, Preparation(value_range=(0.0, 1.0))).pixels[:, :, 0]
    assert scaled.tolist() == [[0, 128], [191, 255]]
    with pytest.raises(BadPicture, match=r"leave data\.value_range"):
        decode(path, Preparation(value_range=(0.0, 0.9)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_hidden_colours_do_not_appear(tmp_path: Path, mode: str) -> None:
    """D7: fully transparent pixels show the background, half transparent ones the mean, whatever colour lies below."""
    grey = mode == "LA"
    colours = [(200, 0), (200, 128), (200, 255)] if grey else [(200, 10, 10, 0), (200, 10, 10, 128), (200, 10, 10, 255)]
    image = Image.new("LA" if grey else "RGBA", (3, 1))
    image.putdata(colours)
    if mode == "P":
        image = Image.new("P", (3, 1))
        image.putpalette([200, 10, 10] * 3)
        image.putdata([0, 1, 2])
        image.info["transparency"] = bytes([0, 128, 255])
    image.save(tmp_path / "alpha.png")
    for background, behind in (("white", 255), ("black", 0)):
        pixels = decode(tmp_path / "alpha.png", Preparation(background=background)).pixels[0, :, 0].astype(int)
        halfway = round((128 * 200 + 127 * behind) / 255)
        assert np.abs(pixels - [behind, halfway, 200]).max() <= 1  # one level of rounding
    assert decode(tmp_path / "alpha.png", PLAIN).pixels.shape[2] == (1 if grey else 3)


def test_modes_of_one_bit_palette_and_key_colour(tmp_path: Path) -> None:
    """D7."""
    Image.new("1", (2, 2), 1).save(tmp_path / "bit.png")
    assert decode(tmp_path / "bit.png", PLAIN).pixels.tolist() == [[[255], [255]], [[255], [255]]]
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "key.png", transparency=(9, 9, 9))
    assert decode(tmp_path / "key.png", PLAIN).pixels.tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([50, 50, 50, 1, 2, 3])
    palette.save(tmp_path / "grey.gif")
    assert decode(tmp_path / "grey.gif", PLAIN).pixels.tolist() == [[[50]]]


def triangle(values: np.ndarray, length: int) -> np.ndarray:
    """The definition: a triangle of half-width = the scale along the last axis, its weights normalised."""
    scale = values.shape[-1] / length
    centres, samples = (np.arange(length)[:, None] + 0.5) * scale, np.arange(values.shape[-1]) + 0.5
    weights = np.clip(1 - np.abs(samples - centres) / scale, 0, None)
    return values @ (weights / weights.sum(axis=1, keepdims=True)).T


def test_shrinking_is_a_triangle_average() -> None:
    """Pillow rounds to 8 bits between the two passes: within one level of the exact average."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (96, 80), dtype=np.uint8)
    exact = triangle(triangle(pixels.astype(float), 10).T, 12).T
    ours = prepare_pixels(pixels[8:88], Preparation(size=(10, 10))).pixels[:, :, 0]
    assert np.abs(ours - triangle(triangle(pixels[8:88].astype(float), 10).T, 10).T).max() <= 1.0
    rectangle = prepare_pixels(pixels, Preparation(size=(12, 10))).pixels[:, :, 0]
    assert np.abs(rectangle - exact).max() <= 1.0


def test_fine_stripes_become_grey_not_stripes() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    small = prepare_pixels(stripes, Preparation(size=(8, 8))).pixels.astype(int)
    assert np.abs(small - 127.5).max() <= 8.5  # the first and last column see an uneven share of the outermost stripe


@pytest.mark.parametrize(("height", "width"), [(10, 7), (7, 10), (5, 5), (9, 4)])
def test_the_crop_is_the_centre_square_with_offsets_rounded_down(height: int, width: int) -> None:
    pixels = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    ours = prepare_pixels(pixels, Preparation(size=(side, side)))
    assert np.array_equal(ours.pixels[:, :, 0], pixels[top : top + side, left : left + side])
    assert ours.kept == pytest.approx(side**2 / (height * width))


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1), (1, 1)])
def test_extreme_aspects_are_cropped_and_enlarged(shape: tuple[int, int]) -> None:
    """D12."""
    picture = prepare_pixels(np.full(shape, 77, np.uint8), Preparation(size=(8, 16)))
    assert picture.upscaled
    assert (picture.pixels == 77).all()
    assert picture.pixels.shape == (8, 16, 1)


def test_channels_are_converted_when_asked(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "red.png")
    assert decode(tmp_path / "red.png", Preparation(channels=1)).pixels.tolist() == [[[76]]]  # 0.299 * 255
    Image.new("L", (1, 1), 40).save(tmp_path / "grey.png")
    assert decode(tmp_path / "grey.png", Preparation(channels=3)).pixels.tolist() == [[[40, 40, 40]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_taken(tmp_path: Path, kind: str) -> None:
    """D13."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "moving", kind, save_all=True, append_images=frames[1:], **options)
    picture = decode(tmp_path / "moving", PLAIN)
    assert picture.frames == 3
    assert (picture.pixels == (255, 0, 0)).all()


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [60_000, 7_100], ids=["beyond-pillow", "beyond-ours"])
def test_a_bomb_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    """D11: the file ends after the header: a decoder that began would report something else."""
    (tmp_path / "bomb.png").write_bytes(png(side, side))
    with pytest.raises(BadPicture, match=r"header announces .*50,000,000"):
        decode(tmp_path / "bomb.png", PLAIN)


def test_every_kind_of_wrong_file_gets_its_reason(tmp_path: Path) -> None:
    """D4."""
    good = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(good, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(good.getvalue()[:1500])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "noise.png").write_bytes(png(8, 8, data=b"no deflate stream"))
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "ppm.png", "PPM")
    (tmp_path / "folder.png").mkdir()
    reasons = {
        "cut.jpg": "truncated",
        "text.jpg": "not a JPEG",
        "empty.png": "empty file",
        "noise.png": ".",
        "broken.png": "broken link",
        "ppm.png": "not a JPEG",
        "folder.png": "not a regular file",
    }
    for name, reason in reasons.items():
        with pytest.raises(BadPicture, match=reason):
            decode(tmp_path / name, PLAIN)
    (tmp_path / "small.jpg").write_bytes(good.getvalue())
    with pytest.raises(BadPicture, match=r"data\.min_size 65"):
        decode(tmp_path / "small.jpg", Preparation(min_size=65))


def outcome(path: Path) -> str:
    try:
        return str(decode(path, PLAIN).pixels.dtype)
    except BadPicture as reason:
        return str(reason)


def test_random_damage_raises_nothing_but_bad_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "damaged"
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, kind)
        for _ in range(40):
            damaged = bytearray(buffer.getvalue())
            for position in rng.integers(0, len(damaged), 4):
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged)
            with quiet():
                assert outcome(path)
