"""Retention: how long a use case keeps predictions and labels, and that it is carried out.

What the use case last declared lies at `ledger/<use case>/retention.json`, so that who looks after the ledger needs no
line of the user's code.
"""

from datetime import UTC, datetime, timedelta

from mlops_ray.artifacts import Artifacts
from mlops_ray.predictions.labels import KEYS, Labels, LabelSegment, delete_labels
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
    """Delete predictions and labels of the days (UTC) that ended longer than `keep` ago."""
    day = (now.astimezone(UTC) - keep).date()
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    delete_before(artifacts, use_case, begin)
    LedgerTable(artifacts, use_case).delete_before(day)
    for segment in Labels(artifacts, use_case).segments():
        named = segment.part.removeprefix(KEYS)
        if named < day.isoformat() if named[:1].isdigit() else _said_before(segment, day.isoformat()):
            delete_labels(artifacts, use_case, segment)
    drop_tombstones(artifacts, use_case, begin)


def _said_before(segment: LabelSegment, day: str) -> bool:
    """Of labels whose requests have no time: whether all came before a day."""
    newest = read_segment(segment.url, ["received_at"])["received_at"].max()
    return isinstance(newest, datetime) and newest.date().isoformat() < day
