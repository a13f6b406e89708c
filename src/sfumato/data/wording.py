"""How the data package writes names and numbers in messages."""

__all__ = ["counted", "printable"]


def printable(name: str) -> str:
    """`name` with everything that a terminal would not show as one character written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def counted(count: int, noun: str) -> str:
    """`1 link`, `2 links`, `1,000 links`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
