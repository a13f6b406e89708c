"""The typed reader, on toy settings: kinds, overrides, numbers, messages, and the way back to plain data."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import ConfigError
from sfumato.experiment.kinds import kinds, paths
from sfumato.experiment.schema import flatten, read, refuse_all, to_plain
from sfumato.experiment.tree import Branch, Leaf, Plain, assign, overrides_of, untyped
from sfumato.experiment.yaml_file import parse_yaml, to_yaml


class Curve(ABC):
    """A toy schedule."""

    __slots__ = ()

    @abstractmethod
    def value(self) -> float: ...


@dataclass(frozen=True, slots=True)
class RoundCurve(Curve):
    """Two rates."""

    low: float = 0.02
    high: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 1:
            raise ConfigError(f"curve.high is {self.high}", expected="low < high < 1", fix="narrow them")

    def value(self) -> float:
        return self.high


@dataclass(frozen=True, slots=True)
class Line:
    start: float = 1e-4
    end: float = 0.02


@dataclass(frozen=True, slots=True)
class Hill:
    offset: float = 0.008


@dataclass(frozen=True, slots=True)
class TableCurve(Curve):
    betas: Line | Hill = Line()
    steps: int = 1000

    def value(self) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class Bent(Curve):
    base: Curve = RoundCurve()
    factor: float = 1.0

    def value(self) -> float:
        return self.base.value()


@dataclass(frozen=True, slots=True)
class Bare(Curve):
    def value(self) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class UnetConfig:
    widths: tuple[int, ...] = (32, 64)
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class MlpConfig:
    hidden: int = 128


@dataclass(frozen=True, slots=True)
class Work:
    steps: int = 10
    learning_rate: float = 1e-3
    clip: bool = True
    precision: Literal["auto", "float32"] = "auto"
    keep: int | None = None
    pad: int | tuple[int, int] | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Toy:
    name: str = "toy"
    seed: int = 0
    curve: Curve = RoundCurve(low=0.1)
    network: UnetConfig | MlpConfig = UnetConfig()
    work: Work = field(default_factory=Work)


def toy(text: str, *flags: tuple[str, str], **python: Any) -> Toy:
    tree = parse_yaml(text or "{}", "toy.yaml")
    assert isinstance(tree, Branch)
    for key, value in sorted(flags, key=lambda pair: pair[0].count(".")):
        tree = assign(tree, tuple(key.split(".")), Leaf(Plain(value), f"--{key}"))
    for path, node in overrides_of({k.replace("__", "."): v for k, v in python.items()}, "overrides"):
        tree = assign(tree, path, node)
    return read(Toy, tree)


def refusal(text: str, *flags: tuple[str, str], **python: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        toy(text, *flags, **python)
    return caught.value


def test_nothing_said_is_the_default() -> None:
    assert toy("") == Toy()


def test_kinds_are_found_by_class_and_by_union() -> None:
    assert list(kinds(Curve)) == ["Bare", "Bent", "RoundCurve", "TableCurve"]
    assert list(kinds(UnetConfig | MlpConfig)) == ["Mlp", "Unet"]
    assert kinds(Curve)["Bent"] is Bent  # not the class that slots=True replaced


@pytest.mark.parametrize("name", ["TableCurve", "tablecurve", "table-curve", "TABLE_CURVE"])
def test_names_of_kinds_ignore_case_and_dashes(name: str) -> None:
    assert toy(f"curve: {name}").curve == TableCurve()
    assert toy("", ("curve", name)).curve == TableCurve()


def test_config_suffix_is_dropped() -> None:
    assert toy("network: mlp").network == toy("network: MlpConfig").network == MlpConfig()
    assert to_plain(Toy(network=MlpConfig(3)))["network"] == {"kind": "Mlp", "hidden": 3}


def test_recursive_kinds() -> None:
    built = toy("curve: {kind: Bent, base: {kind: TableCurve, betas: Hill}, factor: 2}")
    assert built.curve == Bent(TableCurve(Hill()), 2.0)
    dotted = {
        "curve": "bent",
        "curve.base": "tablecurve",
        "curve.base.betas": "hill",
        "curve.base.betas.offset": "1e-2",
    }
    flags = list(dotted.items())
    assert toy("", *flags).curve == Bent(TableCurve(Hill(0.01)))
    assert toy("", *reversed(flags)).curve == Bent(TableCurve(Hill(0.01)))  # the order of flags does not matter


def test_naming_a_class_keeps_its_own_fields_and_drops_those_of_another() -> None:
    written = "curve: {kind: RoundCurve, low: 0.3, high: 0.4}"
    assert toy(written, ("curve", "roundcurve")).curve == RoundCurve(0.3, 0.4)
    assert toy(written, ("curve", "RoundCurve"), ("curve.high", "0.5")).curve == RoundCurve(0.3, 0.5)
    assert toy(written, ("curve", "TableCurve"), ("curve.steps", "7")).curve == TableCurve(steps=7)
    assert toy(written, ("curve.kind", "TableCurve")).curve == TableCurve()
    assert toy(written, ("curve.kind", "RoundCurve")).curve == RoundCurve(0.3, 0.4)


def test_a_dotted_flag_changes_one_field_of_the_default() -> None:
    """The default object is RoundCurve(low=0.1), not RoundCurve()."""
    assert toy("", ("curve.high", "0.9")).curve == RoundCurve(0.1, 0.9)
    assert toy("curve: RoundCurve", ("curve.high", "0.9")).curve == RoundCurve(0.1, 0.9)


def test_a_file_must_name_the_kind() -> None:
    error = refusal("seed: 1\ncurve:\n  high: 0.9\n")
    assert error.what == "toy.yaml:2: curve: has no kind"
    assert error.expected == "curve: one of Bare, Bent, RoundCurve, TableCurve"


def test_python_overrides_take_objects_nested_and_dotted_mappings() -> None:
    assert toy("", curve=TableCurve(steps=3)).curve == TableCurve(steps=3)
    assert toy("work: {steps: 5}", work={"keep": 2}).work == Work(steps=5, keep=2)
    assert toy("", work__steps=5, curve="bare") == Toy(curve=Bare(), work=Work(steps=5))
    assert toy("", network=UnetConfig(widths=(1, 2, 3))).network == UnetConfig((1, 2, 3))


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("'1e-4'", 1e-4), ('"0.5"', 0.5), (".5", 0.5), ("1", 1.0), ("+2.5E+1", 25.0)]
)
def test_numbers_may_be_written_as_people_write_them(text: str, value: float) -> None:
    rate = toy(f"work: {{learning_rate: {text}}}").work.learning_rate
    assert rate == value
    assert isinstance(rate, float)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seed: 1e4", 10_000),
        ("seed: '12'", 12),
        ("work: {clip: no}", False),
        ("work: {clip: 'true'}", True),
        ("name: no", "no"),
        ("name: 012", "012"),
        ("name: 1e-4", "1e-4"),
        ("name: 'null'", "null"),
        ("work: {device: '\xa0'}", "\xa0"),  # a no-break space is text
        ("work: {device: \xa0}", "\xa0"),
        ("work: {keep: ~}", None),
        ("work: {keep: none}", None),
        ("work: {pad: [4, 8]}", (4, 8)),
        ("work: {pad: 4}", 4),
        ("work: {device: cpu}", "cpu"),
        ("work: {precision: FLOAT32}", "float32"),
    ],
)
def test_meaning_follows_the_type_of_the_field(line: str, expected: object) -> None:
    assert expected in [v for v in flatten_values(toy(line)) if type(v) is type(expected)]


def flatten_values(value: Toy) -> list[object]:
    work = value.work
    return [value.name, value.seed, work.clip, work.keep, work.pad, work.device, work.precision]


def test_lists_on_a_command_line() -> None:
    for text in ("8,16", "[8, 16]", "8, 16"):
        assert toy("", ("network.widths", text)).network == UnetConfig((8, 16))
        assert toy("", ("work.pad", text)).work.pad == (8, 16)


@pytest.mark.parametrize(
    ("line", "what", "expected"),
    [
        ("seed: 012", "'012' has a leading zero", "a whole number"),
        ("seed: 1.5", "'1.5' is not a whole number", "a whole number"),
        ("seed: true", "'true' is not a whole number", "a whole number"),
        ("seed: 1_000", "'1_000' is not a whole number", "a whole number"),
        ("seed: 0x10", "'0x10' is not a whole number", "a whole number"),
        ("seed: 10000000000000000000000", "is beyond", "a whole number"),
        ("seed: null", "'null' is not a whole number", "a whole number"),
        ("seed: [1]", "is a list, not a single value", "a whole number"),
        ("seed: {a: 1}", "is a section, not a single value", "a whole number"),
        ("name: null", "'null' means nothing at all", "text"),
        ("work: {learning_rate: .nan}", "'.nan' is not finite", "a number"),
        ("work: {learning_rate: -.inf}", "'-.inf' is not finite", "a number"),
        ("work: {learning_rate: 1e999}", "is not finite", "a number"),
        ("work: {learning_rate: fast}", "'fast' is not a number", "a number"),
        ("work: {learning_rate: true}", "'true' is not a number", "a number"),
        ("work: {clip: 1}", "'1' is neither true nor false", "true or false"),
        ("work: {clip: maybe}", "'maybe' is neither true nor false", "true or false"),
        ("work: {precision: half}", "'half' is not a choice", "one of auto, float32"),
        ("work: {keep: x}", "'x' is not a whole number", "a whole number or null"),
        ("work: {pad: [1, 2, 3]}", "has 3 entries, not 2", "a whole number, two whole numbers"),
        ("work: {pad: [1, a]}", "entry 2: 'a' is not a whole number", "a whole number, two whole numbers"),
        ("network: {kind: unet, widths: 7x}", "entry 1: '7x' is not a whole number", "a list of whole numbers"),
        ("work: 3", "is not a section", "a section Work"),
        ("curve: [1]", "is not a section", "one of Bare"),
    ],
)
def test_refusals_say_what_was_given_and_what_is_expected(line: str, what: str, expected: str) -> None:
    error = refusal(line)
    assert error.what.startswith("toy.yaml:1: ")
    assert what in error.what
    assert expected in error.expected
    assert error.fix


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), 1.5, 10**30, None, [1], "x"])
def test_python_values_are_checked_alike(value: object) -> None:
    assert "overrides: seed" in refusal("", seed=value).what


def test_unknown_key_names_its_line_and_the_nearest_name() -> None:
    error = refusal("name: a\nwork:\n  steps: 5\n  learnign_rate: 0.1\n")
    assert error.what == "toy.yaml:4: work.learnign_rate: unknown key 'learnign_rate'"
    assert error.fix == "did you mean work.learning_rate?"
    assert "a field of work (Work): steps, learning_rate" in error.expected
    flag = refusal("", ("work.learnign_rate", "1"))
    assert flag.what == "--work.learnign_rate: unknown key 'learnign_rate'"
    assert flag.fix == "did you mean --work.learning_rate?"


def test_unknown_top_level_key_is_looked_for_in_the_sections() -> None:
    assert refusal("", ("learning_rate", "1")).fix == "did you mean --work.learning_rate?"
    assert refusal("", ("work.betas", "1")).fix == "did you mean --curve.betas?"


def test_unknown_kind_names_the_nearest() -> None:
    error = refusal("curve: RoundCurv")
    assert error.what == "toy.yaml:1: curve: there is no 'RoundCurv'"
    assert error.expected == "one of Bare, Bent, RoundCurve, TableCurve"
    assert error.fix == "did you mean RoundCurve?"
    assert "there is no 'os.system'" in refusal("curve: {kind: os.system}").what


def test_a_value_objects_refusal_gets_the_line_of_the_field() -> None:
    error = refusal("curve:\n  kind: RoundCurve\n  low: 0.2\n  high: 1.5\n")
    assert error.what == "toy.yaml:4: curve.high is 1.5"
    assert refusal("", ("curve.high", "1.5")).what == "--curve.high: curve.high is 1.5"


def test_all_problems_are_reported_at_once() -> None:
    error = refusal("nam: 1\nseed: x\nwork:\n  stepz: 3\n  keep: y\ncurve: {kind: RoundCurve, high: 7}\n", ("sed", "1"))
    assert error.what.startswith("6 problems: (1) toy.yaml:1: ")
    for part in (
        "toy.yaml:2: seed",
        "toy.yaml:4: work.stepz",
        "toy.yaml:5: work.keep",
        "(5) toy.yaml:6: curve.high",
        "--sed",
    ):
        assert part in error.what
    assert len(str(error).splitlines()) == 3  # still three lines
    assert error.fix.count("did you mean") == 3


def test_required_fields() -> None:
    @dataclass(frozen=True, slots=True)
    class Needs:
        path: str
        count: int = 1

    with pytest.raises(ConfigError, match="path is missing"):
        read(Needs, {"count": 2})
    assert read(Needs, {"path": "x"}) == Needs("x")


def test_the_base_supplies_what_is_left_out() -> None:
    base = Toy(seed=9, curve=TableCurve(Hill(0.5), 3), work=Work(steps=77))
    assert read(Toy, {"work": {"keep": 1}}, base=base) == Toy("toy", 9, base.curve, base.network, Work(77, keep=1))


def test_paths_flatten_and_refuse_all() -> None:
    assert {"curve.base.betas.offset", "network.hidden", "work.steps", "seed"} <= set(paths(Toy))
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": [1, 2], "d": None}
    refuse_all([])


def test_a_kind_without_fields_is_its_bare_name() -> None:
    assert to_plain(Toy(curve=Bare()))["curve"] == "Bare"
    assert toy("curve: {kind: Bare}") == Toy(curve=Bare())


FINITE = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)
SMALL = st.floats(0.001, 0.4)
TABLES = st.builds(TableCurve, st.builds(Line, FINITE, FINITE) | st.builds(Hill, FINITE), WHOLE)
LEAVES = st.builds(RoundCurve, SMALL, st.floats(0.41, 0.99)) | TABLES | st.just(Bare())
CURVES = st.recursive(LEAVES, lambda inner: st.builds(Bent, inner, FINITE), max_leaves=4)
# Text that YAML can hold: no control characters, no lone surrogates. The line separators NEL, LS and PS are among them.
WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="\ufeff"), max_size=12)
WORKS = st.builds(
    Work,
    steps=WHOLE,
    learning_rate=FINITE,
    clip=st.booleans(),
    precision=st.sampled_from(["auto", "float32"]),
    keep=st.none() | WHOLE,
    pad=st.none() | WHOLE | st.tuples(WHOLE, WHOLE),
    device=st.none()
    | WORDS
    | st.sampled_from(["null", "no", "012", "~", "", "none", "\xa0", "1e-4", "true", "- a", "a: b"]),
)
NETWORKS = st.builds(UnetConfig, st.lists(WHOLE, max_size=4).map(tuple), FINITE) | st.builds(MlpConfig, WHOLE)
TOYS = st.builds(Toy, WORDS, WHOLE, CURVES, NETWORKS, WORKS)


@given(TOYS)
def test_plain_data_reads_back_equal(value: Toy) -> None:
    assert read(Toy, to_plain(value)) == value


@given(TOYS)
def test_written_yaml_reads_back_equal(value: Toy) -> None:
    """What is written in config.yaml is the whole experiment, whatever its strings look like."""
    assert read(Toy, parse_yaml(to_yaml(to_plain(value)), "f")) == value


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | WORDS.map(Plain),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "name", "seed", "x"]), inner),
    max_leaves=8,
)


def outcome(call: Callable[[], object]) -> object:
    """What a call gives, or the ConfigError that it refuses with; anything else is a bug and passes through."""
    try:
        return call()
    except ConfigError as error:
        return error


@given(st.dictionaries(st.sampled_from(["kind", "name", "seed", "curve", "network", "work", "x"]), JUNK))
def test_any_junk_is_read_or_refused(settings: dict[str, object]) -> None:
    assert isinstance(outcome(lambda: read(Toy, settings)), Toy | ConfigError)


@given(st.text(max_size=60))
def test_any_text_is_yaml_or_refused(text: str) -> None:
    outcome(lambda: untyped(parse_yaml(text, "f")))


def test_a_field_s_own_class_may_be_left_out_of_its_kinds() -> None:
    assert toy("curve: round").curve == RoundCurve(0.1)
    assert toy("curve: {kind: TableCurve, steps: 5}", ("curve", "table")).curve == TableCurve(steps=5)


def test_naming_the_class_of_the_default_again_keeps_what_was_said_of_it() -> None:
    flags = [("curve", "RoundCurve"), ("curve.high", "0.5"), ("curve.kind", "round")]
    assert toy("", *flags).curve == RoundCurve(0.1, 0.5)
