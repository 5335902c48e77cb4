"""Feast's offline store as mlops_ray has it, for Feast's own SDK and commands."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa

from mlops_ray.artifacts import read_parquet
from mlops_ray.errors import DataError
from mlops_ray.features.feast import (
    DUMMY_ENTITY_ID,
    DUMMY_ENTITY_VAL,
    FeastConfigBaseModel,
    FeatureView,
    FileSource,
    OfflineStore,
    OnDemandFeatureView,
    RepoConfig,
    RetrievalJob,
    RetrievalMetadata,
    duckdb_offline_store,
    infer_event_timestamp_from_entity_df,
)
from mlops_ray.features.point_in_time import History, join_point_in_time

_MOMENT = pl.Datetime("us", "UTC")
_EXACT_FLOAT = 2**53  # beyond it a float stands for several integers


class AsOfOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The options of Feast's DuckDB store."""

    type: Literal["mlops_ray.features.offline_store.AsOfOfflineStore"] = (
        "mlops_ray.features.offline_store.AsOfOfflineStore"
    )
    staging_location: str | None = None
    staging_location_endpoint_override: str | None = None


class Rows(RetrievalJob):  # type: ignore[misc]
    """Rows that are already there, in the form in which Feast asks for the result of a query."""

    def __init__(
        self,
        frame: pl.DataFrame,
        full_feature_names: bool = False,
        on_demand: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ):
        super().__init__()
        self._frame, self._full_feature_names = frame, full_feature_names
        self._on_demand, self._metadata = list(on_demand), metadata

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._frame.to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._frame.to_arrow(compat_level=pl.CompatLevel.oldest())

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata


def _of_duckdb(name: str) -> Any:
    """A method of Feast's DuckDB store, which is imported when it is called."""

    def method(*arguments: Any, **named: Any) -> Any:
        return getattr(duckdb_offline_store(), name)(*arguments, **named)

    return staticmethod(method)


class AsOfOfflineStore(OfflineStore):  # type: ignore[misc]
    """Feast's DuckDB store with an as-of join in place of its inequality join, reading wherever artifacts may lie.

    The inequality join pairs each row with all events of its key within the ttl and then drops all but the newest:
    100 thousand flights with their airport's departures of 7 days took more than 18 GB. And DuckDB reads object
    stores through an extension that it downloads when it runs. Where Feast is given SQL instead of rows, or a range of
    time instead of entities, its own join answers.
    """

    supports_filter_by_created_timestamp = True
    pull_all_from_table_or_query = _of_duckdb("pull_all_from_table_or_query")
    offline_write_batch = _of_duckdb("offline_write_batch")
    write_logged_features = _of_duckdb("write_logged_features")
    compute_monitoring_metrics = _of_duckdb("compute_monitoring_metrics")
    get_monitoring_max_timestamp = _of_duckdb("get_monitoring_max_timestamp")
    ensure_monitoring_tables = _of_duckdb("ensure_monitoring_tables")
    save_monitoring_metrics = _of_duckdb("save_monitoring_metrics")
    query_monitoring_metrics = _of_duckdb("query_monitoring_metrics")
    clear_monitoring_baseline = _of_duckdb("clear_monitoring_baseline")

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: FileSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        rows = read_parquet(data_source.path).select(*join_key_columns, *feature_name_columns, *order)
        inside = rows.filter(pl.col(timestamp_field).is_between(start_date.astimezone(UTC), end_date.astimezone(UTC)))
        ordered = inside.sort(order, maintain_order=True)
        if join_key_columns:
            return Rows(ordered.unique(join_key_columns, keep="last", maintain_order=True))
        return Rows(ordered.tail(1).with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID)))

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **further: Any,
    ) -> RetrievalJob:
        if not isinstance(entity_df, pd.DataFrame):
            return duckdb_offline_store().get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names,
                filter_by_created_timestamp=filter_by_created_timestamp, **further,
            )  # fmt: skip
        moment = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        moments = pd.to_datetime(entity_df[moment], utc=True)
        entities = pl.from_pandas(entity_df.assign(**{moment: moments})).with_columns(pl.col(moment).cast(_MOMENT))
        histories = [
            _history(view, feature_refs, full_feature_names, filter_by_created_timestamp) for view in feature_views
        ]
        for history in histories:
            entities = _with_keys_of(entities, history)
        return Rows(
            join_point_in_time(entities, moment, histories),
            full_feature_names,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            RetrievalMetadata(feature_refs, [name for name in entity_df.columns if name != moment]),
        )


def _history(view: FeatureView, feature_refs: Sequence[str], full_names: bool, by_created: bool) -> History:
    """by_created: rows that were created after a moment do not count at it; else `created` only decides between rows
    that share keys and timestamp."""
    source, name = view.batch_source, view.projection.name_to_use()
    columns = {new: old for old, new in source.field_mapping.items()}
    features = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == name]
    fields = [entity for entity in view.entity_columns if entity.name != DUMMY_ENTITY_ID]
    keys = {entity.name: view.projection.join_key_map.get(entity.name, entity.name) for entity in fields}
    named = {f"{name}__{feature}" if full_names else feature: columns.get(feature, feature) for feature in features}
    created = source.created_timestamp_column or None
    read = read_parquet(source.path)
    moments = [source.timestamp_field, *([created] if created else [])]
    rows = read.select(
        *(_moment(read, column) for column in moments),
        *(pl.col(columns.get(key, key)).alias(key) for key in keys),
        **{new: pl.col(old) for new, old in named.items()},
    )
    whole = [key for key in keys if rows.schema[key].is_integer()]
    return History(
        rows=rows.with_columns(pl.col(whole).cast(pl.Int64)).sort(moments, maintain_order=True),
        timestamp=source.timestamp_field,
        keys={column: key for key, column in keys.items()},
        features=list(named),
        ttl=view.ttl or None,  # Feast's ttl of 0: for ever
        created=created if by_created else None,
    )


def _moment(rows: pl.DataFrame, column: str) -> pl.Expr:
    """Moments in UTC, also from texts, which Feast takes."""
    given = pl.col(column)
    return given.str.to_datetime(time_zone="UTC", time_unit="us") if rows.schema[column] == pl.String else given


def _with_keys_of(entities: pl.DataFrame, history: History) -> pl.DataFrame:
    """The entity rows with keys of the types that the view's rows have.

    pandas has no way but floats to leave out integers of NumPy's types. Raises DataError for floats that are none, or
    are beyond 2^53, where a float stands for several integers; and for keys of another kind.
    """
    for column, key in history.keys.items():
        given, wanted = entities[column], history.rows.schema[key]
        if given.dtype.is_integer() and wanted.is_integer():
            entities = entities.with_columns(pl.col(column).cast(wanted))
        elif given.dtype.is_float() and wanted.is_integer():
            known = given.fill_nan(None).drop_nulls()
            if (known != known.floor()).any() or (known.abs() >= _EXACT_FLOAT).any():
                raise DataError(
                    f"Entity column {column!r} has floats that name no integer exactly, such as "
                    f"{known.abs().max()!s}. Give it the type Int64 of pandas, which leaves values out without floats."
                )
            entities = entities.with_columns(pl.col(column).fill_nan(None).cast(wanted))
        elif isinstance(given.dtype, pl.Null):
            entities = entities.with_columns(pl.col(column).cast(wanted))
        elif given.dtype != wanted:
            raise DataError(f"Entity column {column!r} is {given.dtype}, and in the feature view's rows {wanted}.")
    return entities
