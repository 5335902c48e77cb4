"""Anchors: number, hash and Merkle root of the last event, signed, and written where the database's writers may not.

An anchor is made in the transaction of its event `audit.anchored`; then it is stamped, written to a file and to the
second place, each when it can be: what is down delays its own copy, and is said, and nothing else.
"""

import base64
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, record
from mlops_ray.governance.merkle import Tree
from mlops_ray.governance.patience import within
from mlops_ray.governance.second_place import SecondPlace
from mlops_ray.governance.signing_keys import Signer, signer_of
from mlops_ray.governance.tables import anchors, event_head, events
from mlops_ray.governance.time_stamps import time_stamp

PATIENCE_S = 20.0
"""How long the second place may take for what waits: a dispatcher has other things to do."""
SECOND_PLACE, TIME_STAMP = "second place", "time stamp"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Anchor:
    """The number and hash that an event had when it was the last one, and the Merkle root of all up to it.

    key: the id of the key that signed `message`, signature: in base64; time_stamp: of `message`, DER in base64. None
    where there is none: not configured, not there yet, or written before there were any.
    """

    seq: int
    hash: str
    root: str | None = None
    time: str | None = None
    key: str | None = None
    signature: str | None = None
    time_stamp: str | None = None

    @property
    def message(self) -> bytes:
        """What is signed and stamped."""
        lines = f"events {self.seq}", f"hash {self.hash}", f"root {self.root}", f"time {self.time}"
        return "".join(f"{line}\n" for line in ("mlops-ray audit anchor", *lines)).encode()

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Any) -> "Anchor":
        """Raises ValueError, TypeError or LookupError for what is none."""
        texts = {name: str(value[name]) for name in _TEXTS if value.get(name) is not None}
        if "root" not in texts:  # as they were written before they were signed
            texts.pop("time", None)
        return cls(int(value["seq"]), str(value["hash"]), **texts)


_TEXTS = ("root", "time", "key", "signature", "time_stamp")


def anchor(store: ControlStore, settings: Settings) -> Anchor | None:
    """Anchor the last event, and bring to file, second place and time stamp server what they lack.

    None if the last event is anchored already. The event `audit.anchored` is the one anchored. Raises UnavailableError
    if the file cannot be written, and then no event claims otherwise; or, after all else was done, if the second place
    or the time stamp server cannot be reached: what they lack is brought to them by the next call.
    """
    signer = signer_of("audit_key", settings.audit_key) if settings.audit_key else None
    with appending(Path(settings.audit_anchors)) as append:
        made = _make(store, settings.audit_anchors, signer)
        late = [_late(store, TIME_STAMP, lambda: _stamp(store, settings.audit_time_stamp_url))]
        _write(store, settings.audit_anchors, append)
    late += [_late(store, SECOND_PLACE, lambda: _bring(store, settings.audit_second_place))]
    said = [one for one in late if one]
    if said:
        done = f"Event {made.seq} is anchored in {settings.audit_anchors}. " if made else ""
        raise UnavailableError(f"{done}{' '.join(said)} What is missing there is brought by the next call.")
    return made


def _make(store: ControlStore, place: str, signer: Signer | None) -> Anchor | None:
    with store.reading() as connection:
        head, last = head_of(connection), _last(connection)
        signed = signer is None or (last is not None and last.key == signer.id)
        if head.seq == 0 or (last is not None and signed and (last.seq, last.hash) == (head.seq, head.hash)):
            return None
        tree = _grown(connection, _tree(last), head.seq)  # which may be long, so before the others have to wait
    with store.transaction() as connection:
        tree = _grown(connection, tree, head_of(connection).seq)
        now, payload = datetime.now(UTC), {"place": place, "key": signer.id if signer else None}
        event = record(connection, "audit.anchored", SYSTEM, "audit", payload=payload, now=now)
        tree = tree.with_hash(event.hash)
        made = Anchor(event.seq, event.hash, tree.root, event.to_json()["time"], payload["key"])
        if signer:
            made = replace(made, signature=base64.b64encode(signer.sign(made.message)).decode())
        row = asdict(made) | {"time": now, "place": place, "subtrees": list(tree.subtrees)}
        connection.execute(insert(anchors).values(row))
    return made


def _tree(last: Row[Any] | None) -> Tree:
    return Tree(last.seq, tuple(last.subtrees)) if last is not None and last.subtrees else Tree()


def _grown(connection: Connection, tree: Tree, until: int) -> Tree:
    new = select(events.c.hash).where(events.c.seq > tree.size, events.c.seq <= until).order_by(events.c.seq)
    return tree.with_hashes(connection.execute(new.execution_options(yield_per=1000)).scalars())


def _stamp(store: ControlStore, url: str) -> None:
    """A stamp on the last anchor is one on all that is before it."""
    with store.reading() as connection:
        last = _last(connection)
    if not url or last is None or last.root is None or last.time_stamp is not None:
        return
    stamped = base64.b64encode(time_stamp(url, anchor_of(last).message)).decode()
    again = {"written_at": None, "second_at": None}  # with the stamp
    with store.transaction() as connection:
        connection.execute(update(anchors).where(*_this(last)).values(again | {"time_stamp": stamped}))


def _write(store: ControlStore, place: str, append: Callable[[dict[str, Any]], None]) -> None:
    lacking = _lacking(store, anchors.c.place == place, anchors.c.written_at.is_(None))
    for row in lacking:
        append(anchor_of(row).to_json())
    _mark(store, lacking, "written_at")


def _bring(store: ControlStore, url: str) -> None:
    lacking = _lacking(store, anchors.c.second_at.is_(None), anchors.c.root.is_not(None)) if url else []
    if lacking:
        second, brought = SecondPlace(url), [anchor_of(row).to_json() for row in lacking]
        within(PATIENCE_S, f"The second place {second}", lambda: second.write(brought))
        _mark(store, lacking, "second_at")


def _late(store: ControlStore, what: str, work: Callable[[], None]) -> str:
    """Do it; or say why not, in an event too if that is new since it was last done."""
    try:
        work()
    except UnavailableError as error:
        reason = str(error)
    else:
        return ""
    done = anchors.c.second_at if what == SECOND_PLACE else anchors.c.time_stamp
    with store.transaction() as connection:
        last = connection.execute(
            select(anchors.c.seq).where(done.is_not(None)).order_by(anchors.c.seq.desc()).limit(1)
        )
        since = events.c.seq > (last.scalar() or 0)
        said = select(events.c.seq).where(events.c.type == "audit.delayed", events.c.subject == what, since).limit(1)
        if connection.execute(said).first() is None:
            record(connection, "audit.delayed", SYSTEM, what, reason=reason)
    return reason


def _lacking(store: ControlStore, *conditions: ColumnElement[bool]) -> list[Row[Any]]:
    with store.reading() as connection:
        return list(connection.execute(select(anchors).where(*conditions).order_by(anchors.c.seq)))


def _mark(store: ControlStore, rows: Iterable[Row[Any]], column: str) -> None:
    """Unless it was stamped meanwhile, and is to be brought again."""
    moment = {column: datetime.now(UTC)}
    if rows:
        with store.transaction() as connection:
            for row in rows:
                same = anchors.c.time_stamp.is_not_distinct_from(row.time_stamp)
                connection.execute(update(anchors).where(*_this(row), same).values(moment))


def _this(row: Row[Any]) -> list[ColumnElement[bool]]:
    return [anchors.c.seq == row.seq, anchors.c.hash == row.hash]


def _last(connection: Connection) -> Row[Any] | None:
    return connection.execute(select(anchors).order_by(anchors.c.seq.desc()).limit(1)).first()


def anchor_of(row: Row[Any]) -> Anchor:
    """What the database remembers of an anchor."""
    time = row.time.isoformat(timespec="microseconds") if row.root is not None else None
    return Anchor(row.seq, row.hash, row.root, time, row.key, row.signature, row.time_stamp)


def head_of(connection: Connection) -> Anchor:
    """The end of the chain, as the table `event_head` has it."""
    return Anchor(*connection.execute(select(event_head.c.seq, event_head.c.hash)).one())


def read_anchors(place: str) -> list[Anchor]:
    """The anchors in the file `place`, each as its last line has it; none if there is no file.

    A line that a crash cut off is left out.
    """
    path, found = Path(place), dict[tuple[int, str], Anchor]()
    with file_errors(path):
        if not path.exists():
            return []
        lines = path.read_text(errors="replace").splitlines()
    for line in lines:
        try:
            one = Anchor.from_json(json.loads(line))
        except (ValueError, TypeError, LookupError, AttributeError):
            continue
        found[one.seq, one.hash] = one
    return list(found.values())


@contextmanager
def appending(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that adds a line of JSON to the file, and returns when it is on the disk."""
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    def append(value: dict[str, Any]) -> None:
        with file_errors(path):
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
def file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"File {path} cannot be read or written: {error.strerror}. Repair it, then retry."
        ) from error
