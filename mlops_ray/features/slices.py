"""The point-in-time join in slices of time: each a Ray task that reads what can count at the moments of its rows.

For a slice that begins at `since`, a view's rows from `since - ttl` on are enough. Where that is much, as with a ttl of
years, a pass over the history before finds what of each key is left at each slice's beginning (`point_in_time.carry`):
it is bounded by the number of keys, divided by a hash of the key when these are many, and so slices still run side by
side. There is no shuffle, nothing comes past the caller, and the result is that of the whole join, bit by bit.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import polars as pl

from mlops_ray.errors import DataError, MlopsRayError
from mlops_ray.features.history_source import HistorySource, after, bounds, join_sources
from mlops_ray.features.point_in_time import carry, join_point_in_time
from mlops_ray.features.spans import Span, borders, rows_in, spans

# What a task reads at once, on average: of the rows that are joined, and of each history.
SLICE_ROWS, HISTORY_ROWS = 500_000, 2_000_000
# Up to which all is one slice, in the caller's process: Ray's first task costs 3 s.
HERE_BYTES = 1 << 30
_BUCKET_BYTES, _MAX_BUCKETS = 256 << 20, 64
_VALUE_BYTES, _COPIES = 12, 4
_ROW, _PLACE, _SEED = "__row", "__place", 17
_BEGINNING, _END = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)

T = TypeVar("T")


@dataclass(frozen=True)
class Slice:
    """Rows with moments in [since, before); the first has all earlier ones and those without a moment, the last all
    later ones (None). rows: about how many."""

    number: int
    since: datetime
    before: datetime | None
    rows: int

    @property
    def start(self) -> datetime | None:
        """From where on its rows are read."""
        return self.since if self.number else None


@dataclass(frozen=True)
class _Told:
    """A source and what the footers of its files tell."""

    source: HistorySource
    spans: Sequence[Span]

    @property
    def rows(self) -> int:
        return sum(span.rows for span in self.spans)

    def between(self, since: datetime | None, before: datetime | None) -> HistorySource:
        """The source without files that have no row in [since, before); of many days' files a slice opens a few."""
        inside = [s for s in self.spans if (since is None or s.last >= since) and (before is None or s.first < before)]
        urls = tuple(dict.fromkeys(span.url for span in inside or self.spans[:1]))
        return replace(self.source, urls=urls) if urls else self.source


# Of each source either nothing, where looking back is enough, or what is carried into a slice, by bucket.
Carried = Sequence[Sequence[Any]]


def join(entities: pl.DataFrame, moment: str, sources: Sequence[HistorySource]) -> pl.DataFrame:
    """As `join_sources`; where Ray is initialised and all is not small, in slices. Rows keep their order."""
    if not is_large(entities, sources):
        return join_sources(entities, moment, sources)
    joined: pl.DataFrame = pl.concat(results(joined_slices(entities.with_row_index(_ROW), moment, sources)))
    return joined.sort(_ROW).drop(_ROW)


def is_large(entities: pl.DataFrame, sources: Sequence[HistorySource]) -> bool:
    """Whether these rows are joined in slices: Ray is initialised, and they and all histories are not small."""
    ray = sys.modules.get("ray")  # who has not imported it has not initialised it
    return bool(ray and ray.is_initialized()) and not is_small(int(entities.estimated_size()), sources)


def newest_between(source: HistorySource, since: datetime, before: datetime) -> pl.DataFrame:
    """The row of each key that counts at `before`, of those in [since, before), read a part at a time."""
    found = spans(source.urls, source.timestamp)
    rows, start = source.read(since, since).rows, since
    for end in [*_steps(found, since, before), before]:
        rows = carry(source.of(pl.concat([rows, source.read(start, end).rows])), end)
        start = end
    return rows


def joined_slices(
    entities: pl.DataFrame,
    moment: str,
    sources: Sequence[HistorySource],
    then: Callable[[pl.DataFrame], Any] | None = None,
) -> list[Any]:
    """References to the joined rows of each slice, in the order of time, or to what `then` makes of them."""
    import ray

    slices = slices_of(spans_of(entities[moment]), sources)
    known = pl.col(moment).fill_null(slices[0].since)
    own = [
        ray.put(entities.filter(known.is_between(one.start or _BEGINNING, one.before or _END, closed="left")))
        for one in slices
    ]
    return in_slices(slices, sources, partial(_join_own, own, moment, then))


def _join_own(
    own: Sequence[Any],
    moment: str,
    then: Callable[[pl.DataFrame], Any] | None,
    one: Slice,
    sources: Sequence[HistorySource],
    carried: Carried,
) -> Any:
    import ray

    joined = join_slice(ray.get(own[one.number]), moment, sources, carried)
    return then(joined) if then else joined


def spans_of(moments: pl.Series) -> list[Span]:
    """Moments in memory as spans, short beside a slice. Raises DataError where there is none."""
    known = moments.drop_nulls().sort()
    if known.is_empty():
        raise DataError(f"None of the {len(moments):,} rows has a moment in {moments.name!r}. Give each row one.")
    step = max(1, SLICE_ROWS // 8)
    parts = [known[at : at + step] for at in range(0, len(known), step)]
    return [Span(len(part), part[0], part[-1]) for part in parts]


def is_small(row_bytes: int, sources: Sequence[HistorySource]) -> bool:
    """Whether rows that take so many bytes and all histories fit together into one process."""
    size = row_bytes
    for source in sources:
        size += sum(span.rows for span in spans(source.urls, source.timestamp)) * _row_bytes(source)
    return size <= HERE_BYTES


def slices_of(rows: Sequence[Span], sources: Sequence[HistorySource]) -> list[Slice]:
    """Slices of about the same number of rows, so many that neither these nor a history's rows in one are many.

    Equal for equal tables, whatever they are joined on.
    """
    total = sum(span.rows for span in rows)
    if not total:
        return []
    first, last = min(span.first for span in rows), max(span.last for span in rows)
    histories = (spans(source.urls, source.timestamp) for source in sources)
    longest = max((rows_in(found, first, last) for found in histories), default=0)
    count = max(math.ceil(total / SLICE_ROWS), math.ceil(longest / HISTORY_ROWS))
    edges = [first, *borders(rows, count), None]
    return [
        Slice(number, since, before, rows_in(rows, since, before))
        for number, (since, before) in enumerate(pairwise(edges))
        if since is not None
    ]


def in_slices(
    slices: Sequence[Slice],
    sources: Sequence[HistorySource],
    work: Callable[[Slice, Sequence[HistorySource], Carried], T],
) -> list[Any]:
    """References to what `work` gives for each slice, each in a Ray task of its own; see `join_slice`.

    It is given the slice, the sources with the files that count in it, and what is carried into it.

    A task whose worker or node is lost runs again, so `work` must do the same once more. Ray must be initialised.
    """
    import ray

    task, at_once = ray.remote(_work), 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    memory, begun = most_memory(), list[Any]()
    told = [_Told(source, spans(source.urls, source.timestamp)) for source in sources]
    for one, carried in zip(slices, _carried_into(slices, told), strict=True):
        running = begun[-at_once:]
        if len(running) == at_once:  # what is carried into slices that do not run yet need not be there yet
            ray.wait(running, num_returns=1, fetch_local=False)
        wanted = min(memory, _task_bytes(one, told))
        mine = [each.between(each.source.looks_back_to(one.since), one.before) for each in told]
        begun.append(task.options(memory=wanted).remote(work, one, mine, carried))
    return begun


def results(references: Sequence[Any]) -> list[Any]:
    """What these tasks gave. Our own errors come as they were raised."""
    import ray

    try:
        return list(ray.get(list(references)))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MlopsRayError):
            raise error.cause from None
        raise


@dataclass(frozen=True)
class Left:
    """What a source has left of each key at a moment, in one bucket of keys; the rows from there on are read."""

    since: datetime
    rows: pl.DataFrame


def join_slice(entities: pl.DataFrame, moment: str, sources: Sequence[HistorySource], carried: Carried) -> pl.DataFrame:
    """As `join_sources`, of the rows of one slice, with what was carried into it."""
    if not any(carried):
        return join_sources(entities, moment, sources)
    import ray

    for source, buckets in zip(sources, carried, strict=True):
        if buckets:
            entities = join_left(entities, moment, source, len(buckets), map(ray.get, buckets))
        else:
            entities = join_sources(entities, moment, [source])
    return entities


def join_left(
    entities: pl.DataFrame, moment: str, source: HistorySource, count: int, buckets: Iterable[Left]
) -> pl.DataFrame:
    """As `join_sources` of one source, with what it has left, of which one bucket of `count` is in memory at a time."""
    placed, (_, last) = entities.with_row_index(_PLACE), bounds(entities[moment])
    of_rows, of_history = (_bucket_of(columns, count) for columns in (source.keys, source.keys.values()))
    joined, history = list[pl.DataFrame](), None
    for number, left in enumerate(buckets):
        history = history or source.to_join(left.since, after(last))
        rows = pl.concat([left.rows, history.rows.filter(of_history == number)])
        mine = placed.filter(of_rows == number)
        joined.append(join_point_in_time(mine, moment, [replace(history, rows=rows)]))
    return pl.concat(joined).sort(_PLACE).drop(_PLACE)


def _bucket_of(columns: Iterable[str], count: int) -> pl.Expr:
    """Which bucket a row is in, by the values of these columns, whatever they are called."""
    names = list(columns)
    if count == 1 or not names:
        return pl.lit(0)
    return pl.struct(pl.col(name).alias(str(place)) for place, name in enumerate(names)).hash(_SEED) % count


def _work(
    work: Callable[[Slice, Sequence[HistorySource], Carried], T],
    one: Slice,
    sources: Sequence[HistorySource],
    carried: Carried,
) -> T:
    return work(one, sources, carried)


def _carried_into(slices: Sequence[Slice], told: Sequence[_Told]) -> Iterator[list[Sequence[Any]]]:
    """For each slice, what is carried into it of each source; the tasks that find it are begun as it is asked for."""
    passes = [_pass(one, slices) if _is_carried(one, slices) else _nothing(slices) for one in told]
    for _ in slices:
        yield [next(one) for one in passes]


def _nothing(slices: Sequence[Slice]) -> Iterator[Sequence[Any]]:
    yield from ([] for _ in slices)


def _is_carried(told: _Told, slices: Sequence[Slice]) -> bool:
    """Whether looking back from each slice would read more than a task should, or on the whole the history twice."""
    looks = [rows_in(told.spans, told.source.looks_back_to(one.since), one.since) for one in slices]
    return max(looks) > HISTORY_ROWS or (len(slices) > 1 and sum(looks) > told.rows)


def _pass(told: _Told, slices: Sequence[Slice]) -> Iterator[Sequence[Any]]:
    import ray

    row_bytes = _row_bytes(told.source)
    count = min(_MAX_BUCKETS, max(1, math.ceil(told.rows * row_bytes / _BUCKET_BYTES)))
    memory = min(most_memory(), HISTORY_ROWS * row_bytes * _COPIES)
    step, merge = ray.remote(num_returns=count)(left_of).options(memory=memory), ray.remote(merged)

    def begin(_: HistorySource, since: datetime | None, until: datetime, _count: int) -> list[Any]:
        begun = step.remote(told.between(since, until), since, until, count)
        return [begun] if count == 1 else list(begun)

    return left_at(told.source, told.spans, slices, count, begin, merge.remote)


def left_at(
    source: HistorySource,
    found: Sequence[Span],
    slices: Sequence[Slice],
    count: int,
    step: Callable[..., list[Any]],
    merge: Callable[..., Any],
) -> Iterator[list[Any]]:
    """For each slice what the history before it leaves of each key, in `count` buckets.

    The history is gone through once, in steps that end where slices begin. step and merge: `left_of` and `merged`, or
    what begins these as tasks.
    """
    start, left = source.looks_back_to(slices[0].since), list[Any]()
    for one in slices:
        for end in [*_steps(found, start, one.since), one.since]:
            here = step(source, start, end, count)
            left = [merge(source, *pair) for pair in zip(left, here, strict=True)] if left else here
            start = end
        yield left


def _steps(found: Sequence[Span], start: datetime | None, end: datetime) -> list[datetime]:
    """Moments between which a task takes the rows from start to end, where these are too many for one."""
    inside = [span for span in found if span.first < end and (start is None or span.last >= start)]
    count = math.ceil(rows_in(inside, start, end) / HISTORY_ROWS)
    return [edge for edge in borders(inside, count) if edge < end and (start is None or edge > start)]


def left_of(source: HistorySource, since: datetime | None, until: datetime, count: int) -> Any:
    """What the rows in [since, until) leave of each key, by bucket; of one bucket that alone, as Ray has it."""
    kept = carry(source.to_join(since, until), until)
    if count == 1:
        return Left(until, kept)
    bucket = _bucket_of(source.keys.values(), count)
    return [Left(until, kept.filter(bucket == number)) for number in range(count)]


def merged(source: HistorySource, earlier: Left, later: Left) -> Left:
    """What is left after both, one following the other in time."""
    rows = pl.concat([earlier.rows, later.rows])
    return Left(later.since, carry(source.of(rows), later.since))


def _row_bytes(source: HistorySource) -> int:
    return _VALUE_BYTES * (2 + len(source.columns))


def _task_bytes(one: Slice, told: Sequence[_Told]) -> int:
    """What a slice's task takes at most: its rows with all features, and the largest history in its time."""
    width = 16 + sum(len(each.source.columns) for each in told)
    histories = [0]
    for each in told:
        rows = rows_in(each.spans, each.source.looks_back_to(one.since), one.before)
        histories.append(min(rows, 2 * HISTORY_ROWS) * _row_bytes(each.source))
    return (one.rows * width * _VALUE_BYTES + max(histories)) * _COPIES


def most_memory() -> int:
    """Of a node, for tasks; one that asked for more would wait for ever."""
    import ray

    return int(max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0))
