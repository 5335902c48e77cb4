"""Linear regression, the baseline that a more complex model of numbers must beat; `linear_model` fits it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.task import Task
from mlops_ray.training.candidates.logistic_regression import default_space
from mlops_ray.use_case import Feature, Parameters, SearchSpace

if TYPE_CHECKING:
    from mlops_ray.training.candidates.linear_model import LinearModel


@dataclass(frozen=True)
class LinearRegression:
    """Ridge regression, or of the median one with Huber's loss, by L-BFGS; numbers and categories as in
    `LogisticRegression`. `l2` is the penalty on the sum of squared weights beside the mean loss, in deviations of the
    label.
    """

    name: str = "linear_regression"
    space: SearchSpace = field(default_factory=default_space)

    def fit(
        self,
        matrix: NDArray[np.float32],
        label: NDArray[Any],
        features: Sequence[Feature],
        task: Task,
        parameters: Parameters,
        seed: int,
        threads: int,
    ) -> Iterator[tuple[float, "LinearModel"]]:
        """See use_case.Candidate. `seed` has no effect: the problem is convex and starts at zero."""
        from mlops_ray.training.candidates.linear_model import fit_weights

        yield from fit_weights(matrix, label, features, task, parameters, threads)
