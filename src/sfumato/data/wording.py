"""How counts and the kinds of data are written in messages."""

__all__ = ["READABLE", "counted", "leading_out", "shortened"]

READABLE = (
    "a folder or an archive (.tar, .tgz, .zip, …) of images, an .npz or .npy file, a .csv or .jsonl table of numbers, "
    "a .parquet file, a packed .safetensors file, or hf:owner/name"
)


def counted(count: int, noun: str) -> str:
    """`1 link`, `2 links`, `1,000 links`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def leading_out(count: int, noun: str) -> str:
    """`2 links that lead out of the folder`; in an archive plain names can lead out, too."""
    return f"{counted(count, 'link' if noun == 'folder' else 'name')} that lead out of the {noun}"


def shortened(name: str) -> str:
    """A name of at most 60 letters, the end of a longer one left out."""
    return name if len(name) <= 60 else name[:59] + "…"
