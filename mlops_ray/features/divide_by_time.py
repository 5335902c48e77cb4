"""Feature views that look back a known time, computed stretch by stretch: what is new costs what it is.

A stretch needs the rows of its own days and of the time before that the view looks back to: nothing is exchanged
between tasks. What a part was made from is known by the digests of these rows, so late rows and corrections compute the
parts again that they touch, and only these.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.errors import UseCaseError
from mlops_ray.features import stretches
from mlops_ray.features.day_cells import DatedFile, Days, Reading, day_before, days_of, reading_of
from mlops_ray.features.definitions import View
from mlops_ray.features.part_table import ViewPart, keep_parts, last_parts, merged_part, what_rows_depend_on
from mlops_ray.features.source_tables import given_tables
from mlops_ray.features.spread import spread
from mlops_ray.features.stretches import DAY, Stretch, missing_stretches, to_merge
from mlops_ray.features.view_rows import rows_of
from mlops_ray.import_closure import our_code
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.use_case import DividedView, WindowedView


@dataclass(frozen=True)
class TimedView:
    """A view that can be divided by time. function: a WindowedView or a DividedView that says how far it looks back.

    code: see `view_code`. readings: what it reads, by source.
    """

    view: View
    function: WindowedView | DividedView
    code: str
    readings: Mapping[str, Reading]

    @property
    def looks_back(self) -> timedelta:
        if isinstance(self.function, WindowedView):
            return self.function.window
        assert self.function.looks_back is not None
        return self.function.looks_back

    @property
    def is_closed(self) -> bool:
        """Whether a row that became known exactly so long before counts."""
        return isinstance(self.function, DividedView)

    def days(self, found: Mapping[str, Days]) -> dict[date, int]:
        """The days on which it may have rows, with how many rows of its sources lie there.

        A window's rows stand where its sources' do; a function may stamp its rows up to so long after as it looks back.
        """
        rows: dict[date, int] = defaultdict(int)
        later = 0 if isinstance(self.function, WindowedView) else -(-self.looks_back // DAY)
        for reading in self.readings.values():
            for day, count in found[reading.name].rows().items():
                rows[day] += count
                for after in range(1, later + 1):
                    rows[day + after * DAY] += 0
        return dict(rows)


def timed_view(
    view: View,
    function: WindowedView | DividedView,
    code: str,
    known_at: Mapping[str, pl.Expr | None],
    beside: Sequence[WindowedView],
) -> TimedView:
    """known_at: of each source. beside: all windowed views; those of the same rows and moments are read together."""
    if isinstance(function, DividedView):
        readings = {source: reading_of(source, at) for source, at in known_at.items()}
        return TimedView(view, function, code, readings)
    mine = _texts(function)
    same = [one for one in beside if one.source == function.source and _texts(one) == mine]
    columns = sorted({column for one in same for column in one.columns()})
    reading = Reading(function.source, function.moments(), tuple(columns), timeless=False)
    return TimedView(view, function, code, {function.source: reading})


def parts_by_time(
    artifacts: Artifacts, snapshot: Snapshot, views: Sequence[TimedView], start_ray: Callable[[], Any]
) -> list[list[ViewPart] | str]:
    """The parts of each view, in the order of time: those of its last table that still are right, and the others
    computed now; or in a sentence why there are none. Views of which the same stretch is missing are computed together.
    """
    readings = {reading.name: reading for view in views for reading in view.readings.values()}
    found = days_of(artifacts, snapshot, list(readings.values()), start_ray)
    kept: list[list[ViewPart]] = []
    wanted: dict[Stretch, list[tuple[int, str]]] = defaultdict(list)
    sizes: dict[Stretch, int] = defaultdict(int)
    for number, one in enumerate(views):
        content, rows = _Content(one, found), one.days(found)
        last = last_parts(artifacts, snapshot.use_case, one.view.name)
        kept.append([part for part in last if part.key == content.key(part.stretch)])
        missing = missing_stretches(rows, [part.stretch for part in kept[-1]], stretches.PART_ROWS)
        if missing:  # else the table is as it was, and its parts as well
            kept[-1] = _merged(artifacts, snapshot.use_case, one.view, kept[-1], content)
        for stretch in missing:
            wanted[stretch].append((number, content.key(stretch)))
            here = sum(count for day, count in rows.items() if stretch.first <= day < stretch.end)
            sizes[stretch] = max(sizes[stretch], here)
    runs = list(_runs(wanted, sizes))
    calls = [_call(artifacts, snapshot, views, found, {one: wanted[one] for one in run}) for run in runs]
    read_bytes = sum(file.size for call in calls for _, files in call[-1] for file in files)
    made = spread(compute_run, calls, read_bytes, start_ray)
    results: list[list[ViewPart] | str] = list(kept)
    for run, of_views in zip(runs, made, strict=True):
        for (number, _), parts in zip(wanted[run[0]], of_views, strict=True):
            so_far = results[number]
            if isinstance(so_far, list):
                results[number] = parts if isinstance(parts, str) else [*so_far, *parts]
    return [one if isinstance(one, str) else sorted(one, key=lambda part: part.stretch) for one in results]


def _merged(
    artifacts: Artifacts, use_case: str, view: View, kept: Sequence[ViewPart], content: "_Content"
) -> list[ViewPart]:
    """The parts with older ones of a day each as few, which are known by what they would have been made from."""
    by_stretch = {part.stretch: part for part in kept}
    for run in to_merge({part.stretch: part.content.rows for part in kept}, stretches.PART_ROWS):
        parts = [by_stretch.pop(stretch) for stretch in run]
        if any(part.place for part in parts):
            whole = Stretch(run[0].first, run[-1].end)
            by_stretch[whole] = merged_part(artifacts, use_case, view, parts, content.key(whole))
        else:
            by_stretch |= {part.stretch: part for part in parts}
    return list(by_stretch.values())


def _runs(wanted: Mapping[Stretch, Sequence[tuple[int, str]]], sizes: Mapping[Stretch, int]) -> Iterator[list[Stretch]]:
    """Stretches that follow one another, missing of the same views, as long as a task may take them together: of some
    days that are a part each, what they look back to is then read and gone through once."""
    run: list[Stretch] = []
    for stretch in sorted(wanted):
        follows = run and run[-1].end == stretch.first and _numbers(wanted[run[-1]]) == _numbers(wanted[stretch])
        if not follows or sum(sizes[one] for one in [*run, stretch]) > stretches.PART_ROWS:
            if run:
                yield run
            run = []
        run.append(stretch)
    if run:
        yield run


def _numbers(asked: Sequence[tuple[int, str]]) -> list[int]:
    return [number for number, _ in asked]


def compute_run(
    artifacts: Artifacts,
    use_case: str,
    run: Sequence[Stretch],
    views: Sequence[tuple[TimedView, Sequence[str]]],
    files: Sequence[tuple[Reading, Sequence[DatedFile]]],
) -> list[list[ViewPart] | str]:
    """Compute and keep the rows of some views of stretches that follow one another, a part for each; or say why not.

    views: each with the keys of its parts. files: what is read, with the files that have it. Each is read once.
    """
    longest = max(view.looks_back for view, _ in views)
    start, end = _midnight(run[0].first), _midnight(run[-1].end)
    tables = {reading.name: _read(artifacts, reading, dated, start - longest, end) for reading, dated in files}
    return [_one(artifacts, use_case, run, view, keys, tables) for view, keys in views]


def _one(
    artifacts: Artifacts,
    use_case: str,
    run: Sequence[Stretch],
    one: TimedView,
    keys: Sequence[str],
    tables: Mapping[str, pl.DataFrame],
) -> list[ViewPart] | str:
    start, end = _midnight(run[0].first), _midnight(run[-1].end)
    given = {
        source: reading.between(tables[reading.name], start - one.looks_back, end, one.is_closed)
        for source, reading in one.readings.items()
    }
    try:
        rows, unknown = rows_of(one.view, one.function, given_tables(given))
    except UseCaseError as error:
        return str(error)
    return keep_parts(artifacts, use_case, one.view, dict(zip(run, keys, strict=True)), rows, unknown)


class _Content:
    """What a view's parts depend on, from which their keys are made."""

    def __init__(self, view: TimedView, found: Mapping[str, Days]):
        self._view = view
        self._days = {source: found[reading.name].content() for source, reading in view.readings.items()}
        self._ordered = {source: sorted(day for day in days if day) for source, days in self._days.items()}
        reads = [reading.name for reading in view.readings.values()]
        code = our_code(__name__, "compute_run").to_json()
        self._made_by = digest_json(
            [view.view.name, view.code, what_rows_depend_on(view.view), str(view.looks_back), reads, code]
        )

    def key(self, stretch: Stretch) -> str:
        from_day, given = day_before(stretch.first, self._view.looks_back), []
        for source, days in self._days.items():
            ordered = self._ordered[source]
            inside = ordered[bisect_left(ordered, from_day) : bisect_left(ordered, stretch.end)]
            given.append([source, days.get(None, []), [[day.isoformat(), days[day]] for day in inside]])
        return digest_json([self._made_by, stretch.first.isoformat(), stretch.end.isoformat(), given])


def _call(
    artifacts: Artifacts,
    snapshot: Snapshot,
    views: Sequence[TimedView],
    found: Mapping[str, Days],
    asked: Mapping[Stretch, Sequence[tuple[int, str]]],
) -> tuple[Any, ...]:
    """The arguments of `compute_run`. asked: of each stretch of the run the views, with the keys of their parts."""
    run = list(asked)
    keys = {number: [dict(asked[stretch])[number] for stretch in run] for number in _numbers(asked[run[0]])}
    mine = [(views[number], of_view) for number, of_view in keys.items()]
    from_day = day_before(run[0].first, max(view.looks_back for view, _ in mine))
    readings = {reading.name: reading for view, _ in mine for reading in view.readings.values()}
    # Where nothing lies in these days, a file all the same: for its columns.
    files = [
        (reading, found[name].files_with(from_day, run[-1].end) or found[name].files[:1])
        for name, reading in readings.items()
    ]
    return artifacts, snapshot.use_case, run, mine, files


def _read(artifacts: Artifacts, reading: Reading, files: Sequence[DatedFile], start: Any, end: Any) -> pl.DataFrame:
    """The rows of the files from `start` up to before `end`, in the order in which the snapshot has them."""
    parts = [
        reading.between(artifacts.read_table(*file.place, columns=reading.columns), start, end, closed=True)
        for file in files
    ]
    return pl.concat(parts, how="diagonal")


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _texts(view: WindowedView) -> list[str]:
    return sorted(moment.meta.serialize(format="json") for moment in view.moments())
