"""Answers that are a number, or one of several classes, are counted from the ledger, judged by labels, and shown."""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.monitoring.answers import PREDICTION
from mlops_ray.monitoring.describe import describe
from mlops_ray.monitoring.drift_actor import record_change
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.show.drift_view import look_back
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.watch_metrics import GAUGES, figures
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.labels import BY_REQUEST, write_by_request
from mlops_ray.predictions.segments import FEATURE, write_segment
from mlops_ray.testing.example_tasks import CLASSES, INPUTS, NUMBERS, SPEC, World

NAME, DAY = "delays", timedelta(days=1)


@dataclass
class Seen:
    """Ten days of an endpoint that were counted, half of them with what labels no longer mean."""

    world: World
    watch: DriftWatch
    settings: Settings
    watched: Watched


@pytest.fixture(scope="module", params=[NUMBERS, CLASSES], ids=["numbers", "classes"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    world, folder = request.param, tmp_path_factory.mktemp("state")
    settings = Settings(state=str(folder), data=str(folder))
    store, artifacts = open_store(settings), Artifacts(settings.artifacts)
    watched = Watched("7", world.reference(100), {"x": 1.0, "hard": 1.0})
    watch = DriftWatch(artifacts, NAME, lambda version: watched, lambda change: record_change(store, NAME, change))
    rows = world.stream(15, 4, 100, turned=0.8)
    times = [int(one.timestamp() * 1000) for one in rows["time"]]
    ids = [uuid7_at(moment, f"{moment:013}".encode()[-10:]) for moment in times]
    _write(artifacts, world, rows.with_columns(pl.Series("request_id", ids)))
    known = pl.col("time") + timedelta(hours=1)
    told = rows.select(
        pl.Series("request_id", ids), "label", row=pl.lit(0, pl.Int32), known_at=known, received_at=known
    )
    told = told.select(list(BY_REQUEST))
    write_by_request(artifacts, NAME, "019cab00-0000-7000-8000-000000000000", told)
    for _ in range(8):
        watch.round(rows["time"][-1] + 20 * DAY, ["7"])
    return Seen(world, watch, settings, watched)


def _write(artifacts: Artifacts, world: World, rows: pl.DataFrame) -> None:
    """As the ledger has them: answers as float32, several of a row as a list."""
    answers = [
        pl.col(name).cast(pl.List(pl.Float32) if isinstance(dtype, pl.Array) else dtype)
        for name, dtype in world.task.ledger_types.items()
    ]
    table = rows.select(
        "request_id", pl.lit(0, pl.Int32).alias("row"), "time", pl.col("time").alias("as_of"),
        pl.lit("7").alias("version"), pl.lit("champion").alias("route"), pl.lit(0.001, pl.Float32).alias("latency_s"),
        *(pl.col(one.name).alias(f"{FEATURE}{one.name}") for one in INPUTS), *answers,
    )  # fmt: skip
    for part in table.iter_slices(200):
        moment = int(part["time"][0].timestamp() * 1000)
        write_segment(artifacts, NAME, uuid7_at(moment, f"{moment:013}".encode()[-10:]), part)


def test_windows_are_estimated_measured_and_judged(seen: Seen) -> None:
    watch = seen.watch.state.watches["7"]
    records = watch.streams[SPEC.name].records
    metric = next(iter(seen.world.task.metrics))
    assert len(records) == 3
    for record in records:
        assert record.estimated is not None
        assert record.estimated.metric == metric
        assert record.labelled == 600
        assert record.concept is not None
        assert record.concept.answer == "drift"
        assert record.quality[0].watched.value > record.estimated.value
        assert {one.slice for one in record.quality} == {"all", "c=a", "c=b"}
    assert "concept" in watch.raised


def test_what_was_seen_is_told_in_the_words_of_the_task(seen: Seen) -> None:
    words = "\n".join(describe(seen.watch.state, [], seen.watch.state.newest or pytest.fail("nothing was read")))
    name = {"mean_absolute_error": "mean absolute error", "log_loss": "log loss"}[next(iter(seen.world.task.metrics))]
    assert f"{name} estimated" in words
    assert f"measured on 600 labels: {name}" in words
    assert "NOT as estimated" in words
    view = look_back(seen.settings, NAME, lambda version: seen.watched, ["7"], 60)
    shown = view._repr_html_()
    assert f"{name[0].upper()}{name[1:]}: estimated" in shown
    assert "Decision rate" not in shown
    assert "The answers" in shown
    assert "ROC AUC" not in shown


def test_errors_are_shown_as_metrics_under_their_name(seen: Seen) -> None:
    found = [one for one in figures(seen.watch.state, ()) if one.name == "error"]
    assert {one.tags["kind"] for one in found} == {"estimated", "measured", "foretold"}
    assert {one.tags["metric"] for one in found} == {next(iter(seen.world.task.metrics))}
    assert all({"use_case", *one.tags} == set(GAUGES["error"][1]) for one in found)
    sketches = seen.watched.reference.columns
    assert [name for name in sketches if name.startswith(PREDICTION)] == list(seen.watched.reference.answers[:-1])
