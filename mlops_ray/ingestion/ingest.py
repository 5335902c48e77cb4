"""Ingest: raw files through the column contract into a snapshot, on Ray Data."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_json, digest_rows
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.ingestion.contract import JUDGEMENT, REASON, REPAIRS, check_rows
from mlops_ray.ingestion.snapshot import Snapshot, SourceCounts
from mlops_ray.ingestion.sources import RawRows, SourceFile, find_files, read_file
from mlops_ray.use_case import Source, UseCase

PARTITION_BYTES = 1 << 30
_FILE, _ROW, _ERROR, _KEY = "__file", "__row", "__error", "__key"
_ADDED = (*JUDGEMENT, _FILE, _ROW)


@dataclass(frozen=True)
class _Partition:
    """What one partition of a source holds: its counts, its digests, and the latest moment a row became known."""

    counts: SourceCounts
    accepted: ContentDigest
    quarantined: ContentDigest
    known_until: datetime | None
    errors: tuple[str, ...]


def ingest(
    use_case: UseCase,
    settings: Settings,
    as_of: datetime | None,
    code_version: str,
    files: Mapping[str, Sequence[SourceFile]] | None = None,
) -> Snapshot:
    """Read every source of the use case and write a snapshot; the same accepted rows give the same snapshot.

    as_of: rows that became known later are quarantined. None: all rows count, and the snapshot's `as_of` is the
    latest moment at which a row of it became known. files: those of each source, if they are listed already.
    Raises DataError naming every file that cannot be read or lacks a column, and every source without a row.
    """
    artifacts = Artifacts(settings.artifacts)
    if files is None:
        files = {name: find_files(settings.data, name, source) for name, source in use_case.sources.items()}
    refs = {name: _judge(files[name], source, as_of) for name, source in use_case.sources.items()}
    partitions = {name: ray.get([summary for summary, *_ in found]) for name, found in refs.items()}
    _refuse_unusable(partitions)

    content = {name: _content(found) for name, found in partitions.items()}
    known = [p.known_until for found in partitions.values() for p in found if p.known_until is not None]
    if as_of is None and not known:
        raise DataError(f"Use case {use_case.name}: no source has known_at, so as_of must be given.")
    snapshot = Snapshot(
        use_case=use_case.name,
        digest=digest_json(content),
        as_of=as_of or max(known),
        contract=digest_json({name: repr(source.columns) for name, source in use_case.sources.items()}),
        code_version=code_version,
        counts={name: _sum_counts([p.counts for p in found]) for name, found in partitions.items()},
        content=content,
        files={name: {file.name: file.sha256 for file in found} for name, found in files.items()},
    )
    _write(artifacts, snapshot, refs)
    return snapshot


def _judge(files: Sequence[SourceFile], source: Source, as_of: datetime | None) -> list[tuple[Any, Any, Any]]:
    """Object references of (summary, accepted rows, quarantined rows) for each partition of the source."""

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        file = SourceFile(**batch.to_pylist()[0])
        yield from (_with_key(frame, source).to_arrow() for frame in _judged_stretches(file, source, as_of))

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = ray.data.from_items([asdict(file) for file in files], override_num_blocks=len(files))
    judged = rows.map_batches(read, batch_format="pyarrow", batch_size=1).materialize()
    count = 1 + judged.size_bytes() // PARTITION_BYTES
    if count > 1:
        blocks = [[block] for block in judged.repartition(count, keys=[_KEY]).to_arrow_refs()]
    else:
        blocks = [judged.to_arrow_refs()]
    finish = ray.remote(_finish_partition).options(num_returns=3)
    return [finish.remote(source, *partition) for partition in blocks]


def _judged_stretches(file: SourceFile, source: Source, as_of: datetime | None) -> Iterator[pl.DataFrame]:
    """The judged rows of a file, or its error as a row; first an empty frame, so that every file gives the columns."""
    nothing = pl.DataFrame(schema={column.name: pl.String for column in source.columns})
    columns = _judged(RawRows(nothing, ()), file, source, as_of)
    yield columns
    try:
        for raw in read_file(file):
            yield _judged(raw, file, source, as_of)
    except DataError as error:
        yield columns.clear(1).with_columns(pl.lit(str(error)).alias(_ERROR))


def _judged(raw: RawRows, file: SourceFile, source: Source, as_of: datetime | None) -> pl.DataFrame:
    """The rows of a stretch with their judgement, the file's name, and each refused row as text."""
    judged = check_rows(raw.frame, source, f"File {file.name}", as_of)
    text = pl.struct(column.name for column in source.columns).struct.json_encode() if raw.frame.height else pl.lit("")
    rows = judged.with_columns(
        pl.when(judged[REASON].is_not_null()).then(raw.frame.select(text.alias(_ROW)).to_series()).alias(_ROW)
    )
    malformed = pl.DataFrame(
        [{REASON: "malformed", _ROW: row} for row in raw.malformed],
        schema=dict.fromkeys((REASON, REPAIRS, _ROW), pl.String),
    )
    return pl.concat([rows, malformed], how="diagonal").with_columns(pl.lit(file.name).alias(_FILE))


def _with_key(frame: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Adds the error column where there is none, and a hash of the key, by which equal keys meet in one partition."""
    key = pl.struct(source.key or pl.exclude(_ERROR)).hash().alias(_KEY)
    error = pl.col(_ERROR) if _ERROR in frame.columns else pl.lit(None, pl.String).alias(_ERROR)
    return frame.with_columns(error).with_columns(key)


def _finish_partition(source: Source, *blocks: pa.Table) -> tuple[_Partition, pa.Table, pa.Table]:
    """Set rows with a repeated key aside, count and digest."""
    frame = pl.concat([pl.DataFrame(pl.from_arrow(block)) for block in blocks])
    errors = tuple(frame[_ERROR].drop_nulls())
    frame = frame.filter(pl.col(_ERROR).is_null()).drop(_ERROR, _KEY)
    if source.key:
        good = pl.col(REASON).is_null()
        repeated = good & (pl.int_range(pl.len()).over([good, *source.key]) > 0)
        as_json = pl.struct(pl.exclude(*_ADDED)).struct.json_encode()
        frame = frame.with_columns(
            pl.when(repeated).then(pl.lit("duplicate_key")).otherwise(pl.col(REASON)).alias(REASON),
            pl.when(repeated).then(as_json).otherwise(pl.col(_ROW)).alias(_ROW),
        )
    accepted = frame.filter(pl.col(REASON).is_null())
    quarantined = frame.filter(pl.col(REASON).is_not_null()).select(_FILE, REASON, _ROW)
    repairs = accepted[REPAIRS].drop_nulls()
    rows = accepted.drop(*_ADDED)
    known_until = rows.select(source.known_at.max()).item() if source.known_at is not None and rows.height else None
    summary = _Partition(
        counts=SourceCounts(
            rows_in=frame.height,
            accepted=accepted.height - repairs.len(),
            repaired=repairs.len(),
            quarantined=quarantined.height,
            reasons=_count_codes(quarantined[REASON]),
            repairs=_count_codes(repairs),
        ),
        accepted=digest_rows(rows),
        quarantined=digest_rows(quarantined.drop(_FILE)),
        known_until=known_until,
        errors=errors,
    )
    return summary, rows.to_arrow(), quarantined.to_arrow()


def _count_codes(codes: pl.Series) -> dict[str, int]:
    return dict(sorted(Counter(code for text in codes for code in text.split(";")).items()))


def _refuse_unusable(partitions: dict[str, list[_Partition]]) -> None:
    errors = sorted({error for found in partitions.values() for p in found for error in p.errors})
    if errors:
        raise DataError("\n".join(errors))
    for name, found in partitions.items():
        counts = _sum_counts([p.counts for p in found])
        if counts.accepted + counts.repaired == 0:
            raise DataError(
                f"Source {name}: none of its {counts.rows_in} rows was accepted (reasons: {counts.reasons}). "
                f"Put rows into its files, or relax the contract."
            )


def _content(partitions: list[_Partition]) -> dict[str, str]:
    return {
        "accepted": sum((p.accepted for p in partitions), ContentDigest()).hex(),
        "quarantined": sum((p.quarantined for p in partitions), ContentDigest()).hex(),
    }


def _sum_counts(parts: list[SourceCounts]) -> SourceCounts:
    return SourceCounts(
        rows_in=sum(part.rows_in for part in parts),
        accepted=sum(part.accepted for part in parts),
        repaired=sum(part.repaired for part in parts),
        quarantined=sum(part.quarantined for part in parts),
        reasons=dict(sum((Counter(part.reasons) for part in parts), Counter())),
        repairs=dict(sum((Counter(part.repairs) for part in parts), Counter())),
    )


def _write(artifacts: Artifacts, snapshot: Snapshot, refs: dict[str, list[tuple[Any, Any, Any]]]) -> None:
    """Write tables, then the manifest; a folder without one is the rest of a killed run and is written again."""
    folder = ("snapshots", snapshot.use_case, snapshot.digest)
    if artifacts.read_json(*folder, "manifest.json") is not None:
        return
    artifacts.delete(*folder)

    def write(table: pa.Table, *parts: str) -> None:
        artifacts.write_table(pl.DataFrame(pl.from_arrow(table)), *parts)

    task = ray.remote(write)
    ray.get(
        [
            task.remote(table, *folder, source, kind, f"part-{number:05}.parquet")
            for source, partitions in refs.items()
            for number, (_, accepted, quarantined) in enumerate(partitions)
            for kind, table in (("accepted", accepted), ("quarantined", quarantined))
        ]
    )
    artifacts.write_json(snapshot.to_json(), *folder, "manifest.json")
