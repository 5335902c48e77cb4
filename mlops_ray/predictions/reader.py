"""Ledger: every prediction that was answered, each once."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, settings_from_environment
from mlops_ray.errors import DataError
from mlops_ray.predictions.ids import moment_of
from mlops_ray.predictions.segments import COLUMNS, Segment, may_hold, read_segment, segments

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

PARTITION_BYTES = 64 << 20
LONGEST_RETRY = timedelta(minutes=10)
_BEGINNING, _END = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_IDENTITY = ("request_id", "row", "time", "version", "route", "question")
_SHADOW = "__shadow"


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

        Without `columns` all of them; where versions differ in theirs, what one lacks is null.
        """
        return _read(self._artifacts, self._use_case, start or _BEGINNING, end or _END, columns)

    def between(
        self, start: datetime | None = None, end: datetime | None = None, columns: Sequence[str] | None = None
    ) -> "ray.data.Dataset":
        """The same as a Ray Dataset: one block while it is small, else a block for each stretch of time.

        Nothing is shuffled: each task also reads the `LONGEST_RETRY` before its stretch, and so knows what is a
        repetition.
        """
        import ray

        found = segments(self._artifacts, self._use_case, start, end)
        read = ray.remote(_read_arrow)
        borders = _borders(found, start or _BEGINNING, end or _END)
        names = None if columns is None else list(columns)
        return ray.data.from_arrow_refs(
            [read.remote(self._artifacts, self._use_case, low, high, names) for low, high in pairwise(borders)]
        )

    def find(self, request_id: str, start: datetime | None = None, end: datetime | None = None) -> pl.DataFrame:
        """All that was answered under a request's id, by time: other questions and repetitions, too.

        The time in a UUIDv7 says where to look, up to an hour around it, as clocks differ and callers repeat; else give
        `start` and `end`. Raises DataError for an id without time when `start` is missing.
        """
        moment = moment_of(request_id)
        if start is None:
            if moment is None:
                raise DataError(f"Request id {request_id!r} is no UUIDv7, so it does not say when it was. Give start.")
            start, end = moment - timedelta(hours=1), end or moment + timedelta(hours=1)
        frames = [
            read_segment(segment.url).filter(pl.col("request_id") == request_id)
            for segment in segments(self._artifacts, self._use_case, start, end)
            if may_hold(segment.url, request_id)
        ]
        found = pl.concat([pl.DataFrame(schema=COLUMNS), *frames], how="diagonal_relaxed")
        return found.sort("time", maintain_order=True)


def ledger(use_case: str, settings: Settings | None = None) -> Ledger:
    """The ledger of a use case. settings: default from the environment (MLOPS_RAY_SETTINGS or MLOPS_RAY_STATE)."""
    return Ledger(settings or settings_from_environment(), use_case)


def _read(
    artifacts: Artifacts, use_case: str, start: datetime, end: datetime, columns: Sequence[str] | None
) -> pl.DataFrame:
    """What is answered in `start <= time < end`, each once, by time."""
    wanted = None if columns is None else tuple(dict.fromkeys((*_IDENTITY, *columns)))
    earliest = start - LONGEST_RETRY
    frames = [pl.DataFrame(schema={name: type_ for name, type_ in COLUMNS.items() if not wanted or name in wanted})]
    for segment in segments(artifacts, use_case, earliest, end):
        rows = read_segment(segment.url, wanted)
        frames.append(rows.filter((pl.col("time") >= earliest) & (pl.col("time") < end)))
    found = first_of_each(pl.concat(frames, how="diagonal_relaxed")).filter(pl.col("time") >= start)
    if columns is None:
        return found
    return found.select(name if name in found.columns else pl.lit(None).alias(name) for name in columns)


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


def _borders(found: Sequence[Segment], start: datetime, end: datetime) -> list[datetime]:
    """Moments that divide `start..end` into stretches of about `PARTITION_BYTES`, beginning and end included."""
    borders, size = [start], 0
    for segment in found:
        if size >= PARTITION_BYTES and segment.time > borders[-1]:
            borders.append(segment.time)
            size = 0
        size += segment.bytes
    return [*borders, end]
