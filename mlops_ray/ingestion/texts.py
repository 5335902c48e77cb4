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

    A nested value is its JSON. Bytes are UTF-8; a value that is not has no text, and is null here.
    Raises PolarsError for a type that has no text.
    """
    dtype = given.dtype
    if dtype == pl.String:
        return given
    if dtype.is_float() or dtype.is_decimal():
        text = (given.cast(pl.Float64) if dtype.is_float() else given).cast(pl.String)
        return text.str.replace(".", ",", literal=True) if column.decimal_comma else text
    if dtype == pl.Binary:
        return pl.Series(given.name, [_decoded(value) for value in given], dtype=pl.String)
    if dtype == pl.Duration or isinstance(dtype, pl.Datetime):
        return given.dt.to_string("iso")
    if dtype.is_nested():
        # Only structs are written as JSON: the value is what stands in {"v":...}.
        json = pl.struct(v="given").struct.json_encode().str.slice(5).str.head(-1)
        frame = pl.DataFrame({"given": given})
        return frame.select(pl.when(pl.col("given").is_not_null()).then(json)).to_series()
    return given.cast(pl.String)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
