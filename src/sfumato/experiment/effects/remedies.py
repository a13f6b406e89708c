"""What to do where a sweep lacks a number."""

import shlex

from sfumato.errors import printable
from sfumato.experiment.sweep.stored import Sweep

__all__ = ["measuring"]


def measuring(sweep: Sweep, metric: str) -> str:
    """The command that measures one more metric of every arm; those that were asked for before stay asked for."""
    metrics = dict.fromkeys([*sweep.plan.measures.metrics, metric])
    return f"sfumato sweep {shlex.quote(printable(sweep.folder))} --metrics {','.join(metrics)}"
