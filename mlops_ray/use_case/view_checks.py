"""What feature views must say so that they can be computed and divided, known before any data is read."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from mlops_ray.errors import UseCaseError, nearest
from mlops_ray.use_case.aggregation import Aggregation
from mlops_ray.use_case.declared_types import expect_types
from mlops_ray.use_case.divided_view import DividedView
from mlops_ray.use_case.expressions import dtype_of, is_of_one_row
from mlops_ray.use_case.window_values import value_dtype
from mlops_ray.use_case.windowed_view import WindowedView

if TYPE_CHECKING:
    from mlops_ray.use_case.use_case import UseCase

Types = Mapping[str, Mapping[str, pl.DataType]]


def check_views(case: "UseCase", types: Types) -> None:
    """Raise UseCaseError for the first view that names what is not there. types: of each source's columns."""
    for name, view in case.feature_views.items():
        place = f"Use case {case.name}: feature view {name!r}"
        if isinstance(view, WindowedView):
            _check_windowed(place, view, types)
        elif isinstance(view, DividedView):
            _check_divided(place, view, case, types)


def field_types(view: WindowedView, columns: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """The type of each feature of the view over a source with these columns."""
    return {
        name: value_dtype(one.statistic, pl.DataFrame(schema=columns).select(of=one.of).schema["of"])
        for name, one in view.aggregations.items()
    }


def _check_windowed(place: str, view: WindowedView, types: Types) -> None:
    expect_types(view, place)
    if view.source not in types:
        raise UseCaseError(f"{place}: {view.source!r} is no source. {nearest(view.source, types)}")
    columns = types[view.source]
    if not view.keys or not view.aggregations:
        raise UseCaseError(f"{place} has no keys or no aggregations. Give at least one of each.")
    for key in view.keys:
        if key not in columns:
            raise UseCaseError(f"{place}: key {key!r} is not in source {view.source!r}. {nearest(key, columns)}")
        if not (columns[key] == pl.String or columns[key].is_integer()):
            raise UseCaseError(f"{place}: key {key!r} is of type {columns[key]}. Take a text or a whole number.")
    for name, aggregation in view.aggregations.items():
        _check_aggregation(f"{place}: {name!r}", aggregation, columns, view.source)


def _check_aggregation(place: str, one: Aggregation, columns: Mapping[str, pl.DataType], source: str) -> None:
    expect_types(one, place)
    given = dtype_of(one.of, columns, place, f"source {source!r}")
    assert one.known_at is not None
    moment = dtype_of(one.known_at, columns, f"{place}: known_at", f"source {source!r}")
    if not isinstance(moment, pl.Datetime) or moment.time_zone is None:
        raise UseCaseError(f"{place}: known_at is of type {moment}, not a moment with a time zone. Give one.")
    for what, expression in (("its values are", one.of), ("known_at is", one.known_at)):
        if not is_of_one_row(expression):
            raise UseCaseError(f"{place}: {what} of several rows, but rows are divided. Write it over one row.")
    number = given.is_numeric() and not given.is_decimal()
    arithmetic, ordered = one.statistic in ("sum", "mean"), one.statistic in ("std", "min", "max")
    fits = number or (given == pl.Boolean and not ordered) or (given == pl.String and one.statistic == "last")
    if one.statistic != "count" and not fits:
        wanted = "a number or a condition" if arithmetic else "a number" if ordered else "a number, condition or text"
        raise UseCaseError(f"{place}: {one.statistic} of values of type {given}. It takes {wanted}.")


def _check_divided(place: str, view: DividedView, case: "UseCase", types: Types) -> None:
    if view.looks_back is not None and all(source.known_at is None for source in case.sources.values()):
        raise UseCaseError(
            f"{place} looks back {view.looks_back}, and no source says when its rows became known. Give one known_at, "
            f"or divide the view by columns."
        )
    if view.by and not any(set(view.by) <= set(columns) for columns in types.values()):
        raise UseCaseError(
            f"{place} is divided by {', '.join(view.by)}, and no source has them all. Name columns of one source."
        )
