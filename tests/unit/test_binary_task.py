"""What the loop is told of yes-or-no labels, wherever it asks."""

import numpy as np
import polars as pl
import pytest

from mlops_ray.errors import ModelError
from mlops_ray.tasks.binary import BINARY


@pytest.mark.parametrize("dtype", [pl.Int64(), pl.Float64(), pl.String(), pl.Null(), pl.Int8()])
def test_only_booleans_are_yes_or_no(dtype: pl.DataType) -> None:
    assert BINARY.reads(pl.Boolean())
    assert not BINARY.reads(dtype)


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ([], "0 rows with 0 of 2 label values"),
        ([True] * 50, "50 rows with 1 of 2 label values"),
        ([False], "1 rows with 1 of 2 label values"),
        ([True, False], None),
    ],
)
def test_rows_of_one_kind_are_said_to_be_too_few(labels: list[bool], what: str | None) -> None:
    assert BINARY.shortfall(pl.Series(labels, dtype=pl.Boolean)) == what


@pytest.mark.parametrize(("positive", "negative"), [(0, 0), (0, 50), (3, 47), (47, 3), (25, 25)])
def test_the_rarest_label_is_the_rarer_one_of_two(positive: int, negative: int) -> None:
    labels = np.array([True] * positive + [False] * negative, dtype=np.bool_)
    assert BINARY.rarest(labels) == min(positive, negative)


def test_rows_and_columns_are_the_same_answer() -> None:
    answer = np.array([0, 0.25, np.nextafter(np.float32(0.5), np.float32(0)), 0.5, 1], dtype=np.float32)
    columns = BINARY.columns(answer)
    assert list(columns) == list(BINARY.output_types) == ["probability", "prediction"]
    assert columns["prediction"].tolist() == [False, False, False, True, True]
    assert BINARY.rows(answer) == pl.DataFrame(columns).to_dicts()
    assert {type(value) for row in BINARY.rows(answer) for value in row.values()} == {float, bool}


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, -0.01, 1.01])
def test_what_is_no_probability_is_never_answered(wrong: float) -> None:
    with pytest.raises(ModelError, match="for row 1, and what is no probability for 1 of 2 rows"):
        BINARY.checked(np.array([0.5, wrong], dtype=np.float32))


def test_what_rounding_added_is_taken_off() -> None:
    assert BINARY.checked(np.array([1 + 5e-7, -5e-7], dtype=np.float32)).tolist() == [1, 0]


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_a_better_ranking_has_a_higher_score(metric: str) -> None:
    labels = np.array([True, False, True, False])
    better, worse = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.9, 0.1, 0.2, 0.8])
    first, second = (
        BINARY.values({metric}, labels, answer, np.zeros(4, dtype=int), np.ones((1, 1)))[metric][0]
        for answer in (better, worse)
    )
    assert first == 1
    assert second < 1
