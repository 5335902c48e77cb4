"""Kinds: what the texts of a file without a contract can be read as, by the rules of the contract."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from mlops_ray.ingestion.reading import read_column
from mlops_ray.use_case import Column
from mlops_ray.use_case.column import NULL_TEXTS, TRIMMED

# Read in this order: a text is of the first kind that takes it. A moment with an offset is a `timestamp`.
_COLUMNS: Mapping[str, Column] = {
    "integer": Column("x", "integer", nullable=True, null_texts=()),
    "number": Column("x", "number", nullable=True, null_texts=()),
    "thousands": Column("x", "number", nullable=True, null_texts=(), thousands=","),
    "decimal_comma": Column("x", "number", nullable=True, null_texts=(), decimal_comma=True, thousands="."),
    "boolean": Column("x", "boolean", nullable=True, null_texts=()),
    "timestamp": Column("x", "timestamp", nullable=True, null_texts=()),
    "local_time": Column("x", "timestamp", nullable=True, null_texts=(), time_zone="UTC"),
}
# Of timestamps that are not ISO 8601; several can read the same text.
FORMATS = (
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%Y/%m/%d",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
    "%b %d %Y",
    "%d %b %Y",
)
_FORMATTED = {
    format_: Column(
        "x", "timestamp", nullable=True, null_texts=(), time_zone="UTC", format=format_, clock_change="latest"
    )
    for format_ in FORMATS
}
# Only such texts are tried with formats and as numbers with a comma.
_LIKE_A_DATE = r"\A\p{L}{0,3} ?[0-9]{1,4}[/. -]"
_LIKE_A_COMMA = r"\A[+-]?[0-9.,]*,[0-9.]+\z"
_WITH_A_COMMA = ("thousands", "decimal_comma")
# What a number would lose: leading zeros, or the last digits of what 64 bits do not hold.
_ZEROS_FIRST, _LONG = r"\A0[0-9]+\z", r"\A[+-]?[0-9]{19,}\z"
# No text is both a moment and something else, so that these may come first.
_COLUMNS_OF_TIME = ("timestamp", "local_time")
_LIKE_ISO = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}"
_NULLS = list(NULL_TEXTS)


@dataclass(frozen=True)
class Sorted:
    """Different texts of a column by what they can be read as.

    kind: of each, a key of the contract's types or `text`, `null_text`, `digits` (which a number would not keep: 0501,
    or what 64 bits do not hold). number, moment: its value, where it has one.
    formats: of how many rows each format reads the text.
    """

    kind: pl.Series
    number: pl.Series
    moment: pl.Series
    formats: Mapping[str, int]


def sort_texts(texts: pl.Series, counts: pl.Series) -> Sorted:
    """Sort different texts, none of them null or empty; counts: how many rows have each."""
    frame = pl.DataFrame({"text": texts}).with_row_index("at")
    rest = frame.filter(~pl.col("text").is_in(_NULLS))
    found = [frame.filter(pl.col("text").is_in(_NULLS)).select("at", kind=pl.lit("null_text"))]
    trimmed = pl.col("text").str.strip_chars(TRIMMED)
    beyond = trimmed.str.contains(_LONG) & trimmed.cast(pl.Int64, strict=False).is_null()
    digits = trimmed.str.contains(_ZEROS_FIRST) | beyond
    found.append(rest.filter(digits).select("at", kind=pl.lit("digits")))
    rest = rest.filter(~digits)
    dates_first = len(rest) > 0 and bool(rest["text"].head(1).str.contains(_LIKE_ISO).item())
    for kind in sorted(_COLUMNS, key=_COLUMNS_OF_TIME.__contains__, reverse=dates_first):
        column = _COLUMNS[kind]
        if kind in _WITH_A_COMMA and not bool(rest["text"].str.contains(_LIKE_A_COMMA).any()):
            continue
        value = read_column(column, rest["text"], "").value
        reads = value.is_not_null()
        name = "moment" if column.type == "timestamp" else "number"
        typed = value.cast(pl.Int64) if name == "moment" else value.cast(pl.Float64)
        found.append(rest.with_columns(typed.alias(name), kind=pl.lit(kind)).filter(reads).drop("text"))
        rest = rest.filter(~reads)
        if rest.is_empty():
            break
    formats = _formats(rest, counts)
    found.append(rest.select("at", kind=pl.lit("text")))
    schema = {"at": pl.UInt32, "kind": pl.String, "number": pl.Float64, "moment": pl.Int64}
    both = pl.concat([pl.DataFrame(schema=schema), *found], how="diagonal").sort("at")
    return Sorted(both["kind"], both["number"], both["moment"], formats)


def _formats(rest: pl.DataFrame, counts: pl.Series) -> dict[str, int]:
    dates = rest.filter(pl.col("text").str.contains(_LIKE_A_DATE))
    if dates.is_empty():
        return {}
    rows = counts.gather(dates["at"])
    read = {name: read_column(column, dates["text"], "").value.is_not_null() for name, column in _FORMATTED.items()}
    return {name: int(rows.filter(reads).sum()) for name, reads in read.items() if reads.any()}
