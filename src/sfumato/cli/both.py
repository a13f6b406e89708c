"""`sfumato evaluate RUN --weights both`: averaged and live weights measured alike, and whether the average helps."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sfumato.cli.differences import print_comparison
from sfumato.cli.keeping import keep
from sfumato.cli.output import say
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato.experiment.evaluation import Evaluation
    from sfumato.experiment.model import Model

__all__ = ["BOTH", "both"]

BOTH = "both"


def both(
    model: "Model",
    measured: Callable[[str], "Evaluation"],
    show: Callable[["Evaluation"], None],
    *,
    run: str,
    name: str,
) -> Mapping[str, object]:
    """Measure both, print the averaged weights' numbers and the differences, and store two evaluations.

    The document is that of the averaged weights, with all of both under `weights`, and `differences`. `name` follows
    that of the weights in the names of the files. Raises UsageError for an exported file, which holds one of them.
    """
    from sfumato.experiment.compare import Side, compare_sides
    from sfumato.experiment.evaluations import evaluation_of

    if "live" not in model.weights:
        raise UsageError(
            f"--weights both was asked for; this file holds {', '.join(sorted(model.weights))}",
            expected="a run folder, which holds both the averaged and the live weights",
            fix="leave out --weights, or name the run",
        )
    found = {weights: measured(weights) for weights in ("live", "ema")}
    compared = compare_sides([Side(weights, (evaluation_of(each.stored()),)) for weights, each in found.items()])
    show(found["ema"])
    say()
    print_comparison(compared)
    plain = {
        weights: {**each.to_plain(), **keep(each, model.folder, f"{weights}-{name}")} for weights, each in found.items()
    }
    return {**plain["ema"], "run": run, "weights": plain, "differences": compared.document()["comparisons"]}
