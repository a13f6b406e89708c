"""A judge's errors turned back: against closed forms, and against judges whose errors are known, many times over."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.errors import DataError, UsageError
from sfumato.metrics import (
    Correction,
    Estimate,
    agreement,
    confusion,
    corrected_agreement,
    corrected_total_variation,
    corrected_total_variation_floor,
    correction_of,
    total_variation,
    total_variation_floor,
    total_variation_influences,
)

REPEATS = 400
Floats = NDArray[np.float64]


def every(classes: int) -> Tensor:
    return torch.ones(classes, dtype=torch.bool)


def like_a_judge(classes: int, right: float, seed: int = 0) -> Floats:
    """A confusion matrix (K, K): right about `right` of each class, give or take, and more often 4 for 9 than for 0."""
    rng = np.random.default_rng(seed)
    wrong = rng.exponential(size=(classes, classes)) ** 2
    np.fill_diagonal(wrong, 0)
    share = (1 - right) * rng.uniform(0.5, 1.5, classes)
    return wrong / wrong.sum(1, keepdims=True) * share[:, None] + np.diag(1 - share)


@dataclass(frozen=True)
class World:
    """A judge of known errors M (K, K), measured on `held_out` pictures of each class (K,)."""

    judge: Floats
    held_out: NDArray[np.int64]

    def measured(self, rng: np.random.Generator) -> Correction:
        counts = np.stack([rng.multinomial(n, row) for n, row in zip(self.held_out, self.judge, strict=True)])
        return correction_of(torch.from_numpy(counts), every(len(counts)))

    def judged(self, rng: np.random.Generator, counts: NDArray[np.int64]) -> Tensor:
        """What samples are taken for, of which so many are of each class (K,); in random order."""
        found = sum(rng.multinomial(n, row) for n, row in zip(counts, self.judge, strict=True))
        return torch.from_numpy(rng.permutation(np.repeat(np.arange(len(counts)), found)))

    def agreed(self, rng: np.random.Generator, drawn: Floats, each: int) -> tuple[Tensor, Tensor]:
        """`each` samples asked to be of every class k, which are of class i with chance drawn[k, i]: asked, judged."""
        judged = [self.judged(rng, rng.multinomial(each, row)) for row in drawn]
        return torch.arange(len(drawn)).repeat_interleave(each), torch.cat(judged)

    def balanced(self, rng: np.random.Generator, classes: Floats, n: int) -> Tensor:
        """What n samples are taken for that are of class i with chance classes[i]."""
        return self.judged(rng, rng.multinomial(n, classes))


def coverage(found: list[Estimate], truth: float) -> float:
    return float(np.mean([abs(f.value - truth) < 1.96 * f.std_error for f in found]))


def mean_error(found: list[Estimate], truth: float) -> float:
    """Of the mean, in its own standard errors."""
    values = np.array([f.value for f in found])
    return float((values.mean() - truth) / values.std() * math.sqrt(len(values)))


# --------------------------------------------------------------------------------------------------------- closed forms


def test_two_classes_are_rogan_and_gladens() -> None:
    """π = (q + specificity - 1)/(sensitivity + specificity - 1), less the bias of its denominator, by hand."""
    correction = correction_of(torch.tensor([[180, 20], [80, 320]]), every(2))
    first, second, q = 0.9, 0.8, 0.3
    plain = (q + second - 1) / (first + second - 1)
    scatter_0, scatter_1 = first * (1 - first) / 199, second * (1 - second) / 399
    bias = (scatter_0 * plain - scatter_1 * (1 - plain)) / (first + second - 1) ** 2
    found = correction.inverse @ torch.tensor([q, 1 - q], dtype=torch.float64)
    assert found.tolist() == pytest.approx([plain - bias, 1 - plain + bias], rel=1e-12)


def test_two_classes_have_the_error_of_the_delta_method() -> None:
    """Of the share of class 0, by hand, from q and both rows (Rogan & Gladen 1978, eq. 5); 1 % for what is of 1/n.

    Total variation from shares (0, 1) is that share.
    """
    n, counts = 2000, torch.tensor([[1800, 200], [150, 2850]])
    judged = torch.tensor([0] * 700 + [1] * 1300)
    a, b, q = 0.9, 0.95, 0.35
    youden = a + b - 1
    p = (q + b - 1) / youden
    variance = q * (1 - q) / n + p**2 * a * (1 - a) / 1800 / (1 + 1 / 9) + (1 - p) ** 2 * b * (1 - b) / 3000
    found = corrected_total_variation(judged, torch.tensor([0.0, 1.0]), correction_of(counts, every(2)))
    assert found.value == pytest.approx(p, abs=1e-4)  # the bias of the inverse
    assert found.std_error == pytest.approx(math.sqrt(variance) / youden, rel=0.01)


def test_a_judge_that_never_errs_changes_nothing() -> None:
    """The numbers are the plain ones; their errors have what half a mistake of the judge's would add, and no more."""
    rng = np.random.default_rng(0)
    counts = torch.diag(torch.full((5,), 400))
    correction = correction_of(counts, every(5))
    asked = torch.arange(500) % 5
    judged = torch.where(torch.from_numpy(rng.random(500)) < 0.9, asked, (asked + 1) % 5)
    plain, found = agreement(asked, judged), corrected_agreement(asked, judged, correction)
    assert found.value == pytest.approx(plain.value, abs=1e-15)
    half = math.sqrt(0.5) / 2000  # half a mistake in 2,000: the variance of a share of 1/4000
    assert found.provenance["judge_std_error"] == pytest.approx(half, rel=0.15)  # where it counts is 0.9 of it
    assert found.std_error**2 == pytest.approx(plain.std_error**2 + found.provenance["judge_std_error"] ** 2, rel=1e-9)  # type: ignore[operator]
    shares = torch.tensor([0.3, 0.1, 0.2, 0.2, 0.2], dtype=torch.float64)
    apart = total_variation(torch.bincount(judged, minlength=5), shares)
    corrected = corrected_total_variation(judged, shares, correction)
    assert corrected.value == pytest.approx(apart.value, abs=1e-15)
    assert apart.std_error <= corrected.std_error == pytest.approx(apart.std_error, rel=0.01)
    assert corrected.influences is not None
    torch.testing.assert_close(corrected.influences[:500], total_variation_influences(judged, shares))
    floor = corrected_total_variation_floor(500, shares, correction)
    exact = total_variation_floor(500, shares)
    assert floor.value == pytest.approx(exact.value, rel=0.01)  # normal theory against whole numbers
    assert floor.provenance["spread"] == pytest.approx(exact.provenance["spread"], rel=0.01)


@pytest.mark.parametrize("classes", [2, 10, 102])
def test_a_judge_that_is_known_exactly_is_turned_back_exactly(classes: int) -> None:
    """π comes back from Mᵀ π: 1e-6, as far as 10⁸ pictures of each class are from infinitely many."""
    judge = like_a_judge(classes, 0.85)
    counts = torch.from_numpy(np.rint(1e8 * judge)).long()
    correction = correction_of(counts, every(classes))
    classes_drawn = np.random.default_rng(1).dirichlet(np.ones(classes))
    found = correction.inverse @ torch.from_numpy(judge.T @ classes_drawn)
    assert found.numpy() == pytest.approx(classes_drawn, abs=1e-6)
    assert correction.inverse.sum(0).numpy() == pytest.approx(np.ones(classes), abs=1e-12)  # shares stay shares


def test_the_agreement_of_classes_is_the_mean_of_each_classes_share() -> None:
    """Σ_k w_k (A q^k)_k, class by class, with classes asked for unequally often: 1e-12."""
    rng = np.random.default_rng(2)
    counts = torch.from_numpy(rng.multinomial(90, np.full(9, 1 / 9)).reshape(3, 3)) + torch.diag(torch.full((3,), 100))
    correction = correction_of(counts, every(3))
    asked, judged = torch.tensor([0] * 50 + [1] * 30 + [2] * 20), torch.from_numpy(rng.integers(3, size=100))
    table = confusion(asked, judged, 3).double()
    each = [float((correction.inverse @ (row / row.sum()))[k]) for k, row in enumerate(table)]
    expected = 0.5 * each[0] + 0.3 * each[1] + 0.2 * each[2]
    assert corrected_agreement(asked, judged, correction).value == pytest.approx(expected, abs=1e-12)


# -------------------------------------------------------------------------------------------------------- stated errors

WORLDS = {
    "two": World(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([150, 80])),
    "ten": World(like_a_judge(10, 0.85), np.full(10, 100)),
    "few": World(like_a_judge(20, 0.8), np.full(20, 25)),
}


def confused(classes: int, right: float) -> Floats:
    """What a model draws that is asked for k: k, or in its place any other."""
    return np.full((classes, classes), (1 - right) / (classes - 1)) * (1 - np.eye(classes)) + right * np.eye(classes)


@pytest.mark.parametrize("name", WORLDS)
def test_a_stated_error_of_an_agreement_covers_the_truth(name: str) -> None:
    """95 ± 3 % of 400 repeats, each with pictures held out anew; their mean is within 4 of its own errors."""
    world, rng = WORLDS[name], np.random.default_rng(3)
    classes = len(world.judge)
    drawn, each = confused(classes, 0.8), 400 // classes
    found = [corrected_agreement(*world.agreed(rng, drawn, each), world.measured(rng)) for _ in range(REPEATS)]
    assert coverage(found, 0.8) == pytest.approx(0.95, abs=0.03)
    assert abs(mean_error(found, 0.8)) < 4
    assert np.mean([f.std_error for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=0.12)
    without = [math.sqrt(f.std_error**2 - f.provenance["judge_std_error"] ** 2) for f in found]  # type: ignore[operator]
    assert np.mean(without) < 0.95 * np.std([f.value for f in found])  # the samples alone do not explain it


@pytest.mark.parametrize("name", WORLDS)
def test_a_stated_error_of_a_total_variation_covers_the_truth(name: str) -> None:
    """Far from the floor, where no share of a class is near the data's: 95 ± 3 % of 400 repeats."""
    world, rng = WORLDS[name], np.random.default_rng(4)
    classes = len(world.judge)
    shares = np.full(classes, 1 / classes)
    drawn = shares * np.where(np.arange(classes) % 2 == 0, 1.6, 0.4)
    truth = 0.5 * float(np.abs(drawn - shares).sum())
    p, n = torch.from_numpy(shares), 200 * classes
    found = [corrected_total_variation(world.balanced(rng, drawn, n), p, world.measured(rng)) for _ in range(REPEATS)]
    assert coverage(found, truth) == pytest.approx(0.95, abs=0.03)
    assert np.mean([f.std_error for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=0.12)


def test_near_perfection_the_error_is_too_large_rather_than_too_small() -> None:
    """A perfect model, and a judge that errs once in 300 of 1,000 pictures: a few mistakes, of which some may be 0.

    Few intervals miss the truth, 1. The numbers, some above 1, are right in the mean; cut off at 1 they would not be.
    """
    world, rng = World(like_a_judge(10, 1 - 1 / 300), np.full(10, 100)), np.random.default_rng(5)
    found = [corrected_agreement(*world.agreed(rng, np.eye(10), 50), world.measured(rng)) for _ in range(REPEATS)]
    assert coverage(found, 1.0) >= 0.92
    assert abs(mean_error(found, 1.0)) < 4
    values = np.array([f.value for f in found])
    assert values.max() > 1
    cut = np.minimum(values, 1)
    assert (cut.mean() - 1) / cut.std() * math.sqrt(REPEATS) < -8


def test_few_pictures_of_many_classes_leave_no_bias() -> None:
    """Twelve of each of 40 classes: M⁻ᵀ alone is too large by half an error of a single number."""
    world, rng = World(like_a_judge(40, 0.85), np.full(40, 12)), np.random.default_rng(6)
    found, plain = [], []
    for _ in range(REPEATS // 2):
        asked, judged = world.agreed(rng, confused(40, 0.9), 20)
        correction = world.measured(rng)
        found.append(corrected_agreement(asked, judged, correction))
        plain.append(float(torch.linalg.inv(correction.confusion.T)[asked, judged].mean()))
    error = np.mean([f.std_error for f in found])
    assert abs(np.mean([f.value for f in found]) - 0.9) < 0.3 * error
    assert np.mean(plain) - 0.9 > 0.4 * error
    assert coverage(found, 0.9) > 0.92


def test_near_the_limit_of_refusal_intervals_hold_less() -> None:
    """A judge of two classes that is right in 70 % of 40 pictures each: some measure it as too bad, and are refused.

    Of the others' intervals some 90 % hold the truth, as the documentation says, and none is far off.
    """
    world, rng = World(np.array([[0.7, 0.3], [0.3, 0.7]]), np.array([40, 40])), np.random.default_rng(9)
    found, refused = [], 0
    for _ in range(REPEATS):
        try:
            found.append(corrected_agreement(*world.agreed(rng, confused(2, 0.8), 200), world.measured(rng)))
        except DataError:
            refused += 1
    assert 0.02 < refused / REPEATS < 0.2
    assert 0.85 < coverage(found, 0.8) < 0.97
    assert max(abs(f.value - 0.8) for f in found) < 0.4


@pytest.mark.parametrize("name", WORLDS)
def test_the_floor_is_what_the_datas_shares_have(name: str) -> None:
    """Mean and spread of 400 numbers whose samples are of the data's shares; the judge's part is most of it.

    A mean of 400 is known to a few per cent of the spread, a spread of 400 to 4 %; normal theory adds a little.
    """
    world, rng = WORLDS[name], np.random.default_rng(7)
    classes = len(world.judge)
    shares = np.linspace(1, 2, classes) / np.linspace(1, 2, classes).sum()
    p, n = torch.from_numpy(shares), 100 * classes
    values, floors, spreads = [], [], []
    for _ in range(REPEATS):
        correction = world.measured(rng)
        values.append(corrected_total_variation(world.balanced(rng, shares, n), p, correction).value)
        floor = corrected_total_variation_floor(n, p, correction)
        floors.append(floor.value)
        spreads.append(float(floor.provenance["spread"]))  # type: ignore[arg-type]
    assert np.mean(floors) == pytest.approx(np.mean(values), abs=4 * np.std(values) / 20)
    assert np.mean(spreads) == pytest.approx(np.std(values), rel=0.16)
    assert np.mean(floors) > 1.15 * total_variation_floor(n, p).value


def test_two_models_share_the_errors_of_their_judge() -> None:
    """The scatter of the difference is that of the paired influences, far less than that of either number: 15 %.

    What is unexplained by them, half a mistake, is small.
    """
    world, rng = World(like_a_judge(5, 0.8), np.full(5, 40)), np.random.default_rng(8)
    drawn, shares = confused(5, 0.9), torch.full((5,), 0.2, dtype=torch.float64)
    apart, stated, alone, balance = [], [], [], []
    for _ in range(REPEATS):
        correction = world.measured(rng)
        (asked, first), (_, second) = (world.agreed(rng, drawn, 400) for _ in range(2))
        one, other = (corrected_agreement(asked, judged, correction) for judged in (first, second))
        assert one.influences is not None
        assert other.influences is not None
        assert float(one.influences.norm()) == pytest.approx(one.std_error, rel=0.02)
        apart.append(one.value - other.value)
        stated.append(float((one.influences - other.influences).norm()))
        alone.append(one.std_error)
        found = corrected_total_variation(first, shares, correction)
        assert found.influences is not None
        balance.append(float(found.influences.norm()) / found.std_error)
    assert np.mean(stated) == pytest.approx(np.std(apart), rel=0.15)
    assert np.mean(stated) < 0.8 * np.mean(alone) * math.sqrt(2)
    assert min(balance) > 0.97


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([[20, 0, 0], [0, 20, 0], [0, 0, 1]], "fewer than two real pictures of 1 classes"),
        ([[20, 20, 0], [20, 20, 0], [0, 0, 9]], "says the same of different mixtures"),
        ([[5, 3, 1], [3, 5, 1], [1, 1, 5]], "for 25 held-out pictures"),
    ],
    ids=["unseen", "singular", "bad"],
)
def test_a_judge_whose_errors_cannot_be_turned_back_is_refused(counts: list[list[int]], why: str) -> None:
    with pytest.raises(DataError, match=why):
        correction_of(torch.tensor(counts), every(3))


def test_a_class_that_does_not_matter_needs_no_pictures() -> None:
    """Neither asked for nor in the data: of the others all is as without it."""
    whole = torch.tensor([[30, 10, 0], [5, 45, 0], [0, 0, 0]])
    found = correction_of(whole, torch.tensor([True, True, False]))
    expected = correction_of(whole[:2, :2], every(2))
    torch.testing.assert_close(found.inverse[:2, :2], expected.inverse)
    asked, judged = torch.tensor([0, 1] * 20), torch.tensor([0, 1, 1, 1] * 10)
    one, other = (corrected_agreement(asked, judged, correction) for correction in (found, expected))
    assert one.value == pytest.approx(other.value, rel=1e-12)
    assert one.std_error == pytest.approx(other.std_error, rel=0.05)  # half a mistake is spread over three classes
    with pytest.raises(DataError, match="of 1 classes"):
        correction_of(whole, every(3))


def test_what_was_folded_in_is_told() -> None:
    counts = torch.tensor([[30, 10], [5, 45]])
    found = corrected_agreement(torch.tensor([0, 1]), torch.tensor([0, 1]), correction_of(counts, every(2)))
    other = correction_of(counts.T.contiguous() + torch.tensor([[5, 0], [0, -5]]), every(2))
    facts = found.provenance
    assert facts["judge_confusion_n"] == 90
    assert facts["judge_confusion"] != other.facts["judge_confusion"]
    assert "confusion" in str(facts["corrected_for"])
    assert isinstance(facts["judge_confusion_scatter"], float)
    with pytest.raises(UsageError, match="0 examples"):
        corrected_agreement(torch.zeros(0).long(), torch.zeros(0).long(), other)
