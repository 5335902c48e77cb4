"""Rollouts: what is decided from which counts, and that a decision is carried out once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.errors import ConfigurationError, ConflictError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.live import Live, Plan, Rollout, Rules, Step, VersionRef, live
from mlops_ray.governance.replicas import Loading, Replica, heard, report
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import advance, fail, pause, promote, resume, start_rollout
from mlops_ray.serving.counters import BOUNDS_S, Counts
from mlops_ray.serving.rollout import Decision, decide, lower_bound, step_key
from tests.audit_history import replayed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLD, NEW = VersionRef(1, "a" * 64), VersionRef(2, "b" * 64)
PLAN = Plan(steps=(Step("shadow", 1.0, 60), Step("canary", 0.5, 60)), rules=Rules(max_disagreement=0.1))
ANN = Actor("ann", ("operate",))


def counts(requests: int, errors: int = 0, latency_s: float = 0.01, difference: float = 0.0) -> Counts:
    made = Counts(difference=difference * requests, compared=requests)
    for _ in range(requests - errors):
        made.answered(latency_s)
        made.worked(latency_s)
    for _ in range(errors):
        made.failed()
    return made


def running(step: int = 0, since_s: float = 120, plan: Plan = PLAN, state: str = "running") -> Live:
    since = NOW - timedelta(seconds=since_s)
    rollout = Rollout("r", NEW, plan, state, step, since, since)  # type: ignore[arg-type]
    return Live("flights", 5, OLD, NOW, None, rollout)


def replica(state: Live, champion: Counts, version: Counts, silent_s: float = 1, **more: object) -> Replica:
    assert state.rollout
    told = {"champion": champion.to_json(), "version": version.to_json()}
    seen = NOW - timedelta(seconds=silent_s)
    made = Replica("x", "n", 5, (OLD, NEW), step=step_key(state.rollout), counters=told, seen_at=seen)
    return replace(made, **more)  # type: ignore[arg-type]


def action(decision: Decision | None) -> str | None:
    return decision.action if decision else None


def test_a_step_without_trouble_is_followed_by_the_next_and_the_last_by_promotion() -> None:
    good = [counts(500), counts(500)]
    assert action(decide(running(0), [replica(running(0), *good)], (), NOW)) == "advance"
    assert action(decide(running(1), [replica(running(1), *good)], (), NOW)) == "promote"
    by_hand = running(1, plan=Plan(PLAN.steps, automatic=False))
    assert decide(by_hand, [replica(by_hand, *good)], (), NOW) is None


@pytest.mark.parametrize(("since_s", "requests"), [(59, 500), (61, 99)])
def test_a_step_is_held_for_its_time_and_its_requests(since_s: float, requests: int) -> None:
    state = running(0, since_s)
    assert decide(state, [replica(state, counts(500), counts(requests))], (), NOW) is None


@pytest.mark.parametrize(
    ("champion", "version", "said"),
    [
        (counts(500), counts(3, errors=3), "3 of 3 requests failed"),
        (counts(500), counts(1000, errors=40), "failed"),
        (counts(500), counts(500, latency_s=0.05), "Median latency"),
        (counts(500), counts(500, difference=0.2), "differ from the champion's by 0.200"),
    ],
)
def test_each_rule_takes_the_version_back_with_its_number(champion: Counts, version: Counts, said: str) -> None:
    decision = decide(running(), [replica(running(), champion, version)], (), NOW)
    assert decision
    assert decision.action == "roll_back"
    assert said in decision.reason
    assert decision.numbers["version"]["requests"] == version.requests


def test_errors_that_the_champion_has_too_blame_nobody() -> None:
    shaky = [counts(1000, errors=50), counts(1000, errors=50)]
    assert action(decide(running(), [replica(running(), *shaky)], (), NOW)) == "advance"


def test_two_errors_of_two_are_not_yet_a_rate() -> None:
    assert decide(running(since_s=1), [replica(running(), counts(9), counts(2, errors=2))], (), NOW) is None


def test_an_alarm_about_the_version_takes_it_back() -> None:
    decision = decide(running(), [replica(running(), counts(500), counts(500))], ["Drift of distance"], NOW)
    assert decision
    assert (decision.action, decision.reason) == ("roll_back", "Alarm: Drift of distance")


def test_counts_of_all_replicas_add_up_and_those_of_other_steps_do_not() -> None:
    half = replica(running(), counts(60), counts(60))
    dead = replica(running(), counts(60), counts(60), silent_s=100)
    assert action(decide(running(), [half, dead], (), NOW)) == "advance"
    other = replace(dead, step="r/7")
    assert decide(running(), [half, other], (), NOW) is None


def test_nothing_is_promoted_while_no_replica_says_that_it_holds_it() -> None:
    state = running(1)
    silent = replica(state, counts(500), counts(500), silent_s=60)
    assert decide(state, [silent], (), NOW) is None
    assert action(decide(state, [silent, Replica("b", "n", 5, (OLD, NEW), seen_at=NOW)], (), NOW)) == "promote"


def test_nothing_begins_before_every_replica_alive_holds_the_version() -> None:
    state = running(state="loading", since_s=0)
    ready = Replica("a", "n", 5, (NEW,), seen_at=NOW)
    waiting = Replica("b", "n", 5, (), seen_at=NOW)
    dead = replace(waiting, seen_at=NOW - timedelta(minutes=1))
    assert decide(state, [], (), NOW) is None
    assert decide(state, [ready, waiting], (), NOW) is None
    assert action(decide(state, [ready, dead], (), NOW)) == "advance"
    assert action(decide(running(state="loading", plan=Plan(())), [ready], (), NOW)) == "promote"
    failed = replace(waiting, failed={NEW: "digest differs"})
    decision = decide(state, [ready, failed], (), NOW)
    assert decision
    assert (decision.action, "digest differs" in decision.reason) == ("fail", True)


def test_a_version_that_never_gets_ready_is_taken_back() -> None:
    state = running(state="loading", since_s=601)
    waiting = [Replica("b", "n", 5, (), seen_at=NOW)]
    assert action(decide(state, waiting, (), NOW)) == "fail"


def test_the_lower_bound_is_wilsons() -> None:
    assert lower_bound(10, 100, z=1.96) == pytest.approx(0.05522854, abs=1e-6)
    assert lower_bound(0, 50, z=2.326) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.floats(1e-5, 20), min_size=1, max_size=200))
def test_counts_survive_their_report_and_their_median_is_at_most_a_quarter_high(latencies: list[float]) -> None:
    made = Counts()
    for latency in latencies:
        made.answered(latency)
    assert Counts.from_json(made.to_json()) == made
    assert (made + made) - made == made
    median, found = sorted(latencies)[(len(latencies) - 1) // 2], made.median_s()
    assert found is not None
    assert min(max(median, BOUNDS_S[0]), BOUNDS_S[-1]) <= found * 1.0000001
    assert found <= max(median * 1.2500001, BOUNDS_S[0])


def test_a_rollout_from_start_to_champion_and_back(store: ControlStore) -> None:
    set_champion(store, ANN, "flights", OLD, "first")
    state = start_rollout(store, ANN, "flights", NEW, PLAN)
    assert state.champion == OLD
    assert state.rollout
    assert state.rollout.current is None
    state = advance(store, ANN, "flights", state.rollout, "loaded")
    assert state.rollout
    assert state.rollout.current == PLAN.steps[0]
    state = promote(store, ANN, "flights", state.rollout, "enough seen", {"requests": 9})
    assert (state.champion, state.previous, state.rollout) == (NEW, OLD, None)
    assert live(store, "flights") == state
    state = roll_back(store, ANN, "flights", state.revision, 1, "complaints")
    assert (state.champion, state.previous) == (OLD, NEW)
    events = read_events(store, use_case="flights")
    assert [event.type for event in events] == [
        "champion.set", "rollout.started", "rollout.step", "rollout.promoted", "rollout.rolled_back",
    ]  # fmt: skip
    assert events[3].after["champion"]["version"] == 2
    assert (events[3].payload["requests"], events[4].reason) == (9, "complaints")


def test_a_paused_rollout_goes_no_step_on_and_what_is_wrong_still_ends_it() -> None:
    good, bad = [counts(500), counts(500)], [counts(500), counts(500, errors=50)]
    for state in (running(0), running(1), running(0, state="loading")):
        assert state.rollout
        paused = replace(state, rollout=replace(state.rollout, paused_at=NOW))
        assert decide(state, [replica(state, *good)], (), NOW) is not None
        assert decide(paused, [replica(paused, *good)], (), NOW) is None
        if state.rollout.state == "running":
            assert action(decide(paused, [replica(paused, *bad)], (), NOW)) == "roll_back"


def test_pausing_counts_once_and_tells_who_came_first(store: ControlStore) -> None:
    set_champion(store, ANN, "flights", OLD, "first")
    started = start_rollout(store, ANN, "flights", NEW, PLAN)
    paused = pause(store, ANN, "flights", started.revision, 2, "wait")
    assert started.rollout
    assert paused.rollout
    assert paused.rollout.paused_at is not None
    assert live(store, "flights") == paused
    assert pause(store, ANN, "flights", started.revision, 2, "again").revision == paused.revision
    with pytest.raises(ConflictError):
        advance(store, ANN, "flights", started.rollout, "decided before")
    assert resume(store, ANN, "flights", paused.revision, 2, "go on").rollout == started.rollout
    with pytest.raises(ConflictError, match=r"rollout\.resumed by ann, at 20"):
        pause(store, ANN, "flights", started.revision, 2, "late")
    with pytest.raises(ConflictError, match="of version 2"):
        pause(store, ANN, "flights", started.revision, 3, "another")
    assert roll_back(store, ANN, "flights", started.revision, 1, "seen before the pause").rollout is None


def test_of_two_who_decide_on_the_same_state_one_wins(store: ControlStore) -> None:
    set_champion(store, ANN, "flights", OLD, "first")
    state = start_rollout(store, ANN, "flights", NEW, PLAN)
    assert state.rollout
    advance(store, ANN, "flights", state.rollout, "first")
    with pytest.raises(ConflictError, match="step 1 of 2"):
        advance(store, ANN, "flights", state.rollout, "second")
    with pytest.raises(ConflictError, match="not any more what it was at revision 1"):
        roll_back(store, ANN, "flights", 1, 7, "late")
    with pytest.raises(ConflictError, match="under way"):
        start_rollout(store, ANN, "flights", VersionRef(3, "c" * 64), PLAN)
    with pytest.raises(ConflictError, match="under way"):
        set_champion(store, ANN, "flights", VersionRef(3, "c" * 64), "x")
    assert len(read_events(store, use_case="flights")) == 3


def test_who_saw_an_earlier_step_promotes_what_stands_and_the_system_does_not(store: ControlStore) -> None:
    set_champion(store, ANN, "flights", OLD, "first")
    started = start_rollout(store, ANN, "flights", NEW, PLAN).rollout
    assert started
    loaded = advance(store, SYSTEM, "flights", started, "loaded").rollout
    assert loaded
    advance(store, SYSTEM, "flights", loaded, "next")
    for late in (fail, promote):
        with pytest.raises(ConflictError, match="step 2 of 2"):
            late(store, SYSTEM, "flights", loaded, "decided before")
    assert promote(store, ANN, "flights", loaded, "good enough").champion == NEW
    with store.reading() as connection:
        assert replayed(store).difference(connection) is None


def test_what_cannot_be_is_refused(store: ControlStore) -> None:
    with pytest.raises(ConflictError, match="no champion"):
        start_rollout(store, ANN, "flights", NEW, PLAN)
    state = set_champion(store, ANN, "flights", OLD, "first")
    with pytest.raises(ConflictError, match="champion already"):
        start_rollout(store, ANN, "flights", OLD, PLAN)
    with pytest.raises(ConflictError, match="Version 2 of flights was never its champion"):
        roll_back(store, ANN, "flights", state.revision, 2, "why not")
    assert roll_back(store, ANN, "flights", state.revision, 1, "it is so") == state
    assert set_champion(store, ANN, "flights", OLD, "again") == state


def test_a_replica_is_heard_of_once_however_often_it_reports(store: ControlStore) -> None:
    for revision in (1, 2):
        said = Replica("a", "n", revision, (OLD,), {NEW: Loading(3.5, "full")}, {NEW: "why"}, OLD, "r/1", {"x": 1})
        report(store, "flights", said)
    (found,) = heard(store, "flights").replicas
    assert replace(found, seen_at=None) == said
    assert heard(store, "other").replicas == []


@pytest.mark.parametrize(
    "plan",
    [
        {"steps": [{"route": "sideways", "share": 1, "hold_s": 1}]},
        {"steps": [{"route": "canary", "share": 1.5, "hold_s": 1}]},
        {"steps": [{"route": "canary", "share": 0, "hold_s": 1}]},
        {"steps": [{"route": "canary", "share": 1, "hold_s": -1}]},
        {"rules": {"max_eror_rate": 1}},
        {"stiky": "tailnum"},
        {"steps": "all"},
        [],
    ],
)
def test_a_wrong_plan_is_refused(plan: object) -> None:
    with pytest.raises(ConfigurationError, match="plan is not understood"):
        Plan.from_json(plan)


def test_a_plan_survives_storage() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN
    assert Plan.from_json({}) == Plan()
