"""Governance on SQLite and on PostgreSQL: one winner, all or nothing, and every event told to whoever asked for it."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import func, select

from mlops_ray.config import Settings
from mlops_ray.governance.approvals import list_approvals, request
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, Event, read_events, record
from mlops_ray.governance.history import changes
from mlops_ray.governance.live import Plan, Step, VersionRef, live
from mlops_ray.governance.notifications import deliver_once, list_subscriptions, subscribe, waiting
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import advance, fail, promote, start_rollout
from mlops_ray.governance.tables import events, outbox
from mlops_ray.governance.versions import Evidence, list_versions, record_version
from mlops_ray.registry.models import champion, register
from mlops_ray.registry.models import set_champion as show_champion
from mlops_ray.registry.sealed_model import load
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.predictor import Predictor
from mlops_ray.serving.served_version import ServedVersion
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.testing.example_model import example_reader, seal_example
from mlops_ray.training.tracking import connect, experiment_id
from tests.anchoring import anchored_in
from tests.integration import control_store_processes as processes
from tests.integration.test_control_store import CONTEXT, run_together, running
from tests.older_store import store_of_schema
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
    (promoted,) = read_events(store, types=["rollout.promoted"])
    winner = f"rollout.promoted by {promoted.actor}, at {promoted.time:%Y-%m-%d %H:%M:%S} UTC"
    lost = f"flights was changed meanwhile ({winner}): its champion is 2, and no rollout runs."
    assert answers == {"won": 1, lost: 15}
    assert (tmp_path / promoted.actor.split()[-1]).read_text() == "won"
    state = live(store, "flights")
    assert (state.champion, state.previous, state.rollout, state.revision) == (NEW, OLD, None, 4)
    assert verify_store(store, anchored_in(tmp_path / "anchors")).ok


def test_sixteen_registrations_at_once_are_sixteen_versions(store: ControlStore, tmp_path: Path) -> None:
    run_together(16, processes.register_at_once, lambda number: (store, number))
    found = list_versions(store, "flights")
    assert [one.version for one in found] == list(range(1, 17))
    assert {one.author for one in found} == {f"author {number}" for number in range(16)}
    registered = read_events(store, types=["version.registered"])
    assert sorted(event.after["version"] for event in registered) == list(range(1, 17))
    assert verify_store(store, anchored_in(tmp_path / "anchors")).ok


def test_the_history_of_sixteen_who_change_it_at_random_is_linearizable(store: ControlStore, tmp_path: Path) -> None:
    """There is one order of all changes: each begins where the last ended, and none stands before one that had ended
    when it began (Herlihy and Wing, ACM TOPLAS 12, 1990)."""
    set_champion(store, ANN, "flights", OLD, "first")
    run_together(16, processes.change_at_random, lambda number: (store, number, tmp_path))
    events = changes(store, "flights")
    assert all(after.before == before.after for before, after in pairwise(events))
    assert [event.after["revision"] for event in events] == list(range(1, len(events) + 1))
    made = [one for number in range(16) for one in json.loads((tmp_path / str(number)).read_text())]
    assert len(made) == len(events) - 1 == 48
    for one in made:
        assert events[one["revision"] - 1].actor == one["actor"]
        assert not [other for other in made if other["ended"] < one["began"] and other["revision"] > one["revision"]]
    assert live(store, "flights").revision == len(events)


@pytest.mark.parametrize("said", ["\0 ended it", "half a pair \ud800", "\0" * 100_000])
def test_a_rollout_ends_whatever_somebody_or_a_library_said_of_it(
    store: ControlStore, tmp_path: Path, said: str
) -> None:
    old, new = VersionRef(1, "a" * 64), VersionRef(2, "b" * 64)
    set_champion(store, SYSTEM, "flights", old, said)
    for end in ("fail", "roll_back"):
        state = start_rollout(store, SYSTEM, "flights", new)
        assert state.rollout is not None
        if end == "fail":
            fail(store, SYSTEM, "flights", state.rollout, f"The version does not load: {said}")
        else:
            roll_back(store, SYSTEM, "flights", state.revision, 1, said)
        assert live(store, "flights").serves_alone(1)
    assert verify_store(store, anchored_in(tmp_path / "anchors")).ok


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
    _, theirs = CONTEXT.Pipe()
    statements = statements_of_a_promotion(store)
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
    assert verify_store(store, anchored_in(tmp_path / "anchors")).ok


def statements_of_a_promotion(store: ControlStore) -> int:
    """The commit is the last of them."""
    begin_rollout(store, "counted")
    ours, theirs = CONTEXT.Pipe()
    with running(processes.promote_and_die, store, "counted", 0, "before", theirs):
        assert ours.poll(60)
        statements: int = ours.recv()
    assert statements > 8
    return statements


def test_the_alias_is_right_after_a_restart_wherever_the_promotion_was_killed(
    store: ControlStore, tmp_path: Path
) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)
    client = connect(settings)
    run = client.create_run(experiment_id(client, settings, "departures")).info.run_id
    first, second = (registered_with_mlflow(settings, tmp_path / f"{number}", number, run) for number in (1, 2))

    def alias_after_restart() -> int:
        def load_version(version: VersionRef) -> ServedVersion:
            model = load(tmp_path / str(version.version), version.digest)
            return ServedVersion("departures", str(version.version), Predictor(model, example_reader()))

        follower = Follower(
            store, "departures", "replica", "node", load_version, Guard("departures", {}),
            show_champion=lambda version: show_champion(settings, "departures", version.version),
        )  # fmt: skip
        follower.prepare()
        follower.follow_once()
        found = champion(settings, "departures")
        assert found
        return found.version

    set_champion(store, ANN, "departures", first, "first")
    assert alias_after_restart() == 1
    state = start_rollout(store, ANN, "departures", second, PLAN)
    assert state.rollout
    _, theirs = CONTEXT.Pipe()
    last = statements_of_a_promotion(store)
    for at, when, version in ((3, "after", 1), (last, "before", 1), (last, "after", 2)):
        with running(processes.promote_and_die, store, "departures", at, when, theirs) as process:
            process.join(60)
            assert process.exitcode == -9
        before = champion(settings, "departures")
        assert before
        assert before.version == 1  # whoever died had no time to set it
        assert alias_after_restart() == version
    client.set_registered_model_alias("departures", "champion", "1")  # by hand
    assert alias_after_restart() == 2


def registered_with_mlflow(settings: Settings, folder: Path, number: int, run: str) -> VersionRef:
    digest = seal_example(folder, salt=number)
    made = register(settings, "departures", folder, example_lineage("departures", digest), run, {}, f"key {number}")
    return VersionRef(made.version, digest)


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
    store = store_of_schema(url, "0001")
    store.migrate()
    begin_rollout(store)
    assert list_subscriptions(store) == []
    store.close()
