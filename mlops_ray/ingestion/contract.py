"""The column contract: every row is accepted, repaired or refused with a reason, wherever it comes from.

Reasons are codes `column:what`, joined by `;` when a row breaks several rules.
"""

from datetime import datetime

import polars as pl

from mlops_ray.errors import DataError
from mlops_ray.use_case import Column, Source

_POLARS_TYPES: dict[str, pl.DataType] = {
    "text": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "timestamp": pl.Datetime("us", "UTC"),
}
NULL_TEXTS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
_BOOLEANS = {"true": True, "t": True, "1": True, "yes": True, "false": False, "f": False, "0": False, "no": False}

REASON, REPAIRS = "__reason", "__repairs"
NOT_KNOWN_YET = "known_after_as_of"
JUDGEMENT = {REASON: pl.String, REPAIRS: pl.String}


def check_rows(frame: pl.DataFrame, source: Source, where: str, as_of: datetime | None) -> pl.DataFrame:
    """Judge every row of `frame`, in order.

    The columns of the contract come typed, and derived ones with them; then `__reason` (null: accepted) and
    `__repairs` (what was repaired; null: nothing). Columns that the contract does not name are left out. `where` says
    in errors what the rows are. Raises DataError when a column of the contract is missing.
    """
    missing = [column.name for column in source.columns if column.name not in frame.columns]
    if missing:
        raise DataError(
            f"{where}: column {', '.join(missing)} is missing (it has {', '.join(frame.columns)}). "
            f"Repair the data, or take the column out of the contract."
        )
    raw = frame.select(column.name for column in source.columns)
    given = raw.with_columns(_cleaned(name) for name, type_ in raw.schema.items() if type_ == pl.String)
    given = given.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
    typed = given.select(_parse(column, given.schema[column.name]).alias(column.name) for column in source.columns)
    repaired = typed.with_columns(_repair(column).alias(column.name) for column in source.columns)
    derived = repaired.with_columns(**source.derived)

    broken = {code: flags for column in source.columns for code, flags in _broken(column, given, typed).items()}
    if source.known_at is not None and as_of is not None:
        broken[NOT_KNOWN_YET] = derived.select((source.known_at > as_of).fill_null(False)).to_series()
    repairs = {f"{name}:trimmed": _trimmed(raw[name], given[name]) for name in raw.columns}
    repairs |= {f"{name}:out_of_range": typed[name].is_not_null() & repaired[name].is_null() for name in raw.columns}
    reason = _joined_codes(broken, frame.height)
    return derived.with_columns(
        reason.alias(REASON),
        pl.when(reason.is_null()).then(_joined_codes(repairs, frame.height)).alias(REPAIRS),
    )


def _cleaned(name: str) -> pl.Expr:
    trimmed = pl.col(name).str.strip_chars()
    return pl.when(~trimmed.is_in(NULL_TEXTS)).then(trimmed).alias(name)


def _trimmed(raw: pl.Series, given: pl.Series) -> pl.Series:
    if raw.dtype != pl.String:
        return pl.repeat(False, raw.len(), eager=True)
    return (raw != given).fill_null(False)


def _broken(column: Column, given: pl.DataFrame, typed: pl.DataFrame) -> dict[str, pl.Series]:
    """For each rule of the column, which rows break it."""
    name, value = column.name, typed[column.name]
    outside = typed.select(_outside(column).alias(name))[name]
    unreadable = given[name].is_not_null() & value.is_null()
    rules = {
        "missing": given[name].is_null() if not column.nullable else None,
        f"not_{column.type}": unreadable,
        "out_of_range": outside if column.out_of_range == "quarantine" or not column.nullable else None,
        "not_a_choice": ~value.is_in(list(column.choices)) if column.choices else None,
        "pattern": ~value.str.contains(f"^(?:{column.pattern})$") if column.pattern else None,
    }
    return {f"{name}:{rule}": flags.fill_null(False) for rule, flags in rules.items() if flags is not None}


def _joined_codes(flags: dict[str, pl.Series], rows: int) -> pl.Series:
    """The codes whose flag is set, for each row; null where none is."""
    raised = {code: flag for code, flag in flags.items() if flag.any()}
    if not raised:
        return pl.Series([None], dtype=pl.String).new_from_index(0, rows)
    codes = [pl.when(pl.col(code)).then(pl.lit(code)) for code in raised]
    text = pl.DataFrame(raised).select(pl.concat_str(codes, separator=";", ignore_nulls=True)).to_series()
    return text.replace("", None)


def _parse(column: Column, given: pl.DataType) -> pl.Expr:
    """The value as its declared type; null where it cannot be read so."""
    value = pl.col(column.name)
    target = _POLARS_TYPES[column.type]
    if given != pl.String:
        if column.type == "timestamp" and isinstance(given, pl.Datetime) and given.time_zone is None:
            return pl.lit(None, target)
        return value.cast(target, strict=False)
    match column.type:
        case "integer":
            number = value.cast(pl.Float64, strict=False)
            exact = value.cast(pl.Int64, strict=False)
            whole = (number == number.floor()) & (number.abs() < 2**53)
            return pl.coalesce(exact, pl.when(whole).then(number).cast(pl.Int64, strict=False))
        case "number":
            number = value.cast(pl.Float64, strict=False)
            return pl.when(number.is_finite()).then(number)
        case "boolean":
            return value.str.to_lowercase().replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean)
        case "timestamp":
            return value.str.to_datetime("%+", time_unit="us", strict=False).dt.convert_time_zone("UTC")
        case _:
            return value


def _outside(column: Column) -> pl.Expr:
    value = pl.col(column.name)
    outside = pl.lit(False)
    if column.minimum is not None:
        outside |= value < column.minimum
    if column.maximum is not None:
        outside |= value > column.maximum
    return outside.fill_null(False)


def _repair(column: Column) -> pl.Expr:
    value = pl.col(column.name)
    return pl.when(~_outside(column)).then(value) if column.out_of_range == "null" else value
