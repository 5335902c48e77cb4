"""Own databases: each store has one to itself, as each is backed up, emptied and restored as a whole."""

import os
from itertools import combinations
from urllib.parse import unquote, urlsplit

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.state_folder import sqlite_path

_STORES = ("control_store", "mlflow_uri", "feast_registry", "online_store")


def expect_own_databases(settings: Settings) -> None:
    """Raise ConfigurationError if two stores are in one SQLite file or PostgreSQL database, in whichever schemas."""
    for one, other in combinations(_STORES, 2):
        database = _database(getattr(settings, one))
        if database and database == _database(getattr(settings, other)):
            raise ConfigurationError(
                f"Settings {one!r} and {other!r} name one database. Each is backed up as a whole, and restored one "
                f"would be put over the other. Move the tables of {other!r} to a database of its own."
            )


def _database(url: str) -> tuple[str, ...]:
    """Which database a URL names, whoever asks and however; empty for what is no database, such as a server, or cannot
    be read, which is said where it is opened."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ()
    kind = parts.scheme.partition("+")[0]
    if kind == "sqlite":
        return kind, os.path.realpath(sqlite_path(url))
    if kind not in ("postgresql", "postgres"):
        return ()
    hosts = parts.netloc.rpartition("@")[2].lower().split(",")
    named = ",".join(host if ":" in host else f"{host}:5432" for host in hosts)
    return "postgresql", named if any(hosts) else parts.query, unquote(parts.path)
