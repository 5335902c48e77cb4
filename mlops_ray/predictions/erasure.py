"""Erasure: what the ledger holds of a person or of a time goes for good, from segments, table and labels."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, record
from mlops_ray.predictions.labels import KEYS, Labels, LabelSegment, delete_labels, rewrite_labels
from mlops_ray.predictions.segments import (
    FEATURE,
    KEY,
    delete_before,
    delete_segment,
    read_segment,
    segments,
    write_segment,
)
from mlops_ray.predictions.segments import FOLDER as LEDGER
from mlops_ray.predictions.table import LedgerTable

_HASH = re.compile(r"[0-9a-f]{32}")
_ANSWER = pl.DataFrame(schema={"request_id": pl.String(), "row": pl.Int32()})


@dataclass(frozen=True)
class Erased:
    """How many predictions and labels went."""

    predictions: int
    labels: int


def erase_person(settings: Settings, store: ControlStore, actor: Actor, use_case: str, hash: str) -> Erased:
    """Erase every prediction of which a column is `hash`, and what was said of it, with the event `ledger.erased`.

    hash: of a value of a column with `personal="hash"`, as the ledger has it (see `PersonalHash.hash`). The event says
    that something was erased, and how much, not whose. What a node has not yet moved to shared storage is not reached:
    erase again after a rotation. Raises DataError for what is no hash or no ledger, ConflictError if a compaction is at
    work; then a part is erased, no event is written, and it is to be run again.
    """
    if not _HASH.fullmatch(hash):
        raise DataError("A person's hash has 32 hexadecimal digits, as in the ledger's columns.")
    artifacts = Artifacts(settings.artifacts)
    if not artifacts.entries(LEDGER, use_case):
        raise DataError(f"There is no ledger of {use_case} at {settings.artifacts}. Check the name and the settings.")
    # Segments before the table: a compaction that has read them as they were cannot commit any more then.
    answers = pl.concat([_ANSWER, *_from_segments(artifacts, use_case, hash)])
    answers = pl.concat([answers, LedgerTable(artifacts, use_case).erase(_is_value, hash)])
    done = Erased(answers.height, _labels(artifacts, use_case, hash, answers.unique()))
    payload = {"predictions": done.predictions, "labels": done.labels}
    with store.transaction() as connection:
        record(connection, "ledger.erased", actor, f"ledger {use_case}", use_case, payload=payload)
    return done


def retain(artifacts: Artifacts, use_case: str, keep: timedelta, now: datetime) -> None:
    """Delete predictions and labels of the days (UTC) that ended longer than `keep` ago."""
    day = (now.astimezone(UTC) - keep).date()
    delete_before(artifacts, use_case, datetime(day.year, day.month, day.day, tzinfo=UTC))
    LedgerTable(artifacts, use_case).delete_before(day)
    for segment in Labels(artifacts, use_case).segments():
        named = segment.part.removeprefix(KEYS)
        if named < day.isoformat() if named[:1].isdigit() else _said_before(segment, day.isoformat()):
            delete_labels(artifacts, use_case, segment)


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
    texts = [name for name, dtype in rows.schema.items() if dtype == pl.String and _is_value(name)]
    found = pl.Series([False]).new_from_index(0, rows.height)
    for name in texts:
        found |= (rows[name] == hash).fill_null(False)
    return found


def _said_before(segment: LabelSegment, day: str) -> bool:
    """Of labels whose requests have no time: whether all came before a day."""
    newest = read_segment(segment.url, ["received_at"])["received_at"].max()
    return isinstance(newest, datetime) and newest.date().isoformat() < day
