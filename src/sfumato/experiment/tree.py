"""Settings before they are understood: plain nested data in which every value knows where it was written.

A YAML file, a command line (`--schedule.max_signal_rate 0.9`) and a Python mapping all become the same tree of `Leaf`,
`Row` and `Branch`; `assign` lays one over another; `schema.read` gives the tree its types. Unquoted text stays text
(`Plain`) until the type of its field is known, so that `no`, `012` and `1e-4` cannot turn into something else on the
way (YAML 1.1 reads them as false, 10 and a string).
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

__all__ = [
    "Bare",
    "Branch",
    "Leaf",
    "Node",
    "Plain",
    "Row",
    "assign",
    "named_kind",
    "overrides_of",
    "tree_of",
    "untyped",
]

_NULL = frozenset({"", "~", "null", "none"})
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Plain:
    """Unquoted text of a file or a flag; its meaning depends on the type of the field that it is for."""

    text: str

    @property
    def is_null(self) -> bool:
        """Whether the text says "nothing": empty, `~`, `null` or `none`."""
        return self.text.strip(" ").lower() in _NULL

    def value(self) -> object:
        """What the text means where no type is known: the YAML 1.2 core schema (None, bool, int, float, else str)."""
        if self.text.strip(" ").lower() in _NULL - {"none"}:
            return None
        if self.text in ("true", "True", "false", "False"):
            return self.text.lower() == "true"
        if len(self.text) < 300 and _INT.fullmatch(self.text):
            return int(self.text)
        return float(self.text) if _FLOAT.fullmatch(self.text) else self.text


@dataclass(frozen=True, slots=True)
class Bare:
    """What a flag without a value holds: yes, where the setting is true or false; elsewhere a value is missing."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value and the place it came from (`mine.yaml:12`, `--seed`)."""

    value: object
    origin: str


@dataclass(frozen=True, slots=True)
class Row:
    """A list of nodes."""

    items: tuple["Node", ...]
    origin: str


@dataclass(frozen=True, slots=True)
class Branch:
    """Named nodes. `implied` marks one made on the way to a dotted key, which may leave its kind to the default.

    `before` is what stood here until another place named the class: its fields count if that is the same class.
    """

    items: Mapping[str, "Node"] = field(default_factory=dict)
    origin: str = ""
    implied: bool = False
    before: "Branch | None" = None


Node = Leaf | Row | Branch


def tree_of(value: object, origin: str) -> Node:
    """The tree of a Python value: mappings, lists and frozen dataclasses (with their `kind`) are opened, the rest are
    leaves.
    """
    if isinstance(value, Leaf | Row | Branch):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Plain | Bare):
        fields = {f.name: tree_of(getattr(value, f.name), origin) for f in dataclasses.fields(value) if f.init}
        return Branch({"kind": Leaf(type(value).__name__, origin), **fields}, origin)
    if isinstance(value, Mapping):
        return Branch({str(key): tree_of(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return Row(tuple(tree_of(item, origin) for item in value), origin)
    return Leaf(value, origin)


def untyped(node: Node) -> object:
    """The plain Python data of a tree, text read by the YAML 1.2 core schema."""
    if isinstance(node, Branch):
        return {key: untyped(item) for key, item in node.items.items()}
    if isinstance(node, Row):
        return [untyped(item) for item in node.items]
    return node.value.value() if isinstance(node.value, Plain) else node.value


def _text(node: Node | None) -> str | None:
    """The text of a leaf that holds text."""
    value = node.value if isinstance(node, Leaf) else None
    return value.text if isinstance(value, Plain) else value if isinstance(value, str) else None


def named_kind(node: Node | None) -> str | None:
    """The class that a node names: `CosineAngle` or `{kind: CosineAngle, ...}`; None when it names none."""
    return _text(node.items.get("kind")) if isinstance(node, Branch) else _text(node)


def overrides_of(
    values: Mapping[str, object], origin: str, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Node]]:
    """Paths and nodes of Python settings; keys may be dotted or nested, and a nested mapping adds to what is there.

    A value object (a frozen dataclass) replaces what is there as a whole.
    """
    for key, value in values.items():
        path = (*prefix, *str(key).split("."))
        if isinstance(value, Mapping):
            yield from overrides_of(value, origin, path)
        else:
            yield path, tree_of(value, origin)


def assign(tree: Branch, path: tuple[str, ...], node: Node) -> Branch:
    """`tree` with `node` at `path`.

    Naming a class keeps the fields below it when it is the class already named there, and drops them when it is
    another one.
    """
    head, rest = path[0], path[1:]
    here = tree.items.get(head)
    if rest == ("kind",) or (not rest and isinstance(here, Branch) and _names_a_class(node)):
        new: Node = Branch({"kind": node}, node.origin, before=here if isinstance(here, Branch) else None)
    elif rest:
        new = assign(here if isinstance(here, Branch) else _opened(here, node.origin), rest, node)
    else:
        new = node
    return replace(tree, items={**tree.items, head: new})


def _names_a_class(node: Node) -> bool:
    """Whether a node is a bare word that is not null."""
    return _text(node) is not None and not (
        isinstance(node, Leaf) and isinstance(node.value, Plain) and node.value.is_null
    )


def _opened(here: Node | None, origin: str) -> Branch:
    """The branch that a dotted key enters: `CosineAngle` becomes `{kind: CosineAngle}`, nothing an implied branch."""
    if here is None:
        return Branch({}, origin, implied=True)
    return Branch({"kind": here}, here.origin)
