"""How fast are data? Packing small pictures, and batches from the packed form against decoding for every batch.

    python benchmarks/data.py [--pictures FOLDER]

1. Packing a folder of 50,000 PNGs of 32x32 in ten classes, pictures a second: scanning, decoding, stacking, writing.
2. One batch of 64, normalised, channels first, on the CPU: from the packed file that the operating system maps, and the
   same 64 pictures decoded and resized for every batch, as a loader without a packed form has to do it. With PNGs of
   64x64, and with JPEGs of 500 pixels a side; decoding uses one thread or all, whichever is faster.

The pictures are made here: the embedded sprites, shifted in hue and enlarged, which compress like flat art, with noise,
without which a JPEG would be cheaper than a photograph; `--pictures` names a folder of your own instead for the JPEGs.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from _pairs import alternate, machine
from numpy.typing import NDArray
from PIL import Image

from sfumato.data import Batches, DataConfig, Normalization, load_data, measure, split
from sfumato.data.decoding import Preparation, decode, threads_for
from sfumato.data.folder import scan
from sfumato.experiment.packing import pack_data

BATCH = 64


def drawn(count: int, side: int, noise: float) -> Iterator[NDArray[np.uint8]]:
    """`count` pictures of side x side: sprites whose channels are permuted and inverted, with noise."""
    sprites = load_data(DataConfig(source="sprites"), seed=0).values.numpy()
    rng = np.random.default_rng(0)
    orders = list(itertools.permutations(range(3)))
    for index in range(count):
        order = orders[index // len(sprites) % len(orders)]
        picture = Image.fromarray(np.ascontiguousarray(sprites[index % len(sprites)][..., order]))
        large = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = rng.normal(0, noise, (side, side, 1)).astype(np.float32) if noise else 0
        yield np.clip(large + grain, 0, 255).astype(np.uint8)


def folder_of(root: Path, count: int, side: int, suffix: str, noise: float) -> Path:
    """A folder of such pictures in ten classes."""
    for index, pixels in enumerate(drawn(count, side, noise)):
        path = root / f"class {index % 10}" / f"{index:05d}{suffix}"
        if index < 10:
            path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path, **({"quality": 90} if suffix == ".jpg" else {}))
    return root


def packing(root: Path, out: Path) -> tuple[float, float]:
    """Pictures a second of packing a folder, and seconds of it; the files lie in the page cache, as after copying."""
    began = time.perf_counter()
    made = pack_data(DataConfig(path=str(root)), out, force=True)
    seconds = time.perf_counter() - began
    return len(made.packed) / seconds, seconds


def from_packed(file: Path) -> tuple[Callable[[], object], Normalization]:
    """Batches of a packed file, one after the other, and its normalisation."""
    config = DataConfig(path=str(file))
    packed = load_data(config, seed=0)
    parts = split(packed, 0.0, 0)
    normalization = measure(packed, parts, config)
    batches = Batches(packed, parts.train, normalization, seed=0, batch_size=BATCH, flip=False, device="cpu")
    steps = iter(range(10**9))
    return lambda: batches.batch(next(steps)).x0, normalization


def from_files(root: Path, size: int, normalization: Normalization) -> Callable[[], object]:
    """Batches decoded, cropped and resized from a folder's files, one after the other; in threads where that helps."""
    files = [root / name for name in scan(root).files]
    preparation = Preparation(size=(size, size), channels=3)
    threads = threads_for(statistics.mean(file.stat().st_size for file in files))
    pool = ThreadPoolExecutor(threads)
    order = np.random.default_rng(0).permutation(len(files))
    steps = iter(range(10**9))

    def decoded(path: Path) -> NDArray[np.uint8]:
        return decode(path, preparation).pixels

    def batch() -> object:
        step = next(steps)
        chosen = [files[order[(step * BATCH + i) % len(files)]] for i in range(BATCH)]
        pixels = list(map(decoded, chosen) if threads == 1 else pool.map(decoded, chosen))
        return normalization.to_model(torch.from_numpy(np.stack(pixels)))

    return batch


def compare(name: str, root: Path, out: Path, *, repeats: int, bound: str) -> None:
    """Time batches of a folder at 64x64 both ways and print the ratio."""
    pack_data(DataConfig(path=str(root), size=64, channels=3, bad_files="skip"), out)
    packed, normalization = from_packed(out)
    pairs = alternate(from_files(root, 64, normalization), packed, repeats=repeats)
    print(pairs.line(f"batch of {BATCH} decoded from {name}", "from the packed form", bound=bound))


def main() -> None:
    """Print the speed of packing and the two ratios with the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="pictures to pack")
    parser.add_argument("--times", type=int, default=3, help="how often they are packed")
    parser.add_argument("--pictures", type=Path, help="a folder of large pictures instead of those made here")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="sfumato-") as name:
        place = Path(name)
        small = folder_of(place / "small", options.count, 32, ".png", noise=0)
        speeds = [packing(small, place / "small.safetensors") for _ in range(options.times)]
        best, median = max(s for s, _ in speeds), sorted(s for s, _ in speeds)[len(speeds) // 2]
        print(f"packing {options.count:,} PNGs of 32x32: {median:,.0f} a second, best {best:,.0f}; wanted 8,000")
        middle = folder_of(place / "middle", 2000, 64, ".png", noise=4)
        compare("PNGs of 64x64", middle, place / "middle.safetensors", repeats=20, bound="5 or more")
        large = options.pictures or folder_of(place / "large", 200, 500, ".jpg", noise=4)
        compare("JPEGs of 500 pixels", large, place / "large.safetensors", repeats=3, bound="50 or more")


if __name__ == "__main__":
    main()
