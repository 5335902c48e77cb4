"""Tables by their moments: what the footers of Parquet files say of these, and the rows between two of them.

A row group is read whole or not at all, so that a slice of time of a table in the order of time costs the slice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mlops_ray.artifacts import join, locate
from mlops_ray.errors import DataError

_BATCH_ROWS = 65_536
MOMENT = pl.Datetime("us", "UTC")
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)
_FIRST_OF_NANOSECONDS = datetime(1678, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Span:
    """So many rows of a table, with moments from `first` to `last` (UTC), both included; `url`: of their file."""

    rows: int
    first: datetime
    last: datetime
    url: str = ""


def spans(urls: Sequence[str], column: str) -> list[Span]:
    """The row groups of Parquet files, or of all in folders, by the moments in `column`.

    Those without any are left out. Where a footer does not say what moments a row group has, the column is read.
    """
    return [span for url in urls for file in _files(url) for span in _spans(file, column)]


def rows_in(found: Sequence[Span], since: datetime | None, before: datetime | None) -> int:
    """How many rows lie in [since, before), if those of each span are spread evenly; None: without a bound."""
    start, end = since or _BEGINNING, before or _END
    return round(sum(span.rows * _share(span, start, end) for span in found))


def borders(found: Sequence[Span], count: int) -> list[datetime]:
    """Up to `count - 1` moments, ascending, that divide the rows into parts of about the same size."""
    if not found or count < 2:
        return []
    first, last = (np.array([_us(getattr(span, end)) for span in found], np.float64) for end in ("first", "last"))
    rows, length = np.array([span.rows for span in found], np.float64), np.maximum(last - first, 1)
    edges = np.unique([*first, *(first + length)])
    density = np.zeros(len(edges))  # of rows, from each edge to the next
    np.add.at(density, np.searchsorted(edges, first), rows / length)
    np.subtract.at(density, np.searchsorted(edges, first + length), rows / length)
    before = np.concatenate([[0], np.cumsum(np.cumsum(density)[:-1] * np.diff(edges))])
    wanted = np.interp(rows.sum() * np.arange(1, count) / count, before, edges)
    moments = [_EPOCH + timedelta(microseconds=int(one)) for one in np.unique(wanted) if one > edges[0]]
    return list(dict.fromkeys(moments))


def read_between(
    urls: Sequence[str], column: str, since: datetime | None, before: datetime | None, columns: Sequence[str] | None
) -> pl.DataFrame:
    """The rows of Parquet files, or of all in folders, with moments in [since, before), in their order.

    column: the one with the moments. columns: those to read, all by default. None for a bound: there is none. Rows
    without a moment come before all others. Moments without a zone are UTC. Raises DataError where a folder holds no
    Parquet file.
    """
    table = _dataset(urls)
    inside = _inside(table.schema.field(column).type, column, since, before)
    read = pl.DataFrame(pl.from_arrow(table.to_table(columns=columns and list(columns), filter=inside)))
    if inside is not None or (since is None and before is None):
        return read
    moment = as_moment(read.schema, column).fill_null(_BEGINNING)
    return read.filter(moment.is_between(since or _BEGINNING, before or _END, closed="left"))


def batches_between(
    urls: Sequence[str], column: str, since: datetime | None, before: datetime | None
) -> Iterator[pl.DataFrame]:
    """As `read_between`, some rows after the others, of which few are in memory at a time."""
    table = _dataset(urls)
    inside = _inside(table.schema.field(column).type, column, since, before)
    batches = table.to_batches(filter=inside, batch_size=_BATCH_ROWS, batch_readahead=2, fragment_readahead=1)
    yield from (pl.DataFrame(pl.from_arrow(batch)) for batch in batches if batch.num_rows)


def first_rows(urls: Sequence[str], count: int) -> pl.DataFrame:
    """The first rows of Parquet files, or of all in folders."""
    table = _dataset(urls)
    return pl.DataFrame(pl.from_arrow(table.head(count, batch_size=_BATCH_ROWS, batch_readahead=2)))


def schema_of(urls: Sequence[str]) -> pl.Schema:
    """The columns of the first of these Parquet files. Raises DataError where a folder holds none."""
    for url in urls:
        for file in _files(url):
            empty = pq.read_schema(file.path, filesystem=file.filesystem).remove_metadata().empty_table()
            return pl.DataFrame(pl.from_arrow(empty)).schema
    raise DataError(f"There is no Parquet file at {', '.join(urls)}.")


def as_moment(schema: pl.Schema, column: str) -> pl.Expr:
    """The column as moments in UTC with microseconds; also from texts, which Feast takes."""
    given = pl.col(column)
    if schema[column] == pl.String:
        return given.str.to_datetime(time_zone="UTC", time_unit="us")
    return given.cast(MOMENT)


@dataclass(frozen=True)
class _File:
    filesystem: pafs.FileSystem
    path: str
    url: str


def _files(url: str) -> Iterator[_File]:
    """Hidden files are none: an atomic write has such a name until it is whole."""
    filesystem, path = locate(url)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(url)
    if info.type == pafs.FileType.File:
        yield _File(filesystem, path, url)
        return
    below = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    for name in sorted(one.path for one in below if one.type == pafs.FileType.File):
        parts = name.removeprefix(path).strip("/").split("/")
        if not any(part.startswith((".", "_")) for part in parts):
            yield _File(filesystem, name, join(url, *parts))


def _dataset(urls: Sequence[str]) -> Any:
    import pyarrow.dataset as ds  # which imports pandas, for half a second

    found = [file for url in urls for file in _files(url)]
    if not found:
        raise DataError(f"There is no Parquet file at {', '.join(urls)}.")
    return ds.dataset([file.path for file in found], filesystem=found[0].filesystem, format="parquet")


def _spans(file: _File, column: str) -> Iterator[Span]:
    metadata = pq.read_metadata(file.path, filesystem=file.filesystem)
    names = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    if column not in names:
        raise DataError(f"{file.url} has no column {column!r} (it has {', '.join(names)}).")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        said = group.column(names.index(column)).statistics
        if said is not None and said.has_min_max and isinstance(said.min, datetime):
            yield Span(group.num_rows, _utc(said.min), _utc(said.max), file.url)
        elif (said is None or said.null_count != group.num_rows) and group.num_rows:
            yield from _read_span(file, column, number)


def _read_span(file: _File, column: str, number: int) -> Iterator[Span]:
    with pq.ParquetFile(file.path, filesystem=file.filesystem) as opened:
        read = pl.DataFrame(pl.from_arrow(opened.read_row_group(number, columns=[column])))
    moments = read.select(as_moment(read.schema, column)).to_series()
    first, last = moments.min(), moments.max()
    if isinstance(first, datetime) and isinstance(last, datetime):
        yield Span(read.height, first, last, file.url)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _share(span: Span, start: datetime, end: datetime) -> float:
    """Of the rows of a span, those in [start, end)."""
    if span.first == span.last:
        return 1.0 if start <= span.first < end else 0.0
    length = (span.last - span.first).total_seconds()
    covered = (min(end, span.last) - max(start, span.first)).total_seconds()
    return max(0.0, covered) / length


def _inside(type_: pa.DataType, column: str, since: datetime | None, before: datetime | None) -> Any:
    """A filter on what is read, for types of Arrow's that can be compared; None where there is none."""
    if not pa.types.is_timestamp(type_) or (since is None and before is None):
        return None
    field, bounds = pc.field(column), []
    for moment, compare in ((since, pc.greater_equal), (before, pc.less)):
        if moment is not None:
            given = max(_utc(moment), _FIRST_OF_NANOSECONDS) if type_.unit == "ns" else _utc(moment)
            given = given if type_.tz else given.replace(tzinfo=None)
            bounds.append(compare(field, pa.scalar(given, pa.timestamp("us", type_.tz))))
    if since is None:
        return bounds[0] | field.is_null()
    return bounds[0] if len(bounds) == 1 else bounds[0] & bounds[1]
