"""Segments: the ledger on shared storage, as immutable Parquet files named by the moment they begin with.

One lies at `ledger/<use case>/<day>/<id>.parquet`, where the id begins with a UUIDv7; no record in it is older than
the moment of the id, or younger than that by more than `LONGEST_SEGMENT`. It may end with the first digits of the least
and of the greatest request id, and the millisecond of the last answer, so that a list of names tells where an id or a
moment can be. A row is a prediction. Columns:
`request_id`, `row` (within the request), `time` (answered) and `as_of` (UTC), `version`, `route`, `latency_s`,
`caller` (the principal's id), `question` (a digest of what was asked), `reasons` (as JSON; null where none were asked
for, or given), `key.<request column>`, `feature.<name>` (float32 or text; null is missing), and the answer:
`probability` of yes, the number as `prediction`, or the `probabilities` of the classes, in the order in which the
version has them (see `Task.ledger_types`).
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts, locate, parquet_file
from mlops_ray.errors import UnavailableError
from mlops_ray.predictions.answers import columns_of, types_of_answers
from mlops_ray.predictions.ids import moment_of
from mlops_ray.predictions.record import Record, RecordSchema
from mlops_ray.use_case.column import DTYPES

FOLDER = "ledger"
LONGEST_SEGMENT = timedelta(seconds=900)
KEY, FEATURE = "key.", "feature."

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_SUFFIX = ".parquet"
_RANGE = re.compile(r"\.([0-9a-f]{12})-([0-9a-f]{12})(?:\.|$)")
_LAST_MS = re.compile(r"\.([0-9a-f]{12})$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOOKS = 5
_Found = TypeVar("_Found")
_CHUNK = 256  # frames decoded in about a millisecond
MOMENT = pl.Datetime("us", "UTC")
COLUMNS: dict[str, pl.DataType] = {
    "request_id": pl.String(),
    "row": pl.Int32(),
    "time": MOMENT,
    "as_of": MOMENT,
    "version": pl.String(),
    "route": pl.String(),
    "latency_s": pl.Float32(),
    "caller": pl.String(),
    "question": pl.Int64(),
    "reasons": pl.String(),
}

_decode = msgspec.msgpack.Decoder(RecordSchema | Record).decode

Pause = Callable[[float], object]


@dataclass(frozen=True)
class Segment:
    """One file of the ledger. `time` is the moment it begins with."""

    id: str
    url: str
    time: datetime
    bytes: int

    @property
    def until(self) -> datetime:
        """None of its records is younger."""
        last_ms = _LAST_MS.search(self.id)
        if last_ms is None:
            return self.time + LONGEST_SEGMENT
        return _EPOCH + timedelta(milliseconds=int(last_ms[1], 16) + 1)


@dataclass(frozen=True)
class Decoded:
    """The records of a write-ahead file: a table for each set of columns, and how many frames made no sense."""

    frames: list[pl.DataFrame]
    damaged: int


def decode_records(contents: Iterable[bytes], pause: Pause | None = None) -> Decoded:
    """Tables of the frames of one file. A frame that is no record, or whose version has no schema, is damaged.

    pause: called after each stretch with the seconds it took, so that threads that answer requests get their turn.
    """
    schemas: dict[str, RecordSchema] = {}
    tables: dict[tuple[Any, ...], list[pl.DataFrame]] = {}
    damaged = 0
    remaining = iter(contents)
    started = time.perf_counter()
    while chunk := list(islice(remaining, _CHUNK)):
        groups: dict[tuple[Any, ...], tuple[RecordSchema, list[Record]]] = {}
        for content in chunk:
            try:
                found = _decode(content)
                if isinstance(found, RecordSchema):
                    schemas[found.version] = found
                    continue
                schema = schemas[found.version]
            except (msgspec.MsgspecError, KeyError):
                damaged += 1
                continue
            groups.setdefault(schema.columns, (schema, []))[1].append(found)
        for columns, (schema, records) in groups.items():
            tables.setdefault(columns, []).append(frame_of(schema, records))
        if pause is not None:
            pause(time.perf_counter() - started)
            started = time.perf_counter()
    return Decoded([pl.concat(parts) for parts in tables.values()], damaged)


def frame_of(schema: RecordSchema, records: Sequence[Record]) -> pl.DataFrame:
    """The rows of records that share their columns, in order."""
    rows = np.array([schema.rows_of(record) for record in records])
    total = int(rows.sum())
    first = np.repeat(np.cumsum(rows) - rows, rows)
    columns: dict[str, pl.Series] = {
        "request_id": pl.Series([record.request_id for record in records], dtype=pl.String),
        "time": pl.Series([record.time_us for record in records], dtype=pl.Int64).cast(MOMENT),
        "as_of": pl.Series([record.as_of_us for record in records], dtype=pl.Int64).cast(MOMENT),
        "version": pl.Series([record.version for record in records], dtype=pl.String),
        "route": pl.Series([record.route for record in records], dtype=pl.String),
        "latency_s": pl.Series([record.latency_s for record in records], dtype=pl.Float32),
        "caller": pl.Series([record.caller or None for record in records], dtype=pl.String),
        "question": pl.Series([_number(record.question) for record in records], dtype=pl.Int64),
    }
    if total != len(records):
        of_row = pl.Series(np.repeat(np.arange(len(records)), rows))
        columns = {name: column.gather(of_row) for name, column in columns.items()}
    number_of_row = pl.Series(np.arange(total) - first).cast(pl.Int32)
    parts = {"request_id": columns.pop("request_id"), "row": number_of_row, **columns}
    parts["reasons"] = _reasons(records, rows)
    parts |= _keys(schema, records) | _features(schema, records, total)
    parts |= columns_of(schema.answer, b"".join(record.answer for record in records))
    return pl.DataFrame(parts)


def columns_in(frames: Iterable[pl.DataFrame]) -> dict[str, pl.DataType]:
    """The columns that rows of the ledger have beside keys and features: those of all ledgers, and the answers'."""
    return COLUMNS | types_of_answers(frames)


def together(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Rows of the ledger as one table, with the columns that any of them has; what one lacks is null. A column that has
    changed its type is of one that holds all values: numbers are numbers, however many bits they have, else it is text.
    """
    columns = defaultdict[str, list[pl.Series]](list)
    for rows in frames:
        for column in rows.iter_columns():
            columns[column.name].append(column)
    types = {name: _type_of_all(found) for name, found in columns.items()}
    cast = [rows.with_columns(_cast(column, types[column.name]) for column in rows.iter_columns()) for rows in frames]
    return pl.concat(cast, how="diagonal")


def _type_of_all(columns: Sequence[pl.Series]) -> pl.DataType:
    """What holds no value has no say: else the same answer would look another with other rows beside it. Polars would
    make numbers of moments and of yes and no as well."""
    several = {column.dtype for column in columns}
    if len(several) > 1:
        several = {column.dtype for column in columns if column.null_count() < len(column)} or several - {pl.Null()}
    if len(several) > 1 and not all(type_.is_numeric() for type_ in several):
        return pl.String()
    return pl.concat([pl.DataFrame(schema={"": type_}) for type_ in several], how="vertical_relaxed").dtypes[0]


def _cast(column: pl.Series, type_: pl.DataType) -> pl.Series:
    if column.dtype == type_:
        return column
    holds_none = column.null_count() == len(column)  # there are types between which polars does not even cast that
    return pl.Series(column.name, dtype=type_).clear(len(column)) if holds_none else column.cast(type_)


def _number(question: bytes) -> int | None:
    return int.from_bytes(question, "big", signed=True) if question else None


def _reasons(records: Sequence[Record], rows: NDArray[np.int64]) -> pl.Series:
    """Few records have any."""
    if not any(record.reasons for record in records):
        return pl.repeat(None, int(rows.sum()), dtype=pl.String, eager=True)
    texts = [record.reasons or (None,) * count for record, count in zip(records, rows.tolist(), strict=True)]
    return pl.Series([text for some in texts for text in some], dtype=pl.String)


def _keys(schema: RecordSchema, records: Sequence[Record]) -> dict[str, pl.Series]:
    nothing = [None] * len(schema.keys)
    values: list[list[Any]] = []
    for record in records:
        values += record.keys if record.keys is not None else [nothing] * schema.rows_of(record)
    columns = zip(*values, strict=True) if schema.keys else ()
    return {
        f"{KEY}{name}": pl.Series(column, dtype=DTYPES[type_], strict=False)
        for (name, type_), column in zip(schema.keys, columns, strict=True)
    }


def _features(schema: RecordSchema, records: Sequence[Record], total: int) -> dict[str, pl.Series]:
    """NaN and "" become null on the way in: polars would do it in a query of its own for each column, which took as
    much CPU as all else here, beside requests that are being answered."""
    matrix = np.frombuffer(b"".join(record.numbers for record in records), np.float32).reshape(total, -1)
    by_column = np.ascontiguousarray(matrix.T)
    present = [pa.array(column, from_pandas=True) for column in by_column]
    numbers = pl.DataFrame(pl.from_arrow(pa.table(present, [f"{FEATURE}{name}" for name in schema.numbers])))
    texts = [text or None for record in records for text in record.categories]
    categories = {
        f"{FEATURE}{name}": pl.Series(texts[position :: len(schema.categories)], dtype=pl.String)
        for position, name in enumerate(schema.categories)
    }
    return {column.name: column for column in numbers} | categories


def write_segment(artifacts: Artifacts, use_case: str, segment_id: str, frame: pl.DataFrame) -> str:
    """Write the rows of one segment and return its URL. Written again, it replaces itself."""
    return artifacts.write_table(frame, FOLDER, use_case, *_place(segment_id))


def copy_segment(artifacts: Artifacts, use_case: str, segment_id: str, content: bytes) -> None:
    """The same of a segment that lies elsewhere as a file."""
    artifacts.write_bytes(content, FOLDER, use_case, *_place(segment_id))


def named_for(segment_id: str, frame: pl.DataFrame) -> str:
    """The id of a segment with the range of its request ids and the millisecond of its last answer."""
    least, greatest = frame["request_id"].min(), frame["request_id"].max()
    last_ms = int(frame["time"].dt.timestamp("ms").max())  # type: ignore[arg-type]
    return f"{segment_id}.{_digits(str(least))}-{_digits(str(greatest))}.{last_ms:012x}"


def may_hold(segment: Segment, least: str, greatest: str) -> bool:
    """Whether a request with an id from `least` to `greatest` can be in a segment, by its name."""
    found = _RANGE.search(segment.id)
    return found is None or (found[1] <= _digits(greatest) and _digits(least) <= found[2])


def _digits(request_id: str) -> str:
    """The milliseconds of a UUIDv7; of any id what it is ordered by first."""
    return request_id[:8] + request_id[9:13]


def segments(
    artifacts: Artifacts, use_case: str, start: datetime | None = None, end: datetime | None = None
) -> list[Segment]:
    """All segments that can hold a record answered in `start <= time < end`, in the order of their moments.

    A segment appears up to one rotation after its moment, and later where storage was away or its writer died: who
    follows the ledger must look again at moments behind the newest segment it has seen.
    """
    earliest = None if start is None else (start - LONGEST_SEGMENT).astimezone(UTC)
    latest = None if end is None else end.astimezone(UTC)
    found = []
    for day in _days(artifacts, use_case):
        if earliest is not None and day < earliest.date().isoformat():
            continue
        if latest is not None and day > latest.date().isoformat():
            break
        found += [
            segment
            for segment in _of_day(artifacts, use_case, day)
            if (start is None or segment.until >= start) and (latest is None or segment.time < latest)
        ]
    return found


def read_segment(url: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of a segment, in the order in which they were answered; of `columns` those that it has."""
    filesystem, path = locate(url)
    with parquet_file(filesystem, path) as file:
        names = file.schema_arrow.names
        table = file.read(columns=names if columns is None else [name for name in columns if name in names])
    return pl.DataFrame(pl.from_arrow(table))


def read_between(
    url: str, column: str, low: Any, high: Any, wanted: Callable[[str], bool] | None = None
) -> pl.DataFrame:
    """The rows of a segment with `low <= column <= high`, of the columns that are wanted (None: all).

    Only stretches of rows are read that can hold one, which the file's last bytes tell: a file without any costs those
    alone, as ids and moments lie in their order.
    """
    filesystem, path = locate(url)
    with parquet_file(filesystem, path) as file:
        names = [name for name in file.schema_arrow.names if wanted is None or wanted(name)]
        position = file.metadata.schema.names.index(column)
        groups = [
            group
            for group in range(file.num_row_groups)
            if _meets(file.metadata.row_group(group).column(position).statistics, low, high)
        ]
        table = file.read_row_groups(groups, columns=list(dict.fromkeys((*names, column))))
    rows = pl.DataFrame(pl.from_arrow(table)).filter(pl.col(column).is_between(pl.lit(low), pl.lit(high)))
    return rows.select(names)


def _meets(range_: Any, low: Any, high: Any) -> bool:
    return range_ is None or not range_.has_min_max or (range_.min <= high and range_.max >= low)


def settled(look: Callable[[], _Found], use_case: str) -> _Found:
    """What a look at files gives. It is repeated where one was moved or replaced meanwhile."""
    for _ in range(_LOOKS):
        with suppress(FileNotFoundError):
            return look()
    raise UnavailableError(f"The ledger of {use_case} is changed as fast as it is read. Try again.")


def delete_segment(artifacts: Artifacts, use_case: str, segment: Segment) -> None:
    """Delete a segment, if it is still there."""
    delete_named(artifacts, use_case, segment.id)


def delete_named(artifacts: Artifacts, use_case: str, segment_id: str) -> None:
    """The same by its id."""
    artifacts.delete(FOLDER, use_case, *_place(segment_id))


def _place(segment_id: str) -> tuple[str, str]:
    moment = moment_of(segment_id[:36])
    assert moment is not None
    return moment.date().isoformat(), f"{segment_id}{_SUFFIX}"


def delete_before(artifacts: Artifacts, use_case: str, moment: datetime) -> None:
    """Delete the segments whose records were all answered before `moment`."""
    for day in _days(artifacts, use_case):
        if day > moment.astimezone(UTC).date().isoformat():
            break
        found = _of_day(artifacts, use_case, day)
        old = [segment for segment in found if segment.until <= moment]
        for segment in old:
            artifacts.delete(FOLDER, use_case, day, f"{segment.id}{_SUFFIX}")
        if len(old) == len(found) and day < (moment - LONGEST_SEGMENT).astimezone(UTC).date().isoformat():
            artifacts.delete(FOLDER, use_case, day)


def _days(artifacts: Artifacts, use_case: str) -> list[str]:
    return [entry.name for entry in artifacts.entries(FOLDER, use_case) if _DAY.fullmatch(entry.name)]


def _of_day(artifacts: Artifacts, use_case: str, day: str) -> list[Segment]:
    found = []
    for entry in artifacts.entries(FOLDER, use_case, day):
        moment = moment_of(entry.name[:36])
        if entry.name.endswith(_SUFFIX) and moment is not None:
            url = artifacts.url(FOLDER, use_case, day, entry.name)
            found.append(Segment(entry.name.removesuffix(_SUFFIX), url, moment, entry.size))
    return found
