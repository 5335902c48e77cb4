"""Counts of what a replica answered, by version and route: the ground of metrics and of rollout decisions."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

# Upper bounds of latency buckets in seconds: 0.1 ms to 10 s, each a quarter above the one before.
BOUNDS_S = tuple(1e-4 * 1.25**step for step in range(52))


@dataclass
class Counts:
    """Of one version on one route. `difference`: sum of |shadow's probability - champion's| over `compared` rows."""

    requests: int = 0
    errors: int = 0
    difference: float = 0.0
    compared: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def answered(self, latency_s: float) -> None:
        self.requests += 1
        self.latency[bisect_left(BOUNDS_S, latency_s)] += 1

    def failed(self) -> None:
        self.requests += 1
        self.errors += 1

    def __add__(self, other: Self) -> "Counts":
        return self._with(other, 1)

    def __sub__(self, other: Self) -> "Counts":
        return self._with(other, -1)

    def _with(self, other: Self, sign: int) -> "Counts":
        return Counts(
            self.requests + sign * other.requests,
            self.errors + sign * other.errors,
            self.difference + sign * other.difference,
            self.compared + sign * other.compared,
            [mine + sign * theirs for mine, theirs in zip(self.latency, other.latency, strict=True)],
        )

    def median_s(self) -> float | None:
        """The median latency: the upper bound of its bucket, at most a quarter too high; None without answers."""
        total, seen = sum(self.latency), 0
        for bound, count in zip(BOUNDS_S, self.latency, strict=False):
            seen += count
            if 2 * seen >= total > 0:
                return bound
        return BOUNDS_S[-1] if total else None

    def to_json(self) -> dict[str, Any]:
        """Only the buckets that were hit, so that a report stays short."""
        hit = {str(index): count for index, count in enumerate(self.latency) if count}
        return {
            "requests": self.requests, "errors": self.errors, "difference": self.difference,
            "compared": self.compared, "latency": hit,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        counts = cls(value["requests"], value["errors"], value["difference"], value["compared"])
        for index, count in value["latency"].items():
            counts.latency[int(index)] = count
        return counts
