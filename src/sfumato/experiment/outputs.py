"""Samples as files: one `.npz` array file, or a folder of numbered PNGs that say how they were made.

Every file is written under a temporary name and renamed when complete; a file that exists already is left alone unless
`force` is given. The metadata of a PNG (tEXt chunks `sfumato:…`) carry the digest of the weights, the sample's own
seed, its index, the sampler and its steps: enough to draw the same picture again.
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import UsageError
from sfumato.experiment.model import Samples
from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file

__all__ = ["require_free_target", "write_samples"]


def require_free_target(out: Path, count: int, *, force: bool) -> None:
    """Refuse, before any sample is drawn, a target of an unknown kind or one that holds a sample already."""
    if out.suffix not in ("", ".npz") and not out.is_dir():
        raise UsageError(
            f"--out is {out}",
            expected="a file ending in .npz, or a folder for PNGs",
            fix=f"--out {out.with_suffix('.npz')}",
        )
    if _is_array_file(out):
        taken = [out] if out.exists() else []
    elif out.exists() and not out.is_dir():
        raise UsageError(f"--out is {out}, which is a file", expected="a folder for PNGs", fix=f"--out {out}.npz")
    else:
        taken = [path for path in _pictures(out, count) if path.exists()]
    if taken and not force:
        raise UsageError(
            f"{taken[0]} exists already", expected="a new file or folder", fix="choose another --out, or add --force"
        )


def write_samples(out: Path, samples: Samples, about: Mapping[str, str], *, force: bool = False) -> list[Path]:
    """Write samples to `out` and give the files written. `about` goes into the metadata of every PNG.

    Raises UsageError for PNGs of what is not a picture, ResourceError when the disk refuses.
    """
    require_free_target(out, len(samples), force=force)
    if _is_array_file(out):
        _write(out, _array_file(samples))
        return [out]
    if samples.images is None or samples.images.shape[-1] not in (1, 3, 4):
        raise UsageError(
            f"--out is {out}, a folder for PNGs, and these samples are not pictures",
            expected="a file ending in .npz",
            fix=f"--out {out}.npz",
        )
    paths = list(_pictures(out, len(samples)))
    for index, (path, pixels) in enumerate(zip(paths, samples.images, strict=True)):
        own = {"seed": str(int(samples.seeds[index])), "index": str(index)}
        if samples.labels is not None:
            own["label"] = str(int(samples.labels[index]))
        _write(path, png(pixels, {**about, **own}), durable=False)  # two syncs per picture would take most of the time
    return paths


def png(pixels: NDArray[np.uint8], about: Mapping[str, str]) -> bytes:
    """The PNG file of one picture (H, W, C), with its metadata."""
    info = PngInfo()
    for key, value in about.items():
        info.add_text(f"sfumato:{key}", value)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def _is_array_file(out: Path) -> bool:
    return out.suffix == ".npz" and not out.is_dir()


def _pictures(folder: Path, count: int) -> Iterable[Path]:
    return (folder / f"{index:06d}.png" for index in range(count))


def _array_file(samples: Samples) -> bytes:
    """`images` or `values`, `labels` if there are any, `seeds`: the bytes depend on the samples alone."""
    named = {"images": samples.images, "values": samples.values, "labels": samples.labels, "seeds": samples.seeds}
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in named.items() if array is not None})  # type: ignore[arg-type]
    return file.getvalue()


def _write(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file that is seen whole or not at all."""
    storage = LocalStorage()
    try:
        make_folders(path.parent, storage)
        replace_file(path, [content], storage, durable=durable)
    except OSError as error:
        raise explained(error, f"writing {path}", path=path, storage=storage) from None
