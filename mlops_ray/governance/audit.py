"""The audit: is the chain of events what it was? Hashes show an edit, anchors at a second place a cut-off end.

Who can write to the database can compute new hashes for a changed chain, but not change what was anchored elsewhere.
So the anchors belong where those who may write to the database may not.
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DatabaseError

from mlops_ray.errors import IntegrityError, UnavailableError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import GENESIS, SYSTEM, Event, hash_of_fields, read, record
from mlops_ray.governance.reconciliation import Reconciliation
from mlops_ray.governance.tables import anchors as anchors_table
from mlops_ray.governance.tables import event_head, events

_ROWS_AT_A_TIME = 1000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Anchor:
    """The number and hash that an event had when it was the last one."""

    seq: int
    hash: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found. problem: the first one, in words, None if `ok`. checked: events before it.

    not_anchored: ids of the events behind the last anchor. That they are intact among each other is checked; that
    none was cut off behind them, or all of them were computed anew, only the next anchor will show.
    """

    ok: bool
    checked: int
    problem: str | None
    not_anchored: tuple[str, ...]


def verify(records: Iterable[Event], anchors: Iterable[Anchor]) -> Verification:
    """Check the whole chain, in its order, against its own hashes and against `anchors`.

    Any edit, removal, insertion or exchange of records is found, and any cut that takes an anchored record.
    """
    expected: dict[int, set[str]] = {}
    for anchor in anchors:
        expected.setdefault(anchor.seq, set()).add(anchor.hash)
    last_anchored = max(expected, default=0)
    checked, previous, not_anchored = 0, GENESIS, list[str]()
    try:
        for event in records:
            problem = _problem(event, checked + 1, previous, expected.get(checked + 1, set()))
            if problem:
                return Verification(False, checked, problem, tuple(not_anchored))
            checked, previous = checked + 1, event.hash
            if checked > last_anchored:
                not_anchored.append(event.id)
    except IntegrityError as error:
        return Verification(False, checked, str(error), tuple(not_anchored))
    if checked < last_anchored:
        problem = f"The chain ends at event {checked}, but event {last_anchored} was anchored: the end is cut off."
        return Verification(False, checked, problem, ())
    return Verification(True, checked, None, tuple(not_anchored))


def _problem(event: Event, seq: int, previous: str, anchored: set[str]) -> str | None:
    if event.seq != seq:
        return f"Event {seq} is missing: event {event.seq} ({event.id}) stands in its place."
    if event.previous_hash != previous:
        return f"Event {seq} ({event.id}) does not continue event {seq - 1}: it names another hash as the previous one."
    if _hash(event) != event.hash:
        return f"Event {seq} ({event.id}) was changed: its fields do not have the hash that is stored with them."
    if anchored - {event.hash}:
        return f"Event {seq} ({event.id}) has another hash than was anchored: the chain up to it was computed anew."
    return None


def _hash(event: Event) -> str | None:
    """The hash of an event's fields; None if they are of types that no event has."""
    try:
        return hash_of_fields(event.to_json() | {"time": event.time})
    except (ValueError, TypeError, AttributeError):
        return None


def anchor(store: ControlStore, place: str) -> Anchor | None:
    """Write number and hash of the last event to the file `place`; None if they stand there already.

    Call it at an interval: what is younger than the last call could be cut off unnoticed. The event `audit.anchored`
    is the one anchored. Raises UnavailableError if the file cannot be written.
    """
    known = read_anchors(place)
    with store.reading() as connection:
        head = _head(connection)
    if head.seq == 0 or head in known:
        return None
    now = datetime.now(UTC)
    with _appending(Path(place)) as append:
        with store.transaction() as connection:
            event = record(connection, "audit.anchored", SYSTEM, "audit", payload={"place": place}, now=now)
        # After the commit: an anchor of an event that never came to be would look like a cut-off end.
        done = Anchor(event.seq, event.hash)
        append({"seq": done.seq, "hash": done.hash, "time": now.isoformat()})
    with store.transaction() as connection:
        connection.execute(insert(anchors_table).values(seq=done.seq, hash=done.hash, time=now, place=place))
    return done


def verify_store(store: ControlStore, place: str) -> Verification:
    """Check all events of `store` against the anchors in the file `place` and those that the store remembers, that the
    chain's end is the last event, and that the tables hold what the events say (`reconciliation`).

    Raises UnavailableError if one of them cannot be read.
    """
    written = read_anchors(place)
    tables = Reconciliation()
    with store.reading() as connection:
        head, remembered = _head(connection), _remembered(connection)
        found = verify(tables.watch(_read_all(connection)), written + [anchor for anchor, _ in remembered])
        if not found.ok:
            return found
        problem = _lost(written, [anchor for anchor, where in remembered if where == place], place)
        if found.checked != head.seq:
            problem = f"The chain ends at event {found.checked}, but its head is event {head.seq}: the end is cut off."
        problem = problem or tables.difference(connection)
    return replace(found, ok=problem is None, problem=problem)


def check(store: ControlStore, place: str) -> Verification:
    """`verify_store`, and the event `audit.failed` if something is not what it was. Call it at an interval.

    Where the end of the chain is damaged no event can follow it: then only the log says so.
    """
    found = verify_store(store, place)
    if not found.ok:
        _logger.critical("The audit log is not what it was: %s", found.problem)
        with suppress(IntegrityError, DatabaseError), store.transaction() as connection:
            record(connection, "audit.failed", SYSTEM, "audit", reason=found.problem or "")
    return found


def _lost(written: Collection[Anchor], remembered: Collection[Anchor], place: str) -> str | None:
    lost = [anchor.seq for anchor in remembered if anchor not in written]
    if not lost:
        return None
    return f"File {place} lacks {len(lost)} anchors that were written there, the last of event {max(lost)}."


def export(store: ControlStore, file: str | Path) -> int:
    """Write all events to `file` as JSON lines, whole or not at all, and return their number."""
    with _all_events(store) as (_, records):
        return write_lines((event.to_json() for event in records), file)


def write_lines(records: Iterable[Mapping[str, Any]], file: str | Path) -> int:
    """Write events to `file` as `export` does, and return their number."""
    target, count = Path(file), 0
    with _file_errors(target):
        descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            for event in records:
                line = f"{json.dumps(event, sort_keys=True)}\n"
                with _file_errors(target):
                    stream.write(line)
                count += 1
        with _file_errors(target):
            os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)
    return count


def read_anchors(place: str) -> list[Anchor]:
    """The anchors in the file `place`; none if it does not exist. A line that a crash cut off is left out."""
    path, found = Path(place), []
    with _file_errors(path):
        if not path.exists():
            return []
        lines = path.read_text(errors="replace").splitlines()
    for line in lines:
        try:
            value = json.loads(line)
            found.append(Anchor(int(value["seq"]), str(value["hash"])))
        except (ValueError, TypeError, LookupError):
            continue
    return found


@contextmanager
def _appending(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that adds a line of JSON to the file, and returns when it is on the disk."""
    with _file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    def append(value: dict[str, Any]) -> None:
        with _file_errors(path):
            size = os.fstat(descriptor).st_size
            whole = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
            # In one call, so that two processes do not mix their lines.
            line = f"{json.dumps(value)}\n"
            os.write(descriptor, (line if whole else f"\n{line}").encode())
            os.fsync(descriptor)

    try:
        yield append
    finally:
        os.close(descriptor)


@contextmanager
def _all_events(store: ControlStore) -> Iterator[tuple[Anchor, Iterator[Event]]]:
    """The head, and the events up to it, read bit by bit."""
    with store.reading() as connection:
        yield _head(connection), _read_all(connection)


def _read_all(connection: Connection) -> Iterator[Event]:
    return read(connection, select(events).order_by(events.c.seq).execution_options(yield_per=_ROWS_AT_A_TIME))


def _remembered(connection: Connection) -> list[tuple[Anchor, str]]:
    """The anchors that the store itself remembers, and where each was written."""
    rows = connection.execute(select(anchors_table).order_by(anchors_table.c.seq))
    return [(Anchor(row.seq, row.hash), row.place) for row in rows]


def _head(connection: Connection) -> Anchor:
    return Anchor(*connection.execute(select(event_head.c.seq, event_head.c.hash)).one())


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"File {path} cannot be read or written: {error.strerror}. Repair it, then retry."
        ) from error
