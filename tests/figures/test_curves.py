"""Curves and the heat map, read back from their axes and held against the functions they show."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from sfumato.core import CosineAngle, LogSnrLinear, RectifiedFlow, Shifted, Tabulated, Ve, VpSde
from sfumato.core.tables import CosineBetas
from sfumato.errors import ConfigError, DataError, UsageError
from sfumato.figures import embedding, losses, schedules
from sfumato.figures.heatmap import sampled_variances
from sfumato.figures.history import curve, levels, smoothed
from sfumato.figures.named import named_schedules, title_of

LEVELS = [3.0, 0.0, -3.0]


def record(count: int, *, held_out_every: int = 5) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for k in range(1, count + 1):
        line: dict[str, object] = {"step": 10 * k, "loss": 0.2 + 1 / k}
        if k % held_out_every == 0:
            by_level = {"log_snr": LEVELS, "loss": [0.1 + 1 / k, 0.2 + 1 / k, 0.4 + 1 / k]}
            line |= {"held_out_loss": 0.3 + 1 / k, "held_out_std_error": 0.01, "held_out_by_level": by_level}
        lines.append(line)
    return lines


def assert_no_labels_meet(figure: Figure) -> None:
    """Tick labels, axis labels, titles and legends: none overlaps another of its axes, all lie inside the figure."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        ticks = [
            [label for label in axis.get_ticklabels() if label.get_text() and label.get_visible()]
            for axis in (axes.xaxis, axes.yaxis)
        ]
        low, high = axes.get_window_extent().min - 1, axes.get_window_extent().max + 1
        shown = []
        for axis, labels in enumerate(ticks):
            boxes = [label.get_window_extent() for label in labels]
            middles = [(box.min + box.max)[axis] / 2 for box in boxes]
            shown += [box for box, m in zip(boxes, middles, strict=True) if low[axis] <= m <= high[axis]]
        rest = [axes.xaxis.label, axes.yaxis.label, axes._left_title]
        shown += [text.get_window_extent() for text in rest if text.get_text()]
        for index, box in enumerate(shown):
            assert not any(box.overlaps(other) for other in shown[index + 1 :]), axes.get_title("left")
            assert figure.bbox.padded(1).containsx(box.x0)
            assert figure.bbox.padded(1).containsx(box.x1)
    titles = [axes._left_title.get_window_extent() for axes in figure.axes if axes.get_title("left")]
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[i + 1 :])


def test_schedule_curves_are_the_schedules() -> None:
    """Every line equals rates(t) at its own t, from t_min to 1."""
    shown = [CosineAngle(), Tabulated(CosineBetas(), steps=200), RectifiedFlow(), VpSde(), LogSnrLinear()]
    figure = schedules(shown)
    alpha, sigma, log_snr = figure.axes
    for index, schedule in enumerate(shown):
        t = torch.as_tensor(np.array(alpha.lines[index].get_xdata()))
        assert float(t[0]) == pytest.approx(schedule.t_min)
        assert float(t[-1]) == 1.0
        rates = schedule.rates(t)
        for axes, values in ((alpha, rates.alpha), (sigma, rates.sigma), (log_snr, rates.log_snr)):
            assert np.array_equal(np.asarray(axes.lines[index].get_ydata()), values.numpy())
        assert len({axes.lines[index].get_color() for axes in figure.axes}) == 1
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [title_of(schedule) for schedule in shown]
    looks = {(line.get_color(), line.get_linestyle()) for line in alpha.lines}
    assert len(looks) == len(shown)
    assert "nats" in log_snr.get_title("left")
    assert_no_labels_meet(figure)


def test_exploding_noise_has_a_logarithmic_axis() -> None:
    assert schedules([CosineAngle(), Ve()]).axes[1].get_yscale() == "log"
    assert schedules([CosineAngle(), VpSde()]).axes[1].get_yscale() == "linear"
    assert_no_labels_meet(schedules([CosineAngle(), Ve()]))


def test_names_of_schedules() -> None:
    """Kinds without regard to case, kinds with settings, recipes, objects and a mapping of names."""
    found = named_schedules(["cosineangle", "{kind: VpSde, beta_max: 10}", "digits", Ve()])
    assert [item.name for item in found] == ["CosineAngle", "VpSde (beta max 10.0)", "digits", "Ve"]
    assert found[0].schedule == CosineAngle()
    assert found[1].schedule == VpSde(beta_max=10.0)
    assert isinstance(found[2].schedule, CosineAngle)
    assert [item.name for item in named_schedules({"mine": "Ve", "yours": Ve()})] == ["mine", "yours"]
    assert title_of(Tabulated(CosineBetas(), steps=200)) == "Tabulated (CosineBetas, steps 200)"
    assert title_of(Shifted(resolution=128)) == "Shifted (resolution 128)"
    with pytest.raises(ConfigError, match="max_signal_rate"):
        named_schedules("{kind: CosineAngle, max_signal_rate: 7}")


def test_the_heat_map_is_the_embedding() -> None:
    """Row c is sin or cos of 2π f τ with falbel's frequencies, exp(linspace(ln 1, ln 1000, 16))."""
    figure = embedding()
    values = np.asarray(figure.axes[0].images[0].get_array())
    tau = sampled_variances().numpy()
    angles = 2 * np.pi * np.exp(np.linspace(0, np.log(1000), 16))[:, None] * tau
    # float64 angles up to 6,283 carry errors of 1e-12
    assert np.allclose(values, np.concatenate([np.sin(angles), np.cos(angles)]), atol=1e-9)
    cells = np.arange(len(tau)) / len(tau)
    assert ((cells <= tau) & (tau < cells + 1 / len(tau))).all()  # one sample in each column
    assert_no_labels_meet(figure)


def test_fast_channels_show_no_bands_that_are_not_there() -> None:
    """Channels faster than the columns keep the spread of a sine, √½, and correlate with no slow wave.

    Under even sampling a fast channel is itself a slow wave: its largest correlation with one would be near 1.
    """
    fast = np.asarray(embedding().axes[0].images[0].get_array())[15]
    assert fast.std() == pytest.approx(np.sqrt(0.5), abs=0.05)
    power = np.abs(np.fft.rfft(fast)) ** 2
    assert power[1:].max() / power[1:].sum() < 0.1


@pytest.mark.parametrize("wrong", [{"channels": 3}, {"channels": 0}, {"lowest": 0.0}, {"lowest": 9.0, "highest": 1.0}])
def test_impossible_embeddings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        embedding(**wrong)


def test_loss_curves_are_the_record() -> None:
    lines = record(40)
    figure = losses({"run": lines})
    total, split = figure.axes[:2]
    raw, smooth, held_out = total.lines[:3]
    assert np.allclose(raw.get_xdata(), [line["step"] for line in lines])
    assert np.allclose(raw.get_ydata(), [line["loss"] for line in lines])
    assert raw.get_alpha() < smooth.get_alpha() if smooth.get_alpha() else raw.get_alpha() < 1
    assert np.allclose(held_out.get_ydata(), [0.3 + 1 / k for k in range(5, 41, 5)])
    (bars,) = total.collections
    spans = [segment[:, 1] for segment in bars.get_segments()]
    assert np.allclose([high - low for low, high in spans], 0.02)  # ± one standard error of 0.01
    for index in range(3):
        assert np.allclose(split.lines[index].get_ydata(), [[0.1, 0.2, 0.4][index] + 1 / k for k in range(5, 41, 5)])
    lightness = [sum(line.get_color()[:3]) for line in split.lines]
    assert lightness == sorted(lightness, reverse=True)  # high log-SNR, little noise, is light
    assert_no_labels_meet(figure)


def test_several_runs_and_long_names() -> None:
    names = ["a", "a-run-with-a-name-longer-than-anybody-would-like-to-read-it", "c"]
    figure = losses({name: record(60) for name in names})
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    written = [text.get_text() for text in legend.get_texts()]
    assert written[0] == "a"
    assert written[1].endswith("…")
    panels = [axes for axes in figure.axes if "noise level" in axes.get_title("left")]
    assert len(panels) == 3
    assert len({axes.get_ylim() for axes in panels}) == 1  # to be compared
    assert_no_labels_meet(figure)


def test_records_with_gaps() -> None:
    lines = record(10)
    lines[3]["loss"] = None
    lines[4]["held_out_std_error"] = None
    lines.append({"step": 200, "note": "no loss here"})
    assert len(curve(lines, "loss").steps) == 9
    assert np.isnan(curve(lines, "held_out_loss", error="held_out_std_error").errors[0])
    found = levels(lines)
    assert found is not None
    assert found.losses.shape == (2, 3)
    assert_no_labels_meet(losses({"run": lines}))
    assert_no_labels_meet(losses({"young": lines[:1], "new": lines[:2]}))
    assert len(losses({"run": [{"step": 1, "held_out_loss": -0.5}]}).axes) == 1


def test_other_levels_than_the_last_are_left_out() -> None:
    lines = record(10)
    lines[4]["held_out_by_level"] = {"log_snr": [1.0], "loss": [0.5]}
    found = levels(lines)
    assert found is not None
    assert found.steps.tolist() == [100.0]


def test_an_empty_record_is_refused() -> None:
    with pytest.raises(DataError, match="young"):
        losses({"young": [{"step": 1}]})


def test_smoothing_keeps_straight_lines_and_averages_noise() -> None:
    index = np.arange(50.0)
    assert np.allclose(smoothed(3 - 0.1 * index, 7), 3 - 0.1 * index)
    noise = np.random.default_rng(0).normal(size=4000)
    fitted = smoothed(noise, 12)
    assert fitted[2000] == pytest.approx(noise[1988:2013].mean())
    assert fitted[100:-100].std() == pytest.approx(1 / 5, rel=0.15)  # a mean of 25
    assert np.allclose(smoothed(noise[:1], 5), noise[:1])
    assert np.allclose(smoothed(noise, 0), noise)
    line = np.polyfit(index[:8], noise[:8], 1)
    assert smoothed(noise[:50], 7)[0] == pytest.approx(np.polyval(line, 0.0))
