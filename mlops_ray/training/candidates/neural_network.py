"""A multilayer perceptron with embeddings for the categories, as a candidate; `network` fits it, and imports torch."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from mlops_ray.use_case import Choice, FitBlocks, FitData, Integer, Parameters, SearchSpace, Uniform

# Of a process: torch, Ray Train, and rows of different times that are mixed; of a row: label, weight, place.
_BYTES_OF_PROCESS, _BYTES_OF_ROW = 1 << 30, 24

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
    extra: ClassVar[str] = "torch"  # without it a run does not begin

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, "Network"]]:
        """See use_case.Candidate. Sets the number of torch's threads in this process."""
        from mlops_ray.training.candidates.network import fit_network

        yield from fit_network(data, parameters)

    def fit_blocks(self, data: FitBlocks, parameters: Parameters) -> Iterator[tuple[float, "Network"]]:
        """See use_case.LargeCandidate. Where Ray is initialised workers on the nodes of the cluster fit it together."""
        from mlops_ray.training.candidates.network_workers import fit_network_blocks

        yield 1.0, fit_network_blocks(data, parameters)

    def bytes_for(self, rows: int, features: int) -> int:
        """See use_case.LargeCandidate."""
        return _BYTES_OF_PROCESS + rows * _BYTES_OF_ROW
