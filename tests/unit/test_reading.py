"""What a cell means, against a naive reading in plain Python; and what callers send needs no judgement only if it gets
the same one."""

import json
import math
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray import Column, Source
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.ingestion.contract import REASON, REPAIRS, check_rows
from mlops_ray.ingestion.reading import MAX_FLOAT32, Reading, read_column
from mlops_ray.serving.rows import ColumnReader
from tests.unit.test_one_way_to_read import CELLS, columns, locals_, texts

WHITE = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff\u200b\u2060" + "".join(
    map(chr, range(0x2000, 0x200B))
)


def read(column: Column, *cells: Any, dtype: Any = pl.String) -> Reading:
    return read_column(column, pl.Series(cells, dtype=dtype), "f.csv")


def outcome(column: Column, cell: Any, dtype: Any = pl.String) -> tuple[set[str], Any]:
    """Reasons and value of one cell."""
    reading = read(column, cell, dtype=dtype)
    return set(reading.reasons), reading.value[0]


# The naive reading: ("value", v), ("null", None), or ("refused", reason)


def naive(column: Column, cell: str) -> tuple[str, Any]:
    text = cell.strip(WHITE)
    if text in column.nulls:
        return naive_null(column)
    value = {"integer": naive_integer, "number": naive_number, "boolean": naive_boolean, "timestamp": naive_moment}[
        column.type
    ](column, text)
    if isinstance(value, str):
        return "refused", value
    if value is None:
        return "refused", f"not_{column.type}"
    if any(value == naive_raw(column, null) for null in column.null_texts or ()):
        return naive_null(column)
    if not naive_inside(column, value):
        if column.out_of_range == "clip":
            return "value", naive_clip(column, value)
        return ("null", None) if column.out_of_range == "null" else ("refused", "out_of_range")
    return "value", value


def naive_null(column: Column) -> tuple[str, Any]:
    if column.default is not None:
        return "value", column.default
    return ("null", None) if column.nullable else ("refused", "missing")


def naive_clip(column: Column, value: Any) -> Any:
    """The nearest value that the column takes."""
    low, high = column.minimum, column.maximum
    if column.type == "number":
        low = -MAX_FLOAT32 if low is None else max(low, -MAX_FLOAT32)
        high = MAX_FLOAT32 if high is None else min(high, MAX_FLOAT32)
        low, high = float(low), float(high)  # of a limit that is none, the nearest
    return low if low is not None and value < low else high


def naive_raw(column: Column, text: str) -> Any:
    return {"integer": naive_integer, "number": naive_number, "timestamp": naive_moment}.get(
        column.type, lambda column, text: None
    )(column, text)


def naive_inside(column: Column, value: Any) -> bool:
    if column.type == "timestamp":
        return bool(1900 <= value.year < 2200)
    if column.type == "number" and abs(value) > 3.4028234663852886e38:
        return False
    low = -math.inf if column.minimum is None else column.minimum
    return column.type == "boolean" or low <= value <= (math.inf if column.maximum is None else column.maximum)


def naive_plain(column: Column, text: str) -> str | None:
    """Digits with a decimal point, as Python reads them."""
    point = "," if column.decimal_comma else "."
    sign = text[:1] if text[:1] in ("+", "-") else ""
    whole, *exponent = re.split("[eE]", text[len(sign) :], maxsplit=1)
    integral, *fraction = whole.split(point, 1)
    if column.thousands is not None and column.thousands in integral:
        first, *groups = integral.split(column.thousands)
        if not (1 <= len(first) <= 3 and all(len(group) == 3 for group in groups)):
            return None
        integral = first + "".join(groups)
    digits = integral + "".join(fraction)
    if not (digits.isascii() and digits.isdigit()):
        return None
    if exponent and not re.fullmatch(r"[+-]?[0-9]+", exponent[0]):
        return None
    plain = sign + (integral or "0") + ("." + fraction[0] if fraction and fraction[0] else "")
    return plain + (f"e{exponent[0]}" if exponent else "")


def naive_number(column: Column, text: str) -> float | None:
    plain = naive_plain(column, text)
    return None if plain is None or math.isinf(float(plain)) else float(plain)


def naive_integer(column: Column, text: str) -> int | None:
    plain = naive_plain(column, text)
    if plain is None or math.isinf(float(plain)):
        return None
    if "e" in plain:
        value = Fraction(float(plain))
        return int(value) if value.denominator == 1 and abs(value) <= 2**53 else None
    exact = Fraction(plain)
    return int(exact) if exact.denominator == 1 and -(2**63) <= exact < 2**63 else None


def naive_boolean(column: Column, text: str) -> bool | None:
    words = {
        "true": 1,
        "t": 1,
        "yes": 1,
        "y": 1,
        "1": 1,
        "1.0": 1,
        "false": 0,
        "f": 0,
        "no": 0,
        "n": 0,
        "0": 0,
        "0.0": 0,
    }
    found = words.get(text.lower())
    return None if found is None else bool(found)


ISO = (
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ]([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.(\d{1,9}))?)?"
    r"( ?(?:[Zz]|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?))?)?"
)


def naive_moment(column: Column, text: str) -> datetime | str | None:
    if column.unit is not None:
        count = naive_integer(Column("n", "integer"), text)
        if count is not None:
            us = count * 10**6 // {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.unit]
            if abs(us) > 6 * 10**16:
                return "out_of_range"
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    if column.format is not None:
        try:
            return naive_local(column, datetime.strptime(text, column.format))
        except ValueError:
            pass
    found = re.fullmatch(ISO, text, re.ASCII)
    if found is None:
        return None
    *parts, fraction, offset = found.groups()
    try:
        moment = datetime(*(int(part or 0) for part in parts))  # type: ignore[arg-type]
    except ValueError:
        return None
    moment = moment.replace(microsecond=int((fraction or "0")[:6].ljust(6, "0")))
    if offset is None:
        return naive_local(column, moment) if column.time_zone and column.format is None and not column.unit else None
    sign, digits = (-1 if "-" in offset else 1), re.sub(r"\D", "", offset).ljust(4, "0")
    shift = sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    try:
        return (moment - shift).replace(tzinfo=UTC)
    except OverflowError:
        return "out_of_range"


def naive_local(column: Column, local: datetime) -> datetime | str:
    zone = ZoneInfo(str(column.time_zone))
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return first
    if column.clock_change == "reason":
        exists = first.astimezone(zone).replace(tzinfo=None) == local
        return "ambiguous_time" if exists else "nonexistent_time"
    return min(first, second) if column.clock_change == "earliest" else max(first, second)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_cell_is_read_as_a_naive_reader_reads_it(data: st.DataObject) -> None:
    column = data.draw(columns().filter(lambda column: column.type != "text"))
    cell = data.draw(texts(column))
    kind, expected = naive(column, cell)
    reasons, value = outcome(column, cell)
    if kind == "refused":
        assert expected in reasons, cell
    else:
        assert (reasons, value) == (set(), expected), cell


@settings(max_examples=80, deadline=None)
@given(local=locals_(), policy=st.sampled_from(["reason", "earliest", "latest"]), data=st.data())
def test_a_local_time_is_the_moment_that_the_zone_makes_of_it(
    local: datetime, policy: Any, data: st.DataObject
) -> None:
    zone = data.draw(
        st.sampled_from(["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Europe/London"])
    )
    column = Column("at", "timestamp", time_zone=zone, clock_change=policy)
    expected = naive_local(column, local)
    for cell, dtype in ((str(local), pl.String), (local, pl.Datetime("us"))):
        reasons, value = outcome(column, cell, dtype)
        assert (next(iter(reasons), None) or value) == expected


# Callers


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_is_canonical_is_what_the_contract_takes_unchanged(data: st.DataObject) -> None:
    column = data.draw(columns())
    texts_of_column = texts(column)
    as_json = data.draw(
        texts_of_column.map(json.dumps)
        | texts_of_column.filter(lambda text: re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text) is not None)
        | st.integers(-(2**64), 2**64).map(str)
        | st.floats(allow_nan=False, allow_infinity=False).map(json.dumps)
        | st.sampled_from(["true", "false", "null", "1e400", "12345678901234567890123", "-0", "1E2"])
        | locals_().map(lambda moment: json.dumps(f"{moment.isoformat()}+00:00"))
    )
    reader = ColumnReader(column)
    try:
        decoded = msgspec.json.decode(as_json, type=reader.canonical_type)
    except msgspec.ValidationError:
        return
    values = reader.canonical([decoded])
    if values is None:
        return
    text = decoded if isinstance(decoded, str) or decoded is None else column.written(as_json)
    judged = read(column, text)
    assert (dict(judged.reasons), dict(judged.repairs)) == ({}, {})
    assert values[0] == judged.value[0]
    assert type(values[0]) is type(judged.value[0]) or column.type == "number"


@pytest.mark.parametrize("cell", CELLS)
def test_a_plain_text_is_canonical(cell: str) -> None:
    """The fast way is worth something: it takes what is written as this system writes it."""
    reader = ColumnReader(Column("value", "text", pattern=r"(?s)[^,']+"))
    reading = read(reader.column, cell)
    unchanged = not reading.reasons and reading.value[0] == cell
    assert (reader.canonical([cell]) is not None) == unchanged


# Faults that were found, and their brothers


AT = Column("at", "timestamp")
ZONED = Column("at", "timestamp", time_zone="America/New_York")


@pytest.mark.parametrize(
    ("column", "cell", "dtype", "reasons", "value"),
    [
        (Column("n", "integer"), 3.7, pl.Float64, {"not_integer"}, None),
        (Column("n", "integer"), 3.0, pl.Float64, set(), 3),
        (Column("n", "integer"), 2**63, pl.UInt64, {"not_integer"}, None),
        (Column("n", "integer"), "9007199254740993", pl.String, set(), 2**53 + 1),
        (Column("n", "integer"), "9007199254740993.0", pl.String, set(), 2**53 + 1),
        (Column("b", "boolean"), 7, pl.Int64, {"not_boolean"}, None),
        (Column("b", "boolean"), 1.0, pl.Float64, set(), True),
        (Column("b", "boolean"), float("nan"), pl.Float64, {"missing"}, None),
        (Column("x", "number"), float("inf"), pl.Float64, {"not_number"}, None),
        (Column("x", "number"), 1e39, pl.Float64, {"out_of_range"}, 1e39),
        (Column("x", "number"), True, pl.Boolean, {"not_number"}, None),
        (Column("x", "number", decimal_comma=True, thousands="."), "1.234,50", pl.String, set(), 1234.5),
        (Column("x", "number", decimal_comma=True), 1234.5, pl.Float64, set(), 1234.5),
        (Column("x", "number", decimal_comma=True, thousands="."), "1.23,5", pl.String, {"not_number"}, None),
        (Column("n", "integer", thousands="\u202f"), "1\u202f234", pl.String, set(), 1234),
        (Column("n", "integer", null_texts=("-999",)), -999.0, pl.Float64, {"missing"}, None),
        (Column("at", "timestamp"), 1735689600, pl.Int64, {"not_timestamp"}, None),
        (Column("at", "timestamp"), "1735689600", pl.String, {"not_timestamp"}, None),
        (Column("at", "timestamp", unit="s"), 1735689600, pl.Int64, set(), datetime(2025, 1, 1, tzinfo=UTC)),
        (Column("at", "timestamp", unit="ms"), "1735689600000.0", pl.String, set(), datetime(2025, 1, 1, tzinfo=UTC)),
        (Column("at", "timestamp", unit="s"), 2**62, pl.Int64, {"out_of_range"}, None),
        (
            Column("at", "timestamp"),
            "2025-11-02 01:30:00+00",
            pl.String,
            set(),
            datetime(2025, 11, 2, 1, 30, tzinfo=UTC),
        ),
        (Column("at", "timestamp"), "2025-11-02 01:30:00", pl.String, {"not_timestamp"}, None),
        (Column("at", "timestamp"), "1899-12-31T23:00:00-02:00", pl.String, set(), datetime(1900, 1, 1, 1, tzinfo=UTC)),
        (Column("at", "timestamp"), "1900-01-01T01:00:00+02:00", pl.String, {"out_of_range"}, None),
        (Column("at", "timestamp"), "2025-11-02T01:30:60Z", pl.String, {"not_timestamp"}, None),
        (ZONED, "2025-11-02 01:30:00", pl.String, {"ambiguous_time"}, None),
        (ZONED, datetime(2025, 3, 9, 2, 30), pl.Datetime("ms"), {"nonexistent_time"}, None),
        (ZONED, date(2025, 7, 1), pl.Date, set(), datetime(2025, 7, 1, 4, tzinfo=UTC)),
        (Column("at", "timestamp"), date(2025, 7, 1), pl.Date, {"not_timestamp"}, None),
        (
            Column("at", "timestamp", format="%d/%m/%Y", time_zone="UTC"),
            "02/11/2025",
            pl.String,
            set(),
            datetime(2025, 11, 2, tzinfo=UTC),
        ),
        (
            Column("at", "timestamp", format="%d.%m.%Y", time_zone="Europe/Berlin"),
            "2025-11-02 08:30",
            pl.String,
            set(),
            datetime(2025, 11, 2, 7, 30, tzinfo=UTC),
        ),
        (
            Column("at", "timestamp", format="%Y-%d-%m", time_zone="UTC"),
            "2025-11-22",
            pl.String,
            {"not_timestamp"},
            None,
        ),
        (Column("at", "timestamp"), timedelta(hours=1), pl.Duration("us"), {"not_timestamp"}, None),
        (Column("t", "text"), "NA", pl.String, set(), "NA"),
        (Column("t", "text", null_texts=("NA",)), "NA", pl.String, {"missing"}, None),
        (Column("t", "text"), b"\xff", pl.Binary, {"not_text"}, None),
        (Column("t", "text"), b"J\xc3\xbc", pl.Binary, set(), "J\u00fc"),
        (Column("t", "text"), [1, 2], pl.List(pl.Int64), set(), "[1,2]"),
        (Column("n", "integer"), [1], pl.List(pl.Int64), {"not_integer"}, None),
        (Column("t", "text"), "JFK", pl.Categorical, set(), "JFK"),
        (Column("t", "text", pattern=r"\p{L}+"), "\u00fc", pl.String, set(), "\u00fc"),
        (Column("t", "text", pattern="(?i)ab"), "AB", pl.String, set(), "AB"),
        (Column("t", "text", pattern="a|b"), "ab", pl.String, {"pattern"}, "ab"),
    ],
)
def test_a_value_of_any_type_is_judged_as_its_text(
    column: Column, cell: Any, dtype: Any, reasons: set[str], value: Any
) -> None:
    found, read_value = outcome(column, cell, dtype)
    assert found == reasons
    if not reasons or value is not None:
        assert read_value == value


@pytest.mark.parametrize(
    ("cell", "repairs", "value"),
    [
        (" JFK ", {"trimmed"}, "JFK"),
        ("\ufeffJFK\u200b\u3000", {"trimmed"}, "JFK"),
        ("Zu\u0308rich", {"normalized"}, "Z\u00fcrich"),
        (" Zu\u0308rich", {"normalized", "trimmed"}, "Z\u00fcrich"),
        ("a\ufeffb", set(), "a\ufeffb"),
    ],
)
def test_texts_have_one_normal_form(cell: str, repairs: set[str], value: str) -> None:
    reading = read(Column("t", "text"), cell)
    assert (set(reading.repairs), reading.value[0]) == (repairs, value)
    exact = read(Column("t", "text", text_form="exact"), cell)
    assert (set(exact.repairs), exact.value[0]) == (set(), cell)


def test_what_is_trimmed_is_what_unicode_calls_white_space_and_what_has_no_width() -> None:
    assert sorted(WHITE) == sorted(set(WHITE))
    for character in WHITE:
        assert read(Column("t", "text"), f"{character}x{character}").value[0] == "x"
    for character in "\x1c\x00\u200d\u00ad":
        assert read(Column("t", "text"), f"{character}x").value[0] == f"{character}x"


def test_digits_beyond_microseconds_are_cut_and_that_is_said() -> None:
    column = Column("at", "timestamp", unit="ns")
    for cell, dtype, cut in (
        ("2025-01-01T00:00:00.1234567Z", pl.String, True),
        ("2025-01-01T00:00:00.123456000Z", pl.String, False),
        (1735689600123456789, pl.Int64, True),
        (1735689600123456000, pl.Int64, False),
    ):
        reading = read(column, cell, dtype=dtype)
        assert reading.value[0].microsecond in (123456,)
        assert (set(reading.repairs), dict(reading.reasons)) == ({"truncated"} if cut else set(), {})
    at = pl.Series([1735689600123456789]).cast(pl.Datetime("ns", "UTC"))
    assert set(read_column(column, at, "f").repairs) == {"truncated"}


@pytest.mark.parametrize("dtype", [pl.Datetime("us"), pl.Datetime("ms"), pl.Datetime("ms", "Europe/Berlin"), pl.Date])
def test_no_moment_is_too_far_away_to_be_judged(dtype: Any) -> None:
    """polars panics where arithmetic leaves the years that chrono knows."""
    physical = pl.Int32 if dtype == pl.Date else pl.Int64
    far = [2**31 - 1, -(2**31)] if dtype == pl.Date else [2**63 - 1, -(2**63), 2**62, 253_402_300_800_000_000]
    values = pl.Series(far, dtype=physical).cast(dtype)
    for policy in ("reason", "latest"):
        column = Column("at", "timestamp", nullable=True, time_zone="America/New_York", clock_change=policy)
        assert set(read_column(column, values, "f").reasons) == {"out_of_range"}
    nulls = replace(column, out_of_range="null")
    assert read_column(nulls, values, "f").value.null_count() == len(far)
    assert read_column(nulls, values, "f").repairs["out_of_range"].all()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_the_end_of_time_can_mean_null(zone: str) -> None:
    column = Column("until", "timestamp", nullable=True, time_zone=zone, null_texts=("9999-12-31 23:59:59",))
    for cell, dtype in (("9999-12-31 23:59:59", pl.String), (datetime(9999, 12, 31, 23, 59, 59), pl.Datetime("us"))):
        reading = read(column, cell, dtype=dtype)
        assert (dict(reading.reasons), dict(reading.repairs), reading.value[0]) == ({}, {}, None)
    assert ColumnReader(column).judged([msgspec.Raw(b'"9999-12-31 23:59:59"')], ["f"]) == [None]


def test_values_without_a_text_are_an_error_that_names_the_column() -> None:
    pickled = pa.ExtensionArray.from_storage(_pickled_type(), pa.array([b"x"], pa.large_binary()))
    frame = pl.DataFrame(pl.from_arrow(pa.table({"t": pickled})))
    with pytest.raises(DataError, match=r"f\.parquet: column t has the type Extension"):
        check_rows(frame, Source("", (Column("t", "text"),)), "f.parquet", None)
    with pytest.raises(DataError, match="column t has the type Object"):
        check_rows(pl.DataFrame({"t": pl.Series([object()])}), Source("", (Column("t", "text"),)), "f", None)


def _pickled_type() -> pa.ExtensionType:
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    return ArrowPythonObjectType()


def test_a_row_without_known_at_is_refused_for_that() -> None:
    columns = (Column("landed", "timestamp", nullable=True), Column("n", "integer"))
    source = Source("", columns, derived={"twice": pl.col("n") * 2}, known_at=pl.col("landed"))
    rows = pl.DataFrame(
        {"landed": ["2025-01-01T00:00:00Z", "", "2025-03-01T00:00:00Z", "x"], "n": ["1", "2", "3", "4"]}
    )
    judged = check_rows(rows, source, "f", datetime(2025, 2, 1, tzinfo=UTC))
    assert judged[REASON].to_list() == [None, "known_at:missing", "known_after_as_of", "landed:not_timestamp"]
    assert judged["twice"].to_list() == [2, 4, 6, None]
    assert check_rows(rows, source, "f", None)[REASON].to_list()[1:3] == ["known_at:missing", None]
    assert judged[REPAIRS].null_count() == 4


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Source("", (), derived={"d": pl.col("m") + 1}), "derived column 'd'"),
        (Source("", (), known_at=pl.col("n")), "known_at gives Int64"),
        (Source("", (), known_at=pl.col("m")), "known_at"),
    ],
)
def test_a_failing_expression_is_the_users(source: Source, said: str) -> None:
    with pytest.raises(UseCaseError, match=said):
        check_rows(
            pl.DataFrame({"n": ["1"]}),
            Source("", (Column("n", "integer"),), derived=source.derived, known_at=source.known_at),
            "f.csv",
            None,
        )


# Declarations


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"type": "int"}, r"type 'int' is unknown; did you mean 'integer'\? Known: text, integer, number"),
        ({"type": "text", "pattern": "("}, "cannot be compiled"),
        ({"type": "text", "pattern": "(?=a)a"}, "look-around"),
        ({"type": "text", "pattern": "a)|(b"}, "cannot be compiled"),
        ({"type": "number", "minimum": 2, "maximum": 1}, "minimum 2 is above maximum 1"),
        ({"type": "number", "minimum": float("nan")}, "not a number"),
        ({"type": "number", "choices": ("a",)}, "choices belongs to columns of type text, not number"),
        ({"type": "text", "format": "%d/%m/%Y"}, "format belongs to columns of type timestamp"),
        ({"type": "text", "minimum": 1}, "minimum belongs"),
        ({"type": "timestamp", "time_zone": "Europe/Berln"}, "did you mean 'Europe/Berlin'"),
        ({"type": "timestamp", "format": "%d/%m/%Y"}, "time_zone must be given"),
        ({"type": "timestamp", "format": "%H:%M", "time_zone": "UTC"}, "does not tell a day"),
        ({"type": "timestamp", "format": "%Q", "time_zone": "UTC"}, "does not tell a day"),
        ({"type": "timestamp", "format": "%Y%m%d", "time_zone": "UTC", "unit": "s"}, "two ways"),
        ({"type": "timestamp", "format": "%Y-%m-%dT%H:%M:%SZ", "time_zone": "Asia/Tokyo"}, "ISO 8601 as other"),
        ({"type": "timestamp", "clock_change": "latest"}, "time_zone must be given"),
        ({"type": "timestamp", "unit": "d"}, "unit 'd' is unknown"),
        ({"type": "number", "decimal_comma": True, "thousands": ","}, "decimal sign as well"),
        ({"type": "number", "thousands": "ab"}, "one character"),
        ({"type": "text", "choices": (" a",)}, "not how texts are read"),
        ({"type": "text", "choices": ("NA",), "null_texts": ("NA",)}, "is a value and means null"),
        ({"type": "boolean", "null_texts": ("false",)}, "is a value and means null"),
        ({"type": "text", "choices": "abc"}, "must be a tuple of texts"),
        ({"type": "integer", "out_of_range": "null"}, "must be nullable"),
        ({"type": "text", "personal": "hide"}, "personal 'hide' is unknown"),
        ({"type": "timestamp", "out_of_range": "clip"}, "has no nearer one"),
        ({"type": "number", "replace": (("a", "b"),)}, "replace belongs to columns of type text"),
        ({"type": "text", "replace": (("a", "b"), ("b", "c"))}, "'b' is replaced, and stands for another"),
        ({"type": "text", "replace": (("a", "b"), ("a", "c"))}, "says twice what 'a' stands for"),
        ({"type": "text", "replace": (("a ", "b"),)}, "not how texts are read"),
        ({"type": "text", "replace": (("a", "b"),), "choices": ("a", "b")}, "'a' is a choice or means null"),
        ({"type": "integer", "default": 1, "nullable": True}, "not nullable"),
        ({"type": "integer", "default": 1.5}, "default 1.5 is no integer"),
        ({"type": "integer", "default": True}, "default True is no integer"),
        ({"type": "number", "default": math.nan}, "default nan is no number"),
        ({"type": "number", "default": -1, "minimum": 0}, "default -1 is outside 0 to None"),
        ({"type": "text", "default": "x", "choices": ("a",)}, "not one of the choices"),
        ({"type": "text", "default": "x", "pattern": "a"}, "does not fit the pattern"),
        ({"type": "text", "default": ""}, "means null"),
        ({"type": "timestamp", "default": "2025-01-01"}, "default belongs to columns"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UseCaseError, match=said):
        Column("age", **options)


@pytest.mark.parametrize(
    ("column", "cell", "value", "repair"),
    [
        (Column("a", "text", replace=(("N.Y.", "NY"),), choices=("NY",)), " N.Y. ", "NY", {"trimmed", "replaced"}),
        (Column("a", "text", replace=(("-", "NA"),), nullable=True, null_texts=("NA",)), "-", None, set()),
        (Column("a", "text", default="none"), "", "none", {"default"}),
        (Column("a", "integer", default=3, null_texts=("-999",)), "-999", 3, {"default"}),
        (Column("a", "number", default=0), "NaN", 0.0, {"default"}),
        (Column("a", "boolean", default=False), "", False, {"default"}),
        (Column("a", "integer", minimum=0.5, maximum=9.5, out_of_range="clip"), "-7", 1, {"out_of_range"}),
        (Column("a", "integer", minimum=0.5, maximum=9.5, out_of_range="clip"), "10", 9, {"out_of_range"}),
        (Column("a", "number", out_of_range="clip"), "1e300", MAX_FLOAT32, {"out_of_range"}),
        (Column("a", "number", maximum=1, out_of_range="clip"), "0.5", 0.5, set()),
    ],
)
def test_a_declared_repair_is_made_and_counted(column: Column, cell: str, value: Any, repair: set[str]) -> None:
    reading = read(column, cell)
    assert (reading.value[0], set(reading.repairs), dict(reading.reasons)) == (value, repair, {})


def test_what_a_repair_cannot_mend_is_refused() -> None:
    assert outcome(Column("a", "integer", default=1), "x")[0] == {"not_integer"}
    assert outcome(Column("a", "text", replace=(("a", "b"),), choices=("c",)), "a")[0] == {"not_a_choice"}
    assert outcome(Column("a", "number", minimum=0, out_of_range="clip"), "inf")[0] == {"not_number"}


def test_formats_with_an_offset_need_no_zone() -> None:
    column = Column("at", "timestamp", format="%d/%m/%Y %H:%M %z")
    assert outcome(column, "02/11/2025 01:30 +0530") == (set(), datetime(2025, 11, 1, 20, tzinfo=UTC))
    assert outcome(column, "2025-11-02T01:30:00+05:30") == (set(), datetime(2025, 11, 1, 20, tzinfo=UTC))


@pytest.mark.parametrize(
    ("format_", "good", "bad"),
    [
        ("%Y%m%d", ["20250115"], ["2025115", "202501150", "2025 115", "250115"]),
        ("%Y%m%d %H%M", ["20250115 0000"], ["20250115 000", "2025115 0000"]),
        ("%Y%m%dT%H%M%S%.f", ["20250115T000000", "20250115T000000.0"], ["20250115T00000", "2025115T000000.5"]),
        ("%d.%m.%Y", ["15.01.2025", "15.1.2025"], ["15012025"]),
        ("%d%b%Y", ["15Jan2025"], ["15Foo2025"]),
        ("day %y%m%d", ["day 250115"], ["day 25115"]),
    ],
)
def test_numbers_side_by_side_have_all_their_digits(format_: str, good: list[str], bad: list[str]) -> None:
    column = Column("at", "timestamp", format=format_, time_zone="UTC")
    found = read_column(column, pl.Series([*good, *bad]), "x")
    assert found.value.to_list() == [*[datetime(2025, 1, 15, tzinfo=UTC)] * len(good), *[None] * len(bad)]


def test_compact_moments_with_an_offset_have_all_their_digits() -> None:
    column = Column("at", "timestamp", format="%Y%m%dT%H%M%z")
    found = read_column(column, pl.Series(["20250115T0100+0100", "2025115T0100+0100"]), "x")
    assert found.value.to_list() == [datetime(2025, 1, 15, tzinfo=UTC), None]


def test_a_number_too_small_for_a_float_is_no_integer() -> None:
    found = read_column(Column("n", "integer"), pl.Series(["1e-400", "0e5", "0.0e-400", "5e0"]), "x")
    assert found.value.to_list() == [None, 0, 0, 5]
    assert found.reasons["not_integer"].to_list() == [True, False, False, False]


def test_a_zero_is_no_group_of_thousands() -> None:
    column = Column("n", "number", nullable=True, thousands=",")
    assert read_column(column, pl.Series(["0,123", "1,023", "0.5"]), "x").value.to_list() == [None, 1023, 0.5]
