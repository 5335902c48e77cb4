"""Listing: the files below a folder, on a disk or in an object store."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs

from mlops_ray.artifacts import locate
from mlops_ray.errors import ConfigurationError

_OF_VOLUME = "lost+found"
"""What a file system keeps at its root; only the administrator may look into it."""

_Identity = tuple[int, int]


def walk(place: str) -> list[tuple[str, int, int]]:
    """All files below a folder: path in it, bytes, when modified in nanoseconds; none whose name, or whose folder's,
    begins with a dot, as that of what is being written does. None if there is no folder.

    Links are followed. Raises ConfigurationError if one leads nowhere, or to a folder that it lies in, and OSError if a
    folder cannot be read.
    """
    filesystem, root = locate(place)
    return sorted(_on_disk(root) if isinstance(filesystem, pafs.LocalFileSystem) else _in_store(filesystem, root))


def _in_store(filesystem: pafs.FileSystem, root: str) -> Iterator[tuple[str, int, int]]:
    found = filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True, recursive=True))
    for info in found:
        path = info.path[len(root) :].lstrip("/")
        if info.type == pafs.FileType.File and not any(part.startswith(".") for part in path.split("/")):
            yield path, info.size or 0, info.mtime_ns or 0


def _on_disk(folder: str, inside: str = "", above: tuple[_Identity, ...] = ()) -> Iterator[tuple[str, int, int]]:
    """above: the folders from the root to the one that this lies in."""
    try:
        itself = os.stat(folder)
        names = os.listdir(folder)
    except FileNotFoundError:  # deleted meanwhile, or there is none
        return
    identity = (itself.st_dev, itself.st_ino)
    if identity in above:
        raise ConfigurationError(
            f"{folder} is a link that leads to a folder that it lies in, so that this has no end. Take the link away."
        )
    for name in names:
        if name.startswith(".") or (name == _OF_VOLUME and not above):
            continue
        path = Path(folder, name)
        if (found := _stat(path)) is None:
            continue
        if stat.S_ISDIR(found.st_mode):
            yield from _on_disk(str(path), f"{inside}{name}/", (*above, identity))
        elif stat.S_ISREG(found.st_mode):
            yield f"{inside}{name}", found.st_size, found.st_mtime_ns


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError as error:
        if path.is_symlink() and not isinstance(error, PermissionError):
            raise ConfigurationError(
                f"{path} is a link that leads nowhere ({os.readlink(path)}). Bring back what it led to, or take it "
                f"away."
            ) from None
        if isinstance(error, FileNotFoundError):  # deleted meanwhile
            return None
        raise
