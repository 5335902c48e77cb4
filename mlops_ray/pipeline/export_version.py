"""Export: a version with all that stands behind it, as one signed bundle for another environment."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec

from mlops_ray.artifacts import Artifacts, partial_name
from mlops_ray.code_version import framework_version
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.features.definitions import expect_definitions
from mlops_ray.governance.approvals import list_approvals
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import read_events
from mlops_ray.governance.signing_keys import signer_of
from mlops_ray.governance.versions import RegisteredVersion, VersionRef, list_versions
from mlops_ray.registry.bundle import write_bundle
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.sealed_model import load
from mlops_ray.registry.signed_bundle import pack
from mlops_ray.registry.trace import IMPORTED, parse_version, trace

ORIGIN, LINEAGE, DEFINITIONS, MODEL, EVIDENCE = "origin.json", "lineage.json", "definitions.json", "model/", "evidence/"
COMPARED_WITH = "compared_with"
"""In the payload of `version.registered` and `version.measured`: the digest of the model that was champion then."""


@dataclass(frozen=True)
class Decided:
    """One request of an approval where the version came from, and what became of it."""

    state: str
    asked_by: str
    decided_by: str | None
    reason: str
    agreed: tuple[str, ...]
    conditions: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """What a version was where it came from, as its bundle says.

    model, lineage: digests of the sealed model and of the lineage record. feature_project: in which the model finds its
    features, None if it reads none. comparisons, compared_with: with the champion there and its digest, as the event
    of its registration, or of its last measurement, has them. erased: what was erased from its data since, in
    sentences.
    """

    use_case: str
    version: int
    model: str
    lineage: str
    feature_project: str | None
    framework: str
    author: str
    registered_at: str
    failed_gates: tuple[str, ...]
    comparisons: Mapping[str, Any]
    compared_with: str | None
    approvals: tuple[Decided, ...]
    erased: tuple[str, ...]
    exported_at: str

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Raises IntegrityError naming what is missing or of another type."""
        try:
            return msgspec.json.decode(content, type=cls)
        except msgspec.DecodeError as error:
            raise IntegrityError(f"{ORIGIN} of the bundle is not what this release expects: {error}.") from None


def origin_of(store: ControlStore, use_case: str, version: int) -> Origin | None:
    """What a version was where it was brought from; None for one that was made here."""
    told = read_events(store, 0, use_case, ["version.registered"], f"{use_case}@{version}", 1)
    value = told[0].payload.get(IMPORTED) if told else None
    return None if value is None else msgspec.convert(value, Origin)


def export_version(settings: Settings, version: str, target: Path, key: str | None = None) -> Path:
    """Write the bundle of a version such as "flights@7" to the file `target`, whole or not at all.

    key: where the private Ed25519 key stands that signs it, by default the setting `evidence_key`. Raises
    ConfigurationError if the file exists, there is no key or no such version, or it was retired; IntegrityError if its
    model or a record was changed.
    """
    use_case, number = parse_version(version)
    if os.path.lexists(target):
        raise ConfigurationError(f"{target} exists already. Name a file that does not.")
    reference = key or settings.evidence_key
    if not reference:
        raise ConfigurationError(
            "A bundle is signed, and there is no key. Set evidence_key, or give --key; to make one: openssl genpkey "
            "-algorithm ed25519 -out evidence.pem"
        )
    signer = signer_of("evidence_key", reference)
    content = pack(_gathered(settings, use_case, number, reference), signer)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / partial_name(target.name)
    try:
        partial.write_bytes(content)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _gathered(settings: Settings, use_case: str, number: int, key: str) -> dict[str, bytes]:
    found, registered = trace(settings, f"{use_case}@{number}"), _registered(settings, use_case, number)
    with tempfile.TemporaryDirectory(prefix="mlops-ray-export-") as scratch:
        evidence = write_bundle(settings, f"{use_case}@{number}", Path(scratch, "evidence"), key)
        ref = VersionRef(number, found.lineage.digest)
        sealed = download_sealed(settings, use_case, ref, Path(scratch, "model"))
        schema = load(sealed, ref.digest).schema
        _expect_nothing_personal(schema, found.lineage.evaluation)
        files = _files(sealed, MODEL) | _files(evidence, EVIDENCE)
    files[LINEAGE] = _json(found.lineage.to_json())
    project = schema.feature_project
    if project is not None:
        files[DEFINITIONS] = _json(expect_definitions(Artifacts(settings.artifacts), project).to_json())
    files[ORIGIN] = _json(asdict(_origin(settings, registered, found.record, schema, found.erased)))
    return files


def _expect_nothing_personal(schema: ModelSchema, evaluation: Mapping[str, Any]) -> None:
    """Raise ConfigurationError if the evaluation names values of a personal column, as that of a slice."""
    personal = {column.name for column in schema.request_columns if column.personal is not None}
    slices = evaluation.get("slices") or {}
    told = {one["column"] for part in ("judged", "counts") for one in slices.get(part, ())}
    told |= {str(named).partition("=")[0] for named, _ in slices.get("left_out", ())}
    if found := sorted(told & (personal | schema.personal_features())):
        raise ConfigurationError(
            f"The evaluation names values of {found[0]}, which tells of a person: it is a slice of {schema.use_case}. "
            f"They would leave this environment. Take it out of slices, and train again."
        )


def _registered(settings: Settings, use_case: str, number: int) -> RegisteredVersion:
    store = open_store(settings)
    try:
        known = next((one for one in list_versions(store, use_case) if one.version == number), None)
    finally:
        store.close()
    if known is None:
        raise ConfigurationError(f"The control store does not know {use_case}@{number}, so nothing says who made it.")
    known.expect_in_use()
    return known


def _origin(
    settings: Settings, registered: RegisteredVersion, record: str, schema: ModelSchema, erased: tuple[str, ...]
) -> Origin:
    store, name = open_store(settings), registered.use_case
    try:
        told = ["version.registered", "version.measured"]
        payload = read_events(store, 0, name, told, f"{name}@{registered.version}")[-1].payload
        asked = [one for one in list_approvals(store, name, limit=None) if one.version == registered.version]
    finally:
        store.close()
    return Origin(
        use_case=name,
        version=registered.version,
        model=registered.evidence.model,
        lineage=record,
        feature_project=schema.feature_project,
        framework=framework_version(),
        author=registered.author,
        registered_at=registered.registered_at.isoformat(),
        failed_gates=registered.failed_gates,
        comparisons=payload.get("comparisons", {}),
        compared_with=payload.get(COMPARED_WITH),
        approvals=tuple(
            Decided(
                one.state,
                one.requested_by,
                one.decided_by,
                one.reason,
                tuple(assent.name for assent in one.assents),
                tuple(assent.condition for assent in one.assents if assent.condition),
            )
            for one in asked
        ),
        erased=erased,
        exported_at=datetime.now(UTC).isoformat(),
    )


def _files(folder: Path, below: str) -> dict[str, bytes]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {below + file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
