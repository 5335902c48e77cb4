"""When to train again: limits hold for every history, and each decision says why in numbers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf, nan

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlops_ray.errors import UseCaseError
from mlops_ray.retraining.policy import WEEK, Decision, OpenAlarm, PastRetraining, State, decide, retraining_id
from mlops_ray.use_case import Retraining

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALARM = OpenAlarm("a1", "concept", "Concept drift of version 3: origin=JFK.")
ASKED = State(alarms=(ALARM,), trained=NOW - 60 * 24 * HOUR, new_rows=50_000)
POLICY = Retraining(every=timedelta(days=90))

hours = st.integers(-400, 4000).map(lambda hours: NOW - hours * HOUR)
pasts = st.builds(
    PastRetraining,
    id=st.uuids().map(str),
    decided=hours,
    ended=hours,
    outcome=st.sampled_from(["better", "not worse", "worse", "undecided", "failed"]),
    cpu_hours=st.floats(0, 20) | st.sampled_from([nan, inf]),
)
alarms = st.builds(
    OpenAlarm, st.text(max_size=5), st.sampled_from(["data", "prediction", "concept"]), st.text(max_size=20)
)
states = st.builds(
    State,
    alarms=st.lists(alarms, max_size=3).map(tuple),
    past=st.lists(pasts, max_size=5).map(tuple),
    losses=st.integers(0, 5),
    trained=st.none() | hours,
    new_rows=st.integers(0, 20_000),
)
policies = st.builds(
    Retraining,
    alarms=st.lists(st.sampled_from(["data", "prediction", "concept"]), unique=True).map(tuple),
    every=st.none() | st.integers(1, 2000).map(lambda hours: hours * HOUR),
    min_new_rows=st.integers(0, 10_000),
    cool_down=st.integers(0, 500).map(lambda hours: hours * HOUR),
    max_per_week=st.integers(1, 4),
    max_cpu_hours_per_week=st.floats(0.1, 30),
    stop_after_losses=st.integers(1, 4),
)


@given(policies, states)
@example(  # its end lies before its beginning, by a clock that was set back
    replace(POLICY, max_cpu_hours_per_week=0.5, cool_down=0 * HOUR),
    replace(ASKED, past=(PastRetraining("r", NOW - 160 * HOUR, NOW - 180 * HOUR, "better", 1.0),)),
)
def test_a_retraining_breaks_no_limit(policy: Retraining, state: State) -> None:
    decision = decide(policy, state, NOW)
    assert decision.reason
    if decision.action != "retrain":
        return
    due = policy.every is not None and state.trained is not None and NOW - state.trained >= policy.every
    assert due or any(alarm.question in policy.alarms for alarm in state.alarms)
    assert state.new_rows >= policy.min_new_rows
    assert state.losses < policy.stop_after_losses
    assert all(past.ended is not None and NOW - past.ended >= policy.cool_down * 2**state.losses for past in state.past)
    week = [past for past in state.past if NOW - past.decided < WEEK]
    assert len(week) < policy.max_per_week
    assert sum(past.cpu_hours for past in week if past.cpu_hours < inf) <= policy.max_cpu_hours_per_week


@given(policies, states)
def test_one_that_runs_keeps_every_other_from_starting(policy: Retraining, state: State) -> None:
    running = PastRetraining("r", NOW - HOUR)
    decision = decide(policy, replace(state, past=(*state.past, running)), NOW)
    assert (decision.action, decision.cause) == ("wait", "running")


@given(policies, states, st.integers(0, 3000))
def test_waiting_for_time_ends_with_time(policy: Retraining, state: State, later: int) -> None:
    """Once the cool-down, the week and the limits allow it, an alarm that stays open is answered."""
    policy = replace(policy, max_cpu_hours_per_week=inf, alarms=("data",))
    state = replace(state, alarms=(OpenAlarm("a", "data", ""),), losses=0, new_rows=policy.min_new_rows)
    now = NOW + 1000 * HOUR + later * HOUR
    assert decide(policy, state, now).action == "retrain"


@given(policies, states)
def test_the_same_decision_on_the_same_past_has_the_same_id(policy: Retraining, state: State) -> None:
    decision = decide(policy, state, NOW)
    turned = replace(decision, alarms=tuple(reversed(decision.alarms)))
    assert retraining_id("flights", state, decision) == retraining_id("flights", state, turned)
    longer = replace(state, past=(*state.past, PastRetraining("r", NOW)))
    assert retraining_id("flights", state, decision) != retraining_id("flights", longer, decision)


def refused(state: State, policy: Retraining = POLICY) -> Decision:
    decision = decide(policy, state, NOW)
    assert decision.action == "wait"
    return decision


def test_each_reason_names_the_numbers() -> None:
    retrain = decide(POLICY, ASKED, NOW)
    assert (retrain.action, retrain.cause, retrain.alarms) == ("retrain", "alarm", ("a1",))
    assert "origin=JFK" in retrain.reason
    assert "50,000 labels" in retrain.reason

    few = refused(replace(ASKED, new_rows=4_999))
    assert few.cause == "few rows"
    assert "4,999" in few.reason
    assert "5,000" in few.reason

    ended = PastRetraining("r", NOW - 50 * HOUR, NOW - 48 * HOUR, "better", 3.0)
    cooling = refused(replace(ASKED, past=(ended,)))
    assert cooling.cause == "cool-down"
    assert "2026-03-06 12:00 UTC" in cooling.reason

    many = replace(POLICY, cool_down=HOUR, max_per_week=1)
    assert refused(replace(ASKED, past=(ended,)), many).cause == "weekly number"
    costly = replace(POLICY, cool_down=HOUR, max_cpu_hours_per_week=5.0)
    hours = refused(replace(ASKED, past=(ended,)), costly)
    assert hours.cause == "weekly hours"
    assert "3.00 CPU hours" in hours.reason


@pytest.mark.parametrize(("ended_hours_ago", "cause"), [(365 * 24, "alarm"), (169, "alarm"), (167, "weekly hours")])
def test_the_weeks_budget_looks_at_the_week_that_it_names(ended_hours_ago: int, cause: str) -> None:
    """One dearer than the limit keeps others back for seven days, and not for ever."""
    ended = NOW - ended_hours_ago * HOUR
    dear = PastRetraining("r", ended - 3 * HOUR, ended, "better", 12.1)
    assert decide(replace(POLICY, cool_down=HOUR), replace(ASKED, past=(dear,)), NOW).cause == cause


def test_a_challenger_that_waits_for_a_verdict_holds_off_the_next() -> None:
    held = refused(replace(ASKED, offered=4))
    assert held.cause == "offered"
    assert "Version 4" in held.reason


def test_alarms_on_other_questions_do_not_count() -> None:
    calm = refused(ASKED, replace(POLICY, alarms=("data",)))
    assert calm.cause == "calm"
    assert "1 on other questions" in calm.reason


def test_the_schedule_asks_when_the_last_training_is_old() -> None:
    old = replace(ASKED, alarms=(), trained=NOW - timedelta(days=90))
    assert decide(POLICY, old, NOW).cause == "schedule"
    assert refused(replace(old, trained=NOW - timedelta(days=89))).cause == "calm"
    unknown = refused(replace(old, trained=None))
    assert unknown.cause == "calm"
    assert "up to when the champion's training knew the data is not known" in unknown.reason


def test_challengers_that_lose_stop_it() -> None:
    stopped = decide(POLICY, replace(ASKED, losses=3), NOW)
    assert (stopped.action, stopped.cause) == ("stop", "losses")
    assert decide(POLICY, replace(ASKED, losses=2), NOW).action == "retrain"


def test_each_challenger_that_loses_doubles_the_cool_down() -> None:
    ended = PastRetraining("r", NOW - 13 * 24 * HOUR, NOW - 13 * 24 * HOUR, "worse")
    assert decide(POLICY, replace(ASKED, past=(ended,)), NOW).action == "retrain"
    longer = refused(replace(ASKED, past=(ended,), losses=1))
    assert "14 days after 1 that did not win, ends at 2026-03-02" in longer.reason
    hours = PastRetraining("r", NOW - HOUR, NOW - HOUR, "worse")
    short = refused(replace(ASKED, past=(hours,), losses=1), replace(POLICY, cool_down=3 * HOUR))
    assert "cool-down, 6 hours after 1 that did not win" in short.reason


def test_a_clock_set_back_only_waits() -> None:
    future = PastRetraining("r", NOW + 5 * HOUR, NOW + 6 * HOUR, "better")
    assert refused(replace(ASKED, past=(future,))).cause == "cool-down"


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_new_rows": -1},
        {"max_per_week": 0},
        {"stop_after_losses": 0},
        {"cool_down": -HOUR},
        {"every": timedelta(0)},
        {"max_cpu_hours_per_week": nan},
        {"margin": inf},
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UseCaseError):
        Retraining(**wrong)  # type: ignore[arg-type]
