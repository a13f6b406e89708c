"""A request to stop is a flag, and the handlers that were there before come back."""

import signal
import threading
import time

import pytest

from sfumato.training.signals import ECHO, StopRequest, listening


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_a_flag(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    with listening() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop
        assert stop.signal_name == number.name
    assert {each: signal.getsignal(each) for each in before} == before


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_ctrl_c_interrupts(first: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGINT)
    with listening():
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)  # never the second of anything
        time.sleep(1.2 * ECHO)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_one_ctrl_c_that_arrives_twice_is_one() -> None:
    """`timeout -s INT` signals the process and then its group, which the process is in."""
    with listening() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_name == "SIGINT"
        time.sleep(1.2 * ECHO)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="inside"), listening():
        raise RuntimeError("inside")
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_have_no_signals() -> None:
    """Python delivers signals to the main thread alone: elsewhere nobody asks, and training works."""
    found: list[StopRequest] = []

    def work() -> None:
        with listening() as stop:
            found.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == 1
    assert not found[0]
