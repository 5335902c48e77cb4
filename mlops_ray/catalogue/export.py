"""Exporting snapshots as Delta tables, for tools that want one name, versions and time travel in place of folders."""

from pathlib import Path

import pyarrow.dataset as pads
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.errors import ConfigurationError, ConflictError
from mlops_ray.ingestion.snapshot import Snapshot, expect_kept

SNAPSHOT = "snapshot"


def export_delta(artifacts: Artifacts, snapshot: Snapshot, folder: Path) -> dict[str, int]:
    """Make the snapshot the newest version of the Delta table of each source, `folder/<source>`; that version's number.

    Each export is a version, whose commit names the digest (`DeltaTable.history`); where the newest one is of this
    snapshot already nothing is written. What was erased from a snapshot is still in a version that was exported before:
    export anew into an empty folder then. Raises DataError if the snapshot was retired, ConfigurationError for a
    relative folder, ConflictError if somebody else exports to it at this moment.
    """
    if not folder.is_absolute():
        raise ConfigurationError(f"{folder} is a relative path. Give an absolute one.")
    expect_kept(artifacts, snapshot.use_case, snapshot.digest)
    places = {source: artifacts.url(*snapshot.place(source)) for source in snapshot.counts}
    return {source: _write(url, snapshot.digest, str(folder / source)) for source, url in places.items()}


def export_files(files: Path, digest: str, folder: Path) -> dict[str, int]:
    """As `export_delta`, of a snapshot whose tables lie in a folder, `files/<source>/*.parquet`."""
    sources = sorted(path.name for path in files.iterdir())
    return {source: _write(str(files / source), digest, str(folder / source)) for source in sources}


def _write(url: str, digest: str, place: str) -> int:
    """Make the Parquet files in a folder the newest version of a table."""
    try:
        table = DeltaTable(place)
        if table.history(1)[0].get(SNAPSHOT) == digest:
            return int(table.version())
    except TableNotFoundError:
        pass
    filesystem, path = locate(url)
    rows = pads.dataset(path, filesystem=filesystem, format="parquet").scanner().to_reader()
    try:
        write_deltalake(
            place,
            rows,
            mode="overwrite",
            schema_mode="overwrite",
            writer_properties=WriterProperties(compression="ZSTD"),
            commit_properties=CommitProperties(custom_metadata={SNAPSHOT: digest}),
        )
    except CommitFailedError as error:
        raise ConflictError(f"Somebody else is writing {place} ({error}). Nothing is lost; export again.") from error
    return int(DeltaTable(place).version())
