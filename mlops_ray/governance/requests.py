"""Requests: how those to an endpoint went, as replicas count and report it and the watch draws it over time."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Requests:
    """Counts. answered, failed: by a version. refused: what was sent is none that a version takes. repaired: a value of
    it was read as another than was sent, as the contract says; values: how many such values, by column.

    latency: answers by the upper bound of their time since the first byte, in seconds as text ("inf" beyond all).
    missing, stale: feature values that the online store did not have, or too old, by view.
    """

    answered: int = 0
    failed: int = 0
    refused: int = 0
    repaired: int = 0
    values: Mapping[str, int] = field(default_factory=dict)
    latency: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    stale: Mapping[str, int] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        """All that a version was asked: answered, failed and refused."""
        return self.answered + self.failed + self.refused

    def __add__(self, other: Self) -> "Requests":
        return self._with(other, 1)

    def __sub__(self, other: Self) -> "Requests":
        """What was counted since `other`, an earlier state of the same counts."""
        return self._with(other, -1)

    def _with(self, other: Self, sign: int) -> "Requests":
        parts: dict[str, Any] = {}
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            parts[name] = mine + sign * theirs if isinstance(mine, int) else _together(mine, theirs, sign)
        return Requests(**parts)

    def latency_s(self, share: float) -> float | None:
        """Within how many seconds this share of the answers came: the upper bound of its bucket; None without any."""
        total, seen = sum(self.latency.values()), 0
        for bound, count in sorted((float(text), count) for text, count in self.latency.items()):
            seen += count
            if seen >= share * total > 0:
                return bound
        return None

    def to_json(self) -> dict[str, Any]:
        """Without what is 0, so that a report stays short."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Requests":
        """What `to_json` gave; what a later release says besides is left out."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})


def _together(mine: Mapping[str, int], theirs: Mapping[str, int], sign: int) -> dict[str, int]:
    found = Counter(mine)
    for name, count in theirs.items():
        found[name] += sign * count
    return {name: count for name, count in found.items() if count}
