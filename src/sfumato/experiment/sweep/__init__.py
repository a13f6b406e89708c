"""Sweeps: many runs of one experiment along axes, paired by their seeds, continued by the same command."""

from sfumato.experiment.arms import ArmState, Failure
from sfumato.experiment.sweep.axes import Axis, axes_of
from sfumato.experiment.sweep.opening import Wish, open_sweep
from sfumato.experiment.sweep.plan import Arm, Measures, Plan
from sfumato.experiment.sweep.search import Grid, Optuna, Random, Search
from sfumato.experiment.sweep.standing import Standing, SweepReporter
from sfumato.experiment.sweep.stored import Sweep, load_sweep
from sfumato.experiment.sweep.sweeping import Way, carry_out, foresee, seconds_of, sweep
from sfumato.experiment.sweep.table import Figure, Row, Table, table_of
from sfumato.experiment.sweep.timing import Outlook

__all__ = [
    "Arm",
    "ArmState",
    "Axis",
    "Failure",
    "Figure",
    "Grid",
    "Measures",
    "Optuna",
    "Outlook",
    "Plan",
    "Random",
    "Row",
    "Search",
    "Standing",
    "Sweep",
    "SweepReporter",
    "Table",
    "Way",
    "Wish",
    "axes_of",
    "carry_out",
    "foresee",
    "load_sweep",
    "open_sweep",
    "seconds_of",
    "sweep",
    "table_of",
]
