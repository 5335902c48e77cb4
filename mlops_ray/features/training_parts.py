"""The files of a training set: one, or many in the order of time where it is too much for one process.

Each of many is made by a task of its own, which reads what the snapshot and the histories have of its slice of time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import polars as pl

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_each_row, digest_rows, partial_name
from mlops_ray.errors import ConfigurationError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.history_source import HistorySource, with_keys_of
from mlops_ray.features.labelled import labelled_rows, rows_with_told
from mlops_ray.features.on_demand import with_on_demand
from mlops_ray.features.parts import Part
from mlops_ray.features.slices import Carried, Slice, in_slices, join_slice, results, slices_of
from mlops_ray.features.spans import Span, read_between, schema_of, spans
from mlops_ray.ingestion.snapshot import Snapshot, expect_kept
from mlops_ray.use_case import Feature, UseCase

FOLDER = "training_sets"
_VALUE_BYTES = 12


@dataclass(frozen=True)
class Labelled:
    """What the rows of a training set are made of: a snapshot, and what was known at `as_of`."""

    use_case: UseCase
    artifacts: Artifacts
    snapshot: Snapshot
    as_of: datetime

    def rows(self, since: datetime | None = None, before: datetime | None = None) -> pl.DataFrame:
        """The labelled rows with moments of prediction in [since, before); see `labelled_rows`."""
        return labelled_rows(self.use_case, self.raw(since, before), self.as_of)

    def raw(self, since: datetime | None = None, before: datetime | None = None) -> pl.DataFrame:
        """The rows of the main source, with labels that are told, with moments of prediction in [since, before)."""
        case = self.use_case
        start, end = (None if moment is None else moment + case.lead_time for moment in (since, before))
        names = [name for name in (case.main_source, case.label.told) if name is not None]
        tables = {name: read_between([self._url(name)], case.event_time, start, end, None) for name in names}
        return rows_with_told(case, tables)

    def spans(self) -> list[Span]:
        """The rows of the main source by moments of prediction."""
        lead, found = self.use_case.lead_time, spans([self._url(self.use_case.main_source)], self.use_case.event_time)
        return [replace(one, first=one.first - lead, last=one.last - lead) for one in found]

    def row_bytes(self) -> int:
        """About how much memory the rows of the main source take."""
        counts = self.snapshot.counts[self.use_case.main_source]
        width = len(schema_of([self._url(self.use_case.main_source)]))
        return (counts.accepted + counts.repaired) * width * _VALUE_BYTES

    def _url(self, source: str) -> str:
        return self.artifacts.url(*self.snapshot.place(source))


@dataclass(frozen=True)
class Written:
    """What was written: a file, or a folder with `parts`."""

    url: str
    digest: str
    rows: int
    features: tuple[Feature, ...]
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class _Piece:
    """One part of many, where it waits for the digest of all."""

    name: str
    digest: ContentDigest
    first: datetime
    last: datetime
    features: tuple[Feature, ...]


def write_whole(labelled: Labelled, sources: Sequence[HistorySource]) -> Written:
    """The training set as one file, in the order of the main source. Nothing is written where it has no row."""
    expect_kept(labelled.artifacts, labelled.use_case.name, labelled.snapshot.digest)
    rows = labelled.rows()
    frame, features = _with_features(labelled.use_case, rows, sources, [])
    digest = digest_rows(frame).hex()
    place = (FOLDER, labelled.use_case.name, f"{digest}.parquet")
    url = labelled.artifacts.write_table(frame, *place) if frame.height else ""
    return Written(url, digest, frame.height, features)


def write_parts(labelled: Labelled, sources: Sequence[HistorySource]) -> Written:
    """The training set as files in the order of time, each of which has the order of the main source.

    The digest is that of the rows, however they are divided. Raises ConfigurationError where Ray is not initialised.
    """
    import ray

    if not ray.is_initialized():
        raise ConfigurationError(
            f"The training set of {labelled.use_case.name} is too large for one process, and Ray is not initialised. "
            f"Call ray.init() first."
        )
    artifacts, name = labelled.artifacts, labelled.use_case.name
    expect_kept(artifacts, name, labelled.snapshot.digest)
    waiting = (FOLDER, name, partial_name(labelled.snapshot.digest[:12]))
    work = partial(_write_piece, labelled, waiting)
    made = results(in_slices(slices_of(labelled.spans(), sources), sources, work))
    pieces: list[_Piece] = [piece for piece in made if piece is not None]
    total = sum((piece.digest for piece in pieces), ContentDigest())
    target = (FOLDER, name, f"{total.hex()}.parquet")
    parts = []
    for piece in pieces:
        artifacts.share((*waiting, piece.name), (*target, piece.name))
        parts.append(Part(artifacts.url(*target, piece.name), piece.digest.rows, piece.first, piece.last))
    artifacts.delete(*waiting)
    features = pieces[0].features if pieces else ()
    return Written(artifacts.url(*target), total.hex(), total.rows, features, tuple(parts))


def _write_piece(
    labelled: Labelled, folder: tuple[str, ...], one: Slice, sources: Sequence[HistorySource], carried: Carried
) -> _Piece | None:
    rows = labelled.rows(one.start, one.before)
    if rows.is_empty():
        return None
    frame, features = _with_features(labelled.use_case, rows, sources, carried)
    name = f"part-{one.number:05}.parquet"
    labelled.artifacts.write_table(frame, *folder, name)
    first, last = frame[PREDICTION_TIME].min(), frame[PREDICTION_TIME].max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return _Piece(name, digest_each_row(frame), first, last, features)


def _with_features(
    use_case: UseCase, rows: pl.DataFrame, sources: Sequence[HistorySource], carried: Carried
) -> tuple[pl.DataFrame, tuple[Feature, ...]]:
    """The rows with their features: those of the request, those of the views, and those computed of both."""
    joined = join_slice(with_keys_of(rows, sources), PREDICTION_TIME, sources, carried)
    names = [*use_case.features_of_request(), *joined.columns[rows.width :]]
    numbers = [name for name in names if joined.schema[name] != pl.String]
    frame = with_on_demand(joined.with_columns(pl.col(numbers).cast(pl.Float64)), use_case.on_demand_features)
    names += use_case.on_demand_features
    return frame, tuple(Feature(name, "category" if frame.schema[name] == pl.String else "number") for name in names)
