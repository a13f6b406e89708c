"""Whether samples are copies: those most like training examples, and what `evaluate` measured of memorisation.

Pictures of the data set are shown only where that was asked for; their places in it are always told.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfumato.experiment.report.drawing import Picture
from sfumato.experiment.report.elements import aside, table
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import Child, Html, tag
from sfumato.experiment.report.naming import arm_name, metric_name
from sfumato.experiment.report.neighbours import Neighbours
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.tiles import averaged, picture
from sfumato.experiment.report.wording import number, with_error

__all__ = ["near"]

SHOWN_OF_AN_ARM = 3
COPY = 0.5  # a ratio below it is what `evaluate --metrics memorisation` calls a copy, at most


def near(page: Page) -> Section | None:
    """The samples of smallest ratio, with their neighbours where those may be shown."""
    found = [(e, p, p.neighbours) for e, p in page.pictured() if p.neighbours is not None]
    stored = [row for shown in page.shown for row in _stored(shown.entry, page)]
    if not found and not stored:
        return None
    every = [shown.entry for shown in page.shown]
    body: list[Child] = [_words(page, [n for _, _, n in found])]
    if page.alone:
        body += [_pairs(p, n, page, len(n.chosen)) for _, p, n in found]
    else:
        cards = [tag("div", tag("h3", arm_name(e, every)), _pairs(p, n, page, SHOWN_OF_AN_ARM)) for e, p, n in found]
        body.append(tag("div", cards, cls="many-near"))
    if stored:
        head = [*([] if page.alone else ["arm"]), "metric", "value", "95 % interval", "n"]
        body.append(table(head, stored, said="memorisation, as it was measured", left=(0,)))
    return section("neighbours", "Nearest neighbours", body)


def _words(page: Page, found: Sequence[Neighbours]) -> Html:
    """How to read the ratio, and what is not shown."""
    words = (
        "The ratio is a sample's distance to the nearest training example over that to the nearest of as many held-out "
        f"ones, pixel by pixel: about 1 for a model that learned the law, below {number(COPY)} for a copy. "
        "Smallest ratios first: below each sample its ratio and its seed."
    )
    if found:
        lowest = min(ratio for one in found for ratio in one.ratio)
        copies = sum(ratio < COPY for one in found for ratio in one.ratio)
        count = sum(one.count for one in found)
        words += f" Of the {count:,} samples of this page the smallest is {lowest:.2f}; "
        below = f"{copies} lie" if copies > 1 else "one lies" if copies else "none lies"
        words += f"{below} below {number(COPY)}."
        words += (
            " From top to bottom: sample, nearest training example, nearest held-out example; tr. says where in the "
            "data the former lies."
            if page.wish.real
            else " tr. says where in the data the nearest training example lies. Pictures of the data set are not part "
            "of this page; --real puts them in, where you may pass them on."
        )
    return aside(words)


def _pairs(drawn: Picture, found: Neighbours, page: Page, most: int) -> Html:
    """Columns of a sample, and below it its nearest training and held-out example where they are shown."""
    values = drawn.values
    assert values is not None
    columns = []
    for k, index in enumerate(found.chosen[:most]):
        seed = page.wish.seed + index
        tiles: list[Child] = [_tile(values, index, drawn.side, f"sample of seed {seed}")]
        if found.originals is not None and found.unseen is not None:
            tiles += [_tile(found.originals, k, drawn.side, f"training example {found.training[k]}")]
            tiles += [_tile(found.unseen, k, drawn.side, f"held-out example {found.held_out[k]}")]
        place = f"tr. {found.training[k]:,}"
        caption: list[Child] = [f"{found.ratio[k]:.2f}", tag("br"), f"seed {seed}", tag("br"), place]
        columns.append(tag("figure", tag("div", tiles, cls="stack"), tag("figcaption", caption), cls="pair"))
    note = f"Median ratio of {found.count:,} samples {found.median:.2f}, {found.size:,} examples a side."
    return tag("div", tag("div", columns, cls="tiles"), aside(note))


def _tile(pixels: NDArray[np.generic], index: int, side: int, said: str) -> Html:
    return picture(averaged(pixels[index : index + 1].astype(np.uint8), side)[0], said=said)


def _stored(entry: Entry, page: Page) -> list[list[Child]]:
    """What `evaluate` measured of memorisation."""
    rows: list[list[Child]] = []
    for found in entry.current:
        for name, one in found.numbers.items():
            if not name.startswith("memorisation["):
                continue
            low, high = one.provenance.get("interval_low"), one.provenance.get("interval_high")
            if not (isinstance(low, float) and isinstance(high, float)):
                continue
            sure = f"{low:.2%} to {high:.2%}"
            who: list[Child] = [] if page.alone else [arm_name(entry, [s.entry for s in page.shown])]
            rows.append([*who, metric_name(name), with_error(one.value, one.std_error), sure, f"{one.n:,}"])
    return rows
