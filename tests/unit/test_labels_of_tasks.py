"""Labels that are numbers or classes: told over HTTP and in files, kept and read as what they are."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops_ray.batch.labels import import_labels
from mlops_ray.errors import UseCaseError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import live
from mlops_ray.predictions.told_labels import told_labels
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from mlops_ray.use_case import Label
from tests.task_models import DELAY, OUTCOME, VECTORS, outcomes_then_late, sealed_as
from tests.unit.test_endpoint import assert_refused, predict, send
from tests.unit.test_labels import label, stored
from tests.unit.test_told_labels import CASE
from tests.unit.test_told_labels import KEYS as CASE_KEYS


@pytest.fixture(scope="module")
def delays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("delays"), seal=sealed_as(DELAY)) as example:
        yield example


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("outcomes"), seal=sealed_as(OUTCOME)) as example:
        yield example


def told_to(endpoint: ExampleEndpoint, *labels: Any) -> pl.DataFrame:
    """What is known of a prediction for each of the labels, by row."""
    asked = predict(endpoint, {"features": [VECTORS[0]] * len(labels)}).json()["request_id"]
    said = [{"request_id": asked, "row": row, "label": value} for row, value in enumerate(labels)]
    assert label(endpoint, *said).status_code == 200
    return stored(endpoint).filter(pl.col("request_id") == asked).sort("row")


def test_labels_are_kept_as_what_they_are(delays: ExampleEndpoint, outcomes: ExampleEndpoint) -> None:
    numbers = told_to(delays, 3.25, 7, -12.5, None)["label"]
    assert (numbers.dtype, numbers.to_list()) == (pl.Float64, [3.25, 7.0, -12.5, None])
    names = told_to(outcomes, "late", "on time", None)["label"]
    assert (names.dtype, names.to_list()) == (pl.String, ["late", "on time", None])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("delays", "soon", "'soon' is not of type number"),
        ("delays", "NaN", "'NaN' is not of type number"),
        ("delays", True, "is not of type number"),
        ("delays", 1e39, "is outside"),
        ("outcomes", "diverted", "'diverted' is not one of the known values"),
        ("outcomes", True, "is not one of the known values"),
        ("outcomes", 1, "is not one of the known values"),
    ],
)
def test_a_label_that_cannot_be_one_is_refused_by_its_place(
    name: str, value: Any, says: str, request: pytest.FixtureRequest
) -> None:
    told = {"request_id": "0191C0A0-0000-7000-8000-000000000001"}
    good = {"delays": 1.0, "outcomes": "late"}[name]
    answer = label(request.getfixturevalue(name), {**told, "label": good}, {**told, "label": value})
    assert_refused(answer, 400, "labels[1].label")
    assert says in answer.json()["error"]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_a_literal_that_is_no_number_is_refused_by_its_place(delays: ExampleEndpoint, literal: str) -> None:
    body = '{"labels": [{"request_id": "0191C0A0-0000-7000-8000-000000000001", "label": ' + literal + "}]}"
    answer = send(delays, "POST", "/labels", content=body, headers={"content-type": "application/json"})
    assert_refused(answer, 400, "labels[0].label")


def test_labels_by_keys_and_from_files_have_the_type_of_the_task(outcomes: ExampleEndpoint, tmp_path: Path) -> None:
    departure = datetime(2013, 10, 1, 12, tzinfo=UTC)
    keys = {"carrier": "AA", "origin": "JFK", "departure": departure.isoformat()}
    asked = predict(outcomes, {"keys": [{**keys, "distance": 500.0}]}).json()["request_id"]
    assert label(outcomes, {"keys": keys, "label": "cancelled"}).json()["by_keys"] == 1
    assert stored(outcomes).filter(pl.col("request_id") == asked)["label"].to_list() == ["cancelled"]
    file = tmp_path / "told.csv"
    file.write_text(f"request_id,row,label\n{asked},0,late\n{asked},0,diverted\n{asked},0,NaN\n")
    done = import_labels(str(file), NAME, outcomes.settings)
    assert (done.accepted, done.reasons) == (1, {"label:not_a_choice": 2})
    assert set(stored(outcomes).filter(pl.col("request_id") == asked)["label"]) == {"cancelled", "late"}


def test_numbers_are_labels_in_a_file(delays: ExampleEndpoint, tmp_path: Path) -> None:
    asked = predict(delays, {"features": VECTORS}).json()["request_id"]
    file = tmp_path / "told.csv"
    file.write_text(f"request_id,row,label\n{asked},0,12.5\n{asked},1,NaN\n{asked},2,\n")
    done = import_labels(str(file), NAME, delays.settings)
    assert (done.accepted, done.reasons) == (2, {"label:not_number": 1})
    said = stored(delays).filter(pl.col("request_id") == asked).sort("row")
    assert said["label"].to_list() == [12.5, None]


def test_labels_of_another_kind_than_the_last_are_passed_over(tmp_path: Path) -> None:
    """A use case whose label was yes or no, and is a class now."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    with example_endpoint(tmp_path, versions=2, seal=outcomes_then_late) as example:
        for version, value, more in ((8, True, {}), (7, "late", {"known_at": later})):
            if version != live(example.store, NAME).champion.version:
                set_champion(example.store, SYSTEM, NAME, example.sealed[version], "now")
                example.follower.follow_once()
            asked = predict(example, {"features": VECTORS[:1]}).json()["request_id"]
            assert label(example, {"request_id": asked, "label": value, **more}).status_code == 200
        assert stored(example)["label"].to_list() == ["late"]


def test_classes_that_could_never_be_told_are_refused_where_they_are_declared() -> None:
    text = pl.when(pl.col("late")).then(pl.lit("late ")).otherwise(pl.lit("on time"))
    task = MultiClass(("late ", "on time", "cancelled"))
    with pytest.raises(UseCaseError, match="'late ' is not how texts are read: trimmed"):
        replace(CASE, label=Label("late", text, pl.col("landed"), task=task))


def test_a_source_of_told_labels_of_another_kind_is_refused() -> None:
    minutes = Label("late", pl.col("distance"), pl.col("landed"), told="told", task=DELAY)
    with pytest.raises(UseCaseError, match=r"of type Boolean, which is no label of the kind regression\. Give told"):
        replace(CASE, label=minutes, metric="r2")
    sources = {**CASE.sources, "told": told_labels(NAME, CASE_KEYS, DELAY)}
    assert replace(CASE, label=minutes, sources=sources, metric="r2").label == minutes
