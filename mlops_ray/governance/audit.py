"""The audit: is the chain of events what it was, and does it say what the tables hold?

Hashes show an edit, anchors a cut-off end. Who can write to the database can compute new hashes for a changed chain,
but neither sign anchors of it nor change those at a second place, where who may write to the database may not.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from mlops_ray.config import Settings
from mlops_ray.errors import IntegrityError, MlopsRayError
from mlops_ray.governance import anchor_check
from mlops_ray.governance.anchors import Anchor, anchor_of, file_errors, head_of
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.erasures import Erasures, read_erasures
from mlops_ray.governance.events import GENESIS, SYSTEM, Event, hash_of_fields, read, record
from mlops_ray.governance.reconciliation import Reconciliation
from mlops_ray.governance.stored import rows_of
from mlops_ray.governance.tables import event_head, events

_ROWS_AT_A_TIME = 1000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verification:
    """What `verify` found. problem: the first one, in words, None if `ok`. checked: events before it.

    not_anchored: ids of the events behind the last anchor. That they are intact among each other is checked; that
    none was cut off behind them, or all of them were computed anew, only the next anchor will show. limits: what could
    not have been found as things stand, in words.
    """

    ok: bool
    checked: int
    problem: str | None
    not_anchored: tuple[str, ...]
    limits: tuple[str, ...] = ()


_NOTHING = Erasures()


def verify(records: Iterable[Event], anchors: Iterable[Anchor], erasures: Erasures = _NOTHING) -> Verification:
    """Check the whole chain, in its order, against its own hashes and against `anchors`.

    Any edit, removal, insertion or exchange of records is found, and any cut that takes an anchored record; and any
    text that was taken out without an event that says so (`erasures`).
    """
    expected: dict[int, set[str]] = {}
    for known in anchors:
        expected.setdefault(known.seq, set()).add(known.hash)
    last_anchored = max(expected, default=0)
    checked, previous, not_anchored = 0, GENESIS, list[str]()
    try:
        for event in records:
            problem = _problem(event, checked + 1, previous, expected.get(checked + 1, set()), erasures)
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


def _problem(event: Event, seq: int, previous: str, anchored: set[str], erasures: Erasures) -> str | None:
    if event.seq != seq:
        return f"Event {seq} is missing: event {event.seq} ({event.id}) stands in its place."
    if event.previous_hash != previous:
        return f"Event {seq} ({event.id}) does not continue event {seq - 1}: it names another hash as the previous one."
    if _hash(event) != erasures.expected_hash(event):
        return f"Event {seq} ({event.id}) was changed: its fields do not have the hash that is stored with them."
    if anchored - {event.hash}:
        return f"Event {seq} ({event.id}) has another hash than was anchored: the chain up to it was computed anew."
    return erasures.problem(event)


def _hash(event: Event) -> str | None:
    """The hash of an event's fields; None if they are of types that no event has."""
    try:
        return hash_of_fields(event.to_record() | {"time": event.time})
    except (ValueError, TypeError, AttributeError, LookupError):
        return None


def verify_store(store: ControlStore, settings: Settings) -> Verification:
    """Check all events of `store` against the anchors: those that the store remembers, those in the file and those at
    the second place; the anchors against each other, their signatures and time stamps; that the chain's end is the last
    event; and that the tables hold what the events say (`reconciliation`).

    What was made unreadable is a problem as any other. Raises UnavailableError if store or file cannot be read; a
    second place that cannot is one of the `limits`.
    """
    try:
        return _verified(store, settings)
    except IntegrityError as error:
        return Verification(False, 0, str(error), ())


def _verified(store: ControlStore, settings: Settings) -> Verification:
    outside = anchor_check.read_outside(store, settings)
    tables = Reconciliation()
    with store.reading() as connection:
        head, rows, erasures = _head(connection), anchor_check.remembered(connection), read_erasures(connection)
        anchored = [*map(anchor_of, rows), *outside.anchors()]
        seen = anchor_check.Seen({one.seq for one in anchored})
        found = verify(seen.watch(tables.watch(_as_stored(connection))), anchored, erasures)
        if not found.ok:
            return found
        problem = None
        if found.checked != head.seq:
            problem = f"The chain ends at event {found.checked}, but its head is event {head.seq}: the end is cut off."
        elif head.hash != seen.last_hash:
            problem = f"The head of the chain has another hash than event {head.seq}, which is the last one."
        problem = problem or anchor_check.difference(settings, outside, rows, seen) or tables.difference(connection)
    last = max((one.seq for one in anchored), default=0)
    limits = (*anchor_check.limits(settings, rows, last), *outside.limits, *erasures.limits(), *tables.limits())
    return replace(found, ok=problem is None, problem=problem, limits=limits)


def _head(connection: Connection) -> Anchor:
    rows = list(rows_of(connection, event_head))
    if len(rows) != 1:
        raise IntegrityError(f"Table event_head has {len(rows)} rows, and the chain of events has one end.")
    return head_of(connection)


def check(store: ControlStore, settings: Settings) -> Verification:
    """`verify_store`, and the event `audit.failed` if something is not what it was. Call it at an interval.

    Where the end of the chain is damaged, or who is told of events, none can follow: then only the log says so.
    """
    found = verify_store(store, settings)
    if not found.ok:
        _logger.critical("The audit log is not what it was: %s", found.problem)
        try:
            with store.transaction() as connection:
                record(connection, "audit.failed", SYSTEM, "audit", reason=found.problem or "")
        except (MlopsRayError, SQLAlchemyError, ValueError, TypeError):
            _logger.critical("The event of it cannot be recorded", exc_info=True)
    return found


def export(store: ControlStore, file: str | Path) -> int:
    """Write all events to `file` as JSON lines, whole or not at all, and return their number."""
    with store.reading() as connection:
        return write_lines((event.to_record() for event in _read_all(connection)), file)


def write_lines(records: Iterable[Mapping[str, Any]], file: str | Path) -> int:
    """Write events to `file` as `export` does, and return their number."""
    target, count = Path(file), 0
    with file_errors(target):
        descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            for event in records:
                line = f"{json.dumps(event, sort_keys=True)}\n"
                with file_errors(target):
                    stream.write(line)
                count += 1
        with file_errors(target):
            os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)
    return count


def _as_stored(connection: Connection) -> Iterator[Event]:
    """All events. Raises IntegrityError for one that is written as this software does not: the same moment in another
    notation has the same hash, and is sorted elsewhere."""
    last = 0
    try:
        for fields in rows_of(connection, events):
            yield Event(**fields | {"roles": tuple(fields["roles"])})
            last = fields["seq"]
    except (TypeError, IntegrityError) as error:
        raise IntegrityError(f"What stands behind event {last} in the audit log cannot be read: {error}") from error


def _read_all(connection: Connection) -> Iterator[Event]:
    return read(connection, select(events).order_by(events.c.seq).execution_options(yield_per=_ROWS_AT_A_TIME))
