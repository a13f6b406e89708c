"""The sources' own experiments by name: trained, measured, and set beside what they printed."""

from sfumato.experiment.reproduce.catalog import SOURCES, source_named
from sfumato.experiment.reproduce.outcome import Reproduction
from sfumato.experiment.reproduce.reproducing import reproduce

__all__ = ["SOURCES", "Reproduction", "reproduce", "source_named"]
