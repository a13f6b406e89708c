"""Kernel distance of two sets of features, x (n, d) of samples and y (m, d) of a reference: KID.

    k(a, b) = (a·b/d + 1)³
    KID = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j)        (Bińkowski et al. 2018, §4)

an unbiased estimate of a squared distance of laws: 0 in the mean between samples of one law, and sometimes below 0.
Given the reference it is a U-statistic of order two in the samples, whose error needs no resampling:

    KID = mean_{i≠j} g_ij,   g_ij = k(x_i, x_j) - h_i - h_j + c,   h_i = mean_j k(x_i, y_j),  c = mean_{i≠j} k(y_i, y_j)
    Var = 4 (n - 2)/(n (n - 1)) ζ1 + 2/(n (n - 1)) ζ2,   ζ1 = Cov(g_12, g_13),   ζ2 = Var g_12          (Hoeffding 1948)

The second-order term is what is left where the two laws agree. The variance is estimated by the delete-one jackknife,
which for such a statistic is that of the row sums r_i = Σ_{j≠i} g_ij,

    std_error² = 4/(n (n - 1) (n - 2)²) Σ_i (r_i - mean r)²,   with the mean 4 ζ1/n + 4 ζ2/n² to second order:

never below 0, and never too small in the mean (Efron & Stein 1981); where the laws agree the error is too large by a
factor of up to sqrt 2. Errors without that excess cover less (docs/decisions/0009-features-of-pictures.md).
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sfumato.metrics.estimate import Estimate, Fact
from sfumato.metrics.pairs import interleaved, pieces_of, two_sets
from sfumato.metrics.points import Replicates

__all__ = ["kernel_mean", "kid", "kid_replicates", "kid_subsets"]

METHOD = "unbiased MMD² of the kernel (a·b/d + 1)³, over all pairs"


def kernel_rows(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """k(a_i, b_j) of some rows i at a time, (rows, len(b))."""
    for part in pieces_of(len(a), len(b)):
        inner = a[part] @ b.T / a.shape[1] + 1
        yield part, inner * inner * inner


def among_rows(a: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """k(a_i, a_j) of some rows i at a time, 0 where i = j."""
    for part, values in kernel_rows(a, a):
        values[torch.arange(len(values)), torch.arange(part.start, part.stop)] = 0.0
        yield part, values


def kernel_mean(y: Tensor) -> float:
    """c = mean_{i≠j} k(y_i, y_j) of a reference (m, d): the part of KID that no sample changes."""
    y = two_sets(y, y)[0]
    m = len(y)
    return sum(float(values.sum()) for _, values in among_rows(y)) / (m * (m - 1))


def to_reference(x: Tensor, y: Tensor) -> Tensor:
    """h_i = mean_j k(x_i, y_j), (n,)."""
    return torch.cat([values.mean(1) for _, values in kernel_rows(x, y)])


def _row_sums(x: Tensor, h: Tensor, c: float) -> Tensor:
    """r_i = Σ_{j≠i} g_ij, (n,); g is centred on the reference, so that they are small differences already."""
    rows = []
    for part, values in kernel_rows(x, x):
        g = values - h[part, None] - h[None, :] + c
        g[torch.arange(len(g)), torch.arange(part.start, part.stop)] = 0.0
        rows.append(g.sum(1))
    return torch.cat(rows)


def _error(rows: Tensor) -> float:
    """The jackknife's standard error from the row sums (n,); of two samples, of which none can be left out, |KID|."""
    n = len(rows)
    if n == 2:
        return abs(float(rows.mean()))
    spread = float((rows - rows.mean()).square().sum())
    return 2 * math.sqrt(spread / (n * (n - 1))) / (n - 2)


def kid(
    x: Tensor, y: Tensor, provenance: Mapping[str, Fact] | None = None, *, among_reference: float | None = None
) -> Estimate:
    """KID of samples x (n, d) and a reference y (m, d), its error that of the samples, the reference being given.

    among_reference: `kernel_mean(y)` where it is known already. Raises UsageError for fewer than two of either,
    DataError for features that do not fit.
    """
    x, y = two_sets(x, y)
    c = kernel_mean(y) if among_reference is None else among_reference
    n = len(x)
    rows = _row_sums(x, to_reference(x, y), c)
    facts: dict[str, Fact] = {"method": METHOD, "n_model": n, "n_reference": len(y)}
    facts["std_error"] = "delete-one jackknife of the U-statistic, given the reference"
    influences = 2 * (rows - rows.mean()) / (math.sqrt(n * (n - 1)) * (n - 2)) if n > 2 else None
    found = float(rows.sum()) / (n * (n - 1))
    return Estimate(found, _error(rows), n, {**facts, **(provenance or {})}, influences)


def kid_replicates(x: Tensor, y: Tensor, blocks: int, *, among_reference: float | None = None) -> Replicates:
    """KID, and (B,) with each block of samples left out: sample i is in block i mod B, given the reference.

    The replicates of two sets of samples that were drawn from the same noise are paired, and so are their jackknives.
    """
    x, y = two_sets(x, y, least=2 * blocks)
    c = kernel_mean(y) if among_reference is None else among_reference
    n, h = len(x), to_reference(x, y)
    member = torch.nn.functional.one_hot(interleaved(n, blocks), blocks).double()
    within = torch.zeros(blocks, blocks, dtype=torch.float64)
    for part, values in among_rows(x):
        within += member[part].T @ values @ member
    sizes, toward = member.sum(0), h @ member

    def value(kept: Tensor) -> float:
        count = float(sizes[kept].sum())
        pairs = float(within[kept][:, kept].sum()) / (count * (count - 1))
        return pairs - 2 * float(toward[kept].sum()) / count + c

    every = torch.arange(blocks)
    without = [value(every[every != block]) for block in range(blocks)]
    return Replicates(value(every), torch.tensor(without, dtype=torch.float64))


def kid_subsets(
    x: Tensor,
    y: Tensor,
    provenance: Mapping[str, Fact] | None = None,
    *,
    whole: Estimate,
    generator: torch.Generator,
    count: int = 100,
    size: int = 1000,
) -> Estimate:
    """The mean KID of `count` random subsets of `size` distinct samples and reference points, as papers report it.

    Its expectation over the subsets is the KID of `whole`, so the choice of subsets only adds to the error. `size` is
    at most that of either set. Raises as `kid` does.
    """
    x, y = two_sets(x, y)
    size = min(size, len(x), len(y))
    chosen_x, chosen_y = (_indicators(len(z), size, count, generator) for z in (x, y))
    n, m = len(x), len(y)
    if 3 * count * size**2 < n * n + n * m + m * m:  # one after the other is less than all pairs at once
        subsets = zip(chosen_x.bool(), chosen_y.bool(), strict=True)
        values = torch.tensor([kid(x[a], y[b]).value for a, b in subsets], dtype=torch.float64)
    else:
        values = _of_subsets(x, y, chosen_x, chosen_y, size)
    spread = float(values.std(correction=1)) if count > 1 else 0.0
    error = math.hypot(whole.std_error, spread / math.sqrt(count))
    facts: dict[str, Fact] = {
        "method": f"mean of {count} random subsets of {size}",
        "n_model": len(x),
        "n_reference": len(y),
        "subsets": count,
        "subset_size": size,
        "std_of_subsets": spread,
        "std_error": "that of KID over all pairs, and of the choice of subsets",
    }
    return Estimate(float(values.mean()), error, len(x), {**facts, **(provenance or {})})


def _indicators(n: int, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Which of n are in each subset, 0 or 1, (count, n)."""
    chosen = torch.zeros(count, n, dtype=torch.float64)
    for row in chosen:
        row[torch.randperm(n, generator=generator)[:size]] = 1.0
    return chosen


def _of_subsets(x: Tensor, y: Tensor, chosen_x: Tensor, chosen_y: Tensor, size: int) -> Tensor:
    """KID of each subset, (count,), from the kernel of all pairs, which is computed once."""
    pairs = size * (size - 1)
    values = _within(x, chosen_x) / pairs + _within(y, chosen_y) / pairs
    for part, kernel in kernel_rows(x, y):
        values -= 2 * (chosen_x[:, part] @ kernel * chosen_y).sum(1) / size**2
    return values


def _within(a: Tensor, chosen: Tensor) -> Tensor:
    """Σ_{i≠j} k(a_i, a_j) of each subset, (count,)."""
    total = torch.zeros(len(chosen), dtype=torch.float64)
    for part, values in among_rows(a):
        total += (chosen[:, part] @ values * chosen).sum(1)
    return total
