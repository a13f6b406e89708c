"""Examples encoded to noise along the probability-flow ODE, and decoded again: what the way there and back costs."""

from collections.abc import Callable, Iterator

import torch

from sfumato.experiment.evaluation.likelihoods import require_flow
from sfumato.experiment.evaluation.subject import Subject
from sfumato.metrics import Estimate, mean_of
from sfumato.samplers import Ddim, Heun, inversion_times, round_trip

__all__ = ["round_trip_entries"]

ROUND_TRIP_STEPS = 50  # each way


def round_trip_entries(subject: Subject, note: Callable[[str], None]) -> Iterator[tuple[str, Estimate]]:
    """round_trip[heun] and round_trip[ddim]: root mean square difference, mean over examples, in prepared units."""
    require_flow(subject.denoiser)
    times = inversion_times(subject.denoiser.schedule, ROUND_TRIP_STEPS)
    for name, sampler in (("heun", Heun()), ("ddim", Ddim())):
        parts = [slice(first, first + 256) for first in range(0, subject.n, 256)]
        found = [
            round_trip(sampler, subject.denoiser, subject.x0[part], times, cond=subject.told(part)).rms
            for part in parts
        ]
        facts = subject.facts(sampler=repr(sampler), steps=len(times) - 1, unit="prepared data (pictures: -1 to 1)")
        yield f"round_trip[{name}]", mean_of(torch.cat(found).cpu(), facts)
    note("round_trip encodes examples along the probability-flow ODE and decodes them: 0 for a perfect solver")
