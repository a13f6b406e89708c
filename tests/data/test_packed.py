"""Packed sets: shape, fingerprint, split, description."""

import hashlib

import pytest
import torch

from sfumato.data import Packed, describe, fingerprint_of, pack, shared_examples, split
from sfumato.errors import ConfigError, DataError


def numbered(count: int, **settings: object) -> Packed:
    values = torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 2)
    return pack(values, **settings)  # type: ignore[arg-type]


def test_the_shape_is_channels_first_and_padded() -> None:
    images = torch.zeros(2, 5, 7, 3, dtype=torch.uint8)
    assert pack(images).shape == (3, 5, 7)
    assert pack(images, pad=(8, 8)).shape == (3, 8, 8)
    assert numbered(3).shape == (2,)
    with pytest.raises(ConfigError, match="smaller than the 5x7"):
        pack(images, pad=(8, 6))
    with pytest.raises(ConfigError, match="not images"):
        numbered(3, pad=(8, 8))


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(DataError, match="no training example"):
        numbered(0)
    with pytest.raises(DataError, match="no training example"):
        numbered(2, test_count=2)


def test_the_fingerprint_is_the_sha256_of_the_content() -> None:
    values, labels = torch.tensor([[1, 2]], dtype=torch.uint8).reshape(1, 1, 2, 1), torch.tensor([0])
    written = b"values torch.uint8 (1, 1, 2, 1)\n\x01\x02labels torch.int64 (1,)\n" + bytes(8)
    assert fingerprint_of(values, labels) == hashlib.sha256(written).hexdigest()
    changed = values.clone()
    changed[0, 0, 0, 0] = 3
    different = {
        fingerprint_of(v, x) for v, x in [(values, labels), (changed, labels), (values, None), (values, labels + 1)]
    }
    assert len(different) == 4
    assert fingerprint_of(values.reshape(1, 2, 1, 1), labels) not in different
    strided = torch.tensor([[1, 9], [2, 9]], dtype=torch.uint8)[:, 0].reshape(1, 1, 2, 1)
    assert fingerprint_of(strided, labels) == fingerprint_of(values, labels)


@pytest.mark.parametrize("count", [2, 5, 10, 1797])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_the_split_is_disjoint_complete_and_deterministic(count: int, share: float) -> None:
    packed = numbered(count)
    parts, again, other = (split(packed, share, seed) for seed in (1, 1, 2))
    together = torch.cat([parts.train, parts.held_out])
    assert torch.equal(together.sort().values, torch.arange(count))
    assert len(parts.held_out) == min(round(share * count), count - 1)
    assert torch.equal(parts.train, again.train)
    assert torch.equal(parts.train, parts.train.sort().values)
    if count > 10 and share > 0:
        assert not torch.equal(parts.held_out, other.held_out)


def test_the_split_is_even() -> None:
    """Over 400 seeds each of 20 examples is held out with frequency 1/4; tolerance 4.5 standard deviations of it."""
    packed = numbered(20)
    counts = sum(torch.bincount(split(packed, 0.25, seed).held_out, minlength=20) for seed in range(400))
    assert isinstance(counts, torch.Tensor)
    assert (counts / 400 - 0.25).abs().max() < 4.5 * (0.25 * 0.75 / 400) ** 0.5


def test_a_share_of_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.held_out is 1\.0"):
        split(numbered(4), 1.0, seed=0)


def test_copies_across_the_split_are_counted() -> None:
    values = torch.tensor([[1.0], [2.0], [1.0], [3.0], [2.0]])
    packed = pack(values, test_count=2)
    assert shared_examples(packed, split(packed, 0.1, seed=0)) == 1  # of the held-out 3 and 2, the 2 is trained on


def test_the_description_counts() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    packed = pack(
        torch.zeros(4, 2, 2, 3, dtype=torch.uint8), labels=labels, label_values=(3, 9), class_names=("a", "b")
    )
    told = describe(packed)
    assert (told.count, told.shape, told.num_classes, told.bytes) == (4, (3, 2, 2), 2, 48)
    assert (told.smallest_class, told.largest_class, told.class_names) == (1, 3, ("a", "b"))
    assert describe(numbered(3)).smallest_class is None
