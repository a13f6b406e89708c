"""Errors of Python, PyTorch and the system that are not bugs of ours, in three lines.

What a person asked for can be too much for the machine, a package can be missing, a disk full: such errors come from
below as whatever class the library chose, and are told here by what they say. Nothing is imported for it.
"""

import errno
import re

from sfumato.errors import PlatformError, ResourceError, SfumatoError

__all__ = ["refusal_of"]

_REFUSED_BY_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)

# How PyTorch says that memory does not suffice, or that a size cannot even be written down.
_TOO_LARGE = re.compile(
    r"DefaultCPUAllocator|can't allocate memory|out of memory|Storage size calculation overflowed"
    r"|numel: integer multiplication overflow|Overflow when unpacking long|array is too big|Maximum allowed dimension",
    re.IGNORECASE,
)
_ASKED = re.compile(r"tried to allocate ([0-9.]+ ?(?:bytes|[KMGT]iB))", re.IGNORECASE)


def refusal_of(error: Exception) -> SfumatoError | None:
    """The three-line form of an error that is not a bug of ours; None for one that is."""
    if isinstance(error, SfumatoError):
        return error
    if isinstance(error, ModuleNotFoundError) and not (error.name or "sfumato").startswith("sfumato"):
        return _missing_package(str(error.name))
    sized = isinstance(error, RuntimeError | TypeError | ValueError | OverflowError)  # torch's OutOfMemoryError too
    if isinstance(error, MemoryError) or (sized and _TOO_LARGE.search(str(error))):
        return _out_of_memory(error)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _REFUSED_BY_THE_SYSTEM):
        what = f"{error.filename or 'writing'}: {error.strerror or type(error).__name__}"
        return ResourceError(what, expected="a path that can be read and written", fix="check the path and its rights")
    return None


def _out_of_memory(error: Exception) -> ResourceError:
    """Memory ran out, with the size that could not be had where the error tells it."""
    asked = _ASKED.search(str(error))
    return ResourceError(
        "memory ran out" if asked is None else f"memory ran out: {_sized(asked[1])} were asked for at once",
        expected="sizes that fit into this machine's memory",
        fix="choose a smaller --training.batch_size (--training.accumulate splits it), --network.widths, --data.size, "
        "--data.pad or -n, whichever was large",
    )


def _sized(text: str) -> str:
    """`36000000000000 bytes` as 36,000 GB; other texts as they are."""
    number, _, unit = text.partition(" ")
    return f"{int(number) / 1e9:,.1f} GB" if unit == "bytes" and number.isdigit() else text


def _missing_package(name: str) -> PlatformError:
    """The refusal for a package that is not installed, with the extra that brings it."""
    extras = {
        "tensorboard": "track",
        "datasets": "data",
        "efficientnet_lite_pytorch": "metrics",
        "torch_fidelity": "fid",
        "diffusers": "hub",
        "fastapi": "serve",
        "uvicorn": "serve",
        "optuna": "hpo",
        "submitit": "slurm",
    }
    top = name.partition(".")[0]
    what = f"sfumato[{extras[top]}]" if top in extras else top
    return PlatformError(
        f"the package {top} is not installed",
        expected=f"an environment with {top}",
        fix=f"pip install '{what}'" if top in extras else f"pip install {what}",
    )
