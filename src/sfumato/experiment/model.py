"""A trained model: settings, the record of its data, and weights, ready to sample.

Sampling runs in micro-batches of the size stored in the run (`drawing`), so that the bytes of sample i depend on the
model, the seed, i and what sample i is asked to be (`conditions`), and not on how many samples are asked for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.condition import Condition, ConditionShape
from sfumato.core import Denoiser
from sfumato.data.wording import counted
from sfumato.errors import DataError, UsageError
from sfumato.experiment.build import DataRecord
from sfumato.experiment.conditions import Asked, Tellable, called, condition_of, names_of
from sfumato.experiment.config import Experiment, SamplingConfig, sampling_with
from sfumato.experiment.drawing import draw, draw_counted, walk
from sfumato.experiment.guiding import Guide, Requests, averaged_denoiser, guide_of, require_guidance, weights_of
from sfumato.experiment.objective_misfits import variance_misfits
from sfumato.experiment.samples import (
    MOST_SAMPLES,
    Samples,
    Trajectory,
    is_number,
    is_whole,
    require_alone,
    require_count,
    require_seed,
)
from sfumato.experiment.schema import refuse_all
from sfumato.experiment.wording import in_arguments
from sfumato.training.manifest import silent

if TYPE_CHECKING:
    from sfumato.experiment.edits import Edit, Edited, Method
    from sfumato.experiment.latents import Encoded

__all__ = ["MOST_SAMPLES", "Model", "Samples", "Trajectory", "draw", "require_count", "require_seed"]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A trained model. `weights` holds a denoiser for each set of weights kept: "ema" and, from a run, "live".

    `folder` is that of the run, None for an exported file. `report` hears of stored averages that are damaged, which
    are left out, and of widths that they meet only roughly.
    """

    experiment: Experiment
    record: DataRecord
    weights: Mapping[str, Denoiser]
    digest: str
    steps_trained: int
    folder: Path | None = None
    report: Callable[[str], None] = silent

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.record.shape))
        parameters = sum(p.numel() for p in self.denoiser.network.parameters())
        size = f"{counted(parameters, 'parameter')} for {shape}"
        return f"Model({self.experiment.name}: {size}, {counted(self.steps_trained, 'step')} of training)"

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser with the averaged weights, in evaluation mode."""
        return self.weights["ema"]

    def settings(self, **changes: object) -> SamplingConfig:
        """The run's sampling settings with changes; None leaves a setting as it is."""
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            return sampling_with(self.experiment.sampling, given) if given else self.experiment.sampling
        except UsageError as error:
            raise in_arguments(error) from error

    def _settled(self, config: SamplingConfig | None, **changes: object) -> SamplingConfig:
        """`config`, beside which there may be no changes, or the run's settings with them."""
        if config is None:
            return self.settings(**changes)
        require_alone(**changes)
        return config

    @property
    def condition_shape(self) -> ConditionShape:
        """What the network was built to be told."""
        return self.record.condition_shape(self.experiment.condition)

    @property
    def tellable(self) -> Tellable:
        """What the model can be told, and how people say it."""
        told = self.experiment.condition
        shape = self.condition_shape
        return Tellable(self.experiment.name, self.record, shape, dropout=told.dropout, degradation=told.image)

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        sampler: object = None,
        seed: int = 0,
        labels: object = None,
        values: object = None,
        images: object = None,
        guidance: float | Sequence[float] | None = None,
        weights: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        config: SamplingConfig | None = None,
    ) -> Samples:
        """Draw n samples; sample i has seed `seed + i` and is the same bits in any batch.

        `sampler` is a name ("ddim") or a sampler object; None takes what the run's settings say. `labels` is a name of
        a class, its index, a list of n of them, "all" (sample i is of class i mod K) or "none" (none at all); `values`
        are V numbers in units of the data, or (n, V) of them; `images` uint8 pictures (n, H, W, C) that a model goes by
        which was trained to; `guidance` a weight, or n of them (`conditions`, `guiding`). Raises UsageError for what
        the model cannot be told, and for what it must be told and was not.
        """
        own = None if guidance is None or is_number(guidance) else weights_of(guidance, n)
        scalar = guidance if own is None else None
        config = self._settled(config, steps=steps, sampler=sampler, guidance=scalar, weights=weights)
        self._require_sampling(n, seed, config)
        asked = Asked(labels, values, images)
        requests = self._requests(asked, n, config, seed=seed, guidance=own)
        denoiser = self._chosen(config)
        guide = guide_of(self, denoiser, config)
        config = self._fitted(denoiser, guide, requests, config)
        like = self._like(denoiser)
        with torch.no_grad(), self._precision(denoiser, config):
            drawn = draw_counted(guide, config, requests, count=n, seed=seed, like=like, progress=progress)
        found = drawn.values.numpy()
        pictures, points = (found, None) if self.record.is_image else (None, found)
        seeds = seed + np.arange(n, dtype=np.int64)
        return self._told(Samples(pictures, points, None, seeds, drawn.calls.numpy()), requests)

    def log_prob(
        self,
        x: NDArray[Any],
        *,
        method: str = "flow",
        seed: int = 0,
        weights: str = "ema",
        labels: object = None,
        values: object = None,
    ) -> NDArray[np.float64]:
        """log p(x) in nats per example, (n,), for raw data x (n, *): points in their units, pictures as uint8.

        For a model that is told labels or values it is log p(x | labels, values), given as in `sample`, and log p(x)
        with labels="none"; one that goes by pictures is shown what its own degradation makes of x.
        Of points a density; of pictures a lower bound on the log-probability of their 8-bit levels. `flow` integrates
        the probability-flow ODE, `bound` gives minus the variational bound of the ancestral chain (it reads the run's
        data, unless the variance was learned). Raises DataError for data that have no such number (padded pictures,
        floats that are not 8-bit), NumericsError where the solver does not arrive.
        """
        from sfumato.experiment.evaluation.densities import nll_of
        from sfumato.experiment.evaluation.likelihoods import METHODS

        if method not in METHODS:
            expected = " or ".join(METHODS)
            raise UsageError(f"method is {method!r}", expected=expected, fix="leave it out: the flow is taken")
        if weights not in self.weights:
            raise UsageError(f"weights {weights!r}", expected=" or ".join(sorted(self.weights)), fix="leave them out")
        told = Asked(labels, values)
        found: NDArray[np.float64] = -nll_of(
            self, x, method=METHODS[method], seed=seed, weights=weights, told=told
        ).numpy()
        return found

    def bits_per_dim(
        self,
        x: NDArray[Any],
        *,
        method: str = "flow",
        seed: int = 0,
        weights: str = "ema",
        labels: object = None,
        values: object = None,
    ) -> NDArray[np.float64]:
        """-log2 p(x)/D per picture, (n,): uint8 (n, H, W, C). See `log_prob`. Raises DataError for points."""
        if not self.record.is_image:
            raise DataError(
                "bits/dim counts the levels of 8-bit pictures, and these data are continuous",
                expected="pictures",
                fix="use log_prob, in nats",
            )
        dim = math.prod(self.record.shape)
        found = self.log_prob(x, method=method, seed=seed, weights=weights, labels=labels, values=values)
        return -found / (dim * math.log(2))

    def encode(
        self,
        x: NDArray[Any],
        *,
        steps: int = 50,
        sampler: object = "heun",
        labels: object = None,
        values: object = None,
        images: object = None,
    ) -> "Encoded":
        """The noise that raw examples x (n, *) are sampled from, and how far each comes back; see `latents.encoded`.

        `sampler`, a name or a sampler object, adds no noise; the rest as in `sample`. Raises DataError, UsageError.
        """
        from sfumato.experiment.latents import encoded

        cond = self.condition_of(Asked(labels, values, images), len(x))
        return encoded(self, x, steps=steps, sampler=self.settings(sampler=sampler).sampler, cond=cond)

    def decode(
        self,
        latents: NDArray[np.float32],
        *,
        steps: int = 50,
        sampler: object = "heun",
        labels: object = None,
        values: object = None,
        images: object = None,
    ) -> NDArray[np.generic]:
        """What latents (n, *) of `encode` come back as, in data units; see `latents.decoded`."""
        from sfumato.experiment.latents import decoded

        cond = self.condition_of(Asked(labels, values, images), len(latents))
        return decoded(self, latents, steps=steps, sampler=self.settings(sampler=sampler).sampler, cond=cond)

    def interpolate(
        self,
        first: int | NDArray[Any],
        second: int | NDArray[Any],
        n: int = 11,
        *,
        labels: object = None,
        values: object = None,
        images: object = None,
        **changes: object,
    ) -> NDArray[np.generic]:
        """n samples from that of seed `first` to that of seed `second`, along the arc between their noises.

        Either end may be one raw example instead, which is encoded. `changes` are sampling settings (steps=25,
        sampler="heun"), those two alone for examples. See `latents.interpolated` and `edits.between`.
        """
        from sfumato.experiment.edits.paths import between
        from sfumato.experiment.latents import interpolated

        if is_whole(first) and is_whole(second):
            return interpolated(self, first, second, n, self.settings(**changes), Asked(labels, values, images))
        own = {name: value for name, value in changes.items() if value is not None}
        if set(own) - {"steps", "sampler"}:
            given = ", ".join(sorted(set(own) - {"steps", "sampler"}))
            raise UsageError(
                f"{given} was given for a path between pictures", expected="steps and sampler", fix=f"leave out {given}"
            )
        return between(self, first, second, n, labels=labels, values=values, images=images, **own)  # type: ignore[arg-type]

    def edit(
        self,
        task: "Edit",
        n: int = 1,
        *,
        method: "str | Method | None" = None,
        noise: float | None = None,
        steps: int | None = None,
        sampler: object = None,
        seed: int = 0,
        labels: object = None,
        values: object = None,
        guidance: float | Sequence[float] | None = None,
        weights: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        config: SamplingConfig | None = None,
    ) -> "Edited":
        """n variants of each of the pictures of `task` (`Inpaint`, `Upscale`, `Deblur`, `Colourise`, `Vary`).

        `method` is how (moments, pigdm, dps, repaint, condition), None the model's own way; `noise` the standard
        deviation of what the pictures are off, in 8-bit levels. Variant v of picture p has seed `seed + 1000 p + v`.
        `labels`, `values` and `guidance` are for all, or one for each picture or each variant. See `edits`. Raises
        UsageError.
        """
        from sfumato.experiment.edits.editing import edited, planned

        plan = planned(self, task, n, method=method, noise=noise, seed=seed)
        own = None if guidance is None or is_number(guidance) else weights_of(plan.each(guidance), plan.count)
        scalar = guidance if own is None else None
        usual = self.experiment.sampling if sampler is not None else plan.usual(self.experiment.sampling)
        planned_for = replace(self, experiment=replace(self.experiment, sampling=usual))
        config = planned_for._settled(config, steps=steps, sampler=sampler, guidance=scalar, weights=weights)
        self._require_sampling(1, seed, config)
        require_guidance(self, config, own=own is not None)
        plan.check(config)
        requests = Requests(plan.told(self, labels, values, steered=config.classifier_guidance is not None), own)
        denoiser = self._chosen(config)
        guide = guide_of(self, denoiser, config)
        config = self._fitted(denoiser, guide, requests, config)
        with torch.no_grad(), self._precision(denoiser, config):
            drawn = edited(plan, guide, config, requests, like=self._like(denoiser), progress=progress)
        return replace(drawn, samples=self._told(drawn.samples, requests))

    def path(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: object = None,
        values: object = None,
        images: object = None,
        config: SamplingConfig | None = None,
    ) -> Trajectory:
        """The whole way of n samples (at most one micro-batch) from noise to data, in data units."""
        config = self.experiment.sampling if config is None else config
        self._require_sampling(n, seed, config)
        if n > config.micro_batch:
            raise UsageError(
                f"{n} trajectories were asked for",
                expected=f"at most one micro-batch, {config.micro_batch}",
                fix="ask for fewer, or raise sampling.micro_batch",
            )
        requests = self._requests(Asked(labels, values, images), n, config, seed=seed)
        denoiser = self._chosen(config)
        guide = guide_of(self, denoiser, config)
        config = self._fitted(denoiser, guide, requests, config)
        like, back = self._like(denoiser), self.record.normalization.to_data
        part = requests.part(0, config.micro_batch, count=n, device=like.device)
        times, states, guesses = [], [], []
        with torch.no_grad(), self._precision(denoiser, config):
            for step in walk(guide, config, part, seed=seed, first=0, wanted=n, like=like):
                times.append(step.t)
                r = step.prediction.rates
                power = float((r.alpha**2 + r.sigma**2).sqrt())
                states.append(back(step.prediction.x_t / power).cpu().numpy()[:n])
                guesses.append(back(step.prediction.x0).cpu().numpy()[:n])
        states.append(back(step.x).cpu().numpy()[:n])
        return Trajectory((*times, 0.0), tuple(states), tuple(guesses), called(self.record, requests.cond))

    def condition_of(self, asked: Asked, n: int, *, seed: int = 0, steered: bool = False) -> Condition | None:
        """What the network is told of n samples, on the CPU; see `conditions`. Raises UsageError."""
        return condition_of(replace(self.tellable, steered=steered), asked, n, seed=seed)

    def _requests(
        self, asked: Asked, n: int, config: SamplingConfig, *, seed: int, guidance: Tensor | None = None
    ) -> Requests:
        """What n samples are told, with the weights of guidance that they have of their own."""
        require_guidance(self, config, own=guidance is not None)
        steered = config.classifier_guidance is not None
        return Requests(self.condition_of(asked, n, seed=seed, steered=steered), guidance)

    def _told(self, samples: Samples, requests: Requests) -> Samples:
        """Samples with what each was asked to be."""
        cond, record = requests.cond, self.record
        labels = None if cond is None or cond.labels is None else cond.labels.numpy()
        values = None if cond is None or cond.values is None else record.conditions_to_data(cond.values).float().numpy()
        return replace(
            samples,
            labels=labels,
            class_names=None if labels is None else names_of(record),
            conditions=values,
            condition_names=None if values is None else record.condition_names,
            guidance=None if requests.guidance is None else requests.guidance.numpy(),
        )

    def _chosen(self, config: SamplingConfig) -> Denoiser:
        """The denoiser with the weights that the settings name."""
        if config.ema_width is not None:
            return averaged_denoiser(self, config.ema_width, self.report)
        if config.weights not in self.weights:
            raise UsageError(
                f"weights {config.weights!r} were asked for; this file holds {', '.join(sorted(self.weights))}",
                expected="weights that the file holds",
                fix="leave the weights out (--weights), or sample from the run folder",
            )
        return self.weights[config.weights]

    def _fitted(self, denoiser: Denoiser, guide: Guide, requests: Requests, config: SamplingConfig) -> SamplingConfig:
        """The settings with the optimal variance measured, where the sampler has one."""
        from sfumato.experiment.fitted import fitted  # which reads the data of a model

        return fitted(self, denoiser, guide, config, unlabelled=requests.unlabelled)

    def _like(self, denoiser: Denoiser) -> Tensor:
        parameter = next(denoiser.network.parameters())
        return torch.empty(0, device=parameter.device)

    def _precision(self, denoiser: Denoiser, config: SamplingConfig) -> torch.autocast:
        kind = self._like(denoiser).device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=config.precision == "bfloat16")

    def _require_sampling(self, n: int, seed: int, config: SamplingConfig) -> None:
        require_count(n)
        refuse_all(list(variance_misfits(self.experiment.objective, config)))
        require_seed(seed, n)
