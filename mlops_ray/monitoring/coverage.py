"""What windows cover, in time and in rows; and of which coverages a reference learns what is normal.

How far a window is from the reference depends on both: few rows differ by chance, and a short time is like no whole
day. A window of 5,000 rows is five days of one stream and five seconds of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeVar

from mlops_ray.use_case.window_spec import WindowSpec

# A window may be shorter by this factor than what it is compared with: traffic is not even.
TOLERANCE = 1.25
# Windows that are shorter than this are judged together: what a promise in days leaves to each of them is nothing.
_SHORTEST_S = 3600.0
_DAY_S = 86_400.0
_STEPS_S = tuple(hours * 3600.0 for hours in (1, 2, 3, 4, 6, 8, 12, 24, 48, 72, 96, 120, 168))
# Windows by time are also learned with this part of the rows, as long as the minimum is left.
_THINNED = 4


@dataclass(frozen=True)
class Coverage:
    """span_s: from the first to the last row, in seconds. rows: how many. step_s: how often such a window begins."""

    span_s: float
    rows: float
    step_s: float

    @property
    def words(self) -> str:
        span = f"{self.span_s / _DAY_S:.3g} days" if self.span_s >= _DAY_S else f"{self.span_s / 3600:.3g} hours"
        return f"{span} and {self.rows:,.0f} rows"


@dataclass(frozen=True)
class Rung:
    """One coverage to learn: windows of `spec`, in which one row in `one_in` is kept."""

    spec: WindowSpec
    coverage: Coverage
    one_in: int = 1


class _Covering(Protocol):
    @property
    def coverage(self) -> Coverage: ...


_T = TypeVar("_T", bound=_Covering)


def rungs(spec: WindowSpec, rows: int, span: timedelta) -> tuple[Rung, ...]:
    """What to learn for windows of `spec` from a reference of so many rows in the time `span`, the shortest first.

    Windows by rows cover less time where there is more traffic than in the reference, so shorter stretches of it are
    learned too: the shortest that has `minimum_rows` rows, and a day. Windows by time have fewer rows where there is
    less traffic, so they are also learned with a part of their rows.
    """
    per_s = rows / max(1.0, span.total_seconds())
    if spec.length is not None:
        return _by_time(spec, spec.length.total_seconds(), per_s)
    assert spec.rows is not None
    own_s = spec.rows / per_s
    shortest = max(_SHORTEST_S, spec.minimum_rows / per_s)
    fitting = [step for step in _STEPS_S if step >= shortest] or [shortest]
    wanted = [step for step in dict.fromkeys((fitting[0], _DAY_S)) if step >= shortest and step * TOLERANCE < own_s]
    if own_s < _SHORTEST_S:
        wanted = [_SHORTEST_S]
    found = [
        Rung(WindowSpec(length=timedelta(seconds=s), minimum_rows=spec.minimum_rows), Coverage(s, s * per_s, s))
        for s in sorted(wanted)
    ]
    if own_s >= _SHORTEST_S:
        found.append(Rung(spec, Coverage(own_s, spec.rows, own_s / spec.panes)))
    return tuple(found)


def _by_time(spec: WindowSpec, span_s: float, per_s: float) -> tuple[Rung, ...]:
    found, one_in = [], 1
    while one_in == 1 or span_s * per_s / one_in >= spec.minimum_rows:
        found.append(Rung(spec, Coverage(span_s, span_s * per_s / one_in, span_s / spec.panes), one_in))
        one_in *= _THINNED
    if span_s * per_s > spec.minimum_rows:  # so that there is one for the smallest window that is judged
        least = int(span_s * per_s // spec.minimum_rows)
        found.append(Rung(spec, Coverage(span_s, span_s * per_s / least, span_s / spec.panes), least))
    unique = {rung.one_in: rung for rung in found}
    return tuple(unique[one_in] for one_in in sorted(unique, reverse=True))


def fitting(learned: Sequence[_T], span_s: float, rows: float) -> _T | None:
    """What a window that covers this is compared with: the longest that is not longer, of these the one with the most
    rows that has not more. None if the window is shorter than all.

    Windows that are shorter and have fewer rows differ more from the reference, so the rate is kept. Where even the
    one with the fewest rows has more, it is taken all the same: a window has its minimum of rows.
    """
    short = [one for one in learned if one.coverage.span_s <= span_s * TOLERANCE]
    if not short:
        return None
    longest = max(one.coverage.span_s for one in short)
    same = [one for one in short if one.coverage.span_s == longest]
    fewer = [one for one in same if one.coverage.rows <= rows * TOLERANCE]
    return max(fewer, key=lambda one: one.coverage.rows) if fewer else min(same, key=lambda one: one.coverage.rows)
