"""Feature rows as histories: the point-in-time join over the views of a service, from the files of their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from mlops_ray.artifacts import read_parquet
from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import DTYPES, PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.point_in_time import History, join_point_in_time


def history_of(view: View, url: str) -> History:
    """The rows of a view with the names of its definition; `keys` says with which entities they are compared.

    Raises UseCaseError where a column of the rows is not of the definition's type.
    """
    named = {name: view.columns.get(name, name) for name in (*view.keys, *view.fields)}
    moments = [PREDICTION_TIME, *([view.created] if view.created else [])]
    read = read_parquet(url)
    for name, column in named.items():
        if read.schema.get(column) != DTYPES[view.types[name]]:
            raise UseCaseError(
                f"Feature view {view.name!r}: column {column!r} is {read.schema.get(column)} in the rows of {url}, and "
                f"{DTYPES[view.types[name]]} in the definition. Compute the rows again."
            )
    rows = read.select(*moments, **{name: pl.col(column) for name, column in named.items()})
    return History(
        rows=rows,
        timestamp=PREDICTION_TIME,
        keys=dict(zip(view.asked, view.keys, strict=True)),
        features=view.features,
        ttl=view.ttl,
        created=view.created,
    )


def join_features(entities: pl.DataFrame, views: Sequence[View], rows: Mapping[str, str]) -> pl.DataFrame:
    """The features of each row as of its `event_timestamp`; rows keep their order.

    rows: the URL of each view's rows. Keys are compared as they are, without a detour through floats. Raises
    UseCaseError where an entity's type is not that of the view's key.
    """
    histories = []
    for view in views:
        history = history_of(view, rows[view.name])
        for column, key in history.keys.items():
            given, wanted = entities.schema[column], history.rows.schema[key]
            if given != wanted and not (given.is_integer() and wanted.is_integer()):
                raise UseCaseError(
                    f"Feature view {view.name!r}: entity {column!r} is {given} in the use case and {wanted} in the "
                    f"view's rows. Give both the same type."
                )
            if given != wanted:  # integers of two widths
                entities = entities.with_columns(pl.col(column).cast(pl.Int64))
                history = replace(history, rows=history.rows.with_columns(pl.col(key).cast(pl.Int64)))
        histories.append(history)
    return join_point_in_time(entities, PREDICTION_TIME, histories)
