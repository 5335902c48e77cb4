"""LedgerTable: the compacted part of a ledger, a Delta Lake table that other tools open.

It lies at `ledger/<use case>/table`, with the columns of the segments, `segment` (the one a row came in) and `day`
(UTC, of `time`), by which it is partitioned. Rows lie in the order of their request ids, so that the ranges of ids and
times, which the table's log has of each file and a file's end of each stretch of rows, lead to the few bytes that are
wanted. Every change that adds or erases rows is a transaction of one kind, `TRANSACTION`: of two at once one fails.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConflictError
from mlops_ray.predictions.segments import COLUMNS, FOLDER, MOMENT, columns_in, read_segment
from mlops_ray.predictions.value import is_value

TABLE, SEGMENT, DAY = "table", "segment", "day"
TRANSACTION = "rows"
# A lookup decodes one stretch of rows: fewer would make the end of a file long, which a lookup reads as well.
STRETCH_ROWS = 20_000
ORPHANED = timedelta(days=1)
_LISTED = 2_000  # answers in a condition; the engine takes ten thousand, and of a hundred thousand it dies
_SETTINGS = {
    "delta.checkpointInterval": "20",
    "delta.dataSkippingStatsColumns": f"request_id,time,{SEGMENT}",
}
# How the table's schema calls the types of a segment.
_DTYPES: Mapping[str, pl.DataType] = {
    "string": pl.String(), "integer": pl.Int32(), "long": pl.Int64(), "float": pl.Float32(), "double": pl.Float64(),
    "boolean": pl.Boolean(), "timestamp": MOMENT, "array": pl.List(pl.Float32),
}  # fmt: skip
_KINDS = {dtype.base_type(): kind for kind, dtype in _DTYPES.items()}
ANSWER = pl.Schema({name: COLUMNS[name] for name in ("request_id", "row", "time", "version")})
"""What tells an answer from all others."""
# The table's log has the moments of a file in whole milliseconds, cut off.
_CUT_OFF = timedelta(microseconds=999)
_MERGED_BYTES, _SMALL_FILES = 512 << 20, 8
_SORTED_BYTES = 2 << 30  # in memory; the rest goes to disk meanwhile

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableFile:
    """One file of the table: what its rows lie between (`last`: to the millisecond), and its size. `day`: its
    partition."""

    url: str
    day: date
    first: datetime
    last: datetime
    first_id: str
    last_id: str
    bytes: int

    def may_hold(self, least: str, greatest: str) -> bool:
        """Whether a request with an id from `least` to `greatest` can be in it."""
        return self.first_id <= greatest and least <= self.last_id


class LedgerTable:
    """The table of one use case, as it stands when a method is called; it need not exist."""

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._use_case = artifacts, use_case
        self.location, self._options = _location(artifacts.url(FOLDER, use_case, TABLE))

    def files(self, start: datetime | None = None, end: datetime | None = None) -> list[TableFile]:
        """The files that can hold a record answered in `start <= time < end`, by time."""
        table = self._open()
        return [] if table is None else self._files(table, start, end)

    def begin(self) -> DeltaTable:
        """The table as it stands, made if there is none. What is added to it must have been read after this: then
        nobody has erased it since, or it is not added."""
        with suppress(DeltaError):
            # Made without a row: two that write the first ones at once would not see each other.
            if (table := self._open()) is not None:
                return table
            schema = pa.schema(_partitioned(pl.DataFrame(schema={**COLUMNS, SEGMENT: pl.String()})).to_arrow().schema)
            DeltaTable.create(
                self.location, schema, "error", [DAY], storage_options=self._options, configuration=_SETTINGS
            )
        return DeltaTable(self.location, storage_options=self._options)

    def append(self, table: DeltaTable, segments: Sequence[pl.DataFrame], ids: Iterable[str]) -> int:
        """Add the rows of segments, `segment` among their columns, but of none that is there already; in one commit.

        table: what `begin` gave. ids: the segments'. Returns how many rows were added. Raises ConflictError if others
        have added or erased rows since.
        """
        rows = _fitted(segments, table)
        if rows.is_empty():
            return 0
        there = self._segments(table, rows["time"].min(), rows["time"].max())
        rows = rows.filter(~pl.col(SEGMENT).is_in(list(there & set(ids))))
        if rows.height:
            self._write(table, rows)
        return rows.height

    def answers_of(self, picks: Callable[[str, str], bool], value: str) -> pl.DataFrame:
        """What `erase` would delete: request_id, row, time and version."""
        table = self._open()
        return pl.DataFrame(schema=ANSWER) if table is None else self._answers_of(table, picks, value)

    def erase(self, picks: Callable[[str, str], bool], value: str) -> pl.DataFrame:
        """Delete the rows of which a column that `picks` takes, by its name and type, is `value` (see `read_as`), and
        every file that the table no longer has; returns what `answers_of` gave.

        Also where there are none it is a transaction, so that whoever is about to add some fails and looks again.
        Raises ConflictError if others changed the table meanwhile, RuntimeError if other rows went than those.
        """
        table = self.begin()
        found = self._answers_of(table, picks, value)
        parts = list(found.iter_slices(_LISTED)) or [found]
        deleted = sum(self._delete(table, _is_among(part)) for part in parts)
        self._remove(self._there() - self._named(table))  # also of an erasure that was killed before it removed its own
        if deleted != found.height:
            raise RuntimeError(
                f"{deleted} rows in the table of the ledger of {self._use_case} were erased, not {found.height}."
            )
        return found

    def delete_before(self, day: date) -> None:
        """Delete the partitions of the days before `day`."""
        table = self._open()
        if table is not None and any(file.day < day for file in self._files(table, None, None)):
            self._delete(table, f"{DAY} < '{day.isoformat()}'")

    def tidy(self, today: date) -> None:
        """Merge the small files of days that are over, and remove files that belong to no version of the table."""
        table = self._open()
        if table is None:
            return
        sizes: dict[date, list[int]] = {}
        for file in self._files(table, None, None):
            sizes.setdefault(file.day, []).append(file.bytes)
        for day in [day for day, found in sizes.items() if day < today and _is_worth_merging(found)]:
            before = self._named(table)
            try:
                # In the order of ids; its plain way of merging does not keep the order within files.
                table.optimize.z_order(
                    ["request_id"], [(DAY, "=", day.isoformat())], target_size=_MERGED_BYTES,
                    writer_properties=_properties(), max_concurrent_tasks=1, max_spill_size=_SORTED_BYTES,
                )  # fmt: skip
            except CommitFailedError as error:
                raise self._conflict(error) from error
            except DeltaError as error:  # of no disk for sorting, say; small files are slower, and as right
                _logger.warning("The files of %s in %s are not merged: %s", day, self.location, error)
            self._remove(before - self._named(table))
        hours = int(ORPHANED.total_seconds() // 3600)
        table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True)

    def _open(self) -> DeltaTable | None:
        try:
            return DeltaTable(self.location, storage_options=self._options)
        except TableNotFoundError:
            return None

    def _write(self, table: DeltaTable, rows: pl.DataFrame) -> None:
        try:
            write_deltalake(
                table,
                _partitioned(rows).to_arrow(),
                mode="append",
                partition_by=[DAY],
                schema_mode="merge",
                writer_properties=_properties(),
                target_file_size=_MERGED_BYTES,
                commit_properties=_next(table),
            )
        except CommitFailedError as error:
            raise self._conflict(error) from error

    def _delete(self, table: DeltaTable, predicate: str) -> int:
        """Delete rows, as a transaction, and the files that it leaves behind; returns how many rows it deleted."""
        before, version = self._named(table), table.version()
        transaction = _next(table)
        try:
            done = table.delete(predicate, commit_properties=transaction)
            if table.version() == version:
                table.create_write_transaction([], "append", table.schema(), [DAY], commit_properties=transaction)
        except CommitFailedError as error:
            raise self._conflict(error) from error
        self._remove(before - self._named(table))
        return int(done.get("num_deleted_rows") or 0)

    def _named(self, table: DeltaTable) -> set[tuple[str, ...]]:
        """The paths of the table's files, below its place."""
        return {tuple(_below(url, self.location)) for url in table.file_uris()}

    def _there(self) -> set[tuple[str, ...]]:
        """The paths of all files with rows that lie there, whether the table has them or not."""
        place = FOLDER, self._use_case, TABLE
        days = [entry.name for entry in self._artifacts.entries(*place) if entry.name.startswith(f"{DAY}=")]
        return {(day, entry.name) for day in days for entry in self._artifacts.entries(*place, day)}

    def _remove(self, paths: Iterable[tuple[str, ...]]) -> None:
        for path in paths:
            self._artifacts.delete(FOLDER, self._use_case, TABLE, *path)

    def _conflict(self, error: Exception) -> ConflictError:
        return ConflictError(
            f"Others are changing the table of the ledger of {self._use_case} ({error}). Nothing is lost; run it again "
            f"when they have finished."
        )

    def _files(self, table: DeltaTable, start: datetime | None, end: datetime | None) -> list[TableFile]:
        actions = pl.DataFrame(table.get_add_actions(flatten=True))
        if actions.is_empty():
            return []
        if start is not None:
            actions = actions.filter(pl.col("max.time") >= start - _CUT_OFF)
        if end is not None:
            actions = actions.filter(pl.col("min.time") < end)
        return [
            TableFile(
                self._artifacts.url(FOLDER, self._use_case, TABLE, *unquote(row["path"]).split("/")),
                row[f"partition.{DAY}"], row["min.time"], row["max.time"] + _CUT_OFF,
                row["min.request_id"], row["max.request_id"], row["size_bytes"],
            )
            for row in actions.sort("min.time", "path").iter_rows(named=True)
        ]  # fmt: skip

    def _segments(self, table: DeltaTable, first: Any, last: Any) -> set[str]:
        """The segments whose rows lie in files with rows between two moments."""
        files = self._files(table, first, last + timedelta(microseconds=1))
        return {name for file in files for name in read_segment(file.url, [SEGMENT])[SEGMENT].unique()}

    def _answers_of(self, table: DeltaTable, picks: Callable[[str, str], bool], value: str) -> pl.DataFrame:
        columns = [name for name, kind in _types(table).items() if picks(name, kind)]
        found = [pl.DataFrame(schema=ANSWER)]
        for file in self._files(table, None, None):
            rows = read_segment(file.url, [*ANSWER.names(), *columns])
            flags = [is_value(rows[name], value) for name in columns if name in rows.columns]
            found.append(rows.filter(pl.any_horizontal(flags) if flags else False).select(ANSWER.names()))
        return pl.concat(found)


def _is_worth_merging(sizes: Sequence[int]) -> bool:
    """Many files that are one in the end; where there are more rows the files are large already."""
    return len(sizes) >= _SMALL_FILES and sum(sizes) <= _MERGED_BYTES


def _fitted(segments: Iterable[pl.DataFrame], table: DeltaTable) -> pl.DataFrame:
    """Rows of segments with the types of the table, in the order of ids; the columns that it is searched by come first.

    A column that has changed its type gets a name with its type: `x:string`.
    """
    types, frames = _types(table), list[pl.DataFrame]()
    for rows in segments:
        kinds = {name: _KINDS[dtype.base_type()] for name, dtype in rows.schema.items()}
        named = {
            name: name if types.setdefault(name, kind) == kind else f"{name}:{kind}" for name, kind in kinds.items()
        }
        frames.append(rows.rename(named))
    first = pl.DataFrame(schema={**columns_in(frames), SEGMENT: pl.String()})
    return pl.concat([first, *frames], how="diagonal_relaxed").sort("request_id", "row", "time")


def _types(table: DeltaTable) -> dict[str, str]:
    return {field.name: str(getattr(field.type, "type", "")) for field in table.schema().fields}


def own_name(name: str) -> str:
    """The name that a column of the table has in a segment: without its type."""
    own, _, kind = name.rpartition(":")
    return own if kind in _DTYPES else name


def as_they_came(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Rows of the table, `segment` among their columns, with the names and types that they had in their segments; what
    came in several types is in several tables. Columns that a segment had not are null."""
    names = defaultdict[str, list[str]](list)
    for name in rows.columns:
        if name != SEGMENT:
            names[own_name(name)].append(name)
    parts = [rows]
    for own, found in names.items():
        if found != [own]:
            parts = [part for several in parts for part in _by_type(several, own, found)]
    return [part.select(*names) for part in parts]


def _by_type(rows: pl.DataFrame, own: str, found: Sequence[str]) -> list[pl.DataFrame]:
    """The rows of segments with values in each of these columns, which is called `own`; the first for those without."""
    has = [pl.when(pl.col(name).is_not_null().any().over(SEGMENT)).then(pl.lit(name)) for name in found]
    of_each = rows.select(pl.coalesce(*has, pl.lit(found[0]))).to_series()
    parts = [rows.filter(of_each == name).drop({*found} - {name}).rename({name: own}) for name in found]
    return [part for part in parts if part.height] or parts[:1]


def _is_among(answers: pl.DataFrame) -> str:
    """That a row of the table is one of these answers, in SQL; by nothing of a person, as the table's log keeps it."""
    texts = answers.select(
        pl.concat_str(
            "request_id", "row", pl.col("time").dt.timestamp("us"), "version", separator=" ", ignore_nulls=True
        )
    ).to_series()
    if texts.is_empty():
        return "false"
    listed = ", ".join("'" + text.replace("'", "''") + "'" for text in texts)
    moment = 'CAST(CAST("time" AS BIGINT) AS STRING)'
    return f"""concat_ws(' ', request_id, CAST("row" AS STRING), {moment}, version) IN ({listed})"""


def _properties() -> WriterProperties:
    return WriterProperties(compression="ZSTD", max_row_group_size=STRETCH_ROWS)


def _next(table: DeltaTable) -> CommitProperties:
    number = (table.transaction_version(TRANSACTION) or 0) + 1
    return CommitProperties(app_transactions=[Transaction(TRANSACTION, number)])


def _partitioned(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("time").dt.date().alias(DAY))


def _below(url: str, location: str) -> list[str]:
    return unquote(url.partition(location.rstrip("/") + "/")[2]).split("/")


def _location(url: str) -> tuple[str, dict[str, str]]:
    """A place as the library takes it: without the options of pyarrow's URLs, which it has under other names."""
    parts = urlsplit(url)
    if "://" not in url or parts.scheme == "file":
        return (unquote(parts.path) if parts.scheme == "file" else url), {}
    given = dict(parse_qsl(parts.query))
    options: dict[str, str] = {}
    if region := given.get("region"):
        options["aws_region"] = region
    if endpoint := given.get("endpoint_override"):
        scheme = given.get("scheme", "https")
        options["aws_endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
        if options["aws_endpoint"].startswith("http://"):
            options["aws_allow_http"] = "true"
    if parts.username and parts.password:
        options |= {"aws_access_key_id": unquote(parts.username), "aws_secret_access_key": unquote(parts.password)}
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", options
