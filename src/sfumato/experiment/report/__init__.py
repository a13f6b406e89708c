"""A run or a sweep as one self-contained HTML file: `report`. Layers of the page, from below:

markup, wording, axes       HTML as values; numbers in words; numbers to places
plots, tiles                curves, pictures and points as they stand on the page
room                        how many of them
entries, subjects           what lies on disk
neighbours, drawing         what is drawn for the page
numbers, naming, elements   what sections are made of
sections, page, making      the sections; the file
"""

from sfumato.experiment.report.making import report

__all__ = ["report"]
