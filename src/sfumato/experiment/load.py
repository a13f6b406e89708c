"""Opening what training left behind: a run folder, a run's name, or one exported file.

An exported file is a safetensors file whose metadata hold the format, the settings (YAML), the record of the data
(JSON) and a digest of the tensors; `load` and `sample` take it like a run.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.core import Denoiser
from sfumato.errors import CheckpointError, ConfigError, SfumatoError, UsageError
from sfumato.experiment.build import DataRecord, build_denoiser
from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.differing import differing, misread
from sfumato.experiment.model import Model
from sfumato.experiment.places import best_of, checkpoint_at, find_run
from sfumato.experiment.schema import read
from sfumato.experiment.session import weights_digest
from sfumato.experiment.stored import SAMPLED, require_state
from sfumato.experiment.tree import tree_of
from sfumato.experiment.yaml_file import parse_yaml, read_yaml
from sfumato.training.best import BEST
from sfumato.training.checkpoint import CheckpointStore, Report, averaged_weights
from sfumato.training.ema import bare_state
from sfumato.training.engine import choose_device
from sfumato.training.manifest import silent
from sfumato.training.tensors import check_names, read_weights, write_single_file

__all__ = ["export", "find_run", "load", "read_run_config", "stored_settings"]

FORMAT = "sfumato-model-1"
OTHER_FORMATS = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".onnx", ".safetensor", ".npz")  # endings out of habit


def read_run_config(folder: Path, report: Report = silent) -> Experiment:
    """The settings that a run was started with: its config.yaml, or what its newest whole checkpoint kept of them.

    `report` hears when the checkpoint had to be asked. Raises CheckpointError when it cannot answer either.
    """
    try:
        return stored_settings(folder / "config.yaml")
    except ConfigError as error:
        why = error.what
    store = CheckpointStore(folder)
    try:
        path = store.find()
        kept = tree_of(store.load(path).state.get("experiment"), f"{path.name}: experiment")
        experiment = read(Experiment, kept, origin=str(path))
    except SfumatoError as error:
        raise CheckpointError(
            f"the settings of {folder} cannot be read ({why}), nor those in a checkpoint ({error.what})",
            expected="a config.yaml as training wrote it, or a whole checkpoint",
            fix=f"restore {folder / 'config.yaml'} from a copy",
        ) from None
    report(f"{why}; the settings that {path.name} was trained with are used instead")
    return experiment


def stored_settings(path: Path) -> Experiment:
    """The settings in a run's config.yaml. Raises ConfigError; for an empty file too, which would mean defaults."""
    if not read_yaml(path).items:
        raise ConfigError(f"{path} is empty", expected="the complete settings of the run", fix="restore it from a copy")
    return load_experiment(path)


def warn(text: str) -> None:
    """A Python warning, shown where `load` was called."""
    warnings.warn(text, stacklevel=5)


def load(run: object, *, runs: str | Path = "runs", device: str = "auto", report: Report = warn) -> Model:
    """The trained model of a run (a folder, a name, a `Run`), of a checkpoint (RUN/best) or of an exported file.

    `report` hears of damaged checkpoints that were passed over for an older one, and later of damaged averages. Raises
    CheckpointError for files that are damaged or do not fit together.
    """
    place = Path(str(getattr(run, "folder", run)))
    if place.suffix == ".safetensors" or (place.exists() and not place.is_dir()):
        return load_file(place, device=device)
    chosen = checkpoint_at(place, Path(runs))
    folder = find_run(place if chosen is None else chosen.parent.parent, Path(runs))
    experiment = read_run_config(folder, report)
    store = CheckpointStore(folder)
    snapshot = store.load(store.find(report) if chosen is None else chosen)
    require_state(snapshot, SAMPLED)
    record = DataRecord.from_plain(snapshot.state["data"])
    weights = {"ema": averaged_weights(snapshot), "live": snapshot.model}
    then = snapshot.state.get("experiment")
    experiment = with_dropout_of(then, experiment, report)
    model = assemble(experiment, record, weights, device=device, steps_trained=snapshot.step, trained_with=then)
    if chosen is not None and place.name == BEST:
        report(f"{best_of(folder)} on the same held-out part: measured on that part again, it flatters")
    changed = misread(experiment, then)
    if changed:
        raise CheckpointError(
            f"{folder / 'config.yaml'} was changed: {', '.join(changed[:5])}",
            expected="the settings that the weights were trained with, without which they mean nothing",
            fix="set them back, or train a new run with the others",
        )
    return replace(model, folder=folder, report=report)


def with_dropout_of(then: object, experiment: Experiment, report: Report) -> Experiment:
    """The settings with the label dropout of training, whatever config.yaml says by now.

    It decides whether the row of "no class" was trained at all, and no shape of a tensor tells.
    """
    condition = then.get("condition") if isinstance(then, dict) else None
    share = condition.get("dropout") if isinstance(condition, dict) else None
    now = experiment.condition
    if not isinstance(share, float) or share == now.dropout or not now.droppable:
        return experiment
    report(f"condition.dropout is {now.dropout:g} and was {share:g} in training, which counts")
    return replace(experiment, condition=replace(now, dropout=share))


def load_file(path: Path, *, device: str) -> Model:
    """The model of an exported file."""
    if path.suffix != ".safetensors":
        inside = (path.parent / "config.yaml").is_file()
        raise CheckpointError(
            f"{path} is neither a run nor an exported file",
            expected="a run folder, the name of a run, or a file made by `sfumato export` (.safetensors)",
            fix=f"name the run: {path.parent}" if inside else "`sfumato runs` lists what there is",
        )
    found = read_weights(path)
    about: dict[str, str] = dict(found.metadata)
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a model exported by sfumato (format {about.get('format')!r})",
            expected=f"a file made by `sfumato export`, of format {FORMAT}",
            fix="export the run again, with this version",
        )
    try:
        settings = parse_yaml(about["experiment"], f"{path.name}: experiment")
        experiment = read(Experiment, settings, origin=str(path))
        record, steps = DataRecord.from_plain(json.loads(about["data"])), int(about["steps"])
    except (KeyError, ValueError, RecursionError) as error:  # among them the UsageErrors of reading settings
        why = error.what if isinstance(error, SfumatoError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{path} cannot be understood ({why})",
            expected=f"the settings and the record of the data that format {FORMAT} holds",
            fix="export the run again, with this version",
        ) from None
    return assemble(experiment, record, {"ema": dict(found.tensors)}, device=device, steps_trained=steps)


def assemble(
    experiment: Experiment,
    record: DataRecord,
    weights: dict[str, dict[str, Tensor]],
    *,
    device: str,
    steps_trained: int,
    trained_with: object = None,
) -> Model:
    """A model from its parts; CheckpointError, before anything is loaded, for tensors that do not fit the settings.

    `trained_with` are the settings of training as plain data, to say which of them differ.
    """
    place = choose_device(device)
    denoisers: dict[str, Denoiser] = {}
    for name, tensors in weights.items():
        denoiser = build_denoiser(
            experiment,
            shape=record.shape,
            data_std=record.data_std,
            condition=record.condition_shape(experiment.condition),
        )
        live = bare_state(denoiser.network)
        what = f"what is stored of {experiment.name} ({name} weights)"
        check_names(live, tensors, what, because=differing(experiment, trained_with))
        with torch.no_grad():
            for key, tensor in live.items():
                tensor.copy_(tensors[key])
        denoisers[name] = denoiser.requires_grad_(False).to(place).eval()
        if len(record.shape) == 3:
            denoisers[name].network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(experiment, record, denoisers, weights_digest(denoisers["ema"]), steps_trained)


def export(
    run: object,
    out: str | Path,
    *,
    runs: str | Path = "runs",
    force: bool = False,
    report: Report = warn,
    ema_width: float | None = None,
) -> Path:
    """Write the averaged weights of a run, with all that is needed to sample, into one safetensors file.

    `ema_width`: instead of the plain EMA the average of this width, or of that which the run samples with
    (sampling.ema_width).
    """
    target = Path(out)
    if target.suffix != ".safetensors":
        known = target.suffix.lower() in OTHER_FORMATS
        better = target.with_suffix(".safetensors") if known else f"{target}.safetensors"
        raise UsageError(f"--out is {target}", expected="a name ending in .safetensors", fix=f"--out {better}")
    if target.exists() and not force:
        raise UsageError(f"{target} exists already", expected="a new file", fix="choose another name, or add --force")
    model = load(run, runs=runs, device="cpu", report=report)
    width = model.experiment.sampling.ema_width if ema_width is None else ema_width
    if width is not None and (ema_width is not None or model.folder is not None):
        from sfumato.experiment.widths import with_average

        model = with_average(model, width, report)
    write_single_file(target, bare_state(model.denoiser.network), metadata_of(model))
    return target


def metadata_of(model: Model) -> dict[str, str]:
    """What an exported file says of itself."""
    from sfumato.experiment.config import experiment_yaml

    about: dict[str, Any] = {
        "format": FORMAT,
        "experiment": experiment_yaml(model.experiment),
        "data": json.dumps(model.record.to_plain()),
        "steps": str(model.steps_trained),
    }
    return about
