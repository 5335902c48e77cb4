"""Training sets in slices of time on four Ray nodes: what one process makes, whoever dies meanwhile."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import ray
from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
from ray.cluster_utils import Cluster

from mlops_ray.artifacts import Artifacts, digest_each_row, read_parquet
from mlops_ray.errors import ConfigurationError, DataError, UseCaseError
from mlops_ray.features import slices, training_set
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.history import sources_of
from mlops_ray.features.history_source import join_sources
from mlops_ray.features.slices import Carried, Slice, in_slices, join, join_slice, results, slices_of, spans_of
from mlops_ray.features.training_set import TrainingSet, build_training_set, read_sample, read_split, split_by_time
from mlops_ray.features.transform import FeatureRows
from mlops_ray.ingestion.snapshot import LineCounts, Snapshot, SourceCounts
from mlops_ray.pipeline.parity import trained_on
from mlops_ray.tasks.binary import BINARY
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Column, Label, Search, Source, Split, UseCase

AS_OF = datetime(2013, 12, 1, tzinfo=UTC)
BEGIN = AS_OF - timedelta(days=120)
ROWS, LEAD = 6_000, timedelta(hours=2)
TIME = pl.Datetime("us", "UTC")
SHORT = View(
    "short", ("carrier",), ("carrier",), ("load",), ("load",), {"carrier": "String", "load": "Float64"}, 6 * 3600, {}
)
LONG = replace(SHORT, name="long", features=("seats",), fields=("seats",), ttl_s=10 * 365 * 86400, created="written",
               types={"carrier": "String", "seats": "Int64"})  # fmt: skip
VIEWS = (SHORT, LONG)
CASE = UseCase(
    name="departures",
    sources={
        "departures": Source(
            "departures.csv",
            (
                Column("carrier", "text", nullable=True),
                Column("departure", "timestamp"),
                Column("wind", "number"),
                Column("late", "boolean", nullable=True, outcome=True),
            ),
        )
    },
    entities=("carrier",),
    event_time="departure",
    lead_time=LEAD,
    label=Label("late", pl.col("late"), pl.col("departure") + pl.duration(hours=1)),
    candidates=(LogisticRegression(),),
    request_features={"wind": pl.col("wind")},
    feature_views={"short": lambda tables: tables, "long": lambda tables: tables},
    feature_service="departures",
    split=Split(test=timedelta(days=20), gap=timedelta(days=5), validation=timedelta(days=30)),
    search=Search(trials_per_candidate=1),
)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    node = {"num_cpus": 1, "object_store_memory": 200_000_000, "memory": 2_000_000_000}
    found = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(3):
        found.add_node(**node)
    ray.init(address=found.address, log_to_driver=False)
    register_pickle_by_value(sys.modules[__name__])  # workers do not find this folder
    yield found
    unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which ten are then many rows."""
    monkeypatch.setattr(slices, "SLICE_ROWS", ROWS // 10)
    monkeypatch.setattr(slices, "HISTORY_ROWS", 3_000)
    monkeypatch.setattr(slices, "HERE_BYTES", 1)
    monkeypatch.setattr(slices, "_BUCKET_BYTES", 30_000)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifacts, Snapshot, list[FeatureRows]]:
    """A snapshot in two files that overlap in time, and the rows of a view with a short ttl and one with a long."""
    artifacts, random = Artifacts(str(tmp_path_factory.mktemp("artifacts"))), np.random.default_rng(7)
    minutes = random.integers(0, 120 * 24 * 60, ROWS)
    rows = pl.DataFrame(
        {
            "carrier": [("AA", "UA", "ZZ", None)[n] for n in random.integers(0, 4, ROWS)],
            "departure": [BEGIN + timedelta(minutes=int(minute)) for minute in minutes],
            "wind": random.normal(size=ROWS),
            "late": [(True, False, False, None)[n] for n in random.integers(0, 4, ROWS)],
        },
        schema_overrides={"departure": TIME},
    )
    counts = {"departures": SourceCounts(ROWS, ROWS, 0, 0, 0, {}, {}, LineCounts(*[0] * len(fields(LineCounts))))}
    snapshot = Snapshot("departures", "s" * 64, AS_OF, "c", "v", counts, {}, {})
    for number, part in enumerate((rows.head(4_000), rows.tail(2_000))):
        artifacts.write_table(part, *snapshot.place("departures"), f"{number}.parquet")
    events = [BEGIN - timedelta(days=30) + timedelta(minutes=7 * n) for n in range(30_000)]
    short = pl.DataFrame(
        {PREDICTION_TIME: events, "carrier": [("AA", "UA", "QQ")[n % 3] for n in range(30_000)],
         "load": random.normal(size=30_000)}, schema_overrides={PREDICTION_TIME: TIME},
    )  # fmt: skip
    few = [BEGIN - timedelta(days=400) + timedelta(hours=n) for n in range(9_000)]
    long = pl.DataFrame(
        {PREDICTION_TIME: few, "written": [at + timedelta(days=n % 40) for n, at in enumerate(few)],
         "carrier": [("AA", "ZZ")[n % 7 == 0] for n in range(9_000)], "seats": range(9_000)},
        schema_overrides={PREDICTION_TIME: TIME, "written": TIME},
    )  # fmt: skip
    urls = {name: artifacts.url("features", f"{name}.parquet") for name in ("short", "long")}
    for name, frame in (("short", short), ("long", long)):
        artifacts.write_table(frame, "features", f"{name}.parquet")
    return artifacts, snapshot, [FeatureRows(name, url, "d" * 64, 1, "c") for name, url in urls.items()]


def build(world: tuple[Artifacts, Snapshot, list[FeatureRows]], **changed: Any) -> TrainingSet:
    artifacts, snapshot, rows = world
    definitions = Definitions("departures", "d" * 64, VIEWS, {}, {})
    return build_training_set(replace(CASE, **changed), artifacts, definitions, rows, snapshot, AS_OF)


@pytest.fixture(scope="module")
def whole(world: tuple[Artifacts, Snapshot, list[FeatureRows]]) -> TrainingSet:
    """By one process."""
    return build(world)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("small_slices")
def test_many_parts_have_the_rows_of_one_file(
    world: tuple[Artifacts, Snapshot, list[FeatureRows]], whole: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(world)
    assert len(built.parts) > 8
    assert [part.last < later.first for part, later in zip(built.parts, built.parts[1:], strict=False)]
    assert (built.rows, built.features) == (whole.rows, whole.features)
    one, many = read_parquet(whole.url), read_parquet(built.url)
    assert one["seats"].null_count() < one.height
    assert one["load"].null_count() < one.height
    assert many.equals(built.in_its_order(one, pl.col(PREDICTION_TIME)))
    assert built.digest == digest_each_row(one).hex()
    monkeypatch.setattr(slices, "SLICE_ROWS", ROWS // 3)
    fewer = build(world)
    assert len(fewer.parts) < len(built.parts)
    assert fewer.digest == built.digest
    assert TrainingSet.from_json(built.to_json()) == built
    # In the order that its rows have, they are those of the snapshot.
    artifacts, snapshot, _ = world
    raw = built.in_its_order(artifacts.read_table(*snapshot.place("departures")), pl.col("departure") - LEAD)
    assert trained_on(CASE, raw, many, AS_OF).height == built.rows


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("small_slices")
def test_a_split_and_a_sample_are_the_same_from_many_parts(
    world: tuple[Artifacts, Snapshot, list[FeatureRows]], whole: TrainingSet
) -> None:
    built = build(world)
    expected = vars(split_by_time(read_parquet(whole.url), AS_OF, CASE.split, BINARY))
    for names in (("train", "validation"), ("test",), ("train", "validation", "test")):
        found = read_split(built, CASE.split, BINARY, names)
        for name in names:
            order = [PREDICTION_TIME, "wind"]
            assert found[name].sort(order).equals(expected[name].sort(order))
    some = read_split(built, CASE.split, BINARY, ("train", "validation"), rows=1_000, seed=3)
    assert 800 < sum(part.height for part in some.values()) < 1_200
    assert read_sample(built, 1_000, 3).equals(read_sample(built, 1_000, 3))
    assert not read_sample(built, 1_000, 3).equals(read_sample(built, 1_000, 4))
    late = replace(CASE.split, test=timedelta(minutes=1))
    with pytest.raises(DataError, match="The test period of the split has"):
        read_split(built, late, BINARY, ("train", "validation"))


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("small_slices")
def test_what_a_user_must_mend_comes_as_one_sentence(world: tuple[Artifacts, Snapshot, list[FeatureRows]]) -> None:
    no_date = pl.col("carrier").str.to_datetime("%Y-%m-%d", time_zone="UTC")
    with pytest.raises(UseCaseError, match="label 'late'"):
        build(world, label=Label("late", pl.col("late"), no_date))
    with pytest.raises(DataError, match="no row has a label known at"):
        build(world, label=Label("late", pl.col("late"), pl.col("departure") + pl.duration(days=900)))


def asked(rows: int) -> pl.DataFrame:
    moments = [BEGIN + timedelta(minutes=97 * n % (120 * 1440)) for n in range(rows)]
    frame = {"carrier": [("AA", "ZZ", None)[n % 3] for n in range(rows)], PREDICTION_TIME: moments, "n": range(rows)}
    return pl.DataFrame(frame, schema_overrides={PREDICTION_TIME: TIME})


def work(folder: Path, entities: pl.DataFrame, how: str, one: Slice, sources: Any, carried: Carried) -> pl.DataFrame:
    """The join of a slice, in which some die the first time, or wait until a node is gone."""
    mark = folder / str(one.number)
    if how == "dies" and one.number % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "waits":
        mark.touch()
        time.sleep(1)
    end = one.before or datetime(9999, 1, 1, tzinfo=UTC)
    mine = entities.filter(pl.col(PREDICTION_TIME).is_between(one.start or BEGIN, end, closed="left"))
    return join_slice(mine, PREDICTION_TIME, sources, carried)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("small_slices")
def test_a_worker_or_a_node_that_is_killed_meanwhile_changes_nothing(
    world: tuple[Artifacts, Snapshot, list[FeatureRows]], tmp_path: Path, cluster: Cluster
) -> None:
    sources, entities = sources_of(VIEWS, {rows.view: rows.url for rows in world[2]}), asked(4_000)
    expected = join_sources(entities, PREDICTION_TIME, sources)
    assert join(entities, PREDICTION_TIME, sources).equals(expected)
    cut = slices_of(spans_of(entities[PREDICTION_TIME]), sources)
    (tmp_path / "dies").mkdir()
    begun = in_slices(cut, sources, partial(work, tmp_path / "dies", entities, "dies"))
    assert pl.concat(results(begun)).sort("n").equals(expected)
    assert len(list((tmp_path / "dies").iterdir())) >= 3
    (tmp_path / "waits").mkdir()
    begun = in_slices(cut, sources, partial(work, tmp_path / "waits", entities, "waits"))
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    assert pl.concat(results(begun)).sort("n").equals(expected)


def test_without_ray_what_is_too_large_for_one_process_is_refused(
    world: tuple[Artifacts, Snapshot, list[FeatureRows]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_set, "is_small", lambda *_: False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigurationError, match=r"too large for one process, and Ray is not initialised"):
        build(world)


def test_labels_are_not_lost(whole: TrainingSet) -> None:
    assert set(read_parquet(whole.url)[LABEL]) == {True, False}
