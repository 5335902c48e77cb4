"""Serving: how the endpoint serves the models of a use case."""

import math
from dataclasses import dataclass
from typing import Literal

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.declared_types import expect_types


@dataclass(frozen=True)
class Serving:
    """How the endpoint serves the models of a use case.

    store_down: what happens to requests by keys while the online store does not answer: `refuse` them (503), or
    answer as if its features were `missing`, marked as degraded. batch_wait_ms: how long a request may wait for
    others, so that a large model answers up to `batch_rows` rows at once; 0 asks it for each request.
    """

    store_down: Literal["refuse", "missing"] = "refuse"
    batch_wait_ms: float = 0.0
    batch_rows: int = 64

    def __post_init__(self) -> None:
        expect_types(self, "Serving")
        if not 0 <= self.batch_wait_ms < math.inf or self.batch_rows < 1:
            raise UseCaseError(
                f"Serving: batch_wait_ms is {self.batch_wait_ms} and batch_rows {self.batch_rows}. "
                f"Give 0 or more milliseconds, and 1 row or more."
            )
