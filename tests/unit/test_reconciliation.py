"""Reconciliation: whatever is edited in a table that events tell of is found, and nothing else is."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Table, delete, insert, select, text, update

from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError
from mlops_ray.governance import audit
from mlops_ray.governance.approvals import approve, attach, reject, request, revoke
from mlops_ray.governance.champion import break_glass, retire, set_champion
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.delegations import delegate, end_delegation
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.live import Plan, Step, live
from mlops_ray.governance.notifications import list_subscriptions, subscribe, unsubscribe
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import approve_change, reject_change, set_policy
from mlops_ray.governance.principals import create_key, list_keys, revoke_key
from mlops_ray.governance.reconciliation import DESCRIBED, Reconciliation
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import advance, promote, start_rollout
from mlops_ray.governance.tables import approvals, endpoints, event_head, events, principals
from mlops_ray.governance.verdicts import Report
from mlops_ray.governance.versions import Evidence, list_versions, record_version

PEOPLE = [Actor(name, ("operate", "approve"), id=f"person-{name}") for name in ("ada", "ben", "carl")]
CASES = ("flights", "planes")
PLAN = Plan((Step("shadow", 1.0, 60), Step("canary", 0.1, 60)))
# What the audit says of itself that it does not compare, or compares only as there or not.
LEFT_OUT = {
    ("endpoints", "champion_since"), ("rollouts", "step_since"), ("rollouts", "started_at"),
    ("subscriptions", "channel"), ("subscriptions", "secret"),
}  # fmt: skip
ONLY_WHETHER = {("rollouts", "ended_at"), ("subscriptions", "ended_at")}


def make_history(store: ControlStore, seed: int, steps: int = 80) -> None:
    """Some of everything that may happen; what is refused changes nothing."""
    random = Random(seed)
    for number in range(steps):
        with suppress(MlopsRayError):
            make_step(store, random, number)
    for days in (1, 2):  # one holds then, and one waits
        set_policy(store, PEOPLE[0], "flights", Policy(required=True, expires_after_s=days * 86_400.0), ("g",))


def make_step(store: ControlStore, random: Random, number: int) -> None:
    case, actor = random.choice(CASES), random.choice(PEOPLE)
    versions, seen = list_versions(store, case), live(store, case)
    what = random.randrange(15) if versions else 0
    if what < 2:
        evidence = Evidence(f"{random.randrange(1, 9):064x}", f"{number:064x}", f"{number + 1:064x}")
        record_version(store, actor, case, len(versions) + 1, evidence)
        return
    version = random.choice(versions)
    match what:
        case 2:
            create_key(store, actor, f"key {number}", random.sample(["predict", "operate", "admin"], 2))
        case 3 if list_keys(store):
            revoke_key(store, actor, random.choice(list_keys(store)).principal.id, "it leaked")
        case 4:
            change = set_policy(
                store, actor, case, Policy(required=number % 3 == 0, min_approvers=2) if number % 4 else None, ("g",)
            )
            if change is not None:
                random.choice((approve_change, reject_change))(store, random.choice(PEOPLE), change.id, "so be it")
        case 5:
            request(store, actor, case, version.version, "please")
        case 6:
            approve(store, actor, case, version.version, "fine")
        case 7:
            random.choice((reject, revoke))(store, actor, case, version.version, "not so fine")
        case 13:
            until = datetime.now(UTC) + timedelta(days=1)
            given = delegate(store, actor, case, "idp|eve", until, "away")
            if number % 2:
                end_delegation(store, actor, given.id, "back")
        case 14:
            attach(
                store, actor, case, version.version, Report("found.pdf", "f" * 64, 9, "ada", None, datetime.now(UTC))
            )
        case 8:
            set_champion(store, actor, case, version.ref, "the best")
        case 9 if seen.rollout:
            random.choice((advance, promote))(store, actor, case, seen.rollout, "it is time")
        case 9:
            start_rollout(store, actor, case, version.ref, PLAN)
        case 10:
            subscribe(store, actor, Channels(), "https://example.com/hook", case, ["champion.set"])
            if number % 3 == 0:
                unsubscribe(store, actor, random.choice(list_subscriptions(store)).id)
        case 11:
            break_glass(store, actor, case, version.version, "it burns")
        case 12 if number % 2:
            target = seen.champion if seen.rollout else seen.previous
            roll_back(store, actor, case, seen.revision, target.version if target else 1, "it is worse")
        case 12:
            retire(store, actor, case, version.version, "it is old")


@pytest.fixture(scope="module", params=range(3))
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlStore]:
    folder = str(tmp_path_factory.mktemp("state"))
    store = open_store(Settings(state=folder, data=folder))
    make_history(store, request.param)
    yield store
    store.close()


@pytest.fixture(scope="module")
def expected(store: ControlStore) -> Reconciliation:
    found = Reconciliation()
    for event in read_events(store, limit=10_000):
        found.take(event)
    return found


def test_what_nobody_touched_is_what_the_events_say(store: ControlStore, expected: Reconciliation) -> None:
    with store.reading() as connection:
        assert expected.difference(connection) is None
        for table in DESCRIBED.values():
            assert connection.execute(select(table)).all(), f"the history has nothing in {table.name}"


def test_any_edit_of_any_column_is_found(store: ControlStore, expected: Reconciliation) -> None:
    for table in DESCRIBED.values():
        for row in read_rows(store, table):
            for column in table.columns:
                if (table.name, column.name) in LEFT_OUT:
                    continue
                value = another(column, row[column.name])
                if (table.name, column.name) in ONLY_WHETHER and row[column.name] is not None:
                    value = None
                change = update(table).where(*this(table, row)).values({column.name: value})
                found = difference_after(store, expected, change)
                assert found, f"{table.name}.{column.name} of {row}"
                assert found.startswith(f"Table {table.name}, row ")


def test_any_row_taken_away_or_added_is_found(store: ControlStore, expected: Reconciliation) -> None:
    for table in DESCRIBED.values():
        row = read_rows(store, table)[0]
        assert "is missing" in str(difference_after(store, expected, delete(table).where(*this(table, row))))
        unique = {one.name: another(one, row[one.name]) for one in table.columns if one.primary_key or one.unique}
        beside = {"name": "eve", "ended_at": datetime.now(UTC)}  # of which there may be one without an end
        added = row | unique | {name: value for name, value in beside.items() if name in row}
        assert "no event tells of it" in str(difference_after(store, expected, insert(table).values(added)))


class UndoneError(Exception):
    """Ends a transaction that nobody shall see."""


def difference_after(store: ControlStore, expected: Reconciliation, change: Any) -> str | None:
    found = None
    with suppress(UndoneError), store.transaction() as connection:
        connection.execute(change)
        found = expected.difference(connection)
        raise UndoneError
    return found


def read_rows(store: ControlStore, table: Table) -> list[dict[str, Any]]:
    with store.reading() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def this(table: Table, row: dict[str, Any]) -> list[Any]:
    return [column == row[column.name] for column in table.primary_key]


def another(column: Column[Any], value: Any) -> Any:
    """A value that the column may hold, other than its own."""
    match value:
        case None:
            others = {"UtcDateTime": datetime.now(UTC), "Float": 1.0, "Integer": 7}
            return others.get(type(column.type).__name__, "eve")
        case bool():
            return not value
        case int() | float():
            return value + 1_000
        case str():
            return f"{value}x"
        case datetime():
            return value + timedelta(seconds=1)
        case _:
            return ["admin", "other"]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[ControlStore]:
    store = open_store(Settings(state=str(tmp_path), data=str(tmp_path)))
    make_history(store, 5)
    yield store
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        update(approvals).values(state="approved", decided_by="ben"),
        update(principals).values(roles=["admin"]),
        update(endpoints).values(champion_version=1, champion_digest="e" * 64),
    ],
    ids=lambda change: change.table.name,
)
def test_the_audit_finds_a_table_that_was_edited_beside_the_events(
    fresh: ControlStore, tmp_path: Path, change: Any
) -> None:
    place = str(tmp_path / "anchors.jsonl")
    audit.anchor(fresh, place)
    assert audit.verify_store(fresh, place).problem is None
    with fresh.transaction() as connection:
        connection.execute(change)
    found = audit.verify_store(fresh, place)
    assert not found.ok
    assert str(found.problem).startswith(f"Table {change.table.name}, row ")


def cut_end(connection: Connection, length: int) -> None:
    """Take the newest events away and mend the head, as somebody would who knows the schema."""
    seqs = connection.execute(select(events.c.seq).order_by(events.c.seq.desc())).scalars().all()
    connection.execute(text("DELETE FROM outbox"))
    connection.execute(delete(events).where(events.c.seq.in_(seqs[:length])))
    last = connection.execute(select(events).order_by(events.c.seq.desc()).limit(1)).one()
    connection.execute(update(event_head).values(seq=last.seq, hash=last.hash))


def test_a_cut_end_is_found_although_the_file_of_anchors_is_gone_too(fresh: ControlStore, tmp_path: Path) -> None:
    place = tmp_path / "anchors.jsonl"
    audit.anchor(fresh, str(place))
    with fresh.transaction() as connection:
        cut_end(connection, 3)
    place.unlink()
    found = audit.verify_store(fresh, str(place))
    assert not found.ok
    assert "the end is cut off" in str(found.problem)


def test_what_governance_writes_is_closed_to_others(fresh: ControlStore, tmp_path: Path) -> None:
    audit.anchor(fresh, str(tmp_path / "anchors.jsonl"))
    with fresh.reporting():
        pass
    files = [file for file in tmp_path.iterdir() if file.name.startswith(("control_store", "anchors"))]
    assert len(files) >= 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_file_of_anchors_that_lost_some_is_found(fresh: ControlStore, tmp_path: Path) -> None:
    place = tmp_path / "anchors.jsonl"
    audit.anchor(fresh, str(place))
    place.write_text("")
    assert "lacks 1 anchors that were written there" in str(audit.verify_store(fresh, str(place)).problem)
