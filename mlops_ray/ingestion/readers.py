"""Reading a raw file by its format, so that no row is lost on the way."""

import zlib
from collections.abc import Iterator

import pyarrow as pa

from mlops_ray.artifacts import locate
from mlops_ray.errors import DataError
from mlops_ray.ingestion.csv_rows import read_csv
from mlops_ray.ingestion.file_digests import stamp
from mlops_ray.ingestion.json_rows import read_json_lines
from mlops_ray.ingestion.parquet_rows import read_parquet_rows, rows_of_batches
from mlops_ray.ingestion.raw_rows import RawRows, UnreadableError
from mlops_ray.ingestion.sources import SourceFile, file_format
from mlops_ray.use_case import Source
from mlops_ray.use_case.reader import Part, Reader, reader_below
from mlops_ray.use_case.user_code import user_code

_READERS = {"delimited": read_csv, "json_lines": read_json_lines}


def read_file(file: SourceFile, source: Source) -> Iterator[RawRows]:
    """Read a file in stretches of bounded size; CSV and JSON lines give text columns, Parquet typed ones.

    Raises DataError naming the file when nothing of it can be read as rows, and when it changes meanwhile.
    """
    if source.reader is not None:
        yield from _read_part(source.reader, file, source)
        return
    filesystem, path = locate(file.url)
    format_, compression = file_format(file.name)
    try:
        if format_ == "parquet":
            with filesystem.open_input_file(path) as stream:
                yield from read_parquet_rows(stream, source)
        else:
            with filesystem.open_input_stream(path, compression=compression) as stream:
                yield from _READERS[format_](stream, source)
        now = stamp(filesystem, filesystem.get_file_info(path))
    except (UnreadableError, pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise DataError(f"File {file.name} cannot be read: {error}. Replace the file, or move it away.") from None
    if file.stamp and now != file.stamp:
        raise DataError(f"File {file.name} was changed while it was read. Run again when its writer has finished.")


def _read_part(reader: Reader, file: SourceFile, source: Source) -> Iterator[RawRows]:
    part = Part(file.name, file.stamp, file.size)
    with user_code(f"{file.name}: its reader"):
        try:
            batches = reader_below(reader, file.root).read(part, [column.name for column in source.columns])
            yield from rows_of_batches(batches, source)
        except (UnreadableError, pa.ArrowException, OSError) as error:
            raise DataError(f"{file.name} cannot be read: {error}. Run again; what was read is kept.") from None
