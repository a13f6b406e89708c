"""The data sets that people know by name: what each consists of, where it is published, how it is read.

Sizes and SHA-256 are facts of the published files, which have not changed for years; whatever lies at an address is
taken only if it is that file. MNIST is no longer given out by its authors' page, so that two archives of the same files
stand for it. CelebA's authors ask everybody to agree to their terms first: it is got by hand.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sfumato.data.cache import Cache
from sfumato.data.celeba import load_celeba
from sfumato.data.cifar import load_cifar10, load_cifar100
from sfumato.data.fetch import Published
from sfumato.data.folder import holds_picture
from sfumato.data.holdings import Holdings, Item, NamedSet, find, is_replaced
from sfumato.data.idx import PARTS, load_idx
from sfumato.data.oxford import load_flowers, load_pets
from sfumato.data.packed import Packed
from sfumato.data.settings import SET_SOURCES, DataConfig
from sfumato.errors import ConfigError

__all__ = ["SETS", "declared_set", "is_named_set", "known_as", "load_set", "require_set"]

MNIST_AT = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")
FASHION_AT = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
CIFAR_AT = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")
FLOWERS_AT = ("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", "https://thor.robots.ox.ac.uk/flowers/102/")
PETS_AT = ("https://thor.robots.ox.ac.uk/pets/", "https://www.robots.ox.ac.uk/~vgg/data/pets/data/")

MNIST = (
    Published(
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        MNIST_AT,
    ),
    Published(
        "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        MNIST_AT,
    ),
    Published(
        "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        MNIST_AT,
    ),
    Published(
        "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        MNIST_AT,
    ),
)
FASHION = (
    Published(
        "train-images-idx3-ubyte.gz",
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        FASHION_AT,
    ),
    Published(
        "train-labels-idx1-ubyte.gz",
        29_515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        FASHION_AT,
    ),
    Published(
        "t10k-images-idx3-ubyte.gz",
        4_422_102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        FASHION_AT,
    ),
    Published(
        "t10k-labels-idx1-ubyte.gz",
        5_148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        FASHION_AT,
    ),
)
CIFAR10_FILE = Published(
    "cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    CIFAR_AT,
)
CIFAR100_FILE = Published(
    "cifar-100-binary.tar.gz",
    168_513_733,
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    CIFAR_AT,
)
FLOWER_PICTURES = Published(
    "102flowers.tgz",
    344_862_509,
    "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
    FLOWERS_AT,
)
FLOWER_LABELS = Published(
    "imagelabels.mat",
    502,
    "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
    FLOWERS_AT,
)
FLOWER_PARTS = Published(
    "setid.mat",
    14_989,
    "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
    FLOWERS_AT,
)
PET_PICTURES = Published(
    "images.tar.gz",
    791_918_971,
    "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
    PETS_AT,
)
PET_LISTS = Published(
    "annotations.tar.gz",
    19_173_078,
    "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
    PETS_AT,
)


def _idx_items(files: tuple[Published, ...]) -> tuple[Item, ...]:
    """The four IDX files, packed or not; some unpack them as train-images.idx3-ubyte."""
    items = []
    for part, file in zip(PARTS, files, strict=True):
        plain = file.name.removesuffix(".gz")
        dotted = plain.replace("-idx", ".idx")
        items.append(Item(part, (file.name, plain, f"{dotted}.gz", dotted), file))
    return tuple(items)


def _tar(name: str) -> tuple[str, ...]:
    """The names of an archive that somebody may have unpacked halfway: `x.tar.gz`, `x.tar`."""
    stem = name.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar")
    return (name, f"{stem}.tar")


_FACES = "img_align_celeba"
_ALL = (
    NamedSet(
        "mnist",
        MNIST_AT[0],
        _idx_items(MNIST),
        load_idx,
        folders=("mnist", "raw", "MNIST/raw", "MNIST"),
        shape=(1, 28, 28),
        labels={"class": 10},
    ),
    NamedSet(
        "fashion-mnist",
        "https://github.com/zalandoresearch/fashion-mnist",
        _idx_items(FASHION),
        load_idx,
        folders=("fashion-mnist", "fashion", "raw", "FashionMNIST/raw", "FashionMNIST"),
        shape=(1, 28, 28),
        labels={"class": 10},
    ),
    NamedSet(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        (Item("batches", (*_tar(CIFAR10_FILE.name), "cifar-10-batches-bin", "data_batch_1.bin"), CIFAR10_FILE),),
        load_cifar10,
        folders=("cifar10", "cifar-10"),
        shape=(3, 32, 32),
        labels={"class": 10},
        refused=("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    ),
    NamedSet(
        "cifar100",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        (Item("batches", (*_tar(CIFAR100_FILE.name), "cifar-100-binary", "train.bin"), CIFAR100_FILE),),
        load_cifar100,
        folders=("cifar100", "cifar-100"),
        shape=(3, 32, 32),
        labels={"fine": 100, "coarse": 20},
        refused=("cifar-100-python.tar.gz", "cifar-100-python"),
    ),
    NamedSet(
        "oxford-flowers",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        (
            Item("pictures", (*_tar(FLOWER_PICTURES.name), "jpg"), FLOWER_PICTURES),
            Item("labels", (FLOWER_LABELS.name,), FLOWER_LABELS),
            Item("parts", (FLOWER_PARTS.name,), FLOWER_PARTS),
        ),
        load_flowers,
        folders=("oxford-flowers", "flowers-102"),
        labels={"class": 102},
    ),
    NamedSet(
        "oxford-pets",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        (
            Item("pictures", (*_tar(PET_PICTURES.name), "images"), PET_PICTURES),
            Item("annotations", (*_tar(PET_LISTS.name), "annotations"), PET_LISTS),
        ),
        load_pets,
        folders=("oxford-pets", "oxford-iiit-pet"),
        labels={"breed": 37, "species": 2},
    ),
    NamedSet(
        "celeba",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        (
            Item("pictures", (f"{_FACES}.zip", _FACES)),
            Item("attributes", ("list_attr_celeba.txt", "list_attr_celeba.csv"), required=False),
            Item("persons", ("identity_CelebA.txt", "identity_CelebA.csv"), required=False),
            Item("parts", ("list_eval_partition.txt", "list_eval_partition.csv"), required=False),
        ),
        load_celeba,
        folders=("celeba", "Img", "Anno", "Eval"),
        shape=(3, 218, 178),
        has_columns=True,
    ),
)
SETS: Mapping[str, NamedSet] = {named.name: named for named in _ALL}
assert tuple(SETS) == SET_SOURCES


def declared_set(config: DataConfig) -> NamedSet | None:
    """The set that the settings name, where nothing else can lie at data.path."""
    return SETS.get(config.source) if config.path is None else None


def is_named_set(config: DataConfig) -> bool:
    """Whether a set is meant by its name: named, and not replaced by other data at data.path."""
    return config.source in SETS and not is_replaced(SETS[config.source], config)


def known_as(path: Path) -> tuple[str, ...]:
    """The sets whose file `path` is called as, or whose files a folder without pictures holds."""
    if os.path.isfile(path):
        names = {n: {Path(name).name for item in named.items for name in item.names} for n, named in SETS.items()}
        return tuple(n for n, called in names.items() if path.name in called)
    if not os.path.isdir(path) or holds_picture(path):
        return ()
    return tuple(n for n, named in SETS.items() if not named.misses(named.found_in(path)))


def load_set(config: DataConfig, cache: Cache) -> Packed | None:
    """The named set that `config` describes; what was fetched and decoded lies in `cache`.

    None when data.path leads to data of another kind, which it then replaces the set with. Raises ConfigError for
    settings that the set has no use for, DataError for files that are missing or damaged.
    """
    named = SETS[config.source]
    holdings = _found(named, config, cache)
    if holdings is None:
        return None
    _require_settings(named, config)
    packed = named.read(holdings, config, cache)
    return replace(packed, report=(*packed.report, *holdings.notes))


def require_set(config: DataConfig, cache: Cache) -> None:
    """Raise DataError where the named set that `config` describes is not here; for settings that fetch nothing."""
    _found(SETS[config.source], config, cache)


def _found(named: NamedSet, config: DataConfig, cache: Cache) -> Holdings | None:
    return find(named, config, None if cache.folder is None else cache.folder / "sets" / named.name)


def _require_settings(named: NamedSet, config: DataConfig) -> None:
    if config.label is not None and named.labels and config.label not in named.labels:
        raise ConfigError(
            f"data.label is {config.label!r}, and {named.name} has no such column",
            expected="one of " + ", ".join(named.labels),
            fix=f"--data.label {next(iter(named.labels))}",
        )
    if config.columns is not None and not named.has_columns:
        raise ConfigError(
            f"data.columns is {list(config.columns)}, and the pictures of {named.name} have no real values",
            expected="no data.columns",
            fix="drop data.columns",
        )
    if named.shape is None and config.size is None:
        raise ConfigError(
            f"data.source is {named.name!r}, whose pictures have many sizes, and data.size is not given",
            expected="data.size to crop and resize them to",
            fix="--data.size 64",
        )
