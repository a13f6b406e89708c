"""The table of runs: filters, columns, rankings that are none, labels, notes, sweeps; and damage that hides nothing."""

import csv
import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.cli import main as cli
from sfumato.errors import CheckpointError, UsageError
from sfumato.experiment.records import RunRecord, list_runs
from sfumato.experiment.remarks import REMARKS, remarks_of
from sfumato.experiment.run_table import Condition, matching, ranked

BASE = {"objective": {"distance": "Mse"}, "schedule": "CosineAngle", "data": {"path": "a.npz"}}


def make(runs: Path, name: str, figures: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A finished run of 100 steps."""
    folder = runs / name
    (folder / "checkpoints" / "step-00000100").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000100" / "MANIFEST.json").write_text("{}")
    training = {"steps": 100, "log_every": 50, "learning_rate": 0.001}
    (folder / "config.yaml").write_text(json.dumps({"name": "x", **BASE, "training": training, **settings}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 100, **(figures or {})}) + "\n")
    (folder / "environment.json").write_text('{"started": "2026-11-22T10:00:00+00:00"}')
    return folder


def evaluate(folder: Path, name: str, value: float, *, n: int = 100, file: str = "a", **facts: Any) -> Path:
    """An evaluation as `sfumato evaluate` writes it."""
    (folder / "evaluations").mkdir(exist_ok=True)
    provenance = {"run": "x", "weights": "ema", "steps_trained": 100, "extractor": "judge", **facts}
    metrics = {name: {"value": value, "std_error": 0.01, "n": n, "provenance": provenance}}
    text = json.dumps({"run": "x", "metrics": metrics, "notes": []}, indent=2)
    influences = ',\n  "influences": {\n    ' + json.dumps(name) + ": [0.01, 0.0]\n  }\n}"
    path = folder / "evaluations" / f"{file}.json"
    path.write_text(text.removesuffix("\n}") + influences)
    return path


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command on the runs; gives what it printed, or its document."""

    def run(*words: str, code: int = 0, document: bool = False) -> Any:
        capsys.readouterr()
        assert cli.main([*words, "--runs", str(tmp_path), *(["--json"] if document else [])]) == code
        found = capsys.readouterr()
        return json.loads(found.out) if document else found

    return run


def names(found: Any) -> list[str]:
    return [run["name"] for run in found["runs"]]


# -------------------------------------------------------------------------------------------------------------- filters


def record(**values: Any) -> RunRecord:
    started = "2026-11-22T10:00:00+00:00"
    return RunRecord("a", Path("a"), "finished", started=started, settings=values, labels=("good", "v2"))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("x=3", True),
        ("x==3.0", True),
        ("x!=3", False),
        ("x<3", False),
        ("x<=3", True),
        ("x>2.5", True),
        ("x>=3.1", False),
        ("x > 1e0", True),
        ("word=cosine-angle", True),
        ("word<D", True),
        ("yes=true", True),
        ("yes!=true", False),
        ("yes>0", False),
        ("nothing=null", True),
        ("absent=1", False),
        ("absent!=1", True),
        ("absent<1", False),
        ("absent>=1", False),
        ("label=Good", True),
        ("label=goo", False),
        ("label!=draft", True),
        ("labels!=v2", False),
        ("text=a<b", True),
        ("text='a<b'", True),
        ('text="a>b"', False),
        ("number=1e3", True),
        ("label=null", False),
        ("label='null'", False),
        ("started=2026-11-22", True),
        ("started=2026-11-22T10", True),
        ("started!=2026-11-22", False),
        ("date<=2026-11-22", True),
        ("date<2026-11-22", False),
        ("date>2026-11-22", False),
        ("date>2026-11-21", True),
        ("date>=2026-11-23", False),
    ],
)
def test_a_condition(text: str, holds: bool) -> None:
    found = record(x=3, word="CosineAngle", yes=True, nothing=None, text="a<b", number="1e3")
    assert Condition.parse(text).holds(found) is holds


def test_conditions_of_no_meaning_are_refused() -> None:
    records = [record(x=3), record(x=4)]
    for text, fix in (
        ("x<many", "--where 'x<3'"),
        ("x", "--where"),
        ("=3", "--where"),
        ("xx=3", "did you mean x?"),
        ("zebra=3", "--json"),
    ):
        with pytest.raises(UsageError) as caught:
            matching(records, [text])
        assert fix in caught.value.fix
    assert matching(records, ["x>3"]) == [records[1]]


def test_filters_columns_and_order(tmp_path: Path, call: Callable[..., Any]) -> None:
    for number, name in enumerate("abc"):
        make(tmp_path, name, {"loss": 1.0 - number / 10}, seed=number)
    assert names(call("runs", "--where", "seed>0", "--sort", "loss", document=True)) == ["c", "b"]
    assert names(call("runs", "--sort", "seed", "--reverse", document=True)) == ["c", "b", "a"]
    assert names(call("runs", "--reverse", document=True)) == ["c", "b", "a"]
    found = call("runs", "--columns", "name,seed, loss,date", "--where", "seed!=1", document=True)
    started = "2026-11-22T10:00:00+00:00"
    assert found["rows"] == [
        {"name": "a", "seed": 0, "loss": 1.0, "started": started},
        {"name": "c", "seed": 2, "loss": 0.8, "started": started},
    ]
    text = call("runs", "--columns", "name,seed", "--csv").out
    assert list(csv.reader(io.StringIO(text))) == [["name", "seed"], ["a", "0"], ["b", "1"], ["c", "2"]]
    assert call("runs", "--columns", "name,seed").out.split() == ["name", "seed", "a", "0", "b", "1", "c", "2"]
    assert "did you mean seed?" in call("runs", "--columns", "sed", code=2).err
    assert "--columns is empty" in call("runs", "--columns", " , ", code=2).err


# ------------------------------------------------------------------------------------------------------------- rankings


def test_losses_of_other_quantities_are_not_ranked_against_each_other(tmp_path: Path, call: Callable[..., Any]) -> None:
    """Two schedules: each group in order, the best group first, never one between the other; told why."""
    for name, loss, schedule in (("a", 0.1, "CosineAngle"), ("b", 0.2, "VpSde"), ("c", 0.3, "CosineAngle")):
        make(tmp_path, name, {"held_out_loss": loss, "grad_norm": loss}, schedule=schedule)
    make(tmp_path, "d", {})
    found = call("runs", "--sort", "held_out_loss")
    rows = [line.split() for line in found.out.splitlines()]
    assert [row[:2] for row in rows] == [["name", "group"], ["a", "1"], ["c", "1"], ["b", "2"], ["d", "-"]]
    assert "held_out_loss is not one quantity in all of these runs (schedule differs)" in found.err
    found = call("runs", "--sort", "held_out_loss", "--reverse", document=True)
    assert (names(found), found["groups"]) == (["c", "a", "b", "d"], [["c", "a"], ["b"]])
    found = call("runs", "--sort", "grad_norm")  # a number of which neither more nor less is better
    assert found.out.splitlines()[0].split()[1] == "state"
    assert [line.split()[0] for line in found.out.splitlines()[1:]] == ["a", "b", "c", "d"]
    assert found.err == ""


def test_only_scores_of_one_kind_are_ranked(tmp_path: Path, call: Callable[..., Any]) -> None:
    """H5: another n is another scale."""
    for name, value, n in (("a", 0.3, 100), ("b", 0.1, 500), ("c", 0.2, 100)):
        evaluate(make(tmp_path, name), "kid[judge]", value, n=n)
    found = call("runs", "--sort", "kid", "--columns", "name,kid,kid[judge].n")
    assert [line.split()[:2] for line in found.out.splitlines()] == [
        ["name", "group"],
        ["b", "1"],
        ["c", "2"],
        ["a", "2"],
    ]
    assert "0.200 ± 0.010" in found.out
    assert "kid[judge] is not one quantity in all of these runs (n differs)" in found.err
    assert "kid[pixels]" not in found.out
    evaluate(tmp_path / "a", "kid[pixels]", 0.4, file="b")
    err = call("runs", "--sort", "kid", code=2).err
    assert "2 such numbers" in err
    assert "kid[judge], kid[pixels]" in err


def test_of_several_measurements_the_best_known_of_the_run_as_it_is(tmp_path: Path) -> None:
    """Averaged weights, most examples, the last one; none of weights that are gone, none of the data alone."""
    folder = make(tmp_path, "a")
    evaluate(folder, "kid[judge]", 0.1, n=100, file="small")
    evaluate(folder, "kid[judge]", 0.2, n=500, file="large")
    os.utime(evaluate(folder, "kid[judge]", 0.3, n=500, file="earlier"), (1, 1))
    evaluate(folder, "kid[judge]", 0.4, n=900, file="live", weights="live")
    evaluate(folder, "kid[judge]", 0.5, n=900, file="old", steps_trained=50)
    evaluate(folder, "fid[judge][floor]", 0.6, file="floor")
    (folder / "evaluations" / "torn.json").write_text('{"metrics": ')
    said: list[str] = []
    (found,) = list_runs(tmp_path, said.append)
    assert {name: number.value for name, number in found.measured.items()} == {"kid[judge]": 0.2}
    assert (found.get("kid[judge].n"), found.get("kid[judge].std_error")) == (500, 0.01)
    assert len(said) == 1
    assert "torn.json" in said[0]


def test_a_loss_that_no_run_has_yet_is_no_error(tmp_path: Path, call: Callable[..., Any]) -> None:
    """A run that has only just begun; a misspelt one is refused, and the suggestion is the loss."""
    make(tmp_path, "new")
    assert "new" in call("runs", "--sort", "held_out_loss", "--columns", "name,held_out_loss").out
    assert "no run has a setting or figure" in call("runs", "--sort", "held_out_lose", code=2).err


def test_a_ranking_keeps_equals_in_order_and_the_valueless_last() -> None:
    records = [
        RunRecord(name, Path(name), "finished", figures={} if value is None else {"grad_norm": value})
        for name, value in (("a", 2.0), ("b", None), ("c", 1.0), ("d", 2.0))
    ]
    assert [found.name for found in ranked(records, "grad_norm").records] == ["c", "a", "d", "b"]
    assert [found.name for found in ranked(records, "grad_norm", reverse=True).records] == ["a", "d", "c", "b"]


# ------------------------------------------------------------------------------------------------------ pandas and CSV


def test_pandas_takes_the_records_and_the_csv_as_they_are(tmp_path: Path, call: Callable[..., Any]) -> None:
    pandas = pytest.importorskip("pandas")
    evaluate(
        make(tmp_path, "a", {"loss": 0.1 + 0.2}, seed=1, network={"kind": "Mlp", "widths": [8, 16]}), "kid[judge]", 0.5
    )
    make(tmp_path, "b", {"loss": 0.25}, seed=2)
    sfumato.label("a", ["good", "v2"], runs=tmp_path)
    sfumato.note("a", 'said, "and" so\non', runs=tmp_path)
    frames = [
        pandas.DataFrame(sfumato.runs(tmp_path)),
        pandas.read_csv(io.StringIO(call("runs", "--csv").out)),
    ]
    for frame in frames:
        assert frame["loss"].tolist() == pytest.approx([0.1 + 0.2, 0.25], rel=1e-15)  # older readers round
        assert frame["seed"].sum() == 3
        assert frame["kid[judge]"].tolist()[0] == 0.5
        assert frame["kid[judge]"].isna().tolist() == [False, True]
        assert frame["labels"].tolist()[0] == "good v2"
        assert frame["notes"].tolist()[0] == 'said, "and" so\non'
        assert frame["network"].tolist()[0] == "Mlp"
        assert frame["network.widths"].tolist()[0] == "[8, 16]"
        assert frame.loc[frame["training.learning_rate"] < 0.01, "name"].tolist() == ["a", "b"]
    usual = {"loss", "held_out_loss", "parameters"}  # columns of the CSV, whatever there is
    assert {*frames[0].columns} | usual == {*frames[1].columns}


def test_records_all_have_the_same_keys(tmp_path: Path) -> None:
    make(tmp_path, "a", {"loss": 1.0})
    make(tmp_path, "b", {"other": 2.0})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.yaml").write_text("a: [")
    found = sfumato.runs(tmp_path)
    assert len({tuple(row) for row in found}) == 1
    assert [(row["name"], row["loss"], row["other"]) for row in found] == [
        ("a", 1.0, None),
        ("b", None, 2.0),
        ("c", None, None),
    ]
    assert [row["state"] for row in found] == ["finished", "finished", "broken"]
    assert sfumato.runs(tmp_path, where="loss>0.5", columns=["name", "date"])[0] == {
        "name": "a",
        "started": "2026-11-22T10:00:00+00:00",
    }
    assert sfumato.runs(tmp_path / "absent") == []


# ----------------------------------------------------------------------------------------------------- labels and notes


def test_labels_are_added_and_removed(tmp_path: Path, call: Callable[..., Any]) -> None:
    make(tmp_path, "a")
    make(tmp_path, "b")
    assert call("label", "a", "b", "+draft", "+v2").out == "a: draft v2\nb: draft v2\n"
    found = call("label", "-draft", "a", "+good", document=True)
    assert found == {"runs": [{"run": "a", "labels": ["good", "v2"]}]}
    assert call("label", "b").out == "b: draft v2\n"
    assert names(call("runs", "--where", "label=good", document=True)) == ["a"]
    assert names(call("runs", "--where", "label!=good", document=True)) == ["b"]
    assert "labels" in call("runs").out.splitlines()[0]
    assert call("label", "b", "-v2", "-draft").out == "b: no labels\n"
    for words, what in (
        (["a", "+two words"], "'two words' is no label"),
        (["a", "+"], "'' is no label"),
        (["+good"], "no run among +good"),
        (["-good"], "no run among -good"),
        (["a", "--tag"], "unknown option --tag"),
    ):
        assert what in call("label", *words, code=2).err
    assert "there is no run 'absent'" in call("label", "a", "absent", "+x", code=4).err
    assert remarks_of(tmp_path / "a", pytest.fail).labels == ("good", "v2")  # refused as a whole


def test_notes_are_written_shown_and_removed(tmp_path: Path, call: Callable[..., Any]) -> None:
    make(tmp_path, "a")
    assert call("note", "a").out == "a has no notes\n"
    call("note", "a", "first", "words")
    call("note", "a", "second\x1b[2J")
    shown = call("note", "a").out.splitlines()
    assert [line.split("  ")[::2] for line in shown] == [["1", "first words"], ["2", "second\\x1b[2J"]]
    found = call("note", "a", "--remove", "1", document=True)
    assert [one["text"] for one in found["notes"]] == ["second\x1b[2J"]
    call("note", "a", "third")
    call("note", "a", "--remove", "2")
    assert [(one.number, one.text) for one in sfumato.note("a", runs=tmp_path).notes] == [(3, "third")]
    assert "has no note 2\nexpected: one of 3" in call("note", "a", "--remove", "2", code=2).err
    assert "the note is empty" in call("note", "a", " ", code=2).err
    (found_run,) = list_runs(tmp_path)
    assert [one.text for one in found_run.notes] == ["third"]
    with pytest.raises(CheckpointError):
        sfumato.note("absent", "x", runs=tmp_path)


def test_two_who_remove_at_once_remove_what_they_saw(tmp_path: Path) -> None:
    """Both looked at notes 1 to 3 before either wrote: a number never passes to another note."""
    folder = make(tmp_path, "a")
    for text in ("one", "two", "three"):
        sfumato.note("a", text, runs=tmp_path)
    for _ in range(2):
        with (folder / REMARKS).open("ab") as file:  # the second wrote the same at the same moment
            file.write(b'{"when": "", "remove_note": 1}\n')
    sfumato.note("a", remove=2, runs=tmp_path)
    assert [one.text for one in remarks_of(folder, pytest.fail).notes] == ["three"]


def test_a_sweep_and_a_file_are_named_where_a_run_was_meant(tmp_path: Path, call: Callable[..., Any]) -> None:
    make(tmp_path / "grid" / "arms", "mse-s0")
    (tmp_path / "grid" / "sweep.yaml").write_text("format: sfumato-sweep-1\n")
    (tmp_path / "model.safetensors").touch()
    assert "is a sweep, not a run\nexpected: one of its arms: mse-s0" in call("label", "grid", "+a", code=4).err
    assert "is one file, not a run folder" in call("note", "model.safetensors", "text", code=4).err
    assert call("label", "grid/mse-s0", "+a").out == "grid/mse-s0: a\n"


def test_what_others_say_at_once_is_not_lost_and_a_torn_line_hides_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path, "a")
    sfumato.note("a", "one", runs=tmp_path)
    with (folder / REMARKS).open("ab") as file:
        file.write(b'{"when": "", "note": "to')  # a power cut
    sfumato.label("a", ["v2"], runs=tmp_path)
    with (folder / REMARKS).open("ab") as file:
        file.write(b'[1]\n{"note": 3}\n{"remove_note": 9}\n\xff\n' + b"[" * 100_000 + b"\n")
    sfumato.note("a", "two", runs=tmp_path)
    said: list[str] = []
    found = remarks_of(folder, said.append)
    assert ([one.text for one in found.notes], found.labels) == (["one", "two"], ("v2",))
    assert [note.rpartition("line ")[2].split()[0] for note in said] == ["2", "4", "5", "7", "8"]


# --------------------------------------------------------------------------------------------------------------- sweeps


def test_arms_of_a_sweep_are_listed_by_its_name(tmp_path: Path, call: Callable[..., Any]) -> None:
    make(tmp_path, "alone", {"loss": 3.0})
    arms = tmp_path / "grid" / "arms"
    make(arms, "mse-s0", {"loss": 2.0})
    (make(arms, "mae-s0", {"loss": 1.0}) / "checkpoints" / "step-00000100" / "MANIFEST.json").unlink()
    (tmp_path / "grid" / "sweep.yaml").write_text("format: sfumato-sweep-1\n")
    (tmp_path / "grid" / "failures").mkdir()
    for arm in ("mae-s0", "never-made", "mse-s0"):  # one that is done by now
        failure = {"code": "NUMERICS", "what": f"{arm} diverged", "when": "2026-11-22T10:00:00+00:00"}
        (tmp_path / "grid" / "failures" / f"{arm}.json").write_text(json.dumps(failure))
    found = {run["name"]: run for run in call("runs", document=True)["runs"]}
    assert {name: (run["sweep"], run["state"]) for name, run in found.items()} == {
        "alone": (None, "finished"),
        "grid/mae-s0": ("grid", "failed"),
        "grid/mse-s0": ("grid", "finished"),
        "grid/never-made": ("grid", "failed"),
    }
    assert found["grid/mae-s0"]["note"] == "mae-s0 diverged"
    assert found["grid/mse-s0"]["note"] is None
    assert names(call("runs", "--where", "sweep=grid", "--where", "state!=failed", document=True)) == ["grid/mse-s0"]
    assert [record.name for record in list_runs(tmp_path / "grid")] == [name for name in found if "/" in name]


# ---------------------------------------------------------------------------------------------------------- A9, H1, H4


def test_a_record_that_lost_its_end_is_flagged(tmp_path: Path, call: Callable[..., Any]) -> None:
    """A9: the disk was full to the end of the run; the run is listed, and says that lines are missing."""
    make(tmp_path, "whole", {"loss": 1.0})
    for name, content in (("gap", '{"step":50,"loss":1.0}\n'), ("none", "")):
        (make(tmp_path, name) / "metrics.jsonl").write_text(content)
    found = {run["name"]: run for run in call("runs", document=True)["runs"]}
    assert found["whole"]["note"] is None
    assert (
        found["gap"]["note"]
        == "metrics.jsonl is incomplete: it ends at step 50, and the newest checkpoint is of step 100"
    )
    assert "it ends at step 0" in found["none"]["note"]
    assert {run["state"] for run in found.values()} == {"finished"}


def test_a_torn_line_is_a_note_and_the_rest_is_read(tmp_path: Path, call: Callable[..., Any]) -> None:
    """H1: what a kill left of the last line."""
    folder = make(tmp_path, "a")
    (folder / "metrics.jsonl").write_text('{"step":50,"loss":2.0}\n{"step":100,"loss":1.0}\n{"step":150,"lo')
    found = call("runs", "--columns", "name,loss,step")
    assert found.out.splitlines()[1].split() == ["a", "1", "100/100"]
    assert found.err == f"{folder / 'metrics.jsonl'}: line 3 is torn or not a record; skipped\n"


def test_a_number_that_is_none_any_more_is_not_shown_as_it_was(tmp_path: Path, call: Callable[..., Any]) -> None:
    """`null` in the record; and what JSON does not know, in a foreign one."""
    folder = make(tmp_path, "a")
    lines = '{"step":50,"loss":2.0,"held_out_loss":1.0,"copies":1}\n{"step":100,"loss":null,"held_out_loss":NaN}\n'
    (folder / "metrics.jsonl").write_text(lines)
    (found,) = sfumato.runs(tmp_path)
    assert found["copies"] == 1
    assert found.get("loss") is None
    assert found.get("held_out_loss") is None


@pytest.mark.skipif(os.name == "nt", reason="no pipes in the file system")
@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "environment.json", "LOCK", REMARKS])
def test_a_pipe_in_place_of_a_file_hangs_nothing(name: str, tmp_path: Path) -> None:
    make(tmp_path, "b", {"loss": 1.0})
    path = make(tmp_path, "a", {"loss": 1.0}) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    found = list_runs(tmp_path)
    assert [record.name for record in found] == ["a", "b"]
    assert (found[0].state == "broken") == (name in ("config.yaml", "metrics.jsonl"))
    assert found[1].state == "finished"


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not permitted, or removed while it was looked at; and a name that leads to itself."""
    for name in "abc":
        make(tmp_path, name, {"loss": 1.0})
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "again").symlink_to(tmp_path)
    real = Path.is_file

    def denied(self: Path) -> bool:
        if "b" in self.relative_to(tmp_path).parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self)

    monkeypatch.setattr(Path, "is_file", denied)
    found = {run["name"]: run for run in call("runs", document=True)["runs"]}
    assert {name: run["state"] for name, run in found.items()} == {"a": "finished", "b": "broken", "c": "finished"}
    assert found["b"]["note"] == f"{tmp_path / 'b'} cannot be read: Permission denied"


def test_the_list_is_read_off_the_folders_and_nothing_is_written(tmp_path: Path, call: Callable[..., Any]) -> None:
    """H4: there is no list of runs that could be locked or damaged; each folder stands for itself."""
    for name in "abc":
        folder = make(tmp_path, name, {"loss": 1.0})
        (folder / REMARKS).write_bytes(os.urandom(100).replace(b"\n", b"x") + b"\n")
        (folder / "tracking.json").write_bytes(b"\xff")
        (folder / "events.out.tfevents.000001.sfumato").write_bytes(os.urandom(100))
        evaluate(folder, "kid[judge]", 1.0).write_bytes(b"\x00")
    for name in ("runs.db", ".runs.db-journal", "index.json"):
        (tmp_path / name).write_bytes(os.urandom(100))
    (tmp_path / "a" / "LOCK").write_bytes(b"\xff")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    found = call("runs", "--sort", "loss")
    assert [line.split()[0] for line in found.out.splitlines()[1:]] == ["a", "b", "c"]
    assert found.err.count("torn or no remark") == 3
    assert found.err.count("passed over") == 3
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
