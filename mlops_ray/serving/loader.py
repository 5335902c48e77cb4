"""Loader: makes the versions that are wanted ready, each in a thread of its own, and lets go of those that are not."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mlops_ray.errors import ForbiddenError, UnavailableError
from mlops_ray.governance.live import VersionRef
from mlops_ray.governance.replicas import Loading
from mlops_ray.serving.http import DEADLINE_S
from mlops_ray.serving.served_version import ServedVersion

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
# Who was sent to a version before it was replaced has his answer, or has met his deadline, when it is closed.
DRAIN_S = 1.5 * DEADLINE_S

_logger = logging.getLogger(__name__)


@dataclass
class _Attempt:
    """One version on its way. tried: set after the first time; over: when nobody wants it any more."""

    began_s: float
    trouble: str = ""
    tried: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


class Loader:
    """Holds versions for a replica. A download that hangs holds up no other version, and nothing else.

    admit: raises ForbiddenError for a version that may not serve; load: makes one ready, or raises. What can pass (no
    room on the disk, a registry that does not answer) is tried again; what cannot is final here. on_failure: told once
    why a version is not used.
    """

    def __init__(
        self,
        use_case: str,
        admit: Callable[[VersionRef], None],
        load: Callable[[VersionRef], ServedVersion],
        on_failure: Callable[[VersionRef, str], None],
    ):
        self._use_case, self._admit, self._load, self._on_failure = use_case, admit, load, on_failure
        self._lock = threading.Lock()
        self._wanted: frozenset[VersionRef] = frozenset()
        self._attempts: dict[VersionRef, _Attempt] = {}
        self._leaving: list[tuple[float, ServedVersion]] = []
        self.held: Mapping[VersionRef, ServedVersion] = {}
        self.failed: Mapping[VersionRef, str] = {}

    def loading(self) -> Mapping[VersionRef, Loading]:
        """What is on its way, and for how long."""
        now_s = time.monotonic()
        with self._lock:
            return {
                ref: Loading(round(now_s - attempt.began_s, 1), attempt.trouble)
                for ref, attempt in self._attempts.items()
                if ref not in self.failed
            }

    def want(self, versions: Iterable[VersionRef]) -> None:
        """Begin to load what is missing, and let go of all that is not among `versions`. Does not wait."""
        with self._lock:
            self._wanted = frozenset(versions)
            self._let_go()
            for ref in self._wanted - self.held.keys() - self.failed.keys() - self._attempts.keys():
                attempt = self._attempts[ref] = _Attempt(time.monotonic())
                threading.Thread(
                    target=self._work, args=(ref, attempt), name=f"load-{ref.version}", daemon=True
                ).start()

    def wait(self) -> None:
        """Until each version that is wanted was tried once."""
        with self._lock:
            attempts = list(self._attempts.values())
        for attempt in attempts:
            attempt.tried.wait()

    def stop(self) -> None:
        """Try nothing again."""
        self.want(())

    def _let_go(self) -> None:
        for ref in self._attempts.keys() - self._wanted:
            self._attempts.pop(ref).over.set()
        now_s = time.monotonic()
        kept = {ref: served for ref, served in self.held.items() if ref in self._wanted}
        self._leaving += [(now_s + DRAIN_S, served) for ref, served in self.held.items() if ref not in kept]
        self.held = kept
        self.failed = {ref: why for ref, why in self.failed.items() if ref in self._wanted}
        for _, served in [one for one in self._leaving if one[0] <= now_s]:
            served.close()
        self._leaving = [one for one in self._leaving if one[0] > now_s]

    def _work(self, ref: VersionRef, attempt: _Attempt) -> None:
        pause_s = FIRST_PAUSE_S
        while not attempt.over.is_set():
            if self._try(ref, attempt):
                attempt.over.set()
            attempt.tried.set()
            attempt.over.wait(pause_s)
            if ref not in self.failed:  # an approval that is missing costs little to ask for
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        with self._lock:
            if self._attempts.get(ref) is attempt:
                del self._attempts[ref]

    def _try(self, ref: VersionRef, attempt: _Attempt) -> bool:
        """Whether there is nothing more to try."""
        try:
            self._admit(ref)
            served = self._load(ref)
        except ForbiddenError as error:
            self._fail(ref, attempt, str(error))
            return False
        except BaseException as error:  # a panic of a Rust library is no Exception, and here waits somebody
            why = f"{type(error).__name__}: {error}"
            if can_pass(error):
                _logger.warning("Version %d of %s is not loaded yet: %s", ref.version, self._use_case, why)
                attempt.trouble = why
                return False
            _logger.exception("Version %d of %s does not load", ref.version, self._use_case)
            self._fail(ref, attempt, why)
            return True
        with self._lock:
            if attempt.over.is_set():  # nobody was sent to it
                served.close()
                return True
            self.held = {**self.held, ref: served}
            self.failed = {failed: why for failed, why in self.failed.items() if failed != ref}
        _logger.info("Loaded %s version %d (digest %s)", self._use_case, ref.version, ref.digest)
        return True

    def _fail(self, ref: VersionRef, attempt: _Attempt, why: str) -> None:
        with self._lock:
            if attempt.over.is_set() or ref in self.failed:
                return
            self.failed = {**self.failed, ref: why}
        _logger.warning("Version %d of %s is set aside: %s", ref.version, self._use_case, why)
        try:
            self._on_failure(ref, why)
        except Exception as error:  # the report says it as well
            _logger.warning("Nobody is told of it: %s", error)


def can_pass(error: BaseException) -> bool:
    """Whether trying again may end otherwise: something outside of the version was in the way."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UnavailableError | MemoryError | TimeoutError):
            return True
        if isinstance(seen, OSError) and not isinstance(seen, FileNotFoundError):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False
