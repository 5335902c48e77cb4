from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import jensenshannon

from mlops_ray.monitoring.detector_contract import check_finite, check_sees_change
from mlops_ray.monitoring.detectors import (
    DETECTORS,
    ChiSquared,
    JensenShannon,
    KolmogorovSmirnov,
    MissingRate,
    NewCategories,
    PopulationStabilityIndex,
    Wasserstein,
)
from mlops_ray.monitoring.detectors.adwin import Adwin
from mlops_ray.monitoring.detectors.page_hinkley import PageHinkley
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch
from mlops_ray.testing.detectors import CHECKS, check_alike_is_zero

Float = NDArray[np.float64]
RANDOM = np.random.default_rng(11)
OLD = RANDOM.normal(10, 3, 9000).astype(np.float32).astype(np.float64)
NEW = RANDOM.normal(10.6, 4, 5000).astype(np.float32).astype(np.float64)
OLD_TEXTS = RANDOM.choice(["a", "b", "c"], 3000, p=[0.5, 0.3, 0.2]).tolist()
NEW_TEXTS = RANDOM.choice(["a", "b", "c", "d"], 1000, p=[0.4, 0.3, 0.2, 0.1]).tolist()


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_detectors_keep_their_contract(check, detector) -> None:
    check(detector)


def test_the_contract_suite_finds_a_detector_that_breaks_it() -> None:
    class Broken:
        name, kinds, family = "broken", frozenset({"number"}), "values"

        def statistic(self, reference, window):
            return 1.0

        exact = statistic

    for check in (check_finite, check_sees_change, check_alike_is_zero):
        with pytest.raises(AssertionError, match="broken"):
            check(Broken())


def deciles(old: Float, new: Float) -> tuple[Float, Float]:
    """By hand: rows of each in the tenths of the first."""
    edges = np.sort(old)[(np.arange(1, 10) * len(old) / 10).astype(int) - 1]
    ends = np.concatenate([[-np.inf], edges, [np.inf]])
    parts = [[((part > low) & (part <= high)).sum() for low, high in pairwise(ends)] for part in (old, new)]
    return np.array(parts[0], float), np.array(parts[1], float)


def test_values_give_what_scipy_gives() -> None:
    assert KolmogorovSmirnov().exact(OLD, NEW) == pytest.approx(stats.ks_2samp(OLD, NEW).statistic, abs=1e-9)
    low, high = np.sort(OLD)[[89, 8909]]
    travelled = stats.wasserstein_distance(np.clip(OLD, low, high), np.clip(NEW, low, high))
    assert Wasserstein().exact(OLD, NEW) == pytest.approx(travelled / OLD.std(), abs=1e-9)
    old, new = deciles(OLD, NEW)
    assert JensenShannon().exact(OLD, NEW) == pytest.approx(jensenshannon(old, new, base=2), abs=1e-9)
    p, q = ((part + 0.5) / (part + 0.5).sum() for part in (old, new))
    by_hand = sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True))
    assert PopulationStabilityIndex().exact(OLD, NEW) == pytest.approx(by_hand, abs=1e-9)


def test_categories_give_what_scipy_gives() -> None:
    table = np.array([[texts.count(value) for value in "abcd"] for texts in (OLD_TEXTS, NEW_TEXTS)])
    expected = stats.chi2_contingency(table, correction=False).statistic
    assert ChiSquared().exact(OLD_TEXTS, NEW_TEXTS) == pytest.approx(expected, abs=1e-9)
    assert JensenShannon().exact(OLD_TEXTS, NEW_TEXTS) == pytest.approx(jensenshannon(*table, base=2), abs=1e-9)
    assert NewCategories().exact(OLD_TEXTS, NEW_TEXTS) == NEW_TEXTS.count("d") / 1000
    assert MissingRate().exact([None, "", "a", "b"], ["a", "a", "b", None]) == 0.25
    assert MissingRate().exact([1.0, np.nan], [np.nan, np.inf]) == 0.5


def sketches(old: Float, new: Float, edges: bool = True) -> tuple[NumericSketch, NumericSketch]:
    reference = NumericSketch.of(old) if edges else NumericSketch.with_edges()
    if not edges:
        reference.update(old)
    window = reference.empty()
    window.update(new)
    return reference, window


def test_tenths_of_sketches_are_those_of_the_values() -> None:
    for detector in (PopulationStabilityIndex(), JensenShannon()):
        assert detector.statistic(*sketches(OLD, NEW)) == pytest.approx(detector.exact(OLD, NEW), abs=1e-9)


@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 4), seed=st.integers(0, 99))
def test_sketches_stay_within_their_bounds(shift: float, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    old, new = random.normal(0, 1, 2000), random.standard_t(3, 1500) * scale + shift
    reference, window = sketches(old, new)
    p, q = reference.counts / reference.values, window.counts / window.values
    exact = KolmogorovSmirnov().exact(old, new)
    assert exact - max(p.max(), q.max()) <= KolmogorovSmirnov().statistic(reference, window) <= exact + 1e-12
    wide = np.diff(reference.edges.astype(float))
    bound = float(wide @ np.maximum(p, q)[1:-1]) / reference.deviation
    assert abs(Wasserstein().statistic(reference, window) - Wasserstein().exact(old, new)) <= bound + 1e-6


def test_without_shared_bins_ranks_are_off_by_the_error_of_kll_at_most() -> None:
    reference, window = sketches(OLD, NEW, edges=False)
    assert not len(reference.edges)
    error = sum(sketch.quantiles.normalized_rank_error(False) for sketch in (reference, window))
    found, exact = KolmogorovSmirnov().statistic(reference, window), KolmogorovSmirnov().exact(OLD, NEW)
    assert abs(found - exact) <= error + 0.01
    assert PopulationStabilityIndex().statistic(reference, window) == pytest.approx(0.1, abs=0.1)


def test_a_category_detector_reads_unseen_values_as_one_more_category() -> None:
    reference = CategoricalSketch.of(OLD_TEXTS)
    window = reference.empty()
    window.update(pl.Series(NEW_TEXTS))
    assert NewCategories().statistic(reference, window) == pytest.approx(0.1, abs=0.03)
    alike = replace(window, unseen=0)
    assert ChiSquared().statistic(reference, window) > 10 * ChiSquared().statistic(reference, alike)


def test_streams_find_one_shift_once_and_soon() -> None:
    random = np.random.default_rng(3)
    errors = np.concatenate([random.random(3000) < 0.1, random.random(3000) < 0.4]).astype(float)
    for detector in (Adwin(), PageHinkley(delta=0.05)):
        found = list(detector.update(errors))
        assert [index for index in found if index < 3000] == []
        assert 3000 <= found[0] < 3600


def test_streams_pass_over_what_is_missing_and_wait_for_more() -> None:
    for detector in (Adwin(), PageHinkley()):
        assert list(detector.update(np.full(1000, np.nan))) == []
        assert list(detector.update([])) == []
        assert list(detector.update(np.full(1000, 0.3))) == []
