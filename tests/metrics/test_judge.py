"""The judge learns what is there to learn, says how well, and is the same judge again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.data import DataConfig, load_data, split
from sfumato.errors import CheckpointError, DataError, UsageError
from sfumato.metrics import Judge, Labelled, confusion, train_judge
from sfumato.metrics.judge import FORMAT, blank_network, shifted, usual_images


def digits(count: int | None = None) -> tuple[Labelled, Labelled]:
    """The embedded 8x8 digits, some held out."""
    packed = load_data(DataConfig(source="digits", limit=count), seed=0)
    parts = split(packed, 0.2, 0)
    assert packed.labels is not None
    return tuple(Labelled(packed.values[i], packed.labels[i]) for i in (parts.train, parts.held_out))  # type: ignore[return-value]


def stripes(count: int, side: int, channels: int = 3) -> Labelled:
    """Four classes of noisy pictures that differ in colour and in the direction of their stripes."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 4
    wave = ((torch.arange(side) // 2) % 2 * 2.0 - 1)[:, None].expand(side, side)
    across = torch.where((labels % 2 == 0)[:, None, None], wave, wave.T)
    tint = torch.where((labels < 2)[:, None], 1.0, -1.0) * torch.linspace(1, -1, channels)
    x = 128 + 25 * across[..., None] + 25 * tint[:, None, None, :]
    x = x + 25 * torch.randn(x.shape, generator=generator)
    return Labelled(x.clamp(0, 255).to(torch.uint8), labels)


@pytest.fixture(scope="module")
def judge() -> Judge:
    train, held_out = digits()
    return train_judge(train, held_out, classes=10, data="digits", images_seen=12_000)


def test_digits_are_told_apart(judge: Judge) -> None:
    """359 held-out digits; nearest neighbours reach 98 %, guessing 10 %."""
    _, held_out = digits()
    assert judge.accuracy.value > 0.93
    assert judge.accuracy.n == len(held_out) == judge.record.held_out
    right = (judge.judged(held_out.images) == held_out.labels).double().mean()
    assert float(right) == judge.record.accuracy
    assert torch.equal(judge.confusion, confusion(held_out.labels, judge.judged(held_out.images), 10))
    assert int(judge.confusion.trace()) == round(judge.record.accuracy * len(held_out))


def test_it_does_not_judge_by_labels_it_was_not_given() -> None:
    """With labels at random nothing can be right but by chance: its accuracy is told on pictures held out from it."""
    train, held_out = digits(600)
    shuffled = Labelled(
        train.images, train.labels[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))]
    )
    found = train_judge(shuffled, held_out, classes=10, data="", images_seen=4000).accuracy
    assert found.value < 0.1 + 4 * found.std_error


@pytest.mark.parametrize(("side", "channels", "seen"), [(32, 3, 400), (40, 3, 320), (5, 4, 1500)], ids=str)
def test_colour_and_size(side: int, channels: int, seen: int) -> None:
    """Other shapes learn too: colour and stripes as faint as the noise of a pixel, four classes, guessing 25 %."""
    train, held_out = stripes(64, side, channels), stripes(24, side, channels)
    judge = train_judge(train, held_out, classes=4, data="", images_seen=seen)
    assert judge.accuracy.value > 0.6  # in a dozen steps
    assert judge.features(held_out.images).shape == (24, judge.network.head.in_features)


@pytest.mark.parametrize(
    ("shape", "shrink"), [((64, 64, 3), 1), ((130, 200, 3), 2), ((1, 3, 1), 1), ((256, 256, 1), 4)]
)
def test_large_pictures_are_averaged_down_first(shape: tuple[int, int, int], shrink: int) -> None:
    network = blank_network(shape, 2)
    network.initialise(torch.Generator().manual_seed(0))
    assert network.shrink == shrink
    assert network.eval()(torch.zeros(1, *shape, dtype=torch.uint8)).shape == (1, 2)


def test_the_same_seed_makes_the_same_judge() -> None:
    train, held_out = digits(200)
    before = torch.random.get_rng_state()
    make = [train_judge(train, held_out, classes=10, data="", images_seen=600, seed=s).digest for s in (3, 3, 4)]
    assert make[0] == make[1] != make[2]
    assert torch.equal(before, torch.random.get_rng_state())  # nothing is drawn from the global stream


def test_logits_are_made_of_the_features(judge: Judge) -> None:
    _, held_out = digits()
    head = judge.network.head
    expected = judge.features(held_out.images) @ head.weight.T + head.bias
    torch.testing.assert_close(judge.logits(held_out.images), expected, rtol=1e-4, atol=1e-4)  # float32, another order
    torch.testing.assert_close(
        judge.logits(held_out.images[5:6])[0], judge.logits(held_out.images)[5], rtol=1e-4, atol=1e-4
    )


def test_pictures_are_shifted_with_their_border() -> None:
    """Every shifted picture is the original moved by at most a 14th of its side, which occurs in both directions."""
    images = torch.randint(256, (300, 28, 14, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = shifted(images, torch.Generator().manual_seed(1))
    found = set()
    for one, other in zip(images, moved, strict=True):
        candidates = {
            (dy, dx): one[(torch.arange(28) + dy).clamp(0, 27)][:, (torch.arange(14) + dx).clamp(0, 13)]
            for dy in range(-3, 4)
            for dx in range(-2, 3)
        }
        matches = [place for place, picture in candidates.items() if torch.equal(picture, other)]
        assert len(matches) == 1
        found.add(matches[0])
    assert found == {(dy, dx) for dy in range(-2, 3) for dx in range(-1, 2)}


def test_it_is_kept_with_what_it_is_worth(judge: Judge, tmp_path: Path) -> None:
    _, held_out = digits()
    path = tmp_path / "judges" / "one.safetensors"
    judge.save(path)
    again = Judge.load(path)
    assert again.record == judge.record
    assert again.digest == judge.digest
    assert torch.equal(again.confusion, judge.confusion)
    assert torch.equal(again.logits(held_out.images), judge.logits(held_out.images))
    assert FORMAT.encode() in path.read_bytes()[:4000]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("place", [-5, 30, "version", "cut"])
def test_a_damaged_judge_is_refused(judge: Judge, tmp_path: Path, place: int | str) -> None:
    path = tmp_path / "one.safetensors"
    (judge if place != "version" else replace(judge, record=replace(judge.record, version=0))).save(path)
    content = bytearray(path.read_bytes())
    if isinstance(place, int):
        content[place] ^= 1
    path.write_bytes(content[: len(content) // 2] if place == "cut" else content)
    with pytest.raises(CheckpointError, match=r"one\.safetensors"):
        Judge.load(path)


def test_a_judge_of_many_classes_is_kept(tmp_path: Path) -> None:
    """102 classes: more than ten thousand counts."""
    train = Labelled(torch.arange(102 * 64).remainder(251).to(torch.uint8).view(102, 8, 8, 1), torch.arange(102))
    judge = train_judge(train, train, classes=102, data="", images_seen=102)
    judge.save(tmp_path / "one.safetensors")
    again = Judge.load(tmp_path / "one.safetensors")
    assert again.confusion.shape == (102, 102)
    assert torch.equal(again.confusion.sum(1), torch.ones(102, dtype=torch.int64))
    assert torch.equal(again.confusion, judge.confusion)


@pytest.mark.parametrize(
    "change",
    [lambda c: c.double(), lambda c: c[:9], lambda c: c + torch.eye(10).long(), lambda c: c - 100 * (c == c.max())],
    ids=["dtype", "shape", "sum", "negative"],
)
def test_counts_that_are_not_of_its_pictures_are_refused(
    judge: Judge, tmp_path: Path, change: Callable[[Tensor], Tensor]
) -> None:
    """Written whole, but by something else."""
    path = tmp_path / "one.safetensors"
    replace(judge, confusion=change(judge.confusion)).save(path)
    with pytest.raises(CheckpointError, match="confusion matrix"):
        Judge.load(path)


def test_what_cannot_be_judged(judge: Judge) -> None:
    train, held_out = digits(60)
    with pytest.raises(DataError, match="held out"):
        train_judge(train, Labelled(held_out.images[:0], held_out.labels[:0]), classes=10, data="")
    with pytest.raises(DataError, match="1 classes"):
        train_judge(train, held_out, classes=1, data="")
    with pytest.raises(UsageError, match="looks at 0"):
        train_judge(train, held_out, classes=10, data="", images_seen=0)
    with pytest.raises(DataError, match="was shown"):
        judge.judged(torch.zeros(1, 9, 8, 1, dtype=torch.uint8))
    with pytest.raises(DataError, match="channels last"):
        Labelled(torch.zeros(3, 8, 8, 1), torch.zeros(3, dtype=torch.int64))


def test_how_long_it_looks() -> None:
    """Three epochs of MNIST, sixty of few pictures, less of large ones, always one epoch."""
    assert usual_images(60_000, (28, 28, 1)) == 180_000
    assert usual_images(1617, (8, 8, 1)) == 60 * 1617
    assert usual_images(4542, (64, 64, 3)) == 200_000_000 // 64**2
    assert usual_images(100_000, (256, 256, 3)) == 100_000
