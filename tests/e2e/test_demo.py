"""What `make demo` promises, on all flights of 2013."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.client import Client
from mlops_ray.config import Settings, load_settings
from mlops_ray.features.labelled import request_rows
from mlops_ray.ingestion.snapshot import load_snapshot
from mlops_ray.registry.sealed_model import load, model_inputs
from mlops_ray.use_case import load_use_case
from tests.e2e.collector import Collector
from tests.pipeline_run import ROOT, command, pipeline_command, processes_with, run, summary

FLIGHTS = ROOT / "use_cases" / "flights.py"
AS_OF = "2014-01-01T05:00:00Z"
PORT = 18231
REQUEST_ID = "0190e2a3-5b7c-7d2e-8f1a-123456789abc"


@dataclass(frozen=True)
class Demo:
    folder: Path
    output: str
    summary: dict[str, Any]
    processes_left: list[str]

    @property
    def settings(self) -> Settings:
        return load_settings(state=f"{self.folder}/state", data=f"{self.folder}/data", http_port=PORT)

    @property
    def key(self) -> str:
        return (self.folder / "state" / "development_key").read_text().strip()

    def mlflow(self, query: str) -> Any:
        with sqlite3.connect(self.folder / "state" / "mlflow.db") as database:
            return database.execute(query).fetchone()[0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run([sys.executable, ROOT / "use_cases" / "flights_raw_data.py", folder / "data"], check=True)
    serving = pipeline_command(FLIGHTS, folder, AS_OF, "--serve", "--port", str(PORT))
    done = run(serving, timeout_s=600, MLOPS_RAY_TEST=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return Demo(folder, done.stdout, summary(folder), processes_with("MLOPS_RAY_TEST", str(folder)))


@pytest.mark.timeout(700)
def test_rows_balance_and_every_step_is_timed(demo: Demo) -> None:
    rows = {
        kind: demo.summary[f"rows_{kind}"] for kind in ("in", "accepted", "repaired", "quarantined", "not_yet_known")
    }
    assert rows["in"] == 366_213 == sum(rows.values()) - rows["in"]
    assert rows["repaired"] == 1
    assert set(demo.summary["steps_s"]) == {
        "ingest", "features", "training_set", "train", "evaluate", "register", "materialize", "serve",
    }  # fmt: skip


def test_the_model_is_good_and_does_not_see_the_future(demo: Demo) -> None:
    assert 0.74 <= demo.summary["roc_auc"] <= 0.80


def test_three_candidates_are_tried_and_the_better_ones_again(demo: Demo) -> None:
    trials = [row["trials"] for row in demo.summary["candidates"].values()]
    assert len(trials) == 3
    assert min(trials) >= 1
    assert max(trials) >= 2
    assert sum(trials) == demo.summary["trials"] == 3 * load_use_case(str(FLIGHTS)).search.trials_per_candidate


def test_every_trial_is_one_child_run(demo: Demo) -> None:
    children = demo.mlflow("select count(*) from tags where key = 'mlflow.parentRunId'")
    assert children == demo.summary["trials"]


def test_a_prediction_was_asked_over_http(demo: Demo) -> None:
    (answer,) = demo.summary["prediction"]["answer"]["predictions"]
    assert 0 < answer["probability"] < 1
    assert str(demo.summary["prediction"]["answer"]["version"]) == str(demo.summary["version"])


def test_no_process_and_no_port_is_left(demo: Demo) -> None:
    assert demo.processes_left == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", PORT))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(demo: Demo, collector: Collector) -> Iterator[str]:
    options = ["--state", f"{demo.folder}/state", "--data", f"{demo.folder}/data", "--port", str(PORT)]
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER_ARG": "0"}
    process = subprocess.Popen(
        command("serve", str(FLIGHTS), *options), cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Serving until" in line:
            break
    yield f"http://127.0.0.1:{PORT}"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


@pytest.mark.timeout(300)
def test_http_answers_equal_the_point_in_time_rows(demo: Demo, server: str) -> None:
    """For 1,000 flights by entity keys, as if they left two hours after the online store was materialized."""
    from mlops_ray.features.store import Store

    settings, case = demo.settings, load_use_case(str(FLIGHTS))
    moment = datetime.fromisoformat(demo.summary["prediction"]["request"]["as_of"])
    artifacts = Artifacts(settings.artifacts)
    (snapshot,) = (folder.name for folder in (demo.folder / "state/artifacts/snapshots/flights").iterdir())
    flights = load_snapshot(artifacts, "flights", snapshot).tables(artifacts)["flights"].tail(1000)
    flights = flights.with_columns(pl.lit(moment + case.lead_time).alias(case.event_time))

    rows = request_rows(case, flights, pl.lit(moment))
    sealed = load(
        demo.folder / "state/artifacts/sealed_models/flights" / demo.summary["digest"], demo.summary["digest"]
    )
    offline = Store(settings, str(sealed.schema.feature_project)).historical(rows)
    assert offline["aircraft_24h_arrival_delay"].null_count() < 900
    expected = sealed.model.answers(*model_inputs(offline, sealed.schema.features))

    keys = flights.select(case.request_columns()).to_dicts()
    with Client(server, api_key=demo.key) as client:
        answers = [client.predict("flights", keys=row, as_of=moment).predictions[0] for row in keys[:50]]
        answers += client.predict("flights", keys=keys[50:], as_of=moment).predictions
    got = np.array([answer.probability for answer in answers])
    assert np.abs(got - expected).max() <= 1e-5
    assert len(set(expected.round(4))) > 300


def test_features_have_expired_when_asked_now(demo: Demo, server: str) -> None:
    request = demo.summary["prediction"]["request"]
    url = f"{server}/v2/models/flights/predict"
    headers = {"authorization": f"Bearer {demo.key}"}
    then = httpx.post(url, json=request, headers=headers).json()
    now = httpx.post(url, json={"keys": request["keys"]}, headers=headers).json()
    assert then["predictions"] != now["predictions"]
    (then_row,), (now_row,) = then["predictions"], now["predictions"]
    assert "expired_features" not in then_row
    assert "late" not in then_row
    assert "origin_3h_departure_delay" in now_row["expired_features"]
    assert now_row["late"] is True


def test_a_trace_of_the_caller_goes_on_through_store_model_and_ledger(
    demo: Demo, server: str, collector: Collector
) -> None:
    """Of others, which nobody has begun, none is taken here."""
    ours, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    request, headers = demo.summary["prediction"]["request"], {"authorization": f"Bearer {demo.key}"}
    for more in (
        {},
        {"traceparent": f"00-{ours}-{parent}-01", "x-request-id": REQUEST_ID},
        {"traceparent": "nonsense"},
    ):
        httpx.post(f"{server}/v2/models/flights/predict", json=request, headers=headers | more).raise_for_status()
    spans = collector.spans_within(30, "ledger")
    assert {span.trace_id.hex() for span in spans} == {ours}
    (whole,) = [span for span in spans if span.parent_span_id.hex() == parent]
    parts = [span for span in spans if span.parent_span_id == whole.span_id]
    assert [span.name for span in sorted(parts, key=lambda span: span.start_time_unix_nano)] == [
        "online store", "model", "ledger",
    ]  # fmt: skip
    told = {one.key: one.value.string_value for one in whole.attributes if one.key.startswith("mlops_ray.")}
    assert told.pop("mlops_ray.principal")
    assert told == {
        "mlops_ray.model": "flights", "mlops_ray.version": "1", "mlops_ray.route": "champion",
        "mlops_ray.request_id": REQUEST_ID,
    }  # fmt: skip


@pytest.mark.timeout(300)
def test_a_second_run_reuses_every_step(demo: Demo) -> None:
    runs = demo.mlflow("select count(*) from runs")
    again = run(pipeline_command(FLIGHTS, demo.folder, AS_OF))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("unchanged, reused") == 7
    assert demo.mlflow("select count(*) from runs") == runs
    assert summary(demo.folder)["version"] == demo.summary["version"]


def test_the_training_set_is_what_the_model_was_trained_on(demo: Demo) -> None:
    (file,) = (demo.folder / "state/artifacts/training_sets/flights").iterdir()
    assert read_parquet(str(file)).height == demo.summary["training_rows"]


@pytest.mark.timeout(200)
def test_an_hour_of_new_data_reaches_the_endpoint(demo: Demo, server: str) -> None:
    """By the command, beside the server that runs; the version stays. It comes last, as it adds a snapshot."""
    moment = "2014-01-01T09:00:00+00:00"
    keys = demo.summary["prediction"]["request"]["keys"] | {"scheduled_departure": "2014-01-01T11:00:00Z"}

    def asked() -> dict[str, Any]:
        headers = {"authorization": f"Bearer {demo.key}"}
        answer = httpx.post(
            f"{server}/v2/models/flights/predict", json={"keys": keys, "as_of": moment}, headers=headers
        )
        assert answer.json()["version"] == "1"
        return dict(answer.json()["predictions"][0])

    def unknown(answer: dict[str, Any]) -> set[str]:
        return {*answer.get("missing_features", ()), *answer.get("expired_features", ())}

    before = asked()
    assert {"temp", "origin_3h_departure_delay"} <= unknown(before)
    for name in ("flights", "weather"):
        rows = pl.read_csv(demo.folder / f"data/{name}_2013-12.csv", infer_schema=False)
        hour = rows.filter(pl.col("time_hour") == "2013-12-30T17:00:00Z")
        hour.with_columns(time_hour=pl.lit("2014-01-01T06:00:00Z")).write_csv(demo.folder / f"data/{name}_2014-01.csv")
    places = ["--state", f"{demo.folder}/state", "--data", f"{demo.folder}/data", "--as-of", moment]
    done = run(command("features", "refresh", str(FLIGHTS), *places))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["as_of"], [one["why_not"] for one in found["versions"]]) == (moment, [None])
    after = asked()
    assert not {"temp", "origin_3h_departure_delay"} & unknown(after)
    assert after["probability"] != before["probability"]
