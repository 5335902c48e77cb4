"""Sealing: the chosen trial, fitted once more, scored once, and put into one folder with all that a server needs."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.evaluation.alone import roc_auc_alone
from mlops_ray.evaluation.baseline import baseline
from mlops_ray.evaluation.comparison import compare
from mlops_ray.evaluation.dependence import partial_dependence
from mlops_ray.evaluation.gates import baseline_name
from mlops_ray.evaluation.importance import permutation_importance
from mlops_ray.evaluation.metrics import evaluate
from mlops_ray.evaluation.slices import evaluate_slices
from mlops_ray.features.blocks import Rows
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.monitoring.sealed_reference import reference_files
from mlops_ray.pipeline.calibration import Found, effect, find_on_validation
from mlops_ray.pipeline.cpus import memory_given
from mlops_ray.pipeline.parity import prove_request_parity
from mlops_ray.pipeline.periods import Periods, answers_to, periods_of, telling
from mlops_ray.registry.artifact_check import refuse_artifact
from mlops_ray.registry.bill_of_materials import bill_of_materials
from mlops_ray.registry.model_schema import ModelSchema, schema_of
from mlops_ray.registry.model_signature import expect_signing_key, sign
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.registry.sealed_model import SealedModel, files_of, golden_cases, load, model_inputs, seal, shown_answer
from mlops_ray.serving.golden import replay_golden_requests
from mlops_ray.tasks.days import days_of
from mlops_ray.tasks.stored import task_to_json
from mlops_ray.tasks.task import Task
from mlops_ray.training.encoded_rows import labels_of, moments_of
from mlops_ray.training.fit import Fitted, Memory, fit_trial
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import BetterThanBaseline, Feature, UseCase

GOLDEN_ROWS = 64
Scores = tuple[NDArray[Any], NDArray[np.float64], NDArray[np.intp]]
ONNX_TOLERANCE = 1e-5
_ABANDONED = timedelta(days=7)  # the checkpoints of a fit that was killed, and that nobody took up again


def fit_score_and_seal(
    use_case: UseCase,
    settings: Settings,
    training_set: TrainingSet,
    trial: Trial,
    key: str = "",
    memory_bytes: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Refit the chosen trial on all rows before the gap, score it once on the test period, seal it.

    Gives, as plain JSON values, its candidate and with how many threads it was fitted, as soon as it is, and at the end
    these with the sealed model's digest and files and its evaluation. key: called again with the same one, a fit that
    was killed goes on. memory_bytes: by which it is decided whether all rows are held at once; None: what this task is
    given.

    Raises DataError if the ONNX export does not answer as the fitted model does, UseCaseError if a request about a row
    of the training set does not give what training computed of it (see `parity`), and ConfigurationError if versions
    must be signed and there is no key to sign with, or memory is too small.
    """
    expect_signing_key(settings)
    artifacts, left = Artifacts(settings.artifacts), ("fits", use_case.name, key or uuid4().hex)
    memory = Memory(memory_bytes or memory_given(), artifacts.url(*left))
    periods = periods_of(use_case, training_set, memory.bytes)
    found = find_on_validation(use_case, periods.train, periods.validation, training_set.features, trial, memory)
    fitted = fit_trial(use_case, periods.before_gap, training_set.features, trial, found.calibration, memory)
    made: dict[str, Any] = {"candidate": trial.candidate, "threads": fitted.threads}
    yield made
    features, seed, test = fitted.encoder.features, use_case.search.seed, periods.test
    task = _renewed(OnnxModel(fitted.onnx, features, found.task), features, periods.gap)
    task = task.with_scale(labels_of(periods.before_gap, task))
    model = OnnxModel(fitted.onnx, features, task)
    answers = answers_to(test, fitted.predict)
    served = answers_to(test, lambda rows: model.answers(*model_inputs(rows, features)))
    difference = _difference(task, served, answers, trial.candidate)
    asked = _Asked.of(use_case, periods, answers)
    schema = replace(_schema(use_case, periods, asked, features, training_set.feature_project), task=task)
    evaluation = _evaluation(use_case, task, asked, features) | {"onnx_max_difference": difference}
    evaluation |= _reasons(use_case, schema, asked.test, model)
    evaluation |= _periods(use_case, training_set.as_of) | _fitted_with(use_case, fitted, found, asked)
    unproven = SealedModel("", schema, model, evaluation)
    parity = prove_request_parity(use_case, settings, training_set, periods.stretches, fitted, unproven)
    evaluation |= {"request_parity": parity.to_json()}
    held_out = asked.test.sample(min(GOLDEN_ROWS, asked.test.height), seed=seed)
    golden = golden_cases(held_out, features, schema.personal_features())
    with tempfile.TemporaryDirectory() as folder:
        digest = seal(
            Path(folder),
            fitted.onnx,
            schema,
            golden,
            fitted.predict(golden),
            evaluation,
            bill_of_materials=bill_of_materials(),
            reference=reference_files(
                use_case, schema, PREDICTION_TIME, asked.seen, asked.test, asked.served(model, served, features), LABEL
            ),
            golden_requests=parity.golden,
        )
        replay_golden_requests(load(Path(folder), digest))
        refuse_artifact(Path(folder))
        files = files_of(Path(folder))
        sign(settings, Path(folder))
        artifacts.upload(Path(folder), "sealed_models", use_case.name, digest)
    artifacts.delete(*left)
    artifacts.delete_abandoned(_ABANDONED, "fits", use_case.name)
    yield made | {"digest": digest, "files": files, "evaluation": evaluation}


def _renewed(model: OnnxModel, features: Sequence[Feature], rows: Rows) -> Task:
    """The model's task, by its answers as they are served. rows: between those that it was fitted to and the test
    period."""
    if not model.task.is_open or not len(rows):
        return model.task
    answers = answers_to(rows, lambda some: model.answers(*model_inputs(some, features)))
    return model.task.renewed(labels_of(rows, model.task), answers)


@dataclass(frozen=True)
class _Asked:
    """The rows of the test period with their answers. rows, labels, answers, days: all of them. test, seen: rows of the
    test period and of before it with all columns, all or some."""

    rows: Rows
    labels: NDArray[Any]
    answers: NDArray[np.float64]
    days: NDArray[np.intp]
    test: pl.DataFrame
    seen: pl.DataFrame
    all_seen: Rows

    @classmethod
    def of(cls, use_case: UseCase, periods: Periods, answers: NDArray[np.float64]) -> Self:
        rows, seed = periods.test, use_case.search.seed
        labels = labels_of(rows, use_case.label.task)
        days = days_of(moments_of(rows), use_case.zone())
        test, seen = periods.some(rows, seed), periods.some(periods.seen, seed)
        return cls(rows, labels, answers, days, test, seen, periods.seen)

    @property
    def scored(self) -> Scores:
        return self.labels, self.answers, self.days

    def with_columns(self, rows: Rows, names: Sequence[str]) -> pl.DataFrame:
        """Labels and some columns of all rows, where there are such."""
        return rows.whole(
            [name for name in dict.fromkeys((PREDICTION_TIME, LABEL, *names)) if name in self.test.columns]
        )

    def served(self, model: OnnxModel, served: NDArray[np.float32], features: Sequence[Feature]) -> NDArray[np.float32]:
        """The answers to `test`. served: to all rows."""
        if self.test.height == len(served):
            return served
        return model.answers(*model_inputs(self.test, features))


def _difference(task: Task, served: NDArray[np.float32], answers: NDArray[np.float64], candidate: str) -> float:
    """The largest difference (`Task.apart`) between the fitted model's answers and those of its export."""
    apart = task.apart(served, answers)
    row = int(apart.argmax())  # a NaN, if there is one
    if not apart[row] <= ONNX_TOLERANCE:
        raise DataError(
            f"The ONNX export of {candidate} answers {shown_answer(served[row])} to row {row} of the test period, the "
            f"trained model {shown_answer(answers[row])}: {apart[row]:.2g} apart (limit {ONNX_TOLERANCE:g}). Choose "
            f"another candidate, or report this."
        )
    return float(apart[row])


def _fitted_with(use_case: UseCase, fitted: Fitted, found: Found, asked: _Asked) -> dict[str, Any]:
    """What of `Fit` is in the model, as JSON: its calibration with what it does, that the time was up, on which rows it
    was fitted where memory did not hold all of them, and what it takes a number for that they hardly ever lacked."""
    said: dict[str, Any] = {"usual": dict(fitted.encoder.usual)}
    if fitted.on.way != "whole":
        said["fitted_on"] = fitted.on.to_json() | {"looked_at": asked.test.height, "workers": fitted.workers}
    if fitted.is_cut_short:
        said["cut_short_after"] = str(use_case.fit.time_limit)
    if found.calibration is not None and fitted.uncalibrated is not None:
        before = fitted.uncalibrated.predict
        uncalibrated = answers_to(asked.rows, lambda rows: before(fitted.encoder.encode(rows)))
        said["calibration"] = {
            "method": found.method,
            "slope": found.calibration.slope,
            "shifts": list(found.calibration.shifts),
            "validation": found.validation,
            "test": effect(found.task, asked.labels, uncalibrated, asked.answers),
        }
    return said


def _evaluation(use_case: UseCase, task: Task, asked: _Asked, features: Sequence[Feature]) -> dict[str, Any]:
    """Metrics and slices on the test period, baselines, and what each feature says alone, as plain JSON values."""
    seed, test = use_case.search.seed, asked.test
    evaluation = evaluate(task, *asked.scored).to_json() | {"task": task_to_json(task)} | {"test_rows": len(asked.rows)}
    if decisions := task.decisions(*asked.scored):
        evaluation["decision"] = decisions
    if confusion := task.confusion(asked.labels, asked.answers):
        evaluation["confusion"] = confusion
    if use_case.slices:
        sliced = asked.with_columns(asked.rows, use_case.slices)
        evaluation["slices"] = evaluate_slices(task, sliced, use_case.slices, *asked.scored).to_json()
    evaluation["baselines"] = _baselines(use_case, task, asked)
    evaluation["alone"] = roc_auc_alone(task, asked.seen, test, features, LABEL, seed)
    return evaluation


def _reasons(use_case: UseCase, schema: ModelSchema, test: pl.DataFrame, model: OnnxModel) -> dict[str, Any]:
    """What the features do to the answers on the test period: importance, and of those with the most of it the partial
    dependence. Values of a feature that tells of a person are not shown."""
    task, features, seed = schema.task, schema.features, use_case.search.seed
    labels, day = task.encoded(test[LABEL]), days_of(test[PREDICTION_TIME], use_case.zone())

    def ask(asked: pl.DataFrame) -> NDArray[np.float32]:
        return model.answers(*model_inputs(asked, features))

    names = [feature.name for feature in features]
    grown = permutation_importance(task, ask, test, labels, day, names, seed)
    hidden = schema.personal_features()
    shown = sorted((one for one in features if one.name not in hidden), key=lambda one: -grown[one.name].value)
    curves = partial_dependence(task, ask, test, day, shown, seed)
    importance = {
        "measure": f"{task.loss}, feature permuted",
        "features": {name: found.value for name, found in grown.items()},
        "intervals": {name: [found.low, found.high] for name, found in grown.items()},
    }
    return {"importance": importance, "dependence": {name: one.to_json() for name, one in curves.items()}}


def _baselines(use_case: UseCase, task: Task, asked: _Asked) -> dict[str, Any]:
    """What the gates ask about answers without a model; learned from all rows before the test period."""
    labels, answers, day = asked.scored
    found = dict[str, Any]()
    for gate in use_case.gates:
        if isinstance(gate, BetterThanBaseline):
            seen, test = (asked.with_columns(rows, gate.by) for rows in (asked.all_seen, asked.rows))
            without = baseline(task, seen, test, gate.by, gate.metric)
            compared = compare((task, task), labels, answers, without, day, gate.metric)
            found[baseline_name(gate)] = asdict(compared)
    return found


def _schema(
    use_case: UseCase, periods: Periods, asked: _Asked, features: Sequence[Feature], project: str | None
) -> ModelSchema:
    """What requests may hold is told by all rows before the test period."""
    there = [name for name in use_case.request_columns() if name in asked.seen.columns]
    declared = use_case.sources[use_case.main_source].column
    closed = [name for name in there if (column := declared(name)) is not None and column.closed]
    return schema_of(use_case, features, telling(periods.seen, closed, there), project)


def _periods(use_case: UseCase, as_of: datetime) -> dict[str, Any]:
    """On which stretch of time the metrics are, and until when what was trained on reaches."""
    start = use_case.split.test_start(as_of)
    return {
        "test_period": {"start": start.isoformat(), "end": as_of.isoformat()},
        "trained_until": use_case.split.trained_until(as_of).isoformat(),
    }
