"""Digests of raw files, remembered so that a file that did not change is read once."""

import hashlib
import os
import time
from dataclasses import dataclass, field

import pyarrow.fs as pafs

from mlops_ray.artifacts import Artifacts, digest_json

FOLDER = "file_digests"
# A file that changes twice within the granularity of its times looks as if it had changed once.
_GRANULARITY_S = 2.0
_CHUNK_BYTES = 1 << 20


def stamp(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> str:
    """What changes when a file does: size and time, and where the file system is local, inode and time of change."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        found = os.stat(info.path)
        # Copies keep the time of modification (`cp -p`); the time of change cannot be set.
        return f"{found.st_size} {found.st_mtime_ns} {found.st_ino} {found.st_ctime_ns}"
    return f"{info.size} {info.mtime_ns}"


@dataclass
class FileDigests:
    """SHA-256 of files by URL, each with the stamp of the file when it was read."""

    known: dict[str, list[str]] = field(default_factory=dict)
    _changed: bool = False

    @classmethod
    def load(cls, artifacts: Artifacts, data: str) -> "FileDigests":
        """What is remembered of the files below `data`."""
        return cls(artifacts.read_json(FOLDER, f"{digest_json(data)}.json") or {})

    def save(self, artifacts: Artifacts, data: str) -> None:
        """Remember; of two who save at once, one has to read its files again some day."""
        if self._changed:
            artifacts.write_json(self.known, FOLDER, f"{digest_json(data)}.json")
            self._changed = False

    def sha256(self, url: str, filesystem: pafs.FileSystem, info: pafs.FileInfo) -> tuple[str, str]:
        """The digest of a file's bytes, and its stamp. Raises OSError if it cannot be read."""
        before, now = stamp(filesystem, info), time.time()
        recorded = self.known.get(url)
        if recorded is not None and recorded[0] == before:
            return recorded[1], before
        digest = _sha256(filesystem, info.path)
        after = filesystem.get_file_info(info.path)
        settled = _latest_change_s(filesystem, after) < now - _GRANULARITY_S
        if settled and stamp(filesystem, after) == before:
            self.known[url] = [before, digest]
            self._changed = True
        return digest, before


def _latest_change_s(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> float:
    if isinstance(filesystem, pafs.LocalFileSystem):
        found = os.stat(info.path)
        return max(found.st_mtime, found.st_ctime)
    return float(info.mtime_ns or 0) / 1e9 if info.mtime_ns else float("inf")


def _sha256(filesystem: pafs.FileSystem, path: str) -> str:
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
