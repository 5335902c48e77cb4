"""Make what is served and asked: the flights pipeline's tables, one fitted pipeline in all forms, the requests."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

os.environ |= {"RAY_DATA_LOG_LEVEL": "ERROR", "RAY_USAGE_STATS_ENABLED": "0"} | os.environ

import joblib
import mlflow.sklearn
import numpy as np
import pandas as pd
import polars as pl
import ray
from mlflow.models import infer_signature
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline as SklearnPipeline
from sklearn.preprocessing import OrdinalEncoder

from contest import work
from mlops_ray.config import Settings
from mlops_ray.features.store import Store
from mlops_ray.pipeline.pipeline import Pipeline
from mlops_ray.registry.model_schema import schema_of
from mlops_ray.registry.sealed_model import UNKNOWN_CATEGORY, golden_cases, seal
from mlops_ray.tasks.binary import BINARY
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.training.candidates.boosted_trees import BoostedTrees
from mlops_ray.training.encoding import MISSING, Encoder, fit_encoder
from mlops_ray.use_case import Feature, FitData, Search, UseCase, load_use_case

ROWS = 10_000
CHECKED_ROWS = 200
PARAMETERS = {
    "learning_rate": 0.1, "iterations": 100, "max_leaf_nodes": 31, "min_samples_leaf": 100, "l2_regularization": 1.0,
}  # fmt: skip
TRAINED_BEFORE = timedelta(days=92)


def main() -> None:
    shutil.rmtree(work.STATE, ignore_errors=True)
    case = load_use_case(str(work.ROOT / "use_cases" / "flights.py"))
    found = _run_pipeline(case)
    frame = pl.read_parquet(found["url"]).sort("event_timestamp", maintain_order=True)
    work.WORK.mkdir(parents=True)
    # Numbers before categories, as the scikit-learn pipeline puts them, and as float32, so that a server that
    # calculates in float64 compares the same numbers.
    features = sorted((Feature(f["name"], f["kind"]) for f in found["features"]), key=lambda f: f.kind == "category")
    numbers = [feature.name for feature in features if feature.kind == "number"]
    frame = frame.with_columns(pl.col(numbers).cast(pl.Float32))
    seen = frame.filter(pl.col("event_timestamp") < datetime.fromisoformat(work.AS_OF) - TRAINED_BEFORE)
    encoder, pipeline, onnx = _train(seen, features)
    joblib.dump(pipeline, work.PIPELINE)
    rows = frame.tail(ROWS).sample(fraction=1.0, shuffle=True, seed=7)
    _save_for_mlflow(pipeline, _pandas(rows, encoder))
    project = str(found["feature_project"])
    _seal(onnx, case, encoder, pipeline, frame, rows, project)
    facts = _write_vectors(pipeline, encoder, rows) | _write_keys(pipeline, case, encoder, frame, project)
    work.FACTS.write_text(json.dumps({"feature_project": project, **facts}))


def _run_pipeline(case: UseCase) -> Any:
    """The training set, and beside it the materialized online store. The search is as short as it may be."""
    case = replace(case, candidates=(LogisticRegression(),), search=Search(trials_per_candidate=1))
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    ray.init(address="local", num_cpus=2, object_store_memory=1000 << 20, **quiet)
    try:
        settings = Settings(state=str(work.STATE), data=str(work.DATA))
        done = Pipeline(case, settings, work.ROOT / "feature_repo", datetime.fromisoformat(work.AS_OF)).run()
    finally:
        ray.shutdown()
    return done["training_set"].result


def _train(seen: pl.DataFrame, features: Sequence[Feature]) -> tuple[Encoder, SklearnPipeline, bytes]:
    """An ordinal encoder and boosted trees, both as scikit-learn's pipeline and as ONNX.

    The encoder's codes are those of the ONNX file, except that an unknown category is -1 and not 0: both are below
    every split, since training has seen neither.
    """
    encoder = fit_encoder(seen, features)
    codes = [[UNKNOWN_CATEGORY, MISSING, *feature.categories] for feature in encoder.features if feature.categories]
    ordinal = OrdinalEncoder(categories=codes, handle_unknown="use_encoded_value", unknown_value=-1, dtype=np.float32)
    transformer = ColumnTransformer(
        [("numbers", "passthrough", list(encoder.numbers)), ("categories", ordinal, list(encoder.categories))]
    )
    matrix = transformer.fit_transform(_pandas(seen, encoder)).astype(np.float32)
    data = FitData(matrix, seen["label"].to_numpy(), encoder.features, BINARY, seed=0, threads=2)
    *_, (_, trees) = GradientBoosting().fit(data, PARAMETERS)
    assert isinstance(trees, BoostedTrees)
    pipeline = SklearnPipeline([("encode", transformer), ("trees", trees.model)])
    return encoder, pipeline, encoder.wrap_onnx(trees.to_onnx())


def _pandas(frame: pl.DataFrame, encoder: Encoder) -> pd.DataFrame:
    columns = [pl.col(encoder.numbers).cast(pl.Float64), pl.col(encoder.categories).fill_null(MISSING)]
    return frame.select(columns).to_pandas()


def _save_for_mlflow(pipeline: SklearnPipeline, rows: pd.DataFrame) -> None:
    mlflow.sklearn.save_model(
        pipeline,
        work.MLFLOW_MODEL,
        signature=infer_signature(rows.head(100), pipeline.predict_proba(rows.head(100))),
        pyfunc_predict_fn="predict_proba",
        serialization_format="cloudpickle",
        pip_requirements=["mlflow", "scikit-learn"],
    )


def _seal(
    onnx: bytes,
    case: UseCase,
    encoder: Encoder,
    pipeline: SklearnPipeline,
    frame: pl.DataFrame,
    rows: pl.DataFrame,
    project: str,
) -> None:
    """Twice, under two digests: the second is the shadow."""
    golden = golden_cases(rows.head(64), encoder.features)
    answers = pipeline.predict_proba(_pandas(golden, encoder))[:, 1]
    for version in (1, 2):
        folder = work.SEALED / str(version)
        schema = schema_of(case, encoder.features, frame, project)
        digest = seal(folder, onnx, schema, golden, answers, {"version": version})
        folder.with_suffix(".digest").write_text(digest)


def _write_vectors(pipeline: SklearnPipeline, encoder: Encoder, rows: pl.DataFrame) -> dict[str, Any]:
    names = [*encoder.numbers, *encoder.categories]
    records = rows.select(pl.col(encoder.numbers).cast(pl.Float64), *encoder.categories).rows()
    with work.VECTOR_ROWS.open("w") as ours, work.MLFLOW_ROWS.open("w") as mlflows:
        for record in records:
            ours.write(json.dumps({"features": dict(zip(names, record, strict=True))}) + "\n")
            mlflows.write(json.dumps({"dataframe_split": {"columns": names, "data": [record]}}) + "\n")
    answers = pipeline.predict_proba(_pandas(rows.head(CHECKED_ROWS), encoder))[:, 1]
    return {"numbers": encoder.numbers, "categories": encoder.categories, "vector_answers": answers.tolist()}


def _write_keys(
    pipeline: SklearnPipeline, case: UseCase, encoder: Encoder, frame: pl.DataFrame, project: str
) -> dict[str, Any]:
    """The last distinct flights of the data, as if they left as soon as can be asked at the materialization."""
    columns = [*case.entities, case.event_time]
    moment = datetime.fromisoformat(work.AS_OF)
    rows = frame.drop_nulls(columns).unique(case.entities, keep="last", maintain_order=True).tail(ROWS)
    rows = rows.with_columns(pl.lit(moment + case.lead_time).alias(case.event_time))
    keys = rows.sample(fraction=1.0, shuffle=True, seed=7).select(columns).to_dicts()
    reader = Store(work.settings(), project).online_reader()
    with work.KEY_ROWS.open("w") as file:
        for row in keys:
            text = {name: v.isoformat() if isinstance(v, datetime) else v for name, v in row.items()}
            file.write(json.dumps({"keys": text, "as_of": work.AS_OF}) + "\n")
    known = [reader.read([row], [moment])[0] for row in keys]
    values = [value for row in known for value in row.values()]
    present = sum(value is not None for value in values)
    request = pl.DataFrame(keys[:CHECKED_ROWS]).with_columns(pl.col(case.event_time).cast(pl.Datetime("us", "UTC")))
    request = request.with_columns(**case.features_of_request())
    looked_up = pl.DataFrame(known[:CHECKED_ROWS], infer_schema_length=None)
    asked = pl.concat([request, looked_up], how="horizontal").with_columns(pl.col(encoder.numbers).cast(pl.Float32))
    answers = pipeline.predict_proba(_pandas(asked, encoder))[:, 1]
    return {"key_answers": answers.tolist(), "hit_rate": present / len(values)}


if __name__ == "__main__":
    main()
