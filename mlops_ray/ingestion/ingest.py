"""Ingest: raw files through the column contract into a snapshot, on Ray Data."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_each_row, digest_json
from mlops_ray.config import Settings
from mlops_ray.errors import DataError, MlopsRayError, UseCaseError
from mlops_ray.ingestion.contract import JUDGEMENT, NOT_KNOWN_YET, REASON, REPAIRS, check_rows
from mlops_ray.ingestion.keys import judge_keys, missing_key
from mlops_ray.ingestion.parquet_rows import row_as_json
from mlops_ray.ingestion.quarantine import (
    FILE,
    FOLDER,
    LINE,
    LINES,
    MALFORMED,
    PLACE_COLUMNS,
    RAW,
    much_is_refused,
    quarantined,
    refusals,
)
from mlops_ray.ingestion.raw_rows import PLACE, RawRows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.snapshot import LineCounts, Snapshot, SourceCounts
from mlops_ray.ingestion.sources import SourceFile, find_all_files
from mlops_ray.use_case import Source, UseCase

TASK_BYTES = 16 << 20
PARTITION_BYTES = 1 << 30
# A row that stands for no record: it carries the lines of a stretch that are none, or a file's error.
_HEADER, _BLANK, _ERROR, _BLAME = "__header_lines", "__blank_lines", "__error", "__blame"
_MARKS = {_HEADER: pl.Int64, _BLANK: pl.Int64, _ERROR: pl.String, _BLAME: pl.String}
_MEETING = "__meeting"
_ADDED = {**JUDGEMENT, FILE: pl.String, LINE: pl.Int64, LINES: pl.Int64, RAW: pl.Binary, **_MARKS}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Partition:
    """What one partition of a source holds: its counts, its digests, and the latest moment a row became known."""

    counts: SourceCounts
    accepted: ContentDigest
    quarantined: ContentDigest
    known_until: datetime | None
    errors: tuple[tuple[str, str], ...]


def ingest(
    use_case: UseCase,
    settings: Settings,
    as_of: datetime | None,
    code_version: str,
    files: Mapping[str, Sequence[SourceFile]] | None = None,
) -> Snapshot:
    """Read every source of the use case and write a snapshot; the same accepted rows give the same snapshot.

    as_of: rows that became known later are counted and left out. None: all rows count, and the snapshot's `as_of` is
    the latest moment at which a row of it became known. files: of each source, where they are found already.
    Raises DataError naming every file that cannot be read or lacks a column, and every source without a row. Rows that
    are refused raise nothing: a warning is logged for each source of which more than `WARN_SHARE` are.
    """
    artifacts = Artifacts(settings.artifacts)
    if files is None:
        files = find_all_files(settings, use_case.sources)
    refs = {name: _judge(files[name], source, as_of) for name, source in use_case.sources.items()}
    partitions = {name: ray.get([summary for summary, *_ in found]) for name, found in refs.items()}
    _refuse_unusable(partitions)

    content = {name: _content(found) for name, found in partitions.items()}
    known = [p.known_until for found in partitions.values() for p in found if p.known_until is not None]
    if as_of is None and not known:
        raise DataError(f"Use case {use_case.name}: no source has known_at, so as_of must be given.")
    snapshot = Snapshot(
        use_case=use_case.name,
        digest=digest_json({name: digests["accepted"] for name, digests in content.items()}),
        as_of=as_of or max(known),
        contract=digest_json({name: repr(source.columns) for name, source in use_case.sources.items()}),
        code_version=code_version,
        counts={name: sum_counts([p.counts for p in found]) for name, found in partitions.items()},
        content=content,
        files={name: {file.name: file.sha256 for file in found} for name, found in files.items()},
    )
    _write(artifacts, snapshot, refs)
    _log_refusals(snapshot)
    return snapshot


def _judge(files: Sequence[SourceFile], source: Source, as_of: datetime | None) -> list[tuple[Any, Any, Any]]:
    """Object references of (summary, accepted rows, quarantined rows) for each partition of the source."""

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for file in batch.to_pylist():
            frames = judged_stretches(SourceFile(**file), source, as_of)
            yield from (with_meeting(frame, source).to_arrow() for frame in frames)

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    # A task costs 0.1 s before it reads anything, so small files share one.
    tasks = min(len(files), 1 + sum(file.size for file in files) // TASK_BYTES)
    rows = ray.data.from_items([asdict(file) for file in files], override_num_blocks=tasks)
    judged = rows.map_batches(read, batch_format="pyarrow", batch_size=None).materialize()
    count = 1 + judged.size_bytes() // PARTITION_BYTES
    if count > 1:
        blocks = [[block] for block in judged.repartition(count, keys=[_MEETING]).to_arrow_refs()]
    else:
        blocks = [judged.to_arrow_refs()]
    finish = ray.remote(finish_partition).options(num_returns=3)
    return [finish.remote(source, *partition) for partition in blocks]


def judged_stretches(file: SourceFile, source: Source, as_of: datetime | None) -> Iterator[pl.DataFrame]:
    """The judged rows of a file, or its error as a row; all frames have the same columns."""
    nothing = RawRows(
        pl.DataFrame(schema={column.name: pl.String for column in source.columns}),
        pl.DataFrame(schema=PLACE),
        pl.DataFrame(schema=PLACE),
    )
    columns = nothing.frame.with_columns(pl.lit(None, type_).alias(name) for name, type_ in _ADDED.items())
    try:
        columns = _judged(nothing, file, source, as_of)
        yield columns  # so that a file without rows has columns, too
        for raw in read_file(file, source):
            yield _judged(raw, file, source, as_of)
    except MlopsRayError as error:
        blame = pl.lit(type(error).__name__).alias(_BLAME)
        yield columns.clear(1).with_columns(pl.lit(str(error)).alias(_ERROR), blame)


def _judged(raw: RawRows, file: SourceFile, source: Source, as_of: datetime | None) -> pl.DataFrame:
    """The rows of a stretch with their judgement and their places, the malformed ones, and the lines that are none."""
    judged = check_rows(raw.frame, source, f"File {file.name}", as_of)
    judged = judged.with_columns(pl.coalesce(REASON, missing_key(source)).alias(REASON))
    places = raw.places.rename({"line": LINE, "lines": LINES, "raw": RAW})
    refused = judged[REASON].is_not_null()
    if places[RAW].null_count():  # of Parquet files, in which a row has no bytes of its own
        places = places.with_columns(_as_json(raw.frame, refused))
    # The bytes of an accepted row are needed only where another with its key may turn out to be right.
    kept = (judged[REASON] != NOT_KNOWN_YET).fill_null(bool(source.key))
    places = places.with_columns(pl.when(kept).then(RAW).alias(RAW))
    malformed = raw.malformed.rename({"line": LINE, "lines": LINES, "raw": RAW})
    lines = pl.DataFrame({_HEADER: [raw.header_lines], _BLANK: [raw.blank_lines]}, schema_overrides=_MARKS)
    return pl.concat(
        [
            pl.DataFrame(schema=_MARKS),
            pl.concat([judged, places], how="horizontal").with_columns(pl.lit(file.name).alias(FILE)),
            malformed.with_columns(pl.lit(MALFORMED).alias(REASON), pl.lit(file.name).alias(FILE)),
            lines.filter(pl.sum_horizontal(pl.all()) > 0),
        ],
        how="diagonal",
    )


def _as_json(frame: pl.DataFrame, refused: pl.Series) -> pl.Series:
    """Of each refused row its JSON, null for the others."""
    texts = iter(row_as_json(row) for row in frame.filter(refused).iter_rows(named=True))
    return pl.Series(RAW, [next(texts) if flag else None for flag in refused], pl.Binary)


def with_meeting(frame: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Adds a hash by which rows with one key meet in one partition; rows that cannot meet another go anywhere."""
    own = pl.struct(FILE, LINE, _ERROR).hash()
    if source.key:
        may_meet = pl.col(REASON).is_null() & pl.col(LINE).is_not_null()
        own = pl.when(may_meet).then(pl.struct(source.key).hash()).otherwise(own)
    return frame.with_columns(own.alias(_MEETING))


def finish_partition(source: Source, *blocks: pa.Table) -> tuple[Partition, pa.Table, pa.Table]:
    """Set rows with a repeated key aside, count and digest."""
    frame = pl.concat([pl.DataFrame(pl.from_arrow(block)) for block in blocks], how="diagonal")
    if frame.is_empty():  # of many partitions some may be, and their blocks need have no columns
        return _nothing(())
    marks = frame.filter(pl.any_horizontal(pl.col(*_MARKS).is_not_null()))
    errors = tuple(marks.filter(pl.col(_ERROR).is_not_null()).select(_BLAME, _ERROR).rows())
    if errors:
        return _nothing(errors)
    frame = frame.filter(pl.all_horizontal(pl.col(*_MARKS).is_null())).drop(*_MARKS, _MEETING)
    frame = judge_keys(frame, source)
    late = frame.filter(pl.col(REASON) == NOT_KNOWN_YET)
    accepted = frame.filter(pl.col(REASON).is_null())
    refused = quarantined(frame.filter(pl.col(REASON) != NOT_KNOWN_YET))
    rows = accepted.drop(*JUDGEMENT, *PLACE_COLUMNS)
    lines = LineCounts(
        header=_sum(marks[_HEADER]),
        blank=_sum(marks[_BLANK]),
        accepted=_sum(accepted[LINES]),
        quarantined=_sum(refused["lines"]),
        not_yet_known=_sum(late[LINES]),
    )
    repairs = accepted[REPAIRS].drop_nulls()
    counts = SourceCounts(
        rows_in=frame.height,
        accepted=accepted.height - repairs.len(),
        repaired=repairs.len(),
        quarantined=refused.height,
        not_yet_known=late.height,
        reasons=_count_codes(refused["reason"]),
        repairs=_count_codes(repairs),
        lines=lines,
    )
    known_until = rows.select(source.known_at.max()).item() if source.known_at is not None and rows.height else None
    summary = Partition(counts, digest_each_row(rows), digest_each_row(refused), known_until, ())
    return summary, rows.to_arrow(), refused.to_arrow()


def _sum(numbers: pl.Series) -> int:
    return int(numbers.sum() or 0)


def _nothing(errors: tuple[tuple[str, str], ...]) -> tuple[Partition, pa.Table, pa.Table]:
    return Partition(sum_counts([]), ContentDigest(), ContentDigest(), None, errors), pa.table({}), pa.table({})


def _count_codes(codes: pl.Series) -> dict[str, int]:
    return dict(sorted(Counter(code for text in codes for code in text.split(";")).items()))


def _refuse_unusable(partitions: dict[str, list[Partition]]) -> None:
    errors = [error for found in partitions.values() for p in found for error in p.errors]
    if errors:
        blame = UseCaseError if any(kind == UseCaseError.__name__ for kind, _ in errors) else DataError
        raise blame("\n".join(dict.fromkeys(text for _, text in errors)))
    for name, found in partitions.items():
        counts = sum_counts([p.counts for p in found])
        if counts.accepted + counts.repaired == 0:
            raise DataError(
                f"Source {name}: none of its {counts.rows_in} rows was accepted (reasons: {counts.reasons}; "
                f"{counts.not_yet_known} not known yet). Put rows into its files, or relax the contract."
            )


def _content(partitions: list[Partition]) -> dict[str, str]:
    return {
        "accepted": sum((p.accepted for p in partitions), ContentDigest()).hex(),
        "quarantined": sum((p.quarantined for p in partitions), ContentDigest()).hex(),
    }


def sum_counts(parts: list[SourceCounts]) -> SourceCounts:
    """The counts of a source from those of its partitions."""
    rows = ("rows_in", "accepted", "repaired", "quarantined", "not_yet_known")
    return SourceCounts(
        **{name: sum(getattr(part, name) for part in parts) for name in rows},
        reasons=dict(sum((Counter(part.reasons) for part in parts), Counter())),
        repairs=dict(sum((Counter(part.repairs) for part in parts), Counter())),
        lines=LineCounts(**{f.name: sum(getattr(part.lines, f.name) for part in parts) for f in fields(LineCounts)}),
    )


def _log_refusals(snapshot: Snapshot) -> None:
    counts = {name: asdict(found) for name, found in snapshot.counts.items()}
    for name, found in counts.items():
        for sentence in refusals({name: found}):
            _logger.log(logging.WARNING if much_is_refused(found) else logging.INFO, "%s", sentence)


def _write(artifacts: Artifacts, snapshot: Snapshot, refs: dict[str, list[tuple[Any, Any, Any]]]) -> None:
    """Write tables, then the manifest; a folder without one is the rest of a killed run and is written again."""
    folder = ("snapshots", snapshot.use_case, snapshot.digest)

    def write(table: pa.Table, *parts: str) -> None:
        if table.num_columns:
            artifacts.write_table(pl.DataFrame(pl.from_arrow(table)), *parts)

    task, written = ray.remote(write), []
    manifest = artifacts.read_json(*folder, "manifest.json")
    if manifest is None:
        artifacts.delete(*folder)
    for source, partitions in refs.items():
        content = snapshot.content[source]
        place = (FOLDER, snapshot.use_case, source, content["quarantined"])
        same_refused = manifest is not None and manifest["content"][source] == content
        if not same_refused:
            artifacts.delete(*place)
        for number, (_, accepted, refused) in enumerate(partitions):
            name = f"part-{number:05}.parquet"
            if manifest is None:
                written.append(task.remote(accepted, *folder, source, "accepted", name))
            if not same_refused:
                written.append(task.remote(refused, *place, name))
    ray.get(written)
    if manifest != snapshot.to_json():
        artifacts.write_json(snapshot.to_json(), *folder, "manifest.json")
