"""The previews that training left: the same noise by the averaged weights, as they learned."""

import io
import re
from pathlib import Path

from sfumato.experiment.report.elements import aside
from sfumato.experiment.report.markup import Html, tag
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.tiles import data_uri

__all__ = ["progress"]

_PREVIEW = re.compile(r"step-([0-9]+)\.png")
MOST, MOST_BYTES = 6, 1_400_000


def progress(page: Page) -> Section | None:
    """Up to six previews of a run, evenly over its steps; none of a model that goes by real pictures, unless asked."""
    entry = page.shown[0].entry
    if not page.alone or entry.folder is None:
        return None
    if entry.setting("condition.image") is not None and not page.wish.real:
        return None
    found = sorted((int(m[1]), path) for path in _previews(entry.folder) if (m := _PREVIEW.fullmatch(path.name)))
    for count in range(min(MOST, len(found)), 0, -1):
        chosen = [found[k * (len(found) - 1) // max(count - 1, 1)] for k in range(count)]
        if 4 * sum(path.stat().st_size for _, path in chosen) // 3 <= MOST_BYTES:
            figures = [figure for step, path in chosen if (figure := _figure(step, path)) is not None]
            words = "Samples from one fixed noise while the run was trained, by the averaged weights of that step."
            return section("progress", "As it learned", aside(words), tag("div", figures, cls="sheets"))
    return None


def _previews(folder: Path) -> list[Path]:
    samples = folder / "samples"
    return list(samples.glob("step-*.png")) if samples.is_dir() else []


def _figure(step: int, path: Path) -> Html | None:
    """One preview; nothing for a file that is no whole PNG."""
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
            width, height = image.size
    except (OSError, ValueError, SyntaxError):
        return None
    said = f"samples after step {step:,}"
    tile = tag("img", src=data_uri(content), alt=said, width=width, height=height, cls="sheet", decoding="async")
    return tag("figure", tile, tag("figcaption", f"step {step:,}"), cls="plot")
