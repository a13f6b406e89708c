"""Stored averages: what is kept under a cap, and what becomes of files that should not be there."""

import pytest
import torch
from torch import nn

from sfumato.errors import CheckpointError, ConfigError, NumericsError
from sfumato.training import storage
from sfumato.training.average_store import MOST_MOMENTS, AverageStore, kept_steps
from sfumato.training.power_ema import PowerEmas, Profile, exponent_of, fit


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_flush", lambda descriptor: None)


def test_a_long_run_stays_under_its_room_and_keeps_its_widths() -> None:
    """Whatever was dropped is never wanted again, and any usual width can be had at any time from 12 moments on."""
    room, every, there = 24, 10, set[int]()
    for done in (*range(every, 5001, every), 5003):
        kept = kept_steps(done, every, room)
        there.add(done)
        assert set(kept) <= there, done  # nothing is kept that was dropped before
        there = set(kept)
        assert len(kept) <= room
        assert len(kept) > min(room, done // every) / 2
        assert kept[-1] == done
        if done >= 12 * every and done % 490 == 0:
            profiles = [Profile(exponent_of(w), float(step)) for step in kept for w in (0.05, 0.1)]
            residuals = [fit(profiles, Profile(exponent_of(w), float(done))).residual for w in (0.04, 0.07, 0.15, 0.2)]
            assert max(residuals) < 0.05  # 13 to 24 moments, evenly spread


@pytest.mark.parametrize("room", [2, 3, 24, 128])
def test_what_is_kept_depends_on_the_step_alone(room: int) -> None:
    """A run that was stopped and extended ends with the same moments as one that never stopped."""
    assert kept_steps(1000, 10, room) == kept_steps(1000, 10, room)
    there = set[int]()
    for done in (*range(10, 501, 10), 503, *range(510, 1001, 10)):  # its first end, 503, is no multiple of 10
        there = {*there, done} & {*kept_steps(done, 10, room)}
    assert sorted(there) == kept_steps(1000, 10, room)


def averages(step: int, widths: tuple[float, ...] = (0.05, 0.1)) -> PowerEmas:
    module = nn.Linear(40, 30)
    power = PowerEmas(module, widths)
    for t in range(1, step + 1):
        with torch.no_grad():
            module.weight.fill_(float(t))
        power.update(module)
    return power


def used(store: AverageStore) -> int:
    return sum(path.stat().st_size for path in store.folder.iterdir()) if store.folder.exists() else 0


def test_the_cap_holds_in_bytes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Also while a file is being written, which is when a moment more could lie there."""
    cap, seen = 60_000, []

    class Watched(type(storage.LocalStorage())):  # type: ignore[misc]
        def rename(self, source, target) -> None:  # type: ignore[no-untyped-def]
            seen.append(used(store))
            super().rename(source, target)

    store = AverageStore(tmp_path, every=5, cap=cap, storage=Watched())
    room = store.room(averages(1))
    assert room == 5  # of 2 x 1,230 float32 values and their headers
    for step in range(5, 201, 5):
        store.save(step, averages(step))
        assert used(store) <= cap
    assert max(seen) <= cap
    assert [stored.step for stored in store.files()][::2] == kept_steps(200, 5, room)
    assert {stored.width for stored in store.files()} == {0.05, 0.1}


def test_the_usual_room_is_bounded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Tiny networks would otherwise fill their gigabytes with thousands of moments."""
    assert AverageStore(tmp_path, every=5, cap=8e9).room(averages(1)) == MOST_MOMENTS


def test_a_cap_below_two_moments_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(
        ConfigError, match=r"power_ema_disk is 12\.0 kB, and storing the averages once takes 10\."
    ) as no:
        AverageStore(tmp_path, every=5, cap=12_000).room(averages(1))
    assert "training.power_ema_disk: 0.00016" in no.value.fix


def test_what_is_read_is_what_was_stored(tmp_path) -> None:  # type: ignore[no-untyped-def]
    store = AverageStore(tmp_path, every=5, cap=1e9)
    power = averages(10)
    store.save(10, power)
    for stored, average in zip(store.files(), power.averages, strict=True):
        moment = store.read(stored)
        assert (stored.step, stored.width, moment.updates) == (10, average.width, 10)
        assert all(torch.equal(tensor, moment.tensors[name]) for name, tensor in average.state_dict().items())


def test_a_flipped_bit_and_a_renamed_file_are_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    store = AverageStore(tmp_path, every=5, cap=1e9)
    store.save(10, averages(10))
    first, second = store.files()
    data = bytearray(first.path.read_bytes())
    data[-1] ^= 1
    first.path.write_bytes(data)
    with pytest.raises(CheckpointError, match="at least one bit changed"):
        store.read(first)
    second.path.rename(store.folder / "step-00000020-0.1.safetensors")
    with pytest.raises(CheckpointError, match=r"not the average of width 0\.1 after step 20"):
        store.read(store.files()[-1])


def test_what_a_killed_run_left_behind_goes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Later moments than the checkpoint's, unfinished files; other people's files stay."""
    store = AverageStore(tmp_path, every=5, cap=1e9)
    store.cut_after(5)  # no folder yet
    for step in (5, 10):
        store.save(step, averages(step))
    (store.folder / ".tmp-step-00000015-0.05.safetensors").write_bytes(b"half")
    (store.folder / "notes.txt").write_text("mine")
    store.cut_after(5)
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "notes.txt",
        "step-00000005-0.05.safetensors",
        "step-00000005-0.1.safetensors",
    ]


def test_nan_is_not_stored(tmp_path) -> None:  # type: ignore[no-untyped-def]
    power = averages(5)
    power.averages[0].state_dict()["bias"][3] = float("nan")
    store = AverageStore(tmp_path, every=5, cap=1e9)
    with pytest.raises(NumericsError, match=r"NaN or infinity in 'bias' \(1 of 30 values\)"):
        store.save(5, power)
    assert store.files() == []
