"""How predictions are watched stands beside the model: revision by revision, with who, when and why."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError, UseCaseError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.monitoring_changes import set_definition
from mlops_ray.governance.monitoring_definitions import MonitoringRevision, definition_of, definitions
from mlops_ray.governance.policies import Policy, policy_of
from mlops_ray.governance.policy_changes import (
    PolicyChange,
    approve_change,
    list_changes,
    reject_change,
    set_policy,
    waiting,
)
from mlops_ray.use_case import Monitoring, WindowSpec
from tests.unit.test_version_routes import serving

ANN, BOB = Actor("ann", ("operate",), id="p1"), Actor("bob", ("approve",), id="p2")
CAT = Actor("cat", ("approve", "operate"), id="p3")
WIDER = {"false_alarm_days": 60}


def test_a_definition_holds_until_another_is_set_and_each_is_an_event(store: ControlStore) -> None:
    assert definition_of(store, "flights") is None
    wanted = Monitoring(windows=(WindowSpec(rows=1_000),), false_alarm_days=60, slices=("origin",)).to_json()
    made = set_definition(store, ANN, "flights", wanted, "windows were too long", seen=0)
    assert isinstance(made, MonitoringRevision)
    assert (made.revision, made.changed_by, made.reason) == (1, "ann", "windows were too long")
    assert set_definition(store, ANN, "flights", wanted, "again") == made
    set_definition(store, ANN, "flights", None, "as the models say", seen=1)
    assert [one.revision for one in definitions(store, "flights")] == [1, 2]
    assert definition_of(store, "flights") == definitions(store, "flights")[-1]
    assert definitions(store, "trains") == []
    first, second = read_events(store, types=["monitoring.changed"])
    assert (first.before, first.after["definition"], first.subject) == (None, wanted, "monitoring flights")
    assert (second.before, second.after["definition"]) == (first.after, None)


def test_who_may_not_or_does_not_say_why_or_saw_another_changes_nothing(store: ControlStore) -> None:
    set_definition(store, ANN, "flights", {"false_alarm_days": 60}, "why")
    with pytest.raises(ForbiddenError, match="operate"):
        set_definition(store, Actor("eve", ("approve", "predict")), "flights", None, "why")
    with pytest.raises(ConfigurationError, match="Say why"):
        set_definition(store, ANN, "flights", None, " ")
    with pytest.raises(ConflictError, match="at revision 1, and you decided on 0"):
        set_definition(store, ANN, "flights", None, "why", seen=0)
    assert len(definitions(store, "flights")) == 1


def asked(store: ControlStore, definition: dict[str, Any] | None = WIDER, by: Actor = ANN) -> PolicyChange:
    change = set_definition(store, by, "flights", definition, "too many alarms")
    assert isinstance(change, PolicyChange)
    return change


@pytest.mark.parametrize("definition", [WIDER, None])
def test_where_approvals_are_demanded_somebody_else_approves_what_raises_an_alarm(
    store: ControlStore, definition: dict[str, Any] | None
) -> None:
    set_definition(store, ANN, "flights", {"false_alarm_days": 30}, "as declared")
    set_policy(store, ANN, "flights", Policy(required=True), ("g",))
    change = asked(store, definition, CAT)
    assert asked(store, definition, CAT) == change, "the same request stands"
    (held,) = definitions(store, "flights")
    with pytest.raises(ForbiddenError, match="cat has asked for this change of the monitoring of flights"):
        approve_change(store, CAT, change.id)
    with pytest.raises(ForbiddenError, match="does not carry the role 'approve'"):
        approve_change(store, ANN, change.id)
    assert definition_of(store, "flights") == held
    assert approve_change(store, BOB, change.id).state == "in_force"
    made = definition_of(store, "flights")
    assert made is not None
    assert (made.revision, made.definition, made.changed_by, made.reason) == (2, definition, "bob", "too many alarms")
    *_, requested, approved, changed = read_events(store)
    assert {requested.subject, approved.subject, changed.subject} == {"monitoring flights"}
    assert changed.payload == {"change": change.id}


def test_a_change_of_monitoring_and_one_of_the_rules_wait_beside_each_other(store: ControlStore) -> None:
    strict = Policy(required=True)
    set_policy(store, ANN, "flights", strict, ("g",))
    rules, monitoring = set_policy(store, ANN, "flights", None), asked(store)
    assert rules is not None
    with store.reading() as connection:
        assert waiting(connection, "flights", rules.requested_at) == rules
    other = asked(store, {"false_alarm_days": 90})
    states = {change.id: change.state for change in list_changes(store, "flights")}
    assert states == {rules.id: "requested", monitoring.id: "rejected", other.id: "requested"}
    assert approve_change(store, BOB, other.id).state == "in_force"
    with store.reading() as connection:
        assert policy_of(connection, "flights") == strict, "approving how it is watched changes no rule"


def test_what_was_asked_for_at_another_revision_is_not_put_in_force(store: ControlStore) -> None:
    set_policy(store, ANN, "flights", Policy(required=True), ("g",))
    change, rules = asked(store), set_policy(store, ANN, "flights", None)
    assert rules is not None
    approve_change(store, BOB, rules.id)
    set_definition(store, ANN, "flights", {"false_alarm_days": 7}, "nobody has to be asked now")
    with pytest.raises(ForbiddenError, match="role 'approve'"):
        approve_change(store, Actor("eve", ("predict",), id="p-eve"), change.id)
    with pytest.raises(ConflictError, match="is at revision 1, and this change was asked for at 0"):
        approve_change(store, BOB, change.id)
    assert reject_change(store, ANN, change.id, "look again").state == "rejected"


def test_where_one_pair_of_eyes_is_enough_an_approver_sets_it_alone(store: ControlStore) -> None:
    set_policy(store, ANN, "flights", Policy(required=True, four_eyes=False), ("g",))
    made = set_definition(store, CAT, "flights", WIDER, "too many alarms")
    assert isinstance(made, MonitoringRevision)
    assert (made.revision, made.changed_by) == (1, "cat")


def test_a_change_that_waits_is_an_answer_of_its_own_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"model": "boats", "definition": WIDER, "revision": 0, "reason": "too many alarms"}
    whole = Monitoring.from_json(WIDER).to_json()
    with serving(tmp_path) as server:
        set_policy(server.store, ANN, "boats", Policy(required=True), ("g",))
        found = server("ann", "/monitoring/set", body)
        assert (found.status_code, found.json()["monitoring"]) == (202, {"definition": whole, "revision": 0})
        assert server("ann", "/monitoring").json()["definitions"] == []
        monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["bob"])
        listed = server.command("approvals", "rules")
        assert "monitoring, in place of revision 0:" in listed
        assert "    false_alarm_days: 60\n" in listed
        said = server.command("approvals", "approve-rules", found.json()["id"])
        assert said == "The change of the monitoring of boats is in force now.\n"
        assert server("ann", "/monitoring").json()["definitions"][0]["definition"] == whole


def test_a_declaration_becomes_json_and_back_unchanged() -> None:
    every = Monitoring(
        windows=(WindowSpec(rows=800, panes=4), WindowSpec(length=timedelta(hours=6), minimum_rows=50)),
        seasonal={"hour": "weekday"},
        false_alarm_days=90,
        slices=("origin", "carrier"),
        segments={"origin": ("hour", "distance"), "carrier": ("hour",)},
        number_detector="wasserstein",
        category_detector="psi",
        error_detectors=("adwin",),
        labels_count_for=timedelta(days=30),
        labels_complete_after=timedelta(days=3),
    )
    for declared in (Monitoring(), every):
        assert Monitoring.from_json(declared.to_json()) == declared
    assert Monitoring.from_json({"false_alarm_days": 7}) == Monitoring(false_alarm_days=7)
    for wrong, said in (
        ({"window": []}, "no 'window'"),
        ({"windows": [{"rows": 100}]}, "cannot be read"),
        ({"false_alarm_days": "7"}, "false_alarm_days"),
        ({"number_detector": "kolmogorov"}, "kolmogorov_smirnov"),
    ):
        with pytest.raises(UseCaseError, match=said):
            Monitoring.from_json(wrong)


def test_who_operates_sets_it_over_http_and_who_looks_after_the_use_case_sees_it(tmp_path: Path) -> None:
    body = {"model": "boats", "definition": {"false_alarm_days": 60}, "revision": 0, "reason": "too many alarms"}
    with serving(tmp_path) as server:
        for who in ("bob", "auditor", "eve", "foreign"):
            assert server(who, "/monitoring/set", body).status_code == 403, who
        for wrong in ({"reason": ""}, {"definition": {"windows": 5}}, {"model": "../x"}, {"definition": 7}):
            assert server("ann", "/monitoring/set", body | wrong).status_code == 400, wrong
        for _ in range(2):  # an answer that did not arrive
            done = server("ann", "/monitoring/set", body)
            assert (done.status_code, done.json()["revision"], done.json()["changed_by"]) == (200, 1, "ann")
        assert server("ann", "/monitoring/set", body | {"definition": None}).status_code == 409
        for who, seen in (("bob", 1), ("auditor", 1), ("foreign", 0), ("eve", 0)):
            assert len(server(who, "/monitoring").json()["definitions"]) == seen, who
