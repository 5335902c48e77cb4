"""Moments from texts: ISO 8601, a format of the column's own, or a number since 1970; with a zone, or in local time."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import polars as pl

from mlops_ray.ingestion.numbers import integers, only
from mlops_ray.use_case import Column

FIRST, END = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)

_UTC = pl.Datetime("us", "UTC")
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# The years 1 to 9999 in seconds since 1970. Arithmetic beyond them panics in polars, and all are out of range anyway.
_NEAR_S = -62_135_596_800, 253_402_300_799
_SHORTEST_CUT = 20  # bytes: a moment with seven digits behind the second is longer in any format
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
_LOCAL = rf"\A[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([Tt ]{_TIME})?\z"
_ZONED = rf"\A[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[Tt ]{_TIME} ?([Zz]|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)\z"
_ZONED_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
_WIDTHS = {"%Y": 4, "%j": 3, **dict.fromkeys(("%y", "%m", "%d", "%H", "%I", "%M", "%S"), 2)}
_WORDS = ("%a", "%A", "%b", "%B", "%h", "%p", "%P")
_LOCAL_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


@dataclass(frozen=True)
class Moments:
    """Moments in UTC, null where there is none; why not, by reason; and of which of them digits were cut off."""

    value: pl.Series
    reasons: dict[str, pl.Series] = field(default_factory=dict)
    cut: pl.Series | None = None


def moments(text: pl.Series, column: Column) -> Moments:
    """Read texts as the column says; a text of ISO 8601 with an offset is read in any case."""
    if column.unit is not None:
        epochs = _since_1970(integers(text), column)
        return Moments(_or_zoned(epochs.value, text), cut=_either(epochs.cut, _cut(text)))
    if column.format is None and column.time_zone is None:
        return Moments(_zoned(text), cut=_cut(text))
    if column.format is not None and column.format_has_offset:
        return Moments(_or_zoned(_in_format(text, column.format, _UTC), text), cut=_cut(text))
    if column.format is not None:
        local = _in_format(text, column.format, pl.Datetime("us"))
        if local.null_count() > text.null_count() and not _begins_like_iso(column.format):
            local = local.fill_null(_gated(only(text, local.is_null()), _LOCAL, _LOCAL_FORMATS, pl.Datetime("us")))
    else:
        local = _gated(text, _LOCAL, _LOCAL_FORMATS, pl.Datetime("us"))
    found = localized(local, column)
    return Moments(_or_zoned(found.value, text), found.reasons, _cut(text))


@cache
def _begins_like_iso(format_: str) -> bool:
    """Whether what a format refuses could be a moment of ISO 8601 by mistake, as with `%Y-%d-%m`."""
    written = pl.Series([datetime(2001, 2, 3)]).dt.to_string(format_)
    return bool(written.str.contains(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}").item())


def _cut(text: pl.Series) -> pl.Series | None:
    """Which texts say more than microseconds."""
    longest: Any = text.str.len_bytes().max()
    return text.str.contains(r"[.,][0-9]{6}[0-9]*[1-9]") if (longest or 0) > _SHORTEST_CUT else None


def _either(one: pl.Series | None, other: pl.Series | None) -> pl.Series | None:
    """One flag or both, where there is one."""
    if one is None or other is None:
        return other if one is None else one
    return one | other


def localized(local: pl.Series, column: Column) -> Moments:
    """Local times of the column's zone as moments; around a change of the clock by the column's policy."""
    zone, policy, local = str(column.time_zone), column.clock_change, near(local)
    plain = local.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    value = plain.dt.convert_time_zone("UTC")
    if value.null_count() == local.null_count():
        return Moments(value)
    open_ = value.is_null() & local.is_not_null()
    earliest, latest = (
        local.dt.replace_time_zone(zone, ambiguous=which, non_existent="null").dt.convert_time_zone("UTC")
        for which in ("earliest", "latest")
    )
    twice, never = open_ & earliest.is_not_null(), open_ & earliest.is_null()
    if policy == "reason":
        return Moments(value, {"ambiguous_time": twice, "nonexistent_time": never})
    chosen = value.fill_null(earliest if policy == "earliest" else latest)
    if bool(never.any()):
        chosen = chosen.fill_null(_beside_the_gap(local, zone, policy))
    return Moments(chosen)


def near(times: pl.Series) -> pl.Series:
    """Dates and times, with those before the year 1 and after 9999 moved there."""
    dtype = times.dtype
    if dtype == pl.Date:
        low, high = (limit // 86_400 for limit in _NEAR_S)
    elif isinstance(dtype, pl.Datetime) and dtype.time_unit != "ns":
        low, high = (limit * _PER_SECOND[dtype.time_unit] for limit in _NEAR_S)
    else:
        return times
    return times.to_physical().clip(low, high).cast(dtype)


def _beside_the_gap(local: pl.Series, zone: str, policy: str) -> pl.Series:
    """Local times that a change of the clock leaves out, read with the offsets before and after it.

    The offset that holds when the local time is taken for UTC is one of the two, as changes are more than a day apart;
    the moment that it makes lies on the other side of the change, and so has the other offset.
    """
    one = _offset(local, zone)
    other = _offset(local - one, zone)
    frame = pl.DataFrame({"local": local, "one": one, "other": other})
    offset = pl.max_horizontal("one", "other") if policy == "earliest" else pl.min_horizontal("one", "other")
    return frame.select(pl.col("local") - offset).to_series().dt.replace_time_zone("UTC")


def _offset(utc: pl.Series, zone: str) -> pl.Series:
    return utc.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).dt.replace_time_zone(None) - utc


def _since_1970(count: pl.Series, column: Column) -> Moments:
    per_second = _PER_SECOND[str(column.unit)]
    if column.unit == "ns":
        return Moments((count // 1000).cast(_UTC), cut=count % 1000 != 0)
    low, high = (limit * per_second for limit in _NEAR_S)
    return Moments((count.clip(low, high) * (10**6 // per_second)).cast(_UTC))


def _or_zoned(value: pl.Series, text: pl.Series) -> pl.Series:
    """The value, or where there is none what ISO 8601 with an offset makes of the text."""
    if value.null_count() == text.null_count():
        return value
    return value.fill_null(_zoned(only(text, value.is_null())))


def _zoned(text: pl.Series) -> pl.Series:
    return _gated(text, _ZONED, _ZONED_FORMATS, _UTC)


def _gated(text: pl.Series, pattern: str, formats: tuple[str, ...], dtype: pl.Datetime) -> pl.Series:
    """Texts that fit the pattern: chrono alone would also take leap seconds, other digits and missing zeros."""
    fits = text.str.contains(pattern)
    right = text if bool(fits.all()) else only(text, fits)
    return _parsed(right.str.replace("[Tt]", " "), formats, dtype)


def _in_format(text: pl.Series, format_: str, dtype: pl.Datetime) -> pl.Series:
    pattern = _side_by_side(format_)
    return _parsed(text if pattern is None else only(text, text.str.contains(pattern)), (format_,), dtype)


@cache
def _side_by_side(format_: str) -> str | None:
    """What texts must match where numbers of a format stand side by side, which chrono would part at will; else None.

    `%Y%m%d` takes eight digits: of 2025115 nobody knows the month.
    """
    tokens = re.findall(r"%[-_0]?[:#.]*[0-9]?.|.", format_, re.DOTALL)
    kinds = "".join(map(_kind, tokens))
    runs = [run.span() for run in re.finditer("n{2,}", kinds)]
    if not runs or re.search("[?z]nn|nn[?]", kinds):
        return None
    digits = [f"[0-9]{{{sum(_WIDTHS[token] for token in tokens[first:end])}}}" for first, end in runs]
    before = "" if kinds.startswith("nn") else "(.*[^0-9])"
    after = "" if kinds.endswith("nn") else "([^0-9].*)?"
    return rf"(?s)\A{before}{'[^0-9](.*[^0-9])?'.join(digits)}{after}\z"


def _kind(token: str) -> str:
    """Of a format's part: `n` a number of fixed width, `s` none that begins or ends with a digit, `z` none that begins
    with one, `?` any other."""
    if token in _WIDTHS:
        return "n"
    if token in _WORDS or not (token[0] == "%" or token.isdigit()):
        return "s"
    return "z" if token[-1] == "z" or token[1:2] == "." else "?"


def _parsed(text: pl.Series, formats: tuple[str, ...], dtype: pl.Datetime) -> pl.Series:
    value = pl.Series(text.name, [None], dtype=dtype).new_from_index(0, text.len())
    for format_ in formats:
        if value.null_count() == text.null_count():
            break
        found = text.str.to_datetime(format_, strict=False, time_unit="us", ambiguous="null")
        value = value.fill_null(found)
    return value
