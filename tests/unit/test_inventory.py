"""The inventory: every use case with its owner, what is live, and what is open."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.errors import ConfigurationError, ForbiddenError
from mlops_ray.governance.alarms import raise_alarm
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.inventory import Declared, Entry, announce_overdue, declare, inventory, review
from mlops_ray.governance.versions import Evidence, VersionRef, record_version
from tests.unit.test_version_routes import serving

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY_S = 86_400.0
ANN, BOB = Actor("ann", ("operate",)), Actor("bob", ("approve",), id="b")
QUARTERLY = Declared("ann@example.org", "Late flights.", "high", 90 * DAY_S)


def of(store: ControlStore, use_case: str) -> Entry:
    return next(one for one in inventory(store, NOW) if one.use_case == use_case)


def test_the_inventory_lists_every_use_case_and_how_it_stands(store: ControlStore, tmp_path: Path) -> None:
    for name, version in (("trains", 1), ("flights", 1), ("flights", 2)):
        record_version(store, ANN, name, version, Evidence(f"{name}{version}", "e"), now=NOW)
    set_champion(store, ANN, "flights", VersionRef(1, "flights1"), "first")
    raise_alarm(store, "flights", 1, "a1", "Drift of hour", "warning", NOW, {"question": "concept"})
    flights, trains = inventory(store, NOW)
    assert (flights.use_case, flights.live_version, flights.newest_version) == ("flights", 1, 2)
    assert (flights.registered_at, flights.open_alarms, flights.approval) == (NOW, 1, "")
    assert flights.live_since
    assert (trains.use_case, trains.live_version, trains.live_since, trains.open_alarms) == ("trains", None, None, 0)

    declare(store, ANN, "flights", Declared("ann@example.org", "Late flights.", "high", 90 * DAY_S), NOW)
    done = CliRunner().invoke(app, ["inventory", "--state", str(tmp_path)], catch_exceptions=False)
    first, second = done.output.splitlines()
    assert first.startswith("flights  owner: ann@example.org  tier: high  purpose: Late flights.  version 1 live since")
    assert "approval: none asked  newest: 2, registered 2026-03-01 12:00:00Z  1 open alarms" in first
    assert first.endswith("never reviewed, OVERDUE since 2026-05-30 12:00:00Z")
    assert second.startswith("trains  owner: none named  tier: none named  purpose: none named  nothing live")
    assert second.endswith("never reviewed, no review declared")


def test_one_use_case_is_as_in_the_inventory_of_all(store: ControlStore) -> None:
    record_version(store, ANN, "trains", 3, Evidence("t", "e"), now=NOW)
    set_champion(store, ANN, "flights", VersionRef(1, "f"), "first")
    for days in (60, 90, 30):
        declare(store, ANN, "boats", replace(QUARTERLY, review_every_s=days * DAY_S), NOW - timedelta(days=days))
    raise_alarm(store, "trains", 3, "a1", "Drift of hour", "warning", NOW, {"question": "concept"})
    every = inventory(store, NOW)
    assert [entry.use_case for entry in every] == ["boats", "flights", "trains"]
    assert [inventory(store, NOW, entry.use_case) for entry in every] == [[entry] for entry in every]
    assert inventory(store, NOW, "buses") == []


def test_a_review_is_of_a_person_with_the_role_and_puts_the_next_one_off(store: ControlStore) -> None:
    declare(store, ANN, "flights", QUARTERLY, NOW)
    assert of(store, "flights").next_review_at == NOW + timedelta(days=90)
    for actor in (ANN, SYSTEM, Actor("ed", ("audit",))):
        with pytest.raises(ForbiddenError, match="role 'approve'"):
            review(store, actor, "flights", "looked")
    with pytest.raises(ConfigurationError, match="needs a reason"):
        review(store, BOB, "flights", " ")
    with pytest.raises(ConfigurationError, match="There is no use case 'buses'"):
        review(store, BOB, "buses", "looked")
    review(store, BOB, "flights", "card, drift and complaints", NOW + timedelta(days=80))
    found = of(store, "flights")
    assert (found.reviewed_by, found.next_review_at) == ("bob", NOW + timedelta(days=170))
    (event,) = read_events(store, types=["use_case.reviewed"])
    assert (event.actor_id, event.reason, event.use_case) == ("b", "card, drift and complaints", "flights")


def test_who_declares_another_time_between_reviews_does_not_put_the_next_one_off(store: ControlStore) -> None:
    declare(store, ANN, "flights", QUARTERLY, NOW)
    declare(store, ANN, "flights", QUARTERLY, NOW + timedelta(days=1))
    declare(store, ANN, "flights", replace(QUARTERLY, owner="eve"), NOW + timedelta(days=89))
    assert of(store, "flights").next_review_at == NOW + timedelta(days=90)
    assert len(read_events(store, types=["use_case.declared"])) == 2
    declare(store, ANN, "flights", Declared(), NOW + timedelta(days=95))
    assert of(store, "flights").next_review_at is None
    declare(store, ANN, "flights", QUARTERLY, NOW + timedelta(days=96))
    assert of(store, "flights").next_review_at == NOW + timedelta(days=186)


def test_an_overdue_review_is_announced_once_and_again_each_week_until_it_is_done(store: ControlStore) -> None:
    declare(store, ANN, "flights", QUARTERLY, NOW)
    declare(store, ANN, "trains", Declared(), NOW)
    said = [day for day in range(120) if announce_overdue(store, NOW + timedelta(days=day))]
    assert said == [90, 97, 104, 111, 118]
    review(store, BOB, "flights", "looked", NOW + timedelta(days=119))
    assert announce_overdue(store, NOW + timedelta(days=120)) == []
    assert announce_overdue(store, NOW + timedelta(days=209)) == ["flights"]
    (*_, last) = read_events(store, types=["review.overdue"])
    assert (last.severity, last.reason) == ("warning", "The review of flights was due on 2026-09-26.")


def test_people_see_and_review_the_use_cases_of_their_roles_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path) as server:
        declare(server.store, SYSTEM, "flights", QUARTERLY, datetime.now(UTC))
        declare(server.store, SYSTEM, "trains", QUARTERLY, datetime.now(UTC))
        with server.client("bob") as bob:
            assert bob.review("flights", "looked at the card")["reviewed_by"] == "bob"
            found = {one["use_case"]: one for one in bob.inventory()}
        assert (found["flights"]["reviewed_by"], found["flights"]["overdue"]) == ("bob", False)
        assert found["trains"]["reviewed_at"] is None
        assert [one["use_case"] for one in server("foreign", "/inventory").json()["use_cases"]] == ["trains"]
        assert server("eve", "/inventory").json()["use_cases"] == []
        for who, status in (("ann", 403), ("auditor", 403), ("foreign", 403), ("admin", 200)):
            body = {"use_case": "flights", "reason": "looked"}
            assert server(who, "/inventory/review", body).status_code == status, who
        for body in (
            {"use_case": "../x", "reason": "x"},
            {"use_case": "buses", "reason": "x"},
            {"use_case": "flights"},
        ):
            assert server("admin", "/inventory/review", body).status_code == 400
        monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["bob"])
        assert "flights is reviewed by bob." in server.command("review", "flights", "--reason", "again")
        assert server.command("inventory").count("reviewed ") == 1
