"""The two picture sets that travel with the package; the files beside them state their authors and licences.

digits: 1,797 handwritten digits, 8x8 grey, ten classes. Counts 0..16 of ink are stored as round(255 v / 16).
sprites: 3,467 game tiles, 32x32 RGB, seven classes, transparency composited over white.
"""

from importlib.resources import as_file, files

from sfumato.data.arrays import pack_arrays, read_array_file
from sfumato.data.packed import Packed
from sfumato.data.settings import EMBEDDED_SOURCES, DataConfig

__all__ = ["load_embedded"]


def load_embedded(name: str, config: DataConfig) -> Packed:
    """The embedded set `name`, prepared as `config` asks; `config.path` and `config.source` are not looked at."""
    assert name in EMBEDDED_SOURCES
    with as_file(files("sfumato.data") / "assets" / f"{name}.npz") as path:
        return pack_arrays(read_array_file(path), config)
