"""DeltaFiles: a Delta Lake table as a source, whose files are its parts."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from mlops_ray.errors import ConfigurationError
from mlops_ray.use_case.reader import Part

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class DeltaFiles:
    """The newest version of a Delta table, or the one with a number. A reader: `Source(path=None, reader=...)`.

    Files of a Delta table never change, so that only those that were added are read. A column that older files lack is
    null in them; the table's partition columns are columns. url: a folder's path or URL. options: of the object store,
    as `deltalake` names them, such as `(("AWS_REGION", "eu-central-1"), ("AWS_SECRET_ACCESS_KEY", "env:LAKE_SECRET"))`;
    `env:NAME` is a variable's value.
    """

    url: str
    version: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    def parts(self) -> Sequence[Part]:
        """See `Reader`. Raises ConfigurationError if a variable of `options` is not set."""
        actions = pa.table(self._table().get_add_actions(flatten=True))
        paths, sizes = (actions.column(name).to_pylist() for name in ("path", "size_bytes"))
        return [Part(path, path, size) for path, size in zip(paths, sizes, strict=True)]

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        from deltalake.exceptions import DeltaError

        try:
            rows = self._table().to_pyarrow_dataset()
        except DeltaError as error:
            raise OSError(f"{_first_line(error)}") from None
        there = [name for name in columns if name in rows.schema.names]
        for fragment in rows.get_fragments():
            if fragment.path == part.name:
                yield from fragment.to_batches(schema=rows.schema, columns=there)
                return
        raise OSError("it was taken out of the table after it was listed")

    def _table(self) -> "DeltaTable":
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        options = {name: value_of("DeltaFiles", text) for name, text in self.options}
        try:
            return DeltaTable(self.url, version=self.version, storage_options=options or None)
        except DeltaError as error:
            raise OSError(f"Delta table {self.url} cannot be opened: {_first_line(error)}") from None


def value_of(reader: str, text: str) -> str:
    """The text, or of `env:NAME` the variable's value. Raises ConfigurationError if that is empty."""
    if not text.startswith("env:"):
        return text
    found = os.environ.get(text.removeprefix("env:"), "")
    if not found:
        raise ConfigurationError(f"{reader}: the variable {text.removeprefix('env:')} is empty.")
    return found


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
