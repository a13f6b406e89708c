"""How counts are written in messages."""

__all__ = ["counted"]


def counted(count: int, noun: str) -> str:
    """`1 link`, `2 links`, `1,000 links`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
