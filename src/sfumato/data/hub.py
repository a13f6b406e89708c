"""Data sets of the Hugging Face hub: `hf:owner/name`, `hf:owner/name:split`, `hf:owner/name/configuration:split`.

A split is fetched once, with `--data.download` and the extra `data`, and kept as one parquet file in the cache folder;
from then on it is read from there, whatever the settings, and no connection is opened. The library `datasets` runs no
code that a data set brings along (version 4 took that away).
"""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.data.cache import Cache
from sfumato.data.packed import Packed
from sfumato.data.parquet import load_parquet
from sfumato.data.settings import DataConfig
from sfumato.errors import ConfigError, DataError, PlatformError, ResourceError, printable

__all__ = ["PREFIX", "HubName", "is_hub", "load_hub"]

PREFIX = "hf:"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PLAIN = rf"(?![^/:]*--){_WORD}"  # the hub allows no "--" in names, which keeps names of files apart
_NAME = re.compile(rf"hf:(?P<owner>{_PLAIN})/(?P<name>{_PLAIN})(/(?P<config>{_WORD}))?(:(?P<split>{_PLAIN}))?")


@dataclass(frozen=True, slots=True)
class HubName:
    """One split of a data set on the hub; config: which of its configurations, None for its only one."""

    repository: str
    config: str | None
    split: str

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """The split that `hf:owner/name[/configuration][:split]` means; `train` where none is named."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"data.path is {text!r}",
                expected="hf:owner/name, hf:owner/name:split or hf:owner/name/configuration:split",
                fix="--data.path hf:owner/name",
            )
        return cls(f"{found['owner']}/{found['name']}", found["config"], found["split"] or "train")

    @property
    def file(self) -> str:
        """What its file in the cache is called."""
        parts = [self.repository.replace("/", "--"), *([self.config] if self.config else []), self.split]
        return "--".join(parts) + ".parquet"

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}{f'/{self.config}' if self.config else ''}:{self.split}"


def is_hub(path: str) -> bool:
    """Whether a path means a data set on the hub."""
    return path.startswith(PREFIX)


def load_hub(config: DataConfig, cache: Cache) -> Packed:
    """The examples of a split on the hub, from the cache folder or, with `data.download`, from the hub.

    Raises `DataError` saying which file is missing where downloading is not allowed or fails.
    """
    assert config.path is not None
    name = HubName.parse(config.path)
    if cache.folder is None:
        with tempfile.TemporaryDirectory(prefix="sfumato-hub-") as folder:
            return load_parquet(_fetched(name, Path(folder), config), config, cache)
    return load_parquet(_fetched(name, cache.folder / "hub", config), config, cache)


def _fetched(name: HubName, folder: Path, config: DataConfig) -> Path:
    """The file of a split in `folder`, fetched if it is not there and may be."""
    target = folder / name.file
    if target.is_file():
        return target
    if not config.download:
        raise DataError(
            f"{name} is not on this machine: there is no {printable(str(target))}",
            expected="leave to download it, or any .parquet file as --data.path",
            fix="--data.download",
        )
    datasets = _datasets()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
            part = Path(scratch) / "split.parquet"
            _read(datasets, name, Path(scratch)).to_parquet(str(part))
            os.replace(part, target)  # whole or not at all
    except OSError as error:
        raise ResourceError(
            f"{name} cannot be kept in {printable(str(folder))}: {error.strerror or error}",
            expected="a folder that can be written, with room for the data set",
            fix="make room, or choose another folder with --data.cache",
        ) from error
    return target


def _read(datasets: Any, name: HubName, scratch: Path) -> Any:
    """The split as the library reads it, pictures included. Raises `DataError` with what it says."""
    try:
        found = datasets.load_dataset(name.repository, name.config, split=name.split, cache_dir=str(scratch / "arrow"))
        if not any(isinstance(feature, datasets.Image) for feature in found.features.values()):
            return found
        # Sets that are folders on the hub name files of the library's own cache: their bytes are taken along.
        from datasets.table import embed_table_storage

        return found.with_format("arrow").map(embed_table_storage, batched=True)
    except Exception as error:  # hundreds of reasons: no network, no such set, a choice of configurations, a script
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{name} cannot be fetched ({printable(reason)})",
            expected="a public data set of the hub, hf:owner/name[/configuration][:split], and a connection",
            fix="check the name and the connection, or save it as .parquet and give that file as --data.path",
        ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise PlatformError(
            "fetching a data set from the hub needs the package datasets, which is not installed",
            expected="the extra `data`",
            fix="pip install 'sfumato[data]'",
        ) from None
    return datasets
