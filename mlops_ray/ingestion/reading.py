"""Reading: what one column's values mean, which cannot be read and why, and what was repaired.

The one place that says so, for values of files, requests, rows to score and labels alike. A value of any type means
what its text in a CSV file would mean; where the type is that of the column already, the text is not written first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl

from mlops_ray.errors import DataError
from mlops_ray.ingestion.moments import END, FIRST, Moments, localized, moments, near
from mlops_ray.ingestion.numbers import booleans, finite, integers, numbers, only, with_plain_signs
from mlops_ray.ingestion.texts import as_text, cleaned
from mlops_ray.use_case import Column

MAX_FLOAT32 = 3.4028234663852886e38
_LONG_ROWS, _LOOK_ROWS = 16_384, 4_096


@dataclass(frozen=True)
class Reading:
    """The typed values of a column: null where a value is missing, unreadable, or repaired to null.

    reasons, repairs: by what is wrong or was repaired, which rows; a rule that touches no row may be left out. A row
    with a reason is refused, whatever its value here.
    """

    value: pl.Series
    reasons: Mapping[str, pl.Series]
    repairs: Mapping[str, pl.Series]


@dataclass(frozen=True)
class _Found:
    """Values that were read; `present` are all that mean something, readable or not."""

    value: pl.Series
    present: pl.Series
    reasons: Mapping[str, pl.Series]
    repairs: Mapping[str, pl.Series]


def read_column(column: Column, given: pl.Series, where: str) -> Reading:
    """Judge every value of `given`, of any type, by the rules of `column`.

    Raises DataError, beginning with `where`, for a type whose values have no text, such as Python objects.
    """
    if given.dtype != pl.String or not _repeats(given):
        return _read(column, given, where)
    # A value means what it means wherever it stands: each is read once, for a third of what it takes to read all.
    array = given.to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode(null_encoding="encode")
    place = pl.Series(pl.from_arrow(array.indices))
    read = _read(column, pl.Series(given.name, pl.from_arrow(array.dictionary)), where)
    reasons, repairs = ({what: flag.gather(place) for what, flag in f.items()} for f in (read.reasons, read.repairs))
    return Reading(read.value.gather(place), reasons, repairs)


def _repeats(given: pl.Series) -> bool:
    """Whether the texts of a long column are the same again and again, by its beginning."""
    return given.len() >= _LONG_ROWS and given.head(_LOOK_ROWS).n_unique() <= _LOOK_ROWS * 3 // 4


def _read(column: Column, given: pl.Series, where: str) -> Reading:
    try:
        found = _typed(column, given) or _from_text(column, given)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(
            f"{where}: column {column.name} has the type {given.dtype}, whose values cannot be read as {column.type} "
            f"({' '.join(str(error).split())[:200]}). Write it as a plain type."
        ) from None
    value, present = found.value, found.present
    if (nulls := null_values(column)) is not None:
        named = value.to_physical().is_in(nulls.to_physical().to_list()).fill_null(False)
        value, present = only(value, ~named), present & ~named
    explained = pl.Series([False]).new_from_index(0, value.len())
    for flags in found.reasons.values():
        explained |= flags
    reasons = {f"not_{column.type}": present & value.is_null() & ~explained, **found.reasons}
    repairs = dict(found.repairs)
    if column.default is not None:
        repairs["default"] = ~present
        value = value.zip_with(present, pl.Series([column.default], dtype=column.dtype).new_from_index(0, value.len()))
    elif not column.nullable:
        reasons["missing"] = ~present
    outside = _outside(column, value)
    if outside is not None and column.out_of_range == "null":
        value, repairs["out_of_range"] = only(value, ~outside), outside
    elif outside is not None and column.out_of_range == "clip":
        value, repairs["out_of_range"] = _clipped(column, value), outside
    elif outside is not None:
        reasons["out_of_range"] = outside
        # Python has no moments beyond the year 9999: one that is refused is not carried along.
        value = only(value, ~outside) if column.type == "timestamp" else value
    if column.choices:
        reasons["not_a_choice"] = ~value.is_in(list(column.choices))
    if column.whole_pattern is not None:
        reasons["pattern"] = ~value.str.contains(column.whole_pattern)
    return Reading(value, _raised(reasons), _raised(repairs))


def _raised(flags: Mapping[str, pl.Series]) -> dict[str, pl.Series]:
    return {what: flag.fill_null(False) for what, flag in flags.items() if flag.any()}


def _typed(column: Column, given: pl.Series) -> _Found | None:
    """Values that are of the column's type already; None for others, which are read from their text."""
    dtype, type_ = given.dtype, column.type
    present = given.is_not_null()
    if type_ == "integer" and dtype.is_integer():
        return _Found(given.cast(pl.Int64, strict=False), present, {}, {})
    if type_ == "number" and (dtype.is_float() or dtype.is_integer()):
        value = given.cast(pl.Float64)
        if dtype.is_float() and "NaN" in column.nulls:
            present &= value.is_not_nan().fill_null(True)
        return _Found(finite(value), present, {}, {})
    if type_ == "boolean" and dtype == pl.Boolean:
        return _Found(given, present, {}, {})
    if type_ == "timestamp" and isinstance(dtype, pl.Datetime | pl.Date):
        found = _from_times(column, given)
        return _Found(found.value, present, found.reasons, {} if found.cut is None else {"truncated": found.cut})
    return None


def _from_times(column: Column, given: pl.Series) -> Moments:
    """Moments of a time type: of one without zone by the column's zone, else not at all. A date is its midnight."""
    dtype, given = given.dtype, near(given)
    cut = None
    if isinstance(dtype, pl.Datetime) and dtype.time_unit == "ns":
        cut = given.dt.timestamp("ns") % 1000 != 0
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return Moments(given.cast(pl.Datetime("us", dtype.time_zone)).dt.convert_time_zone("UTC"), cut=cut)
    if column.time_zone is None:
        return Moments(pl.Series([None], dtype=column.dtype).new_from_index(0, given.len()))
    found = localized(given.cast(pl.Datetime("us")), column)
    return Moments(found.value, found.reasons, cut)


def _from_text(column: Column, given: pl.Series) -> _Found:
    raw = as_text(given, column)
    text, repairs = cleaned(raw, column)
    if column.replace:
        replaced = text.replace(dict(column.replace))
        text, repairs["replaced"] = replaced, replaced != text
    named = text.is_in(list(column.nulls))
    if bool(named.any()):
        text = only(text, ~named)
        repairs = {what: flags & ~named for what, flags in repairs.items()}
    # Bytes that are not UTF-8 have no text, and yet are there.
    present = text.is_not_null() | (given.is_not_null() & raw.is_null())
    reasons: Mapping[str, pl.Series] = {}
    match column.type:
        case "text":
            value = text
        case "integer":
            value = integers(with_plain_signs(text, column))
        case "number":
            value = numbers(with_plain_signs(text, column))
        case "boolean":
            value = booleans(text)
        case "timestamp":
            found = moments(text, column)
            value, reasons = found.value, found.reasons
            if found.cut is not None:
                repairs["truncated"] = found.cut & value.is_not_null()
    return _Found(value, present, reasons, repairs)


def _outside(column: Column, value: pl.Series) -> pl.Series | None:
    """Which values lie outside the limits; None where there are no limits."""
    if column.type == "timestamp":
        return (value < FIRST) | (value >= END)
    low, high = limits(column)
    if low is None and high is None:
        return None
    outside = pl.Series([False]).new_from_index(0, value.len())
    if low is not None:
        outside |= value < low
    if high is not None:
        outside |= value > high
    return outside


def _clipped(column: Column, value: pl.Series) -> pl.Series:
    """Each value, or the limit that is nearer."""
    low, high = limits(column)
    if column.type == "integer":
        low, high = low if low is None else math.ceil(low), high if high is None else math.floor(high)
    return value.clip(low, high)


def limits(column: Column) -> tuple[float | None, float | None]:
    """The least and the greatest value of a column; of a number at most what a model holds, as it computes in float32.

    None where the type alone sets the limit.
    """
    if column.type != "number":
        return column.minimum, column.maximum
    low = -MAX_FLOAT32 if column.minimum is None else max(column.minimum, -MAX_FLOAT32)
    return low, MAX_FLOAT32 if column.maximum is None else min(column.maximum, MAX_FLOAT32)


@lru_cache(maxsize=1024)
def null_values(column: Column) -> pl.Series | None:
    """What the column's null texts are as values, so that -999 means null as an integer too; None if they are none."""
    if column.type not in ("integer", "number", "timestamp") or column.null_texts is None:
        return None
    texts = pl.Series(column.null_texts, dtype=pl.String)
    values: Any = (
        moments(texts, column).value
        if column.type == "timestamp"
        else (integers if column.type == "integer" else numbers)(with_plain_signs(texts, column))
    )
    return values.drop_nulls() if values.null_count() < len(texts) else None
