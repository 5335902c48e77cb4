"""Content: files by the SHA-256 of what is in them, each kept once, whichever backups have it."""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import pyarrow.fs as pafs

from mlops_ray.artifacts import Artifacts, locate, partial_name
from mlops_ray.errors import IntegrityError
from mlops_ray.operations.backup.listing import walk
from mlops_ray.operations.backup.manifest import Item, digest_of
from mlops_ray.operations.backup.place import CONTENT, DAMAGED

_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Problem:
    """said: a sentence. damaged: whether there is content, which is not what was written."""

    item: Item
    said: str
    damaged: bool


class Content:
    """What a place has. Safe for threads. copied, copied_bytes: what was added through this object."""

    def __init__(self, files: Artifacts):
        self._files = files
        self._sizes = {path.rpartition("/")[2]: size for path, size, _ in walk(files.url(CONTENT))}
        self.copied, self.copied_bytes = 0, 0

    def has(self, item: Item) -> bool:
        """Whether it lies there, with its size."""
        return self._sizes.get(item.sha256) == item.bytes

    def add_bytes(self, path: str, content: bytes) -> Item:
        item = Item(path, digest_of(content), len(content))
        if not self.has(item):
            self._files.write_bytes(content, *_place(item.sha256))
            self._note(item)
        return item

    def add_file(self, path: str, source: str, modified_ns: int = 0) -> Item:
        """Copy the file at a path or URL, unless its content is there. What is copied is read once more, and compared.

        Raises FileNotFoundError if it is not there, also where another took its place while it was read.
        """
        filesystem, inside = locate(source)
        chunks = _chunks(filesystem, inside)
        first = next(chunks, b"")
        if len(first) < _CHUNK_BYTES:
            chunks.close()
            item = self.add_bytes(path, first)
            return Item(path, item.sha256, item.bytes, modified_ns)
        item = digest_chunks(path, _with(first, chunks), modified_ns)
        if not self.has(item):
            self._copy_large(item, filesystem, inside)
            self._note(item)
        return item

    def chunks(self, item: Item) -> Iterator[bytes]:
        """The content of an item. Raises FileNotFoundError if it is not there."""
        return _chunks(*locate(self._files.url(*_place(item.sha256))))

    def problem(self, item: Item) -> Problem | None:
        """What is wrong if it is not there as it was written."""
        try:
            found = digest_chunks(item.path, self.chunks(item))
        except FileNotFoundError:
            return Problem(item, f"{item.path}: its content {item.sha256[:12]}… is not there.", damaged=False)
        if found.sha256 == item.sha256:
            return None
        how = "cut off" if found.bytes < item.bytes else "added to"
        sizes = f" ({found.bytes:,} bytes of {item.bytes:,})"
        said = f"changed, its size is the same ({item.bytes:,} bytes)" if found.bytes == item.bytes else how + sizes
        return Problem(item, f"{item.path}: its content was {said}.", damaged=True)

    def set_aside(self, sha256: str) -> None:
        """Move damaged content to where no backup has it, so that the next one copies it anew; it stays as evidence.
        Raises OSError if the place cannot be written."""
        filesystem, source = locate(self._files.url(*_place(sha256)))
        _, target = locate(self._files.url(DAMAGED, sha256))
        filesystem.create_dir(target.rpartition("/")[0])
        filesystem.move(source, target)
        self._sizes.pop(sha256, None)

    def names(self) -> list[str]:
        return sorted(self._sizes)

    def delete(self, sha256: str) -> int:
        """Returns how many bytes it had."""
        self._files.delete(*_place(sha256))
        return self._sizes.pop(sha256, 0)

    def _copy_large(self, item: Item, filesystem: pafs.FileSystem, inside: str) -> None:
        there, target = locate(self._files.url(*_place(item.sha256)))
        folder, name = target.rsplit("/", 1)
        there.create_dir(folder)
        partial = f"{folder}/{partial_name(name)}"
        with there.open_output_stream(partial, compression=None) as stream:
            digest = hashlib.sha256()
            for chunk in _chunks(filesystem, inside):
                digest.update(chunk)
                stream.write(chunk)
        if digest.hexdigest() != item.sha256:
            there.delete_file(partial)
            raise FileNotFoundError(f"{inside} was replaced while it was read")
        there.move(partial, target)

    def _note(self, item: Item) -> None:
        self._sizes[item.sha256] = item.bytes
        self.copied, self.copied_bytes = self.copied + 1, self.copied_bytes + item.bytes


def digest_chunks(path: str, chunks: Iterable[bytes], modified_ns: int = 0) -> Item:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return Item(path, digest.hexdigest(), size, modified_ns)


def digest_file(path: str, source: str, modified_ns: int = 0) -> Item:
    """An item for a file that stays where it is. Raises FileNotFoundError if it is not there."""
    return digest_chunks(path, _chunks(*locate(source)), modified_ns)


def expect_whole(item: Item, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks, and IntegrityError at their end if they are not what the item says."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != item.sha256:
        raise IntegrityError(f"{item.path}: its content was changed while it was read. Nothing of it may be used.")


def _chunks(filesystem: pafs.FileSystem, path: str) -> Generator[bytes, None, None]:
    with filesystem.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _with(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _place(sha256: str) -> tuple[str, str, str]:
    return CONTENT, sha256[:2], sha256
