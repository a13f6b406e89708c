"""Oxford's 102 flowers and 37 pets, from their archives as published or from what was unpacked of them.

Flowers (M.-E. Nilsback, A. Zisserman, "Automated flower classification over a large number of classes", 2008): 8,189
pictures image_00001.jpg …, `labels` (1, 8189) with a class 1..102 for each of them in that order, and `trnid`, `valid`,
`tstid` with the numbers of the pictures of each part. Pets (O. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar, "Cats
and dogs", 2012): a line `Image CLASS-ID SPECIES BREED-ID` for each picture in trainval.txt and test.txt, class 1..37,
species 1 (cat) or 2 (dog); what comes before the last underscore of a picture's name is its breed.

The test part is the published one; all others are trained on.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.cache import Cache
from sfumato.data.catalogue import Catalogue, pack_catalogue
from sfumato.data.holdings import Holdings
from sfumato.data.labels import natural
from sfumato.data.matlab import read_matlab
from sfumato.data.members import open_members
from sfumato.data.packed import Packed
from sfumato.data.settings import DataConfig
from sfumato.errors import DataError, printable

__all__ = ["FLOWERS", "load_flowers", "load_pets"]

# The categories in the order of their numbers, from 1, as the authors' page lists them.
FLOWERS = tuple(
    """pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid,
    bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris,
    globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower,
    fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke,
    sweet william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya,
    cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia,
    bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula,
    sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia, cautleya spicata,
    japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring crocus, bearded iris,
    windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus,
    toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
    watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow,
    mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily""".replace("\n   ", "").split(", ")
)
SPECIES = {1: "cat", 2: "dog"}


def load_flowers(holdings: Holdings, config: DataConfig, cache: Cache) -> Packed:
    """The flowers: training and validation part in the order of their numbers, then the test part."""
    path = holdings.path("labels")
    labels = _column(path, read_matlab(path), "labels")
    path = holdings.path("parts")
    parts = read_matlab(path)
    own = np.sort(np.concatenate([_column(path, parts, "trnid"), _column(path, parts, "valid")]))
    test = np.sort(_column(path, parts, "tstid"))
    numbers = np.concatenate([own, test])
    if len(np.unique(numbers)) != len(numbers) or numbers.min() < 1 or numbers.max() > len(labels):
        raise _refuse(path, f"its parts name pictures twice, or beyond the {len(labels):,} that have labels")
    chosen = labels[numbers - 1]
    if chosen.min() < 1 or chosen.max() > len(FLOWERS):
        place = holdings.path("labels")
        raise _refuse(place, f"its classes run from {chosen.min()} to {chosen.max()}, not within 1..{len(FLOWERS)}")
    catalogue = Catalogue(
        names=tuple(f"image_{number:05d}.jpg" for number in numbers),
        test_count=len(test),
        labels=chosen,
        class_names=dict(enumerate(FLOWERS, start=1)),
    )
    return pack_catalogue(catalogue, open_members(holdings.path("pictures")), config, cache)


def _column(path: Path, arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.int64]:
    """The numbers under `name`, (1, n) or (n, 1), as int64 (n,)."""
    array = arrays.get(name)
    if array is None or array.size != max(array.shape, default=0) or not array.size:
        found = ", ".join(map(printable, sorted(arrays))) or "nothing"
        raise _refuse(path, f"no row of numbers {name} in it (it holds {found})")
    numbers = array.ravel().astype(np.int64)
    if (numbers != array.ravel()).any():
        raise _refuse(path, f"{name} has numbers that are not whole")
    return numbers


def load_pets(holdings: Holdings, config: DataConfig, cache: Cache) -> Packed:
    """The pets by breed, or with data.label `species` as cats and dogs; trainval.txt first, then test.txt."""
    members = open_members(holdings.path("annotations"))
    texts = members.texts(["trainval.txt", "test.txt"])
    own, test = (_lines(members.path / name, texts[name]) for name in ("trainval.txt", "test.txt"))
    rows = [*sorted(own, key=lambda row: natural(row[0])), *sorted(test, key=lambda row: natural(row[0]))]
    names = [name for name, _ in rows]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _refuse(members.path, f"{printable(twice)} is listed twice")
    numbers = np.array([ids for _, ids in rows], np.int64)
    breeds = {int(ids[0]): name.rsplit("_", 1)[0] for name, ids in rows}
    by_species = config.label == "species"
    catalogue = Catalogue(
        names=tuple(f"{name}.jpg" for name in names),
        test_count=len(test),
        labels=numbers[:, 1 if by_species else 0],
        class_names=SPECIES if by_species else breeds,
    )
    return pack_catalogue(catalogue, open_members(holdings.path("pictures")), config, cache)


Row = tuple[str, tuple[int, int]]  # a picture's name, and its class and species


def _lines(path: Path, text: str) -> list[Row]:
    """The pictures of one list, its faults named with their line."""
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z_-]+_\d+) (\d{1,3}) ([12]) (\d{1,3})", line.strip())
        if match is None or int(match[2]) < 1:
            raise _refuse(path, f"line {number} is {printable(line.strip()[:80])!r}, not NAME CLASS SPECIES BREED")
        rows.append((match[1], (int(match[2]), int(match[3]))))
    if not rows:
        raise _refuse(path, "it lists no picture")
    return rows


def _refuse(path: Path, what: str) -> DataError:
    return DataError(
        f"{printable(str(path))}: {what}", expected="the file as published", fix="get the published file again"
    )
