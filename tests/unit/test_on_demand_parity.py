"""On-demand features that were served are computed again, and a transform that differs is named, not what it is fed."""

from datetime import UTC, datetime, timedelta

import polars as pl

from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.point_in_time import History
from mlops_ray.pipeline.parity_at_once import as_served, on_demand_parity
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.use_case import Column, Feature

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
MOMENT = pl.Datetime("us", "UTC")
SCHEMA = ModelSchema(
    "departures", "late", ("carrier",), "departure", 0.0,
    (Column("carrier", "text"), Column("departure", "timestamp"), Column("booked", "number")),
    {"booked": pl.col("booked").meta.serialize(format="json")},
    tuple(Feature(name, "number") for name in ("booked", "usual", "slack", "hour")),
    polars=pl.__version__,
    on_demand_features={
        "slack": (pl.col("usual") - pl.col("booked")).meta.serialize(format="json"),
        "hour": pl.col("departure").dt.hour().meta.serialize(format="json"),
    },
)  # fmt: skip
ASKED = pl.DataFrame(
    {"carrier": ["AA", "UA", "AA", "ZZ"], "departure": [NOON + n * timedelta(hours=1) for n in range(4)]},
    schema_overrides={"departure": MOMENT},
).with_columns(pl.lit(NOON).cast(MOMENT).alias(PREDICTION_TIME), usual=pl.lit("a column, and no feature"))
BOOKED = pl.Series("booked", [100.1, 200.2, 300.3, 400.4])
KNOWN = pl.DataFrame(
    {"carrier": ["AA", "UA"], "at": [NOON - timedelta(hours=1)] * 2, "usual": [110.3, 190.7]},
    schema_overrides={"at": MOMENT},
)
HISTORY = History(KNOWN, "at", {"carrier": "carrier"}, ("usual",), timedelta(days=1))
SERVED = {
    name: as_served(pl.Series(name, values, dtype=pl.Float64), pl.Float32())
    for name, values in {
        "booked": [100.1, 200.2, 300.3, 400.4],
        "usual": [110.3, 190.7, 110.3, None],
        "slack": [110.3 - 100.1, 190.7 - 200.2, 110.3 - 300.3, None],
        "hour": [12, 13, 14, 15],
    }.items()
}


def outcomes(served: dict[str, pl.Series]) -> dict[str, tuple[int, int, int]]:
    found = on_demand_parity(SCHEMA, ASKED, {"booked": BOOKED}, [HISTORY], served)
    assert found is not None
    return {one.feature: (one.exact, one.missing, one.wrong) for one in found.features}


def test_what_was_computed_on_demand_is_exact_to_32_bits() -> None:
    assert outcomes(SERVED) == {"slack": (4, 0, 0), "hour": (4, 0, 0)}


def test_a_transform_that_differs_is_wrong_and_named() -> None:
    served = SERVED | {"slack": SERVED["slack"] * 60}
    found = on_demand_parity(SCHEMA, ASKED, {"booked": BOOKED}, [HISTORY], served)
    assert found is not None
    assert outcomes(served)["slack"] == (1, 0, 3)
    assert found.cause == "On-demand features slack are computed otherwise online than offline."
    assert (found.examples[0].feature, found.examples[0].keys["carrier"]) == ("slack", "AA")


def test_where_what_it_is_computed_from_was_stale_the_view_is_to_blame() -> None:
    stale = pl.Series("usual", [1.0, 190.7, 110.3, None], dtype=pl.Float32)
    late = pl.Series("slack", [1.0 - 100.1, 190.7 - 200.2, 110.3 - 300.3, None], dtype=pl.Float32)
    assert outcomes(SERVED | {"usual": stale, "slack": late})["slack"] == (3, 0, 0)


def test_what_cannot_be_computed_again_is_left_out() -> None:
    found = on_demand_parity(SCHEMA, ASKED, {"booked": BOOKED}, [], SERVED)
    assert found is not None
    assert [one.feature for one in found.features] == ["hour"]
