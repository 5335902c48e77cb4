"""Expressions of a use case, tried where they are declared on a frame without rows: columns and types."""

from collections.abc import Mapping

import polars as pl

from mlops_ray.errors import UseCaseError, nearest
from mlops_ray.use_case.column import ColumnType
from mlops_ray.use_case.user_code import user_code

COLUMN_DTYPES: Mapping[ColumnType, pl.DataType] = {
    "text": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "timestamp": pl.Datetime("us", "UTC"),
}


def dtype_of(expression: pl.Expr, columns: Mapping[str, pl.DataType], place: str, what: str) -> pl.DataType:
    """The type that the expression gives over a frame with these columns.

    place: such as "Use case x: label". what: the columns are, such as "source 'flights'". Raises UseCaseError if it
    names another column, gives several, or polars (or a function of the user's in it) refuses it.
    """
    if expression.meta.has_multiple_outputs():
        raise UseCaseError(f"{place} names several columns at once. Write one expression for one column.")
    if unknown := [name for name in expression.meta.root_names() if name not in columns]:
        raise UseCaseError(f"{place}: column {unknown[0]!r} is not in {what}. {nearest(unknown[0], columns)}")
    with user_code(place):
        return pl.DataFrame(schema=columns).select(value=expression).schema["value"]


def is_of_one_row(expression: pl.Expr) -> bool:
    """Whether its value for a row depends on that row alone: no mean, no shift, no rank, no filter.

    An expression with a Python function in it is believed.
    """
    meta = expression.meta
    if meta.is_literal():
        return True
    try:  # polars answers for the outermost operation alone
        alone = meta.is_row_separable() and (meta.is_length_preserving() or meta.is_scalar())
    except pl.exceptions.PolarsError:  # a Python function, which polars cannot see through
        alone = True
    return alone and all(is_of_one_row(part) for part in meta.pop())


def calls_python(expression: pl.Expr) -> bool:
    """Whether a function of the user's is called in it."""
    return '"AnonymousFunction"' in expression.meta.serialize(format="json")
