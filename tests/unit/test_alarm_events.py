"""Alarms in the audit log: raised once, silenced for a time, and heard by rollouts while they are open."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.alarms import (
    RAISED,
    StandingAlarms,
    alarms_of,
    open_alarms,
    raise_alarm,
    resolve_alarm,
    silence_alarm,
    standing_alarms,
    worsen_alarm,
)
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.erasures import erase_reasons
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.live import Plan, Step, live
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.testing.example_endpoint import NAME, example_endpoint

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
ANN = Actor("ann", ("operate",))
FOUND: dict[str, Any] = {"question": "data", "columns": ["hour"], "window": {"kind": "7 days", "end": NOW.isoformat()}}


def raised(store: ControlStore, id: str = "a1", version: int = 7, use_case: str = NAME) -> bool:
    payload: dict[str, Any] = {"question": "data", "columns": ["hour"], "nothing": float("nan")}
    return raise_alarm(store, use_case, version, id, f"Data drift {id}", "warning", NOW - HOUR, payload)


def test_told_again_an_alarm_is_one_event(store: ControlStore) -> None:
    assert [raised(store), raised(store), raised(store, "a2")] == [True, False, True]
    assert resolve_alarm(store, NAME, "a1", "over", {})
    assert not resolve_alarm(store, NAME, "a1", "over", {})
    assert not raised(store)
    types = [event.type for event in read_events(store)]
    assert types == ["alarm.raised", "alarm.raised", "alarm.resolved"]
    first, second = alarms_of(store, NAME)
    assert (first.since, first.severity, first.resolved_at is None) == (NOW - HOUR, "warning", False)
    assert (second.id, second.payload["columns"], second.resolved_at) == ("a2", ["hour"], None)


def test_an_alarm_that_becomes_worse_is_heard_though_it_was_raised_as_information(store: ControlStore) -> None:
    payload: dict[str, Any] = {"question": "data", "columns": ["hour"]}
    raise_alarm(store, NAME, 7, "a", "Data drift of hour", "info", NOW - HOUR, payload)
    assert open_alarms(store, NAME, 7, NOW) == [], "nobody acts on information"
    for end, new in ((NOW, True), (NOW, False), (NOW + HOUR, True)):
        worse = {"columns": ["hour", "distance"], "window": {"kind": "7 days", "end": end}}
        assert worsen_alarm(store, NAME, 7, "a", "Data drift of distance", "warning", worse) == new
    for id, new in (("first", True), ("first", False), ("second", True)):
        spread = {**worse, "change": {"id": id}}
        assert worsen_alarm(store, NAME, 7, "a", "Data drift of distance", "warning", spread) == new
    assert open_alarms(store, NAME, 7, NOW) == ["Data drift of distance"]
    (alarm,) = alarms_of(store, NAME)
    assert (alarm.severity, alarm.payload["columns"], alarm.question) == ("warning", ["hour", "distance"], "data")


def test_open_alarms_are_those_of_a_version_that_are_neither_resolved_nor_silenced(store: ControlStore) -> None:
    for id, version, use_case in (("a", 7, NAME), ("b", 7, NAME), ("c", 8, NAME), ("d", 7, "other")):
        raised(store, id, version, use_case)
    resolve_alarm(store, NAME, "b", "over", {})
    assert open_alarms(store, NAME, 7, NOW) == ["Data drift a"]
    silence_alarm(store, ANN, NAME, "a", "a strike", NOW + HOUR, NOW)
    assert open_alarms(store, NAME, 7, NOW) == []
    assert open_alarms(store, NAME, 7, NOW + 2 * HOUR) == ["Data drift a"]
    (event,) = read_events(store, types=["alarm.silenced"])
    assert (event.actor, event.reason, event.payload["until"]) == ("ann", "a strike", (NOW + HOUR).isoformat())


def test_a_silence_needs_a_reason_an_end_and_an_open_alarm(store: ControlStore) -> None:
    raised(store, "abc1")
    raised(store, "abc2")
    for alarm, reason, until, message in (
        ("abc1", " ", NOW + HOUR, "Say why"),
        ("abc1", "why", NOW, "is past"),
        ("abc", "why", NOW + HOUR, "2 open alarms"),
        ("x", "why", NOW + HOUR, "0 open alarms"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            silence_alarm(store, ANN, NAME, alarm, reason, until, NOW)


def test_an_alarm_about_a_version_rolls_its_rollout_back(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, versions=2) as example:
        start_rollout(example.store, ANN, NAME, example.sealed[8], Plan((Step("canary", 0.5, 3600),)))
        raised(example.store, "champion's", 7)
        for _ in range(3):
            example.follower.follow_once()
        assert live(example.store, NAME).rollout is not None
        raised(example.store, "its own", 8)
        example.follower.follow_once()
        assert live(example.store, NAME).rollout is None
        (event,) = read_events(example.store, types=["rollout.rolled_back"])
        assert "Data drift its own" in event.reason


@pytest.mark.parametrize("seed", range(3))
def test_who_looks_often_sees_what_who_looks_once_sees(store: ControlStore, seed: int) -> None:
    random, known, cases = Random(seed), StandingAlarms(), ("flights", "trains")
    for number in range(60):
        case = random.choice(cases)
        ids = [one.id for one in alarms_of(store, case)]
        match random.randrange(5):
            case 0:
                raise_alarm(store, case, 1, f"a{number}", "It moved", "warning", NOW, FOUND)
            case 1 if ids:
                worsen_alarm(store, case, 1, random.choice(ids), "It moved more", "critical", FOUND)
            case 2 if ids:
                resolve_alarm(store, case, random.choice(ids), "calm", {"resolved": NOW.isoformat()})
            case 3 if any(one.resolved_at is None for one in alarms_of(store, case)):
                one = next(one for one in alarms_of(store, case) if one.resolved_at is None)
                silence_alarm(store, ANN, case, one.id, "known", NOW + timedelta(days=9_000), NOW)
            case 4 if number % 20 == 19:
                erase_reasons(store, ANN, [read_events(store, types=[RAISED])[0].seq], "somebody asked")
        for wanted in (cases, cases[:1], ()):
            with store.reading() as connection:
                assert known.now(connection, wanted) == standing_alarms(connection, wanted)


def test_a_database_that_was_brought_back_is_read_anew(tmp_path: Path) -> None:
    known = StandingAlarms()
    store = open_store(Settings(state=str(tmp_path / "one"), data=str(tmp_path)))
    raise_alarm(store, "flights", 1, "a1", "It moved", "warning", NOW, FOUND)
    copy = tmp_path / "copy.db"
    with sqlite3.connect(store.file) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    raise_alarm(store, "flights", 1, "a2", "It moved, too", "warning", NOW, FOUND)
    with store.reading() as connection:
        assert [one.id for one in known.now(connection, ["flights"])] == ["a1", "a2"]
    store.close()
    with sqlite3.connect(copy) as source, sqlite3.connect(store.file) as target:
        source.backup(target)
    again = open_store(Settings(state=str(tmp_path / "one"), data=str(tmp_path)))
    with again.reading() as connection:
        assert [one.id for one in known.now(connection, ["flights"])] == ["a1"]
    for number in range(3):
        raise_alarm(again, "flights", 1, f"b{number}", "Another history", "warning", NOW, FOUND)
    with again.reading() as connection:
        assert [one.id for one in known.now(connection, ["flights"])] == ["a1", "b0", "b1", "b2"]
    again.close()
