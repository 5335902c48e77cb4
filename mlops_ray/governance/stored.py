"""Stored: what stands in the rows of a table, seen as an audit has to see it.

SQLite keeps a value of any type in any column, and shows the nearest that the column can mean. An empty text in a
column of truths is read as false, and no query for false finds its row; a moment in another notation is read as the
same one, and sorted elsewhere, so that a key that was revoked counts again. What is not written as this software writes
it was not written by it.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from sqlalchemy import Boolean, Column, Connection, Dialect, Executable, Table, TypeDecorator, select, type_coerce
from sqlalchemy.types import NullType, TypeEngine

from mlops_ray.errors import IntegrityError
from mlops_ray.governance.tables import Json

_SHOWN = 60
_ROWS_AT_A_TIME = 1000


def rows_of(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    """The rows of a table, in the order of its primary key, some at a time.

    Raises IntegrityError, naming table, row and column, for a value that cannot be read, or is written in another way
    than this software does.
    """
    ways = [(column, _ways(column.type, connection.dialect)) for column in table.columns]
    for row in connection.execute(_as_stored(table)).mappings():
        yield {column.name: _value(column, row, *how) for column, how in ways}


@cache
def _as_stored(table: Table) -> Executable:
    stored = (type_coerce(column, NullType()).label(column.name) for column in table.columns)
    return select(*stored).order_by(*table.primary_key).execution_options(yield_per=_ROWS_AT_A_TIME)


def _value(column: Column[Any], row: Any, read: Any, write: Any) -> Any:
    stored = row[column.name]
    if stored is None:
        return None
    try:
        value = read(stored) if read else stored
        written = write(value) if write else value
        good = (
            isinstance(stored, str) if isinstance(column.type, Json) else _is_as_written(column, value, written, stored)
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        good = False
    if not good:
        where = f"Table {column.table.name}, row {' '.join(str(row[one.name]) for one in column.table.primary_key)}"
        raise IntegrityError(f"{where}: {column.name} is {ascii(stored)[:_SHOWN]}, which nobody writes there.")
    return value


def _ways(kind: TypeEngine[Any], dialect: Dialect) -> tuple[Any, Any]:
    """How a value is read, and how it is written; None where as it is."""
    if not isinstance(kind, TypeDecorator | Boolean):
        return None, None
    here = kind.dialect_impl(dialect)
    return here.result_processor(dialect, None), here.bind_processor(dialect)


def _is_as_written(column: Column[Any], value: Any, written: Any, stored: Any) -> bool:
    return isinstance(value, column.type.python_type) and bool(written == stored)
