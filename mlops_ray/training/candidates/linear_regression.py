"""Linear regression, the baseline that a more complex model of numbers must beat; `linear_model` fits it."""

from dataclasses import dataclass

from mlops_ray.training.candidates.logistic_regression import LogisticRegression


@dataclass(frozen=True)
class LinearRegression(LogisticRegression):
    """Ridge regression, or of the median one with Huber's loss: what `LogisticRegression` fits to the link of a number.

    `l2` is the penalty on the sum of squared weights beside the mean loss, in deviations of the label.
    """

    name: str = "linear_regression"
