"""Ways to fill in what a measurement leaves open, y = A x0 + noise: what each does to the walk from noise to data.

    Moments     E[x0 | x_t, y] by matched moments, then any sampler             `guidance.MomentMatched`
    Pigdm       pseudo-inverse guidance, one gradient a step                    `guidance.PseudoInverseGuided`
    Dps         a gradient step of fixed length each time                       `guidance.Dps`
    Repaint     the known part put in place, to and fro; holes alone            `samplers.repaint`
    Condition   a network that was trained to go by such a picture

The range of the data (clipping) acts last, on what the method says of x0: a clipped value has no gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from sfumato import guidance
from sfumato.core import Denoise, NoiseSource
from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.config import SamplingConfig
from sfumato.experiment.guiding import Guide, Requests
from sfumato.guidance import Measurement
from sfumato.samplers import Ancestral, Trailing, repaint, repaint_moves, sample

__all__ = ["METHODS", "Choice", "Condition", "Dps", "Method", "Moments", "Pigdm", "Repaint", "Site"]


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One micro-batch of B samples, and all that a method walks with.

    guide: the denoiser and what steers it. config: how to sample. asked: what these samples are told.
    noise: a seed for each. start: x_T (B, C, H, W). measurement: what is known of each, in model units.
    known, mask: clean pictures (B, C, H, W), read where the mask (B, 1, H, W) is True; None for what is no hole.
    """

    guide: Guide
    config: SamplingConfig
    asked: Requests
    noise: NoiseSource
    start: Tensor
    measurement: Measurement
    known: Tensor | None = None
    mask: Tensor | None = None

    @property
    def times(self) -> list[float]:
        """The grid of the walk."""
        return self.config.grid.times(self.guide.denoiser.schedule, self.config.steps)

    @property
    def unbounded(self) -> Denoise:
        """The denoiser with its guidance and without the range of the data."""
        return replace(self.guide, config=replace(self.config, clip=False, dynamic_threshold=None)).steered(self.asked)

    def walk(self, d: Denoise) -> Iterator[Tensor]:
        """x after each step of the sampler."""
        walked = sample(self.config.sampler, d, self.start, self.times, noise=self.noise, cond=self.asked.cond)
        return (step.x for step in walked)


class Method(ABC):
    """A way to draw x0 given y; frozen, its own configuration."""

    __slots__ = ()
    goes_by_pictures: ClassVar[bool] = False
    counts_steps: ClassVar[bool] = False

    def usual(self, config: SamplingConfig) -> SamplingConfig:
        """The settings of sampling that the method takes where nobody chooses: the run's own."""
        return config

    def check(self, config: SamplingConfig, *, holes: bool, noise: float) -> None:
        """Refuse what the method cannot do: `holes` says that the known part is pixels. Raises UsageError."""
        if self.counts_steps and config.sampler.adaptive:
            raise UsageError(
                f"{type(self).__name__.lower()} by {config.sampler!r}",
                expected="a sampler that takes the steps of the grid",
                fix="sampler='ancestral' (--sampler ancestral)",
            )

    def moves(self, config: SamplingConfig) -> int:
        """Steps of the walk."""
        return config.steps

    @abstractmethod
    def walk(self, at: Site) -> Iterator[Tensor]:
        """x (B, C, H, W) after each step, the last of them x0 in model units."""


@dataclass(frozen=True, slots=True)
class Moments(Method):
    """Moment matching: exact for Gaussian data, the closest of all here (Boys et al. 2023; Rozet et al. 2024).

    iterations: of conjugate gradients at each step; one gradient through the network for each, and one more.
    """

    iterations: int = 5

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(
                f"iterations is {self.iterations}", expected="a whole number of 1 or more", fix="set iterations: 5"
            )

    def walk(self, at: Site) -> Iterator[Tensor]:
        d = guidance.MomentMatched(at.unbounded, at.measurement, iterations=self.iterations)
        return at.walk(at.guide.bounded(d))


@dataclass(frozen=True, slots=True)
class Pigdm(Method):
    """Pseudo-inverse guidance: one gradient a step, and less exact (Song, Vahdat et al. 2023)."""

    def walk(self, at: Site) -> Iterator[Tensor]:
        d = guidance.PseudoInverseGuided(at.unbounded, at.measurement, at.guide.record.data_std)
        return at.walk(at.guide.bounded(d))


@dataclass(frozen=True, slots=True)
class Dps(Method):
    """Diffusion posterior sampling by gradient steps of fixed length; takes many steps (Chung et al. 2023).

    scale: length of a step, found by trial; the paper's is about 1 for 256×256 pictures.
    """

    counts_steps: ClassVar[bool] = True
    scale: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ConfigError(f"scale is {self.scale}", expected="a finite number above 0", fix="set scale: 0.3")

    def usual(self, config: SamplingConfig) -> SamplingConfig:
        return replace(ancestral(config), grid=Trailing())

    def walk(self, at: Site) -> Iterator[Tensor]:
        d = guidance.Dps(at.unbounded, at.measurement, at.config.steps, self.scale)
        return at.walk(at.guide.bounded(d))


@dataclass(frozen=True, slots=True)
class Repaint(Method):
    """The known part put in place at every step, as noisy as the rest, and steps repeated (Lugmayr et al. 2022).

    resamplings: how often each stretch is walked; the work is as many times larger.
    jump: steps of a stretch.
    """

    counts_steps: ClassVar[bool] = True
    resamplings: int = 10
    jump: int = 1

    def __post_init__(self) -> None:
        for name, value in (("resamplings", self.resamplings), ("jump", self.jump)):
            if value < 1:
                raise ConfigError(f"{name} is {value}", expected="a whole number of 1 or more", fix=f"set {name}: 1")

    def usual(self, config: SamplingConfig) -> SamplingConfig:
        return ancestral(config)

    def check(self, config: SamplingConfig, *, holes: bool, noise: float) -> None:
        Method.check(self, config, holes=holes, noise=noise)
        if not holes or noise:
            raise UsageError(
                "repaint was asked for what is no exact pixels with holes between them",
                expected="inpaint, with noise 0; or moments, pigdm, dps, which take any measurement",
                fix="method='moments' (--method moments)",
            )

    def moves(self, config: SamplingConfig) -> int:
        return sum(1 for _ in repaint_moves(config.steps, resamplings=self.resamplings, jump=self.jump))

    def walk(self, at: Site) -> Iterator[Tensor]:
        assert at.known is not None
        assert at.mask is not None
        walked = repaint(
            at.config.sampler,
            at.guide.steered(at.asked),
            at.start,
            at.times,
            known=at.known,
            mask=at.mask,
            noise=at.noise,
            resamplings=self.resamplings,
            jump=self.jump,
            cond=at.asked.cond,
        )
        return (step.x for step in walked)


@dataclass(frozen=True, slots=True)
class Condition(Method):
    """The network itself, where it was trained to go by such a picture: no gradients, the usual work of sampling."""

    goes_by_pictures: ClassVar[bool] = True

    def walk(self, at: Site) -> Iterator[Tensor]:
        return at.walk(at.guide.steered(at.asked))


METHODS: dict[str, type[Method]] = {
    "moments": Moments,
    "pigdm": Pigdm,
    "dps": Dps,
    "repaint": Repaint,
    "condition": Condition,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The place of a method among settings: `--method.iterations 10`.

    method: how what is missing is drawn.
    """

    method: Method = Moments()


def ancestral(config: SamplingConfig) -> SamplingConfig:
    """The settings with ancestral steps, which the method was made for; the run's own where those are some."""
    return config if isinstance(config.sampler, Ancestral) else replace(config, sampler=Ancestral())
