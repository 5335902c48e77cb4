"""Slots: how many requests a replica works on at a time, who waits for one, and what each caller may take of them."""

import asyncio
from collections import Counter, OrderedDict, deque

from mlops_ray.serving.http_error import HttpError

AT_WORK, WAITING = 64, 32
MAX_BODIES_BYTES = 256_000_000
RESERVED_SHARE = 8  # one caller leaves an eighth of the slots, and of the room for bodies, to the others

_Waiting = OrderedDict[str, deque[asyncio.Future[None]]]


class Slots:
    """So many requests at work, and so many that wait until one of those is done, first come first served by caller.

    Callers take turns: a slot that becomes free goes to the next of those who wait, however many requests one of them
    has waiting, and where no more may wait, the caller with most of them gives way to one with fewer. One caller alone
    may have all but an eighth of the slots. Use from one event loop.
    """

    def __init__(self, at_work: int = AT_WORK, waiting: int = WAITING):
        self._limit, self._max_waiting = at_work, waiting
        self._of_each = at_work - at_work // RESERVED_SHARE
        self._busy, self._at_work = 0, Counter[str]()
        self._waiting: _Waiting = OrderedDict()

    async def take(self, caller: str) -> None:
        """Wait for a slot, which `give_back` frees. Raises HttpError 429 where too many wait."""
        if caller not in self._waiting and self._may_work(caller):
            self._begin(caller)
            return
        if sum(map(len, self._waiting.values())) >= self._max_waiting:
            self._make_room(caller)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(caller, turn)
            elif turn.exception() is None:
                self.give_back(caller)
            raise

    def give_back(self, caller: str) -> None:
        self._busy -= 1
        self._at_work[caller] -= 1
        if not self._at_work[caller]:
            del self._at_work[caller]
        for waiting in list(self._waiting):
            if self._may_work(waiting) and self._call_up(waiting):
                return

    def _may_work(self, caller: str) -> bool:
        return self._busy < self._limit and self._at_work[caller] < self._of_each

    def _begin(self, caller: str) -> None:
        self._busy += 1
        self._at_work[caller] += 1

    def _call_up(self, caller: str) -> bool:
        """Let the caller's oldest request begin; whether there is one that was not given up meanwhile."""
        turns = self._waiting.pop(caller)
        while turns and (turn := turns.popleft()):
            if not turn.done():
                self._begin(caller)
                turn.set_result(None)
                break
        else:
            return False
        if turns:
            self._waiting[caller] = turns  # at the end: the others come first
        return True

    def _make_room(self, caller: str) -> None:
        """Let the newest request of whoever has most waiting give way, if that is not the caller's own."""
        most = max(self._waiting, key=lambda name: len(self._waiting[name]), default=caller)
        own = len(self._waiting.get(caller, ()))
        if most == caller or len(self._waiting[most]) <= own + 1:
            raise self._refusal()
        turn = self._waiting[most][-1]
        self._forget(most, turn)
        if not turn.done():
            turn.set_exception(self._refusal())

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(caller, deque())
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(caller, None)

    def _refusal(self) -> HttpError:
        return HttpError(
            429,
            f"{self._limit} requests are at work here and {self._max_waiting} wait. Ask again in 1 s.",
            headers={"retry-after": "1"},
        )


class Room:
    """So much of something, such as `bytes of bodies`; one caller may have all but an eighth of it."""

    def __init__(self, limit: int, what: str):
        self._limit, self._what = limit, what
        self._of_each = limit - limit // RESERVED_SHARE
        self._taken, self._held = 0, Counter[str]()

    def take(self, caller: str, size: int) -> None:
        """Raises HttpError 429 where there is no room."""
        if self._taken + size > self._limit or self._held[caller] + size > self._of_each:
            raise HttpError(
                429,
                f"There are {self._limit:,} {self._what}, of which a caller may have {self._of_each:,}, and none is "
                f"left for this one. Ask again in 1 s.",
                headers={"retry-after": "1"},
            )
        self._taken += size
        self._held[caller] += size

    def give_back(self, caller: str, size: int) -> None:
        self._taken -= size
        self._held[caller] -= size
        if not self._held[caller]:
            del self._held[caller]
