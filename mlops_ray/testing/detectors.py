"""The contract of a detector, as checks that a user's own detector is run against.

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_detector(check):
        check(MyDetector())

Each check raises AssertionError saying which promise of monitoring.detectors.contract.Detector was broken. Those that
a detector must keep to be accepted by name, and that need no `exact`, are one call: `check_detector(MyDetector())`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.detector_contract import check_detector as check_detector
from mlops_ray.monitoring.detectors.contract import Detector
from mlops_ray.monitoring.seasons import cell_counts, with_cell_counts
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch

Values = NDArray[Any]
TOLERANCE = 1e-9
_ROWS = 4000


@dataclass(frozen=True)
class Comparison:
    """A reference and a window of one column, in full and as sketches with the same bins."""

    label: str
    reference: Values
    window: Values

    def sketches(self) -> tuple[Sketch, Sketch]:
        reference = _sketch(self.reference)
        return reference, _count(reference, self.window)


def _sketch(values: Values) -> Sketch:
    if values.dtype.kind == "f":
        return NumericSketch.of(values)
    return CategoricalSketch.of(pl.Series(values.tolist(), dtype=pl.String))


def _count(like: Sketch, values: Values) -> Sketch:
    sketch = like.empty()
    if isinstance(sketch, NumericSketch):
        sketch.update(values)
    else:
        sketch.update(pl.Series(values.tolist(), dtype=pl.String))
    return sketch


def comparisons(detector: Detector) -> Iterator[Comparison]:
    """Windows that are alike and that differ, of each kind of column that the detector compares.

    Numbers have few enough different values for each to have its own bin, so that sketches lose nothing.
    """
    random = np.random.default_rng(5)
    if "number" in detector.kinds:
        numbers = np.where(random.random(_ROWS) < 0.1, np.nan, random.binomial(40, 0.4, _ROWS).astype(np.float64))
        yield Comparison("the same numbers", numbers, numbers[: _ROWS // 2])
        yield Comparison("higher numbers", numbers, numbers + 3)
        yield Comparison("numbers of which half are missing", numbers, np.where(numbers > 16, np.nan, numbers))
    if "category" in detector.kinds:
        texts = random.choice(np.array(["a", "b", "c", "", None], dtype=object), _ROWS)
        others = random.choice(np.array(["a", "b", "d", "e", None], dtype=object), _ROWS, p=[0.6, 0.1, 0.1, 0.1, 0.1])
        yield Comparison("the same categories", texts, texts[: _ROWS // 2])
        yield Comparison("other categories", texts, others)


def odd_comparisons(detector: Detector) -> Iterator[Comparison]:
    """Empty, all missing, constant, a single row, and infinite numbers."""
    for usual in comparisons(detector):
        yield Comparison(f"an empty window of {usual.label}", usual.reference, usual.window[:0])
        yield Comparison(f"an empty reference of {usual.label}", usual.reference[:0], usual.window)
        yield Comparison(f"one row of {usual.label}", usual.reference, usual.window[:1])
        missing = np.full(50, np.nan if usual.reference.dtype.kind == "f" else None)
        yield Comparison(f"a window without values of {usual.label}", usual.reference, missing)
        yield Comparison(f"a reference without values of {usual.label}", missing, usual.window)
        constant = np.full(50, usual.reference[0])
        yield Comparison(f"a constant reference of {usual.label}", constant, usual.window)
        if usual.reference.dtype.kind == "f":
            infinite = np.where(np.arange(len(usual.window)) % 2, np.inf, usual.window)
            yield Comparison(f"half infinite {usual.label}", usual.reference, infinite)


def check_alike_is_zero(detector: Detector) -> None:
    for case in comparisons(detector):
        reference = _sketch(case.reference)
        for kind, value in (
            ("sketches", detector.statistic(reference, _count(reference, case.reference))),
            ("values", detector.exact(case.reference, case.reference)),
        ):
            assert abs(value) <= TOLERANCE, f"{detector.name}: {value} between the same {kind} of {case.label}."


def check_sketches_equal_values(detector: Detector) -> None:
    """Where each value has its own bin, sketches lose nothing."""
    for case in comparisons(detector):
        sketched, exact = detector.statistic(*case.sketches()), detector.exact(case.reference, case.window)
        assert abs(sketched - exact) <= TOLERANCE * max(1.0, exact), (
            f"{detector.name} on {case.label}: {sketched} from sketches, {exact} from all values."
        )


def check_more_change_is_further(detector: Detector) -> None:
    """Mixing more of another window in does not bring it nearer; of at least one case it takes it further away."""
    grew = False
    for case in comparisons(detector):
        reference, window = case.sketches()
        own, other = (cell_counts(sketch) / sketch.rows for sketch in (reference, window))
        mixed = [with_cell_counts(reference, _ROWS * ((1 - part) * own + part * other)) for part in (0.0, 0.3, 1.0)]
        near, between, far = (detector.statistic(reference, sketch) for sketch in mixed)
        assert near <= between + TOLERANCE, f"{detector.name} on {case.label}: {between} after {near}."
        assert between <= far + TOLERANCE, f"{detector.name} on {case.label}: {far} after {between}."
        grew = grew or far > between > near
    assert grew, f"{detector.name} sees no change at all."


def check_parts_merge(detector: Detector) -> None:
    """Sketches of two parts, merged, are as far from the reference as one sketch of all."""
    for case in comparisons(detector):
        reference, whole = case.sketches()
        parts = [_count(reference, part) for part in np.array_split(case.window, 2)]
        parts[0].merge(parts[1])  # type: ignore[arg-type]
        merged, at_once = (detector.statistic(reference, sketch) for sketch in (parts[0], whole))
        assert abs(merged - at_once) <= TOLERANCE * max(1.0, at_once), f"{detector.name} on {case.label}: {merged}."


def check_odd_windows(detector: Detector) -> None:
    """A number that is not below 0 or, where there is nothing to compare, NaN; the same from sketches and values."""
    for case in odd_comparisons(detector):
        sketched, exact = detector.statistic(*case.sketches()), detector.exact(case.reference, case.window)
        for value in (sketched, exact):
            assert np.isnan(value) or 0 <= value < np.inf, f"{detector.name} on {case.label}: {value}."
        assert np.isnan(sketched) == np.isnan(exact), f"{detector.name} on {case.label}: {sketched} and {exact}."


def check_sketches_are_left_alone(detector: Detector) -> None:
    for case in comparisons(detector):
        both = case.sketches()
        before = [sketch.to_bytes() for sketch in both]
        first, second = detector.statistic(*both), detector.statistic(*both)
        assert first == second, f"{detector.name} on {case.label}: {first}, then {second}."
        assert [sketch.to_bytes() for sketch in both] == before, f"{detector.name} changed its sketches."


CHECKS: tuple[Callable[[Detector], None], ...] = (
    check_alike_is_zero,
    check_sketches_equal_values,
    check_more_change_is_further,
    check_parts_merge,
    check_odd_windows,
    check_sketches_are_left_alone,
)
