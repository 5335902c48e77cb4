"""Serving: how the endpoint serves the models of a use case."""

from dataclasses import dataclass
from typing import Literal


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
