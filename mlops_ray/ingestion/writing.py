"""Writing: the tables of a snapshot, then its manifest, and that it was the last ingest."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts, ContentDigest
from mlops_ray.errors import ConflictError
from mlops_ray.governance.erased_rows import last_erasure
from mlops_ray.ingestion.counting import PIECE, PLACES, NamedPiece, Partition, write_accepted
from mlops_ray.ingestion.layout import Layout, write_layouts
from mlops_ray.ingestion.quarantine import FOLDER
from mlops_ray.ingestion.shared_tables import others, share, tables_of
from mlops_ray.ingestion.snapshot import (
    ACCEPTED,
    MANIFEST,
    SNAPSHOTS,
    Snapshot,
    is_whole_snapshot,
    load_snapshot,
    set_retired,
    write_last,
)

_ATTEMPTS = 3


@dataclass(frozen=True)
class Counted:
    """A source: its pieces, and of each partition its summary, the places of rows that do not count, and those that
    quarantine keeps; the last two as Ray's references where they were made by tasks. layouts: of the records of each
    file. values: what is filled in, by its place, and `repairs`, which say so (see `last_known`)."""

    pieces: Sequence[NamedPiece]
    partitions: Sequence[Partition]
    out: Sequence[Any]
    refused: Sequence[Any]
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    values: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PLACES))
    repairs: pl.DataFrame | None = None

    def content(self) -> dict[str, str]:
        return {
            "accepted": sum((p.accepted for p in self.partitions), ContentDigest()).hex(),
            "quarantined": sum((p.quarantined for p in self.partitions), ContentDigest()).hex(),
        }


def write_snapshot(artifacts: Artifacts, snapshot: Snapshot, counted: Mapping[str, Counted], began: str) -> Snapshot:
    """Write tables, then the manifest, and say that it was the last ingest.

    Whoever retires the snapshot at the same time looks at what the last ingest was after having said so, and here it is
    looked whether somebody has: one of both sees the other, and the rows stay.
    began: `last_erasure` when the ingest did. Raises ConflictError if it is another when all rows are written: then
    none of them stay.
    """
    for _ in range(_ATTEMPTS):
        written = _write_once(artifacts, snapshot, counted, began)
        if is_whole_snapshot(artifacts, written):
            return written
    raise ConflictError(
        f"Snapshot {snapshot.digest[:12]} of {snapshot.use_case} was retired again and again while it was written. "
        f"Ingest when whoever does that has ended."
    )


def _write_once(artifacts: Artifacts, snapshot: Snapshot, counted: Mapping[str, Counted], began: str) -> Snapshot:
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
                waiting.append(called(_write_refused, one, artifacts, refused, *place, f"part-{number:05}.parquet"))
            if snapshot.counts[source].quarantined:
                write_layouts(artifacts, one.layouts, *place)
        if one.repairs is not None:
            artifacts.write_table(one.repairs, *snapshot.place_of_repairs(source))
    _values_of(waiting)
    if last_erasure(artifacts) != began:
        _take_back(artifacts, snapshot, has_tables=manifest is None)
        raise ConflictError("Rows of a person were erased while these were written, and may be among them.")
    if manifest != snapshot.to_json():
        artifacts.write_json(snapshot.to_json(), *folder, MANIFEST)
    set_retired(artifacts, snapshot.use_case, snapshot.digest, None)
    write_last(artifacts, snapshot)
    return snapshot


def _take_back(artifacts: Artifacts, snapshot: Snapshot, has_tables: bool) -> None:
    """Delete what was written of rows: who was erased is not known here. has_tables: whether tables were written."""
    places: list[tuple[str, ...]]
    places = [(FOLDER, snapshot.use_case, name, digests["quarantined"]) for name, digests in snapshot.content.items()]
    places += [snapshot.place_of_repairs(source) for source in snapshot.counts]
    places += [snapshot.place(source) for source in snapshot.counts] if has_tables else []
    for place in places:
        with suppress(FileNotFoundError):  # by the erasure, at the same time
            artifacts.delete(*place)


def _write_accepted(
    artifacts: Artifacts, snapshot: Snapshot, counted: Mapping[str, Counted]
) -> dict[str, dict[str, str]]:
    """Write the tables of accepted rows that no other snapshot has; the SHA-256 of all, by source and name.

    What else lies in their folders is the rest of a killed run.
    """
    beside, parts = others(artifacts, snapshot), dict[str, dict[str, Any]]()
    for source, one in counted.items():
        out, place = values(one.out), snapshot.place(source)
        wanted = tables_of(one.pieces, out, one.values)
        changed = {*pl.concat(out)[PIECE].unique(), *one.values[PIECE].unique()}
        for entry in artifacts.entries(*place):
            if entry.name not in wanted:
                artifacts.delete(*place, entry.name)
        parts[source] = {}
        for name, pieces in wanted.items():
            if len(pieces) == 1 and pieces[0][0] not in changed:
                piece = pieces[0][1]
                artifacts.share(piece.accepted, (*place, name))
                parts[source][name] = piece.sha256[0]
                continue
            known = {folder: found.get(source, {}).get(name) for folder, found in beside}
            shared = (
                sha256
                for folder, sha256 in known.items()
                if sha256 and share(artifacts, (*folder, source, ACCEPTED, name), (*place, name), sha256)
            )
            filled = one.values.filter(pl.col(PIECE).is_in([number for number, _ in pieces]))
            parts[source][name] = next(shared, None) or called(
                write_accepted, one, artifacts, pieces, (*place, name), filled, *one.out
            )
    names = [(source, name) for source, found in parts.items() for name in found]
    for (source, name), sha256 in zip(names, _values_of([parts[s][n] for s, n in names]), strict=True):
        parts[source][name] = sha256
    return parts


def _write_refused(artifacts: Artifacts, refused: pl.DataFrame, *place: str) -> None:
    artifacts.write_table(refused, *place)


def gotten(counted: Counted, given: Sequence[Any]) -> list[Any]:
    """What several calls of `called` gave, once it is there."""
    if isinstance(counted.out[0], pl.DataFrame):
        return list(given)
    import ray

    return list(ray.get(list(given)))


def called(function: Callable[..., Any], counted: Counted, *arguments: Any) -> Any:
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


def values(given: Sequence[Any]) -> list[pl.DataFrame]:
    """Tables, with what tasks made in place of the references to it."""
    if all(isinstance(one, pl.DataFrame) for one in given):
        return list(given)
    import ray

    return list(ray.get(list(given)))
