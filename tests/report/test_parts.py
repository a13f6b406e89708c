"""The parts of a page by themselves: axes, numbers in words, room for pictures, tiles, and HTML as values."""

import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from sfumato.experiment.comparability import loss_settings
from sfumato.experiment.evaluations import Number
from sfumato.experiment.report.axes import Axis, axis_for, linear_ticks, log_ticks
from sfumato.experiment.report.drawing import moments
from sfumato.experiment.report.entries import Entry, Measurement
from sfumato.experiment.report.markup import Html, join, tag
from sfumato.experiment.report.naming import arm_name
from sfumato.experiment.report.numbers import columns_of
from sfumato.experiment.report.plots import Line, Plot, crowded, plot, thinned, whiskers
from sfumato.experiment.report.room import FILM, SAMPLES, film_room, samples_room
from sfumato.experiment.report.sections.curves import series, smoothed
from sfumato.experiment.report.tiles import averaged, frame_of, kind_of, picture, png, scatter, span_of, wave
from sfumato.experiment.report.wording import number, numbers, sized, title, with_error
from sfumato.experiment.sweep.axes import axis_names


@pytest.mark.parametrize("log", [False, True])
def test_places_along_an_axis(log: bool) -> None:
    """The ends lie at the ends; half way lies the mean, or the geometric mean where the axis is logarithmic."""
    axis = Axis(2.0, 32.0, 100.0, 20.0, log)
    assert axis.at(2.0) == 100.0
    assert axis.at(32.0) == pytest.approx(20.0)
    assert axis.at(8.0 if log else 17.0) == pytest.approx(60.0)
    assert axis.at(1e9) == pytest.approx(20.0)  # what lies outside stops at the end


def test_ticks_are_round_and_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        low = float(rng.normal() * 10 ** rng.uniform(-4, 5))
        high = low + float(10 ** rng.uniform(-4, 5))
        ticks = linear_ticks(low, high)
        assert 2 <= len(ticks) <= 6
        assert all(low - 1e-9 * abs(high - low) <= tick <= high + 1e-9 * abs(high - low) for tick in ticks)
        step = (ticks[1] - ticks[0]) / 10 ** math.floor(math.log10(ticks[1] - ticks[0]) + 1e-6)
        # ticks near 1e5 that lie 5e-5 apart are known to 1e-6 of their distance
        assert any(step == pytest.approx(round_, rel=1e-5) for round_ in (1, 2, 2.5, 5, 10))
    assert log_ticks(0.5, 2000.0) == (1.0, 10.0, 100.0, 1000.0)
    assert set(log_ticks(0.9, 21.0)) <= {1.0, 3.0, 10.0, 2.0, 5.0, 20.0}
    assert len(log_ticks(1e-9, 1e9)) <= 8


def test_an_axis_is_logarithmic_where_numbers_spread_far_and_are_positive() -> None:
    assert axis_for([0.1, 5.0], 0, 1).log
    assert not axis_for([0.1, 0.5], 0, 1).log
    assert not axis_for([-0.1, 5.0], 0, 1).log
    assert not axis_for([0.1, 5.0], 0, 1, log=False).log
    for values in ([3.0], [0.0, 0.0], [], [math.nan]):
        axis = axis_for(values, 0, 1, room=0.0)
        assert axis.high > axis.low


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (0.29212, 0.012, "0.292 ± 0.012"),
        (0.29212, 0.0996, "0.29 ± 0.10"),
        (0.29212, 0.00012, "0.29212 ± 0.00012"),
        (1234.56, 12.3, "1,235 ± 12"),
        (-3.14159, 0.5, "−3.14 ± 0.50"),
        (12.0, 9.96, "12 ± 10"),
        (0.5, 0.0, "0.5"),
        (0.5, math.nan, "0.5"),
        (1.5e-7, 2e-8, "1.50 × 10⁻⁷ ± 2.0 × 10⁻⁸"),
        (0.5, None, "0.5"),
        (-0.001, 0.5, "0.00 ± 0.50"),
        (-math.inf, 0.5, "−∞"),
        (math.nan, 0.5, "not a number"),
    ],
)
def test_an_error_has_two_digits_and_its_number_as_many_decimals(value: float, error: float | None, said: str) -> None:
    assert with_error(value, error) == said


def test_numbers_in_words() -> None:
    assert [number(v) for v in (0.0, 3.0, 0.25, 1234.5, 1e-5, 2.5e7, -0.5)] == [
        *("0", "3", "0.25", "1,234", "1 × 10⁻⁵", "2.5 × 10⁷", "−0.5")
    ]
    assert [number(v) for v in (math.inf, -math.inf, math.nan)] == ["∞", "−∞", "not a number"]
    assert [title(v) for v in (None, True, [1, 2], "x", 1000, 0.001)] == ["none", "yes", "1, 2", "x", "1,000", "0.001"]
    assert (sized(2_345_678), sized(9_400)) == ("2.3 MB", "9 kB")


def test_html_is_escaped_unless_it_is_html() -> None:
    assert str(tag("p", "a < b & c", cls='x"y')) == '<p class="x&quot;y">a &lt; b &amp; c</p>'
    assert str(tag("p", tag("b", 1), None, ["x", Html("<i>")], hidden=True, title=None)) == "<p hidden><b>1</b>x<i></p>"
    assert str(tag("img", alt="")) == '<img alt="">'
    assert str(tag("path", stroke_width=2, aria_label="z")) == '<path stroke-width="2" aria-label="z"></path>'
    assert str(join("a\u202eb", "c\nd\x00")) == "a\\u202ebc\nd\\x00"


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 28, 28), (3, 32, 32), (3, 256, 256), (3, 48, 200), (4, 16, 16)])
@pytest.mark.parametrize("runs", [1, 8, 60])
def test_the_worst_pictures_fit(shape: tuple[int, int, int], runs: int) -> None:
    """Pure noise, which no PNG compresses, takes no more than the room that was counted, and little is left unused."""
    channels, height, width = shape
    noise = np.random.default_rng(0).integers(0, 256, (1, height, width, channels), dtype=np.uint8)
    wanted = 36 if runs == 1 else 8
    room = samples_room(shape, runs, wanted)
    each = len(str(picture(averaged(noise, room.side)[0], said="sample of seed 12")))
    assert each * room.count * runs <= SAMPLES * 1.05
    film = film_room(shape, runs, frames=24, examples=4, rows=2)
    each = len(str(picture(averaged(noise, film.side)[0], said="seed 12, what the sampler holds, xₜ")))
    assert each * film.frames * film.examples * 2 * runs <= FILM * 1.05
    if runs <= 8 and max(shape) <= 64:
        assert room.count == wanted
        assert room.side >= max(shape)
        assert film.frames >= 8


def test_moments_are_even_and_have_both_ends() -> None:
    for count, most in ((2, 8), (26, 24), (51, 24), (1001, 24), (9, 8)):
        found = moments(count, most)
        assert (found[0], found[-1]) == (0, count - 1)
        assert len(found) == len(set(found)) == min(count, most)
        gaps = np.diff(found)
        assert gaps.max() - gaps.min() <= 1


def test_a_thinned_line_keeps_its_peaks() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=5000)
    y[1234], y[4321] = 40.0, -40.0
    line = thinned(Line("x", list(range(5000)), y.tolist()), 400)
    assert len(line.x) <= 402
    assert {(1234, 40.0), (4321, -40.0)} <= set(zip(line.x, line.y, strict=True))
    assert list(line.x) == sorted(line.x)


def test_whiskers_are_one_error_on_either_side() -> None:
    axis = Axis(0.0, 10.0, 0.0, 100.0)
    found = whiskers(4.0, 1.5, axis)
    assert found is not None
    assert (found.low, found.high) == (25.0, 55.0)
    assert whiskers(4.0, 0.0, axis) is None
    log = whiskers(0.5, 1.0, Axis(0.1, 10.0, 0.0, 100.0, log=True))
    assert log is not None
    assert log.low == 0.0  # below zero there is no place: the end of the axis


def test_the_running_mean_neither_lags_nor_bends_a_straight_line() -> None:
    values = [3 - 0.5 * k for k in range(40)]
    assert smoothed(values, 7) == pytest.approx(values)
    alternating = smoothed([(-1.0) ** k for k in range(41)], 10)
    assert max(map(abs, alternating[10:-10])) <= 1 / 21 + 1e-12


def test_pictures_keep_their_pixels_and_points_their_places() -> None:
    rng = np.random.default_rng(2)
    for channels in (1, 3):
        pixels = rng.integers(0, 256, (5, 7, channels), dtype=np.uint8)
        found = np.asarray(Image.open(io.BytesIO(png(pixels))))
        np.testing.assert_array_equal(found.reshape(5, 7, channels), pixels)
    four = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(png(four)))), np.concatenate([four[..., c] for c in range(4)], axis=1)
    )
    large = rng.integers(0, 256, (2, 128, 64, 3), dtype=np.uint8)
    small = averaged(large, 64)
    expected = large.reshape(2, 64, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - expected).max() <= 1  # rounded once along each axis
    assert [kind_of(np.zeros(s, t)) for s, t in (((2, 4, 4, 1), np.uint8), ((2, 1, 64), float), ((2, 2), float))] == [
        *("pictures", "curves", "points")
    ]


def test_a_scatter_panel_puts_up_what_is_larger() -> None:
    cloud = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    frame = frame_of([cloud])
    places = [tuple(map(float, p.removesuffix("h0").split())) for p in _dots(str(scatter(cloud, frame, said="")))]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 > x0 == x2
    assert y2 < y0 == y1  # SVG counts downwards
    assert x1 - x0 == pytest.approx(y0 - y2, abs=0.11)  # equal units along both axes; one decimal


def _dots(svg: str) -> list[str]:
    return svg.partition('d="M')[2].partition('"')[0].split("M")


def test_losses_are_one_where_all_that_makes_them_is() -> None:
    base = {"objective.distance": "Mse", "schedule.kind": "CosineAngle", "training.learning_rate": 1e-3, "seed": 0}

    def loss(**changes: object) -> object:
        return loss_settings({**base, **{k.replace("__", "."): v for k, v in changes.items()}})

    assert loss() == loss(seed=1) == loss(training__learning_rate=1.0) == loss(data__cache="off")
    assert loss() == loss(data__flip=True)
    assert loss() != loss(objective__distance="Mae")
    assert loss() != loss(schedule__kind="VpSde")
    assert loss() != loss(evaluation__noise_levels=2) == loss(evaluation__noise_levels=2, evaluation__count=9)
    assert loss() != loss(data__normalize="standardize")


@pytest.mark.parametrize(
    ("second", "digest", "even"),
    [
        ({}, "two", True),
        ({"data.noise": 0.2}, "two", False),
        ({"data.source": "folder"}, "two", False),
        ({"data.source": "folder"}, "one", True),
    ],
)
def test_points_drawn_anew_by_each_seed_share_a_column(second: dict[str, object], digest: str, even: bool) -> None:
    """Another seed draws other points of the same law; of another law, and of files, other data are other data."""

    def entry(seed: int, data: str, settings: dict[str, object]) -> Entry:
        found = Number(0.1, 0.01, 50, {"data": data, "weights": "ema"})
        measured = (Measurement({"energy_distance": found}, (), "a"),)
        return Entry(str(seed), None, measurements=measured, axes={"x": "1"}, seed=seed, settings=settings)

    law: dict[str, object] = {"data.source": "swiss-roll", "data.path": None, "data.noise": None}
    columns, uneven = columns_of([entry(0, "one", law), entry(1, digest, {**law, **second})])
    assert [column.metric for column in columns] == (["energy_distance"] if even else [])
    assert len(uneven) == (not even)


def test_arms_are_called_by_what_tells_them_apart() -> None:
    one = Entry("a", None, axes={"objective.distance": "mae", "training.learning_rate": "1e-3"}, seed=0)
    two = Entry("b", None, axes=one.axes, seed=1)
    assert arm_name(one) == "mae, learning rate 1e-3"
    assert arm_name(one, [one, two]) == "mae, learning rate 1e-3, seed 0"
    assert arm_name(Entry("run", None)) == "run"
    assert axis_names(["objective.distance", "schedule.steps+times.steps"]) == {
        "objective.distance": "distance",
        "schedule.steps+times.steps": "steps+steps",
    }
    assert axis_names(["schedule.steps", "sampling.steps"]) == {
        "schedule.steps": "schedule.steps",
        "sampling.steps": "sampling.steps",
    }


def test_ticks_say_what_they_are_at() -> None:
    """Every label, read as a number, is its tick, to a part in a million of their distance; none is there twice."""
    rng = np.random.default_rng(3)
    for _ in range(300):
        low = float(rng.normal() * 10 ** rng.uniform(-3, 4))
        high = low + abs(low) * float(10 ** rng.uniform(-4, 1))
        ticks = linear_ticks(low, high)
        said = numbers(ticks)
        assert len(set(said)) == len(said)
        for text, tick in zip(said, ticks, strict=True):
            assert _read(text) == pytest.approx(tick, abs=1e-5 * (ticks[1] - ticks[0]))
    assert numbers((0.1232, 0.1234, 0.1236)) == ["0.1232", "0.1234", "0.1236"]
    assert numbers((0.0, 0.25, 0.5)) == ["0", "0.25", "0.5"]


def _read(said: str) -> float:
    mantissa, _, exponent = said.replace("−", "-").replace(",", "").partition(" × 10")
    return float(mantissa) * 10.0 ** int(exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


@pytest.mark.parametrize(
    "values",
    [
        [1e308, -1e308],
        [5e-324, 1.0],
        [math.inf, math.nan],
        [1e-300, 1e300],
        [1e6, 1e6 + 1e-9],
        [-0.0, 0.0],
        [1e-15, 3e-15],
    ],
)
@pytest.mark.parametrize("log", [None, False, True])
def test_no_number_is_too_wild_for_a_plot(values: list[float], log: bool | None) -> None:
    line = Line("x", list(range(len(values))), values, [1e308] * len(values), look="dots")
    drawn = str(plot(Plot("wild", "step", (line,), log=log)))
    places = re.findall(r' (?:cx|cy|x|y)="([^"]*)"', drawn)
    places += re.findall(r"[MLHV](nan|inf|[-\d.e]+)", " ".join(re.findall(r' d="([^"]*)"', drawn)))
    assert places
    assert all(math.isfinite(float(place)) for place in places)


def test_gaps_are_gaps() -> None:
    """A value that was not finite breaks the line, spoils no mean beside it, and survives the thinning."""
    log = [{"step": k, "loss": None if k in (3, 700) else 1.0 + k % 2} for k in range(1, 1001)]
    steps, values, _ = series(log, "loss")
    assert [s for s, v in zip(steps, values, strict=True) if math.isnan(v)] == [3, 700]
    means = smoothed(values, 10)
    assert [s for s, v in zip(steps, means, strict=True) if math.isnan(v)] == [3, 700]
    assert means[400] == pytest.approx(1.5, abs=0.05)  # of 21 values, 1 and 2 in turn
    assert means[704] == pytest.approx(np.nanmean(values[694:715]))  # of 20, one left out
    thin = thinned(Line("x", steps, values), 100)
    assert {3, 700} <= {s for s, v in zip(thin.x, thin.y, strict=True) if math.isnan(v)}
    drawn = str(plot(Plot("loss", "step", (Line("x", steps, values),))))
    assert re.search(r'class="line"', drawn)
    assert max(path.count("M") for path in re.findall(r' d="([^"]*)"', drawn)) == 3


def test_a_crowd_of_lines_names_those_that_end_lowest() -> None:
    rng = np.random.default_rng(4)
    ends = rng.permutation(40)
    lines = [Line(str(end), [0.0, 1.0, 2.0], [50.0, float(end), math.nan]) for end in ends]
    found = crowded(lines)
    assert len(found) == 40
    assert {line.name for line in found if line.named} == {"0", "1", "2", "3", "4", "5"}
    assert all(line.look == "faint" for line in found if not line.named)
    assert len({(line.colour, line.dash) for line in found if line.named}) == 6
    assert crowded(lines[:14]) == lines[:14]


def test_a_long_curve_keeps_its_peaks_and_stays_small() -> None:
    heights = np.zeros((1, 20_000))
    heights[0, 12_345] = 1.0
    drawn = str(wave(heights, -1.0, 1.0, said="x"))
    assert len(drawn) < 8_000
    assert f"{100 * 12_345 / 19_999:.1f} 2.0" in drawn
    assert span_of(np.array([np.nan, 2.0, np.inf, -1.0])) == (-1.0, 2.0)
    assert span_of(np.array([np.nan])) == (0.0, 1.0)
