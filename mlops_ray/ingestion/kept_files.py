"""Kept files: which judged files an ingest still uses. What none uses goes, a day after that was first seen.

`judged_use/<use case>.json` names those of its last ingest, written before they are looked for: the ingest of another
use case that comes to an end meanwhile leaves them alone.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta

from mlops_ray.artifacts import Artifacts
from mlops_ray.ingestion.judged import FOLDER

USE, UNUSED = "judged_use", "unused.json"
GRACE = timedelta(days=1)
REMEMBERED = timedelta(days=30)  # what a use case used that was not ingested since

_logger = logging.getLogger(__name__)


def begin_use(artifacts: Artifacts, use_case: str, keys: Iterable[str], now: datetime) -> None:
    """Say that an ingest of the use case works with the judged files under these keys, beside those of the last."""
    _write(artifacts, use_case, {*_keys(artifacts.read_json(USE, f"{use_case}.json")), *keys}, now)


def end_use(artifacts: Artifacts, use_case: str, keys: Iterable[str], now: datetime) -> None:
    """Say that the use case needs these keys and no others, and delete what nobody has needed for a day."""
    _write(artifacts, use_case, set(keys), now)
    there = {entry.name for entry in artifacts.entries(FOLDER)}
    seen = _moments(artifacts.read_json(USE, UNUSED))
    unused = {key: seen.get(key, now) for key in sorted(there - _used(artifacts, now))}
    over = [key for key, since in unused.items() if since <= now - GRACE]
    for key in over:
        with suppress(FileNotFoundError):  # another process that ends at the same time
            artifacts.delete(FOLDER, key)
    if over:
        _logger.info("Deleted %d judged files that no ingest has used for a day", len(over))
    left = {key: since for key, since in unused.items() if key not in over}
    if left != seen:
        artifacts.write_json({key: since.isoformat() for key, since in left.items()}, USE, UNUSED)


def _used(artifacts: Artifacts, now: datetime) -> set[str]:
    used: set[str] = set()
    for entry in artifacts.entries(USE):
        if entry.name == UNUSED:
            continue
        found = artifacts.read_json(USE, entry.name) or {}
        if datetime.fromisoformat(found["at"]) < now - REMEMBERED:
            artifacts.delete(USE, entry.name)
        else:
            used |= _keys(found)
    return used


def _write(artifacts: Artifacts, use_case: str, keys: set[str], now: datetime) -> None:
    artifacts.write_json({"keys": sorted(keys), "at": now.isoformat()}, USE, f"{use_case}.json")


def _keys(found: dict[str, list[str]] | None) -> set[str]:
    return set(found["keys"]) if found else set()


def _moments(found: dict[str, str] | None) -> dict[str, datetime]:
    return {key: datetime.fromisoformat(at) for key, at in (found or {}).items()}
