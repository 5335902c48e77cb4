"""Request features: what a model computes from the columns of the request alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mlops_ray.errors import ModelError
from mlops_ray.use_case.expressions import calls_python

MAX_REMEMBERED = 4_096


class RequestFeatures:
    """Evaluates the expressions that the model was trained with, over validated rows.

    An expression gives the same for the same values of its columns, and polars takes 0.1 ms to say so for one row, so
    what a row gave is remembered. Not where a number may be a fraction: 0.0 and -0.0 are one key and two values. Nor
    where a function of the user's is called, of which nothing is known.
    """

    def __init__(self, expressions: Sequence[pl.Expr], columns: Mapping[str, pl.DataType]):
        """columns: those that a request has."""
        self._expressions = list(expressions)
        roots = {root for expression in expressions for root in expression.meta.root_names()}
        self._roots = {name: dtype for name, dtype in columns.items() if name in roots}
        self._remembers = not (
            any(dtype.is_float() for dtype in self._roots.values()) or any(map(calls_python, expressions))
        )
        self._remembered: dict[tuple[Any, ...], dict[str, Any]] = {}
        if expressions and not roots:  # constants
            self._remembered[()] = pl.select(expressions).to_dicts()[0]

    def of(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The value of each expression by name, for each row. Nobody may change them. Raises ModelError if polars
        panics."""
        if not self._expressions:
            return [{} for _ in rows]
        given = [tuple([row[name] for name in self._roots]) for row in rows]
        found = [self._remembered.get(values) for values in given]
        if None not in found:
            return found  # type: ignore[return-value]
        request = pl.DataFrame(given, schema=self._roots, orient="row")
        # In sequence: handing one row to polars' thread pool costs more than the arithmetic.
        try:
            computed = request.select_seq(self._expressions).to_dicts()
        except pl.exceptions.PanicException as error:
            raise ModelError(f"An expression of the model cannot be computed: {error}") from error
        if self._remembers:
            if len(self._remembered) + len(rows) > MAX_REMEMBERED:
                self._remembered = {}
            self._remembered.update(zip(given, computed, strict=True))
        return computed
