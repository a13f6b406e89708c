"""What lies in the repository: no paths of somebody's machine, no addresses of package files, a lock that is plain."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The patterns are written so that none of them matches its own text.
PRIVATE = {
    "a path of one machine": re.compile(r"(?<![\w.~$}-])/(?:work|home|root|Users|opt)/\w"),
    "a folder beside the repository": re.compile(r"\.\./[s]hared"),
    "an address of a package file or registry": re.compile(
        r"https?://\S+\.(?:whl|tgz|deb)\b|\bpypi\.(?:org|io)\b|pythonhosted\.|index-[u]rl"
    ),
    "a number that only its authors understand": re.compile(r"\bsources? 00\d\b|\bissues? #?\d", re.IGNORECASE),
}
MAY_NAME_THE_FOLDER_BESIDE = ".ci/run"  # continuous integration says where the larger test data are, in one line
LOCK_FILES = {"uv.lock", "pylock.toml", "poetry.lock", "Pipfile.lock"}


def tracked() -> list[str]:
    """The files under version control; the test is skipped where there is none (an unpacked archive)."""
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def leaks(name: str, content: bytes) -> list[str]:
    """The lines of a text file that name what is private to one machine or one moment."""
    if b"\0" in content:
        return []
    found = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        for kind, pattern in PRIVATE.items():
            if (match := pattern.search(line)) is not None:
                found.append(f"{name}:{number}: {kind}: {match.group()!r}")
    return found


def test_no_file_names_what_is_private() -> None:
    found = [leak for name in tracked() for leak in leaks(name, (ROOT / name).read_bytes())]
    excused = [leak for leak in found if leak.startswith(MAY_NAME_THE_FOLDER_BESIDE + ":") and "beside" in leak]
    assert len(excused) <= 1, "\n".join(excused)
    assert found == excused, "\n".join(leak for leak in found if leak not in excused)


@pytest.mark.parametrize(
    "parts",
    [
        ("/", "home/me/pictures"),
        ("see /", "work/x"),
        ("..", "/shared/data"),
        ("https://example.org/", "torch-2.whl"),
        ("as in source", " 003"),
        ("see issue", " 12"),
    ],
)
def test_a_private_name_is_seen(parts: tuple[str, str]) -> None:
    assert leaks("x.md", "".join(parts).encode())


def test_a_public_text_is_not_accused() -> None:
    text = "~/pictures, $HOME/home/x, {}/b, ./runs/digits-1, source 12, an issue with 2 causes, https://x.org/a.pdf"
    assert leaks("x.md", text.format("a/work").encode()) == []


def test_the_lock_is_plain() -> None:
    """constraints.txt: name==version lines that every platform can take; no torchvision (it pins one exact torch)."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert not {"torchvision", "triton"} & locked
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = project["dependency-groups"]
    wanted = [*project["project"]["dependencies"], *groups["test"], *groups["lint"]]
    names = {re.match(r"[\w.-]+", item).group().lower().replace("_", "-") for item in wanted}
    assert names <= locked, f"make lock: {sorted(names - locked)} are not in constraints.txt"


def test_no_lock_with_addresses() -> None:
    assert [name for name in tracked() if Path(name).name in LOCK_FILES] == []


def test_the_wheel_takes_the_data_along() -> None:
    """Recipes and embedded data lie inside the package, which the wheel takes whole."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["src/sfumato"]}
    assert (ROOT / "src" / "sfumato" / "py.typed").is_file()
