"""Notifications: each event reaches whoever asked for it, at least once, in order, and never a private address."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, text, update
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, ForbiddenError, MlopsRayError, UnavailableError
from mlops_ray.governance import address_guard, channels
from mlops_ray.governance.address_guard import problem_with, public_addresses_only
from mlops_ray.governance.anchors import read_anchors
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.channels import Channels, cloud_event, hidden, new_secret, signature
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.dispatcher import ANCHOR_EVERY, LEASE_NAME, Dispatcher
from mlops_ray.governance.events import EVENT_TYPES, Actor, Event, read_events, record
from mlops_ray.governance.leases import hold, release
from mlops_ray.governance.notifications import (
    KEPT,
    LONGEST_PAUSE,
    deliver_once,
    forget_delivered,
    list_subscriptions,
    pause,
    pause_after,
    resume,
    send_test,
    subscribe,
    unsubscribe,
    waiting,
)
from mlops_ray.governance.tables import events, leases, outbox, subscriptions

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ANN = Actor("ann", ("admin",))
HOOK = "https://hooks.example.org/x"
HERE = Channels(("127.0.0.1", "localhost"))


def happen(store: ControlStore, type: str, subject: str, now: datetime = NOW, **more: Any) -> Event:
    with store.transaction() as connection:
        return record(connection, type, ANN, subject, now=now, **more)


@dataclass
class Receiver:
    """Takes events unless it is down, or one of these subjects is refused."""

    down: bool = False
    refused: set[str] = field(default_factory=set)
    taken: list[tuple[str, Event]] = field(default_factory=list)

    def __call__(self, channel: str, secret: str, event: Event) -> None:
        if self.down or event.subject in self.refused:
            raise UnavailableError(f"{channel} is down")
        self.taken.append((channel, event))

    def seqs(self, subject: str) -> list[int]:
        return [event.seq for _, event in self.taken if event.subject == subject]


@pytest.fixture
def hook(store: ControlStore) -> str:
    """One subscription to everything, its own beginning already delivered."""
    made = subscribe(store, ANN, Channels(), HOOK)
    forget_all(store)
    return made.subscription.id


def forget_all(store: ControlStore) -> None:
    with store.transaction() as connection:
        connection.execute(delete(outbox))


def drain(store: ControlStore, receiver: Receiver, now: datetime = NOW) -> None:
    while deliver_once(store, now, receiver).delivered:
        pass


# Who is told of what


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({}, True),
        ({"use_case": "flights"}, True),
        ({"use_case": "trains"}, False),
        ({"types": ["alarm.raised", "alarm.resolved"]}, True),
        ({"types": ["alarm.resolved"]}, False),
        ({"minimum_severity": "warning"}, True),
        ({"minimum_severity": "critical"}, False),
        ({"use_case": "flights", "types": ["alarm.raised"], "minimum_severity": "warning"}, True),
    ],
)
def test_a_subscription_gets_what_it_asked_for(store: ControlStore, wanted: Any, told: bool) -> None:
    subscribe(store, ANN, Channels(), HOOK, **wanted)
    receiver = Receiver()
    happen(store, "alarm.raised", "flights@1", use_case="flights")
    drain(store, receiver, NOW + timedelta(days=1000))
    assert bool(receiver.seqs("flights@1")) is told


def test_an_event_and_its_notification_are_written_together_or_not_at_all(store: ControlStore, hook: str) -> None:
    def fail() -> None:
        with store.transaction() as connection:
            record(connection, "alarm.raised", ANN, "x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert waiting(store) == []


def test_who_ends_a_subscription_gets_nothing_more(store: ControlStore, hook: str) -> None:
    happen(store, "alarm.raised", "x")
    unsubscribe(store, ANN, hook)
    happen(store, "alarm.raised", "x")
    receiver = Receiver()
    drain(store, receiver)
    assert (receiver.taken, waiting(store), list_subscriptions(store)) == ([], [], [])
    with pytest.raises(ConfigurationError, match="no subscription"):
        unsubscribe(store, ANN, hook)
    audit = [event for event in read_events(store, types=["policy.changed"]) if event.subject.endswith(hook)]
    assert [event.after is None for event in audit] == [False, True]
    assert "hooks.example.org/x" not in json.dumps([event.to_json() for event in audit])


def test_what_a_paused_subscription_wants_waits_and_is_sent_in_order_afterwards(
    store: ControlStore, hook: str, tmp_path: Path
) -> None:
    receiver, settings = Receiver(), Settings(state=str(tmp_path), data=str(tmp_path))
    happen(store, "alarm.raised", "x")
    paused = pause(store, ANN, hook, "holidays")
    assert pause(store, ANN, hook, "again") == paused
    happen(store, "alarm.resolved", "x")
    drain(store, receiver, NOW + timedelta(days=1))
    assert receiver.taken == []
    resume(store, ANN, hook, "back")
    resume(store, ANN, hook, "back")
    happen(store, "alarm.raised", "x")
    drain(store, receiver, NOW + timedelta(days=1))
    assert receiver.seqs("x") == [event.seq for event in read_events(store, subject="x")]
    told = read_events(store, types=["policy.changed"])[-2:]
    assert [(event.reason, bool(event.after["paused_at"])) for event in told] == [("holidays", True), ("back", False)]
    assert verify_store(store, settings).ok
    with store.transaction() as connection:
        connection.execute(update(subscriptions).values(paused_at=NOW))
    assert "paused_at is '2026" in str(verify_store(store, settings).problem)


@pytest.mark.parametrize("id", ["", "no such", "\0", "x" * 10_000, "'; DROP TABLE events; --", "\ud800"])
def test_an_id_that_is_none_is_refused(store: ControlStore, id: str) -> None:
    with pytest.raises(ConfigurationError, match="no subscription"):
        unsubscribe(store, ANN, id)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"types": ["alarm"]}, ConfigurationError, "'alarm' is unknown"),
        ({"minimum_severity": "loud"}, ConfigurationError, "'loud' is unknown"),
        ({"use_case": "../x"}, ConfigurationError, "no name of a use case"),
        ({"channel": "http://example.org"}, ConfigurationError, "not encrypted"),
        ({"channel": "https://"}, ConfigurationError, "no host"),
        ({"channel": "https://[::1"}, ConfigurationError, "no URL"),
        ({"channel": "https://x:port"}, ConfigurationError, "no URL"),
        ({"channel": "nothing://x"}, ConfigurationError, "neither https:// nor a URL that Apprise knows"),
        ({"channel": "hello"}, ConfigurationError, "neither"),
        ({"channel": "https://x/\n"}, ConfigurationError, "can be printed"),
        ({"channel": "https://x/" + "x" * 3000}, ConfigurationError, "at most 2,000"),
        ({"channel": "https://127.0.0.1/"}, ForbiddenError, "webhook_allowed_hosts"),
        ({"channel": "https://169.254.169.254/latest"}, ForbiddenError, "metadata"),
        ({"channel": "https://[::ffff:10.0.0.1]/"}, ForbiddenError, "private"),
    ],
)
def test_a_wrong_subscription_is_refused(store: ControlStore, wrong: Any, error: type, message: str) -> None:
    given = {"channel": HOOK} | wrong
    with pytest.raises(error, match=message):
        subscribe(store, ANN, Channels(), **given)
    assert read_events(store) == []


# Delivery


def test_each_event_is_delivered_once_and_in_order_if_nothing_goes_wrong(store: ControlStore, hook: str) -> None:
    written = [happen(store, "alarm.raised", f"s{number % 3}") for number in range(12)]
    receiver = Receiver()
    drain(store, receiver)
    assert sorted(event.seq for _, event in receiver.taken) == [event.seq for event in written]
    for subject in ("s0", "s1", "s2"):
        assert receiver.seqs(subject) == sorted(receiver.seqs(subject))
    assert waiting(store) == []


def test_what_is_not_taken_holds_up_its_own_subject_and_subscription_only(store: ControlStore, hook: str) -> None:
    other = subscribe(store, ANN, Channels(), "https://other.example.org/").subscription
    forget_all(store)
    for subject in ("good", "bad", "good", "bad"):
        happen(store, "alarm.raised", subject)
    bad = Receiver(refused={"bad"})

    def send(channel: str, secret: str, event: Event) -> None:
        if channel == HOOK:
            return bad(channel, secret, event)
        return all_good(channel, secret, event)

    all_good = Receiver()
    for _ in range(8):
        deliver_once(store, NOW + timedelta(seconds=5), send)
    assert (bad.seqs("good"), bad.seqs("bad")) == (all_good.seqs("good"), [])
    assert len(all_good.seqs("bad")) == 2
    (held,) = waiting(store)
    assert (held.subscription, held.events, "is down" in held.error) == (hook, 2, True)
    assert other.id != hook


def test_pauses_double_up_to_five_minutes() -> None:
    assert [pause_after(n) / SECOND for n in range(1, 11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert pause_after(10_000) == LONGEST_PAUSE


def test_a_receiver_that_is_down_is_asked_less_and_less_often(store: ControlStore, hook: str) -> None:
    happen(store, "alarm.raised", "x")
    receiver = Receiver(down=True)
    asked = [second for second in range(600) if deliver_once(store, NOW + second * SECOND, receiver).failed]
    assert asked == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511]


class Killed(BaseException):
    """The process ends here."""


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.sets(st.integers(0, 40), max_size=12), down_s=st.integers(0, 600), seed=st.integers(0, 9))
def test_ten_minutes_down_and_killed_at_will_loses_nothing_and_keeps_the_order(
    store: ControlStore, kills: set[int], down_s: int, seed: int
) -> None:
    """In simulated time: dispatchers come and go, and each may die right after an event was taken."""
    with store.transaction() as connection:
        connection.execute(delete(subscriptions))
    subscribe(store, ANN, Channels(), HOOK)
    forget_all(store)
    first = happen(store, "alarm.raised", "s0").seq
    for number in range(1, 10):
        happen(store, "alarm.raised", f"s{(number + seed) % 3}")
    receiver, sent = Receiver(), 0

    def send(channel: str, secret: str, event: Event) -> None:
        nonlocal sent
        receiver(channel, secret, event)
        sent += 1
        if sent in kills:
            raise Killed

    now = NOW
    while waiting(store):
        receiver.down = now < NOW + down_s * SECOND
        try:
            done = deliver_once(store, now, send)
        except Killed:
            continue  # the next dispatcher begins with what is written
        now += SECOND if done.delivered else 20 * SECOND
        assert now < NOW + timedelta(hours=1)
    for subject in ("s0", "s1", "s2"):
        taken = receiver.seqs(subject)
        assert list(dict.fromkeys(taken)) == sorted(set(taken))
    every = {event.seq for _, event in receiver.taken if event.seq >= first}
    assert every == set(range(first, first + 10))
    ids: dict[int, set[str]] = {}
    for _, event in receiver.taken:
        ids.setdefault(event.seq, set()).add(event.id)
    assert all(len(found) == 1 for found in ids.values())


def test_what_was_delivered_long_ago_is_forgotten(store: ControlStore, hook: str) -> None:
    happen(store, "alarm.raised", "x")
    drain(store, Receiver())
    happen(store, "alarm.raised", "y")
    for now, left in ((NOW + KEPT, 2), (NOW + KEPT + SECOND, 1)):
        forget_delivered(store, now)
        with store.reading() as connection:
            assert connection.execute(select(func.count()).select_from(outbox)).scalar() == left


UNREADABLE = {"roles": "{", "time": "yesterday"}


@pytest.mark.parametrize("column", UNREADABLE)
def test_an_event_that_cannot_be_read_is_set_aside_and_later_ones_pass(
    store: ControlStore, hook: str, column: str
) -> None:
    first, second = (happen(store, "alarm.raised", "x") for _ in range(2))
    with store.transaction() as connection:
        broken = text(f"UPDATE events SET {column} = :value WHERE seq = :seq")
        connection.execute(broken, {"value": UNREADABLE[column], "seq": first.seq})
    receiver = Receiver()
    drain(store, receiver)
    drain(store, receiver)
    assert receiver.seqs("x") == [second.seq]
    (said,) = read_events(store, second.seq)
    assert (said.type, said.severity, said.payload) == ("notification.set_aside", "critical", {"event": first.seq})
    assert receiver.taken[-1][1].id == said.id
    assert waiting(store) == []


# The dispatcher


def test_one_dispatcher_works_and_another_goes_on_when_it_has_died(store: ControlStore) -> None:
    minute = timedelta(minutes=1)

    def passes(time: timedelta) -> None:
        with store.reporting() as connection:
            (until,) = connection.execute(select(leases.c.until)).scalars()
            connection.execute(update(leases).values(until=until - time))

    assert not hold(store, "x", "a", minute)
    passes(minute * 0.9)
    assert hold(store, "x", "b", minute)
    assert not hold(store, "x", "a", minute)  # renewed
    passes(minute * 0.9)
    assert hold(store, "x", "b", minute)
    passes(minute * 0.2)
    assert not hold(store, "x", "b", minute)
    assert hold(store, "x", "a", minute)
    release(store, "x", "a")
    assert hold(store, "x", "a", minute)
    release(store, "x", "b")
    assert not hold(store, "x", "a", minute)


@pytest.fixture
def config(store: ControlStore, tmp_path: Path) -> Settings:
    return load_settings(
        state=str(tmp_path), data=str(tmp_path), control_store=store.url, audit_anchors=f"{tmp_path}/far/anchors.jsonl"
    )


def test_the_dispatcher_delivers_and_anchors_at_an_interval(store: ControlStore, hook: str, config: Settings) -> None:
    receiver, start = Receiver(), datetime.now(UTC)
    worker, idle = Dispatcher(store, config, receiver), Dispatcher(store, config, receiver)
    happen(store, "alarm.raised", "x", now=start)
    first = worker.round(start)
    assert first
    assert first.delivered == 2  # the alarm, and that the log's end was written elsewhere
    assert idle.round(start) is None
    assert len(read_anchors(config.audit_anchors)) == 1
    happen(store, "alarm.raised", "x", now=start)
    worker.round(start + ANCHOR_EVERY - SECOND)
    assert len(read_anchors(config.audit_anchors)) == 1
    worker.round(start + ANCHOR_EVERY)
    anchored = read_anchors(config.audit_anchors)
    assert (len(anchored), anchored[-1].seq) == (2, read_events(store)[-1].seq)


@pytest.mark.parametrize("wrong", [timedelta(minutes=10), timedelta(minutes=-10)])
def test_a_node_whose_clock_is_wrong_changes_nothing(
    store: ControlStore, hook: str, config: Settings, wrong: timedelta
) -> None:
    """Neither who works nor when something is sent."""
    now, receiver = datetime.now(UTC), Receiver()
    ours, other = Dispatcher(store, config, receiver), Dispatcher(store, config, receiver)
    happen(store, "alarm.raised", "x", now=now + wrong)
    assert ours.round(now)
    assert other.round(now + wrong) is None
    assert len(receiver.seqs("x")) == 1
    with store.reporting(write=False) as connection:
        until = connection.execute(select(leases.c.until).where(leases.c.name == LEASE_NAME)).scalar_one()
    assert timedelta() < until - now < timedelta(minutes=2)


def test_anchors_that_cannot_be_written_do_not_stop_delivery(
    store: ControlStore, hook: str, config: Settings, tmp_path: Path
) -> None:
    (tmp_path / "far").touch()
    receiver = Receiver()
    happen(store, "alarm.raised", "x")
    Dispatcher(store, config, receiver).round(NOW)
    assert len(receiver.seqs("x")) == 1


def test_a_dispatcher_in_a_thread_gives_its_lease_back(store: ControlStore, hook: str, config: Settings) -> None:
    delivered = threading.Event()
    dispatcher = Dispatcher(store, config, lambda *_: delivered.set())
    happen(store, "alarm.raised", "x")
    dispatcher.start()
    assert delivered.wait(10)
    dispatcher.stop()
    for thread in threading.enumerate():
        if thread.name == "dispatcher":
            thread.join(10)
    assert Dispatcher(store, config, Receiver()).round(datetime.now(UTC)) is not None


def test_who_loses_the_lease_at_work_delivers_nothing(
    store: ControlStore, hook: str, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_one, other = Receiver(), Receiver()
    slow, quick = Dispatcher(store, config, slow_one), Dispatcher(store, config, other)
    happen(store, "alarm.raised", "x")
    now = datetime.now(UTC)

    def last_longer_than_the_lease(*_: object) -> None:
        with store.reporting() as connection:
            connection.execute(update(leases).values(until=now - SECOND))
        monkeypatch.undo()
        assert quick.round(now)

    monkeypatch.setattr("mlops_ray.governance.dispatcher.expire", last_longer_than_the_lease)
    assert slow.round(now) is None
    assert (len(slow_one.taken), bool(other.taken)) == (0, True)


def test_what_may_last_longer_than_the_lease_comes_after_what_is_delivered(
    store: ControlStore, hook: str, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, delivered = Receiver(), []
    monkeypatch.setattr("mlops_ray.governance.dispatcher.check", lambda *_: delivered.append(len(receiver.taken)))
    happen(store, "alarm.raised", "x")
    Dispatcher(store, config, receiver).round(datetime.now(UTC))
    assert delivered == [len(receiver.taken)] != [0]


def test_no_failure_of_one_duty_keeps_the_others_from_being_done(
    store: ControlStore, hook: str, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OverflowError("date value out of range")

    for duty in ("expire", "follow_up", "announce_overdue", "check", "forget_delivered"):
        monkeypatch.setattr(f"mlops_ray.governance.dispatcher.{duty}", fail)
    happen(store, "alarm.raised", "x")
    done = Dispatcher(store, config, Receiver()).round(datetime.now(UTC))
    assert done
    assert done.delivered == 2


def test_the_page_lists_every_type_of_event() -> None:
    page = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    assert rows == [(name, one.severity, one.description) for name, one in EVENT_TYPES.items()]


# Channels


class Server(ThreadingHTTPServer):
    """Remembers what it was sent, and answers with `status`."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 204
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((self.path, headers, self.rfile.read(int(headers["content-length"]))))
        self.send_response(self.server.status)
        self.send_header("location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def test_a_receiver_that_is_gone_ends_its_subscription_and_holds_up_nobody(
    store: ControlStore, hook: str, server: Server
) -> None:
    gone = subscribe(store, ANN, HERE, f"http://127.0.0.1:{server.server_port}/secret").subscription
    forget_all(store)
    server.status, receiver = 410, Receiver()

    def send(channel: str, secret: str, event: Event) -> None:
        (receiver if channel == HOOK else HERE.send)(channel, secret, event)

    written = [happen(store, "alarm.raised", "x").seq for _ in range(3)]
    for _ in range(5):
        deliver_once(store, NOW + timedelta(days=1), send)
    assert receiver.seqs("x") == written
    assert len(server.received) == 1
    assert [one.id for one in list_subscriptions(store)] == [hook]
    (said,) = read_events(store, types=["subscription.ended"])
    assert (said.subject, "410" in said.reason) == (f"subscription {gone.id}", True)
    assert "/secret" not in json.dumps(said.to_json())
    assert waiting(store) == []


@pytest.fixture
def event(store: ControlStore) -> Event:
    return happen(store, "alarm.raised", "flights@1", use_case="flights", reason="PSI 0.3 is above 0.2")


def test_a_webhook_is_a_signed_cloud_event(server: Server, event: Event) -> None:
    secret = new_secret()
    HERE.send(f"http://127.0.0.1:{server.server_port}/hook", secret, event)
    ((path, headers, body),) = server.received
    assert (path, headers["content-type"]) == ("/hook", "application/cloudevents+json")
    sent = json.loads(body)
    assert {name: sent[name] for name in ("specversion", "id", "source", "type", "subject", "time")} == {
        "specversion": "1.0",
        "id": event.id,
        "source": "/use_cases/flights",
        "type": "mlops_ray.alarm.raised",
        "subject": "flights@1",
        "time": "2026-03-01T12:00:00.000000+00:00",
    }
    assert sent["data"]["reason"] == event.reason
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"
    assert headers["webhook-id"] == event.id


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of their specification's reference implementations."""
    found = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("status", [301, 302, 307, 400, 410, 500])
def test_only_2xx_is_taken_and_no_redirect_followed(server: Server, event: Event, status: int) -> None:
    server.status = status
    with pytest.raises(UnavailableError, match=f"answered {status}"):
        HERE.send(f"http://127.0.0.1:{server.server_port}/", new_secret(), event)
    assert [path for path, _, _ in server.received] == ["/"]


@pytest.mark.parametrize(
    ("limit", "channel"),
    [
        ("TIMEOUT_S", "http://127.0.0.1:{port}/"),
        ("MESSAGE_WITHIN_S", "json://127.0.0.1:{port}/?rto=86400"),
        ("MESSAGE_WITHIN_S", "mailto://u:p@127.0.0.1:{port}?from=a@example.org&to=b@example.org&cto=86400"),
    ],
)
def test_a_receiver_that_drips_is_left_after_the_time(
    event: Event, monkeypatch: pytest.MonkeyPatch, limit: str, channel: str
) -> None:
    """However long the channel itself says that it may take."""
    monkeypatch.setattr(channels, limit, 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220-here\r\n" if channel.startswith("mailto") else b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.1):
                    try:
                        connection.sendall(b"220-x: y\r\n")
                    except OSError:
                        return

        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(UnavailableError, match=r"within 0\.5 s"):
            HERE.send(channel.format(port=listener.getsockname()[1]), new_secret(), event)
        stop.set()


def test_nobody_there_is_said_without_the_secrets_in_the_url(event: Event) -> None:
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1/… does not answer") as error:
        HERE.send("http://127.0.0.1:1/secret?token=secret", new_secret(), event)
    assert "secret" not in str(error.value)
    assert hidden("slack://tokenA/tokenB/tokenC") == "slack://…"


def test_apprise_sends_to_people(server: Server, event: Event) -> None:
    HERE.send(f"json://localhost:{server.server_port}/team", "", event)
    ((path, _, body),) = server.received
    sent = json.loads(body)
    assert (path, sent["title"], sent["type"]) == ("/team", "[warning] alarm.raised: flights@1", "warning")
    assert "PSI 0.3 is above 0.2" in sent["message"]
    assert event.id in sent["message"]
    server.status = 500
    with pytest.raises(UnavailableError, match="did not take"):
        HERE.send(f"json://localhost:{server.server_port}/team", "", event)


@pytest.fixture(params=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest) -> Iterator[None]:
    """Event loops of Python, or those that Ray's workers install, whose sockets Python does not see."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy() if request.param == "uvloop" else None)
    yield
    asyncio.set_event_loop_policy(before)


HOSTILE = [
    "localhost", "127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0.0.0.0", "[::]", "[::1]",
    "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[::127.0.0.1]", "169.254.169.254", "0251.0376.0251.0376",
    "metadata.example.org", "you@127.0.0.1",
]  # fmt: skip


def resolve(monkeypatch: pytest.MonkeyPatch, name: str, *addresses: str) -> None:
    """From now on a name leads to one address after another, and stays at the last."""
    real, left = socket.getaddrinfo, list(addresses)

    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        if host in (name, name.encode()):
            host = left.pop(0) if len(left) > 1 else left[0]
        return real(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("host", HOSTILE)
def test_a_hostile_address_is_refused_however_it_is_written(
    server: Server, event: Event, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    resolve(monkeypatch, "metadata.example.org", "169.254.169.254")
    for scheme in ("https", "jsons", "gotifys"):
        channel = f"{scheme}://{host}:{server.server_port}/abcdefghijklmno"
        for do in (lambda it: Channels().check(it), lambda it: Channels().send(it, new_secret(), event)):
            with pytest.raises((ForbiddenError, ConfigurationError)):
                do(channel)
    assert server.received == []


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("scheme", ["https", "jsons"])
def test_a_name_that_resolves_to_a_private_address_is_refused_where_it_connects(
    server: Server, event: Event, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A name that was public when it was checked: what counts is where the socket goes."""
    resolve(monkeypatch, "hooks.example.org", "8.8.8.8", "8.8.8.8", "127.0.0.1")
    channel = f"{scheme}://hooks.example.org:{server.server_port}/x"
    Channels().check(channel)
    with pytest.raises(ForbiddenError, match=r"127\.0\.0\.1 is a private, local or metadata address"):
        Channels().send(channel, new_secret(), event)
    assert server.received == []


@pytest.mark.parametrize("host", [host for host in HOSTILE if "@" not in host and "metadata" not in host])
def test_datagrams_go_to_no_hostile_address(event: Event, host: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.05)
        with pytest.raises((ForbiddenError, ConfigurationError)):
            Channels().send(f"rsyslog://{host}:{receiver.getsockname()[1]}", "", event)
        with pytest.raises(TimeoutError):
            receiver.recv(1)


def test_datagrams_go_to_a_host_that_the_settings_name_and_to_no_other(event: Event) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        HERE.send(f"rsyslog://localhost:{receiver.getsockname()[1]}", "", event)
        assert event.id.encode() in receiver.recv(4000)
    with pytest.raises(ForbiddenError), public_addresses_only(["127.0.0.1"]):
        socket.create_connection(("127.0.0.2", 80))
    with pytest.raises(ForbiddenError), public_addresses_only(), socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("localhost", 514))


@pytest.mark.parametrize("scheme", ["json", "xml", "form", "http", "HTTP", "rsyslog", "mailto"])
def test_what_is_not_encrypted_is_refused(scheme: str) -> None:
    with pytest.raises(ConfigurationError, match="not encrypted"):
        Channels().check(f"{scheme}://you:password@example.org")


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        ("mailtos://you:password@example.org?mode=insecure", "not encrypted. Leave out mode=insecure"),
        ("mailtos://you:password@example.org?smtp=mail.example.org&mode=INSECURE", "not encrypted"),
        ("mailtos://you:password@example.org?verify=no", "does not check whom it reaches. Leave out verify=no"),
        ("jsons://example.org/x?verify=no", "does not check whom"),
        ("slack://TokenA/TokenB/TokenC?verify=no", "does not check whom"),
    ],
)
def test_what_a_channel_says_against_encryption_is_refused(channel: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as error:
        Channels(("example.com",)).check(channel)
    assert "password" not in str(error.value)


def test_a_mail_server_that_the_settings_name_may_be_one_without_encryption() -> None:
    channel = "mailtos://you:password@example.org?smtp=localhost&mode=insecure"
    Channels(("localhost",)).check(channel)
    with pytest.raises(ConfigurationError, match="not encrypted"):
        Channels(("example.org",)).check(channel)


def test_a_channel_of_nothing_but_a_scheme_is_named_by_it() -> None:
    with pytest.raises(ConfigurationError, match="The channel nosuch://… is neither"):
        Channels().check("nosuch://")


def test_mail_goes_to_no_private_server_that_the_channel_names_beside_its_host(server: Server, event: Event) -> None:
    channel = f"mailtos://you:password@example.org:{server.server_port}?smtp=127.0.0.1"
    for channels_ in (Channels(), Channels(("example.org",))):
        with pytest.raises(ForbiddenError, match=r"127\.0\.0\.1"):
            channels_.send(channel, "", event)


def test_what_shows_itself_on_the_senders_machine_is_refused(event: Event) -> None:
    with pytest.raises(ForbiddenError, match="localhost"):
        Channels().send("syslog://", "", event)


def test_channels_and_secrets_by_reference_are_read_when_something_is_sent(
    store: ControlStore, server: Server, event: Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, path = new_secret(), tmp_path / "secret"
    url = f"http://127.0.0.1:{server.server_port}/canary"
    made = subscribe(store, ANN, HERE, "env:OPS_HOOK", secret=f"file:{path}")
    assert made.subscription.shown()["channel"] == "env:OPS_HOOK"
    with pytest.raises(ConfigurationError, match="env:OPS_HOOK cannot be read by who needs it"):
        send_test(store, ANN, HERE, made.subscription.id)
    monkeypatch.setenv("OPS_HOOK", url)
    path.write_text(f"{secret}\n")
    sent = send_test(store, ANN, HERE, made.subscription.id)
    ((_, headers, body),) = server.received
    moment = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    assert headers["webhook-signature"] == signature(secret, sent.id, moment, body)["webhook-signature"]
    with store.reading() as connection:
        stored = str([list(connection.execute(select(table))) for table in (subscriptions, events)])
    assert "canary" not in stored
    assert secret not in stored
    monkeypatch.setenv("OPS_HOOK", "https://169.254.169.254/")
    with pytest.raises(ForbiddenError):
        send_test(store, ANN, HERE, made.subscription.id)
    path.write_text("guess")
    monkeypatch.setenv("OPS_HOOK", url)
    with pytest.raises(ConfigurationError, match="whsec_"):
        send_test(store, ANN, HERE, made.subscription.id)


@pytest.mark.parametrize("channel", ["env:", "env:A B", "env:../x", "file:", "file:relative", "file:/x\n"])
def test_a_reference_that_is_none_is_refused(store: ControlStore, channel: str) -> None:
    with pytest.raises(ConfigurationError):
        subscribe(store, ANN, Channels(), channel)
    with pytest.raises(ConfigurationError):
        subscribe(store, ANN, Channels(), HOOK, secret=channel or "text")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
        "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00:ec2::254", "fc00::1",
        "::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "ff02::1",
        "fec0::1", "64:ff9b:1::a00:1", "::ffff:0:127.0.0.1", "5f00::1", "3fff::1", "100:0:0:1::1",
    ],
)  # fmt: skip
def test_private_local_and_metadata_addresses_are_refused(address: str) -> None:
    assert problem_with(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "hooks.example.org"])
def test_public_addresses_and_names_are_not(address: str) -> None:
    assert problem_with(address) is None


def test_the_guard_holds_for_its_thread_while_it_is_on(server: Server) -> None:
    where = ("127.0.0.1", server.server_port)
    with pytest.raises(ForbiddenError), public_addresses_only():
        socket.create_connection(where)
    with pytest.raises(ForbiddenError), public_addresses_only(), socket.socket(socket.AF_UNIX) as local:
        local.connect("/var/run/docker.sock")
    with pytest.raises(ForbiddenError), public_addresses_only(), socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"x", where)
    with public_addresses_only():
        thread = threading.Thread(target=lambda: socket.create_connection(where).close())
        thread.start()
        thread.join()
    socket.create_connection(where).close()
    assert not address_guard._guard.active


# The command line


def test_the_command_line_subscribes_lists_tests_and_ends(store: ControlStore, tmp_path: Path, server: Server) -> None:
    settings_file = tmp_path / "settings.yaml"
    settings_file.write_text(f"data: {tmp_path}\nwebhook_allowed_hosts: [127.0.0.1]\n")

    def command(*arguments: str) -> str:
        where = ["--state", str(tmp_path), "--config", str(settings_file)]
        done = CliRunner().invoke(app, ["notify", *arguments, *where], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    made = command(
        "subscribe", f"http://127.0.0.1:{server.server_port}/x", "--use-case", "flights", "--type", "alarm.raised",
        "--severity", "warning",
    )  # fmt: skip
    id = made.splitlines()[0]
    assert "whsec_" in made
    happen(store, "alarm.raised", "flights@1", use_case="flights")
    listed = command("list")
    assert "alarm.raised  from warning  1 waiting since 2026-03-01 12:00:00Z" in listed
    assert "whsec_" not in listed
    assert json.loads(command("test", id))["taken"] is True
    assert json.loads(server.received[0][2])["type"] == "mlops_ray.notification.test"
    assert "is ended" in command("unsubscribe", id)
    assert "Nobody is told of anything yet" in command("list")


def test_a_test_that_is_not_taken_says_why(store: ControlStore, server: Server) -> None:
    made = subscribe(store, ANN, HERE, f"http://127.0.0.1:{server.server_port}/x")
    server.status = 503
    with pytest.raises(MlopsRayError, match="answered 503"):
        send_test(store, ANN, HERE, made.subscription.id)
    with store.reading() as connection:
        assert connection.execute(select(func.count()).select_from(events)).scalar() == 1


def test_a_cloud_event_of_the_platform_has_a_source(store: ControlStore) -> None:
    assert cloud_event(happen(store, "key.created", "key ci"))["source"] == "/platform"
