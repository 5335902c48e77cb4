"""Erasure: what the ledger holds of a person goes for good, from segments, table and labels."""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.leases import holding
from mlops_ray.predictions.collect import DAMAGED
from mlops_ray.predictions.label_writer import FOLDER as LABELS
from mlops_ray.predictions.labels import KEYS, Labels, rewrite_labels
from mlops_ray.predictions.segments import FEATURE, KEY, delete_segment, read_segment, segments, write_segment
from mlops_ray.predictions.segments import FOLDER as LEDGER
from mlops_ray.predictions.table import ANSWER, LedgerTable
from mlops_ray.predictions.tombstones import set_tombstone, set_tombstone_of_value
from mlops_ray.predictions.value import is_value

_HASH = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Erased:
    """How many predictions and labels went, each once, be it in two files while they were moved or merged.

    damaged: write-ahead files of the use case on this node of which a part cannot be read, be it of this person.
    """

    predictions: int
    labels: int
    damaged: tuple[str, ...] = ()


def upkeep_lease(use_case: str) -> str:
    """The name of the lease of who changes what lies in a ledger: to erase, to compact, to delete what is old."""
    return f"ledger {use_case}"


def erase_person(settings: Settings, store: ControlStore, actor: Actor, use_case: str, hash: str) -> Erased:
    """Erase every prediction of which a column is `hash`, and what was said of it, with the event `ledger.erased`.

    hash: of a value of a column with `personal="hash"`, as the ledger has it (see `PersonalHash.hash`). The event says
    that something was erased, and how much, not whose. What a node, or a run of batch scoring, has not yet moved to
    the ledger is left out when it is (see `tombstones`). Raises DataError for what is no hash or no ledger,
    ConflictError if others are at work on the ledger; then a part is erased at most, no event is written, and it is to
    be run again. What is damaged is no row of anybody: `Erased.damaged` names such files of this node, and each node's
    log says of its own where they lie.
    """
    if not _HASH.fullmatch(hash):
        raise DataError("A person's hash has 32 hexadecimal digits, as in the ledger's columns.")
    return _erase(settings, store, actor, use_case, _of_hash(hash))


def erase_entity(
    settings: Settings, store: ControlStore, actor: Actor, use_case: str, column: str, value: str
) -> Erased:
    """As `erase_person`, for a column of the request that the ledger keeps as it is: of this value, however it is
    written (see `read_as`)."""
    return _erase(settings, store, actor, use_case, _of_value(column, value))


def leave_out_entity(artifacts: Artifacts, store: ControlStore, use_case: str, column: str, value: str) -> None:
    """Let nothing of this value be kept that a node, or batch scoring, moves to the ledger later and that came until
    now; whether there is a ledger yet or not."""
    set_tombstone_of_value(artifacts, use_case, column, value, _now(store))


def count_entity(settings: Settings, use_case: str, column: str, value: str) -> int:
    """How many answers `erase_entity` would erase."""
    return _answers(Artifacts(settings.artifacts), use_case, _of_value(column, value)).height


def count_person(settings: Settings, use_case: str, hash: str) -> int:
    """How many answers `erase_person` would erase."""
    return _answers(Artifacts(settings.artifacts), use_case, _of_hash(hash)).height


@dataclass(frozen=True)
class _Theirs:
    """Whose rows: of which a column that `picks` takes, by its name and type, is `value`. hash: of a personal value,
    column: of another, by which rows that come later are known."""

    value: str
    picks: Callable[[str, str], bool]
    hash: str = ""
    column: str = ""

    def of(self, rows: pl.DataFrame) -> pl.Series:
        found = pl.Series([False]).new_from_index(0, rows.height)
        for name, dtype in rows.schema.items():
            if self.picks(name, "string" if dtype == pl.String else str(dtype)):
                found |= is_value(rows[name], self.value)
        return found


def _of_hash(hash: str) -> _Theirs:
    return _Theirs(hash, lambda name, kind: kind == "string" and name.startswith((KEY, FEATURE)), hash)


def _of_value(column: str, value: str) -> _Theirs:
    names = (f"{KEY}{column}", f"{FEATURE}{column}")
    return _Theirs(value, lambda name, kind: name.partition(":")[0] in names, column=column)


def _erase(settings: Settings, store: ControlStore, actor: Actor, use_case: str, theirs: _Theirs) -> Erased:
    artifacts = Artifacts(settings.artifacts)
    if not artifacts.entries(LEDGER, use_case):
        raise DataError(f"There is no ledger of {use_case} at {settings.artifacts}. Check the name and the settings.")
    with holding(store, upkeep_lease(use_case)):
        if theirs.hash:
            set_tombstone(artifacts, use_case, theirs.hash, _now(store))
        if theirs.column:
            set_tombstone_of_value(artifacts, use_case, theirs.column, theirs.value, _now(store))
        # Labels first: the answers say which are theirs, also to an erasure that completes one that was killed.
        labels = _erase_labels(artifacts, use_case, theirs, _answers(artifacts, use_case, theirs))
        # Segments before the table: a compaction that has read them as they were cannot commit any more then.
        gone = _erase_from_segments(artifacts, use_case, theirs)
        gone.append(LedgerTable(artifacts, use_case).erase(theirs.picks, theirs.value))
        done = Erased(pl.concat(gone).unique().height, labels, _damaged(settings, use_case))
        payload = {"predictions": done.predictions, "labels": done.labels, "damaged_files": len(done.damaged)}
        with store.transaction() as connection:
            record(connection, "ledger.erased", actor, f"ledger {use_case}", use_case, payload=payload)
    return done


def _now(store: ControlStore) -> datetime:
    with store.reading() as connection:
        return database_now(connection)


def _damaged(settings: Settings, use_case: str) -> tuple[str, ...]:
    folders = (Path(settings.ledger_wal) / use_case, Path(settings.ledger_wal) / LABELS / use_case)
    return tuple(str(path) for folder in folders for path in sorted(folder.glob(f"*{DAMAGED}")))


def _answers(artifacts: Artifacts, use_case: str, person: _Theirs) -> pl.DataFrame:
    """Which answers are theirs, each once; of a segment that is being moved to the table they are in both."""
    rows = (read_segment(segment.url) for segment in segments(artifacts, use_case))
    found = [one.filter(person.of(one)).select(ANSWER.names()) for one in rows]
    return pl.concat([*found, LedgerTable(artifacts, use_case).answers_of(person.picks, person.value)]).unique()


def _erase_from_segments(artifacts: Artifacts, use_case: str, person: _Theirs) -> list[pl.DataFrame]:
    """Returns which answers went."""
    gone = []
    for segment in segments(artifacts, use_case):
        rows = read_segment(segment.url)
        theirs = person.of(rows)
        if theirs.all():
            delete_segment(artifacts, use_case, segment)
        elif theirs.any():
            write_segment(artifacts, use_case, segment.id, rows.filter(~theirs))
        gone.append(rows.filter(theirs).select(ANSWER.names()))
    return gone


def _erase_labels(artifacts: Artifacts, use_case: str, person: _Theirs, answers: pl.DataFrame) -> int:
    """Returns how many labels went, each once: those that were being merged lie in two segments of their part."""
    gone = defaultdict[tuple[str, str], list[pl.DataFrame]](list)
    for segment in Labels(artifacts, use_case).segments():
        rows = read_segment(segment.url)
        if segment.part.startswith(KEYS):
            theirs = person.of(rows)
        else:
            ids = ["request_id", "row"]
            named = answers.select(*ids, theirs=pl.lit(True)).unique()
            theirs = rows.join(named, on=ids, how="left", maintain_order="left")["theirs"].fill_null(False)
        if theirs.any():
            rewrite_labels(artifacts, use_case, segment, rows.filter(~theirs))
            gone[segment.part, str(rows.schema)].append(rows.filter(theirs))
    return sum(pl.concat(parts).unique().height for parts in gone.values())
