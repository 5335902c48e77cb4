"""A replica follows what is live: what loads says so, what can pass is tried again, and nothing waits for another."""

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import Connection

from mlops_ray.errors import ConflictError, IntegrityError, UnavailableError
from mlops_ray.governance import control_store, leases, replicas
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.keys import active_keys, create_key, revoke_key, rotate_key
from mlops_ray.governance.leases import hold, release
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef, live, read_live
from mlops_ray.governance.replicas import (
    FORGOTTEN_AFTER,
    Loading,
    Replica,
    count_alive,
    forget_silent,
    heard,
    leave,
    report,
)
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import promote, start_rollout
from mlops_ray.serving import loader as loader_module
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.http_error import HttpError
from mlops_ray.serving.loader import can_pass
from mlops_ray.serving.reporter import Reporter
from mlops_ray.serving.rollout import decide, step_key
from mlops_ray.serving.served_version import ServedVersion
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from tests.unit.test_endpoint import VECTOR, predict
from tests.unit.test_rollout import NEW, NOW, OLD, PLAN, counts, running
from tests.unit.test_rollout import replica as replica_of

AT_ONCE = Plan(())
PATIENT = Rules(min_requests=10**9)


def wait_until(true: Callable[[], bool], timeout_s: float = 20) -> None:
    until_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def another(example: ExampleEndpoint, load: Callable[[VersionRef], ServedVersion], **more: Any) -> Follower:
    made = Follower(example.store, NAME, "another", "node", load, Guard(NAME, {}), **more)
    made.prepare()
    return made


# Loading


def test_nothing_is_promoted_over_a_replica_that_loads_and_a_hanging_download_holds_up_neither_rollback_nor_keys(
    tmp_path: Path,
) -> None:
    let_go = threading.Event()
    with example_endpoint(tmp_path, versions=2) as example:

        def slow(ref: VersionRef) -> ServedVersion:
            if ref.version == 8:
                let_go.wait(60)
            return example.load(ref)

        shown: list[int] = []

        def hanging(ref: VersionRef) -> None:
            shown.append(ref.version)
            let_go.wait(60)

        late = another(example, slow, show_champion=hanging)
        late.start()
        try:
            start_rollout(example.store, SYSTEM, NAME, example.sealed[8], AT_ONCE)
            example.follower.follow_once()
            wait_until(lambda: any(one.loading for one in heard(example.store, NAME).replicas if one.id == "another"))
            for _ in range(3):
                example.follower.follow_once()
            rollout = live(example.store, NAME).rollout
            assert rollout is not None
            with pytest.raises(ConflictError, match="1 replicas do not hold version 8"):
                promote(example.store, SYSTEM, NAME, rollout, "by hand")
            secret = create_key(example.store, SYSTEM, "new", ["predict"]).principal.id
            roll_back(example.store, SYSTEM, NAME, live(example.store, NAME).revision, 7, "complaints")
            revision = live(example.store, NAME).revision
            wait_until(lambda: late.traffic.revision == revision, 5)
            wait_until(lambda: secret in {one.id for one in late._guard.keys.values()}, 5)
            revoke_key(example.store, SYSTEM, "new", "lost")
            wait_until(lambda: secret not in {one.id for one in late._guard.keys.values()}, 5)
        finally:
            let_go.set()
            late.stop()


def test_a_full_disk_at_one_replica_ends_no_rollout_and_is_over_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "FIRST_PAUSE_S", 0.05)
    is_full = True
    with example_endpoint(tmp_path, versions=2) as example:

        def load(ref: VersionRef) -> ServedVersion:
            if ref.version == 8 and is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return example.load(ref)

        other = another(example, load)
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], AT_ONCE)
        for _ in range(3):
            example.follower.follow_once()
            other.follow_once()
        assert live(example.store, NAME).rollout is not None
        (full,) = [one for one in heard(example.store, NAME).replicas if one.id == "another"]
        assert "No space left" in full.loading[example.sealed[8]].trouble
        assert full.failed == {}
        is_full = False
        wait_until(lambda: any(one.version == "8" for one in other.versions()))
        other.follow_once()
        example.follower.follow_once()
        assert live(example.store, NAME).champion == example.sealed[8]
        assert read_events(example.store, types=["version.load_failed"]) == []


@pytest.mark.parametrize("error", [pl.exceptions.PanicException("panicked"), SystemExit(1), ValueError("\0")])
def test_however_a_version_fails_to_load_and_whether_or_not_it_can_be_told_the_replica_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def load(ref: VersionRef) -> ServedVersion:
        if ref.version == 8:
            raise error
        return example.load(ref)

    def cannot(*args: Any) -> None:
        raise IntegrityError("The chain of events is broken.")

    with example_endpoint(tmp_path, versions=2) as example:
        other = another(example, load)
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], AT_ONCE)
        monkeypatch.setattr("mlops_ray.serving.follower.record_load_failure", cannot)
        rounds = threading.Thread(target=other.follow_once, daemon=True)
        rounds.start()
        rounds.join(10)
        assert not rounds.is_alive()
        assert type(error).__name__ in other._loader.failed[example.sealed[8]]
        assert live(example.store, NAME).rollout is None
        other.stop()


def test_a_report_that_a_step_s_beginning_or_end_cuts_in_two_has_the_counters_of_the_step_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reporter asks while another thread routes; a step without counters was a KeyError where it is decided."""
    with example_endpoint(tmp_path, versions=2) as example:
        follower, loading = example.follower, example.follower._loader.loading

        def meanwhile_routed() -> dict[VersionRef, Loading]:
            follower.follow()
            return loading()

        monkeypatch.setattr(follower._loader, "loading", meanwhile_routed)
        seen = []
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], Plan((Step("shadow", 1.0, 0.0),), PATIENT))
        example.follower.follow_once()
        seen.append(follower._described())
        example.follower.follow_once()
        seen += [follower._described(), follower._described()]
        roll_back(example.store, SYSTEM, NAME, live(example.store, NAME).revision, 7, "complaints")
        seen += [follower._described(), follower._described()]
        assert {(bool(one.step), tuple(one.counters)) for one in seen} == {(True, ("champion", "version")), (False, ())}


def test_what_can_pass_is_told_from_what_cannot() -> None:
    def caused(error: Exception, by: Exception) -> Exception:
        error.__cause__ = by
        return error

    assert can_pass(OSError(errno.EMFILE, "Too many open files"))
    assert can_pass(UnavailableError("down"))
    assert can_pass(caused(RuntimeError("download failed"), OSError(errno.ENOSPC, "full")))
    assert not can_pass(IntegrityError("another digest"))
    assert not can_pass(caused(IntegrityError("not there"), FileNotFoundError()))
    assert not can_pass(ZeroDivisionError())


def test_the_same_bytes_as_another_version_are_a_version_of_their_own(tmp_path: Path) -> None:
    with example_endpoint(tmp_path) as example:
        digest = example.sealed[7].digest
        (tmp_path / "sealed" / "8").symlink_to(tmp_path / "sealed" / "7")
        plan = Plan((Step("canary", 1.0, 0.0),), Rules(min_requests=5))
        start_rollout(example.store, SYSTEM, NAME, VersionRef(8, digest), plan)
        for _ in range(3):
            example.follower.follow_once()
        for _ in range(5):
            assert predict(example, {"features": VECTOR}).json()["version"] == "8"
        example.follower.follow_once()
        assert live(example.store, NAME).champion == VersionRef(8, digest)
        example.follower.follow_once()
        assert predict(example, {"features": VECTOR}).json()["version"] == "8"


def test_a_control_store_that_is_away_changes_nothing_and_what_does_not_need_it_goes_on(tmp_path: Path) -> None:
    with example_endpoint(tmp_path) as example:
        example.follower.start()
        file, aside = tmp_path / "control_store.db", tmp_path / "aside.db"
        file.rename(aside)
        example.store.close()
        file.mkdir()
        time.sleep(1.5)
        example.follower.expect_alive()
        assert predict(example, {"features": VECTOR}).status_code == 200
        file.rmdir()
        aside.rename(file)
        state = set_champion(example.store, SYSTEM, NAME, example.sealed[7], "the same")
        wait_until(lambda: example.follower.traffic.revision == state.revision)
        example.follower.stop()


# Decisions


def alive(id: str, *loaded: VersionRef, **more: Any) -> Replica:
    return Replica(id, "n", 5, loaded, seen_at=NOW, **more)


def test_no_step_ends_in_a_promotion_while_a_replica_that_started_meanwhile_loads() -> None:
    state = running(1)
    held = replica_of(state, counts(500), counts(500))
    assert decide(state, [held, alive("new", OLD, loading={NEW: Loading(3)})], (), NOW) is None
    assert decide(state, [held, alive("newest")], (), NOW) is None
    decision = decide(state, [held, alive("new", OLD, loading={NEW: Loading(601, "No space left")})], (), NOW)
    assert decision is not None
    assert (decision.action, "No space left" in decision.reason) == ("fail", True)
    gone = alive("gone", OLD, left_at=NOW)
    decision = decide(state, [held, gone], (), NOW)
    assert decision is not None
    assert decision.action == "promote"


@pytest.mark.parametrize("bad", [counts(200, errors=20), counts(200, latency_s=0.05)])
def test_one_replica_at_which_it_fails_or_is_slow_takes_it_back_though_the_others_are_many(bad: Any) -> None:
    state = running(1)
    good = [replace(replica_of(state, counts(200), counts(200)), id=f"good {n}") for n in range(30)]
    assert decide(state, good, (), NOW) is not None
    decision = decide(state, [*good, replace(replica_of(state, counts(200), bad), id="bad one")], (), NOW)
    assert decision is not None
    assert (decision.action, decision.reason.startswith("Replica bad one: ")) == ("roll_back", True)


# What replicas say


def test_what_a_replica_counted_counts_after_it_has_left_and_however_long_a_step_is(
    store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = running(1)
    assert state.rollout is not None
    step = step_key(state.rollout)
    one = replica_of(state, counts(500), counts(500))
    leave(store, "flights", replace(one, id="left", step=step))
    report(store, "flights", replace(one, id="old", step="r/0"))
    report(store, "flights", replace(one, id="idle", step=""))
    said = heard(store, "flights")
    assert [r.id for r in said.alive] == ["old", "idle"]
    assert count_alive(store, "flights") == 2
    later = said.now + FORGOTTEN_AFTER + timedelta(seconds=1)
    monkeypatch.setattr(replicas, "database_now", lambda connection: later)
    forget_silent(store, "flights", step)
    assert [r.id for r in heard(store, "flights").replicas] == ["left"]


@pytest.mark.parametrize("minutes", [-10, 10])
def test_clocks_of_machines_do_not_matter(store: ControlStore, monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    """Everything but the database's clock is off, in what reports and in what reads it."""

    class Off(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(minutes=minutes)

    before = datetime.now(UTC) - timedelta(seconds=2)
    for module in ("mlops_ray.governance.events", "mlops_ray.governance.control_store"):
        monkeypatch.setattr(f"{module}.datetime", Off)
    report(store, "flights", Replica("a", "n", 1))
    said = heard(store, "flights")
    assert [one.id for one in said.alive] == ["a"]
    assert count_alive(store, "flights") == 1
    assert not hold(store, "x", "a", timedelta(seconds=5))
    assert hold(store, "x", "b", timedelta(seconds=5))
    state = set_champion(store, SYSTEM, "flights", OLD, "first")
    state = start_rollout(store, SYSTEM, "flights", NEW, PLAN)
    assert state.rollout is not None
    assert state.champion_since is not None
    after = datetime.now(UTC) + timedelta(seconds=2)
    moments = [state.champion_since, state.rollout.started_at, said.now]
    moments += [event.time for event in read_events(store)]
    assert all(before <= moment <= after for moment in moments)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_key_ends_when_it_was_revoked_or_replaced_whatever_the_clocks_of_machines_show(
    store: ControlStore, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    """Of who revokes, and of who is asked: a replica that is behind would go on to let it in."""

    class Off(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(minutes=minutes)

    create_key(store, SYSTEM, "revoked", ["predict"])
    replaced = create_key(store, SYSTEM, "replaced", ["predict"])
    before = datetime.now(UTC) - timedelta(seconds=2)
    with monkeypatch.context() as off:
        for module in ("keys", "events", "versions"):
            off.setattr(f"mlops_ray.governance.{module}.datetime", Off)
        revoke_key(store, SYSTEM, "revoked", "left")
        rotate_key(store, SYSTEM, "replaced", datetime.now(UTC) + timedelta(minutes=15), "yearly")
    known = {principal.name for principal in active_keys(store).values()}
    with monkeypatch.context() as off:
        off.setattr("mlops_ray.governance.keys.datetime", Off)
        assert {principal.name for principal in active_keys(store).values()} == known == {"replaced"}
    told = read_events(store)
    assert all(before - timedelta(seconds=5) <= event.time <= datetime.now(UTC) for event in told)
    ends = Guard(NAME, active_keys(store), clock=lambda: time.time() + 14 * 60)
    bearer = {b"authorization": f"Bearer {replaced.secret}".encode()}
    assert ends.admit(bearer, "predict").name == "replaced"
    ended = Guard(NAME, active_keys(store), clock=lambda: time.time() + 16 * 60)
    with pytest.raises(HttpError, match="expired"):
        ended.admit(bearer, "predict")


def test_a_lease_passes_on_when_its_holder_is_silent_or_gives_it_back(
    store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not hold(store, "x", "a", timedelta(seconds=5))
    assert hold(store, "x", "b", timedelta(seconds=5))
    release(store, "x", "a")
    assert not hold(store, "x", "b", timedelta(seconds=5))
    with store.reporting(write=False) as connection:
        later = control_store.database_now(connection) + timedelta(seconds=6)
    monkeypatch.setattr(leases, "database_now", lambda connection: later)
    assert not hold(store, "x", "a", timedelta(seconds=5))
    assert hold(store, "x", "b", timedelta(seconds=5))


def test_reports_and_leases_wait_for_no_writer_of_the_audit_log(store: ControlStore) -> None:
    report(store, "flights", Replica("a", "n", 1))
    with store.transaction():
        began_s = time.monotonic()
        report(store, "flights", Replica("a", "n", 2))
        assert heard(store, "flights").replicas[0].revision == 2
        assert not hold(store, "x", "a", timedelta(seconds=5))
        assert time.monotonic() - began_s < store.wait_s / 2


def test_a_poll_reads_what_is_live_only_when_something_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with example_endpoint(tmp_path, versions=2) as example:
        read: list[int] = []
        follower = example.follower
        follower.follow()

        def counted(connection: Connection, use_case: str) -> Any:
            read.append(1)
            return read_live(connection, use_case)

        monkeypatch.setattr("mlops_ray.serving.follower.read_live", counted)
        for _ in range(5):
            follower.follow()
        assert read == []
        set_champion(example.store, SYSTEM, NAME, example.sealed[8], "better")
        follower.follow()
        assert read == [1]


def test_of_many_replicas_what_one_holds_is_said_at_once_and_what_it_answers_with_in_its_turn(tmp_path: Path) -> None:
    """When a thousand go back at once, the database has them read what is live first, and not all report it."""
    with example_endpoint(tmp_path) as example:
        old, new = VersionRef(1, "a" * 64), VersionRef(2, "b" * 64)
        mine = [Replica("r", "node", 1, loaded=(new,), serving=new)]
        guard = Guard(NAME, {})
        reporter = Reporter(example.store, NAME, guard, lambda: mine[0])

        def said() -> Replica:
            reporter.round()
            return next(one for one in heard(example.store, NAME).replicas if one.id == "r")

        said()
        guard.replicas = 1_000
        mine[0] = replace(mine[0], revision=2, serving=old)
        assert said().revision == 1
        mine[0] = replace(mine[0], loaded=(new, old))
        assert (said().revision, said().loaded) == (2, (new, old))
        guard.replicas = 1
        mine[0] = replace(mine[0], revision=3)
        time.sleep(0.01)
        assert said().revision == 3
