"""The contract of every command: three lines, the exit code, one JSON document, nothing touched, no traceback."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sfumato.cli import main as cli
from sfumato.cli.output import error_document
from sfumato.errors import (
    CheckpointError,
    DataError,
    FaultsError,
    Interrupted,
    NumericsError,
    PartialError,
    PlatformError,
    ResourceError,
    SfumatoError,
    UsageError,
)
from sfumato.experiment.wording import in_flags

FAST = "import sys, sfumato.cli.main as m; code = m.main(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr)"


def run(*words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "sfumato", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, cwd=cwd, check=False)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `sfumato recipes` raise."""

    def arm(error: BaseException) -> None:
        def fail(args: object, settings: object) -> Mapping[str, object]:
            print("about to fail")
            raise error

        monkeypatch.setattr("sfumato.cli.recipes.run", fail)

    return arm


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (["tarin", "digits"], "there is no command 'tarin'", "did you mean train?"),
        (["--vresion"], "there is no option '--vresion'", "did you mean --version?"),
        (["runs", "--srot", "loss"], "unknown option --srot", "did you mean --sort?"),
        (["train"], "the following arguments are required: RECIPE|FILE", "run `sfumato train --help`"),
        (["train", "digits", "--run", "x"], "unknown option --run", "did you mean --runs?"),
        (["train", "digitz"], "there is no recipe 'digitz'", "did you mean digits?"),
        (
            ["train", "digits", "--training.stepz", "5"],
            "--training.stepz: unknown key",
            "did you mean --training.steps?",
        ),
        (["train", "digits", "--training.stepz=5"], "--training.stepz: unknown key", "did you mean --training.steps?"),
        (["train", "digits", "--training.steps"], "--training.steps needs a value", "--training.steps 10000"),
        (["train", "digits", "--schedule", "--seed", "1"], "--schedule needs a value", "--schedule CosineAngle"),
        (["train", "digits", "--training.steps", "x"], "'x' is not a whole number", "--training.steps 10000"),
        (["train", "digits", "--trainig.steps", "9"], "unknown key 'trainig'", "did you mean --training.steps?"),
        (["train", "digits", "--steps", "3"], "unknown key", "did you mean --training.steps or --sampling.steps?"),
        (
            ["train", "digits", "--objective.distance.delta", "2"],
            "unknown key 'delta'",
            "--objective.distance Huber --objective.distance.delta 2",
        ),
        (["train", "digits", "--schedule", "Shifted"], "schedule.resolution is missing", "add --schedule.resolution"),
        (["train", "digits", "--schedule", "CosinAngle"], "there is no 'CosinAngle'", "did you mean CosineAngle?"),
        (["train", "digits", "--seed", "1.5"], "--seed: '1.5' is not a whole number", "fraction"),
        (["sample", "x", "--out", "y.npz", "-n", "few"], "-n needs a whole number, not 'few'", "-n 36"),
        (["sample", "x", "--out", "y.npz", "-n", "0"], "0 samples were asked for", "-n 36"),
        (["sample", "x", "--out", "y.jpg"], "--out is y.jpg", "--out y.npz"),
        (["train", "."], ". is a folder, not a recipe", "sfumato train oxford-flowers --data.path ."),
        (["train", "my data.npz"], "is a data file, not a recipe", "--data.path 'my data.npz'"),
        (["figures"], "the following arguments are required: KIND", "run `sfumato figures --help`"),
        (["completion", "tcsh"], "there is no completion for 'tcsh'", "bash"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_usage_errors(words: list[str], what: str, fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    found = capsys.readouterr()
    assert found.out == ""
    lines = found.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("error[")
    assert what in lines[0]
    assert "WHAT" not in lines[0]
    assert lines[1].startswith("expected: ")
    assert lines[2].startswith("fix: ")
    assert fix in lines[2]


def test_golden_message(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole text, once: this is what people copy into a search box."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("name: mine\ntraining:\n  steps: 5\n  learnign_rate: 1e-4\n")
    assert cli.main(["train", "mine.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error[CONFIG]: mine.yaml:4: training.learnign_rate: unknown key 'learnign_rate'\n"
        "expected: a field of training (Training): steps, batch_size, accumulate, learning_rate, weight_decay, "
        "warmup_steps, decay, clip_norm, ema_decay, power_ema, power_ema_every, power_ema_disk, checkpoint_every, "
        "keep_checkpoints, keep_best, log_every, evaluate_every, preview_every, preview_count, copies_every, device, "
        "precision, compile, threads, initial_weights, init_from, on_disk_full, trackers\n"
        "fix: did you mean training.learning_rate?\n"
    )
    assert sorted(os.listdir()) == ["mine.yaml"]


def test_all_problems_of_file_and_flags_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sede: 1\ntraining: {steps: many}\n")
    assert cli.main(["train", str(path), "--data.sorce", "digits", "--runs", str(tmp_path / "runs")]) == 2
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 3
    for part in ("3 problems", ":1: sede", ":2: training.steps: 'many'", "--data.sorce", "did you mean seed?"):
        assert part in text
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"seed: 1\nseed: 2\n", ":2: key 'seed' was already given in line 1"),
        (b"training:\n\tsteps: 1\n", ":2, column 1: a tab in the indentation"),
        (b"name: !!python/object/apply:os.system [touch canary]\n", ":1: tag !!python/object/apply:os.system"),
        (b"name: caf\xe9\n", ":1, column 10: byte 0xe9 is not UTF-8"),
        (b"a: &a [1]\nb: *a\n", ":2: alias *a"),
        (b"[" * 10_000, "nested 33 deep"),
        (b"{seed: 1, seed: 2}\n", ":1: key 'seed' was already given in the same line"),
        (b"#" * 1_000_001, "1,000,001 bytes"),
    ],
    ids=["duplicate", "tab", "tag", "latin-1", "alias", "deep", "same line", "large"],
)
def test_hostile_files(text: bytes, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    assert cli.main(["train", str(path), "--runs", str(tmp_path / "runs")]) == 2
    assert what in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]
    assert path.read_bytes() == text


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (UsageError, 2),
        (DataError, 3),
        (CheckpointError, 4),
        (NumericsError, 5),
        (ResourceError, 6),
        (PlatformError, 7),
        (Interrupted, 75),
    ],
)
def test_exit_codes_and_json_errors(
    kind: type[UsageError], code: int, raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(kind("a\nb", expected="c", fix="d"))
    assert cli.main(["recipes", "--json"]) == code
    found = capsys.readouterr()
    assert json.loads(found.out) == {"error": {"code": kind.code, "what": "a\nb", "expected": "c", "fix": "d"}}
    # A newline in a value does not make a fourth line; what the command printed went to stderr.
    assert found.err == f"about to fail\nerror[{kind.code}]: a\\nb\nexpected: c\nfix: d\n"


def test_a_bug_exits_70_and_leaves_its_traceback_in_a_file(
    raising: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    raising(KeyError("oops"))
    assert cli.main(["recipes"]) == 70
    text = capsys.readouterr().err
    assert "Traceback" not in text
    (log,) = tmp_path.iterdir()
    assert str(log) in text
    assert "KeyError: 'oops'" in log.read_text()
    assert cli.main(["recipes", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_without_a_place_for_its_log(
    raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    raising(KeyError("oops"))
    assert cli.main(["recipes"]) == 70
    assert "--debug" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "fix"),
    [
        (
            ModuleNotFoundError("No module named 'torch_fidelity'", name="torch_fidelity"),
            7,
            "pip install 'sfumato[fid]'",
        ),
        (ModuleNotFoundError("No module named 'rich'", name="rich"), 7, "pip install rich"),
        (ModuleNotFoundError("No module named 'sfumato.x'", name="sfumato.x"), 70, "traceback"),
        (MemoryError(), 6, "--training.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 36000 bytes."), 6, "widths"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."), 6, "--training.accumulate"),
        (RuntimeError("shapes do not match"), 70, "traceback"),
        (PermissionError(13, "Permission denied", "/x"), 6, "path"),
    ],
    ids=str,
)
def test_errors_of_python_that_are_not_bugs(
    error: Exception, code: int, fix: str, raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(error)
    assert cli.main(["recipes"]) == code
    assert fix in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits", "--data.pad", "16384"],
        ["train", "digits", "--network.widths", "[1000000,1000000]", "--data.limit", "20"],
        ["train", "digits", "--network.widths", "[1000000000000000,8]", "--data.limit", "20"],
        ["train", "digits", "--training.batch_size", "1000000000", "--data.limit", "20"],
        ["train", "digits", "--training.batch_size", "1000000000", "--dry-run"],
    ],
    ids=" ".join,
)
def test_what_no_machine_can_hold_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 6 with a remedy, before a run folder is made."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 6
    text = capsys.readouterr().err
    assert text.startswith("error[RESOURCE]: ")
    assert len(text.splitlines()) == 3
    assert list(tmp_path.iterdir()) == []


def test_interrupts_and_closed_pipes(
    raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(KeyboardInterrupt())
    assert cli.main(["recipes"]) == 130
    found = capsys.readouterr()
    assert found.out == "about to fail\n"
    assert found.err == "interrupted\n"
    assert cli.main(["recipes", "--json"]) == 130
    document = json.loads(capsys.readouterr().out)
    assert (set(document), document["error"]["code"]) == ({"error"}, "INTERRUPTED")


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_as_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same text as for people, on stderr too; required arguments may be missing."""
    assert cli.main([command, "-h"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: sfumato {command}")
    assert text.endswith("\n")
    assert cli.main([command, "--help", "--json"]) == 0
    found = capsys.readouterr()
    document = json.loads(found.out)
    assert document["help"] + "\n" == text == found.err
    assert document["usage"].startswith(f"usage: sfumato {command}")


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "recipes",
        "runs",
        "recipes --json",
        "train",
        "runs --help",
        "compare --help",
        "compare a b",
    ],
)
def test_torch_is_not_imported(words: str, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", FAST, *words.split()],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert found.stderr.splitlines()[-1] == "False"


def test_no_home_dumb_terminal_ascii_and_closed_streams(tmp_path: Path) -> None:
    """Rows F8 and F9: what a container or a pipe may lack."""
    bare = {
        "PATH": "/usr/bin:/bin",
        "TERM": "dumb",
        "LC_ALL": "C",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    for words in (["recipes"], ["runs"], ["--help"]):
        found = run(*words, env=bare, cwd=tmp_path)
        assert (found.returncode, found.stderr) == (0, "")
        assert found.stdout
        assert "\x1b" not in found.stdout
    command = f"{sys.executable} -m sfumato recipes"
    for redirection in (">&-", "2>&-", ">&- 2>&-", "| true", "<&-"):
        shell = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{command} {redirection}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert shell.returncode == 0, redirection
        assert "Traceback" not in shell.stderr


def test_a_full_disk_behind_stdout_is_an_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    shell = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m sfumato recipes > /dev/full"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shell.returncode == 6
    assert "Traceback" not in shell.stderr
    assert "No space left" in shell.stderr


def test_recipes_and_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--json", "recipes"]) == 0
    found = json.loads(capsys.readouterr().out)
    digits = next(r for r in found["recipes"] if r["name"] == "digits")
    assert digits["settings"]["data.source"] == "digits"
    assert cli.main(["--version", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"version"}
    assert cli.main([]) == 0
    assert "usage: sfumato COMMAND" in capsys.readouterr().out


def test_train_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for part in (
        "--training.learning_rate 0.001",
        "--schedule.max_signal_rate 0.95",
        "MinSnr",
        "--dry-run",
        "--seed 0",
        "whole numbers)  channels of each level",
    ):
        assert part in text
    assert text.count("\n  --name") == 1
    assert "  --description" in text


def test_figures_help_says_its_usage_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["figures", "--help"]) == 0
    assert capsys.readouterr().out.count("sfumato figures") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "training.batch_size" in script
    assert "digits" in script
    if shell == "bash":
        ask = (
            script
            + "\nCOMP_WORDS=(sfumato train digits --training.batch); COMP_CWORD=3; _sfumato; echo ${COMPREPLY[@]}"
        )
        found = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=20, check=False)
        assert found.stdout.split() == ["--training.batch_size"]
        ask = script + "\nCOMP_WORDS=(sfumato figures by); COMP_CWORD=2; _sfumato; echo ${COMPREPLY[@]}"
        found = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=20, check=False)
        assert found.stdout.split() == ["by-level"]


def test_only_the_first_of_several_processes_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchrun would otherwise print one document for each process."""
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["recipes", "--json"]) == 0
    assert cli.main(["recipes"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", [NumericsError, PartialError, Interrupted, FaultsError], ids=lambda kind: kind.code)
def test_what_was_done_goes_with_the_error(kind: type[SfumatoError]) -> None:
    """The document of a command that failed in part: across process borders, and when remedies are put otherwise."""
    error = kind("what", expected="expected", fix="set seed: 3", document={"done": [1, 2]})
    there = copy.copy(error)  # by __reduce__, as between processes
    for told in (error, there, in_flags(error, {"seed": "seed"})):
        assert error_document(told)["done"] == [1, 2]
        assert error_document(told)["error"]["code"] == kind.code
    assert error_document(kind("what", expected="expected", fix="fix")).keys() == {"error"}
