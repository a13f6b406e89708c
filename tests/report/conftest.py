"""Pages of small real runs, made once, and a reader that turns a page into a tree to ask questions of."""

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.errors import NumericsError
from sfumato.experiment.arms import note_failure
from sfumato.experiment.config import load_experiment
from sfumato.experiment.evaluation.files import write_evaluation
from sfumato.experiment.sweep import Axis, Failure, Plan, Sweep
from sfumato.experiment.sweep.stored import store_plan
from sfumato.training import storage

SHORT = {
    "training.steps": 12,
    "training.batch_size": 8,
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 2,
    "training.ema_decay": 0.5,
    "training.preview_every": 6,
    "training.preview_count": 4,
    "training.evaluate_every": 3,
    "training.checkpoint_every": 6,
    "training.log_every": 1,
    "training.precision": "float32",
    "sampling.steps": 5,
    "evaluation.count": 4,
    "evaluation.noise_levels": 3,
}
DIGITS = {**SHORT, "data.limit": 60, "network.widths": (8,), "network.depth": 1, "network.embedding": 8}
POINTS = {
    **SHORT,
    "data.count": 60,
    "network.widths": (16, 16),
    "schedule.steps": 10,
    "times.steps": 10,
    "time_input.steps": 10,
}
VOID = {"img", "input", "link", "meta", "br", "hr"}


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attrs: dict[str, str]
    children: list["Node | str"] = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, tag: str | None = None, cls: str | None = None) -> list["Node"]:
        """The elements below this one by tag and class."""
        return [
            node
            for node in self.walk()
            if node is not self
            and (tag is None or node.tag == tag)
            and (cls is None or cls in node.attrs.get("class", "").split())
        ]

    def one(self, tag: str | None = None, cls: str | None = None, id_: str | None = None) -> "Node":
        found = [node for node in self.all(tag, cls) if id_ is None or node.attrs.get("id") == id_]
        assert len(found) == 1, (tag, cls, id_, len(found))
        return found[0]

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def section(self, id_: str) -> "Node":
        return self.one("section", id_=id_)

    @property
    def sections(self) -> list[str]:
        return [node.attrs["id"] for node in self.all("section")]


class _Reader(HTMLParser):
    """A strict reader: every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@pytest.fixture(scope="session")
def read() -> Callable[[Path], Node]:
    """Reads a page."""

    def reading(path: Path) -> Node:
        reader = _Reader()
        reader.feed(path.read_text("utf-8"))
        reader.close()
        assert reader.open == [reader.root], [node.tag for node in reader.open]
        return reader.root

    return reading


@pytest.fixture(scope="session")
def pixels() -> Callable[[Node], Any]:
    """The picture of an <img>."""

    def decoded(img: Node) -> Any:
        kind, _, content = img.attrs["src"].partition(",")
        assert kind == "data:image/png;base64"
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(content, validate=True))))
        if "pixels" not in img.attrs.get("class", ""):
            return found
        block = found.shape[0] // 8  # pictures of 8 x 8 are enlarged in blocks of one value
        np.testing.assert_array_equal(found, found[::block, ::block].repeat(block, 0).repeat(block, 1))
        return found[::block, ::block]

    return decoded


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_flush", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pictures; tests that change it copy it first."""
    return sfumato.train("digits", DIGITS, runs=tmp_path_factory.mktemp("digits"), name="run").folder


@pytest.fixture(scope="session")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sfumato.train("swiss-roll", POINTS, runs=tmp_path_factory.mktemp("points"), name="roll").folder


@pytest.fixture(scope="session")
def page(digits: Path, read: Callable[[Path], Node], tmp_path_factory: pytest.TempPathFactory) -> Node:
    """The page of the run of pictures, six samples from seed 3 on."""
    return read(sfumato.report(digits, tmp_path_factory.mktemp("page") / "page.html", n=6, seed=3))


# ------------------------------------------------------------------------------------------------------------ sweeps

AXES = (Axis("objective.distance", ("mse", "mae")), Axis("schedule", ("CosineAngle", "VpSde")))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of four arms of which three are trained and one failed; two distances by two schedules."""
    folder = tmp_path_factory.mktemp("sweeps") / "grid"
    plan = Plan("grid", load_experiment("digits", DIGITS), AXES)
    store_plan(plan, folder)
    for arm in Sweep.of(plan, folder).arms[:3]:
        sfumato.train(plan.base, arm.overrides(AXES), runs=arm.folder.parent, name=arm.name)
    return folder


@pytest.fixture
def sweep(trained: Path, tmp_path: Path) -> Sweep:
    """A copy of the grid."""
    folder = shutil.copytree(trained, tmp_path / "grid")
    found = Sweep.load(folder)
    error = NumericsError("the loss became <nan> after step 3", expected="a finite loss", fix="a smaller rate")
    note_failure(folder, found.arms[3].name, Failure.of(error))
    return found


@pytest.fixture(scope="session")
def measure() -> Callable[..., None]:
    """Stores an evaluation beside a run, as `sfumato evaluate` would."""

    def store(folder: Path, metrics: Mapping[str, tuple[float, float, int]], **facts: object) -> None:
        steps = json.loads(sorted((folder / "checkpoints").glob("step-*"))[-1].joinpath("state.json").read_text())[
            "step"
        ]
        shared = {"run": "digits", "steps_trained": steps, "weights": "ema", "part": "held-out", "seed": 0, **facts}
        document = {
            "metrics": {
                name: {"value": value, "std_error": error, "n": n, "provenance": shared}
                for name, (value, error, n) in metrics.items()
            },
            "notes": ["a note < that > one must know"],
        }
        write_evaluation(folder, "ema-held-out-seed0", document)

    return store
