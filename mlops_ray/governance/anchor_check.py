"""Are the anchors what they were? Those that the database remembers, those in the file and those at the second place
are compared with each other, with the events that they are of, and with their signatures and time stamps."""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Connection, Row, select

from mlops_ray.config import Settings
from mlops_ray.errors import IntegrityError, UnavailableError
from mlops_ray.governance.anchors import Anchor, anchor_of, read_anchors
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import GENESIS, Event
from mlops_ray.governance.merkle import Tree
from mlops_ray.governance.patience import within
from mlops_ray.governance.second_place import SecondPlace
from mlops_ray.governance.signing_keys import holds, public_keys, signer_of
from mlops_ray.governance.stored import rows_of
from mlops_ray.governance.tables import anchors
from mlops_ray.governance.time_stamps import root_certificates, stamped_at

PATIENCE_S = 300.0
"""How long the second place may take to give all that it has."""
Place = Mapping[tuple[int, str], Anchor]


@dataclass(frozen=True)
class Outside:
    """What lies outside the database. second: None if it cannot be read, or there is none; `limits` says why.

    promised: what the database remembered before these were read, so each of them must be where it was brought.
    """

    promised: Sequence[Row[Any]]
    file: Place
    second: Place | None
    limits: tuple[str, ...] = ()

    def anchors(self) -> list[Anchor]:
        return [*self.file.values(), *(self.second or {}).values()]


def read_outside(store: ControlStore, settings: Settings) -> Outside:
    """Raises UnavailableError if the file cannot be read; a second place that cannot is one of the limits."""
    with store.reading() as connection:
        promised = remembered(connection)
    file = _by_event(read_anchors(settings.audit_anchors))
    if not settings.audit_second_place:
        nobody = "an exchange of all events, anchors and the file by who can write to them: there is no second place"
        return Outside(promised, file, None, (f"{nobody} (audit_second_place)",))
    place = SecondPlace(settings.audit_second_place)
    try:
        there = within(PATIENCE_S, f"The second place {place}", place.read)
    except UnavailableError as error:
        return Outside(promised, file, None, (f"what is missing at the second place, which was not read: {error}",))
    return Outside(promised, file, _by_event(map(Anchor.from_json, there)))


def remembered(connection: Connection) -> list[Row[Any]]:
    """The anchors that the database remembers. Raises IntegrityError as `stored.rows_of`."""
    for _ in rows_of(connection, anchors):
        pass
    return list(connection.execute(select(anchors).order_by(anchors.c.seq, anchors.c.hash)))


@dataclass
class Seen:
    """What is remembered of the events while they are read: of those that were anchored, and the end."""

    anchored: set[int]
    last_hash: str = GENESIS
    tree: Tree = field(default_factory=Tree)
    trees: dict[int, Tree] = field(default_factory=dict)
    said: dict[int, Event] = field(default_factory=dict)

    def watch(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            yield event  # first, as who takes it finds out whether its hash is one
            self.tree, self.last_hash = self.tree.with_hash(event.hash), event.hash
            if event.seq in self.anchored:
                self.trees[event.seq] = self.tree
            if event.type == "audit.anchored":
                self.said[event.seq] = event


def difference(settings: Settings, outside: Outside, rows: Sequence[Row[Any]], seen: Seen) -> str | None:
    """The first anchor that is not what it was, None if each is; once the chain itself is known to be intact."""
    file, second = f"File {settings.audit_anchors}", f"The second place {SecondPlace(settings.audit_second_place)}"
    here = [row for row in outside.promised if row.place == settings.audit_anchors and row.written_at is not None]
    there = [row for row in outside.promised if row.second_at is not None]
    known = {(row.seq, row.hash): anchor_of(row) for row in rows}
    checks: list[Callable[[], Iterator[str]]] = [
        lambda: _as_events_say(rows, seen),
        lambda: _lost(file, outside.file, here),
        lambda: _others(file, outside.file, known),
        lambda: _lost(second, outside.second, there) if outside.second is not None else iter(()),
        lambda: _others(second, outside.second or {}, known),
        lambda: _roots([*known.values(), *outside.anchors()], seen),
        lambda: _subtrees(rows, seen),
        lambda: _signatures(settings, [*known.values(), *outside.anchors()]),
        lambda: _time_stamps(settings, [*known.values(), *outside.anchors()]),
    ]
    return next((problem for check in checks for problem in check()), None)


def limits(settings: Settings, rows: Sequence[Row[Any]], last: int) -> Iterator[str]:
    """What nothing outside speaks against, as the settings are."""
    yield f"a cut, or events that were computed anew, behind event {last}, the last one that is anchored"
    if not _keys(settings):
        yield "anchors that somebody else wrote: no key is known by which they are signed (audit_public_key)"
    if unsigned := [row.seq for row in rows if row.key is None]:
        yield f"other anchors in place of {len(unsigned)} that are not signed, the last of event {unsigned[-1]}"
    if settings.audit_second_place:
        waiting = [row for row in rows if row.second_at is None and row.root is not None]
        if waiting:
            since = f"{waiting[0].time:%Y-%m-%d %H:%M:%S} UTC"
            yield f"a cut behind what the second place has: {len(waiting)} anchors are not there yet, since {since}"
    if not settings.audit_time_stamp_url:
        yield "anchors that were signed later than they say: none is stamped (audit_time_stamp_url)"
    elif not settings.audit_time_stamp_roots:
        yield "time stamps by anybody: it is not said whose are trusted (audit_time_stamp_roots)"
    yield "an edit of when file and second place got an anchor"


def _by_event(found: Iterable[Anchor]) -> Place:
    return {(one.seq, one.hash): one for one in found}


def _as_events_say(rows: Sequence[Row[Any]], seen: Seen) -> Iterator[str]:
    """An anchor is its event's number, hash, time and place. Of older events the row may be missing."""
    lacking = {seq for seq, event in seen.said.items() if event.salt is not None}
    for row in rows:
        event = seen.said.get(row.seq)
        if event is None:
            yield f"Table anchors, row {row.seq}: no event tells of it."
            continue
        lacking.discard(row.seq)
        told = {"time": event.time, "place": event.payload.get("place"), "key": event.payload.get("key")}
        for name, value in told.items():
            if getattr(row, name) != value:
                yield f"Table anchors, row {row.seq}: {name} is {getattr(row, name)}, and the events say {value}."
        if event.salt is not None and row.root is None:
            yield f"Table anchors, row {row.seq}: root is missing."
    for seq in sorted(lacking):
        yield f"Table anchors, row {seq}: it is missing, and the events tell of it."


def _lost(where: str, there: Place, promised: Iterable[Row[Any]]) -> Iterator[str]:
    lost = [row.seq for row in promised if (row.seq, row.hash) not in there]
    if lost:
        yield f"{where} lacks {len(lost)} anchors that were written there, the last of event {max(lost)}."
    for row in promised:
        stamped = (row.seq, row.hash) in there and there[row.seq, row.hash].time_stamp is not None
        if row.time_stamp is not None and not stamped:
            yield f"{where} lacks the time stamp of the anchor of event {row.seq}, which was written there."


def _others(where: str, there: Place, known: Place) -> Iterator[str]:
    for key, one in there.items():
        if key not in known:
            if one.root is not None:
                yield f"{where} has an anchor of event {one.seq}, and the database remembers none."
            continue
        ours = known[key]
        for part in fields(Anchor):
            mine, theirs = getattr(ours, part.name), getattr(one, part.name)
            if mine != theirs and not (part.name == "time_stamp" and theirs is None):
                yield f"{where} has another {part.name} of the anchor of event {one.seq} than the database."


def _roots(found: Iterable[Anchor], seen: Seen) -> Iterator[str]:
    for one in found:
        if one.root is not None and one.root != seen.trees[one.seq].root:
            yield f"The anchor of event {one.seq} has another Merkle root than the events up to there."


def _subtrees(rows: Iterable[Row[Any]], seen: Seen) -> Iterator[str]:
    for row in rows:
        if row.root is not None and row.subtrees != list(seen.trees[row.seq].subtrees):
            yield f"Table anchors, row {row.seq}: subtrees are not those of the events up to there."


def _keys(settings: Settings) -> Mapping[str, Any]:
    if settings.audit_public_key:
        return public_keys("audit_public_key", settings.audit_public_key)
    return signer_of("audit_key", settings.audit_key).public() if settings.audit_key else {}


def _signatures(settings: Settings, found: Sequence[Anchor]) -> Iterator[str]:
    keys = _keys(settings)
    for one in found:
        if (one.key is None) != (one.signature is None):
            yield f"The anchor of event {one.seq} names a key without a signature, or has one by nobody."
        elif one.key and keys and one.key not in keys:
            yield (
                f"The anchor of event {one.seq} is signed by the key {one.key}, which is not in audit_public_key. Add "
                f"it if it is one of yours."
            )
        elif one.key and keys and not holds(keys[one.key], one.message, one.signature or ""):
            yield f"The signature of the anchor of event {one.seq} does not hold."
    last = max(found, key=lambda one: one.seq, default=None)
    if settings.audit_public_key and last is not None and last.key is None:
        yield (
            f"The last anchor, of event {last.seq}, is not signed, although anchors are. Anchor again where audit_key "
            f"is set, and find out who wrote that one."
        )


def _time_stamps(settings: Settings, found: Iterable[Anchor]) -> Iterator[str]:
    file = settings.audit_time_stamp_roots
    roots = root_certificates(file) if file else []
    for one in {(one.message, one.time_stamp): one for one in found if one.time_stamp is not None}.values():
        try:
            stamped_at(base64.b64decode(one.time_stamp or "", validate=True), one.message, roots)
        except (IntegrityError, binascii.Error) as error:
            yield f"The time stamp of the anchor of event {one.seq} does not hold: {error}"
