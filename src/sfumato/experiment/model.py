"""A trained model: settings, the record of its data, and weights, ready to sample.

Sampling runs in micro-batches of the size stored in the run, the last one padded with the seeds that would come next,
so that the bytes of sample i depend on the model, the seed and i, and not on how many samples are asked for.
"""

import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import Denoise, Denoiser, NoiseSource
from sfumato.data.wording import counted
from sfumato.errors import DataError, UsageError
from sfumato.experiment.build import DataRecord
from sfumato.experiment.config import Experiment, SamplingConfig, sampling_with
from sfumato.experiment.objective_misfits import variance_misfits
from sfumato.experiment.schema import refuse_all
from sfumato.guidance import Clipped
from sfumato.samplers import Step, Trailing, sample

if TYPE_CHECKING:
    from sfumato.experiment.latents import Encoded

__all__ = [
    "MOST_SAMPLES",
    "Drawn",
    "Model",
    "Samples",
    "Trajectory",
    "draw",
    "draw_counted",
    "require_count",
    "walk",
]

MAX_SEED = 2**62
MOST_SAMPLES = 10_000_000  # more are a slip of the finger; they would not fit into memory


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A batch of samples: `images` uint8 (N, H, W, C) or `values` float32 (N, *), and the seed of each, (N,) int64.

    calls: (N,) int64, the denoiser calls that each sample needed; they differ with an adaptive sampler only.
    """

    images: NDArray[np.uint8] | None
    values: NDArray[np.float32] | None
    labels: NDArray[np.int64] | None
    seeds: NDArray[np.int64]
    calls: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A whole trajectory in data units: `states` are x at `times`, noise first, `guesses` the x0 predicted on the way.

    Noisy states are at unit power, x_t/sqrt(alpha² + sigma²): nothing changes where variance is preserved, and a state
    of an exploding process can be seen at all.
    """

    times: tuple[float, ...]
    states: tuple[NDArray[np.generic], ...]
    guesses: tuple[NDArray[np.generic], ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Samples in data units, `values` (N, *), and the denoiser calls of each, `calls` (N,) int64; on the CPU."""

    values: Tensor
    calls: Tensor


def walk(
    denoiser: Denoise, record: DataRecord, config: SamplingConfig, *, seed: int, first: int, like: Tensor
) -> Iterator[Step]:
    """The steps of one micro-batch: samples first … first + micro_batch - 1 of the seed, in model units.

    With an adaptive sampler the times of the grid are those at which its path is seen.
    """
    noise = NoiseSource.of(seed=seed, count=config.micro_batch, first=first)
    start = noise.initial((config.micro_batch, *record.shape), like=like) * denoiser.schedule.prior_std
    if start.ndim == 4:
        start = start.contiguous(memory_format=torch.channels_last)
    times = config.grid.times(denoiser.schedule, config.steps)
    return sample(config.sampler, guided(denoiser, record, config), start, times, noise=noise)


def guided(denoiser: Denoise, record: DataRecord, config: SamplingConfig) -> Denoise:
    """The denoiser as the settings have it sample: clipped to the range of the data where they have one."""
    low, high = record.normalization.low, record.normalization.high
    return Clipped(denoiser, low, high) if config.clip and low is not None and high is not None else denoiser


def draw(
    denoiser: Denoise,
    record: DataRecord,
    config: SamplingConfig,
    *,
    count: int,
    seed: int,
    like: Tensor,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`count` samples in data units, on the CPU; `progress(done, total)` counts sampler steps of all micro-batches."""
    return draw_counted(denoiser, record, config, count=count, seed=seed, like=like, progress=progress).values


def draw_counted(
    denoiser: Denoise,
    record: DataRecord,
    config: SamplingConfig,
    *,
    count: int,
    seed: int,
    like: Tensor,
    progress: Callable[[int, int], None] | None = None,
) -> Drawn:
    """The same as `draw`, with the calls of each sample. An adaptive sampler takes the whole way in one step."""
    if config.sampler.adaptive:
        config = replace(config, steps=1, grid=Trailing())
    batches = range(0, count, config.micro_batch)
    done, total = 0, len(batches) * config.steps
    values, calls = [], []
    for first in batches:
        last = None
        for last in walk(denoiser, record, config, seed=seed, first=first, like=like):  # noqa: B007
            done += 1
            if progress is not None:
                progress(done, total)
        assert last is not None  # a grid has at least one interval
        values.append(record.normalization.to_data(last.x[: count - first]).cpu())
        calls.append(last.calls_each[: count - first])
    return Drawn(torch.cat(values), torch.cat(calls))


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value can count; NumPy's whole numbers can, True cannot."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def require_count(n: object) -> None:
    """Refuse a number of samples that nobody can mean. Raises UsageError."""
    if not is_whole(n) or not 1 <= n <= MOST_SAMPLES:
        expected = f"from 1 to {MOST_SAMPLES:,} samples, a whole number"
        raise UsageError(f"{n!r} samples were asked for", expected=expected, fix="ask for 1 or more (-n 36)")


def require_seed(seed: object, n: int = 1) -> None:
    """Refuse a first seed that n samples cannot count from. Raises UsageError."""
    if not is_whole(seed) or not 0 <= seed <= MAX_SEED - n:
        expected = "a whole number from 0 to 2^62 - n"
        raise UsageError(f"seed is {seed!r}", expected=expected, fix="choose a seed such as 0 (--seed 0)")


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A trained model. `weights` holds a denoiser for each set of weights kept: "ema" and, from a run, "live".

    `folder` is that of the run, None for an exported file.
    """

    experiment: Experiment
    record: DataRecord
    weights: Mapping[str, Denoiser]
    digest: str
    steps_trained: int
    folder: Path | None = None

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
        return sampling_with(self.experiment.sampling, given) if given else self.experiment.sampling

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        sampler: object = None,
        seed: int = 0,
        labels: object = None,
        guidance: float | None = None,
        weights: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        config: SamplingConfig | None = None,
    ) -> Samples:
        """Draw n samples; sample i has seed `seed + i` and is the same bits in any batch.

        `sampler` is a name ("ddim") or a sampler object; None takes what the run's settings say. Raises UsageError for
        labels or guidance given to a model without classes.
        """
        if config is None:
            config = self.settings(steps=steps, sampler=sampler, guidance=guidance, weights=weights)
        self._require_sampling(n, seed, labels, config)
        denoiser = self._chosen(config)
        config = self._fitted(denoiser, config)
        with torch.no_grad(), self._precision(denoiser, config):
            drawn = draw_counted(
                denoiser, self.record, config, count=n, seed=seed, like=self._like(denoiser), progress=progress
            )
        seeds, values, calls = seed + np.arange(n, dtype=np.int64), drawn.values.numpy(), drawn.calls.numpy()
        if self.record.is_image:
            return Samples(values, None, None, seeds, calls)
        return Samples(None, values, None, seeds, calls)

    def log_prob(
        self, x: NDArray[Any], *, method: str = "flow", seed: int = 0, weights: str = "ema"
    ) -> NDArray[np.float64]:
        """log p(x) in nats per example, (n,), for raw data x (n, *): points in their units, pictures as uint8.

        Of points a density; of pictures a lower bound on the log-probability of their 8-bit levels. `flow` integrates
        the probability-flow ODE, `bound` gives minus the variational bound of the ancestral chain (it reads the run's
        data, unless the variance was learned). Raises DataError for data that have no such number (padded pictures,
        floats that are not 8-bit), NumericsError where the solver does not arrive.
        """
        from sfumato.experiment.evaluation.likelihoods import METHODS, nll_of

        if method not in METHODS:
            expected = " or ".join(METHODS)
            raise UsageError(f"method is {method!r}", expected=expected, fix="leave it out: the flow is taken")
        if weights not in self.weights:
            raise UsageError(f"weights {weights!r}", expected=" or ".join(sorted(self.weights)), fix="leave them out")
        found: NDArray[np.float64] = -nll_of(self, x, method=METHODS[method], seed=seed, weights=weights).numpy()
        return found

    def bits_per_dim(
        self, x: NDArray[Any], *, method: str = "flow", seed: int = 0, weights: str = "ema"
    ) -> NDArray[np.float64]:
        """-log2 p(x)/D per picture, (n,): uint8 (n, H, W, C). See `log_prob`. Raises DataError for points."""
        if not self.record.is_image:
            raise DataError(
                "bits/dim counts the levels of 8-bit pictures, and these data are continuous",
                expected="pictures",
                fix="use log_prob, in nats",
            )
        dim = math.prod(self.record.shape)
        return -self.log_prob(x, method=method, seed=seed, weights=weights) / (dim * math.log(2))

    def encode(self, x: NDArray[Any], *, steps: int = 50, sampler: object = "heun") -> "Encoded":
        """The noise that raw examples x (n, *) are sampled from, and how far each comes back; see `latents.encoded`.

        `sampler`, a name or a sampler object, adds no noise. Raises DataError, UsageError.
        """
        from sfumato.experiment.latents import encoded

        return encoded(self, x, steps=steps, sampler=self.settings(sampler=sampler).sampler)

    def decode(self, latents: NDArray[np.float32], *, steps: int = 50, sampler: object = "heun") -> NDArray[np.generic]:
        """What latents (n, *) of `encode` come back as, in data units; see `latents.decoded`."""
        from sfumato.experiment.latents import decoded

        return decoded(self, latents, steps=steps, sampler=self.settings(sampler=sampler).sampler)

    def interpolate(self, first: int, second: int, n: int = 11, **changes: object) -> NDArray[np.generic]:
        """n samples from that of seed `first` to that of seed `second`, along the arc between their noises.

        `changes` are sampling settings (steps=25, sampler="heun"). See `latents.interpolated`.
        """
        from sfumato.experiment.latents import interpolated

        return interpolated(self, first, second, n, self.settings(**changes))

    def path(self, n: int, *, seed: int = 0, config: SamplingConfig | None = None) -> Trajectory:
        """The whole way of n samples (at most one micro-batch) from noise to data, in data units."""
        config = self.experiment.sampling if config is None else config
        self._require_sampling(n, seed, None, config)
        if n > config.micro_batch:
            raise UsageError(
                f"{n} trajectories were asked for",
                expected=f"at most one micro-batch, {config.micro_batch}",
                fix="ask for fewer, or raise sampling.micro_batch",
            )
        denoiser = self._chosen(config)
        config = self._fitted(denoiser, config)
        like, back = self._like(denoiser), self.record.normalization.to_data
        times, states, guesses = [], [], []
        with torch.no_grad(), self._precision(denoiser, config):
            for step in walk(denoiser, self.record, config, seed=seed, first=0, like=like):
                times.append(step.t)
                r = step.prediction.rates
                power = float((r.alpha**2 + r.sigma**2).sqrt())
                states.append(back(step.prediction.x_t / power).cpu().numpy()[:n])
                guesses.append(back(step.prediction.x0).cpu().numpy()[:n])
        states.append(back(step.x).cpu().numpy()[:n])
        return Trajectory((*times, 0.0), tuple(states), tuple(guesses))

    def _chosen(self, config: SamplingConfig) -> Denoiser:
        if config.weights not in self.weights:
            raise UsageError(
                f"weights {config.weights!r} were asked for; this file holds {', '.join(sorted(self.weights))}",
                expected="weights that the file holds",
                fix="leave the weights out (--weights), or sample from the run folder",
            )
        return self.weights[config.weights]

    def _fitted(self, denoiser: Denoiser, config: SamplingConfig) -> SamplingConfig:
        """The settings with the optimal variance measured, where the sampler has one."""
        from sfumato.experiment.fitted import fitted  # which reads the data of a model

        return fitted(self, denoiser, guided(denoiser, self.record, config), config)

    def _like(self, denoiser: Denoiser) -> Tensor:
        parameter = next(denoiser.network.parameters())
        return torch.empty(0, device=parameter.device)

    def _precision(self, denoiser: Denoiser, config: SamplingConfig) -> torch.autocast:
        kind = self._like(denoiser).device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=config.precision == "bfloat16")

    def _require_sampling(self, n: int, seed: int, labels: object, config: SamplingConfig) -> None:
        require_count(n)
        refuse_all(list(variance_misfits(self.experiment.objective, config)))
        require_seed(seed, n)
        if labels is not None or config.guidance is not None:
            what = "a label" if labels is not None else "guidance"
            raise UsageError(
                f"{what} was given to {self.experiment.name!r}, which was trained without labels",
                expected="neither labels nor guidance for an unconditional model",
                fix="leave out the labels (--label) and the guidance (--guidance)",
            )
