"""What a detector must keep so that the promise can be kept with it: checked before a user's own is accepted.

Windows are judged by sketches, merged from parts in any order, and thresholds are learned from counts alone; so that is
all that a distance may depend on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.detectors import Detector
from mlops_ray.monitoring.judging import judge
from mlops_ray.monitoring.own_detectors import detector_named
from mlops_ray.monitoring.seasons import cell_counts, with_cell_counts
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch
from mlops_ray.monitoring.windows import WindowState, add
from mlops_ray.use_case import Feature, WindowSpec

_TOLERANCE, _ROWS = 1e-9, 2_000
# Calm windows by which the level is looked at: so many of each of some models, and how many may alarm.
_DAYS, _PER_DAY, _MODELS, _CALM_DAYS = 60, 200, 3, 60
_RATE, _AT_MOST = 0.1, 0.2
_START = datetime(2026, 1, 5)


@dataclass(frozen=True)
class Case:
    """A reference and a window of one column, in full and as sketches with the same bins."""

    label: str
    reference: NDArray[Any]
    window: NDArray[Any]

    def sketches(self) -> tuple[Sketch, Sketch]:
        reference = sketch_of(self.reference)
        return reference, counted(reference, self.window)


def check_detector(detector: Detector) -> None:
    """Raise AssertionError with the first property that a detector does not keep.

    It is deterministic and leaves sketches alone; neither the order of rows nor how they were put together matters; of
    numbers and categories it sees counts alone; where both sides have values its distance is a number from 0 on, 0
    between equal ones, and never infinite; it sees a change; and calm windows alarm no more often than stated.
    """
    for check in PROPERTIES:
        check(detector)
    _expect_level(detector)


@cache
def accepted_detector(name: str) -> Detector:
    """The detector of this name; a user's own after `check_detector`. Raises UseCaseError if it fails."""
    found = detector_named(name)
    if ":" in name:
        try:
            check_detector(found)
        except AssertionError as error:
            raise UseCaseError(f"Detector {name} does not keep the contract: {error}") from error
        except Exception as error:
            raise UseCaseError(f"Detector {name} fails: {type(error).__name__}: {error}") from error
    return found


def counted(like: Sketch, values: NDArray[Any]) -> Sketch:
    """A sketch of values with the bins or categories of another."""
    sketch = like.empty()
    if isinstance(sketch, NumericSketch):
        sketch.update(values)
    else:
        sketch.update(pl.Series(values.tolist(), dtype=pl.String))
    return sketch


def sketch_of(values: NDArray[Any]) -> Sketch:
    """A sketch of values with bins or categories of its own."""
    if values.dtype.kind == "f":
        return NumericSketch.of(values)
    return CategoricalSketch.of(pl.Series(values.tolist(), dtype=pl.String))


def _cases(detector: Detector) -> Iterator[Case]:
    random = np.random.default_rng(5)
    if "number" in detector.kinds:
        numbers = np.where(random.random(_ROWS) < 0.1, np.nan, random.normal(10, 3, _ROWS))
        yield Case("numbers that are alike", numbers, numbers[::2].copy())
        yield Case("higher numbers", numbers, numbers + 3)
        yield Case("numbers of which half are missing", numbers, np.where(numbers > 10, np.nan, numbers))
    if "category" in detector.kinds:
        texts = random.choice(np.array(["a", "b", "c", None], dtype=object), _ROWS)
        others = random.choice(np.array(["a", "b", "d", None], dtype=object), _ROWS, p=[0.6, 0.1, 0.2, 0.1])
        yield Case("categories that are alike", texts, texts[::2].copy())
        yield Case("other categories", texts, others)


def _expect_equal(detector: Detector, case: Case, one: float, other: float, what: str) -> None:
    near = abs(one - other) <= _TOLERANCE * max(1.0, abs(one)) or (one != one and other != other)
    assert near, f"{detector.name} on {case.label} depends on {what}: {one}, then {other}."


def check_repeatable(detector: Detector) -> None:
    for case in _cases(detector):
        both = case.sketches()
        before = [sketch.to_bytes() for sketch in both]
        first = detector.statistic(*both)
        detector.statistic(*reversed(both))
        _expect_equal(detector, case, first, detector.statistic(*both), "what it was asked before")
        assert [sketch.to_bytes() for sketch in both] == before, f"{detector.name} changes its sketches."


def check_free_of_order(detector: Detector) -> None:
    for case in _cases(detector):
        reference, window = case.sketches()
        turned = counted(reference, np.random.default_rng(1).permutation(case.window))
        both = detector.statistic(reference, window), detector.statistic(reference, turned)
        _expect_equal(detector, case, *both, "the order of rows")


def check_parts_merge(detector: Detector) -> None:
    for case in _cases(detector):
        reference, whole = case.sketches()
        parts = [counted(reference, part) for part in np.array_split(case.window, 3)]
        for part in parts[1:]:
            parts[0].merge(part)  # type: ignore[arg-type]
        both = detector.statistic(reference, whole), detector.statistic(reference, parts[0])
        _expect_equal(detector, case, *both, "how rows were put together")


def check_sees_counts_alone(detector: Detector) -> None:
    for case in _cases(detector):
        reference, window = case.sketches()
        plain = with_cell_counts(reference, cell_counts(window))
        both = detector.statistic(reference, window), detector.statistic(reference, plain)
        _expect_equal(detector, case, *both, "more than the counts of the window")


def check_finite(detector: Detector) -> None:
    for case in _cases(detector):
        reference, window = case.sketches()
        value = detector.statistic(reference, window)
        assert 0 <= value < np.inf, f"{detector.name} on {case.label}: {value}."
        same = detector.statistic(reference, counted(reference, case.reference))
        assert abs(same) <= _TOLERANCE, f"{detector.name} on {case.label}: {same} between equal ones."
        empty = case.window[:0]
        for old, new in ((case.reference, empty), (empty, case.window), (case.reference, case.window[:1])):
            odd = detector.statistic(*Case(case.label, old, new).sketches())
            assert odd != odd or 0 <= odd < np.inf, f"{detector.name} on few rows of {case.label}: {odd}."


def check_sees_change(detector: Detector) -> None:
    grew = False
    for case in _cases(detector):
        reference, window = case.sketches()
        own, other = (cell_counts(sketch) / sketch.rows for sketch in (reference, window))
        mixed = [with_cell_counts(reference, _ROWS * ((1 - part) * own + part * other)) for part in (0.0, 0.3, 1.0)]
        near, between, far = (detector.statistic(reference, sketch) for sketch in mixed)
        assert near <= between + _TOLERANCE, (
            f"{detector.name} on {case.label}: {between} after {near}, with more change."
        )
        assert between <= far + _TOLERANCE, f"{detector.name} on {case.label}: {far} after {between}, with more change."
        grew = grew or far > between > near
    assert grew, f"{detector.name} sees no change at all."


PROPERTIES: tuple[Callable[[Detector], None], ...] = (
    check_repeatable,
    check_free_of_order,
    check_parts_merge,
    check_sees_counts_alone,
    check_finite,
    check_sees_change,
)
"""What can be seen of a few sketches, without learning a reference."""


def _expect_level(detector: Detector) -> None:
    """The share of calm windows that alarm, where one in ten is stated, over some models and worlds without change."""
    spec = WindowSpec(rows=_PER_DAY, minimum_rows=_PER_DAY // 2)
    features = [Feature(f"a {kind}", kind) for kind in sorted(detector.kinds)]
    alarms = windows = 0
    for seed in range(_MODELS):
        rows = _calm(_DAYS, seed)
        reference = build_reference(
            rows, "time", features, [spec], detectors=[detector], false_alarm_days=1 / _RATE / 1.25
        )
        moments = _calm(_CALM_DAYS, _MODELS + seed)
        state = WindowState(spec, reference.empty_columns())
        time = moments["time"].to_numpy().astype("datetime64[us]")
        for window in add(state, moments, time, moments["time"][-1].replace(tzinfo=None), time).finished:
            verdict = judge(window, reference, spec.name, detectors=[detector])
            alarms, windows = alarms + (verdict.answer == "drift"), windows + 1
    assert alarms <= _AT_MOST * windows, (
        f"{detector.name}: {alarms} of {windows} calm windows alarm, where one in {1 / _RATE:g} is stated."
    )


def _calm(days: int, seed: int) -> pl.DataFrame:
    random, rows = np.random.default_rng(seed), days * _PER_DAY
    times = [_START + timedelta(days=row / _PER_DAY) for row in range(rows)]
    return pl.DataFrame(
        {
            "time": pl.Series(times, dtype=pl.Datetime("us", "UTC")),
            "a number": random.normal(10, 3, rows),
            "a category": random.choice(["a", "b", "c"], rows, p=[0.5, 0.3, 0.2]),
        }
    )
