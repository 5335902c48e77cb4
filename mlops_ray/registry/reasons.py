"""Reasons: what each feature contributed to an answer of a sealed model, against the rows it was sealed with."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import ConfigurationError
from mlops_ray.registry.explanation import Inputs, explain
from mlops_ray.registry.sealed_model import SealedModel


def reasons(
    sealed: SealedModel,
    numbers: NDArray[np.float32],
    categories: NDArray[np.object_],
    answer: NDArray[np.float32],
    ends_at: float = math.inf,
) -> list[dict[str, Any]]:
    """For each row, as JSON: `base`, the mean answer to the held-out rows that were sealed with the model, and
    `contributions` by feature, the largest first; together they are the answer, on the `scale` named. `error` is the
    largest error of a contribution (`explanation.explain`). The same row has the same reasons.

    numbers, categories: as `Model.answers` takes them; answer: what it gave. ends_at: see `explain`, which raises
    TimeoutError. Raises ConfigurationError if no rows were sealed with the model.
    """
    if sealed.explained is None:
        raise ConfigurationError("No held-out rows were sealed with this model, so its answers cannot be explained.")
    schema, task = sealed.schema, sealed.schema.task
    ask, background = sealed.explained.answers, Inputs(*sealed.explained.background)
    names = [*schema.named("number"), *schema.named("category")]

    def of_row(row: int) -> dict[str, Any]:
        def additive(some: NDArray[np.float32], others: NDArray[np.object_]) -> NDArray[np.float64]:
            return task.additive(ask(some, others), answer[row])

        asked = Inputs(numbers[row : row + 1], categories[row : row + 1])
        one = explain(additive, asked, background, ends_at=ends_at, doubt=task.additive_error)
        by_size = np.argsort(-np.abs(one.contributions), kind="stable")
        return {
            "scale": task.additive_scale,
            "base": float(one.base),
            "contributions": {names[at]: float(one.contributions[at]) for at in by_size},
            "error": float(one.errors.max(initial=0.0)),
        }

    return [of_row(row) for row in range(len(answer))]
