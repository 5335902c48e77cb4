"""The catalogue: every snapshot with what was made from it, what it takes to keep it, and what would go with it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.catalogue.files import StoredFile, files_below, once, total_bytes
from mlops_ray.catalogue.records import CaseRecords, Model, expect_use_case, read_records, use_cases
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.erased_rows import erased_from
from mlops_ray.ingestion.quarantine import FOLDER as QUARANTINE
from mlops_ray.ingestion.snapshot import REPAIRED, SNAPSHOTS, Retired, last_digest, retired


@dataclass(frozen=True)
class Entry:
    """A snapshot of a use case. rows: that were accepted, of all sources. is_last: of the last ingest.

    also_of: other use cases that have the same rows under the same digest, in folders of their own. bytes: of its
    tables, quarantined records, and feature rows and training sets made from it. shared_bytes: those of them that other
    snapshots have, too, on this disk only once; the rest is what retiring it would free. byte_days: of bytes that are
    not shared, or that no older snapshot has, since they were written. since: the first of these moments. Of one that
    was retired nothing is counted. erased: what was erased from it, in sentences.
    """

    use_case: str
    digest: str
    as_of: str
    rows: int
    is_last: bool
    also_of: tuple[str, ...]
    training_sets: tuple[str, ...]
    models: tuple[Model, ...]
    bytes: int
    shared_bytes: int
    byte_days: float
    since: datetime | None
    retired: Retired | None
    erased: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.use_case}@{self.digest[:12]}"

    def live_versions(self) -> tuple[int, ...]:
        return tuple(sorted(model.version for model in self.models if model.is_live))

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        found = asdict(self) | {"since": self.since and self.since.isoformat()}
        found["models"] = [{"version": model.version, "state": model.state} for model in self.models]
        return found


@dataclass(frozen=True)
class Catalogue:
    """bytes: of everything that is listed, each file once, however many snapshots have it; likewise byte_days."""

    entries: tuple[Entry, ...]
    bytes: int
    byte_days: float

    def shown(self) -> dict[str, Any]:
        return {
            "snapshots": [entry.shown() for entry in self.entries],
            "nothing_in_use_needs": [entry.name for entry in proposal(self)],
            "bytes": self.bytes,
            "byte_days": self.byte_days,
            "counted": "each file once, however many snapshots share it",
        }


def catalogue(artifacts: Artifacts, store: ControlStore, now: datetime, only: str | None = None) -> Catalogue:
    """All snapshots by use case and moment. only: of this use case; what is shared with others is known all the same.

    Raises ConfigurationError if there is no such use case.
    """
    if only is not None:
        expect_use_case(artifacts, only)
    records = {case: read_records(artifacts, store, case) for case in use_cases(artifacts)}
    held = {
        (case, digest): held_by(artifacts, one, digest)
        for case, one in records.items()
        for digest in one.manifests
        if retired(artifacts, case, digest) is None
    }
    names = Counter(identity for files in held.values() for identity in once(files))
    oldest = _oldest(records, held)
    entries = [
        _entry(artifacts, records, case, digest, held.get((case, digest), []), names, oldest, now)
        for case, one in records.items()
        for digest in one.manifests
        if only in (None, case)
    ]
    entries.sort(key=lambda one: (one.use_case, one.as_of, one.digest))
    everything = once(file for (case, _), files in held.items() if only in (None, case) for file in files).values()
    return Catalogue(
        tuple(entries), sum(one.bytes for one in everything), sum(one.byte_days(now) for one in everything)
    )


def find_entry(found: Catalogue, use_case: str, digest: str) -> Entry:
    """The snapshot of a use case whose digest begins so. Raises ConfigurationError unless there is exactly one."""
    fitting = [one for one in found.entries if one.use_case == use_case and one.digest.startswith(digest)]
    if len(fitting) != 1 or not digest:
        there = ", ".join(one.digest[:12] for one in found.entries if one.use_case == use_case)
        raise ConfigurationError(
            f"{len(fitting)} snapshots of {use_case} begin with {digest!r}. There are: {there or 'none'}."
        )
    return fitting[0]


def proposal(found: Catalogue) -> list[Entry]:
    """The snapshots that nothing in use needs: not of a last ingest, no live model trained on them; largest first."""
    free = [one for one in found.entries if not (one.is_last or one.live_versions() or one.retired)]
    return sorted(free, key=lambda one: one.shared_bytes - one.bytes)


def held_by(artifacts: Artifacts, records: CaseRecords, digest: str) -> list[StoredFile]:
    """The files with rows that a snapshot holds: its own, and those that were made from it."""
    files = [
        one for one in files_below(artifacts, SNAPSHOTS, records.use_case, digest) if one.place[-1].endswith(".parquet")
    ]
    for source, content in records.manifests[digest]["content"].items():
        files += files_below(artifacts, QUARANTINE, records.use_case, source, content["quarantined"])
        files += files_below(artifacts, REPAIRED, records.use_case, source, f"{digest}.parquet")
    for place in records.made_of(digest):
        files += files_below(artifacts, *place)
    return files


def _entry(
    artifacts: Artifacts,
    records: Mapping[str, CaseRecords],
    case: str,
    digest: str,
    files: Sequence[StoredFile],
    names: Mapping[str, int],
    oldest: Mapping[str, tuple[str, str]],
    now: datetime,
) -> Entry:
    manifest, own = records[case].manifests[digest], once(files)
    counted = [one for identity, one in own.items() if oldest[identity] == (case, digest)]
    return Entry(
        use_case=case,
        digest=digest,
        as_of=manifest["as_of"],
        rows=sum(counts["accepted"] + counts["repaired"] for counts in manifest["counts"].values()),
        is_last=last_digest(artifacts, case) == digest,
        also_of=tuple(other for other, one in records.items() if other != case and digest in one.manifests),
        training_sets=tuple(records[case].training_sets_of(digest)),
        models=tuple(records[case].models_of(digest)),
        bytes=total_bytes(files),
        shared_bytes=sum(one.bytes for identity, one in own.items() if names[identity] > 1),
        byte_days=sum(one.byte_days(now) for one in counted),
        since=min((one.since for one in own.values()), default=None),
        retired=retired(artifacts, case, digest),
        erased=tuple(one.sentence for one in erased_from(artifacts, case, digest)),
    )


def _oldest(
    records: Mapping[str, CaseRecords], held: Mapping[tuple[str, str], Iterable[StoredFile]]
) -> dict[str, tuple[str, str]]:
    """To which snapshot each file is counted: of those that have it the one of the earliest moment."""
    found: dict[str, tuple[str, str]] = {}
    for key in sorted(held, key=lambda one: (records[one[0]].manifests[one[1]]["as_of"], *one)):
        for identity in once(held[key]):
            found.setdefault(identity, key)
    return found
