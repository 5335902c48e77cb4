"""Approvals: who may give which, what they are about, when they end, and that nothing goes live without one."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uuid6
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, text, update

from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError, MlopsRayError, UnavailableError
from mlops_ray.governance import broken_glass
from mlops_ray.governance.approvals import approve, expire, list_approvals, reject, request, revoke
from mlops_ray.governance.broken_glass import follow_up
from mlops_ray.governance.champion import begin, break_glass, retire, set_champion
from mlops_ray.governance.clearance import expect_servable, valid_approval
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.development_keys import acting, development_approver_key, development_key, is_single_user
from mlops_ray.governance.dispatcher import Dispatcher
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.keys import active_keys, create_key
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef, live
from mlops_ray.governance.policies import LONGEST_S, Policy
from mlops_ray.governance.policy_changes import approve_change, set_policy
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import advance, promote, start_rollout
from mlops_ray.governance.tables import policies
from mlops_ray.governance.verdicts import Approval, Lapse, Request, Verdict, decide
from mlops_ray.governance.versions import Evidence, RegisteredVersion, list_versions, record_version
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.follower import Follower
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from mlops_ray.use_case.checks import LONGEST

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
ANN, BOB = Actor("ann", ("operate",)), Actor("bob", ("approve",))
EVE = Actor("eve", ("predict", "operate"))
POLICY = Policy(required=True, expires_after_s=DAY.total_seconds())
OLD, NEW = VersionRef(1, "a" * 64), VersionRef(2, "b" * 64)


def version(ref: VersionRef = NEW, author: str = "ann", failed: tuple[str, ...] = ()) -> RegisteredVersion:
    return RegisteredVersion("flights", ref.version, Evidence(ref.digest, "e" * 64, "m" * 64), author, failed, NOW)


def asked(**changes: Any) -> Approval:
    return replace(decide(None, Request("1", ANN, version()), POLICY, NOW), **changes)


def verdict(kind: Any, actor: Actor = BOB, reason: str = "seen", **more: Any) -> Verdict:
    return Verdict(kind, actor, more.pop("version", version()), reason, **more)


def approved() -> Approval:
    return decide(asked(), verdict("approved"), POLICY, NOW)


def put_in_force(store: ControlStore, policy: Policy | None, use_case: str = "flights") -> None:
    change = set_policy(store, ANN, use_case, policy)
    if change is not None:
        approve_change(store, BOB, change.id)


@pytest.fixture
def ready(store: ControlStore) -> ControlStore:
    """Version 1 is approved and champion, version 2 is registered; flights demands an approval."""
    set_policy(store, ANN, "flights", POLICY)
    for ref in (OLD, NEW):
        record_version(store, ANN, "flights", ref.version, Evidence(ref.digest, "e" * 64))
    request(store, ANN, "flights", 1)
    approve(store, BOB, "flights", 1)
    set_champion(store, ANN, "flights", OLD, "first")
    return store


# The decision


def test_an_authorised_other_approves_what_was_asked_for() -> None:
    found = approved()
    assert (found.state, found.decided_by, found.expires_at) == ("approved", "bob", NOW + DAY)


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        (verdict("approved", EVE), ForbiddenError, "does not carry the role 'approve'"),
        (verdict("approved", replace(ANN, roles=("approve",))), ForbiddenError, "is the author"),
        (verdict("approved", seen="c" * 64), ConflictError, "has the digest bbb"),
        (verdict("approved", version=version(VersionRef(2, "c" * 64))), ConflictError, "was changed since"),
        (
            verdict("approved", version=replace(version(), evidence=Evidence("b" * 64, "x" * 64, "m" * 64))),
            ConflictError,
            "was changed since",
        ),
        (
            verdict("approved", version=replace(version(), evidence=Evidence("b" * 64, "e" * 64, "x" * 64))),
            ConflictError,
            "was changed since",
        ),
        (verdict("rejected", reason=" "), ConfigurationError, "Say why"),
        (verdict("rejected", EVE), ForbiddenError, "role"),
        (verdict("revoked"), ConflictError, "is requested already"),
    ],
)
def test_what_may_not_be_is_refused(event: Verdict, error: type[MlopsRayError], message: str) -> None:
    with pytest.raises(error, match=message):
        decide(asked(), event, POLICY, NOW)


@pytest.mark.parametrize("state", ["approved", "rejected", "revoked", "expired"])
def test_a_verdict_is_given_once(state: Any) -> None:
    done = replace(approved(), state=state)
    with pytest.raises(ConflictError, match="by bob already"):
        decide(done, verdict("approved"), POLICY, NOW)
    with pytest.raises(ConflictError):
        decide(None, verdict("approved"), POLICY, NOW)


def test_no_author_of_the_same_bytes_approves_them_under_another_number(ready: ControlStore) -> None:
    made = replace(BOB, roles=("operate", "approve"), id="b")
    record_version(ready, made, "flights", 3, Evidence("c" * 64, "e" * 64))
    record_version(ready, ANN, "flights", 4, Evidence("c" * 64, "e" * 64))
    request(ready, ANN, "flights", 4)
    with pytest.raises(ForbiddenError, match="bob is the author of version 3, which has the bytes of version 4"):
        approve(ready, made, "flights", 4)
    assert approve(ready, Actor("cid", ("approve",)), "flights", 4).state == "approved"


def test_nothing_is_approved_after_its_end() -> None:
    with pytest.raises(ConflictError, match="ended at"):
        decide(asked(), verdict("approved"), POLICY, NOW + DAY)
    with pytest.raises(ConflictError, match="nothing"):
        decide(asked(), Lapse(), POLICY, NOW + DAY - timedelta(seconds=1))
    assert decide(asked(), Lapse(), POLICY, NOW + DAY).state == "expired"


def test_asking_twice_is_refused_but_not_after_a_change_or_an_end() -> None:
    for state in (asked(), approved()):
        with pytest.raises(ConflictError, match="already"):
            decide(state, Request("2", ANN, version()), POLICY, NOW)
        other = replace(version(), evidence=Evidence("b" * 64, "x" * 64))
        assert decide(state, Request("2", ANN, other), POLICY, NOW).state == "requested"
        assert decide(state, Request("2", ANN, version()), POLICY, NOW + DAY).id == "2"
    with pytest.raises(ConflictError, match="did not pass latency"):
        decide(None, Request("1", ANN, version(failed=("latency",))), POLICY, NOW)


def test_who_broke_the_glass_does_not_approve_it() -> None:
    broken = decide(None, Request("1", EVE, version(), "fire", break_glass=True), POLICY, NOW)
    with pytest.raises(ForbiddenError, match="broke the glass"):
        decide(broken, verdict("approved", replace(EVE, roles=("approve",))), POLICY, NOW)
    assert decide(broken, verdict("approved"), POLICY, NOW).state == "approved"


def test_four_eyes_are_two_only_where_the_use_case_says_so() -> None:
    alone = replace(POLICY, four_eyes=False)
    assert decide(asked(), verdict("approved", Actor("ann", ("admin",))), alone, NOW).decided_by == "ann"


def person(id: str, name: str, *roles: str) -> Actor:
    return Actor(name, roles, id=id)


@pytest.mark.parametrize(
    ("registers", "approves", "is_one"),
    [
        (person("p1", "ann"), person("p1", "ann@example.org", "approve"), True),  # by a key, and by a token
        (person("p1", "ann"), person("p2", "ann", "approve"), False),  # a name that was given again
        (person("", "ann"), person("p1", "ann", "approve"), True),  # registered before there were ids
        (person("p1", "ann"), person("", "ann", "approve"), True),
        (person("p1", "ann"), person("p2", "bob", "approve"), False),
    ],
)
def test_four_eyes_are_of_two_persons_and_not_of_two_names(
    store: ControlStore, registers: Actor, approves: Actor, is_one: bool
) -> None:
    put_in_force(store, POLICY)
    made = record_version(store, registers, "flights", 1, Evidence(OLD.digest, "e"))
    assert list_versions(store, "flights") == [made]
    wanted = request(store, EVE, "flights", 1)
    assert (made.author_id, wanted.author_id, wanted.requested_by_id) == (registers.id or None,) * 2 + (None,)
    if is_one:
        with pytest.raises(ForbiddenError, match="is the author"):
            approve(store, approves, "flights", 1)
    else:
        assert approve(store, approves, "flights", 1).decided_by_id == approves.id
        assert list_approvals(store, "flights")[0].decided_by_id == approves.id


def test_who_broke_the_glass_with_another_key_does_not_approve_it(ready: ControlStore) -> None:
    break_glass(ready, person("p7", "eve", "operate"), "flights", 2, "fire")
    with pytest.raises(ForbiddenError, match="broke the glass"):
        approve(ready, person("p7", "eve_laptop", "approve"), "flights", 2)
    assert approve(ready, person("p8", "eve", "approve"), "flights", 2).state == "approved"


def test_asking_again_does_not_let_who_broke_the_glass_approve(ready: ControlStore) -> None:
    both = replace(EVE, roles=("operate", "approve"))
    break_glass(ready, both, "flights", 2, "fire")
    reject(ready, both, "flights", 2, "it was nothing")
    for number in (2, 3):  # nor as the same bytes under another number
        if number == 3:
            record_version(ready, ANN, "flights", 3, Evidence(NEW.digest, "e" * 64))
        request(ready, ANN, "flights", number)
        with pytest.raises(ForbiddenError, match=f"eve broke the glass for version {number} of flights"):
            approve(ready, both, "flights", number)
        with pytest.raises(ForbiddenError, match="not approved"):
            expect_servable(ready, "flights", VersionRef(number, NEW.digest))
        assert approve(ready, BOB, "flights", number).state == "approved"


def test_what_waits_is_listed_however_much_was_asked_since_and_by_others(ready: ControlStore) -> None:
    waits = request(ready, ANN, "flights", 2)
    for number in range(1, 4):
        record_version(ready, ANN, "trains", number, Evidence(f"{number:064x}", "e"))
        request(ready, ANN, "trains", number)
        reject(ready, BOB, "trains", number, "no")
    assert [one.use_case for one in list_approvals(ready, limit=2)] == ["trains", "trains", "flights"]
    assert list_approvals(ready, limit=1, sees=lambda use_case: use_case != "trains")[0] == waits
    assert [one.version for one in list_approvals(ready, "trains", limit=1)] == [3]


def test_of_two_requests_the_later_counts_whatever_the_clocks_of_their_machines(
    ready: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, day_ms = uuid6.uuid7, 86_400_000
    for verdict in (reject, approve):
        with monkeypatch.context() as ahead:  # the first 48 bits of a UUIDv7 are milliseconds
            ahead.setattr(uuid6, "uuid7", lambda: UUID(int=real().int + (day_ms << 80)))
            request(ready, ANN, "flights", 2)
        reject(ready, BOB, "flights", 2, "not yet")
        request(ready, ANN, "flights", 2)
        after = verdict(ready, BOB, "flights", 2, "looked at it again")
        assert list_approvals(ready, "flights")[0] == after
    assert valid_approval(ready, "flights", NEW, datetime.now(UTC)) == after


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["request", "approved", "rejected", "revoked", "lapse"]),
            st.sampled_from(["ann", "bob", "eve"]),
            st.sampled_from(["b" * 64, "c" * 64]),
            st.integers(0, 3),
        ),
        max_size=20,
    )
)
def test_whatever_happens_only_another_with_the_role_has_approved(steps: list[tuple[str, str, str, int]]) -> None:
    roles = {"ann": ("operate", "approve"), "bob": ("approve",), "eve": ("predict",)}
    state: Approval | None = None
    now = NOW
    for number, (what, name, digest, days) in enumerate(steps):
        now += days * DAY / 2
        actor, of = Actor(name, roles[name]), version(VersionRef(2, digest))
        event: Any = Lapse()
        if what == "request":
            event = Request(str(number), actor, of)
        elif what != "lapse":
            event = Verdict(what, actor, of, "why")  # type: ignore[arg-type]
        try:
            before, state = state, decide(state, event, POLICY, now)
        except MlopsRayError:
            continue
        if state.state == "approved":
            assert (state.decided_by, what) == ("bob", "approved")
            assert before is not None
            assert (before.state, before.evidence, now < before.expires_at) == ("requested", of.evidence, True)


# What may go live


def test_a_challenger_is_not_served_before_approval(ready: ControlStore) -> None:
    with pytest.raises(ForbiddenError, match="no valid approval"):
        start_rollout(ready, ANN, "flights", NEW, Plan())
    with pytest.raises(ForbiddenError, match="no valid approval"):
        set_champion(ready, ANN, "flights", NEW, "now")
    with pytest.raises(ForbiddenError, match="not approved"):
        expect_servable(ready, "flights", NEW)
    request(ready, ANN, "flights", 2)
    with pytest.raises(ForbiddenError):
        start_rollout(ready, ANN, "flights", NEW, Plan())
    approve(ready, BOB, "flights", 2)
    state = start_rollout(ready, ANN, "flights", NEW, Plan())
    assert state.rollout
    revoke(ready, BOB, "flights", 2, "a complaint")
    with pytest.raises(ForbiddenError):
        promote(ready, ANN, "flights", state.rollout, "enough")
    assert live(ready, "flights") == state


def test_a_use_case_without_a_policy_demands_nothing(store: ControlStore) -> None:
    assert set_champion(store, ANN, "trains", NEW, "first").champion == NEW
    expect_servable(store, "trains", NEW)


@pytest.mark.parametrize("part", ["model_digest", "evaluation_digest", "materials_digest"])
def test_an_approval_is_void_when_any_byte_changes(ready: ControlStore, part: str) -> None:
    assert valid_approval(ready, "flights", OLD, NOW)
    with ready.transaction() as connection:
        connection.execute(text(f"UPDATE versions SET {part} = 'changed' WHERE version = 1"))
    assert valid_approval(ready, "flights", OLD, NOW) is None
    with pytest.raises(ForbiddenError):
        expect_servable(ready, "flights", OLD)


def test_another_model_under_an_approved_number_is_not_approved(ready: ControlStore) -> None:
    assert valid_approval(ready, "flights", VersionRef(1, "f" * 64), NOW) is None
    with pytest.raises(ConflictError, match="was registered with the model"):
        record_version(ready, ANN, "flights", 1, Evidence("f" * 64, "e" * 64))


def test_an_approval_is_about_a_version_and_not_about_the_same_bytes_under_another_number(ready: ControlStore) -> None:
    record_version(ready, ANN, "flights", 3, Evidence(OLD.digest, "e" * 64))
    request(ready, ANN, "flights", 3)
    assert valid_approval(ready, "flights", OLD, NOW)
    again = VersionRef(3, OLD.digest)
    with pytest.raises(ForbiddenError, match="no valid approval"):
        set_champion(ready, ANN, "flights", again, "the same")
    reject(ready, BOB, "flights", 3, "once is enough")
    expect_servable(ready, "flights", OLD)
    assert valid_approval(ready, "flights", OLD, NOW)
    with pytest.raises(ForbiddenError, match="not approved"):
        expect_servable(ready, "flights", again)


@pytest.mark.parametrize("then", [None, replace(POLICY, required=False)])
@pytest.mark.parametrize("verdict", ["revoked", "rejected"])
def test_what_was_taken_back_does_not_come_back_with_another_policy(
    ready: ControlStore, then: Policy | None, verdict: str
) -> None:
    request(ready, ANN, "flights", 2)
    if verdict == "rejected":
        reject(ready, BOB, "flights", 2, "a complaint")
    else:
        approve(ready, BOB, "flights", 2)
        revoke(ready, BOB, "flights", 2, "a complaint")
    put_in_force(ready, then)
    tries: list[Callable[[], object]] = [
        lambda: expect_servable(ready, "flights", NEW),
        lambda: set_champion(ready, ANN, "flights", NEW, "now"),
        lambda: start_rollout(ready, ANN, "flights", NEW, Plan()),
    ]
    for attempt in tries:
        with pytest.raises(ForbiddenError, match=rf"Version 2 of flights .* bob has {verdict} it"):
            attempt()
    request(ready, ANN, "flights", 2)
    with pytest.raises(ForbiddenError):
        expect_servable(ready, "flights", NEW)
    approve(ready, BOB, "flights", 2)
    assert set_champion(ready, ANN, "flights", NEW, "now").champion == NEW


def test_demanding_approvals_leaves_what_is_live_and_what_it_can_go_back_to(store: ControlStore) -> None:
    for ref in (OLD, NEW):
        record_version(store, ANN, "flights", ref.version, Evidence(ref.digest, "e" * 64))
        request(store, ANN, "flights", ref.version)
        approve(store, BOB, "flights", ref.version)
        set_champion(store, ANN, "flights", ref, "nobody has to approve it")
    with store.transaction() as connection:  # measured again since, so that no approval fits
        connection.execute(text("UPDATE versions SET evaluation_digest = 'another'"))
    put_in_force(store, POLICY)
    put_in_force(store, replace(POLICY, role="operate"))
    for ref in (OLD, NEW):
        expect_servable(store, "flights", ref)
    assert roll_back(store, ANN, "flights", live(store, "flights").revision, 1, "back").champion == OLD
    with pytest.raises(ForbiddenError, match="no valid approval"):
        set_champion(store, ANN, "flights", NEW, "again")


def test_the_registered_digest_holds_for_whatever_names_the_version(store: ControlStore) -> None:
    record_version(store, ANN, "flights", 1, Evidence(OLD.digest, "e"))
    record_version(store, ANN, "flights", 2, Evidence(NEW.digest, "e"))
    set_champion(store, ANN, "flights", OLD, "first")
    other = VersionRef(2, "f" * 64)
    tries: list[Callable[[], object]] = [
        lambda: set_champion(store, ANN, "flights", other, "now"),
        lambda: start_rollout(store, ANN, "flights", other, Plan()),
        lambda: expect_servable(store, "flights", other),
    ]
    for attempt in tries:
        with pytest.raises(ForbiddenError, match=r"Version 2 of flights was registered with .* bbb.*not fff"):
            attempt()
    assert live(store, "flights").champion == OLD


def test_the_end_of_an_approval_stops_what_is_new_and_not_what_is_live(ready: ControlStore) -> None:
    later = NOW + 2 * DAY
    assert valid_approval(ready, "flights", OLD, later) is None
    (ended,) = expire(ready, later)
    assert (ended.state, expire(ready, later)) == ("expired", [])
    assert read_events(ready, types=["approval.expired"])[0].after["version"] == 1
    expect_servable(ready, "flights", OLD)
    revoke(ready, BOB, "flights", 1, "no more")
    with pytest.raises(ForbiddenError):
        expect_servable(ready, "flights", OLD)


def test_a_version_that_failed_a_gate_cannot_go_live(store: ControlStore) -> None:
    class Failed:
        name, passed, blocks, value, limit, sentence = "latency", False, True, 9.0, 1.0, "too slow"

    record_version(store, ANN, "flights", 2, Evidence(NEW.digest, "e"), [Failed()])
    with pytest.raises(ForbiddenError, match="did not pass latency"):
        set_champion(store, ANN, "flights", NEW, "first")
    with pytest.raises(ConflictError, match="did not pass latency"):
        request(store, ANN, "flights", 2)
    event = read_events(store, types=["gate.failed"])[0]
    assert (event.payload["value"], event.reason, event.severity) == (9.0, "too slow", "warning")


def test_the_first_approved_version_is_the_first_champion(store: ControlStore) -> None:
    put_in_force(store, POLICY)
    record_version(store, ANN, "flights", 2, Evidence(NEW.digest, "e"))
    assert begin(store, "flights").champion is None
    request(store, ANN, "flights", 2)
    assert begin(store, "flights").champion is None
    approve(store, BOB, "flights", 2)
    assert begin(store, "flights").champion == NEW
    assert begin(store, "flights").revision == 1


def test_breaking_the_glass_is_loud_and_asks_afterwards(ready: ControlStore) -> None:
    with pytest.raises(ConfigurationError, match="Say why"):
        break_glass(ready, EVE, "flights", 2, " ")
    with pytest.raises(ForbiddenError, match="role 'operate'"):
        break_glass(ready, BOB, "flights", 2, "fire")
    assert break_glass(ready, EVE, "flights", 2, "fire").champion == NEW
    expect_servable(ready, "flights", NEW)
    loud = [(e.type, e.severity) for e in read_events(ready, subject="flights@2")][1:]
    assert loud == [("approval.requested", "critical"), ("break_glass", "critical"), ("champion.set", "info")]
    with pytest.raises(ConflictError, match="champion already"):
        break_glass(ready, EVE, "flights", 2, "again")
    approve(ready, BOB, "flights", 2, "after a look")
    assert valid_approval(ready, "flights", NEW, datetime.now(UTC))


def test_the_glass_breaks_whatever_gates_and_approvals_say(ready: ControlStore) -> None:
    class Failed:
        name, passed, blocks, value, limit, sentence = "latency", False, True, 9.0, 1.0, "too slow"

    request(ready, ANN, "flights", 2)
    approve(ready, BOB, "flights", 2)
    assert break_glass(ready, EVE, "flights", 2, "no time for a rollout").champion == NEW
    slow = VersionRef(3, "c" * 64)
    record_version(ready, ANN, "flights", 3, Evidence(slow.digest, "e"), [Failed()])
    for reason in ("fire", "fire again"):
        assert break_glass(ready, EVE, "flights", 3, reason).champion == slow
        approve(ready, BOB, "flights", 3, "it may")
        state = live(ready, "flights")
        expect_servable(ready, "flights", slow)
        assert roll_back(ready, EVE, "flights", state.revision, 1, "over").champion == OLD
    revoke(ready, BOB, "flights", 3, "no more")
    assert break_glass(ready, EVE, "flights", 3, "the last way out").champion == slow


def test_a_broken_glass_can_be_taken_back_after_its_request_has_ended(ready: ControlStore) -> None:
    break_glass(ready, EVE, "flights", 2, "fire")
    expire(ready, NOW + 2 * DAY)
    expect_servable(ready, "flights", NEW)
    revoke(ready, BOB, "flights", 2, "nobody has looked at it")
    with pytest.raises(ForbiddenError):
        expect_servable(ready, "flights", NEW)


HOUR = timedelta(hours=1)


def test_a_broken_glass_that_nobody_approves_is_said_again_and_again(ready: ControlStore) -> None:
    put_in_force(ready, replace(POLICY, broken_glass_escalates_after_s=HOUR.total_seconds()))
    assert follow_up(ready, datetime.now(UTC) + 3 * HOUR) == []
    break_glass(ready, EVE, "flights", 2, "fire")
    begun = datetime.now(UTC)
    rounds = [follow_up(ready, begun + hours * HOUR) for hours in (0.9, 1, 1.9, 2)]
    assert rounds == [[], ["flights"], [], ["flights"]]
    said = read_events(ready, types=["break_glass"])[1:]
    assert [(event.severity, event.actor, event.subject) for event in said] == [("critical", "system", "flights@2")] * 2
    assert "Nobody has approved version 2 of flights since eve broke the glass" in said[0].reason
    assert live(ready, "flights").champion == NEW
    approve(ready, BOB, "flights", 2)
    assert follow_up(ready, begun + 9 * HOUR) == []


def test_a_broken_glass_ends_for_a_champion_that_may_serve_if_the_use_case_says_so(
    ready: ControlStore, settings: Settings
) -> None:
    put_in_force(ready, replace(POLICY, broken_glass_ends_after_s=HOUR.total_seconds()))
    break_glass(ready, EVE, "flights", 2, "fire")
    request(ready, ANN, "flights", 2, now=datetime.now(UTC) + 2 * DAY)  # asking again does not stop the clock
    expire(ready, datetime.now(UTC) + 2 * DAY)
    assert follow_up(ready, datetime.now(UTC) + HOUR / 2) == []
    Dispatcher(ready, settings, lambda *_: None).round(datetime.now(UTC) + HOUR)
    state = live(ready, "flights")
    assert (state.champion, state.previous) == (OLD, None)
    (event,) = read_events(ready, types=["rollout.rolled_back"])
    assert (event.actor, "Nobody has approved version 2" in event.reason) == ("system", True)
    with pytest.raises(ForbiddenError, match="system has rejected it"):
        expect_servable(ready, "flights", NEW)
    assert follow_up(ready, datetime.now(UTC) + 2 * HOUR) == []


def test_a_broken_glass_does_not_end_where_no_other_champion_may_serve(ready: ControlStore) -> None:
    put_in_force(ready, replace(POLICY, broken_glass_ends_after_s=HOUR.total_seconds()))
    break_glass(ready, EVE, "flights", 2, "fire")
    revoke(ready, BOB, "flights", 1, "a complaint")
    assert follow_up(ready, datetime.now(UTC) + HOUR) == ["flights"]
    assert live(ready, "flights").champion == NEW
    expect_servable(ready, "flights", NEW)
    assert [event.actor for event in read_events(ready, types=["break_glass"])] == ["eve", "system"]


def test_no_duration_is_longer_than_can_be_added_to_a_moment(ready: ControlStore) -> None:
    for name in ("expires_after_s", "min_rollout_s", "broken_glass_escalates_after_s", "broken_glass_ends_after_s"):
        with pytest.raises(ConfigurationError, match=f"{name} is .* of at most 316224000"):
            replace(POLICY, **{name: (3_000_000 * DAY).total_seconds()})
    assert timedelta(seconds=LONGEST_S) == LONGEST


def test_a_duration_too_long_that_was_stored_before_leaves_rules_and_broken_glass_as_they_work(
    ready: ControlStore,
) -> None:
    too_long = (3_000_000 * DAY).total_seconds()
    stored = POLICY.to_json() | {"expires_after_s": too_long, "broken_glass_ends_after_s": too_long}
    with ready.transaction() as connection:
        connection.execute(update(policies).values(policy=stored))
    break_glass(ready, EVE, "flights", 2, "fire")
    assert follow_up(ready, datetime.now(UTC)) == []
    put_in_force(ready, replace(POLICY, broken_glass_ends_after_s=HOUR.total_seconds()))
    assert follow_up(ready, datetime.now(UTC) + HOUR) == ["flights"]


def test_one_use_case_whose_broken_glass_cannot_be_followed_up_keeps_no_other_from_it(
    ready: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_force(ready, replace(POLICY, broken_glass_ends_after_s=HOUR.total_seconds()))
    break_glass(ready, EVE, "flights", 2, "fire")
    set_policy(ready, ANN, "boats", Policy())
    real = broken_glass.policy_of

    def policy_of(connection: Connection, use_case: str) -> Policy:
        if use_case == "boats":
            raise OverflowError("date value out of range")
        return real(connection, use_case)

    monkeypatch.setattr(broken_glass, "policy_of", policy_of)
    assert follow_up(ready, datetime.now(UTC) + HOUR) == ["flights"]


FLOOR = replace(POLICY, required=False, min_rollout_steps=2, min_rollout_s=600.0, max_error_rate=0.02)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(()), "The plan has 0 steps, and a rollout of flights needs 2"),
        (Plan((Step("shadow", 1, 9), Step("canary", 0.5, 9))), "hold for 18 s together, and .* at least 600 s"),
        (Plan(rules=Rules(max_error_rate=1)), "max_error_rate is 1, and flights allows at most 0.02"),
    ],
)
def test_a_plan_below_what_its_use_case_demands_is_refused(ready: ControlStore, plan: Plan, message: str) -> None:
    put_in_force(ready, FLOOR)
    with pytest.raises(ConfigurationError, match=message):
        start_rollout(ready, ANN, "flights", NEW, plan)
    assert start_rollout(ready, ANN, "flights", NEW, Plan()).rollout


@given(
    st.none() | st.integers(1, 30),
    st.none() | st.floats(1, 10 * 365 * 86_400),
    st.none() | st.floats(0, 1),
)
def test_the_default_plan_keeps_to_what_any_use_case_demands(
    steps: int | None, held_s: float | None, rate: float | None
) -> None:
    policy = Policy(min_rollout_steps=steps, min_rollout_s=held_s, max_error_rate=rate)
    plan = policy.default_plan()
    policy.expect_allows("flights", plan)
    assert Plan.from_json(plan.to_json()) == plan
    assert Policy().default_plan() == Plan()


def test_a_rollout_without_a_plan_takes_one_that_its_use_case_allows(ready: ControlStore) -> None:
    strict = replace(FLOOR, min_rollout_steps=6, min_rollout_s=86_400.0, max_error_rate=0.001)
    put_in_force(ready, strict)
    rollout = start_rollout(ready, ANN, "flights", NEW).rollout
    assert rollout
    assert (len(rollout.plan.steps), rollout.plan.rules.max_error_rate) == (6, 0.001)
    assert sum(step.hold_s for step in rollout.plan.steps) >= 86_400


def test_nobody_promotes_by_hand_before_a_rollout_has_gone_as_far_as_its_use_case_demands(ready: ControlStore) -> None:
    put_in_force(ready, replace(FLOOR, min_rollout_s=None))
    state = start_rollout(ready, ANN, "flights", NEW, Plan())
    for step in (0, 1):
        assert state.rollout
        with pytest.raises(ConflictError, match=f"is at step {step}, 0 s after its start, and promoted at step 2"):
            promote(ready, ANN, "flights", state.rollout, "enough")
        state = advance(ready, ANN, "flights", state.rollout, "go on")
    assert state.rollout
    put_in_force(ready, FLOOR)
    with pytest.raises(ConflictError, match="after 600 s at the earliest"):
        promote(ready, ANN, "flights", state.rollout, "enough")
    put_in_force(ready, replace(FLOOR, min_rollout_s=None))
    assert promote(ready, ANN, "flights", state.rollout, "enough").champion == NEW


def test_a_rejected_break_glass_is_not_loaded_again(ready: ControlStore) -> None:
    break_glass(ready, EVE, "flights", 2, "fire")
    reject(ready, BOB, "flights", 2, "no")
    with pytest.raises(ForbiddenError):
        expect_servable(ready, "flights", NEW)


def test_a_retired_version_is_not_used_again_however_it_is_tried(ready: ControlStore) -> None:
    request(ready, ANN, "flights", 2)
    retired = retire(ready, ANN, "flights", 2, "it discriminates")
    assert retired.retired_at
    tries: list[Callable[[], object]] = [
        lambda: approve(ready, BOB, "flights", 2),
        lambda: request(ready, ANN, "flights", 2),
        lambda: set_champion(ready, ANN, "flights", NEW, "now"),
        lambda: start_rollout(ready, ANN, "flights", NEW, Plan()),
        lambda: break_glass(ready, EVE, "flights", 2, "fire"),
        lambda: expect_servable(ready, "flights", NEW),
        lambda: retire(ready, ANN, "flights", 2, "again"),
    ]
    events = len(read_events(ready))
    for attempt in tries:
        with pytest.raises(ForbiddenError, match="Version 2 of flights was retired at"):
            attempt()
    assert (len(read_events(ready)), live(ready, "flights").champion) == (events, OLD)


def test_what_is_live_is_not_retired_and_what_was_live_is_no_way_back(ready: ControlStore) -> None:
    with pytest.raises(ConflictError, match="Version 1 of flights is live"):
        retire(ready, ANN, "flights", 1, "old")
    with pytest.raises(ConfigurationError, match="Say why"):
        retire(ready, ANN, "flights", 2, " ")
    request(ready, ANN, "flights", 2)
    approve(ready, BOB, "flights", 2)
    state = start_rollout(ready, ANN, "flights", NEW, Plan())
    with pytest.raises(ConflictError, match="Version 2 of flights is live"):
        retire(ready, ANN, "flights", 2, "no")
    assert state.rollout
    state = promote(ready, ANN, "flights", state.rollout, "enough")
    retire(ready, ANN, "flights", 1, "old")
    assert read_events(ready, types=["version.retired"])[0].payload == {"was_previous_champion": True}
    with pytest.raises(ConflictError, match="Nothing was changed"):
        roll_back(ready, ANN, "flights", state.revision, 1, "complaints")
    with pytest.raises(ForbiddenError, match=r"was retired at .* No earlier champion may"):
        roll_back(ready, ANN, "flights", live(ready, "flights").revision, 1, "complaints")


def test_a_policy_that_stays_the_same_is_no_event(ready: ControlStore) -> None:
    set_policy(ready, BOB, "flights", POLICY)
    put_in_force(ready, None)
    changes = read_events(ready, types=["policy.changed"])
    assert [(event.actor, event.after is None) for event in changes] == [("ann", False), ("bob", True)]
    assert set_champion(ready, ANN, "flights", NEW, "free").champion == NEW


HOSTILE = ["..", "file:///etc/passwd", "flights\0", "flights\n", "x" * 10_000, "", "Flights", "\ud800"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_before_any_database_sees_it(store: ControlStore, name: str) -> None:
    doing: list[Callable[[], object]] = [
        lambda: request(store, ANN, name, 1),
        lambda: approve(store, BOB, name, 1),
        lambda: break_glass(store, EVE, name, 1, "fire"),
        lambda: retire(store, ANN, name, 1, "old"),
        lambda: list_versions(store, name),
        lambda: set_policy(store, ANN, name, POLICY),
        lambda: record_version(store, ANN, name, 1, Evidence("a", "b")),
    ]
    for do in doing:
        with pytest.raises(ConfigurationError) as error:
            do()
        assert len(str(error.value)) < 200
    assert read_events(store) == []


def test_an_unknown_version_is_named_with_those_that_there_are(ready: ControlStore) -> None:
    for number in (0, 3, 2**31, 10**30):
        with pytest.raises(ConfigurationError, match=r"no version \d+; registered are: 1, 2"):
            request(ready, ANN, "flights", number)


def test_a_reason_can_hold_what_a_database_cannot(ready: ControlStore) -> None:
    request(ready, ANN, "flights", 2, "\0 \ud800")
    assert list_approvals(ready, "flights")[0].reason == "\ufffd ?"


# Replicas


@pytest.fixture
def example(tmp_path: Path) -> Iterator[ExampleEndpoint]:
    """Version 7 is served and version 8 can be; an approval is demanded, and 7 has one."""
    with example_endpoint(tmp_path, versions=2) as example:
        for number, ref in example.sealed.items():
            record_version(example.store, ANN, NAME, number, Evidence(ref.digest, "e"))
        request(example.store, ANN, NAME, 7)
        approve(example.store, BOB, NAME, 7)
        put_in_force(example.store, POLICY, NAME)
        yield example


def loaded(example: ExampleEndpoint) -> tuple[str, ...]:
    example.follower.follow_once()
    return tuple(served.digest for served in example.follower.versions())


def test_a_replica_does_not_load_a_digest_without_approval(example: ExampleEndpoint) -> None:
    put_in_force(example.store, None, NAME)
    start_rollout(example.store, ANN, NAME, example.sealed[8], Plan())
    put_in_force(example.store, POLICY, NAME)
    for _ in range(3):
        assert loaded(example) == (example.sealed[7].digest,)
    assert live(example.store, NAME).rollout is None
    assert "not approved" in read_events(example.store, types=["rollout.rolled_back"])[0].reason
    assert len(read_events(example.store, types=["version.load_failed"])) == 1
    request(example.store, ANN, NAME, 8)
    approve(example.store, BOB, NAME, 8)
    start_rollout(example.store, ANN, NAME, example.sealed[8], Plan(()))
    assert example.sealed[8].digest in loaded(example)
    loaded(example)
    assert example.follower.traffic.champion.version == "8"


def another_replica(example: ExampleEndpoint) -> Follower:
    return Follower(example.store, NAME, "another", "node", example.load, Guard(NAME, {}))


def test_what_is_live_when_approval_is_switched_on_stays_live_until_it_is_replaced(example: ExampleEndpoint) -> None:
    put_in_force(example.store, None, NAME)
    set_champion(example.store, ANN, NAME, example.sealed[8], "nobody has to approve it")
    put_in_force(example.store, POLICY, NAME)
    assert example.sealed[8].digest in loaded(example)
    request(example.store, ANN, NAME, 8)
    late = another_replica(example)
    late.prepare()
    assert late.traffic.champion.version == "8"
    reject(example.store, BOB, NAME, 8, "a complaint")
    loaded(example)
    assert live(example.store, NAME).champion == example.sealed[7]


def test_a_champion_whose_approval_is_revoked_is_left_for_the_last_one_that_may_serve(
    example: ExampleEndpoint,
) -> None:
    request(example.store, ANN, NAME, 8)
    approve(example.store, BOB, NAME, 8)
    set_champion(example.store, ANN, NAME, example.sealed[8], "better")
    revoke(example.store, BOB, NAME, 8, "a complaint")
    late = another_replica(example)
    late.prepare()
    assert late.traffic.champion.version == "7"
    (event,) = read_events(example.store, types=["rollout.rolled_back"])
    assert (event.after["champion"]["version"], event.after["previous"], event.actor) == (7, None, "system")
    assert "Version 8 of departures" in event.reason
    with pytest.raises(ForbiddenError, match=r"Version 8 .* may not serve.* No earlier champion may"):
        roll_back(example.store, ANN, NAME, live(example.store, NAME).revision, 8, "back")


def test_going_back_to_a_version_that_may_not_serve_names_one_that_may(example: ExampleEndpoint) -> None:
    record_version(example.store, ANN, NAME, 9, Evidence("9" * 64, "e"))
    for number in (8, 9):
        request(example.store, ANN, NAME, number)
        approve(example.store, BOB, NAME, number)
    set_champion(example.store, ANN, NAME, example.sealed[8], "better")
    state = set_champion(example.store, ANN, NAME, VersionRef(9, "9" * 64), "better still")
    revoke(example.store, BOB, NAME, 8, "a complaint")
    with pytest.raises(ForbiddenError, match=r"Version 8 .* Go back to version 7, which may"):
        roll_back(example.store, ANN, NAME, state.revision, 8, "back")
    assert live(example.store, NAME) == state
    assert roll_back(example.store, ANN, NAME, state.revision, 7, "back").champion == example.sealed[7]


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_rollout_ends_with_its_approval(example: ExampleEndpoint, how: str) -> None:
    request(example.store, ANN, NAME, 8)
    approve(example.store, BOB, NAME, 8)
    plan = Plan(() if how == "expired" else (Step("canary", 0.5, 3600),))
    start_rollout(example.store, ANN, NAME, example.sealed[8], plan)
    if how == "revoked":
        loaded(example)
        revoke(example.store, BOB, NAME, 8, "a complaint")
    else:
        expire(example.store, datetime.now(UTC) + 2 * DAY)
    loaded(example)
    loaded(example)
    state = live(example.store, NAME)
    assert (state.champion, state.rollout) == (example.sealed[7], None)
    assert "approv" in read_events(example.store, types=["rollout.rolled_back"])[0].reason


def test_a_replica_that_starts_with_nothing_approved_does_not_serve(example: ExampleEndpoint) -> None:
    revoke(example.store, BOB, NAME, 7, "no more")
    with pytest.raises(UnavailableError, match="not approved"):
        another_replica(example).prepare()


# Who acts


@pytest.fixture
def settings(store: ControlStore, tmp_path: Path) -> Settings:
    return load_settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)


def test_who_acts_is_whose_key_it_is(store: ControlStore, settings: Settings) -> None:
    assert acting(store, settings, None).name == "development"
    assert acting(store, settings, "nobody's").name == "development"
    made = create_key(store, ANN, "carol", ["operate"])
    assert acting(store, settings, made.secret) == Actor("carol", ("operate",), id=made.principal.id)
    assert not is_single_user(store, settings)
    assert acting(store, settings, None) == SYSTEM
    with pytest.raises(ForbiddenError, match="MLOPS_RAY_API_KEY"):
        acting(store, settings, "nobody's")


def test_the_two_development_principals_are_two(store: ControlStore, settings: Settings) -> None:
    first, second = development_key(store, settings), development_approver_key(store, settings)
    assert (development_key(store, settings), development_approver_key(store, settings)) == (first, second)
    found = {principal.name: principal for principal in active_keys(store).values()}
    assert {name: p.roles for name, p in found.items()} == {
        "development": ("admin",), "development_approver": ("approve",),
    }  # fmt: skip
    assert all(principal.development for principal in found.values())
