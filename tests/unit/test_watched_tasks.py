"""Answers that are a number, or one of several classes, are watched as those of yes and no are."""

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import DataError
from mlops_ray.monitoring.answers import answer_in
from mlops_ray.monitoring.describe import describe
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.earlier_records import decode
from mlops_ray.monitoring.error_stream import ErrorStream, take_errors
from mlops_ray.monitoring.labelling import Labelled, take_labels
from mlops_ray.monitoring.observation import moments_of, observe
from mlops_ray.monitoring.performance_estimation import EstimatedQuality
from mlops_ray.monitoring.quality import join_labels, quality_of
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.slices import ALL_ROWS
from mlops_ray.monitoring.version_watch import VersionWatch, Watched
from mlops_ray.monitoring.window_record import SliceQuality, WindowRecord
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.labels import write_by_request
from mlops_ray.predictions.segments import FEATURE, write_segment
from mlops_ray.tasks.evaluation import Measured
from mlops_ray.testing.example_tasks import CLASSES, NUMBERS, SPEC, World

WORLDS = {"numbers": NUMBERS, "classes": CLASSES}


@cache
def reference_of(name: str) -> Reference:
    return WORLDS[name].reference()


@pytest.fixture(params=["numbers", "classes"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def lived(name: str, rows: pl.DataFrame) -> VersionWatch:
    """What a watch knows of windows whose predictions were all counted, and whose labels have all come."""
    reference = reference_of(name)
    watched, fit = Watched("7", reference), reference.label_fit
    rows, moment = reference.with_answers(rows), moments_of(rows["time"])
    ids = iter(range(10**6))

    def new_id() -> str:
        return str(next(ids))

    end = rows["time"][-1] + timedelta(days=1)
    seen = observe(VersionWatch("7"), watched, rows, moment, moment, end, new_id)
    found = {}
    for record in seen.watch.streams[SPEC.name].records:
        part = rows[record.number * 600 : (record.number + 1) * 600]
        edges = reference.reliability[ALL_ROWS].edges
        qualities = quality_of(part, record.start, record.end, edges, watched.slices, fit)
        errors = fit.stream(part, reference.reliability[ALL_ROWS])
        found[SPEC.name, record.number] = Labelled(qualities, errors=errors, grown_up=True)
    return take_labels(seen.watch, watched, found, new_id).watch


def records(watch: VersionWatch) -> tuple[WindowRecord, ...]:
    return watch.streams[SPEC.name].records


def drifts(watch: VersionWatch) -> tuple[int, int, int]:
    """In how many windows the data, the answers and what labels say of them have changed."""
    found = records(watch)
    told = [one.concept for one in found if one.concept is not None]
    assert {verdict.answer for verdict in told} <= {"drift", "no drift"}
    answers = ([one.data for one in found], [one.prediction for one in found], told)
    data, prediction, concept = (sum(verdict.answer == "drift" for verdict in part) for part in answers)
    return data, prediction, concept


@cache
def calm(name: str) -> VersionWatch:
    """500 days in which nothing changes."""
    return lived(name, WORLDS[name].stream(500, 2, 300))


def test_calm_answers_raise_hardly_any_alarm_over_many_windows(name: str) -> None:
    assert len(records(calm(name))) == 100
    # One alarm in 100 days was asked for, and a window is five days long.
    assert sum(drifts(calm(name))) <= 500 / 100 + 2 * np.sqrt(500 / 100)


def test_a_shift_of_inputs_is_found_in_the_data_and_in_the_answers(name: str) -> None:
    watch = lived(name, WORLDS[name].stream(50, 4, 300, shift=0.6))
    data, prediction, concept = drifts(watch)
    assert data >= 9
    assert prediction >= 9
    assert concept <= 1  # labels follow the answers as before
    assert all(one.prediction.findings[0].column.startswith("prediction") for one in records(watch)[:9])


def test_labels_that_no_longer_follow_the_answers_are_found_and_inputs_are_not_blamed(name: str) -> None:
    watch = lived(name, WORLDS[name].stream(100, 5, 300, turned=0.4))
    data, prediction, concept = drifts(watch)
    assert concept >= 18
    assert data + prediction <= 3
    assert "concept" in watch.raised
    assert watch.severities["concept"] == "critical"


def test_a_slow_rise_of_errors_is_followed_beyond_single_windows(name: str) -> None:
    rows = WORLDS[name].stream(200, 6, 300)
    turned = WORLDS[name].stream(200, 6, 300, turned=0.25)
    later = pl.int_range(pl.len()) >= len(rows) // 2
    mixed = rows.with_columns(pl.when(later).then(turned["label"]).otherwise("label").alias("label"))
    reference = reference_of(name)
    fit, whole = reference.label_fit, reference.reliability[ALL_ROWS]
    calm, risen = (fit.stream(reference.with_answers(part), whole) for part in (rows, mixed))
    limits = reference.errors.limits
    assert not take_errors(ErrorStream(), calm, limits).changes
    (change, *_) = take_errors(ErrorStream(), risen, limits).changes
    assert change.after > change.before


def test_errors_that_grow_with_harder_inputs_are_foretold_and_no_concept_drift(name: str) -> None:
    watch = lived(name, WORLDS[name].stream(100, 7, 300, harder=0.4))
    data, _, concept = drifts(watch)
    assert data == 20
    assert concept <= 1
    found = records(watch)
    foretold, measured = (np.mean(part) for part in zip(*map(_both, found), strict=True))
    before = np.mean([_both(one)[1] for one in records(calm(name))])
    assert measured > 1.1 * before
    assert foretold == pytest.approx(measured, rel=0.04)
    assert found[0].data.quality < -0.1  # the alarm says by which part the error to expect has grown


def _both(record: WindowRecord) -> tuple[float, float]:
    assert record.estimated is not None
    assert record.estimated.metric == next(iter(record.quality[0].metrics))
    return record.estimated.value, record.quality[0].watched.value


def test_the_interval_of_an_estimate_has_what_labels_show_in_it(name: str) -> None:
    found = records(calm(name))
    inside = [
        one.estimated.low <= one.quality[0].watched.value <= one.estimated.high
        for one in found
        if one.estimated and one.estimated.low is not None and one.estimated.high is not None
    ]
    assert len(inside) == 100
    assert 88 <= sum(inside) <= 100


def test_intervals_of_measured_metrics_hold_their_level(name: str) -> None:
    world, covered, windows = WORLDS[name], 0, 0
    truth = {one: value.value for one, value in _quality(world, world.stream(1500, 10, 0)).items()}
    for seed in range(11, 51):
        for metric, found in _quality(world, world.stream(10, seed, 0)).items():
            assert found.low is not None
            assert found.high is not None
            covered += found.low <= truth[metric] <= found.high
            windows += 1
    assert 0.9 <= covered / windows <= 0.99


def _quality(world: World, rows: pl.DataFrame) -> Mapping[str, Measured]:
    task = world.task
    day = rows["time"].dt.epoch("d").to_numpy()
    return task.measured(task.encoded(rows["label"]), answer_in(rows, task), day)


def test_a_sealed_reference_says_the_same_of_windows(name: str) -> None:
    reference = reference_of(name)
    again = Reference.from_files(reference.to_files())
    assert again.to_files() == reference.to_files()
    assert again.task == reference.task
    rows = WORLDS[name].stream(20, 12, 300, harder=0.2)
    assert again.with_answers(rows).equals(reference.with_answers(rows))
    assert again.estimator == reference.estimator


def test_a_watch_of_the_release_before_is_read_with_its_quality() -> None:
    """As records were written when there was yes and no alone."""
    auc = {"value": 0.7, "low": 0.6, "high": 0.8}
    old = {"slice": "all", "rows": 5, "predictions": 6, "positive": 0.2, "roc_auc": auc, "log_loss": auc, "brier": auc}
    (read,) = decode(msgspec.msgpack.encode([old]), tuple[SliceQuality, ...])
    same = dict.fromkeys(("roc_auc", "log_loss", "brier"), read.watched)
    assert read == SliceQuality("all", 5, 6, {"positive": 0.2}, same)
    assert read.watched == Measured(0.7, 0.6, 0.8)
    shown = {"roc_auc": 0.7, "low": None, "high": None, "confusion": [1, 2, 3, 4], "threshold": 0.5, "rows": 10}
    assert decode(msgspec.msgpack.encode(shown), EstimatedQuality) == EstimatedQuality(
        "roc_auc", 0.7, None, None, 10, (1.0, 2.0, 3.0, 4.0), 0.5
    )


def test_the_last_label_of_any_kind_holds_and_one_of_another_kind_is_refused(name: str) -> None:
    rows = WORLDS[name].stream(2, 13, 0)
    told = rows.select("request_id", "row", "label", known_at="time", received_at="time")
    later = told.with_columns(pl.col("label").reverse(), pl.col("known_at") + timedelta(days=1))
    joined = join_labels(rows.drop("label"), pl.concat([later, told, told]), WORLDS[name].task)
    assert joined.sort("time")["label"].to_list() == rows["label"].reverse().to_list()
    wrong = told.with_columns(label=pl.lit(True))
    with pytest.raises(DataError, match=r"Labels need a (float64|string) label"):
        join_labels(rows, wrong, WORLDS[name].task)
    assert len(join_labels(rows.drop("label"), told, None)) == len(rows)


def test_labels_that_a_version_cannot_have_count_as_missing_and_stop_nothing(tmp_path: Path, name: str) -> None:
    """A class that only another version has, and a number beyond float32."""
    artifacts, world = Artifacts(str(tmp_path)), WORLDS[name]
    rows = world.stream(12, 5, 300)
    ids = [uuid7_at(int(at.timestamp() * 1000), f"{row:010}".encode()) for row, at in enumerate(rows["time"])]
    answered = rows.select(
        "time",
        *(pl.col(column).alias(f"{FEATURE}{column}") for column in ("x", "hard", "c")),
        *world.task.ledger_types,
        request_id=pl.Series(ids),
        row=pl.lit(0, pl.Int32),
        as_of=pl.col("time"),
        version=pl.lit("7"),
        route=pl.lit("champion"),
        latency_s=pl.lit(0.001, pl.Float32),
    )
    for part in answered.iter_slices(200):
        write_segment(artifacts, "u", uuid7_at(int(part["time"][0].timestamp() * 1000), b"segment000"), part)
    watch = DriftWatch(artifacts, "u", lambda version: Watched(version, reference_of(name)), lambda _: None)
    now = rows["time"][-1] + timedelta(hours=2)
    watch.round(now)
    label = [{"numbers": 1e39, "classes": "another"}[name], *rows["label"][1:]]
    told = answered.select("request_id", "row", label=pl.Series(label), known_at="time", received_at="time")
    write_by_request(artifacts, "u", "019cab00-0000-7000-8000-000000000001", told)
    watch.round(now)
    first, *others = watch.state.watches["7"].streams[SPEC.name].records
    assert (first.labelled, first.unreadable) == (599, 1)
    assert all((one.labelled, one.unreadable) == (600, 0) for one in others)
    assert "1 labels can be none of this version's" in "\n".join(describe(watch.state, [], now))
