"""Raw files: finding them, and reading them so that no row is lost on the way."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mlops_ray.errors import DataError
from mlops_ray.use_case import Source

_BLOCK_BYTES = 64 << 20
_ENDINGS = (".csv", ".csv.gz", ".parquet", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class SourceFile:
    """One raw file: its path or URL, its path below the data folder, and the SHA-256 of its bytes."""

    url: str
    name: str
    sha256: str


@dataclass(frozen=True)
class RawRows:
    """A stretch of a file: the rows that could be split into columns, and the texts of those that could not."""

    frame: pl.DataFrame
    malformed: tuple[str, ...]


def find_files(data: str, source_name: str, source: Source) -> list[SourceFile]:
    """The files of a source below `data` (a folder or URL), sorted by name. Raises DataError if there are none."""
    filesystem, root = pafs.FileSystem.from_uri(data)
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    infos = [info for info in filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
    paths = sorted(info.path for info in infos if fnmatch(info.path, f"{root}/{source.path}"))
    if not paths:
        raise DataError(
            f"Source {source_name}: no file matches {data}/{source.path}. "
            f"Put the files there, or give another data folder."
        )
    for path in paths:
        if not path.endswith(_ENDINGS):
            raise DataError(f"Source {source_name}: cannot read {path}. Known endings: {', '.join(_ENDINGS)}.")
    prefix = data.rstrip("/")
    return [
        SourceFile(prefix + path.removeprefix(root), path.removeprefix(root).lstrip("/"), _sha256(filesystem, path))
        for path in paths
    ]


def _sha256(filesystem: pafs.FileSystem, path: str) -> str:
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_file(file: SourceFile) -> Iterator[RawRows]:
    """Read a file in stretches of bounded size; CSV and JSON lines give text columns, Parquet typed ones.

    Raises DataError naming the file when nothing of it can be read as rows.
    """
    filesystem, path = pafs.FileSystem.from_uri(file.url)
    try:
        if path.endswith(".parquet"):
            with filesystem.open_input_file(path) as stream:
                for batch in pq.ParquetFile(stream).iter_batches():
                    yield RawRows(_frame(pa.table(batch)), ())
            return
        if ".csv" in file.name:
            with filesystem.open_input_stream(path) as stream:
                names = _header_names(io.BufferedReader(stream).readline())
            with filesystem.open_input_stream(path) as stream:
                yield from _read_csv(stream, names)
        else:
            with filesystem.open_input_stream(path) as stream:
                yield from _read_json_lines(stream)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"File {file.name} cannot be read: {error}. Replace the file, or move it away.") from None


def _read_csv(stream: pa.NativeFile, names: list[str]) -> Iterator[RawRows]:
    malformed: list[str] = []

    def set_aside(row: pacsv.InvalidRow) -> str:
        malformed.append(row.text)
        return "skip"

    reader = pacsv.open_csv(
        stream,
        read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False, column_names=names, skip_rows=1),
        parse_options=pacsv.ParseOptions(invalid_row_handler=set_aside, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()), strings_can_be_null=False),
    )
    for batch in reader:
        table = pa.table(batch)
        readable = pc.invert(_invalid_utf8(table))
        malformed += [
            b",".join(value or b"" for value in row.values()).decode("utf-8", "replace")
            for row in table.filter(pc.invert(readable)).to_pylist()
        ]
        text = table.filter(readable)
        text = text.cast(pa.schema([(name, pa.large_string()) for name in names]))
        yield RawRows(_frame(text), tuple(malformed))
        malformed.clear()
    yield RawRows(pl.DataFrame(schema=dict.fromkeys(names, pl.String)), tuple(malformed))


def _header_names(header: bytes) -> list[str]:
    if not header.strip():
        raise pa.ArrowInvalid("it has no header line")
    if not _is_utf8(header):
        raise pa.ArrowInvalid("its header is not UTF-8")
    line = io.BytesIO(header.removeprefix(b"\xef\xbb\xbf"))
    names = pacsv.read_csv(line, read_options=pacsv.ReadOptions(autogenerate_column_names=True)).to_pylist()[0].values()
    texts = [str(name).strip() for name in names]
    if len(set(texts)) < len(texts):
        raise pa.ArrowInvalid(f"its header names a column twice: {', '.join(texts)}")
    return texts


def _invalid_utf8(table: pa.Table) -> pa.Array:
    """True for each row that holds bytes which are not UTF-8."""
    try:
        table.cast(pa.schema([(name, pa.large_string()) for name in table.column_names]))
        return pa.array([False] * table.num_rows)
    except pa.ArrowInvalid:
        return pa.array([not all(_is_utf8(value) for value in row.values()) for row in table.to_pylist()])


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_json_lines(stream: pa.NativeFile) -> Iterator[RawRows]:
    reader = io.BufferedReader(stream, 1 << 20)
    while lines := reader.readlines(_BLOCK_BYTES):
        rows, malformed = [], []
        for line in lines:
            if not line.strip():
                continue
            try:
                rows.append({key: _text(value) for key, value in json.loads(line).items()})
            except (ValueError, AttributeError):
                malformed.append(line.decode("utf-8", "replace").strip())
        names = dict.fromkeys(name for row in rows for name in row)
        yield RawRows(pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String)), tuple(malformed))


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
