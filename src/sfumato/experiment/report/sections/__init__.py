"""The sections of the page; each is made of a `Page`, or is nothing where there is nothing to show."""

from sfumato.experiment.report.sections.arms import arms
from sfumato.experiment.report.sections.commands import commands
from sfumato.experiment.report.sections.curves import curves
from sfumato.experiment.report.sections.effects import effects
from sfumato.experiment.report.sections.film import film
from sfumato.experiment.report.sections.header import header
from sfumato.experiment.report.sections.levels import levels
from sfumato.experiment.report.sections.measured import measured
from sfumato.experiment.report.sections.near import near
from sfumato.experiment.report.sections.progress import progress
from sfumato.experiment.report.sections.provenance import provenance
from sfumato.experiment.report.sections.remarks import remarks
from sfumato.experiment.report.sections.samples import samples
from sfumato.experiment.report.sections.schedules import schedules
from sfumato.experiment.report.sections.settings import settings

__all__ = [
    "arms",
    "commands",
    "curves",
    "effects",
    "film",
    "header",
    "levels",
    "measured",
    "near",
    "progress",
    "provenance",
    "remarks",
    "samples",
    "schedules",
    "settings",
]
