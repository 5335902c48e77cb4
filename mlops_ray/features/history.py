"""Feature rows as histories: the point-in-time join over the views of a service, from the files of their rows."""

from collections.abc import Mapping, Sequence

import polars as pl

from mlops_ray.features.columns import DTYPES, PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.history_source import HistorySource, with_keys_of
from mlops_ray.features.point_in_time import History
from mlops_ray.features.slices import join


def source_of(view: View, url: str, names: Sequence[str]) -> HistorySource:
    """The rows of a view at a URL, with its keys and the fields in `names`, by the names of its definition."""
    wanted = [*view.keys, *names]
    return HistorySource(
        view=view.name,
        urls=(url,),
        timestamp=PREDICTION_TIME,
        columns={name: view.columns.get(name, name) for name in wanted},
        keys=dict(zip(view.asked, view.keys, strict=True)),
        features=view.features,
        ttl=view.ttl,
        created=view.created,
        types={name: DTYPES[view.types[name]] for name in wanted},
    )


def history_of(view: View, url: str) -> History:
    """The rows of a view with the names of its definition; `keys` says with which entities they are compared.

    Raises UseCaseError where a column of the rows is not of the definition's type.
    """
    return source_of(view, url, view.fields).read()


def sources_of(views: Sequence[View], rows: Mapping[str, str]) -> list[HistorySource]:
    """What a join with the features of these views reads. rows: the URL of each view's rows."""
    return [source_of(view, rows[view.name], view.features) for view in views]


def join_features(entities: pl.DataFrame, views: Sequence[View], rows: Mapping[str, str]) -> pl.DataFrame:
    """The features of each row as of its `event_timestamp`; rows keep their order.

    rows: the URL of each view's rows. Keys are compared as they are, without a detour through floats. Raises
    UseCaseError where an entity's type is not that of the view's key.
    """
    sources = sources_of(views, rows)
    return join(with_keys_of(entities, sources), PREDICTION_TIME, sources)
