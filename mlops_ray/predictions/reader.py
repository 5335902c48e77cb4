"""Ledger: every prediction that was answered, each once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.predictions.ids import moment_of
from mlops_ray.predictions.segments import columns_in, may_hold, read_between, segments, settled, together
from mlops_ray.predictions.table import SEGMENT, LedgerTable, as_they_came, own_name

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

PARTITION_BYTES = 64 << 20
LONGEST_RETRY = timedelta(minutes=10)
_BEGINNING, _END = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_IDENTITY = ("request_id", "row", "time", "version", "route", "question")
_SHADOW = "__shadow"
_READS_AT_A_TIME = 16


class Ledger:
    """The predictions of one use case that lie on shared storage; see `segments` for the columns.

    A caller who repeats a request, with its id, may be answered and recorded twice: of two records of a row of the same
    request and question the first counts. Another question under the same id is another prediction. Shadow answers are
    counted apart from the ones that callers got, each version for itself. A repetition that comes more than
    `LONGEST_RETRY` after the first counts as a prediction of its own, unless both lie in what is read.
    """

    def __init__(self, settings: Settings, use_case: str):
        self._artifacts = Artifacts(settings.artifacts)
        self._use_case = use_case

    def frame(
        self, start: datetime | None = None, end: datetime | None = None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """The predictions answered in `start <= time < end`, by time, read in this process.

        Without `columns` all of them, else each that is named once; where versions differ in theirs, what one lacks is
        null.
        """
        return _read(self._artifacts, self._use_case, *_span(start, end), columns)

    def between(
        self, start: datetime | None = None, end: datetime | None = None, columns: Sequence[str] | None = None
    ) -> "ray.data.Dataset":
        """The same as a Ray Dataset: one block while it is small, else a block for each stretch of time.

        Nothing is shuffled: each task also reads the `LONGEST_RETRY` before its stretch, and so knows what is a
        repetition.
        """
        import ray

        read = ray.remote(_read_arrow)
        names = None if columns is None else list(columns)
        return ray.data.from_arrow_refs(
            [read.remote(self._artifacts, self._use_case, low, high, names) for low, high in self.stretches(start, end)]
        )

    def stretches(self, start: datetime | None = None, end: datetime | None = None) -> list[tuple[datetime, datetime]]:
        """`start..end` divided into stretches of about `PARTITION_BYTES` of files."""
        start, end = _span(start, end)
        found = segments(self._artifacts, self._use_case, start, end)
        files = LedgerTable(self._artifacts, self._use_case).files(start, end)
        begins = [(segment.time, segment.bytes) for segment in found]
        begins += [begin for file in files for begin in _stretches(file.first, file.last, file.bytes)]
        return list(pairwise(_borders(sorted(begins), start, end)))

    def find(self, request_id: str, start: datetime | None = None, end: datetime | None = None) -> pl.DataFrame:
        """All that was answered under a request's id, by time: other questions and repetitions, too.

        The moment in a UUIDv7 says where to look first, up to an hour around it. What was answered at another time, and
        what has another id, is looked for everywhere, in each file whose ids lie around it: with `start` there are
        fewer. Of an id that was sent near its moment and again much later, `start` finds the later answers.
        """
        moment = moment_of(request_id)
        if start is None and moment is not None:
            first, latest = around(moment)
            near = _span(first, min(end or latest, latest))
            if (rows := rows_of_request(self._artifacts, self._use_case, request_id, *near)).height:
                return rows
        return rows_of_request(self._artifacts, self._use_case, request_id, *_span(start, end))


def around(moment: datetime) -> tuple[datetime, datetime]:
    """An hour before it and one after, as clocks differ and callers repeat, within the years that `_span` has."""
    moment = min(max(moment, _BEGINNING), _END)
    return moment - timedelta(hours=1), moment + timedelta(hours=1)


def _span(start: datetime | None, end: datetime | None) -> tuple[datetime, datetime]:
    """A span within the years in which anything can have been answered, in which hours can be added to it."""
    return max(start or _BEGINNING, _BEGINNING), min(max(end or _END, _BEGINNING), _END)


def rows_between(
    artifacts: Artifacts,
    use_case: str,
    start: datetime,
    end: datetime,
    wanted: Callable[[str], bool] | None = None,
) -> list[pl.DataFrame]:
    """All rows answered in `start <= time < end`, in the table and in segments, each as often as it was answered.

    wanted: of the columns, None for all.
    """
    return settled(lambda: _read_both(artifacts, use_case, start, end, None, wanted), use_case)


def rows_of_requests(
    artifacts: Artifacts, use_case: str, ids: pl.Series, wanted: Callable[[str], bool] | None = None
) -> list[pl.DataFrame]:
    """The same of all rows that were answered under some ids, whenever that was; there must be one at least.

    wanted: as before; `request_id` among them.
    """
    return settled(lambda: _read_both(artifacts, use_case, _BEGINNING, _END, ids, wanted), use_case)


def rows_of_request(
    artifacts: Artifacts, use_case: str, request_id: str, start: datetime, end: datetime
) -> pl.DataFrame:
    """All that was answered under an id in `start <= time < end`, by time; however its digits are written."""
    ids = pl.Series([request_id.lower()])
    found = settled(lambda: _read_both(artifacts, use_case, start, end, ids, None), use_case)
    frames = [frame for frame in found if frame.height]
    return together([pl.DataFrame(schema=columns_in(frames)), *frames]).sort("time", maintain_order=True)


def _read_both(
    artifacts: Artifacts,
    use_case: str,
    start: datetime,
    end: datetime,
    ids: pl.Series | None,
    wanted: Callable[[str], bool] | None,
) -> list[pl.DataFrame]:
    """The rows of the table and of the segments that it does not have: of `ids`, or without them of the time. A segment
    that is moved lies in both for a moment; the segments are listed first, so that what is none any more is in the
    table."""
    found = segments(artifacts, use_case, start, end)
    files = LedgerTable(artifacts, use_case).files(start, end)
    condition: tuple[str, Any, Any] = "time", start, end - timedelta(microseconds=1)
    if ids is not None:
        ends = str(ids.min()), str(ids.max())
        condition = "request_id", *ends
        found = [segment for segment in found if may_hold(segment, *ends)]
        files = [file for file in files if file.may_hold(*ends)]

    def read(url: str, wanted: Callable[[str], bool] | None) -> pl.DataFrame:
        rows = read_between(url, *condition, wanted)
        return rows if ids is None else rows.filter(pl.col("request_id").is_in(ids.implode()))

    moved = [read(file.url, lambda name: name == SEGMENT or wanted is None or wanted(own_name(name))) for file in files]
    there = {name for rows in moved for name in rows[SEGMENT].unique()}
    with ThreadPoolExecutor(_READS_AT_A_TIME) as threads:
        urls = [segment.url for segment in found if segment.id not in there]
        rest = list(threads.map(lambda url: read(url, wanted), urls))
    return [part for rows in moved for part in as_they_came(rows)] + rest


def _read(
    artifacts: Artifacts, use_case: str, start: datetime, end: datetime, columns: Sequence[str] | None
) -> pl.DataFrame:
    """What is answered in `start <= time < end`, each once, by time."""
    names = None if columns is None else {*_IDENTITY, *columns}
    wanted = None if names is None else names.__contains__
    frames = rows_between(artifacts, use_case, start - LONGEST_RETRY, end, wanted)
    schema = {name: type_ for name, type_ in columns_in(frames).items() if names is None or name in names}
    found = first_of_each(together([pl.DataFrame(schema=schema), *frames])).filter(pl.col("time") >= start)
    if columns is None:
        return found
    named = dict.fromkeys(columns)
    return found.select(name if name in found.columns else pl.lit(None).alias(name) for name in named)


def _read_arrow(
    artifacts: Artifacts, use_case: str, start: datetime, end: datetime, columns: Sequence[str] | None
) -> "pa.Table":
    return _read(artifacts, use_case, start, end, columns).to_arrow()


def first_of_each(rows: pl.DataFrame) -> pl.DataFrame:
    """By time, without the repetitions of an answer that is there already."""
    shadow = pl.when(pl.col("route") == "shadow").then("version")
    ordered = rows.sort("time", maintain_order=True).with_columns(shadow.alias(_SHADOW))
    identity = ["request_id", "row", "question", _SHADOW]
    return ordered.unique(identity, keep="first", maintain_order=True).drop(_SHADOW)


def _borders(found: Sequence[tuple[datetime, int]], start: datetime, end: datetime) -> list[datetime]:
    """Moments that divide `start..end` into stretches of about `PARTITION_BYTES`, beginning and end included.

    found: where so many bytes begin, in order.
    """
    borders, size = [start], 0
    for moment, bytes_ in found:
        if size >= PARTITION_BYTES and moment > borders[-1]:
            borders.append(moment)
            size = 0
        size += bytes_
    return [*borders, end]


def _stretches(first: datetime, last: datetime, size: int) -> list[tuple[datetime, int]]:
    """A file of the table as if its rows were spread evenly over its time."""
    count = 1 + size // PARTITION_BYTES
    return [(first + (last - first) * number / count, size // count) for number in range(count)]
