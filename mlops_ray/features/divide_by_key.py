"""Feature views whose rows depend on those of their key alone, without a bound in time: computed bucket by bucket.

A bucket has the keys of one remainder of a hash. Each is computed by a task, which gives its rows month by month; then
a task for some months joins what all buckets have of them, so that the table is divided by time like any other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.part_table import ViewPart, keep_part, last_parts
from mlops_ray.features.source_tables import SourceTables
from mlops_ray.features.spread import TASK_MEMORY
from mlops_ray.features.stretches import PART_ROWS, Stretch
from mlops_ray.features.view_rows import rows_of
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
    """The parts of the view in the order of time: of its last table, if they were made of the same rows; else computed
    now, as nobody knows how far a key's rows reach. In a sentence why there are none."""
    content = [[source, digests["accepted"]] for source, digests in sorted(snapshot.content.items())]
    code = our_code(__name__, "bucket_by_month").to_json()
    key = digest_json([one.view.name, one.code, list(one.view.types.items()), list(one.function.by), content, code])
    last = last_parts(artifacts, snapshot.use_case, one.view.name)
    if last and all(part.key == key for part in last):
        return last
    rows = max(counts.accepted + counts.repaired for counts in snapshot.counts.values())
    buckets = -(-rows // PART_ROWS)
    start_ray()
    import ray

    compute = ray.remote(num_returns="streaming", memory=TASK_MEMORY)(bucket_by_month)
    given = [compute.remote(artifacts, snapshot, one, number, buckets) for number in range(buckets)]
    heads = [ray.get(next(stream)) for stream in given]
    if errors := [head for head in heads if isinstance(head, str)]:
        return str(errors[0])
    chunks: dict[date, list[Any]] = defaultdict(list)
    sizes: dict[date, int] = defaultdict(int)
    for stream, head in zip(given, heads, strict=True):
        for (month, count), chunk in zip(head["months"], stream, strict=True):
            chunks[month].append(chunk)
            sizes[month] += count
    join = ray.remote(memory=TASK_MEMORY)(join_months)
    unknown = sum(head["unknown"] for head in heads)
    tasks: list[Any] = []
    for stretch, months in _stretches(sizes):
        mine = [chunk for month in months for chunk in chunks[month]]
        tasks.append(join.remote(artifacts, snapshot.use_case, one.view, stretch, key, 0 if tasks else unknown, *mine))
    return list(ray.get(tasks))


def bucket_by_month(artifacts: Artifacts, snapshot: Snapshot, one: KeyedView, number: int, of: int) -> Iterator[Any]:
    """Compute a bucket. First which months it has rows in, and how many of each, or why it has none; then these rows,
    month by month."""
    tables = SourceTables(
        {
            source: lambda source=source: _bucket(artifacts, snapshot.place(source), one.function.by, number, of)  # type: ignore[misc]
            for source in snapshot.counts
        }
    )
    try:
        rows, unknown = rows_of(one.view, one.function, tables)
    except UseCaseError as error:
        yield str(error)
        return
    months = rows.with_columns(pl.col(PREDICTION_TIME).dt.date().dt.month_start().alias(_MONTH))
    parts = {month: part.drop(_MONTH) for (month,), part in months.partition_by(_MONTH, as_dict=True).items()}
    yield {"unknown": unknown, "months": [(month, part.height) for month, part in parts.items()]}
    yield from parts.values()


def join_months(
    artifacts: Artifacts, use_case: str, view: View, stretch: Stretch, key: str, unknown: int, *chunks: pl.DataFrame
) -> ViewPart:
    return keep_part(artifacts, use_case, view, stretch, key, pl.concat(chunks), unknown)


def _rows_of_bucket(table: pl.DataFrame, by: Sequence[str], number: int, of: int) -> pl.DataFrame:
    """The rows of a table that belong to one of so many buckets; all where it has not the columns."""
    if not set(by) <= set(table.columns):
        return table
    return table.filter(table.select(pl.struct(by).hash(0) % of == number).to_series())


def _bucket(artifacts: Artifacts, place: tuple[str, ...], by: Sequence[str], number: int, of: int) -> pl.DataFrame:
    """The rows of a bucket, file by file, so that no more than one file is there whole."""
    names = [entry.name for entry in artifacts.entries(*place) if entry.name.endswith(".parquet")]
    return pl.concat(
        [_rows_of_bucket(artifacts.read_table(*place, name), by, number, of) for name in names], how="diagonal"
    )


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
    starts = [group[0] for group in groups]
    ends = [after for _, after in pairwise(starts)] + [date.max]
    for group, end in zip(groups, ends, strict=True):
        yield Stretch(group[0], end), group
