"""Event files and histograms against published check sums, closed forms, and every way of being torn."""

import math
import struct

import numpy as np
import pytest

from sfumato.experiment.tracking.event_files import LONG, crc32c, framed, masked, records
from sfumato.experiment.tracking.histogram import Histogram, histogram_of, loss_by_log_snr
from sfumato.experiment.tracking.telling import told_by


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),  # the check value of the catalogues of CRCs
        (bytes(32), 0x8A9136AA),  # these four: RFC 3720, appendix B.4, bytes there in the order of the wire
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_check_sum_is_the_published_one(data: bytes, check: int) -> None:
    assert crc32c(data) == check


@pytest.mark.parametrize("length", [LONG - 1, LONG, LONG + 1, 3 * LONG + 777])
def test_a_long_check_sum_is_that_of_its_bytes_one_by_one(length: int) -> None:
    """Against the definition: a register of bits, and the polynomial taken away from each that falls out."""
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(data) == register ^ 0xFFFFFFFF


def test_the_mask_can_be_undone() -> None:
    """Rotated right by 15 bits, and the constant added: the inverse gives the check back."""
    for crc in (0, 1, 0xE3069283, 0xFFFFFFFF, 0x80000000):
        turned = (masked(crc) - 0xA282EAD8) % 2**32
        assert ((turned >> 17) | (turned << 15)) % 2**32 == crc


def test_records_are_those_of_tensorboard() -> None:
    import io

    writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    data = [b"", b"x", bytes(range(256)) * 5]
    stream = io.BytesIO()
    for each in data:
        writer.RecordWriter(stream).write(each)
    assert b"".join(map(framed, data)) == stream.getvalue()


def test_what_is_torn_is_not_read() -> None:
    """Cut anywhere: the records before the cut, whole. A bit turned anywhere: those before it, none after."""
    data = [b"", b"one", b"and two"]
    content = b"".join(map(framed, data))
    ends = np.cumsum([len(framed(each)) for each in data]).tolist()
    assert list(records(content)) == data
    for cut in range(len(content)):
        assert list(records(content[:cut])) == data[: sum(end <= cut for end in ends)]
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 4
        assert list(records(bytes(broken))) == data[: sum(end <= place for end in ends)]


def test_a_length_that_lies_is_not_believed() -> None:
    length = struct.pack("<Q", 2**60)
    assert list(records(length + struct.pack("<I", masked(crc32c(length))) + b"xxxx")) == []


# ----------------------------------------------------------------------------------------------------------- histograms


def test_the_height_of_a_bar_is_the_loss() -> None:
    """Levels -2, 0, 4 with losses 1, 2, 3 in any order: edges -3, -1, 2, 6, half-way between and as far beyond."""
    found = loss_by_log_snr([4.0, -2.0, 0.0], [3.0, 1.0, 2.0])
    assert found is not None
    assert found.edges.tolist() == [-3, -1, 2, 6]
    assert found.amounts.tolist() == [1 * 2, 2 * 3, 3 * 4]
    assert (found.amounts / np.diff(found.edges)).tolist() == [1, 2, 3]
    assert found.centres.tolist() == [-2, 0.5, 4]


def test_the_area_is_the_integral_of_the_loss() -> None:
    """exp(-λ²/8) over [-10, 10], at 201 levels: sqrt(8 π), to the 1e-7 that is left outside."""
    levels = np.linspace(-10, 10, 201)
    found = loss_by_log_snr(levels.tolist(), np.exp(-(levels**2) / 8).tolist())
    assert found is not None
    assert found.amounts.sum() == pytest.approx(math.sqrt(8 * math.pi), rel=1e-6)


@pytest.mark.parametrize(
    ("levels", "losses"),
    [
        ([], []),
        ([0.0, 1.0], [1.0, -0.1]),
        ([0.0, 1.0], [1.0, None]),
        ([0.0, math.nan], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, 1.0]),
    ],
)
def test_no_bars_of_what_has_no_area(levels: list[float | None], losses: list[float | None]) -> None:
    assert loss_by_log_snr(levels, losses) is None


def test_one_level_is_one_bar() -> None:
    found = loss_by_log_snr([3.0], [0.25])
    assert found is not None
    assert (found.edges.tolist(), found.amounts.tolist()) == ([2.5, 3.5], [0.25])


def test_values_are_counted_where_they_lie() -> None:
    values = [0.0, 0.05, 0.5, 1.0, math.nan, math.inf]
    found = histogram_of(values)
    assert found is not None
    assert found.amounts.sum() == 4
    for edge, expected in ((0.25, 2), (0.75, 3), (1.01, 4)):
        assert found.amounts[found.edges[1:] <= edge].sum() == expected
    assert histogram_of([math.nan]) is None
    assert histogram_of([2.0, 2.0]) is not None


# ------------------------------------------------------------------------------------------------------ what is told


def test_what_a_line_says() -> None:
    line = {
        "step": 7,
        "loss": 0.5,
        "images_seen": 448,
        "grad_norm": math.nan,
        "held_out_std_error": None,
        "copies_interval": [0.1, 0.3],
        "log_snr_knots": [4.0, 2.0, 0.0, -2.0, -4.0],
        "held_out_by_level": {"log_snr": [2.0, -2.0], "loss": [0.25, 1.0]},
        "word": "text",
        "flag": True,
    }
    told = told_by(line)
    assert told.scalars == {
        "loss": 0.5,
        "images_seen": 448.0,
        "copies_interval/1": 0.1,
        "copies_interval/2": 0.3,
        "held_out_by_level/1": 0.25,
        "held_out_by_level/2": 1.0,
    }
    assert sorted(told.histograms) == ["held_out_by_level/over log-SNR", "log_snr_knots"]
    bars = told.histograms["held_out_by_level/over log-SNR"]
    assert isinstance(bars, Histogram)
    assert bars.amounts.tolist() == [1.0 * 4, 0.25 * 4]
    assert told.histograms["log_snr_knots"].amounts.sum() == 5


@pytest.mark.parametrize("by_level", [3, {}, {"loss": None}, {"loss": ["a", None], "log_snr": "x"}, {"log_snr": [1.0]}])
def test_a_foreign_line_says_nothing_and_harms_nothing(by_level: object) -> None:
    told = told_by({"step": 1, "held_out_by_level": by_level, "loss": 1.0})
    assert told.histograms == {}
    assert {**told.scalars, "held_out_by_level": 3} == {"loss": 1.0, "held_out_by_level": 3}
