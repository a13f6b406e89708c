"""The strict YAML reader: lines of everything, nothing that runs or explodes, and no YAML 1.1 surprises."""

import os
import time
from pathlib import Path

import pytest
import yaml

from sfumato.errors import ConfigError
from sfumato.experiment.tree import Branch, Leaf, Plain, untyped
from sfumato.experiment.yaml_file import MAX_BYTES, parse_yaml, read_yaml, to_yaml


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "mine.yaml")
    return caught.value


def test_every_value_knows_the_line_of_its_key() -> None:
    tree = parse_yaml("a: 1\n\nb:\n  # comment\n  c:\n    - x\n    - y\n  d: 'q'\n", "f.yaml")
    assert isinstance(tree, Branch)
    b = tree.items["b"]
    assert isinstance(b, Branch)
    assert [tree.items["a"].origin, b.origin, b.items["c"].origin, b.items["d"].origin] == [
        "f.yaml:1",
        "f.yaml:3",
        "f.yaml:5",
        "f.yaml:8",
    ]
    assert b.items["d"] == Leaf("q", "f.yaml:8")  # quoted text is a str, unquoted text waits for its type
    assert tree.items["a"] == Leaf(Plain("1"), "f.yaml:1")


def test_untyped_values_follow_yaml_1_2() -> None:
    """`no` is a word, 012 is text (10 in YAML 1.1), 1e-4 is a number (a string in PyYAML)."""
    tree = parse_yaml("{a: no, b: 012, c: 1e-4, d: ~, e: true, f: [1, 2.5], g: '1', h: 2026-11-22, i: 1_000}", "f")
    expected = dict(a="no", b="012", c=1e-4, d=None, e=True, f=[1, 2.5], g="1", h="2026-11-22", i="1_000")
    assert untyped(tree) == expected
    assert isinstance(untyped(tree)["c"], float)  # type: ignore[index]


def test_duplicate_key_names_both_lines() -> None:
    error = refusal("seed: 1\nname: a\nseed: 2\n")
    assert "mine.yaml:3" in error.what
    assert "line 1" in error.what
    assert error.fix == "delete line 1 or line 3"


@pytest.mark.parametrize("key", ["'seed'", '"seed"'])
def test_quoting_does_not_hide_a_duplicate(key: str) -> None:
    assert "already given in line 1" in refusal(f"seed: 1\n{key}: 2\n").what


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch CANARY']",
        "name: !!python/name:os.system x",
        "a: !!binary aGk=",
        "!mine {a: 1}",
        "? !!str a\n: 1",
        "a: [1, !!int 2]",
    ],
)
def test_tags_are_refused_and_nothing_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(text)
    assert "tag !" in error.what
    assert error.what.startswith("mine.yaml:1")
    assert not list(tmp_path.iterdir())


def test_aliases_and_the_bomb_are_refused() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, after in zip("abcdefghi", "bcdefghij", strict=True):
        bomb += f"{after}: &{after} [{', '.join(['*' + before] * 9)}]\n"
    started = time.process_time()
    error = refusal(bomb)
    assert time.process_time() - started < 5  # its own seconds; unchecked it would be minutes
    assert "mine.yaml:2: alias *a" in error.what
    assert "alias" in refusal("a: &a {b: 1}\nc:\n  <<: *a\n").what


@pytest.mark.parametrize("deep", ["[" * 10_000 + "]" * 10_000, "{a: " * 10_000, "- " * 10_000, "? " * 10_000])
def test_nesting_is_refused_at_once(deep: str) -> None:
    started = time.process_time()
    error = refusal(deep)
    assert time.process_time() - started < 5  # its own seconds; unchecked it would be minutes
    assert "nested 33 deep" in error.what or "not text" in error.what


def test_many_values_are_refused_at_once() -> None:
    started = time.process_time()
    assert "more than 10,000 values" in refusal("a: [" + "1," * 400_000 + "1]").what
    assert time.process_time() - started < 5  # its own seconds; unchecked it would be minutes


def test_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    started = time.process_time()
    with pytest.raises(ConfigError, match="50,000,000 bytes"):
        read_yaml(path)
    assert time.process_time() - started < 5  # its own seconds; unchecked it would be minutes
    path.write_bytes(b"#" * MAX_BYTES)
    assert read_yaml(path).items == {}


def test_tab_bad_syntax_and_control_characters_have_line_and_column() -> None:
    tab = refusal("training:\n\tsteps: 3\n")
    assert tab.what == "mine.yaml:2, column 1: a tab in the indentation"
    assert tab.fix == "indent with spaces, not tabs"
    assert refusal("a: 1\nb: [1, 2\nc: 3\n").what.startswith("mine.yaml:3, column")
    assert refusal("a: 1\n  b: 2\n").what.startswith("mine.yaml:2, column")
    assert refusal("a: 1\nb: x\x07\n").what == "mine.yaml:2, column 5: control character '\\x07'"
    assert "a second document" in refusal("a: 1\n---\nb: 2\n").what
    assert "mine.yaml:2" in refusal("---\n? [a]\n: 1\n").what


def test_bom_and_crlf_are_read_and_latin_1_is_located(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\r\nseed: 3\r\n")
    assert untyped(read_yaml(path)) == {"name": "a", "seed": 3}
    path.write_bytes("seed: 3\nname: café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="2, column 10: byte 0xe9 is not UTF-8"):
        read_yaml(path)
    path.write_bytes("name: a\n".encode("utf-16"))
    with pytest.raises(ConfigError, match="1, column 1: byte 0xff is not UTF-8"):
        read_yaml(path)


def test_what_is_not_a_file_is_named_and_never_hangs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        read_yaml(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="is not a file"):
        read_yaml(tmp_path / "fifo")
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.yaml: No such file"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="does not hold settings by name"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml").items == {}


def test_written_yaml_reads_back_alike_here_and_in_pyyaml() -> None:
    data = {"a": "no", "b": 1e-05, "c": [32, 64], "d": {"kind": "Ddim", "eta": 0.0}, "e": None, "f": "012", "g": "x: y"}
    text = to_yaml(data)
    assert yaml.safe_load(text) == data
    assert untyped(parse_yaml(text, "f")) == data
