"""A sample of rows is the same whatever the order and the parts they come in, and as large as it was asked to be."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlops_ray.monitoring.row_sample import RowSample, matrix
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch

COLUMNS = {"x": NumericSketch.of(np.arange(300.0)), "c": CategoricalSketch.with_categories(["a", "b"])}
ROWS = pl.DataFrame(
    {
        "request_id": [f"r{number}" for number in range(300)],
        "row": [0] * 300,
        "x": np.arange(300.0),
        "c": ["a", "b", "z"] * 100,
        "secret": ["personal"] * 300,
    }
)


def rows_of(sample: RowSample) -> list[tuple[object, ...]]:
    return sorted(sample.values().rows())


@hypothesis_settings(max_examples=25)
@given(order=st.permutations(range(10)), cut=st.integers(0, 300))
def test_the_sample_depends_neither_on_order_nor_on_parts(order: list[int], cut: int) -> None:
    whole = RowSample.of(ROWS, COLUMNS, 40)
    mixed = pl.concat([ROWS[part * 30 : part * 30 + 30] for part in order])
    parts = [RowSample.of(part, COLUMNS, 40) for part in (mixed[:cut], mixed[cut:])]
    merged = RowSample.from_bytes(40, parts[0].to_bytes()).plus(parts[1])
    assert rows_of(merged) == rows_of(whole)
    assert len(rows_of(whole)) == 40


def test_it_has_the_watched_columns_alone_and_names_their_requests() -> None:
    sample = RowSample.of(ROWS, COLUMNS, 40)
    assert sample.values().columns == ["request_id", "row", "x", "c"]
    for name, _, x, _ in sample.values().rows():
        assert name == f"r{int(x)}"


def test_every_row_is_as_likely() -> None:
    taken = np.zeros(300)
    for number in range(200):
        named = ROWS.with_columns(request_id=pl.col("request_id") + f"-{number}")
        taken[RowSample.of(named, COLUMNS, 30).values()["x"].cast(pl.Int64).to_numpy()] += 1
    assert abs(taken[:150].sum() / taken.sum() - 0.5) < 0.03
    assert taken.min() > 5


def test_rows_without_ids_odd_columns_and_none_at_all() -> None:
    assert len(RowSample.of(ROWS.select("x"), COLUMNS, 40).values()) == 40
    assert RowSample.of(ROWS.head(0), COLUMNS, 40).values().is_empty()
    assert RowSample.of(ROWS, COLUMNS, 0).values().is_empty()
    odd = RowSample.of(ROWS.with_columns(x=pl.lit("text")), COLUMNS, 40).plus(RowSample.of(ROWS.drop("x"), COLUMNS, 40))
    assert odd.values()["x"].null_count() == len(odd.values())


def test_a_matrix_has_codes_of_known_categories_and_nan_for_the_rest() -> None:
    rows = pl.DataFrame({"x": [1.5, None, float("inf")], "c": ["b", None, "z"]})
    assert np.array_equal(
        matrix(rows, COLUMNS), np.array([[1.5, 1], [np.nan, np.nan], [np.nan, 2]], np.float32), equal_nan=True
    )
    assert np.isnan(matrix(rows.drop("c"), COLUMNS)[:, 1]).all()
