"""One run in the making: data, model, optimizer, averages and hooks, assembled from an experiment.

A session is what `train` and `resume` share: it starts the engine, builds everything at step 0, and hands out a
`Trainer`.
"""

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sfumato.condition import Condition
from sfumato.core import Denoiser
from sfumato.data import Batches, Packed, evenly_from
from sfumato.errors import NumericsError, SfumatoError, UsageError
from sfumato.experiment.best import keep_rule, measuring_hook
from sfumato.experiment.build import PreparedData, build_denoiser
from sfumato.experiment.config import Experiment, experiment_yaml
from sfumato.experiment.copies import CopyWatch
from sfumato.experiment.drawing import draw
from sfumato.experiment.environment import environment
from sfumato.experiment.guiding import Requests, plainly
from sfumato.experiment.likeness import alternately, unshared
from sfumato.experiment.preview import preview_condition, save_preview
from sfumato.experiment.schema import to_plain
from sfumato.metrics.memorisation import equal_parts
from sfumato.training.average_store import AverageStore
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.conditioner import Conditioner
from sfumato.training.ema import Ema, bare_state
from sfumato.training.engine import Engine, start_engine
from sfumato.training.held_out import HeldOut
from sfumato.training.power_ema import PowerEmas
from sfumato.training.record import MetricsLog
from sfumato.training.step import TrainStep, make_optimizer
from sfumato.training.trainer import Hook, Reporter, Trainer

__all__ = ["Session", "batches_of", "conditioner_of", "held_out_scorer", "weights_digest"]


class Session:
    """Everything of a run in memory. `experiment` holds no `auto` any more; `data` are its data."""

    def __init__(self, experiment: Experiment, data: PreparedData, *, folder: Path, reporter: Reporter) -> None:
        self.experiment, self.data, self.folder, self.reporter = experiment, data, folder, reporter
        settings = experiment.training
        self.keep = keep_rule(experiment, data)
        self.engine: Engine = start_engine(settings)
        self._require_agreement()
        told = experiment.condition
        denoiser = build_denoiser(
            experiment,
            shape=data.record.shape,
            data_std=data.record.data_std,
            condition=data.record.condition_shape(told),
        )
        self.averaged = copy.deepcopy(denoiser).to(self.engine.device).eval()
        self.averaged.requires_grad_(False)
        denoiser.network = self.engine.prepare(denoiser.network, compiled=settings.compile == "on")
        self.denoiser: Denoiser = denoiser.train()
        self.ema = Ema(denoiser.network, decay=settings.ema_decay)
        self.power = PowerEmas(denoiser.network, settings.power_ema)
        self.batches = batches_of(experiment, data, self.engine.device)
        self.conditioner = conditioner_of(experiment)
        self.step = TrainStep(
            denoiser,
            objective=experiment.objective,
            times=experiment.times,
            batches=self.batches,
            shape=data.record.shape,
            optimizer=make_optimizer(denoiser.network, settings, self.engine.device),
            ema=self.ema,
            power=self.power,
            engine=self.engine,
            settings=settings,
            seed=experiment.seed,
            conditioner=self.conditioner,
        )
        self.store = CheckpointStore(folder, keep=settings.keep_checkpoints)

    def trainer(self, *, resume_command: str) -> Trainer:
        """The loop over this session's step, with the hooks that the settings ask for."""
        return Trainer(
            self.step,
            store=self.store,
            averages=self.averages(),
            log=MetricsLog(self.folder, report=self.reporter.note),
            hooks=self._hooks() if self.engine.is_main else [],
            reporter=self.reporter,
            state=self.state(),
            resume_command=resume_command,
            keep=self.keep,
        )

    def averages(self) -> AverageStore:
        """Where the power-function averages are stored."""
        settings = self.experiment.training
        return AverageStore(self.folder, every=settings.power_ema_every, cap=1e9 * settings.power_ema_disk)

    def num_parameters(self) -> int:
        """Trained parameters."""
        return sum(parameter.numel() for parameter in self.step.parameters)

    def _hooks(self) -> list[Hook]:
        settings, hooks = self.experiment.training, []
        if len(self.data.parts.held_out):
            scorer = held_out_scorer(self.experiment, self.data, self.batches)
            hooks.append(Hook(settings.evaluate_every, lambda done: self._evaluate(scorer), "held-out loss"))
        best = measuring_hook(self.experiment, self.data, self._with_averages, self.reporter.note)
        if best is not None:
            hooks.append(best)
        if self.denoiser.clock is not None:
            hooks.append(Hook(settings.evaluate_every, self._knots, "schedule"))
        if settings.copies_every:
            watch = self._watch()
            hooks.append(Hook(settings.copies_every, lambda done: watch(self._with_averages(), done), "copies"))
        hooks.append(Hook(settings.preview_every, self._preview, "preview"))
        return hooks

    def _with_averages(self) -> Denoiser:
        """The copy for evaluation, with the present averages in it; the live weights are never touched."""
        self.ema.copy_to(self.averaged.network)
        return self.averaged

    def _evaluate(self, scorer: HeldOut) -> dict[str, Any]:
        precise = self.experiment.training.precision == "float32"
        with torch.autocast(self.engine.device.type, dtype=torch.bfloat16, enabled=not precise):
            return scorer(self._with_averages())

    @torch.no_grad()
    def _knots(self, done: int) -> dict[str, Any]:
        """log_snr of the averaged clock at t = 0, 1/K … 1."""
        clock = self._with_averages().clock
        return {} if clock is None else {"log_snr_knots": clock.values().tolist()}

    @torch.no_grad()
    def _preview(self, done: int) -> None:
        """Samples from one fixed noise, by the averaged weights: the same faces growing clearer."""
        count = self.experiment.training.preview_count
        config = plainly(replace(self.experiment.sampling, micro_batch=count))
        record, like = self.data.record, torch.empty(0, device=self.engine.device)
        cond = self._shown(count)
        labels = None if cond is None or cond.labels is None else cond.labels.tolist()
        names = None if labels is None else [record.called(label) for label in labels]
        try:
            drawn = draw(
                self._with_averages(), record, config, count=count, seed=0, like=like, asked=Requests(cond)
            ).numpy()
            save_preview(self.folder / "samples", done, drawn, is_image=record.is_image, names=names)
        except (
            OSError,
            NumericsError,
            UsageError,
        ) as error:  # a preview is not worth a run: what matters is refused at the next checkpoint
            why = error.what if isinstance(error, SfumatoError) else str(error)
            self.reporter.note(f"no preview of step {done}: {why}")

    def _shown(self, count: int) -> Condition | None:
        """What the samples of a preview are told: of examples that are held out, or of the training part."""
        if not self.experiment.condition:
            return None
        examples = self.data.parts.held_out if len(self.data.parts.held_out) else self.data.parts.train
        batch = self.batches.take(examples[torch.arange(count) * len(examples) // count])
        return preview_condition(self.conditioner.plain(batch, "preview degradation"), self.data.record.num_classes)

    def _watch(self) -> CopyWatch:
        """What looks for copies. Raises DataError where too few examples are held out that are not trained on."""
        parts, count = self.data.parts, self.experiment.evaluation.copies_count
        held_out = unshared(self.data.packed, parts)
        equal_parts(len(parts.train), len(held_out))
        cond, like = None, torch.empty(0, device=self.engine.device)
        if self.experiment.condition:
            batch = self.batches.take(alternately(parts, count))
            cond = self.conditioner.plain(batch, "copies")
        return CopyWatch(self.experiment, self.data, held_out, cond, like, self.reporter)

    def state(self) -> dict[str, Any]:
        """What every checkpoint says of the run besides its tensors and counters: plain JSON data."""
        settings = self.experiment.training
        return {
            "seed": self.experiment.seed,
            "threads": torch.get_num_threads(),
            "processes": self.engine.processes,
            "device": settings.device,
            "precision": settings.precision,
            "versions": environment()["versions"],
            "experiment": to_plain(self.experiment),
            "data": self.data.record.to_plain(),
            "ema_decay": settings.ema_decay,
        }

    def _require_agreement(self) -> None:
        self.engine.require_agreement("configuration", config_digest(self.experiment))
        self.engine.require_agreement("data", self.data.record.fingerprint)


def normalised(data: PreparedData) -> Packed:
    """The packed data with their real numbers as the network is told them."""
    assert data.packed.conditions is not None
    return replace(data.packed, conditions=data.record.conditions_to_model(data.packed.conditions))


def batches_of(experiment: Experiment, data: PreparedData, device: torch.device) -> Batches:
    """The examples of training, as a model takes them; `take` gives any others."""
    return Batches(
        normalised(data) if experiment.condition.values else data.packed,
        data.parts.train,
        data.record.normalization,
        seed=experiment.seed,
        batch_size=experiment.training.batch_size,
        flip=experiment.data.flip,
        device=device,
    )


def held_out_scorer(experiment: Experiment, data: PreparedData, batches: Batches) -> HeldOut:
    """What measures the held-out loss, on `evaluation.count` examples evenly taken of those held out."""
    batch = batches.take(evenly_from(data.parts.held_out, experiment.evaluation.count))
    cond = conditioner_of(experiment).plain(batch, "held-out degradation")
    return HeldOut(batch.x0, experiment.objective, experiment.evaluation.noise_levels, experiment.seed, cond=cond)


def conditioner_of(experiment: Experiment) -> Conditioner:
    """What makes the condition of a batch, by the settings."""
    told = experiment.condition
    return Conditioner(
        labels=told.labels, values=told.values, image=told.image, dropout=told.dropout, seed=experiment.seed
    )


def config_digest(experiment: Experiment) -> str:
    """SHA-256 of the complete settings."""
    return hashlib.sha256(experiment_yaml(experiment).encode()).hexdigest()


def weights_digest(denoiser: Denoiser) -> str:
    """SHA-256 over names, shapes and bytes of a network's tensors: says which weights made a picture."""
    digest = hashlib.sha256()
    for name, tensor in sorted(bare_state(denoiser.network).items()):
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
