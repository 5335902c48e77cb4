"""Governance on SQLite and on PostgreSQL: one winner, all or nothing, and every event told to whoever asked for it."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import func, select

from mlops_ray.config import load_settings
from mlops_ray.governance import control_store as control_store_module
from mlops_ray.governance.approvals import (
    Policy,
    approve,
    expire,
    list_approvals,
    reject,
    request,
    revoke,
    set_policy,
)
from mlops_ray.governance.audit import anchor, verify_store
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.dispatcher import Dispatcher
from mlops_ray.governance.events import EVENT_TYPES, SYSTEM, Actor, Event, read_events, record
from mlops_ray.governance.live import (
    Plan,
    Step,
    VersionRef,
    advance,
    break_glass,
    live,
    promote,
    record_load_failure,
    roll_back,
    set_champion,
    start_rollout,
)
from mlops_ray.governance.notifications import deliver_once, list_subscriptions, subscribe, waiting
from mlops_ray.governance.principals import create_key, list_keys, revoke_key
from mlops_ray.governance.tables import events, outbox
from mlops_ray.governance.versions import Evidence, record_version
from tests.integration import control_store_processes as processes
from tests.integration.test_control_store import CONTEXT, run_together, running
from tests.unit.test_notifications import Server

ANN, BOB, EVE = Actor("ann", ("operate",)), Actor("bob", ("approve",)), Actor("eve", ("operate",))
OLD, NEW = VersionRef(1, "a" * 64), VersionRef(2, "b" * 64)
PLAN = Plan((Step("canary", 0.5, 60),))
HOOK = "https://hooks.example.org/"


@pytest.fixture
def server_of_hooks() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def begin_rollout(store: ControlStore, use_case: str = "flights") -> None:
    set_champion(store, ANN, use_case, OLD, "first")
    state = start_rollout(store, ANN, use_case, NEW, PLAN)
    assert state.rollout
    advance(store, ANN, use_case, state.rollout, "loaded")


def test_of_sixteen_promotions_at_once_one_wins_and_the_others_name_it(store: ControlStore, tmp_path: Path) -> None:
    begin_rollout(store)
    run_together(16, processes.promote_at_once, lambda number: (store, number, tmp_path))
    answers = Counter((tmp_path / str(number)).read_text() for number in range(16))
    lost = "flights was changed meanwhile: its champion is 2, and no rollout runs."
    assert answers == {"won": 1, lost: 15}
    state = live(store, "flights")
    assert (state.champion, state.previous, state.rollout, state.revision) == (NEW, OLD, None, 4)
    assert len(read_events(store, types=["rollout.promoted"])) == 1
    assert verify_store(store, str(tmp_path / "anchors")).ok


def test_of_sixteen_approvals_at_once_one_counts(store: ControlStore, tmp_path: Path) -> None:
    record_version(store, ANN, "flights", 1, Evidence(OLD.digest, "e"))
    request(store, ANN, "flights", 1)
    run_together(16, processes.approve_at_once, lambda number: (store, number, tmp_path))
    answers = [(tmp_path / str(number)).read_text() for number in range(16)]
    winner = list_approvals(store)[0].decided_by
    assert answers[int(str(winner).split()[-1])] == "won"
    assert sum(f"approved by {winner} already" in answer for answer in answers) == 15


def test_a_promotion_killed_at_any_write_is_all_there_or_not_at_all(store: ControlStore, tmp_path: Path) -> None:
    subscribe(store, ANN, Channels(), HOOK, types=["rollout.promoted"])
    begin_rollout(store, "counted")
    ours, theirs = CONTEXT.Pipe()
    with running(processes.promote_and_die, store, "counted", 0, "before", theirs):
        assert ours.poll(60)
        statements = ours.recv()
    assert statements > 8
    for at in range(1, statements + 1):
        for when in ("before", "after"):
            use_case = f"flights{at}{when}"
            begin_rollout(store, use_case)
            with running(processes.promote_and_die, store, use_case, at, when, theirs) as process:
                process.join(60)
                assert process.exitcode == -9
            committed = (at, when) == (statements, "after")
            assert what_was_done(store, use_case) == (committed, committed, committed)
            if not committed:  # and whoever comes next can do it
                rollout = live(store, use_case).rollout
                assert rollout
                promote(store, ANN, use_case, rollout, "again")
                assert what_was_done(store, use_case) == (True, True, True)
    assert verify_store(store, str(tmp_path / "anchors")).ok


def what_was_done(store: ControlStore, use_case: str) -> tuple[bool, bool, bool]:
    """State, audit record, outbox row."""
    state = live(store, use_case)
    assert (state.rollout is None) == (state.champion == NEW)
    promoted = read_events(store, use_case=use_case, types=["rollout.promoted"])
    with store.reading() as connection:
        query = select(func.count()).select_from(outbox.join(events)).where(events.c.use_case == use_case)
        announced = connection.execute(query).scalar()
    return state.champion == NEW, len(promoted) == 1, announced == 1


def test_a_killed_dispatcher_loses_nothing_and_repeats_with_the_same_id(store: ControlStore) -> None:
    subscribe(store, ANN, Channels(), HOOK, types=["champion.set"])
    for subject in ("a", "b", "a", "b", "a"):
        with store.transaction() as connection:
            record(connection, "champion.set", SYSTEM, subject)
    ours, theirs = CONTEXT.Pipe()
    with running(processes.deliver_until_killed, store, theirs):
        assert ours.poll(60)
        taken_before = ours.recv()
    taken: list[Event] = []
    while deliver_once(store, datetime.now(UTC), lambda channel, secret, event: taken.append(event)).delivered:
        pass
    written = read_events(store, types=["champion.set"])
    assert sorted(event.seq for event in taken) == [event.seq for event in written]
    assert taken_before in [event.seq for event in taken]
    for subject in ("a", "b"):
        assert [e for e in taken if e.subject == subject] == [e for e in written if e.subject == subject]
    assert waiting(store) == []


def test_only_heads_of_queues_are_due_and_no_subscription_crowds_out_another(store: ControlStore) -> None:
    for number in range(2):
        subscribe(store, ANN, Channels(), f"{HOOK}{number}", types=["champion.set"])
    for subject in range(120):
        with store.transaction() as connection:
            record(connection, "champion.set", SYSTEM, f"s{subject % 60}")

    def send(channel: str, secret: str, event: Event) -> None:
        if channel.endswith("0"):
            raise RuntimeError("down")

    done = deliver_once(store, datetime.now(UTC), send)
    assert (done.delivered, done.failed) == (50, 1)
    assert {one.events for one in waiting(store)} == {120, 70}


def test_a_database_of_the_first_schema_is_brought_up_to_date(url: str) -> None:
    store = ControlStore(url)
    if url.startswith("sqlite"):
        store._make_folder()
    with store._engine.connect() as plain:
        connection = plain.execution_options(mode="write")
        with connection.begin():
            config = Config()
            config.set_main_option("script_location", str(Path(control_store_module.__file__).parent / "migrations"))
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
    store.migrate()
    begin_rollout(store)
    assert list_subscriptions(store) == []
    store.close()


# Every type of event


class Fired:
    """Does what makes an event of each type, as it happens in practice, and says what state proves it."""

    def __init__(self, store: ControlStore, place: str):
        self.store, self.place = store, place

    def everything(self) -> None:
        self._keys()
        self._versions()
        self._approvals()
        self._rollouts()
        self._others()

    def _keys(self) -> None:
        create_key(self.store, ANN, "ci", ["predict"])
        assert [key.revoked_at for key in list_keys(self.store)] == [None]
        revoke_key(self.store, ANN, "ci", "test")
        assert list_keys(self.store)[0].revoked_at is not None

    def _versions(self) -> None:
        class Gate:
            blocks, value, limit, sentence = False, 1.0, 2.0, "measured"

            def __init__(self, passed: bool):
                self.passed, self.name = passed, f"gate {passed}"

        set_policy(self.store, ANN, "flights", Policy(required=True))
        for ref in (OLD, NEW, VersionRef(3, "c" * 64), VersionRef(4, "d" * 64)):
            evidence = Evidence(ref.digest, "e")
            made = record_version(self.store, ANN, "flights", ref.version, evidence, [Gate(True), Gate(False)])
            assert made.failed_gates == ()

    def _approvals(self) -> None:
        for number in (1, 2, 3, 4):
            request(self.store, ANN, "flights", number)
        approve(self.store, BOB, "flights", 1)
        approve(self.store, BOB, "flights", 2)
        reject(self.store, BOB, "flights", 3, "no")
        assert len(expire(self.store, datetime.now(UTC) + timedelta(days=31))) == 3
        for number in (1, 2):
            request(self.store, ANN, "flights", number)
            approve(self.store, BOB, "flights", number)
        states = {one.version: one.state for one in reversed(list_approvals(self.store))}
        assert states == {1: "approved", 2: "approved", 3: "rejected", 4: "expired"}

    def _rollouts(self) -> None:
        set_champion(self.store, ANN, "flights", OLD, "first")
        state = start_rollout(self.store, ANN, "flights", NEW, PLAN)
        assert state.rollout
        state = advance(self.store, ANN, "flights", state.rollout, "loaded")
        assert state.rollout
        state = promote(self.store, ANN, "flights", state.rollout, "enough seen")
        assert state.champion == NEW
        assert roll_back(self.store, ANN, "flights", state, "complaints").champion == OLD
        revoke(self.store, BOB, "flights", 2, "complaints")
        assert break_glass(self.store, EVE, "flights", 2, "fire").champion == NEW
        record_load_failure(self.store, "flights", NEW, "replica", "golden rows differ")

    def _others(self) -> None:
        """Those that other parts record through the same function."""
        seen = {event.type for event in read_events(self.store)} | {"audit.anchored"}
        for type in EVENT_TYPES:
            if type not in seen:
                with self.store.transaction() as connection:
                    record(connection, type, SYSTEM, "flights@2", use_case="flights", after={"state": type})
        done = anchor(self.store, self.place)
        assert done
        assert verify_store(self.store, self.place).not_anchored == ()


def test_every_type_of_event_has_its_state_its_record_and_its_notification(
    store: ControlStore, tmp_path: Path, server_of_hooks: Server
) -> None:
    settings = load_settings(
        state=str(tmp_path), data=str(tmp_path), control_store=store.url, webhook_allowed_hosts=("127.0.0.1",)
    )
    channels = Channels(settings.webhook_allowed_hosts)
    subscribe(store, ANN, channels, f"http://127.0.0.1:{server_of_hooks.server_port}/all")
    Fired(store, settings.audit_anchors).everything()
    recorded = read_events(store)
    assert {event.type for event in recorded} == set(EVENT_TYPES)
    dispatcher = Dispatcher(store, settings)
    while waiting(store):
        dispatcher.round(datetime.now(UTC) + timedelta(days=32))  # expiry was tried in the future
    sent = [json.loads(body) for _, _, body in server_of_hooks.received]
    told = {one["id"]: one["data"] for one in sent}
    for event in recorded:
        assert told[event.id] == json.loads(json.dumps(event.to_json()))
    assert {one["data"]["type"] for one in sent} == set(EVENT_TYPES)
    assert all(event.actor and event.roles and event.subject for event in recorded)
    assert all(event.before is not None or event.after is not None or event.payload for event in recorded)
    assert verify_store(store, settings.audit_anchors).ok
