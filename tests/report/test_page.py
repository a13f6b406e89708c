"""The page of a run: what it shows is what the run is, drawn, logged and measured; and it asks nobody for anything."""

import base64
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfumato
from sfumato.errors import UsageError
from sfumato.experiment.build import prepare_data
from sfumato.experiment.load import read_run_config
from sfumato.guidance import LowResolution

COUNT, SEED, STEPS = 6, 3, 5


def model_of(folder: Path) -> Any:
    """The model, and its sampling in a micro-batch of the samples of the page."""
    model = sfumato.load(folder)
    return model, replace(model.experiment.sampling, micro_batch=COUNT)


# ---------------------------------------------------------------------------------------------- what is shown is true


def test_samples_are_those_that_the_model_draws(page: Any, digits: Path, pixels: Callable[[Any], Any]) -> None:
    """Bit for bit, in the order of their seeds."""
    model, config = model_of(digits)
    expected = model.sample(COUNT, seed=SEED, config=config).images[..., 0]
    figures = page.section("samples").all("figure")
    assert [figure.one("figcaption").text for figure in figures] == [str(SEED + i) for i in range(COUNT)]
    np.testing.assert_array_equal([pixels(figure.one("img")) for figure in figures], expected)


def test_the_film_is_the_way_of_the_sampler(page: Any, digits: Path, pixels: Callable[[Any], Any]) -> None:
    """Every moment shows x_t and the expected x_0 of the first four samples; the last one shows the samples."""
    model, config = model_of(digits)
    path = model.path(COUNT, seed=SEED, config=config)
    shown = page.section("film").all("figure", "moment")
    assert len(shown) == STEPS + 1
    for index, moment in enumerate(shown):
        states, guesses = moment.all("div", "stack")
        expected = path.guesses[index] if index < STEPS else path.states[-1]
        np.testing.assert_array_equal([pixels(img) for img in states.all("img")], path.states[index][:4, ..., 0])
        np.testing.assert_array_equal([pixels(img) for img in guesses.all("img")], expected[:4, ..., 0])
        said = moment.attrs["data-said"]
        assert said.startswith(f"step {index} of {STEPS}, t = {path.times[index]:.3f}")
        if index < STEPS:
            level = float(model.denoiser.schedule.log_snr(model_time(path.times[index])))
            assert float(said.rpartition("log SNR ")[2].replace("−", "-")) == pytest.approx(
                level, abs=0.051
            )  # 1 decimal
    assert "now" in shown[-1].attrs["class"].split()
    controls = page.section("film").one("div", "controls")
    assert "hidden" in controls.attrs  # until a script is there to move it
    assert controls.one("input").attrs["max"] == str(STEPS)


def model_time(t: float) -> Any:
    import torch

    return torch.tensor(t, dtype=torch.float64)


def test_the_curves_are_those_of_the_log(page: Any, digits: Path) -> None:
    """The held-out loss and its whiskers, read back off the plot by the numbers at its axes."""
    entries = [json.loads(line) for line in (digits / "metrics.jsonl").read_text().splitlines()]
    held = [entry for entry in entries if "held_out_loss" in entry]
    figure = next(f for f in page.section("training").all("figure") if f.one("b").text == "loss")
    value = y_axis(figure)
    curve = figure.all("svg")[0].all("g", "dots")[0]
    heights = [value(float(dot.attrs["cy"])) for dot in curve.all("circle")]
    # places have one decimal of about 200 units, which a loss spans: 0.1 % and a little for a logarithmic axis
    assert heights == pytest.approx([entry["held_out_loss"] for entry in held], rel=4e-3)
    for whisker, entry in zip(curve.all("path", "whisker"), held, strict=True):
        low, high = (float(place) for place in re.match(r"M\S+ (\S+?)V([\d.]+)", whisker.attrs["d"]).groups())
        spread = value(high) - value(low)
        assert spread == pytest.approx(2 * entry["held_out_std_error"], rel=0.1)  # short ones, by the same decimals


def y_axis(figure: Any) -> Callable[[float], float]:
    """From places to numbers, by the first and the last tick of the y axis."""
    drawn = figure.all("svg")[0].all("text", "end")[:-1]
    ticks = [(float(t.attrs["y"]) - 3.5, float(t.text.replace("−", "-"))) for t in drawn]
    (a, low), (b, high) = ticks[0], ticks[-1]
    middle = [(place, number) for place, number in ticks[1:-1]]
    linear = all(number == pytest.approx(low + (high - low) * (p - a) / (b - a), rel=0.02) for p, number in middle)
    if linear:
        return lambda place: low + (high - low) * (place - a) / (b - a)
    return lambda place: low * (high / low) ** ((place - a) / (b - a))


def test_neighbours_are_the_nearest_of_all(page: Any, digits: Path) -> None:
    """By looking at every pair: the ratio of the smallest distances to either side, and the place of the nearest."""
    data = prepare_data(read_run_config(digits))
    model, config = model_of(digits)
    flat = model.sample(COUNT, seed=SEED, config=config).images.reshape(COUNT, -1).astype(float)
    values = data.packed.values.numpy().reshape(len(data.packed), -1).astype(float)
    apart = np.linalg.norm(flat[:, None] - values[None], axis=2)
    train, held = data.parts.train.numpy(), data.parts.held_out.numpy()
    ratio = apart[:, train].min(1) / apart[:, held].min(1)
    nearest = train[apart[:, train].argmin(1)]
    for figure, index in zip(page.section("neighbours").all("figure"), np.argsort(ratio, kind="stable"), strict=True):
        words = figure.one("figcaption").text
        found = re.fullmatch(r"([\d.]+)seed (\d+)tr. (\d+)", words)
        assert found is not None, words
        assert float(found[1]) == pytest.approx(ratio[index], rel=0.06)  # two digits
        assert (int(found[2]), int(found[3])) == (SEED + index, nearest[index])


def test_pictures_of_the_data_are_shown_only_when_asked_for(
    page: Any, digits: Path, tmp_path: Path, read: Any, pixels: Any
) -> None:
    data = prepare_data(read_run_config(digits)).packed.values.numpy()[..., 0]
    known = {picture.tobytes() for picture in data}
    shown = [pixels(img) for img in page.all("img") if "sheet" not in img.attrs["class"]]
    assert len(shown) > COUNT
    assert not known & {picture.tobytes() for picture in shown}
    real = read(sfumato.report(digits, tmp_path / "real.html", n=COUNT, seed=SEED, real=True))
    for figure in real.section("neighbours").all("figure"):
        _, original, unseen = figure.all("img")
        for img in (original, unseen):
            place = int(img.attrs["alt"].rpartition(" ")[2])
            np.testing.assert_array_equal(pixels(img), data[place])


def test_numbers_stand_with_their_errors_floors_and_notes(
    digits: Path, tmp_path: Path, read: Any, measure: Callable[..., None]
) -> None:
    run = shutil.copytree(digits, tmp_path / "run")
    measure(run, {"kid[judge]": (0.04321, 0.00123, 200), "kid[judge][floor]": (0.001, 0.0004, 200)}, extractor="judge")
    bins = {f"loss_by_log_snr[{k}..{k + 2}][held-out]": (0.5 - k / 10, 0.01, 200) for k in range(-2, 4, 2)}
    measure(run, bins)
    found = read(sfumato.report(run, n=0))
    rows = [[cell.text for cell in row.all("td")] for row in found.section("metrics").all("tr")]
    assert ["0.0432 ± 0.0012", "200", "lower is better"] in rows
    assert ["0.00100 ± 0.00040", "200", "what real data or chance score"] in rows
    assert "a note < that > one must know" in found.section("metrics").text
    assert "kid · judge" in found.one("header").text
    assert "judge" in found.section("metrics").text
    curve = found.section("levels").all("g", "dots")[0]
    x = [float(dot.attrs["cx"]) for dot in curve.all("circle")]
    assert x == sorted(x)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)  # bins of equal width; places have one decimal


def test_evaluations_of_other_weights_are_not_those_of_the_page(
    digits: Path, tmp_path: Path, read: Any, measure: Callable[..., None]
) -> None:
    run = shutil.copytree(digits, tmp_path / "run")
    measure(run, {"kid[judge]": (0.5, 0.01, 200)})
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    found = read(sfumato.report(run, n=0))
    assert "not measured yet" in found.section("metrics").text
    assert "kid" not in found.one("header").text
    assert "0.500 ± 0.010" in found.section("metrics").all("details")[0].text


def test_points_stand_before_the_data_that_were_made_for_them(points: Path, tmp_path: Path, read: Any) -> None:
    found = read(sfumato.report(points, tmp_path / "points.html", n=50))
    panel = found.section("samples").one("svg", "panel")
    behind, cloud = panel.all("path", "cloud")
    assert "behind" in behind.attrs["class"]
    assert cloud.attrs["d"].count("M") > 900  # a thousand samples, a few of them outside the frame
    assert "neighbours" not in found.sections
    assert len(found.section("film").all("figure", "moment")) > 5


# ------------------------------------------------------------------------------------------------------- self-contained

REACHING = {"src", "href", "srcset", "action", "formaction", "poster", "background", "cite", "ping", "xlink:href"}


def test_nothing_is_asked_of_anybody(page: Any) -> None:
    """No element names another place than the page itself, and a policy forbids the browser what we forgot."""
    for node in page.walk():
        for name, value in node.attrs.items():
            if name in REACHING or (node.tag == "object" and name == "data"):
                assert value.startswith(("data:", "#")), (node.tag, name, value[:80])
            assert not name.startswith("on"), (node.tag, name)
            assert "url(" not in value, (node.tag, name)
    assert not page.all("iframe") + page.all("object") + page.all("embed") + page.all("base") + page.all("form")
    style, script = page.one("style").text, page.one("script").text
    for text in (style, script):
        assert not re.search(r"url\(|@import|https?:|//\w+\.\w|fetch|XMLHttp|import\(|WebSocket|sendBeacon", text)
    policy = next(
        m.attrs["content"] for m in page.all("meta") if m.attrs.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_it_can_be_read_by_everybody(page: Any) -> None:
    """What assistive technology needs: language, title, names of pictures, unique ids, links that lead somewhere."""
    assert page.one("html").attrs["lang"] == "en"
    assert page.one("title").text.strip()
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("nav")) == 1
    ids = [node.attrs["id"] for node in page.walk() if "id" in node.attrs]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert link.attrs["href"].removeprefix("#") in ids
    for node in page.all("img"):
        assert "alt" in node.attrs
    for node in page.all("svg"):
        assert node.attrs.get("aria-hidden") == "true" or (node.attrs["role"] == "img" and "aria-label" in node.attrs)
    for table in page.all("table"):
        assert all("scope" in cell.attrs for cell in table.all("th"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page: Any, scheme: str) -> None:
    """WCAG 2.2: 4.5 to 1 for text, 3 to 1 for lines of plots, by the colours of the style sheet."""
    blocks = re.findall(r":root \{([^}]*)\}", page.one("style").text)
    colours: dict[str, str] = {}
    for block in blocks[: 1 if scheme == "light" else 2]:
        colours.update(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block))
    for behind in ("paper", "sheet", "wash"):
        for text in ("ink", "soft", "accent", "good", "bad", "wait"):
            assert contrast(colours[text], colours[behind]) >= 4.5, (scheme, text, behind)
        for line in range(7):
            assert contrast(colours[f"c{line}"], colours[behind]) >= 3 or behind == "wash", (scheme, line, behind)
    assert contrast(colours["paper"], colours["accent"]) >= 4.5  # the button


def contrast(one: str, other: str) -> float:
    """The ratio of relative luminances, WCAG 2.2."""

    def luminance(colour: str) -> float:
        shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_what_a_run_says_of_itself_stays_text(digits: Path, tmp_path: Path, read: Any) -> None:
    """A hostile description, command or class name can neither run nor load anything."""
    run = shutil.copytree(digits, tmp_path / "run")
    bad = "</script><script>alert(1)</script><img src=http://x.example/y onerror=alert(2)>\u202e"
    environment = json.loads((run / "environment.json").read_text())
    environment["command"], environment["platform"] = ["sfumato", bad], bad
    (run / "environment.json").write_text(json.dumps(environment))
    config = (run / "config.yaml").read_text("utf-8")
    (run / "config.yaml").write_text(
        re.sub(r"(?m)^description:.*$", lambda found: f"description: {json.dumps(bad)}", config), "utf-8"
    )
    found = read(sfumato.report(run, n=0))
    assert len(found.all("script")) == 1
    assert not [node for node in found.all("img") if "http" in node.attrs["src"]]
    assert "alert(1)" not in found.one("script").text
    assert bad.replace("\u202e", "\\u202e") in found.one("p", "lead").text


# -------------------------------------------------------------------------------------------------- whatever there is


def test_the_same_run_makes_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    one, other = (sfumato.report(digits, tmp_path / f"{k}.html", n=2, command="x").read_bytes() for k in "ab")
    assert one == other


def test_a_run_without_a_sound_checkpoint_is_told_all_the_same(digits: Path, tmp_path: Path, read: Any) -> None:
    run = shutil.copytree(digits, tmp_path / "run")
    for weights in run.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"torn")
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 13, "lo')
    (run / "evaluations").mkdir()
    (run / "evaluations" / "x.json").write_text("{")
    (run / "environment.json").write_text("[]")
    found = read(sfumato.report(run, n=2))
    said = found.one("header").text
    assert "nothing is drawn" in said
    assert "torn" in said
    assert "x.json" in said
    assert {"training", "settings"} <= set(found.sections)
    assert not {"samples", "film", "neighbours", "schedule"} & set(found.sections)


def test_data_that_are_gone_cost_the_comparison_alone(
    digits: Path, tmp_path: Path, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.errors import DataError
    from sfumato.experiment.evaluation import subject
    from sfumato.experiment.report import neighbours

    def gone(model: object) -> None:
        raise DataError("the pictures are gone", expected="pictures", fix="put them back")

    assert neighbours.data_of is subject.data_of
    monkeypatch.setattr(neighbours, "data_of", gone)
    found = read(sfumato.report(digits, tmp_path / "x.html", n=2))
    assert "the pictures are gone" in found.one("header").text
    assert "samples" in found.sections
    assert "neighbours" not in found.sections


def test_an_earlier_checkpoint_has_a_page_of_its_own(digits: Path, tmp_path: Path, read: Any, pixels: Any) -> None:
    run = shutil.copytree(digits, tmp_path / "run")
    target = sfumato.report(run / "checkpoints" / "step-00000006", n=2)
    assert target == run / "report-step-00000006.html"
    found = read(target)
    assert "weights after step 6" in found.section("samples").text
    expected = sfumato.load(run / "checkpoints" / "step-00000006")
    config = replace(expected.experiment.sampling, micro_batch=2)
    shown = [pixels(img) for img in found.section("samples").all("img")]
    np.testing.assert_array_equal(shown, expected.sample(2, config=config).images[..., 0])


def test_an_exported_model_has_a_page(digits: Path, tmp_path: Path, read: Any) -> None:
    file = sfumato.export(digits, tmp_path / "model.safetensors")
    target = sfumato.report(file, n=2)
    assert target == tmp_path / "model.html"
    found = read(target)
    assert {"samples", "schedule", "settings"} <= set(found.sections)
    assert not {"training", "metrics"} & set(found.sections)


def test_other_files_are_left_alone_and_reports_replaced(digits: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.html"
    target.write_text("<p>my own page")
    with pytest.raises(UsageError, match=r"mine\.html exists already, and is no report"):
        sfumato.report(digits, target, n=0)
    assert target.read_text() == "<p>my own page"
    sfumato.report(digits, target, n=0, force=True)
    size = target.stat().st_size
    assert size > 1000
    assert sfumato.report(digits, target, n=0).stat().st_size == size
    for wrong in (tmp_path, tmp_path / "page.pdf"):
        with pytest.raises(UsageError, match="out is"):
            sfumato.report(digits, wrong, n=0)
    with pytest.raises(UsageError, match="-1 samples"):
        sfumato.report(digits, target, n=-1)


def test_the_command_draws_the_samples_again(page: Any, digits: Path) -> None:
    lines = [node.text for node in page.section("commands").all("code")]
    again = next(line for line in lines if line.startswith("sfumato sample"))
    assert again == f"sfumato sample {digits} -n 6 --seed 3 --micro_batch 6 --out samples.npz"


def test_the_schedule_is_drawn_to_its_formula(page: Any) -> None:
    """CosineAngle: alpha = cos(angle), sigma = sin(angle), so that alpha² + sigma² = 1 wherever they are read off."""
    by_name = {figure.one("b").text: figure for figure in page.section("schedule").all("figure")}
    curves = []
    for name in ("signal rate α", "noise rate σ"):
        value = y_axis(by_name[name])
        line = by_name[name].one("path", "line").attrs["d"]
        curves.append([value(float(place)) for place in re.findall(r"[ML][\d.]+ ([\d.]+)", line)])
    for alpha, sigma in zip(*curves, strict=True):
        assert math.hypot(alpha, sigma) == pytest.approx(1, abs=2e-3)  # places have one decimal of 200 units


# ------------------------------------------------------------------------------------------------- models that are told


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Callable[..., Path]:
    """Trains a tiny run of digits with other settings."""

    def train(name: str, **settings: object) -> Path:
        small = {"training.steps": 2, "training.preview_every": 1, "training.checkpoint_every": 2}
        changed = {**small, **{key.replace("__", "."): value for key, value in settings.items()}}
        runs = tmp_path_factory.mktemp("told")
        return sfumato.train(digits / "config.yaml", changed, runs=runs, name=name).folder

    return train


def test_classes_take_turns_and_are_named(told: Any, tmp_path: Path, read: Any, pixels: Any) -> None:
    run = told("classes", condition__labels=True)
    found = read(sfumato.report(run, n=4))
    figures = found.section("samples").all("figure")
    model = sfumato.load(run)
    assert [figure.one("figcaption").text for figure in figures] == [model.record.called(k) for k in range(4)]
    config = replace(model.experiment.sampling, micro_batch=4)
    expected = model.sample(4, labels="all", config=config).images[..., 0]
    np.testing.assert_array_equal([pixels(figure.one("img")) for figure in figures], expected)
    commands = " ".join(node.text for node in found.section("commands").all("code"))
    assert "-n 4 --seed 0 --label all --micro_batch 4" in commands


def test_a_model_that_goes_by_pictures_shows_them_only_when_asked(told: Any, tmp_path: Path, read: Any) -> None:
    """What it draws is made of real pictures, and so are the previews of its training."""
    run = told("upscaled", condition__image=LowResolution(2), evaluation__count=4)
    found = read(sfumato.report(run))
    assert not found.all("img")
    assert "not shown unasked" in found.one("header").text
    assert {"training", "settings"} <= set(found.sections)
    real = read(sfumato.report(run, tmp_path / "real.html", n=3, real=True))
    assert len(real.section("samples").all("img")) == 3


# ----------------------------------------------------------------------------------------------- broken and unfinished


def test_a_broken_log_costs_what_it_broke(digits: Path, tmp_path: Path, read: Any) -> None:
    """Foreign values, lists cut short, numbers beyond every float, losses that are none: no traceback, and no lie."""
    run = shutil.copytree(digits, tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as log:
        for line in (
            '{"step": 13, "loss": "high", "held_out_loss": [], "held_out_by_level": 3}',
            '{"step": 14, "held_out_by_level": {"log_snr": [1.0, 2.0], "loss": [0.5]}}',
            '{"step": 15, "held_out_by_level": {"log_snr": ["x"], "loss": [0.5]}, "grad_norm": 1' + "0" * 400 + "}",
            '{"step": 16, "loss": null, "grad_norm": true, "copies": 0.1}',
            '{"step": 17, "loss": 1e308, "learning_rate": -1e308, "images_seen": "many"}',
            '{"step": "18"}',
            "[1]",
            "\x00",
        ):
            log.write(line + "\n")
    found = read(sfumato.report(run, n=0))
    loss = next(f for f in found.section("training").all("figure") if f.one("b").text == "loss")
    assert "training loss is not finite at 2 of" in loss.text
    assert "held-out loss is not finite at 1 of" in loss.text


def test_a_loss_that_was_lost_is_not_told_as_the_last_one_that_was_not(digits: Path, tmp_path: Path, read: Any) -> None:
    run = shutil.copytree(digits, tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = max(k for k, line in enumerate(lines) if "held_out_loss" in line)
    lines[last]["held_out_loss"] = None
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cards = read(sfumato.report(run, n=0)).one("header").one("dl", "cards")
    assert "held-out lossnot a number" in cards.text


def test_an_earlier_checkpoint_is_told_by_its_own_numbers(digits: Path, tmp_path: Path, read: Any) -> None:
    run = shutil.copytree(digits, tmp_path / "run")
    cards = read(sfumato.report(run / "checkpoints" / "step-00000006", n=0)).one("header").one("dl", "cards").text
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    held = [line["held_out_loss"] for line in lines if "held_out_loss" in line and line["step"] <= 6]
    assert cards.startswith("training steps6")
    assert f"{held[-1]:.3f}"[:5] in cards


def test_a_run_without_metrics_or_steps_has_a_page(digits: Path, tmp_path: Path, read: Any) -> None:
    run = shutil.copytree(digits, tmp_path / "run")
    for gone in ("checkpoints", "samples"):
        shutil.rmtree(run / gone)
    (run / "metrics.jsonl").unlink()
    (run / "environment.json").unlink()
    found = read(sfumato.report(run))
    assert "settings" in found.sections
    assert not {"training", "samples", "progress"} & set(found.sections)


def test_the_same_numbers_are_told_once(digits: Path, tmp_path: Path, read: Any, measure: Callable[..., None]) -> None:
    """An evaluation that holds what another has already adds what is new, and nothing else."""
    run = shutil.copytree(digits, tmp_path / "run")
    measure(run, {"kid[judge]": (0.5, 0.01, 200), "fid[judge]": (7.0, 0.1, 200)})
    measure(run, {"kid[judge]": (0.5 + 1e-9, 0.01, 200), "recall[judge]": (0.3, 0.01, 200)})
    measure(run, {"kid[judge]": (0.6, 0.01, 200)}, weights="live")
    text = found_text(read(sfumato.report(run, n=0)))
    assert (text.count("0.500 ± 0.010"), text.count("7.00 ± 0.10"), text.count("0.300 ± 0.010")) == (1, 1, 1)
    assert text.count("0.600 ± 0.010") == 1


def found_text(page: Any) -> str:
    return " ".join(table.text for table in page.section("metrics").all("table"))


def test_averaged_weights_are_told_before_live_ones(
    digits: Path, tmp_path: Path, read: Any, measure: Callable[..., None]
) -> None:
    run = shutil.copytree(digits, tmp_path / "run")
    measure(run, {"kid[judge]": (0.9, 0.01, 500)}, weights="live")
    measure(run, {"kid[judge]": (0.5, 0.01, 200)})
    assert "0.500 ± 0.010n = 200" in read(sfumato.report(run, n=0)).one("header").one("dl", "cards").text
