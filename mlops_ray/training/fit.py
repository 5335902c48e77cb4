"""The last fit: the chosen candidate with its parameters, on all rows before the gap and the test period."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.features.blocks import Rows
from mlops_ray.features.columns import LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.tasks.scaling import Scaling
from mlops_ray.tasks.task import Task
from mlops_ray.training.averaged import AveragedModel
from mlops_ray.training.encoded_rows import EncodedRows, labels_of, moments_of
from mlops_ray.training.encoding import Encoder, fit_encoder_to
from mlops_ray.training.ensemble import Ensemble
from mlops_ray.training.exported import exported
from mlops_ray.training.fitted_on import FittedOn, fitted_on
from mlops_ray.training.scaled import ScaledModel, expect_answers, last_model, scaled, scaled_steps
from mlops_ray.training.side_by_side import SideBySide, steps_of
from mlops_ray.training.trial import Trial
from mlops_ray.training.weights import weigh
from mlops_ray.use_case import Candidate, Feature, FitBlocks, FitData, FittedModel, LargeCandidate, UseCase
from mlops_ray.use_case.search import ENSEMBLE


@dataclass(frozen=True)
class Memory:
    """bytes: what a process of a fit may take. checkpoints: a URL below which a fit leaves what it goes on from."""

    bytes: int
    checkpoints: str


@dataclass(frozen=True)
class Fitted:
    """A trained model: `onnx` is the complete one, from raw features to the answer (Encoder.wrap_onnx).

    threads: how many it was fitted with, on which the order of additions and so the last digits can depend.
    on: which rows. task: as declared. uncalibrated: the model before its calibration, if it has one. is_cut_short: the
    time limit was up before it ended. workers: how many fitted it together, 0 for this process alone.
    """

    encoder: Encoder
    model: FittedModel
    onnx: bytes
    on: FittedOn
    threads: int
    task: Task
    uncalibrated: FittedModel | None = None
    is_cut_short: bool = False
    workers: int = 0

    def predict(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """The model's answers to rows of a training set. Raises ModelError where they are none."""
        answers = self.model.predict(self.encoder.encode(rows))
        expect_answers(self.task, answers, rows.height)
        return answers


def fit_chosen(
    use_case: UseCase,
    frame: pl.DataFrame,
    as_of: datetime,
    features: Sequence[Feature],
    trial: Trial,
    calibration: Scaling | None = None,
) -> Fitted:
    """Fit `trial`'s candidate again on train and validation together, with an encoder fitted on both.

    calibration: what its answers are to pass through.

    Rows take part whose label was known when the validation period ended, those that the search had left out at the
    border between train and validation among them. Raises UseCaseError if the use case has no such candidate any more.
    """
    end = use_case.split.trained_until(as_of)
    rows = frame.filter((pl.col(PREDICTION_TIME) < end) & (pl.col(LABEL_KNOWN_AT) <= end))
    chosen = Rows.of(rows.sort(PREDICTION_TIME, maintain_order=True))
    return fit_trial(use_case, chosen, features, trial, calibration)


def fit_trial(
    use_case: UseCase,
    rows: Rows,
    features: Sequence[Feature],
    trial: Trial,
    calibration: Scaling | None = None,
    memory: Memory | None = None,
) -> Fitted:
    """Fit `trial`'s candidate with its parameters on these rows, with an encoder fitted on them.

    memory: what there is of it; None: enough for all rows. Raises DataError where there is nothing to learn from.
    """
    candidate, task, fit = _candidate(use_case, trial.candidate), use_case.label.task, use_case.fit
    memory, seed = memory or Memory(sys.maxsize, ""), use_case.search.seed
    on = fitted_on(candidate, len(rows), len(features), memory.bytes)
    if on.way == "sample":
        rows = Rows.of(rows.some(on.rows, seed))
        on = replace(on, rows=len(rows))
    encoder = fit_encoder_to(rows, features)
    encoder, label = encoder.with_level_tables(rows.whole, task, fit.most_levels), labels_of(rows, task)
    if lacking := task.shortfall(label):
        raise DataError(
            f"Among the rows to fit to there are {lacking}. Give more data, another as_of or a shorter split."
        )
    weights = weigh(fit, task, label, moments_of(rows))
    encoded = EncodedRows(encoder, rows, encoder.of_fitted(rows.whole, task))
    about = label, encoder.columns, task, seed, _threads(), weights.rows, fit.held_out, fit.ends_at()
    data: FitData | FitBlocks
    if on.way == "blocks" and isinstance(candidate, LargeCandidate):
        large, data = candidate, FitBlocks(encoded, *about, memory.checkpoints, memory.bytes)
        steps = steps_of(data, candidate.name, lambda one: large.fit_blocks(one, trial.parameters))
    else:
        data = FitData(encoded.matrix(), *about)
        steps = steps_of(data, candidate.name, lambda one: candidate.fit(one, trial.parameters))
    fitted = last_model(scaled_steps(steps, task, weights.correction), trial.candidate)
    # Before the export, which takes time of its own.
    is_cut_short = data.is_out_of_time() or (isinstance(fitted, AveragedModel | SideBySide) and fitted.is_cut_short)
    model, uncalibrated = fitted, None
    if calibration is not None:
        model, uncalibrated = scaled(fitted, calibration, task), fitted
    onnx = encoder.wrap_onnx(exported(model, task.output).SerializeToString())
    workers = getattr(fitted.model if isinstance(fitted, ScaledModel) else fitted, "workers", 0)
    return Fitted(encoder, model, onnx, on, data.threads, task, uncalibrated, is_cut_short, workers)


def _candidate(use_case: UseCase, name: str) -> Candidate:
    if name == ENSEMBLE:
        return Ensemble(use_case.candidates)
    for candidate in use_case.candidates:
        if candidate.name == name:
            return candidate
    names = ", ".join(candidate.name for candidate in use_case.candidates)
    raise UseCaseError(f"Use case {use_case.name} has no candidate {name!r} (it has {names}). Search again.")


def _threads() -> int:
    """Ray sets this variable to the CPUs of a task; elsewhere all of the machine's are ours."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
