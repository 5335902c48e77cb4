"""What is watched of one version, as one value: its windows, their verdicts, its quality and its alarms.

`observation` counts predictions in it, `labelling` takes labels, `redefinition` begins it anew. It is stored as bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.alarms import Alarm
from mlops_ray.monitoring.earlier_records import decode
from mlops_ray.monitoring.error_stream import ErrorStream
from mlops_ray.monitoring.looks import Gathered
from mlops_ray.monitoring.members import MemberFile
from mlops_ray.monitoring.recalibration import Lived
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.severity import Severity
from mlops_ray.monitoring.slices import ALL_ROWS
from mlops_ray.monitoring.verdicts import Question
from mlops_ray.monitoring.window_record import WindowBlock, WindowRecord
from mlops_ray.monitoring.windows import Window, WindowState
from mlops_ray.use_case.window_spec import WindowSpec


@dataclass(frozen=True)
class Watched:
    """What a version is judged by. importance: of each feature, in any unit; empty where not known. revision: of the
    use case's monitoring, 0 for what the model was sealed with."""

    version: str
    reference: Reference
    importance: Mapping[str, float] = field(default_factory=dict)
    revision: int = 0

    @property
    def slices(self) -> tuple[str, ...]:
        """The columns by whose values rows with labels are judged for themselves."""
        names = (name.partition("=")[0] for name in self.reference.reliability if name != ALL_ROWS)
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Stream:
    """The windows of one kind. finished: how many so far. records: of those at hand, archive: where the older ones are,
    as long as labels can change them. alarms: those that are open. waiting: windows that are judged together with the
    next ones. lived: what traffic has taught. last: what was judged last, of a champion beside which another version is
    rolled out.
    """

    state: WindowState
    finished: int = 0
    records: tuple[WindowRecord, ...] = ()
    alarms: Mapping[Question, Alarm] = field(default_factory=dict)
    waiting: Gathered | None = None
    lived: Mapping[Question, Lived] = field(default_factory=dict)
    last: Window | None = None
    archive: tuple[WindowBlock, ...] = ()


@dataclass(frozen=True)
class VersionWatch:
    """rows: all that were counted. streams: by `spec.name`. raised: ids of the alarms that were announced, and stand.

    An alarm is about a question, whichever kinds of windows show it: it is raised with the first, and resolved when
    none shows it any more. errors: of the settled windows of the first kind, as a stream. severities: as they were
    announced. members: files that say which predictions are in which panes. revision: of the monitoring by which its
    open windows are judged. Kinds of windows that it does not have stay as they were.
    """

    version: str
    rows: int = 0
    streams: Mapping[str, Stream] = field(default_factory=dict)
    raised: Mapping[Question, str] = field(default_factory=dict)
    errors: ErrorStream = field(default_factory=ErrorStream)
    severities: Mapping[Question, Severity] = field(default_factory=dict)
    members: tuple[MemberFile, ...] = ()
    revision: int = 0

    def record(self, spec: str, number: int) -> WindowRecord:
        return next(record for record in self.streams[spec].records if record.number == number)

    def to_bytes(self) -> bytes:
        streams = {name: _stored(stream) for name, stream in self.streams.items()}
        return msgspec.msgpack.encode(
            _StoredWatch(
                self.version, self.rows, streams, self.raised, self.errors, self.severities, self.members, self.revision
            )
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> "VersionWatch":
        """What `to_bytes` wrote. Raises DataError if it is something else."""
        try:
            stored = decode(content, _StoredWatch)
            streams = {name: _stream(one) for name, one in stored.streams.items()}
        except (msgspec.MsgspecError, pl.exceptions.PolarsError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{len(content)} bytes are not the watch of a version of this code: {error}") from error
        return cls(
            stored.version, stored.rows, streams, stored.raised, stored.errors, stored.severities, stored.members,
            stored.revision,
        )  # fmt: skip


@dataclass(frozen=True)
class Observed:
    """The watch afterwards, what is to be announced, in order, and by kind of window the pane of each row.

    judged: the records of the windows that were judged, with what was looked at (see `looks`).
    """

    watch: VersionWatch
    changes: tuple[AlarmChange, ...] = ()
    panes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    judged: tuple[tuple[WindowRecord, Window], ...] = ()


def fresh_stream(spec: WindowSpec, reference: Reference) -> Stream:
    return Stream(WindowState(spec, reference.empty_columns(), reference.sample_rows))


@dataclass(frozen=True)
class _Stored:
    state: bytes
    finished: int
    records: tuple[WindowRecord, ...]
    alarms: Mapping[Question, Alarm]
    waiting: tuple[bytes, float] | None
    lived: Mapping[Question, Lived]
    last: bytes | None
    archive: tuple[WindowBlock, ...]


def _stored(stream: Stream) -> _Stored:
    waiting = stream.waiting
    gathered = None if waiting is None else (waiting.window.to_bytes(), waiting.covered.total_seconds())
    last = None if stream.last is None else stream.last.to_bytes()
    return _Stored(
        stream.state.to_bytes(), stream.finished, stream.records, stream.alarms, gathered, stream.lived, last,
        stream.archive,
    )  # fmt: skip


def _stream(stored: _Stored) -> Stream:
    waiting = stored.waiting
    gathered = None if waiting is None else Gathered(Window.from_bytes(waiting[0]), timedelta(seconds=waiting[1]))
    last = None if stored.last is None else Window.from_bytes(stored.last)
    return Stream(
        WindowState.from_bytes(stored.state), stored.finished, stored.records, stored.alarms, gathered, stored.lived,
        last, stored.archive,
    )  # fmt: skip


@dataclass(frozen=True)
class _StoredWatch:
    version: str
    rows: int
    streams: Mapping[str, _Stored]
    raised: Mapping[Question, str]
    errors: ErrorStream
    severities: Mapping[Question, Severity]
    members: tuple[MemberFile, ...]
    revision: int = 0
