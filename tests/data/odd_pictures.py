"""Odd but valid picture files whose pixels are known beforehand, made byte by byte where Pillow has no writer.

What is expected of each is written as arrays here, not read back with what is tested.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from picture_files import bmp, bmp_header, bmp_rows, chunk, packed_row, png, saved, tiff
from PIL import Image

from sfumato.data.decoding import Preparation

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Odd:
    """A file, the upright pixels (H, W, 1 or 3) that it holds, and by how many levels a lossy one may differ."""

    name: str
    content: bytes
    pixels: Pixels
    within: int = 0
    preparation: Preparation = Preparation()


def over(colour: NDArray[np.integer], alpha: NDArray[np.integer], background: int = 255) -> Pixels:
    """Straight alpha over a grey background: (a c + (255 - a) b)/255, rounded; (H, W, C) and (H, W)."""
    a = alpha[:, :, None] / 255
    return np.rint(a * colour + (1 - a) * background).astype(np.uint8)


# ---- PNG


def ramp(height: int, width: int, channels: int, depth: int) -> NDArray[np.int64]:
    """Samples that all differ from their neighbours and reach both ends of the range."""
    top = 2**depth - 1
    count = height * width * channels
    values = np.rint(np.arange(count) * top / (count - 1)).astype(np.int64)
    return values.reshape(height, width, channels)


def levels(samples: NDArray[np.integer], depth: int) -> Pixels:
    return np.rint(samples * (255 / (2**depth - 1))).astype(np.uint8)


def png_files() -> Iterator[Odd]:
    for depth in (1, 2, 4, 8, 16):
        grey = ramp(5, 7, 1, depth)
        yield Odd(f"png grey {depth}", png(grey, depth, 0), levels(grey, depth))
        key = grey[2, 3, 0]
        shown = np.where(grey == key, 255, levels(grey, depth))
        trns = chunk(b"tRNS", struct.pack(">H", key))
        yield Odd(f"png grey {depth} with a key", png(grey, depth, 0, before=trns), shown.astype(np.uint8))
    for depth in (1, 2, 4, 8):
        index = np.arange(35).reshape(5, 7, 1) % 2**depth
        table = np.array([(i * 37 % 256, 255 - i, i * 5 % 256) for i in range(2**depth)], np.uint8)
        plte = chunk(b"PLTE", table.tobytes())
        yield Odd(f"png palette {depth}", png(index, depth, 3, before=plte), table[index[:, :, 0]])
        alpha = np.full(2**depth, 255)
        alpha[:2] = 0, 128
        trns = plte + chunk(b"tRNS", bytes([0, 128]))  # entries beyond the list are opaque
        shown = over(table[index[:, :, 0]], alpha[index[:, :, 0]])
        yield Odd(f"png palette {depth} with alpha", png(index, depth, 3, before=trns), shown, within=1)
    greys = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[:, None], 3, axis=1)
    index = np.arange(16).reshape(4, 4, 1)
    yield Odd(
        "png palette of greys", png(index, 4, 3, before=chunk(b"PLTE", greys.tobytes())), greys[index, :1][:, :, 0]
    )
    for depth in (8, 16):
        colour = ramp(5, 7, 3, 8) * (257 if depth == 16 else 1)
        yield Odd(f"png rgb {depth}", png(colour, depth, 2), levels(colour, depth))
        key = colour[1, 1]
        shown = np.where((colour == key).all(axis=2, keepdims=True), 255, levels(colour, depth)).astype(np.uint8)
        trns = chunk(b"tRNS", struct.pack(">HHH", *key))
        yield Odd(f"png rgb {depth} with a key", png(colour, depth, 2, before=trns), shown)
        for kind, channels in ((4, 1), (6, 3)):
            base, alpha = ramp(4, 6, channels, 8), ramp(4, 6, 1, 8)[::-1]
            both = np.concatenate([base, alpha], axis=2) * (257 if depth == 16 else 1)
            name = f"png {'grey' if channels == 1 else 'rgb'} and alpha {depth}"
            yield Odd(name, png(both, depth, kind), over(base, alpha[:, :, 0]), within=1)
            black = Preparation(background="black")
            yield Odd(f"{name} on black", png(both, depth, kind), over(base, alpha[:, :, 0], 0), 1, black)
    yield from png_structures()


def png_structures() -> Iterator[Odd]:
    """The same pixels in files of other structures."""
    colour, grey = ramp(9, 11, 3, 8), ramp(9, 11, 1, 16)
    pixels = colour.astype(np.uint8)
    yield Odd("png interlaced rgb", png(colour, 8, 2, interlaced=True), pixels)
    yield Odd("png interlaced grey 16", png(grey, 16, 0, interlaced=True), levels(grey, 16))
    yield Odd("png interlaced 1x1", png(colour[:1, :1], 8, 2, interlaced=True), pixels[:1, :1])
    yield Odd("png of all filters", png(colour, 8, 2, filters=(0, 1, 2, 3, 4)), pixels)
    yield Odd("png of all filters, 16 bits", png(grey, 16, 0, filters=(4, 3, 2, 1)), levels(grey, 16))
    yield Odd("png in many pieces", png(colour, 8, 2, pieces=40), pixels)
    aside = chunk(b"gAMA", struct.pack(">I", 22_000)) + chunk(b"iCCP", b"none\0\0" + zlib.compress(b"no profile"))
    aside += (
        chunk(b"tEXt", b"Comment\0" + b"\xff" * 5000) + chunk(b"quUx", bytes(99)) + chunk(b"sBIT", bytes([5, 5, 5]))
    )
    yield Odd("png with everything beside", png(colour, 8, 2, before=aside), pixels)
    yield Odd("png with bytes after its end", png(colour, 8, 2, after=b"\xff\xd8" + bytes(1000)), pixels)
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    turned = pixels.swapaxes(0, 1)[::-1]  # stored with its first row on the right
    stored = np.ascontiguousarray(turned).astype(np.int64)
    yield Odd("png turned by its exif", png(stored, 8, 2, before=chunk(b"eXIf", exif)), pixels)


# ---- JPEG, WebP and GIF: written by Pillow, then changed


def quadrants(height: int = 32, width: int = 48) -> Pixels:
    """Four flat colours, in blocks that JPEG's own blocks do not cross."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = (250, 10, 20), (20, 240, 30)
    pixels[height // 2 :, : width // 2] = (10, 20, 230)
    return pixels


def stored_as(upright: Pixels, orientation: int) -> Pixels:
    """The array a camera writes: EXIF says on which side of the scene row 0 and column 0 of the file lie."""
    swapped = upright.swapaxes(0, 1)
    sides = [upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1]]  # 1 to 4
    sides += [swapped, swapped[::-1], swapped[::-1, ::-1], swapped[:, ::-1]]  # 5 to 8
    return np.ascontiguousarray(sides[orientation - 1])


def jpeg_files() -> Iterator[Odd]:
    pixels = quadrants()
    image = Image.fromarray(pixels)
    best: dict[str, object] = {"quality": 95, "subsampling": 0}
    plain = saved(image, "JPEG", **best)
    yield Odd("jpeg", plain, pixels, 4)
    yield Odd("jpeg progressive", saved(image, "JPEG", progressive=True, **best), pixels, 4)
    yield Odd("jpeg restarting", saved(image, "JPEG", restart_marker_blocks=1, **best), pixels, 4)
    yield Odd("jpeg stored as rgb", saved(image, "JPEG", keep_rgb=True, quality=95), pixels, 4)
    yield Odd(
        "jpeg with a comment and a profile",
        saved(image, "JPEG", comment=b"%s\n", icc_profile=b"x" * 70_000, **best),
        pixels,
        4,
    )
    yield Odd("jpeg with bytes after its end", plain + b"PK\x03\x04" + bytes(500), pixels, 4)
    yield Odd("jpeg with broken exif", saved(image, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", **best), pixels, 4)
    grey = np.repeat(np.arange(0, 256, 32, dtype=np.uint8), 8)[None].repeat(16, axis=0)
    yield Odd("jpeg grey", saved(Image.fromarray(grey), "JPEG", quality=95), grey[:, :, None], 3)
    flat = np.full((32, 32, 3), (200, 90, 40), np.uint8)
    yield Odd("jpeg with halved colour", saved(Image.fromarray(flat), "JPEG", quality=95, subsampling=2), flat, 4)
    yield Odd(
        "jpeg of two pictures",
        saved(image, "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))], **best),
        pixels,
        4,
    )
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = saved(Image.fromarray(stored_as(pixels, orientation)), "JPEG", exif=exif, **best)
        yield Odd(f"jpeg turned {orientation}", content, pixels, 4)
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = np.full((16, 16, 3), (255, 0, 0), np.uint8)
    yield Odd("jpeg cmyk", saved(ink, "JPEG", quality=100), red, 3)
    # YCCK: an Adobe marker with transform 2. Stored are 255 - what is given here: a YCbCr of the ink (0, 255, 255).
    ycck = saved(Image.new("CMYK", (16, 16), (255 - 179, 255 - 171, 255, 0)), "JPEG", quality=100)
    marker = ycck.index(b"Adobe") + 11
    yield Odd("jpeg ycck", ycck[:marker] + b"\2" + ycck[marker + 1 :], red, 5)


def webp_and_gif_files() -> Iterator[Odd]:
    pixels = quadrants(12, 16)
    image = Image.fromarray(pixels)
    blank = Image.new("RGB", (16, 12))
    yield Odd("webp lossless", saved(image, "WEBP", lossless=True), pixels)
    yield Odd(
        "webp lossy",
        saved(Image.new("RGB", (32, 32), (90, 120, 60)), "WEBP", quality=95),
        np.full((32, 32, 3), (90, 120, 60), np.uint8),
        5,
    )
    alpha = np.tile(np.arange(0, 256, 17, dtype=np.uint8), (12, 1))
    seen = Image.fromarray(np.dstack([pixels, alpha]))
    yield Odd("webp with alpha", saved(seen, "WEBP", lossless=True, exact=True), over(pixels, alpha), 1)
    moving = saved(image, "WEBP", lossless=True, save_all=True, append_images=[blank])
    yield Odd("webp moving", moving, pixels)
    exif = Image.Exif()
    exif[0x0112] = 8
    yield Odd("webp turned", saved(Image.fromarray(stored_as(pixels, 8)), "WEBP", lossless=True, exif=exif), pixels)
    yield Odd("png moving", saved(image, "PNG", save_all=True, append_images=[blank]), pixels)
    table = np.array([(250, 10, 20), (20, 240, 30), (10, 20, 230), (0, 0, 0)], np.uint8)
    index = np.repeat(np.repeat(np.array([[0, 1], [2, 3]], np.uint8), 6, axis=0), 8, axis=1)
    indexed = Image.frombytes("P", (16, 12), index.tobytes())
    indexed.putpalette(table.tobytes())
    yield Odd("gif", saved(indexed, "GIF", interlace=0), pixels)
    yield Odd("gif interlaced", saved(indexed, "GIF", interlace=1), pixels)
    yield Odd("gif with a comment", saved(indexed, "GIF", comment=b"x" * 600), pixels)
    hidden = np.where((index == 0)[:, :, None], 255, pixels).astype(np.uint8)
    yield Odd("gif with transparency", saved(indexed, "GIF", transparency=0), hidden)
    yield Odd("gif moving", saved(indexed, "GIF", save_all=True, append_images=[blank.convert("P")]), pixels)
    grey = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(12, 16))
    yield Odd("gif grey", saved(grey, "GIF"), np.asarray(grey)[:, :, None])


# ---- BMP


def bmp_files() -> Iterator[Odd]:
    colour = ramp(5, 7, 3, 8).astype(np.uint8)
    bgr = colour[:, :, ::-1]
    upward = [row.tobytes() for row in bgr[::-1]]
    yield Odd("bmp 24", bmp(bmp_header(7, 5, 24), b"", bmp_rows(upward)), colour)
    yield Odd("bmp 24 from the top", bmp(bmp_header(7, -5, 24), b"", bmp_rows(upward[::-1])), colour)
    os2 = struct.pack("<IHHHH", 12, 7, 5, 1, 24)
    yield Odd("bmp of OS/2", bmp(os2, b"", bmp_rows(upward)), colour)
    unused = np.dstack([bgr, np.zeros((5, 7), np.uint8)])  # the fourth byte is reserved and not alpha
    yield Odd("bmp 32", bmp(bmp_header(7, 5, 32), b"", unused[::-1].tobytes()), colour)
    fives = ramp(5, 7, 3, 5)
    words = (fives[:, :, 0] << 10 | fives[:, :, 1] << 5 | fives[:, :, 2]).astype("<u2")
    rows = bmp_rows([row.tobytes() for row in words[::-1]])
    yield Odd("bmp 16, five bits each", bmp(bmp_header(7, 5, 16), b"", rows), levels(fives, 5), 1)
    green = ramp(5, 7, 1, 6)[:, :, 0]
    words = (fives[:, :, 0] << 11 | green << 5 | fives[:, :, 2]).astype("<u2")
    shown = np.dstack([levels(fives[:, :, 0], 5), levels(green, 6), levels(fives[:, :, 2], 5)])
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    rows = bmp_rows([row.tobytes() for row in words[::-1]])
    yield Odd("bmp 16, six bits of green", bmp(bmp_header(7, 5, 16, 3), masks, rows), shown, 1)
    for bits in (1, 4, 8):
        table = np.array([(i * 37 % 256, 255 - i, i * 5 % 256) for i in range(2**bits)], np.uint8)
        index = np.arange(35).reshape(5, 7) % 2**bits
        palette = np.dstack([table[None, :, ::-1], np.zeros((1, 2**bits, 1), np.uint8)]).tobytes()
        rows = bmp_rows([packed_row(row, bits) for row in index[::-1]])
        yield Odd(f"bmp palette {bits}", bmp(bmp_header(7, 5, bits), palette, rows), table[index])
    runs = b"".join(bytes([7, 20 + y, 0, 0]) for y in range(5)) + b"\0\1"  # seven of one index, end of line; end
    shown = table[np.repeat(np.arange(24, 19, -1)[:, None], 7, axis=1)]
    yield Odd("bmp of runs", bmp(bmp_header(7, 5, 8, 1), palette, runs), shown)


# ---- TIFF


def tiff_files() -> Iterator[Odd]:
    grey, deep = ramp(6, 8, 1, 8).astype(np.uint8), ramp(6, 8, 1, 16).astype(np.uint16)
    white = 255 - grey
    yield Odd("tiff white is zero", tiff([white.tobytes()], 8, 6, [8], 0), grey)
    inverted = (65_535 - deep).astype("<u2").tobytes()
    yield Odd("tiff 16, white is zero", tiff([inverted], 8, 6, [16], 0), levels(deep, 16))
    yield Odd("tiff 16", tiff([deep.astype("<u2").tobytes()], 8, 6, [16], 1), levels(deep, 16))
    yield Odd("tiff 16, big end first", tiff([deep.astype(">u2").tobytes()], 8, 6, [16], 1, big=True), levels(deep, 16))
    twelve = ramp(6, 8, 1, 12)
    rows = b"".join(packed_row(row, 12) for row in twelve)
    yield Odd("tiff 12", tiff([rows], 8, 6, [12], 1), levels(twelve, 12))
    bit = (np.arange(48).reshape(6, 8, 1) % 3 == 0).astype(np.int64)
    rows = b"".join(packed_row(1 - row, 1) for row in bit)
    yield Odd("tiff 1, white is zero", tiff([rows], 8, 6, [1], 0), levels(bit, 1))
    unit = (grey[:, :, 0] / 255).astype("<f4")
    kind = {339: (3, [3])}
    span = Preparation(value_range=(0.0, 1.0))
    yield Odd("tiff of floats", tiff([unit.tobytes()], 8, 6, [32], 1, more=kind), grey, 0, span)
    yield Odd("tiff of floats, white is zero", tiff([(1 - unit).tobytes()], 8, 6, [32], 0, more=kind), grey, 0, span)
    wide = (deep[:, :, 0].astype("<u4") * 16).tobytes()
    span = Preparation(value_range=(0.0, 65_535.0 * 16))
    yield Odd("tiff 32", tiff([wide], 8, 6, [32], 1), levels(deep, 16), 0, span)
    signed = (grey[:, :, 0].astype("<i2") * 2 - 100).tobytes()
    span = Preparation(value_range=(-100.0, 410.0))
    yield Odd("tiff 16 with signs", tiff([signed], 8, 6, [16], 1, more={339: (3, [2])}), grey, 0, span)
    yield from tiff_colours()


def tiff_colours() -> Iterator[Odd]:
    colour, alpha = ramp(6, 8, 3, 8).astype(np.uint8), ramp(6, 8, 1, 8)[::-1].astype(np.uint8)
    eights = [8, 8, 8]
    yield Odd("tiff rgb, one row a strip", tiff([r.tobytes() for r in colour], 8, 6, eights, 2, rows=1), colour)
    planes = [np.ascontiguousarray(colour[:, :, c]).tobytes() for c in range(3)]
    yield Odd("tiff rgb in planes", tiff(planes, 8, 6, eights, 2, more={284: (3, [2])}), colour)
    wide = (colour.astype(np.uint16) * 257).astype(">u2").tobytes()
    yield Odd("tiff rgb 16", tiff([wide], 8, 6, [16, 16, 16], 2, big=True), colour)
    both = np.dstack([colour, alpha]).tobytes()
    for meaning, shown in ((0, colour), (2, over(colour, alpha[:, :, 0]))):
        name = f"tiff rgb and {'something' if meaning == 0 else 'alpha'}"
        yield Odd(name, tiff([both], 8, 6, [*eights, 8], 2, more={338: (3, [meaning])}), shown, 1)
    seen = np.rint(colour * (alpha / 255)).astype(np.uint8)
    premultiplied = np.dstack([seen, alpha]).tobytes()
    shown = over(colour, alpha[:, :, 0])  # seen + (255 - alpha), up to the rounding of `seen`, which division enlarges
    yield Odd("tiff rgb times alpha", tiff([premultiplied], 8, 6, [*eights, 8], 2, more={338: (3, [1])}), shown, 2)
    tile = np.zeros((16, 16, 3), np.uint8)
    tile[:6, :8] = colour
    yield Odd("tiff in tiles", tiff([tile.tobytes()], 8, 6, eights, 2, more={322: (4, [16]), 323: (4, [16])}), colour)
    turned = np.ascontiguousarray(stored_as(colour, 5))
    yield Odd("tiff turned", tiff([turned.tobytes()], 6, 8, eights, 2, more={274: (3, [5])}), colour)
    image = Image.fromarray(colour)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield Odd(f"tiff {compression}", saved(image, "TIFF", compression=compression), colour)
    bits = np.tile(np.array([0, 0, 255, 255, 0], np.uint8), (10, 4))
    fax = Image.fromarray(bits).convert("1", dither=Image.Dither.NONE)
    yield Odd("tiff of a fax", saved(fax, "TIFF", compression="group4"), bits[:, :, None])
    pages = saved(image, "TIFF", save_all=True, append_images=[Image.new("RGB", (3, 3))])
    yield Odd("tiff of two pages", pages, colour)
    flat = Image.new("RGB", (32, 32), (200, 90, 40))
    inside = saved(flat, "TIFF", compression="jpeg", quality=95)
    yield Odd("tiff of a jpeg", inside, np.full((32, 32, 3), (200, 90, 40), np.uint8), 4)
    ink = saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF")
    yield Odd("tiff cmyk", ink, np.full((4, 4, 3), (255, 0, 0), np.uint8))
    middle = tiff([bytes([128, 0, 0]) * 16], 4, 4, eights, 8)  # L* = 50.2 is sRGB's 119.6 (CIE 1976)
    yield Odd("tiff lab", middle, np.full((4, 4, 3), 120, np.uint8), 2)


def corpus() -> list[Odd]:
    """All of them."""
    makers = (png_files, jpeg_files, webp_and_gif_files, bmp_files, tiff_files)
    return [odd for maker in makers for odd in maker()]


def refused() -> dict[str, bytes]:
    """Files of formats that are never opened, under names of pictures."""
    fits = b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80) + b"END".ljust(80)
    pixels = Image.new("RGB", (4, 4))
    return {
        "fits.png": fits.ljust(2880),
        "eps.jpg": saved(pixels, "EPS"),
        "psd.png": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, 8, 3) + bytes(12),
        "pdf.jpg": saved(pixels, "PDF"),
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>',
        "ppm.png": saved(pixels, "PPM"),
        "tga.bmp": saved(pixels, "TGA"),
        "ico.bmp": saved(pixels, "ICO"),
        "archive.png": b"PK\x03\x04" + bytes(60),
        "pickle.png": b"\x80\x04\x95.",
    }
