"""The same flights with other labels: what a landing, a cancellation and a diversion say."""

from datetime import UTC, datetime

import polars as pl

from mlops_ray.use_case import load_use_case

DEPARTURE = datetime(2013, 6, 1, 12, tzinfo=UTC)
# On time, late, cancelled, and diverted: that one departed, and never arrived where it should.
ROWS = pl.DataFrame(
    {
        "dep_delay": [-3, 40, None, 10],
        "arr_delay": [-12, 31, None, None],
        "scheduled_departure": [DEPARTURE] * 4,
        "landed": [DEPARTURE.replace(hour=15), DEPARTURE.replace(hour=16), None, None],
    }
)


def test_an_outcome_is_known_when_a_flight_has_landed_or_should_have_left() -> None:
    case = load_use_case("outcome")
    label = ROWS.select(value=case.label.value, at=case.label.known_at)
    assert label["value"].to_list() == ["on time", "late", "cancelled", None]
    assert label["at"].to_list() == [DEPARTURE.replace(hour=15), DEPARTURE.replace(hour=16), DEPARTURE, None]
    known = label.filter(pl.col("value").is_not_null())
    assert case.label.task.encoded(known["value"]).tolist() == [0, 1, 2]


def test_a_delay_is_a_number_of_those_that_arrived() -> None:
    case = load_use_case("delay")
    assert ROWS.select(case.label.value).to_series().to_list() == [-12, 31, None, None]


def test_all_but_the_label_is_that_of_flights() -> None:
    flights = load_use_case("flights")
    for name in ("delay", "outcome"):
        case = load_use_case(name)
        assert case.features_of_request().keys() == flights.features_of_request().keys()
        assert case.feature_views.keys() == flights.feature_views.keys()
        assert case.split == flights.split
