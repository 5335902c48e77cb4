"""Usage: what steps, trials and replicas used, in the control store, with the prices that held then.

A row is written again and again while the work goes on, so what a killed process had used is on record.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import JSON, ColumnElement, Connection, Label, and_, cast, func, insert, select, type_coerce, update

from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.tables import price_tables, usage

Kind = Literal["step", "trial", "replica", "service"]
UsageState = Literal["running", "ended", "failed"]


@dataclass(frozen=True)
class Used:
    """One row. name: of the step, trial or service, or the version that a replica served. since: the beginning of the
    month, of a row of a replica or a service the hour, in UTC. key: see `pipeline.records.Record.run_key`. prices: the
    digest of their table, "" for none. quantities: see `cost.usage.Usage`. seen_at: when it was written last, by the
    database's clock."""

    run: str
    kind: Kind
    name: str
    since: datetime
    use_case: str
    key: str
    prices: str
    quantities: Mapping[str, Any]
    state: UsageState
    seen_at: datetime


@dataclass(frozen=True)
class Part:
    """What rows are written of, one for each month or hour: see `Used`."""

    run: str
    kind: Kind
    name: str
    use_case: str
    key: str = ""
    prices: str = ""


def month_of(moment: datetime) -> datetime:
    """The beginning of its month in UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def now(store: ControlStore) -> datetime:
    """What the database's clock shows: it decides to which month and hour something belongs."""
    with store.reading() as connection:
        return database_now(connection)


def write_usage(
    store: ControlStore, part: Part, since: datetime, quantities: Mapping[str, Any], state: UsageState
) -> None:
    """Let the row of the part say this; it is made if it is not there."""
    with store.transaction() as connection:
        row = {"quantities": dict(quantities), "state": state, "seen_at": database_now(connection)}
        this = (usage.c.run == part.run) & (usage.c.kind == part.kind) & (usage.c.name == part.name)
        if connection.execute(update(usage).where(this & (usage.c.since == since)).values(row)).rowcount == 0:
            connection.execute(insert(usage).values(**vars(part), since=since, **row))


def read_usage(
    store: ControlStore,
    use_case: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    kinds: Iterable[Kind] | None = None,
    keys: Sequence[str] | None = None,
    runs_begin: str = "",
) -> list[Used]:
    """The rows of the months and hours that begin in [since, until), the oldest first; of some kinds, keys, or runs
    whose id begins so."""
    with store.reading() as connection:
        return used_within(connection, use_case, since, until, kinds, keys, runs_begin)


def used_within(
    connection: Connection,
    use_case: str | None,
    since: datetime | None = None,
    until: datetime | None = None,
    kinds: Iterable[Kind] | None = None,
    keys: Sequence[str] | None = None,
    runs_begin: str = "",
) -> list[Used]:
    """As `read_usage`, in the caller's transaction."""
    query = select(usage).order_by(usage.c.since, usage.c.seen_at, usage.c.run, usage.c.name)
    if use_case is not None:
        query = query.where(usage.c.use_case == use_case)
    if since is not None:
        query = query.where(usage.c.since >= since)
    if until is not None:
        query = query.where(usage.c.since < until)
    if kinds is not None:
        query = query.where(usage.c.kind.in_(list(kinds)))
    if keys is not None:
        query = query.where(usage.c.key.in_(list(keys)))
    if runs_begin:
        query = query.where(usage.c.run.startswith(runs_begin, autoescape=True))
    found = connection.execute(query)
    names = tuple(found.keys())
    return [Used(**dict(zip(names, row, strict=True))) for row in found]


@dataclass(frozen=True)
class Sum:
    """What was used by a use case under a table of prices: `prices` and `quantities` as of `Used`."""

    use_case: str
    prices: str
    quantities: Mapping[str, Any]


def used_in_all(
    store: ControlStore,
    use_case: str,
    since: datetime,
    until: datetime,
    kinds: Iterable[Kind] | None,
    sums: Sequence[str],
    peaks: Sequence[str],
) -> list[Used]:
    """As `read_usage`, with one row for all rows of a part, a table of prices and a state: of the quantities `sums` are
    added up, of `peaks` is the largest; others are left out."""
    parts = [usage.c[name] for name in _PART]
    first, last = func.min(usage.c.since), func.max(usage.c.seen_at)
    with store.reading() as connection:
        added = [*_added(connection, sums), *(func.max(_quantity(connection, name)).label(name) for name in peaks)]
        query = select(*parts, first.label("since"), last.label("seen_at"), *added).group_by(*parts)
        query = query.where(_between(since, until, use_case, kinds))
        found = connection.execute(query.order_by(first, last, usage.c.run, usage.c.name)).mappings()
        return [
            Used(
                **{name: row[name] for name in (*_PART, "since", "seen_at")},
                quantities={name: row[name] for name in (*sums, *peaks)},
            )
            for row in found
        ]


def used_under_prices(
    store: ControlStore,
    use_case: str | None,
    since: datetime,
    until: datetime,
    kinds: Iterable[Kind],
    sums: Sequence[str],
) -> list[Sum]:
    """Of one use case or each, what the rows of the months and hours that begin in [since, until) add up to under each
    table of prices."""
    by = (usage.c.use_case, usage.c.prices)
    with store.reading() as connection:
        query = select(*by, *_added(connection, sums)).group_by(*by).where(_between(since, until, use_case, kinds))
        found = connection.execute(query.order_by(*by)).mappings()
        return [Sum(row["use_case"], row["prices"], {name: row[name] for name in sums}) for row in found]


_PART = ("run", "kind", "name", "use_case", "key", "prices", "state")


def _between(
    since: datetime, until: datetime, use_case: str | None, kinds: Iterable[Kind] | None
) -> ColumnElement[bool]:
    asked = [usage.c.since >= since, usage.c.since < until]
    asked += [] if use_case is None else [usage.c.use_case == use_case]
    asked += [] if kinds is None else [usage.c.kind.in_(list(kinds))]
    return and_(*asked)


def _added(connection: Connection, sums: Sequence[str]) -> list[Label[float]]:
    return [func.sum(_quantity(connection, name)).label(name) for name in sums]


def _quantity(connection: Connection, name: str) -> ColumnElement[float]:
    """Of a row; 0 where it is left out."""
    text = usage.c.quantities
    known = type_coerce(text, JSON) if connection.dialect.name == "sqlite" else cast(text, JSON)
    return func.coalesce(known[name].as_float(), 0.0)


def keep_prices(store: ControlStore, digest: str, prices: Mapping[str, Any]) -> None:
    """Keep a table of prices under its digest, once."""
    with store.transaction() as connection:
        known = connection.execute(select(price_tables.c.digest).where(price_tables.c.digest == digest)).first()
        if known is None:
            row = {"digest": digest, "prices": dict(prices), "first_at": database_now(connection)}
            connection.execute(insert(price_tables).values(row))


def read_prices(store: ControlStore) -> dict[str, Mapping[str, Any]]:
    """All tables of prices that were ever used, by digest."""
    with store.reading() as connection:
        return prices_within(connection)


def prices_within(connection: Connection) -> dict[str, Mapping[str, Any]]:
    return {row.digest: row.prices for row in connection.execute(select(price_tables))}
