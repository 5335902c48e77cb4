"""Erasures: texts that tell of a person are taken out of events and tables, and the chain of hashes still holds.

The hash of an event covers its texts by digests with a salt (`events.covered`). To erase a text is to put a pseudonym
in its place and to keep its digest, but not its salt: nobody can try out names on what is left. An event `audit.erased`
says which texts of which events went, and not whose they were; what is missing without such an event was tampered with.

What was recorded before there were salts has hashes over the texts themselves: there the event `audit.erased` has the
hash of what is left, and a guess of the text can be tried against the old hash, which the chain needs.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select, update

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError, IntegrityError, UnavailableError
from mlops_ray.governance.assents import ERASED
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import DIGEST, TEXTS, Actor, Event, below, covered, hash_of_fields, read, record
from mlops_ray.governance.principals import ALL_USE_CASES, RESERVED_NAMES, folded
from mlops_ray.governance.references import digest_of
from mlops_ray.governance.tables import (
    REPORTS,
    Json,
    PlainText,
    anchors,
    delegations,
    endpoints,
    event_head,
    events,
    metadata,
    policies,
    principals,
    subscriptions,
    versions,
)

NOT_REACHED = (
    "what was sent, exported or written as evidence before",
    "backups, and the logs of PostgreSQL",
    "numbers, names of fields, roles, gates and use cases, and where the file of anchors lies",
    "data and ledger (`mlops-ray data erase`)",
)
# Fields whose words the platform goes by: nobody is named there. A key may have been called "admin" all the same, and
# to erase that must not take the role from everybody.
_GOES_BY = {
    *("columns", "definition", "gate", "gates", "gates_before", "failed_gates", "outcome", "place", "plan", "policy"),
    *("question", "role", "roles", "route", "state", "step", "tier", "window"),
    *("minimum_severity", "types", "use_case", "use_cases"),
}
# What subjects of events begin with.
_SUBJECTS = {"alarm", "audit", "delegation", "key", "ledger", "monitoring", "policy", "retraining", "subscription"}
# Random ids and moments tell of nobody, whatever they have in common with a name of digits.
_ID_OR_MOMENT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\d[T ][\d:.]+([+-][\d:]+|Z)?")
_SHORTEST = 2
_AT_ONCE = 500
Path = tuple[str, ...]


@dataclass(frozen=True)
class Erasures:
    """What events `audit.erased` say: of each event by its number, which texts are which pseudonym now; and of those
    without salts the hash of what is left."""

    texts: Mapping[int, Mapping[Path, str]] = field(default_factory=dict)
    left: Mapping[int, str] = field(default_factory=dict)

    def expected_hash(self, event: Event) -> str:
        """What the fields of an event must have as their hash."""
        return self.left.get(event.seq, event.hash) if event.salt is None else event.hash

    def problem(self, event: Event) -> str | None:
        """What was done to the texts of an event beside what was told; None if nothing."""
        told = self.texts.get(event.seq, {})
        gone = set(_erased_paths(event.salt)) if event.salt is not None else set(told)
        name = f"Event {event.seq} ({event.id})"
        if untold := gone - set(told):
            return f"{name} lacks the text {_name(min(untold))}, and no event tells that it was erased."
        if back := set(told) - gone:
            return f"{name} has the text {_name(min(back))} again, which was erased."
        for path, pseudonym in told.items():
            if _text_at(event, path) != pseudonym:
                return f"{name} was changed: {_name(path)} was erased, and is not {pseudonym}."
        return None

    def limits(self) -> tuple[str, ...]:
        if not self.left:
            return ()
        return (f"what {len(self.left)} erased events said that were recorded before texts had salts",)


@dataclass(frozen=True)
class Erased:
    """How many texts of how many events, and how many rows of tables, tell of somebody under a pseudonym now."""

    pseudonym: str
    texts: int
    events: int
    rows: int


def read_erasures(connection: Connection) -> Erasures:
    """What was erased, as the events tell. Each of them tells of earlier ones alone. Raises IntegrityError where one
    was made unreadable."""
    texts, left = dict[int, dict[Path, str]](), dict[int, str]()
    query = select(events).where(events.c.type == "audit.erased").order_by(events.c.seq)
    for event in read(connection, query):
        try:
            for one in event.payload.get("texts", ()):
                for seq in one["events"]:
                    if seq < event.seq:
                        texts.setdefault(seq, {})[tuple(one["path"])] = event.payload["pseudonym"]
            left |= {int(seq): hash for seq, hash in event.payload.get("left", {}).items() if int(seq) < event.seq}
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"Event {event.seq} ({event.id}) was changed: it does not say what was erased."
            ) from error
    return Erasures(texts, left)


def erase_person(store: ControlStore, actor: Actor, who: str, reason: str) -> Erased:
    """Put a pseudonym in place of every text, in events and tables, that is or contains a name of a person, or their id
    where it says who they are (a `sub`): with the event `audit.erased`, which names neither.

    who: a name or id. Upper and lower case are the same, and so are the ways to write a letter in Unicode; a name
    counts as a whole word, and not where the platform goes by the word, such as a role. Raises ConflictError while a
    key or a delegation of theirs counts or a subscription sends to them, ForbiddenError to who would erase themself,
    since the event of it would name them; ConfigurationError for a name that is the platform's, or where nothing tells
    of them.
    """
    with store.reading() as connection:
        names = _names(connection, who.strip())
    if {folded(actor.id), folded(actor.name)} & names:
        raise ForbiddenError("The event of it would name you. Let somebody else erase what tells of you.")
    return _erase(store, actor, _about(names), reason)


def erase_reasons(store: ControlStore, actor: Actor, seqs: Iterable[int], reason: str) -> Erased:
    """Put a pseudonym in place of the reasons of these events, wherever exactly the same text stands.

    Raises ConfigurationError if there is no such event, or none of them has a reason.
    """
    with store.reading() as connection:
        query = select(events.c.reason).where(events.c.seq.in_(list(seqs)), events.c.reason != "")
        texts = set(connection.execute(query).scalars())
    return _erase(store, actor, texts.__contains__, reason)


def _erase(store: ControlStore, actor: Actor, tells: Callable[[str], bool], reason: str) -> Erased:
    if not reason.strip():
        raise ConfigurationError("Say why, such as the number of a request: the reason goes into the audit log.")
    if tells(reason):
        raise ConfigurationError("The reason tells of the person itself. Give one that does not.")
    pseudonym = f"{ERASED}{secrets.token_hex(6)}"
    with store.reading() as connection:  # all events, which may take long, before the others have to wait
        until = connection.execute(select(event_head.c.seq)).scalar_one()
        query = select(events).order_by(events.c.seq).execution_options(yield_per=1000)
        found = [event.seq for event in read(connection, query) if any(_paths(event, tells))]
    with store.transaction() as connection:
        changed, left = dict[Path, list[int]](), dict[str, str]()
        for event in _again(connection, found, until):
            paths = list(_paths(event, tells))
            if paths:
                values = _without(event, paths, pseudonym)
                connection.execute(update(events).where(events.c.seq == event.seq).values(values))
                for path in paths:
                    changed.setdefault(path, []).append(event.seq)
                if event.salt is None:
                    left[str(event.seq)] = hash_of_fields(event.to_record() | values | {"time": event.time})
        if not changed:
            raise ConfigurationError("No event tells of that. `mlops-ray audit show` shows what they say.")
        rows = _erase_in_tables(connection, tells, pseudonym)
        texts = [{"path": list(path), "events": seqs} for path, seqs in sorted(changed.items())]
        payload = {"pseudonym": pseudonym, "texts": texts} | ({"left": left} if left else {})
        now = database_now(connection)
        record(connection, "audit.erased", actor, "audit", payload=payload, reason=reason, now=now)
    try:
        store.forget_overwritten()
    except UnavailableError as error:
        raise UnavailableError(
            f"It is erased, and stands in the database's file still, since that is in use ({error}). Stop who uses it, "
            f"and run VACUUM with sqlite3."
        ) from error
    count = sum(len(seqs) for seqs in changed.values())
    return Erased(pseudonym, count, len({seq for seqs in changed.values() for seq in seqs}), rows)


def _again(connection: Connection, seqs: Sequence[int], until: int) -> Iterator[Event]:
    """Those events, and all behind `until`."""
    for start in range(0, len(seqs), _AT_ONCE):
        yield from list(read(connection, select(events).where(events.c.seq.in_(seqs[start : start + _AT_ONCE]))))
    yield from list(read(connection, select(events).where(events.c.seq > until).order_by(events.c.seq)))


def _names(connection: Connection, who: str) -> set[str]:
    """All that tells of a person, in lower case: each of their names, and their id unless it is a random one."""
    given = folded(who)
    keys = connection.execute(select(principals)).all()
    mine = [row for row in keys if given in (folded(row.name), row.id, folded(row.person))]
    acted = connection.execute(select(events.c.actor, events.c.actor_id).distinct()).all()
    pairs = [(row.name, row.person) for row in mine]
    pairs += [(name, id) for name, id in acted if id and given in (folded(name), folded(id))]
    names = {given, *(folded(name) for name, _ in pairs), *(folded(id) for _, id in pairs if "|" in id)}
    now = database_now(connection)
    counting = next((row for row in mine if row.revoked_at is None or row.revoked_at > now), None)
    if counting is not None:
        raise ConflictError(f"Key {counting.id} of theirs counts. Revoke it first: `mlops-ray keys revoke`.")
    ids = {given, *(folded(id) for _, id in pairs)}
    goes_on = delegations.c.ended_at.is_(None), delegations.c.until > now
    for one in connection.execute(select(delegations).where(*goes_on)):
        if ids & {folded(one.giver_id), folded(one.taker_id)}:
            raise ConflictError(f"Delegation {one.id} is theirs. End it first: `mlops-ray approvals end-delegation`.")
    named = (connection.execute(select(table.c.use_case)).scalars() for table in (versions, policies, endpoints))
    taken = {name for names_of_one in named for name in names_of_one}
    if len(given) < _SHORTEST or names & {*RESERVED_NAMES, *_SUBJECTS, ALL_USE_CASES, *taken}:
        raise ConfigurationError("That is no name of a person: it is too short, or the platform's or a use case's.")
    about = _about(names)
    sent = [row for row in connection.execute(select(subscriptions)) if about(row.channel)]
    if going_on := next((row.id for row in sent if row.ended_at is None), None):
        raise ConflictError(f"Subscription {going_on} sends to them. End it first: `mlops-ray notify unsubscribe`.")
    return names | {digest_of(row.channel) for row in sent}


def _about(names: Iterable[str]) -> Callable[[str], bool]:
    """names: as `folded` has them."""
    words = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, sorted(names)))})(?!\w)")
    return lambda text: not _ID_OR_MOMENT.fullmatch(text) and words.search(folded(text)) is not None


def _paths(event: Event, tells: Callable[[str], bool]) -> Iterator[Path]:
    """Where in an event texts stand that tell of the person."""
    for name in TEXTS:
        for path, text in _leaves(getattr(event, name), (name,)):
            if tells(text):
                yield path


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """The texts below, but for those that the platform goes by."""
    if path[-1] in _GOES_BY:
        return
    if isinstance(value, str):
        yield path, value
    for name, part in _parts(value):
        yield from _leaves(part, (*path, name))


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple):
        return [(str(place), part) for place, part in enumerate(value)]
    return ()


def _without(event: Event, paths: Iterable[Path], pseudonym: str) -> dict[str, Any]:
    """The columns of an event without its texts at those paths, and with their digests in place of their salts."""
    whole = {name: getattr(event, name) for name in TEXTS}
    left, salt = whole, event.salt
    for path in paths:
        left = _replaced(left, path, pseudonym)
        salt = salt and _punctured(whole, salt, path)
    return left | {"salt": salt}


def _punctured(value: Any, salt: Any, path: Path) -> Any:
    """The salt without that of the text at `path`: those of all that is beside it on the way there, one by one."""
    if not path:
        return covered(value, salt)
    first, *rest = path
    salts = {name: below(salt, name) for name, _ in _parts(value)}
    inner = dict(_parts(value))[first]
    return salts | {first: _punctured(inner, salts[first], tuple(rest))}


def _replaced(value: Any, path: Path, text: str) -> Any:
    if not path:
        return text
    first, *rest = path
    if isinstance(value, Mapping):
        return dict(value) | {first: _replaced(value[first], tuple(rest), text)}
    return [_replaced(part, tuple(rest), text) if str(place) == first else part for place, part in enumerate(value)]


def _erased_paths(salt: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(salt, str):
        if salt.startswith(DIGEST):
            yield path
    elif isinstance(salt, Mapping):
        for name, part in salt.items():
            yield from _erased_paths(part, (*path, name))


def _text_at(event: Event, path: Path) -> Any:
    value: Any = {name: getattr(event, name) for name in TEXTS}
    for name in path:
        value = dict(_parts(value)).get(name)
    return value


def _name(path: Path) -> str:
    return ".".join(path)


def _erase_in_tables(connection: Connection, tells: Callable[[str], bool], pseudonym: str) -> int:
    """In every column of every table that is a text, or holds some, and is not by what its rows are found."""
    changed = 0
    for table in metadata.sorted_tables:
        if table in (events, event_head, anchors, *REPORTS):
            continue
        columns = [
            column for column in table.columns
            if isinstance(column.type, PlainText | Json) and not column.primary_key and column.name not in _GOES_BY
        ]  # fmt: skip
        for row in connection.execute(select(table)).mappings().all():
            values = {column.name: _erased(row[column.name], tells, pseudonym) for column in columns}
            if values := {name: value for name, value in values.items() if value != row[name]}:
                this = [column == row[column.name] for column in table.primary_key]
                connection.execute(update(table).where(*this).values(values))
                changed += 1
    return changed


def _erased(value: Any, tells: Callable[[str], bool], pseudonym: str) -> Any:
    if isinstance(value, str):
        return pseudonym if tells(value) else value
    if isinstance(value, Mapping):
        return {name: part if name in _GOES_BY else _erased(part, tells, pseudonym) for name, part in value.items()}
    return [_erased(part, tells, pseudonym) for part in value] if isinstance(value, list) else value
