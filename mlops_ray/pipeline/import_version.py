"""Import: a version that was made in another environment becomes one of this, by this environment's rules alone."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError, UseCaseError
from mlops_ray.features.definitions import Definitions, keep_definitions, project_of
from mlops_ray.features.transform import code_of
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import Actor
from mlops_ray.governance.signing_keys import public_keys
from mlops_ray.governance.versions import VersionRef, list_versions
from mlops_ray.monitoring.label_times import declare_label_times
from mlops_ray.pipeline.admission import Admission, admit, author_of, recorded_training_set
from mlops_ray.pipeline.export_version import DEFINITIONS, LINEAGE, MODEL, ORIGIN, Origin
from mlops_ray.pipeline.measurement import Registered
from mlops_ray.predictions.retention import declare_retention
from mlops_ray.registry.artifact_check import refuse_artifact
from mlops_ray.registry.lineage import Lineage
from mlops_ray.registry.model_schema import ModelSchema, schema_of
from mlops_ray.registry.model_signature import expect_signature
from mlops_ray.registry.models import adopted_run, register, set_champion
from mlops_ray.registry.sealed_model import load
from mlops_ray.registry.served_packages import FILE as BILL_OF_MATERIALS
from mlops_ray.registry.signed_bundle import LARGEST_BYTES, unpack
from mlops_ray.registry.trace import IMPORTED
from mlops_ray.registry.vulnerabilities import gate_findings, scan
from mlops_ray.serving.golden import replay_golden_requests
from mlops_ray.use_case import UseCase


@dataclass(frozen=True)
class Imported:
    """version: its number here. origin: what it was where it came from. bundle: SHA-256 of the file."""

    version: int
    origin: Origin
    bundle: str
    admission: Admission


class _Understood(NamedTuple):
    """What a bundle holds, checked."""

    origin: Origin
    lineage: Lineage
    definitions: Definitions | None


def import_version(use_case: UseCase, settings: Settings, file: Path) -> Imported:
    """Register the version in a bundle as one of this environment: judged by the gates that `use_case` declares here,
    and waiting for the approval that is demanded here, whatever was decided where it came from.

    Its number is the next one here. Doing it again, also after it was killed at any moment or twice at once, gives the
    same version; measured again where it came from, against another champion, it is another one. Nothing of the bundle
    is used before all of it was verified; the last thing that is written is the version in the control store, so that
    nobody sees half of one. Raises IntegrityError for a bundle or model that is not what was signed, UseCaseError where
    the use case here is another than the model was made for, and what registering raises.
    """
    content = _read(file)
    files = unpack(content, _trusted(settings))
    found = _understood(use_case, files)
    author = author_of(use_case, settings)
    with tempfile.TemporaryDirectory(prefix="mlops-ray-import-") as scratch:
        folder = Path(scratch)
        for name in (name for name in files if name.startswith(MODEL)):
            (folder / name.removeprefix(MODEL)).write_bytes(files[name])
        _expect_model(use_case, settings, folder, found)
        return _adopt(use_case, settings, folder, found, content, author)


def _adopt(
    use_case: UseCase, settings: Settings, folder: Path, found: _Understood, content: bytes, author: Actor
) -> Imported:
    """Files first, then MLflow, then the control store: what was killed before its end is nowhere named."""
    origin, lineage, name = found.origin, found.lineage, use_case.name
    artifacts, bundle = Artifacts(settings.artifacts), hashlib.sha256(content).hexdigest()
    artifacts.create_bytes(content, "bundles", name, f"{bundle}.bundle")
    artifacts.upload(folder, "sealed_models", name, origin.model)
    if found.definitions is not None and origin.feature_project is not None:
        keep_definitions(artifacts, origin.feature_project, found.definitions)
    scanned = scan(folder, settings.advisories)
    key = digest_json(["import", origin.model, origin.lineage, origin.comparisons, origin.compared_with])
    recorded = {one.version: one.evidence.model for one in list_versions(open_store(settings), name)}
    version = register(settings, name, folder, lineage, adopted_run(settings, name, key), {}, key, recorded)
    payload = {
        "lineage": version.lineage,
        "vulnerabilities": scanned.to_json(),
        IMPORTED: asdict(origin) | {"bundle": bundle},
    }
    registered = Registered(
        VersionRef(version.version, version.digest),
        lineage.evaluation,
        recorded_training_set(settings, lineage),
        payload,
        lineage.files.get(BILL_OF_MATERIALS, ""),
        gate_findings(scanned, use_case.gates),
        origin,
    )
    why = f"brought from another environment, where it was version {origin.version}"
    admission = admit(use_case, settings, author, folder, registered, why=why)
    declare_retention(artifacts, use_case)
    declare_label_times(artifacts, use_case)
    if admission.champion:
        set_champion(settings, name, version.version)
    return Imported(version.version, origin, bundle, admission)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"The bundle {file} cannot be read: {error.strerror}.") from error
    if len(content) > LARGEST_BYTES:
        raise IntegrityError(f"{file} is larger than any bundle is, {LARGEST_BYTES:,} bytes.")
    return content


def _trusted(settings: Settings) -> Mapping[str, Any]:
    if not settings.evidence_public_key:
        raise ConfigurationError(
            "Nobody is trusted here to have made a bundle. Set evidence_public_key to a PEM file with the public keys "
            "of the environments that versions are brought from (of their evidence_key)."
        )
    return public_keys("evidence_public_key", settings.evidence_public_key)


def _understood(use_case: UseCase, files: Mapping[str, bytes]) -> _Understood:
    """Raises IntegrityError for parts that do not belong together, UseCaseError for those of another use case."""
    if lacking := [name for name in (ORIGIN, LINEAGE, f"{MODEL}manifest.json") if name not in files]:
        raise IntegrityError(f"The bundle lacks {', '.join(lacking)}. Make it again.")
    if deeper := [name for name in files if name.startswith(MODEL) and "/" in name.removeprefix(MODEL)]:
        raise IntegrityError(f"{deeper[0]} in the bundle is no file of a sealed model. Make it again.")
    origin = Origin.from_json(files[ORIGIN])
    if origin.use_case != use_case.name:
        raise UseCaseError(f"The bundle is of {origin.use_case}, and the use case here is {use_case.name}. Name its.")
    value = _json(files, LINEAGE)
    lineage = Lineage.from_json(value)
    if digest_json(value) != origin.lineage or lineage.digest != origin.model or lineage.use_case != use_case.name:
        raise IntegrityError("The bundle's lineage record is not that of its model. Make it again.")
    if lineage.to_json() != value:
        raise IntegrityError(
            f"The bundle's lineage record says more than this release of mlops_ray knows; it was made by "
            f"{origin.framework}. Take it in with that release, or a newer one."
        )
    definitions = None
    if origin.feature_project is not None:
        definitions = _definitions(files)
        _expect_features(use_case, origin.feature_project, definitions, lineage)
    return _Understood(origin, lineage, definitions)


def _definitions(files: Mapping[str, bytes]) -> Definitions:
    if DEFINITIONS not in files:
        raise IntegrityError(f"The bundle lacks {DEFINITIONS}, without which nothing fills its features.")
    with suppress(KeyError, TypeError, AttributeError):
        return Definitions.from_json(_json(files, DEFINITIONS))
    raise IntegrityError(f"{DEFINITIONS} of the bundle is not what this release expects. Take it in with a newer one.")


def _expect_features(use_case: UseCase, project: str, definitions: Definitions, lineage: Lineage) -> None:
    """A version finds its features in a project that is named by definitions and code: only the same code fills it."""
    there = f"commit {lineage.code_version}{', with changes that were not committed' if lineage.code_dirty else ''}"
    if gone := [view.name for view in definitions.views if view.name not in use_case.feature_views]:
        raise UseCaseError(
            f"The model reads the feature view {gone[0]!r}, which {use_case.name} does not compute here. Import it "
            f"where the use case is as it was trained ({there})."
        )
    rows = [_Code(view.name, code_of(use_case, view.name)) for view in definitions.views]
    if project_of(definitions, rows) != project:
        raise UseCaseError(
            f"The code of the feature views of {use_case.name} is not that which the model was trained with, so "
            f"nothing here would fill its features ({project}). Import it where the use case is as it was ({there})."
        )


class _Code(NamedTuple):
    view: str
    code: str


def _expect_model(use_case: UseCase, settings: Settings, folder: Path, found: _Understood) -> None:
    """Everything that a replica asks of a version before it takes traffic, and what only the use case can say."""
    expect_signature(settings, folder)
    refuse_artifact(folder)
    sealed = load(folder, found.origin.model)
    replay_golden_requests(sealed)
    if sealed.schema.feature_project != found.origin.feature_project or sealed.schema.use_case != use_case.name:
        raise IntegrityError("The bundle's model is not the one that the bundle tells of. Make it again.")
    if sealed.evaluation != found.lineage.evaluation:
        raise IntegrityError("The evaluation in the bundle's lineage is not the sealed one. Make it again.")
    if other := [f"{name}: {there} there, {here} here" for name, there, here in _differences(sealed.schema, use_case)]:
        raise UseCaseError(
            f"{use_case.name} is declared otherwise here than when the model was made ({'; '.join(other)}). Import it "
            f"where the use case is as it was, or train it here."
        )


def _differences(schema: ModelSchema, use_case: UseCase) -> list[tuple[str, Any, Any]]:
    """Where callers would be answered otherwise than this environment's use case says: name, sealed, declared."""
    seen = pl.DataFrame(schema={column.name: column.dtype for column in schema.request_columns})
    here = schema_of(use_case, schema.features, seen, schema.feature_project)
    names = ("label", "entities", "event_time", "lead_time_s", "feature_service")
    pairs = [(name, getattr(schema, name), getattr(here, name)) for name in names]
    kinds = [{column.name: (column.type, column.personal) for column in one.request_columns} for one in (schema, here)]
    columns = dict.fromkeys([*kinds[0], *kinds[1]])
    pairs += [(f"column {name}", kinds[0].get(name), kinds[1].get(name)) for name in columns]
    same_polars = schema.polars == here.polars  # otherwise the same expression has another text
    for part in ("request_features", "on_demand_features"):
        there, declared = getattr(schema, part), getattr(here, part)
        for name in dict.fromkeys([*there, *declared]):
            if (name in there) != (name in declared):
                pairs.append((name, name in there, name in declared))
            elif same_polars and there[name] != declared[name]:
                pairs.append((name, "one expression", "another"))
    task = use_case.label.task
    if task.like(schema.task) is None:
        pairs.append(("the kind of label", schema.task, task))
    else:
        pairs.append(("the parts of an answer", dict(schema.task.output_parts), dict(task.output_parts)))
    return [pair for pair in pairs if pair[1] != pair[2]]


def _json(files: Mapping[str, bytes], name: str) -> Any:
    try:
        return json.loads(files[name])
    except ValueError as error:
        raise IntegrityError(f"{name} of the bundle is not JSON: {error}. Make it again.") from error
