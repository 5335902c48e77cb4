"""Counts of what a replica answered, by version and route: the ground of metrics and of rollout decisions."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

# Upper bounds of latency buckets in seconds: 0.1 ms to 10 s, each a quarter above the one before.
BOUNDS_S = tuple(1e-4 * 1.25**step for step in range(52))


@dataclass
class Counts:
    """Of one version on one route. `difference`: sum over `compared` rows of how far the shadow's answer is from
    the champion's (see `Task.apart`).

    latency: answers by the time since the request's first byte. work: by the time that looking up and asking the model
    took alone, which is what can be compared with a shadow's.
    """

    requests: int = 0
    errors: int = 0
    difference: float = 0.0
    compared: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    work: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def answered(self, latency_s: float) -> None:
        self.requests += 1
        self.latency[bisect_left(BOUNDS_S, latency_s)] += 1

    def worked(self, seconds: float) -> None:
        self.work[bisect_left(BOUNDS_S, seconds)] += 1

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
            [mine + sign * theirs for mine, theirs in zip(self.work, other.work, strict=True)],
        )

    def median_s(self) -> float | None:
        """The median latency: the upper bound of its bucket, at most a quarter too high; None without answers."""
        return _median_s(self.latency)

    def work_median_s(self) -> float | None:
        """As `median_s`, of the work alone."""
        return _median_s(self.work)

    def to_json(self) -> dict[str, Any]:
        """Only the buckets that were hit, so that a report stays short."""
        return {
            "requests": self.requests, "errors": self.errors, "difference": self.difference,
            "compared": self.compared, "latency": _hit(self.latency), "work": _hit(self.work),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        counts = cls(value["requests"], value["errors"], value["difference"], value["compared"])
        for index, count in value["latency"].items():
            counts.latency[int(index)] = count
        for index, count in value.get("work", {}).items():  # a replica of the version before says nothing of it
            counts.work[int(index)] = count
        return counts


@dataclass
class Judged:
    """What a version's contract made of requests. refused, repaired: how many requests; values: how many values were
    read as another than was sent, by column. One thread counts."""

    refused: int = 0
    repaired: int = 0
    values: Counter[str] = field(default_factory=Counter)


def _median_s(buckets: list[int]) -> float | None:
    total, seen = sum(buckets), 0
    for bound, count in zip(BOUNDS_S, buckets, strict=False):
        seen += count
        if 2 * seen >= total > 0:
            return bound
    return BOUNDS_S[-1] if total else None


def _hit(buckets: list[int]) -> dict[str, int]:
    return {str(index): count for index, count in enumerate(buckets) if count}
