"""Watching a model that was trained elsewhere: its ONNX file and a table of rows become a version with a reference.

The version is recorded, with the digest of what was sealed, and has no lineage: it can be watched, and the model
registry, which demands to know where a model comes from, does not have it.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError, ModelError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.versions import Evidence, RegisteredVersion, VersionRef, list_versions, record_version
from mlops_ray.monitoring.definition import Registry
from mlops_ray.monitoring.sealed_reference import reference_files
from mlops_ray.registry.foreign_model import adapted
from mlops_ray.registry.model_registry import MlflowRegistry
from mlops_ray.registry.model_schema import schema_of
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.registry.sealed_model import golden_cases, model_inputs, seal
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature, UseCase

_SEALED, _GOLDEN_ROWS = "sealed_models", 64


@dataclass(frozen=True)
class WithForeign:
    """The model registry, and beside it the versions that are recorded alone, with their files among the artifacts."""

    registry: Registry
    store: ControlStore
    artifacts: Artifacts

    def find(self, name: str, version: int) -> VersionRef:
        try:
            return self.registry.find(name, version)
        except ConfigurationError:
            for one in list_versions(self.store, name):
                if one.version == version and self.artifacts.entries(_SEALED, name, one.evidence.model):
                    return one.ref
            raise

    def fetch(self, name: str, version: VersionRef, folder: Path) -> Path:
        try:
            return self.registry.fetch(name, version, folder)
        except ConfigurationError:
            self.artifacts.download(folder, _SEALED, name, version.digest)
            return folder


def every_version(settings: Settings, store: ControlStore) -> WithForeign:
    """All versions of the platform that can be watched."""
    return WithForeign(MlflowRegistry(settings), store, Artifacts(settings.artifacts))


def record_foreign(
    settings: Settings, store: ControlStore, actor: Actor, use_case: UseCase, onnx: bytes, table: pl.DataFrame
) -> RegisteredVersion:
    """Seal a model with the reference that a table makes, and record it as the next version of its use case.

    table: rows that the model was not trained on, with `use_case.event_time`, what a request has or the features that
    follow from it, and, if known, the label. The order of the model's inputs is that of the use case's features. A
    model that has no answer where a number is missing is asked with the table's median. Raises DataError if a column is
    missing, ModelError for a model of another form.
    """
    rows, features = _rows(use_case, table)
    schema = schema_of(use_case, features, rows)
    golden = golden_cases(rows.head(_GOLDEN_ROWS), features, schema.personal_features())
    task = use_case.label.task
    content = _answering(onnx, features, golden, rows, task)
    model, time = OnnxModel(content, features, task), use_case.event_time
    answers = model.answers(*model_inputs(rows, features)).astype(np.float64)
    evaluation = {"test_rows": rows.height, "foreign": True}
    reference = reference_files(use_case, schema, time, rows, rows, answers, use_case.label.name)
    with tempfile.TemporaryDirectory() as folder:
        served = model.answers(*model_inputs(golden, features))
        digest = seal(Path(folder), content, schema, golden, served, evaluation, reference=reference)
        Artifacts(settings.artifacts).upload(Path(folder), _SEALED, use_case.name, digest)
    number = max((one.version for one in list_versions(store, use_case.name)), default=0) + 1
    evidence = Evidence(digest, digest_json(evaluation))
    return record_version(store, actor, use_case.name, number, evidence, payload={"foreign": True})


def _answering(onnx: bytes, features: Sequence[Feature], golden: pl.DataFrame, rows: pl.DataFrame, task: Task) -> bytes:
    content = adapted(onnx, features, task=task)
    try:
        OnnxModel(content, features, task).answers(*model_inputs(golden, features))
        return content
    except ModelError:
        medians = [rows[one.name].median() for one in features if one.kind == "number"]
        filled = [float(median) if isinstance(median, int | float) else 0.0 for median in medians]
        return adapted(onnx, features, filled, task)


def _rows(use_case: UseCase, table: pl.DataFrame) -> tuple[pl.DataFrame, Sequence[Feature]]:
    """The table with all features, and with the label, empty where it is not known."""
    expressions = use_case.features_of_request()
    missing = {use_case.event_time} - set(table.columns)
    made = {}
    for name, expression in expressions.items():
        if name not in table.columns:
            missing |= set(expression.meta.root_names()) - set(table.columns)
            made[name] = expression
    if missing or table.is_empty():
        raise DataError(
            f"The table of {len(table)} rows for the reference of {use_case.name} lacks "
            f"{', '.join(sorted(missing)) or 'rows'}. It has {', '.join(table.columns)}."
        )
    rows, label = table.with_columns(**made), use_case.label.name
    kind = use_case.label.task.label_type
    known = pl.col(label).cast(kind) if label in rows.columns else pl.lit(None, dtype=kind)
    rows = rows.with_columns(known.alias(label))
    kinds = {name: rows.schema[name] for name in expressions}
    features = [Feature(name, "category" if dtype == pl.String else "number") for name, dtype in kinds.items()]
    return rows.with_columns(pl.col(one.name).cast(pl.Float64) for one in features if one.kind == "number"), features
