"""Feast's objects made from definitions, and what other stages need to know of them."""

from collections.abc import Mapping

from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.feast import (
    Entity,
    EntityProto,
    FeatureService,
    FeatureServiceProto,
    FeatureView,
    FeatureViewProjection,
    FeatureViewProto,
    FileSource,
    ParseDict,
)


def view_of(view: FeatureView, projection: FeatureViewProjection) -> View:
    """The view as the projection of a feature service uses it."""
    keys, fields = view.join_keys, [field.name for field in view.features]
    mapped = {new: old for old, new in view.batch_source.field_mapping.items()}
    return View(
        name=view.name,
        keys=tuple(keys),
        asked=tuple(projection.join_key_map.get(key, key) for key in keys),
        features=tuple(field.name for field in projection.features),
        fields=tuple(fields),
        types={field.name: str(field.dtype) for field in [*view.entity_columns, *view.features]},
        ttl_s=view.ttl.total_seconds(),
        columns={name: mapped[name] for name in [*keys, *fields] if name in mapped},
        created=view.batch_source.created_timestamp_column or None,
    )


def objects_of(
    definitions: Definitions, rows: Mapping[str, str], tags: Mapping[str, str]
) -> list[Entity | FeatureView | FeatureService]:
    """What to apply to a registry: entities, views with the URLs of their rows, and the service with `tags`."""
    specs = definitions.specs
    entities = [Entity.from_proto(ParseDict({"spec": spec}, EntityProto())) for spec in specs["entities"].values()]
    views = [_view(spec, rows[name]) for name, spec in specs["views"].items()]
    service = FeatureService.from_proto(ParseDict({"spec": specs["service"]}, FeatureServiceProto()))
    service.tags = {**service.tags, **tags}
    for projection in service.feature_view_projections:
        source = next(view.batch_source for view in views if view.name == projection.name)
        projection.batch_source, projection.timestamp_field = source, source.timestamp_field
        projection.created_timestamp_column = source.created_timestamp_column
    return [*entities, *views, service]


def _view(spec: Mapping[str, object], url: str) -> FeatureView:
    given = dict(spec)
    source = given.pop("source", {})
    assert isinstance(source, dict)
    message = ParseDict({"spec": given}, FeatureViewProto())
    located = FileSource(
        name=message.spec.name,
        path=url,
        timestamp_field=PREDICTION_TIME,
        created_timestamp_column=source.get("created_timestamp_column"),
        field_mapping=source.get("field_mapping"),
    )
    message.spec.batch_source.CopyFrom(located.to_proto())
    return FeatureView.from_proto(message)
