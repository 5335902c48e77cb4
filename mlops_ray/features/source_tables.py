"""The tables that a view's function is given: each is read when it is asked for, up to what one process takes."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping

import polars as pl
import pyarrow.parquet as pq

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.errors import UseCaseError
from mlops_ray.ingestion.snapshot import Snapshot, expect_kept

# In memory, at 8 bytes a value, of all tables that one function reads whole; with what it makes, several times that.
WHOLE_BYTES = 1 << 30
_VALUE_BYTES = 8


class TooMuchHere(BaseException):
    """A function asks for more than is read in this process. No user's `except Exception` is meant by it."""


class SourceTables(MutableMapping[str, pl.DataFrame]):
    """Tables by source. They are the function's own: it may change them, and the mapping."""

    def __init__(self, read: Mapping[str, Callable[[], pl.DataFrame]]):
        self._read = dict(read)
        self._found: dict[str, pl.DataFrame] = {}

    def __getitem__(self, name: str) -> pl.DataFrame:
        if name not in self._found:
            self._found[name] = self._read[name]()
        return self._found[name]

    def __setitem__(self, name: str, table: pl.DataFrame) -> None:
        self._found[name], self._read[name] = table, lambda: table

    def __delitem__(self, name: str) -> None:
        del self._read[name]
        self._found.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._read))

    def __len__(self) -> int:
        return len(self._read)


def given_tables(tables: Mapping[str, pl.DataFrame]) -> SourceTables:
    """Tables that are read already, for one more function."""
    return SourceTables({name: table.clone for name, table in tables.items()})


def whole_tables(artifacts: Artifacts, snapshot: Snapshot, view: str, here_bytes: int | None = None) -> SourceTables:
    """The snapshot's tables. To read more than `WHOLE_BYTES` of them raises UseCaseError, which names the view; and
    DataError if the snapshot was retired.

    here_bytes: of files; to read more raises TooMuchHere. None: without this bound.
    """
    expect_kept(artifacts, snapshot.use_case, snapshot.digest)
    read: dict[str, int] = {}
    files = 0

    def reader(source: str) -> Callable[[], pl.DataFrame]:
        def table() -> pl.DataFrame:
            nonlocal files
            files += sum(entry.size for entry in artifacts.entries(*snapshot.place(source)))
            if here_bytes is not None and files > here_bytes:
                raise TooMuchHere
            read[source] = memory_of(artifacts, snapshot, source)
            if sum(read.values()) > WHOLE_BYTES:
                raise UseCaseError(_too_large(view, read))
            return artifacts.read_table(*snapshot.place(source))

        return table

    return SourceTables({source: reader(source) for source in snapshot.counts})


def memory_of(artifacts: Artifacts, snapshot: Snapshot, source: str) -> int:
    """About how many bytes a table takes in memory."""
    counts, place = snapshot.counts[source], snapshot.place(source)
    filesystem, path = locate(artifacts.url(*place, artifacts.entries(*place)[0].name))
    return (counts.accepted + counts.repaired) * len(pq.read_schema(path, filesystem=filesystem)) * _VALUE_BYTES


def _too_large(view: str, read: Mapping[str, int]) -> str:
    tables = ", ".join(f"{source} {size / 2**30:.1f} GiB" for source, size in read.items())
    return (
        f"Feature view {view!r} reads whole tables of {sum(read.values()) / 2**30:.1f} GiB ({tables}); a function of "
        f"which nothing is declared may read {WHOLE_BYTES / 2**30:g} GiB. Say how its rows can be divided, with "
        f"DividedView(function, looks_back=timedelta(…)) or DividedView(function, by=(…,)), or declare its windows "
        f"(windowed_views)."
    )
