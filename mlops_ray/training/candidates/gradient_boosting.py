"""Gradient-boosted trees as a candidate; `boosted_trees` fits them, and imports scikit-learn."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mlops_ray.use_case import FitData, FittedModel, Integer, Parameters, SearchSpace, Uniform


def _default_space() -> SearchSpace:
    return {
        "learning_rate": Uniform(0.05, 0.2, log=True),
        "iterations": Integer(60, 140),
        "max_leaf_nodes": Integer(15, 47, log=True),
        "min_samples_leaf": Integer(50, 500, log=True),
        "l2_regularization": Uniform(0.01, 10.0, log=True),
    }


@dataclass(frozen=True)
class GradientBoosting:
    """Boosted trees (Friedman, "Greedy function approximation", 2001) on binned features (Ke et al., LightGBM, 2017).

    Categories enter as their codes, as if they were numbers: ONNX's tree operators have no splits on sets of codes. A
    missing number goes to the side of each split that training chose for it. The budget is `iterations`.
    """

    name: str = "gradient_boosting"
    space: SearchSpace = field(default_factory=_default_space)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        """See use_case.Candidate. Each step adds trees to those before it."""
        from mlops_ray.training.candidates.boosted_trees import fit_trees

        yield from fit_trees(data, parameters)
