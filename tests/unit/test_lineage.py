"""Lineage: from an endpoint, a version or a prediction to the raw files, complete, and only what was registered."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError, IntegrityError, MlopsRayError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.history import Deployment, changes, deployments
from mlops_ray.governance.live import Plan, Step, live
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import advance, promote, start_rollout
from mlops_ray.predictions.ids import microseconds, uuid7_at
from mlops_ray.predictions.segments import write_segment
from mlops_ray.registry.lineage import Lineage, write_lineage
from mlops_ray.registry.trace import parse_version, trace
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example

PLAN = Plan((Step("shadow", 1.0, 0), Step("canary", 0.25, 0)))
HOSTILE = ["", "..", "../flights@1", "file:///etc/passwd", "flights@0", "flights@-1", "flights@1e3", "Flights@1"]
HOSTILE += [
    "flights@1\x1b[2J",
    "flights@1\0",
    "flights@" + "9" * 40,
    "x" * 10_000,
    "flights@1 or 1=1",
    "flights@\u0661",
]
ASKED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path, store: ControlStore) -> Settings:
    return Settings(state=str(tmp_path), data=str(tmp_path / "data"))


@pytest.fixture
def rolled_out(settings: Settings, store: ControlStore) -> ControlStore:
    """Version 1 was champion; 2 came through shadow and canary, was promoted, and rolled back."""
    first, second = (
        register_example(settings, store, example_lineage(digest=f"{number:064x}"), number) for number in (1, 2)
    )
    set_champion(store, AUTHOR, "flights", first, "the first")
    state = start_rollout(store, AUTHOR, "flights", second, PLAN)
    for why in ("loaded", "held"):
        assert state.rollout
        state = advance(store, AUTHOR, "flights", state.rollout, why)
    assert state.rollout
    promote(store, AUTHOR, "flights", state.rollout, "good")
    roll_back(store, AUTHOR, "flights", live(store, "flights").revision, 1, "bad")
    return store


def ledger_of(settings: Settings, *rows: dict[str, Any]) -> None:
    """A segment with a row for each of `rows`, answered at ASKED_AT unless they say otherwise."""
    common = {"row": 0, "time": ASKED_AT, "as_of": ASKED_AT, "version": "2", "route": "champion", "latency_s": 0.001}
    frame = pl.DataFrame([common | {"probability": 0.5} | row for row in rows]).with_columns(
        pl.col("time", "as_of").cast(pl.Datetime("us", "UTC")), pl.col("row").cast(pl.Int32)
    )
    name = uuid7_at(microseconds(frame["time"].min()) // 1000)  # type: ignore[arg-type]
    write_segment(Artifacts(settings.artifacts), "flights", f"{name}-r1", frame)


def request_at(moment: datetime = ASKED_AT) -> str:
    return uuid7_at(microseconds(moment) // 1000)


def test_a_request_leads_to_the_raw_files_in_one_call(settings: Settings, rolled_out: ControlStore) -> None:
    asked, other = request_at(), request_at(ASKED_AT + timedelta(seconds=5))
    ledger_of(settings, {"request_id": asked, "version": "1", "route": "shadow"}, {"request_id": asked})
    ledger_of(settings, {"request_id": other, "version": "1", "time": ASKED_AT + timedelta(seconds=5)})
    found = trace(settings, asked.upper())
    assert found.prediction is not None
    assert (found.version, found.prediction["route"], found.prediction["probability"]) == (2, "champion", [0.5])
    assert found.lineage.source_files["flights"]["flights_2013-01.csv"] == f"{1:064x}"
    assert found.lineage.digest == f"{2:064x}"
    assert trace(settings, other).version == 1


def test_a_request_that_no_ledger_holds_is_an_error_that_says_why(settings: Settings, store: ControlStore) -> None:
    with pytest.raises(DataError, match="up to 60 s after"):
        trace(settings, request_at())
    ledger_of(settings, {"request_id": "0b0f7a3c-0000-4000-8000-000000000000"})
    with pytest.raises(DataError, match="up to 60 s after"):
        trace(settings, "0b0f7a3c-0000-4000-8000-000000000001")


def test_an_id_without_time_is_found_near_a_moment(settings: Settings, rolled_out: ControlStore) -> None:
    asked = "0b0f7a3c-0000-4000-8000-000000000000"
    ledger_of(settings, {"request_id": asked})
    assert trace(settings, asked, ASKED_AT).version == 2
    assert trace(settings, asked).version == 2


def test_an_id_of_another_time_is_found(settings: Settings, rolled_out: ControlStore) -> None:
    asked = request_at(ASKED_AT - timedelta(days=400))
    ledger_of(settings, {"request_id": asked})
    assert trace(settings, asked).version == 2


@pytest.mark.parametrize(
    "near",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
    ],
)
def test_near_the_ends_of_all_years_no_request_is_held(settings: Settings, store: ControlStore, near: datetime) -> None:
    asked = "0b0f7a3c-0000-4000-8000-000000000000"
    ledger_of(settings, {"request_id": asked})
    with pytest.raises(DataError, match="No ledger holds the request"):
        trace(settings, asked, near)


def test_an_endpoint_leads_to_its_champion_and_a_version_to_its_own_deployments(
    settings: Settings, rolled_out: ControlStore
) -> None:
    endpoint = trace(settings, "flights")
    assert endpoint.version == 1
    assert {one.version for one in endpoint.deployments} == {1, 2}
    version = trace(settings, "flights@2")
    assert [one.part for one in version.deployments] == ["loading", "shadow", "canary", "champion"]
    assert version.registered["actor"] == "ada"


def test_deployments_join_without_gap_and_share_all_requests(rolled_out: ControlStore) -> None:
    events = changes(rolled_out, "flights")
    known = deployments(events)
    assert [(one.version, one.part, one.share) for one in known] == [
        (1, "champion", 1.0), (2, "loading", 0.0), (2, "shadow", 1.0), (1, "champion", 0.75), (2, "canary", 0.25),
        (2, "champion", 1.0), (1, "champion", 1.0),
    ]  # fmt: skip
    for event in events:
        then = [one for one in known if one.held(event.time)]
        assert sum(one.share for one in then if one.part in ("champion", "canary")) == pytest.approx(1)
    assert not [one for one in known if one.held(events[0].time - timedelta(microseconds=1))]
    assert [one.until for one in known if one.until is None] == [None]


def test_a_changed_record_is_not_believed(settings: Settings, rolled_out: ControlStore, tmp_path: Path) -> None:
    record = trace(settings, "flights@1").record
    file = tmp_path / "artifacts" / "lineage" / "flights" / f"{record}.json"
    file.write_text(file.read_text().replace('"seed": 13', '"seed": 14'))
    with pytest.raises(IntegrityError, match=r"flights@1 was changed: its digest is"):
        trace(settings, "flights@1")


def test_a_record_of_another_model_is_not_believed(settings: Settings, store: ControlStore) -> None:
    other = write_lineage(Artifacts(settings.artifacts), example_lineage(digest="e" * 64))
    register_example(settings, store, example_lineage(), lineage=other)
    with pytest.raises(IntegrityError, match="about another model"):
        trace(settings, "flights@1")


OPTIONAL = {"used", "owner", "purpose", "limits", "feature_service", "feature_rows", "parameters", "search"}


@pytest.mark.parametrize("name", [one.name for one in fields(Lineage) if one.name not in OPTIONAL])
def test_a_lineage_without_a_required_field_is_refused(name: str, tmp_path: Path) -> None:
    value = example_lineage().to_json()
    assert Lineage.from_json(value) == Lineage.from_json(json.loads(json.dumps(value)))
    del value[name]
    with pytest.raises(IntegrityError, match=name):
        Lineage.from_json(value)
    empty = {str: "", int: None, bool: None, dict: {}, tuple: ()}
    changed: dict[str, Any] = {name: empty[type(getattr(example_lineage(), name))]}
    with pytest.raises(IntegrityError, match=f"lacks {name}"):
        write_lineage(Artifacts(str(tmp_path)), replace(example_lineage(), **changed))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_one_short_sentence(text: str, settings: Settings, store: ControlStore) -> None:
    calls = [lambda: parse_version(text), lambda: trace(settings, text)]
    for call in calls:
        with pytest.raises(ConfigurationError) as error:
            call()
        assert len(str(error.value)) < 400
        assert str(error.value).isprintable()


def test_an_unknown_version_and_endpoint_are_named(settings: Settings, rolled_out: ControlStore) -> None:
    with pytest.raises(ConfigurationError, match="trains has no champion"):
        trace(settings, "trains")
    with pytest.raises(ConfigurationError, match="flights has no version 9; registered are: 1, 2"):
        trace(settings, "flights@9")


def test_openlineage_events_are_runs_that_connect_raw_files_to_the_model(
    settings: Settings, rolled_out: ControlStore
) -> None:
    lines = run_cli(settings, "lineage", "flights@2", "--openlineage").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 4
    reached = {event["outputs"][0]["name"]: [one["name"] for one in event["inputs"]] for event in events}
    assert reached["flights.model"] == ["flights.training_set"]
    assert reached["flights.snapshot"] == [f"/data/flights/flights_2013-{month:02d}.csv" for month in (1, 2, 3)]
    for event in events:
        UUID(event["run"]["runId"])
        datetime.fromisoformat(event["eventTime"])
        assert event["producer"].startswith("https://")
        assert event["schemaURL"].endswith("/RunEvent")
        assert all(one["namespace"] and one["name"] for one in (event["job"], *event["inputs"], *event["outputs"]))
        assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in _facets(event))
    train = events[-1]
    assert train["run"]["facets"]["executionParameters"]["parameters"][0] == {"key": "depth", "value": "2"}
    assert train["run"]["facets"]["mlopsRay_search"]["seed"] == 13
    assert train["outputs"][0]["facets"]["mlopsRay_model"]["metrics"]["roc_auc"]["value"] == 0.75


def test_the_tree_shows_what_was_asked_for_down_to_the_files(settings: Settings, rolled_out: ControlStore) -> None:
    shown = run_cli(settings, "lineage", "flights@2")
    for part in ("canary", "gradient_boosting-002", "snapshot", f"{3:064x}", "lock file", "roc_auc 0.7500"):
        assert part in shown
    assert json.loads(run_cli(settings, "lineage", "flights", "--json"))["lineage"]["code_version"] == "0" * 40


def test_live_at_a_moment_is_what_served_then(settings: Settings, rolled_out: ControlStore) -> None:
    canary = next(one for one in deployments(changes(rolled_out, "flights")) if one.part == "canary")
    found = json.loads(run_cli(settings, "live", "flights", "--json", "--at", canary.since.isoformat()))
    assert [(one["version"], one["part"], one["share"]) for one in found["live"]] == [
        (1, "champion", 0.75),
        (2, "canary", 0.25),
    ]
    assert [one["part"] for one in found["rollout"]] == ["loading", "shadow", "canary"]
    assert "→ canary    version 2   25.0%" in run_cli(settings, "live", "flights", "--at", canary.since.isoformat())
    shown = run_cli(settings, "live", "flights")
    assert "version 1  100.0%" in shown
    assert f"UTC, revision {live(rolled_out, 'flights').revision}\n" in shown  # what breaking the glass is decided on


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["flights", "--at", "2000-01-01T00:00Z"], "Nothing was live yet"),
        (["flights", "--at", "2199-01-01T00:00Z"], "has not come yet"),
        (["flights", "--at", "2026-03-01T12:00"], "no time zone"),
        (["flights", "--at", "yesterday\x1b"], "is not a moment"),
        (["../x\x1b"], "Nothing was ever live"),
    ],
)
def test_a_moment_without_answer_is_one_sentence(
    options: list[str], says: str, settings: Settings, rolled_out: ControlStore
) -> None:
    result = CliRunner().invoke(app, ["live", *options, "--state", settings.state])
    assert isinstance(result.exception, MlopsRayError)
    assert says in str(result.exception)
    assert str(result.exception).isprintable()


def run_cli(settings: Settings, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--state", settings.state], catch_exceptions=False)
    return result.stdout


def _facets(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in (event["run"], event["job"], *event["inputs"], *event["outputs"]):
        yield from part.get("facets", {}).values()
        yield from part.get("outputFacets", {}).values()


def test_a_deployment_holds_from_its_beginning_until_before_its_end() -> None:
    one = Deployment(1, "d", "champion", 1.0, ASKED_AT, ASKED_AT + timedelta(hours=1), None, "champion.set", "ada", "")
    assert one.held(ASKED_AT)
    assert not one.held(ASKED_AT + timedelta(hours=1))
