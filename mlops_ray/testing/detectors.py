"""The contract of a detector, as checks that a user's own detector is run against.

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_detector(check):
        check(MyDetector())

Each check raises AssertionError saying which promise of monitoring.detectors.contract.Detector was broken. What a
detector must keep to be accepted by name is one call, `check_detector(MyDetector())`, which learns from calm windows
besides; the last checks here are about `exact`, which only the platform's own detectors have.
"""

from collections.abc import Callable, Iterator

import numpy as np

from mlops_ray.monitoring.detector_contract import PROPERTIES, Case, counted, sketch_of
from mlops_ray.monitoring.detector_contract import check_detector as check_detector
from mlops_ray.monitoring.detectors.contract import Detector

TOLERANCE = 1e-9
_ROWS = 4000


def comparisons(detector: Detector) -> Iterator[Case]:
    """Windows that are alike and that differ, of each kind of column that the detector compares.

    Numbers have few enough different values for each to have its own bin, so that sketches lose nothing.
    """
    random = np.random.default_rng(5)
    if "number" in detector.kinds:
        numbers = np.where(random.random(_ROWS) < 0.1, np.nan, random.binomial(40, 0.4, _ROWS).astype(np.float64))
        yield Case("the same numbers", numbers, numbers[: _ROWS // 2])
        yield Case("higher numbers", numbers, numbers + 3)
        yield Case("numbers of which half are missing", numbers, np.where(numbers > 16, np.nan, numbers))
    if "category" in detector.kinds:
        texts = random.choice(np.array(["a", "b", "c", "", None], dtype=object), _ROWS)
        others = random.choice(np.array(["a", "b", "d", "e", None], dtype=object), _ROWS, p=[0.6, 0.1, 0.1, 0.1, 0.1])
        yield Case("the same categories", texts, texts[: _ROWS // 2])
        yield Case("other categories", texts, others)


def odd_comparisons(detector: Detector) -> Iterator[Case]:
    """Empty, all missing, constant, a single row, and infinite numbers."""
    for usual in comparisons(detector):
        yield Case(f"an empty window of {usual.label}", usual.reference, usual.window[:0])
        yield Case(f"an empty reference of {usual.label}", usual.reference[:0], usual.window)
        yield Case(f"one row of {usual.label}", usual.reference, usual.window[:1])
        missing = np.full(50, np.nan if usual.reference.dtype.kind == "f" else None)
        yield Case(f"a window without values of {usual.label}", usual.reference, missing)
        yield Case(f"a reference without values of {usual.label}", missing, usual.window)
        constant = np.full(50, usual.reference[0])
        yield Case(f"a constant reference of {usual.label}", constant, usual.window)
        if usual.reference.dtype.kind == "f":
            infinite = np.where(np.arange(len(usual.window)) % 2, np.inf, usual.window)
            yield Case(f"half infinite {usual.label}", usual.reference, infinite)


def check_alike_is_zero(detector: Detector) -> None:
    for case in comparisons(detector):
        reference = sketch_of(case.reference)
        for kind, value in (
            ("sketches", detector.statistic(reference, counted(reference, case.reference))),
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


def check_odd_windows(detector: Detector) -> None:
    """A number that is not below 0 or, where there is nothing to compare, NaN; the same from sketches and values."""
    for case in odd_comparisons(detector):
        sketched, exact = detector.statistic(*case.sketches()), detector.exact(case.reference, case.window)
        for value in (sketched, exact):
            assert np.isnan(value) or 0 <= value < np.inf, f"{detector.name} on {case.label}: {value}."
        assert np.isnan(sketched) == np.isnan(exact), f"{detector.name} on {case.label}: {sketched} and {exact}."


CHECKS: tuple[Callable[[Detector], None], ...] = (
    *PROPERTIES,
    check_alike_is_zero,
    check_sketches_equal_values,
    check_odd_windows,
)
