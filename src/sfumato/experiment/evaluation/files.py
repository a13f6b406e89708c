"""Evaluations on disk: runs/NAME/evaluations/WEIGHTS-PART-seedK-DIGEST.json, one file each, never replaced by another.

The digest is that of the contents, so the same measurement made twice is one file, and two different ones are two.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file

__all__ = ["write_evaluation"]


def write_evaluation(folder: Path, name: str, document: dict[str, Any]) -> Path:
    """Write a document into folder/evaluations, whole or not at all; gives the file. Raises ResourceError."""
    content = (_text(_finite(document)) + "\n").encode()
    path = folder / "evaluations" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}.json"
    storage = LocalStorage()
    try:
        make_folders(path.parent, storage)
        replace_file(path, [content], storage)
    except OSError as error:
        raise explained(error, f"writing {path}", path=path, storage=storage) from None
    return path


def _text(document: dict[str, Any]) -> str:
    """JSON for people: a field a line, but each list of influences, which may be long, on one."""
    rest = {key: value for key, value in document.items() if key != "influences"}
    text = json.dumps(rest, indent=2, ensure_ascii=False)
    lines = [f"    {json.dumps(name)}: {json.dumps(each)}" for name, each in document.get("influences", {}).items()]
    if not lines:
        return text
    return text.removesuffix("\n}") + ',\n  "influences": {\n' + ",\n".join(lines) + "\n  }\n}"


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
