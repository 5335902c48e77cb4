"""How requests went: counted where they are refused or repaired, reported, and drawn hour by hour, each once."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ray.util.metrics import Counter

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.replicas import heard
from mlops_ray.governance.requests import Requests
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.request_history import RequestHistory
from mlops_ray.monitoring.show.drift_view import look_back
from mlops_ray.monitoring.watch_state import WatchState, read_state
from mlops_ray.monitoring.watcher import Watcher
from mlops_ray.serving.counters import Judged
from mlops_ray.serving.metrics import Metrics
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from tests.unit.test_drift_page import expect_harmless
from tests.unit.test_endpoint import predict

NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEYS = {"carrier": "AA", "origin": "JFK", "departure": "2013-10-01T12:00:00Z", "distance": 500}


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path / "state") as example:
        yield example


def told(**counts: Any) -> Requests:
    return Requests(**counts)


def test_requests_are_counted_as_refused_and_as_repaired_whatever_way_they_come(endpoint: ExampleEndpoint) -> None:
    clean = predict(endpoint, {"keys": [KEYS]})
    assert clean.status_code == 200, clean.text
    judged = endpoint.follower.traffic.champion.judged
    assert (judged.refused, judged.repaired) == (0, 0)
    assert predict(endpoint, {"keys": [{**KEYS, "carrier": "  AA "}] * 2}).status_code == 200
    assert predict(endpoint, {"keys": [{**KEYS, "distance": "far"}]}).status_code == 400
    assert predict(endpoint, {"keys": [KEYS]}).status_code == 200
    assert (judged.refused, judged.repaired, judged.values["carrier"]) == (1, 1, 2)


def test_what_a_replica_counted_is_in_its_report_also_of_versions_that_are_gone(endpoint: ExampleEndpoint) -> None:
    predict(endpoint, {"keys": [{**KEYS, "carrier": " AA"}]})
    predict(endpoint, {"keys": [{**KEYS, "distance": "far"}]})
    endpoint.follower.follow_once()
    (replica,) = heard(endpoint.store, NAME).replicas
    found = replica.requests
    assert (found.answered, found.refused, found.repaired, found.values) == (1, 1, 1, {"carrier": 1})
    assert sum(found.latency.values()) == 1
    assert 0 < (found.latency_s(0.5) or 0) < 5
    totals, versions = endpoint.follower._totals, endpoint.follower.versions()
    assert totals.look(endpoint.follower.counts, []).refused == 1
    assert totals.look(endpoint.follower.counts, versions).answered == 1


def test_metrics_grow_by_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[tuple[str, ...], float] = {}

    def add(counter: Counter, value: float, tags: dict[str, str]) -> None:
        key = (counter.info["name"], *(value for name, value in sorted(tags.items()) if name != "use_case"))
        said[key] = said.get(key, 0.0) + value

    monkeypatch.setattr(Counter, "inc", add)
    metrics, judged = Metrics(NAME), Judged(refused=2, repaired=1)
    judged.values["carrier"] = 3
    metrics.publish_judged([("7", judged)])
    judged.repaired += 1
    metrics.publish_judged([("7", judged)])
    metrics.publish_judged([("7", judged), ("8", Judged(refused=5))])
    assert said == {
        ("mlops_ray_requests_refused_total", "7"): 2,
        ("mlops_ray_requests_repaired_total", "7"): 2,
        ("mlops_ray_values_repaired_total", "carrier", "7"): 3,
        ("mlops_ray_requests_refused_total", "8"): 5,
    }


def test_each_request_counts_once_in_the_hour_in_which_it_was_heard_of() -> None:
    first = RequestHistory().after({"a": told(answered=10, latency={"0.01": 10}), "b": told(answered=5)}, NOON)
    assert first.after({"a": told(answered=10, latency={"0.01": 10})}, NOON + HOUR) is first, "nothing new"
    later = first.after({"a": told(answered=12, refused=3, latency={"0.01": 11, "0.1": 1})}, NOON + HOUR)
    assert [(one.start.hour, one.requests.answered, one.requests.refused) for one in later.hours] == [
        (12, 15, 0),
        (13, 2, 3),
    ]
    assert later.hours[1].requests.latency == {"0.01": 1, "0.1": 1}
    back = later.after({"b": told(answered=6)}, NOON + 2 * HOUR)
    assert back.hours[-1].requests == told(answered=1), "it was cut off, and what it had said counts once"
    for hour in range(400):
        back = back.after(
            {"a": told(answered=12 + hour, refused=3, latency={"0.01": 11, "0.1": 1})}, NOON + hour * HOUR
        )
    assert len(back.hours) == 14 * 24


def test_what_was_heard_is_committed_and_read_again(tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))

    def watch() -> DriftWatch:
        return DriftWatch(artifacts, NAME, lambda version: "not watched here", lambda change: None)

    watch().round(NOON, ["7"], {"a": told(answered=4, repaired=1, values={"carrier": 1}, missing={"delays": 2})})
    again = watch()
    again.round(NOON + timedelta(minutes=1), ["7"], {"a": told(answered=5, repaired=1, values={"carrier": 1})})
    (hour,) = read_state(artifacts, NAME).requests.hours
    assert (hour.requests.answered, hour.requests.repaired, hour.start) == (5, 1, NOON.replace(minute=0))
    state = read_state(artifacts, NAME)
    assert WatchState.from_bytes(state.to_bytes()) == state


def test_a_watcher_asks_replicas_and_the_page_shows_how_requests_went(endpoint: ExampleEndpoint) -> None:
    for carrier, distance in (("AA", 500), (" AA", 500), ("AA", "far"), ("<script>", 500)):
        predict(endpoint, {"keys": [{**KEYS, "carrier": carrier, "distance": distance}]})
    endpoint.follower.follow_once()
    artifacts = Artifacts(endpoint.settings.artifacts)

    def open_watch(use_case: str, store: Any) -> DriftWatch:
        return DriftWatch(artifacts, use_case, lambda version: "not watched here", lambda change: None)

    Watcher(endpoint.settings, "pool", 0, open_watch).round(NAME)
    view = look_back(endpoint.settings, NAME, lambda version: "not watched here")
    (hour,) = view.requests
    assert (hour.requests.asked, hour.requests.refused, hour.requests.repaired) == (4, 2, 1)
    page = view.page()
    assert "4 requests: 2 answered, 2 refused, 0 failed; of 1 a value was repaired" in page
    expect_harmless(page)
    evil = replace(hour, requests=replace(hour.requests, values={"<img src=x>": 1}, stale={"<b onclick=x>": 3}))
    expect_harmless(replace(view, requests=(evil,)).page())


def test_without_a_report_nothing_is_said_of_requests(tmp_path: Path) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path))
    open_store(settings).close()
    assert "<h2>Requests</h2>" not in look_back(settings, NAME, lambda version: "").page()
