"""sfumato: trains, samples, measures and compares denoising diffusion models on your own data.

    import sfumato
    run = sfumato.train("digits", {"training.steps": 3000})
    model = sfumato.load(run)
    batch = model.sample(36, steps=25, sampler="ddim", seed=0)

The names below are loaded when first used: `import sfumato` itself does not import PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.errors import SfumatoError as SfumatoError
    from sfumato.experiment.classifier import train_classifier as train_classifier
    from sfumato.experiment.compare import compare as compare
    from sfumato.experiment.config import Experiment as Experiment
    from sfumato.experiment.config import load_experiment as load_experiment
    from sfumato.experiment.difference import Comparison as Comparison
    from sfumato.experiment.doctor import Diagnosis as Diagnosis
    from sfumato.experiment.doctor import doctor as doctor
    from sfumato.experiment.edits import Colourise as Colourise
    from sfumato.experiment.edits import Deblur as Deblur
    from sfumato.experiment.edits import Edited as Edited
    from sfumato.experiment.edits import Inpaint as Inpaint
    from sfumato.experiment.edits import Upscale as Upscale
    from sfumato.experiment.edits import Vary as Vary
    from sfumato.experiment.effects import Effects as Effects
    from sfumato.experiment.effects import effects as effects
    from sfumato.experiment.evaluation import Evaluation as Evaluation
    from sfumato.experiment.evaluation import evaluate as evaluate
    from sfumato.experiment.evaluation import evaluate_samples as evaluate_samples
    from sfumato.experiment.labelling import label as label
    from sfumato.experiment.labelling import note as note
    from sfumato.experiment.load import export as export
    from sfumato.experiment.load import load as load
    from sfumato.experiment.model import Model as Model
    from sfumato.experiment.model import Samples as Samples
    from sfumato.experiment.report import report as report
    from sfumato.experiment.reproduce import reproduce as reproduce
    from sfumato.experiment.run import Run as Run
    from sfumato.experiment.run import resume as resume
    from sfumato.experiment.run import train as train
    from sfumato.experiment.run_table import runs as runs
    from sfumato.experiment.sweep import Sweep as Sweep
    from sfumato.experiment.sweep import load_sweep as load_sweep
    from sfumato.experiment.sweep import sweep as sweep
    from sfumato.experiment.tracking.track import track as track

__all__ = [
    "Colourise",
    "Comparison",
    "Deblur",
    "Diagnosis",
    "Edited",
    "Effects",
    "Evaluation",
    "Experiment",
    "Inpaint",
    "Model",
    "Run",
    "Samples",
    "SfumatoError",
    "Sweep",
    "Upscale",
    "Vary",
    "compare",
    "doctor",
    "effects",
    "evaluate",
    "evaluate_samples",
    "export",
    "label",
    "load",
    "load_experiment",
    "load_sweep",
    "note",
    "report",
    "reproduce",
    "resume",
    "runs",
    "sweep",
    "track",
    "train",
    "train_classifier",
]
__version__ = "0.1.0"

_HOMES = {
    "Colourise": "sfumato.experiment.edits",
    "Comparison": "sfumato.experiment.difference",
    "Deblur": "sfumato.experiment.edits",
    "Diagnosis": "sfumato.experiment.doctor",
    "Edited": "sfumato.experiment.edits",
    "Effects": "sfumato.experiment.effects",
    "Evaluation": "sfumato.experiment.evaluation",
    "Experiment": "sfumato.experiment.config",
    "Inpaint": "sfumato.experiment.edits",
    "Model": "sfumato.experiment.model",
    "Run": "sfumato.experiment.run",
    "Samples": "sfumato.experiment.model",
    "SfumatoError": "sfumato.errors",
    "Sweep": "sfumato.experiment.sweep",
    "Upscale": "sfumato.experiment.edits",
    "Vary": "sfumato.experiment.edits",
    "compare": "sfumato.experiment.compare",
    "doctor": "sfumato.experiment.doctor",
    "effects": "sfumato.experiment.effects",
    "evaluate": "sfumato.experiment.evaluation",
    "evaluate_samples": "sfumato.experiment.evaluation",
    "export": "sfumato.experiment.load",
    "label": "sfumato.experiment.labelling",
    "load": "sfumato.experiment.load",
    "load_experiment": "sfumato.experiment.config",
    "load_sweep": "sfumato.experiment.sweep",
    "note": "sfumato.experiment.labelling",
    "report": "sfumato.experiment.report",
    "reproduce": "sfumato.experiment.reproduce",
    "resume": "sfumato.experiment.run",
    "runs": "sfumato.experiment.run_table",
    "sweep": "sfumato.experiment.sweep",
    "track": "sfumato.experiment.tracking.track",
    "train": "sfumato.experiment.run",
    "train_classifier": "sfumato.experiment.classifier",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
