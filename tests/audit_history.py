"""Histories with some of everything that may happen, and every edit that SQL can make behind the back of the events."""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from sqlalchemy import Column, Connection, Table, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.approvals import approve, attach, reject, request, revoke
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.budgets import Budget, list_budgets, say_warned, set_budget, take_budget_away
from mlops_ray.governance.champion import break_glass, retire, set_champion
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.declared_resources import Resources, declare_resources
from mlops_ray.governance.delegations import delegate, end_delegation, list_delegations
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.keys import create_key, list_keys, revoke_key
from mlops_ray.governance.live import Plan, Step, live
from mlops_ray.governance.monitoring_changes import set_definition
from mlops_ray.governance.notifications import list_subscriptions, subscribe, unsubscribe
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import PolicyChange, approve_change, reject_change, set_policy
from mlops_ray.governance.reconciliation import DESCRIBED, Reconciliation
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import advance, pause, promote, resume, start_rollout
from mlops_ray.governance.tables import anchors, event_head, events
from mlops_ray.governance.verdicts import Report
from mlops_ray.governance.versions import Evidence, list_versions, record_version

PEOPLE = [Actor(name, ("operate", "approve"), id=f"person-{name}") for name in ("ada", "ben", "carl")]
CASES = ("flights", "planes")
PLAN = Plan((Step("shadow", 1.0, 60), Step("canary", 0.1, 60)))
# What no event tells of: all else is found.
NOT_FOUND = {"subscriptions.channel", "subscriptions.secret", "subscriptions.ended_at"}


def make_history(store: ControlStore, seed: int, steps: int = 80) -> None:
    """Some of everything that may happen; what is refused changes nothing."""
    random = Random(seed)
    for number in range(steps):
        with suppress(MlopsRayError):
            make_step(store, random, number)
    make_rest(store)


def make_rest(store: ControlStore) -> None:
    """What steps make too seldom."""
    for definition in ({"false_alarm_days": 60}, None):
        asked = set_definition(store, PEOPLE[1], "flights", definition, "too many alarms")
        if isinstance(asked, PolicyChange):
            for approver in PEOPLE[::2]:  # as many as any policy here demands
                with suppress(MlopsRayError):
                    approve_change(store, approver, asked.id)
    for days in (1, 2):  # one holds then, and one waits
        set_policy(store, PEOPLE[0], "flights", Policy(required=True, expires_after_s=days * 86_400.0), ("g",))
    set_definition(store, PEOPLE[1], "flights", {"false_alarm_days": 90}, "still too many")
    make_costs(store)


def end_delegations(store: ControlStore, actor: Actor) -> None:
    """All that are open: who is erased may have none."""
    for one in list_delegations(store):
        if one.ended_at is None:
            end_delegation(store, actor, one.id, "they leave")


def make_costs(store: ControlStore) -> None:
    for month, amount in (("", 5.0), ("", 7.0), ("2026-11", 9.0), ("2026-12", 1.0)):
        set_budget(store, PEOPLE[0], Budget("flights", month, amount, "EUR", warn_at=0.5), "the plan")
    take_budget_away(store, PEOPLE[0], "flights", "2026-12", "as always")
    for budget in list_budgets(store, "flights"):
        say_warned(store, budget, "2026-11", 6.0)
    for resources in ({"train": Resources(2.0), "endpoint": Resources(0.5, 700, 1, 2)}, {"train": Resources()}):
        declare_resources(store, PEOPLE[0], "flights", resources, "measured")


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
            policy = Policy(required=number % 3 == 0, min_approvers=2) if number % 4 else None
            change = set_policy(store, actor, case, policy, ("g",))
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
            report = Report("found.pdf", "f" * 64, 9, "ada", None, datetime.now(UTC))
            attach(store, actor, case, version.version, report)
        case 8:
            set_champion(store, actor, case, version.ref, "the best")
        case 9 if seen.rollout and number % 3 == 0:
            change = random.choice((pause, resume))
            change(store, actor, case, seen.revision, seen.rollout.version.version, "wait")
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


def replayed(store: ControlStore) -> Reconciliation:
    found = Reconciliation()
    for event in read_events(store, limit=1_000_000):
        found.take(event)
    return found


def expect_every_edit_found(store: ControlStore, expected: Reconciliation) -> None:
    """Of every column of every row that events describe; but for what the audit itself says it would not find."""
    with store.reading() as connection:
        assert expected.difference(connection) is None
    listed = {column for limit in expected.limits() for column in re.findall(r"\w+\.\w+", limit)}
    assert listed <= NOT_FOUND, listed
    for table in DESCRIBED.values():
        rows = read_rows(store, table)
        assert rows, f"the history has nothing in {table.name}"
        for row in rows:
            for column in table.columns:
                for value in others(column, row[column.name]):
                    change = update(table).where(*this(table, row)).values({column.name: value})
                    found = difference_after(store, expected, change)
                    what = f"{table.name}.{column.name} of {row} made {value}"
                    assert found is not None or f"{table.name}.{column.name}" in listed, what
                    assert not found or found.startswith(f"Table {table.name}, row "), what


def expect_every_row_found(store: ControlStore, expected: Reconciliation) -> None:
    """Taken away, or added."""
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
    """What is found after a change; an empty text where the database itself refuses it."""
    found: str | None = ""
    with suppress(UndoneError, IntegrityError), store.transaction() as connection:
        connection.execute(change)
        found = expected.difference(connection)
        raise UndoneError
    return found


def read_rows(store: ControlStore, table: Table) -> list[dict[str, Any]]:
    with store.reading() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def this(table: Table, row: dict[str, Any]) -> list[Any]:
    return [column == row[column.name] for column in table.primary_key]


def others(column: Column[Any], value: Any) -> Iterator[Any]:
    """Nothing, where that is possible, and another value."""
    if column.nullable and value is not None:
        yield None
    yield another(column, value)


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


def expect_every_edit_of_the_chain_found(store: ControlStore, settings: Settings, random: Random) -> None:
    """Of every column of events, of their end and of the anchors, and every event taken away, each as who knows it all
    would do it: with the constraints of the database out of the way."""
    assert verify_store(store, settings).problem is None
    listed = {"anchors.written_at", "anchors.second_at"}
    assert "an edit of when file and second place got an anchor" in verify_store(store, settings).limits
    for table in (events, event_head, anchors):
        rows = read_rows(store, table)
        for row in random.sample(rows, min(3, len(rows))):
            for column in table.columns:
                if (table.name, column.name) == ("event_head", "id"):
                    continue  # there is one row, whatever its id
                for value in others(column, row[column.name]):
                    change = row | {column.name: value}
                    found = found_with(store, settings, table, row, change)
                    what = f"{table.name}.{column.name} of {row} made {value}"
                    assert (found is None) == (f"{table.name}.{column.name}" in listed), f"{what}: {found}"
            if table is not event_head:
                assert found_with(store, settings, table, row, None)
    assert verify_store(store, settings).problem is None


def found_with(
    store: ControlStore, settings: Settings, table: Table, row: dict[str, Any], change: dict[str, Any] | None
) -> str | None:
    """What the audit finds while another row stands in the place of one, or none."""
    with store.transaction() as connection:
        _exchange(connection, table, row, change)
    found = verify_store(store, settings).problem
    with store.transaction() as connection:
        _exchange(connection, table, change or row, row)
    return found


def _exchange(connection: Connection, table: Table, row: dict[str, Any], change: dict[str, Any] | None) -> None:
    connection.execute(text("DELETE FROM outbox"))
    connection.execute(delete(table).where(*this(table, row)))
    if change is not None:
        connection.execute(insert(table).values(change))


def cut(store: ControlStore, length: int) -> None:
    """Take the newest events away with all that the database says of them, and mend the head."""
    with store.transaction() as connection:
        connection.execute(text("DELETE FROM outbox"))
        connection.execute(delete(events).where(events.c.seq > length))
        connection.execute(delete(anchors).where(anchors.c.seq > length))
        last = connection.execute(select(events.c.hash).where(events.c.seq == length)).scalar_one()
        connection.execute(update(event_head).values(seq=length, hash=last))


def make_anchored_history(store: ControlStore, settings: Settings, seed: int) -> None:
    """With an anchor every twenty steps and at the end."""
    random = Random(seed)
    for number in range(80):
        with suppress(MlopsRayError):
            make_step(store, random, number)
        if number == 79:
            make_rest(store)
        if number % 20 == 19:
            anchor(store, settings)
