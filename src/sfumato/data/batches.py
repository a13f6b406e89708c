"""Batches by index: which examples step k sees is a function of (seed, k), not of what was drawn before.

The training stream is epoch after epoch, each a permutation of all examples; batch k is its positions kB .. (k+1)B - 1
(k counts from 0), across the ends of epochs. Nothing is dropped, and a batch larger than the data set simply spans
several epochs. Several processes slice the same global batch.

The data stay packed as uint8. Where they fit they lie on the device, and a batch is one gather there; otherwise the
gather happens on the CPU and the uint8 batch is moved.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sfumato.data.normalization import Normalization
from sfumato.data.packed import Packed
from sfumato.data.seeding import generator

__all__ = ["Batch", "Batches", "batch_indices", "fits", "order"]

RESIDENT_LIMIT = 4 << 30  # bytes; for devices that do not report their free memory


def order(seed: int, epoch: int, count: int) -> Tensor:
    """The permutation of 0..count-1 that epoch `epoch` follows, int64 (count,)."""
    return _order(seed, epoch, count).clone()


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=generator(seed, "order", epoch))


def batch_indices(seed: int, step: int, batch_size: int, count: int) -> Tensor:
    """Positions step·B .. step·B + B - 1 of the endless stream of epochs over `count` examples, int64 (B,)."""
    first, last = step * batch_size, (step + 1) * batch_size
    epochs = range(first // count, (last - 1) // count + 1)
    pieces = [_order(seed, e, count)[max(first - e * count, 0) : last - e * count] for e in epochs]
    return torch.cat(pieces)


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether data of this size should lie on `device`: within half of a GPU's free memory, elsewhere within 4 GiB."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return num_bytes <= free // 2
    return num_bytes <= RESIDENT_LIMIT


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """x0 float32 (b, C, H, W), channels-last in memory, or (b, *shape); labels int64 (b,) or None; both on the device.

    indices int64 (b,): which examples of the packed set these are; on the CPU.
    conditions float32 (b, V): real numbers of the examples as the source has them, on the device; or None.
    """

    x0: Tensor
    labels: Tensor | None
    indices: Tensor
    conditions: Tensor | None = None


class Batches:
    """The training batches of one run, `batch(step)` for any step in any order.

    indices: the training part. flip: mirror each picture with probability 1/2, decided by (seed, step, position in the
    global batch). Bitwise the same on every call, for every process count.
    """

    def __init__(
        self,
        packed: Packed,
        indices: Tensor,
        normalization: Normalization,
        *,
        seed: int,
        batch_size: int,
        flip: bool,
        device: torch.device | str,
    ) -> None:
        assert len(indices) >= 1
        assert batch_size >= 1
        assert not flip or packed.is_image
        self.indices = indices.cpu()
        self.normalization = normalization
        self.seed = seed
        self.batch_size = batch_size
        self.flip = flip
        self.device = torch.device(device)
        self.resident = fits(packed.values.numel() * packed.values.element_size(), self.device)
        home = self.device if self.resident else torch.device("cpu")
        self._values = packed.values.to(home)
        self._labels = None if packed.labels is None else packed.labels.to(home)
        self._conditions = None if packed.conditions is None else packed.conditions.to(home)

    def batch(self, step: int, *, part: slice | None = None) -> Batch:
        """Batch `step` (from 0), or the `part` of it that falls to one process."""
        chosen = slice(None) if part is None else part
        positions = batch_indices(self.seed, step, self.batch_size, len(self.indices))[chosen]
        mirrored = None
        if self.flip:
            coins = torch.rand(self.batch_size, generator=generator(self.seed, "flip", step))
            mirrored = coins[chosen] < 0.5
        return self._gather(self.indices[positions], mirrored)

    def take(self, indices: Tensor) -> Batch:
        """The given examples of the packed set as they are, never mirrored: the held-out part, a reference set."""
        return self._gather(indices.cpu(), None)

    def _gather(self, indices: Tensor, mirrored: Tensor | None) -> Batch:
        where = self._moved(indices, self._values.device)
        raw = self._values.index_select(0, where)
        raw = self._moved(raw, self.device)
        if mirrored is not None:
            rows = self._moved(mirrored.nonzero().flatten(), self.device)  # found on the CPU: no wait for the device
            raw.index_copy_(0, rows, raw.index_select(0, rows).flip(2))
        x0 = self.normalization.to_model(raw)
        return Batch(x0, self._chosen(self._labels, where), indices, self._chosen(self._conditions, where))

    def _chosen(self, column: Tensor | None, where: Tensor) -> Tensor | None:
        """The rows of labels or conditions that belong to the examples `where`, on the device."""
        return None if column is None else self._moved(column.index_select(0, where), self.device)

    @staticmethod
    def _moved(tensor: Tensor, device: torch.device) -> Tensor:
        """`tensor` on `device`; from pinned memory to a GPU, so that the host does not wait."""
        if tensor.device == device or (tensor.device.type == "cpu" and device.type == "cpu"):
            return tensor
        if device.type == "cuda" and tensor.device.type == "cpu":
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor.to(device)
