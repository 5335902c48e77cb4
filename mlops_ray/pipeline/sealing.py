"""Sealing: the chosen trial, fitted once more, scored once, and put into one folder with all that a server needs."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.evaluation.alone import roc_auc_alone
from mlops_ray.evaluation.baseline import baseline
from mlops_ray.evaluation.comparison import compare
from mlops_ray.evaluation.gates import baseline_name
from mlops_ray.evaluation.importance import permutation_importance
from mlops_ray.evaluation.metrics import evaluate
from mlops_ray.evaluation.slices import evaluate_slices
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, split_by_time
from mlops_ray.monitoring.sealed_reference import reference_files
from mlops_ray.pipeline.calibration import Found, effect, find_on_validation
from mlops_ray.pipeline.parity import prove_request_parity
from mlops_ray.registry.artifact_check import refuse_artifact
from mlops_ray.registry.bill_of_materials import bill_of_materials
from mlops_ray.registry.model_schema import schema_of
from mlops_ray.registry.model_signature import expect_signing_key, sign
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.registry.sealed_model import SealedModel, files_of, golden_cases, load, model_inputs, seal
from mlops_ray.serving.golden import replay_golden_requests
from mlops_ray.tasks.days import days_of
from mlops_ray.tasks.stored import task_to_json
from mlops_ray.tasks.task import Task
from mlops_ray.training.fit import Fitted, fit_chosen
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import BetterThanBaseline, Feature, UseCase

GOLDEN_ROWS = 64
Scores = tuple[NDArray[Any], NDArray[np.float64], NDArray[np.intp]]
ONNX_TOLERANCE = 1e-5


def fit_score_and_seal(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, trial: Trial
) -> dict[str, Any]:
    """Refit the chosen trial on all rows before the gap, score it once on the test period, seal it.

    Returns, as plain JSON values, the sealed model's digest and files, its candidate and evaluation, and with how many
    threads it was fitted. Raises DataError if the ONNX export does not answer as the fitted model does, and
    UseCaseError if a request about a row of the training set does not give what training computed of it (see `parity`),
    and ConfigurationError if versions must be signed and there is no key to sign with.
    """
    expect_signing_key(settings)
    frame = read_parquet(training_set.url)
    parts = split_by_time(frame, training_set.as_of, use_case.split, use_case.label.task)
    found = find_on_validation(use_case, parts, training_set.features, trial)
    test, task = parts.test, found.task
    fitted = fit_chosen(use_case, frame, training_set.as_of, training_set.features, trial, found.calibration)
    features, seed = fitted.encoder.features, use_case.search.seed
    model = OnnxModel(fitted.onnx, features, task)
    answers = fitted.model.predict(fitted.encoder.encode(test))
    served = model.answers(*model_inputs(test, features))
    difference = _difference(task.apart(served, answers), trial.candidate)
    seen = frame.filter(frame[PREDICTION_TIME] < test[PREDICTION_TIME].min())
    evaluation = _evaluation(use_case, task, seen, test, answers, model, features) | {"onnx_max_difference": difference}
    evaluation |= _periods(use_case, training_set.as_of) | _fitted_with(use_case, fitted, found, test, answers)
    schema = replace(schema_of(use_case, features, seen, training_set.feature_project), task=task)
    unproven = SealedModel("", schema, model, evaluation)
    parity = prove_request_parity(use_case, settings, training_set, frame, fitted, unproven)
    evaluation |= {"request_parity": parity.to_json()}
    held_out = test.sample(min(GOLDEN_ROWS, test.height), seed=seed)
    golden = golden_cases(held_out, features, schema.personal_features())
    with tempfile.TemporaryDirectory() as folder:
        digest = seal(
            Path(folder),
            fitted.onnx,
            schema,
            golden,
            fitted.model.predict(fitted.encoder.encode(golden)),
            evaluation,
            bill_of_materials=bill_of_materials(),
            reference=reference_files(use_case, schema, PREDICTION_TIME, seen, test, served, LABEL),
            golden_requests=parity.golden,
        )
        replay_golden_requests(load(Path(folder), digest))
        refuse_artifact(Path(folder))
        files = files_of(Path(folder))
        sign(settings, Path(folder))
        Artifacts(settings.artifacts).upload(Path(folder), "sealed_models", use_case.name, digest)
    made = {"digest": digest, "files": files, "candidate": trial.candidate, "threads": fitted.threads}
    return made | {"evaluation": evaluation}


def _difference(apart: NDArray[np.float64], candidate: str) -> float:
    """The largest difference between the fitted model's answers and those of its export."""
    difference = float(apart.max())
    if not difference <= ONNX_TOLERANCE:  # NaN, too, is a difference
        raise DataError(
            f"The ONNX export of {candidate} differs from the trained model by {difference:.2g} on the test "
            f"period (limit {ONNX_TOLERANCE:g}). Choose another candidate, or report this."
        )
    return difference


def _fitted_with(
    use_case: UseCase, fitted: Fitted, found: Found, test: pl.DataFrame, answers: NDArray[np.float64]
) -> dict[str, Any]:
    """What of `Fit` is in the model, as JSON: its calibration with what it does, and that the time was up."""
    said = dict[str, Any]()
    if fitted.is_cut_short:
        said["cut_short_after"] = str(use_case.fit.time_limit)
    if found.calibration is not None and fitted.uncalibrated is not None:
        task = found.task
        labels, matrix = task.encoded(test[LABEL]), fitted.encoder.encode(test)
        said["calibration"] = {
            "method": use_case.fit.calibration,
            "slope": found.calibration.slope,
            "shifts": list(found.calibration.shifts),
            "validation": found.validation,
            "test": effect(task, labels, fitted.uncalibrated.predict(matrix), answers),
        }
    return said


def _evaluation(
    use_case: UseCase,
    task: Task,
    seen: pl.DataFrame,
    test: pl.DataFrame,
    answers: NDArray[np.float64],
    model: OnnxModel,
    features: Sequence[Feature],
) -> dict[str, Any]:
    """Metrics, slices and what each feature does on the test period, as plain JSON values."""
    seed, labels = use_case.search.seed, task.encoded(test[LABEL])
    scored = labels, answers, days_of(test[PREDICTION_TIME], use_case.zone())
    evaluation = evaluate(task, *scored).to_json() | {"task": task_to_json(task)} | {"test_rows": test.height}
    if decisions := task.decisions(labels, answers):
        evaluation["decision"] = decisions
    if confusion := task.confusion(labels, answers):
        evaluation["confusion"] = confusion
    if use_case.slices:
        evaluation["slices"] = evaluate_slices(task, test, use_case.slices, *scored).to_json()
    evaluation["baselines"] = _baselines(use_case, task, seen, test, scored)
    evaluation["alone"] = roc_auc_alone(task, seen, test, features, LABEL, seed)
    grown = permutation_importance(
        task,
        lambda asked: model.answers(*model_inputs(asked, features)),
        test,
        labels,
        [feature.name for feature in features],
        seed,
    )
    return evaluation | {"importance": {"measure": f"{task.loss}, feature permuted", "features": grown}}


def _baselines(use_case: UseCase, task: Task, seen: pl.DataFrame, test: pl.DataFrame, scored: Scores) -> dict[str, Any]:
    """What the gates ask about answers without a model; learned from `seen`, on the rows of `scored`."""
    labels, answers, day = scored
    found = dict[str, Any]()
    for gate in use_case.gates:
        if isinstance(gate, BetterThanBaseline):
            without = baseline(task, seen, test, gate.by)
            compared = compare((task, task), labels, answers, without, day, gate.metric)
            found[baseline_name(gate)] = asdict(compared)
    return found


def _periods(use_case: UseCase, as_of: datetime) -> dict[str, Any]:
    """On which stretch of time the metrics are, and until when what was trained on reaches."""
    start = use_case.split.test_start(as_of)
    return {
        "test_period": {"start": start.isoformat(), "end": as_of.isoformat()},
        "trained_until": use_case.split.trained_until(as_of).isoformat(),
    }
