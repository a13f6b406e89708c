"""By what features pictures are compared, and those features, computed once for each picture and kept.

Features are kept under the digests of the extractor and of the pictures themselves, a thousand at a time: the same
reference, or the same samples drawn again, cost nothing the second time, wherever they came from.
"""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from sfumato.data import Packed, fingerprint_of
from sfumato.errors import DataError, PlatformError, UsageError
from sfumato.experiment.evaluation.kept import code_of, key_of
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.pace import Pace
from sfumato.metrics import (
    EXTRACTORS,
    EfficientNetLite0,
    Extractor,
    Inception,
    Judge,
    JudgeFeatures,
    Pixels,
    efficientnet_file,
    extract,
)

__all__ = ["chosen_extractor", "default_extractor", "extractor_of", "features_of", "known_extractor"]

PART = 1000  # pictures whose features are kept together
SMALL = 64  # pixels: the side up to which a judge of grey pictures is trusted
PUBLISHED = "weights-inception-2015-12-05-6726825d.pth"  # of the converted weights that the field shares


def default_extractor(packed: Packed) -> str:
    """efficientnet-lite0 for colour where it is installed, judge for small grey pictures with labels, pixels else."""
    height, width, channels = packed.values.shape[1:]
    if channels == 3 and efficientnet_file() is not None:
        return "efficientnet-lite0"
    small = max(height, width) <= SMALL
    return "judge" if channels == 1 and small and packed.num_classes >= 2 else "pixels"


def known_extractor(name: str) -> str:
    """The extractor that people mean. Raises UsageError for none that there is, naming the nearest."""
    found = name.strip().lower().replace("_", "-")
    if found in EXTRACTORS:
        return found
    near = get_close_matches(found, [*EXTRACTORS, "efficientnet", "fid"], n=1, cutoff=0.4)
    meant = {"efficientnet": "efficientnet-lite0", "fid": "inception"}
    raise UsageError(
        f"there is no extractor {name!r}",
        expected="one of " + ", ".join(EXTRACTORS),
        fix=f"did you mean --extractor {meant.get(near[0], near[0])}?" if near else "leave it out",
    )


def chosen_extractor(
    name: str | None,
    packed: Packed,
    judge: Callable[[], Judge],
    weights: str | Path | None,
    device: torch.device | str,
) -> Extractor:
    """The extractor of a name, or the usual one for pictures like those of `packed`; see `extractor_of`."""
    found = default_extractor(packed) if name is None else known_extractor(name)
    return extractor_of(found, packed, judge=judge, weights=weights, device=device)


def extractor_of(
    name: str,
    packed: Packed,
    *,
    judge: Callable[[], Judge],
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Extractor:
    """The extractor of a name for pictures like those of `packed`; `judge` is asked for where it is needed.

    weights: a file of inception's. Raises PlatformError where weights are missing, DataError for a judge without
    labels, CheckpointError for weights that are not the right ones.
    """
    if packed.num_classes < 2 and name == "judge":
        raise DataError(
            "the extractor judge is trained on labels, and these data have none",
            expected="pictures with labels of two classes or more",
            fix="--extractor pixels, or efficientnet-lite0 for colour",
        )
    height, width, channels = (int(side) for side in packed.values.shape[1:])
    made: dict[str, Callable[[], Extractor]] = {
        "pixels": lambda: Pixels((height, width, channels)),
        "judge": lambda: JudgeFeatures(judge()),
        "efficientnet-lite0": lambda: EfficientNetLite0(device),
        "inception": lambda: Inception(inception_file(weights), device),
    }
    return made[name]()


def inception_file(given: str | Path | None) -> Path:
    """The weights given, or where torch.hub keeps the published ones. Raises PlatformError for neither."""
    if given is not None:
        return Path(given).expanduser()
    kept = Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED
    if kept.is_file():
        return kept
    raise PlatformError(
        "the extractor inception needs weights, and sfumato downloads nothing",
        expected=f"--extractor-weights FILE, or {kept}",
        fix=f"get {PUBLISHED}, a release of torch-fidelity, and name it with --extractor-weights",
    )


def features_of(
    extractor: Extractor, images: Tensor, what: str, means: Means, *, places: Tensor | None = None
) -> Tensor:
    """Features (N, d), float32 on the CPU, of pictures uint8 (N, H, W, C); by all processes, from the cache if there.

    `what` they are, in words, for forecasts. places: those of the N pictures in a larger set `images`; None: all.
    """
    count = len(images) if places is None else len(places)
    found = torch.zeros(count, extractor.dim)
    missing: list[tuple[slice, str]] = []
    parts = range(0, count, PART)

    def taken(part: slice) -> Tensor:
        return images[part if places is None else places[part]].contiguous()

    for index in means.team.shares(len(parts)):
        part = slice(parts[index], min(parts[index] + PART, count))
        key = key_of(code_of("metrics"), extractor.name, extractor.digest, fingerprint_of(taken(part), None))
        there = means.kept.read("features", key)
        if there is None or tuple(there.shape) != (part.stop - part.start, extractor.dim):
            missing.append((part, key))
        else:
            found[part] = there
    total, done = sum(part.stop - part.start for part, _ in missing), 0

    def left(share: float) -> str:
        return f"{round(share * total):,} pictures"

    pace = Pace(f"{extractor.name} features of {what}", left, report=means.report, progress=means.progress)
    for part, key in missing:
        before = done
        made = extract(extractor, taken(part), progress=lambda now, _: pace(before + now, total))  # noqa: B023 called at once
        found[part] = made
        means.kept.write("features", key, made)
        done += len(made)
    return means.team.joined(found)
