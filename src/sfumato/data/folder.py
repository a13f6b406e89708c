"""A folder of pictures: finding them, decoding them, and packing them into one array.

The first folder below the root is a picture's class. Files are taken in natural order (2 before 10) of their path, so
that the same folder gives the same data everywhere. Links are followed while they stay inside the root; links that lead
out of it, hidden files and files without a picture's suffix are left out and counted. All files are looked at before a
bad one is reported, so that one run names them all.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.data.cache import Cache
from sfumato.data.decoding import SUFFIXES, BadPicture, Picture, Preparation, decode, quiet, threads_for
from sfumato.data.labels import map_labels, natural
from sfumato.data.packed import Packed, evenly, pack
from sfumato.data.settings import DataConfig
from sfumato.data.wording import counted
from sfumato.errors import DataError, printable

__all__ = ["Listing", "load_folder", "scan"]

PACKING_VERSION = 1  # raise it when equal files and settings give other pixels than before
NAMED = 10  # how many bad files an error names
AT_ONCE = 64  # files that a thread decodes in one go, and whose sizes tell how many threads to use


@dataclass(frozen=True, slots=True)
class Listing:
    """The picture files below a root, as paths relative to it in natural order, and what was left out.

    ignored counts other files by suffix, outside the links that leave the root, loops the links to a folder above them.
    folders: the folders right below the root, with or without pictures: the classes that the source names.
    """

    root: Path
    files: tuple[str, ...]
    ignored: tuple[tuple[str, int], ...]
    outside: int
    loops: int
    folders: tuple[str, ...] = ()


def scan(root: Path) -> Listing:
    """List the pictures below `root`. Raises `DataError` when there is no such folder or no picture in it."""
    if not os.path.exists(root):  # Path.exists raises for a name that is too long
        kind = "file" if root.suffix.lower() in (".npz", ".npy") else "folder"
        expected = "a folder of images, an .npz or an .npy file"
        raise _error(f"{printable(str(root))}: no such {kind}", expected, "check --data.path")
    found: list[str] = []
    counts: Counter[str] = Counter()
    links: Counter[str] = Counter()
    folders: list[str] = []
    for relative, kind in _walk(os.path.realpath(root)):
        if kind == "folder":
            folders += [relative] if "/" not in relative else []
        elif kind != "file":
            links[kind] += 1
        elif os.path.splitext(relative)[1].lower() in SUFFIXES:
            found.append(relative)
        else:
            counts[printable(os.path.splitext(relative)[1].lower() or "no suffix")] += 1
    listing = Listing(
        root,
        tuple(sorted(found, key=natural)),
        tuple(sorted(counts.items())),
        links["outside"],
        links["loop"],
        tuple(sorted(folders, key=natural)),
    )
    if not found:
        raise _nothing(listing)
    return listing


def load_folder(root: Path, config: DataConfig, cache: Cache) -> Packed:
    """Decode, prepare and pack the pictures below `root`; from `cache` when nothing has changed since."""
    listing = scan(root)
    files = [listing.files[i] for i in evenly(len(listing.files), config.limit)]
    preparation = Preparation.of(config)
    key = _key(listing.root.resolve(), files, preparation, config.bad_files)
    packed = cache.read(key)
    if packed is None:
        packed = _pack(listing, files, preparation, config)
        cache.write(key, packed)
    if packed.class_names is None:
        return packed
    absent = (name for name in map(printable, listing.folders) if name not in packed.class_names)
    return replace(packed, absent_classes=tuple(absent))


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """Yield (relative path, "file" | "folder" | "outside" | "loop") for all that is not hidden below a real path."""
    pending: list[tuple[str, str, tuple[str, ...]]] = [(root, "", (root,))]
    while pending:
        folder, prefix, chain = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            where = printable(folder)
            raise _error(f"{where}: {error.strerror}", "a readable folder", "mend its permissions") from None
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if entry.is_symlink() and os.path.exists(real) and os.path.commonpath([root, real]) != root:
                yield prefix + entry.name, "outside"
            elif not entry.is_dir():
                yield prefix + entry.name, "file"
            elif real in chain:
                yield prefix + entry.name, "loop"
            else:
                yield prefix + entry.name, "folder"
                pending.append((real, f"{prefix}{entry.name}/", (*chain, real)))


def _key(root: Path, files: list[str], preparation: Preparation, bad_files: str) -> str:
    digest = hashlib.sha256()
    settings = {"version": PACKING_VERSION, "root": str(root), "bad_files": bad_files, **asdict(preparation)}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for relative in files:
        try:
            status = os.stat(root / relative)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "gone"
        digest.update(f"\0{state} ".encode() + os.fsencode(relative))
    return digest.hexdigest()


def _pack(listing: Listing, files: list[str], preparation: Preparation, config: DataConfig) -> Packed:
    good: list[str] = []
    pictures: list[Picture] = []
    bad: list[str] = []
    for relative, outcome in _decode_all(listing.root, files, preparation):
        if isinstance(outcome, Picture):
            good.append(relative)
            pictures.append(outcome)
        else:
            bad.append(f"{printable(relative)}: {outcome}")
    if bad and (config.bad_files == "error" or not good):
        raise _bad_files(listing.root, bad, len(files))
    report = (*_notes(listing, pictures), *(f"left out {line}" for line in bad))
    values = _stack(listing.root, good, pictures)
    if any("/" not in relative for relative in good):
        unlabelled = "some pictures lie outside the class folders: no labels"
        mixed = any("/" in relative for relative in good)
        return pack(values, report=(*report, unlabelled) if mixed else report, names=good)
    folders = np.array([printable(relative.split("/", 1)[0]) for relative in good])
    classes = map_labels(folders, len(good), None, where=printable(str(listing.root)))
    return pack(
        values,
        labels=classes.indices,
        label_values=classes.values,
        class_names=classes.names,
        report=report,
        names=good,
    )


def _decode_all(root: Path, files: list[str], preparation: Preparation) -> Iterator[tuple[str, Picture | BadPicture]]:
    """Decode in threads, in the order of `files`; each takes several at a time, for handing one over costs, too."""

    def attempt(relative: str) -> Picture | BadPicture:
        try:
            return decode(root / relative, preparation)
        except BadPicture as reason:
            return reason

    def attempts(names: list[str]) -> list[Picture | BadPicture]:
        return [attempt(relative) for relative in names]

    threads = threads_for(_mean_size(root, files))
    if threads == 1:
        with quiet():
            yield from ((relative, attempt(relative)) for relative in files)
        return
    length = max(1, min(AT_ONCE, len(files) // (4 * threads)))
    pieces = [files[start : start + length] for start in range(0, len(files), length)]
    with quiet(), ThreadPoolExecutor(max_workers=threads) as pool:
        for names, outcomes in zip(pieces, pool.map(attempts, pieces), strict=True):
            yield from zip(names, outcomes, strict=True)


def _mean_size(root: Path, files: list[str]) -> float:
    """Bytes of a file, the mean over some of them; those that are gone count as empty."""
    sizes = []
    for place in evenly(len(files), AT_ONCE):
        try:
            sizes.append(os.stat(root / files[place]).st_size)
        except OSError:
            sizes.append(0)
    return sum(sizes) / max(1, len(sizes))


def _stack(root: Path, names: list[str], pictures: list[Picture]) -> torch.Tensor:
    """One uint8 array (N, H, W, C); consumes `pictures`, so that the data are never held twice."""
    colour = [p.pixels.shape[2] == 3 for p in pictures]
    definite = {is_colour for is_colour, p in zip(colour, pictures, strict=True) if not p.neutral}
    if len(definite) == 2:
        grey = next(i for i, p in enumerate(pictures) if not colour[i] and not p.neutral)
        raise _error(
            f"{printable(str(root))}: {len(colour) - sum(colour)} grey and {sum(colour)} colour pictures (grey: "
            f"{printable(names[grey])}; colour: {printable(names[colour.index(True)])})",
            "only grey or only colour pictures, or data.channels",
            "--data.channels 3 (or 1)",
        )
    sizes = Counter(p.pixels.shape[:2] for p in pictures)
    if len(sizes) > 1:
        some = ", ".join(f"{n} of {w}x{h}" for (h, w), n in sizes.most_common(3)) + ", ..." * (len(sizes) > 3)
        raise _error(
            f"{printable(str(root))}: the pictures have {len(sizes)} different sizes ({some})",
            "pictures of one size, or data.size to crop and resize them to",
            "--data.size 64",
        )
    stacked: NDArray[np.uint8] = np.empty(
        (len(pictures), *pictures[0].pixels.shape[:2], 3 if True in definite or any(colour) else 1), np.uint8
    )
    for i in reversed(range(len(pictures))):
        stacked[i] = pictures.pop().pixels
    return torch.from_numpy(stacked)


def _notes(listing: Listing, pictures: list[Picture]) -> Iterator[str]:
    upscaled = sum(p.upscaled for p in pictures)
    animated = sum(p.frames > 1 for p in pictures)
    narrow = sum(p.kept < 0.5 for p in pictures)
    if upscaled:
        yield f"{upscaled} of {counted(len(pictures), 'picture')} smaller than the target, enlarged"
    if animated:
        yield f"the first frame was taken of {counted(animated, 'file')} with several"
    if narrow:
        yield f"the centre crop kept less than half of {counted(narrow, 'picture')}"
    if listing.outside:
        yield f"ignored {counted(listing.outside, 'link')} that lead out of the folder"
    if listing.loops:
        yield f"ignored {counted(listing.loops, 'link')} to a folder above"
    if listing.ignored:
        yield "ignored files that are not pictures: " + ", ".join(f"{n} {suffix}" for suffix, n in listing.ignored)


def _error(what: str, expected: str, fix: str) -> DataError:
    return DataError(what, expected=expected, fix=fix)


def _nothing(listing: Listing) -> DataError:
    where = printable(str(listing.root))
    allowed = "pictures ending in " + " ".join(sorted(SUFFIXES))
    if listing.outside:
        fix = "copy the files, or give the folder that they lie in"
        return _error(
            f"{where}: no picture, only {counted(listing.outside, 'link')} that lead out of the folder", allowed, fix
        )
    if not listing.ignored:
        return _error(f"{where}: the folder is empty", allowed, "check --data.path")
    seen = ", ".join(f"{n} {suffix}" for suffix, n in listing.ignored)
    return _error(f"{where}: no picture among its files ({seen})", allowed, "convert the files, or check --data.path")


def _bad_files(root: Path, bad: list[str], count: int) -> DataError:
    named = "; ".join(bad[:NAMED]) + (f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
    what = f"{printable(str(root))}: {len(bad)} of {counted(count, 'picture')} cannot be used: {named}"
    fix = "repair or remove them, or leave them out with --data.bad_files skip"
    if len(bad) == count:
        fix = "check --data.path: not one picture can be used"
    return _error(what, "pictures that can be decoded (JPEG, PNG, WEBP, BMP, GIF, TIFF)", fix)
