"""A prediction is in one window of each kind, whatever the order of files and the number of replicas, and its label
counts there. What should be is computed a second time, row by row, from what was written."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.members import MOST_PER_S, MemberFile, Members
from mlops_ray.monitoring.stream_clock import ASTRAY, StreamClock, date_rows
from mlops_ray.monitoring.window_record import WindowRecord
from mlops_ray.monitoring.windows import NO_PANE
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.segments import read_segment, segments
from mlops_ray.testing.example_stream import BY_COUNT, BY_TIME, PER_DAY, START, write_example_segments
from tests.unit.test_drift_watch import CALM, DAY, END, LATER, NAME, Watching, said, tell

REPLICAS = 3
TWO_DAYS = CALM.head(2 * PER_DAY)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


def write_as_replicas(artifacts: Artifacts, rows: pl.DataFrame) -> list[str]:
    """Each replica answers every third prediction and keeps its answers for ten minutes before they are a file."""
    ids: dict[datetime, str] = {}
    for replica in range(REPLICAS):
        mine = rows.gather_every(REPLICAS, replica)
        ids |= zip(mine["time"], write_example_segments(artifacts, NAME, mine, size=2), strict=True)
    return [ids[moment] for moment in rows["time"]]


def in_turn(artifacts: Artifacts, arrivals: list[list[str]]) -> list[tuple[str, datetime]]:
    """Request ids and moments in the order in which the watch is to read them: by arrival, then by moment."""
    urls = {segment.id: segment.url for segment in segments(artifacts, NAME)}
    read: list[tuple[str, datetime]] = []
    for arrived in arrivals:
        rows = [row for id in sorted(arrived) for row in read_segment(urls[id]).select("request_id", "time").rows()]
        read += sorted(rows, key=lambda row: row[1])
    return read


def positives(record: WindowRecord) -> tuple[int, int, int]:
    """Rows, labels and positives of a window."""
    (whole,) = [one for one in record.quality if one.slice == "all"]
    return record.rows, record.labelled, round(whole.about["positive"] * whole.rows)


def test_windows_of_several_replicas_are_measured_on_their_own_rows(tmp_path: Path) -> None:
    whole, artifacts = Artifacts(str(tmp_path / "whole")), Artifacts(str(tmp_path / "arriving"))
    ids = write_as_replicas(whole, TWO_DAYS)
    order = np.random.default_rng(0).permutation(len(segments(whole, NAME)))
    arrivals = [[segments(whole, NAME)[at].id for at in part] for part in np.array_split(order, 5)]
    found = Watching(artifacts)
    for arrived in arrivals:
        for segment in segments(whole, NAME):
            if segment.id in arrived:
                place = segment.url.split("/ledger/")[1].split("/")
                artifacts.write_table(read_segment(segment.url), "ledger", *place)
        found.rounds(1, now=LATER)
    tell(artifacts, said(TWO_DAYS, ids))
    found.rounds(6, now=LATER)  # a slow machine measures one window a round
    truth = dict(zip(ids, TWO_DAYS["label"], strict=True))
    read = in_turn(artifacts, arrivals)
    expected = []
    for first in range(0, len(read), BY_COUNT.rows or 0):
        window = read[first : first + (BY_COUNT.rows or 0)]
        expected.append((len(window), len(window), sum(truth[id] for id, _ in window)))
    assert [positives(record) for record in found.records()] == expected
    for record in found.records(BY_TIME.name):
        inside = [truth[id] for id, moment in read if record.start <= moment < record.end]
        assert record.rows + record.misdated <= len(inside) + PER_DAY
        assert record.labelled == record.rows <= len(inside)


def test_files_that_come_within_minutes_after_a_day_are_in_it(artifacts: Artifacts) -> None:
    ids = write_as_replicas(artifacts, TWO_DAYS)
    found = Watching(artifacts)
    found.rounds(now=LATER)
    tell(artifacts, said(TWO_DAYS, ids))
    found.rounds(now=LATER)
    first = TWO_DAYS.filter(pl.col("time") < START + DAY)
    assert positives(found.records(BY_TIME.name)[0]) == (PER_DAY, PER_DAY, first["label"].sum())


def test_a_row_that_is_dated_ahead_is_set_aside_and_the_days_are_as_without_it(tmp_path: Path) -> None:
    states = []
    for odd in (False, True):
        artifacts = Artifacts(str(tmp_path / str(odd)))
        write_example_segments(artifacts, NAME, CALM)
        if odd:
            write_example_segments(artifacts, NAME, CALM.head(1).with_columns(pl.col("time") + 30 * DAY))
        found = Watching(artifacts)
        found.rounds()
        write_example_segments(artifacts, NAME, CALM.tail(1).with_columns(pl.col("time") + timedelta(seconds=30)))
        states.append(found.rounds())
    clean, state = states
    assert (state.aside.ahead, state.rows["7"] - clean.rows["7"], state.watches["7"].rows) == (1, 1, 1601)
    for spec in (BY_COUNT.name, BY_TIME.name):
        assert repr(state.watches["7"].streams[spec].records) == repr(clean.watches["7"].streams[spec].records)


def test_which_rows_are_of_another_time_follows_from_those_around_them() -> None:
    """The naive rule, row by row: the median of the last 31 lags, this one among them."""
    random = np.random.default_rng(4)
    answered = np.datetime64("2026-03-02", "us") + np.sort(random.integers(0, 10**12, 400)).astype("timedelta64[us]")
    lag = random.integers(0, 10**9, 400) + np.where(random.random(400) < 0.1, 40, 0) * 86_400_000_000
    lag[200:] += 3000 * 86_400_000_000  # from here on recorded requests are asked again
    moment, seen = answered - lag.astype("timedelta64[us]"), list(lag[:30])
    dated = date_rows(StreamClock(tuple(seen)), answered[30:], moment[30:], END + 30 * DAY)
    expected = []
    for value in lag[30:]:
        seen.append(value)
        expected.append(abs(value - float(np.median(seen[-31:]))) <= ASTRAY / timedelta(microseconds=1))
    assert dated.kept.tolist() == expected
    assert dated.aside.astray == expected.count(False)
    parts = [date_rows(StreamClock(tuple(lag[:30].tolist())), answered[30:99], moment[30:99], END + 30 * DAY)]
    parts.append(date_rows(parts[0].clock, answered[99:], moment[99:], END + 30 * DAY))
    assert [*parts[0].kept, *parts[1].kept] == expected


def test_members_are_found_whatever_was_joined_and_sampled(artifacts: Artifacts) -> None:
    members, placed = Members(artifacts, NAME), list[tuple[str, int]]()
    files: tuple[MemberFile, ...] = ()
    random = np.random.default_rng(1)
    for batch in range(9):
        rows = int(random.integers(1, 40_000 if batch == 5 else 50))
        moments = [START + timedelta(minutes=batch, microseconds=at) for at in range(rows)]
        ids = [uuid7_at(int(moment.timestamp() * 1000)) for moment in moments]
        frame = pl.DataFrame({"request_id": ids, "row": pl.Series([0] * rows, dtype=pl.Int32), "time": moments})
        panes = np.where(random.random(rows) < 0.1, NO_PANE, batch + random.integers(0, 2, rows))
        files = members.add(files, frame, {"a": panes, "b": np.arange(rows)})
        placed += zip(ids, panes.tolist(), strict=True)
    assert len(files) <= 7
    assert len(artifacts.entries("monitoring", NAME, "members")) >= len(files)
    for first, last in ((0, 0), (3, 4), (5, 6), (0, 9)):
        found = members.of(files, "a", (first, last))
        expected = [id for id, pane in placed if first <= pane <= last and int(id[-8:], 16) % found.one_in == 0]
        assert sorted(found.rows["request_id"]) == sorted(expected)
        assert (found.one_in > 1) == (first <= 6 and last >= 5)


def test_labels_lead_to_panes_whatever_moment_the_ids_of_their_requests_spell(artifacts: Artifacts) -> None:
    members, files = Members(artifacts, NAME), tuple[MemberFile, ...]()
    ids = [uuid7_at(0), "052c7a1b-1c00-7da6-a3ce-929d0e0e4736", "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"]
    for pane, id in enumerate(ids):
        frame = pl.DataFrame({"request_id": [id], "row": [0], "time": [START + timedelta(minutes=pane)]})
        files = members.add(files, frame.cast({"row": pl.Int32}), {"a": np.array([pane])})
    for pane, id in enumerate(ids):
        told = pl.DataFrame({"request_id": [id], "row": pl.Series([0], dtype=pl.Int32)})
        for known in (files, [replace(file, ids=None) for file in files]):  # as they were written before
            assert members.panes_about(known, told)["a"].tolist() == [pane]


def test_what_is_written_of_many_replicas_keeps_the_rate_of_the_endpoint(artifacts: Artifacts) -> None:
    """Batches of one replica each, forty of the same 20 seconds: their own rates are a fortieth of the endpoint's."""
    members, files, replicas, rows = Members(artifacts, "stops"), tuple[MemberFile, ...](), 40, 1000
    for tick in range(8):
        for replica in range(replicas):
            at = [START + timedelta(seconds=20 * (tick + row / rows), microseconds=replica) for row in range(rows)]
            ids = [uuid7_at(int(moment.timestamp() * 1000)) for moment in at]
            batch = pl.DataFrame(
                {"request_id": ids, "row": pl.Series([0] * rows, dtype=pl.Int32), "time": at},
                schema_overrides={"time": pl.Datetime("us", "UTC")},
            )
            files = members.add(files, batch, {"kind": np.full(rows, tick)})
    last_minute = [file for file in files if file.first >= START + timedelta(seconds=100)]
    assert sum(file.rows for file in last_minute) / 60 < MOST_PER_S
    assert len(files) < 60  # of 320 batches
    found = members.of(files, "kind", (7, 7))
    assert 0.5 < len(found.rows) * found.one_in / (replicas * rows) < 2
