"""How many labels have come: read from shared storage, where each segment is read once and then known by its ends."""

from datetime import datetime

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.predictions.labels import Labels, LabelSegment
from mlops_ray.predictions.segments import read_segment, settled


class NewLabels:
    """Counts labels as they were told: a correction, or a label told twice, counts again."""

    def __init__(self, settings: Settings, use_case: str):
        self._labels, self._use_case = Labels(Artifacts(settings.artifacts), use_case), use_case
        self._ends: dict[str, tuple[datetime, datetime, int]] = {}

    def __call__(self, since: datetime | None, until: datetime) -> int:
        """Labels that became known after `since` (None: ever), and not after `until`."""
        return settled(lambda: self._counted(since, until), self._use_case)

    def _counted(self, since: datetime | None, until: datetime) -> int:
        segments = self._labels.segments()
        there = {segment.url for segment in segments}
        self._ends = {url: ends for url, ends in self._ends.items() if url in there}
        return sum(self._count(segment, since, until) for segment in segments)

    def _count(self, segment: LabelSegment, since: datetime | None, until: datetime) -> int:
        if segment.url not in self._ends:
            known = _known(segment)
            self._ends[segment.url] = (known.min(), known.max(), len(known))  # type: ignore[assignment]
        first, last, rows = self._ends[segment.url]
        if rows == 0 or first > until or (since is not None and last <= since):
            return 0
        if last <= until and (since is None or first > since):
            return rows
        known = _known(segment)
        return int(((known <= until) & (known > since if since is not None else True)).sum())


def _known(segment: LabelSegment) -> pl.Series:
    rows = read_segment(segment.url, ("label", "known_at"))
    return rows.drop_nulls("label")["known_at"]
