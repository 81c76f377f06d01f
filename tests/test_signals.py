"""Signals that end a script: what they raise, who asks for a stop, who is left alone."""

import os
import signal

import pytest

from stn.scripts.signals import ENDING, PARENT, Interrupt, Stopped, end_by_signals, handle, held_back

each_signal = pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)


def test_there_are_three():
    assert [number.name for number in ENDING] == ["SIGINT", "SIGTERM", "SIGHUP"]


@each_signal
def test_a_signal_ends_a_script_with_the_status_that_shells_give(number):
    end_by_signals()
    with pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(number)
    assert isinstance(caught.value, Stopped) and caught.value.status == 128 + number


@each_signal
def test_what_is_to_be_ignored_stays_ignored(number):
    """As nohup and a shell's background ask for."""
    signal.signal(number, signal.SIG_IGN)
    end_by_signals()
    with Interrupt() as interrupt, held_back():
        assert not interrupt.asked() and signal.getsignal(number) is signal.SIG_IGN
        signal.raise_signal(number)
        assert not interrupt.asked()
    assert signal.getsignal(number) is signal.SIG_IGN


@each_signal
def test_the_first_signal_asks_for_a_stop_and_the_second_stops(number):
    end_by_signals()
    with Interrupt() as interrupt:
        with pytest.raises(Stopped):  # before training has begun
            signal.raise_signal(number)
        assert not interrupt.asked()
        signal.raise_signal(number)
        assert interrupt.asked() and interrupt.number == number
        with pytest.raises(Stopped):
            signal.raise_signal(number)


def test_a_release_gives_the_signals_back():
    end_by_signals()
    with Interrupt() as interrupt:
        interrupt.asked()
        interrupt.release()
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        assert not interrupt.asked()


def test_the_end_of_the_parent_asks_for_a_stop(monkeypatch):
    interrupt = Interrupt()
    monkeypatch.setenv(PARENT, str(os.getppid()))
    assert not interrupt.asked()
    monkeypatch.setenv(PARENT, "1234567")
    assert interrupt.asked()
    interrupt.release()


@each_signal
def test_a_signal_that_is_held_back_comes_later(number):
    come = []
    handle(lambda number, _: come.append(number))
    with held_back():
        signal.raise_signal(number)
        assert come == []
    assert come == [number]
