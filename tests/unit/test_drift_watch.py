"""The watch of an endpoint: every prediction counted once, whatever it holds and whoever dies; alarms raised once."""

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.alarms import alarms_of, open_alarms
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read_events
from mlops_ray.monitoring.describe import alarm_details, describe
from mlops_ray.monitoring.drift_actor import record_change
from mlops_ray.monitoring.drift_watch import SETTLE, DriftWatch
from mlops_ray.monitoring.error_stream import CalmErrors
from mlops_ray.monitoring.ledger_feed import may_be_moved
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.watch_state import WatchState, read_state
from mlops_ray.monitoring.window_record import WindowRecord
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.labels import BY_REQUEST, SAID, frame_by_keys, write_by_keys, write_by_request
from mlops_ray.testing.example_stream import (
    BY_COUNT,
    BY_TIME,
    PER_DAY,
    START,
    answered,
    example_stream,
    example_watched,
    write_example_segments,
)

NAME = "departures"
DAY = timedelta(days=1)
END = START + 4 * DAY + timedelta(minutes=1)
LATER = START + timedelta(days=30)
WATCHED = example_watched()
CALM = example_stream(4, 12)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


class Watching:
    """A watch, and what it announced. `again` is another process that goes on."""

    def __init__(self, artifacts: Artifacts, find: Any = None):
        self.artifacts, self.announced = artifacts, list[Any]()
        self._find = find or (lambda version: replace(WATCHED, version=version))
        self.again()

    def again(self) -> None:
        self.watch = DriftWatch(self.artifacts, NAME, self._find, self.announced.append)

    def rounds(self, times: int = 2, now: datetime = END, **more: Any) -> WatchState:
        for _ in range(times):
            self.watch.round(now, **more)
        return self.state

    @property
    def state(self) -> WatchState:
        return read_state(self.artifacts, NAME)

    def records(self, spec: str = BY_COUNT.name, version: str = "7") -> tuple[WindowRecord, ...]:
        return self.state.watches[version].streams[spec].records

    def raised(self) -> list[tuple[str, str]]:
        return [(change.kind, change.question) for change in self.announced]


def watching(artifacts: Artifacts, rows: pl.DataFrame, **more: Any) -> Watching:
    """The watch of a ledger that has these rows."""
    write_example_segments(artifacts, NAME, rows, **more)
    found = Watching(artifacts)
    found.rounds()
    return found


def shifted(rows: pl.DataFrame, by: float = 600.0) -> pl.DataFrame:
    return answered(rows.drop("probability", "label").with_columns(pl.col("distance") + by), 3)


# Counting


def test_every_prediction_is_counted_once_and_windows_follow_one_another(artifacts: Artifacts) -> None:
    found = watching(artifacts, CALM)
    assert dict(found.state.rows) == {"7": 1600}
    records = found.records()
    assert [(record.number, record.rows) for record in records] == [(n, 400) for n in range(4)]
    assert all(before.end < after.start for before, after in pairwise(records))
    daily = found.records(BY_TIME.name)
    assert [(record.start, record.rows, record.misdated) for record in daily] == [
        (START + n * DAY, PER_DAY, 0) for n in range(3)
    ]
    assert {record.data.answer for record in (*records, *daily)} == {"no drift"}
    state = found.state
    found.again()
    assert found.rounds().to_bytes() == state.to_bytes()


def test_repeated_answers_count_once_even_if_they_come_late_and_after_a_restart(artifacts: Artifacts) -> None:
    rows = CALM.head(300)
    found = watching(artifacts, rows)
    found.again()
    early = rows.head(200).with_columns(pl.col("time") + timedelta(minutes=2))
    ids = write_example_segments(artifacts, NAME, rows)
    table = artifacts.read_table("ledger", NAME)
    repeated = table.filter(pl.col("request_id").is_in(ids[:200])).with_columns(pl.col("time") + timedelta(minutes=2))
    artifacts.write_table(repeated, "ledger", NAME, "2026-03-02", "019cabcd-0000-7000-8000-000000000001.parquet")
    assert len(early) == 200
    state = found.rounds()
    assert (dict(state.rows), state.repeated) == ({"7": 300}, 200)


def compacted(artifacts: Artifacts, found: Watching) -> int:
    """Move what was read to the table; how many segments that were."""
    ready = may_be_moved(found.state.newest, found.state.segments, START)
    return compact(artifacts, NAME, ready).segments


def test_repeated_answers_count_once_where_the_first_are_in_the_table_already(artifacts: Artifacts) -> None:
    rows = CALM.head(300)
    found = watching(artifacts, rows)
    table = artifacts.read_table("ledger", NAME)
    assert compacted(artifacts, found) == 2
    write_example_segments(artifacts, NAME, CALM.slice(300, 100))
    assert compacted(artifacts, found) == 0  # not read yet
    found.again()
    repeated = table.head(200).with_columns(pl.col("time") + timedelta(minutes=2))
    artifacts.write_table(repeated, "ledger", NAME, "2026-03-02", "019cabcd-0000-7000-8000-000000000001.parquet")
    state = found.rounds()
    assert (dict(state.rows), state.repeated) == ({"7": 400}, 200)


def test_segments_in_the_table_are_named_no_more_and_one_that_comes_back_counts_nothing(artifacts: Artifacts) -> None:
    found = watching(artifacts, CALM.head(800))
    assert len(found.state.segments) == 4
    assert compacted(artifacts, found) == 4
    write_example_segments(artifacts, NAME, CALM[800:1000])
    assert len(found.rounds().segments) == 1
    write_example_segments(artifacts, NAME, CALM[200:400])  # its node had not deleted it
    for _ in range(2):
        assert dict(found.rounds().rows) == {"7": 1000}
        found.again()
    assert found.state.repeated == 200


def test_labels_are_measured_where_their_predictions_are_in_the_table(tmp_path: Path) -> None:
    results = []
    for moved in (False, True):
        artifacts = Artifacts(str(tmp_path / str(moved)))
        ids = write_example_segments(artifacts, NAME, CALM)
        found = Watching(artifacts)
        found.rounds()
        assert not moved or compacted(artifacts, found) == 8
        found.again()
        tell(artifacts, said(CALM, ids))
        found.rounds()
        results.append(repr(measured(found)))
    assert results[0] == results[1]
    assert "None" not in results[0][:20]


def test_windows_by_time_begin_with_the_first_prediction_of_a_backlog(artifacts: Artifacts) -> None:
    odd = pl.int_range(pl.len()) == 5
    rows = CALM.with_columns(as_of=pl.when(odd).then(pl.lit(START - 365 * DAY)).otherwise("time"))
    found = watching(artifacts, rows)
    assert [(r.start, r.rows) for r in found.records(BY_TIME.name)] == [
        (START + n * DAY, PER_DAY - (n == 0)) for n in range(3)
    ]
    assert (found.state.aside.astray, dict(found.state.rows)) == (1, {"7": 1600})


def test_the_part_of_a_window_by_time_in_which_the_stream_began_is_not_judged(artifacts: Artifacts) -> None:
    """Labels are all wrong, of the first day too; but of that only the last 300 predictions were seen."""
    ids = write_example_segments(artifacts, NAME, CALM.tail(1500))
    found = Watching(artifacts)
    found.rounds()
    tell(artifacts, said(CALM.tail(1500), ids).with_columns(~pl.col("label")))
    found.rounds()
    first, second, *_ = found.records(BY_TIME.name)
    assert (first.rows, second.rows) == (300, PER_DAY)
    for verdict in (first.data, first.prediction, first.concept):
        assert verdict is not None
        assert (verdict.answer, verdict.reason[:21]) == ("not enough data", "The first predictions")
    assert second.concept is not None
    assert second.concept.answer == "drift"


def test_segments_that_appear_out_of_order_are_counted(artifacts: Artifacts) -> None:
    order = np.random.default_rng(3).permutation(16)
    found = Watching(artifacts)
    for part in order:
        write_example_segments(artifacts, NAME, CALM[int(part) * 100 : int(part) * 100 + 100])
        found.rounds(1)
    assert dict(found.state.rows) == {"7": 1600}
    assert found.state.watches["7"].rows == 1600


def test_versions_and_shadows_are_watched_apart_and_batch_scoring_is_not(artifacts: Artifacts) -> None:
    write_example_segments(artifacts, NAME, CALM.head(500), version="8", route="shadow")
    write_example_segments(artifacts, NAME, CALM.head(500).with_columns(pl.col("time") + DAY), route="batch")
    found = watching(artifacts, CALM.head(500))
    assert dict(found.state.rows) == {"7": 500, "8": 500}
    assert [len(found.records(version=version)) for version in "78"] == [1, 1]


def test_what_who_operates_asks_a_candidate_is_not_watched(artifacts: Artifacts) -> None:
    write_example_segments(artifacts, NAME, CALM.slice(500, 200), version="8", route="canary")
    write_example_segments(artifacts, NAME, CALM.slice(700, 300), version="8", route="asked")
    found = watching(artifacts, CALM.head(500))
    assert dict(found.state.rows) == {"7": 500, "8": 200}


def test_without_a_reference_predictions_are_counted_and_the_reason_is_said(artifacts: Artifacts) -> None:
    write_example_segments(artifacts, NAME, CALM.head(100))
    found = Watching(artifacts, find=lambda version: "It was sealed without a reference.")
    state = found.rounds()
    assert dict(state.rows) == {"7": 100}
    assert "sealed without a reference" in "\n".join(describe(state, [], LATER))


def test_a_version_that_can_be_judged_again_is_no_longer_said_to_be_unwatched(artifacts: Artifacts) -> None:
    known: list[Watched] = []
    write_example_segments(artifacts, NAME, CALM.head(100))
    found = Watching(artifacts, find=lambda _: known[0] if known else "Its detector is not installed.")
    assert dict(found.rounds().unwatched) == {"7": "Its detector is not installed."}
    known.append(replace(WATCHED, revision=1))
    found.watch.define(1)
    write_example_segments(artifacts, NAME, CALM[100:200])
    assert dict(found.rounds().unwatched) == {}


def test_while_the_registry_is_away_nothing_is_lost(artifacts: Artifacts) -> None:
    away = [True]

    def find(version: str) -> Watched:
        if away:
            raise UnavailableError("The registry is away.")
        return WATCHED

    write_example_segments(artifacts, NAME, CALM.head(500))
    found = Watching(artifacts, find)
    with pytest.raises(UnavailableError):
        found.rounds(1)
    away.clear()
    assert dict(found.rounds().rows) == {"7": 500}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


class Mortal(Artifacts):
    """Storage whose user dies before or after one of its changes."""

    def __init__(self, root: str, dies_at: int, after: bool):
        super().__init__(root)
        self.left, self.after = dies_at, after

    def write_table(self, frame: pl.DataFrame, *parts: str, **how: Any) -> str:
        self._die(partial(super().write_table, **how), frame, *parts)
        return self.url(*parts)

    def write_bytes(self, content: bytes, *parts: str) -> None:
        self._die(super().write_bytes, content, *parts)

    def create_bytes(self, content: bytes, *parts: str) -> bool:
        self._die(super().create_bytes, content, *parts)
        return True

    def delete(self, *parts: str) -> None:
        self._die(super().delete, *parts)

    def _die(self, change: Any, *given: Any) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        change(*given)
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_between_any_two_writes_counts_and_alarms_are_the_same(
    store: ControlStore, tmp_path: Path, after: bool
) -> None:
    rows = pl.concat([CALM.head(800), shifted(CALM.tail(800))])
    deaths = 0
    for dies_at in range(1, 12):
        use_case, root = f"{NAME}_{dies_at}", str(tmp_path / str(dies_at))
        artifacts = Artifacts(root)

        def announce(change: Any, use_case: str = use_case) -> None:
            record_change(store, use_case, change)
            record_change(store, use_case, change)  # told again, as after a kill

        written = 0
        try:
            mortal = DriftWatch(Mortal(root, dies_at, after), NAME, lambda version: WATCHED, announce)
            for written in (400, 800, 1200, 1600):
                write_example_segments(artifacts, NAME, rows[written - 400 : written], size=400)
                mortal.round(END)
        except Killed:
            deaths += 1
        write_example_segments(artifacts, NAME, rows[written:], size=400)
        DriftWatch(artifacts, NAME, lambda version: WATCHED, announce).round(END)
        state = read_state(artifacts, NAME)
        assert (dict(state.rows), state.watches["7"].rows) == ({"7": 1600}, 1600)
        events = read_events(store, use_case=use_case, types=["alarm.raised"])
        assert [event.payload["question"] for event in events].count("data") == 1
    assert deaths == 11


def test_an_alarm_that_could_not_be_recorded_is_announced_later_and_by_the_next_process(artifacts: Artifacts) -> None:
    write_example_segments(artifacts, NAME, shifted(CALM))
    found = Watching(artifacts)

    def away(change: Any) -> None:
        raise UnavailableError("The control store is away.")

    lost = DriftWatch(artifacts, NAME, lambda version: WATCHED, away)
    with pytest.raises(UnavailableError):
        lost.round(END)
    assert found.announced == []
    found.again()
    found.rounds()
    assert ("raised", "data") in found.raised()
    found.again()
    found.rounds()
    assert len({change.id for change in found.announced}) == len(set(found.raised()))


def test_of_two_watches_of_an_endpoint_each_prediction_counts_once(artifacts: Artifacts) -> None:
    first, second = Watching(artifacts), Watching(artifacts)
    for number in range(8):
        write_example_segments(artifacts, NAME, CALM[number * 200 : number * 200 + 200])
        (first, second)[number % 2].rounds(1)
        (second, first)[number % 2].rounds(1)
    first.rounds()
    assert dict(first.state.rows) == {"7": 1600}


def test_a_damaged_commit_is_passed_over(artifacts: Artifacts) -> None:
    found = watching(artifacts, CALM.head(800))
    state = found.state
    last = artifacts.entries("monitoring", NAME, "state")[-1].name
    artifacts.write_bytes(b"half a", "monitoring", NAME, "state", f"{int(last.split('-')[0]) + 1:012}-x")
    assert read_state(artifacts, NAME).to_bytes() == state.to_bytes()
    found.again()
    write_example_segments(artifacts, NAME, CALM)
    assert dict(found.rounds().rows) == {"7": 1600}
    assert len(artifacts.entries("monitoring", NAME, "state")) <= 4


# Drift


def test_drift_raises_one_alarm_with_features_size_examples_and_since_when(
    artifacts: Artifacts, store: ControlStore
) -> None:
    rows = pl.concat([CALM, shifted(example_stream(4, 13, START + 4 * DAY)), example_stream(6, 14, START + 8 * DAY)])
    ids = write_example_segments(artifacts, NAME, rows)
    watch = DriftWatch(artifacts, NAME, lambda version: WATCHED, lambda change: record_change(store, NAME, change))
    watch.round(LATER)
    (alarm,) = [one for one in alarms_of(store, NAME) if "distance" in one.payload["columns"]]
    assert START + 3 * DAY < alarm.since <= START + 5 * DAY
    assert alarm.resolved_at is not None
    finding = alarm.payload["findings"][0]
    assert (finding["column"], finding["importance"]) == ("distance", 0.75)
    assert "standard deviations" in finding["shift"]
    examples = alarm.payload["examples"]
    assert {example["request_id"] for example in examples} <= set(ids[1600:])
    assert min(example["distance"] for example in examples) > 2000
    text = "\n".join(alarm_details(alarm, LATER))
    assert "75 % of the model's importance" in text
    assert f"for example request_id {examples[0]['request_id']}, row 0, distance 2" in text
    assert open_alarms(store, NAME, 7, LATER) == []


def test_an_open_alarm_of_a_version_that_takes_no_traffic_any_more_is_resolved(artifacts: Artifacts) -> None:
    found = watching(artifacts, shifted(CALM))
    assert ("raised", "data") in found.raised()
    found.rounds(live={"8"})
    assert found.raised().count(("resolved", "data")) == 1
    assert found.state.watches["7"].raised == {}


# Bad input


def spoiled(**columns: Any) -> pl.DataFrame:
    return CALM.with_columns(**columns)


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        (spoiled(distance=pl.lit(1000.0)), "distance"),
        (spoiled(distance=pl.lit(None, dtype=pl.Float64)), "distance"),
        (spoiled(origin=pl.lit("SFO")), "origin"),
        (CALM.drop("distance"), "distance"),
        (spoiled(distance=pl.lit("text")), "distance"),
        (spoiled(distance=pl.lit(float("inf"))), "distance"),
    ],
    ids=["constant", "all missing", "a category never seen", "disappeared", "another type", "infinite"],
)
def test_features_that_go_wrong_are_named(artifacts: Artifacts, rows: pl.DataFrame, column: str) -> None:
    found = watching(artifacts, rows)
    for record in found.records():
        assert record.data.answer == "drift"
        assert record.data.findings[0].column == column


def test_empty_windows_and_few_rows_are_never_no_drift(artifacts: Artifacts) -> None:
    rows = pl.concat([CALM.head(PER_DAY), CALM.filter(pl.col("time") >= START + 3 * DAY).head(50)])
    found = watching(artifacts, rows)
    found.rounds(now=START + 5 * DAY)
    by_day = {record.start: record for record in found.records(BY_TIME.name)}
    assert by_day[START].data.answer == "no drift"
    assert (by_day[START + 2 * DAY].rows, by_day[START + 3 * DAY].rows) == (0, 50)  # of a gap one empty window is made
    for day in (2, 3):
        assert by_day[START + day * DAY].data.answer == "not enough data"
        assert "Not enough data" in by_day[START + day * DAY].diagnosis


def test_time_passes_without_predictions_where_they_are_of_now(artifacts: Artifacts) -> None:
    found = watching(artifacts, CALM.head(PER_DAY))
    assert [record.rows for record in found.records(BY_TIME.name)] == [PER_DAY, 0]
    found.rounds(now=LATER + SETTLE)
    assert {record.rows for record in found.records(BY_TIME.name)[1:]} == {0}


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_clock_that_jumps_an_hour_loses_nothing(artifacts: Artifacts, jump: timedelta) -> None:
    late = pl.col("time") >= START + 2 * DAY - timedelta(hours=2)
    rows = CALM.with_columns(time=pl.when(late).then(pl.col("time") + jump).otherwise("time"))
    write_example_segments(artifacts, NAME, rows)
    found = Watching(artifacts)
    found.rounds(now=END + timedelta(hours=2))
    daily = found.records(BY_TIME.name)
    stream = found.state.watches["7"].streams[BY_TIME.name].state
    waiting = [pane for pane in (stream.open, *stream.later) if pane]
    assert sum(record.rows for record in daily) + sum(pane.rows for pane in waiting) == 1600
    assert {record.data.answer for record in daily} == {"no drift"}


def test_a_caller_who_asks_about_other_times_does_not_end_windows(artifacts: Artifacts) -> None:
    odd = pl.int_range(pl.len()) % 40 == 0
    past = CALM.with_columns(as_of=pl.when(odd).then(pl.lit(START - 365 * DAY)).otherwise("time"))
    found = watching(artifacts, past)
    daily = found.records(BY_TIME.name)
    assert [(record.start, record.rows) for record in daily] == [(START + n * DAY, 390) for n in range(3)]
    assert found.state.aside.astray == 40


# Labels


def said(rows: pl.DataFrame, ids: list[str], delay: timedelta = DAY) -> pl.DataFrame:
    """The labels of a stream as they are stored."""
    known = pl.Series("known_at", rows["time"] + delay)
    table = pl.DataFrame({"request_id": ids, "label": rows["label"]}).with_columns(
        known, row=pl.lit(0, pl.Int32), received_at=known
    )
    return table.select(pl.col(name).cast(type_) for name, type_ in BY_REQUEST.items())


def tell(artifacts: Artifacts, labels: pl.DataFrame, number: int = 0) -> None:
    write_by_request(artifacts, NAME, f"019cab00-0000-7000-8000-{number:012}", labels)


def measured(found: Watching) -> list[Any]:
    """As text, in which NaN equals NaN and floats are equal in all bits."""
    return [repr(one) for one in _measured(found)]


def _measured(found: Watching) -> list[Any]:
    return [
        (r.spec, r.number, r.labelled, r.quality, r.concept) for s in (BY_COUNT, BY_TIME) for r in found.records(s.name)
    ]


def test_quality_is_estimated_before_labels_and_measured_after(artifacts: Artifacts) -> None:
    ids = write_example_segments(artifacts, NAME, CALM)
    found = Watching(artifacts)
    found.rounds()
    before = found.records()[0]
    assert before.quality == ()
    assert before.estimated is not None
    assert before.estimated.low is not None
    tell(artifacts, said(CALM, ids))
    found.rounds()
    after = found.records()[0]
    assert (after.labelled, after.quality[0].rows) == (400, 400)
    assert {one.slice for one in after.quality} == {"all", "origin=EWR", "origin=JFK", "origin=LGA"}
    assert before.estimated.low <= after.quality[0].watched.value <= before.estimated.high
    assert after.settled
    assert "Labels are as probable as the model says" in after.diagnosis
    words = "\n".join(describe(found.state, [], LATER))
    assert "measured on 400 labels" in words
    assert ", as estimated, log loss" in words


def test_late_repeated_and_reordered_labels_give_the_same_bits(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    results = []
    for clean in (True, False):
        artifacts = Artifacts(str(tmp_path / str(clean)))
        ids = write_example_segments(artifacts, NAME, CALM)
        labels = said(CALM, ids)
        found = Watching(artifacts)
        if clean:
            found.rounds()
            tell(artifacts, labels)
        else:
            late = pl.Series(random.random(1600) < 0.1)
            twice = labels.filter(pl.Series(random.random(1600) < 0.1))
            wrong_first = labels.head(160).with_columns(~pl.col("label"), pl.col("known_at") - DAY)
            tell(artifacts, labels.filter(~late)[random.permutation(int((~late).sum()))], 1)
            found.rounds()
            tell(artifacts, pl.concat([twice, wrong_first]), 2)
            found.rounds()
            found.again()
            tell(artifacts, labels.filter(late), 3)
        found.rounds()
        results.append(measured(found))
    assert results[0] == results[1]
    assert all(found.records()[number].labelled == 400 for number in range(4))


def test_labels_that_contradict_the_model_are_concept_drift_and_not_data_drift(artifacts: Artifacts) -> None:
    ids = write_example_segments(artifacts, NAME, CALM)
    found = Watching(artifacts)
    found.rounds()
    tell(artifacts, said(CALM, ids).with_columns(~pl.col("label")))
    found.rounds()
    assert found.raised() == [("raised", "concept")]
    (alarm,) = found.announced
    assert alarm.severity == "critical"
    assert set(alarm.payload["examples"][0]) == {"request_id", "row", "probability", "label"}
    assert "But what they mean has changed (concept drift)" in found.records()[0].diagnosis


def test_the_errors_are_followed_and_a_restart_goes_on_with_them(artifacts: Artifacts) -> None:
    limits = {"adwin": 0.002, "page_hinkley": 20.0}
    watched = replace(WATCHED, reference=replace(WATCHED.reference, errors=CalmErrors(limits)))
    rows = example_stream(8, 15)
    ids = write_example_segments(artifacts, NAME, rows)
    worse = pl.Series(np.random.default_rng(1).random(len(rows)) < 0.5) & (pl.int_range(pl.len()) >= 1600)
    told = said(rows, ids).with_columns(pl.when(worse).then(~pl.col("label")).otherwise("label").alias("label"))
    results = []
    for restarts in (False, True):
        for folder in ("labels", "monitoring"):
            artifacts.delete(folder)
        found = Watching(artifacts, find=lambda version: watched)
        for number in range(4):
            tell(artifacts, told[number * 800 : number * 800 + 800], number)
            if restarts:
                found.again()
            found.rounds(now=LATER)
        raised = {change.id: change.title for change in found.announced if change.kind == "raised"}
        results.append((found.state.watches["7"].errors, list(raised.values())))
    assert results[0] == results[1]
    (errors, raised), _ = results
    assert errors.taken == 3200
    assert len(errors.kept) < 2 * 3200, "it has begun anew at the change"
    assert any("Concept drift" in title for title in raised)


def test_labels_by_keys_are_found_and_a_withdrawn_one_does_not_count(artifacts: Artifacts) -> None:
    ids = write_example_segments(artifacts, NAME, CALM)
    found = Watching(artifacts)
    found.rounds()
    told = said(CALM, ids)
    keys = CALM.select("carrier", "time").rows()
    labels = frame_by_keys([("carrier", "text"), ("departure", "timestamp")], keys, told.select(list(SAID)))
    write_by_keys(artifacts, NAME, "019cab00-0000-7000-8000-000000000001", "departure", labels)
    found.rounds()
    assert [record.labelled for record in found.records()] == [400] * 4
    gone = told.head(100).with_columns(pl.lit(None, pl.Boolean).alias("label"), pl.col("known_at") + DAY)
    tell(artifacts, gone, 2)
    found.rounds()
    assert [record.labelled for record in found.records()] == [300, 400, 400, 400]


def test_labels_of_unknown_requests_change_nothing_and_count_when_the_prediction_comes(artifacts: Artifacts) -> None:
    ids = write_example_segments(artifacts, NAME, CALM)
    labels = said(CALM, ids)
    artifacts.delete("ledger")
    tell(artifacts, labels)
    tell(artifacts, labels.with_columns(request_id=pl.lit("no uuid at all")), 1)
    found = Watching(artifacts)
    found.rounds()
    assert found.state.watches == {}
    write_example_segments(artifacts, NAME, CALM)
    found.rounds()
    assert [record.labelled for record in found.records()] == [400] * 4
