"""Integers, numbers and booleans from their texts."""

import re

import polars as pl

from mlops_ray.use_case import Column

_EXACT_FLOAT = 2**53
_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}


def integers(text: pl.Series) -> pl.Series:
    """Whole numbers of 64 bits, exact; null for any other text.

    A whole number written as a float is one: 517.0 at any length, 5.17e2 as long as a float is exact.
    """
    value = text.cast(pl.Int64, strict=False)
    if value.null_count() == text.null_count():
        return value
    plain = text.str.replace(r"\A([+-]?[0-9]+)\.0*\z", "$1").cast(pl.Int64, strict=False)
    number = text.cast(pl.Float64, strict=False)
    whole = (number == number.floor()) & (number.abs() <= _EXACT_FLOAT) & text.str.contains("[eE]")
    whole &= (number != 0) | ~text.str.contains(r"\A[^eE]*[1-9]")  # 1e-400 is no 0
    scientific = only(number, whole).cast(pl.Int64)
    return value.fill_null(plain).fill_null(scientific)


def numbers(text: pl.Series) -> pl.Series:
    """Finite decimal numbers as float64; null for any other text."""
    return finite(text.cast(pl.Float64, strict=False))


def finite(value: pl.Series) -> pl.Series:
    return value if bool(value.is_finite().all()) else only(value, value.is_finite())


def only(value: pl.Series, where: pl.Series) -> pl.Series:
    """The values where the flag is set, and null elsewhere."""
    return value.zip_with(where, pl.Series([None], dtype=value.dtype).new_from_index(0, value.len()))


def booleans(text: pl.Series) -> pl.Series:
    """true, t, yes, y, 1, 1.0 and their opposites, in any case: 0/1 columns with gaps are exported as floats."""
    return text.str.to_lowercase().replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean)


def with_plain_signs(text: pl.Series, column: Column) -> pl.Series:
    """Numbers as the column writes them, with a decimal point and no separators; null where they are written wrongly.

    Separators are right in all places or in none: `1.234.567,5` and `1234567,5`, but not `1.23,5`, nor `0.123`.
    """
    if column.thousands is None and not column.decimal_comma:
        return text
    point = "," if column.decimal_comma else "."
    whole = r"[0-9]*"
    if column.thousands is not None:
        whole = rf"(?:[0-9]*|[1-9][0-9]{{0,2}}(?:{re.escape(column.thousands)}[0-9]{{3}})+)"
    right = text.str.contains(rf"\A[+-]?{whole}(?:{re.escape(point)}[0-9]*)?(?:[eE][+-]?[0-9]+)?\z")
    plain = text if column.thousands is None else text.str.replace_all(column.thousands, "", literal=True)
    if column.decimal_comma:
        plain = plain.str.replace(",", ".", literal=True)
    return only(plain, right)
