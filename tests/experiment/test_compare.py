"""Comparisons: the error of a difference is the truth, and a verdict is wrong as often as it says.

What does not measure the same thing is not compared.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.errors import DataError, UsageError
from sfumato.experiment.comparability import SAMPLING, direction, is_reference, mismatches
from sfumato.experiment.compare import Side, compare_sides
from sfumato.experiment.difference import LEVEL, corrected, difference_of
from sfumato.experiment.evaluations import (
    Number,
    StoredEvaluation,
    evaluation_of,
    read_evaluation,
    stored_evaluations,
)

FACTS: dict[str, Any] = {
    "run": "a",
    "digest": "aaaa",
    "steps_trained": 100,
    "weights": "ema",
    "data": "d" * 64,
    "split": "0123456789ab",
    "part": "held-out",
    "seed": 0,
    "extractor": "judge",
    "reference": "training part",
    "sampler": "Ddim(eta=0.0)",
    "steps": 50,
    "unit": "bits/dim",
    "convention": "levels",
    "draws_per_example": 16,
    "calls_per_example": 50.0,
}


def number(values: Any, **facts: Any) -> Number:
    """The mean of values, as `evaluate` stores it."""
    v = np.asarray(values, dtype=np.float64)
    influences = (v - v.mean()) / math.sqrt(len(v) * (len(v) - 1))
    error = float(v.std(ddof=1) / math.sqrt(len(v)))
    return Number(float(v.mean()), error, len(v), {**FACTS, **facts}, tuple(influences.tolist()))


def side(label: str, *metrics: dict[str, Number]) -> Side:
    return Side(label, tuple(StoredEvaluation(label, each) for each in metrics), run=label)


def pair(seed: int, n: int = 100, shift: float = 0.0, spread: float = 0.2) -> tuple[Number, Number]:
    """Two measurements on the same examples: what they have in common is far larger than what they have not."""
    rng = np.random.default_rng(seed)
    common = rng.normal(3, 1, n)
    return number(common + spread * rng.normal(size=n)), number(common + shift + spread * rng.normal(size=n), run="b")


# ------------------------------------------------------------------------------------------------------ the difference


def test_the_difference_is_that_of_the_pairs() -> None:
    """As from the values themselves; rounding of sums of 100 is left."""
    rng = np.random.default_rng(0)
    common, one, other = rng.normal(size=(3, 100))
    first, second = common + 0.3 * one, common + 0.3 * other + 0.1
    found = difference_of("loss", "a", "b", number(first), number(second))
    apart = second - first
    assert found.value == pytest.approx(apart.mean(), rel=1e-9)
    assert found.std_error == pytest.approx(apart.std(ddof=1) / 10, rel=1e-9)
    assert found.paired
    assert found.correlation == pytest.approx(np.corrcoef(first, second)[0, 1], rel=1e-9)
    stats = pytest.importorskip("scipy.stats")
    assert found.p_value == pytest.approx(stats.ttest_rel(second, first).pvalue, rel=1e-9)


def test_a_stated_error_covers_the_truth() -> None:
    """0.3 ± two of Student's errors for 29 degrees of freedom (2.045) in 95 % of 2,000 repeats: ± 4 s.e., 1.9 %.

    Independent errors would cover it in all of them: the pairs are what makes the interval narrow.
    """
    found = [difference_of("loss", "a", "b", *pair(seed, 30, shift=0.3)) for seed in range(2000)]
    covered = sum(abs(d.value - 0.3) < 2.045 * d.std_error for d in found) / 2000
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / 2000))
    assert all(d.std_error < 0.5 * math.hypot(d.one.std_error, d.other.std_error) for d in found)


def test_verdicts_are_wrong_as_often_as_they_say() -> None:
    """Five metrics without a difference, 1,000 times: one verdict or more of "better" or "worse" in 5 % at most."""
    alarms = 0
    for seed in range(1000):
        found = corrected([difference_of(f"m{k}", "a", "b", *pair(1000 * k + seed, 20)) for k in range(5)])
        alarms += any(d.corrected < LEVEL for d in found)
    assert alarms / 1000 < LEVEL + 3 * math.sqrt(0.05 * 0.95 / 1000)
    assert alarms > 10  # and not by never speaking


def test_what_influences_do_not_explain_is_added_in_full() -> None:
    """All of 50 samples right for both: the pairs say 0, and Wilson's correction of both stays."""
    sure = Number(1.0, 0.01, 50, FACTS, (0.0,) * 50)
    found = difference_of("label_agreement", "a", "b", sure, sure)
    assert found.std_error == pytest.approx(0.01 * math.sqrt(2))
    one, other = pair(3)
    more = replace(one, std_error=2 * one.std_error)
    plain, wider = difference_of("loss", "a", "b", one, other), difference_of("loss", "a", "b", more, other)
    assert wider.std_error**2 == pytest.approx(plain.std_error**2 + 3 * one.std_error**2)


def test_rounded_influences_explain_all() -> None:
    """As they are written, in nine digits: the error of the difference keeps six."""
    one, other = pair(4)
    rounded = [replace(n, influences=tuple(float(f"{u:.9g}") for u in n.influences or ())) for n in (one, other)]
    exact = difference_of("loss", "a", "b", one, other)
    assert difference_of("loss", "a", "b", rounded[0], rounded[1]).std_error == pytest.approx(exact.std_error, rel=1e-6)


def test_without_pairs_the_error_is_the_largest_there_can_be() -> None:
    one, other = pair(5, shift=5.0)
    found = difference_of("loss", "a", "b", replace(one, influences=None), other)
    assert not found.paired
    assert found.std_error == one.std_error + other.std_error
    opposed = replace(one, influences=tuple(-u for u in one.influences or ()))
    assert difference_of("loss", "a", "b", one, opposed).std_error == pytest.approx(2 * one.std_error)
    assert "largest" in found.to_plain()["difference"]["provenance"]["difference"]
    bare = [Number(v, 0.0, 10, FACTS) for v in (1.0, 2.0)]
    assert difference_of("kid", "a", "b", *bare).verdict == "no error known"


@pytest.mark.parametrize(
    ("metric", "shift", "verdict"),
    [
        ("loss[held-out]", -1.0, "better"),
        ("loss[held-out]", 1.0, "worse"),
        ("bits_per_dim[flow]", -1.0, "better"),
        ("kid[judge]", 1.0, "worse"),
        ("precision[judge]", 1.0, "better"),
        ("label_agreement", -1.0, "worse"),
        ("label_agreement[corrected]", -1.0, "worse"),
        ("class_balance[corrected]", -1.0, "better"),
        ("loss[training]", -1.0, "lower"),  # learned by heart, perhaps
        ("something_new", 1.0, "higher"),
        ("loss[held-out]", 0.0, "no difference seen"),
    ],
)
def test_verdicts(metric: str, shift: float, verdict: str) -> None:
    one, other = pair(6, shift=shift)
    found = compare_sides([side("a", {metric: one}), side("b", {metric: other})])
    assert found.differences[0].verdict == verdict


def test_a_number_beside_itself_is_the_same() -> None:
    one, _ = pair(7)
    found = compare_sides([side("a", {"loss": one}), side("b", {"loss": one})]).differences[0]
    assert (found.value, found.std_error, found.p_value, found.verdict) == (0.0, 0.0, 1.0, "the same")


# ------------------------------------------------------------------------------------------------------- comparability

APART = {
    "extractor": "pixels",
    "reference": "held-out part",
    "data": "e" * 64,
    "split": "ba9876543210",
    "part": "training",
    "seed": 1,
    "sampler": "Heun()",
    "steps": 25,
    "unit": "nats/dim",
    "convention": "density",
    "draws_per_example": 8,
    "never_heard_of": "x",
}


@pytest.mark.parametrize("fact", APART)
def test_other_settings_are_not_compared(fact: str) -> None:
    """Row H5. What nobody listed counts too; a fact that one of them does not record is another."""
    one, other = pair(8)
    other = replace(other, provenance={**other.provenance, fact: APART[fact]})
    with pytest.raises(UsageError, match=f"{fact} is ") as caught:
        compare_sides([side("a", {"kid[judge]": one}), side("b", {"kid[judge]": other})], metrics="kid")
    assert caught.value.exit_code == 2
    helps = "train both with one seed" if fact in ("data", "split") else "--measure --metrics kid"
    assert helps in caught.value.fix  # measuring runs of other examples again would end here again
    assert mismatches(other, one)[0].fact == fact


@pytest.mark.parametrize("fact", ["schedule", "measured_as"])
def test_other_losses_are_sent_to_equal_noise_levels(fact: str) -> None:
    """Measuring the same again would be refused again."""
    one, other = pair(8)
    other = replace(other, provenance={**other.provenance, fact: "x"})
    with pytest.raises(UsageError) as caught:
        compare_sides([side("a", {"noise_error[mse]": one}), side("b", {"noise_error[mse]": other})])
    assert caught.value.fix.endswith("sfumato compare a b --measure --metrics loss_by_log_snr")


def test_another_n_is_another_scale() -> None:
    """Rows E12 and H5: also where everything else is the same."""
    one, other = pair(9, 100)[0], pair(9, 200)[1]
    with pytest.raises(UsageError, match="n is 100 and 200") as caught:
        compare_sides([side("a", {"fid[judge]": one}), side("b", {"fid[judge]": other})])
    assert "same n" in caught.value.expected


def test_extractors_are_never_mixed() -> None:
    """kid[judge] of one and kid[pixels] of the other: named, or among all that they have."""
    one, other = pair(10)
    sides = [side("a", {"kid[judge]": one}), side("b", {"kid[pixels]": replace(other, provenance=FACTS)})]
    for metrics in (None, "kid"):
        with pytest.raises(UsageError, match=r"b has no kid\[judge\], and kid\[pixels\] is another quantity"):
            compare_sides(sides, metrics=metrics)


def test_the_model_and_what_was_measured_may_differ() -> None:
    one, other = pair(11)
    others = {"run": "b", "digest": "bbbb", "steps_trained": 7, "weights": "live", "calls_per_example": 99.0}
    others |= {"variance": "Large", "chain": "10 steps", "measured_now": 0.25}
    assert mismatches(one, replace(other, provenance={**FACTS, **others})) == []


def test_across_settings_of_sampling_alone() -> None:
    one, other = pair(12)
    other = replace(other, provenance={**other.provenance, "sampler": "Heun()", "steps": 25, "guidance": "2.0"})
    sides = [side("a", {"kid": one}), side("b", {"kid": other})]
    with pytest.raises(UsageError, match="sampler is"):
        compare_sides(sides, across=["steps"])
    assert compare_sides(sides, across=["steps", "sampler", "guidance"]).differences
    assert not {"n", "extractor", "reference", "data", "seed", "part"} & set(SAMPLING)


def test_long_facts_are_cut_to_where_they_differ() -> None:
    one, other = (
        replace(pair(13)[0], provenance={"measured_as": "x" * 300 + name + "y" * 300}) for name in ("Cosine", "Linear")
    )
    text = str(mismatches(one, other)[0])
    assert "Cosine" in text
    assert "Linear" in text
    assert len(text) < 140


def test_the_best_of_what_is_stored_is_taken() -> None:
    """Of several evaluations the two that measure the same thing, of most examples."""
    small, large, odd = pair(14, 50), pair(15, 200), pair(16, 300)
    first = side("a", {"loss": small[0]}, {"loss": large[0]}, {"loss": replace(odd[0], provenance={"seed": 5})})
    second = side("b", {"loss": large[1]}, {"loss": small[1]}, {"loss": odd[1]})
    found = compare_sides([first, second]).differences
    assert [d.one.n for d in found] == [200]


def test_numbers_of_the_data_are_left_out() -> None:
    one, other = pair(17)
    names = ["loss", "loss[attainable]", "loss[law]", "nll[true]", "kid[judge][floor]", "label_agreement[real]"]
    names += ["kid[judge][subsets]", "class_balance[corrected][floor]"]
    found = compare_sides([side(label, dict.fromkeys(names, n)) for label, n in (("a", one), ("b", other))])
    assert [d.metric for d in found.differences] == ["loss"]
    assert is_reference("nll[bound-true]")
    assert not is_reference("loss[held-out]")
    assert direction("nll[bound]") == "lower"


def test_several_runs_are_compared_with_the_first() -> None:
    one, other = pair(18, shift=-1.0)
    lacking = Side("d", (), "d was never evaluated", "d")
    found = compare_sides([side("a", {"loss": one}), side("b", {"loss": other}), side("c", {"loss": one}), lacking])
    assert [(d.first, d.second, d.verdict) for d in found.differences] == [("a", "b", "better"), ("a", "c", "the same")]
    assert [(u.second, u.reason) for u in found.uncompared] == [("d", "d was never evaluated")]
    document = json.loads(json.dumps(found.document()))
    assert document["runs"] == ["a", "b", "c", "d"]
    assert document["not_compared"][0]["reason"] == "d was never evaluated"
    assert {"value", "std_error", "n", "provenance"} == set(document["comparisons"][0]["difference"])


def test_who_names_a_metric_gets_it_or_an_error() -> None:
    """Of all metrics, those that fit are compared and the others are given with their reason."""
    one, other = pair(19)
    sides = [side("a", {"loss": one, "kid": one}), side("b", {"loss": other, "kid": replace(other, n=50)})]
    found = compare_sides(sides)
    assert [d.metric for d in found.differences] == ["loss"]
    assert [u.metric for u in found.uncompared] == ["kid"]
    with pytest.raises(UsageError, match="kid of a and b: n is 100 and 50"):
        compare_sides(sides, metrics=["loss", "kid"])
    with pytest.raises(UsageError, match="a has no fid; b has no fid"):
        compare_sides(sides, metrics=["fid"])


# ---------------------------------------------------------------------------------------------------- what is on disk

GOOD: dict[str, Any] = {
    "run": "a",
    "metrics": {"loss": {"value": 1.0, "std_error": 0.1, "n": 2, "provenance": {"seed": 0}}},
    "influences": {"loss": [0.1, -0.1]},
}


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    plain = json.loads(json.dumps(GOOD))
    change(plain)
    return plain


def test_a_stored_evaluation_reads_back() -> None:
    found = evaluation_of(GOOD)
    assert found.metrics["loss"] == Number(1.0, 0.1, 2, {"seed": 0}, (0.1, -0.1))
    older = evaluation_of(broken(lambda plain: plain.pop("influences")))
    assert older.metrics["loss"].influences is None


@pytest.mark.parametrize(
    "plain",
    [
        [],
        {},
        broken(lambda p: p.update(metrics=[])),
        broken(lambda p: p["metrics"].update(loss=None)),
        broken(lambda p: p["metrics"]["loss"].update(value=None)),
        broken(lambda p: p["metrics"]["loss"].update(value=math.nan)),
        broken(lambda p: p["metrics"]["loss"].update(std_error=-1)),
        broken(lambda p: p["metrics"]["loss"].update(n=True)),
        broken(lambda p: p["metrics"]["loss"].update(provenance={"seed": [0]})),
        broken(lambda p: p.update(influences=[])),
        broken(lambda p: p["influences"].update(loss=["a"])),
    ],
)
def test_what_is_no_evaluation(plain: object) -> None:
    with pytest.raises(DataError, match="cannot be used"):
        evaluation_of(plain)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"metrics": 3}', "null"])
def test_damaged_files_hide_no_others(text: str, tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "a.json").write_text(text)
    (tmp_path / "evaluations" / "b.json").write_text(json.dumps(GOOD))
    (tmp_path / "evaluations" / "c.json").mkdir()
    notes: list[str] = []
    found = stored_evaluations(tmp_path, notes.append)
    assert [e.file and e.file.name for e in found] == ["b.json"]
    assert len(notes) == 2
    with pytest.raises(DataError, match=r"a\.json"):
        read_evaluation(tmp_path / "evaluations" / "a.json")


def test_the_extractor_that_a_name_asks_for_is_measured() -> None:
    """`compare --measure --metrics kid[judge]` means the judge's features, not the usual ones."""
    from sfumato.experiment.compare import Wanted
    from sfumato.experiment.measuring import extractor_named

    assert extractor_named(["kid[judge]", "loss[held-out]"]) == "judge"
    assert extractor_named(["kid", "loss[held-out]"]) is None
    assert extractor_named(["kid[judge]", "fid[pixels]"]) is None
    numbers = {f"kid[{e}]": Number(0.1, 0.01, 9, {"extractor": e}) for e in ("judge", "pixels")}
    stored = StoredEvaluation("a", {**numbers, "loss[held-out]": Number(0.1, 0.01, 9, {})})
    assert set(Wanted("ema", extractor="judge").of(stored, None).metrics) == {"kid[judge]", "loss[held-out]"}
