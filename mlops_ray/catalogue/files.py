"""Files below the artifact root, with what tells that two names are one file."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow.fs as pafs

from mlops_ray.artifacts import Artifacts, locate


@dataclass(frozen=True)
class StoredFile:
    """place: below the artifact root. identity: the same for several names of one file on a local disk. since: when its
    bytes were written."""

    place: tuple[str, ...]
    identity: str
    bytes: int
    since: datetime

    def byte_days(self, now: datetime) -> float:
        return self.bytes * max((now - self.since).total_seconds(), 0.0) / 86_400


def files_below(artifacts: Artifacts, *place: str) -> list[StoredFile]:
    """All files in a folder and the folders below it, or the one file of that name; nothing if neither exists."""
    filesystem, path = locate(artifacts.url(*place))
    local = isinstance(filesystem, pafs.LocalFileSystem)
    infos = [filesystem.get_file_info(path)]
    if infos[0].type == pafs.FileType.Directory or not local:
        infos += filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
    found = {}
    for info in infos:
        if info.type == pafs.FileType.File:
            below = info.path.removeprefix(path).strip("/")
            name = (*place, *(below.split("/") if below else ()))
            since = info.mtime.astimezone(UTC) if info.mtime else datetime.now(UTC)
            found[name] = StoredFile(name, _identity(info.path) if local else info.path, info.size or 0, since)
    return [one for name, one in sorted(found.items()) if not name[-1].startswith(".")]


def once(files: Iterable[StoredFile]) -> dict[str, StoredFile]:
    """Each file once, however many names it has."""
    return {one.identity: one for one in files}


def total_bytes(files: Iterable[StoredFile]) -> int:
    return sum(one.bytes for one in once(files).values())


def _identity(path: str) -> str:
    try:
        found = os.stat(path)
    except FileNotFoundError:  # deleted meanwhile
        return path
    return f"{found.st_dev}:{found.st_ino}"
