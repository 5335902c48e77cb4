"""Feast's offline store as mlops_ray has it, for Feast's own SDK and commands: one line of `feature_store.yaml`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import polars as pl

from mlops_ray.features.entity_rows import entity_rows, rows_of_query, rows_of_range, with_exact_keys
from mlops_ray.features.feast import (
    DUMMY_ENTITY_ID,
    DUMMY_ENTITY_VAL,
    FeastConfigBaseModel,
    FeatureView,
    FileSource,
    OfflineStore,
    OnDemandFeatureView,
    ParquetFormat,
    RepoConfig,
    RetrievalJob,
    RetrievalMetadata,
    compute_non_entity_date_range,
    duckdb_offline_store,
)
from mlops_ray.features.history_source import HistorySource, after, bounds
from mlops_ray.features.retrieval import Answer, Rows, url_of
from mlops_ray.features.slices import is_large, join, joined_slices, newest_between
from mlops_ray.features.spans import as_moment, read_between


class AsOfOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The options of Feast's DuckDB store."""

    type: Literal["mlops_ray.features.offline_store.AsOfOfflineStore"] = (
        "mlops_ray.features.offline_store.AsOfOfflineStore"
    )
    staging_location: str | None = None
    staging_location_endpoint_override: str | None = None


def _of_duckdb(name: str) -> Any:
    """A method of Feast's DuckDB store, which is imported when it is called."""

    def method(*arguments: Any, **named: Any) -> Any:
        return getattr(duckdb_offline_store(), name)(*arguments, **named)

    return staticmethod(method)


class AsOfOfflineStore(OfflineStore):  # type: ignore[misc]
    """Feast's file and DuckDB stores with an as-of join in place of their joins, reading wherever artifacts may lie.

    DuckDB's inequality join pairs each row with all events of its key within the ttl and then drops all but the newest:
    100 thousand flights with their airport's departures of 7 days took more than 18 GB. And DuckDB reads object stores
    through an extension that it downloads when it runs. Where a view's source is no Parquet (Delta, Iceberg, Lance),
    Feast's own store answers.
    """

    supports_filter_by_created_timestamp = True
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
        """The newest row of each key from start to end; of those that share both, the one that was created last."""
        if not _is_parquet(data_source):
            return duckdb_offline_store().pull_latest_from_table_or_query(
                config, data_source, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column,
                start_date, end_date,
            )  # fmt: skip
        source = HistorySource(
            view=data_source.name,
            urls=(url_of(data_source, config.repo_path),),
            timestamp=timestamp_field,
            columns={name: name for name in (*join_key_columns, *feature_name_columns)},
            keys={name: name for name in join_key_columns},
            features=tuple(feature_name_columns),
            ttl=None,
            created=created_timestamp_column or None,
            created_counts=False,
        )
        order = [*join_key_columns, *feature_name_columns, timestamp_field]
        order += [created_timestamp_column] if created_timestamp_column else []

        def read() -> pl.DataFrame:
            rows = newest_between(source, _utc(start_date), after(_utc(end_date))).select(order)
            return rows if join_key_columns else rows.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))

        return Rows(Answer(read), repo_path=config.repo_path)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: FileSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows from start to end, both included."""
        names = [*join_key_columns, *feature_name_columns, timestamp_field]
        names += [created_timestamp_column] if created_timestamp_column else []
        if not _is_parquet(data_source):
            return duckdb_offline_store().pull_all_from_table_or_query(
                config, data_source, join_key_columns, feature_name_columns, timestamp_field,
                created_timestamp_column=created_timestamp_column, start_date=start_date, end_date=end_date,
            )  # fmt: skip

        def read() -> pl.DataFrame:
            since, before = start_date and _utc(start_date), end_date and after(_utc(end_date))
            rows = read_between([url_of(data_source, config.repo_path)], timestamp_field, since, before, names)
            moments = [one for one in (timestamp_field, created_timestamp_column) if one]
            return rows.select(names).with_columns(as_moment(rows.schema, one) for one in moments)

        return Rows(Answer(read), repo_path=config.repo_path)

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """The features of each entity row as of its moment; no row is lost or doubled, whatever its keys are.

        entity_df: rows of pandas, polars or Arrow; a query in SQL, which may name the file sources; or None for all
        keys as of `end_date`. Raises DataError where keys or moments are not what the views can be asked by.
        """
        if not all(_is_parquet(view.batch_source) for view in feature_views):
            return duckdb_offline_store().get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names,
                filter_by_created_timestamp=filter_by_created_timestamp,
            )  # fmt: skip
        sources = [
            _source(view, feature_refs, full_feature_names, filter_by_created_timestamp, config.repo_path)
            for view in feature_views
        ]
        if entity_df is None:
            entities, moment = rows_of_range(
                sources, *compute_non_entity_date_range(feature_views, start_date, end_date)
            )
        elif isinstance(entity_df, str):
            entities, moment = entity_rows(
                rows_of_query(entity_df, registry.list_data_sources(project), config.repo_path)
            )
        else:
            entities, moment = entity_rows(entity_df)
        given = entities.columns
        for source in sources:
            entities = with_exact_keys(entities, source)
        blocks = partial(joined_slices, entities, moment, sources) if is_large(entities, sources) else None
        first, last = bounds(entities[moment])
        return Rows(
            Answer(partial(join, entities, moment, sources), blocks),
            full_feature_names,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            RetrievalMetadata(feature_refs, [name for name in given if name != moment], first, last),
            config.repo_path,
        )


def _is_parquet(source: Any) -> bool:
    return isinstance(source, FileSource) and (
        source.file_format is None or isinstance(source.file_format, ParquetFormat)
    )


def _source(
    view: FeatureView, feature_refs: Sequence[str], full_names: bool, by_created: bool, repo_path: Any
) -> HistorySource:
    """by_created: rows that were created after a moment do not count at it; else `created` only decides between rows
    that share keys and timestamp."""
    source, name = view.batch_source, view.projection.name_to_use()
    columns = {new: old for old, new in source.field_mapping.items()}
    features = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == name]
    fields = [entity.name for entity in view.entity_columns if entity.name != DUMMY_ENTITY_ID]
    prefix = f"{view.projection.name_alias or view.name}__" if full_names else ""
    named = {f"{prefix}{feature}": columns.get(feature, feature) for feature in features}
    return HistorySource(
        view=view.name,
        urls=(url_of(source, repo_path),),
        timestamp=source.timestamp_field,
        columns={key: columns.get(key, key) for key in fields} | named,
        keys={view.projection.join_key_map.get(key, key): key for key in fields},
        features=tuple(named),
        ttl=view.ttl or None,  # Feast's ttl of 0: for ever
        created=source.created_timestamp_column or None,
        created_counts=by_created,
    )


def _utc(moment: datetime) -> datetime:
    """Feast's own: a moment without a zone is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
