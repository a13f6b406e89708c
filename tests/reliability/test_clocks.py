"""A17: runs and their records are told apart and put in order without asking a clock."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import sfumato


def test_runs_of_one_second_are_two_runs(
    points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A17: names are taken from the file system, not from a clock; sorted by a start that is the same, or earlier."""
    from sfumato.experiment import environment

    hours = iter((12, 12, 11))

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Stopped":
            return cls(2026, 11, 23, next(hours), tzinfo=UTC)

    monkeypatch.setattr(environment, "datetime", Stopped)
    monkeypatch.setattr("sfumato.experiment.session.environment", lambda: {"versions": {}})  # asked at each checkpoint
    names = [sfumato.train("swiss-roll", points, runs=tmp_path).folder.name for _ in range(3)]
    assert names == ["swiss-roll-1", "swiss-roll-2", "swiss-roll-3"]
    assert [row["name"] for row in sfumato.runs(tmp_path, sort="started")] == [names[2], names[0], names[1]]
    assert [row["step"] for row in sfumato.runs(tmp_path)] == [10, 10, 10]
