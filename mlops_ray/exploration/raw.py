"""Raw files of which nobody has said what they hold: read as ingest reads them, with all their columns."""

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_ray.artifacts import locate
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.exploration.json_keys import MAX_PARTS, JsonKeys
from mlops_ray.ingestion.csv_rows import structure_of, text_encoding
from mlops_ray.ingestion.raw_rows import RawRows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.records import read_records
from mlops_ray.ingestion.sources import SourceFile, file_format
from mlops_ray.use_case import Column, Source


def read_raw(file: SourceFile, source: Source) -> Iterator[RawRows]:
    """All columns of a file. source: how its text is written; it has no columns.

    Raises DataError naming the file when nothing of it can be read, or when a column's name cannot be declared.
    """
    format_, compression = file_format(file.name)
    if format_ == "delimited":  # whose header the reader itself reads
        yield from read_file(file, source)
        return
    filesystem, path = locate(file.url)
    try:
        if format_ == "parquet":
            with filesystem.open_input_file(path) as stream:
                names = _names_in(pq.ParquetFile(stream).schema_arrow)
        else:
            with filesystem.open_input_stream(path, compression=compression) as stream:
                names = _keys(stream, source)
        columns = tuple(Column(name, "text", nullable=True) for name in names)
        declared = replace(source, columns=columns)
    except (OSError, pa.ArrowException, EOFError) as error:
        raise DataError(f"File {file.name} cannot be read: {error}. Replace the file, or move it away.") from None
    except UseCaseError as error:
        raise DataError(f"File {file.name}: {error}") from None
    yield from read_file(file, declared)


def _keys(stream: pa.NativeFile, source: Source) -> list[str]:
    encoding, head = text_encoding(stream, source.encoding)
    keys = JsonKeys()
    for records in read_records(stream, structure_of(encoding, ",", None, cr_ends=False), head):
        for line in records.raw.to_pylist():
            try:
                keys.see(line.decode(encoding))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                continue  # malformed, which the reader says
    return keys.names()


def _names_in(fields: pa.Schema | pa.StructType, within: str = "") -> list[str]:
    """The names of the columns; of a struct those of its fields, as `outer.inner`."""
    found = list[str]()
    for name in fields.names:
        type_ = fields.field(name).type
        is_open = pa.types.is_struct(type_) and 0 < type_.num_fields <= MAX_PARTS
        found += _names_in(type_, f"{within}{name}.") if is_open else [within + name]
    return found
