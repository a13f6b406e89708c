"""`sfumato evaluate --samples … --reference …`: one document, a table, and three lines for what cannot be meant."""

import json
from pathlib import Path

import numpy as np
import pytest

from sfumato.cli import main as cli


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
    assert set(found) == {"samples", "reference", "metrics", "notes"}
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
