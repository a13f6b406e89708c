"""Batches are pure functions of (seed, step): every example once an epoch, every process its slice, bit for bit."""

import pytest
import torch

from sfumato.data import Batches, DataConfig, Packed, batch_indices, generator, measure, order, pack, split

COUNT = 23


@pytest.fixture(scope="module")
def packed() -> Packed:
    """Pictures whose first pixel is their own index, with asymmetric content."""
    values = torch.randint(0, 256, (COUNT, 4, 6, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    values[:, 0, 0, 0] = torch.arange(COUNT)
    return pack(values, labels=torch.arange(COUNT) % 3, label_values=(0, 1, 2))


def batches(packed: Packed, *, seed: int = 0, batch_size: int = 8, flip: bool = False) -> Batches:
    parts = split(packed, 0.0, seed=0)
    normalization = measure(packed, parts, DataConfig())
    return Batches(
        packed, parts.train, normalization, seed=seed, batch_size=batch_size, flip=flip, device=torch.device("cpu")
    )


def test_the_generator_is_a_function_of_its_key() -> None:
    draws = {
        key: torch.randint(2**60, (1,), generator=generator(*key)).item()
        for key in [(0, "a"), (0, "a", 1), (0, "a", 1, 2), (0, "a", 12), (1, "a"), (0, "b"), (-1, "a")]
    }
    assert len(set(draws.values())) == len(draws)
    assert all(torch.randint(2**60, (1,), generator=generator(*key)).item() == v for key, v in draws.items())


@pytest.mark.parametrize("count", [1, 2, 100])
def test_an_order_is_a_permutation_of_its_own(count: int) -> None:
    for epoch in range(3):
        assert torch.equal(order(5, epoch, count).sort().values, torch.arange(count))
        assert torch.equal(order(5, epoch, count), order(5, epoch, count))
    if count == 100:
        orders = {tuple(order(s, e, count).tolist()) for s in (5, 6) for e in (0, 1)}
        assert len(orders) == 4


def test_a_caller_cannot_change_the_order() -> None:
    before = order(5, 0, 10).clone()
    order(5, 0, 10).zero_()
    batch_indices(5, 0, 10, 10).zero_()
    assert torch.equal(order(5, 0, 10), before)


@pytest.mark.parametrize("batch_size", [1, 4, 8, 23, 24, 50, 100])
def test_every_epoch_meets_every_example_once(batch_size: int) -> None:
    """The stream of batches, cut into epochs again, is the orders: nothing dropped, nothing twice, no endless loop."""
    steps = -(-3 * COUNT // batch_size)
    stream = torch.cat([batch_indices(9, k, batch_size, COUNT) for k in range(steps)])[: 3 * COUNT]
    assert torch.equal(stream, torch.cat([order(9, e, COUNT) for e in range(3)]))


def test_a_batch_larger_than_the_data_wraps_around(packed: Packed) -> None:
    batch = batches(packed, batch_size=50).batch(0)
    assert torch.bincount(batch.indices, minlength=COUNT).tolist().count(0) == 0
    assert len(batch.x0) == 50


def test_a_batch_holds_the_examples_it_names(packed: Packed) -> None:
    for step in (0, 3, 1000):
        batch = batches(packed).batch(step)
        assert batch.x0.dtype == torch.float32
        assert batch.x0.shape == (8, 3, 4, 6)
        assert batch.x0.is_contiguous(memory_format=torch.channels_last)
        raw = (batch.x0 * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        assert torch.equal(raw, packed.values[batch.indices])
        assert packed.labels is not None
        assert batch.labels is not None
        assert torch.equal(batch.labels, packed.labels[batch.indices])


@pytest.mark.parametrize("processes", [2, 4])
def test_the_slices_of_the_processes_are_the_global_batch(packed: Packed, processes: int) -> None:
    source = batches(packed, flip=True)
    for step in range(5):
        whole = source.batch(step)
        share = 8 // processes
        parts = [source.batch(step, part=slice(r * share, (r + 1) * share)) for r in range(processes)]
        assert torch.equal(torch.cat([p.x0 for p in parts]), whole.x0)
        assert torch.equal(torch.cat([p.indices for p in parts]), whole.indices)
        assert whole.labels is not None
        assert torch.equal(torch.cat([p.labels for p in parts if p.labels is not None]), whole.labels)


def test_flips_mirror_left_to_right_and_depend_on_seed_step_and_position(packed: Packed) -> None:
    source, plain = batches(packed, flip=True), batches(packed)
    mirrored = []
    for step in range(200):
        flipped, unflipped = source.batch(step), plain.batch(step)
        assert torch.equal(flipped.indices, unflipped.indices)
        for ours, theirs in zip(flipped.x0, unflipped.x0, strict=True):
            is_mirror = torch.equal(ours, theirs.flip(-1))
            assert is_mirror or torch.equal(ours, theirs)
            mirrored.append(is_mirror)
    share = sum(mirrored) / len(mirrored)
    assert share == pytest.approx(0.5, abs=4.5 * 0.5 / len(mirrored) ** 0.5)  # 4.5 standard deviations
    for step in (7, 3, 7):  # in any order, from any object
        assert torch.equal(source.batch(step).x0, batches(packed, flip=True).batch(step).x0)
    assert not torch.equal(batches(packed, flip=True, seed=1).batch(0).x0, source.batch(0).x0)


def test_take_never_mirrors(packed: Packed) -> None:
    chosen = torch.tensor([5, 5, 2])
    taken = batches(packed, flip=True).take(chosen)
    assert torch.equal(taken.x0[0], taken.x0[1])
    raw = batches(packed).normalization.to_data(taken.x0)
    assert torch.equal(raw, packed.values[chosen])


def test_one_example_fills_any_batch() -> None:
    single = pack(torch.tensor([[1.0, 2.0]]))
    parts = split(single, 0.1, seed=0)
    source = Batches(
        single, parts.train, measure(single, parts, DataConfig(normalize="none")), seed=0, batch_size=4, flip=False,
        device="cpu",
    )  # fmt: skip
    batch = source.batch(3)
    assert batch.labels is None
    assert torch.equal(batch.x0, torch.tensor([[1.0, 2.0]]).repeat(4, 1))


def test_only_the_training_part_is_drawn(packed: Packed) -> None:
    parts = split(packed, 0.3, seed=0)
    normalization = measure(packed, parts, DataConfig())
    source = Batches(packed, parts.train, normalization, seed=0, batch_size=16, flip=False, device="cpu")
    seen = torch.cat([source.batch(k).indices for k in range(1)])
    assert torch.equal(seen.sort().values, parts.train)
