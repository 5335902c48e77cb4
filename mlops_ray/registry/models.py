"""Model versions in MLflow's registry: each is a sealed folder with its lineage, registered once for each key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlops_ray.artifacts import Artifacts, join
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.governance.versions import VersionRef
from mlops_ray.registry.lineage import Lineage, write_lineage
from mlops_ray.registry.model_signature import expect_signature
from mlops_ray.state_folder import one_at_a_time
from mlops_ray.training.mlflow_database import has_alias, has_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
_SEALED = "sealed_model"
_MLMODEL = "MLmodel"
_KEY = "mlops_ray.key"
_DIGEST = "mlops_ray.digest"
_LINEAGE = "mlops_ray.lineage"
_PREFIX = "mlops_ray."
_MAX_TAG = 4000  # MLflow refuses longer ones

# MLflow, and training.tracking which connects to it, are imported inside the functions: they take 3 s and more, and
# this module is imported by every replica and by the command line for ModelVersion alone.


@dataclass(frozen=True)
class ModelVersion:
    """A version as registered: `digest` names the sealed model's content, `run_id` the run of the search behind it,
    `lineage` its lineage record ("" where it has none)."""

    name: str
    version: int
    digest: str
    run_id: str
    source: str
    key: str
    lineage: str = ""


def register(
    settings: Settings,
    use_case_name: str,
    sealed_folder: Path,
    lineage: Lineage,
    parent_run_id: str,
    metrics: Mapping[str, float],
    key: str,
    recorded: Mapping[int, str] = MappingProxyType({}),
) -> ModelVersion:
    """Store the sealed folder with the parent run and register it as a new version of `use_case_name`.

    Each text of the lineage becomes a tag of the version, and all of it a file beside the folder. MLflow's own tools
    load the version, too (`mlflow.onnx.load_model("models:/<name>/<version>")`). Asked again with
    the same `key`, after being killed at any moment or at the same time from two processes, it returns the same
    version. Raises IntegrityError if the lineage is not complete, UnavailableError if MLflow is down.

    recorded: digests by number of the versions that the control store knows. An MLflow that was restored from an older
    backup gives their numbers a second time: none of them is given to another model.
    """
    from mlops_ray.training.tracking import connect, mlflow_errors

    record = write_lineage(Artifacts(settings.artifacts), lineage)
    client = connect(settings)
    with mlflow_errors(settings):
        if found := _only(client, use_case_name, key, recorded):
            return found
        digest = lineage.digest
        path = f"{_SEALED}/{digest}"
        _upload(client, parent_run_id, sealed_folder, path)
        client.log_text(parent_run_id, _mlmodel(sealed_folder), f"{path}/{_MLMODEL}")
        client.log_dict(parent_run_id, lineage.to_json(), f"{_SEALED}/{record}.lineage.json")
        _log_metrics(client, parent_run_id, metrics)
        _create_model(client, use_case_name)
        source = join(client.get_run(parent_run_id).info.artifact_uri, *path.split("/"))
        # With its tags in the same call: a version without its key would be registered a second time after a kill.
        tags = _tags(lineage) | {_KEY: key, _DIGEST: digest, _LINEAGE: record}
        _create_version(client, use_case_name, source, parent_run_id, tags, recorded)
        made = _only(client, use_case_name, key, recorded)
        assert made is not None
        return made


def adopted_run(settings: Settings, use_case: str, key: str) -> str:
    """MLflow's run to which a version belongs whose search ran elsewhere: the one made for `key` before, or a new one.

    Raises UnavailableError if MLflow is down.
    """
    from mlops_ray.training.tracking import connect, experiment_id, mlflow_errors

    client = connect(settings)
    with mlflow_errors(settings), one_at_a_time(settings.mlflow_uri):
        experiment = experiment_id(client, settings, use_case)
        if found := client.search_runs([experiment], f"tags.`{_KEY}` = '{key}'", max_results=1):
            return str(found[0].info.run_id)
        made = client.create_run(experiment, tags={_KEY: key}, run_name=f"import {key[:12]}")
        client.set_terminated(made.info.run_id)
        return str(made.info.run_id)


def find_version(settings: Settings, name: str, version: int) -> ModelVersion:
    """A registered version. Raises ConfigurationError if there is none, UnavailableError if MLflow is down."""
    from mlflow.exceptions import MlflowException

    from mlops_ray.training.tracking import connect, mlflow_errors

    client = connect(settings)
    with mlflow_errors(settings):
        try:
            return _version(client.get_model_version(name, str(version)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = client.search_model_versions(f"name = '{name}'")
    numbers = ", ".join(sorted((str(found.version) for found in known), key=int)) or "none"
    raise ConfigurationError(f"{name} has no version {version}; registered are: {numbers}.")


def missing_version(settings: Settings, name: str, version: int, digest: str) -> str | None:
    """A sentence if MLflow does not have the version, or has it with another model; None if all is there.

    Raises UnavailableError if MLflow is down.
    """
    if has_version(settings.mlflow_uri, name, version, _DIGEST, digest):
        return None
    try:
        found = find_version(settings, name, version)
    except ConfigurationError as error:
        return str(error)
    return None if found.digest == digest else f"MLflow's version {version} of {name} holds another model"


def set_champion(settings: Settings, name: str, version: int) -> None:
    """Point the alias `champion` of `name` to `version`. Raises UnavailableError if MLflow is down.

    The alias only shows what the control store holds; nothing of ours reads it to decide.
    """
    if has_alias(settings.mlflow_uri, name, CHAMPION, version):
        return
    from mlops_ray.training.tracking import connect, mlflow_errors

    client = connect(settings)
    with mlflow_errors(settings):
        client.set_registered_model_alias(name, CHAMPION, str(version))


def champion(settings: Settings, name: str) -> ModelVersion | None:
    """The version that the alias `champion` points to; None if there is no such model or alias.

    Raises UnavailableError if MLflow is down.
    """
    from mlops_ray.training.tracking import connect, mlflow_errors

    client = connect(settings)
    with mlflow_errors(settings):
        models = client.search_registered_models(f"name = '{name}'")
        if not models or CHAMPION not in models[0].aliases:
            return None
        return _version(client.get_model_version(name, str(models[0].aliases[CHAMPION])))


def download(settings: Settings, version: ModelVersion, folder: str | Path) -> Path:
    """Copy the sealed folder of `version` below `folder` and return where it lies: what was sealed, and nothing else.

    Raises UnavailableError if MLflow or its artifact store is down.
    """
    from mlops_ray.training.tracking import connect, mlflow_errors

    client = connect(settings)
    with mlflow_errors(settings):
        Path(folder).mkdir(parents=True, exist_ok=True)
        copy = Path(client.download_artifacts(version.run_id, f"{_SEALED}/{version.digest}", str(folder)))
    (copy / _MLMODEL).unlink(missing_ok=True)
    return copy


def download_sealed(settings: Settings, name: str, version: VersionRef, folder: Path) -> Path:
    """As `download`, but from the artifact root if the sealed model still lies there, which needs no MLflow.

    Raises IntegrityError if the settings ask for a signature and the copy has none that holds.
    """
    artifacts = Artifacts(settings.artifacts)
    if artifacts.entries("sealed_models", name, version.digest):
        artifacts.download(folder, "sealed_models", name, version.digest)
    else:
        folder = download(settings, find_version(settings, name, version.version), folder)
    expect_signature(settings, folder)
    return folder


def lineage_copy(settings: Settings, name: str, version: int) -> Any:
    """MLflow's copy of a version's lineage record, as JSON values; its digest is for the caller to check.

    Raises ConfigurationError if there is no such version, UnavailableError if MLflow or its artifact store is down.
    """
    from mlflow.exceptions import MlflowException

    from mlops_ray.training.tracking import connect, mlflow_errors

    found = find_version(settings, name, version)
    client = connect(settings)
    with mlflow_errors(settings), TemporaryDirectory() as folder:
        path = f"{_SEALED}/{found.lineage}.lineage.json"
        try:
            return json.loads(Path(client.download_artifacts(found.run_id, path, folder)).read_bytes())
        except (MlflowException, OSError) as error:
            raise UnavailableError(
                f"The lineage record {found.lineage} of {name}@{version} lies neither below {settings.artifacts} nor "
                f"with MLflow. Restore one of them."
            ) from error


def _create_version(
    client: MlflowClient, name: str, source: str, run_id: str, tags: dict[str, str], recorded: Mapping[int, str]
) -> None:
    """MLflow counts upwards from the highest number it has ever given, also that of a version deleted since."""
    while True:
        number = int(client.create_model_version(name, source, run_id, tags=tags).version)
        if _is_free(number, tags[_DIGEST], recorded):
            return
        _give_back(client, name, number)


def _give_back(client: MlflowClient, name: str, number: int) -> None:
    """Whoever finds that a number is too many deletes it: another process may have done so."""
    from mlflow.exceptions import MlflowException

    try:
        client.delete_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _is_free(number: int, digest: str, recorded: Mapping[int, str]) -> bool:
    """Whether a model may have the number: nobody else's was recorded with it."""
    return recorded.get(number, digest) == digest


def _of_key(client: MlflowClient, name: str, key: str) -> list[ModelVersion]:
    """Versions registered for `key`, the oldest first."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{_KEY}` = '{key}'")
    # MLflow reads tags after versions: one that somebody has deleted in between has none.
    there = (_version(version) for version in found if version.tags)
    return sorted(there, key=lambda version: version.version)


def _only(client: MlflowClient, name: str, key: str, recorded: Mapping[int, str]) -> ModelVersion | None:
    """The version registered for `key`. Two processes can both have found none: the older one stays, for both; and who
    was killed has not given a number back that is not free."""
    free: list[ModelVersion] = []
    for version in _of_key(client, name, key):
        if not free and _is_free(version.version, version.digest, recorded):
            free.append(version)
        else:
            _give_back(client, name, version.version)
    return free[0] if free else None


def _upload(client: MlflowClient, run_id: str, folder: Path, path: str) -> None:
    """One file after another: `log_artifacts` fails when another process makes the same sub-folder at that moment."""
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        inside = file.parent.relative_to(folder).as_posix()
        client.log_artifact(run_id, str(file), path if inside == "." else f"{path}/{inside}")


def _mlmodel(sealed_folder: Path) -> str:
    """MLflow's description of the model, by which its own tools load `model.onnx`; it lies beside the sealed files, and
    no digest covers it. Inputs are the tensors of `registry.onnx_model`."""
    import numpy as np
    import onnx
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from mlops_ray.registry.model_schema import ModelSchema
    from mlops_ray.registry.onnx_model import CATEGORIES, NUMBERS

    schema = ModelSchema.from_json(json.loads((sealed_folder / "schema.json").read_bytes()))
    widths = {
        NUMBERS: (np.dtype(np.float32), len(schema.named("number"))),
        CATEGORIES: (np.dtype(str), len(schema.named("category"))),
    }
    inputs = [TensorSpec(dtype, (-1, width), name) for name, (dtype, width) in widths.items() if width]
    shape = (-1,) if schema.task.width == 1 else (-1, schema.task.width)
    outputs = [TensorSpec(np.dtype(np.float32), shape, schema.task.output)]
    model = Model(signature=ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs)))
    model.add_flavor("onnx", onnx_version=onnx.__version__, data="model.onnx", providers=["CPUExecutionProvider"])
    pyfunc.add_to_model(model, loader_module="mlflow.onnx", data="model.onnx")
    return str(model.to_yaml())


def _create_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float]) -> None:
    """Only what the run does not say yet, so that a repetition adds no second points to its charts."""
    known = client.get_run(run_id).data.metrics
    for name, value in metrics.items():
        if known.get(f"test_{name}") != value:
            client.log_metric(run_id, f"test_{name}", value)


def _tags(lineage: Lineage) -> dict[str, str]:
    texts = {name: value for name, value in asdict(lineage).items() if isinstance(value, str | int | float)}
    return {f"{_PREFIX}{name}": str(value)[:_MAX_TAG] for name, value in texts.items()}


def _version(version: Any) -> ModelVersion:
    tags = version.tags
    return ModelVersion(
        name=version.name,
        version=int(version.version),
        digest=tags[_DIGEST],
        run_id=version.run_id,
        source=version.source,
        key=tags[_KEY],
        lineage=tags.get(_LINEAGE, ""),
    )
