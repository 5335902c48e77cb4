import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlops_ray.errors import DataError
from mlops_ray.monitoring.sketches import BINS, CategoricalSketch, NumericSketch, edges_of, sketch_from_bytes

NUMBERS = arrays(np.float32, st.integers(0, 60), elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan))
TEXTS = st.lists(st.sampled_from(["a", "b", "", None, "new", "newer"]), max_size=50)


@given(values=NUMBERS, edges=st.sets(st.floats(-1e6, 1e6, width=32), max_size=8))
def test_counts_are_those_of_the_values(values, edges) -> None:
    ends = np.sort(np.array(list(edges), dtype=np.float32))
    sketch = NumericSketch.with_edges(ends)
    sketch.update(values)
    there = values[~np.isnan(values)]
    assert sketch.missing == len(values) - len(there)
    assert sketch.counts.tolist() == np.bincount(np.searchsorted(ends, there), minlength=len(ends) + 1).tolist()
    if len(there):
        assert (sketch.minimum, sketch.maximum) == (there.min(), there.max())
        assert sketch.mean == pytest.approx(there.mean(dtype=np.float64), rel=1e-9, abs=1e-6)
        assert sketch.deviation == pytest.approx(there.std(dtype=np.float64), rel=1e-9, abs=1e-3)


@given(values=NUMBERS, cut=st.integers(0, 60))
def test_merged_parts_are_the_whole(values, cut) -> None:
    whole = NumericSketch.with_edges([-5, 0, 5])
    left, right = whole.empty(), whole.empty()
    whole.update(values)
    left.update(values[:cut])
    right.update(values[cut:])
    left.merge(right)
    assert left.counts.tolist() == whole.counts.tolist()
    assert (left.missing, left.minimum, left.maximum) == (whole.missing, whole.minimum, whole.maximum)
    assert left.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
    assert left.m2 == pytest.approx(whole.m2, rel=1e-9, abs=1e-3)
    assert left.quantiles.n == whole.quantiles.n


@given(first=TEXTS, second=TEXTS)
def test_texts_are_known_unseen_or_missing(first, second) -> None:
    left, right = CategoricalSketch.with_categories(["a", "b"]), CategoricalSketch.with_categories(["a", "b"])
    left.update(first)
    right.update(pl.Series(second, dtype=pl.String))
    left.merge(right)
    every = first + second
    assert left.counts.tolist() == [every.count("a"), every.count("b")]
    assert left.missing == every.count("") + every.count(None)
    assert dict(left.frequent_unseen()) == {value: every.count(value) for value in ("new", "newer") if value in every}
    assert left.rows == len(every)


def test_bytes_bring_everything_back() -> None:
    numbers = NumericSketch.of(np.random.default_rng(0).normal(size=5000))
    texts = CategoricalSketch.of(["a", "b", None, "b"])
    texts.update(["x", "y", "x"])
    for sketch in (numbers, texts, numbers.empty(), texts.empty()):
        back = sketch_from_bytes(sketch.to_bytes())
        assert back.to_bytes() == sketch.to_bytes()
        back.merge(sketch)
        assert back.rows == 2 * sketch.rows
    with pytest.raises(DataError, match="not a sketch"):
        sketch_from_bytes(b"something else")


def test_a_copy_goes_its_own_way() -> None:
    for sketch, more in ((NumericSketch.of([1.0, 2.0]), [3.0]), (CategoricalSketch.of(["a"]), ["b"])):
        before = sketch.to_bytes()
        sketch.copy().update(more)
        assert sketch.to_bytes() == before


def test_infinite_and_too_large_numbers_are_missing_as_the_model_sees_them() -> None:
    sketch = NumericSketch.of(np.array([1.0, np.inf, -np.inf, 1e300, np.nan]))
    assert (sketch.values, sketch.missing) == (1, 4)
    assert NumericSketch.of([]).rows == 0


def test_sketches_with_other_bins_are_not_merged() -> None:
    with pytest.raises(DataError, match="3 and 1 bins"):
        NumericSketch.with_edges([1, 2]).merge(NumericSketch.with_edges())
    with pytest.raises(DataError, match="1 and 0 categories"):
        CategoricalSketch.with_categories("a").merge(CategoricalSketch.with_categories())


def test_edges_hold_equally_many_values_and_few_different_ones_a_bin_each() -> None:
    values = np.random.default_rng(1).normal(size=10_000)
    counts = NumericSketch.of(values).counts
    assert len(counts) == BINS
    assert set(counts.tolist()) == {100}
    sketch = NumericSketch.of([3, 1, 2, 2, np.nan])
    assert sketch.edges[1::2].tolist() == [1, 2, 3]
    assert np.nextafter(sketch.edges[::2], np.float32(np.inf)).tolist() == [1, 2, 3]
    assert sketch.counts.tolist() == [0, 1, 0, 2, 0, 1, 0]
    zeros = edges_of(np.concatenate([np.zeros(5_000), values[:5_000]]))
    assert len(zeros) == 50 + 1
    assert zeros[np.searchsorted(zeros, 0) - 1] == -np.finfo(np.float32).tiny
    assert np.isfinite(edges_of([np.finfo(np.float32).min, 0])).all()


def test_quantiles_are_within_the_error_of_kll() -> None:
    values = np.random.default_rng(2).random(50_000)
    sketch = NumericSketch.of(values)
    error = sketch.quantiles.normalized_rank_error(False)
    assert all(abs(sketch.quantiles.get_quantile(rank) - rank) < 2 * error for rank in (0.05, 0.5, 0.95))
