"""Reconciliation: what the events say that the tables hold, and where a table says something else.

The chain of hashes shows that the events are what was recorded. Whoever edits a table instead (an approval, the roles
of a key, what is live) is found here: each event carries the state of its subject, and the last one counts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Table

from mlops_ray.errors import IntegrityError
from mlops_ray.governance.events import Event, plain
from mlops_ray.governance.history import CHANGES
from mlops_ray.governance.references import digest_of
from mlops_ray.governance.stored import rows_of
from mlops_ray.governance.tables import (
    approvals,
    budgets,
    declared_resources,
    delegations,
    endpoints,
    monitoring_definitions,
    policies,
    policy_changes,
    principals,
    rollouts,
    subscriptions,
    versions,
)

Row = dict[str, Any]
"""Columns of a row, as JSON values; only those that the events tell of."""

_TABLES = (
    principals,
    versions,
    approvals,
    delegations,
    policies,
    policy_changes,
    monitoring_definitions,
    subscriptions,
    endpoints,
    rollouts,
    budgets,
    declared_resources,
)
DESCRIBED = {table.name: table for table in _TABLES}
NOT_COMPARED = (
    "an edit of what is told without an event: the outbox, leases, schedules and their runs, and what replicas report",
    "an edit of what work used, and of prices",
)
SET = "a moment"
"""Stands for a moment that the events tell of only as having come."""
_DIGEST = "_sha256"
"""Behind a column's name: the event has a digest of what stands there."""
_ENDED = {"rollout.promoted": "promoted", "rollout.rolled_back": "rolled_back", "rollout.failed": "failed"}


class Reconciliation:
    """Given the events in their order, the rows that the tables must hold."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[Any, ...], Row]] = {name: {} for name in DESCRIBED}
        self._untold = Counter[str]()

    def watch(self, events: Iterable[Event]) -> Iterator[Event]:
        """Pass the events on, and remember what they say."""
        for event in events:
            self.take(event)
            yield event

    def take(self, event: Event) -> None:
        with suppress(KeyError, TypeError, AttributeError):  # an event of another shape tells of no row
            follow = _FOLLOWS.get(event.type.partition(".")[0])
            if follow is not None:
                follow(self.rows, event)

    def difference(self, connection: Connection) -> str | None:
        """The first row that is another than the events say; None if each is as it must be."""
        self._untold.clear()
        for name, table in DESCRIBED.items():
            try:
                found = next(_differences(connection, table, self.rows[name], self._untold), None)
            except IntegrityError as error:
                return str(error)
            if found is not None:
                return found
        return None

    def limits(self) -> tuple[str, ...]:
        """Which edits `difference` could not have found, in words."""
        return (*(f"an edit of {what}, in {rows} rows" for what, rows in sorted(self._untold.items())), *NOT_COMPARED)


def _differences(
    connection: Connection, table: Table, expected: Mapping[tuple[Any, ...], Row], untold: Counter[str]
) -> Iterator[str]:
    """untold: counts, column by column, the rows in which an edit is not seen."""
    missing = dict(expected)
    for row in rows_of(connection, table):
        key = tuple(row[column.name] for column in table.primary_key)
        subject = f"Table {table.name}, row {' '.join(map(str, key))}"
        said = missing.pop(key, None)
        if said is None:
            yield f"{subject}: no event tells of it."
            continue
        for column in (one.name for one in table.columns):
            value, what = plain(row[column]), column
            if f"{column}{_DIGEST}" in said and value is not None:
                value, what = digest_of(value), f"{column}{_DIGEST}"
            if what not in said:
                untold[f"{table.name}.{column}"] += 1
            elif said[what] is SET and value is not None:
                untold[f"the moment in {table.name}.{column}"] += 1
            elif value != said[what]:
                yield f"{subject}: {column} is {_short(plain(row[column]))}, and the events say {_short(said[what])}."
    for key in missing:
        yield f"Table {table.name}, row {' '.join(map(str, key))}: it is missing, and the events tell of it."


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


_Rows = dict[str, dict[tuple[Any, ...], Row]]


def _put(rows: _Rows, table: Table, state: Mapping[str, Any]) -> None:
    """Change the row that the state is of, by those of its values that are columns."""
    key = tuple(state[column.name] for column in table.primary_key)
    known = rows[table.name].setdefault(key, {})
    names = {name for column in table.columns for name in (column.name, f"{column.name}{_DIGEST}")}
    known |= {name: value for name, value in state.items() if name in names}


def _follow_key(rows: _Rows, event: Event) -> None:
    begun = {"created_at": event.time.isoformat(), "revoked_at": None} if event.type == "key.created" else {}
    _put(rows, principals, begun | event.after)


def _follow_version(rows: _Rows, event: Event) -> None:
    if event.type in ("version.registered", "version.measured", "version.retired"):
        _put(rows, versions, event.after | _digests(event.after["evidence"]))
    if event.type == "version.retired" and event.payload["was_previous_champion"]:
        revision = rows[endpoints.name][(event.use_case,)]["revision"] + 1
        gone = {"previous_version": None, "previous_digest": None, "revision": revision, "stands_since": revision}
        _put(rows, endpoints, gone | {"use_case": event.use_case})


def _follow_approval(rows: _Rows, event: Event) -> None:
    _put(rows, approvals, event.after | _digests(event.after["evidence"]))


def _digests(evidence: Mapping[str, str]) -> Row:
    return {f"{part}_digest": digest for part, digest in evidence.items()}


def _follow_policy(rows: _Rows, event: Event) -> None:
    kind, _, name = event.subject.partition(" ")
    if kind == "subscription":
        _follow_subscription(rows, event)
    elif event.type != "policy.changed":
        _put(rows, policy_changes, {"monitoring": None} | event.after)
    elif event.after is None:
        rows[policies.name].pop((name,), None)
    else:
        since = event.payload.get("since", event.time.isoformat())
        gates = {"gates": event.payload["gates"]} if "gates" in event.payload else {}
        _put(rows, policies, {"use_case": name, "policy": event.after, "since": since} | gates)


def _follow_subscription(rows: _Rows, event: Event) -> None:
    if event.after is None:
        id = event.subject.partition(" ")[2]
        _put(rows, subscriptions, {"id": id, "ended_at": SET})
        for part in ("channel", "secret"):  # where nothing is sent any more it may be erased
            rows[subscriptions.name][id,].pop(f"{part}{_DIGEST}", None)
        return
    shown = {name: value for name, value in event.after.items() if name != "channel"}
    _put(rows, subscriptions, {"paused_at": None} | shown | {"ended_at": None})


def _follow_endpoint(rows: _Rows, event: Event) -> None:
    if event.type not in CHANGES or not isinstance(event.after, Mapping) or "champion" not in event.after:
        return
    state, running = event.after, event.after["rollout"]
    told = {name: state[name] for name in ("revision", "stands_since", "champion_since") if name in state}
    for part in ("champion", "previous"):
        given = state[part] or {"version": None, "digest": None}
        told |= {f"{part}_version": given["version"], f"{part}_digest": given["digest"]}
    _put(rows, endpoints, told | {"use_case": event.use_case})
    before = event.before and event.before.get("rollout")
    if before and (running is None or running["id"] != before["id"]) and event.type in _ENDED:
        ended_at = event.time.isoformat() if "champion_since" in state else SET  # as it was written before
        ended = {"id": before["id"], "state": _ENDED[event.type], "ended_at": ended_at, "reason": event.reason}
        _put(rows, rollouts, ended)
    if running:
        # What was recorded before it named the plan says less.
        named = {"plan": running["plan"], "step": running["number"]} if "plan" in running else {}
        moments = {name: running[name] for name in ("step_since", "started_at") if name in running}
        moments |= {"paused_at": running.get("paused_at"), "ended_at": None}
        state = {name: running[name] for name in ("id", "version", "digest", "state")} | moments
        begun = {"actor": event.actor, "reason": ""} if event.type == "rollout.started" else {}
        _put(rows, rollouts, state | named | begun | {"use_case": event.use_case})


def _follow_budget(rows: _Rows, event: Event) -> None:
    """It is of each month, or of the one that the subject names."""
    if event.type == "budget.changed":
        month = event.subject.removeprefix(f"budget {event.use_case}").strip()
        if event.after is None:
            rows[budgets.name].pop((event.use_case, month), None)
        else:
            _put(rows, budgets, {"use_case": event.use_case, "month": month, "warned_for": ""} | event.after)
    elif event.type == "budget.warned":
        said = {"use_case": event.use_case, "month": event.payload["budget_of"], "warned_for": event.payload["month"]}
        _put(rows, budgets, said)


def _follow_resources(rows: _Rows, event: Event) -> None:
    name = event.subject.removeprefix(f"resources {event.use_case} ")
    if event.after is None:
        rows[declared_resources.name].pop((event.use_case, name), None)
    else:
        _put(rows, declared_resources, {"use_case": event.use_case, "name": name, "resources": event.after})


_FOLLOWS: Mapping[str, Callable[[_Rows, Event], None]] = {
    "key": _follow_key,
    "version": _follow_version,
    "approval": _follow_approval,
    "delegation": lambda rows, event: _put(rows, delegations, event.after),
    "policy": _follow_policy,
    "monitoring": lambda rows, event: _put(rows, monitoring_definitions, event.after),
    "champion": _follow_endpoint,
    "rollout": _follow_endpoint,
    "break_glass": _follow_endpoint,
    "subscription": _follow_subscription,
    "budget": _follow_budget,
    "resources": _follow_resources,
}
