"""The axes of a sweep: a setting each, with the values that it takes, written as flags write them.

    objective.distance=mse,mae            two values
    network.widths=[32,64],[64,128]       commas within brackets belong to a value
    schedule.steps+times.steps=10,100     settings that change together; `10+20` gives each its own
    training.learning_rate=1e-4..1e-2:log a range, for a search that draws

Values stay text: what they mean is decided where the settings are read, so an axis, a flag and a YAML file cannot
differ. Between two ends u in [0, 1) is the number low + u (high - low), or low (high/low)^u where the range says `log`,
of four digits: what is written in a name is then what is trained with.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.kinds import nearest
from sfumato.experiment.schema import to_plain

__all__ = [
    "Axis",
    "Between",
    "axes_of",
    "as_written_once",
    "axis_names",
    "require_known_keys",
    "slug",
    "speaks_for_itself",
    "text_of",
]

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")
_WHOLE = re.compile(r"[-+]?\d+")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.]+")
SAYS_LITTLE = frozenset({"true", "false", "yes", "no", "on", "off", "null", "none", "auto"})
_OWN = {"seed": "repeats over seeds are --seeds K", "name": "arms are named by their values; --name names the sweep"}


@dataclass(frozen=True, slots=True)
class Between:
    """A range of numbers. `whole` where both ends are whole numbers: they can be drawn too; `log`: even in ratios."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, u: float) -> str:
        """The number at the share u in [0, 1) of the range, as text of four digits, or a whole number."""
        top = self.high + 1 if self.whole else self.high
        x = self.low * (top / self.low) ** u if self.log else self.low + u * (top - self.low)
        if self.whole:
            return str(min(math.floor(x), int(self.high)))
        return self.rounded(x)

    def rounded(self, x: float) -> str:
        """A number of the range as text of four digits, within the range."""
        return min(max(f"{x:.4g}", repr(self.low), key=float), repr(self.high), key=float)


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting of a sweep, or several that change together, and its values.

    key: dotted, as in YAML files and flags; `a+b` are settings that change together.
    values: texts, as flags have them; for `a+b` each is `v+w`, or one text for all of the settings.
    """

    key: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        keys = self.key.split("+")
        if not all(re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key) for key in keys):
            raise _refusal(self.key, f"--axis {self.key!r} names no setting")
        if len({*keys}) < len(keys):
            raise _refusal(self.key, f"--axis {self.key} names a setting twice")
        for key in keys:
            if key in _OWN:
                raise _refusal(key, f"--axis {key}: {_OWN[key]}")
        if not self.values:
            raise _refusal(self.key, f"--axis {self.key} has no values: the grid is empty")
        for value in self.values:
            if not value.strip():
                raise _refusal(self.key, f"--axis {self.key} has an empty value")
            self.pairs(value)
            if len(self.values) > 1 and _RANGE.fullmatch(value):
                raise _refusal(self.key, f"--axis {self.key}: the range {value} stands among other values")
        if self.between is not None and "+" in self.key:
            raise _refusal(self.key, f"--axis {self.key}: a range is of one setting")

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """`KEY=V1,V2`. Raises ConfigError for what is none."""
        key, equals, values = text.partition("=")
        if not equals:
            raise _refusal(key, f"--axis {text} has no values: the grid is empty")
        return cls(key.strip(), tuple(_apart(values, ",")) if values.strip() else ())

    @property
    def between(self) -> Between | None:
        """The range that the only value names; None for an axis with values."""
        found = _RANGE.fullmatch(self.values[0]) if len(self.values) == 1 else None
        if found is None:
            return None
        low, high, log = float(found[1]), float(found[2]), found[3] is not None
        whole = _WHOLE.fullmatch(found[1]) is not None and _WHOLE.fullmatch(found[2]) is not None
        if not low < high or (log and low <= 0):
            raise ConfigError(
                f"--axis {self.key}={self.values[0]} is no range",
                expected="LOW..HIGH with LOW below HIGH; above 0 with :log",
                fix=f"--axis {self.key}=1e-4..1e-2:log",
            )
        return Between(low, high, log, whole)

    def pairs(self, value: str) -> tuple[tuple[str, str], ...]:
        """The settings that a value stands for, as (key, text)."""
        keys = self.key.split("+")
        texts = _apart(value, "+") if len(keys) > 1 else [value]
        texts = [value] * len(keys) if len(texts) == 1 else texts
        if len(texts) != len(keys):
            raise _refusal(self.key, f"--axis {self.key}={value} has {len(texts)} values for {len(keys)} settings")
        return tuple(zip(keys, texts, strict=True))

    def with_values_of(self, other: "Axis") -> "Axis":
        """This axis with the values of another of the same key that it lacks, behind its own."""
        return Axis(self.key, tuple(dict.fromkeys((*self.values, *other.values))))


def _refusal(key: str, what: str) -> ConfigError:
    return ConfigError(
        what,
        expected="KEY=V1,V2: a setting and the values that it takes",
        fix="--seeds 3" if key == "seed" else "--axis objective.distance=mse,mae",
    )


def _apart(text: str, mark: str) -> list[str]:
    """The pieces between marks that stand outside of brackets and quotes."""
    pieces, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in "[{(") - (letter in ")}]") if not quote else 0
        if letter == mark and depth == 0 and not quote:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece.strip() for piece in pieces]


def axes_of(given: Mapping[str, Sequence[object]] | Iterable["Axis | str"]) -> tuple[Axis, ...]:
    """Axes from a mapping of keys to Python values, or from axes and texts `KEY=V1,V2`. Raises ConfigError."""
    if isinstance(given, Mapping):
        axes = [Axis(key, tuple(map(text_of, _listed(key, values)))) for key, values in given.items()]
    else:
        axes = [axis if isinstance(axis, Axis) else Axis.parse(axis) for axis in given]
    keys = [key for axis in axes for key in axis.key.split("+")]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"two axes set {twice}", expected="one axis for a setting", fix=f"--axis {twice}=V1,V2 with all its values"
        )
    return tuple(axes)


def _listed(key: str, values: object) -> Sequence[object]:
    """The values of an axis; a text is a range, or one value, and not its letters."""
    if isinstance(values, str):
        return [values]
    if not isinstance(values, Sequence):
        raise _refusal(key, f"the axis {key} has {values!r} for its values")
    return values


def text_of(value: object) -> str:
    """A Python value as a flag would have it: null, true, 0.001, [32, 64], {"kind": "CosineAngle", …}."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    plain = to_plain(value)
    if isinstance(plain, dict):
        name = type(value).__name__
        return json.dumps({"kind": name.removesuffix("Config") or name, **plain}) if plain else name
    return json.dumps(plain)


def slug(axis: Axis, value: str) -> str:
    """A value as a part of a name: `cosineangle`, `learning_rate-0.001`, `widths-32-64`.

    A word stands for itself; what says little alone (numbers, yes and no) follows the last word of its setting.
    """
    word = _NOT_IN_NAMES.sub("-", value.removeprefix("-")).strip("-.")
    word = ("-" if re.match(r"-[\d.]", value) else "") + word.lower()
    if value.startswith("{") and word.startswith("kind-"):
        return word.removeprefix("kind-")
    if speaks_for_itself(value):
        return word
    return f"{axis.key.split('+')[0].rpartition('.')[2]}-{_shortest(word)}"


def as_written_once(value: str) -> str:
    """A value in one way of writing, to compare commands by: 0.001 for 1e-3, `cosineangle` for `cosine-angle`."""
    word = value.strip()
    return _shortest(word) if re.fullmatch(_NUMBER, word) else re.sub(r"[\s_-]+", "", word).lower()


def _shortest(word: str) -> str:
    """Numbers that are equal in one form: 0.001 for 1e-3 and 0.0010."""
    try:
        number = Decimal(word).normalize()
    except ArithmeticError:
        return word
    plain = f"{number:f}"
    return plain if len(plain) <= 8 else f"{number:e}".replace("+", "")


def speaks_for_itself(value: str) -> bool:
    """Whether a value says what it is without its setting: a word does, a number, yes and no do not."""
    return value[:1].isalpha() and value.lower() not in SAYS_LITTLE


def axis_names(axes: Sequence[str]) -> dict[str, str]:
    """The last words of dotted keys, the whole key where two would be called the same."""
    short = {axis: "+".join(key.rpartition(".")[2] for key in axis.split("+")) for axis in axes}
    taken = list(short.values())
    return {axis: name if taken.count(name) == 1 else axis for axis, name in short.items()}


def require_known_keys(axes: Iterable[Axis]) -> None:
    """Refuse settings that no experiment has, naming the nearest. Raises UsageError."""
    known = _known_keys()
    for key in (key for axis in axes for key in axis.key.split("+")):
        if key not in known:
            near = nearest(key, sorted(known))
            raise UsageError(
                f"--axis {key}: there is no such setting",
                expected="a setting, as `sfumato train --help` lists them",
                fix=f"did you mean {near}?" if near else "run `sfumato train --help`",
            )


@cache
def _known_keys() -> frozenset[str]:
    from sfumato.experiment.config import Experiment
    from sfumato.experiment.kinds import paths

    return frozenset(paths(Experiment))
