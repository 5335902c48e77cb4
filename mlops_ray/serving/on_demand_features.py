"""On-demand features: what a model computes of the request and of what the online store knows of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mlops_ray.features.on_demand import with_on_demand
from mlops_ray.registry.model_schema import ModelSchema


class OnDemandFeatures:
    """Evaluates a model's on-demand expressions, by the function that training computes them with."""

    def __init__(self, schema: ModelSchema):
        self._columns, self._expressions = schema.on_demand_columns(), schema.on_demand_expressions()
        self._given = {*schema.entities, schema.event_time} - {feature.name for feature in schema.features}

    def added_to(self, rows: Sequence[Mapping[str, Any]], features: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Each row's features with those on demand. rows: validated request columns; a feature may be missing."""
        given = [
            [row.get(name) if name in self._given else found.get(name) for name in self._columns]
            for row, found in zip(rows, features, strict=True)
        ]
        frame = pl.DataFrame(given, schema=self._columns, orient="row", strict=False)
        computed = with_on_demand(frame, self._expressions).select(list(self._expressions)).to_dicts()
        return [{**found, **more} for found, more in zip(features, computed, strict=True)]
