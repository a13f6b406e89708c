"""Forward and reverse strips: tiles hold the right values at the right places, panels of points the same limits."""

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from sfumato.core import CosineAngle, RectifiedFlow, Tabulated, Ve, batch_noise
from sfumato.data import Normalization, Packed
from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.model import Trajectory
from sfumato.figures import animation, both_ways, forward, reverse
from sfumato.figures.noising import noised, rates_at

Data = tuple[Packed, Normalization]
MakePath = Callable[..., Trajectory]


def pictures_of(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def clouds_of(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.collections[0].get_offsets()) for axes in figure.axes]


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts if text.get_text()]


def rendered(figure: Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def test_the_forward_strip_is_the_formula(digits: Data) -> None:
    """Each tile equals to_data(alpha x0 + sigma eps), the same eps at all times and under all schedules."""
    packed, normalization = digits
    raw = packed.values[3:5]
    schedules, times = [CosineAngle(), RectifiedFlow()], (0.0, 0.3, 1.0)
    figure = forward(raw, schedules, normalization=normalization, times=times, seed=7)
    x0 = normalization.to_model(raw)
    eps = batch_noise(tuple(x0.shape), 7, "forward-figure")
    expected = []
    for schedule in schedules:
        moments = [raw]
        for t in times[1:]:
            r = schedule.rates(t)
            moments.append(normalization.to_data(float(r.alpha) * x0 + float(r.sigma) * eps))
        expected += [moment[index, ..., 0].numpy() for index in range(2) for moment in moments]
    found = pictures_of(figure)
    assert len(found) == len(expected) == 12
    for blocks, picture in zip(found, expected, strict=True):
        scale = blocks.shape[0] // 8
        assert (blocks == picture.repeat(scale, axis=0).repeat(scale, axis=1)).all()


def test_pictures_keep_their_values_in_the_file(sprites: Data) -> None:
    """The PNG holds the blocks of every tile pixel for pixel: strips are counted in pixels, so nothing is resampled."""
    packed, normalization = sprites
    raw = packed.values[[10, 700]]
    figure = forward(raw, CosineAngle(), normalization=normalization, times=(0.0, 0.5, 1.0))
    sheet = rendered(figure)
    assert sheet.shape[1] == round(figure.get_figwidth() * figure.dpi)
    for axes in figure.axes:
        box = axes.get_window_extent()
        left, top = round(box.x0), sheet.shape[0] - round(box.y1)
        blocks = np.asarray(axes.images[0].get_array())
        assert (sheet[top : top + blocks.shape[0], left : left + blocks.shape[1]] == blocks).all()


def test_points_end_in_the_prior(roll: Data) -> None:
    """At t = 1 the points are N(0, 1) in model units: 4,000 draws, so 4 standard errors are .063 and .045."""
    packed, normalization = roll
    figure = forward(packed.values, ["CosineAngle", Ve()], normalization=normalization, times=(0.0, 1.0))
    data, noise, _, exploded = clouds_of(figure)
    assert np.allclose(data, packed.values.numpy(), atol=1e-5)  # float32, to model units and back
    for cloud in (noise, exploded):
        model = normalization.to_model(torch.as_tensor(cloud, dtype=torch.float32)).numpy()
        assert np.abs(model.mean(axis=0)).max() < 0.063
        assert np.abs(model.std(axis=0) - 1).max() < 0.045


def test_panels_of_points_share_their_limits(roll: Data, trajectory: MakePath) -> None:
    packed, normalization = roll
    for figure in (
        forward(packed.values[:300], ["CosineAngle", "VpSde"], normalization=normalization),
        reverse(trajectory(packed.values[:300], normalization, CosineAngle(), 10)),
    ):
        limits = {(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}
        assert len(limits) == 1
        ((x0, x1), (y0, y1)) = limits.pop()
        assert x1 - x0 == pytest.approx(y1 - y0)
        everything = np.concatenate(clouds_of(figure))
        assert x0 < everything[:, 0].min()
        assert everything[:, 0].max() < x1
        assert y0 < everything[:, 1].min()
        assert everything[:, 1].max() < y1
        assert len({(round(a.bbox.width, 3), round(a.bbox.height, 3)) for a in figure.axes}) == 1


def test_exploding_states_are_shown_at_unit_size() -> None:
    x0, eps = torch.zeros(1, 2), torch.ones(1, 2)
    schedule = Ve()
    assert torch.allclose(noised(x0, eps, schedule.rates(1.0)), torch.ones(1, 2), atol=1e-3)  # 80/sqrt(1 + 80²)
    r = RectifiedFlow().rates(0.5)  # alpha² + sigma² = 1/2: nothing is divided
    assert torch.allclose(noised(x0, eps, r), torch.full((1, 2), float(r.sigma)))


def test_numbers_of_the_strip(roll: Data) -> None:
    """The header holds the times, the captions the schedule's log-SNR; 0 is data, and a table starts at 1/T."""
    packed, normalization = roll
    schedule = Tabulated(steps=100)
    times = (0.0, 0.001, 0.5, 1.0)
    figure = forward(packed.values[:10], {"a table": schedule}, normalization=normalization, times=times)
    levels = [schedule.log_snr(torch.tensor(t, dtype=torch.float64)) for t in (0.01, 0.5, 1.0)]
    captions = ["∞", *(f"{float(value):.1f}".replace("-", "−") for value in levels)]
    assert texts_of(figure) == ["time t", "0", "0.001", "0.5", "1", "a table", "log SNR (nats)", *captions]
    assert float(rates_at(schedule, 0.001).t) == 0.01


def test_the_reverse_strip_shows_states_and_guesses(digits: Data, trajectory: MakePath) -> None:
    packed, normalization = digits
    path = trajectory(packed.values[:4], normalization, CosineAngle(), 6)
    figure = reverse(path, columns=4, examples=2, schedule=CosineAngle())
    chosen = [0, 2, 4, 6]
    expected = []
    for index in range(2):
        expected += [path.states[k][index, ..., 0] for k in chosen]
        expected += [path.guesses[k][index, ..., 0] for k in chosen[:-1]]  # at t = 0 nothing is left to predict
    found = [blocks[:: blocks.shape[0] // 8, :: blocks.shape[1] // 8] for blocks in pictures_of(figure)]
    assert len(found) == len(expected)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert texts_of(figure)[:5] == ["time t", "1", "0.67", "0.33", "0"]
    assert "∞" in texts_of(figure)
    without = reverse(path, columns=7, examples=1, guesses=False)
    assert len(without.axes) == 7


def test_both_ways_share_their_times(digits: Data, trajectory: MakePath) -> None:
    """Examples above states, each column at one time: alpha x0 + sigma eps of the trajectory's own schedule."""
    packed, normalization = digits
    schedule = CosineAngle()
    path = trajectory(packed.values[:2], normalization, schedule, 6)
    raw = packed.values[5:7]
    figure = both_ways(path, raw, schedule, normalization=normalization, columns=3, seed=4)
    x0 = normalization.to_model(raw)
    eps = batch_noise(tuple(x0.shape), 4, "forward-figure")
    expected = []
    moments = [normalization.to_data(noised(x0, eps, rates_at(schedule, path.times[k]))) for k in (0, 3, 6)]
    for shown in (moments, [torch.as_tensor(path.states[k]) for k in (0, 3, 6)]):
        expected += [moment[index, ..., 0].numpy() for index in range(2) for moment in shown]
    found = [blocks[:: blocks.shape[0] // 8, :: blocks.shape[1] // 8] for blocks in pictures_of(figure)]
    assert len(found) == len(expected) == 12
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert (expected[2] == raw[0, ..., 0].numpy()).all()  # at t = 0 the example itself
    assert [t for t in texts_of(figure) if t in ("data to noise", "noise to data", "1", "0.5", "0")] == [
        "1",
        "0.5",
        "0",
        "data to noise",
        "noise to data",
    ]
    with pytest.raises(UsageError, match="do not go with the normalization"):
        both_ways(path, packed.values[:2, :, :, 0], schedule, normalization=normalization)
    with pytest.raises(UsageError, match="1 moments of 2 examples"):
        both_ways(path, raw, schedule, normalization=normalization, columns=1)


def test_the_reverse_strip_says_what_was_asked_for(digits: Data, trajectory: MakePath) -> None:
    """Beside the states of every example, whatever signs a name holds; below the tiles of the animation."""
    packed, normalization = digits
    path = trajectory(packed.values[:2], normalization, CosineAngle(), 4)
    told = replace(path, labels=("rose", "$5"))
    assert [text for text in texts_of(reverse(told)) if "(" in text and "x_t" in text] == [
        "$x_t$\n(rose)",
        "$x_t$\n(\\$5)",
    ]
    rendered(reverse(told))
    assert not any("(rose" in text for text in texts_of(reverse(path)))
    plain, captioned = (animation(each).frames[-1] for each in (path, told))
    assert captioned.height == plain.height + 16  # a line of text


def test_wild_predictions_do_not_shrink_the_states(roll: Data, trajectory: MakePath) -> None:
    """The panels are as wide as the states need; predictions outside are counted, not squeezed in."""
    path = trajectory(roll[0].values[:40], roll[1], CosineAngle(), 4)
    wild = path.guesses[0].copy()
    wild[:3] = 1e6
    figure = reverse(type(path)(path.times, path.states, (wild, *path.guesses[1:])))
    assert figure.axes[0].get_xlim() == reverse(path).axes[0].get_xlim()
    assert "3 predicted points lie outside the panels" in texts_of(figure)
    assert not any("outside" in text for text in texts_of(reverse(path)))


def test_no_text_of_a_strip_meets_another(digits: Data, roll: Data, trajectory: MakePath) -> None:
    """Long names are wrapped into the margin; no text leaves the figure, meets a neighbour or covers a tile."""
    name = "Tabulated (SigmoidBetas, steps 100)"
    packed, normalization = digits
    strips = [forward(packed.values[:2], {name: CosineAngle(), "b": "VpSde"}, normalization=normalization)]
    packed, normalization = roll
    strips.append(forward(packed.values[:50], [CosineAngle(), Ve()], normalization=normalization))
    strips.append(reverse(trajectory(packed.values[:50], normalization, CosineAngle(), 20), schedule=CosineAngle()))
    for figure in strips:
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
        tiles = [axes.get_window_extent() for axes in figure.axes]
        assert min(tile.x0 for tile in tiles) < 1.3 * figure.dpi  # names take little of the page
        for index, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y0 >= 0
            assert box.y1 <= figure.bbox.height
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])
            assert not any(box.overlaps(other) for other in tiles)


def test_large_pictures_make_a_finer_figure_not_a_larger_one() -> None:
    normalization = Normalization("range", (127.5,), (127.5,), (600, 400))
    raw = torch.zeros(1, 600, 400, 1, dtype=torch.uint8)
    figure = forward(raw, CosineAngle(), normalization=normalization, times=(0.0, 0.5, 1.0))
    assert figure.get_figwidth() < 7.1
    assert pictures_of(figure)[0].shape == (600, 400)


@pytest.mark.parametrize("times", [(), (0.5, 1.2), (-0.1,), (math.nan,)])
def test_bad_times_are_refused(digits: Data, times: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="times"):
        forward(digits[0].values[:1], CosineAngle(), normalization=digits[1], times=times)


def test_examples_of_other_data_are_refused(digits: Data, sprites: Data, roll: Data) -> None:
    for raw in (sprites[0].values[:1], roll[0].values[:3], digits[0].values[:0], digits[0].values[0]):
        with pytest.raises(UsageError, match="do not go with"):
            forward(raw, CosineAngle(), normalization=digits[1])
    with pytest.raises(UsageError, match="do not go with"):
        forward(digits[0].values[:1], CosineAngle(), normalization=roll[1])


def test_bad_schedules_are_refused(digits: Data) -> None:
    with pytest.raises(ConfigError, match="CosineAngel") as refusal:
        forward(digits[0].values[:1], "CosineAngel", normalization=digits[1])
    assert refusal.value.fix == "did you mean CosineAngle?"
    with pytest.raises(UsageError, match="no schedule"):
        forward(digits[0].values[:1], [], normalization=digits[1])


def test_a_trajectory_without_steps_is_refused(roll: Data, trajectory: MakePath) -> None:
    path = trajectory(roll[0].values[:3], roll[1], CosineAngle(), 2)
    with pytest.raises(UsageError, match="moments"):
        reverse(path, columns=1)
    with pytest.raises(UsageError, match="trajectory"):
        reverse(type(path)((0.0,), path.states[:1], ()))
