"""What the watch of an endpoint knows, and its commits: one file each, which holds all of it or does not count.

The position in the ledger stands in the same file as what was counted up to it, so whoever reads a commit goes on with
each prediction counted once.
"""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import msgspec

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConflictError, DataError
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.version_watch import VersionWatch

FOLDER, STATE = "monitoring", "state"
KEPT_COMMITS = 3
_DIGEST_BYTES = 32
_FORMAT = 2


@dataclass(frozen=True)
class WatchState:
    """segments: ids of those read lately, from `LATEST` before the newest on. rows: counted, by version.

    repeated: rows that were answered before under the same request id, and so not counted. recent: how long after their
    moments the last predictions were answered, in microseconds. read_up_to: up to which moment the stream was read.
    unwatched: versions that are only counted, and why. waiting: alarms that were decided and are not known to be
    recorded.
    """

    newest: datetime | None = None
    segments: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0
    recent: tuple[int, ...] = ()
    read_up_to: datetime | None = None
    unwatched: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[AlarmChange, ...] = ()
    watches: Mapping[str, VersionWatch] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        watches = {version: watch.to_bytes() for version, watch in self.watches.items()}
        plain = replace(self, watches={})
        return msgspec.msgpack.encode([_FORMAT, msgspec.msgpack.encode(plain, enc_hook=_plain), watches])

    @classmethod
    def from_bytes(cls, content: bytes) -> "WatchState":
        """What `to_bytes` wrote. Raises DataError if it is something else."""
        try:
            format, plain, watches = msgspec.msgpack.decode(content)
            if format != _FORMAT:
                raise DataError(f"The watch's state has format {format!r}; this code knows {_FORMAT}.")
            stored = msgspec.msgpack.decode(plain, type=_Stored)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise DataError(f"{len(content)} bytes are not the state of a watch: {error}") from error
        parts = {name: getattr(stored, name) for name in _Stored.__struct_fields__}
        return cls(**parts, watches={version: VersionWatch.from_bytes(watch) for version, watch in watches.items()})


class _Stored(msgspec.Struct):
    """`WatchState` without its watches, which have a form of their own."""

    newest: datetime | None
    segments: tuple[str, ...]
    rows: dict[str, int]
    repeated: int
    recent: tuple[int, ...]
    read_up_to: datetime | None
    unwatched: dict[str, str]
    waiting: tuple[AlarmChange, ...]


class Commits:
    """The commits of one use case, at `monitoring/<use case>/state/<number>-<writer>`; the last three are kept.

    Of two writers one goes on: who finds a commit that is not his own gets a ConflictError, and reads again.
    """

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._path = artifacts, (FOLDER, use_case, STATE)
        self._writer = uuid.uuid4().hex[:8]
        self._last = ""

    def read(self) -> WatchState:
        """The newest state that is whole; an empty one where there is none."""
        names = self._names()
        self._last = names[-1] if names else ""
        for name in reversed(names):
            content = self._artifacts.read_bytes(*self._path, name)
            state = content[_DIGEST_BYTES:]
            if hashlib.sha256(state).digest() == content[:_DIGEST_BYTES]:
                return WatchState.from_bytes(state)
        return WatchState()

    def write(self, state: WatchState) -> None:
        """Make `state` the newest. Raises ConflictError if another has written meanwhile."""
        names = self._names()
        if names and names[-1] != self._last:
            raise ConflictError(f"Another process watches the same endpoint: it has written {names[-1]}.")
        number = int(self._last.partition("-")[0] or 0) + 1
        name = f"{number:012}-{self._writer}"
        content = state.to_bytes()
        self._artifacts.write_bytes(hashlib.sha256(content).digest() + content, *self._path, name)
        self._last = name
        for old in names[: 1 - KEPT_COMMITS]:
            self._artifacts.delete(*self._path, old)

    def _names(self) -> list[str]:
        return [entry.name for entry in self._artifacts.entries(*self._path)]


def read_state(artifacts: Artifacts, use_case: str) -> WatchState:
    """What the watch of a use case knew when it last committed."""
    return Commits(artifacts, use_case).read()


def _plain(value: object) -> object:
    return str(value)
