"""The oracles judge the rest of sfumato, so they may share nothing with it."""

import ast
from pathlib import Path

import sfumato.verify.oracles as oracles


def test_oracles_import_only_numpy_and_themselves() -> None:
    allowed = {"abc", "dataclasses", "math", "numpy", "numpy.typing"}
    found: set[str] = set()
    for path in Path(oracles.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                found.add(node.module or "")
    assert "numpy" in found
    assert {name for name in found if not name.startswith("sfumato.verify.oracles.")} <= allowed
