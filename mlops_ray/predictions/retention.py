"""Retention: how long a use case keeps predictions and labels, and that it is carried out.

What the use case last declared lies at `ledger/<use case>/retention.json`, so that who looks after the ledger needs no
line of the user's code.
"""

from datetime import UTC, datetime, timedelta

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.predictions.labels import KEYS, Labels, LabelSegment, rewrite_labels
from mlops_ray.predictions.segments import FOLDER, delete_before, read_segment
from mlops_ray.predictions.table import LedgerTable
from mlops_ray.predictions.tombstones import drop_tombstones
from mlops_ray.use_case import UseCase

_FILE, _DAYS = "retention.json", "keep_days"


def declare_retention(artifacts: Artifacts, use_case: UseCase) -> None:
    """Let what the use case declares now count from now on."""
    keep = use_case.keep_predictions
    declared = {_DAYS: None if keep is None else keep.days}
    if artifacts.read_json(FOLDER, use_case.name, _FILE) != declared:
        artifacts.write_json(declared, FOLDER, use_case.name, _FILE)


def retention_of(artifacts: Artifacts, use_case: str) -> timedelta | None:
    """What was declared last; None: for ever, or nobody has said."""
    days = (artifacts.read_json(FOLDER, use_case, _FILE) or {}).get(_DAYS)
    return None if days is None else timedelta(days=days)


def retain(artifacts: Artifacts, use_case: str, keep: timedelta, now: datetime) -> None:
    """Delete the predictions that were answered, and the labels that came, on days (UTC) that ended longer than `keep`
    ago. A label is never told long before its prediction, so it stays as long as that."""
    day = (now.astimezone(UTC) - keep).date()
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    delete_before(artifacts, use_case, begin)
    LedgerTable(artifacts, use_case).delete_before(day)
    for segment in Labels(artifacts, use_case).segments():
        # What is about one of the days that are kept is looked at when that day is over.
        if not day.isoformat() <= segment.part.removeprefix(KEYS) <= now.astimezone(UTC).date().isoformat():
            _retain_labels(artifacts, use_case, segment, begin)
    drop_tombstones(artifacts, use_case, begin)


def _retain_labels(artifacts: Artifacts, use_case: str, segment: LabelSegment, begin: datetime) -> None:
    """By when they came: the ids and events that they name are of any time, as old orders are asked about, too."""
    if (read_segment(segment.url, ["received_at"])["received_at"] < begin).any():
        rows = read_segment(segment.url)
        rewrite_labels(artifacts, use_case, segment, rows.filter(pl.col("received_at") >= begin))
