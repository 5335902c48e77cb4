"""The artifact root: immutable tables and records on a local disk or an object store, named by content digest."""

import hashlib
import json
import os
import secrets
import time
from binascii import unhexlify
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mlops_ray.conditional_put import create_object

_MODULUS = 1 << 256
_CHUNK_BYTES = 1 << 20
_SLICE_ROWS = 65_536
_THREADED_VALUES = 1_000_000
_CACHED_ROWS = 4_096  # so few that they stay in a processor's cache while one column after the other is written


@dataclass(frozen=True)
class ContentDigest:
    """A digest of rows that depends neither on their order nor on the files they came from.

    Digests of partitions add up (modulo 2^256, after Bellare and Micciancio, "A New Paradigm for Collision-Free
    Hashing", 1997), so each is computed where its rows lie.
    """

    total: int = 0
    rows: int = 0

    def __add__(self, other: "ContentDigest") -> "ContentDigest":
        return ContentDigest((self.total + other.total) % _MODULUS, self.rows + other.rows)

    def __sub__(self, other: "ContentDigest") -> "ContentDigest":
        return ContentDigest((self.total - other.total) % _MODULUS, self.rows - other.rows)

    def hex(self) -> str:
        return hashlib.sha256(f"{self.rows}:{self.total:064x}".encode()).hexdigest()


def digest_rows(frame: pl.DataFrame) -> ContentDigest:
    """SHA-256 of the sorted rows; columns count by name and type, in any order. Null differs from '' and from 0."""
    if frame.is_empty():
        return ContentDigest()
    ordered = _as_texts(frame.select(sorted(frame.columns)))
    return _digest(_schema(frame), ordered.sort(ordered.columns))


def digest_ordered(frame: pl.DataFrame) -> ContentDigest:
    """As `digest_rows`, of rows whose order depends on their content alone already; to sort them again by all columns
    costs five times what the digest does. It is another digest than that of `digest_rows`."""
    return _digest(_schema(frame), _as_texts(frame.select(sorted(frame.columns)))) if len(frame) else ContentDigest()


def _digest(schema: bytes, ordered: pl.DataFrame) -> ContentDigest:
    digest = hashlib.sha256(schema)
    for column in ordered:
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        if column.dtype == pl.String:
            text = column.fill_null("")
            digest.update(text.str.len_bytes().to_numpy().tobytes())
            digest.update(_text_bytes(text))
        else:
            digest.update(column.to_physical().fill_null(0).to_numpy().tobytes())
    return ContentDigest(int.from_bytes(digest.digest()), ordered.height)


def _text_bytes(text: pl.Series) -> memoryview:
    """All texts of a column without nulls, one after another, as UTF-8."""
    array = text.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, content = array.buffers()
    if content is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int64)[array.offset :][: len(array) + 1]
    return memoryview(content)[ends[0] : ends[-1]]


def digest_each_row(frame: pl.DataFrame) -> ContentDigest:
    """As `digest_rows`, with a SHA-256 for every row, so that it is the same however the rows are divided into frames.

    A row is the bytes of its values in the order of the columns' names: which are null, 8 bytes for what has a fixed
    size or for the length of a text, then the texts.
    """
    if frame.is_empty():
        return ContentDigest()
    schema, ordered = _schema(frame), _as_texts(frame.select(sorted(frame.columns)))
    total = sum(_sum_of_sha256(schema, part) for part in ordered.iter_slices(_SLICE_ROWS))
    return ContentDigest(total % _MODULUS, frame.height)


def _sum_of_sha256(schema: bytes, rows: pl.DataFrame) -> int:
    import polars_hash  # its import takes as long as that of polars, which is all that many need

    heads = _heads(schema, rows)
    ends = np.arange(rows.height + 1, dtype=np.int64) * heads.shape[1]
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(heads)]
    head = pl.Series("", pl.from_arrow(pa.Array.from_buffers(pa.large_binary(), rows.height, buffers)))
    texts = [pl.col(name).fill_null("") for name, type_ in rows.schema.items() if type_ == pl.String]
    whole = pl.lit(head) + (pl.concat_str(texts).cast(pl.Binary) if texts else pl.lit(b""))
    for name in (name for name, type_ in rows.schema.items() if type_ == pl.Binary):
        whole += pl.col(name).fill_null(b"")
    # In Rust: a call of hashlib for each row takes five times as long.
    hashed = polars_hash.col("whole").chash.sha2_256()
    digits = rows.select(whole.alias("whole")).select(hashed).to_series()
    # As all are of one length, none needs to be decoded on its own, which takes longer than to hash it.
    buffer = digits.to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()[2]
    content = unhexlify(memoryview(buffer)[: rows.height * 64])
    # Sums of 32-bit words in 64 bits do not overflow below four billion rows.
    words = np.frombuffer(content, ">u4").reshape(-1, 8).sum(axis=0, dtype=np.uint64)
    return sum(int(word) << (32 * (7 - place)) for place, word in enumerate(words))


def _heads(schema: bytes, rows: pl.DataFrame) -> np.ndarray:
    """What of each row has a fixed size, a line of bytes for each: 16 that stand for the schema, which columns are
    null, and 8 of each column. They are written where they belong, as to stack columns takes as long as to hash."""
    first, start = 16 + rows.width, np.frombuffer(hashlib.sha256(schema).digest()[:16], np.uint8)
    heads = np.zeros((rows.height, first + 8 * rows.width), np.uint8)
    nulls = {place: column.is_null().to_numpy() for place, column in enumerate(rows) if column.null_count()}
    values = [_eight_bytes(column) for column in rows]
    for at in range(0, rows.height, _CACHED_ROWS):
        block, here = heads[at : at + _CACHED_ROWS], slice(at, at + _CACHED_ROWS)
        block[:, :16] = start
        for place, flags in nulls.items():
            block[:, 16 + place] = flags[here]
        for place, column in enumerate(values):
            block[:, first + 8 * place :][:, :8].view("<i8")[:, 0] = column[here]
    return heads


def _schema(frame: pl.DataFrame) -> bytes:
    return json.dumps([(name, str(frame.schema[name])) for name in sorted(frame.columns)]).encode()


def _as_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with texts in place of what has no bytes of its own: categories (their numbers are those of their order
    of appearance), decimals, and nested values."""
    flat = frame.with_columns(pl.col(pl.Categorical, pl.Enum, pl.Decimal, pl.Int128, pl.UInt128).cast(pl.String))
    nested = [name for name, type_ in flat.schema.items() if type_.is_nested()]
    return flat.with_columns(
        pl.when(pl.col(name).is_not_null()).then(pl.struct(name).struct.json_encode()).alias(name) for name in nested
    )


def _eight_bytes(column: pl.Series) -> np.ndarray:
    """What of each value has a fixed size, as integers: of a text its length in bytes."""
    if column.dtype == pl.String:
        sizes = column.str.len_bytes()
    elif column.dtype == pl.Binary:
        sizes = column.bin.size()
    else:
        sizes = column.to_physical()
    values = (sizes.fill_null(0) if sizes.null_count() else sizes).to_numpy()
    return values.astype("<f8", copy=False).view("<i8") if values.dtype.kind == "f" else values


def digest_json(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A file or folder by its name, with the file's size in bytes."""

    name: str
    size: int


def locate(place: str) -> tuple[pafs.FileSystem, str]:
    """The file system of an absolute path or a URL, and the path in it.

    A path is taken as it stands, whatever characters it has. In a URL, `%20` is a space, and what follows `?` are
    options of the file system (`s3://lake/raw?region=eu-central-1&endpoint_override=http://minio:9000`).
    Raises ValueError if it is neither.
    """
    if place.startswith("/"):
        return pafs.LocalFileSystem(), place
    parts = urlsplit(place)
    if parts.scheme == "file":
        if "?" in place or "#" in place:
            raise ValueError(f"{place}: write # as %23 and ? as %3F in a file:// URL, or give the path alone.")
        return pafs.LocalFileSystem(), unquote(parts.path)
    if not parts.scheme:
        raise ValueError(f"{place!r} is neither an absolute path nor a URL.")
    body, mark, options = place.partition("?")
    # Signs that a URL must not hold are taken as they are meant; an encoded one stays encoded.
    url = quote(body, safe=_URL_SIGNS)
    if parts.scheme != "s3" or not parts.netloc:
        filesystem, path = pafs.FileSystem.from_uri(url + mark + options)
        return filesystem, path
    bucket, _, key = url.removeprefix("s3://").partition("/")
    filesystem, path = _bucket(f"s3://{bucket}{mark}{options}", os.getpid())
    return filesystem, "/".join((path, unquote(key))).rstrip("/")


@lru_cache(maxsize=64)
def _bucket(url: str, process: int) -> tuple[pafs.FileSystem, str]:
    """A client takes 30 ms of CPU to find its credentials, which it renews by itself, and keeps its connections. What
    is small it writes in one message and not in three. It is one process's: a fork's threads are not its parent's."""
    filesystem, path = pafs.FileSystem.from_uri(f"{url}{'&' if '?' in url else '?'}allow_delayed_open=true")
    return filesystem, path


_URL_SIGNS = "%/:@!$&'()*+,;=-._~[]"


def join(place: str, *parts: str) -> str:
    """The path or URL of something below a folder; a URL's options stay at its end."""
    if "://" not in place:
        return "/".join((place.rstrip("/"), *parts))
    body, mark, options = place.partition("?")
    return (
        "/".join((body.rstrip("/"), *(quote(part, safe=_URL_SIGNS.replace("%", "")) for part in parts)))
        + mark
        + options
    )


def partial_name(name: str) -> str:
    """What a file is called until it is whole: no two writers share it, also on two hosts, and readers of a folder pass
    over names that begin with a dot."""
    return f".{name}.{secrets.token_hex(8)}"


def parquet_file(filesystem: pafs.FileSystem, path: str) -> pq.ParquetFile:
    """A file to read from, and to close. What is read of it at a time comes from an object store in a few messages, and
    not in one for each column."""
    return pq.ParquetFile(path, filesystem=filesystem, pre_buffer=not isinstance(filesystem, pafs.LocalFileSystem))


def read_parquet(url: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """One Parquet file, or all that lie in a folder, by path or URL; of its columns those that are named."""
    filesystem, path = locate(url)
    wanted = columns and list(columns)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        return pl.DataFrame(pl.from_arrow(pq.read_table(path, columns=wanted, filesystem=filesystem)))
    # `read_table` imports pyarrow.dataset, and that pandas: half a second in each process.
    with parquet_file(filesystem, path) as file:
        table = file.read(columns=wanted, use_threads=_is_large(file, wanted))
    return pl.DataFrame(pl.from_arrow(table.select(wanted) if wanted else table))


def _is_large(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> bool:
    """Whether threads help to read it: of a small table it takes longer to hand the work out than to do it."""
    return bool(file.metadata.num_rows * len(columns or file.schema_arrow.names) >= _THREADED_VALUES)


class Artifacts:
    """Reads and writes below one root: an absolute local path or a URL that pyarrow knows (s3://, gs://, file://)."""

    def __init__(self, root: str):
        self.root = root if "?" in root and "://" in root else root.rstrip("/")

    @property
    def is_local(self) -> bool:
        return isinstance(self._locate()[0], pafs.LocalFileSystem)

    def url(self, *parts: str) -> str:
        """The full path or URL of something below the root, as other libraries take it."""
        return join(self.root, *parts)

    def write_table(
        self, frame: pl.DataFrame, *parts: str, distinct: Sequence[str] = (), group_rows: int | None = None
    ) -> str:
        """Write one Parquet file, with microsecond time stamps, and return its URL.

        distinct: columns whose values hardly ever repeat, so that no dictionary is tried, which takes twice as long.
        group_rows: of which few are read later (`read_rows`), so many a group.
        A reader sees all of it or nothing, also when the writer is killed: an object store shows only what is whole,
        and a local file gets its name when it is.
        """
        repeated = [name for name in frame.columns if name not in distinct] if distinct else True
        with self._new(*parts) as (filesystem, path):
            # From a clone, which has a lock of its own: polars gives a frame's table when no other thread reads the
            # frame, and one that the collector of garbage stopped while it did would wait for Python's lock for ever.
            pq.write_table(
                frame.clone().to_arrow(), path, filesystem=filesystem, coerce_timestamps="us", compression="zstd",
                use_dictionary=repeated, row_group_size=group_rows,
            )  # fmt: skip
        return self.url(*parts)

    def share(self, there: Sequence[str], also: Sequence[str]) -> None:
        """Let a file that never changes be found under another name too: on a local disk as the same bytes, in an
        object store as a copy that does not come past here."""
        _, source = self._locate(*there)
        with self._new(*also) as (filesystem, path):
            if isinstance(filesystem, pafs.LocalFileSystem):
                with suppress(OSError):  # a file system without links, or the file has as many as there may be
                    os.link(source, path)
                    return
            filesystem.copy_file(source, path)

    def entries(self, *parts: str) -> list[Entry]:
        """What lies directly in a folder, by name; nothing if the folder does not exist."""
        filesystem, path = self._locate(*parts)
        found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        entries = (Entry(info.base_name, info.size or 0) for info in found)
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)

    def read_table(self, *parts: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read one Parquet file, or all that lie in a folder; of its columns those that are named."""
        return read_parquet(self.url(*parts), columns)

    def read_rows(self, positions: pl.Series, *parts: str) -> pl.DataFrame:
        """The rows of one Parquet file that stand at these positions, in their order; no group is read without one."""
        filesystem, path = self._locate(*parts)
        with parquet_file(filesystem, path) as file:
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            of = np.searchsorted(ends, positions.to_numpy(), side="right")
            wanted = np.unique(of)
            groups = file.read_row_groups(wanted.tolist(), use_threads=_is_large(file))
        firsts = np.cumsum([0, *(sizes[number] for number in wanted)])[:-1]
        shifts = dict(zip(wanted.tolist(), (firsts - (ends - sizes)[wanted]).tolist(), strict=True))
        at = positions.to_numpy().astype(np.int64) + np.array([shifts[number] for number in of.tolist()], np.int64)
        return pl.DataFrame(pl.from_arrow(groups))[at]  # Arrow's `take` imports pandas

    def write_bytes(self, content: bytes, *parts: str) -> None:
        """Write a file so that a reader sees all of it or nothing, also when the writer is killed."""
        with (
            self._new(*parts) as (filesystem, path),
            filesystem.open_output_stream(path, compression=None) as stream,  # by default a name that ends in .gz packs
        ):
            stream.write(content)

    def create_bytes(self, content: bytes, *parts: str) -> bool:
        """Write a file as `write_bytes` does, unless it exists; False if it does. Of several writers one succeeds.

        On object stores other than S3, where pyarrow has no conditional write, and on disks without links, two at the
        same moment may both.
        """
        filesystem, path = self._locate(*parts)
        if isinstance(filesystem, pafs.S3FileSystem):
            return create_object(self.url(*parts), path, content)
        if not isinstance(filesystem, pafs.LocalFileSystem):
            if filesystem.get_file_info(path).type != pafs.FileType.NotFound:
                return False
            self.write_bytes(content, *parts)
            return True
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / partial_name(target.name)
        partial.write_bytes(content)
        try:
            target.hardlink_to(partial)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if target.exists():
                return False
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def read_bytes(self, *parts: str) -> bytes:
        """The content of a file. Raises FileNotFoundError if it does not exist."""
        filesystem, path = self._locate(*parts)
        with filesystem.open_input_stream(path, compression=None) as stream:
            content: bytes = stream.read()
        return content

    def sha256(self, *parts: str) -> str:
        """Of the bytes of a file, in hex. Raises FileNotFoundError if it does not exist."""
        filesystem, path = self._locate(*parts)
        digest = hashlib.sha256()
        with filesystem.open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def write_json(self, value: Any, *parts: str) -> None:
        """Write JSON so that a reader sees all of it or nothing."""
        self.write_bytes(json.dumps(value, indent=2, sort_keys=True).encode(), *parts)

    def read_json(self, *parts: str) -> Any | None:
        """The JSON value, or None if it does not exist."""
        try:
            return json.loads(self.read_bytes(*parts))
        except (FileNotFoundError, NotADirectoryError):  # what should be the folder may be a file
            return None

    def holds(self, url: str) -> bool:
        """Whether a file or folder with this URL lies below the root."""
        below = url.removeprefix(f"{self.root}/")
        if below == url:
            return False
        filesystem, path = self._locate(below)
        return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)

    def delete(self, *parts: str) -> None:
        """Delete a file or a folder with all in it, if it exists, also while somebody else deletes it."""
        filesystem, path = self._locate(*parts)
        kind = filesystem.get_file_info(path).type
        with suppress(FileNotFoundError):
            if kind == pafs.FileType.Directory:
                filesystem.delete_dir(path)
            elif kind == pafs.FileType.File:
                filesystem.delete_file(path)

    def delete_abandoned(self, age: timedelta, *parts: str) -> None:
        """Delete what lies directly in a folder and has had no new file for so long, by the clock of who wrote it."""
        filesystem, path = self._locate(*parts)
        written = dict.fromkeys((entry.name for entry in self.entries(*parts)), 0)
        for info in filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True)):
            name = info.path.removeprefix(path).strip("/").partition("/")[0]
            if info.type == pafs.FileType.File and name in written:
                written[name] = max(written[name], info.mtime_ns or 0)
        for name, newest in written.items():
            if newest and time.time_ns() - newest > age.total_seconds() * 1e9:
                self.delete(*parts, name)

    def upload(self, folder: Path, *parts: str) -> str:
        """Copy the files of a local folder and return the URL of the copy."""
        filesystem, path = self._locate(*parts)
        filesystem.create_dir(path)
        pafs.copy_files(str(folder), path, destination_filesystem=filesystem)
        return self.url(*parts)

    def download(self, folder: Path, *parts: str) -> None:
        """Copy a folder below the root to a local one."""
        filesystem, path = self._locate(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        pafs.copy_files(path, str(folder), source_filesystem=filesystem)

    @contextmanager
    def _new(self, *parts: str) -> Iterator[tuple[pafs.FileSystem, str]]:
        """Where to write a file that shows when it is whole: on a local disk under another name, which it then loses.
        A bucket has no folders that must be made before."""
        filesystem, path = self._locate(*parts)
        folder, name = path.rsplit("/", 1)
        if not isinstance(filesystem, pafs.S3FileSystem):
            filesystem.create_dir(folder)
        if not isinstance(filesystem, pafs.LocalFileSystem):
            yield filesystem, path
            return
        partial = f"{folder}/{partial_name(name)}"
        yield filesystem, partial
        filesystem.move(partial, path)

    def _locate(self, *parts: str) -> tuple[pafs.FileSystem, str]:
        return locate(self.url(*parts))
