"""Prices: what a usage costs by a table of prices, and sums that never mix currencies."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops_ray.artifacts import digest_json
from mlops_ray.config import Prices
from mlops_ray.cost.usage import Usage
from mlops_ray.governance.usage import Sum, Used
from mlops_ray.show.text import figures

NO_PRICES = "no prices"
PRICED = ("cpu_s", "gpu_s", "byte_s", "read_bytes", "written_bytes")
"""The quantities of a usage that cost something."""
_GB = 1e9
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Cost:
    """amounts: by currency. unpriced: the prices that are missing for what was used, so that the amounts lack it."""

    amounts: Mapping[str, float] = field(default_factory=dict)
    unpriced: frozenset[str] = frozenset()

    def __add__(self, other: "Cost") -> "Cost":
        names = {**self.amounts, **other.amounts}
        sums = {name: self.amounts.get(name, 0.0) + other.amounts.get(name, 0.0) for name in names}
        return Cost(sums, self.unpriced | other.unpriced)

    def to_json(self) -> dict[str, Any]:
        return {"amounts": {name: round(value, 6) for name, value in sorted(self.amounts.items())}} | (
            {"unpriced": sorted(self.unpriced)} if self.unpriced else {}
        )

    def __str__(self) -> str:
        shown = " + ".join(f"{figures(value)} {name}" for name, value in sorted(self.amounts.items())) or "-"
        return f"{shown}{self.lacks}" if self.amounts else shown

    @property
    def lacks(self) -> str:
        """What the amounts lack, in words behind them; empty for nothing."""
        lacks = [f"what had {NO_PRICES}" if one == NO_PRICES else one for one in sorted(self.unpriced)]
        return f" (without {', '.join(lacks)})" if lacks else ""


def price(usage: Usage, prices: Prices | None) -> Cost:
    """What this costs by a table; None for no table: nothing is known then, and it is not 0."""
    if prices is None:
        return Cost({}, frozenset((NO_PRICES,)))
    parts = {
        "cpu_hour": usage.cpu_s / _HOUR_S,
        "gpu_hour": usage.gpu_s / _HOUR_S,
        "memory_gb_hour": usage.byte_s / _GB / _HOUR_S,
        "read_gb": usage.read_bytes / _GB,
        "written_gb": usage.written_bytes / _GB,
    }
    amount, unpriced = 0.0, set()
    for name, quantity in parts.items():
        rate = getattr(prices, name)
        if rate is not None:
            amount += rate * quantity
        elif quantity > 0:
            unpriced.add(name)
    return Cost({prices.currency: amount}, frozenset(unpriced))


def digest_of(prices: Prices | None) -> str:
    """Names a table of prices; "" for none."""
    return "" if prices is None else digest_json(prices.model_dump())


def priced(rows: Iterable[Used | Sum], tables: Mapping[str, Mapping[str, Any]]) -> Cost:
    """The cost of rows or sums, each by the table that held when it was used (`governance.usage.read_prices`)."""
    # Another release may have known other prices: what is read is what this one knows.
    known = {
        digest: Prices(**{name: rate for name, rate in table.items() if name in Prices.model_fields})
        for digest, table in tables.items()
    }
    used: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        used[row.prices].append(row.quantities)
    return sum((price(Usage.sum_of(several), known.get(table)) for table, several in used.items()), Cost())
