"""The version of the installed package."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

__all__ = ["version"]


def version() -> str:
    """The version that is installed; `unknown` for a source tree that is not."""
    try:
        return installed_version("sfumato")
    except PackageNotFoundError:
        return "unknown"
