"""Labels count however late, those that come first alarm nobody, and what comes too late is counted and said."""

from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import UnavailableError
from mlops_ray.monitoring import drift_watch, window_archive
from mlops_ray.monitoring.describe import describe
from mlops_ray.monitoring.error_stream import CalmErrors
from mlops_ray.monitoring.judging import judge_concept
from mlops_ray.monitoring.label_times import declare_label_times
from mlops_ray.monitoring.labelling import Labelled, take_labels
from mlops_ray.monitoring.missing_labels import at_best
from mlops_ray.monitoring.observation import moments_of, observe
from mlops_ray.monitoring.quality import quality_of
from mlops_ray.monitoring.reliability import Reliability, miscalibration
from mlops_ray.monitoring.version_watch import VersionWatch
from mlops_ray.monitoring.watch_state import Commits
from mlops_ray.monitoring.window_archive import WindowArchive
from mlops_ray.monitoring.window_record import WindowRecord
from mlops_ray.predictions.label_compaction import LEAST_FILES, compact_labels
from mlops_ray.tasks.day_variance import variance_between, variance_of_sum
from mlops_ray.testing.example_stream import BY_COUNT, START, example_stream, write_example_segments
from tests.unit.test_drift_watch import DAY, NAME, WATCHED, Watching, said, tell

ROWS = BY_COUNT.rows or 0
DAYS = 20
STREAM = example_stream(DAYS, 21)
NOW = START + (DAYS + 5) * DAY
HOURS = (1, 8, 24, 48, 71, 73, 120)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_archive, "KEPT_WINDOWS", 4)
    monkeypatch.setattr(window_archive, "BLOCK_WINDOWS", 3)
    monkeypatch.setattr(drift_watch, "_LABELS_S", 60.0)


def declare(artifacts: Artifacts, count_for: timedelta, complete_after: timedelta | None = None) -> None:
    wanted = SimpleNamespace(labels_count_for=count_for, labels_complete_after=complete_after)
    use_case: Any = SimpleNamespace(name=NAME, monitoring=wanted)
    declare_label_times(artifacts, use_case)


def all_records(found: Watching, spec: str = BY_COUNT.name) -> list[WindowRecord]:
    """Those at hand and those in files."""
    stream, archive = found.state.watches["7"].streams[spec], WindowArchive(found.artifacts, NAME)
    records = [*(record for block in stream.archive for record in archive.read(block)), *stream.records]
    return sorted(records, key=lambda record: record.number)


@pytest.mark.usefixtures("small_files")
def test_labels_of_windows_of_long_ago_count_and_few_windows_are_at_hand(artifacts: Artifacts) -> None:
    ids = write_example_segments(artifacts, NAME, STREAM)
    found = Watching(artifacts)
    found.rounds(now=NOW)
    labels, late = said(STREAM, ids), 8 * ROWS
    tell(artifacts, labels.tail(len(labels) - late), 1)
    found.rounds(now=NOW)
    tell(artifacts, labels[late // 2 : late], 2)
    found.rounds(3, now=NOW)
    found.again()
    tell(artifacts, labels[: late // 2], 3)
    found.rounds(3, now=NOW)
    for number, record in enumerate(all_records(found)):
        rows = STREAM[number * ROWS : number * ROWS + ROWS]
        assert (record.number, record.labelled, record.settled) == (number, ROWS, True)
        assert record.quality[0].watched.value == pytest.approx(roc_auc_score(rows["label"], rows["probability"]))
    for stream in found.state.watches["7"].streams.values():
        assert len(stream.records) < 4 + 3
    named = {block.name for stream in found.state.watches["7"].streams.values() for block in stream.archive}
    assert named <= {entry.name for entry in artifacts.entries("monitoring", NAME, "windows")}


@pytest.mark.usefixtures("small_files")
def test_what_comes_after_the_horizon_is_counted_and_said_and_changes_nothing(artifacts: Artifacts) -> None:
    declare(artifacts, 10 * DAY)
    ids = write_example_segments(artifacts, NAME, STREAM)
    found = Watching(artifacts)
    found.rounds(now=NOW)
    old = STREAM.filter(pl.col("time") < (NOW - 11 * DAY).replace(hour=0, minute=0))
    late = pl.int_range(pl.len()) < len(old)
    labels = said(STREAM, ids).with_columns(pl.when(late).then(pl.col("known_at") + 11 * DAY).otherwise("known_at"))
    tell(artifacts, labels, 1)
    found.rounds(now=NOW)
    assert found.state.late_labels == len(old)
    assert f"{len(old):,} labels came later" in "\n".join(describe(found.state, [], NOW))
    for record in all_records(found):
        if record.start > NOW - 9 * DAY:
            assert record.labelled == ROWS
        elif record.end < NOW - 12 * DAY:
            assert record.labelled == 0
    write_example_segments(artifacts, NAME, STREAM.tail(1).with_columns(pl.lit(NOW).alias("time")))
    found.again()
    found.rounds(now=NOW)
    assert all_records(found)[0].start > NOW - 15 * DAY, "windows of before are forgotten"
    tell(artifacts, labels.head(5).with_columns(pl.col("received_at") + 30 * DAY), 2)
    found.rounds(now=NOW)
    assert found.state.late_labels == len(old) + 5


def test_labels_that_came_in_time_are_not_late_where_a_restart_or_compaction_shows_them_again(
    artifacts: Artifacts,
) -> None:
    declare(artifacts, 5 * DAY)
    ids = write_example_segments(artifacts, NAME, STREAM)
    found = Watching(artifacts)
    found.rounds(now=NOW)
    labels = said(STREAM, ids)
    for number in range(LEAST_FILES):
        tell(artifacts, labels.head(ROWS).gather_every(LEAST_FILES, number), number)
    found.rounds(now=NOW)
    told = labels.head(1).with_columns(known_at=pl.lit(NOW).dt.cast_time_unit("us"))
    tell(artifacts, told.with_columns(received_at=pl.col("known_at")), 90)
    found.again()
    found.rounds(now=NOW)
    assert found.state.late_labels == 1
    assert compact_labels(artifacts, NAME)
    found.rounds(now=NOW)
    assert found.state.late_labels == 1


def test_a_label_that_is_told_again_too_late_leaves_the_one_that_was_in_time(artifacts: Artifacts) -> None:
    declare(artifacts, 90 * DAY)
    ids = write_example_segments(artifacts, NAME, STREAM)
    found = Watching(artifacts)
    labels = said(STREAM, ids)
    tell(artifacts, labels, 1)
    found.rounds(now=NOW)
    before = [record.labelled for record in all_records(found)]
    tell(artifacts, labels.with_columns(pl.col("known_at") + 90 * DAY, pl.col("received_at") + 90 * DAY), 2)
    found.rounds(now=NOW)
    assert [record.labelled for record in all_records(found)] == before
    assert before == [ROWS] * len(before)


def test_windows_whose_commit_failed_are_measured_again(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = write_example_segments(artifacts, NAME, STREAM.head(2 * ROWS))
    found = Watching(artifacts)
    found.rounds(now=NOW)
    tell(artifacts, said(STREAM.head(2 * ROWS), ids))
    with monkeypatch.context() as away:
        away.setattr(Commits, "write", Mock(side_effect=UnavailableError("The storage is away.")))
        with pytest.raises(UnavailableError):
            found.rounds(now=NOW)
    found.rounds(now=NOW)
    assert [record.labelled for record in all_records(found)] == [ROWS, ROWS]


def test_of_windows_that_slide_each_error_is_followed_once() -> None:
    reference = replace(WATCHED.reference, errors=CalmErrors({"page_hinkley": 50.0}))
    watch = windows_of(STREAM)
    stream = watch.streams[BY_COUNT.name]
    assert next(iter(reference.windows)) == BY_COUNT.name
    slid = [replace(record, panes=(record.number, record.number + 3)) for record in stream.records[:9]]
    watch = replace(watch, streams={**watch.streams, BY_COUNT.name: replace(stream, records=tuple(slid))})
    told = Labelled((), errors=np.zeros(100), grown_up=True)
    labelled = {(BY_COUNT.name, record.number): told for record in slid}
    seen = take_labels(watch, replace(WATCHED, reference=reference), labelled, lambda: "an alarm").watch
    assert (seen.errors.taken, seen.errors.pane) == (300, 11), "of the windows 0, 4 and 8"
    assert all(record.followed for record in seen.streams[BY_COUNT.name].records)


def windows_of(rows: pl.DataFrame) -> VersionWatch:
    moments = moments_of(rows["time"])
    named = rows.drop("time", "label").rename({"probability": "prediction"})
    seen = observe(VersionWatch("7"), WATCHED, named, moments, moments, rows["time"][-1], lambda: "an alarm")
    return seen.watch


def labelled_at(rows: pl.DataFrame, known: pl.Series, record: WindowRecord, at: timedelta) -> Labelled:
    """What is known of a window so long after its end."""
    inside = pl.col("time").is_between(record.start, record.end)
    part = rows.with_columns(pl.when(known <= record.end + at).then("label").alias("label")).filter(inside)
    named = part.with_columns(request_id=pl.int_range(pl.len()).cast(pl.String).str.zfill(6), row=pl.lit(0))
    edges = WATCHED.reference.reliability["all"].edges
    return Labelled(quality_of(named, record.start, record.end, edges, WATCHED.slices))


def test_labels_whose_delay_depends_on_the_class_alarm_no_more_often_than_stated() -> None:
    """No drift; negatives are known after an hour, positives after three days. All windows are looked at, at all ages,
    and one window in ten may alarm. Judged by the labels that have come, most do."""
    rows = example_stream(60, 31)
    known = rows.select(pl.col("time") + pl.when("label").then(3 * DAY).otherwise(timedelta(hours=1)))["time"]
    watch, naive, alarmed = windows_of(rows), set(), set()
    for hours in HOURS:
        records = watch.streams[BY_COUNT.name].records
        labelled = {
            (BY_COUNT.name, record.number): labelled_at(rows, known, record, timedelta(hours=hours))
            for record in records
        }
        watch = take_labels(watch, WATCHED, labelled, lambda: "an alarm").watch
        for record in watch.streams[BY_COUNT.name].records:
            assert record.concept is not None
            found = {one.slice: one.reliability for one in labelled[BY_COUNT.name, record.number].qualities}
            verdict = judge_concept(found, record.start, record.end, WATCHED.reference, BY_COUNT.name)
            naive |= {record.number} if verdict.answer == "drift" else set()
            alarmed |= {record.number} if record.concept.answer == "drift" else set()
    assert len(watch.streams[BY_COUNT.name].records) == 60
    assert len(naive) > 30, "the simulation shows the fault"
    assert len(alarmed) <= 12, "6 expected of 60; 13 or more have a chance of 0.6 %"
    assert all(record.settled for record in watch.streams[BY_COUNT.name].records)


@pytest.mark.parametrize(("share", "origins"), [(1.0, ["EWR"]), (0.85, ["EWR", "JFK"])])
def test_flipped_labels_of_a_slice_are_found_also_before_all_have_come(share: float, origins: list[str]) -> None:
    """With one false alarm a month at most, a slice of a hundred rows is not seen where 60 of 400 labels are missing:
    they could say otherwise. Two such slices are."""
    rows = example_stream(12, 33)
    flipped = pl.col("origin").is_in(origins) & (pl.col("time") >= START + 6 * DAY)
    rows = rows.with_columns(pl.when(flipped).then(~pl.col("label")).otherwise("label").alias("label"))
    random = np.random.default_rng(2)
    known = rows.select(pl.col("time") + pl.when(pl.Series(random.random(len(rows)) < share)).then(DAY))["time"]
    watch = windows_of(rows)
    labelled = {
        (BY_COUNT.name, record.number): labelled_at(rows, known, record, 5 * DAY)
        for record in watch.streams[BY_COUNT.name].records
    }
    seen = take_labels(watch, WATCHED, labelled, lambda: "an alarm")
    answers = [record.concept and record.concept.answer for record in seen.watch.streams[BY_COUNT.name].records]
    assert answers[6] == "drift", "on the first day"
    assert answers[6:].count("drift") >= 4
    assert answers[:6].count("drift") == 0
    assert next(change.kind for change in seen.changes) == "raised"


def test_a_window_that_has_grown_up_is_judged_by_the_labels_there_are(artifacts: Artifacts) -> None:
    """A third of the things are ever looked into: after the stated time that is all there will be."""
    declare(artifacts, 30 * DAY, 3 * DAY)
    rows = STREAM.head(4 * ROWS)
    ids = write_example_segments(artifacts, NAME, rows)
    labels = said(rows, ids).filter(pl.int_range(pl.len()) % 3 < 2)
    found = Watching(artifacts)
    tell(artifacts, labels.with_columns(~pl.col("label")))
    found.rounds(now=START + 4 * DAY)
    answers = [record.concept and record.concept.answer for record in found.records()]
    found.rounds(now=START + 12 * DAY)
    assert all(record.grown_up and record.settled for record in found.records())
    assert [record.concept and record.concept.answer for record in found.records()] == ["drift"] * 4
    assert set(answers) <= {"drift", "not enough data"}
    assert ("raised", "concept") in found.raised()


@pytest.mark.parametrize("seed", range(20))
def test_no_missing_label_can_make_less_of_the_statistic(seed: int) -> None:
    """All ways to fill in a few missing labels are tried."""
    random = np.random.default_rng(seed)
    edges = [0.5]
    guess = random.choice([0.3, 0.7], 12)
    label, missing = random.random(12) < 0.5, np.arange(12) < random.integers(0, 7)
    reference = Reliability.of([0.3] * 50 + [0.7] * 50, random.random(100) < 0.5, edges)
    known = Reliability.of(guess[~missing], label[~missing], edges)
    least = miscalibration(
        reference, at_best(known, Reliability.of(guess[missing], [0] * missing.sum(), edges), reference)
    )
    for filled in product([False, True], repeat=int(missing.sum())):
        whole = np.where(missing, np.concatenate([filled, np.zeros(12 - len(filled), bool)]), label)
        assert miscalibration(reference, Reliability.of(guess, whole, edges)) >= least - 1e-9


def test_intervals_have_the_dependence_of_days() -> None:
    """Labels of a day are as probable as the answers say but for what the day adds: the interval must cover the AUC of
    all days; one for independent rows does not."""
    random = np.random.default_rng(5)
    covered = independent = 0
    reference = START - timedelta(days=400)
    for _ in range(150):
        day = np.repeat(np.arange(14), 100)
        score = random.random(1400)
        odds = 4 * (score - 0.5) * (1 + random.normal(0, 1.0, 14)[day])
        label = random.random(1400) < 1 / (1 + np.exp(-odds))
        rows = pl.DataFrame({"request_id": np.arange(1400).astype(str), "probability": score, "label": label})
        rows = rows.with_columns(row=pl.lit(0), time=pl.lit(reference) + pl.duration(days=pl.Series(day)))
        found = quality_of(rows, reference, reference + 14 * DAY, np.array([0.5]))[0]["roc_auc"]
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.7225 <= found.high
        alone = quality_of(rows.with_columns(time=pl.lit(reference)), reference, reference, np.array([0.5]))[0][
            "roc_auc"
        ]
        assert alone.low is not None
        assert alone.high is not None
        independent += alone.low <= 0.7225 <= alone.high
    assert covered >= 0.9 * 150 > independent


def test_the_variance_between_days_is_that_of_the_definition() -> None:
    random = np.random.default_rng(6)
    day, label = random.integers(0, 7, 200), random.random(200) < 0.4
    score = np.round(random.random(200) + 0.3 * label, 1)
    ups, downs = score[label], score[~label]
    psi = (ups[:, None] > downs) + 0.5 * (ups[:, None] == downs)
    total = 0.0
    for one in range(7):
        up = (psi.mean(1)[day[label] == one] - psi.mean()).sum() / len(ups)
        down = (psi.mean(0)[day[~label] == one] - psi.mean()).sum() / len(downs)
        total += (up + down) ** 2
    assert variance_between(score, label, day) == pytest.approx(total * 7 / 6)
    assert variance_of_sum(score, day % 4) == 0
