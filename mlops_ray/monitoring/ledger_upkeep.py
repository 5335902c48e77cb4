"""Upkeep of a ledger: at an interval, by one process at a time, it becomes small and what is too old is deleted.

What the last round did lies at `ledger/<use case>/upkeep.json`.
"""

import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.leases import holding
from mlops_ray.monitoring.ledger_feed import SETTLED, may_be_moved
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.predictions.compaction import BATCH_BYTES, compact
from mlops_ray.predictions.erasure import upkeep_lease
from mlops_ray.predictions.label_compaction import compact_labels
from mlops_ray.predictions.retention import retain, retention_of
from mlops_ray.predictions.segments import FOLDER

ACTOR_BATCH_BYTES = 64 << 20  # beside replicas, memory counts for more than few files
_FILE = "upkeep.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upkeep:
    """One round: when it began, how many segments and rows it moved to the table, and files of labels it merged.

    problem: why it failed, "" if it did not; failing_since: since when no round has ended well.
    """

    at: datetime
    segments: int = 0
    rows: int = 0
    label_files: int = 0
    problem: str = ""
    failing_since: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        since = self.failing_since
        return {**asdict(self), "at": self.at.isoformat(), "failing_since": since and since.isoformat()}


def keep_up(settings: Settings, store: ControlStore, use_case: str, batch_bytes: int = BATCH_BYTES) -> Upkeep:
    """One round, now: delete what is older than the use case keeps, move to the table what the drift actor has read,
    merge small files of labels.

    What it did, or why it failed, is kept for `last_upkeep`. Raises ConflictError if another process is at it, and what
    made it fail; then it can be run again at once.
    """
    artifacts = Artifacts(settings.artifacts)
    with holding(store, upkeep_lease(use_case)):
        now = _now(store)
        try:
            done = _round(artifacts, use_case, now, batch_bytes)
        except Exception as error:
            before = last_upkeep(artifacts, use_case)
            since = (before and before.failing_since) or now
            _write(artifacts, use_case, Upkeep(now, problem=f"{type(error).__name__}: {error}", failing_since=since))
            raise
        _write(artifacts, use_case, done)
    return done


def keep_up_if_due(settings: Settings, store: ControlStore, use_case: str) -> Upkeep | None:
    """A round, if `ledger_upkeep_every_s` have passed since anybody's last one, well or not."""
    last = last_upkeep(Artifacts(settings.artifacts), use_case)
    if last is not None and _now(store) - last.at < timedelta(seconds=settings.ledger_upkeep_every_s):
        return None
    try:
        return keep_up(settings, store, use_case, ACTOR_BATCH_BYTES)
    except ConflictError as error:
        _logger.info("The ledger of %s is looked after later: %s", use_case, error)
        return None


def last_upkeep(artifacts: Artifacts, use_case: str) -> Upkeep | None:
    """The last round; None if there never was one."""
    found = artifacts.read_json(FOLDER, use_case, _FILE)
    if found is None:
        return None
    moments = {name: found[name] and datetime.fromisoformat(found[name]) for name in ("at", "failing_since")}
    return Upkeep(**{**found, **moments})


def _round(artifacts: Artifacts, use_case: str, now: datetime, batch_bytes: int) -> Upkeep:
    keep = retention_of(artifacts, use_case)
    if keep is not None:
        retain(artifacts, use_case, keep, now)
    known = read_state(artifacts, use_case)
    read = may_be_moved(known.newest, known.segments, now)
    ready = compact(artifacts, use_case, lambda one: one.time < now - SETTLED and read(one), batch_bytes)
    merged = compact_labels(artifacts, use_case)
    return Upkeep(now, ready.segments, ready.rows, merged)


def _write(artifacts: Artifacts, use_case: str, done: Upkeep) -> None:
    artifacts.write_json(done.to_json(), FOLDER, use_case, _FILE)


def _now(store: ControlStore) -> datetime:
    with store.reading() as connection:
        return database_now(connection)
