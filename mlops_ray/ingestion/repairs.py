"""Repairs by hand: refused records as files to be mended, and what was mended back among the raw files."""

import gzip
import hashlib
from pathlib import Path
from urllib.parse import quote

import polars as pl

from mlops_ray.artifacts import Artifacts, join, locate
from mlops_ray.errors import DataError
from mlops_ray.ingestion.contract import KNOWN_AT, REASON, judge_rows
from mlops_ray.ingestion.csv_rows import read_head
from mlops_ray.ingestion.keys import judge_keys, missing_key
from mlops_ray.ingestion.quarantine import FILE, LINE, MALFORMED
from mlops_ray.ingestion.raw_rows import UnreadableError
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.ingestion.sources import ENDINGS, SourceFile, file_format, fits_file, parted
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
        plain = file[: -len(".gz")] if compression else file
        target = folder / name / (plain if is_text else f"{quote(file, safe='/')}.jsonl")
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

    Its name tells its content, so that the same file put there again is one file; where the source's pattern finds
    compressed files alone, it is compressed. The records that it mends stay in quarantine as what they are; these are
    further rows. Raises DataError, and leaves everything as it was, if one of its rows would be refused again, beside
    the others of the file, if its name has no known ending, or if the source's pattern would not find it.
    """
    if source.path is None:
        raise DataError(f"Source {name} is read from {source.reader}, not from files. Mend the rows there.")
    stem, ending = parted(file.name)
    if not ending:
        raise DataError(f"{file} cannot be read. Known endings: {', '.join(ENDINGS)}. Give the file one of them.")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    refused = _refused(SourceFile(str(file.absolute()), file.name, digest), source)
    if refused:
        listed = "; ".join(refused[:_NAMED]) + ("; …" if len(refused) > _NAMED else "")
        raise DataError(f"{file}: {len(refused)} of its records would be refused again: {listed}. Mend them.")
    *folders, pattern = source.path.split("/")
    mended = f"{stem}.mended-{digest[:12]}{ending}"
    if not fits_file(mended, pattern) and fits_file(f"{mended}.gz", pattern):
        mended, content = f"{mended}.gz", gzip.compress(content, mtime=0)
    target = [*(part for part in folders if part != "**"), mended]
    if any(set("*?[") & set(part) for part in target[:-1]) or not fits_file(mended, pattern):
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
    except (OSError, UnreadableError) as error:
        raise DataError(f"File {file} is not there as it was, and its header is needed: {error}.") from None


def _refused(file: SourceFile, source: Source) -> list[str]:
    """The records that would be refused, the file by itself, each by its line and reason."""
    frames, refused = [], list[tuple[int, str]]()
    for raw in read_file(file, source):
        refused += [(line, MALFORMED) for line in raw.malformed["line"]]
        judged = judge_rows(raw.frame, source, f"File {file.name}").drop(KNOWN_AT, strict=False)
        frames.append(judged.with_columns(raw.places["line"].alias(LINE), pl.lit(file.name).alias(FILE)))
    if frames:
        rows = pl.concat(frames).with_columns(pl.coalesce(REASON, missing_key(source)).alias(REASON))
        refused += judge_keys(rows, source).filter(pl.col(REASON).is_not_null()).select(LINE, REASON).iter_rows()
    return [f"line {line} ({reason})" for line, reason in sorted(refused)]
