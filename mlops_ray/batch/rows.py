"""Rows to score from files: delimited text as ingestion reads it, so that a line that is no row costs itself alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import ray

from mlops_ray.artifacts import join, locate
from mlops_ray.batch.delimited import is_delimited, source_of
from mlops_ray.errors import DataError, MlopsRayError
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import SourceFile

# Where a row of delimited text stands. `RAW`: its bytes, of a line that is no row; null of the others.
FILE, LINE, RAW = "__file", "__line", "__raw"
PLACE: dict[str, pl.DataType] = {FILE: pl.String(), LINE: pl.Int64(), RAW: pl.Binary()}


def read_rows(url: str) -> "ray.data.Dataset":
    """Rows to score from Parquet files, or from delimited ones (.csv, .tsv, .txt, each also with .gz); a file or a
    folder with files of one kind.

    Values of delimited files stay texts, which the contract reads: the code 0012 is no number. A line that has more or
    fewer values than the header, or is not UTF-8, comes as a row of its own that scoring quarantines, with its file,
    line and bytes. Raises DataError if there are no files, or of both kinds.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    files = _files(url)
    delimited = [{"url": files[name], "name": name} for name in files if is_delimited(name)]
    if not delimited:
        return ray.data.read_parquet(url)
    if other := [name for name in files if not is_delimited(name)]:
        raise DataError(
            f"{url} holds {delimited[0]['name']} and {other[0]}. Files of one kind are read at a time: part them."
        )
    return ray.data.from_items(delimited).map_batches(_read, batch_format="pyarrow", batch_size=1)


@contextmanager
def reading() -> Iterator[None]:
    """Around what reads the caller's rows: what Ray Data cannot read is the caller's to repair."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", error)
        if isinstance(cause, MlopsRayError):
            raise DataError(f"The rows to score cannot be read. {cause}") from None
        said = str(cause).partition(". Please")[0].splitlines()[0]
        raise DataError(f"The rows to score cannot be read: {said}. Repair the file.") from None


def _files(url: str) -> dict[str, str]:
    """The URLs of the file or the files at `url`, by their names below it."""
    try:
        filesystem, path = locate(url)
        if filesystem.get_file_info(path).type == pafs.FileType.File:
            return {path.rsplit("/", 1)[-1]: url}
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    except (OSError, ValueError) as error:
        raise DataError(f"The rows to score cannot be read: {error}.") from None
    names = [info.path.removeprefix(path).lstrip("/") for info in found if info.type == pafs.FileType.File]
    shown = sorted(name for name in names if not any(part.startswith((".", "_")) for part in name.split("/")))
    if not shown:
        raise DataError(f"The rows to score cannot be read: {url} holds no file.")
    return {name: join(url, *name.split("/")) for name in shown}


def _read(batch: pa.Table) -> Iterator[pa.Table]:
    for file in batch.to_pylist():
        for raw in read_file(SourceFile(file["url"], file["name"], ""), source_of(file["name"])):
            places = raw.places.select(
                pl.lit(file["name"]).alias(FILE), pl.col("line").alias(LINE), pl.lit(None, pl.Binary).alias(RAW)
            )
            malformed = raw.malformed.select(
                pl.lit(file["name"]).alias(FILE), pl.col("line").alias(LINE), pl.col("raw").alias(RAW)
            )
            good = pl.concat([raw.frame, places], how="horizontal")
            yield pl.concat([good, malformed], how="diagonal").to_arrow()
