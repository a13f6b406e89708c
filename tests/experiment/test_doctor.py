"""The doctor's findings: each fault is planted, found, and gone once its remedy is followed; the healthy are let be."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sfumato.data import Normalization, pack
from sfumato.errors import ConfigError, DataError, UsageError
from sfumato.experiment import build
from sfumato.experiment.build import build_network, prepare_data, resolved
from sfumato.experiment.catalog import recipe_names
from sfumato.experiment.config import load_experiment
from sfumato.experiment.doctor import Diagnosis, Layer, Learning, Remark, doctor
from sfumato.experiment.doctor.learning import Tally
from sfumato.experiment.doctor.rates import loss_on, rates_between, read_curve, smoothed
from sfumato.experiment.doctor.remarks import worst_first
from sfumato.experiment.doctor.settings import mean_age, of_average, shown_number
from sfumato.experiment.doctor.values import channels_of, of_values
from sfumato.experiment.doctor.verdicts import of_layers, of_learning, of_own_rate, of_rate
from sfumato.experiment.reporting import Silent
from sfumato.experiment.session import Session
from sfumato.training.settings import TrainingConfig

TINY = {
    "data.limit": 300,
    "data.held_out": 0.2,
    "network.widths": (8,),
    "network.depth": 1,
    "network.embedding": 8,
    "training.steps": 1000,
    "training.batch_size": 16,
    "training.ema_decay": 0.98,
    "training.precision": "float32",
}


def found(diagnosis: Diagnosis, check: str, level: str) -> list[Remark]:
    return [remark for remark in diagnosis.remarks if (remark.check, remark.level) == (check, level)]


# the average


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("steps", [1, 7, 100, 5000])
def test_the_age_of_the_average_is_that_of_its_weights(decay: float, steps: int) -> None:
    """Against the definition: the age of each summand times its share, all shares written out."""
    shares = np.zeros(steps + 1)  # of the weights after update k; 0 is the random start
    shares[0] = 1.0
    for n in range(steps):
        kept = min(decay, (1 + n) / (10 + n))
        shares *= kept
        shares[n + 1] = 1 - kept
    ages = steps - np.arange(steps + 1)
    assert mean_age(decay, steps) == pytest.approx(shares @ ages, rel=1e-9, abs=1e-12)  # float64 sums of 5000 terms


def test_the_warm_up_alone_reaches_back_a_tenth() -> None:
    assert mean_age(0.999999, 1000) == pytest.approx(100.0, rel=1e-12)


# the learning-rate curve


def test_rates_are_geometric() -> None:
    rates = rates_between(1e-5, 1e-1, 41)
    assert rates[0] == 1e-5
    assert rates[-1] == pytest.approx(1e-1, rel=1e-12)
    assert np.ptp(np.diff(np.log(rates))) < 1e-12
    for low, high, count in ((0.0, 1.0, 20), (1.0, 0.1, 20), (1e-3, 11.0, 20), (1e-3, 1.0, 5)):
        with pytest.raises(ConfigError, match="learning rates from"):
            rates_between(low, high, count)


def test_means_of_three_are_of_neighbours() -> None:
    assert smoothed([3.0, 6.0, 0.0, 9.0]) == [3.0, 3.0, 5.0, 9.0]
    assert smoothed([1.0, 3.0, math.nan]) == [1.0, 2.0, math.inf]
    assert smoothed([2.0]) == [2.0]


def test_a_curve_is_read_where_its_formula_says() -> None:
    """A fall centred on 1e-3 and a rise from 1e-1: the lowest point and the steepest one are known."""
    rates = rates_between(1e-6, 1.0, 121)  # 20 a decade
    place = np.log10(rates)
    falling = 1 / (1 + np.exp(4 * (place + 3)))
    rising = np.exp(8 * (place + 1)) / 20
    losses = (0.2 + 0.8 * falling + rising).tolist()
    curve = read_curve(rates, losses, 1.0)
    lowest = rates[int(np.argmin(losses))]
    assert curve.best == pytest.approx(lowest, rel=0.3)  # two points of the grid
    assert curve.steepest == pytest.approx(1e-3, rel=0.13)
    assert curve.recommended == pytest.approx(curve.best / 3, rel=1e-12)
    assert curve.diverged is not None
    smooth = np.array(smoothed(losses))
    fall = 1.0 - smooth.min()
    assert curve.diverged == rates[int(np.flatnonzero(smooth > smooth.min() + fall)[0])]  # back where it began


def test_what_lies_beyond_divergence_is_not_read() -> None:
    """After the steps were too long the loss may be anything, low by accident too."""
    rates = rates_between(1e-6, 1.0, 20)
    losses = [1.0] * 5 + [0.9, 0.8, 0.7, 0.8, 3.0, 5.0, 5.0] + [0.01] * 8
    curve = read_curve(rates, losses, 1.0)
    assert curve.best == rates[7]
    assert curve.diverged == rates[9] or curve.diverged == rates[8]  # means of three look one ahead


def test_a_curve_that_never_falls_names_no_rate() -> None:
    rates = rates_between(1e-6, 1.0, 12)
    curve = read_curve(rates, [1.0] * 12, 1.0)
    assert (curve.best, curve.steepest, curve.recommended, curve.diverged) == (None, None, None, None)
    [remark] = of_rate(curve, TrainingConfig())
    assert remark.level == "note"  # whether anything is learnt at all is for the two examples to say


def test_negative_losses_are_read_alike() -> None:
    """Bounds and scores have no zero: adding a constant changes nothing as long as the fall is large beside it."""
    rates = rates_between(1e-6, 1.0, 30)
    losses = [5 - 0.5 * k for k in range(20)] + [40.0] * 10
    first, second = read_curve(rates, losses, 5.5), read_curve(rates, [loss - 8 for loss in losses], -2.5)
    assert (first.best, first.diverged) == (second.best, second.diverged)


@pytest.mark.parametrize(
    ("rate", "level"), [(1e-3, "fine"), (2e-2, "fine"), (5e-2, "note"), (0.5, "warning"), (1e-5, "note")], ids=str
)
def test_the_rate_of_the_settings_is_held_against_the_curve(rate: float, level: str) -> None:
    rates = rates_between(1e-6, 1.0, 61)
    losses = [1.0 - 0.8 * k / 40 for k in range(41)] + [0.2 + 0.07 * k for k in range(20)]
    curve = read_curve(rates, losses, 1.0, examples=64)
    assert curve.best == pytest.approx(1e-2, rel=0.3)
    [remark] = of_rate(curve, TrainingConfig(learning_rate=rate))
    assert remark.level == level
    assert ("--training.learning_rate 0.003" in remark.fix) == (level != "fine")


# values


def channels(pixels: np.ndarray, **settings: Any) -> tuple[Any, Normalization]:
    packed = pack(torch.from_numpy(pixels))
    normalization = Normalization("range", (127.5,), (127.5,), size=pixels.shape[1:3])
    return channels_of(packed, normalization, torch.arange(len(pixels))), normalization


def test_levels_are_counted_exactly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), np.uint8)
    (channel,), _ = channels(pixels)
    values = pixels.astype(np.float64) / 127.5 - 1
    assert channel.mean == pytest.approx(values.mean(), abs=1e-12)
    assert channel.std == pytest.approx(values.std(), rel=1e-12)
    assert (channel.low, channel.high) == (values.min(), values.max())
    assert (channel.bound_low, channel.bound_high) == (-1.0, 1.0)


def test_pictures_of_zeros_and_ones_are_noticed() -> None:
    """Floats in [0, 1] that were stored as bytes: almost black to everybody who reads them."""
    pixels = np.random.default_rng(0).integers(0, 2, (50, 8, 8, 1), np.uint8)
    [remark] = of_values(*channels(pixels))
    assert remark.level == "warning"
    assert "within 1 of 255 levels" in remark.what
    assert "--data.value_range" in remark.fix
    [fine] = of_values(*channels(pixels * 255))
    assert fine.level == "fine"
    packed = pack(torch.from_numpy(pixels))
    mended = Normalization("standardize", (0.5,), (0.5,), size=pixels.shape[1:3])
    assert [r.level for r in of_values(channels_of(packed, mended, torch.arange(50)), mended)] == ["fine"]


def test_coordinates_are_those_of_the_whole_part() -> None:
    rows = np.random.default_rng(0).normal(3.0, 2.0, (200, 2)).astype(np.float32)
    packed = pack(torch.from_numpy(rows))
    normalization = Normalization("none", (0.0, 0.0), (1.0, 1.0))
    first, second = channels_of(packed, normalization, torch.arange(100))
    for channel, column in ((first, rows[:100, 0]), (second, rows[:100, 1])):
        assert channel.mean == pytest.approx(column.mean(dtype=np.float64), rel=1e-9)
        assert channel.std == pytest.approx(column.std(dtype=np.float64), rel=1e-6)  # E[x²] - E[x]² in float64
        assert (channel.low, channel.high) == (column.min(), column.max())
    rows[3, 1] = 1e4
    outlying = channels_of(pack(torch.from_numpy(rows)), normalization, torch.arange(200))
    assert [remark.level for remark in of_values(outlying, normalization)] == ["warning"]
    rows[:, 0] = 7.0
    flat = channels_of(pack(torch.from_numpy(rows)), normalization, torch.arange(100))
    assert "coordinate 0 is the same" in next(iter(of_values(flat, normalization))).what


# learning


def learning(losses: list[float], *, norms: list[float] | None = None, floor: bool = True, **other: Any) -> Learning:
    layers = other.pop("layers", (Layer("a", 10, 1.0, 1e-3),))
    in_time, rate = other.pop("in_time", True), other.pop("rate", 1e-3)
    return Learning(2, tuple(losses), tuple(norms or [1.0] * len(losses)), layers, in_time, floor, rate)


@pytest.mark.parametrize(
    ("case", "level"),
    [
        (learning([1.0] + [0.01] * 50), "fine"),
        (learning([1.0] + [0.5] * 199), "warning"),
        (learning([1.0] * 200), "broken"),
        (learning([1.0] * 40, in_time=False), "note"),
        (learning([1.0] * 120, in_time=False), "broken"),
        (learning([1.0] + [0.4] * 120, in_time=False), "note"),  # large networks on a CPU: falling when time was up
        (learning([1.0] + [0.2] * 199), "fine"),  # absolute errors fall to a tenth at most in so few steps
        (learning([1.0, math.nan]), "broken"),
        (learning([1.0] + [0.8] * 199, floor=False), "fine"),
        (learning([-1.0] + [-0.9] * 199, floor=False), "broken"),
    ],
)
def test_two_examples_are_judged(case: Learning, level: str) -> None:
    [remark] = of_learning(case)
    assert remark.level == level
    assert (remark.fix == "") == (level == "fine")


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (learning([1.0] + [0.1] * 59, rate=0.005), []),
        (learning([1.0] + [7.0] * 59, rate=0.1), ["1 to 7 in 60 steps"]),
        (learning([1.0, 9.0, math.inf], rate=0.1), ["not finite in 3 steps"]),
        (learning([1.0] + [7.0] * 9, rate=0.1, in_time=False), []),
        (learning([-1.0] + [-7.0] * 59, rate=0.1, floor=False), []),
        (learning([-1.0] + [7.0] * 59, rate=0.1, floor=False), ["-1 to 7"]),
    ],
)
def test_a_high_rate_is_judged_by_the_two_examples(case: Learning, told: list[str]) -> None:
    remarks = list(of_own_rate(case))
    assert len(remarks) == len(told)
    for remark, part in zip(remarks, told, strict=True):
        assert remark.level == "warning"
        assert part in remark.what
        assert "--training.learning_rate 0.01" in remark.fix


@pytest.mark.parametrize(
    ("layers", "levels"),
    [
        ((Layer("a", 1, 1.0, 1e-3), Layer("b", 1, 1.0, 2e-3)), ["fine"]),
        ((Layer("a", 1, 1.0, 1e-3), Layer("b", 1, 1.0, 0.0)), ["warning"]),
        ((Layer("a", 1, 1.0, 0.0), Layer("b", 1, 1.0, 0.0)), ["broken"]),
        ((Layer("a", 1, 1.0, 1e-3), Layer("b", 1, 1.0, 1e-9)), ["warning"]),
        ((Layer("a", 1, 1.0, 1e-3), Layer("b", 1, 1.0, 1e-3), Layer("c", 1, 1.0, 1e3)), ["warning"]),
    ],
)
def test_layers_are_judged(layers: tuple[Layer, ...], levels: list[str]) -> None:
    assert [remark.level for remark in of_layers(learning([1.0] * 20, layers=layers))] == levels


def test_a_gradient_that_explodes_is_told() -> None:
    grown = learning([1.0] * 20, norms=[1.0] * 19 + [1e5])
    assert "grew from 1 to 1e+05" in next(iter(of_layers(grown))).what


def test_the_tally_is_the_root_mean_square_over_steps() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    network[1].bias.requires_grad_(False)
    tally = Tally(network)
    squares = 0.0
    for step in range(3):
        for parameter in network[0].parameters():
            parameter.grad = torch.full_like(parameter, step + 1.0)
        squares += (step + 1.0) ** 2
        tally.add()
    first, second = tally.found()
    assert (first.name, first.parameters, second.name, second.parameters) == ("0", 9, "1", 3)
    assert first.gradient == pytest.approx(math.sqrt(squares / 3), rel=1e-12)
    assert second.dead
    weights = torch.cat([p.detach().flatten() for p in network[0].parameters()]).double()
    assert first.weight == pytest.approx(float(weights.square().mean().sqrt()), rel=1e-12)


# whole examinations


@pytest.fixture(scope="module")
def healthy() -> Diagnosis:
    return doctor("digits", TINY, seconds=60)


def test_a_healthy_experiment_is_let_be(healthy: Diagnosis) -> None:
    assert not healthy.broken
    assert {remark.check for remark in healthy.warnings} <= {"machine"}
    assert healthy.learning is not None
    assert all(not layer.dead for layer in healthy.learning.layers)
    assert healthy.learning.last < 0.5 * healthy.learning.first
    assert healthy.rate is None


def test_it_is_one_json_document(healthy: Diagnosis) -> None:
    document = json.loads(json.dumps(healthy.document()))
    assert document["healthy"] is True
    assert {"check", "level", "what", "fix"} == set(document["findings"][0])
    assert len(document["learning"]["losses"]) == document["learning"]["steps"]


def test_the_same_examination_finds_the_same_numbers(healthy: Diagnosis) -> None:
    again = doctor("digits", TINY, seconds=60)
    assert again.learning == healthy.learning
    assert again.remarks == healthy.remarks


@pytest.mark.parametrize(
    ("changes", "check", "level", "remedy"),
    [
        ({"training.ema_decay": 0.9999}, "average", "warning", {"training.ema_decay": 0.98}),
        ({"training.batch_size": 512}, "batch", "warning", {"training.batch_size": 128}),
        ({"training.warmup_steps": 900}, "warm-up", "warning", {"training.warmup_steps": 50}),
        ({"data.held_out": 0.0}, "held-out", "warning", {"data.held_out": 0.2}),
        ({"training.evaluate_every": 0}, "held-out", "warning", {"training.evaluate_every": 50}),
        (
            {"condition.labels": True, "condition.dropout": 0.0},
            "labels",
            "warning",
            {"condition.dropout": 0.1},
        ),
        (
            {"schedule.max_signal_rate": 0.9, "schedule.min_signal_rate": 0.5},
            "schedule",
            "broken",
            {"schedule.min_signal_rate": 0.01, "schedule.max_signal_rate": 0.995},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_is_found_and_its_remedy_mends_it(
    changes: dict[str, Any], check: str, level: str, remedy: dict[str, Any]
) -> None:
    sick = doctor("digits", {**TINY, **changes}, seconds=0.01)
    [remark] = found(sick, check, level)
    assert remark.fix
    mended = doctor("digits", {**TINY, **changes, **remedy}, seconds=0.01)
    assert not found(mended, check, level)


@pytest.mark.parametrize("recipe", recipe_names())
def test_no_packaged_recipe_averages_too_long(recipe: str) -> None:
    """Their decays are what was found to work, also where the warm-up of the average rules from end to end."""
    assert {remark.level for remark in of_average(load_experiment(recipe))} == {"fine"}


def test_a_rate_a_hundred_times_too_large_is_found() -> None:
    sick = doctor("digits", {"data.limit": 300, "training.learning_rate": 0.1}, seconds=60)
    [remark] = found(sick, "rate", "warning")
    assert "at training.learning_rate 0.1" in remark.what
    assert sick.learning is not None
    assert sick.learning.rate == 1e-3
    for rate in (1e-3, 5e-3):
        assert not found(doctor("digits", {**TINY, "training.learning_rate": rate}, seconds=60), "rate", "warning")


class Silenced(nn.Module):
    """A module whose output is multiplied by 0: nothing reaches it, and it reaches nothing."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = 0.0 * self.module(x)
        return made


def silence(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Plant a layer of zeros in every network that is built from here on."""

    def planted(*given: Any, **others: Any) -> nn.Module:
        network = build_network(*given, **others)
        above, _, last = name.rpartition(".")
        setattr(network.get_submodule(above), last, Silenced(network.get_submodule(name)))
        return network

    monkeypatch.setattr(build, "build_network", planted)


@pytest.mark.parametrize(("value", "said"), [(1137.8, "1,138"), (119.0, "119"), (1.14159, "1.14"), (0.01234, "0.0123")])
def test_passes_are_written_as_people_write_them(value: float, said: str) -> None:
    assert shown_number(value) == said


def test_a_layer_of_zeros_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    silence(monkeypatch, "down.0.blocks.0.conv1")
    sick = doctor("digits", TINY, seconds=60)
    [remark] = found(sick, "gradients", "warning")
    assert "down.0.blocks.0.conv1" in remark.what


def test_a_network_that_does_not_look_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told the times alone, which both examples share, it gets no farther than the mean of their two targets."""
    silence(monkeypatch, "conv_in")
    sick = doctor("digits", TINY, seconds=60)
    assert sick.learning is not None
    assert sick.learning.last > 0.3 * sick.learning.first  # half of the noise, and where the examples differ
    assert found(sick, "two examples", "warning")


def test_a_network_that_says_nothing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    silence(monkeypatch, "conv_out")
    assert {remark.check for remark in doctor("digits", TINY, seconds=60).broken} == {"two examples", "gradients"}


def test_nothing_is_dropped_out_of_what_is_learnt_by_heart() -> None:
    """With dropout the target is no function of the input, and the loss has no zero."""
    tiny = {key: value for key, value in TINY.items() if not key.startswith("network")}
    small = {"network": {"kind": "DdpmUNet", "widths": [16], "blocks": 1, "attention": [], "num_groups": 4}}
    kept, dropped = (
        doctor("digits", {**tiny, **small, "network.dropout": share}, seconds=60).learning for share in (0.0, 0.5)
    )
    assert kept == dropped


def test_the_curve_is_of_the_loss_that_training_has() -> None:
    """Networks that normalise by batches do so in it, too: averages of statistics lag behind the weights."""
    experiment = load_experiment("digits", TINY)
    data = prepare_data(experiment)
    settled = resolved(experiment, shape=data.record.shape, is_image=True)
    session = Session(settled, data, folder=Path("none"), reporter=Silent())
    for step in range(3):  # the last layer starts at 0, and hides what is before it
        session.step(step)
    examples, draw = next(iter(session.step.parts(3)))
    measured = loss_on(session, examples, draw)
    assert measured == pytest.approx(float(session.step(3).loss), rel=1e-6)  # a float32 mean of 16 losses


def test_a_schedule_that_is_refused_is_one_finding_among_others() -> None:
    sick = doctor("digits", {**TINY, "schedule.min_signal_rate": 0.5}, seconds=60)
    assert [remark.check for remark in sick.broken] == ["schedule"]
    assert sick.learning is not None
    allowed = doctor("digits", {**TINY, "schedule.min_signal_rate": 0.5, "allow_terminal_signal": True}, seconds=0.01)
    assert not allowed.broken
    assert found(allowed, "schedule", "warning")


def test_the_rate_is_found_again_digit_by_digit() -> None:
    first, second = (doctor("digits", TINY, lr=True, seconds=0.01).rate for _ in range(2))
    assert first == second
    assert first is not None
    assert first.recommended is not None
    assert 1e-3 <= first.recommended <= 3e-2  # Adam on a few thousand weights
    assert first.losses[0] == pytest.approx(first.start, rel=1e-3)  # a step of 1e-6 changes next to nothing


def test_points_and_labels_and_every_objective_have_a_doctor(tmp_path: Path) -> None:
    for recipe in ("swiss-roll", "roll-variational", "roll-score-sliced", "roll-bound"):
        diagnosis = doctor(recipe, {"data.count": 300}, seconds=0.5)
        assert diagnosis.learning is not None
        assert diagnosis.learning.finite


def test_a_run_is_examined_by_its_name(digits_run: Path) -> None:
    of_run = doctor("run", runs=digits_run.parent, seconds=0.01)
    assert of_run.experiment == load_experiment(digits_run / "config.yaml")
    before = sorted(path for path in digits_run.rglob("*"))
    doctor(digits_run, seconds=0.01)
    assert sorted(path for path in digits_run.rglob("*")) == before


def test_refusals(tmp_path: Path, mnist_in: Callable[[Path], Path]) -> None:
    with pytest.raises(ConfigError, match="there is no recipe"):
        doctor("digtis")
    with pytest.raises(UsageError, match="seconds is 0"):
        doctor("digits", TINY, seconds=0)
    with pytest.raises(DataError):
        doctor("oxford-flowers", {"data.path": str(tmp_path / "nowhere")})


def test_the_gravest_first_and_otherwise_in_order() -> None:
    remarks = [Remark("a", "fine", ""), Remark("b", "broken", ""), Remark("c", "note", ""), Remark("d", "broken", "")]
    assert [remark.check for remark in worst_first(remarks)] == ["b", "d", "c", "a"]
