"""Ingest: raw files through the column contract into a snapshot.

A file is read once, however often it is ingested (`judged`). What goes across files is then counted (`counting`). Each
is divided by size: what fits one task is done here, as Ray's first task costs 3 s before it begins.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError, DataError, UseCaseError
from mlops_ray.governance.erased_rows import erased_rows, last_erasure
from mlops_ray.ingestion.counting import PIECE, NamedPiece, count_partition, known_until
from mlops_ray.ingestion.expectations import rows_before, unmet_checks, unmet_limits
from mlops_ray.ingestion.judged import JudgedFile, Piece, drop_judged, is_whole, judge_file, kept_file, key_of
from mlops_ray.ingestion.kept_files import begin_use, end_use
from mlops_ray.ingestion.last_known import by_place, change_of, find_values, partition_of, told
from mlops_ray.ingestion.layout import Layout
from mlops_ray.ingestion.quarantine import much_is_refused, refusals
from mlops_ray.ingestion.snapshot import Snapshot, sum_counts
from mlops_ray.ingestion.sources import SourceFile, find_all_files
from mlops_ray.ingestion.writing import Counted, called, gotten, values, write_snapshot
from mlops_ray.use_case import Source, UseCase
from mlops_ray.use_case.reader import StateReader

TASK_BYTES = 16 << 20  # of raw files, which a task reads; so much is read here
PARTITION_ROWS = 16 << 20  # of a source, whose keys a task counts
PARTITION_BYTES = 256 << 20  # of rows that may not count, which it reads
HERE_BYTES = 256 << 20  # of a source's rows in memory, which are counted here
TASK_MEMORY = 1 << 30  # what a task is given; judging takes the most, with a piece of a file at a time
_THREADS = 16

_logger = logging.getLogger(__name__)


def ingest(
    use_case: UseCase,
    settings: Settings,
    as_of: datetime | None,
    code_version: str,
    contracts: Mapping[str, str],
    files: Mapping[str, Sequence[SourceFile]] | None = None,
    start_ray: Callable[[], Any] = lambda: None,
) -> Snapshot:
    """Read what is new of the use case's sources and write a snapshot; the same accepted rows give the same snapshot.

    as_of: rows that became known later are counted and left out. None: all rows count, and the snapshot's `as_of` is
    the latest moment at which a row of it became known. contracts: for each source a digest of its declaration and of
    all code that judges its rows; what was made of a file under it stands. files: of each source, where they are found
    already. start_ray: called where the work is more than one task's; afterwards Ray must be initialised.
    Raises DataError naming every file that cannot be read or lacks a column, unless the source expects as many, every
    source without a row, and, once the snapshot is written, every expectation that is not met; ConflictError
    if somebody was erased meanwhile. Rows that are refused raise nothing: a warning is logged for each source of which
    more than `WARN_SHARE` are.
    """
    artifacts = Artifacts(settings.artifacts)
    began = last_erasure(artifacts)
    if files is None:
        files = find_all_files(settings, use_case.sources)
    every = [_Raw(name, file, key_of(file, contracts[name])) for name in use_case.sources for file in files[name]]
    try:
        return _ingest(use_case, artifacts, as_of, code_version, files, every, began, start_ray)
    except Exception as error:
        if last_erasure(artifacts) == began:
            raise
        for raw in every:
            drop_judged(artifacts, raw.key)
        raise ConflictError(
            f"Rows of a person were erased while {use_case.name} was ingested, so that nothing of it is kept. Ingest "
            f"again when `mlops-ray data erase` has ended."
        ) from error


def _ingest(
    use_case: UseCase,
    artifacts: Artifacts,
    as_of: datetime | None,
    code_version: str,
    files: Mapping[str, Sequence[SourceFile]],
    every: Sequence["_Raw"],
    began: str,
    start_ray: Callable[[], Any],
) -> Snapshot:
    """began: the last erasure when it did."""
    keys = {raw.key for raw in every}
    begin_use(artifacts, use_case.name, keys, datetime.now(UTC))
    _refuse_erased(artifacts, use_case.name, every)
    judged = _judge(artifacts, use_case.sources, every, start_ray)
    counted = {
        name: replace(_count(artifacts, source, judged.pieces[name], as_of, start_ray), layouts=judged.layouts[name])
        for name, source in use_case.sources.items()
    }
    counted = {name: _fill(artifacts, use_case.sources[name], one) for name, one in counted.items()}
    _refuse_empty(use_case, counted)
    known = {name: known_until(artifacts, _pieces(one), *values(one.out)) for name, one in counted.items()}
    moment = as_of or _latest(use_case, known)
    content = {name: one.content() for name, one in counted.items()}
    snapshot = Snapshot(
        use_case=use_case.name,
        digest=digest_json({name: digests["accepted"] for name, digests in content.items()}),
        as_of=moment,
        contract=digest_json({name: repr(source.columns) for name, source in use_case.sources.items()}),
        code_version=code_version,
        counts={name: sum_counts(p.counts for p in one.partitions) for name, one in counted.items()},
        content=content,
        files={name: {file.name: file.sha256 for file in found} for name, found in files.items()},
        unreadable=judged.unreadable,
        more=judged.more,
        personal={name: list(source.personal_columns()) for name, source in use_case.sources.items()},
    )
    _refuse_erased(artifacts, use_case.name, (), snapshot.digest)
    snapshot = write_snapshot(artifacts, snapshot, counted, began)
    end_use(artifacts, use_case.name, keys, datetime.now(UTC))
    _log_refusals(snapshot)
    _expect(artifacts, use_case, snapshot, known, counted)
    return snapshot


@dataclass(frozen=True)
class _Judged:
    """Of each source the pieces of its files, the files that are set aside and what is wrong with each, the columns
    that the contract does not name, and how records stand in each file."""

    pieces: Mapping[str, list[NamedPiece]]
    unreadable: dict[str, dict[str, str]]
    more: dict[str, list[str]]
    layouts: Mapping[str, Mapping[str, Layout]]


def _judge(
    artifacts: Artifacts,
    sources: Mapping[str, Source],
    every: Sequence["_Raw"],
    start_ray: Callable[[], Any],
) -> _Judged:
    """Only files are read that were not before, and meanwhile is looked whether what is kept of the others is whole:
    tables that lack bytes, or have others, would count as what they were."""
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda raw: kept_file(artifacts, raw.key), every)
        known = {raw: judged for raw, judged in zip(every, found, strict=True) if judged is not None}
        looked = _look(artifacts, list(known.values()), threads, start_ray)
        new = _judge_new(artifacts, sources, [raw for raw in every if raw not in known], start_ray)
        damaged = [raw for raw, is_there in zip(known, looked(), strict=True) if not is_there]
    known |= new | _judge_new(artifacts, sources, damaged, start_ray)
    unreadable = _set_aside(sources, {raw: found.error for raw, found in known.items() if found.error})
    pieces = {
        name: [NamedPiece(raw.file.name, piece) for raw in every if raw.source == name for piece in known[raw].pieces]
        for name in sources
    }
    more = {name: sorted({c for raw in every if raw.source == name for c in known[raw].more}) for name in sources}
    layouts = {name: {raw.file.name: known[raw].layout for raw in every if raw.source == name} for name in sources}
    return _Judged(pieces, unreadable, more, layouts)


def _set_aside(sources: Mapping[str, Source], errors: Mapping["_Raw", tuple[str, str]]) -> dict[str, dict[str, str]]:
    """The files of each source that go without, with their errors; raises what is wrong where they are too many."""
    aside: dict[str, dict[str, str]] = {}
    for raw, (_, text) in errors.items():
        aside.setdefault(raw.source, {})[raw.file.name] = text
    if any(kind == UseCaseError.__name__ for kind, _ in errors.values()):
        raise UseCaseError("\n".join(dict.fromkeys(text for _, text in errors.values())))
    if any(len(found) > sources[name].expects.max_unreadable_files for name, found in aside.items()):
        raise DataError("\n".join(dict.fromkeys(text for _, text in errors.values())))
    for found in aside.values():
        for text in found.values():
            _logger.warning("Set aside: %s", text)
    return aside


@dataclass(frozen=True)
class _Raw:
    """A raw file of a source, and the name of what becomes of it."""

    source: str
    file: SourceFile
    key: str


def _look(
    artifacts: Artifacts, kept: Sequence[JudgedFile], threads: ThreadPoolExecutor, start_ray: Callable[[], Any]
) -> Callable[[], list[bool]]:
    """Begin to look whether what is kept of some files is whole; what is returned waits for what was found."""
    if sum(piece.size for judged in kept for piece in judged.pieces) <= HERE_BYTES:
        there = threads.map(lambda judged: is_whole(artifacts, judged), kept)
        return lambda: list(there)
    start_ray()
    import ray

    look = ray.remote(is_whole)
    looking = [look.remote(artifacts, judged) for judged in kept]
    return lambda: list(ray.get(looking))


def _judge_new(
    artifacts: Artifacts, sources: Mapping[str, Source], new: Sequence[_Raw], start_ray: Callable[[], Any]
) -> dict[_Raw, JudgedFile]:
    def judged(some: Sequence[_Raw]) -> list[JudgedFile]:
        return [judge_file(artifacts, raw.file, sources[raw.source], raw.key) for raw in some]

    tasks = min(len(new), 1 + sum(raw.file.size for raw in new) // TASK_BYTES)
    if tasks <= 1:
        return dict(zip(new, judged(new), strict=True))
    start_ray()
    import ray

    # Not Ray Data: its two actors and its executor take 3 s of a processor, and here is nothing to stream or exchange.
    judge = ray.remote(judged).options(memory=TASK_MEMORY)
    # The largest first, dealt out to the tasks.
    ordered = sorted(new, key=lambda raw: -raw.file.size)
    dealt = [ordered[task::tasks] for task in range(tasks)]
    found = ray.get([judge.remote(some) for some in dealt])
    return {raw: one for some, ones in zip(dealt, found, strict=True) for raw, one in zip(some, ones, strict=True)}


def _count(
    artifacts: Artifacts,
    source: Source,
    pieces: Sequence[NamedPiece],
    as_of: datetime | None,
    start_ray: Callable[[], Any],
) -> Counted:
    size, count = _size(pieces), _partitions(pieces, as_of)
    calls = [(artifacts, source, pieces, as_of, number, count) for number in range(count)]
    if size <= HERE_BYTES and count == 1:
        partition, left_out, kept = count_partition(*calls[0])
        return Counted(pieces, [partition], [left_out], [kept])
    start_ray()
    import ray

    task = ray.remote(count_partition).options(num_returns=3, memory=TASK_MEMORY)
    summaries, out, refused = zip(*(task.remote(*call) for call in calls), strict=True)
    return Counted(pieces, ray.get(list(summaries)), out, refused)


def _fill(artifacts: Artifacts, source: Source, counted: Counted) -> Counted:
    """With the last known values of what is missing, and what they change."""
    if not source.last_known:
        return counted
    out, of = pl.concat(values(counted.out)), len(counted.partitions)
    found = []
    for asked in source.last_known:
        parts = [called(find_values, counted, artifacts, asked, counted.pieces, out, n, of) for n in range(of)]
        found.append(pl.concat(gotten(counted, parts)))
    filled = by_place(source, found)
    parts = [
        called(change_of, counted, artifacts, counted.pieces[at].piece, rows)
        for (at,), rows in filled.partition_by(PIECE, as_dict=True, maintain_order=True).items()
    ]
    partition = partition_of(source, found, gotten(counted, parts))
    return replace(counted, partitions=[*counted.partitions, partition], values=filled, repairs=told(source, found))


def _partitions(pieces: Sequence[NamedPiece], as_of: datetime | None) -> int:
    """Into how many partitions a source is divided by its keys, so that one takes no more memory than a task has."""
    rows = sum(one.piece.counts.rows_in for one in pieces)
    return 1 + max(
        rows // PARTITION_ROWS, int(sum(_doubtful_bytes(one.piece, as_of) for one in pieces)) // PARTITION_BYTES
    )


def _doubtful_bytes(piece: Piece, as_of: datetime | None) -> float:
    """About how much of a piece may not count: what was refused, and all where something is not known yet."""
    if as_of is not None and piece.known_until is not None and piece.known_until > as_of:
        return piece.size
    return piece.size * piece.counts.quarantined / max(1, piece.counts.rows_in)


def _size(pieces: Sequence[NamedPiece]) -> int:
    return sum(one.piece.size for one in pieces)


def _pieces(counted: Counted) -> list[Piece]:
    return [one.piece for one in counted.pieces]


def _latest(use_case: UseCase, known: Mapping[str, datetime | None]) -> datetime:
    """The latest moment at which a row that counts became known."""
    found = [moment for moment in known.values() if moment is not None]
    if not found:
        raise DataError(f"Use case {use_case.name}: no source has known_at, so as_of must be given.")
    return max(found)


def _expect(
    artifacts: Artifacts,
    use_case: UseCase,
    snapshot: Snapshot,
    known: Mapping[str, datetime | None],
    counted: Mapping[str, Counted],
) -> None:
    """Raise DataError naming every expectation of every source that is not met."""
    asks_before = any(source.expects.max_change is not None for source in use_case.sources.values())
    before = rows_before(artifacts, use_case.name, snapshot.as_of) if asks_before else {}
    unmet = []
    for name, source in use_case.sources.items():
        unmet += [(name, text) for text in unmet_limits(source, snapshot, name, known[name], before.get(name))]
        unmet += [(name, text) for text in _unmet_checks(artifacts, snapshot, name, source, counted[name])]
    if unmet:
        raise DataError("\n".join(f"Source {name}: {text}" for name, text in unmet))


def _unmet_checks(artifacts: Artifacts, snapshot: Snapshot, name: str, source: Source, counted: Counted) -> list[str]:
    if isinstance(counted.out[0], pl.DataFrame):
        return unmet_checks(artifacts, snapshot, name, source)
    import ray

    found: list[str] = ray.get(ray.remote(unmet_checks).remote(artifacts, snapshot, name, source))
    return found


def _refuse_empty(use_case: UseCase, counted: Mapping[str, Counted]) -> None:
    """What the platform keeps itself begins empty; anything else without a row is a mistake."""
    for name, one in counted.items():
        counts = sum_counts(p.counts for p in one.partitions)
        grows = isinstance(use_case.sources[name].reader, StateReader)
        if counts.accepted + counts.repaired == 0 and not grows:
            raise DataError(
                f"Source {name}: none of its {counts.rows_in} rows was accepted (reasons: {counts.reasons}; "
                f"{counts.not_yet_known} not known yet). Put rows into its files, or relax the contract."
            )


def _refuse_erased(artifacts: Artifacts, use_case: str, every: Sequence["_Raw"], digest: str = "") -> None:
    """Raise DataError if raw files, or a snapshot of this digest, would bring rows back that were erased."""
    for record in erased_rows(artifacts):
        files = [f"file {raw.file.name} of source {raw.source}" for raw in every if raw.file.sha256 in record.raw_files]
        if files or f"{use_case}/{digest}" in record.snapshots:
            raise DataError(
                f"{', '.join(files) or 'The raw data'} would bring back what is erased: {record.sentence}. Take these "
                f"rows out of the raw data, then ingest again."
            )


def _log_refusals(snapshot: Snapshot) -> None:
    counts = {name: asdict(found) for name, found in snapshot.counts.items()}
    for name, found in counts.items():
        for sentence in refusals({name: found}):
            _logger.log(logging.WARNING if much_is_refused(found) else logging.INFO, "%s", sentence)
