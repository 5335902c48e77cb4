"""Right-sizing: what a step, a trial or a replica should ask for, by what it has used."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from mlops_ray.cost.usage import GROWTH, Usage
from mlops_ray.governance.declared_resources import Resources
from mlops_ray.governance.usage import Used

SHARE, HEAD_ROOM = 0.99, 1.15
# Steps that run in one task of their own, unless they are small enough for none. The others ask for their tasks one by
# one, as their data need it.
STEPS = ("training_set", "evaluate", "register", "materialize")
ENDPOINT, TRIALS = "endpoint", "train"
_LEAST_CPUS = 0.1
_LEAST_MB = 64
_LATEST = 30
_RECENT = timedelta(days=30)
# Shorter work says nothing: what the clock of the kernel shows is rounded.
_SHORTEST_S = 1.0
_SHORTEST_SERVED_S = 600.0


@dataclass(frozen=True)
class Advice:
    """name: of the step ("train": each trial), or "endpoint": each replica. asked: what it asked for the last time.
    used: CPUs for 99 % of the time (of the task or trial that wants most, of all replicas), and the most memory.
    advised: with head-room. samples: of how many it is."""

    name: str
    asked: Resources
    used: Resources
    advised: Resources
    samples: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {part: getattr(self, part).to_json() for part in ("asked", "used", "advised")}


def advise(rows: Iterable[Used]) -> list[Advice]:
    """For what has run long enough to say; of what failed or was killed nothing is learnt."""
    by_name: dict[str, list[Used]] = defaultdict(list)
    replicas: list[Used] = []
    for row in rows:
        if row.kind == "replica":
            replicas.append(row)
        elif row.state == "ended" and row.quantities.get("asked_cpus") and (row.kind == "trial" or row.name in STEPS):
            by_name[TRIALS if row.kind == "trial" else row.name].append(row)
    names = [name for name in (*STEPS[:1], TRIALS, *STEPS[1:]) if by_name.get(name)]
    found = [one for name in names if (one := _of_tasks(name, by_name[name])) is not None]
    newest = max((row.since for row in replicas), default=None)
    replicas = [row for row in replicas if newest is not None and row.since > newest - _RECENT]
    hours = _hours(replicas)
    served_s = sum(hour.measured_s for hour in hours)
    return found + ([_of_replicas(replicas, hours)] if served_s >= _SHORTEST_SERVED_S else [])


def _of_tasks(name: str, rows: Sequence[Used]) -> Advice | None:
    used = [Usage.from_json(row.quantities) for row in rows]
    used = [one for one in used if one.wall_s >= _SHORTEST_S][-_LATEST:]
    if not used:
        return None
    cpus = max(one.cpus_within(SHARE) or one.cpu_s / one.wall_s for one in used)
    peak = max(one.process_peak_bytes for one in used)
    asked = Resources(used[-1].asked_cpus or None, used[-1].asked_bytes >> 20 or None)
    advised = Resources(advised_cpus(cpus), advised_mb(peak))
    return Advice(name, asked, Resources(round(cpus, 2), peak >> 20), advised, len(used))


def _of_replicas(rows: Sequence[Used], hours: Sequence["_Hour"]) -> Advice:
    """Each as for 99 % of the time of all; as many as the busiest hours want, and at least as many as half of the hours
    do. One more may always come, as hours do not show their busiest minute."""
    total = Usage.sum_of(row.quantities for row in rows)
    cpus, peak = total.cpus_within(SHARE), total.process_peak_bytes
    each = advised_cpus(cpus)
    busiest, usual = (_within(hours, share) for share in (SHARE, 0.5))
    least = max(1, math.ceil(usual * HEAD_ROOM / each))
    most = max(least + 1, math.ceil(busiest * HEAD_ROOM / each))
    asked = Resources(total.asked_cpus or None, total.asked_bytes >> 20 or None)
    advised = Resources(each, advised_mb(peak), least, most)
    return Advice(ENDPOINT, asked, Resources(round(cpus, 2), peak >> 20), advised, len(rows))


@dataclass(frozen=True)
class _Hour:
    """Of an endpoint. measured_s: for how long any of its replicas was. cpus: that were in use on average meanwhile."""

    measured_s: float
    cpus: float


def _hours(rows: Iterable[Used]) -> list[_Hour]:
    """An hour that has not ended, or in which the endpoint was deployed, counts for what was seen of it."""
    by_hour: dict[datetime, list[Used]] = defaultdict(list)
    for row in rows:
        by_hour[row.since].append(row)
    measured = [(_measured_s(ones), sum(row.quantities.get("cpu_s", 0.0) for row in ones)) for ones in by_hour.values()]
    return [_Hour(seconds, cpu_s / seconds) for seconds, cpu_s in measured if seconds]


def _measured_s(rows: Iterable[Used]) -> float:
    """For how long any replica was, each without a break until it was written last, of whichever versions."""
    by_run: dict[str, list[Used]] = defaultdict(list)
    for row in rows:
        by_run[row.run].append(row)
    spans = []
    for ones in by_run.values():
        until = max(row.seen_at for row in ones)
        spans.append((until - timedelta(seconds=sum(row.quantities.get("wall_s", 0.0) for row in ones)), until))
    seconds, covered = 0.0, min(begin for begin, _ in spans)
    for begin, until in sorted(spans):
        seconds += max(0.0, (until - max(begin, covered)).total_seconds())
        covered = max(covered, until)
    return seconds


def _within(hours: Iterable[_Hour], share: float) -> float:
    """The CPUs of the hour in which one is, in their order, after this share of what was measured."""
    ordered = sorted(hours, key=lambda hour: hour.cpus)
    left_s = share * sum(hour.measured_s for hour in ordered)
    for hour in ordered:
        left_s -= hour.measured_s
        if left_s < 0:
            return hour.cpus
    return ordered[-1].cpus


def advised_cpus(used: float) -> float:
    """With head-room, in tenths, below one CPU in hundredths; where whole cores are enough, these: a request of a
    little more would keep another from the machine. Enough is what is used, as exactly as a histogram tells."""
    whole, parts = math.ceil(used / GROWTH), 10 if used >= 1 else 100
    if whole <= used * HEAD_ROOM:
        return float(whole)
    return max(_LEAST_CPUS, math.ceil(used * HEAD_ROOM * parts - 1e-9) / parts)


def advised_mb(peak_bytes: int) -> int:
    return max(_LEAST_MB, math.ceil(peak_bytes * HEAD_ROOM / (1 << 20)))
