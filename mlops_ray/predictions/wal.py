"""Write-ahead files: frames appended by one process, readable by another whatever happened to the first.

A frame is a mark, the length and the CRC-32 of its content, and the content. A file belongs to the process that holds
its lock; the lock goes with the process, so a file whose lock can be had is closed or its owner is dead.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlops_ray.predictions.ids import uuid7_at

SUFFIX = ".wal"
_NEW = ".new"
_MARK = b"\x93MLR"
_HEADER = struct.Struct("<4sII")


class WalFile:
    """A file being written. Not safe for threads; `opened_us` is its moment, which is also in its name. `headers`: the
    last frame of each topic by which others are read."""

    def __init__(self, descriptor: int, opened_us: int, folder: Path):
        self._descriptor, self._folder, self._named, self._last = descriptor, folder, False, 0
        self.opened_us = opened_us
        self.size = 0
        self.headers: dict[str, bytes] = {}

    @classmethod
    def create(cls, folder: Path, now_us: int) -> "WalFile":
        """A new, locked file. It gets its name after its lock, so that no collector takes it for an abandoned one.

        Raises OSError if the folder cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        moment_ms = now_us // 1000
        while True:
            name = uuid7_at(moment_ms)
            aside = folder / f"{name}{_NEW}"
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(aside, folder / f"{name}{SUFFIX}")
                return cls(descriptor, moment_ms * 1000, folder)
            except (BlockingIOError, FileNotFoundError):  # a collector saw it before its lock, and removes it
                os.close(descriptor)
            except BaseException:
                os.close(descriptor)
                raise

    def append(self, *contents: bytes) -> None:
        """Hand frames to the operating system; they survive this process from then on.

        Raises OSError if there is no room; what was written of them is taken back.
        """
        frames = b"".join([_HEADER.pack(_MARK, len(one), zlib.crc32(one)) + one for one in contents])
        try:
            written = os.write(self._descriptor, frames)
            while written < len(frames):
                written += os.write(self._descriptor, frames[written:])
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size, self._last = self.size + len(frames), len(frames)

    def sync(self) -> None:
        """Wait until all frames, and the file's name, are on the disk. Raises OSError if that cannot be said; what was
        appended last is taken back then.
        """
        try:
            os.fdatasync(self._descriptor)
            if not self._named:
                sync_folder(self._folder)
                self._named = True
        except OSError:
            self.size -= self._last
            os.ftruncate(self._descriptor, self.size)
            raise

    def close(self) -> None:
        os.close(self._descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FrameReader:
    """Every whole frame of a file's content, in order; read on, it counts what is none.

    `damaged`: stretches that are no frame. `torn_bytes`: a beginning of a frame at the end; its writer was killed, and
    nobody was told that it was kept.
    """

    def __init__(self, content: bytes):
        self._content = content
        self.damaged = self.torn_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        position = 0
        while position < len(self._content):
            frame = _frame_at(self._content, position)
            if frame is None:
                position = self._pass_over(position)
            else:
                position += _HEADER.size + len(frame)
                yield frame

    def _pass_over(self, position: int) -> int:
        """Count the stretch from `position` to the next frame, or to the end, and return where that is."""
        following = self._content.find(_MARK, position + 1)
        while following >= 0 and _frame_at(self._content, following) is None:
            following = self._content.find(_MARK, following + 1)
        if following < 0 and _is_torn(self._content, position):
            self.torn_bytes = len(self._content) - position
        else:
            self.damaged += 1
        return following if following >= 0 else len(self._content)


@contextmanager
def taken_over(path: Path) -> Iterator[bytes | None]:
    """The content of a file whose owner is gone, held against other collectors; None if it cannot be had."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    with open(descriptor, "rb") as stream:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        # Another collector may have finished with the file between our opening and locking it.
        yield stream.read() if os.fstat(descriptor).st_nlink else None


def remove_unnamed(folder: Path) -> None:
    """Remove files whose writer was killed before it gave them their name; they are empty."""
    for path in folder.glob(f"*{_NEW}"):
        with taken_over(path) as content:
            if content is not None:
                with suppress(FileNotFoundError):
                    path.unlink()


def _frame_at(content: bytes, position: int) -> bytes | None:
    end = position + _HEADER.size
    if end > len(content):
        return None
    mark, length, checksum = _HEADER.unpack_from(content, position)
    if mark != _MARK or end + length > len(content):
        return None
    frame = content[end : end + length]
    return frame if zlib.crc32(frame) == checksum else None


def _is_torn(content: bytes, position: int) -> bool:
    """Whether what is left is the beginning of a frame that reaches beyond the end."""
    if not content.startswith(_MARK[: len(content) - position], position):
        return False
    if len(content) - position < _HEADER.size:
        return True
    _, length, _ = _HEADER.unpack_from(content, position)
    return bool(position + _HEADER.size + length > len(content))
