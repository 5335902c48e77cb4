"""Every row is accepted, repaired or quarantined with a reason; none is lost."""

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray import Column, Source
from mlops_ray.errors import DataError
from mlops_ray.ingestion.contract import REASON, REPAIRS, check_rows

AS_OF = datetime(2020, 1, 1, tzinfo=UTC)
SOURCE = Source(
    path="*.csv",
    columns=(
        Column("id", "integer"),
        Column("when", "timestamp"),
        Column("speed", "number", nullable=True, minimum=0, maximum=100, out_of_range="null"),
        Column("height", "number", nullable=True, minimum=0),
        Column("airport", "text", choices=("EWR", "JFK")),
        Column("tail", "text", nullable=True, pattern=r"N\d+"),
        Column("open", "boolean", nullable=True),
    ),
    known_at=pl.col("when"),
)
GOOD = {
    "id": "7",
    "when": "2019-05-01T10:00:00Z",
    "speed": "5",
    "height": "1.5",
    "airport": "EWR",
    "tail": "N1",
    "open": "t",
}


def judge(*rows: dict[str, str | None]) -> pl.DataFrame:
    schema = dict.fromkeys(GOOD, pl.String)
    return check_rows(pl.DataFrame([GOOD | row for row in rows], schema=schema), SOURCE, "f.csv", AS_OF)


def test_a_good_row_is_accepted_and_typed() -> None:
    row = judge({}).to_dicts()[0]
    assert row["id"] == 7
    assert row["when"] == datetime(2019, 5, 1, 10, tzinfo=UTC)
    assert (row["speed"], row["height"], row["open"]) == (5.0, 1.5, True)
    assert (row[REASON], row[REPAIRS]) == (None, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "id:missing"),
        ({"id": ""}, "id:missing"),
        ({"id": "NA"}, "id:missing"),
        ({"id": "seven"}, "id:not_integer"),
        ({"id": "7.5"}, "id:not_integer"),
        ({"id": "inf"}, "id:not_integer"),
        ({"when": "2019-05-01"}, "when:not_timestamp"),
        ({"when": "2019-05-01T10:00:00"}, "when:not_timestamp"),
        ({"when": "2020-05-01T10:00:00Z"}, "known_after_as_of"),
        ({"speed": "fast"}, "speed:not_number"),
        ({"speed": "inf"}, "speed:not_number"),
        ({"height": "-1"}, "height:out_of_range"),
        ({"airport": "LAX"}, "airport:not_a_choice"),
        ({"tail": "N1x"}, "tail:pattern"),
        ({"open": "maybe"}, "open:not_boolean"),
        ({"id": "x", "airport": "LAX"}, "id:not_integer;airport:not_a_choice"),
    ],
)
def test_a_bad_value_puts_its_row_into_quarantine_with_the_reason(change: dict[str, str | None], reason: str) -> None:
    row = judge(change).to_dicts()[0]
    assert row[REASON] == reason


@pytest.mark.parametrize(
    ("change", "repair", "value"),
    [
        ({"speed": "1048.36"}, "speed:out_of_range", None),
        ({"airport": " JFK "}, "airport:trimmed", "JFK"),
        ({"speed": " 5"}, "speed:trimmed", 5.0),
    ],
)
def test_a_repairable_value_is_repaired_and_said(change: dict[str, str], repair: str, value: object) -> None:
    row = judge(change).to_dicts()[0]
    assert (row[REASON], row[REPAIRS]) == (None, repair)
    assert row[next(iter(change))] == value


@pytest.mark.parametrize("text", ["517.0", "5.17e2", "517"])
def test_whole_numbers_written_as_floats_are_integers(text: str) -> None:
    assert judge({"id": text})["id"].to_list() == [517]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match=r"f\.csv: column airport is missing"):
        check_rows(pl.DataFrame(GOOD).drop("airport"), SOURCE, "f.csv", AS_OF)


def test_typed_columns_are_judged_like_text() -> None:
    frame = pl.DataFrame([GOOD]).with_columns(
        pl.lit(7).alias("id"), pl.lit(float("nan")).alias("speed"), pl.lit(datetime(2019, 1, 1)).alias("when")
    )
    row = check_rows(frame, SOURCE, "f.parquet", AS_OF).to_dicts()[0]
    assert row["speed"] is None
    assert row[REASON] == "when:not_timestamp"


@settings(max_examples=30)
@given(st.lists(st.fixed_dictionaries({name: st.none() | st.text(max_size=8) for name in GOOD}), max_size=8))
def test_no_text_loses_a_row(rows: list[dict[str, str | None]]) -> None:
    judged = judge(*rows)
    assert judged.height == len(rows)
    accepted = judged.filter(pl.col(REASON).is_null())
    assert accepted["id"].null_count() == 0
    assert accepted["airport"].is_in(["EWR", "JFK"]).all()


def test_a_row_is_judged_alone_as_among_many_that_repeat_it() -> None:
    """Long columns whose texts repeat are read by their distinct texts, and rows with reasons are few."""
    texts = [
        "",
        " 7 ",
        "x",
        None,
        "NaN",
        "-1",
        "101",
        "2019-05-01T10:00:00Z",
        "2021-01-01T00:00:00Z",
        "jfk",
        "EWR",
        "N7",
    ]
    rows = [{name: text} for name in GOOD for text in texts]
    few = judge(*rows)
    assert 0 < few[REASON].null_count() < few.height
    times = 20_000 // len(rows) + 1
    schema = dict.fromkeys(GOOD, pl.String)
    many = check_rows(pl.DataFrame([GOOD | row for row in rows] * times, schema=schema), SOURCE, "f.csv", AS_OF)
    assert many.equals(pl.concat([few] * times))
