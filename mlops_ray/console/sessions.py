"""Sessions: who signed in with which browser, known by a random token of which only the digest is kept.

They live in the memory of the server, hold no secret and no role of their own: each request asks anew what the key
behind them may, so a session ends with its key, and all end with the server's process.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mlops_ray.governance.principals import Principal

LONGEST_S = 8 * 3_600.0  # a working day
IDLE_S = 3_600.0
MAX_SESSIONS, MAX_OF_ONE = 10_000, 20


@dataclass
class Session:
    """principal: as they signed in. form_token: what every form of theirs has to bring (OWASP's synchronizer token)."""

    principal: Principal
    began_s: float
    seen_s: float
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class Sessions:
    """clock: seconds, of any beginning."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._known: dict[str, Session] = {}

    def begin(self, principal: Principal) -> str:
        """Begin one; returns its token, which no other session ever had. The oldest makes room where there are many."""
        now_s, token = self._clock(), secrets.token_urlsafe(32)
        self._known = {name: one for name, one in self._known.items() if _lasts(one, now_s)}
        theirs = [name for name, one in self._known.items() if one.principal.id == principal.id]
        for name in theirs[: max(0, len(theirs) + 1 - MAX_OF_ONE)]:
            del self._known[name]
        if len(self._known) >= MAX_SESSIONS:
            del self._known[next(iter(self._known))]
        self._known[_digest(token)] = Session(principal, now_s, now_s)
        return token

    def find(self, token: str, by_person: bool = True) -> Session | None:
        """The session of a token; None if it never began, or is over. by_person: who asks is no page that was left
        open, so the session goes on."""
        now_s, found = self._clock(), self._known.get(_digest(token))
        if found is None or not _lasts(found, now_s):
            self.end(token)
            return None
        if by_person:
            found.seen_s = now_s
        return found

    def end(self, token: str) -> None:
        self._known.pop(_digest(token), None)


def _lasts(session: Session, now_s: float) -> bool:
    return now_s - session.began_s < LONGEST_S and now_s - session.seen_s < IDLE_S


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
