"""Changes of policies and gates: who may ask, who must agree, and that nothing laxer holds before they have."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError, MlopsRayError
from mlops_ray.evaluation.gates import GateResult
from mlops_ray.governance.approvals import approve, request
from mlops_ray.governance.champion import begin, set_champion
from mlops_ray.governance.clearance import expect_servable
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.live import live
from mlops_ray.governance.measurements import RULES, record_measurement
from mlops_ray.governance.policies import InForce, Policy, in_force
from mlops_ray.governance.policy_changes import (
    PolicyChange,
    approve_change,
    list_changes,
    reject_change,
    set_policy,
)
from mlops_ray.governance.versions import Evidence, VersionRef, record_version

ANN, BOB = Actor("ann", ("operate",), id="p-ann"), Actor("bob", ("approve",), id="p-bob")
CAT, DAN = Actor("cat", ("approve", "operate"), id="p-cat"), Actor("dan", ("admin",), id="p-dan")
EVE = Actor("eve", ("predict", "label", "audit"), id="p-eve")
STRICT, NAME = Policy(required=True, expires_after_s=86_400.0), "flights"
GATES, LAXER = ("Threshold('roc_auc', 0.6)",), ("Threshold('roc_auc', 0.1)",)
OLD, NEW = VersionRef(1, "a" * 64), VersionRef(2, "b" * 64)


@pytest.fixture
def ready(store: ControlStore) -> ControlStore:
    """An approval is demanded, and by which gates versions are judged is known."""
    assert set_policy(store, ANN, NAME, STRICT, GATES) is None
    return store


def held(store: ControlStore) -> InForce:
    with store.reading() as connection:
        return in_force(connection, NAME) or InForce(Policy(), None, datetime.now(UTC))


def asked(store: ControlStore, policy: Policy | None = None, gates: Any = None, by: Actor = ANN) -> PolicyChange:
    change = set_policy(store, by, NAME, policy, gates, "it is slow")
    assert change is not None
    return change


@pytest.mark.parametrize("policy", [None, Policy(), replace(STRICT, four_eyes=False), replace(STRICT, role="operate")])
@pytest.mark.parametrize("by", [ANN, CAT, DAN], ids=lambda actor: actor.name)
def test_another_policy_holds_when_somebody_else_has_approved_it(
    ready: ControlStore, policy: Policy | None, by: Actor
) -> None:
    change = asked(ready, policy, by=by)
    assert change.state == "requested"
    assert held(ready) == InForce(STRICT, GATES, held(ready).since)
    with pytest.raises(ForbiddenError, match=r"has asked for this change|does not carry the role 'approve'"):
        approve_change(ready, by, change.id)
    with pytest.raises(ForbiddenError, match="does not carry the role 'approve'"):
        approve_change(ready, EVE, change.id)
    assert approve_change(ready, BOB, change.id, "fine").state == "in_force"
    assert held(ready).policy == (policy or Policy())
    (event,) = read_events(ready, types=["policy.changed"])[1:]
    assert (event.actor, event.reason, event.payload["change"]) == ("bob", "fine", change.id)
    types = ["policy.requested", "policy.approved", "policy.changed"]
    assert [event.type for event in read_events(ready)[1:]] == types


def test_who_has_no_role_on_the_use_case_changes_no_policy(store: ControlStore) -> None:
    for actor in (EVE, Actor("system", ("system",))):
        with pytest.raises(ForbiddenError, match="neither the role 'operate' nor 'approve' on flights"):
            set_policy(store, actor, NAME, STRICT)
    assert read_events(store) == []


def test_asking_again_changes_nothing_and_asking_for_another_replaces(ready: ControlStore) -> None:
    first = asked(ready)
    assert asked(ready) == first
    assert set_policy(ready, ANN, NAME, STRICT, GATES) is None  # what holds; the request stays
    second = asked(ready, Policy())
    states = {change.id: change.state for change in list_changes(ready, NAME)}
    assert states == {first.id: "rejected", second.id: "requested"}
    with pytest.raises(ConflictError, match="is rejected by ann already"):
        approve_change(ready, BOB, first.id)


def test_a_change_is_refused_or_taken_back_and_then_is_not_approved(ready: ControlStore) -> None:
    with pytest.raises(ConfigurationError, match="Say why"):
        reject_change(ready, BOB, asked(ready).id, " ")
    with pytest.raises(ForbiddenError):
        reject_change(ready, EVE, asked(ready).id, "no")
    for actor in (BOB, ANN):
        change = asked(ready)
        assert reject_change(ready, actor, change.id, "no").decided_by == actor.name
        with pytest.raises(ConflictError, match=f"is rejected by {actor.name} already"):
            approve_change(ready, CAT, change.id)
    with pytest.raises(ConfigurationError, match="There is no change of rules 'x'"):
        approve_change(ready, BOB, "x")
    assert held(ready).policy == STRICT


def test_a_change_that_nobody_approved_ends_and_can_be_asked_for_anew(ready: ControlStore) -> None:
    change, later = asked(ready), datetime.now(UTC) + timedelta(days=2)
    with pytest.raises(ConflictError, match=r"ended at .* Run the pipeline again"):
        approve_change(ready, BOB, change.id, now=later)
    again = set_policy(ready, ANN, NAME, None, now=later)
    assert again is not None
    assert again.id != change.id
    assert approve_change(ready, BOB, again.id, now=later).state == "in_force"


def test_as_many_persons_as_a_version_needs_approve_a_change(ready: ControlStore) -> None:
    two = replace(STRICT, min_approvers=2)
    approve_change(ready, BOB, asked(ready, two).id)
    change = asked(ready, STRICT)
    assert approve_change(ready, BOB, change.id).state == "requested"
    with pytest.raises(ConflictError, match="bob's laptop has approved this change of the rules of flights already"):
        approve_change(ready, replace(BOB, name="bob's laptop"), change.id)
    assert [one.name for one in list_changes(ready)[0].assents] == ["bob"]
    done = approve_change(ready, CAT, change.id)
    assert (done.state, [one.name for one in done.assents]) == ("in_force", ["bob", "cat"])


def test_where_one_pair_of_eyes_is_enough_an_approver_changes_the_policy_alone(ready: ControlStore) -> None:
    approve_change(ready, BOB, asked(ready, replace(STRICT, four_eyes=False)).id)
    assert set_policy(ready, CAT, NAME, STRICT) is None
    assert held(ready).policy == STRICT
    with pytest.raises(ConflictError, match="put in force by cat"):
        approve_change(ready, BOB, list_changes(ready)[0].id)


def registered(store: ControlStore, ref: VersionRef, gates: tuple[str, ...] | None) -> None:
    record_version(store, ANN, NAME, ref.version, Evidence(ref.digest, "e"), payload={RULES: gates} if gates else None)
    request(store, ANN, NAME, ref.version)
    approve(store, BOB, NAME, ref.version)


def test_a_version_judged_by_other_gates_waits_until_they_are_approved(ready: ControlStore) -> None:
    registered(ready, OLD, GATES)
    set_champion(ready, ANN, NAME, OLD, "first")
    change = asked(ready, STRICT, LAXER)
    registered(ready, NEW, LAXER)
    with pytest.raises(ForbiddenError, match=r"judged by other gates than are in force \(Threshold.*0.6.*0.1"):
        set_champion(ready, ANN, NAME, NEW, "now")
    approve_change(ready, BOB, change.id)
    expect_servable(ready, NAME, OLD)
    assert set_champion(ready, ANN, NAME, NEW, "now").champion == NEW
    expect_servable(ready, NAME, NEW)
    assert read_events(ready, types=["policy.changed"])[-1].payload["gates_before"] == list(GATES)


def test_the_first_champion_is_one_that_passed_the_gates_in_force(ready: ControlStore) -> None:
    registered(ready, OLD, GATES)
    registered(ready, NEW, LAXER)
    assert begin(ready, NAME).champion == OLD


def test_a_gate_that_fails_later_keeps_an_approved_version_from_being_the_first_champion(ready: ControlStore) -> None:
    registered(ready, OLD, GATES)
    slow = [GateResult("latency", False, 12.0, 10.0, "too slow", True)]
    record_measurement(ready, ANN, NAME, 1, Evidence(OLD.digest, "e"), slow, GATES, "it was slow")
    assert begin(ready, NAME).champion is None


def test_by_which_gates_versions_are_judged_is_learned_where_nobody_knew(store: ControlStore) -> None:
    set_policy(store, ANN, NAME, STRICT)
    assert set_policy(store, ANN, NAME, STRICT, GATES) is None
    assert held(store).gates == GATES
    assert asked(store, STRICT, LAXER).gates == LAXER


def test_a_change_that_says_nothing_of_gates_leaves_those_that_were_learned_meanwhile(store: ControlStore) -> None:
    set_policy(store, ANN, NAME, STRICT)
    change = asked(store, replace(STRICT, min_approvers=2))
    assert set_policy(store, ANN, NAME, STRICT, GATES) is None
    approve_change(store, BOB, change.id)
    assert (held(store).policy.min_approvers, held(store).gates) == (2, GATES)


def test_of_two_who_change_a_policy_at_once_the_second_is_judged_by_what_the_first_wrote(store: ControlStore) -> None:
    """A pipeline that read "nothing is demanded" must not undo a demand that was written before it wrote."""
    for number in range(10):
        name, together, results = f"case{number}", threading.Barrier(2), list[PolicyChange | None]()

        def declare(policy: Policy | None, name: str = name, together: Any = together, results: Any = results) -> None:
            together.wait()
            results.append(set_policy(store, ANN, name, policy))

        threads = [threading.Thread(target=declare, args=(one,)) for one in (STRICT, replace(STRICT, role="admin"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(change is not None for change in results) == 1
        assert len(read_events(store, use_case=name, types=["policy.changed"])) == 1


def test_no_order_of_decisions_lets_one_person_alone_loosen_a_policy(ready: ControlStore) -> None:
    for attempt in range(6):
        for actor in (CAT, replace(CAT, name=f"key {attempt}")):
            try:
                change = set_policy(ready, actor, NAME, Policy(min_rollout_steps=attempt or None))
                if change:
                    approve_change(ready, actor, change.id)
            except MlopsRayError:
                continue
    assert held(ready).policy == STRICT
    assert live(ready, NAME).champion is None
