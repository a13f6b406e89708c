"""How figures look: one typeface, dark text on white, colours that the colour-blind can tell apart, thin lines.

Figures are `matplotlib.figure.Figure` objects without pyplot: no window, no global state, nothing to close. They are
made, and drawn into files, inside `house_style`, which starts from matplotlib's defaults rather than from the user's
`matplotlibrc`: the same input gives the same picture on every machine that has the same matplotlib.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "DASHES",
    "FAINT",
    "INK",
    "PALETTE",
    "RULE",
    "SMALL",
    "colours",
    "count_axis",
    "house_style",
    "log_axis",
    "new_figure",
    "number",
    "panel",
    "percent",
    "shortened",
    "tenths",
    "text_width",
]

# Okabe & Ito 2008, distinguishable under every common colour blindness; yellow, too pale for lines, is left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")  # tells curves apart where there is no colour at all
INK, FAINT, RULE = "#222222", "#767676", "#dddddd"
SMALL = 7.0  # points; the smallest text, still read in print

_SETTINGS: dict[str, object] = {
    "font.family": "DejaVu Sans",  # travels with matplotlib
    "mathtext.fontset": "dejavusans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titlepad": 5.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # TrueType: printers and conferences refuse Type 3
    "svg.hashsalt": "sfumato",  # the same names for the same parts, instead of random ones
    "svg.fonttype": "path",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's settings for the time of a `with`: its defaults and ours, nothing of the user's."""
    from matplotlib import style

    with style.context([_SETTINGS], after_reset=True):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of width x height inches whose parts are laid out without overlap."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def panel(axes: "Axes", title: str, x_label: str, y_label: str) -> None:
    """Name a panel and its axes; sizes are fixed here, since ticks made later no longer see the house style."""
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.tick_params(labelsize=SMALL, length=2.5, width=0.6, color=FAINT, labelcolor=INK)


def number(value: float, digits: int = 3) -> str:
    """A number for people: up to `digits` significant digits and a real minus sign."""
    return f"{value:.{digits}g}".replace("-", "−")


def tenths(value: float) -> str:
    """A number with one decimal, as log-SNRs are written; infinite ones as ∞."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")  # + 0.0 turns -0.0 into 0.0


def percent(share: float) -> str:
    """A share for people: two digits below a tenth, whole percent above."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:,.0f} %"


def shortened(text: str, length: int = 36) -> str:
    """A name that fits: the end of a longer one is cut off."""
    return text if len(text) <= length else text[: length - 1] + "…"


def colours(count: int) -> list[str]:
    """`count` line colours: the palette, from the beginning again where it ends."""
    return [PALETTE[index % len(PALETTE)] for index in range(count)]


def count_axis(axis: "Axis") -> None:
    """Ticks for counts: few, whole, with thousands set apart."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def log_axis(axes: "Axes", values: Sequence[float]) -> None:
    """A logarithmic y axis with plain numbers on it, enough of them even where `values` span less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    decades = math.log10(max(values) / min(values)) if values else 1.0
    axes.set_yscale("log")
    axis, subs = (
        axes.yaxis,
        (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 1 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    )
    axis.set_major_locator(LogLocator(subs=subs) if decades > 0.4 else MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 4)))
    axis.set_minor_locator(NullLocator())


def text_width(text: str, points: float) -> float:
    """Width in inches of the widest line of a text at a size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", size=points)
    widths = [TextPath((0, 0), line, prop=font).get_extents().x1 for line in text.split("\n") if line.strip()]
    return max([0.0, *map(float, widths)]) / 72
