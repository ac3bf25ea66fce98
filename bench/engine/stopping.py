"""Interrupts and preemption: the step under way is finished and saved, and the process ends with 130 or 143."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(BaseException):
    """A signal asks this process to end; no error, so that nothing takes it for one. `status`: to exit with."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def status(self) -> int:
        """130 for an interrupt from the keyboard, else 143: whatever the signal, it asks to terminate."""
        return 128 + (signal.SIGINT if self.number == signal.SIGINT else signal.SIGTERM)


_asked: int | None = None
_in_step = False


@contextmanager
def listening() -> Iterator[None]:
    """Signals raise Stopped while the block runs, at once or, within `in_steps`, where `check` is called.

    After the first, only an interrupt from the keyboard raises it again, and at once. For a process's main thread.
    """
    global _asked
    _asked = None
    before = {number: signal.signal(number, _hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear(number: int, frame: FrameType | None) -> Any:
    global _asked
    again, _asked = _asked is not None, _asked or number
    if number == signal.SIGINT if again else not _in_step:
        raise Stopped(_asked)


def asked() -> int | None:
    """The signal that has asked this process to end, if one has."""
    return _asked


@contextmanager
def in_steps() -> Iterator[None]:
    """Lets whole steps come to their end: signals wait for `check` in this block."""
    global _in_step
    outer, _in_step = _in_step, True
    try:
        yield
    finally:
        _in_step = outer
    if not outer:
        check()


def check() -> None:
    """Raises Stopped where a signal has asked for it."""
    if _asked is not None:
        raise Stopped(_asked)
