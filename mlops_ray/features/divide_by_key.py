"""Feature views whose rows depend on those of their key alone, without a bound in time: computed bucket by bucket.

A bucket has the keys of one remainder of a hash. Each is computed by a task, which gives its rows month by month; then
a task for some months joins what all buckets have of them, so that the table is divided by time like any other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.errors import UseCaseError
from mlops_ray.features.changed_keys import changed_keys, made_of, set_made_of
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.part_table import ViewPart, keep_part, last_parts, what_rows_depend_on
from mlops_ray.features.source_tables import SourceTables
from mlops_ray.features.spread import HERE_BYTES, TASK_MEMORY
from mlops_ray.features.stretches import PART_ROWS, Stretch
from mlops_ray.features.view_rows import rows_of, schema_of
from mlops_ray.import_closure import our_code
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.use_case import DividedView

_MONTH = "__month"


@dataclass(frozen=True)
class KeyedView:
    """A view that can be divided by keys alone. code: see `view_code`."""

    view: View
    function: DividedView
    code: str


def parts_by_key(
    artifacts: Artifacts, snapshot: Snapshot, one: KeyedView, start_ray: Callable[[], Any]
) -> list[ViewPart] | str:
    """The parts of the view in the order of time; in a sentence why there are none. Those of its last table, if they
    were made of the same rows; else the rows are computed again of keys that have other rows than then, and of all
    where that cannot be said, as nobody knows how far a key's rows reach."""
    content = [[source, digests["accepted"]] for source, digests in sorted(snapshot.content.items())]
    code = our_code(__name__, "bucket_by_month").to_json()
    made_by = digest_json([one.view.name, one.code, what_rows_depend_on(one.view), list(one.function.by), code])
    key = digest_json([made_by, content])
    last = last_parts(artifacts, snapshot.use_case, one.view.name)
    if last and all(part.key == key for part in last):
        return last
    keys = _changed(artifacts, snapshot, one, last, made_by)
    parts = _computed(artifacts, snapshot, one, key, start_ray, [] if keys is None else last, keys)
    if keys is not None and isinstance(parts, str):  # by the rows of few keys alone it cannot be done
        parts = _computed(artifacts, snapshot, one, key, start_ray, [], None)
    if not isinstance(parts, str):
        set_made_of(artifacts, one.view.name, key, made_by, snapshot)
    return parts


def _changed(
    artifacts: Artifacts, snapshot: Snapshot, one: KeyedView, last: Sequence[ViewPart], made_by: str
) -> pl.DataFrame | None:
    """The keys of which rows have changed since the last table; None where all are to be computed."""
    before, schema, by = made_of(artifacts, snapshot.use_case, one.view.name), schema_of(one.view), one.function.by
    if before is None or not last or before.made_by != made_by or any(part.key != before.key for part in last):
        return None
    if sum(part.unknown for part in last) or not set(by) <= set(schema):
        return None
    return changed_keys(artifacts, before, snapshot, by, schema)


def _computed(
    artifacts: Artifacts,
    snapshot: Snapshot,
    one: KeyedView,
    key: str,
    start_ray: Callable[[], Any],
    last: Sequence[ViewPart],
    keys: pl.DataFrame | None,
) -> list[ViewPart] | str:
    """The parts. keys: of which rows are computed, the others are those of `last`; None: of all."""
    rows = max(counts.accepted + counts.repaired for counts in snapshot.counts.values())
    buckets = -(-rows // PART_ROWS)
    compute, join, put, get = _callers(snapshot.size(artifacts) > HERE_BYTES, start_ray)
    these = put(keys)
    given = [compute(artifacts, snapshot, one, number, buckets, these) for number in range(buckets)]
    heads = [get(next(stream)) for stream in given]
    if errors := [head for head in heads if isinstance(head, str)]:
        return str(errors[0])
    chunks: dict[date, list[Any]] = defaultdict(list)
    sizes: dict[date, int] = defaultdict(int)
    for stream, head in zip(given, heads, strict=True):
        for (month, count), chunk in zip(head["months"], stream, strict=True):
            chunks[month].append(chunk)
            sizes[month] += count
    unknown = sum(head["unknown"] for head in heads)
    tasks: list[Any] = []
    for stretch, months, old in _divided(sizes, last):
        mine = [chunk for month in months for chunk in chunks[month]]
        of_first = 0 if tasks else unknown
        tasks.append(join(artifacts, snapshot.use_case, one, stretch, key, of_first, old, these, *mine))
    return [get(task) for task in tasks]


def _callers(
    on_ray: bool, start_ray: Callable[[], Any]
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[[Any], Any], Callable[[Any], Any]]:
    """How a bucket is computed, and months are joined; how these are given what is large, and how one gets theirs."""
    if not on_ray:
        return bucket_by_month, join_months, lambda value: value, lambda value: value
    start_ray()
    import ray

    compute = ray.remote(num_returns="streaming", memory=TASK_MEMORY)(bucket_by_month)
    return compute.remote, ray.remote(memory=TASK_MEMORY)(join_months).remote, ray.put, ray.get


def bucket_by_month(
    artifacts: Artifacts, snapshot: Snapshot, one: KeyedView, number: int, of: int, keys: pl.DataFrame | None = None
) -> Iterator[Any]:
    """Compute a bucket, or of it the rows of these keys. First which months it has rows in, and how many of each, or
    why it has none; then these rows, month by month."""
    by = one.function.by
    tables = SourceTables(
        {
            source: lambda source=source: _bucket(artifacts, snapshot.place(source), by, number, of, keys)  # type: ignore[misc]
            for source in snapshot.counts
        }
    )
    try:
        rows, unknown = rows_of(one.view, one.function, tables)
    except UseCaseError as error:
        yield str(error)
        return
    if keys is not None and rows.join(keys, on=by, how="anti", nulls_equal=True).height:
        yield f"Feature view {one.view.name!r} makes rows of other keys than it is given."
        return
    months = rows.with_columns(pl.col(PREDICTION_TIME).dt.date().dt.month_start().alias(_MONTH))
    parts = {month: part.drop(_MONTH) for (month,), part in months.partition_by(_MONTH, as_dict=True).items()}
    ordered = sorted(parts)  # the same when it is computed again
    yield {"unknown": unknown, "months": [(month, parts[month].height) for month in ordered]}
    for month in ordered:  # one by one: Ray sends into its generators, which `yield from` hands on to a list's iterator
        yield parts.pop(month)


def join_months(
    artifacts: Artifacts,
    use_case: str,
    one: KeyedView,
    stretch: Stretch,
    key: str,
    unknown: int,
    old: ViewPart | None,
    keys: pl.DataFrame | None,
    *chunks: pl.DataFrame,
) -> ViewPart:
    """The part of some months. old: the one that had them; of it the rows stay that are of none of the keys."""
    rows = list(chunks)
    if old is not None and old.place is not None and keys is not None:
        before = artifacts.read_table(*old.place)
        kept = before.join(keys, on=one.function.by, how="anti", nulls_equal=True, maintain_order="left")
        if not rows and kept.height == before.height:
            return replace(old, stretch=stretch, key=key, unknown=unknown)
        rows.append(kept)
    whole = pl.concat(rows) if rows else pl.DataFrame(schema=schema_of(one.view))
    return keep_part(artifacts, use_case, one.view, stretch, key, whole, unknown)


def _rows_of_bucket(table: pl.DataFrame, by: Sequence[str], number: int, of: int) -> pl.DataFrame:
    """The rows of a table that belong to one of so many buckets; all where it has not the columns."""
    if not set(by) <= set(table.columns):
        return table
    return table.filter(table.select(pl.struct(by).hash(0) % of == number).to_series())


def _bucket(
    artifacts: Artifacts,
    place: tuple[str, ...],
    by: Sequence[str],
    number: int,
    of: int,
    keys: pl.DataFrame | None,
) -> pl.DataFrame:
    """The rows of a bucket, file by file, so that no more than one file is there whole. keys: of these alone."""
    names = [entry.name for entry in artifacts.entries(*place) if entry.name.endswith(".parquet")]
    rows = (_rows_of_bucket(artifacts.read_table(*place, name), by, number, of) for name in names)
    return pl.concat([one if keys is None else _of_keys(one, keys) for one in rows], how="diagonal")


def _of_keys(table: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    """The rows of a table that are of these keys; all where it has not the columns, or has them of other types."""
    if any(table.schema.get(name) != type_ for name, type_ in keys.schema.items()):
        return table
    return table.join(keys, on=keys.columns, how="semi", nulls_equal=True, maintain_order="left")


def _divided(
    sizes: Mapping[date, int], last: Sequence[ViewPart]
) -> Iterator[tuple[Stretch, list[date], ViewPart | None]]:
    """Stretches in the order of time, each with the months that have new rows, and the part that had it. Where there
    are parts these are kept; but the last ends where rows do that come once it is full."""
    if not last:
        yield from ((stretch, months, None) for stretch, months in _stretches(sizes))
        return
    first, newest = last[0].stretch.first, last[-1]
    earlier = {month: rows for month, rows in sizes.items() if month < first}
    for stretch, months in _stretches(earlier):
        yield Stretch(stretch.first, min(stretch.end, first)), months, None
    full = newest.last is not None and newest.content.rows >= PART_ROWS
    end = _next_month(newest.last.date()) if newest.last is not None and full else newest.stretch.end
    for old in last:
        stretch = Stretch(old.stretch.first, min(old.stretch.end, end))
        yield stretch, sorted(month for month in sizes if stretch.first <= month < stretch.end), old
    later = {month: rows for month, rows in sizes.items() if month >= end}
    yield from ((stretch, months, None) for stretch, months in _stretches(later))


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _stretches(sizes: Mapping[date, int]) -> Iterator[tuple[Stretch, list[date]]]:
    """Months in the order of time, as many together as have `PART_ROWS` rows."""
    groups: list[list[date]] = []
    taken = 0
    for month in sorted(sizes):
        if not groups or taken + sizes[month] > PART_ROWS:
            groups.append([])
            taken = 0
        groups[-1].append(month)
        taken += sizes[month]
    ends = [*(group[0] for group in groups[1:]), date.max]
    for group, end in zip(groups, ends, strict=False):  # without a month there is none
        yield Stretch(group[0], end), group
