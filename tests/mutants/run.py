"""Seeded bugs: each patch beside this file breaks one formula, and the test it names must fail.

    python tests/mutants/run.py [NAME ...] [--jobs 2]

A patch starts with `# caught-by: TEST [TEST ...]` and goes on as a unified diff against the root of the repository. It
is applied to a copy of `src`, and the named tests run against that copy. A mutant is caught when a test fails; a patch
that no longer applies, a test that cannot run, or a bug that nobody notices makes the exit status 1. The same tests are
first run on an unbroken copy, where they must pass.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HEADER = "# caught-by:"
PASSED, FAILED = 0, 1  # pytest's exit statuses; 2 and above mean that nothing was tested


@dataclass(frozen=True)
class Mutant:
    """A patch file and the tests that must see it."""

    path: Path
    tests: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "Mutant":
        first = path.read_text("utf-8").split("\n", 1)[0]
        if not first.startswith(HEADER) or not first[len(HEADER) :].split():
            raise SystemExit(f"{path.name}: the first line must be '{HEADER} TEST [TEST ...]'")
        return cls(path, tuple(first[len(HEADER) :].split()))

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `caught`, or how it escaped."""

    name: str
    outcome: str
    seconds: float
    detail: str = ""


def copy_source(folder: Path) -> None:
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def apply(patch: Path, folder: Path) -> str:
    """Apply a patch with the folder as the root; the complaint of git, empty when there is none."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(
        ["git", "apply", "-p1", str(patch)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.stderr.strip()


def run_tests(tests: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """The tests of this repository against the copy of the package in `folder`, stopping at the first failure."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def try_mutant(mutant: Mutant) -> Verdict:
    """Copy, break, test."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy_source(folder)
        complaint = apply(mutant.path, folder)
        if complaint:
            return Verdict(mutant.name, "DOES NOT APPLY", time.monotonic() - start, complaint)
        done = run_tests(mutant.tests, folder)
    outcome = {FAILED: "caught", PASSED: "SURVIVED"}.get(done.returncode, "TESTED NOTHING")
    detail = done.stdout[-2000:] if outcome == "TESTED NOTHING" else ""
    return Verdict(mutant.name, outcome, time.monotonic() - start, detail)


def check_unbroken(mutants: list[Mutant]) -> None:
    """The named tests pass on a pristine copy, and it is the copy that they import."""
    tests = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy_source(folder)
        environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
        where = subprocess.run(
            [sys.executable, "-c", "import sfumato; print(sfumato.__file__)"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        if not Path(where.stdout.strip()).resolve().is_relative_to(folder.resolve()):
            raise SystemExit(f"the tests would import {where.stdout.strip()} and not the broken copy")
        done = run_tests(tests, folder)
    if done.returncode != PASSED:
        raise SystemExit(f"without any bug, the tests fail:\n{done.stdout[-4000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", help="mutants to try (default: all)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    mutants = [Mutant.read(path) for path in sorted(HERE.glob("*.patch"))]
    unknown = set(arguments.names) - {mutant.name for mutant in mutants}
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in mutants if not arguments.names or mutant.name in arguments.names]
    check_unbroken(chosen)
    width = max(len(mutant.name) for mutant in chosen)
    verdicts = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for mutant, verdict in zip(chosen, pool.map(try_mutant, chosen), strict=True):
            verdicts.append(verdict)
            tests = " ".join(test.removeprefix("tests/") for test in mutant.tests)
            print(f"{verdict.name:<{width}}  {verdict.outcome:<8}  {verdict.seconds:5.1f} s  {tests}", flush=True)
            if verdict.detail:
                print(verdict.detail)
    escaped = [verdict.name for verdict in verdicts if verdict.outcome != "caught"]
    print(
        f"{len(verdicts) - len(escaped)} of {len(verdicts)} caught"
        + (f"; not: {', '.join(escaped)}" if escaped else "")
    )
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
