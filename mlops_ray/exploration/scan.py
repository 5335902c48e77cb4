"""The scan: one pass over a table of any size, by partitions whose sketches are merged.

What fits one task is done in this process, as Ray's first task costs 3 s before it begins. A partition is a text file,
of which only the beginning tells where its records are, or some row groups of a Parquet file.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mlops_ray.artifacts import locate
from mlops_ray.errors import DataError, MlopsRayError
from mlops_ray.exploration.raw import read_raw
from mlops_ray.exploration.table_sketch import CELLS, MOST_ROWS, TableSketch, merged
from mlops_ray.ingestion.contract import REASON, judge_rows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.use_case import Source
from mlops_ray.use_case.column import DTYPES

HERE_BYTES = 48 << 20  # of files, which this process reads
GROUPS_BYTES = 128 << 20  # of a Parquet file's row groups, uncompressed, which a task reads
TASK_MEMORY = 1 << 30
# Reasons of the contract for which a value is there and none was read.
_UNREAD = {f"not_{kind}" for kind in DTYPES} | {"ambiguous_time", "nonexistent_time"}

Group = Callable[[pl.DataFrame], pl.Series]
"""Which group each row belongs to, as text; null for rows that are left out."""


@dataclass(frozen=True)
class Partition:
    """What one task reads.

    file, source: of a raw file; a source without columns has no contract, and what its texts mean is guessed. url,
    row_groups: of a Parquet file of typed values.
    """

    file: SourceFile | None = None
    source: Source | None = None
    url: str = ""
    row_groups: tuple[int, ...] = ()


@dataclass
class Scan:
    """The sketches of each group ("" where there is one group), and the files of which nothing could be read."""

    groups: dict[str, TableSketch] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def merge(self, other: "Scan") -> None:
        self.unreadable.update(other.unreadable)
        for name, table in other.groups.items():
            if name in self.groups:
                self.groups[name].merge(table)
            else:
                self.groups[name] = table

    def whole(self) -> TableSketch:
        """All groups as one table."""
        return merged(self.groups)


def raw_partitions(files: Sequence[SourceFile], source: Source) -> list[Partition]:
    return [Partition(file=file, source=source) for file in files]


def table_partitions(url: str) -> list[Partition]:
    """The partitions of a Parquet file, or of all that lie in a folder. Raises DataError if there is none."""
    try:
        filesystem, path = locate(url)
        paths = [path]
        if _is_folder(filesystem, path):
            infos = filesystem.get_file_info(pafs.FileSelector(path))
            paths = sorted(info.path for info in infos if not info.base_name.startswith("."))
        found = [part for one in paths for part in _row_groups(filesystem, one, url, path)]
    except (OSError, pa.ArrowException, ValueError, IndexError) as error:
        raise DataError(
            f"{url} cannot be read as Parquet: {error}. Give a Parquet file, or a folder of them."
        ) from None
    return found


def scan(
    partitions: Sequence[Partition], size: int, start_ray: Callable[[], Any] = lambda: None, group: Group | None = None
) -> Scan:
    """Read every partition once. size: of the files, in bytes; start_ray: called where that is more than one task's.

    A file that cannot be read is named in the result, and the others are read. Raises DataError if none can be.
    """
    started, found = time.monotonic(), Scan()
    for part in _scanned(partitions, size, start_ray, group):
        found.merge(part)
    if found.unreadable and not found.groups:
        raise DataError("\n".join(found.unreadable.values()))
    found.seconds = time.monotonic() - started
    return found


def _scanned(
    partitions: Sequence[Partition], size: int, start_ray: Callable[[], Any], group: Group | None
) -> Iterator[Scan]:
    if size <= HERE_BYTES or len(partitions) < 2:
        yield from (scan_partition(partition, group) for partition in partitions)
        return
    start_ray()
    import ray

    def one(row: Mapping[str, int]) -> dict[str, bytes]:
        return {"scan": pickle.dumps(scan_partition(partitions[row["at"]], group))}

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = ray.data.from_items([{"at": at} for at in range(len(partitions))], override_num_blocks=len(partitions))
    for row in rows.map(one, memory=TASK_MEMORY).iter_rows():
        yield pickle.loads(row["scan"])  # what our own tasks have written


def scan_partition(partition: Partition, group: Group | None = None) -> Scan:
    """Read one partition; its tables have the columns even where there is no row."""
    found = Scan()
    try:
        if partition.file is not None and partition.source is not None:
            table = _scan_raw(partition.file, partition.source)
            found.groups[""] = table
        else:
            for frame in _frames(partition):
                _add(found, frame, group)
    except MlopsRayError as error:
        name = partition.file.name if partition.file else partition.url
        return Scan(unreadable={name: str(error)})
    return found


def _scan_raw(file: SourceFile, source: Source) -> TableSketch:
    table = TableSketch()
    if not source.columns:
        for rows in read_raw(file, source):
            table.malformed += rows.malformed.height
            table.update(rows.frame, guess=True)
        return table
    for rows in read_file(file, source):
        table.malformed += rows.malformed.height
        judged = judge_rows(rows.frame, source, file.name)
        reasons = judged[REASON].drop_nulls()
        table.refused += len(reasons)
        table.reasons.update(code for text in reasons for code in text.split(";"))
        table.update(judged.select(column.name for column in source.columns))
    moments = {column.name for column in source.columns if column.type == "timestamp"}
    for code, rows_refused in table.reasons.items():
        name, _, what = code.rpartition(":")
        if name in table.columns and what != "missing":
            table.columns[name].odd[what] += rows_refused
            if what in _UNREAD or (what == "out_of_range" and name in moments):
                table.columns[name].missing -= rows_refused
    return table


def _frames(partition: Partition) -> Iterator[pl.DataFrame]:
    filesystem, path = locate(partition.url)
    try:
        with filesystem.open_input_file(path) as stream:
            file = pq.ParquetFile(stream)
            rows = max(1, min(MOST_ROWS, CELLS // max(1, len(file.schema_arrow))))
            yield pl.DataFrame(pl.from_arrow(file.schema_arrow.empty_table()))
            for batch in file.iter_batches(rows, row_groups=list(partition.row_groups)):
                yield pl.DataFrame(pl.from_arrow(batch))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{partition.url} cannot be read: {error}. Write it again.") from None


def _add(found: Scan, frame: pl.DataFrame, group: Group | None) -> None:
    if group is None:
        found.groups.setdefault("", TableSketch()).update(frame)
        return
    for (name,), rows in frame.with_columns(group(frame).alias("__group")).group_by("__group", maintain_order=True):
        if name is not None:
            found.groups.setdefault(str(name), TableSketch()).update(rows.drop("__group"))


def _is_folder(filesystem: pafs.FileSystem, path: str) -> bool:
    return bool(filesystem.get_file_info(path).type == pafs.FileType.Directory)


def _row_groups(filesystem: pafs.FileSystem, path: str, url: str, root: str) -> Iterator[Partition]:
    """Row groups of a file, as many together as fit a task."""
    place = url if path == root else url.replace(root, path, 1)
    with filesystem.open_input_file(path) as stream:
        metadata = pq.ParquetFile(stream).metadata
    together: list[int] = []
    size = 0
    for number in range(metadata.num_row_groups):
        together.append(number)
        size += metadata.row_group(number).total_byte_size
        if size >= GROUPS_BYTES:
            yield Partition(url=place, row_groups=tuple(together))
            together, size = [], 0
    if together or not metadata.num_row_groups:
        yield Partition(url=place, row_groups=tuple(together))
