"""A value that somebody is erased by: given as text, sought in columns of any type."""

import math
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl


def read_as(text: str, dtype: pl.DataType) -> Any:
    """What a text says as a value of a type: a number however it is written, a moment of ISO 8601 (without an offset:
    UTC), `true` or `false`; else the text. None if no value of the type is meant."""
    # What is no number is a ValueError to float, and an ArithmeticError to Decimal.
    with suppress(ValueError, ArithmeticError):
        if dtype.is_float():
            number = pl.Series([float(text)]).cast(dtype)[0]
            return number if math.isfinite(number) else None
        if dtype.is_integer():
            exact = Decimal(text)
            return int(exact) if abs(exact) < 2**63 and exact == exact.to_integral_value() else None
        if isinstance(dtype, pl.Datetime):
            moment = datetime.fromisoformat(text)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        return {"true": True, "false": False}.get(text) if dtype == pl.Boolean else text
    return None


def is_value(column: pl.Series, text: str) -> pl.Series:
    """Of each value of a column whether it is what a text says (see `read_as`); null never is."""
    value = read_as(text, column.dtype)
    if value is None:
        return pl.Series([False]).new_from_index(0, len(column))
    values = column.cast(pl.String, strict=False) if isinstance(value, str) else column
    return (values == pl.Series([value])).fill_null(False)
