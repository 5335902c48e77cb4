"""Repairs by hand: refused records as files to be mended, and what was mended back among the raw files."""

import hashlib
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote

import polars as pl

from mlops_ray.artifacts import Artifacts, join, locate
from mlops_ray.errors import DataError
from mlops_ray.ingestion.contract import REASON, judge_rows
from mlops_ray.ingestion.csv_rows import read_head
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.ingestion.sources import SourceFile, file_format
from mlops_ray.use_case import Source

_NAMED = 5


def export(artifacts: Artifacts, snapshot: Snapshot, name: str, source: Source, data: str, folder: Path) -> list[Path]:
    """Write the refused records of a source, one file for each raw file that they came from, and return the files.

    A file has the bytes of the records, uncompressed, below the header of its raw file; records of Parquet files are
    lines of JSON. data: where the raw files lie. Raises DataError if one that is needed is not there any more.
    """
    written = []
    for (file,), records in snapshot.quarantine(artifacts, name).group_by("file", maintain_order=True):
        assert isinstance(file, str)
        format_, compression = ("parquet", None) if source.path is None else file_format(file)
        is_text = format_ != "parquet"
        target = folder / name / (file.removesuffix(".gz") if is_text else f"{quote(file, safe='/')}.jsonl")
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_text:
            head = _head(join(data, *file.split("/")), compression, source, file, format_ == "delimited")
            target.write_bytes(head + b"".join(records["raw"]))
        else:
            target.write_bytes(b"".join(raw + b"\n" for raw in records["raw"]))
        written.append(target)
    return written


def replay(file: Path, name: str, source: Source, data: str) -> str:
    """Put a file of mended records among the raw files of a source, and return its path below `data`.

    Its name tells its content, so that the same file put there again is one file. The records that it mends stay in
    quarantine as what they are; these are further rows. Raises DataError, and leaves everything as it was, if one of
    its rows would be refused again, or if the source's pattern would not find it.
    """
    if source.path is None:
        raise DataError(f"Source {name} is read from {source.reader}, not from files. Mend the rows there.")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    refused = list(_refused(SourceFile(str(file.absolute()), file.name, digest), source))
    if refused:
        listed = "; ".join(refused[:_NAMED]) + ("; …" if len(refused) > _NAMED else "")
        raise DataError(f"{file}: {len(refused)} of its records would be refused again: {listed}. Mend them.")
    stem, ending = os.path.splitext(file.name)
    *folders, pattern = source.path.split("/")
    target = [*(part for part in folders if part != "**"), f"{stem}.mended-{digest[:12]}{ending}"]
    if any(set("*?[") & set(part) for part in target[:-1]) or not fnmatchcase(target[-1], pattern):
        raise DataError(
            f"Source {name} reads {source.path}, which does not find {'/'.join(target)}. Give the file a name that "
            f"fits, or make the pattern wider."
        )
    Artifacts(data).write_bytes(content, *target)  # an ingest that runs meanwhile finds all of it or nothing
    return "/".join(target)


def _head(url: str, compression: str | None, source: Source, file: str, is_delimited: bool) -> bytes:
    filesystem, path = locate(url)
    try:
        with filesystem.open_input_stream(path, compression=compression) as stream:
            return read_head(stream, source, is_delimited and source.header)
    except OSError as error:
        raise DataError(f"File {file} is not there any more, and its header is needed: {error}.") from None


def _refused(file: SourceFile, source: Source) -> Iterator[str]:
    """The records that the contract refuses, each by its line and reason."""
    for rows in read_file(file, source):
        yield from (f"line {line} (malformed)" for line in rows.malformed["line"])
        judged = judge_rows(rows.frame, source, f"File {file.name}").with_columns(rows.places["line"])
        for line, reason in judged.filter(pl.col(REASON).is_not_null()).select("line", REASON).iter_rows():
            yield f"line {line} ({reason})"
