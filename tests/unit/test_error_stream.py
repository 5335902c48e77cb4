"""Errors as a stream: what was committed plays again, expected errors are no change, and the reference is calm."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlops_ray.monitoring.error_stream import (
    KEPT_ERRORS,
    ErrorStream,
    calm_limit,
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


@pytest.mark.parametrize("name", ["adwin", "page_hinkley"])
def test_days_that_resemble_each_other_are_calm_where_published_settings_alarm(name: ErrorDetector) -> None:
    random = np.random.default_rng(10)
    days = np.repeat(random.normal(0, 0.15, 60), 300)
    values = np.clip(days + random.normal(0, 0.2, len(days)), -1, 1)
    published = take_errors(ErrorStream(), values, {name: BOTH[name]})
    assert published.changes != ()
    assert take_errors(ErrorStream(), values, {name: calm_limit(name, values)}).changes == ()
    independent = np.clip(random.normal(0, 0.2, len(days)), -1, 1)
    assert calm_limit(name, independent) == BOTH[name], "no stricter than it needs to be"


def test_nothing_taken_changes_nothing() -> None:
    assert take_errors(ErrorStream(), np.empty(0), BOTH).stream == ErrorStream()
    assert take_errors(ErrorStream(), errors(100, 11), {}).changes == ()
