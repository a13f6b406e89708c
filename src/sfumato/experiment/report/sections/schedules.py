"""The noise schedules of the page: alpha, sigma and log-SNR over time, each schedule in one colour throughout."""

from dataclasses import replace

from sfumato.experiment.report.elements import aside
from sfumato.experiment.report.markup import tag
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.plots import Line, Plot, plot
from sfumato.experiment.report.schedule_curves import ScheduleCurve

__all__ = ["schedules"]

MOST = 14
PANELS = (("alpha", "signal rate α"), ("sigma", "noise rate σ"), ("log_snr", "log SNR (nats)"))


def schedules(page: Page) -> Section | None:
    """A panel for each of the three quantities, with a line for each schedule that differs."""
    drawn = [shown.picture.schedule for shown in page.shown if shown.picture is not None]
    curves: dict[tuple[object, ...], ScheduleCurve] = {}
    for curve in drawn:
        curves.setdefault((curve.name, tuple(curve.log_snr)), curve)
    if not curves:
        return None
    found = _told_apart(list(curves.values()))
    left = f" The first {MOST} of {len(found)}." if len(found) > MOST else ""
    plots = []
    for field, name in PANELS:
        lines = [
            Line(curve.name, curve.t, getattr(curve, field), colour=index, dash=index)
            for index, curve in enumerate(found[:MOST])
        ]
        explodes = field == "sigma" and max(max(line.y) for line in lines) > 2
        plots.append(plot(Plot(name, "time t", tuple(lines), log=explodes, x_range=(0.0, 1.0))))
    names = found[0].name if len(found) == 1 else f"{len(found)} schedules"
    words = f"{names}: x at time t is α x₀ + σ ε, and log SNR is log(α²/σ²); t = 1 is all noise.{left}"
    return section(
        "schedule", "Schedule" if len(found) == 1 else "Schedules", aside(words), tag("div", plots, cls="plots")
    )


def _told_apart(curves: list[ScheduleCurve]) -> list[ScheduleCurve]:
    """Names that say which is which: learned schedules of one kind are counted."""
    names = [curve.name for curve in curves]
    return [
        curve
        if names.count(curve.name) == 1
        else replace(curve, name=f"{curve.name} {names[: i + 1].count(curve.name)}")
        for i, curve in enumerate(curves)
    ]
