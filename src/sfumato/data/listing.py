"""Which pictures there are, whoever lists them: a folder on disk, the members of an archive, the rows of a table.

Files are taken in natural order (2 before 10) of their path, so that the same files give the same data everywhere. The
first folder of a path is a picture's class. Hidden names (a leading dot, `__MACOSX`), files without a picture's suffix
and links that lead out are left out and counted; tables that may say more of the pictures are set apart.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.data.decoding import SUFFIXES
from sfumato.data.labels import natural
from sfumato.data.wording import counted, leading_out
from sfumato.errors import DataError, printable

__all__ = ["MAX_LINKED", "TABLES", "Listing", "is_hidden", "listed"]

# Tables beside pictures, by their names in any case.
TABLES = tuple(f"{stem}{suffix}" for stem in ("labels", "metadata") for suffix in (".csv", ".tsv", ".jsonl"))
MAX_LINKED = 10_000  # links to folders that are followed; nested ones could multiply without end


@dataclass(frozen=True, slots=True)
class Listing:
    """The picture files below a root, as paths relative to it in natural order, and what was left out.

    ignored counts other files by suffix, outside the links that leave the root, loops the links to a folder above them.
    folders: the folders that may be classes, with or without pictures: the classes that the source names.
    tables: the tables beside the pictures. top: the folder that the class folders lie in, "" or with its slash.
    """

    root: Path
    files: tuple[str, ...]
    ignored: tuple[tuple[str, int], ...]
    outside: int
    loops: int
    folders: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    top: str = ""

    @property
    def where(self) -> str:
        """The root, for messages."""
        return printable(str(self.root))

    def class_of(self, name: str) -> str | None:
        """The folder that names the class of a picture; None for one that lies in none."""
        folder, slash, _ = name.removeprefix(self.top).partition("/")
        return printable(folder) if slash else None


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over."""
    return name.startswith(".") or name == "__MACOSX"


def listed(root: Path, entries: Iterable[tuple[str, str]], *, noun: str) -> Listing:
    """The listing of entries (path relative to the root, "file" | "folder" | "outside" | "loop").

    An archive of one folder holds the same as that folder: the one that all its pictures lie deep in is looked into.
    Raises `DataError`, calling the root a `noun`, when there is no picture.
    """
    files: list[str] = []
    tables: list[str] = []
    folders: list[str] = []
    counts: Counter[str] = Counter()
    links: Counter[str] = Counter()
    for name, kind in entries:
        last = name.rpartition("/")[2]
        suffix = os.path.splitext(last)[1].lower()
        if kind == "folder":
            folders.append(name)
        elif kind != "file":
            links[kind] += 1
        elif suffix in SUFFIXES:
            files.append(name)
        elif last.lower() in TABLES:
            tables.append(name)
        else:
            counts[printable(suffix or "no suffix")] += 1
    top = _top(files) if noun == "archive" else ""
    beyond = (name.removeprefix(top) for name in folders if name.startswith(top))
    listing = Listing(
        root,
        tuple(sorted(files, key=natural)),
        tuple(sorted(counts.items())),
        links["outside"],
        links["loop"],
        tuple(sorted((name for name in beyond if name and "/" not in name), key=natural)),
        tuple(sorted(tables, key=natural)),
        top,
    )
    if not files:
        raise _nothing(listing, noun)
    return listing


def _top(files: Sequence[str]) -> str:
    """The folders that all files lie in, as long as every file lies in a further one: "flowers/" of flowers/rose/1.png
    and flowers/tulip/2.png."""
    top = ""
    while files and all(name[len(top) :].count("/") > 1 for name in files):
        first = {name[len(top) :].partition("/")[0] for name in files}
        if len(first) > 1:
            break
        top += first.pop() + "/"
    return top


def _nothing(listing: Listing, noun: str) -> DataError:
    allowed = "pictures ending in " + " ".join(sorted(SUFFIXES))
    if listing.outside:
        return DataError(
            f"{listing.where}: no picture, only {leading_out(listing.outside, noun)}",
            expected=allowed,
            fix="copy the files, or give the folder that they lie in",
        )
    seen = [f"{n} {suffix}" for suffix, n in listing.ignored]
    seen += [counted(len(listing.tables), "table")] if listing.tables else []
    if not seen:
        return DataError(f"{listing.where}: the {noun} is empty", expected=allowed, fix="check --data.path")
    tables = any(suffix == ".parquet" for suffix, _ in listing.ignored)
    return DataError(
        f"{listing.where}: no picture among its files ({', '.join(seen)})",
        expected=allowed,
        fix="give one of the .parquet files as --data.path" if tables else "convert the files, or check --data.path",
    )
