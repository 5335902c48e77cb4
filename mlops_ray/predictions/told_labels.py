"""Told labels as a source: what was said of predictions, over HTTP or in files, is in the next snapshot."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl
import polars.selectors as cs
import pyarrow as pa

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.predictions.labels import KEYS, SAID, UNDATED, Labels, LabelSegment, of_one_type
from mlops_ray.predictions.reader import rows_between, rows_of_requests
from mlops_ray.predictions.segments import KEY, read_segment, settled, together
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Column, Source
from mlops_ray.use_case.reader import Part

# A caller's clock makes the id and a replica's the record; and a request may be repeated.
_APART = timedelta(hours=1)
_NOTHING = Part("no labels", "0")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ToldLabels:
    """The labels of a use case that lie below the artifact root: the same that monitoring measures by. A reader.

    A row for each label as it was told, by what it is about: the key columns, `label` (null withdraws), `known_at` and
    `received_at`. Labels by request id have the keys that the ledger has for it; one whose prediction the ledger does
    not know (yet), or of which it has several with other keys, has no row. A part is a day: one that got new labels is
    read again.
    root: of the artifacts; the pipeline's own where it is None.
    """

    use_case: str
    root: str | None = None

    def below(self, root: str) -> "ToldLabels":
        """The same, where it does not say itself below which artifact root they lie."""
        return self if self.root is not None else ToldLabels(self.use_case, root)

    def parts(self) -> Sequence[Part]:
        """See `Reader`. Before the first label one part without rows."""
        found = settled(lambda: self._labels().segments(), self.use_case)
        days: dict[str, list[LabelSegment]] = defaultdict(list)
        for segment in found:
            days[segment.part].append(segment)
        return [self._part(day, segments) for day, segments in sorted(days.items())] or [_NOTHING]

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        if part == _NOTHING:
            return
        if (rows := settled(lambda: self._rows(part.name, columns), self.use_case)).height:
            yield from rows.to_arrow().to_batches()

    def _part(self, day: str, segments: Sequence[LabelSegment]) -> Part:
        # What a segment says never changes under its name, unless somebody is erased: then its size does.
        version = digest_json([[one.id, one.bytes] for one in segments])
        return Part(day, version, sum(one.bytes for one in segments))

    def _rows(self, day: str, columns: Sequence[str]) -> pl.DataFrame:
        segments = self._labels().of_part(day)
        said = of_one_type(read_segment(one.url) for one in segments)
        if not said:
            return pl.DataFrame(schema=SAID)
        found = pl.concat(said, how="diagonal_relaxed")
        if not day.startswith(KEYS):
            found = self._by_request(day, found, columns)
        keys = [name for name in found.columns if name.startswith(KEY)]
        # Of what was said at the same moment of the same thing the last holds, as it does in monitoring.
        order = ["known_at", "received_at", "label"]
        last = found.sort(order, nulls_last=False).unique([*keys, "known_at"], keep="last", maintain_order=True)
        return last.select(*(pl.col(key).alias(key.removeprefix(KEY)) for key in keys), *SAID)

    def _by_request(self, day: str, said: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        ids = ["request_id", "row"]
        wanted = {*ids, *(f"{KEY}{name}" for name in columns)}.__contains__
        artifacts, rows = Artifacts(self.root or ""), list[pl.DataFrame]()
        if day != UNDATED:
            start = datetime.fromisoformat(day).replace(tzinfo=UTC)
            end = start + timedelta(days=1)
            found = rows_between(artifacts, self.use_case, start - _APART, end + _APART, wanted)
            rows = [one.join(said, on=ids, how="semi") for one in found]
        # A caller's id need not be of the day on which it was asked.
        rest = said.select(ids)
        for one in rows:
            rest = rest.join(one, on=ids, how="anti")
        if rest.height:
            rows += rows_of_requests(artifacts, self.use_case, rest["request_id"].unique(), wanted)
        if not rows:
            return pl.DataFrame(schema=SAID)
        # One id, asked again by another version or caller, has the same keys; a version may lack some of them.
        labelled = together(rows).group_by(ids)
        labels = labelled.agg(cs.starts_with(KEY).drop_nulls().unique()).join(said, on=ids).drop(ids)
        clear = labels.filter(~pl.any_horizontal(cs.starts_with(KEY).list.len() > 1))
        if several := labels.height - clear.height:
            text = "%d labels of %s are by request ids that were sent again with other keys: no row."
            _logger.warning(text, several, self.use_case)
        return clear.with_columns(cs.starts_with(KEY).list.first())

    def _labels(self) -> Labels:
        return Labels(Artifacts(self.root or ""), self.use_case)


def told_labels(use_case: str, keys: Sequence[Column], task: Task = BINARY) -> Source:
    """The source of the labels that were told of a use case's predictions, for `Label(told=...)`.

    keys: the columns of its entities and event time, as its first source declares them. task: of the label. Of several
    labels of one thing the one known last at `as_of` counts.
    """
    return Source(
        path=None,
        reader=ToldLabels(use_case),
        columns=(
            *keys,
            Column("label", nullable=True, **task.told_as),
            Column("known_at", "timestamp"),
            Column("received_at", "timestamp"),
        ),
        key=tuple(key.name for key in keys),
        keep="last",
        keep_by="known_at",
        known_at=pl.col("known_at"),
    )
