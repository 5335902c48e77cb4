"""LightGBM as a candidate; `light_gbm_trees` fits it, and imports lightgbm (`pip install mlops_ray[lightgbm]`)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from mlops_ray.errors import ConfigurationError
from mlops_ray.use_case import FitBlocks, FitData, FittedModel, Integer, Parameters, SearchSpace, Uniform

# Of a value: its bin, and once more its bin beside the others of its row; of a row: label, weight, place, score and
# gradients, and Python's own label and weight.
_BYTES_OF_VALUE, _BYTES_OF_ROW = 2, 60


def _default_space() -> SearchSpace:
    return {
        "learning_rate": Uniform(0.03, 0.2, log=True),
        "iterations": Integer(80, 300, log=True),
        "num_leaves": Integer(15, 127, log=True),
        "min_data_in_leaf": Integer(20, 500, log=True),
        "feature_fraction": Uniform(0.5, 1.0),
        "lambda_l2": Uniform(0.01, 10.0, log=True),
    }


@dataclass(frozen=True)
class LightGBM:
    """Boosted trees by LightGBM (Ke et al., "LightGBM: a highly efficient gradient boosting decision tree", 2017).

    Categories enter as their codes, as with `GradientBoosting`. The budget is `iterations`. The same seed and number of
    threads give the same trees, from a matrix and from blocks, of which only bins of a byte are kept.
    """

    name: str = "lightgbm"
    space: SearchSpace = field(default_factory=_default_space)
    extra: ClassVar[str] = "lightgbm"  # without it a run does not begin

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        """See use_case.Candidate. Raises ConfigurationError if lightgbm is not installed here."""
        yield from self._fit_trees(data, parameters)

    def fit_blocks(self, data: FitBlocks, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        """See use_case.LargeCandidate. Raises as `fit` does."""
        yield from self._fit_trees(data, parameters)

    def bytes_for(self, rows: int, features: int) -> int:
        """See use_case.LargeCandidate."""
        return rows * (features * _BYTES_OF_VALUE + _BYTES_OF_ROW)

    def _fit_trees(self, data: FitData | FitBlocks, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        try:
            from mlops_ray.training.candidates.light_gbm_trees import fit_trees
        except ImportError as error:
            raise ConfigurationError(
                f"The candidate {self.name} needs lightgbm, which is not installed here ({error}). Install it on every "
                f"node that trains: pip install 'mlops_ray[lightgbm]'."
            ) from error
        yield from fit_trees(data, parameters)
