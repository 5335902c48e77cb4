"""One truth about labels: those told over HTTP or in files are in the next training set, and measured by."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import uuid6

from mlops_ray import Column, Label, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.batch.labels import import_labels
from mlops_ray.config import load_settings
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.features.columns import LABEL
from mlops_ray.features.training_set import build_training_set
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.monitoring.quality import join_labels, quality_by_window
from mlops_ray.pipeline.parity import trained_on
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.predictions.labels import labels_of
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.told_labels import told_labels
from mlops_ray.retraining.new_labels import NewLabels
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Source
from tests.unit.test_endpoint import predict
from tests.unit.test_labels import CALLERS_IDS, label, stored

KEYS = (Column("carrier", "text"), Column("origin", "text"), Column("departure", "timestamp"))
DEPARTURE = datetime(2013, 10, 1, 12, tzinfo=UTC)
CARRIERS = ("AA", "UA", "B6", "DL")
# The file knows of the third and the fourth, as it was written before anything was told.
FILE = """carrier,origin,departure,distance,late,landed
AA,JFK,2013-10-01T12:00:00Z,500,,
UA,JFK,2013-10-01T12:00:00Z,500,,
B6,JFK,2013-10-01T12:00:00Z,500,true,2013-10-01T16:00:00Z
DL,JFK,2013-10-01T12:00:00Z,500,true,2013-10-01T16:00:00Z
"""
CASE = UseCase(
    name=NAME,
    sources={
        "departures": Source(
            "departures.csv",
            (
                *KEYS,
                Column("distance", "number"),
                Column("late", "boolean", nullable=True, outcome=True),
                Column("landed", "timestamp", nullable=True, outcome=True),
            ),
        ),
        "told": told_labels(NAME, KEYS),
    },
    entities=("carrier", "origin"),
    event_time="departure",
    label=Label("late", pl.col("late"), pl.col("landed"), told="told"),
    candidates=(LogisticRegression(),),
)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path / "state") as example:
        (tmp_path / "departures.csv").write_text(FILE)
        yield example


def key(carrier: str) -> dict[str, Any]:
    return {"carrier": carrier, "origin": "JFK", "departure": DEPARTURE.isoformat()}


def trained(endpoint: ExampleEndpoint, folder: Path, as_of: datetime) -> dict[str, bool]:
    """By carrier the labels of the training set, as of a moment, of a snapshot made now."""
    settings = load_settings(state=endpoint.settings.state, data=str(folder), artifacts=endpoint.settings.artifacts)
    contracts = {name: contract(source) for name, source in CASE.sources.items()}
    snapshot = ingest(CASE, settings, as_of, "c" * 40, contracts)
    made = build_training_set(CASE, Artifacts(settings.artifacts), None, [], snapshot, as_of)
    frame = pl.read_parquet(made.url)
    return dict(frame.select("carrier", LABEL).rows())


def at(hours: int) -> str:
    return (DEPARTURE + timedelta(hours=hours)).isoformat()


def test_labels_told_over_http_are_in_the_next_training_set(endpoint: ExampleEndpoint, tmp_path: Path) -> None:
    end = DEPARTURE + timedelta(days=10)
    assert trained(endpoint, tmp_path, end) == {"B6": True, "DL": True}, "nothing was told yet"
    asked = predict(endpoint, {"keys": [{**key(carrier), "distance": 500} for carrier in ("AA", "UA")]})
    assert asked.status_code == 200, asked.text
    request = asked.json()["request_id"]
    told = label(
        endpoint,
        {"request_id": request, "row": 0, "label": False, "known_at": at(4)},
        {"keys": key("UA"), "label": False, "known_at": at(4)},
        {"keys": key("UA"), "label": True, "known_at": at(24)},  # a correction
        {"keys": key("B6"), "label": False, "known_at": at(48)},  # of what the file says
        {"keys": key("DL"), "label": None, "known_at": at(72)},
    )
    assert told.status_code == 200, told.text
    stored(endpoint)
    assert trained(endpoint, tmp_path, end) == {"AA": False, "UA": True, "B6": False}
    assert trained(endpoint, tmp_path, DEPARTURE + timedelta(hours=12)) == {
        "AA": False, "UA": False, "B6": True, "DL": True,
    }, "what was known by then"  # fmt: skip


def test_a_file_of_labels_is_measured_by_trained_on_and_counts_as_new(
    endpoint: ExampleEndpoint, tmp_path: Path
) -> None:
    asked = predict(endpoint, {"keys": [{**key(carrier), "distance": 500} for carrier in CARRIERS[:2]]})
    request = asked.json()["request_id"]
    file = tmp_path / "outcomes.csv"
    file.write_text(f"request_id,row,label,known_at\n{request},0,true,{at(4)}\n{request},1,false,{at(5)}\n")
    assert import_labels(str(file), NAME, endpoint.settings).accepted == 2
    stored(endpoint)
    predictions = Ledger(endpoint.settings, NAME).frame()
    joined = join_labels(predictions, labels_of(NAME, predictions, endpoint.settings))
    (measured,) = quality_by_window(joined, timedelta(days=36_500), np.array([0.5]))
    assert (measured.predictions, measured.rows) == (2, 2)
    assert trained(endpoint, tmp_path, DEPARTURE + timedelta(days=1))["AA"] is True
    new = NewLabels(endpoint.settings, NAME)
    assert new(None, DEPARTURE + timedelta(days=1)) == 2
    label(endpoint, {"keys": key("DL"), "label": False, "known_at": at(6)})
    stored(endpoint)
    assert new(None, DEPARTURE + timedelta(days=1)) == 3, "a schedule is due by labels of either way"


def test_a_label_of_a_request_id_that_was_sent_again_with_other_keys_has_no_row(
    endpoint: ExampleEndpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can say which of both it is of; one of the same keys is of them, whatever else was asked."""
    same, other = str(uuid6.uuid7()), str(uuid6.uuid7())
    for id, carrier, distance in ((same, "AA", 500), (same, "AA", 501), (other, "UA", 500), (other, "DL", 500)):
        body = {"keys": [{**key(carrier), "distance": distance}]}
        assert predict(endpoint, body, **{"x-request-id": id}).status_code == 200
        label(endpoint, {"request_id": id, "label": False, "known_at": at(4)})
    stored(endpoint)
    assert trained(endpoint, tmp_path, DEPARTURE + timedelta(days=1)) == {"AA": False, "B6": True, "DL": True}
    assert "2 labels of departures are by request ids that were sent again with other keys: no row." in caplog.text


@pytest.mark.parametrize("id", CALLERS_IDS.values(), ids=list(CALLERS_IDS))
def test_a_label_is_trained_on_whatever_moment_the_id_of_its_request_spells(
    endpoint: ExampleEndpoint, tmp_path: Path, id: str
) -> None:
    asked = predict(endpoint, {"keys": [{**key("AA"), "distance": 500}]}, **{"x-request-id": id})
    assert asked.status_code == 200, asked.text
    assert label(endpoint, {"request_id": id, "label": False, "known_at": at(4)}).status_code == 200
    stored(endpoint)
    assert trained(endpoint, tmp_path, DEPARTURE + timedelta(days=1)) == {"AA": False, "B6": True, "DL": True}


def test_a_source_of_told_labels_is_declared_as_what_it_is() -> None:
    with pytest.raises(UseCaseError, match="no source beside the first"):
        replace(CASE, label=replace(CASE.label, told="departures"))
    with pytest.raises(UseCaseError, match="needs the key"):
        replace(CASE, sources={**CASE.sources, "told": told_labels(NAME, KEYS[:2])})


def test_before_any_row_has_a_label_it_is_said(endpoint: ExampleEndpoint, tmp_path: Path) -> None:
    (tmp_path / "departures.csv").write_text("\n".join(FILE.splitlines()[:3]) + "\n")
    with pytest.raises(DataError, match="no row has a label"):
        trained(endpoint, tmp_path, DEPARTURE + timedelta(days=1))


def test_what_the_parity_of_requests_is_proved_on_are_the_rows_of_the_training_set(
    endpoint: ExampleEndpoint, tmp_path: Path
) -> None:
    from mlops_ray.features.labelled import labelled_rows, rows_with_told

    rows = pl.DataFrame({"carrier": ["AA", "UA"], "origin": ["JFK", "JFK"], "departure": [DEPARTURE] * 2})
    own = rows.with_columns(
        distance=pl.lit(1.0), late=pl.lit(None, pl.Boolean), landed=pl.lit(None, pl.Datetime("us", "UTC"))
    )
    told = rows[1:].with_columns(label=pl.lit(True), known_at=pl.lit(DEPARTURE))
    joined = rows_with_told(CASE, {"departures": own, "told": told})
    made = labelled_rows(CASE, joined, DEPARTURE)
    assert trained_on(CASE, joined, made, DEPARTURE)["carrier"].to_list() == ["UA"]
