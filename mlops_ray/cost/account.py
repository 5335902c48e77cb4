"""Account: what the processes of a run have used together, those that have ended included."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlops_ray.cost.processes import Process

# What the kernel says is in ticks of a hundredth, of user and system apart.
_ROUNDING_S = 0.025
# Who has used so much of the CPU seconds since the last mark is at work.
_WORKS = 0.1


@dataclass(frozen=True)
class Total:
    """What was used up to now: see `cost.usage.Usage`. memory_bytes, process_peak_bytes: of those that live now, the
    latter of those that work (`Account.mark`)."""

    cpu_s: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    memory_bytes: int = 0
    process_peak_bytes: int = 0


class Account:
    """Adds up over processes that come and go.

    A process that is gone was as a rule waited for, and then its parent's account holds all of it. Where the parent
    does not say so much (it ignores its children, or has none that lives), what the process had when it was last seen
    counts instead: of one that is killed there lacks what it used since then.
    """

    def __init__(self) -> None:
        self._places: dict[str, dict[tuple[int, int], Process]] = {}
        self._gone_s, self._gone_read, self._gone_written = 0.0, 0, 0
        self._marks: dict[tuple[str, int, int], float] = {}

    def mark(self) -> None:
        """From now on `Total.process_peak_bytes` is of those that work, and not of those that are left from before."""
        places = self._places.items()
        self._marks = {(place, *key): one.cpu_s for place, ones in places for key, one in ones.items()}

    def look(self, place: str, seen: Sequence[Process]) -> None:
        """Take over what lives in a place (`RunProcesses.place`) now; nothing, where the machine is gone."""
        before, now = self._places.get(place, {}), {(one.pid, one.began): one for one in seen}
        for parent, ended in _ended(before, now).items():
            used_s = sum(one.cpu_s for one in ended)
            waited_s = 0.0 if parent is None else now[parent].waited_s - before[parent].waited_s
            if used_s - waited_s > _ROUNDING_S * len(ended):  # or what is rounded each time would add up
                self._gone_s += used_s - waited_s
                self._gone_read += sum(one.read_bytes for one in ended)
                self._gone_written += sum(one.written_bytes for one in ended)
        self._places[place] = now

    def total(self, apart: int | None = None) -> Total:
        """apart: the pid of the driver, whose peak is that of no task."""
        alive = [one for place in self._places.values() for one in place.values()]
        shared = sum(max((one.shared_bytes for one in place.values()), default=0) for place in self._places.values())
        return Total(
            self._gone_s + sum(one.cpu_s for one in alive),
            self._gone_read + sum(one.read_bytes for one in alive),
            self._gone_written + sum(one.written_bytes for one in alive),
            shared + sum(one.private_bytes for one in alive),
            self._working_peak(apart),
        )

    def _working_peak(self, apart: int | None) -> int:
        used = {
            (place, *key): (one.cpu_s - self._marks.get((place, *key), 0.0), one.peak_bytes)
            for place, ones in self._places.items()
            for key, one in ones.items()
            if one.pid != apart
        }
        at_least_s = _WORKS * sum(used_s for used_s, _ in used.values())
        return max((peak for used_s, peak in used.values() if used_s >= at_least_s), default=0)


def _ended(
    before: Mapping[tuple[int, int], Process], now: Mapping[tuple[int, int], Process]
) -> dict[tuple[int, int] | None, list[Process]]:
    """Those that are gone, by the nearest of those above them that still lives; None where none does."""
    by_pid = {one.pid: key for key, one in before.items()}
    found: dict[tuple[int, int] | None, list[Process]] = defaultdict(list)
    for key, one in before.items():
        if key in now:
            continue
        above = by_pid.get(one.parent)
        while above is not None and above not in now:
            above = by_pid.get(before[above].parent)
        found[above].append(one)
    return found
