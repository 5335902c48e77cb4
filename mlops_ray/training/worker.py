"""The worker's side of a trial: fits one candidate with one setting of parameters, step by step.

Apart from the search, so that a worker imports neither Feast nor MLflow: together they take longer than many a trial.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.cost.work import Work
from mlops_ray.errors import UseCaseError
from mlops_ray.extras import missing_extra
from mlops_ray.tasks.task import Task
from mlops_ray.training.encoding import Encoder
from mlops_ray.training.scaled import expect_answers, scaled_steps
from mlops_ray.training.side_by_side import steps_of
from mlops_ray.training.weights import Weights
from mlops_ray.use_case import Candidate, Fit, FitData, FittedModel, Parameters
from mlops_ray.use_case.user_code import what_happened

_ROUNDED = 1e-9  # what a sum of steps may be above 1


@dataclass(frozen=True)
class TrialData:
    """What every trial reads, from the object store: matrices [rows, columns of the encoder] and labels [rows] of both
    parts, how much the rows of the first count, and what else is said of fits."""

    encoder: Encoder
    train: NDArray[np.float32]
    train_label: NDArray[Any]
    validation: NDArray[np.float32]
    validation_label: NDArray[Any]
    weights: Weights
    fit: Fit


class TrialWorker:
    """Works on one trial after another; `begin` takes up the next."""

    def __init__(
        self,
        data: TrialData,
        candidates: Mapping[str, Candidate],
        task: Task,
        metric: str,
        seed: int,
        threads: Mapping[str, int],
    ) -> None:
        """threads: by the name of the candidate."""
        self._data = data
        self._candidates = candidates
        self._task = task
        self._metric = metric
        self._seed = seed
        self._threads = threads

    def begin(self, candidate: str, parameters: Parameters) -> None:
        self._candidate = self._candidates[candidate]
        self._parameters = parameters
        self._started, self._work, self._fraction = time.monotonic(), Work(), 0.0
        self._fitting: Iterator[tuple[float, FittedModel]] | None = None

    def step(self) -> dict[str, Any]:
        """`fraction`, `value` (the metric on the validation part), `seconds`, `done`, and at the end a `footprint`; or
        `message` if it failed, as it has where its model cannot be exported. `used`: by the trial so far
        (`cost.usage.Usage`); `cpu_seconds`: the same CPU seconds."""
        found = self._step()
        used = self._work.used()
        return found | {"cpu_seconds": used.cpu_s, "used": used.to_json()}

    def _step(self) -> dict[str, Any]:
        try:
            # Within the try, because a candidate's fit need not be a generator and can raise at once.
            self._fitting = self._fitting or self._fit()
            yielded, model = next(self._fitting)
            self._fraction = fraction = _risen(yielded, self._fraction)
            answer = model.predict(self._data.validation)
            expect_answers(self._task, answer, len(self._data.validation_label))
            self.answer = answer.astype(np.float64)
            value = self._judge(self.answer)
            done = fraction >= 1.0
            costs = self._footprint(model) if done else None
        except StopIteration:
            return {"message": "fit ended before it yielded the fraction 1.0.", "done": True}
        except Exception as error:  # The user's code may raise anything; it is recorded and ends this trial only.
            return {"message": what_happened(missing_extra(error) or error), "done": True}
        seconds = time.monotonic() - self._started
        return {"fraction": fraction, "value": value, "seconds": seconds, "done": done, "footprint": costs}

    def _footprint(self, model: FittedModel) -> dict[str, Any]:
        # Imported where a trial ends: it takes ONNX Runtime.
        from mlops_ray.training.footprint import footprint

        return asdict(footprint(model, self._task.output, self._data.encoder, self._data.validation))

    def _fit(self) -> Iterator[tuple[float, FittedModel]]:
        data = self._data
        to_fit = FitData(
            data.train,
            data.train_label,
            data.encoder.columns,
            self._task,
            self._seed,
            self._threads[self._candidate.name],
            data.weights.rows,
            data.fit.held_out,
            data.fit.ends_at(),
        )
        steps = steps_of(to_fit, self._candidate.name, lambda one: self._candidate.fit(one, self._parameters))
        return scaled_steps(steps, self._task, data.weights.correction)

    def _judge(self, answer: NDArray[np.float64]) -> float:
        labels = self._data.validation_label
        one_block, all_rows = np.zeros(len(labels), dtype=np.intp), np.ones((1, 1))
        task = self._task
        if task.metrics[self._metric].of_decision:
            task = task.decided(labels, answer, 1)
        return float(task.values({self._metric}, labels, answer, one_block, all_rows)[self._metric][0])


def _risen(fraction: Any, last: float) -> float:
    """The fraction of its budget that a fit has spent. Raises UseCaseError if it is none."""
    is_number = isinstance(fraction, int | float | np.integer | np.floating) and not isinstance(fraction, bool)
    if not (is_number and last < fraction <= 1 + _ROUNDED):
        raise UseCaseError(
            f"fit yielded the fraction {fraction!r}. Give a number above the last one ({last:g}), at most 1."
        )
    return min(float(fraction), 1.0)
