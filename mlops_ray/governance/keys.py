"""Keys: made, rotated and revoked for somebody, each with an event. Only the hash of a secret is kept."""

import difflib
import hashlib
import math
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import uuid6
from sqlalchemy import Connection, Row, exists, insert, or_, select, update

from mlops_ray.config import LEAST_REQUESTS_PER_S
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore, database_now, now_within
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.principals import ALL_USE_CASES, RESERVED_NAMES, ROLES, Person, Principal, Role, folded
from mlops_ray.governance.tables import principals

_NAME_CHARACTERS = 200
_END = datetime(9999, 1, 1, tzinfo=UTC)  # in each zone it has a year


@dataclass(frozen=True)
class NewKey:
    """A key just made. The secret exists here only: nobody can read it again."""

    principal: Principal
    secret: str = field(repr=False)
    created_at: datetime


@dataclass(frozen=True)
class KeyRecord:
    """A key as listed: whose it is, and since when and until when it counts."""

    principal: Principal
    created_at: datetime
    revoked_at: datetime | None

    def shown(self) -> dict[str, Any]:
        """As JSON: all but what makes it secret."""
        moments = {
            "created_at": self.created_at,
            "expires_at": self.principal.expires_at,
            "revoked_at": self.revoked_at,
        }
        texts = {name: moment and moment.isoformat() for name, moment in moments.items()}
        return state_of(self.principal) | texts


def hash_of(secret: str) -> str:
    """What is stored of a key, and looked up for each request.

    One SHA-256 is enough: slow hashes protect what people choose, and nobody guesses 256 random bits.
    """
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def create_key(
    store: ControlStore,
    actor: Actor,
    name: str,
    roles: Iterable[str],
    use_cases: Iterable[str] = (ALL_USE_CASES,),
    expires_at: datetime | None = None,
    requests_per_s: float | None = None,
    development: bool = False,
    person: str | None = None,
) -> NewKey:
    """Make a key, with the event `key.created`.

    person: whose it is: the name or id of another key of theirs, their id, or what `person_of_subject` says of their
    tokens. None: whoever had a key of this name, else somebody new. Of names, upper and lower case are the same, and so
    are the ways to write a letter in Unicode.
    Raises ConfigurationError for an unknown role, no use case, a name that is taken by a key not revoked, a name that
    is none (empty, longer than 200 characters, with control characters, '/', '\\\\' or '..'), an end in the past, a
    rate below `LEAST_REQUESTS_PER_S`.
    The first key that is not for development ends the development principals for good: `development.ended`.
    """
    name = unicodedata.normalize("NFC", name)
    principal = Principal(
        str(uuid6.uuid7()),
        name,
        _checked_roles(roles),
        tuple(dict.fromkeys(use_cases)),
        expires_at,
        development,
        requests_per_s,
    )
    _check(principal)
    with store.transaction() as connection:
        _expect_free(connection, name)
        principal = replace(principal, person=_person(connection, principal, person))
        if not development:
            _end_development(connection, actor, name)
        return insert_key(connection, actor, principal)


def revoke_key(store: ControlStore, actor: Actor, id_or_name: str, reason: str) -> Principal:
    """Revoke a key, with the event `key.revoked`. Replicas refuse it as soon as they poll again.

    Raises ConfigurationError if there is no such key, or it was revoked before.
    """
    _expect_name("a key", id_or_name)
    with store.transaction() as connection:
        return revoke(connection, actor, _counting(connection, id_or_name), reason)


def rotate_key(store: ControlStore, actor: Actor, id_or_name: str, until: datetime, reason: str) -> NewKey:
    """Make another key of the same name, person, roles and rate; the one before counts until `until`, and no longer.

    The new key ends when the old one would have ended. Raises ConfigurationError if there is no such key, it has ended,
    was revoked or replaced before, or `until` is in the past or has no time zone.
    """
    _expect_name("a key", id_or_name)
    _expect_later("The old key's end", until)
    with store.transaction() as connection:
        row = _counting(connection, id_or_name)
        if row.revoked_at is not None:
            raise ConfigurationError(f"Key {row.name!r} ends at {row.revoked_at:%Y-%m-%d %H:%M:%S} UTC already.")
        if row.expires_at is not None and row.expires_at <= database_now(connection):
            raise ConfigurationError(
                f"Key {row.name!r} expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC, as would another in its place. "
                f"Revoke it, and make one with `mlops-ray keys create`."
            )
        if row.development:
            raise ConfigurationError(f"{row.name!r} is a development key. Make a key with `mlops-ray keys create`.")
        old = revoke(connection, actor, row, reason, until)
        return insert_key(connection, actor, replace(_principal(row), id=str(uuid6.uuid7()), person=old.person))


def list_keys(store: ControlStore, after: str = "", limit: int | None = None) -> list[KeyRecord]:
    """Every key ever made, the oldest first: those behind the id `after`, at most `limit`."""
    query = select(principals).where(principals.c.id > after).order_by(principals.c.id).limit(limit)
    with store.reading() as connection:
        rows = connection.execute(query)
        return [KeyRecord(_principal(row), row.created_at, row.revoked_at) for row in rows]


def find_key(store: ControlStore, id: str) -> KeyRecord:
    """The key with this id or name, also one that was revoked. Raises ConfigurationError if there is none."""
    with store.reading() as connection:
        row = _find(connection, id)
        return KeyRecord(_principal(row), row.created_at, row.revoked_at)


def list_persons(store: ControlStore, now: datetime) -> list[Person]:
    """Everybody who ever had a key, by what stands for them in `Principal.person`."""
    found: dict[str, list[KeyRecord]] = {}
    for key in list_keys(store):
        found.setdefault(key.principal.person or key.principal.id, []).append(key)
    return [_as_person(person, found[person], now) for person in sorted(found)]


def active_keys(store: ControlStore) -> dict[str, Principal]:
    """Principals by `hash_of` their secret: those not revoked. An expired one is among them, and may nothing."""
    with store.reading() as connection:
        return read_active_keys(connection)


_anybodys = principals.alias()
_KEYS = select(principals, exists().where(~_anybodys.c.development).label("development_ended"))


def read_active_keys(connection: Connection) -> dict[str, Principal]:
    """As `active_keys`, in one statement: replicas read them by the thousand whenever anything has changed."""
    counts = or_(principals.c.revoked_at.is_(None), principals.c.revoked_at > now_within(connection))
    rows = connection.execute(_KEYS.where(counts)).all()
    return {row.key_hash: _until_revoked(row) for row in rows if not (row.development and row.development_ended)}


def has_administrator(store: ControlStore) -> bool:
    """Whether somebody's key may administer the platform now."""
    now = datetime.now(UTC)
    return any(one.may("admin", None, now) and not one.development for one in active_keys(store).values())


def development_ended(connection: Connection) -> bool:
    """Whether a key was ever made for somebody: then nobody is a development principal again.

    Keys are never deleted, so it stays so when that key is revoked.
    """
    return connection.execute(select(principals.c.id).where(~principals.c.development)).first() is not None


def _expect_free(connection: Connection, name: str) -> None:
    active = connection.execute(select(principals.c.name).where(principals.c.revoked_at.is_(None))).scalars()
    taken = next((one for one in active if folded(one) == folded(name)), None)
    if taken is not None:
        raise ConfigurationError(f"Key {taken!r} exists already. Take another name, or revoke that key first.")


def insert_key(connection: Connection, actor: Actor, principal: Principal) -> NewKey:
    secret = f"mlr_{secrets.token_urlsafe(32)}"
    now = database_now(connection)
    # The hash says nothing of the secret, and who exchanges it in the table would have the key's roles.
    state = state_of(principal) | {"key_hash": hash_of(secret)}
    connection.execute(insert(principals).values(state | {"created_at": now}))
    record(connection, "key.created", actor, _subject(principal.name), after=state, now=now)
    return NewKey(principal, secret, now)


def revoke(
    connection: Connection, actor: Actor, row: Row[Any], reason: str, until: datetime | None = None
) -> Principal:
    """until: a moment to come, None for now."""
    now, principal = database_now(connection), _principal(row)
    revoked_at = until or now
    connection.execute(update(principals).where(principals.c.id == row.id).values(revoked_at=revoked_at))
    state = state_of(principal)
    record(
        connection,
        "key.revoked",
        actor,
        _subject(principal.name),
        before=state | {"revoked_at": row.revoked_at},
        after=state | {"revoked_at": revoked_at},
        reason=reason,
        now=now,
    )
    return principal


def _end_development(connection: Connection, actor: Actor, name: str) -> None:
    active = principals.c.revoked_at.is_(None) & principals.c.development
    rows = connection.execute(select(principals).where(active)).all()
    for row in rows:
        revoke(connection, actor, row, f"{_subject(name)} is the first for somebody")
    if rows:
        ended = [row.name for row in rows]
        record(connection, "development.ended", actor, "development principals", before=ended, after=[])


def _person(connection: Connection, principal: Principal, given: str | None) -> str:
    """Whose a new key is."""
    if principal.development:
        return principal.name
    query = select(principals).where(~principals.c.development).order_by(principals.c.id)
    rows = connection.execute(query).all()
    of_this_name = [row for row in rows if folded(row.name) == folded(principal.name)]
    if given is None:
        return of_this_name[-1].person if of_this_name and of_this_name[-1].person else principal.id
    person, now = person_named(connection, given), database_now(connection)
    if any(row.person != person and row.revoked_at and row.revoked_at > now for row in of_this_name):
        raise ConfigurationError(f"Key {principal.name!r} of another person counts still. Take another name.")
    return person


def person_named(connection: Connection, given: str) -> str:
    """The id of the person with this id, or with a key of this name or id. Raises ConfigurationError if there is none;
    of tokens ('issuer|sub') somebody may have no key yet."""
    rows = connection.execute(select(principals).where(~principals.c.development).order_by(principals.c.id)).all()
    named = [row.person or row.id for row in rows if given in (row.id, row.person) or folded(given) == folded(row.name)]
    if not named and "|" not in given:
        raise ConfigurationError(
            f"There is no person {given[:64]!r}: name a key of theirs (`mlops-ray keys list` shows all), or else "
            f"'issuer|sub' of their tokens."
        )
    return named[-1] if named else given


def _counting(connection: Connection, id_or_name: str) -> Row[Any]:
    """The key that `_find` finds. Raises ConfigurationError if it was revoked."""
    row = _find(connection, id_or_name)
    if row.revoked_at is not None and row.revoked_at <= database_now(connection):
        raise ConfigurationError(f"Key {row.name!r} was revoked at {row.revoked_at:%Y-%m-%d %H:%M:%S} UTC already.")
    return row


def _until_revoked(row: Row[Any]) -> Principal:
    """With the end that was set when it was replaced, so that who knows it from before refuses it in time."""
    principal = _principal(row)
    ends = [end for end in (principal.expires_at, row.revoked_at) if end is not None]
    return replace(principal, expires_at=min(ends, default=None))


def _as_person(person: str, keys: Sequence[KeyRecord], now: datetime) -> Person:
    count = [key.principal for key in keys if key.revoked_at is None or key.revoked_at > now]
    may = {role for one in count if one.expires_at is None or one.expires_at > now for role in one.roles}
    names = tuple(dict.fromkeys(key.principal.name for key in keys))
    return Person(person, names, tuple(key.principal.id for key in keys), tuple(r for r in ROLES if r in may))


def _subject(name: str) -> str:
    return f"key {name}"


def _find(connection: Connection, id_or_name: str) -> Row[Any]:
    """The key with this id, else the one with this name that counts, else the last one that did."""
    written = (id_or_name, unicodedata.normalize("NFC", id_or_name))
    query = select(principals).where(or_(principals.c.id == id_or_name, principals.c.name.in_(written)))
    rows = connection.execute(query).all()
    if not rows:
        names = connection.execute(select(principals.c.name).where(principals.c.revoked_at.is_(None))).scalars().all()
        near = difflib.get_close_matches(id_or_name, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "`mlops-ray keys list` shows all."
        raise ConfigurationError(f"There is no key {id_or_name!r}. {hint}")
    return max(rows, key=lambda row: (row.id == id_or_name, row.revoked_at is None, row.created_at))


def _principal(row: Row[Any]) -> Principal:
    return Principal(
        row.id,
        row.name,
        tuple(row.roles),
        tuple(row.use_cases) or (ALL_USE_CASES,),  # as keys for all were written once
        row.expires_at,
        row.development,
        row.requests_per_s,
        row.person,
    )


def state_of(principal: Principal) -> dict[str, Any]:
    """What is stored of a key, but for what makes it secret."""
    return {name: value for name, value in asdict(principal).items() if name != "granted"}


def _checked_roles(roles: Iterable[str]) -> tuple[Role, ...]:
    given = set(roles)
    unknown = sorted(given - set(ROLES))
    if unknown or not given:
        problem = f"Role {unknown[0]!r} is unknown" if unknown else "A key needs a role"
        raise ConfigurationError(f"{problem}. Roles: {', '.join(ROLES)}.")
    return tuple(role for role in ROLES if role in given)


def _check(principal: Principal) -> None:
    _expect_name("a key", principal.name)
    if folded(principal.name) in RESERVED_NAMES and not principal.development:
        raise ConfigurationError(f"The name {principal.name!r} is the platform's own. Take another.")
    if not principal.use_cases:
        raise ConfigurationError(f"A key needs a use case, or {ALL_USE_CASES!r} for every one.")
    for use_case in principal.use_cases:
        _expect_name("a use case", use_case)
    if principal.expires_at is not None:
        _expect_later("The key's end", principal.expires_at)
    rate = principal.requests_per_s
    if rate is not None and not (math.isfinite(rate) and rate >= LEAST_REQUESTS_PER_S):
        raise ConfigurationError(
            f"The key's rate of {rate} requests/s must be from {LEAST_REQUESTS_PER_S:.5f} (about one a day) on. "
            f"Leave it out for no limit."
        )


def _expect_later(what: str, moment: datetime) -> None:
    if moment.tzinfo is None:
        raise ConfigurationError(f"{what} {moment} has no time zone. Add Z for UTC.")
    if moment <= datetime.now(UTC):
        raise ConfigurationError(f"{what} {moment} is in the past. Give a later moment.")
    if moment >= _END:
        raise ConfigurationError(f"{what} {moment} is later than is kept. Give a moment before {_END:%Y-%m-%d}.")


def _expect_name(what: str, name: str) -> None:
    """Names go into logs, paths and terminals, so they hold only what can be printed."""
    shown = name if len(name) <= 40 else f"{name[:40]}…"
    if not name or name != name.strip() or len(name) > _NAME_CHARACTERS:
        problem = f"it must have 1 to {_NAME_CHARACTERS} characters, none of them a space at either end"
    elif not name.isprintable():
        problem = "it holds characters that cannot be printed"
    elif any(part in name for part in ("/", "\\", "..")):
        problem = "it holds '/', '\\' or '..'"
    else:
        return
    raise ConfigurationError(f"{shown!r} is no name for {what}: {problem}.")
