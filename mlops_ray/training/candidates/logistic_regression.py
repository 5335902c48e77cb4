"""Logistic regression, the baseline that a more complex model must beat; `linear_model` fits it, and imports SciPy."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_ray.use_case import FitData, Integer, Parameters, SearchSpace, Uniform

if TYPE_CHECKING:
    from mlops_ray.training.candidates.linear_model import LinearModel


def _default_space() -> SearchSpace:
    return {"l2": Uniform(1e-6, 1e-2, log=True), "iterations": Integer(30, 80)}


@dataclass(frozen=True)
class LogisticRegression:
    """Logistic regression, of several classes multinomial, with an L2 penalty, by L-BFGS (Liu and Nocedal, 1989).

    Numbers are standardised and clipped at 10 standard deviations; a missing one counts as the mean and sets a flag
    with a weight of its own. Each code of a category has a weight; codes that training never saw keep 0. The budget
    is `iterations`, each step starting from the weights of the one before. `l2` is the penalty on the sum of squared
    weights beside the mean log loss.
    """

    name: str = "logistic_regression"
    space: SearchSpace = field(default_factory=_default_space)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, "LinearModel"]]:
        """See use_case.Candidate. `seed` has no effect: the problem is convex and starts at zero."""
        from mlops_ray.training.candidates.linear_model import fit_weights

        yield from fit_weights(data, parameters)
