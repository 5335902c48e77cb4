"""Feature rows as Feast's online stores take them."""

from datetime import datetime
from typing import Any

import polars as pl

from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.feast import EntityKey, FeatureView, python_values_to_proto_values

Row = tuple[Any, dict[str, Any], datetime, datetime | None]


def online_data(view: View, feast_view: FeatureView, rows: pl.DataFrame) -> list[Row]:
    """Entity key, values by feature, event timestamp and time of creation of each row, as protobuf messages.

    rows: keys, `event_timestamp` and fields, named and typed as in the definition.
    """
    types = {f.name: f.dtype.to_value_type() for f in [*feast_view.entity_columns, *feast_view.features]}
    columns = {name: python_values_to_proto_values(rows[name].to_list(), type_) for name, type_ in types.items()}
    found = zip(*(columns[key] for key in view.keys), strict=True)
    keys = [EntityKey(join_keys=view.keys, entity_values=values) for values in found]
    rows_of_fields = zip(*(columns[name] for name in view.fields), strict=True)
    values = [dict(zip(view.fields, row, strict=True)) for row in rows_of_fields]
    created = rows[view.created].to_list() if view.created else [None] * rows.height
    return list(zip(keys, values, rows[PREDICTION_TIME].to_list(), created, strict=True))
