"""What lies below the output of a scoring run: `predictions/` and `quarantine/`, `run.json` first, `scores.json` last.

The segments for the ledger wait in `ledger/` until all is scored, which `scored.json` says. A run that was killed and
is started again on the same output therefore leaves each row once, whatever has changed since, be it the champion or
how the rows come divided: before that moment the ledger has nothing of it, and it begins anew; after it nothing is
scored again, and the segments, which have names of their own, are moved.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import ray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.predictions.ids import microseconds, uuid7_at
from mlops_ray.predictions.segments import copy_segment
from mlops_ray.predictions.tombstones import leave_out_erased, tombstones

PREDICTIONS, QUARANTINE, WAITING = "predictions", "quarantine", "ledger"
_FOLDERS = (PREDICTIONS, QUARANTINE, WAITING)
_RUN, _SCORED, _SCORES = "run.json", "scored.json", "scores.json"
_OURS = re.compile(r"part-\d{5,}-\d{3,}\.parquet|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.parquet")
_AT_A_TIME = 16


@dataclass(frozen=True)
class Begun:
    """A run that has its place. `scored`: the scores of one that was killed when all was scored, else None."""

    id: str
    started: datetime
    scored: dict[str, Any] | None = None


def begin(output: str, use_case: str) -> Begun:
    """Take the output for a run; what an earlier one left unfinished there is removed, and nothing else ever is.

    Raises ConfigurationError for a relative path, DataError if it holds a finished run, that of another use case, or
    what no run of scoring wrote.
    """
    if not output.startswith("/") and "://" not in output:
        raise ConfigurationError(f"The output {output!r} is a relative path. Give an absolute path or a URL.")
    artifacts = Artifacts(output)
    there = {entry.name for entry in artifacts.entries()}
    if _SCORES in there:
        raise DataError(f"{output} holds the scores of a finished run. Give another output, or delete it.")
    found = artifacts.read_json(_RUN) if _RUN in there else None
    foreign = [name for name in (_RUN, *_FOLDERS) if name in there]
    if foreign and (not isinstance(found, dict) or not {"id", "started", "use_case"} <= found.keys()):
        raise DataError(f"{output} holds {foreign[0]!r}, which no run of scoring wrote. Give another output.")
    if found and found["use_case"] != use_case:
        raise DataError(f"{output} holds an unfinished run of {found['use_case']}. Give another output, or delete it.")
    if found and (scored := artifacts.read_json(_SCORED)) is not None:
        return Begun(found["id"], datetime.fromisoformat(found["started"]), scored)
    for folder in _FOLDERS:
        for entry in artifacts.entries(folder):
            if not _OURS.fullmatch(entry.name):
                raise DataError(f"{output}/{folder} holds {entry.name!r}, which is not ours. Give another output.")
            artifacts.delete(folder, entry.name)
    now = datetime.now(UTC)
    run = Begun(uuid7_at(microseconds(now) // 1000), now)
    artifacts.write_json({"id": run.id, "started": now.isoformat(), "use_case": use_case}, _RUN)
    return run


def finish(output: str, settings: Settings, scores: dict[str, Any]) -> None:
    """Move what waits to the ledger, and say that the run is over. Killed at any point it can be repeated."""
    artifacts = Artifacts(output)
    if artifacts.read_json(_SCORED) is None:
        artifacts.write_json(scores, _SCORED)
    waiting = [entry.name for entry in artifacts.entries(WAITING)]
    move = ray.remote(_copy)
    for start in range(0, len(waiting), _AT_A_TIME):
        names = waiting[start : start + _AT_A_TIME]
        ray.get([move.remote(output, name, settings.artifacts, scores["use_case"]) for name in names])
    artifacts.write_json(scores, _SCORES)
    for name in waiting:
        artifacts.delete(WAITING, name)
    if not artifacts.entries(WAITING):
        artifacts.delete(WAITING)
    artifacts.delete(_SCORED)


def _copy(output: str, name: str, root: str, use_case: str) -> None:
    content = Artifacts(output).read_bytes(WAITING, name)
    ledger, segment_id = Artifacts(root), name.removesuffix(".parquet")
    copy_segment(ledger, use_case, segment_id, content)
    if tombstones(ledger, use_case):
        leave_out_erased(ledger, use_case, segment_id, pl.read_parquet(content))
