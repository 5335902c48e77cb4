"""What no gate measures is said: few rows, few of one label, a metric that is too good."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.features.columns import LABEL
from mlops_ray.features.training_set import Parts
from mlops_ray.pipeline.doubts import doubts
from mlops_ray.tasks.binary import BINARY


def part(positive: int, negative: int) -> pl.DataFrame:
    return pl.DataFrame({LABEL: [True] * positive + [False] * negative}, schema={LABEL: pl.Boolean})


ENOUGH = part(100, 100)


def test_enough_rows_and_a_usual_metric_raise_no_doubt() -> None:
    assert doubts(BINARY, Parts(ENOUGH, ENOUGH, ENOUGH), "roc_auc", {"validation": 0.8, "test": None}) == ()


def test_fifty_rows_and_a_perfect_metric_are_doubted() -> None:
    found = doubts(BINARY, Parts(ENOUGH, part(25, 25), ENOUGH), "roc_auc", {"validation": 1.0, "test": 0.9})
    assert [sentence.split(",")[0] for sentence in found] == [
        "The validation period has 50 rows",
        "roc_auc on the validation period is 1.0000",
    ]
    assert "below 200 rows or 20 labels" in found[0]


@given(st.integers(0, 400), st.integers(0, 400))
def test_a_part_is_doubted_if_it_has_few_rows_or_few_of_one_label(positive: int, negative: int) -> None:
    few = positive + negative < 200 or positive < 20 or negative < 20
    assert bool(doubts(BINARY, Parts(ENOUGH, ENOUGH, part(positive, negative)), "roc_auc", {})) == few
