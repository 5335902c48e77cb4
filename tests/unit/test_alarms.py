from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.governance.alarms import alarms_of
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read_events
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.alarms import Alarm, diagnose, step
from mlops_ray.monitoring.drift_actor import record_change
from mlops_ray.monitoring.error_stream import Change
from mlops_ray.monitoring.judging import with_error_changes
from mlops_ray.monitoring.severity import severity_of
from mlops_ray.monitoring.shifts import describe_shift
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch
from mlops_ray.monitoring.verdicts import Finding, Verdict
from mlops_ray.monitoring.version_alarms import take_verdict
from mlops_ray.monitoring.version_watch import Stream, VersionWatch
from mlops_ray.monitoring.windows import WindowState
from mlops_ray.use_case import WindowSpec

START = datetime(2013, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def verdict(day: int, answer: str, *columns: str, score: float = 1.0, importance: float = 0.1) -> Verdict:
    findings = tuple(Finding(column, "psi", 0.5, 0.2, score, importance, "shift") for column in columns)
    start = START + day * DAY
    return Verdict("data", answer, start, start + DAY, 5000, findings, importance, f"{answer} on day {day}")  # type: ignore[arg-type]


def play(*verdicts: Verdict) -> tuple[Alarm | None, list[tuple[int, str]]]:
    alarm, events = None, []
    for index, each in enumerate(verdicts):
        found = step(alarm, each)
        alarm = found.alarm
        if found.event:
            events.append((index, found.event))
    return alarm, events


def told(*verdicts: Verdict) -> tuple[VersionWatch, list[AlarmChange]]:
    """What a version with one kind of window announces."""
    watch = VersionWatch("7", streams={"1 day": Stream(WindowState(WindowSpec(length=DAY), {}))})
    changes, ids = list[AlarmChange](), iter("abcdefgh")
    for one in verdicts:
        watch, new = take_verdict(watch, "1 day", one, (), lambda: next(ids))
        changes += new
    return watch, changes


def test_an_alarm_opens_once_stays_open_and_is_resolved() -> None:
    drift, calm = "drift", "no drift"
    answers = [calm, drift, drift, drift, calm, drift, calm, calm, calm, drift]
    _, events = play(*(verdict(day, answer, *["x"] * (answer == drift)) for day, answer in enumerate(answers)))
    assert events == [(1, "opened"), (7, "resolved"), (9, "opened")]


def test_an_alarm_keeps_all_columns_the_worst_window_and_since_when() -> None:
    alarm, _ = play(verdict(3, "drift", "x"), verdict(4, "drift", "y", score=9.0), verdict(5, "drift", "x"))
    assert alarm is not None
    assert (alarm.since, alarm.last_seen) == (START + 3 * DAY, START + 6 * DAY)
    assert (alarm.columns, alarm.windows) == (("x", "y"), 3)
    assert alarm.worst.start == START + 4 * DAY


def test_labels_of_an_older_window_that_come_later_do_not_end_an_alarm_sooner() -> None:
    drift, older = verdict(5, "drift", "x"), verdict(1, "drift", "x")
    alarm, _ = play(drift, verdict(6, "no drift"), older)
    assert alarm is not None
    assert (alarm.since, alarm.last_seen, alarm.calm) == (START + DAY, START + 6 * DAY, 1)
    _, changes = told(drift, older, verdict(2, "no drift"), verdict(3, "no drift"))
    assert [change.kind for change in changes] == ["raised"], "calm windows before the last with drift say nothing"


def test_each_spread_of_an_alarm_is_recorded_with_its_window_and_the_columns_that_joined(store: ControlStore) -> None:
    worst = verdict(0, "drift", "a", score=9.0)
    _, changes = told(worst, *(verdict(day, "drift", column) for day, column in enumerate("bcd", 1)))
    for change in (*changes, changes[-1]):
        record_change(store, "flights", change)
    first, *spreads = read_events(store, use_case="flights")
    assert first.payload["columns"] == ["a"]
    assert [event.payload["change"]["columns"] for event in spreads] == [["b"], ["c"], ["d"]]
    starts = [event.payload["change"]["window"]["start"] for event in spreads]
    assert starts == [(START + day * DAY).isoformat() for day in (1, 2, 3)]
    assert spreads[-1].reason.endswith("It has spread to d.")
    (alarm,) = alarms_of(store, "flights")
    assert (alarm.payload["columns"], alarm.payload["window"]["start"]) == (list("abcd"), START.isoformat())


def test_an_alarm_about_nothing_that_matters_is_heard_once_it_matters() -> None:
    """A feature of no importance drifts; a day later the most important one does, and a day later many others."""
    unimportant = [verdict(day, "drift", "x", importance=0.001) for day in (1, 2)]
    alarm, events = play(*unimportant)
    assert alarm is not None
    assert (events, alarm.severity) == ([(0, "opened")], "info")
    alarm, events = play(*unimportant, verdict(3, "drift", "x", "y", importance=0.4), verdict(4, "drift", "x", "y"))
    assert alarm is not None
    assert (events[1:], alarm.severity, alarm.worst.start) == ([(2, "worsened")], "warning", START + 3 * DAY)
    _, events = play(verdict(1, "drift", "x"), verdict(2, "drift", "x", "y"), verdict(3, "drift", "x", score=9.0))
    assert events == [(0, "opened"), (1, "worsened")], (
        "it has spread to a feature that matters; larger alone is no news"
    )


def test_severity_follows_importance_and_what_becomes_of_the_answers() -> None:
    minor = verdict(1, "drift", "x", importance=0.001)
    assert severity_of(minor) == "info"
    assert severity_of(replace(minor, effect=-0.2)) == "warning", "the answers have moved all the same"
    assert severity_of(replace(minor, effect=0.6)) == "critical"
    assert severity_of(replace(minor, quality=-0.06)) == "critical"
    assert severity_of(replace(minor, importance=float("nan"))) == "warning"
    assert severity_of(replace(minor, question="prediction")) == "warning"
    concept = replace(minor, question="concept")
    assert severity_of(concept) == "critical"
    assert severity_of(replace(concept, acts=False)) == "info", "nobody acts on what could not be calibrated"


def test_not_enough_data_neither_opens_nor_resolves() -> None:
    empty = [verdict(day, "not enough data") for day in range(1, 9)]
    assert play(*empty) == (None, [])
    alarm, events = play(verdict(0, "drift", "x"), *empty)
    assert events == [(0, "opened")]
    assert alarm is not None
    assert alarm.calm == 0


@given(st.lists(st.sampled_from(["drift", "no drift", "not enough data"]), max_size=40))
def test_events_take_turns(answers: list[str]) -> None:
    _, events = play(*(verdict(day, answer, *["x"] * (answer == "drift")) for day, answer in enumerate(answers)))
    assert [event for _, event in events] == ["opened", "resolved"] * (len(events) // 2) + ["opened"] * (
        len(events) % 2
    )


def test_data_drift_and_concept_drift_are_told_apart_in_words() -> None:
    drift, calm, unknown = verdict(0, "drift", "x"), verdict(0, "no drift"), verdict(0, "not enough data")
    concept = replace(drift, question="concept")
    assert "data drift without loss of quality" in diagnose(drift, calm)
    assert "But what they mean has changed (concept drift)" in diagnose(calm, concept)
    assert "too (concept drift)" in diagnose(drift, concept)
    assert "before labels come" in diagnose(drift, None)
    assert "before labels come" in diagnose(calm, unknown)
    assert diagnose(unknown, None) == "Not enough data to say anything."


def test_a_rise_of_the_errors_is_concept_drift_in_words() -> None:
    calm = replace(verdict(0, "no drift"), question="concept")
    found = with_error_changes(calm, [Change("adwin", 0.01, 0.07)])
    assert (found.answer, found.question, found.rows) == ("drift", "concept", 5000)
    assert "rose from +0.010 to +0.070 a row (adwin 0.07, threshold 0.01)" in found.reason
    worse = replace(verdict(0, "drift", "x"), question="concept")
    assert [one.detector for one in with_error_changes(worse, [Change("adwin", 0, 0.1)]).findings] == ["psi", "adwin"]


def test_the_size_of_a_shift_is_said_in_words() -> None:
    old = NumericSketch.of(np.arange(100.0))
    moved, wider, gone = old.empty(), old.empty(), old.empty()
    moved.update(np.arange(100.0) + 50)
    wider.update(np.repeat([10.0, 89.0], 50))
    gone.update(np.full(100, np.nan))
    assert describe_shift(old, moved) == "mean 49.5 -> 99.5 (+1.73 standard deviations)"
    assert describe_shift(old, wider) == "mean 49.5 -> 49.5 (+0.00 standard deviations), up to 88: 89 % -> 50 %"
    assert describe_shift(old, gone) == "missing 0 % -> 100 %"
    constant = NumericSketch.of(np.full(10, 3.0))
    lower = constant.empty()
    lower.update(np.full(10, -1.0))
    assert describe_shift(constant, lower) == "mean 3 -> -1, below 3: 0 % -> 100 %"
    texts = CategoricalSketch.of(["a", "a", "b", "b"])
    others = texts.empty()
    others.update(["a", "z", "z", None])
    assert describe_shift(texts, others) == "never seen before 66.7 % (z), b 50 % -> 0 %, missing 0 % -> 25 %"
