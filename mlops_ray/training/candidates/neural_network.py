"""A multilayer perceptron with embeddings for the categories, as a candidate; `network` fits it, and imports torch."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_ray.use_case import Choice, FitData, Integer, Parameters, SearchSpace, Uniform

if TYPE_CHECKING:
    from mlops_ray.training.candidates.network import Network


def _default_space() -> SearchSpace:
    return {
        "learning_rate": Uniform(1e-3, 8e-3, log=True),
        "width": Choice((64, 96, 128)),
        "dropout": Uniform(0.0, 0.2),
        "weight_decay": Uniform(1e-5, 1e-2, log=True),
        "epochs": Integer(4, 8),
    }


@dataclass(frozen=True)
class NeuralNetwork:
    """Two hidden layers over standardised numbers, flags for missing ones, and an embedding of each category.

    Trained with AdamW (Loshchilov and Hutter, 2019) and one cycle of the learning rate (Smith and Topin, 2019). The
    budget is `epochs`; at least 4 of them, so that each fraction ends on its own batch.
    """

    name: str = "neural_network"
    space: SearchSpace = field(default_factory=_default_space)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, "Network"]]:
        """See use_case.Candidate. Sets the number of torch's threads in this process."""
        from mlops_ray.training.candidates.network import fit_network

        yield from fit_network(data, parameters)
