"""The artifact root: immutable tables and records on a local disk or an object store, named by content digest."""

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.fs as pafs
import pyarrow.parquet as pq

_MODULUS = 1 << 256


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

    def hex(self) -> str:
        return hashlib.sha256(f"{self.rows}:{self.total:064x}".encode()).hexdigest()


def digest_rows(frame: pl.DataFrame) -> ContentDigest:
    """SHA-256 of the sorted rows; columns count by name and type, in any order. Null differs from '' and from 0."""
    ordered = frame.select(sorted(frame.columns))
    return digest_ordered(ordered.sort(ordered.columns))


def digest_ordered(ordered: pl.DataFrame) -> ContentDigest:
    """SHA-256 of rows and columns in the order in which they stand, which the caller must have made one of the content
    alone: to sort by all columns costs five times what the digest does."""
    if ordered.is_empty():
        return ContentDigest()
    digest = hashlib.sha256(json.dumps([(name, str(type_)) for name, type_ in ordered.schema.items()]).encode())
    for column in ordered:
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        if column.dtype == pl.String:
            text = column.fill_null("")
            digest.update(text.str.len_bytes().to_numpy().tobytes())
            digest.update("".join(text).encode())
        else:
            digest.update(column.to_physical().fill_null(0).to_numpy().tobytes())
    return ContentDigest(int.from_bytes(digest.digest()), ordered.height)


def digest_json(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A file or folder by its name, with the file's size in bytes."""

    name: str
    size: int


def read_parquet(url: str) -> pl.DataFrame:
    """One Parquet file, or all that lie in a folder, by path or URL."""
    filesystem, path = pafs.FileSystem.from_uri(url)
    return pl.DataFrame(pl.from_arrow(pq.read_table(path, filesystem=filesystem)))


class Artifacts:
    """Reads and writes below one root: an absolute local path or a URL that pyarrow knows (s3://, gs://, file://)."""

    def __init__(self, root: str):
        self.root = root.rstrip("/")

    def url(self, *parts: str) -> str:
        """The full path or URL of something below the root, as other libraries take it."""
        return "/".join((self.root, *parts))

    def write_table(self, frame: pl.DataFrame, *parts: str) -> str:
        """Write one Parquet file, with microsecond time stamps, and return its URL.

        A reader sees all of it or nothing, also when the writer is killed: an object store shows only what is whole,
        and a local file gets its name when it is.
        """
        filesystem, path = self._locate(*parts)
        folder, name = path.rsplit("/", 1)
        filesystem.create_dir(folder)
        local = isinstance(filesystem, pafs.LocalFileSystem)
        # Readers of a folder pass over names that begin with a dot.
        target = f"{folder}/.{name}.{os.getpid()}.{threading.get_ident()}" if local else path
        pq.write_table(frame.to_arrow(), target, filesystem=filesystem, coerce_timestamps="us", compression="zstd")
        if local:
            filesystem.move(target, path)
        return self.url(*parts)

    def entries(self, *parts: str) -> list[Entry]:
        """What lies directly in a folder, by name; nothing if the folder does not exist."""
        filesystem, path = self._locate(*parts)
        found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        entries = (Entry(info.base_name, info.size or 0) for info in found)
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)

    def read_table(self, *parts: str) -> pl.DataFrame:
        """Read one Parquet file, or all that lie in a folder."""
        return read_parquet(self.url(*parts))

    def write_bytes(self, content: bytes, *parts: str) -> None:
        """Write a file so that a reader sees all of it or nothing, also when the writer is killed."""
        filesystem, path = self._locate(*parts)
        folder, name = path.rsplit("/", 1)
        filesystem.create_dir(folder)
        local = isinstance(filesystem, pafs.LocalFileSystem)
        target = f"{folder}/.{name}.{os.getpid()}.{threading.get_ident()}" if local else path
        with filesystem.open_output_stream(target) as stream:
            stream.write(content)
        if local:
            filesystem.move(target, path)

    def read_bytes(self, *parts: str) -> bytes:
        """The content of a file. Raises FileNotFoundError if it does not exist."""
        filesystem, path = self._locate(*parts)
        with filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
        return content

    def write_json(self, value: Any, *parts: str) -> None:
        """Write JSON so that a reader sees all of it or nothing."""
        filesystem, path = self._locate(*parts)
        filesystem.create_dir(path.rsplit("/", 1)[0])
        temporary = f"{path}.{os.getpid()}.{threading.get_ident()}.partial"
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(json.dumps(value, indent=2, sort_keys=True).encode())
        filesystem.move(temporary, path)

    def read_json(self, *parts: str) -> Any | None:
        """The JSON value, or None if it does not exist."""
        filesystem, path = self._locate(*parts)
        if filesystem.get_file_info(path).type != pafs.FileType.File:
            return None
        with filesystem.open_input_stream(path) as stream:
            return json.loads(stream.read())

    def delete(self, *parts: str) -> None:
        """Delete a file or a folder with all in it, if it exists."""
        filesystem, path = self._locate(*parts)
        kind = filesystem.get_file_info(path).type
        if kind == pafs.FileType.Directory:
            filesystem.delete_dir(path)
        elif kind == pafs.FileType.File:
            filesystem.delete_file(path)

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

    def _locate(self, *parts: str) -> tuple[pafs.FileSystem, str]:
        filesystem, path = pafs.FileSystem.from_uri(self.url(*parts))
        return filesystem, path
