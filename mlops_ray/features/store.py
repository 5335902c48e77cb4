"""The feature store: one Feast project, in which models find their definitions, feature rows and online values."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote, urlsplit

import polars as pl

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.feast import FeatureService, FeatureStore, FeatureView, RepoConfig
from mlops_ray.features.feast_objects import objects_of, view_of
from mlops_ray.features.history import join_features, sources_of
from mlops_ray.features.history_source import HistorySource
from mlops_ray.features.online.format import KEY_VERSION
from mlops_ray.features.online.lock import exclusive
from mlops_ray.features.online.reader import OnlineReader
from mlops_ray.features.online.store import lookup_of
from mlops_ray.state_folder import one_at_a_time, sqlite_path

_AS_OF, _DIGEST = "mlops_ray.as_of", "mlops_ray.definitions"


class Store:
    """One Feast project, with the registry and stores that the settings name; see `definitions.project_of`."""

    def __init__(self, settings: Settings, project: str):
        self.settings = settings
        self.project = project
        with one_at_a_time(settings.feast_registry), _readable_registry():
            self._feast = FeatureStore(config=_repo_config(settings, project))

    def apply(self, definitions: Definitions, rows: Mapping[str, str], as_of: datetime) -> None:
        """Write the definitions to the registry, each view with the URL of its rows as of `as_of`.

        Rows of a later moment that the registry has already stay.
        """
        known, urls = self.applied(), {view.name: rows[view.name] for view in definitions.views}
        if (
            known is not None
            and known.definitions == definitions.digest
            and (known.as_of > as_of or (known.as_of == as_of and same_rows(known.rows, urls)))
        ):
            return
        tags = {_AS_OF: as_of.isoformat(), _DIGEST: definitions.digest}
        with _readable_registry():
            self._feast.apply(objects_of(definitions, urls, tags))
        if self._feast.config.online_store.type == "sqlite":
            _let_readers_pass(self._feast.config.online_store.path)

    def applied(self) -> "Applied | None":
        """What the registry has of this project; None before its first `apply`."""
        service = self._service()
        if service is None:
            return None
        rows = {view.name: view.batch_source.path for view in self._feature_views(service)}
        return Applied(service.tags[_DIGEST], datetime.fromisoformat(service.tags[_AS_OF]), rows)

    def views(self) -> list[View]:
        """The views of the service, as the registry has them. Raises ConfigurationError if it has none."""
        service = self._expected_service()
        return list(map(view_of, self._feature_views(service), service.feature_view_projections))

    def historical(self, entities: pl.DataFrame) -> pl.DataFrame:
        """The service's features for each row as of its `event_timestamp`; rows keep their order."""
        service = self._expected_service()
        rows = {view.name: view.batch_source.path for view in self._feature_views(service)}
        return join_features(entities, self.views(), rows)

    def sources(self) -> list[HistorySource]:
        """Where the rows of the service's views lie, in the order of the service."""
        rows = {view.name: view.batch_source.path for view in self._feature_views(self._expected_service())}
        return sources_of(self.views(), rows)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else materializes this project meanwhile, so that what was compared is what is written over."""
        file = getattr(self._feast.config.online_store, "path", "")
        with exclusive(self.settings.online_store, self.project, file):
            yield

    def online_reader(self) -> OnlineReader:
        """A reader of the service's features. Raises ConfigurationError if the project is not in the registry."""
        views = self.views()
        return OnlineReader(
            lookup_of(self.settings.online_store, self.project, views), views, self.settings.online_cache_s
        )

    def _service(self) -> FeatureService | None:
        """The one service of the project; None if there is none."""
        with _readable_registry():
            found = self._feast.registry.list_feature_services(self.project)
        return found[0] if found else None

    def _expected_service(self) -> FeatureService:
        service = self._service()
        if service is None:
            raise ConfigurationError(
                f"Feature project {self.project!r} is not in the registry. Put it there, with its values, by running "
                f"the pipeline or `mlops-ray features refresh`."
            )
        return service

    def _feature_views(self, service: FeatureService) -> list[FeatureView]:
        return [self._feast.get_feature_view(p.name) for p in service.feature_view_projections]


@dataclass(frozen=True)
class Applied:
    """What a registry has of a project: the digest of its definitions, and of which moment its views' rows are."""

    definitions: str
    as_of: datetime
    rows: Mapping[str, str]


@contextmanager
def _readable_registry() -> Iterator[None]:
    """Say in a sentence what Feast's SQL registry raises as SQLAlchemy's errors, which name statements and values."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy."):
            raise
        why = str(getattr(error, "orig", None) or error).splitlines()[0]
        if "connect" in why:
            raise UnavailableError(f"The feature registry does not answer: {why}. Is its database running?") from error
        raise ConfigurationError(
            f"The feature registry (setting feast_registry) cannot be used: {why}. Feast {version('feast')} reads "
            f"registries that it made. Give it a database of its own; `mlops-ray features refresh` fills it."
        ) from error


def same_rows(urls: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Whether both have the same rows of each view: files are named by their content, wherever they lie."""
    return {view: _file(url) for view, url in urls.items()} == {view: _file(url) for view, url in others.items()}


def _file(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _let_readers_pass(database: str) -> None:
    """Keep a write-ahead log, which the file remembers: who reads does not wait for who writes, and reads faster."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _repo_config(settings: Settings, project: str) -> RepoConfig:
    return RepoConfig(
        project=project,
        provider="local",
        entity_key_serialization_version=KEY_VERSION,
        registry={
            "registry_type": "sql",
            "path": settings.feast_registry,
            "cache_ttl_seconds": 60,
            "serve_features_while_materializing": True,
        },
        offline_store={"type": "mlops_ray.features.offline_store.AsOfOfflineStore"},
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
        options += [f"username={unquote(parts.username)}"] if parts.username else []
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
