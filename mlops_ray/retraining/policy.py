"""When to train again: a pure function of open alarms, past retrainings, labels that have come, and the time."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, Literal

from mlops_ray.evaluation.comparison import Verdict
from mlops_ray.use_case import Question, Retraining

WEEK = timedelta(days=7)
_MOST_DOUBLINGS = 6
Action = Literal["retrain", "wait", "stop"]
Cause = Literal[
    "alarm", "schedule",  # to retrain
    "running", "offered", "calm", "cool-down", "few rows", "weekly number", "weekly hours",  # to wait
    "losses",  # to stop
]  # fmt: skip
Outcome = Verdict | Literal["failed"]


@dataclass(frozen=True)
class OpenAlarm:
    """An alarm that is neither resolved nor silenced. reason: what it said when it was raised."""

    id: str
    question: Question
    reason: str


@dataclass(frozen=True)
class PastRetraining:
    """decided: when. ended, outcome: None while it runs. cpu_hours: what it took, 0 while that is not known."""

    id: str
    decided: datetime
    ended: datetime | None = None
    outcome: Outcome | None = None
    cpu_hours: float = 0.0


@dataclass(frozen=True)
class State:
    """What is known at the moment of a decision.

    past: all retrainings, the oldest first. losses: how many of the last in a row were not better, or failed, since
    the champion changed. offered: the version that waits for a person's verdict or its rollout, or is in one; None if
    there is none. trained: up to when the last training, first or again, knew the data; None: not known. new_rows:
    labels that came since. blind: questions about which the champion's watch can raise no alarm, with why. All moments
    are UTC.
    """

    alarms: tuple[OpenAlarm, ...] = ()
    past: tuple[PastRetraining, ...] = ()
    losses: int = 0
    offered: int | None = None
    trained: datetime | None = None
    new_rows: int = 0
    blind: Mapping[Question, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """reason is a sentence with the numbers, `numbers` the same for machines. alarms: ids of those that ask for it."""

    action: Action
    cause: Cause
    reason: str
    alarms: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


def decide(policy: Retraining, state: State, now: datetime) -> Decision:
    """Retrain, wait, or stop until a person has looked.

    A retraining needs somebody who asks: an open alarm, or the schedule. An alarm that stays open after a retraining
    asks again once the cool-down is over and enough labels have come. Each challenger that loses doubles the
    cool-down: a world that has just changed is learned once enough of it lies before the recent window, and trying
    sooner finds the same. The stop after losses ends it. A clock that was set back only lengthens the waiting.
    """
    asking = tuple(alarm for alarm in state.alarms if alarm.question in policy.alarms)
    ids = tuple(alarm.id for alarm in asking)
    running = next((past for past in reversed(state.past) if past.outcome is None), None)
    if running is not None:
        return Decision("wait", "running", f"Retraining {running.id} runs since {_moment(running.decided)}.", ids)
    if state.offered is not None:
        text = f"Version {state.offered} waits for its approval or its rollout, or is in one; first it is decided on."
        return Decision("wait", "offered", text, ids, {"version": state.offered})
    if state.losses >= policy.stop_after_losses:
        text = (
            f"The last {state.losses} challengers were not better than the champion, or failed (limit "
            f"{policy.stop_after_losses}). More of the same will not help: look at the data and the features. The next "
            f"champion begins a new count."
        )
        return Decision("stop", "losses", text, ids, {"losses": state.losses, "limit": policy.stop_after_losses})
    due = policy.every is not None and state.trained is not None and now - state.trained >= policy.every
    if not asking and not due:
        return _calm(policy, state)
    return _held_back(policy, state, now, ids) or _retrain(policy, state, asking, now)


def _calm(policy: Retraining, state: State) -> Decision:
    when = ""
    if policy.every is not None:
        when = (
            " The schedule does not ask: up to when the champion's training knew the data is not known."
            if state.trained is None
            else f" The schedule asks at {_moment(state.trained + policy.every)}."
        )
    others = f" {len(state.alarms)} on other questions do not count." if state.alarms and policy.alarms else ""
    watched = f"No alarm on {' or '.join(policy.alarms)} is open." if policy.alarms else "Alarms do not count here."
    blind = "".join(
        f" There can be none on {question}: {why}" for question, why in state.blind.items() if question in policy.alarms
    )
    return Decision("wait", "calm", f"{watched}{others}{blind}{when}")


def _held_back(policy: Retraining, state: State, now: datetime, ids: tuple[str, ...]) -> Decision | None:
    """What keeps from a retraining that is asked for: the first limit that it breaks."""
    ended = max((past.ended for past in state.past if past.ended is not None), default=None)
    cool_down = policy.cool_down * 2 ** min(state.losses, _MOST_DOUBLINGS)
    if ended is not None and now - ended < cool_down:
        longer = f", {_span(cool_down)} after {state.losses} that did not win," if state.losses else ""
        free = _moment(ended + cool_down)
        text = f"The last retraining ended at {_moment(ended)}; its cool-down{longer} ends at {free}."
        return Decision("wait", "cool-down", text, ids, {"cool_down_s": cool_down.total_seconds()})
    if state.new_rows < policy.min_new_rows:
        text = f"{state.new_rows:,} labels came since the last training ({policy.min_new_rows:,} are needed)."
        return Decision("wait", "few rows", text, ids, {"new_rows": state.new_rows, "limit": policy.min_new_rows})
    week = [past for past in state.past if now - past.decided < WEEK]
    if len(week) >= policy.max_per_week:
        free = _moment(min(past.decided for past in week) + WEEK)
        text = f"{len(week)} retrainings in seven days (limit {policy.max_per_week}); the next is free at {free}."
        return Decision("wait", "weekly number", text, ids, {"retrainings": len(week), "limit": policy.max_per_week})
    # By a clock that was set back in between it ended before it was decided.
    paid = [_hours(past) for past in state.past if now - max(past.ended or past.decided, past.decided) < WEEK]
    # What another costs is guessed from this week alone: by an older one, dearer than the limit, none could ever run.
    spent, next_one = sum(paid), paid[-1] if paid else 0.0
    if spent + next_one > policy.max_cpu_hours_per_week:
        text = (
            f"{spent:.2f} CPU hours in seven days and {next_one:.2f} for another like the last are more than "
            f"{policy.max_cpu_hours_per_week:g}."
        )
        numbers = {"cpu_hours": spent, "expected": next_one, "limit": policy.max_cpu_hours_per_week}
        return Decision("wait", "weekly hours", text, ids, numbers)
    return None


def _retrain(policy: Retraining, state: State, asking: tuple[OpenAlarm, ...], now: datetime) -> Decision:
    numbers: dict[str, Any] = {"new_rows": state.new_rows, "alarms": len(asking)}
    rows = f"{state.new_rows:,} labels came since the last training."
    if asking:
        more = f" (and {len(asking) - 1} more)" if len(asking) > 1 else ""
        said = asking[0].reason.strip() or "no reason given."
        text = f"An alarm on {asking[0].question} is open{more}: {said} {rows}"
        return Decision("retrain", "alarm", text, tuple(alarm.id for alarm in asking), numbers)
    assert state.trained is not None
    age = now - state.trained
    text = f"The last training knew the data up to {_moment(state.trained)}, {_span(age)} ago. {rows}"
    return Decision("retrain", "schedule", text, (), numbers | {"age_s": age.total_seconds()})


def retraining_id(use_case: str, state: State, decision: Decision) -> str:
    """Names what a decision starts: the same decision on the same past has the same id, whoever takes it and when."""
    trigger = [use_case, str(len(state.past)), decision.cause, *sorted(decision.alarms)]
    return f"retrain-{use_case}-{hashlib.sha256(chr(0).join(trigger).encode()).hexdigest()[:16]}"


def _hours(past: PastRetraining) -> float:
    return past.cpu_hours if isfinite(past.cpu_hours) else 0.0


def _span(time: timedelta) -> str:
    days = time / timedelta(days=1)
    return f"{days:.3g} days" if days >= 2 else f"{24 * days:.3g} hours"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
