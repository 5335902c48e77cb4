"""Counting: how far work on many rows is, said once it takes longer than two seconds."""

import sys
import time

_QUIET_S, _EVERY_S = 2.0, 1.0


class Counting:
    """`done(rows)` as often as some are done. One line on standard error, which is written over."""

    def __init__(self, total: int, what: str):
        self._total, self._what, self._done = total, what, 0
        self._said, self._next = False, time.monotonic() + _QUIET_S

    def done(self, rows: int) -> None:
        self._done += rows
        ended = self._done >= self._total
        if time.monotonic() < self._next and not (ended and self._said):
            return
        self._next, self._said = time.monotonic() + _EVERY_S, True
        end = "\n" if ended else ""
        print(f"\r{self._done:,} of {self._total:,} {self._what}", end=end, file=sys.stderr, flush=True)
