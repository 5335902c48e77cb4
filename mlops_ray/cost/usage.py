"""Usage: quantities of what work used, and how many CPUs at a time."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

# Neighbouring sizes of a histogram are apart by 4 %, so what is read from it is off by 2 % at most.
GROWTH = 1.04
_LEAST = 0.01
PEAKS = ("peak_bytes", "process_peak_bytes", "asked_cpus", "asked_bytes")


@dataclass(frozen=True)
class Usage:
    """What was used. cpu_s: user and system, children included. byte_s: memory in use, over time; peak_bytes: the most
    at one moment, and process_peak_bytes the most of one process. read_bytes, written_bytes: through system calls,
    whether or not the page cache had them. cpus: for how many seconds how many CPUs were in use (`histogram`).
    asked_cpus, asked_bytes: what one task, trial or replica had asked for, 0 where it asked for nothing. predictions:
    that were answered. gpu_s: that were held.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    byte_s: float = 0.0
    peak_bytes: int = 0
    process_peak_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    asked_cpus: float = 0.0
    asked_bytes: int = 0
    predictions: int = 0
    cpus: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Self) -> "Usage":
        """Both, one after the other or beside each other: sums, of peaks the larger."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in SUMS}
        peaks = {name: max(getattr(self, name), getattr(other, name)) for name in PEAKS}
        cpus = dict(Counter(self.cpus) + Counter(other.cpus)) if self.cpus and other.cpus else self.cpus or other.cpus
        return Usage(**sums, **peaks, cpus=cpus)

    def to_json(self) -> dict[str, Any]:
        """Without what is 0."""
        found: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "cpus":
                value = {size: round(seconds, 2) for size, seconds in value.items()}
            elif isinstance(value, float):
                value = round(value, 4)
            if value:
                found[one.name] = value
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Usage":
        """What `to_json` gave; what a later release says besides is left out."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})

    @classmethod
    def sum_of(cls, values: Iterable[Mapping[str, Any]]) -> "Usage":
        """Of several that `to_json` gave what their usages add up to (`__add__`), and an empty one of none."""
        several = list(values)
        sums = {name: sum(value.get(name, 0) for value in several) for name in SUMS}
        peaks = {name: max((value.get(name, 0) for value in several), default=0) for name in PEAKS}
        cpus = Counter[str]()
        for value in several:
            cpus.update(value.get("cpus", {}))
        return cls(**sums, **peaks, cpus=dict(cpus))

    def cpus_within(self, share: float) -> float:
        """How many CPUs were in use at most for this share of the time, to 4 % above; 0 where nothing is known."""
        return quantile(self.cpus, share)


SUMS = tuple(one.name for one in fields(Usage) if one.name not in (*PEAKS, "cpus"))


def histogram(cpus: float, seconds: float) -> dict[str, float]:
    """So many CPUs for so long, as `Usage.cpus`: seconds by the upper bound of a range, as the power of its base."""
    power = 0 if cpus <= _LEAST else math.ceil(math.log(cpus / _LEAST, GROWTH) - 1e-9)
    return {str(power): seconds}


def quantile(sizes: Mapping[str, float], share: float) -> float:
    """The size below which this share of the time was spent: the upper bound of its range."""
    total, seen = sum(sizes.values()), 0.0
    for power, seconds in sorted((int(power), seconds) for power, seconds in sizes.items()):
        seen += seconds
        if seen >= share * total - 1e-9:
            return float(_LEAST * GROWTH**power)
    return 0.0
