"""Errors as a stream: what was committed plays again, expected errors are no change, and the reference is calm."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlops_ray.monitoring.calibration import Promise
from mlops_ray.monitoring.error_stream import (
    KEPT_ERRORS,
    CalmErrors,
    ErrorStream,
    calm_limits,
    excess_errors,
    take_errors,
)
from mlops_ray.monitoring.reliability import Reliability, reliability_edges
from mlops_ray.use_case import ErrorDetector

BOTH: dict[ErrorDetector, float] = {"adwin": 0.002, "page_hinkley": 50.0}


def answers(rows: int, seed: int, worse: float = 0.0, low: float = 0.0) -> pl.DataFrame:
    """Calibrated answers between `low` and 1; of the share `worse` the label does not follow them."""
    random = np.random.default_rng(seed)
    guess = low + (1 - low) * random.random(rows)
    label = random.random(rows) < np.where(random.random(rows) < worse, 1 - guess, guess)
    return pl.DataFrame({"probability": guess, "label": label})


PAST = answers(20_000, 1)
REFERENCE = Reliability.of(PAST["probability"], PAST["label"], reliability_edges(PAST["probability"]))


def errors(rows: int, seed: int, **how: float) -> np.ndarray:
    return excess_errors(answers(rows, seed, **how), REFERENCE)


def changes_of(*parts: np.ndarray) -> list[tuple[int, str]]:
    """In which part which detector found a rise."""
    stream, found = ErrorStream(), []
    for number, part in enumerate(parts):
        taken = take_errors(stream, part, BOTH)
        stream = taken.stream
        found += [(number, change.detector) for change in taken.changes]
    return found


def test_errors_that_the_answers_let_expect_are_none() -> None:
    calm, hard, wrong = errors(8000, 2), errors(8000, 3, low=0.4), errors(8000, 4, worse=0.5)
    assert abs(calm.mean()) < 0.01
    assert abs(hard.mean()) < 0.01, "other inputs, the same concept"
    assert wrong.mean() > 0.1
    raw = answers(8000, 3, low=0.4)
    apart = (raw["label"].cast(pl.Float64) - raw["probability"]).abs().mean()
    assert apart > 0.35, "where 0.33 is usual: the error itself has moved"


def test_a_concept_that_changes_is_a_rise_and_other_inputs_are_not() -> None:
    assert changes_of(errors(8000, 2), errors(8000, 3, low=0.4)) == []
    found = changes_of(errors(8000, 2), errors(4000, 5, worse=0.3))
    assert {name for _, name in found} <= {"adwin", "page_hinkley"}
    assert found[0][0] == 1


def test_a_rise_says_from_what_to_what_and_a_fall_is_none() -> None:
    bad, good = errors(5000, 6, worse=0.5), errors(5000, 7)
    (change, *_) = take_errors(take_errors(ErrorStream(), good, BOTH).stream, bad, BOTH).changes
    assert change.before == pytest.approx(0, abs=0.02)
    assert change.after == pytest.approx(bad.mean(), abs=0.06)
    assert changes_of(bad, good) == []


@hypothesis_settings(max_examples=8)
@given(cuts=st.lists(st.integers(0, 6000), max_size=4))
def test_committed_and_read_again_at_any_place_the_stream_is_the_same(cuts: list[int]) -> None:
    values = np.concatenate([errors(3000, 8), errors(3000, 9, worse=0.4)])
    whole = take_errors(ErrorStream(), values, BOTH)
    stream, changes = ErrorStream(), []
    for part in np.split(values, sorted(cuts)):
        taken = take_errors(ErrorStream(bytes(stream.kept), stream.taken), part, BOTH)
        stream, changes = taken.stream, [*changes, *taken.changes]
    assert stream == whole.stream
    assert tuple(changes) == whole.changes != ()


def test_memory_is_bounded() -> None:
    stream = ErrorStream()
    for _ in range(3):
        stream = take_errors(stream, np.zeros(KEPT_ERRORS // 2 + 1), {"page_hinkley": 50.0}).stream
    assert (len(stream.kept), stream.taken) == (2 * KEPT_ERRORS, 3 * (KEPT_ERRORS // 2 + 1))


PROMISE = Promise(days=30, shares=4)


def days_of(seed: int, days: int, per_day: int, deviation: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Errors, each day around another mean, and their moments."""
    random = np.random.default_rng(seed)
    rows = days * per_day
    values = np.repeat(random.normal(0, deviation, days), per_day) + random.normal(0, 0.2, rows)
    moments = np.datetime64("2026-01-01", "us") + (np.arange(rows) * (86_400_000_000 // per_day)).astype("m8[us]")
    return np.clip(values, -1, 1), moments


@pytest.mark.parametrize("name", ["adwin", "page_hinkley"])
def test_calm_months_alarm_as_rarely_as_was_promised_where_published_settings_always_do(name: ErrorDetector) -> None:
    calm = calm_limits([name], *days_of(10, 90, 300), PROMISE)
    months = [days_of(seed, 30, 300)[0] for seed in range(20, 44)]
    published = sum(take_errors(ErrorStream(), month, {name: BOTH[name]}).changes != () for month in months)
    alarms = sum(take_errors(ErrorStream(), month, calm.limits).changes != () for month in months)
    assert published > len(months) / 2
    assert alarms <= len(months) * (1 / PROMISE.shares) + 2


@pytest.mark.parametrize("name", ["adwin", "page_hinkley"])
def test_fifty_times_the_traffic_alarms_no_more(name: ErrorDetector) -> None:
    calm = calm_limits([name], *days_of(10, 90, 200), PROMISE)
    joined = calm.joined(10_000 * 30, timedelta(days=30))
    assert joined == 50
    months = [days_of(seed, 30, 10_000)[0] for seed in range(6)]
    alarms = [take_errors(ErrorStream(), month, calm.limits, joined).changes != () for month in months]
    assert sum(alarms) <= 2


def test_settings_are_no_stricter_than_they_need_to_be() -> None:
    independent, moments = days_of(10, 60, 300, deviation=0.0)
    found = calm_limits(["adwin", "page_hinkley"], independent, moments, PROMISE)
    assert found.limits == BOTH
    assert calm_limits(["adwin"], independent[:100], moments[:100], PROMISE) == CalmErrors()


def test_nothing_taken_changes_nothing() -> None:
    assert take_errors(ErrorStream(), np.empty(0), BOTH).stream == ErrorStream()
    assert take_errors(ErrorStream(), errors(100, 11), {}).changes == ()
