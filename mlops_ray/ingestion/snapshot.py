"""Snapshots: the accepted rows of every source at one moment, immutable and named by the digest of their content."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Self

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import DataError, IntegrityError
from mlops_ray.ingestion.quarantine import FOLDER

SNAPSHOTS, MANIFEST, ACCEPTED, REPAIRED = "snapshots", "manifest.json", "accepted", "repairs"
_LAST, _RETIRED = "last_ingest", "retired.json"


@dataclass(frozen=True)
class LineCounts:
    """Whose the physical lines of text files are; their sum is the number of lines. Parquet files have none."""

    header: int
    blank: int
    accepted: int
    quarantined: int
    not_yet_known: int


@dataclass(frozen=True)
class SourceCounts:
    """What became of the rows of one source: rows_in = accepted + repaired + quarantined + not_yet_known.

    not_yet_known: of rows that became known after `as_of`. `reasons` counts quarantined rows by reason, `repairs`
    repairs by kind (a row can have several). lines: the same by physical lines, where accepted are repaired ones, too.
    """

    rows_in: int
    accepted: int
    repaired: int
    quarantined: int
    not_yet_known: int
    reasons: dict[str, int]
    repairs: dict[str, int]
    lines: LineCounts

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "lines": LineCounts(**value["lines"])})


def sum_counts(parts: Iterable[SourceCounts]) -> SourceCounts:
    """The counts of a source from those of its parts, which may be negative."""
    found = list(parts)
    rows = ("rows_in", "accepted", "repaired", "quarantined", "not_yet_known")
    return SourceCounts(
        **{name: sum(getattr(part, name) for part in found) for name in rows},
        reasons=_sum_codes(part.reasons for part in found),
        repairs=_sum_codes(part.repairs for part in found),
        lines=LineCounts(**{f.name: sum(getattr(part.lines, f.name) for part in found) for f in fields(LineCounts)}),
    )


def _sum_codes(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return {code: count for code, count in sorted(total.items()) if count}


@dataclass(frozen=True)
class Retired:
    """Who took the rows of a snapshot away, when and why. forced: the live versions that depended on it."""

    by: str
    at: str
    reason: str
    forced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's manifest. `files` maps each source to its files' SHA-256 by name, `content` to the digests of its
    accepted and its quarantined rows; `contract` is the digest of the column rules. `unreadable` says of each source
    which of its files were set aside, and why; `more`, which columns its files have that the contract does not name;
    `personal`, which of its columns tell of a person (None where the release that wrote it did not say).
    `parts`: the SHA-256 of each source's tables by the name of their files; the same rows may lie in other tables.

    `digest` is that of the accepted rows of all sources: the same rows in other files, with other refused rows beside
    them, are the same snapshot, whose manifest then tells of the last ingest.
    """

    use_case: str
    digest: str
    as_of: datetime
    contract: str
    code_version: str
    counts: dict[str, SourceCounts]
    content: dict[str, dict[str, str]]
    files: dict[str, dict[str, str]]
    unreadable: dict[str, dict[str, str]] = field(default_factory=dict)
    parts: dict[str, dict[str, str]] = field(default_factory=dict, compare=False)
    more: dict[str, list[str]] = field(default_factory=dict)
    personal: dict[str, list[str]] | None = None

    def tables(self, artifacts: Artifacts) -> dict[str, pl.DataFrame]:
        """The accepted rows of every source, by its name. Raises DataError if the snapshot was retired."""
        expect_kept(artifacts, self.use_case, self.digest)
        return {source: artifacts.read_table(*self.place(source)) for source in self.counts}

    def place(self, source: str) -> tuple[str, ...]:
        """The folder of the accepted rows of a source, below the artifact root."""
        return (SNAPSHOTS, self.use_case, self.digest, source, ACCEPTED)

    def size(self, artifacts: Artifacts) -> int:
        """The bytes of the tables' files."""
        return sum(entry.size for source in self.counts for entry in artifacts.entries(*self.place(source)))

    def quarantine(self, artifacts: Artifacts, source: str) -> pl.DataFrame:
        """The refused records of a source: `file`, `line`, `lines`, `reason`, `raw`.

        line: the first of its physical lines, counted from 1 (in a Parquet file: its row); lines: how many it has.
        reason: codes, joined by `;`. raw: its bytes as they stand in the file, uncompressed, with the end of the line;
        of a Parquet row its columns as JSON. Raises KeyError if there is no such source.
        """
        return artifacts.read_table(FOLDER, self.use_case, source, self.content[source]["quarantined"])

    def repairs(self, artifacts: Artifacts, source: str) -> pl.DataFrame:
        """What was filled in as it was last known (`Source.last_known`), a row for each value; empty if nothing was.

        `__file`, `__line`: of the row; `__column`, `__rule`, `__old` (null), `__new` (as text), `__since`: when the
        value became known; and the columns of `by`.
        """
        place = self.place_of_repairs(source)
        there = place[-1] in {entry.name for entry in artifacts.entries(*place[:-1])}
        return artifacts.read_table(*place) if there else pl.DataFrame()

    def place_of_repairs(self, source: str) -> tuple[str, ...]:
        return (REPAIRED, self.use_case, source, f"{self.digest}.parquet")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"as_of": self.as_of.isoformat()}


def write_last(artifacts: Artifacts, snapshot: Snapshot) -> None:
    """Note what the last ingest of a use case wrote, whether or not its expectations were met."""
    artifacts.write_json({"digest": snapshot.digest}, _LAST, f"{snapshot.use_case}.json")


def last_snapshot(artifacts: Artifacts, use_case: str) -> Snapshot:
    """The snapshot of the last ingest. Raises IntegrityError if there was none."""
    digest = last_digest(artifacts, use_case)
    if digest is None:
        raise IntegrityError(f"Nothing of {use_case} was ingested below {artifacts.root}. Run `mlops-ray run` first.")
    return load_snapshot(artifacts, use_case, digest)


def retired(artifacts: Artifacts, use_case: str, digest: str) -> Retired | None:
    """Who retired a snapshot; None if nobody did, or it was ingested again since."""
    found = artifacts.read_json(SNAPSHOTS, use_case, digest, _RETIRED)
    return Retired(**found | {"forced": tuple(found["forced"])}) if found else None


def set_retired(artifacts: Artifacts, use_case: str, digest: str, mark: Retired | None) -> None:
    """From now on the rows of a snapshot are for nobody to read; None: they are there again."""
    if mark is None:
        artifacts.delete(SNAPSHOTS, use_case, digest, _RETIRED)
    else:
        artifacts.write_json(asdict(mark), SNAPSHOTS, use_case, digest, _RETIRED)


def expect_kept(artifacts: Artifacts, use_case: str, digest: str) -> None:
    """Raise DataError if a snapshot was retired, naming who did it, when, and what brings its rows back."""
    mark = retired(artifacts, use_case, digest)
    if mark is not None:
        raise DataError(
            f"Snapshot {digest[:12]} of {use_case} was retired by {mark.by} at {mark.at} ({mark.reason}): its rows are "
            f"gone. Ingest again: if the sources still have the same rows, it is there again under the same digest."
        )


def is_whole_snapshot(artifacts: Artifacts, snapshot: Snapshot) -> bool:
    """Whether nobody has retired a snapshot, and all its tables are there."""
    if retired(artifacts, snapshot.use_case, snapshot.digest) is not None:
        return False
    there = {source: {entry.name for entry in artifacts.entries(*snapshot.place(source))} for source in snapshot.counts}
    return all(set(snapshot.parts.get(source, ())) <= names and names for source, names in there.items())


def read_parts(artifacts: Artifacts, use_case: str, digest: str) -> dict[str, dict[str, str]]:
    """Of a snapshot the SHA-256 of its tables, by source and name; nothing where it does not exist."""
    manifest = artifacts.read_json(SNAPSHOTS, use_case, digest, MANIFEST) or {}
    return dict(manifest.get("parts", {}))


def last_digest(artifacts: Artifacts, use_case: str) -> str | None:
    """Of the snapshot of the last ingest; None if there was none."""
    found = artifacts.read_json(_LAST, f"{use_case}.json")
    return None if found is None else str(found["digest"])


def load_snapshot(artifacts: Artifacts, use_case: str, digest: str) -> Snapshot:
    """The snapshot with this digest. Raises IntegrityError if it does not exist or was not finished."""
    manifest = artifacts.read_json(SNAPSHOTS, use_case, digest, MANIFEST)
    if manifest is None:
        raise IntegrityError(f"Snapshot {digest} of {use_case} does not exist below {artifacts.root}. Ingest again.")
    try:
        counts = {source: SourceCounts.from_json(values) for source, values in manifest["counts"].items()}
    except (KeyError, TypeError):
        raise IntegrityError(f"Snapshot {digest} of {use_case} was written by another version. Ingest again.") from None
    return Snapshot(**manifest | {"as_of": datetime.fromisoformat(manifest["as_of"]), "counts": counts})
