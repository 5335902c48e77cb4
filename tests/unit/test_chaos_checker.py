"""The checker of chaos histories finds each kind of wrong, and nothing where all is well."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from mlops_ray.governance.alarms import raise_alarm
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.tables import event_head
from tests.chaos.check_history import TEXTS, Left, check

ORDER = {"retraining.decided": {"order": {"id": "r1"}}, "retraining.finished": {"id": "r1"}}


def made_history() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"what": "subscribed", "after": 1, "types": ["alarm.raised"], "at": 0.0}]
    for number in range(20):
        lines.append({"what": "asked", "id": f"q{number}", "at": float(number)})
        lines.append({"what": "answered", "id": f"q{number}", "status": 200, "at": number + 0.1})
    fault = [{"what": f"fault {what}", "fault": "raylet killed", "at": 10.0} for what in ("begun", "seen", "ended")]
    return [*lines, *fault, {"what": "retraining begun", "submission": "r1-1"}]


@pytest.fixture
def left(store: ControlStore) -> Left:
    """Real events with their hashes, but for the two of a retraining, which stand beside them."""
    create_key(store, SYSTEM, "somebody", ["predict"])
    with store.reading() as connection:
        now = database_now(connection)
    raise_alarm(store, "trains", 1, "a", "ümlauts drift", "warning", now, {"share": 0.25, "columns": ["ä", None]})
    raise_alarm(store, "trains", 1, "b", "drift", "warning", now, {"nested": {"deep": [1, {"x": "y"}]}})
    with store.reading() as connection:
        head = connection.execute(select(event_head.c.seq, event_head.c.hash)).one()
    events = [event.to_record() for event in read_events(store)]
    return Left(Counter(f"q{n}" for n in range(20)), events, head._asdict(), {"rows": 20, "repeated": 0})


def problems(history: list[dict[str, Any]], left: Left, rotate_s: float = 0.0) -> list[str]:
    """With all that is asked of a whole run: an alarm is brought, and a retraining decided, begun and finished."""
    brought = [
        {"what": "delivered", "event": event["id"], "at": 15.0}
        for event in left.events
        if event["type"] == "alarm.raised"
    ]
    return check([*history, *brought], left, rotate_s)


def without_retraining(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in history if line["what"] != "retraining begun"]


def test_nothing_is_found_where_all_is_well(left: Left) -> None:
    assert problems(without_retraining(made_history()), left) == []


def test_a_lost_prediction_is_found_unless_its_host_was_lost_just_after(left: Left) -> None:
    history = without_retraining(made_history())
    less = replace(left, ledger=left.ledger - Counter(["q7"]), drift={"rows": 19, "repeated": 0})
    assert "1 of 20 acknowledged predictions are lost: ['q7']" in problems(history, less)
    lost = {"what": "host lost", "at": 8.0}
    assert problems([*history, lost], less, rotate_s=5) == []
    assert problems([*history, lost | {"at": 30.0}], less, rotate_s=5)


def test_a_doubled_a_strange_and_an_uncounted_prediction_are_found(left: Left) -> None:
    history = without_retraining(made_history())
    double = replace(left, ledger=left.ledger + Counter(["q3"]), drift={"rows": 21, "repeated": 0})
    assert "more than once: ['q3']" in problems(history, double)[0]
    strange = replace(left, ledger=left.ledger + Counter(["x"]), drift={"rows": 21, "repeated": 0})
    assert "nobody asked for: ['x']" in problems(history, strange)[0]
    assert "drift actor counted 19" in problems(history, replace(left, drift={"rows": 19, "repeated": 0}))[0]


def test_every_edit_of_the_chain_is_found(left: Left) -> None:
    history = without_retraining(made_history())
    for place, event in enumerate(left.events):
        for name, value in event.items():
            if name in ("salt", "seq"):
                continue
            edited = [dict(one) for one in left.events]
            edited[place][name] = {"other": 1} if isinstance(value, dict) else "other"
            assert problems(history, replace(left, events=edited)), f"{name} of event {place + 1}"
    assert "is missing" in problems(history, replace(left, events=left.events[1:]))[0]
    assert "ends at" in problems(history, replace(left, events=left.events[:-1]))[0]


def test_an_event_that_was_never_brought_is_found(left: Left) -> None:
    assert "were never delivered" in check(without_retraining(made_history()), left)[0]


def test_a_fault_that_was_not_seen_to_fire_is_found(left: Left) -> None:
    history = [line for line in without_retraining(made_history()) if line["what"] != "fault seen"]
    assert problems(history, left) == ["raylet killed: begun, and no 'fault seen' (1 times)"]


def test_a_retraining_that_was_begun_twice_or_never_is_found(left: Left) -> None:
    def events(*types: str) -> Left:
        rest = {"seq": 1, "previous_hash": "", "hash": "", **dict.fromkeys(TEXTS, ""), "salt": ""}
        return replace(left, events=[{**rest, "type": type, "payload": ORDER[type], "id": type} for type in types])

    def found(history: list[dict[str, Any]], there: Left) -> list[str]:
        return [one for one in problems(history, there) if "etraining" in one]

    history, both = made_history(), ("retraining.decided", "retraining.finished")
    begun = history[-1]
    assert found(history, events(*both)) == []
    assert found([*history, begun | {"submission": "r1-2"}], events(*both)) == []
    assert found([*history, begun], events(*both)) == ["Retrainings were begun more than once: ['r1-1']"]
    assert found(history[:-1], events(*both)) == ["Retrainings decided and begun are not the same: ['r1']"]
    assert found(history, events(both[0])) == ["Retrainings decided and finished are not the same: ['r1']"]
    assert "decided more than once" in found(history, events(both[0], *both))[0]
