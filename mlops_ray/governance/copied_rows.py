"""Copied rows: the control store as plain JSON lines, which a store of either kind is filled from.

All tables are read in one transaction that sees one state, whoever writes meanwhile. A table is a list of files of
`ROWS` rows in the order of its primary key, so of the events, which are only added to, all files but the last stay the
same from one copy to the next. What replicas report is left out: it is said anew every second.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, DateTime, MetaData, Table, Text, delete, insert, inspect, select
from sqlalchemy.exc import OperationalError, StatementError

from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.references import is_reference
from mlops_ray.governance.schema import bring_up_to_date, find_schema
from mlops_ray.governance.tables import REPORTS, SCHEMA_REVISION, Json, event_head, metadata, subscriptions

ROWS = 10_000
# A table's name, the number of the file, its lines.
Write = Callable[[str, int, bytes], object]


@dataclass(frozen=True)
class StoreState:
    """schema: its revision. events, last_hash: the number and hash of the last event."""

    schema: str
    events: int
    last_hash: str


def copy_rows(store: ControlStore, write: Write) -> StoreState:
    """Hand all rows, as they are at one moment, to `write`, which must be quick: PostgreSQL ends who idles.

    Secrets of subscriptions are left out unless they are references (`without_secrets`).
    Raises ConfigurationError if there is no control store, or one that this software does not know all columns of.
    """
    with store.reading() as connection:
        schema = find_schema(connection)
        standing = schema.standing()
        if schema.revision is None or standing not in ("current", "older"):
            why = {"empty": "is empty: there is nothing to keep yet", "foreign": "belongs to another program"}
            newer = f"has schema {schema.revision}, of which this software ({SCHEMA_REVISION}) does not know everything"
            raise ConfigurationError(
                f"The control store {store} {why.get(standing, f'{newer}. Use the release that upgraded it')}."
            )
        for table in _kept(connection):
            rows = connection.execute(select(table).order_by(*table.primary_key)).mappings()
            for number, part in enumerate(rows.partitions(ROWS)):
                write(table.name, number, b"".join(_line(table.name, dict(row)) for row in part))
        head = connection.execute(select(event_head.c.seq, event_head.c.hash)).one()
        return StoreState(schema.revision, head.seq, head.hash)


def fill(store: ControlStore, schema: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Make the tables of the schema and put rows into them, all or nothing; files: tables' names with their lines, in
    the order in which they were copied.

    Raises ConfigurationError unless the database is empty, IntegrityError if rows do not fit their table.
    """
    store.prepare_folder()
    with store.migrating() as connection:
        expect_empty(connection, str(store))
        bring_up_to_date(connection, schema)
        tables = {table.name: table for table in _kept(connection)}
        for table in reversed(tables.values()):  # a migration begins the chain of events
            connection.execute(delete(table))
        for name, lines in files:
            try:
                rows = [_values(tables[name], json.loads(line)) for line in lines.splitlines()]
                if rows:
                    connection.execute(insert(tables[name]), rows)
            except (ValueError, KeyError, TypeError, StatementError) as error:
                if isinstance(error, OperationalError):  # the database's fault
                    raise
                raise IntegrityError(
                    f"The rows of {name} in the copy do not fit its table: {str(error).splitlines()[0]}. Use another "
                    f"copy, and find out who can write there."
                ) from error


def expect_empty(connection: Connection, place: str) -> None:
    """Raise ConfigurationError if the database has any table."""
    if names := inspect(connection).get_table_names():
        raise ConfigurationError(f"The database {place} is not empty (it has {len(names)} tables). Give an empty one.")


def without_secrets(row: Mapping[str, Any]) -> dict[str, Any]:
    """A subscription without channel and secret, unless both are references or there is no secret: what can sign a
    webhook, or holds a password, does not leave the store. An empty channel says that it was taken out."""
    given = [row[name] for name in ("channel", "secret") if row[name]]
    return dict(row) | ({} if all(map(is_reference, given)) else {"channel": "", "secret": ""})


def _kept(connection: Connection) -> Iterator[Table]:
    """The tables that are there, with the columns that are there; parents first. JSON as the text that it is, since an
    event must be read exactly as it was hashed."""
    there, plain = inspect(connection), MetaData()
    for table in metadata.sorted_tables:
        if table in REPORTS or not there.has_table(table.name):
            continue
        names = {column["name"] for column in there.get_columns(table.name)}
        columns = [
            Column(one.name, Text() if isinstance(one.type, Json) else one.type, primary_key=one.primary_key)
            for one in table.columns
            if one.name in names
        ]
        yield Table(table.name, plain, *columns)


def _line(table: str, row: dict[str, Any]) -> bytes:
    told = without_secrets(row) if table == subscriptions.name else row
    plain = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in told.items()}
    return json.dumps(plain).encode() + b"\n"


def _values(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    moments = [c.name for c in table.columns if isinstance(getattr(c.type, "impl", c.type), DateTime)]
    return row | {name: datetime.fromisoformat(row[name]) for name in moments if row[name] is not None}
