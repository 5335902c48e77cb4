"""The feature store: the only module that knows Feast."""

import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import pandas as pd
import polars as pl
import pyarrow as pa
import typeguard

# Feast has typeguard rewrite its classes at import, so that its constructors check the types they are given. That
# takes 5 of the 10 seconds of the import (2 cores, measured), in every worker and replica, and finds what mypy finds.
_typechecked, typeguard.typechecked = typeguard.typechecked, lambda target: target  # type: ignore[assignment]

from feast import Entity, FeatureService, FeatureStore, FeatureView, FileSource, RepoConfig, ValueType
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import python_values_to_proto_values

from mlops_ray.artifacts import read_parquet
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, UnavailableError, UseCaseError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.point_in_time import History, join_point_in_time
from mlops_ray.state_folder import one_at_a_time, sqlite_path

typeguard.typechecked = _typechecked

PROJECT = "mlops_ray"
Value = float | int | str | bool | None
MAX_CACHED = 50_000


class AsOfOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    type: Literal["mlops_ray.features.store.AsOfOfflineStore"] = "mlops_ray.features.store.AsOfOfflineStore"


class Rows(RetrievalJob):  # type: ignore[misc]
    """Rows that are already there, in the form in which Feast asks for the result of a query."""

    def __init__(self, frame: pl.DataFrame, full_feature_names: bool = False):
        super().__init__()
        self._frame = frame
        self._full_feature_names = full_feature_names

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._frame.to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._frame.to_arrow(compat_level=pl.CompatLevel.oldest())

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return []


class AsOfOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """Feast's DuckDB store with an as-of join in place of its inequality join, reading wherever artifacts may lie.

    The inequality join pairs each row with all events of its key within the ttl and then drops all but the newest:
    100 thousand flights with their airport's departures of 7 days took more than 18 GB. And DuckDB reads object
    stores through an extension that it downloads when it runs. Where Feast is asked to filter by creation time, or
    given SQL instead of rows, its own join answers.
    """

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
        return Rows(inside.sort(order, maintain_order=True).unique(join_key_columns, keep="last", maintain_order=True))

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        if isinstance(entity_df, str) or filter_by_created_timestamp:
            return DuckDBOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names,
                filter_by_created_timestamp,
            )  # fmt: skip
        moment = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        entities = pl.from_pandas(entity_df).with_columns(pl.col(moment).cast(pl.Datetime("us", "UTC")))
        histories = [_history(view, feature_refs, full_feature_names) for view in feature_views]
        return Rows(join_point_in_time(entities, moment, histories), full_feature_names)


def _history(view: FeatureView, feature_refs: Sequence[str], full_names: bool) -> History:
    source, name = view.batch_source, view.projection.name_to_use()
    columns = {new: old for old, new in source.field_mapping.items()}
    features = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == name]
    keys = {entity.name: view.projection.join_key_map.get(entity.name, entity.name) for entity in view.entity_columns}
    named = {f"{name}__{feature}" if full_names else feature: columns.get(feature, feature) for feature in features}
    created = [source.created_timestamp_column] if source.created_timestamp_column else []
    rows = read_parquet(source.path).select(
        source.timestamp_field,
        *created,
        *(pl.col(columns.get(key, key)).alias(key) for key in keys),
        **{new: pl.col(old) for new, old in named.items()},
    )
    return History(
        rows=rows,
        timestamp=source.timestamp_field,
        keys={column: key for key, column in keys.items()},
        features=list(named),
        ttl=view.ttl,
        created=created[0] if created else None,
    )


@dataclass(frozen=True)
class View:
    """What other stages need to know of a feature view: its join keys, features and time to live."""

    name: str
    keys: tuple[str, ...]
    features: tuple[str, ...]
    ttl: timedelta


class Store:
    """One feature service of a Feast repository, with the registry and stores that the settings name."""

    def __init__(self, settings: Settings, service: str):
        self.settings = settings
        self.service = service
        with one_at_a_time(settings.feast_registry):
            self._feast = FeatureStore(config=_repo_config(settings))

    def apply(self, definitions: Mapping[str, str], rows: Mapping[str, str]) -> None:
        """Write definitions to the registry, each view with the URL of its feature rows.

        definitions: the Python files of a Feast repository by name. rows: a URL by view.
        Raises UseCaseError if a file does not run, the service does not exist, reads a view without rows, has a view
        without ttl, or names a feature twice.
        """
        found = _defined(definitions)
        service = next((x for x in found if isinstance(x, FeatureService) and x.name == self.service), None)
        if service is None:
            raise UseCaseError(f"Feature service {self.service!r} is not defined in {', '.join(definitions)}.")
        wanted = {projection.name for projection in service.feature_view_projections}
        views = [x for x in found if isinstance(x, FeatureView) and x.name in wanted]
        if absent := sorted(wanted - set(rows)):
            raise UseCaseError(
                f"Feature service {self.service!r} reads {', '.join(absent)}, for which the use case declares no "
                f"function in feature_views."
            )
        _check_views(views)
        for view in views:
            view.batch_source = _located(view.batch_source, rows[view.name])
        entities = [x for x in found if isinstance(x, Entity)]
        self._feast.apply([*entities, *(view.batch_source for view in views), *views, service])
        if self._feast.config.online_store.type == "sqlite":
            _let_readers_pass(self._feast.config.online_store.path)

    def views(self) -> list[View]:
        """The views of the service, as the registry has them."""
        return [
            View(
                name=view.name,
                keys=tuple(column.name for column in view.entity_columns),
                features=tuple(field.name for field in view.features),
                ttl=view.ttl,
            )
            for view in self._feature_views()
        ]

    def _feature_views(self) -> list[FeatureView]:
        service = self._feast.get_feature_service(self.service)
        return [self._feast.get_feature_view(p.name) for p in service.feature_view_projections]

    def historical(self, entities: pl.DataFrame) -> pl.DataFrame:
        """The service's features for each row as of its `event_timestamp`; rows keep their order."""
        job = self._feast.get_historical_features(
            entity_df=entities.to_pandas(), features=self._feast.get_feature_service(self.service)
        )
        frame = pl.from_arrow(job.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame.with_columns(pl.col(pl.Datetime).cast(pl.Datetime("us", "UTC")))

    def materialize(self, view: View, as_of: datetime) -> None:
        """Write the newest values of the view, not older than its ttl at `as_of`, to the online store."""
        self._feast.materialize(as_of - view.ttl, as_of, feature_views=[view.name])

    def online_reader(self) -> "OnlineReader":
        return OnlineReader(self._feast, self._feature_views(), self.settings.online_cache_s)


@dataclass(frozen=True)
class Stored:
    """What the online store has of one entity in one view, whatever its age; `known_s` in seconds since 1970."""

    values: Mapping[str, Value]
    known_s: float


class OnlineReader:
    """Reads the online store as of given moments, view by view.

    Feast's online store neither enforces a view's ttl nor knows the moment of a request: a value from 2013 comes back
    as present in 2026. Here a value counts only if `moment - ttl <= event timestamp <= moment`, as in a training set.

    It asks Feast's online store itself. `FeatureStore.get_online_features` asks the same, but puts the answer through
    a protobuf message of its own: 1.3 ms for the eight views of flights in place of 0.3 ms.
    """

    def __init__(self, feast: FeatureStore, views: Sequence[FeatureView], cache_s: float = 0.0):
        """cache_s: for how long what was read of an entity is used again; its ttl counts all the same."""
        self._config = feast.config
        self.waits = feast.config.online_store.type != "sqlite"
        self._store = feast._get_provider().online_store
        self._views = views
        self._keys = [[column.name for column in view.entity_columns] for view in views]
        self._features = [[field.name for field in view.features] for view in views]
        self._unknown: list[dict[str, Value]] = [dict.fromkeys(names) for names in self._features]
        self._ttl_s = [view.ttl.total_seconds() for view in views]
        self._types = {column.name: column.dtype.to_value_type() for view in views for column in view.entity_columns}
        self._cache_s = cache_s
        self._cached: dict[tuple[int, tuple[Value, ...]], tuple[float, Stored | None]] = {}
        self.seconds, self.reads, self.hits, self.missing, self.stale = 0.0, 0, 0, 0, 0

    def read(self, rows: Sequence[Mapping[str, Any]], moments: Sequence[datetime]) -> list[dict[str, Value]]:
        """Feature values by name for each row of entity keys, as of its moment; None where unknown or expired.

        Raises UnavailableError if the online store does not answer.
        """
        started_s = time.perf_counter()
        answers: list[dict[str, Value]] = [{} for _ in rows]
        at_s = [moment.timestamp() for moment in moments]
        for number, ttl_s in enumerate(self._ttl_s):
            for answer, moment_s, found in zip(answers, at_s, self._stored(number, rows), strict=True):
                answer.update(self._unknown[number])
                if found is None:
                    self.missing += len(self._features[number])
                elif 0 <= moment_s - found.known_s <= ttl_s:
                    answer.update(found.values)
                else:
                    self.stale += len(self._features[number])
        self.seconds += time.perf_counter() - started_s
        self.reads += 1
        return answers

    def _stored(self, number: int, rows: Sequence[Mapping[str, Any]]) -> list[Stored | None]:
        """What the store holds of each row's keys in a view; None for a key that is missing or not there."""
        names = self._keys[number]
        keys = [tuple([row.get(name) for name in names]) for row in rows]
        if len(keys) == 1 and not self._cache_s and None not in keys[0]:
            return self._fetched(number, keys)
        now_s = time.monotonic()
        found: dict[tuple[Value, ...], Stored | None] = {}
        wanted = []
        for key in dict.fromkeys(keys):
            cached = self._cached.get((number, key)) if self._cache_s else None
            if None in key:
                found[key] = None
            elif cached is not None and cached[0] >= now_s:
                found[key] = cached[1]
                self.hits += 1
            else:
                wanted.append(key)
        if wanted:
            found |= zip(wanted, self._fetched(number, wanted), strict=True)
            if self._cache_s:
                self._remember(number, {key: found[key] for key in wanted}, now_s + self._cache_s)
        return [found[key] for key in keys]

    def _remember(self, number: int, found: Mapping[tuple[Value, ...], Stored | None], until_s: float) -> None:
        if len(self._cached) + len(found) > MAX_CACHED:
            self._cached.clear()
        self._cached.update({(number, key): (until_s, stored) for key, stored in found.items()})

    def _fetched(self, number: int, keys: Sequence[tuple[Value, ...]]) -> list[Stored | None]:
        asked = [self._entity(self._keys[number], key) for key in keys]
        try:
            answers = self._store.online_read(self._config, self._views[number], asked, self._features[number])
        except Exception as error:
            raise UnavailableError(f"The online store does not answer: {error}. Is it running?") from error
        return [
            None if values is None or known is None else Stored(_plain_values(values), _utc(known).timestamp())
            for known, values in answers
        ]

    def _entity(self, names: Sequence[str], key: tuple[Value, ...]) -> EntityKey:
        entity = EntityKey(join_keys=names)
        for name, value in zip(names, key, strict=True):
            proto, type_ = entity.entity_values.add(), self._types[name]
            if type_ is ValueType.STRING:
                proto.string_val = value
            elif type_ is ValueType.INT64:
                proto.int64_val = value
            else:
                proto.CopyFrom(python_values_to_proto_values([value], type_)[0])
        return entity


def _let_readers_pass(database: str) -> None:
    """Keep a write-ahead log, which the file remembers: who reads does not wait for who writes, and reads faster."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _plain_values(values: Mapping[str, ValueProto]) -> dict[str, Value]:
    return {
        name: getattr(value, field) if (field := value.WhichOneof("val")) else None for name, value in values.items()
    }


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _repo_config(settings: Settings) -> RepoConfig:
    return RepoConfig(
        project=PROJECT,
        provider="local",
        entity_key_serialization_version=3,
        registry={
            "registry_type": "sql",
            "path": settings.feast_registry,
            "cache_ttl_seconds": 60,
            "serve_features_while_materializing": True,
        },
        offline_store={"type": "mlops_ray.features.store.AsOfOfflineStore"},
        online_store=_online_store(settings.online_store),
        materialization={"pull_latest_features": True},
    )


def _online_store(url: str) -> dict[str, Any]:
    """Feast's options for an online store given as a URL."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"type": "sqlite", "path": str(sqlite_path(url))}
    if parts.scheme == "redis":
        options = [f"{parts.hostname}:{parts.port or 6379}"]
        options += [f"db={parts.path[1:]}"] if parts.path.strip("/") else []
        options += [f"password={unquote(parts.password)}"] if parts.password else []
        return {"type": "redis", "connection_string": ",".join(options)}
    if parts.scheme == "postgresql":
        return {
            "type": "postgres",
            "host": parts.hostname,
            "port": parts.port or 5432,
            "database": parts.path.strip("/"),
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "sslmode": "prefer",
        }
    raise ConfigurationError(f"online_store is {url!r}. Give a sqlite:///, redis:// or postgresql:// URL.")


def _located(source: FileSource, url: str) -> FileSource:
    return FileSource(
        name=source.name,
        path=url,
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        field_mapping=source.field_mapping,
    )


def _defined(definitions: Mapping[str, str]) -> list[Any]:
    """Every Feast object at the top level of the files."""
    found: list[Any] = []
    for name, text in definitions.items():
        names: dict[str, Any] = {"__name__": Path(name).stem}
        try:
            exec(compile(text, name, "exec"), names)
        except Exception as error:
            raise UseCaseError(f"Feature definitions {name}: {type(error).__name__}: {error}") from error
        found += [value for value in names.values() if isinstance(value, Entity | FeatureView | FeatureService)]
    return found


def _check_views(views: Sequence[FeatureView]) -> None:
    names = Counter(field.name for view in views for field in view.features)
    if repeated := sorted(name for name, count in names.items() if count > 1):
        raise UseCaseError(f"Feature {repeated[0]!r} stands in two views. Give features names that are unique.")
    for view in views:
        if not view.ttl:
            raise UseCaseError(f"Feature view {view.name!r} has no ttl. Say how long its values stay true.")
        if PREDICTION_TIME in view.batch_source.field_mapping:
            raise UseCaseError(f"Feature view {view.name!r} maps {PREDICTION_TIME!r}, which is reserved.")
