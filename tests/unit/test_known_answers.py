"""What was counted is known, however much of it there is, whoever counted it and wherever it lies by now."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring import sorted_runs
from mlops_ray.monitoring.known_answers import KnownAnswers, identities
from mlops_ray.monitoring.ledger_feed import LedgerFeed
from mlops_ray.monitoring.sorted_runs import SortedRuns
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.segments import read_segment, segments, write_segment

NAME = "departures"
START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
numbers = st.lists(st.integers(0, 40), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, max_size=12), numbers)
def test_sorted_runs_have_what_was_added_whatever_their_lengths(added: list[list[int]], asked: list[int]) -> None:
    runs = SortedRuns()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_runs, "_IN_MEMORY", 10)
        patch.setattr(sorted_runs, "LONGEST_RUN", 16)
        for number, values in enumerate(added):
            runs.add(np.array(values, dtype=np.uint64), START + number * DAY)
    wanted = {value for values in added for value in values}
    assert runs.has(np.array(asked, dtype=np.uint64)).tolist() == [value in wanted for value in asked]
    assert len(runs) == sum(map(len, added))
    runs.forget_before(START + len(added) * DAY)
    assert len(runs) == 0


def answers(first: int, count: int, at: timedelta = timedelta()) -> pl.DataFrame:
    """Answers to the requests number `first` and so on, a second each; given `at` later."""
    moments = [START + timedelta(seconds=number) for number in range(first, first + count)]
    ids = [uuid7_at(int(one.timestamp() * 1000), f"{n:010}".encode()) for n, one in enumerate(moments, first)]
    times = pl.Series("time", [one + at for one in moments], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"request_id": ids}).with_columns(
        times, row=pl.lit(0, pl.Int32), as_of=times, version=pl.lit("7"), route=pl.lit("champion"),
        question=pl.lit(1, pl.Int64), probability=pl.lit(0.5, pl.Float32),
    )  # fmt: skip


def write(artifacts: Artifacts, rows: pl.DataFrame) -> str:
    first = rows["time"].min()
    assert isinstance(first, datetime)
    id = uuid7_at(int(first.timestamp() * 1000))
    write_segment(artifacts, NAME, id, rows)
    return id


def fresh(feed: LedgerFeed, done: set[str]) -> int:
    """Read and commit what is not done, a segment at a time; how many rows were fresh."""
    found = 0
    for batch in feed.batches(None, done):
        for segment in batch:
            found += len(feed.read([segment], done, lambda version: ()).rows)
            done.add(segment.id)
    return found


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path))


def test_what_was_read_and_not_committed_is_read_again(artifacts: Artifacts) -> None:
    write(artifacts, answers(0, 60))
    feed = LedgerFeed(artifacts, NAME)
    (batch,) = feed.batches(None, ())
    assert [len(feed.read(batch, (), lambda version: ()).rows) for _ in range(2)] == [60, 60]


def test_what_another_process_has_committed_is_known(artifacts: Artifacts) -> None:
    feed, done = LedgerFeed(artifacts, NAME), set[str]()
    write(artifacts, answers(0, 60))
    assert fresh(feed, done) == 60
    done.add(write(artifacts, answers(60, 60)))
    write(artifacts, answers(90, 60, at=timedelta(minutes=3)))
    assert fresh(feed, done) == 30


def test_each_batch_reads_what_is_done_no_more_than_once(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    feed, done, reads = LedgerFeed(artifacts, NAME), set[str](), list[str]()

    def read(url: str, names: Sequence[str]) -> pl.DataFrame:
        reads.append(url)
        return read_segment(url, names)

    monkeypatch.setattr("mlops_ray.monitoring.known_answers.read_segment", read)
    for minute in range(90):
        write(artifacts, answers(minute * 60, 60))
        write(artifacts, answers(minute * 60, 20, at=timedelta(minutes=5)))
        assert fresh(feed, done) == 60
    assert len(reads) == 1, "of what was done before the first batch that asked"
    assert fresh(LedgerFeed(artifacts, NAME), done) == 0
    write(artifacts, answers(5_340, 120))
    assert fresh(LedgerFeed(artifacts, NAME), done) == 60
    assert len(reads) < len(done), "those of the last 40 minutes"


def test_files_of_a_node_that_was_away_are_compared_with_those_of_their_time(artifacts: Artifacts) -> None:
    feed, done = LedgerFeed(artifacts, NAME), set[str]()
    write(artifacts, answers(0, 60))
    write(artifacts, answers(2 * 86_400, 60))
    assert fresh(feed, done) == 120
    for minute in range(4):
        write(artifacts, answers(30 + 60 * minute, 60, at=timedelta(minutes=1)))
        write(artifacts, answers(2 * 86_400 + 30 + 60 * minute, 60, at=timedelta(minutes=1)))
        assert fresh(feed, done) == (60 if minute == 0 else 120)
    compact(artifacts, NAME, lambda segment: segment.id in done)
    assert not segments(artifacts, NAME)
    newest = write(artifacts, answers(3 * 86_400, 1))
    write(artifacts, answers(240, 60, at=timedelta(minutes=1)))  # 270 were answered before
    assert fresh(LedgerFeed(artifacts, NAME), {newest}) == 30


def test_identities_of_the_same_minutes_lie_together_and_those_of_any_text_are_different() -> None:
    rows = answers(0, 1_000)
    found = identities(rows)
    assert len(set(found.tolist())) == 1_000
    assert len({value >> 57 for value in found.tolist()}) in (16, 17)
    named = rows.with_columns(request_id=pl.format("order {}", pl.int_range(pl.len())))
    assert len(set(identities(named).tolist())) == 1_000


def test_nothing_is_known_where_nothing_is_done(artifacts: Artifacts) -> None:
    write(artifacts, answers(0, 10))
    rows = answers(0, 10)
    asked = identities(rows), rows["time"]
    assert not KnownAnswers(artifacts, NAME).of(segments(artifacts, NAME), *asked, ()).any()
