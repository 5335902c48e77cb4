"""The column contract: every row is accepted, repaired or refused with a reason, wherever it comes from.

Reasons are codes `column:what` and `rule:name`, joined by `;` when a row breaks several. How a value is read is in
`reading`.
"""

from datetime import datetime

import polars as pl

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.ingestion.reading import read_column
from mlops_ray.use_case import Source
from mlops_ray.use_case.user_code import user_code

REASON, REPAIRS = "__reason", "__repairs"
JUDGEMENT = {REASON: pl.String, REPAIRS: pl.String}
NOT_KNOWN_YET, KNOWN_AT_MISSING = "known_after_as_of", "known_at:missing"

KNOWN_AT = "__known_at"
_RULE = "__rule:"


def check_rows(frame: pl.DataFrame, source: Source, where: str, as_of: datetime | None) -> pl.DataFrame:
    """Judge every row of `frame`, in order, as of a moment: see `judge_rows`. What was not known then is refused."""
    rows = judge_rows(frame, source, where)
    if source.known_at is None or as_of is None:
        return rows.drop(KNOWN_AT, strict=False)
    late = pl.col(REASON).is_null() & (pl.col(KNOWN_AT) > as_of)
    return rows.with_columns(
        pl.when(late).then(pl.lit(NOT_KNOWN_YET)).otherwise(REASON).alias(REASON),
        pl.when(~late).then(REPAIRS).alias(REPAIRS),
    ).drop(KNOWN_AT)


def judge_rows(frame: pl.DataFrame, source: Source, where: str) -> pl.DataFrame:
    """Judge every row of `frame`, in order.

    The columns of the contract come typed, and derived ones with them, null in rows that are refused for a column of
    theirs; then, if the source has it, `__known_at` (UTC, microseconds), `__reason` (null: accepted) and `__repairs`
    (what was repaired; null: nothing). Columns that the contract does not name are left out. `where` says in errors
    what the rows are. Raises DataError when a column of the contract is missing or of a type that has no texts,
    UseCaseError when an expression of the source fails.
    """
    missing = [column.name for column in source.columns if column.name not in frame.columns]
    if missing:
        raise DataError(
            f"{where}: column {', '.join(missing)} is missing (it has {', '.join(frame.columns)}). "
            f"Repair the data, or take the column out of the contract."
        )
    readings = {column.name: read_column(column, frame[column.name], where) for column in source.columns}
    rows = pl.DataFrame({name: reading.value for name, reading in readings.items()})
    broken = {f"{name}:{what}": flags for name, r in readings.items() for what, flags in r.reasons.items()}
    repairs = {f"{name}:{what}": flags for name, r in readings.items() for what, flags in r.repairs.items()}

    accepted = ~_any(broken, frame.height)
    rows = _derived(rows, accepted, source, where)
    for name in source.rules:
        broken[f"rule:{name}"] = (~rows[_RULE + name]).fill_null(False)
    rows = rows.drop(pl.selectors.starts_with(_RULE))
    if source.known_at is not None:
        broken[KNOWN_AT_MISSING] = accepted & rows[KNOWN_AT].is_null()
    reason = _joined_codes(broken, frame.height)
    return rows.with_columns(
        reason.alias(REASON),
        pl.when(reason.is_null()).then(_joined_codes(repairs, frame.height)).alias(REPAIRS),
    )


def _derived(rows: pl.DataFrame, accepted: pl.Series, source: Source, where: str) -> pl.DataFrame:
    """The rows with what the source's expressions and rules make of the accepted ones; null in the others.

    Values of refused rows may be anything, and are not shown to the user's expressions.
    """
    if not (source.derived or source.rules or source.known_at is not None):
        return rows
    whole = bool(accepted.all())
    given = rows if whole else rows.filter(accepted)
    good = given
    for name, expression in source.derived.items():
        with user_code(f"{where}: derived column {name!r}"):
            good = good.with_columns(given.with_columns(expression.alias(name))[name])
    if source.known_at is not None:
        with user_code(f"{where}: known_at"):
            good = good.with_columns(source.known_at.alias(KNOWN_AT))
        found = good.schema[KNOWN_AT]
        if not (isinstance(found, pl.Datetime) and found.time_zone is not None):
            raise UseCaseError(f"{where}: known_at gives {found}. It must give moments with a time zone.")
        good = good.with_columns(pl.col(KNOWN_AT).cast(pl.Datetime("us", "UTC")))
    for name, rule in source.rules.items():
        with user_code(f"{where}: rule {name!r}"):
            good = good.with_columns(rule.alias(_RULE + name))
    if whole:
        return good
    made = good.select(pl.exclude(rows.columns))
    return rows.with_columns(_spread(column, accepted) for column in made)


def _spread(values: pl.Series, where: pl.Series) -> pl.Series:
    """One value after another where the flag is set, and null elsewhere."""
    number = pl.DataFrame({"where": where}).select(pl.when("where").then(pl.col("where").cum_sum() - 1)).to_series()
    return values.gather(number)


def _any(flags: dict[str, pl.Series], rows: int) -> pl.Series:
    raised = pl.Series([False]).new_from_index(0, rows)
    for flag in flags.values():
        raised |= flag
    return raised


def _joined_codes(flags: dict[str, pl.Series], rows: int) -> pl.Series:
    """The codes whose flag is set, for each row; null where none is."""
    raised = {code: flag for code, flag in flags.items() if flag.any()}
    if not raised:
        return pl.Series([None], dtype=pl.String).new_from_index(0, rows)
    # Few rows have any: texts are joined for these alone.
    some = _any(raised, rows)
    codes = [pl.when(pl.col(code)).then(pl.lit(code)) for code in raised]
    text = pl.DataFrame(raised).filter(some).select(pl.concat_str(codes, separator=";", ignore_nulls=True)).to_series()
    return _spread(text, some)
