"""A value means the same as a CSV cell, in JSON lines, typed in Parquet, in a request and in a row to score."""

import csv
import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_ray import Column, Source
from mlops_ray.batch import judged
from mlops_ray.ingestion.contract import REASON, REPAIRS, check_rows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.validation import PredictBody
from mlops_ray.use_case import Feature

# Of one cell: reasons, repairs, value.
Judgement = tuple[frozenset[str], frozenset[str], Any]

SPACES = [*"\t\n \x0b\x85", "\u00a0", "\u2003", "\u2028", "\ufeff", "\u200b", "\u2060"]
ZONES = ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata", "UTC"]
CHANGES = [
    datetime(2025, 3, 9, 2), datetime(2025, 11, 2, 1), datetime(2024, 3, 31, 2), datetime(2024, 10, 27, 2),
    datetime(2023, 10, 1, 2), datetime(2024, 4, 7, 1, 30), datetime(2011, 12, 30), datetime(1999, 12, 31, 23, 59),
]  # fmt: skip
FORMATS = ["%d/%m/%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%Y%m%d", "%m/%d/%y %I:%M %p", "%Y-%m-%d %H:%M:%S", "%d %b %Y"]

CELLS = [
    "", "NA", "nan", "None", "-", "-999", "JFK", "jfk", "abb", "N1", "0012", "Zu\u0308rich", "\uff21\uff22", "e\u0301",
    "yes", "T", "0", "1.0", "15", "1.234,50", "1,234.5", "1 234", "1'234", "1.23,4", "007", "5.17e2", "1e400", "inf",
    "9007199254740993", "9007199254740993.0", "+5", ".5", "5.", "1_000", "\u0663", "2025-11-02 01:30:00+00",
    "2025-11-02 01:30:60Z", "2025-11-02", "02/11/2025", "9999-12-31T00:00:00Z", "0001-01-01 00:00:00Z",
    "2025-02-30T00:00:00Z", "2025-11-02T01:30:00.1234567Z", "2025-11-02T24:00:00Z", "20251102",
]  # fmt: skip


# Columns and values


@st.composite
def columns(draw: st.DrawFn) -> Column:
    name, nullable = "value", draw(st.booleans())
    type_: Any = draw(st.sampled_from(["text", "integer", "number", "boolean", "timestamp"]))
    options: dict[str, Any] = {}
    if type_ == "text":
        options["text_form"] = draw(st.sampled_from(["nfc", "nfc", "nfkc", "exact"]))
        rule = draw(st.sampled_from(["none", "choices", "pattern"]))
        if rule == "choices":
            options["choices"] = ("JFK", "Z\u00fcrich", "0012")
        if rule == "pattern":
            options["pattern"] = draw(st.sampled_from([r"(?i)ab+", r"\p{L}+", "[[:alpha:]]+", r"[A-Z]{3}|\d*", "N1"]))
        options["null_texts"] = draw(st.sampled_from([None, ("NA",), ("-", "NULL")]))
        options["replace"] = draw(st.sampled_from([(), (("jfk", "JFK"), ("abb", "aB"))]))
    if type_ in ("integer", "number"):
        decimal_comma = options["decimal_comma"] = draw(st.booleans())
        options["thousands"] = draw(st.sampled_from([None, " ", "'", "." if decimal_comma else ","]))
        options["minimum"] = draw(st.sampled_from([None, -10, 0]))
        options["maximum"] = draw(st.sampled_from([None, 1000, 9007199254740993]))
        options["null_texts"] = draw(st.sampled_from([None, ("-999",), ()]))
    if type_ == "timestamp":
        way = draw(st.sampled_from(["iso", "zone", "format", "unit"]))
        if way in ("zone", "format"):
            options["time_zone"] = draw(st.sampled_from(ZONES))
            options["clock_change"] = draw(st.sampled_from(["reason", "earliest", "latest"]))
        if way == "format":
            options["format"] = draw(st.sampled_from(FORMATS))
        if way == "unit":
            options["unit"] = draw(st.sampled_from(["s", "ms", "us", "ns"]))
        options["null_texts"] = draw(st.sampled_from([None, ("9999-12-31T00:00:00Z",)]))
    if nullable and type_ in ("integer", "number", "timestamp"):
        options["out_of_range"] = draw(st.sampled_from(["quarantine", "null"]))
    if type_ in ("integer", "number") and draw(st.booleans()):
        options["out_of_range"] = "clip"
    if not nullable:
        default = {"text": "JFK", "integer": 7, "number": 0.5, "boolean": False}.get(type_)
        fits = options.get("pattern") in (None, r"\p{L}+", "[[:alpha:]]+", r"[A-Z]{3}|\d*")
        options["default"] = draw(st.sampled_from([None, default])) if fits else None
    return Column(name, type_, nullable=nullable, **options)


def locals_() -> st.SearchStrategy[datetime]:
    minutes = st.integers(-90, 90).map(lambda n: timedelta(minutes=n))
    near = st.tuples(st.sampled_from(CHANGES), minutes).map(sum_of)
    return near | st.datetimes(datetime(1971, 1, 1), datetime(2036, 1, 1))


def sum_of(pair: tuple[datetime, timedelta]) -> datetime:
    return pair[0] + pair[1]


def moments() -> st.SearchStrategy[datetime]:
    """Times with an offset, some of them out of range."""
    offsets = st.sampled_from([0, 0, 330, -300, 765])
    zoned = st.tuples(locals_() | st.datetimes(datetime(1890, 1, 1), datetime(2210, 1, 1)), offsets)
    return zoned.map(lambda pair: (pair[0] - timedelta(minutes=pair[1])).replace(tzinfo=UTC))


def numbers() -> st.SearchStrategy[Any]:
    wide = st.sampled_from([2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, -(2**63), 10**30, -999, 0, 1, 1000, 1001])
    floats = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([3.7, 5.0, 1e16, -999.0, 1e300, 0.1])
    return wide | st.integers(-20, 2000) | floats


def texts(column: Column) -> st.SearchStrategy[str]:
    """Cells: likely ones of the column's type, in all writings, and any others; some with spaces around."""
    core = st.sampled_from(CELLS)
    likely = {
        "text": st.text(st.sampled_from("aZ\u00fc\u0308N1\ufb01 "), max_size=4),
        "integer": numbers().map(lambda n: column.written(repr(n))),
        "number": numbers().map(lambda n: column.written(repr(n))),
        "boolean": st.sampled_from(["true", "FALSE", "t", "f", "Yes", "no", "1", "0", "1.0", "2", "maybe"]),
        "timestamp": locals_().map(lambda moment: moment.strftime(column.format or "%Y-%m-%d %H:%M:%S"))
        | moments().map(lambda moment: moment.isoformat())
        | st.integers(-(10**19), 10**19).map(str)
        | st.integers(0, 2 * 10**9).map(str),
    }[column.type]
    ends = st.lists(st.sampled_from(SPACES), max_size=2).map("".join)
    inner = core | likely | likely
    return inner | st.tuples(ends, inner, ends).map("".join)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Column, list[str | None]]:
    column = draw(columns())
    return column, draw(st.lists(texts(column), min_size=1, max_size=6))


# The five ways


def judged_from_file(path: Path, column: Column) -> list[Judgement]:
    source = Source("", (column,))
    stretches = read_file(SourceFile(str(path), path.name, ""), source)
    return [j for raw in stretches for j in judgements(check_rows(raw.frame, source, path.name, None), column)]


def judgements(judged: pl.DataFrame, column: Column) -> list[Judgement]:
    def codes(text: str | None) -> frozenset[str]:
        return frozenset((text or "").replace(f"{column.name}:", "").split(";")) - {""}

    rows = judged.select(column.name, REASON, REPAIRS).rows()
    return [(codes(why), codes(how), None if why else value) for value, why, how in rows]


def from_csv(folder: Path, column: Column, cells: list[str]) -> list[Judgement]:
    path = folder / "v.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["id", column.name], *enumerate(cells)])
    return judged_from_file(path, column)


def from_json_lines(folder: Path, column: Column, values: list[str]) -> list[Judgement]:
    """values: as JSON."""
    path = folder / "v.jsonl"
    path.write_text("".join(f'{{"id": 1, "{column.name}": {value}}}\n' for value in values))
    return judged_from_file(path, column)


def from_parquet(folder: Path, column: Column, values: pl.Series) -> list[Judgement]:
    path = folder / "v.parquet"
    pl.DataFrame({column.name: values}).write_parquet(path)
    return judged_from_file(path, column)


def schema_with(column: Column) -> ModelSchema:
    return ModelSchema(
        use_case="any", label="late", entities=(column.name,), event_time="at", lead_time_s=0,
        request_columns=(column, Column("at", "timestamp")), request_features={}, features=(Feature("x", "number"),),
    )  # fmt: skip


def from_requests(column: Column, values: list[str]) -> Iterator[tuple[str | None, Any]]:
    """values: as JSON. The reason of a refusal, or the value that was read."""
    body = PredictBody(schema_with(column))
    for value in values:
        content = f'{{"keys": {{"{column.name}": {value}, "at": "2025-01-01T00:00:00Z"}}}}'
        try:
            keys = body.decode(content.encode()).keys
        except HttpError as error:
            refused = error
        else:
            assert keys is not None
            yield None, keys[0][column.name]
            continue
        assert (refused.status, refused.field) == (400, f"keys.{column.name}")
        yield re.findall(r"\(value:(\w+)\)", str(refused))[0], None


def from_rows_to_score(column: Column, values: pl.Series) -> list[Judgement]:
    rows = pl.DataFrame({column.name: values}).with_columns(at=pl.lit("2025-01-01T00:00:00Z"))
    return judgements(judged._judge(schema_with(column), rows), column)


def assert_all_the_same(found: dict[str, list[Judgement]], requests: list[tuple[str | None, Any]]) -> None:
    first = next(iter(found.values()))
    for way, other in found.items():
        assert other == first, way
    for (reasons, _, value), (reason, asked) in zip(first, requests, strict=True):
        assert (reason in reasons) if reasons else reason is None
        assert asked == value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ways")


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_a_text_means_the_same_whatever_brings_it(folder: Path, case: tuple[Column, list[str]]) -> None:
    column, cells = case
    as_json = [json.dumps(cell) for cell in cells]
    series = pl.Series(cells, dtype=pl.String)
    assert_all_the_same(
        {
            "csv": from_csv(folder, column, cells),
            "json": from_json_lines(folder, column, as_json),
            "parquet": from_parquet(folder, column, series),
            "score": from_rows_to_score(column, series),
        },
        list(from_requests(column, as_json)),
    )


@pytest.mark.parametrize("value", ['{"a": [1, 2.5, "x"]}', "[]", '["x", null, true]'])
@pytest.mark.parametrize("type_", ["text", "number"])
def test_a_nested_value_is_its_json_wherever_it_stands(folder: Path, value: str, type_: Any) -> None:
    column = Column("value", type_)
    from_file = from_json_lines(folder, column, [value])
    assert_all_the_same({"json": from_file}, list(from_requests(column, [value])))
    assert [bool(reasons) for reasons, _, _ in from_file] == [type_ == "number"]


@st.composite
def typed(draw: st.DrawFn) -> tuple[Column, pl.Series]:
    """A column, and values of one polars type that a Parquet file may have."""
    column = draw(columns())
    whole = st.sampled_from([0, 1, 7, 15, -999, 1000, 1001, 1735689600])
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        pl.Int64: whole | st.integers(-(2**63), 2**63 - 1),
        pl.Int8: st.integers(-128, 127),
        pl.UInt64: whole.map(abs) | st.integers(0, 2**64 - 1),
        # In a text column a float is what it is written as, and the writings differ: 1e-07 and 1e-7.
        pl.Float64: st.sampled_from([3.7, 5.0, -999.0, 0.1]) if column.type == "text" else numbers().map(float),
        pl.Boolean: st.booleans(),
        pl.Decimal(20, 2): st.integers(-(10**6), 10**6).map(lambda n: Decimal(n) / 100),
        pl.String: st.sampled_from(["JFK", "NA", "", " 15", "Zu\u0308rich"]),
        pl.Categorical: st.sampled_from(["JFK", " JFK", "15", "true"]),
        pl.Datetime("us", "UTC"): moments(),
        pl.Datetime("us"): locals_(),
        pl.Datetime("ms", "Europe/Berlin"): moments().map(lambda moment: moment.replace(microsecond=0)),
        pl.Date: st.dates(date(1890, 1, 1), date(2210, 1, 1)),
        pl.Null: st.none(),
    }
    dtype = draw(st.sampled_from(list(kinds)))
    values = draw(st.lists(kinds[dtype] | st.none(), min_size=1, max_size=6))
    return column, pl.Series(column.name, values, dtype=dtype)


def as_csv_text(column: Column, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return column.written(repr(value) if isinstance(value, float) else str(value))
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=typed())
def test_a_typed_value_means_what_its_text_means(folder: Path, case: tuple[Column, pl.Series]) -> None:
    column, series = case
    values = series.to_list()
    times = series.dtype.is_temporal()
    # A format is about texts: a time has none, and is what ISO 8601 says of it.
    read = column
    if times and column.format is not None:
        read = Column(
            column.name, "timestamp", nullable=column.nullable, out_of_range=column.out_of_range,
            time_zone=column.time_zone, clock_change=column.clock_change, null_texts=column.null_texts,
        )  # fmt: skip
    if times and column.type != "timestamp":
        return
    cells = [as_csv_text(column, value) for value in values]
    plain = series.dtype.is_integer() or series.dtype.is_float()
    finite = [value is None or abs(value) < float("inf") for value in values] if plain else []
    as_json = [
        json.dumps(value) if value is None or isinstance(value, bool) or (plain and finite[row]) else json.dumps(cell)
        for row, (value, cell) in enumerate(zip(values, cells, strict=True))
    ]
    assert_all_the_same(
        {
            "parquet": from_parquet(folder, column, series),
            "csv": from_csv(folder, read, cells),
            "json": from_json_lines(folder, read, as_json),
            "score": from_rows_to_score(column, series),
        },
        list(from_requests(read, as_json)),
    )
