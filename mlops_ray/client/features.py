"""Fresh feature values, in requests that a server takes."""

from collections.abc import Sequence

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps
from mlops_ray.client.values import Row, model_path, plain

ROWS_IN_A_REQUEST = 1_000


def values_pushed(name: str, view: str, rows: Sequence[Row]) -> Steps[int]:
    """How many keys have the value online that was sent."""
    written = 0
    for start in range(0, len(rows), ROWS_IN_A_REQUEST):
        body = {"view": view, "rows": plain(rows[start : start + ROWS_IN_A_REQUEST])}
        written += (yield Call(model_path(name, "features"), body))["written"]
    return written
