"""Columns are related to labels of any kind, and what rows are worth is said in the task's metric."""

import numpy as np
import polars as pl
import pytest

from mlops_ray.errors import DataError
from mlops_ray.exploration.leakage import too_good_alone
from mlops_ray.exploration.quick_model import reached, worth
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression

CLASSES = MultiClass(("low", "middle", "high"))


def frame(rows: int = 6_000, seed: int = 1) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x, noise = random.normal(0, 1, rows), random.normal(0, 1, rows)
    number = 10 + 3 * x + 2 * noise
    kind = np.array(["low", "middle", "high"], dtype=object)[np.digitize(number, [8, 12])]
    return pl.DataFrame(
        {
            "x": x, "other": random.normal(0, 1, rows), "place": random.choice(["a", "b"], rows),
            "number": number, "kind": pl.Series(kind, dtype=pl.String),
            "receipt": number + random.normal(0, 0.1, rows),
        }
    )  # fmt: skip


def test_a_column_that_knows_a_number_is_suspected_and_one_that_honestly_tells_much_is_not() -> None:
    rows = frame().rename({"number": "label"})
    found = too_good_alone(rows, ["x", "other", "place", "receipt"])
    assert [one.column for one in found] == ["receipt"]
    assert "suspicious above 0.97" in found[0].reason


def test_of_several_classes_the_one_that_a_column_gives_away_is_named() -> None:
    rows = frame().rename({"kind": "label"})
    gives_away = pl.when(pl.col("label") == "high").then(pl.lit("refund")).otherwise(pl.lit("none"))
    found = too_good_alone(rows.with_columns(refund=gives_away), ["other", "place", "refund"])
    assert [one.column for one in found] == ["refund"]
    assert "of 'high', beside all others," in found[0].reason


def test_labels_that_are_not_known_are_in_no_group() -> None:
    some = pl.when(pl.int_range(pl.len()) % 2 == 0).then("number").otherwise(pl.lit(float("nan"))).alias("label")
    found = too_good_alone(frame().with_columns(some), ["receipt", "other"])
    assert [one.column for one in found] == ["receipt"]


def test_what_rows_are_worth_is_said_in_the_metric_of_the_task() -> None:
    judged = frame(seed=2)
    for task, label in ((Regression(), "number"), (CLASSES, "kind")):
        names = {label: "label"}
        whole, rest = (
            one.rename(names).select("x", "other", "place", "label") for one in (judged, frame(4_000, seed=3))
        )
        random = np.random.default_rng(4).permutation(len(rest))
        spoiled = rest.with_columns(rest["label"][random])
        assert reached(task, [rest], whole, "good") < reached(task, [spoiled], whole, "bad")  # both are errors
        _, of_each = worth(task, {"good": rest, "bad": spoiled}, whole)
        assert of_each["good"] > 0 > of_each["bad"]


def test_a_class_that_nobody_has_is_named() -> None:
    rows = frame().rename({"kind": "label"}).select("x", "label")
    with pytest.raises(DataError, match="none of them with the label high"):
        reached(CLASSES, [rows.filter(pl.col("label") != "high")], rows, "January")
