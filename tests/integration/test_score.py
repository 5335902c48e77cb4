"""Batch scoring gives what the endpoint would have answered at the time, and loses or doubles no row."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import ray

import mlops_ray
from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.batch import scoring
from mlops_ray.batch.labels import import_labels
from mlops_ray.batch.output import begin
from mlops_ray.batch.rows import read_rows
from mlops_ray.batch.scoring import Scores, score
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.features import slices
from mlops_ray.features.definitions import read_definitions
from mlops_ray.features.history import history_of
from mlops_ray.features.online.store import writer_of
from mlops_ray.features.online.write import online_values
from mlops_ray.features.point_in_time import newest
from mlops_ray.features.store import Store
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import VersionRef
from mlops_ray.monitoring.label_join import labelled_predictions
from mlops_ray.predictions import reader
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.segments import copy_segment, segments
from mlops_ray.registry.models import register
from mlops_ray.registry.sealed_model import load
from mlops_ray.serving.label_routes import LabelsBody
from mlops_ray.serving.predictor import Predictor
from mlops_ray.tasks.task import Task
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.testing.example_model import example_schema, seal_example
from mlops_ray.training.tracking import connect, experiment_id
from tests.raw_ledger import raw_rows
from tests.task_models import DELAY, OUTCOME, sealed_as

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

carrier = Entity(name="carrier", value_type=ValueType.STRING)
origin = Entity(name="origin", value_type=ValueType.STRING)
delays = FeatureView(
    name="delays",
    entities=[carrier, origin],
    ttl=timedelta(hours=6),
    schema=[Field(name="recent_delay", dtype=Float64)],
    source=FileSource(name="delays", path="delays.parquet", timestamp_field="event_timestamp"),
)
service = FeatureService(name="departures", features=[delays])
"""
NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROWS = 3000


@pytest.fixture(scope="module", autouse=True)
def own_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, object_store_memory=500_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The example as champion, with delays of each carrier and origin known every hour."""
    folder = tmp_path_factory.mktemp("state")
    settings = Settings(state=str(folder), data=str(folder))
    random = np.random.default_rng(3)
    keys = [(carrier, origin) for carrier in ("AA", "UA") for origin in ("JFK", "LGA", "EWR")]
    events = [(*key, NOON + hour * HOUR) for key in keys for hour in range(-20, 20, 2)]
    delays = pl.DataFrame(events, schema=["carrier", "origin", "event_timestamp"], orient="row").with_columns(
        pl.col("event_timestamp").cast(pl.Datetime("us", "UTC")), recent_delay=random.normal(10, 20, len(events))
    )
    url = Artifacts(settings.artifacts).write_table(delays, "delays.parquet")
    (folder / "views.py").write_text(DEFINITIONS)
    definitions = read_definitions(folder, "departures")
    assert definitions is not None
    store = Store(settings, "departures")
    store.apply(definitions, {"delays": url}, NOON)
    (view,) = definitions.views
    known = list(online_values(view, newest(history_of(view, url), NOON)))
    writer_of(settings.online_store, "departures").write(view, known)
    digest = seal_example(folder / "sealed")
    client = connect(settings)
    run_id = client.create_run(experiment_id(client, settings, "departures")).info.run_id
    version = register(
        settings, "departures", folder / "sealed", example_lineage("departures", digest), run_id, {}, "key"
    )
    set_champion(open_store(settings), SYSTEM, "departures", VersionRef(version.version, digest), "test")
    return settings


@pytest.fixture
def settings(served: Settings, tmp_path: Path) -> Settings:
    """The same with artifacts of its own, and so a ledger of its own; feature rows keep their URL."""
    return served.model_copy(update={"artifacts": str(tmp_path / "artifacts")})


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    random = np.random.default_rng(5)
    minutes = random.integers(-600, 600, ROWS)
    return pl.DataFrame(
        {
            "ticket": np.arange(ROWS),
            "carrier": random.choice(["AA", "UA", "ZZ"], ROWS),
            "origin": random.choice(["JFK", "LGA", "EWR"], ROWS),
            "departure": [NOON + timedelta(minutes=int(minute)) for minute in minutes],
            "distance": [None if value < 100 else value for value in random.uniform(0, 3000, ROWS)],
        },
        schema_overrides={"departure": pl.Datetime("us", "UTC")},
    )


def scored(scores: Scores) -> pl.DataFrame:
    return read_parquet(scores.predictions).sort("ticket")


def balance(scores: Scores) -> list[int]:
    return [scores.rows_in, scores.scored, scores.repaired, scores.quarantined]


@pytest.mark.timeout(240)
def test_each_row_gets_the_answer_of_its_time(
    served: Settings, settings: Settings, rows: pl.DataFrame, tmp_path: Path
) -> None:
    dataset = ray.data.from_pandas(rows.to_pandas()).repartition(3)
    scores = mlops_ray.score(dataset, "departures", str(tmp_path / "scores"), settings)
    assert balance(scores) == [ROWS, ROWS, 0, 0]
    frame = scored(scores)
    assert frame["ticket"].to_list() == rows["ticket"].to_list()
    assert (frame["as_of"] == rows["departure"] - 2 * HOUR).all()

    sealed = load(Path(served.state) / "sealed", scores.digest)
    predictor = Predictor(sealed, Store(served, "departures").online_reader())
    # The online store holds what was known at noon; what is asked for as of noon has the same features there.
    at_noon = frame.filter(pl.col("as_of").is_between(NOON, NOON + HOUR))
    keys = at_noon.select("carrier", "origin", "departure", "distance").to_dicts()
    vectors = predictor.vectors_of_keys(keys, [NOON] * len(keys))
    assert len(vectors) > 50
    assert np.isfinite(vectors.numbers[:, 2]).sum() > 20
    np.testing.assert_allclose(at_noon["probability"], predictor.answers(vectors), atol=1e-6)
    assert (frame["prediction"] == (frame["probability"] >= 0.5)).all()

    ledger = Ledger(settings, "departures")
    recorded = pl.DataFrame(ledger.between().to_pandas())
    assert recorded.height == ROWS
    assert set(recorded["route"]) == {"batch"}
    joined = frame.join(recorded, on=["request_id", "row"], how="inner", suffix="_recorded")
    assert joined.height == ROWS
    for name in ("probability", "as_of"):
        assert (joined[name] == joined[f"{name}_recorded"]).all()
    assert (joined["key.departure"] == joined["departure"]).all()
    assert (joined["feature.origin"] == joined["origin"]).all()


@pytest.mark.timeout(120)
def test_scores_do_not_depend_on_how_rows_come_divided_nor_on_slices(
    settings: Settings, rows: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in any order come together by their moments, so that a history is read a slice at a time, and once."""
    ordinary = scored(score(rows, "departures", str(tmp_path / "whole"), settings))
    monkeypatch.setattr(scoring, "PARTITION_BYTES", rows.estimated_size() // 5)
    monkeypatch.setattr(slices, "SLICE_ROWS", ROWS // 6)
    monkeypatch.setattr(slices, "HISTORY_ROWS", 10)
    mixed = rows.sample(fraction=1, shuffle=True, seed=2)
    divided = score(mixed, "departures", str(tmp_path / "divided"), settings)
    parts = sorted((tmp_path / "divided" / "predictions").iterdir())
    assert len(parts) > 5
    moments = [pl.read_parquet(part)["as_of"] for part in parts]
    assert all(earlier.max() < later.min() for earlier, later in pairwise(moments))
    names = ["ticket", "as_of", "probability", "prediction", "distance"]
    assert scored(divided).select(names).equals(ordinary.select(names))


@pytest.mark.timeout(120)
def test_what_cannot_be_scored_is_set_aside_with_its_reason(settings: Settings, tmp_path: Path) -> None:
    good = {"id": 0, "carrier": "AA", "origin": "JFK", "departure": "2013-06-01T15:00:00Z", "distance": "500"}
    changes: list[tuple[dict[str, Any], str | None]] = [
        ({}, None),
        ({"distance": None, "as_of": "2013-05-31T00:00:00Z"}, None),
        ({"carrier": None}, "carrier:missing"),
        ({"carrier": "toolong"}, "carrier:pattern"),
        ({"origin": "XXX"}, "origin:not_a_choice"),
        ({"departure": "yesterday"}, "departure:not_timestamp"),
        ({"departure": "2013-06-01T15:00:00"}, "departure:not_timestamp"),
        ({"distance": "far"}, "distance:not_number"),
        ({"as_of": "now"}, "as_of:not_timestamp"),
        ({"as_of": None}, "as_of:missing"),
        ({"as_of": "2013-06-01T13:00:00.000001Z"}, "as_of:too_late"),
        ({"distance": "-1", "origin": None}, "origin:missing;distance:out_of_range"),
    ]
    given = [good | {"as_of": "2013-06-01T12:00:00Z"} | change | {"id": n} for n, (change, _) in enumerate(changes)]
    scores = score(pl.DataFrame(given), "departures", str(tmp_path / "scores"), settings, version=1)
    assert balance(scores) == [12, 2, 0, 10]
    assert scores.reasons["departure:not_timestamp"] == 2
    refused = read_parquet(scores.quarantine)
    assert dict(refused.select("id", "reason").iter_rows()) == {n: code for n, (_, code) in enumerate(changes) if code}
    assert refused["departure"].to_list()[3] == "yesterday"
    assert read_parquet(scores.predictions)["id"].to_list() == [0, 1]
    assert json.loads((tmp_path / "scores" / "scores.json").read_text()) == asdict(scores)
    assert Ledger(settings, "departures").frame().height == 2


KILLED_AT = [
    pytest.param("mlops_ray.batch.scoring.finish", id="before-the-ledger-has-any"),
    pytest.param("mlops_ray.batch.output._copy", id="while-segments-are-moved"),
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("killed_at", KILLED_AT)
def test_a_killed_run_that_is_started_again_leaves_each_row_once(
    served: Settings,
    settings: Settings,
    rows: pl.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: str,
) -> None:
    """Also where the rows come in other partitions, and another version is champion, when it is started again."""
    output = tmp_path / "scores"
    monkeypatch.setattr(scoring, "PARTITION_BYTES", rows.estimated_size() // 4)
    monkeypatch.setattr(slices, "SLICE_ROWS", ROWS // 4)
    with monkeypatch.context() as patch:
        patch.setattr(killed_at, killed_after_one)
        with pytest.raises((KeyboardInterrupt, ray.exceptions.RayTaskError)):
            score(rows, "departures", str(output), settings)
    monkeypatch.setattr(scoring, "PARTITION_BYTES", rows.estimated_size() // 2)
    monkeypatch.setattr(slices, "SLICE_ROWS", ROWS // 2)
    again = score(rows.sample(fraction=1, shuffle=True, seed=1), "departures", str(output), settings)
    assert scored(again)["ticket"].to_list() == rows["ticket"].to_list()
    recorded = raw_rows(settings, "departures")
    assert recorded.height == ROWS
    assert recorded.select("request_id", "row").n_unique() == ROWS
    assert sorted(path.name for path in output.iterdir()) == ["predictions", "run.json", "scores.json"]
    with pytest.raises(DataError, match="finished run"):
        score(rows, "departures", str(output), settings)


def killed_after_one(output: str, name: Any = None, root: Any = None, use_case: Any = None) -> None:
    """In place of `finish` it does nothing; in place of `_copy` it moves the first segment."""
    if isinstance(name, str) and name == Artifacts(output).entries("ledger")[0].name:
        copy_segment(
            Artifacts(root), use_case, name.removesuffix(".parquet"), Artifacts(output).read_bytes("ledger", name)
        )
        return
    raise KeyboardInterrupt


@pytest.mark.timeout(120)
def test_other_runs_are_predictions_of_their_own(
    settings: Settings, rows: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(rows, "departures", str(tmp_path / "scores"), settings)
    ledger = Ledger(settings, "departures")
    # A ledger read in many parts has each once as well.
    monkeypatch.setattr(slices, "SLICE_ROWS", ROWS // 4)
    score(rows, "departures", str(tmp_path / "other"), settings)
    assert len(segments(Artifacts(settings.artifacts), "departures")) > 4
    monkeypatch.setattr(reader, "PARTITION_BYTES", 1)
    parts = ledger.between(columns=["request_id", "row", "probability"])
    assert parts.num_blocks() > 3
    assert parts.count() == 2 * ROWS
    assert pl.DataFrame(parts.to_pandas()).unique(["request_id", "row"]).height == 2 * ROWS


def test_what_cannot_begin_is_one_sentence(settings: Settings, rows: pl.DataFrame, tmp_path: Path) -> None:
    output = str(tmp_path / "scores")
    with pytest.raises(DataError, match=r"lack origin, distance .*they have ticket, carrier, departure"):
        score(rows.drop("origin", "distance"), "departures", output, settings)
    with pytest.raises(DataError, match="column 'version', which scoring adds"):
        score(rows.with_columns(version=1), "departures", output, settings)
    with pytest.raises(ConfigurationError, match="relative path"):
        score(rows, "departures", "scores", settings)
    with pytest.raises(ConfigurationError, match="no version 7"):
        score(rows, "departures", output, settings, version=7)
    with pytest.raises(ConfigurationError, match="has no champion"):
        score(rows, "arrivals", output, settings)
    assert not Path(output).exists()


@pytest.mark.timeout(120)
def test_nothing_to_score_is_no_error(settings: Settings, rows: pl.DataFrame, tmp_path: Path) -> None:
    assert balance(score(rows.clear(), "departures", str(tmp_path / "scores"), settings)) == [0, 0, 0, 0]
    assert Ledger(settings, "departures").between().count() == 0


@pytest.mark.timeout(120)
def test_values_of_a_csv_file_stay_the_texts_that_they_are(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "code,carrier,origin,departure,distance\n"
        "0012, AA ,JFK,2013-06-01 15:00:00+00,500.0\n"
        "0013,AA,JFK,2013-06-01 15:00:00+00,NA\n"
        "0014,NA,JFK,1370098800,5\n"
    )
    scores = score(read_rows(str(tmp_path / "rows.csv")), "departures", str(tmp_path / "scores"), settings)
    assert balance(scores) == [3, 2, 1, 1]
    assert (dict(scores.reasons), dict(scores.repairs)) == ({"departure:not_timestamp": 1}, {"carrier:trimmed": 1})
    found = read_parquet(scores.predictions).sort("code")
    assert found.select("code", "carrier", "distance").rows() == [("0012", "AA", 500.0), ("0013", "AA", None)]
    assert read_parquet(scores.quarantine)["code"].to_list() == ["0014"]


@pytest.mark.timeout(120)
def test_python_objects_are_no_rows_to_score(settings: Settings, rows: pl.DataFrame, tmp_path: Path) -> None:
    few = rows.head(3).to_pandas()
    for column in ("distance", "ticket"):  # one that the model needs, and one that is carried along
        objects = few.astype({column: object})
        objects[column] = [{"a": 1}, object, 3]
        with pytest.raises(DataError, match=f"column {column} holds Python objects"):
            score(ray.data.from_pandas(objects), "departures", str(tmp_path / column), settings)
        with pytest.raises(DataError, match=f"Column {column} of the rows has no one type"):
            score(objects, "departures", str(tmp_path / f"{column}2"), settings)


USE_CASE = """
import polars as pl
from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.training.candidates import LogisticRegression

columns = (Column("carrier", "text"), Column("origin", "text"), Column("departure", "timestamp"))
use_case = UseCase(
    name="departures",
    sources={"departures": Source("departures.csv", columns)},
    entities=("carrier", "origin"),
    event_time="departure",
    label=Label("late", pl.col("carrier") == "AA", pl.col("departure")),
    candidates=(LogisticRegression(),),
)
"""


@pytest.mark.timeout(120)
def test_the_command_scores_a_csv_file(served: Settings, rows: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "departures.py").write_text(USE_CASE)
    rows.head(20).write_csv(tmp_path / "rows.csv", datetime_format="%+")
    command = [Path(sys.executable).with_name("mlops-ray"), "score", tmp_path / "departures.py"]
    command += ["--input", "rows.csv", "--output", "scores", "--state", served.state]
    cluster = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | cluster, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scored"] == 20
    assert read_parquet(str(tmp_path / "scores" / "predictions")).height == 20


@pytest.mark.timeout(120)
def test_a_line_that_is_no_row_is_set_aside_with_its_place(settings: Settings, tmp_path: Path) -> None:
    good = b"AA,JFK,2013-06-01T15:00:00Z,5,%d\n"
    (tmp_path / "in" / "may").mkdir(parents=True)
    (tmp_path / "in" / "rows.csv").write_bytes(
        b"carrier,origin,departure,distance,id\n"
        + good % 1
        + b"AA,JFK\n"
        + b"AA,\xff,2013-06-01T15:00:00Z,5,2\n"
        + good % 3
    )
    (tmp_path / "in" / "may" / "rows.csv").write_bytes(
        b"id,carrier,origin,departure,distance\n4,AA,JFK,2013-06-01T15:00:00Z,5\n5,AA,XXX,2013-06-01T15:00:00Z,5\n"
    )
    scores = score(read_rows(str(tmp_path / "in")), "departures", str(tmp_path / "scores"), settings)
    assert balance(scores) == [6, 3, 0, 3]
    assert dict(scores.reasons) == {"malformed": 2, "origin:not_a_choice": 1}
    refused = read_parquet(scores.quarantine).sort("file", "line")
    assert refused.select("file", "line", "raw", "id").rows() == [
        ("may/rows.csv", 3, None, "5"),
        ("rows.csv", 3, b"AA,JFK\n", None),
        ("rows.csv", 4, b"AA,\xff,2013-06-01T15:00:00Z,5,2\n", None),
    ]
    found = read_parquet(scores.predictions)
    assert sorted(found["id"]) == ["1", "3", "4"]
    assert not [name for name in found.columns if name.startswith("__")]


@pytest.mark.timeout(120)
def test_a_file_with_a_header_alone_is_nothing_to_score(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("carrier,origin,departure,distance\n")
    scores = score(read_rows(str(tmp_path / "rows.csv")), "departures", str(tmp_path / "scores"), settings)
    assert balance(scores) == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["predictions", "quarantine", "ledger"])
def test_what_somebody_else_wrote_is_never_deleted(
    settings: Settings, rows: pl.DataFrame, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "important.parquet").write_text("years of work")
    with pytest.raises(DataError, match=f"{name}', which no run of scoring wrote"):
        score(rows, "departures", str(tmp_path), settings)
    # Nor beside what a run of ours left.
    begun = {"id": "1", "started": "2026-01-01T00:00:00+00:00", "use_case": "departures"}
    (tmp_path / "run.json").write_text(json.dumps(begun))
    with pytest.raises(DataError, match="important"):
        score(rows, "departures", str(tmp_path), settings)
    with pytest.raises(DataError, match="unfinished run of departures"):
        begin(str(tmp_path), "arrivals")
    assert (tmp_path / name / "important.parquet").read_text() == "years of work"


@pytest.mark.timeout(120)
def test_each_row_of_a_run_can_be_labelled(settings: Settings, rows: pl.DataFrame, tmp_path: Path) -> None:
    """By its request id and row number: rows of a run have one id for thousands."""
    score(rows, "departures", str(tmp_path / "scores"), settings)
    told = read_parquet(str(tmp_path / "scores" / "predictions")).select("request_id", "row").with_columns(label=True)
    assert told["row"].max() == ROWS - 1
    body = LabelsBody(example_schema())
    last = told.filter(pl.col("row") >= ROWS - 1000).to_dicts()
    with LabelWriter(settings, "departures") as writer:
        writer.append(body.decode(json.dumps({"labels": last}).encode(), datetime.now(UTC)))
    told.filter(pl.col("row") < ROWS - 1000).write_csv(tmp_path / "labels.csv")
    assert import_labels(str(tmp_path / "labels.csv"), "departures", settings).accepted == ROWS - 1000
    found = labelled_predictions("departures", settings).to_pandas()
    assert len(found) == ROWS
    assert found["label"].all()


@pytest.mark.timeout(120)
def test_a_file_that_cannot_be_read_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('carrier,origin,departure,"distance\nAA,JFK,2013-06-01T15:00:00Z,5\n')
    with pytest.raises(DataError, match=r"cannot be read\. File rows\.csv cannot be read: in its header a quote"):
        score(read_rows(str(tmp_path / "rows.csv")), "departures", str(tmp_path / "scores"), settings)
    assert not (tmp_path / "scores").exists()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("task", [DELAY, OUTCOME], ids=lambda task: task.kind)
def test_numbers_and_classes_are_scored_as_requests_are(
    task: Task, served: Settings, settings: Settings, rows: pl.DataFrame, tmp_path: Path
) -> None:
    digest = sealed_as(task)(tmp_path / "sealed", 9)
    client = connect(served)
    run_id = client.create_run(experiment_id(client, served, "departures")).info.run_id
    lineage = example_lineage("departures", digest)
    version = register(served, "departures", tmp_path / "sealed", lineage, run_id, {}, task.kind)
    scores = mlops_ray.score(rows.head(200), "departures", str(tmp_path / "scores"), settings, version.version)
    frame, recorded = scored(scores), Ledger(settings, "departures").frame()
    (name,) = task.ledger_types
    joined = frame.join(recorded, on=["request_id", "row"], how="inner", suffix="_recorded")
    assert joined.height == 200
    columns = [f"{name}.{part}" for part in task.parts] or [name]
    answers = joined.select(columns).to_numpy()
    kept = joined[name if task.parts else f"{name}_recorded"].to_list()
    assert answers.reshape(200, -1).tolist() == np.reshape(kept, (200, -1)).tolist()
    assert task.wrong(answers if task.parts else answers[:, 0]) is None
    if task.parts:
        assert joined["prediction"].to_list() == [task.parts[at] for at in answers.argmax(axis=1)]
    taken = rows.with_columns(pl.lit(1).alias(columns[0]))
    with pytest.raises(DataError, match=f"have a column '{columns[0]}', which scoring adds"):
        mlops_ray.score(taken, "departures", str(tmp_path / "other"), settings, version.version)
