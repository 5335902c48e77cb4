"""Lineage: what a version was made from, down to the raw files, in a record that cannot change unnoticed.

The record is JSON below the artifact root, named by its digest. That digest stands in the event `version.registered`,
which the chain of events covers, and as a tag in MLflow, beside a copy of the record for a day when the root is lost.
"""

import json
from collections.abc import Mapping, Sized
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import msgspec

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.errors import IntegrityError

FOLDER = "lineage"
_OPTIONAL = {"owner", "purpose", "limits", "feature_service", "feature_rows", "parameters", "search", "used"}


@dataclass(frozen=True)
class TrialRecord:
    """One trial of the search; `value` is None if it never got that far. used: see `cost.usage.Usage`."""

    trial_id: str
    candidate: str
    parameters: Mapping[str, Any]
    run: str
    status: str
    value: float | None
    used: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """All that a version was made from. Digests are SHA-256 in hex; moments are RFC 3339.

    digest: of the sealed model, and `files` of each file in it. evaluation: its metrics. vulnerabilities: what the
    scan found (registry.vulnerabilities). parent_run, trial_run: MLflow's ids. seed and threads: of the last fit.
    snapshot: the digest of the accepted rows of all sources, `rows` their counts by source, and `source_files` the
    digests of the raw files that they came from, by source and name; `data`: the folder in which those lay. contract:
    the digest of the column rules. declarations: what else the use case says, as text or digest, by name.
    code_version: the commit of the use case's repository, and `code_dirty` whether its files differed from it.
    framework: the version of mlops_ray; `code`: the digest of its files and of the libraries that it imports;
    lock_file: see `code_version.lock_digest`. search: what ended it, what it took, and the version from whose best
    parameters it started; empty in records of before that was written down. used: by each step that it was made by, as
    measured (`cost.usage.Usage`), with the step's key; nothing of one that was not measured.
    """

    use_case: str
    owner: str
    purpose: str
    limits: tuple[str, ...]
    digest: str
    files: Mapping[str, str]
    evaluation: Mapping[str, Any]
    vulnerabilities: Mapping[str, Any]
    parent_run: str
    trial_run: str
    trials: tuple[TrialRecord, ...]
    metric: str
    candidate: str
    parameters: Mapping[str, Any]
    seed: int
    threads: int
    training_set: str
    training_rows: int
    feature_service: str | None
    feature_definitions: str
    feature_rows: Mapping[str, str]
    snapshot: str
    rows: Mapping[str, Mapping[str, Any]]
    data: str
    source_files: Mapping[str, Mapping[str, str]]
    contract: str
    as_of: str
    declarations: Mapping[str, str]
    code_version: str
    code_dirty: bool
    framework: str
    code: str
    lock_file: str
    python: str
    platform: str
    search: Mapping[str, Any] = field(default_factory=dict)
    used: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises IntegrityError naming the field that is missing or of another type."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise IntegrityError(f"A lineage record is not complete: {error}.") from None

    @property
    def commit(self) -> str:
        """The commit of the use case's repository, with what has to be known beside it."""
        if self.code_version == "unknown":
            return "unknown, as the use case lay in no repository"
        return f"{self.code_version} ({'with changes that were not committed' if self.code_dirty else 'clean'})"

    @property
    def step_keys(self) -> list[str]:
        """Of the steps that made it, by which what they used is found; none of one that was made before there was a
        meter."""
        return [str(step["key"]) for step in self.used.values()]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        if not self.search:  # a record from before it was written down is the same record still
            del found["search"]
        return found

    def expect_complete(self) -> None:
        """Raise IntegrityError naming every required field that is empty."""
        lacking = [one.name for one in fields(self) if one.name not in _OPTIONAL and _empty(getattr(self, one.name))]
        lacking += [f"source_files.{name}" for name, files in self.source_files.items() if not files]
        if self.feature_service and not self.feature_rows:
            lacking.append("feature_rows")
        if lacking:
            raise IntegrityError(
                f"The lineage of a model of {self.use_case or 'an unnamed use case'} lacks {', '.join(lacking)}. "
                f"A version whose origin is not known cannot be registered; run the pipeline again."
            )


def write_lineage(artifacts: Artifacts, lineage: Lineage) -> str:
    """Store a complete record and return its digest. Raises IntegrityError if it is not complete."""
    lineage.expect_complete()
    value = lineage.to_json()
    digest = digest_json(value)
    artifacts.write_json(value, FOLDER, lineage.use_case, f"{digest}.json")
    return digest


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, Sized) and len(value) == 0)
