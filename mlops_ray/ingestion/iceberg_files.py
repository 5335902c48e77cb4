"""IcebergFiles: an Apache Iceberg table as a source, whose data files are its parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from mlops_ray.artifacts import digest_json
from mlops_ray.ingestion.delta_files import value_of
from mlops_ray.use_case.reader import Part

if TYPE_CHECKING:
    from pyiceberg.table import FileScanTask, Table


@dataclass(frozen=True)
class IcebergFiles:
    """The current snapshot of an Iceberg table, or the one with an id. A reader: `Source(path=None, reader=...)`.

    Data files never change, so that only those that were added are read, and those of which rows were deleted since. A
    column that older files lack is null in them, and one that was renamed is found under its new name. table: its name
    with its namespace, `sales.orders`. catalog: its name, which a catalog in a database goes by. options: of the
    catalog and its store, as `pyiceberg` names them, such as `(("type", "rest"), ("uri", "https://lake.example.org"),
    ("token", "env:LAKE_TOKEN"))`; `env:NAME` is a variable's value.
    """

    table: str
    catalog: str = "default"
    options: tuple[tuple[str, str], ...] = ()
    snapshot: int | None = None

    def parts(self) -> Sequence[Part]:
        """See `Reader`. Raises ConfigurationError if a variable of `options` is not set."""
        return [Part(task.file.file_path, _version(task), task.file.file_size_in_bytes) for task in self._files()]

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        table = self._table()
        scan = table.scan(snapshot_id=self.snapshot)
        names = [field.name for field in scan.projection().fields]
        there = scan.select(*(name for name in columns if name in names)).projection()
        for task in self._files(table):
            if (task.file.file_path, _version(task)) == (part.name, part.version):
                yield from ArrowScan(table.metadata, table.io, there, AlwaysTrue()).to_record_batches([task])
                return
        raise OSError("it was taken out of the table after it was listed, or rows of it were deleted")

    def _files(self, table: "Table | None" = None) -> "list[FileScanTask]":
        return list((table or self._table()).scan(snapshot_id=self.snapshot).plan_files())

    def _table(self) -> "Table":
        from pyiceberg.catalog import load_catalog

        properties = {name: value_of("IcebergFiles", text) for name, text in self.options}
        try:
            table = load_catalog(self.catalog, **properties).load_table(self.table)
        except Exception as error:  # of the catalog's kind: SQLAlchemy's, of HTTP, of an object store
            said = (str(error).splitlines() or [""])[0]
            raise OSError(f"Iceberg table {self.table} cannot be opened ({type(error).__name__}: {said})") from None
        if self.snapshot is not None and table.snapshot_by_id(self.snapshot) is None:
            raise OSError(f"Iceberg table {self.table} has no snapshot {self.snapshot} (any more)")
        return table


def _version(task: "FileScanTask") -> str:
    """Another one where rows of the file were deleted, which Iceberg notes in files of their own."""
    return digest_json([task.file.file_path, sorted(one.file_path for one in task.delete_files)])
