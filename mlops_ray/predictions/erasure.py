"""Erasure: what the ledger holds of a person goes for good, from segments, table and labels."""

import re
from dataclasses import dataclass

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.leases import holding
from mlops_ray.predictions.labels import KEYS, Labels, rewrite_labels
from mlops_ray.predictions.segments import FEATURE, KEY, delete_segment, read_segment, segments, write_segment
from mlops_ray.predictions.segments import FOLDER as LEDGER
from mlops_ray.predictions.table import LedgerTable
from mlops_ray.predictions.tombstones import hashable, set_tombstone

_HASH = re.compile(r"[0-9a-f]{32}")
_ANSWER = pl.DataFrame(schema={"request_id": pl.String(), "row": pl.Int32()})


@dataclass(frozen=True)
class Erased:
    """How many predictions and labels went."""

    predictions: int
    labels: int


def upkeep_lease(use_case: str) -> str:
    """The name of the lease of who changes what lies in a ledger: to erase, to compact, to delete what is old."""
    return f"ledger {use_case}"


def erase_person(settings: Settings, store: ControlStore, actor: Actor, use_case: str, hash: str) -> Erased:
    """Erase every prediction of which a column is `hash`, and what was said of it, with the event `ledger.erased`.

    hash: of a value of a column with `personal="hash"`, as the ledger has it (see `PersonalHash.hash`). The event says
    that something was erased, and how much, not whose. What a node, or a run of batch scoring, has not yet moved to
    the ledger is left out when it is (see `tombstones`). Raises DataError for what is no hash or no ledger,
    ConflictError if others are at work on the ledger; then a part is erased at most, no event is written, and it is to
    be run again.
    """
    if not _HASH.fullmatch(hash):
        raise DataError("A person's hash has 32 hexadecimal digits, as in the ledger's columns.")
    artifacts = Artifacts(settings.artifacts)
    if not artifacts.entries(LEDGER, use_case):
        raise DataError(f"There is no ledger of {use_case} at {settings.artifacts}. Check the name and the settings.")
    with holding(store, upkeep_lease(use_case)):
        with store.reading() as connection:
            set_tombstone(artifacts, use_case, hash, database_now(connection))
        # Segments before the table: a compaction that has read them as they were cannot commit any more then.
        answers = pl.concat([_ANSWER, *_from_segments(artifacts, use_case, hash)])
        answers = pl.concat([answers, LedgerTable(artifacts, use_case).erase(_is_value, hash)])
        done = Erased(answers.height, _labels(artifacts, use_case, hash, answers.unique()))
        payload = {"predictions": done.predictions, "labels": done.labels}
        with store.transaction() as connection:
            record(connection, "ledger.erased", actor, f"ledger {use_case}", use_case, payload=payload)
    return done


def _is_value(name: str) -> bool:
    return name.startswith((KEY, FEATURE))


def _from_segments(artifacts: Artifacts, use_case: str, hash: str) -> list[pl.DataFrame]:
    found = []
    for segment in segments(artifacts, use_case):
        rows = read_segment(segment.url)
        theirs = _has(rows, hash)
        if theirs.any():
            found.append(rows.filter(theirs).select("request_id", "row"))
            rest = rows.filter(~theirs)
            if rest.height:
                write_segment(artifacts, use_case, segment.id, rest)
            else:
                delete_segment(artifacts, use_case, segment)
    return found


def _labels(artifacts: Artifacts, use_case: str, hash: str, answers: pl.DataFrame) -> int:
    erased = 0
    for segment in Labels(artifacts, use_case).segments():
        rows = read_segment(segment.url)
        if segment.part.startswith(KEYS):
            rest = rows.filter(~_has(rows, hash))
        else:
            rest = rows.join(answers, on=["request_id", "row"], how="anti", maintain_order="left")
        if rest.height < rows.height:
            rewrite_labels(artifacts, use_case, segment, rest)
            erased += rows.height - rest.height
    return erased


def _has(rows: pl.DataFrame, hash: str) -> pl.Series:
    """Of each row whether a value of it is the hash."""
    found = pl.Series([False]).new_from_index(0, rows.height)
    for name in hashable(rows):
        found |= (rows[name] == hash).fill_null(False)
    return found
