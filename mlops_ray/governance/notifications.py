"""Notifications: who is told of what, and the delivery of what waits in the outbox.

`events.record` puts an event into the outbox for each subscription that wants it, in the transaction of the change
itself. From there it is sent until it was taken: at least once, in order for each subscription and subject. An event
that is not taken holds up what is behind it about the same subject and nothing else; one that cannot be read is set
aside, and a receiver that says it is gone is told nothing more.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import uuid6
from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update

from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.channels import (
    Channels,
    GoneError,
    hidden,
    is_reference,
    is_webhook,
    new_secret,
)
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import EVENT_TYPES, SEVERITIES, SYSTEM, Actor, Event, Severity, read, record
from mlops_ray.governance.references import digest_of
from mlops_ray.governance.tables import events, outbox, subscriptions
from mlops_ray.governance.versions import expect_name

FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=5)
KEPT = timedelta(days=30)
# What a pass may take: then the lease is renewed, and what became due meanwhile is seen.
PASS_S = 20.0
_EVENTS_A_PASS = 50  # of each subscription
_AT_ONCE = 8
_ID = re.compile("[0-9a-f-]{36}")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subscription:
    """What goes to `channel`: events of `use_case` (None: all), of `types` (none: all), as severe as that or more.

    paused_at: since when what it wants waits until it is resumed; None while it is sent.
    """

    id: str
    use_case: str | None
    types: tuple[str, ...]
    minimum_severity: Severity
    channel: str
    created_at: datetime
    created_by: str
    paused_at: datetime | None = None

    def shown(self) -> dict[str, Any]:
        """As JSON, without the secrets in the channel."""
        paused_at = self.paused_at and self.paused_at.isoformat()
        moments = {"created_at": self.created_at.isoformat(), "paused_at": paused_at}
        return asdict(self) | {"channel": hidden(self.channel)} | moments


@dataclass(frozen=True)
class NewSubscription:
    """secret: what a webhook's receiver checks signatures with; "" for other channels. It is shown once.

    A reference, where one was given: what it stands for is never stored.
    """

    subscription: Subscription
    secret: str


@dataclass(frozen=True)
class Waiting:
    """What a subscription was not sent yet: how many events, since when, and what went wrong ("" if nothing)."""

    subscription: str
    events: int
    oldest: datetime
    error: str


@dataclass(frozen=True)
class Undelivered:
    """What waits for subscriptions that are not paused, an event once for each. oldest: when the first of them was."""

    events: int
    oldest: datetime | None


@dataclass(frozen=True)
class Delivered:
    """What one pass did."""

    delivered: int = 0
    failed: int = 0


Send = Callable[[str, str, Event], None]


def subscribe(
    store: ControlStore,
    actor: Actor,
    channels: Channels,
    channel: str,
    use_case: str | None = None,
    types: Iterable[str] = (),
    minimum_severity: str = "info",
    secret: str = "",
) -> NewSubscription:
    """Send events to `channel` from now on: an https URL, or one that Apprise knows.

    Channel and secret may be references, `env:NAME` or `file:/path`, which are read each time when an event is sent. A
    webhook without a secret gets a new one. Raises ConfigurationError for an unknown type, severity or channel,
    ForbiddenError for an address that nothing may be sent to.
    """
    wanted = tuple(dict.fromkeys(types))
    for given, known, what in ((wanted, EVENT_TYPES, "Event type"), ((minimum_severity,), SEVERITIES, "Severity")):
        for name in given:
            if name not in known:
                raise ConfigurationError(f"{what} {name!r} is unknown. Known: {', '.join(known)}.")
    if use_case is not None:
        expect_name(use_case)
    channels.check(channel)
    if secret:
        if not is_reference(secret):
            raise ConfigurationError("A secret is given as env:NAME or file:/path, not as text.")
        channels.check(secret)
    elif is_webhook(channel) or is_reference(channel):
        secret = new_secret()
    severity = next(severity for severity in SEVERITIES if severity == minimum_severity)
    now = datetime.now(UTC)
    made = Subscription(str(uuid6.uuid7()), use_case, wanted, severity, channel, now, actor.name)
    with store.transaction() as connection:
        connection.execute(insert(subscriptions).values(asdict(made) | {"secret": secret}))
        digests = {"channel_sha256": digest_of(channel), "secret_sha256": digest_of(secret)}
        _record(connection, actor, made, None, made.shown() | digests)
    return NewSubscription(made, secret)


def unsubscribe(store: ControlStore, actor: Actor, id: str, reason: str = "") -> Subscription:
    """End a subscription; what still waited for it is dropped. Raises ConfigurationError if there is none."""
    with store.transaction() as connection:
        found = _subscription(_expect(connection, id))
        _end(connection, id)
        _record(connection, actor, found, found.shown(), None, reason)
    return found


def end_without_channel(store: ControlStore, actor: Actor) -> tuple[str, ...]:
    """End the subscriptions whose channel a backup has left out, and return their ids."""
    ended = tuple(one.id for one in list_subscriptions(store) if not one.channel)
    for id in ended:
        unsubscribe(store, actor, id, "Its channel or secret was not in the backup. Subscribe anew.")
    return ended


def pause(store: ControlStore, actor: Actor, id: str, reason: str) -> Subscription:
    """Let what a subscription wants wait from now on: nothing is lost. One that is paused already stays as it is.

    Raises ConfigurationError if there is none.
    """
    return _set_paused(store, actor, id, datetime.now(UTC), reason)


def resume(store: ControlStore, actor: Actor, id: str, reason: str) -> Subscription:
    """Send what waits for a subscription, and what comes. Raises ConfigurationError if there is none."""
    return _set_paused(store, actor, id, None, reason)


def list_subscriptions(store: ControlStore, after: str = "", limit: int | None = None) -> list[Subscription]:
    """Those that count, the oldest first: those behind the id `after`, at most `limit`."""
    query = select(subscriptions).where(subscriptions.c.ended_at.is_(None), subscriptions.c.id > after)
    with store.reading() as connection:
        rows = connection.execute(query.order_by(subscriptions.c.id).limit(limit))
        return [_subscription(row) for row in rows]


def find_subscription(store: ControlStore, id: str) -> Subscription:
    """The subscription with this id. Raises ConfigurationError if there is none, or it was ended."""
    with store.reading() as connection:
        return _subscription(_expect(connection, id))


def waiting(store: ControlStore) -> list[Waiting]:
    """For each subscription what is not delivered yet."""
    query = (
        select(outbox.c.subscription, outbox.c.error, events.c.time)
        .join(events, events.c.seq == outbox.c.event_seq)
        .where(outbox.c.delivered_at.is_(None))
        .order_by(outbox.c.subscription, outbox.c.event_seq)
    )
    with store.reading() as connection:
        rows = connection.execute(query).all()
    found = []
    for subscription, group in groupby(rows, key=lambda row: row.subscription):
        of_one = list(group)
        error = next((row.error for row in of_one if row.error), "")
        found.append(Waiting(str(subscription), len(of_one), of_one[0].time, error))
    return found


def undelivered(store: ControlStore) -> Undelivered:
    """As `waiting`, of all subscriptions that are not paused together, however much waits."""
    paused = select(subscriptions.c.id).where(subscriptions.c.paused_at.is_not(None))
    query = (
        select(func.count(), func.min(events.c.time))
        .select_from(outbox.join(events, events.c.seq == outbox.c.event_seq))
        .where(outbox.c.delivered_at.is_(None), outbox.c.subscription.not_in(paused))
    )
    with store.reading() as connection:
        return Undelivered(*connection.execute(query).one())


def send_test(store: ControlStore, actor: Actor, channels: Channels, id: str) -> Event:
    """Send an event that never happened to a subscription's channel, now. Raises what `Channels.send` raises."""
    with store.reading() as connection:
        row = _expect(connection, id)
    made = Event(
        0, str(uuid6.uuid7()), datetime.now(UTC), "notification.test", "info", actor.name, actor.id or None,
        actor.roles, row.use_case, f"subscription {id}", "a test of this channel", None, None, {}, "", "",
    )  # fmt: skip
    channels.send(row.channel, row.secret, made)
    return made


def deliver_once(store: ControlStore, now: datetime, send: Send) -> Delivered:
    """Send what is due at `now`: of each subscription and subject the first event that was not taken yet.

    send: given channel, secret and event; an exception means that the event was not taken. It is tried again after a
    pause that doubles each time. Who dies between sending and writing that down sends it again, with the same id.
    Subscriptions are served at once, at most 8. One that fails is left until the next pass.
    """
    due = _due(store, now)
    groups = [list(group) for _, group in groupby(due, key=lambda row: row.subscription)]
    if not groups:
        return Delivered()
    deadline_s = time.monotonic() + PASS_S
    with ThreadPoolExecutor(min(_AT_ONCE, len(groups)), thread_name_prefix="notify") as pool:
        done = list(pool.map(lambda group: _deliver(store, now, send, group, deadline_s), groups))
    return Delivered(sum(one.delivered for one in done), sum(one.failed for one in done))


def pause_after(attempts: int) -> timedelta:
    """How long to wait after so many failures: 1 s, 2 s, 4 s, and so on to 5 minutes."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(attempts - 1, 20)))


def forget_delivered(store: ControlStore, now: datetime) -> None:
    """Drop from the outbox what was delivered more than `KEPT` ago."""
    with store.transaction() as connection:
        connection.execute(delete(outbox).where(outbox.c.delivered_at < now - KEPT))


def _due(store: ControlStore, now: datetime) -> list[Row[Any]]:
    """The heads of all queues that may be tried now, by subscription.

    What was never tried is due whatever its time says: that is of the clock of the node where it happened.
    """
    earlier = outbox.alias("earlier")
    blocked = (
        select(earlier.c.event_seq)
        .where(
            earlier.c.subscription == outbox.c.subscription,
            earlier.c.subject == outbox.c.subject,
            earlier.c.delivered_at.is_(None),
            earlier.c.event_seq < outbox.c.event_seq,
        )
        .exists()
    )
    place = func.row_number().over(partition_by=outbox.c.subscription, order_by=outbox.c.event_seq)
    heads = (
        select(outbox.c.event_seq, outbox.c.attempts, outbox.c.subscription, place.label("place"))
        .where(outbox.c.delivered_at.is_(None), (outbox.c.next_at <= now) | (outbox.c.attempts == 0), ~blocked)
        .subquery()
    )
    query = (
        select(heads, subscriptions.c.channel, subscriptions.c.secret)
        .join(subscriptions, subscriptions.c.id == heads.c.subscription)
        .where(heads.c.place <= _EVENTS_A_PASS, subscriptions.c.paused_at.is_(None))
        .order_by(heads.c.subscription, heads.c.event_seq)
    )
    with store.reading() as connection:
        return list(connection.execute(query))


def _deliver(store: ControlStore, now: datetime, send: Send, rows: Sequence[Row[Any]], deadline_s: float) -> Delivered:
    """One after another, until one fails or the time is over."""
    delivered = 0
    for row in rows:
        if time.monotonic() > deadline_s:
            break
        try:
            with store.reading() as connection:
                event = next(read(connection, select(events).where(events.c.seq == row.event_seq)), None)
        except IntegrityError:
            event = None
        if event is None:
            _set_aside(store, row, now)
            continue
        try:
            send(row.channel, row.secret, event)
        except GoneError as error:
            _end_gone(store, row.subscription, str(error))
            return Delivered(delivered, 1)
        except Exception as error:
            attempts = row.attempts + 1
            said = f"{type(error).__name__}: {error}"[:500]
            _mark(store, row, {"attempts": attempts, "next_at": now + pause_after(attempts), "error": said})
            return Delivered(delivered, 1)
        _mark(store, row, {"attempts": row.attempts + 1, "delivered_at": now, "error": ""})
        delivered += 1
    return Delivered(delivered)


def _set_aside(store: ControlStore, row: Row[Any], now: datetime) -> None:
    """Let what is behind an event that cannot be read pass it. The row stays as long as one that was delivered."""
    said = f"event {row.event_seq} cannot be read; `mlops-ray audit verify` says what is wrong with it"
    this = (outbox.c.event_seq == row.event_seq) & (outbox.c.subscription == row.subscription)
    with store.transaction() as connection:
        connection.execute(update(outbox).where(this).values(delivered_at=now, error=said))
        subject = f"subscription {row.subscription}"
        record(connection, "notification.set_aside", SYSTEM, subject, reason=said, payload={"event": row.event_seq})
    _logger.error("Subscription %s was not sent an event: %s", row.subscription, said)


def _end_gone(store: ControlStore, id: str, reason: str) -> None:
    with store.transaction() as connection:
        row = connection.execute(select(subscriptions).where(_counts(id))).first()
        if row is None:  # somebody ended it meanwhile
            return
        found = _subscription(row)
        _end(connection, id)
        subject = f"subscription {id}"
        record(connection, "subscription.ended", SYSTEM, subject, found.use_case, before=found.shown(), reason=reason)
    _logger.warning("Subscription %s is ended: %s", id, reason)


def _end(connection: Connection, id: str) -> None:
    connection.execute(update(subscriptions).where(subscriptions.c.id == id).values(ended_at=database_now(connection)))
    connection.execute(delete(outbox).where(outbox.c.subscription == id, outbox.c.delivered_at.is_(None)))


def _counts(id: str) -> ColumnElement[bool]:
    return (subscriptions.c.id == id) & subscriptions.c.ended_at.is_(None)


def _mark(store: ControlStore, row: Row[Any], values: Mapping[str, Any]) -> None:
    this = (outbox.c.event_seq == row.event_seq) & (outbox.c.subscription == row.subscription)
    with store.transaction() as connection:
        connection.execute(update(outbox).where(this).values(dict(values)))


def _set_paused(store: ControlStore, actor: Actor, id: str, paused_at: datetime | None, reason: str) -> Subscription:
    with store.transaction() as connection:
        before = _subscription(_expect(connection, id))
        if (before.paused_at is None) == (paused_at is None):
            return before
        after = replace(before, paused_at=paused_at)
        connection.execute(update(subscriptions).where(subscriptions.c.id == id).values(paused_at=paused_at))
        _record(connection, actor, after, before.shown(), after.shown(), reason)
    return after


def _record(
    connection: Connection, actor: Actor, made: Subscription, before: Any, after: Any, reason: str = ""
) -> None:
    subject = f"subscription {made.id}"
    record(connection, "policy.changed", actor, subject, made.use_case, before=before, after=after, reason=reason)


def _expect(connection: Connection, id: str) -> Row[Any]:
    row = None
    if _ID.fullmatch(id):
        row = connection.execute(select(subscriptions).where(_counts(id))).first()
    if row is None:
        shown = id if len(id) <= 40 else f"{id[:40]}…"
        raise ConfigurationError(f"There is no subscription {shown!r}. `mlops-ray notify list` shows all.")
    return row


def _subscription(row: Row[Any]) -> Subscription:
    return Subscription(
        row.id, row.use_case, tuple(row.types), row.minimum_severity, row.channel, row.created_at, row.created_by,
        row.paused_at,
    )  # fmt: skip
