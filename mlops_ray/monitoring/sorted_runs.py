"""A set of 64-bit numbers that grows and forgets what is old, however large it is.

Sorted runs of about doubling lengths, as in a log-structured merge-tree (O'Neil et al., 1996), so that what is added is
sorted anew a few times, and not with each addition. Long runs lie in unnamed temporary files that are mapped, so the
system may take their memory back.
"""

import tempfile
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

# 8 MB and 32 MB. A longer run is merged with none, so that merging takes no more memory than this.
_IN_MEMORY = 1_000_000
LONGEST_RUN = 4_000_000

Numbers = NDArray[np.uint64]


@dataclass(frozen=True)
class _Run:
    """values: ascending. latest: when the last of them came."""

    values: Numbers
    latest: datetime


class SortedRuns:
    """Not safe for threads."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.values) for run in self._runs)

    def add(self, values: Numbers, latest: datetime) -> None:
        """Add `values` in any order, of which the last came at `latest`."""
        if not len(values):
            return
        run = _Run(np.sort(values), latest)
        while self._runs and len(self._runs[-1].values) <= len(run.values) <= LONGEST_RUN // 2:
            other = self._runs.pop()
            # Timsort merges what is sorted already.
            both = np.sort(np.concatenate([other.values, run.values]), kind="stable")
            run = _Run(both, max(other.latest, run.latest))
        self._runs.append(_Run(_mapped(run.values), run.latest) if len(run.values) > _IN_MEMORY else run)

    def has(self, values: Numbers) -> NDArray[np.bool_]:
        """Which of `values` [n] were added."""
        order = np.argsort(values)
        asked, found = values[order], np.zeros(len(values), dtype=np.bool_)
        for run in self._runs:
            # What comes together has numbers that lie together, so few of the runs can have any of them.
            part = slice(np.searchsorted(asked, run.values[0]), np.searchsorted(asked, run.values[-1], "right"))
            at = np.searchsorted(run.values, asked[part])
            found[part] |= run.values[at] == asked[part]
        there = np.empty_like(found)
        there[order] = found
        return there

    def forget_before(self, moment: datetime) -> None:
        """Forget runs all of whose values came before `moment`."""
        self._runs = [run for run in self._runs if run.latest >= moment]


def _mapped(values: Numbers) -> Numbers:
    with tempfile.TemporaryFile(prefix="mlops-ray-answers-") as file:
        values.tofile(file)
        file.flush()
        return np.memmap(file, dtype=np.uint64, mode="r")
