"""Texts: what a value of any type is as a text of a CSV file, and the one form in which texts are compared."""

import polars as pl

from mlops_ray.use_case import Column
from mlops_ray.use_case.column import TRIMMED


def cleaned(text: pl.Series, column: Column) -> tuple[pl.Series, dict[str, pl.Series]]:
    """The texts in their normal form, and which of them were changed: `normalized`, `trimmed`.

    Only texts are normalized; of a number or a moment nothing but its ends matters.
    """
    if column.text_form == "exact":
        return text, {}
    changed = {}
    normal = text
    if column.type == "text" and bool((text.str.len_bytes() != text.str.len_chars()).any()):
        normal = text.str.normalize("NFC" if column.text_form == "nfc" else "NFKC")
        changed["normalized"] = normal != text
    trimmed = normal.str.strip_chars(TRIMMED)
    changed["trimmed"] = trimmed != normal
    return trimmed, changed


def as_text(given: pl.Series, column: Column) -> pl.Series:
    """Each value as the text that a CSV file would hold; null stays null.

    A nested value is its JSON. Bytes are UTF-8; a value that is not is null here (see `undecodable`).
    Raises PolarsError for a type that has no text.
    """
    dtype = given.dtype
    if dtype == pl.String:
        return given
    if dtype.is_float():
        text = given.cast(pl.Float64).cast(pl.String)
        return text.str.replace(".", ",", literal=True) if column.decimal_comma else text
    if dtype.is_decimal():
        text = given.cast(pl.String)
        return text.str.replace(".", ",", literal=True) if column.decimal_comma else text
    if dtype == pl.Binary:
        return pl.Series(given.name, [_decoded(value) for value in given], dtype=pl.String)
    if dtype == pl.Duration or isinstance(dtype, pl.Datetime):
        return given.dt.to_string("iso")
    if dtype.is_nested():
        whole = pl.DataFrame({"v": given}).select(pl.struct("v").struct.json_encode().str.slice(5)).to_series()
        text = whole.str.head(-1)
        return pl.DataFrame({"text": text, "given": given.is_not_null()}).select(
            pl.when("given").then("text").alias(given.name)
        )[given.name]
    return given.cast(pl.String)


def undecodable(given: pl.Series, text: pl.Series) -> pl.Series:
    """Which values have no text: bytes that are not UTF-8."""
    return given.is_not_null() & text.is_null()


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
