"""Partial dependence is what a model answers by one feature, and stands in the card as a table and as a chart."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from mlops_ray.evaluation.dependence import FEATURES, ROWS, VALUES, partial_dependence
from mlops_ray.registry.card_features import feature_parts
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.use_case import Feature

X, KIND, FLAG, ALIKE = (Feature("x", "number"), Feature("<kind>", "category"), Feature("flag", "number"),
                        Feature("alike", "number"))  # fmt: skip


def rows_of(rows: int = 2_000) -> tuple[pl.DataFrame, np.ndarray]:
    random = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "x": [None if n % 9 == 0 else float(random.normal()) for n in range(rows)],
            "<kind>": [("a", "b", "", None)[n % 4] for n in range(rows)],
            "flag": [(True, False, None)[n % 3] for n in range(rows)],
            "alike": np.ones(rows),
        }
    )
    return frame, np.arange(rows) // 100


def test_a_linear_answer_is_led_back_to_its_line_and_an_interval_shows_what_other_days_would_say() -> None:
    rows, day = rows_of()
    asked: list[int] = []

    def ask(frame: pl.DataFrame) -> Any:
        asked.append(frame.height)
        return (
            3 * frame["x"].fill_null(0.0).to_numpy() + 2.0 * (frame["<kind>"] == "a").fill_null(value=False).to_numpy()
        )

    found = partial_dependence(Regression(), ask, rows, day, [X, KIND, FLAG, ALIKE], seed=1)
    assert list(found) == ["x", "<kind>", "flag"]
    assert found["flag"].values == [0.0, 1.0]
    assert found["<kind>"].values == ["a", "b"]
    curve = found["x"].curves[""]
    assert np.diff(curve.mean) == pytest.approx(3 * np.diff(found["x"].values))
    shares = curve.mean[0] - 3 * found["x"].values[0]
    assert shares == pytest.approx(0.5, abs=0.1), "Of all rows a quarter are a, and each adds 2."
    kinds = found["<kind>"].curves[""]
    assert kinds.mean[0] - kinds.mean[1] == pytest.approx(2.0)
    for low, mean, high in zip(kinds.low, kinds.mean, kinds.high, strict=True):
        assert low is not None
        assert high is not None
        assert low < mean < high
    assert sum(asked) <= FEATURES * VALUES * ROWS


def test_each_class_has_a_curve_and_the_card_a_table_and_a_chart_of_each() -> None:
    rows, day = rows_of()
    task = MultiClass(("early", "late", "never"))

    def ask(frame: pl.DataFrame) -> Any:
        share = 1 / (1 + np.exp(-frame["x"].fill_null(0.0).to_numpy()))
        return np.stack([1 - share, share, 0 * share], axis=1)

    found = partial_dependence(task, ask, rows, day, [X, KIND], seed=1)
    early, late = found["x"].curves["early"], found["x"].curves["late"]
    assert np.add(early.mean, late.mean) == pytest.approx(1.0)
    evaluation = {
        "importance": {"measure": "log loss, feature permuted", "features": {"x": 0.2, "<kind>": 0.0},
                       "intervals": {"x": [0.1, 0.3], "<kind>": [None, None]}},
        "dependence": {name: one.to_json() for name, one in found.items()},
    }  # fmt: skip
    importance, by_x, by_kind = feature_parts(evaluation)
    assert importance.rows == [["x", "0.2", "0.1 to 0.3"], ["<kind>", "0", ""]]
    assert len(by_x.charts) == len(by_kind.charts) == 3
    assert {len(row) for row in by_x.rows} == {len(by_x.head)} == {7}
    for chart in (*importance.charts, *by_x.charts, *by_kind.charts):
        assert "<kind>" not in chart
        assert "nan" not in chart


def test_what_cannot_vary_is_left_out_and_few_days_leave_no_interval() -> None:
    rows, _ = rows_of(30)
    one_day = np.zeros(30, dtype=np.intp)

    def ask(frame: pl.DataFrame) -> Any:
        return np.full(frame.height, 0.5)

    empty = rows.with_columns(x=pl.lit(None, dtype=pl.Float64))
    assert partial_dependence(BINARY, ask, empty, one_day, [X, ALIKE], seed=1) == {}
    found = partial_dependence(BINARY, ask, rows, one_day, [X], seed=1)
    assert set(found["x"].curves[""].low) == {None}
    part = next(feature_parts({"dependence": {"x": found["x"].to_json()}}))
    assert "nan" not in part.charts[0]
    assert list(feature_parts({})) == []
