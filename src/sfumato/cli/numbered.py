"""A figure with the numbers that it shows, for the JSON document of `sfumato figures`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from sfumato.figures import Animation

__all__ = ["Numbered"]


@dataclass(frozen=True, slots=True, eq=False)
class Numbered:
    """A drawing and its numbers."""

    drawing: "Figure | Image | Animation"
    numbers: Mapping[str, object]
