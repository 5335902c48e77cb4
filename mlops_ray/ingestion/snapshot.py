"""Snapshots: the accepted rows of every source at one moment, immutable and named by the digest of their content."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import IntegrityError


@dataclass(frozen=True)
class SourceCounts:
    """What became of the rows of one source: rows_in = accepted + repaired + quarantined.

    `reasons` counts quarantined rows by reason, `repairs` repairs by kind (a row can have several).
    """

    rows_in: int
    accepted: int
    repaired: int
    quarantined: int
    reasons: dict[str, int]
    repairs: dict[str, int]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's manifest. `files` maps each source to its files' SHA-256 by name,
    `content` to the digests of its accepted and quarantined rows; `contract` is the digest of the column rules."""

    use_case: str
    digest: str
    as_of: datetime
    contract: str
    code_version: str
    counts: dict[str, SourceCounts]
    content: dict[str, dict[str, str]]
    files: dict[str, dict[str, str]]

    def tables(self, artifacts: Artifacts) -> dict[str, pl.DataFrame]:
        """The accepted rows of every source, by its name."""
        return {
            source: artifacts.read_table("snapshots", self.use_case, self.digest, source, "accepted")
            for source in self.counts
        }

    def quarantine(self, artifacts: Artifacts, source: str) -> pl.DataFrame:
        """The rejected rows of a source: file, reason codes, and the row as text."""
        return artifacts.read_table("snapshots", self.use_case, self.digest, source, "quarantined")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"as_of": self.as_of.isoformat()}


def load_snapshot(artifacts: Artifacts, use_case: str, digest: str) -> Snapshot:
    """The snapshot with this digest. Raises IntegrityError if it does not exist or was not finished."""
    manifest = artifacts.read_json("snapshots", use_case, digest, "manifest.json")
    if manifest is None:
        raise IntegrityError(f"Snapshot {digest} of {use_case} does not exist below {artifacts.root}. Ingest again.")
    counts = {source: SourceCounts(**values) for source, values in manifest["counts"].items()}
    return Snapshot(**manifest | {"as_of": datetime.fromisoformat(manifest["as_of"]), "counts": counts})
