"""How well are near copies found? Changed copies of real pictures, and the pairs among the pictures themselves.

    python benchmarks/copies.py DATA [--size 64] [--count 1000]

DATA is whatever `--data.path` takes. Of `--count` pictures, evenly taken, each change is made to a copy of every one:
the share of copies that are found with their originals is printed, and how many pairs of different pictures are. Last,
how many pairs there are among all pictures, how many of them with one label, and how long the search took.
"""

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from sfumato.data import DataConfig, load_data, pack
from sfumato.data.copies import find_copies
from sfumato.data.packed import evenly

Pixels = NDArray[np.uint8]


def drawn(pixels: Pixels) -> Image.Image:
    """As Pillow has it: grey without its axis of channels."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def compressed(pixels: Pixels) -> Pixels:
    """As JPEG of quality 75 and back."""
    stream = io.BytesIO()
    drawn(pixels).save(stream, "JPEG", quality=75)
    return np.asarray(Image.open(stream)).reshape(pixels.shape)


def resized(pixels: Pixels) -> Pixels:
    """To 7/8 of the size and back."""
    image = drawn(pixels)
    small = image.resize((image.width * 7 // 8, image.height * 7 // 8), Image.Resampling.BILINEAR)
    return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR)).reshape(pixels.shape)


def noisy(pixels: Pixels) -> Pixels:
    """With noise of 4 grey levels."""
    noise = np.random.default_rng(int(pixels.sum())).normal(0, 4, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def brighter(pixels: Pixels) -> Pixels:
    """By 15 grey levels."""
    return np.clip(pixels.astype(np.int64) + 15, 0, 255).astype(np.uint8)


def flatter(pixels: Pixels) -> Pixels:
    """With 0.8 times the contrast."""
    return np.asarray(ImageEnhance.Contrast(drawn(pixels)).enhance(0.8)).reshape(pixels.shape)


CHANGES: tuple[Callable[[Pixels], Pixels], ...] = (compressed, noisy, brighter, flatter, resized)


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="pictures")
    parser.add_argument("--size", type=int, help="pixels of a side")
    parser.add_argument("--count", type=int, default=1000, help="pictures that are copied")
    options = parser.parse_args()
    packed = load_data(DataConfig(path=options.data, size=options.size), seed=0)
    few = packed.values.numpy()[evenly(len(packed), options.count)]
    for change in CHANGES:
        copies = np.stack([change(pixels) for pixels in few])
        found = find_copies(pack(torch.from_numpy(np.concatenate([few, copies]))))
        same = {group[0] for group in found.exact}
        right = same | {first for first, second in found.pairs.tolist() if second - first == len(few)}
        others = sum(second - first != len(few) for first, second in found.pairs.tolist())
        print(f"{change.__name__:<12} {len(right) / len(few):.1%} found, {others} pairs of different pictures")
    began = time.perf_counter()
    whole = find_copies(packed)
    seconds = time.perf_counter() - began
    labels = packed.labels
    alike = sum(bool(labels[i] == labels[j]) for i, j in whole.pairs.tolist()) if labels is not None else None
    told = "" if alike is None else f", {alike:,} of one class"
    near = f"{len(whole.pairs):,} near pairs{told}"
    print(f"all {len(packed):,}: {whole.num_exact:,} exact copies, {near}; {seconds:.0f} s")


if __name__ == "__main__":
    main()
