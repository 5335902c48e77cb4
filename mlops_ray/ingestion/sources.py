"""Raw files: finding those of a source below the data folder."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pyarrow as pa
import pyarrow.fs as pafs

from mlops_ray.artifacts import Artifacts, join, locate
from mlops_ray.config import Settings
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.ingestion.file_digests import FileDigests
from mlops_ray.use_case import Source
from mlops_ray.use_case.reader import reader_below
from mlops_ray.use_case.user_code import user_code

_FORMATS = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".txt": "delimited",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".parquet": "parquet",
}
ENDINGS = (*_FORMATS, *(f"{ending}.gz" for ending in _FORMATS if ending != ".parquet"))
_THREADS = 16


@dataclass(frozen=True)
class SourceFile:
    """One raw file: its path or URL, its path below the data folder, and the SHA-256 of its bytes. Or a part of a
    reader: its name, and the SHA-256 of its version, which is the stamp; it has no URL.

    stamp: size and times by which a change is seen; empty where nobody looks. size: in bytes, as the file lies there.
    root: of the artifacts, for a reader of what lies below it.
    """

    url: str
    name: str
    sha256: str
    stamp: str = ""
    size: int = 0
    root: str = ""


def find_files(
    data: str, source_name: str, source: Source, digests: FileDigests | None = None, artifacts: str | None = None
) -> list[SourceFile]:
    """The files of a source below `data` (a folder or URL), sorted by name.

    digests: what is remembered of files that were hashed before; without them every file is hashed. artifacts: the
    root for a reader of what lies below it.
    Raises DataError if there are none, if the format of one is unknown, or if one cannot be read.
    """
    if source.path is None:
        return _parts(source_name, source, artifacts or "")
    try:
        filesystem, root = locate(data)
        root = root.rstrip("/") or "/"
        found = sorted(matching(filesystem, root, source.path), key=lambda info: str(info.path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"Source {source_name}: {data} cannot be listed: {error}") from None
    names = [info.path.removeprefix(root).lstrip("/") for info in found]
    if not names:
        raise DataError(
            f"Source {source_name}: no file matches {data}/{source.path}. "
            f"Put the files there, or give another data folder."
        )
    if unknown := [name for name in names if not name.lower().endswith(ENDINGS)]:
        raise DataError(
            f"Source {source_name}: cannot read {', '.join(unknown)}. Known endings: {', '.join(ENDINGS)}. "
            f"Move what is no data away, or make the pattern {source.path} narrower."
        )
    urls = [join(data, *name.split("/")) for name in names]
    digests = digests or FileDigests({})
    try:
        with ThreadPoolExecutor(_THREADS) as threads:
            hashed = list(threads.map(lambda url, info: digests.sha256(url, filesystem, info), urls, found))
    except OSError as error:
        raise DataError(f"Source {source_name}: a file cannot be read: {error}") from None
    return [
        SourceFile(url, name, sha256, stamp, info.size or 0)
        for url, name, info, (sha256, stamp) in zip(urls, names, found, hashed, strict=True)
    ]


def _parts(source_name: str, source: Source, root: str) -> list[SourceFile]:
    assert source.reader is not None
    with user_code(f"Source {source_name}: its reader"):
        try:
            found = sorted(reader_below(source.reader, root).parts(), key=lambda part: part.name)
        except OSError as error:
            raise DataError(f"Source {source_name}: {error}") from None
    if not found:
        raise DataError(f"Source {source_name}: {source.reader} has no rows.")
    if len({part.name for part in found}) < len(found):
        raise UseCaseError(f"Source {source_name}: {source.reader} gives two parts of one name.")
    return [
        SourceFile("", part.name, hashlib.sha256(part.version.encode()).hexdigest(), part.version, part.size, root)
        for part in found
    ]


def find_all_files(
    settings: Settings, sources: Mapping[str, Source], remember: bool = True
) -> dict[str, list[SourceFile]]:
    """The files of all sources, by the source's name; a file that has not changed since is not hashed again.

    remember: write down the digests of those that were hashed now. Raises DataError as `find_files` does.
    """
    artifacts = Artifacts(settings.artifacts)
    digests = FileDigests.load(artifacts, settings.data)
    root = artifacts.root
    found = {name: find_files(settings.data, name, source, digests, root) for name, source in sources.items()}
    if remember:
        digests.save(artifacts, settings.data)
    return found


def file_format(name: str) -> tuple[str, str | None]:
    """The format of a file and how it is compressed, by its name's ending."""
    plain = name.lower().removesuffix(".gz")
    return _FORMATS[os.path.splitext(plain)[1]], "gzip" if name.lower().endswith(".gz") else None


def parted(name: str) -> tuple[str, str]:
    """A file's name before its known ending, such as `.csv.gz`, and that ending; an empty one where it has none."""
    size = max((len(ending) for ending in ENDINGS if name.lower().endswith(ending)), default=0)
    return name[: len(name) - size], name[len(name) - size :]


def matching(filesystem: pafs.FileSystem, root: str, pattern: str) -> Iterator[pafs.FileInfo]:
    """The files below a folder that match, each once: what links lead to comes after what lies there itself."""
    local = isinstance(filesystem, pafs.LocalFileSystem)
    real = os.path.realpath if local else str
    first = tuple(part for part in pattern.split("/") if part)
    folders, links = deque([(root, first)] if first else []), deque[_Place]()
    seen, found, linked = set[_Place](), dict[str, pafs.FileInfo](), []
    while folders or links:
        folder, parts = folders.popleft() if folders else links.popleft()
        place = real(folder)
        if (place, parts) in seen:
            continue
        seen.add((place, parts))
        if parts[0] == "**":
            folders.append((folder, parts[1:] or ("*",)))
        for info in _listed(filesystem, folder):
            is_link = local and os.path.islink(info.path)
            if info.type == pafs.FileType.Directory:
                if further := _below(parts, info.base_name):
                    (links if is_link else folders).append((info.path, further))
            elif len(parts) == 1 and fits_file(info.base_name, parts[0]):
                if is_link or place != real(root) + folder.removeprefix(root):
                    linked.append(info)
                else:
                    found[real(info.path)] = info
    for info in sorted(linked, key=lambda info: str(info.path)):
        if info.type == pafs.FileType.NotFound:
            raise FileNotFoundError(f"{info.path} is a link to nothing")
        found.setdefault(real(info.path), info)
    yield from (info for info in found.values() if info.type == pafs.FileType.File)


def _listed(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    if isinstance(filesystem, pafs.LocalFileSystem) and os.path.isdir(folder):
        # A link to nothing is listed, too, as what was not found.
        return list(filesystem.get_file_info([os.path.join(folder, name) for name in os.listdir(folder)]))
    return list(filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True)))


_Place = tuple[str, tuple[str, ...]]


def _below(parts: tuple[str, ...], folder: str) -> tuple[str, ...]:
    """The pattern for what lies in a folder; empty if it does not go on there."""
    if parts[0] == "**":
        return () if folder.startswith(".") else parts
    return parts[1:] if len(parts) > 1 and _fits(folder, parts[0]) else ()


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))


def fits_file(name: str, pattern: str) -> bool:
    """As in a shell, but that `*.csv` takes X.CSV, too."""
    stem, ending = parted(name)
    return _fits(name, pattern) or _fits(stem + ending.lower(), pattern)
