"""How well noise is told from data: errors of eps and of x_0, over the times of training.

    noise_error[mae] = E |eps_hat - eps|,   noise_error[mse] = E (eps_hat - eps)²,   image_error[…] the same of x_0

in model units (data normalised), means over values, examples and times, whatever the network was trained for. Guessing
nothing, eps_hat = 0, scores E|eps| = sqrt(2/π) = 0.798 and E eps² = 1. Errors of two schedules are means over other
noise levels, and say nothing about each other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import batch_noise, derived_generator, derived_seed, marginal
from sfumato.experiment.evaluation.losses import ROUNDS, size_of
from sfumato.experiment.evaluation.subject import Subject
from sfumato.metrics import Estimate, mean_of

__all__ = ["ERROR_METRICS", "Errors", "error_entries", "errors_of"]

ERROR_METRICS = ("noise_error", "image_error")
Entry = tuple[str, Estimate]


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Mean absolute and squared errors of each example, (n,) float64."""

    absolute: Tensor
    squared: Tensor


@torch.no_grad()
def errors_of(subject: Subject, of_noise: bool) -> Errors:
    """The errors of eps (`of_noise`) or of x_0, means over values and `ROUNDS` stratified times an example."""
    d, x0, times = subject.denoiser, subject.x0, subject.model.experiment.times
    absolute, squared = [], []
    for index in range(ROUNDS):
        seed = derived_seed(subject.seed, f"evaluate loss {subject.part}", index)  # the draws of the loss
        drawn = times.draw(d.schedule, len(x0), derived_generator(seed, "times"))
        noise = batch_noise(tuple(x0.shape), seed, "noise", 0).to(x0)
        for start in range(0, len(x0), size_of(subject)):
            cut = slice(start, start + size_of(subject))
            x_t = marginal(x0[cut], d.schedule.rates(drawn.t[cut])).sample(noise[cut])
            said = d(x_t, drawn.t[cut], subject.told(cut))
            off = (said.eps - noise[cut] if of_noise else said.x0 - x0[cut]).flatten(1).double().cpu()
            weight = drawn.inv_density[cut].double()
            absolute.append(off.abs().mean(1) * weight)
            squared.append(off.square().mean(1) * weight)
    each = (torch.cat(values).view(ROUNDS, -1).mean(0) for values in (absolute, squared))
    return Errors(*each)


def error_entries(name: str, subject: Subject, note: Callable[[str], None]) -> Iterator[Entry]:
    """name[mae] and name[mse] of `ERROR_METRICS`."""
    found = errors_of(subject, name == "noise_error")
    facts = subject.facts(draws_per_example=ROUNDS, unit="model units", schedule=repr(subject.denoiser.schedule))
    yield f"{name}[mae]", mean_of(found.absolute, facts)
    yield f"{name}[mse]", mean_of(found.squared, facts)
    note(
        f"{name} is a mean over the schedule's own noise levels, in units of normalised data: it does not compare "
        "schedules; eps_hat = 0 would have noise_error[mae] 0.798"
    )
