"""Totals: usage of a time, added up by the database, since an endpoint writes thousands of rows in a month."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from mlops_ray.cost.usage import PEAKS, SUMS, Usage
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.usage import Kind, Used, used_in_all

_LEAST = Usage()


def read_totals(
    store: ControlStore, use_case: str, since: datetime, until: datetime, kinds: Iterable[Kind] | None = None
) -> list[Used]:
    """As `governance.usage.read_usage`, with one row for all that a part used under the same prices. For how long how
    many CPUs were in use is left out."""
    found = used_in_all(store, use_case, since, until, kinds, SUMS, PEAKS)
    return [replace(row, quantities=_as_kept(row)) for row in found]


def _as_kept(row: Used) -> dict[str, float | int]:
    """Counts as whole numbers."""
    return {
        name: int(value) if isinstance(getattr(_LEAST, name), int) else value for name, value in row.quantities.items()
    }
