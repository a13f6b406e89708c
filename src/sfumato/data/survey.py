"""What a folder or an archive of pictures is made of, from the headers of its files alone: nothing is decoded.

Sizes are those of the pictures set upright. A survey meets every kind of file there is, so that a folder that training
would refuse (pictures of many sizes, grey among colour, files that are no pictures) can be described as well as a good
one.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.data.archives import archive_pictures, is_archive
from sfumato.data.decoding import BadPicture, Header, Preparation, look, quiet
from sfumato.data.folder import FolderPictures, scan
from sfumato.data.packed import evenly
from sfumato.data.pictures import Content, Pictures, content_size
from sfumato.data.settings import DataConfig
from sfumato.errors import printable

__all__ = ["BadFile", "Size", "Survey", "survey", "survey_pictures"]

Counts = tuple[tuple[str, int], ...]
SHOWN = 20  # sizes and bad files in a document
SAME_ASPECT = 0.02  # how far two ratios of the sides may be apart to count as one


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that no picture can be had from, as far as its header tells, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Size:
    """`count` pictures of height x width."""

    height: int
    width: int
    count: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The picture files of a folder, counted.

    looked_at: files whose headers were read. folders: subfolders, which are the classes. bytes: size of the files.
    formats, modes: how many of each of Pillow's formats and modes, most frequent first. sizes: how many pictures of
    each size, most frequent first. grey, colour: pictures that are certainly one or the other; palettes may be either.
    transparent, turned, deep: pictures with transparency, in an orientation to be undone, of more than 8 bits.
    bad: files that cannot be used. ignored: other files by suffix. outside, loops: links that are not followed.
    """

    looked_at: int
    folders: int
    bytes: int
    formats: Counts
    modes: Counts
    sizes: tuple[Size, ...]
    grey: int
    colour: int
    transparent: int
    turned: int
    deep: int
    bad: tuple[BadFile, ...]
    ignored: Counts
    outside: int
    loops: int

    @property
    def good(self) -> int:
        """Files whose header is sound."""
        return sum(size.count for size in self.sizes)

    @property
    def mixed_sizes(self) -> bool:
        """Whether the pictures have more than one size."""
        return len(self.sizes) > 1

    @property
    def mixed_colours(self) -> bool:
        """Whether grey pictures stand among colour ones."""
        return self.grey > 0 and self.colour > 0

    def shorter_side(self, share: float) -> int:
        """The length that the given share of the pictures' shorter sides stays below or at: 0.5 for the median."""
        return int(_quantile([(min(size.height, size.width), size.count) for size in self.sizes], share))

    def aspect(self) -> float | None:
        """height/width that at least 19 of 20 pictures share within 2 %; None where they differ more."""
        if not self.sizes:
            return None
        ratios = [(size.height / size.width, size.count) for size in self.sizes]
        middle = _quantile(ratios, 0.5)
        alike = sum(count for ratio, count in ratios if abs(ratio / middle - 1) <= SAME_ASPECT)
        return middle if alike >= 0.95 * self.good else None

    def document(self) -> dict[str, Any]:
        """As JSON data; of sizes and bad files the first twenty."""
        return {
            "looked_at": self.looked_at,
            "folders": self.folders,
            "bytes": self.bytes,
            "formats": dict(self.formats),
            "modes": dict(self.modes),
            "num_sizes": len(self.sizes),
            "sizes": [{"height": s.height, "width": s.width, "count": s.count} for s in self.sizes[:SHOWN]],
            "shorter_side": {
                name: self.shorter_side(share) for name, share in (("least", 0.0), ("median", 0.5), ("largest", 1.0))
            }
            if self.sizes
            else None,
            "grey": self.grey,
            "colour": self.colour,
            "transparent": self.transparent,
            "turned": self.turned,
            "deep": self.deep,
            "num_bad": len(self.bad),
            "bad": [{"file": bad.name, "reason": bad.reason} for bad in self.bad[:SHOWN]],
            "ignored": dict(self.ignored),
            "links_outside": self.outside,
            "link_loops": self.loops,
        }


def survey(root: Path, config: DataConfig) -> Survey:
    """Look at the headers of the pictures in a folder or an archive, or of `data.limit` of them.

    Raises `DataError` when there is no such place, or no picture in it.
    """
    with _pictures(root, config) as pictures:
        return survey_pictures(pictures, config)


def survey_pictures(pictures: Pictures, config: DataConfig) -> Survey:
    """Look at the headers of pictures, or of `data.limit` of them."""
    preparation = Preparation.of(config)
    found: dict[str, Header | BadFile] = {}
    size = 0
    listing = pictures.listing
    names = [listing.files[i] for i in evenly(len(listing.files), config.limit)]
    with quiet():
        for name, content in pictures.opened(names):
            found[name] = _look(name, content, preparation)
            size += content_size(content)
    outcomes = [found[name] for name in names]
    headers = [one for one in outcomes if isinstance(one, Header)]
    sizes = Counter((header.height, header.width) for header in headers)
    return Survey(
        looked_at=len(names),
        folders=len(listing.folders),
        bytes=size,
        formats=_counts(header.format for header in headers),
        modes=_counts(header.mode for header in headers),
        sizes=tuple(Size(h, w, n) for (h, w), n in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        grey=sum(header.grey is True for header in headers),
        colour=sum(header.grey is False for header in headers),
        transparent=sum(header.transparent for header in headers),
        turned=sum(header.turned for header in headers),
        deep=sum(header.deep for header in headers),
        bad=tuple(one for one in outcomes if isinstance(one, BadFile)),
        ignored=listing.ignored,
        outside=listing.outside,
        loops=listing.loops,
    )


@contextmanager
def _pictures(root: Path, config: DataConfig) -> Iterator[Pictures]:
    """The pictures of a folder or of an archive, while it is open."""
    if is_archive(root) and not os.path.isdir(root) and os.path.exists(root):
        with archive_pictures(root, config) as pictures:
            yield pictures
    else:
        yield FolderPictures(scan(root))


def _look(name: str, content: Content, preparation: Preparation) -> Header | BadFile:
    try:
        if not isinstance(content, BadPicture):
            return look(content, preparation)
        return BadFile(printable(name), str(content))
    except BadPicture as reason:
        return BadFile(printable(name), str(reason))


def _counts(names: Iterable[str]) -> Counts:
    return tuple(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _quantile(weighted: list[tuple[float, int]], share: float) -> float:
    """The least value that at least `share` of the weight stays below or at."""
    total, reached = sum(weight for _, weight in weighted), 0
    ordered = sorted(weighted)
    for value, weight in ordered:
        reached += weight
        if reached >= share * total:
            return value
    return ordered[-1][0]
