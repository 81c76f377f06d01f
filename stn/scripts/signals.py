"""Signals that end a script: Ctrl-C, and what batch systems (SIGTERM) and closed terminals (SIGHUP) send."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
BROKEN_PIPE = 141  # the exit status that shells give a process whose output nobody reads any more
PARENT = "STN_PARENT"  # environment variable: the process that this one works for


class Stopped(KeyboardInterrupt):
    """A signal has ended the script; number: which."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__()
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that shells give a process which the signal has killed."""
        return 128 + self.number


def end_by_signals() -> None:
    """Have each of these signals raise Stopped."""
    handle(_stop)


def handle(handler: Callable[[int, FrameType | None], object]) -> dict[int, Any]:
    """Have these signals call the handler; what they did before, by number.

    Not those that whoever started the script wants ignored: a shell's background, nohup.
    """
    numbers = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def give_back(handlers: Mapping[int, Any]) -> None:
    """Have signals do again what they did before `handle`."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that come within this context take effect when it is over."""
    come: list[int] = []
    before = handle(lambda number, _: come.append(number))
    try:
        yield
    finally:
        give_back(before)
    for number in come:
        signal.raise_signal(number)


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)


class Interrupt:
    """Within its context, and from the first time that it is asked, the first of these signals asks for a stop.

    A second one stops at once. So does the end of the process that PARENT names, if any, which then cannot pass a
    Ctrl-C on. number: the signal that has asked.
    """

    def __init__(self):
        self.number = 0
        self._before: dict[int, Any] | None = None  # until the first question

    def asked(self) -> bool:
        if self._before is None:
            self._before = handle(self._ask)
        parent = os.environ.get(PARENT)
        orphaned = parent is not None and parent.isdigit() and parent != str(os.getppid())
        return bool(self.number) or orphaned

    def __enter__(self) -> "Interrupt":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """From now on the signals do what they did before."""
        give_back(self._before or {})

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.number = number
        self.release()
