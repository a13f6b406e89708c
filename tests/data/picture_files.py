"""Writers of picture files that Pillow has none for: PNG of every depth, filter and interlacing, BMP, TIFF.

After their specifications: PNG (third edition), BMP (Windows v3, OS/2 1.x), TIFF 6.0.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Adam7: (first column, first row, column step, row step) of each pass, PNG section 8.2.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed_row(samples: NDArray[np.integer], depth: int) -> bytes:
    """Samples of `depth` bits, the leftmost in the high bits; rows end on a byte."""
    flat = samples.reshape(-1)
    if depth == 16:
        return flat.astype(">u2").tobytes()
    bits = (flat[:, None] >> np.arange(depth)[::-1]) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def filtered(rows: Sequence[bytes], step: int, kinds: Sequence[int]) -> bytes:
    """Rows after the filter that each is given: 0 none, 1 left, 2 up, 3 mean, 4 Paeth (PNG section 9)."""
    out = b""
    above = bytes(len(rows[0])) if rows else b""
    for number, row in enumerate(rows):
        kind = kinds[number % len(kinds)]
        line = bytearray()
        for i, value in enumerate(row):
            left, up = row[i - step] if i >= step else 0, above[i]
            corner = above[i - step] if i >= step else 0
            guess = left + up - corner
            paeth = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
            line.append((value - (0, left, up, (left + up) // 2, paeth)[kind]) & 255)
        out += bytes([kind]) + bytes(line)
        above = row
    return out


def png(
    samples: NDArray[np.integer],
    depth: int,
    colour: int,
    *,
    before: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
    filters: Sequence[int] = (0,),
    pieces: int = 1,
) -> bytes:
    """A PNG of samples (H, W, channels); `before` are chunks that stand before the data, `after` what follows them."""
    height, width, channels = samples.shape
    step = max(1, channels * depth // 8)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    stream = b""
    for x, y, right, down in passes:
        part = samples[y::down, x::right]
        if part.size:
            stream += filtered([packed_row(row, depth) for row in part], step, filters)
    data = zlib.compress(stream)
    cuts = np.linspace(0, len(data), pieces + 1).astype(int)
    idats = b"".join(chunk(b"IDAT", data[a:b]) for a, b in pairwise(cuts))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + before + idats + chunk(b"IEND", b"") + after


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bmp(header: bytes, palette: bytes, rows: bytes) -> bytes:
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + palette + rows


def bmp_header(width: int, height: int, bits: int, compression: int = 0, colours: int = 0) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 2835, 2835, colours, 0)


def bmp_rows(rows: Sequence[bytes]) -> bytes:
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


def tiff(
    data: Sequence[bytes], width: int, height: int, bits: Sequence[int], photometric: int, *, big: bool = False,
    more: dict[int, tuple[int, Sequence[int]]] | None = None, rows: int | None = None,
) -> bytes:  # fmt: skip
    """An uncompressed TIFF of strips (or tiles, by `more`); `more` maps tags to (type 3 or 4, values)."""
    order = ">" if big else "<"
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, bits), 259: (3, [1]), 262: (3, [photometric]),
        277: (3, [len(bits)]), 278: (4, [height if rows is None else rows]), **(more or {}),
    }  # fmt: skip
    where, size = (324, 325) if 322 in tags else (273, 279)
    starts = np.cumsum([8, *(len(piece) for piece in data)]).tolist()
    tags |= {where: (4, starts[:-1]), size: (4, [len(piece) for piece in data])}
    body = b"".join(data)
    body += bytes(len(body) % 2)
    entries, beyond = b"", b""
    place = 8 + len(body) + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        entry = struct.pack(f"{order}HHI", tag, kind, len(values))
        entries += entry + (raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(f"{order}I", place + len(beyond)))
        beyond += raw if len(raw) > 4 else b""
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(f"{order}I", 8 + len(body))
    return head + body + directory + beyond
