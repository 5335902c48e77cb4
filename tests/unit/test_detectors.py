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


MASSES = {
    "constant": np.full(4000, 3.0),
    "flag": RANDOM.integers(0, 2, 4000).astype(float),
    "mass point": np.where(RANDOM.random(4000) < 0.5, 10.0, OLD[:4000]),
    "zeros": np.where(RANDOM.random(4000) < 0.5, 0.0, np.abs(OLD[:4000]) + 1),
}
MOVED = {
    "constant below": ("constant", np.full(1000, -100.0)),
    "constant above": ("constant", np.full(1000, 3.5)),
    "flag below": ("flag", MASSES["flag"][:1000] * 2 - 1),
    "flag between": ("flag", MASSES["flag"][:1000] * 0.01),
    "mass point between": ("mass point", np.where(MASSES["mass point"] == 10, 9.7, MASSES["mass point"])),
    "zeros below": ("zeros", np.where(MASSES["zeros"] == 0, -5, MASSES["zeros"])),
    "zeros between": ("zeros", np.where(MASSES["zeros"] == 0, 0.5, MASSES["zeros"])),
}


@pytest.mark.parametrize("case", MOVED)
def test_a_mass_that_moves_below_or_between_what_was_is_seen_as_scipy_sees_it(case: str) -> None:
    name, new = MOVED[case]
    old = MASSES[name]
    both = sketches(old, new)
    expected = stats.ks_2samp(old, new).statistic
    assert KolmogorovSmirnov().statistic(*both) == pytest.approx(expected, abs=0.011)
    for detector in (PopulationStabilityIndex(), JensenShannon()):
        assert detector.statistic(*both) == pytest.approx(detector.exact(old, new), abs=1e-9)
        values, cell = np.unique(np.concatenate([old, new]), return_inverse=True)
        if len(values) < 9:  # each a cell
            counts = [np.bincount(part, minlength=len(values)) for part in np.split(cell, [len(old)])]
            assert JensenShannon().exact(old, new) == pytest.approx(jensenshannon(*counts, base=2), abs=1e-9)
        assert detector.exact(old, new) > 0.4
    assert Wasserstein().exact(old, new) > 0.005


def test_wasserstein_of_what_lies_between_and_beyond_few_values() -> None:
    flag, new = MASSES["flag"], np.concatenate([np.zeros(500), np.full(500, 0.5)])
    by_scipy = stats.wasserstein_distance(flag, new) / flag.std()
    assert Wasserstein().exact(flag, new) == pytest.approx(by_scipy, abs=1e-6)
    assert Wasserstein().statistic(*sketches(flag, new)) == pytest.approx(by_scipy, abs=0.02)
    for name in ("constant below", "constant above"):
        old, new = MASSES["constant"], MOVED[name][1]
        assert Wasserstein().exact(old, new) == Wasserstein().statistic(*sketches(old, new)) == 1.0
    below = flag - 5
    clipped = np.clip(below, -flag.std(), None)
    by_scipy = stats.wasserstein_distance(flag, clipped) / flag.std()
    assert Wasserstein().exact(flag, below) == pytest.approx(by_scipy, abs=1e-6)
    assert Wasserstein().statistic(*sketches(flag, below)) == pytest.approx(by_scipy, abs=1e-6)


def test_a_reference_that_an_earlier_release_sealed_keeps_its_edges_and_its_distances() -> None:
    flag, new = MASSES["flag"], np.concatenate([np.zeros(700), np.ones(300)])
    sealed = NumericSketch.with_edges([0, 1])
    sealed.update(flag)
    window = sealed.empty()
    window.update(new)
    for detector in (KolmogorovSmirnov(), Wasserstein(), PopulationStabilityIndex(), JensenShannon()):
        assert detector.statistic(sealed, window) == pytest.approx(detector.exact(flag, new), abs=0.002)


def test_tenths_of_sketches_are_those_of_the_values() -> None:
    counts = RANDOM.poisson(0.8, 3000).astype(float), RANDOM.poisson(1.0, 3000) - 0.5
    for detector in (PopulationStabilityIndex(), JensenShannon()):
        for old, new in ((OLD, NEW), counts, (MASSES["zeros"], OLD)):
            assert detector.statistic(*sketches(old, new)) == pytest.approx(detector.exact(old, new), abs=1e-9)


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
