"""Several approvers, delegations, conditions, reports: each person counts once, and a right only as far as it goes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance.approvals import (
    MAX_REPORTS,
    approve,
    attach,
    list_approvals,
    reject,
    request,
    revoke,
)
from mlops_ray.governance.champion import break_glass, set_champion
from mlops_ray.governance.clearance import expect_servable, unapproved
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.delegations import delegate, end_delegation, list_delegations
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.keys import create_key, revoke_key
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.principals import person_of_subject
from mlops_ray.governance.verdicts import Report
from mlops_ray.governance.versions import Evidence, VersionRef, record_version

ANN = Actor("ann", ("operate", "approve"), id="p-ann")
BOB, CAT = Actor("bob", ("approve",), id="p-bob"), Actor("cat", ("approve",), id="p-cat")
SUBJECT = person_of_subject("https://idp.example.org", "dan")
DAN, EVE = Actor("dan", ("predict",), id=SUBJECT), Actor("eve", ("operate", "approve"), id="p-eve")
NAME, DAY = "flights", timedelta(days=1)
REF = VersionRef(1, "a" * 64)
TWO = Policy(required=True, min_approvers=2)


@pytest.fixture
def ready(store: ControlStore) -> ControlStore:
    """ann's version 1 needs two approvers, and is asked for."""
    set_policy(store, ANN, NAME, TWO)
    record_version(store, ANN, NAME, 1, Evidence(REF.digest, "e"))
    request(store, ANN, NAME, 1)
    return store


def tomorrow() -> datetime:
    return datetime.now(UTC) + DAY


def test_a_version_goes_live_when_as_many_persons_have_approved_it_as_its_use_case_demands(
    ready: ControlStore,
) -> None:
    found = approve(ready, BOB, NAME, 1, "the slices are fine")
    assert (found.state, found.decided_by, [one.name for one in found.assents]) == ("requested", None, ["bob"])
    for use in (lambda: set_champion(ready, ANN, NAME, REF, "now"), lambda: expect_servable(ready, NAME, REF)):
        with pytest.raises(ForbiddenError, match="approv"):
            use()
    with pytest.raises(ConflictError, match="bob's phone has approved version 1 of flights already"):
        approve(ready, replace(BOB, name="bob's phone"), NAME, 1)
    found = approve(ready, CAT, NAME, 1, "and so is night")
    assert (found.state, found.decided_by, len(found.assents)) == ("approved", "cat", 2)
    assert list_approvals(ready, NAME) == [found]
    assert set_champion(ready, ANN, NAME, REF, "now").champion == REF
    agreed, approved = read_events(ready, types=["approval.agreed", "approval.approved"])
    assert (agreed.actor, agreed.reason, approved.actor) == ("bob", "the slices are fine", "cat")


def test_none_of_several_approvers_is_the_author_and_one_refusal_is_enough(ready: ControlStore) -> None:
    approve(ready, BOB, NAME, 1)
    with pytest.raises(ForbiddenError, match="ann is the author"):
        approve(ready, ANN, NAME, 1)
    assert reject(ready, CAT, NAME, 1, "worse at night").state == "rejected"
    with pytest.raises(ConflictError):
        approve(ready, EVE, NAME, 1)


def test_who_was_told_no_more_is_asked_anew_when_a_version_is_asked_for_again(ready: ControlStore) -> None:
    approve(ready, BOB, NAME, 1)
    reject(ready, CAT, NAME, 1, "worse at night")
    assert request(ready, ANN, NAME, 1).assents == ()


def test_a_broken_glass_waits_for_as_many_persons_and_not_for_who_broke_it(ready: ControlStore) -> None:
    break_glass(ready, EVE, NAME, 1, "fire")
    with pytest.raises(ForbiddenError, match="eve broke the glass"):
        approve(ready, EVE, NAME, 1)
    approve(ready, BOB, NAME, 1)
    with ready.reading() as connection:
        assert unapproved(connection, NAME, REF)
    assert approve(ready, CAT, NAME, 1).state == "approved"
    with ready.reading() as connection:
        assert unapproved(connection, NAME, REF) is None


def test_a_delegation_lets_somebody_decide_in_an_approvers_place_until_it_ends(ready: ControlStore) -> None:
    with pytest.raises(ForbiddenError, match="dan does not carry the role 'approve'"):
        approve(ready, DAN, NAME, 1)
    made = delegate(ready, BOB, NAME, SUBJECT, tomorrow(), "on holiday")
    assert list_delegations(ready, NAME) == [made]
    with pytest.raises(ForbiddenError):
        approve(ready, DAN, NAME, 1, now=tomorrow() + DAY)
    (assent,) = approve(ready, DAN, NAME, 1).assents
    assert (assent.name, assent.for_name, assent.for_id) == ("dan", "bob", "p-bob")
    with pytest.raises(ConflictError, match=r"bob has approved .* already \(dan did so in their place\)"):
        approve(ready, BOB, NAME, 1)
    approve(ready, CAT, NAME, 1)
    assert revoke(ready, DAN, NAME, 1, "a complaint").decided_by == "dan"
    end_delegation(ready, BOB, made.id, "back again")
    request(ready, ANN, NAME, 1)
    with pytest.raises(ForbiddenError):
        approve(ready, DAN, NAME, 1)
    with pytest.raises(ConflictError, match="ended at"):
        end_delegation(ready, BOB, made.id, "twice")


def test_an_approver_and_who_decides_in_their_place_are_one(ready: ControlStore) -> None:
    delegate(ready, BOB, NAME, SUBJECT, tomorrow(), "on holiday")
    approve(ready, BOB, NAME, 1)
    with pytest.raises(ConflictError, match="bob has approved version 1 of flights already"):
        approve(ready, DAN, NAME, 1)
    delegate(ready, CAT, NAME, SUBJECT, tomorrow(), "on holiday too")
    assert approve(ready, DAN, NAME, 1).state == "approved"


def test_an_author_and_who_broke_the_glass_have_no_right_to_give_on_their_version(ready: ControlStore) -> None:
    delegate(ready, ANN, NAME, SUBJECT, tomorrow(), "please")
    with pytest.raises(ForbiddenError, match="ann is the author of version 1"):
        approve(ready, DAN, NAME, 1)
    break_glass(ready, EVE, NAME, 1, "fire")
    delegate(ready, EVE, NAME, SUBJECT, tomorrow(), "please")
    with pytest.raises(ForbiddenError, match=r"is the author|broke the glass"):
        approve(ready, DAN, NAME, 1)


def test_a_right_is_given_by_those_who_have_it_to_others_and_with_an_end(ready: ControlStore) -> None:
    delegate(ready, BOB, NAME, SUBJECT, tomorrow(), "on holiday")
    for actor in (DAN, Actor("fay", ("operate",), id="p-fay"), Actor("old", ("approve",))):
        with pytest.raises(ForbiddenError, match="cannot give that right"):
            delegate(ready, actor, NAME, "idp|fay", tomorrow(), "me too")
    given = [
        ("idp|fay", datetime.now(UTC) - DAY, "x", "is past"),
        ("idp|fay", datetime(2100, 1, 1), "x", "no time zone"),
        ("idp|fay", datetime.now(UTC) + 367 * DAY, "x", "more than 366 days away"),
        ("idp|fay", tomorrow(), " ", "Say why"),
        ("fay", tomorrow(), "x", "There is no person 'fay'"),
    ]
    for to, until, reason, message in given:
        with pytest.raises(ConfigurationError, match=message):
            delegate(ready, BOB, NAME, to, until, reason)


def test_a_delegation_ends_with_the_last_key_of_its_giver_that_carries_the_role(ready: ControlStore) -> None:
    key = create_key(ready, ANN, "gil", ["approve"])
    create_key(ready, ANN, "gil_reads", ["predict"], person="gil")
    to = create_key(ready, ANN, "hal", ["predict"])
    with pytest.raises(ConfigurationError, match="is you"):
        delegate(ready, key.principal.actor(NAME), NAME, "gil_reads", tomorrow(), "away")
    delegate(ready, key.principal.actor(NAME), NAME, "hal", tomorrow(), "away")
    assert approve(ready, to.principal.actor(NAME), NAME, 1).assents[0].for_name == "gil"
    record_version(ready, ANN, NAME, 2, Evidence("b" * 64, "e"))
    request(ready, ANN, NAME, 2)
    revoke_key(ready, ANN, "gil", "left us")
    with pytest.raises(ForbiddenError, match="hal does not carry"):
        approve(ready, to.principal.actor(NAME), NAME, 2)


def test_a_delegation_is_for_versions_of_one_use_case_and_not_for_its_rules(ready: ControlStore) -> None:
    delegate(ready, BOB, "trains", SUBJECT, tomorrow(), "on holiday")
    with pytest.raises(ForbiddenError):
        approve(ready, DAN, NAME, 1)
    delegate(ready, BOB, NAME, SUBJECT, tomorrow(), "on holiday")
    with pytest.raises(ForbiddenError, match="changing its rules needs"):
        set_policy(ready, DAN, NAME, None)


def test_a_condition_stands_with_the_approval_that_was_given_under_it(ready: ControlStore) -> None:
    approve(ready, BOB, NAME, 1, condition="only for flights from \0EWR")
    found = approve(ready, CAT, NAME, 1)
    assert [one.condition for one in found.assents] == ["only for flights from \ufffdEWR", ""]
    assert list_approvals(ready)[0] == found
    assert read_events(ready, types=["approval.approved"])[0].after["assents"][0]["condition"].startswith("only")


def report(name: str = "validation.pdf", digest: str = "f" * 64) -> Report:
    return Report(name, digest, 7, "val", "p-val", datetime.now(UTC))


def test_a_report_is_attached_to_what_waits_or_was_approved(ready: ControlStore) -> None:
    validator = Actor("val", ("audit",), id="p-val")
    found = attach(ready, validator, NAME, 1, report())
    assert attach(ready, validator, NAME, 1, report()) == found
    assert list_approvals(ready)[0].reports == found.reports
    assert len(read_events(ready, types=["approval.reported"])) == 1
    with pytest.raises(ForbiddenError, match="carries none of the roles"):
        attach(ready, DAN, NAME, 1, report("mine.pdf"))
    for number in range(1, MAX_REPORTS):
        attach(ready, validator, NAME, 1, report(f"{number}.pdf"))
    with pytest.raises(ConflictError, match="which is the limit"):
        attach(ready, validator, NAME, 1, report("more.pdf"))
    reject(ready, BOB, NAME, 1, "as the report says")
    with pytest.raises(ConflictError, match="its approval is rejected"):
        attach(ready, validator, NAME, 1, report("late.pdf"))
