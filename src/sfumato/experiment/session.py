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

from sfumato.core import Denoiser
from sfumato.data import Batches
from sfumato.errors import NumericsError, SfumatoError, UsageError
from sfumato.experiment.build import PreparedData, build_denoiser
from sfumato.experiment.config import Experiment, experiment_yaml
from sfumato.experiment.environment import environment
from sfumato.experiment.model import draw
from sfumato.experiment.preview import save_preview
from sfumato.experiment.schema import to_plain
from sfumato.training.average_store import AverageStore
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.ema import Ema, bare_state
from sfumato.training.engine import Engine, start_engine
from sfumato.training.held_out import HeldOut
from sfumato.training.power_ema import PowerEmas
from sfumato.training.record import MetricsLog
from sfumato.training.step import TrainStep, make_optimizer
from sfumato.training.trainer import Hook, Reporter, Trainer

__all__ = ["Session"]


class Session:
    """Everything of a run in memory. `experiment` holds no `auto` any more; `data` are its data."""

    def __init__(self, experiment: Experiment, data: PreparedData, *, folder: Path, reporter: Reporter) -> None:
        self.experiment, self.data, self.folder, self.reporter = experiment, data, folder, reporter
        settings = experiment.training
        self.engine: Engine = start_engine(settings)
        self._require_agreement()
        denoiser = build_denoiser(experiment, shape=data.record.shape, data_std=data.record.data_std)
        self.averaged = copy.deepcopy(denoiser).to(self.engine.device).eval()
        self.averaged.requires_grad_(False)
        denoiser.network = self.engine.prepare(denoiser.network, compiled=settings.compile == "on")
        self.denoiser: Denoiser = denoiser.train()
        self.ema = Ema(denoiser.network, decay=settings.ema_decay)
        self.power = PowerEmas(denoiser.network, settings.power_ema)
        self.batches = Batches(
            data.packed,
            data.parts.train,
            data.record.normalization,
            seed=experiment.seed,
            batch_size=settings.batch_size,
            flip=experiment.data.flip,
            device=self.engine.device,
        )
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
        held_out = self.data.parts.held_out[: self.experiment.evaluation.count]
        if len(held_out):
            x0 = self.batches.take(held_out).x0
            scorer = HeldOut(
                x0, self.experiment.objective, self.experiment.evaluation.noise_levels, self.experiment.seed
            )
            hooks.append(Hook(settings.evaluate_every, lambda done: self._evaluate(scorer), "held-out loss"))
        if self.denoiser.clock is not None:
            hooks.append(Hook(settings.evaluate_every, self._knots, "schedule"))
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
        config = replace(self.experiment.sampling, micro_batch=count)
        like = torch.empty(0, device=self.engine.device)
        try:
            drawn = draw(self._with_averages(), self.data.record, config, count=count, seed=0, like=like)
            save_preview(self.folder / "samples", done, drawn.numpy(), is_image=self.data.record.is_image)
        except (
            OSError,
            NumericsError,
            UsageError,
        ) as error:  # a preview is not worth a run: what matters is refused at the next checkpoint
            why = error.what if isinstance(error, SfumatoError) else str(error)
            self.reporter.note(f"no preview of step {done}: {why}")

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
