"""A judge of classes: a small convolutional network trained on a data set's own labels, on clean pictures only.

    x = (v - mean)/std per channel, of 8-bit values v; pictures above 64 pixels are averaged down to 64 first
    level i = 0 … L-1, width 32, 64, 128, 128, …:   x <- relu(BN(conv x)), twice below the first;  halved by maxima
    features = the mean over places, (128,);   logits = W features + b

It never sees a sample of a model, so what it says of samples owes nothing to what made them. What it says is worth as
much as its accuracy on pictures held out from it, which it carries along: a perfect model, too, would be judged right
only that often. It carries along what it took each class of them for, by which its errors can be turned back
(`correction`). Every draw follows from one seed.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.errors import CheckpointError, DataError, UsageError
from sfumato.metrics.classes import agreement, confusion
from sfumato.metrics.estimate import Estimate

__all__ = ["VERSION", "Judge", "JudgeNetwork", "JudgeRecord", "Labelled", "train_judge"]

VERSION = 2  # of the network, its training and its file: another one judges anew
FORMAT = "sfumato-judge-2"
CONFUSION = "confusion"  # in the file, beside the weights
WIDTHS = (32, 64, 128)  # of the levels; deeper ones have the last width
LARGEST = 64  # pixels of a side that the network sees
MOST_IMAGES = 180_000  # seen in training: 3 epochs of 60,000
MOST_PIXELS = 200_000_000  # in all of them together
MOST_EPOCHS = 60
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 3e-3, 1e-2, 100
JUDGED_AT_ONCE = 500

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Pictures uint8 (N, H, W, C) and their classes int64 (N,) in 0 … K-1."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        right = self.images.dtype == torch.uint8 and self.images.ndim == 4 and self.labels.dtype == torch.int64
        if not right or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{self.images.dtype} of shape {tuple(self.images.shape)} with {self.labels.dtype} labels of shape "
                f"{tuple(self.labels.shape)}",
                expected="8-bit pictures (N, H, W, C) and int64 labels (N,)",
                fix="give the pictures as the data hold them, channels last",
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class JudgeRecord:
    """What one must know of a judge to believe it.

    data: fingerprint of the data set. shape: (H, W, C) of a picture. classes: K. accuracy, std_error: on held_out
    pictures that it never saw. trained_on, images_seen, seed: of its training. version: of the recipe.
    """

    data: str
    shape: tuple[int, int, int]
    classes: int
    accuracy: float
    std_error: float
    held_out: int
    trained_on: int
    images_seen: int
    seed: int
    version: int = VERSION


class JudgeNetwork(nn.Module):
    """The network of this module: uint8 (B, H, W, C) -> features (B, F), logits (B, K) by `head`."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.shrink = max(1, min(height, width) // LARGEST)
        levels = max(2, math.ceil(math.log2(max(2, min(height, width) // self.shrink))) - 2)
        widths = [WIDTHS[min(i, len(WIDTHS) - 1)] for i in range(levels)]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        layers: list[nn.Module] = []
        for level, (before, wide) in enumerate(zip([channels, *widths], widths, strict=False)):
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if level else []
            layers += [nn.Conv2d(before, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            if level:
                layers += [nn.Conv2d(wide, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights: He et al. 2015 for convolutions, near 0 for the last layer, the identity for norms."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """The layer before the last, (B, F)."""
        x = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)  # channels last in memory
        if self.shrink > 1:
            x = functional.avg_pool2d(x, self.shrink, ceil_mode=True)
        return self.body(x).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(self.features(images))


def blank_network(shape: tuple[int, int, int], classes: int) -> JudgeNetwork:
    """A network whose weights are yet to be filled in: making it draws nothing from anywhere."""
    with torch.device("meta"):
        network = JudgeNetwork(shape, classes)
    empty: JudgeNetwork = network.to_empty(device="cpu")
    return empty.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """A trained judge: tells classes, gives features, and knows how often it is right. Computes in float32.

    confusion: int64 (K, K), how many held-out pictures of each class (rows) it took for which (columns).
    """

    network: JudgeNetwork
    record: JudgeRecord
    confusion: Tensor

    @property
    def accuracy(self) -> Estimate:
        """How often it was right on held-out pictures: what a perfect model's samples would score."""
        r = self.record
        return Estimate(r.accuracy, r.std_error, r.held_out, {"method": "judge on held-out real pictures"})

    @property
    def digest(self) -> str:
        """SHA-256 of its weights."""
        return _digest(self.network.state_dict(), "")

    def logits(self, images: Tensor) -> Tensor:
        """Of pictures uint8 (N, H, W, C), float32 (N, K), on the CPU. Raises DataError for other pictures."""
        return self._of(images, self.network.forward)

    def judged(self, images: Tensor) -> Tensor:
        """The likeliest class of each picture, int64 (N,)."""
        return self.logits(images).argmax(1)

    def features(self, images: Tensor) -> Tensor:
        """The layer before the last, float32 (N, F)."""
        return self._of(images, self.network.features)

    @torch.no_grad()
    def _of(self, images: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.record.shape:
            raise DataError(
                f"a judge of {self.record.shape} was shown {images.dtype} of shape {tuple(images.shape)}",
                expected=f"uint8 pictures (N, {', '.join(map(str, self.record.shape))})",
                fix="judge pictures of the data set that it was trained on",
            )
        device = self.network.head.weight.device
        parts = [compute(part.to(device)).cpu() for part in images.split(JUDGED_AT_ONCE)]
        return torch.cat(parts)

    def save(self, path: Path) -> None:
        """Write it as safetensors, whole or not at all. Raises OSError."""
        from safetensors.torch import save

        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        tensors[CONFUSION] = self.confusion.contiguous()
        about = json.dumps(asdict(self.record))
        metadata = {"format": FORMAT, "judge": about, "sha256": _digest(tensors, about)}
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, save(tensors, metadata=metadata))

    @classmethod
    def load(cls, path: Path) -> "Judge":
        """Read it back. Raises CheckpointError for a file that is damaged or of another version."""
        from safetensors import safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            record = _record(json.loads(metadata["judge"]))
            same = metadata["format"] == FORMAT and metadata["sha256"] == _digest(tensors, metadata["judge"])
            seen = _confusion(tensors.pop(CONFUSION), record)
            network = blank_network(record.shape, record.classes)
            network.load_state_dict(tensors)
        except Exception as error:
            raise _unusable(path, f"{type(error).__name__}: {error}") from None
        if not same or record.version != VERSION:
            raise _unusable(path, "it changed since it was written, or was made by another version")
        return cls(network.requires_grad_(False).eval(), record, seen)


def _record(plain: dict[str, Any]) -> JudgeRecord:
    known = {field.name: plain[field.name] for field in fields(JudgeRecord)}
    return JudgeRecord(**{**known, "shape": tuple(known["shape"])})


def _confusion(counts: Tensor, record: JudgeRecord) -> Tensor:
    """The confusion matrix of a file. Raises DataError for one that is not of the pictures of its record."""
    right = counts.dtype == torch.int64 and counts.shape == (record.classes, record.classes)
    if not right or int(counts.min()) < 0 or int(counts.sum()) != record.held_out:
        raise DataError(
            f"its confusion matrix is {counts.dtype} {tuple(counts.shape)}",
            expected=f"counts of {record.held_out} pictures of {record.classes} classes",
            fix="train the judge anew",
        )
    return counts


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: {why}", expected="a judge that sfumato trained", fix="delete it: it is made again")


def _digest(tensors: dict[str, Tensor], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


# ------------------------------------------------------------------------------------------------------------- training


def train_judge(
    train: Labelled,
    held_out: Labelled,
    *,
    classes: int,
    data: str,
    seed: int = 0,
    images_seen: int | None = None,
    bfloat16: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Judge:
    """Train a judge on `train` and measure it on `held_out`; on one machine a function of its arguments.

    images_seen: how many pictures training looks at; None: 180,000, less for few or large ones. bfloat16: compute the
    convolutions of training in it. data: the fingerprint that the judge is filed under. progress(done, steps).
    Raises DataError where there is nothing to tell apart or nobody to ask how well it does.
    """
    if classes < 2 or len(train) < 2 or len(held_out) < 1:
        raise DataError(
            f"a judge of {classes} classes from {len(train)} pictures, with {len(held_out)} held out from it",
            expected="two classes or more, two pictures or more, and some to measure the judge on",
            fix="use data with labels, and more of them (data.limit)",
        )
    height, width, channels = (int(n) for n in train.images.shape[1:])
    shape, place = (height, width, channels), torch.device(device)
    seen = usual_images(len(train), shape) if images_seen is None else images_seen
    if seen < 1:
        raise UsageError(f"a judge that looks at {seen} pictures", expected="1 or more", fix="leave images_seen out")
    network = blank_network(shape, classes)
    network.initialise(_generator(seed, "judge weights"))
    fit_scale(network, train.images)
    batch_size = min(256, max(32, len(train) // 16), len(train))
    steps = max(1, round(seen / batch_size))
    network.to(place).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for step, batch in enumerate(batches(train, batch_size, steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=bfloat16):
            logits = network(batch.images.to(place))
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(logits.float(), batch.labels.to(place)).backward()
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps)
    network.requires_grad_(False).eval()
    record = JudgeRecord(data, shape, classes, 0.0, 0.0, len(held_out), len(train), steps * batch_size, seed)
    unmeasured = Judge(network, record, torch.zeros(classes, classes, dtype=torch.int64))
    judged = unmeasured.judged(held_out.images)
    right = agreement(held_out.labels, judged)
    known = replace(record, accuracy=right.value, std_error=right.std_error)
    return replace(unmeasured, record=known, confusion=confusion(held_out.labels, judged, classes))


def fit_scale(network: JudgeNetwork, images: Tensor) -> None:
    """Mean and standard deviation of each channel over all pictures, from exact histograms; at least one level."""
    levels = torch.arange(256, dtype=torch.float64)
    for channel in range(images.shape[3]):
        share = torch.bincount(images[..., channel].flatten(), minlength=256).double()
        share /= share.sum()
        mean = (share * levels).sum()
        network.mean[channel] = mean
        network.std[channel] = (share * (levels - mean) ** 2).sum().sqrt().clamp(min=1.0)


def usual_images(count: int, shape: tuple[int, int, int]) -> int:
    """How many pictures training looks at: at most 180,000, 60 epochs, and 2e8 pixels, but always one epoch."""
    side = min(shape[:2])
    pixels = shape[0] * shape[1] / max(1, side // LARGEST) ** 2
    return max(count, int(min(MOST_IMAGES, MOST_EPOCHS * count, MOST_PIXELS / pixels)))


def batches(train: Labelled, batch_size: int, steps: int, seed: int) -> Iterator[Labelled]:
    """`steps` batches: epoch after epoch in random order, each picture shifted by up to a 14th of its sides."""
    per_epoch = len(train) // batch_size
    order = torch.empty(0)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = torch.randperm(len(train), generator=_generator(seed, "judge order", epoch))
        chosen = order[place * batch_size : (place + 1) * batch_size]
        yield Labelled(shifted(train.images[chosen], _generator(seed, "judge shift", step)), train.labels[chosen])


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture (B, H, W, C) moved by up to H/14 and W/14 pixels either way, its border repeated behind it."""
    count, height, width, _ = images.shape
    rows, columns = (_moved(count, side, generator) for side in (height, width))
    return images[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _moved(count: int, side: int, generator: torch.Generator) -> Tensor:
    """0 … side - 1 moved by a whole number that each of `count` pictures draws, clamped to the picture: (B, side)."""
    most = side // 14
    by = torch.randint(-most, most + 1, (count, 1), generator=generator)
    return (torch.arange(side) + by).clamp(0, side - 1)


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    return LEARNING_RATE * min(1.0, (step + 1) / min(WARMUP, steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{purpose}:{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
