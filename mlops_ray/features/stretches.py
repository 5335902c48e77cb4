"""Stretches of days: into which a view's rows are divided, and which of them have to be computed again."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

DAY = timedelta(days=1)
# Rows of sources, which a task reads at a time, beside those of the time before that it looks back to.
PART_ROWS = 1_000_000
# Days, the newest, that are a part each: where rows still come, what is computed again should be little.
RECENT_DAYS = 3
# Parts that are left as they are, the newest: up to here a correction of some days computes these days alone.
APART = 30


@dataclass(frozen=True, order=True)
class Stretch:
    """The days from `first` up to before `end`."""

    first: date
    end: date


def missing_stretches(
    rows: Mapping[date, int], kept: Sequence[Stretch], part_rows: int, recent_days: int = RECENT_DAYS
) -> list[Stretch]:
    """What is left to compute of some days, where some stretches are kept, in the order of time.

    rows: of the sources on each day; on one without, the view may have rows all the same. A stretch has as many days as
    together have `part_rows`, at least one; the last `recent_days` that have rows, and those after, are one each.
    Whatever stretches there are, a view's rows are the same, so what was computed once stays however it was divided.
    """
    kept, days = sorted(kept), sorted(rows)
    newest = [day for day in days if rows[day]][-recent_days:] if recent_days else []
    recent = {day for day in days if newest and day >= newest[0]}
    found: list[Stretch] = []
    taken, behind = 0, 0  # rows in the last stretch; kept stretches behind it
    for day in days:
        at = bisect_left(kept, Stretch(day, date.max))
        if at and kept[at - 1].first <= day < kept[at - 1].end:
            continue
        grows = found and at == behind and day not in recent and taken + rows[day] <= part_rows
        if grows:
            found[-1] = Stretch(found[-1].first, day + DAY)
            taken += rows[day]
        else:
            found.append(Stretch(day, day + DAY))
            taken, behind = rows[day], at
    return found


def to_merge(rows: Mapping[Stretch, int], part_rows: int, apart: int = APART) -> list[list[Stretch]]:
    """Which of the parts that are kept should be one: older ones that follow one another, of no more than `part_rows`.

    rows: of each part. The newest `apart` stay, and so do fewer than that together, so that a day's rows are written
    again once in so many days, and a year of days is not a file a day.
    """
    runs: list[list[Stretch]] = []
    taken = 0
    for stretch in sorted(rows)[:-apart]:
        if runs and runs[-1][-1].end == stretch.first and taken + rows[stretch] <= part_rows:
            runs[-1].append(stretch)
            taken += rows[stretch]
        else:
            runs.append([stretch])
            taken = rows[stretch]
    return [run for run in runs if len(run) >= apart]
