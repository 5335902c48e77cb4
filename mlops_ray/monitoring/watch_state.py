"""What the watch of an endpoint knows, and its commits: one file each, which holds all of it or does not count.

The position in the ledger stands in the same file as what was counted up to it, so whoever reads a commit goes on with
each prediction counted once.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConflictError, DataError
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.request_history import RequestHistory
from mlops_ray.monitoring.stream_clock import SetAside, StreamClock
from mlops_ray.monitoring.version_watch import VersionWatch
from mlops_ray.predictions.segments import settled

FOLDER, STATE = "monitoring", "state"
KEPT_COMMITS = 3
_DIGEST_BYTES = 32
_FORMAT, _BEFORE = 3, 2
_ANEW = "The watch began anew, as its state was of an older format. What still drifts is raised again."


@dataclass(frozen=True)
class WatchState:
    """segments: ids of those read lately, from `LATEST` before the newest on. rows: counted, by version.

    repeated: rows that were answered before under the same request id, and so not counted. clock: of the stream.
    aside: rows that are counted, but in no window. unwatched: versions that are only counted, and why. waiting: alarms
    that were decided and are not known to be recorded. label_parts: of each part of the labels a digest of its
    segments, up to which they are in what is known of the windows. late_labels: that came later than they count for,
    and late_labels_to: when the last of them was received. requests: as replicas report them.
    """

    newest: datetime | None = None
    segments: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0
    clock: StreamClock = field(default_factory=StreamClock)
    aside: SetAside = field(default_factory=SetAside)
    unwatched: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[AlarmChange, ...] = ()
    label_parts: Mapping[str, str] = field(default_factory=dict)
    late_labels: int = 0
    late_labels_to: datetime | None = None
    requests: RequestHistory = field(default_factory=RequestHistory)
    watches: Mapping[str, VersionWatch] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        watches = {version: watch.to_bytes() for version, watch in self.watches.items()}
        plain = replace(self, watches={})
        return msgspec.msgpack.encode([_FORMAT, msgspec.msgpack.encode(plain, enc_hook=_plain), watches])

    @classmethod
    def from_bytes(cls, content: bytes) -> "WatchState":
        """What `to_bytes` wrote, or what it wrote before this format. Raises DataError if it is something else."""
        try:
            format, plain, watches = msgspec.msgpack.decode(content)
            if format == _BEFORE:
                return _migrated(plain, watches)
            if format != _FORMAT:
                raise DataError(
                    f"The watch's state has format {format!r}; this code reads {_BEFORE} and {_FORMAT}. Run the code "
                    f"that wrote it, or delete the folder `{FOLDER}/<use case>/{STATE}` to count from the beginning."
                )
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
    clock: StreamClock
    aside: SetAside
    unwatched: dict[str, str]
    waiting: tuple[AlarmChange, ...]
    label_parts: dict[str, str]
    late_labels: int
    late_labels_to: datetime | None
    requests: RequestHistory = msgspec.field(default_factory=RequestHistory)  # which commits of before do not have


class _StoredBefore(msgspec.Struct):
    """The same in format 2."""

    newest: datetime | None
    segments: tuple[str, ...]
    rows: dict[str, int]
    repeated: int
    recent: tuple[int, ...]
    read_up_to: datetime | None
    unwatched: dict[str, str]
    waiting: tuple[AlarmChange, ...]


def _migrated(plain: bytes, watches: Mapping[str, bytes]) -> WatchState:
    """From format 2, which did not store who is in which window: position and counts go on, windows begin anew, and the
    alarms that stood are resolved."""
    old = msgspec.msgpack.decode(plain, type=_StoredBefore)
    kept: dict[str, VersionWatch] = {}
    waiting = list(old.waiting)
    for version, content in watches.items():
        found: dict[str, Any] = msgspec.msgpack.decode(content)
        kept[version] = VersionWatch(version, found["rows"])
        for question, id in found["raised"].items():
            since = old.read_up_to or old.newest
            assert since is not None
            waiting.append(AlarmChange("resolved", id, version, question, _ANEW, "info", since))
    return WatchState(
        newest=old.newest, segments=old.segments, rows=old.rows, repeated=old.repeated,
        clock=StreamClock(old.recent, old.read_up_to), unwatched=old.unwatched, waiting=tuple(waiting), watches=kept,
    )  # fmt: skip


class Commits:
    """The commits of one use case, at `monitoring/<use case>/state/<number>`; the last three are kept.

    A commit is a conditional write: its number is the one after the commit that was read, and of two writers of a
    number one succeeds. The other gets a ConflictError, and reads again.
    """

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._path = artifacts, (FOLDER, use_case, STATE)
        self._last = ""

    def read(self) -> WatchState:
        """The newest state that is whole; an empty one where there is none."""
        return settled(self._read, self._path[1])

    def _read(self) -> WatchState:
        names = self._names()
        self._last = names[-1] if names else ""
        for name in reversed(names):
            content = self._artifacts.read_bytes(*self._path, name)
            state = content[_DIGEST_BYTES:]
            if hashlib.sha256(state).digest() == content[:_DIGEST_BYTES]:
                return WatchState.from_bytes(state)
        return WatchState()

    def write(self, state: WatchState) -> None:
        """Make `state` the newest. Raises ConflictError if another has written since `read`."""
        number = int(self._last.partition("-")[0] or 0) + 1
        name, content = f"{number:012}", state.to_bytes()
        if not self._artifacts.create_bytes(hashlib.sha256(content).digest() + content, *self._path, name):
            raise ConflictError(f"Another process watches the same endpoint: it has written commit {number}.")
        names = self._names()
        if names[-1:] != [name]:
            # Another has gone on from it already, or this one was paused until the number was deleted again.
            self._artifacts.delete(*self._path, name)
            newest = max(names, default=f"{number + 1} or a later one")
            raise ConflictError(f"Another process watches the same endpoint: it has written commit {newest}.")
        self._last = name
        for old in names[:-KEPT_COMMITS]:
            with suppress(OSError):  # another has deleted it, or the next commit does
                self._artifacts.delete(*self._path, old)

    def _names(self) -> list[str]:
        """Twice where there seems to be none: all that are kept may be replaced while they are listed."""
        found = self._artifacts.entries(*self._path) or self._artifacts.entries(*self._path)
        return [entry.name for entry in found]


def read_state(artifacts: Artifacts, use_case: str) -> WatchState:
    """What the watch of a use case knew when it last committed."""
    return Commits(artifacts, use_case).read()


def _plain(value: object) -> object:
    return str(value)
