"""Ingest: raw files through the column contract into a snapshot.

A file is read once, however often it is ingested (`judged`). What goes across files is then counted (`counting`). Each
is divided by size: what fits one task is done here, as Ray's first task costs 3 s before it begins.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts, ContentDigest, digest_json
from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError, DataError, UseCaseError
from mlops_ray.governance.erased_rows import erased_rows
from mlops_ray.ingestion.counting import NamedPiece, Partition, count_partition, known_until, write_accepted
from mlops_ray.ingestion.expectations import rows_before, unmet_checks, unmet_limits
from mlops_ray.ingestion.judged import JudgedFile, Piece, is_whole, judge_file, kept_file, key_of
from mlops_ray.ingestion.kept_files import begin_use, end_use
from mlops_ray.ingestion.quarantine import FOLDER, much_is_refused, refusals
from mlops_ray.ingestion.shared_tables import others, share, tables_of
from mlops_ray.ingestion.snapshot import (
    ACCEPTED,
    MANIFEST,
    SNAPSHOTS,
    Snapshot,
    is_whole_snapshot,
    load_snapshot,
    set_retired,
    sum_counts,
    write_last,
)
from mlops_ray.ingestion.sources import SourceFile, find_all_files
from mlops_ray.use_case import Source, UseCase
from mlops_ray.use_case.reader import StateReader

TASK_BYTES = 16 << 20  # of raw files, which a task reads; so much is read here
PARTITION_ROWS = 16 << 20  # of a source, whose keys a task counts
PARTITION_BYTES = 256 << 20  # of rows that may not count, which it reads
HERE_BYTES = 256 << 20  # of a source's rows in memory, which are counted here
TASK_MEMORY = 1 << 30  # what a task is given; judging takes the most, with a piece of a file at a time
_THREADS = 16
_ATTEMPTS = 3

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
    source without a row, and, once the snapshot is written, every expectation that is not met. Rows that are refused
    raise nothing: a warning is logged for each source of which more than `WARN_SHARE` are.
    """
    artifacts = Artifacts(settings.artifacts)
    if files is None:
        files = find_all_files(settings, use_case.sources)
    every = [_Raw(name, file, key_of(file, contracts[name])) for name in use_case.sources for file in files[name]]
    keys = {raw.key for raw in every}
    begin_use(artifacts, use_case.name, keys, datetime.now(UTC))
    _refuse_erased(artifacts, use_case.name, every)
    judged, unreadable, more = _judge(artifacts, use_case.sources, every, start_ray)
    counted = {
        name: _count(artifacts, source, judged[name], as_of, start_ray) for name, source in use_case.sources.items()
    }
    _refuse_empty(use_case, counted)
    known = {name: known_until(artifacts, _pieces(one), *_values(one.out)) for name, one in counted.items()}
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
        unreadable=unreadable,
        more=more,
    )
    _refuse_erased(artifacts, use_case.name, (), snapshot.digest)
    snapshot = _write(artifacts, snapshot, counted)
    end_use(artifacts, use_case.name, keys, datetime.now(UTC))
    _log_refusals(snapshot)
    _expect(artifacts, use_case, snapshot, known, counted)
    return snapshot


@dataclass(frozen=True)
class _Counted:
    """A source: its pieces, and of each partition its summary, the places of rows that do not count, and those that
    quarantine keeps; the last two as Ray's references where they were made by tasks."""

    pieces: Sequence[NamedPiece]
    partitions: Sequence[Partition]
    out: Sequence[Any]
    refused: Sequence[Any]

    def content(self) -> dict[str, str]:
        return {
            "accepted": sum((p.accepted for p in self.partitions), ContentDigest()).hex(),
            "quarantined": sum((p.quarantined for p in self.partitions), ContentDigest()).hex(),
        }


def _judge(
    artifacts: Artifacts,
    sources: Mapping[str, Source],
    every: Sequence["_Raw"],
    start_ray: Callable[[], Any],
) -> tuple[dict[str, list[NamedPiece]], dict[str, dict[str, str]], dict[str, list[str]]]:
    """The pieces of each source's files, of which only those are read that were not before; the files that are set
    aside, with what is wrong with each; and the columns that the contract does not name."""
    known = _kept(artifacts, every, start_ray)
    known |= _judge_new(artifacts, sources, [raw for raw in every if raw not in known], start_ray)
    unreadable = _set_aside(sources, {raw: found.error for raw, found in known.items() if found.error})
    pieces = {
        name: [NamedPiece(raw.file.name, piece) for raw in every if raw.source == name for piece in known[raw].pieces]
        for name in sources
    }
    more = {name: sorted({c for raw in every if raw.source == name for c in known[raw].more}) for name in sources}
    return pieces, unreadable, more


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


def _kept(artifacts: Artifacts, every: Sequence[_Raw], start_ray: Callable[[], Any]) -> dict[_Raw, JudgedFile]:
    """What is kept of the files, whole: tables that lack bytes, or have others, would count as what they were."""
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda raw: kept_file(artifacts, raw.key), every)
        kept = {raw: judged for raw, judged in zip(every, found, strict=True) if judged is not None}
        if sum(piece.size for judged in kept.values() for piece in judged.pieces) <= HERE_BYTES:
            whole = list(threads.map(lambda judged: is_whole(artifacts, judged), kept.values()))
        else:
            start_ray()
            import ray

            look = ray.remote(is_whole)
            whole = ray.get([look.remote(artifacts, judged) for judged in kept.values()])
    return {raw: judged for (raw, judged), is_there in zip(kept.items(), whole, strict=True) if is_there}


def _judge_new(
    artifacts: Artifacts, sources: Mapping[str, Source], new: Sequence[_Raw], start_ray: Callable[[], Any]
) -> dict[_Raw, JudgedFile]:
    def judged(raw: _Raw) -> JudgedFile:
        return judge_file(artifacts, raw.file, sources[raw.source], raw.key)

    tasks = min(len(new), 1 + sum(raw.file.size for raw in new) // TASK_BYTES)
    if tasks <= 1:
        return {raw: judged(raw) for raw in new}
    start_ray()
    import ray

    def judge(row: dict[str, int]) -> dict[str, Any]:
        return {"at": row["at"], "found": json.dumps(judged(new[row["at"]]).to_json())}

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # The largest first, dealt out to the tasks.
    ordered = sorted(range(len(new)), key=lambda at: -new[at].file.size)
    dealt = [{"at": at} for task in range(tasks) for at in ordered[task::tasks]]
    rows = ray.data.from_items(dealt, override_num_blocks=tasks).map(judge, memory=TASK_MEMORY).take_all()
    return {new[row["at"]]: JudgedFile.from_json(json.loads(row["found"])) for row in rows}


def _count(
    artifacts: Artifacts,
    source: Source,
    pieces: Sequence[NamedPiece],
    as_of: datetime | None,
    start_ray: Callable[[], Any],
) -> _Counted:
    size, count = _size(pieces), _partitions(pieces, as_of)
    calls = [(artifacts, source, pieces, as_of, number, count) for number in range(count)]
    if size <= HERE_BYTES and count == 1:
        done = [count_partition(*calls[0])]
        return _Counted(pieces, *(list(part) for part in zip(*done, strict=True)))
    start_ray()
    import ray

    task = ray.remote(count_partition).options(num_returns=3, memory=TASK_MEMORY)
    summaries, out, refused = zip(*(task.remote(*call) for call in calls), strict=True)
    return _Counted(pieces, ray.get(list(summaries)), out, refused)


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


def _pieces(counted: _Counted) -> list[Piece]:
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
    counted: Mapping[str, _Counted],
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


def _unmet_checks(artifacts: Artifacts, snapshot: Snapshot, name: str, source: Source, counted: _Counted) -> list[str]:
    if isinstance(counted.out[0], pl.DataFrame):
        return unmet_checks(artifacts, snapshot, name, source)
    import ray

    found: list[str] = ray.get(ray.remote(unmet_checks).remote(artifacts, snapshot, name, source))
    return found


def _values(given: Sequence[Any]) -> list[pl.DataFrame]:
    if all(isinstance(one, pl.DataFrame) for one in given):
        return list(given)
    import ray

    return list(ray.get(list(given)))


def _refuse_empty(use_case: UseCase, counted: Mapping[str, _Counted]) -> None:
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


def _write(artifacts: Artifacts, snapshot: Snapshot, counted: Mapping[str, _Counted]) -> Snapshot:
    """Write tables, then the manifest, and say that it was the last ingest.

    Whoever retires the snapshot at the same time looks at what the last ingest was after having said so, and here it is
    looked whether somebody has: one of both sees the other, and the rows stay.
    """
    for _ in range(_ATTEMPTS):
        written = _write_once(artifacts, snapshot, counted)
        if is_whole_snapshot(artifacts, written):
            return written
    raise ConflictError(
        f"Snapshot {snapshot.digest[:12]} of {snapshot.use_case} was retired again and again while it was written. "
        f"Ingest when whoever does that has ended."
    )


def _write_once(artifacts: Artifacts, snapshot: Snapshot, counted: Mapping[str, _Counted]) -> Snapshot:
    folder = (SNAPSHOTS, snapshot.use_case, snapshot.digest)
    manifest = artifacts.read_json(*folder, MANIFEST)
    there = load_snapshot(artifacts, snapshot.use_case, snapshot.digest) if manifest is not None else None
    if there is not None and is_whole_snapshot(artifacts, there):
        snapshot = replace(snapshot, parts=there.parts)
    else:
        manifest, snapshot = None, replace(snapshot, parts=_write_accepted(artifacts, snapshot, counted))
    waiting: list[Any] = []
    for source, one in counted.items():
        digests = snapshot.content[source]
        if manifest is None or manifest["content"][source] != digests:
            place = (FOLDER, snapshot.use_case, source, digests["quarantined"])
            for number, refused in enumerate(one.refused):
                waiting.append(_called(_write_refused, one, artifacts, refused, *place, f"part-{number:05}.parquet"))
    _values_of(waiting)
    if manifest != snapshot.to_json():
        artifacts.write_json(snapshot.to_json(), *folder, MANIFEST)
    set_retired(artifacts, snapshot.use_case, snapshot.digest, None)
    write_last(artifacts, snapshot)
    return snapshot


def _write_accepted(
    artifacts: Artifacts, snapshot: Snapshot, counted: Mapping[str, _Counted]
) -> dict[str, dict[str, str]]:
    """Write the tables of accepted rows that no other snapshot has; the SHA-256 of all, by source and name.

    What else lies in their folders is the rest of a killed run.
    """
    beside, parts = others(artifacts, snapshot), dict[str, dict[str, Any]]()
    for source, one in counted.items():
        wanted, place = tables_of(one.pieces, _values(one.out)), snapshot.place(source)
        for entry in artifacts.entries(*place):
            if entry.name not in wanted:
                artifacts.delete(*place, entry.name)
        parts[source] = {}
        for name, pieces in wanted.items():
            known = {folder: found.get(source, {}).get(name) for folder, found in beside}
            shared = (
                sha256
                for folder, sha256 in known.items()
                if sha256 and share(artifacts, (*folder, source, ACCEPTED, name), (*place, name), sha256)
            )
            parts[source][name] = next(shared, None) or _called(
                write_accepted, one, artifacts, pieces, (*place, name), *one.out
            )
    names = [(source, name) for source, found in parts.items() for name in found]
    for (source, name), sha256 in zip(names, _values_of([parts[s][n] for s, n in names]), strict=True):
        parts[source][name] = sha256
    return parts


def _write_refused(artifacts: Artifacts, refused: pl.DataFrame, *place: str) -> None:
    artifacts.write_table(refused, *place)


def _called(function: Callable[..., Any], counted: _Counted, *arguments: Any) -> Any:
    """What the function gives, where the source was counted here; else the reference to the task that calls it."""
    if isinstance(counted.out[0], pl.DataFrame):
        return function(*arguments)
    import ray

    return ray.remote(function).remote(*arguments)


def _values_of(given: Sequence[Any]) -> list[Any]:
    """What was given, with what tasks give in place of the references to it."""
    ours = [one is None or isinstance(one, str) for one in given]
    if all(ours):
        return list(given)
    import ray

    found = iter(ray.get([one for one, plain in zip(given, ours, strict=True) if not plain]))
    return [one if plain else next(found) for one, plain in zip(given, ours, strict=True)]
