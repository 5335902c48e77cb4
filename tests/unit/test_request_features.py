"""Request features are what polars makes of each row alone, however often and in whatever company it was asked."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.errors import ModelError
from mlops_ray.serving import request_features
from mlops_ray.serving.request_features import RequestFeatures

COLUMNS = {"moment": pl.Datetime("us", "UTC"), "carrier": pl.String(), "distance": pl.Int64(), "share": pl.Float64()}
ROWS = st.fixed_dictionaries(
    {
        "moment": st.none()
        | st.datetimes(datetime(2013, 1, 1), datetime(2013, 1, 3)).map(lambda m: m.replace(tzinfo=UTC)),
        "carrier": st.none() | st.sampled_from(["AA", "aa", ""]),
        "distance": st.none() | st.integers(0, 2),
        "share": st.none() | st.sampled_from([0.0, -0.0, 1.0, math.inf]),
    }
)
LOCAL = pl.col("moment").dt.convert_time_zone("America/New_York")
EXPRESSIONS = {
    "whole": [LOCAL.dt.hour().alias("hour"), (pl.col("carrier") + pl.col("distance").cast(pl.String)).alias("both")],
    "fractions": [(1 / pl.col("share")).alias("inverse"), LOCAL.dt.weekday().alias("weekday")],
    "constant": [pl.lit(7).alias("seven")],
    "none": [],
}


@pytest.mark.parametrize("kind", EXPRESSIONS)
@given(questions=st.lists(st.lists(ROWS, min_size=1, max_size=4), max_size=12))
def test_a_row_gets_what_polars_makes_of_it_alone(kind: str, questions: list[list[dict[str, Any]]]) -> None:
    expressions = EXPRESSIONS[kind]
    features = RequestFeatures(expressions, COLUMNS)
    for rows in questions:
        alone = [pl.DataFrame([row], schema=COLUMNS).select(expressions).to_dicts() or [{}] for row in rows]
        assert repr(features.of(rows)) == repr([row[0] for row in alone])  # repr: -inf is not inf, nan is nan


def test_a_function_of_the_users_is_called_for_each_question() -> None:
    calls: list[str] = []

    def counted(text: str) -> str:
        calls.append(text)
        return text

    called = pl.col("carrier").map_elements(counted, return_dtype=pl.String).alias("called")
    features = RequestFeatures([called], COLUMNS)
    for _ in range(3):
        assert features.of([{"carrier": "AA"}]) == [{"called": "AA"}]
    assert calls == ["AA"] * 3


def test_what_polars_panics_over_is_an_error_that_its_callers_know() -> None:
    later = (pl.col("distance") * 9 * 10**18).cast(pl.Datetime("us", "UTC")).dt.offset_by("1y").dt.year().alias("later")
    features = RequestFeatures([later], COLUMNS)
    with pytest.raises(ModelError, match="out-of-range"):
        features.of([{"distance": 1}])
    assert features.of([{"distance": 0}]) == [{"later": 1971}]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_features, "MAX_REMEMBERED", 10)
    features = RequestFeatures(EXPRESSIONS["whole"], COLUMNS)
    start = datetime(2013, 6, 1, tzinfo=UTC)
    for hour in range(50):
        row = {"moment": start + timedelta(hours=hour), "carrier": "AA", "distance": hour}
        assert features.of([row]) == [{"hour": (20 + hour) % 24, "both": f"AA{hour}"}]
        assert len(features._remembered) <= 10
