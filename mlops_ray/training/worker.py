"""The worker's side of a trial: fits one candidate with one setting of parameters, step by step.

Apart from the search, so that a worker imports neither Feast nor MLflow: together they take longer than many a trial.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.cost.work import Work
from mlops_ray.errors import ModelError
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Candidate, Feature, FittedModel, Parameters
from mlops_ray.use_case.user_code import what_happened


@dataclass(frozen=True)
class TrialData:
    """What every trial reads, from the object store: matrices [rows, features] and labels [rows] of both parts."""

    features: tuple[Feature, ...]
    train: NDArray[np.float32]
    train_label: NDArray[Any]
    validation: NDArray[np.float32]
    validation_label: NDArray[Any]


class TrialWorker:
    """Works on one trial after another; `begin` takes up the next."""

    def __init__(
        self, data: TrialData, candidates: Mapping[str, Candidate], task: Task, metric: str, seed: int, threads: int
    ) -> None:
        self._data = data
        self._candidates = candidates
        self._task = task
        self._metric = metric
        self._seed = seed
        self._threads = threads

    def begin(self, candidate: str, parameters: Parameters) -> None:
        self._candidate = self._candidates[candidate]
        self._parameters = parameters
        self._started, self._work = time.monotonic(), Work(self._threads)
        self._fitting: Iterator[tuple[float, FittedModel]] | None = None

    def step(self) -> dict[str, Any]:
        """`fraction`, `value` (the metric on the validation part), `seconds`, `done`; or `message` if it failed.

        `used`: by the trial so far, see `cost.usage.Usage`.
        """
        found = self._step()
        return found | {"used": self._work.used().to_json()}

    def _step(self) -> dict[str, Any]:
        try:
            # Within the try, because a candidate's fit need not be a generator and can raise at once.
            self._fitting = self._fitting or self._fit()
            fraction, model = next(self._fitting)
            value = self._judge(model.predict(self._data.validation))
        except StopIteration:
            return {"message": "fit ended before it yielded the fraction 1.0.", "done": True}
        except Exception as error:  # The user's code may raise anything; it is recorded and ends this trial only.
            return {"message": what_happened(error), "done": True}
        seconds = time.monotonic() - self._started
        return {"fraction": float(fraction), "value": value, "seconds": seconds, "done": fraction >= 1.0}

    def _fit(self) -> Iterator[tuple[float, FittedModel]]:
        data = self._data
        return self._candidate.fit(
            data.train, data.train_label, data.features, self._task, self._parameters, self._seed, self._threads
        )

    def _judge(self, answer: NDArray[np.float64]) -> float:
        labels = self._data.validation_label
        wanted = (len(labels), self._task.width)[: answer.ndim]
        if answer.shape != wanted or answer.ndim != (1 if self._task.width == 1 else 2):
            raise ModelError(f"The model answered with the shape {answer.shape} instead of {wanted}.")
        if sentence := self._task.wrong(answer):
            raise ModelError(sentence)
        one_block, all_rows = np.zeros(len(labels), dtype=np.intp), np.ones((1, 1))
        task = self._task.decided(labels, answer, 1)
        return float(task.values({self._metric}, labels, answer, one_block, all_rows)[self._metric][0])
