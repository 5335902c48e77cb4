"""What is done with an online store by its URL, whichever kind it is."""

from collections.abc import Sequence

import polars as pl

from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.online.lookup import Lookup
from mlops_ray.features.online.sqlite import SqliteLookup, SqliteWriter, connector
from mlops_ray.features.online.write import Writer
from mlops_ray.state_folder import sqlite_path


def lookup_of(url: str, project: str, views: Sequence[View]) -> Lookup:
    """The client of each kind of store is imported where it is used: a second of a replica's start."""
    if url.startswith("redis"):
        from mlops_ray.features.online.redis import RedisLookup

        return RedisLookup(url, project, views)
    if url.startswith("postgresql"):
        from mlops_ray.features.online.postgresql import PostgresqlLookup

        return PostgresqlLookup(url, project, views)
    return SqliteLookup(connector(str(sqlite_path(url))), project, views)


def writer_of(url: str, project: str) -> Writer:
    """What writes to a project; it connects when it has something to do."""
    if url.startswith("redis"):
        from mlops_ray.features.online.redis import RedisWriter

        return RedisWriter(url, project)
    if url.startswith("postgresql"):
        from mlops_ray.features.online.postgresql import PostgresqlWriter

        return PostgresqlWriter(url, project)
    return SqliteWriter(str(sqlite_path(url)), project)


def as_kept(url: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with `event_timestamp` as the online store keeps it. Feast's SQLite has whole seconds: the one in which a
    value became known is over then, so that nobody sees it before."""
    if not url.startswith("sqlite"):
        return rows
    seconds = -(-rows[PREDICTION_TIME].dt.timestamp("us") // 1_000_000)
    return rows.with_columns((seconds * 1_000_000).cast(rows.schema[PREDICTION_TIME]).alias(PREDICTION_TIME))
