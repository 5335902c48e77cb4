"""Retiring a snapshot: its rows go, and those that were made from it alone; manifests and records stay."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.catalogue.catalogue import Entry, catalogue, find_entry, held_by
from mlops_ray.catalogue.files import StoredFile
from mlops_ray.catalogue.records import expect_use_case, read_records
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, ConflictError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, read_events, record
from mlops_ray.governance.leases import holding
from mlops_ray.ingestion.snapshot import Retired, last_digest, retired, set_retired

EVENT = "data.retired"


@dataclass(frozen=True)
class Done:
    """freed_bytes: of files that no other snapshot has."""

    entry: Entry
    mark: Retired
    files: int
    freed_bytes: int

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {"snapshot": self.entry.name, "files": self.files, "freed_bytes": self.freed_bytes}


def lease(use_case: str) -> str:
    """The name of the lease of who takes rows out of a use case's data."""
    return f"data {use_case}"


def retire(
    settings: Settings, store: ControlStore, actor: Actor, use_case: str, digest: str, reason: str,
    force: Sequence[str] = (),
) -> Done:  # fmt: skip
    """Take the rows of a snapshot away, with the event `data.retired`; and the quarantined records, feature rows and
    training sets that no other snapshot has.

    digest: or its beginning. force: the live versions that may lose what they were trained on, each by its name
    (`flights@7`), and `last` where it is the snapshot of the last ingest. Raises ConflictError naming what depends on
    it otherwise; ConfigurationError without a reason.

    Readers see the mark first, and are refused; then files are deleted. Killed in between it is to be run again, which
    completes it. An ingest of the same rows takes the mark away again.
    """
    if not reason.strip():
        raise ConfigurationError("Say why the snapshot is retired: whoever misses its rows reads it.")
    artifacts, now = Artifacts(settings.artifacts), datetime.now(UTC)
    expect_use_case(artifacts, use_case)  # before anything is done in its name, which may come from afar
    with holding(store, lease(use_case)):
        entry = find_entry(catalogue(artifacts, store, now, use_case), use_case, digest)
        forced = _expect_free(entry, force)
        mark = entry.retired or Retired(actor.name, f"{now:%Y-%m-%d %H:%M:%S} UTC", reason, forced)
        before = last_digest(artifacts, use_case)
        if entry.retired is None:
            set_retired(artifacts, use_case, entry.digest, mark)
            if before != entry.digest and last_digest(artifacts, use_case) == entry.digest:
                set_retired(artifacts, use_case, entry.digest, None)
                raise ConflictError(f"{entry.name} was ingested at this moment, and stays.")
        gone = _only_of(artifacts, store, entry)
        for file in gone:
            with suppress(FileNotFoundError):
                artifacts.delete(*file.place)
        freed = entry.bytes - entry.shared_bytes
        if gone or not _is_told(store, entry, mark):
            payload = {"digest": entry.digest, "mark": asdict(mark), "freed_bytes": freed, "files": len(gone)}
            payload |= {"models": [model.version for model in entry.models], "training_sets": entry.training_sets}
            with store.transaction() as connection:
                subject = f"snapshot {entry.name}"
                record(connection, EVENT, actor, subject, use_case, payload=payload, reason=reason)
    return Done(entry, mark, len(gone), freed)


def _expect_free(entry: Entry, force: Sequence[str]) -> tuple[str, ...]:
    needed = tuple(f"{entry.use_case}@{version}" for version in entry.live_versions())
    needed += ("last",) if entry.is_last and entry.retired is None else ()
    if unknown := sorted(set(force) - set(needed)):
        raise ConfigurationError(f"--force {unknown[0]} names nothing that keeps {entry.name}: {_named(needed)}.")
    if missing := [name for name in needed if name not in force]:
        raise ConflictError(
            f"{entry.name} is needed: {_named(missing)}. Take another version live first, or retire it all the same "
            f"with {' '.join(f'--force {name}' for name in missing)}."
        )
    return needed


def _named(needed: Sequence[str]) -> str:
    said = ["the last ingest gave it (last)" if name == "last" else f"{name} is live" for name in needed]
    return ", ".join(said) or "nothing does"


def _only_of(artifacts: Artifacts, store: ControlStore, entry: Entry) -> list[StoredFile]:
    """The files of a snapshot that no other one of its use case names."""
    records = read_records(artifacts, store, entry.use_case)
    others = {
        file.place
        for digest in records.manifests
        if digest != entry.digest and retired(artifacts, entry.use_case, digest) is None
        for file in held_by(artifacts, records, digest)
    }
    return [file for file in held_by(artifacts, records, entry.digest) if file.place not in others]


def _is_told(store: ControlStore, entry: Entry, mark: Retired) -> bool:
    told = read_events(store, 0, entry.use_case, [EVENT], f"snapshot {entry.name}")
    return any(event.payload["mark"]["at"] == mark.at for event in told)
