"""YAML, the strict part of it: plain data, every value with its line, and nothing that can run, explode or be misread.

PyYAML's parser gives events; this module builds the tree from them and refuses what a settings file has no use for:
tags, aliases (an alias of an alias of … is the "billion laughs" bomb), a key given twice, several documents, more than
`MAX_BYTES`, `MAX_NODES` or `MAX_DEPTH`. No constructor of PyYAML is involved, so no tag can build an object. Text
stays text until its field is known (see `tree`).
"""

import re
import stat
from collections.abc import Iterator
from pathlib import Path

import yaml

from sfumato.errors import ConfigError
from sfumato.experiment.tree import Branch, Leaf, Node, Plain, Row

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "parse_yaml", "read_yaml", "to_yaml"]

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 32

# The C parser is some thirty times faster; events and marks are the same.
_Loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


def read_yaml(path: Path) -> Branch:
    """The settings written in the file `path`, each with its line.

    Raises ConfigError when the file is missing, not a plain file, too large, not UTF-8 or not strict YAML.
    """
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # a FIFO or a device would hang or never end
            raise ConfigError(f"{path} is not a file", expected="a YAML file", fix="name the YAML file itself")
        if info.st_size > MAX_BYTES:
            raise _limit(f"{path} has {info.st_size:,} bytes", f"a settings file of at most {MAX_BYTES:,} bytes")
        raw = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot read {path}: {reason}", expected="a readable YAML file", fix="check the path and its permissions"
        ) from error
    node = parse_yaml(_decoded(raw, str(path)), str(path))
    if isinstance(node, Leaf) and node.value == Plain(""):
        return Branch({}, str(path))
    if not isinstance(node, Branch):
        raise ConfigError(
            f"{node.origin}: the file does not hold settings by name",
            expected="lines `key: value`",
            fix="start with `name: …`",
        )
    return node


def parse_yaml(text: str, name: str) -> Node:
    """The tree of one YAML document; `name` stands before the line numbers in messages."""
    bad = _CONTROL.search(text)
    if bad is not None:
        place = _place(name, text, bad.start())
        raise ConfigError(f"{place}: control character {bad.group()!r}", expected="text", fix="delete the character")
    try:
        return _document(yaml.parse(text, Loader=_Loader), name)
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text, name) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {error}", expected="YAML text", fix="save the file as UTF-8 YAML") from error


class _Dumper(yaml.SafeDumper):
    """Writes lists and small classes in one line, everything else line by line, and never an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _short(dumper: yaml.SafeDumper, data: dict[str, object]) -> yaml.Node:
    flat = "kind" in data and not any(isinstance(value, dict) for value in data.values())
    return dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=flat)


def _word(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    """Text; quoted where it would be read as nothing, `none` among these."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="'" if Plain(data).is_null else None)


_Dumper.add_representer(str, _word)
_Dumper.add_representer(dict, _short)
_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)


def to_yaml(data: object) -> str:
    """YAML text of plain data (dicts, lists, scalars) that `parse_yaml` and any other reader understand alike."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _decoded(raw: bytes, name: str) -> str:
    """UTF-8 text, without the byte order mark that Windows editors write."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise ConfigError(
            f"{name}:{line}, column {column}: byte 0x{raw[error.start]:02x} is not UTF-8",
            expected="a file in UTF-8",
            fix="save the file again with the encoding UTF-8",
        ) from error


class _Builder:
    """Builds the tree of one document; counts its nodes."""

    def __init__(self, events: Iterator[yaml.Event], name: str) -> None:
        self.events = events
        self.name = name
        self.nodes = 0

    def place(self, event: yaml.Event) -> str:
        return f"{self.name}:{_line(event)}"

    def node(self, event: yaml.Event, depth: int, origin: str | None = None) -> Node:
        """The node that `event` opens; `origin` is the place of its key, if it has one."""
        origin = origin or self.place(event)
        self.nodes += 1
        self._check(event, depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth, origin)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                items.append(self.node(inner, depth + 1))
            return Row(tuple(items), origin)
        assert isinstance(event, yaml.ScalarEvent)
        return Leaf(event.value if event.style in ("'", '"', "|", ">") else Plain(event.value), origin)

    def _check(self, event: yaml.Event, depth: int) -> None:
        place = self.place(event)
        if self.nodes > MAX_NODES:
            raise _limit(f"{place}: more than {MAX_NODES:,} values", f"at most {MAX_NODES:,} values")
        if depth > MAX_DEPTH:
            raise _limit(f"{place}: nested {depth} deep", f"at most {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(
                f"{place}: alias *{event.anchor}", expected="no aliases", fix="write the value out where it is used"
            )
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            raise ConfigError(
                f"{place}: tag {tag} is refused", expected="plain values without tags", fix="delete the tag"
            )

    def _mapping(self, depth: int, origin: str) -> Branch:
        items: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line(event)
            key = self._key(event, depth)
            if key in items:
                same = line == lines[key]
                raise ConfigError(
                    f"{self.place(event)}: key {key!r} was already given "
                    + ("in the same line" if same else f"in line {lines[key]}"),
                    expected="every key once",
                    fix="delete one of the two" if same else f"delete line {lines[key]} or line {line}",
                )
            items[key] = self.node(next(self.events), depth + 1, self.place(event))
            lines[key] = line
        return Branch(items, origin)

    def _key(self, event: yaml.Event, depth: int) -> str:
        self._check(event, depth)
        if not isinstance(event, yaml.ScalarEvent):
            raise ConfigError(
                f"{self.place(event)}: a key that is not text", expected="`key: value`", fix="use a name as key"
            )
        return str(event.value)


def _document(events: Iterator[yaml.Event], name: str) -> Node:
    """The tree of the only document in `events`."""
    builder = _Builder(events, name)
    node: Node = Leaf(Plain(""), name)
    seen = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            seen += 1
            if seen > 1:
                raise ConfigError(
                    f"{builder.place(event)}: a second document", expected="one document", fix="delete it"
                )
            node = builder.node(next(events), 1)
    return node


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    assert mark is not None  # every event of a text has its place
    return mark.line + 1


def _limit(what: str, expected: str) -> ConfigError:
    return ConfigError(what, expected=expected, fix="check that this is the settings file that you mean")


def _place(name: str, text: str, position: int) -> str:
    return f"{name}:{text.count(chr(10), 0, position) + 1}, column {position - text.rfind(chr(10), 0, position)}"


def _syntax(error: yaml.MarkedYAMLError, text: str, name: str) -> ConfigError:
    """The parser's complaint with its line and column; a tab in the indentation is called a tab."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return ConfigError(f"{name}: {error.problem}", expected="YAML text", fix="correct the syntax")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    place = f"{name}:{mark.line + 1}, column {mark.column + 1}"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return ConfigError(f"{place}: a tab in the indentation", expected="spaces", fix="indent with spaces, not tabs")
    return ConfigError(
        f"{place}: {error.problem or 'not YAML'}",
        expected="YAML: `key: value` lines",
        fix="correct the syntax at that place",
    )
