"""SqlTable: a table of a database as a source, read in slices."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from mlops_ray.errors import ConfigurationError, UseCaseError
from mlops_ray.use_case.reader import Part

if TYPE_CHECKING:
    from sqlalchemy import Connection, TableClause

BATCH_ROWS = 50_000
MAX_SLICES = 10_000
ROW_BYTES = 200  # about; it decides how many tasks read
TIMEOUT_S = 10
_MOST_DIGITS = 38  # of decimals in polars
_PLAIN = (bool, int, float, str, bytes, datetime, date, Decimal)


@dataclass(frozen=True)
class SqlTable:
    """A table or view of any database that SQLAlchemy knows. A reader: `Source(path=None, reader=SqlTable(...), ...)`.

    url: SQLAlchemy's URL, or `env:NAME` for a variable that holds it, so that no password stands in a use case.
    table: its name, with its schema where it needs one (`sales.orders`).
    slice_by, slice_width: a column, and how much of it one part has, in its units or as a timedelta: slices are read in
        parallel, and only those that changed. Rows without a value are a part of their own. Without it the table is one
        part.
    changed: a column that rises whenever a row is written. It tells, with the number of rows, whether a part changed;
        so does a row that is deleted, unless another one was added meanwhile without a new value. Without it every part
        is read by every run.

    A part is read in one transaction, which sees the table at one moment.
    """

    url: str
    table: str
    slice_by: str | None = None
    slice_width: int | timedelta | None = None
    changed: str | None = None

    def __post_init__(self) -> None:
        if (self.slice_by is None) != (self.slice_width is None):
            raise UseCaseError(f"SqlTable {self.table}: slice_by and slice_width go together.")
        if self.slice_width is not None and self.slice_width <= type(self.slice_width)(0):  # type: ignore[operator]
            raise UseCaseError(f"SqlTable {self.table}: slice_width is {self.slice_width}. Give more than 0.")

    def parts(self) -> Sequence[Part]:
        """See `Reader`. Raises ConfigurationError if the variable with the URL is not set."""
        with self._connected() as connection:
            found = [self._part(connection, name, low, high) for name, low, high in self._slices(connection)]
        return [part for part in found if part is not None]

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        import sqlalchemy as sa

        with self._connected() as connection:
            slices = {name: (low, high) for name, low, high in self._slices(connection)}
            now = self._part(connection, part.name, *slices[part.name]) if part.name in slices else None
            if now is None or (self.changed is not None and now.version != part.version):
                raise OSError("it changed after it was listed")
            names = {column["name"] for column in sa.inspect(connection).get_columns(*self._place())}
            there = [name for name in columns if name in names]
            table = self._table(there)
            query = self._within(sa.select(*(table.c[name] for name in there)), table, *slices[part.name])
            result = connection.execution_options(stream_results=True, yield_per=BATCH_ROWS).execute(query)
            for rows in result.partitions():
                values = zip(*rows, strict=True)
                yield from (
                    pl.DataFrame([_series(name, list(column)) for name, column in zip(there, values, strict=True)])
                    .to_arrow()
                    .to_batches()
                )

    @contextmanager
    def _connected(self) -> "Iterator[Connection]":
        """A connection in a transaction that sees one moment. What the database raises becomes an OSError of one line,
        without the URL."""
        import sqlalchemy as sa

        url = self.url
        if url.startswith("env:"):
            url = os.environ.get(url.removeprefix("env:"), "")
            if not url:
                raise ConfigurationError(
                    f"SqlTable {self.table}: the variable {self.url.removeprefix('env:')} is empty."
                )
        try:
            place = sa.make_url(url)
            if place.drivername == "postgresql":
                place = place.set(drivername="postgresql+psycopg")
            waiting = {"connect_timeout": TIMEOUT_S} if place.get_backend_name() == "postgresql" else {}
            engine = sa.create_engine(place, poolclass=sa.NullPool, connect_args=waiting)
            with engine.connect() as connection:
                if place.get_backend_name() in ("postgresql", "mysql", "mariadb"):
                    connection.execution_options(isolation_level="REPEATABLE READ")
                if place.get_backend_name() == "sqlite":  # Python's driver begins none for a SELECT
                    connection.exec_driver_sql("BEGIN")
                yield connection
        except sa.exc.SQLAlchemyError as error:
            said = str(getattr(error, "orig", None) or error).split("\n")[0]
            raise OSError(f"table {self.table} cannot be read ({type(error).__name__}: {said})") from None

    def _slices(self, connection: "Connection") -> list[tuple[str, Any, Any]]:
        """Name, first value and the value after the last of each slice; None and None for rows without a value."""
        import sqlalchemy as sa

        if self.slice_by is None:
            return [(self.table, None, None)]
        table = self._table([self.slice_by])
        column, width = table.c[self.slice_by], self.slice_width
        least, greatest, count, there = connection.execute(
            sa.select(sa.func.min(column), sa.func.max(column), sa.func.count(), sa.func.count(column))
        ).one()
        found: list[tuple[str, Any, Any]] = [(f"{self.table}[null]", None, None)] if there < count else []
        if least is None:
            return found
        low, high = _start(least, width), _start(greatest, width)
        if (slices := (high - low) // width + 1) > MAX_SLICES:
            raise UseCaseError(
                f"SqlTable {self.table}: {slices:,} slices of {width} lie between {least} and {greatest} (limit "
                f"{MAX_SLICES:,}). Make slice_width greater."
            )
        for number in range(slices):
            first = low + number * width  # type: ignore[operator]
            found.append((f"{self.table}[{first}]", first, first + width))
        return found

    def _part(self, connection: "Connection", name: str, low: Any, high: Any) -> Part | None:
        import sqlalchemy as sa

        columns = [name for name in (self.slice_by, self.changed) if name is not None]
        table = self._table(columns)
        newest = sa.null() if self.changed is None else sa.func.max(table.c[self.changed])
        query = sa.select(sa.func.count(), newest).select_from(table)
        count, changed = connection.execute(self._within(query, table, low, high)).one()
        version = token_hex(16) if self.changed is None else f"{count} {changed}"
        return Part(name, version, count * ROW_BYTES) if count else None

    def _within(self, query: Any, table: "TableClause", low: Any, high: Any) -> Any:
        """The query over one slice."""
        if self.slice_by is None:
            return query
        column = table.c[self.slice_by]
        return query.where(column.is_(None)) if low is None else query.where(column >= low, column < high)

    def _place(self) -> tuple[str, str | None]:
        schema, _, table = self.table.rpartition(".")
        return table, schema or None

    def _table(self, columns: Sequence[str]) -> "TableClause":
        import sqlalchemy as sa

        name, schema = self._place()
        return sa.table(
            name, *map(sa.column, dict.fromkeys((*columns, *([self.slice_by] if self.slice_by else [])))), schema=schema
        )


def _start(value: Any, width: Any) -> Any:
    """Where the slice of a value begins; slices are counted from 0, or from 1970."""
    if isinstance(width, timedelta) and isinstance(value, datetime):
        origin = datetime(1970, 1, 1, tzinfo=value.tzinfo and UTC)
        return origin + (value - origin) // width * width
    if isinstance(width, int) and isinstance(value, int | float | Decimal):
        return math.floor(value / width) * width
    if isinstance(width, timedelta) and isinstance(value, date) and not width % timedelta(days=1):
        return date(1970, 1, 1) + (value - date(1970, 1, 1)) // width * width
    raise UseCaseError(
        f"SqlTable: slice_by has values such as {value!r}, and slice_width is {width!r}. Give a whole number for "
        f"numbers, a timedelta for moments, and one of whole days for dates; slice by nothing else."
    )


def _series(name: str, values: list[Any]) -> pl.Series:
    """A column of what a driver gives: a nested value is its JSON, any other that is not plain its text."""
    plain = [value if value is None or isinstance(value, _PLAIN) else _text(value) for value in values]
    try:
        if _have_one_type([value for value in plain if isinstance(value, Decimal)]):
            return pl.Series(name, plain)
    except (TypeError, OverflowError, RuntimeError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        pass  # of several types, or beyond 64 bits
    return pl.Series(name, [None if value is None else _text(value) for value in values], dtype=pl.String)


def _have_one_type(decimals: list[Decimal]) -> bool:
    """Whether the digits before the point and behind it fit one type; else polars panics, or makes some null."""
    if not all(map(Decimal.is_finite, decimals)):
        return False
    before = max((value.adjusted() + 1 for value in decimals), default=0)
    behind = max((-int(value.as_tuple().exponent) for value in decimals), default=0)
    return max(before, 0) + max(behind, 0) <= _MOST_DIGITS


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    return bytes(value).decode(errors="backslashreplace") if isinstance(value, bytes | memoryview) else str(value)
