"""Samples as files: one `.npz` array file, or a folder of numbered PNGs that say how they were made.

Every file is written under a temporary name and renamed when complete; a file that exists already is left alone unless
`force` is given. The metadata of a PNG (tEXt chunks `sfumato:…`) carry the digest of the weights, the sample's own
seed, its index, what it was asked to be (`label` daisy, `label_index` 3), and every setting of the sampling as it is
given to `sfumato sample` (`sampler.eta` 0.5): enough to draw the same picture again. An array file of labelled samples
is a labelled data set.
"""

import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import UsageError
from sfumato.experiment.config import SamplingConfig
from sfumato.experiment.model import Samples
from sfumato.experiment.schema import flatten, to_plain
from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file

__all__ = ["require_free_target", "settings_of", "write_samples"]

_FILES_BY_HABIT = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".npy", ".zip", ".pt")  # clearly not meant as folders


def settings_of(sampling: SamplingConfig) -> dict[str, object]:
    """Every setting of the sampling under the key that `sfumato sample` takes: `sampler` Ddim, `sampler.eta` 0.5 …

    Without steps and grid where the sampler is adaptive: they say nothing of its samples, and it would refuse them.
    """
    said = {key.removesuffix(".kind"): value for key, value in flatten(to_plain(sampling)).items()}
    unused = ("steps", "grid") if sampling.sampler.adaptive else ()
    return {key: value for key, value in said.items() if key.split(".")[0] not in unused}


def require_free_target(out: Path, count: int, *, force: bool, folder: bool = False) -> None:
    """Refuse, before any sample is drawn, a target of an unknown kind or one that holds a sample already.

    `folder` says that a folder is meant, whatever the name looks like.
    """
    if out.suffix not in ("", ".npz") and not folder and not out.is_dir():
        array = out.with_suffix(".npz") if out.suffix.lower() in _FILES_BY_HABIT else f"{out}.npz"
        raise UsageError(
            f"--out is {out}",
            expected="a file ending in .npz, or a folder for PNGs: one that exists, or a name that ends in /",
            fix=f"--out {array}, or --out {out}/",
        )
    if _is_array_file(out, folder):
        taken = [out] if out.exists() else []
    elif out.exists() and not out.is_dir():
        raise UsageError(f"--out is {out}, which is a file", expected="a folder for PNGs", fix=f"--out {out}.npz")
    else:
        there = set(os.listdir(out)) if out.is_dir() else set()  # one look, however many samples are asked for
        taken = [path for path in _pictures(out, count) if path.name in there] if there else []
    if taken and not force:
        raise UsageError(
            f"{taken[0]} exists already", expected="a new file or folder", fix="choose another --out, or add --force"
        )


def write_samples(
    out: Path, samples: Samples, about: Mapping[str, object], *, force: bool = False, folder: bool = False
) -> list[Path]:
    """Write samples to `out` and give the files written. `about` goes into the metadata of every PNG, as settable text.

    Raises UsageError for PNGs of what is not a picture, ResourceError when the disk refuses.
    """
    require_free_target(out, len(samples), force=force, folder=folder)
    if _is_array_file(out, folder):
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
        own = {"seed": int(samples.seeds[index]), "index": index, **asked_of(samples, index)}
        _write(path, png(pixels, {**about, **own}), durable=False)  # two syncs per picture would take most of the time
    return paths


def asked_of(samples: Samples, index: int) -> dict[str, object]:
    """What one sample was asked to be, as `sfumato sample` takes it: its label, values and own weight of guidance."""
    asked: dict[str, object] = {}
    if samples.labels is not None and samples.class_names is not None:
        label = int(samples.labels[index])
        asked.update(label=samples.class_names[label], label_index=label)
    if samples.conditions is not None:
        asked["value"] = ",".join(f"{value:.9g}" for value in samples.conditions[index].tolist())
    if samples.guidance is not None:
        asked["guidance"] = float(samples.guidance[index])
    return asked


def png(pixels: NDArray[np.uint8], about: Mapping[str, object]) -> bytes:
    """The PNG file of one picture (H, W, C), with its metadata."""
    info = PngInfo()
    for key, value in about.items():
        info.add_text(f"sfumato:{key}", value if isinstance(value, str) else json.dumps(value))
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def _is_array_file(out: Path, folder: bool) -> bool:
    return out.suffix == ".npz" and not folder and not out.is_dir()


def _pictures(folder: Path, count: int) -> Iterable[Path]:
    return (folder / f"{index:06d}.png" for index in range(count))


def _array_file(samples: Samples) -> bytes:
    """`images` or `values`, `seeds`, and what was asked: `labels` with `class_names`, `conditions` with
    `condition_names`, `guidance`; the bytes depend on the samples alone.
    """
    named = {
        "images": samples.images,
        "values": samples.values,
        "labels": samples.labels,
        "seeds": samples.seeds,
        "class_names": None if samples.class_names is None else np.array(samples.class_names),
        "conditions": samples.conditions,
        "condition_names": None if samples.condition_names is None else np.array(samples.condition_names),
        "guidance": samples.guidance,
    }
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
