"""What stops a run from outside: Ctrl-C, and the signal of its meter. Both raise KeyboardInterrupt in the main thread,
at whichever statement it is, unless they are held back."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# SIGINT is ignored in what a shell starts in the background.
METER_SIGNAL = signal.SIGUSR2


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler."""
    raise KeyboardInterrupt


@dataclass
class Interrupt:
    """asked: whether there was one. It can be pickled, as an event of `threading` cannot."""

    asked: bool = False


@contextmanager
def held_back() -> Iterator[Interrupt]:
    """Inside, the first interrupt is noted and raises nothing: for code that must not be left in its middle, and looks
    whether there was one where it can be. A second Ctrl-C raises at once."""
    noted = Interrupt()
    if threading.current_thread() is not threading.main_thread():  # nothing is interrupted there
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        if noted.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        noted.asked = True

    # What is ignored or ends the process, as a signal does whose meter is not there, goes on to.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, METER_SIGNAL)}
    held = {number: handler for number, handler in before.items() if callable(handler)}
    for number in held:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
