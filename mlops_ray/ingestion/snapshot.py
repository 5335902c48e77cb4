"""Snapshots: the accepted rows of every source at one moment, immutable and named by the digest of their content."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Self

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import IntegrityError
from mlops_ray.ingestion.quarantine import FOLDER

_LAST = "last_ingest"


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
class Snapshot:
    """A snapshot's manifest. `files` maps each source to its files' SHA-256 by name, `content` to the digests of its
    accepted and its quarantined rows; `contract` is the digest of the column rules. `unreadable` says of each source
    which of its files were set aside, and why; `more`, which columns its files have that the contract does not name.

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
    more: dict[str, list[str]] = field(default_factory=dict)

    def tables(self, artifacts: Artifacts) -> dict[str, pl.DataFrame]:
        """The accepted rows of every source, by its name."""
        return {
            source: artifacts.read_table("snapshots", self.use_case, self.digest, source, "accepted")
            for source in self.counts
        }

    def size(self, artifacts: Artifacts) -> int:
        """The bytes of the tables' files."""
        folders = (("snapshots", self.use_case, self.digest, source, "accepted") for source in self.counts)
        return sum(entry.size for folder in folders for entry in artifacts.entries(*folder))

    def quarantine(self, artifacts: Artifacts, source: str) -> pl.DataFrame:
        """The refused records of a source: `file`, `line`, `lines`, `reason`, `raw`.

        line: the first of its physical lines, counted from 1 (in a Parquet file: its row); lines: how many it has.
        reason: codes, joined by `;`. raw: its bytes as they stand in the file, uncompressed, with the end of the line;
        of a Parquet row its columns as JSON. Raises KeyError if there is no such source.
        """
        return artifacts.read_table(FOLDER, self.use_case, source, self.content[source]["quarantined"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"as_of": self.as_of.isoformat()}


def write_last(artifacts: Artifacts, snapshot: Snapshot) -> None:
    """Note what the last ingest of a use case wrote, whether or not its expectations were met."""
    artifacts.write_json({"digest": snapshot.digest}, _LAST, f"{snapshot.use_case}.json")


def last_snapshot(artifacts: Artifacts, use_case: str) -> Snapshot:
    """The snapshot of the last ingest. Raises IntegrityError if there was none."""
    found = artifacts.read_json(_LAST, f"{use_case}.json")
    if found is None:
        raise IntegrityError(f"Nothing of {use_case} was ingested below {artifacts.root}. Run `mlops-ray run` first.")
    return load_snapshot(artifacts, use_case, found["digest"])


def load_snapshot(artifacts: Artifacts, use_case: str, digest: str) -> Snapshot:
    """The snapshot with this digest. Raises IntegrityError if it does not exist or was not finished."""
    manifest = artifacts.read_json("snapshots", use_case, digest, "manifest.json")
    if manifest is None:
        raise IntegrityError(f"Snapshot {digest} of {use_case} does not exist below {artifacts.root}. Ingest again.")
    try:
        counts = {source: SourceCounts.from_json(values) for source, values in manifest["counts"].items()}
    except (KeyError, TypeError):
        raise IntegrityError(f"Snapshot {digest} of {use_case} was written by another version. Ingest again.") from None
    return Snapshot(**manifest | {"as_of": datetime.fromisoformat(manifest["as_of"]), "counts": counts})
