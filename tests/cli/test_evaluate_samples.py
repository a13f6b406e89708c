"""`sfumato evaluate --samples … --reference …`: one document, a table, and three lines for what cannot be meant."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from sfumato.cli import main as cli

ALL = "kid,fid,precision,recall,density,coverage"


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "drawn.npz", images=images, seeds=np.arange(40))
    return str(tmp_path / "drawn.npz")


def test_one_document(drawn: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "evaluate",
        "--samples",
        drawn,
        "--reference",
        "digits",
        "--extractor",
        "pixels",
        "--metrics",
        "kid,recall",
    ]
    assert cli.main([*words, "-n", "30", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"samples", "reference", "metrics", "notes", "influences"}
    assert found["metrics"]["kid[pixels]"]["n"] == 30
    assert found["metrics"]["kid[pixels]"]["value"] > 0
    assert cli.main([*words, "--data.limit", "100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("kid[pixels]")
    assert any("against" in line and "of digits" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "nothing was named"),
        (["--samples", "drawn.npz"], "--samples was given alone"),
        (["run", "--samples", "drawn.npz"], "both given"),
        (["--samples", "drawn.npz", "--reference", "digits", "--steps", "3"], "unknown option --steps"),
        (["--samples", "drawn.npz", "--reference", "digits", "--data.sise", "3"], "sise"),
    ],
)
def test_refusals(words: list[str], what: str, drawn: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [drawn if word == "drawn.npz" else word for word in words]
    assert cli.main(["evaluate", *words, "--json"]) == 2
    assert what in json.loads(capsys.readouterr().out)["error"]["what"]


def test_n_stands_beside_every_score(drawn: str, capsys: pytest.CaptureFixture[str]) -> None:
    """E12: in the document and in the table; fewer pictures than features are warned of where FID is read."""
    words = ["evaluate", "--samples", drawn, "--reference", "digits", "--extractor", "pixels", "--metrics", ALL]
    assert cli.main([*words, "--data.limit", "200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert cli.main([*words, "--data.limit", "200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-1] == "n"
    printed = {line.split()[0]: line.split()[-1] for line in lines[1 : 1 + len(found["metrics"])]}
    assert printed == {name: f"{estimate['n']:,}" for name, estimate in found["metrics"].items()}
    assert found["metrics"]["fid[pixels]"]["n"] == 40
    warned = "40 pictures for 64 features: the covariance is rank-deficient, FID biased far up"
    assert any(warned in note for note in found["notes"])
    assert any(warned in line for line in lines)


@pytest.mark.parametrize(
    ("count", "words", "code", "what"),
    [
        (1, [], 2, "1 examples"),
        (40, ["-n", "1"], 2, "1 examples"),
        (40, ["-n", "0"], 2, "0 examples"),
        (0, [], 3, "at least one example"),
    ],
)
@pytest.mark.parametrize("metric", ["kid", "fid", "precision"])
def test_nothing_is_said_of_one_sample_or_none(
    metric: str, count: int, words: list[str], code: int, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """E12. A file without any example is no data."""
    np.savez(tmp_path / "few.npz", images=np.zeros((count, 8, 8), np.uint8))
    few = ["evaluate", "--samples", str(tmp_path / "few.npz"), "--reference", "digits", "--data.limit", "60"]
    assert cli.main([*few, "--extractor", "pixels", "--metrics", metric, *words, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert what in error["what"] + error["expected"]


@pytest.mark.parametrize("grey", [0, 255])
def test_constant_pictures_are_finite(grey: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """E13: samples, reference, or both all alike: every value, error and floor is a number, and nothing warns."""
    flat, images = np.full((40, 8, 8), grey, np.uint8), np.random.default_rng(0).integers(0, 256, (90, 8, 8), np.uint8)
    np.savez(tmp_path / "flat.npz", images=flat)
    np.savez(tmp_path / "data.npz", images=images)
    for samples, reference in (("flat", "data"), ("data", "flat"), ("flat", "flat")):
        words = ["--samples", str(tmp_path / f"{samples}.npz"), "--reference", str(tmp_path / f"{reference}.npz")]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert cli.main(["evaluate", *words, "--extractor", "pixels", "--metrics", ALL, "--json"]) == 0
        metrics = json.loads(capsys.readouterr().out)["metrics"]
        assert {"kid[pixels][floor]", "fid[pixels][floor]", "coverage[pixels][real]"} <= set(metrics)
        for name, estimate in metrics.items():  # a number that is none would be null
            assert math.isfinite(estimate["value"]), name
            assert math.isfinite(estimate["std_error"]), name
        if samples == reference:
            assert metrics["fid[pixels]"]["value"] == metrics["kid[pixels]"]["value"] == 0
            assert metrics["precision[pixels]"]["value"] == metrics["coverage[pixels]"]["value"] == 1
