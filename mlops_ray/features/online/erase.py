"""Erasing an entity from the online store: every key in which it takes part, whatever else the key names."""

import sqlite3
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.features.definitions import Definitions
from mlops_ray.features.feast import deserialize_entity_key
from mlops_ray.features.online.format import KEY_VERSION
from mlops_ray.features.online.lock import exclusive
from mlops_ray.features.online.pushes import erase_pushed
from mlops_ray.state_folder import sqlite_path

_AT_ONCE = 500

Delete = Callable[[bytes], Any]
Found = Generator[tuple[bytes, Delete], None, None]
"""Each key, and what deletes it."""


def erase_online(
    settings: Settings, project: str, definitions: Definitions, entity: str, value: str, dry_run: bool
) -> int:
    """Delete the values of all keys of a project of which the entity is this one, and what was pushed of them; how many
    keys there were online.

    entity: as requests name it, or a view. Nobody else writes to the project meanwhile. Raises UnavailableError if the
    store does not answer.
    """
    names = {
        key
        for view in definitions.views
        for key, asked in zip(view.keys, view.asked, strict=True)
        if entity in (key, asked)
    }
    if not names:
        return 0
    url = settings.online_store
    with exclusive(url, project, str(sqlite_path(url)) if url.startswith("sqlite") else ""):
        views = [view.name for view in definitions.views]
        found = _redis(url, project) if url.startswith("redis") else _tables(url, project, views)
        theirs = set()
        with closing(found) as keys:
            for key, delete in keys:
                if _is_theirs(key, names, value):
                    theirs.add(key)
                    if not dry_run:
                        delete(key)
        artifacts = Artifacts(settings.artifacts)  # or the next materialization would bring back what was pushed
        for view in definitions.views:
            for name in names.intersection(view.keys):
                erase_pushed(artifacts, project, view, name, value, dry_run)
    if theirs and not dry_run and url.startswith("sqlite"):
        with closing(sqlite3.connect(sqlite_path(url))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what the log had of them
    return len(theirs)


def _is_theirs(key: bytes, names: set[str], value: str) -> bool:
    try:
        found = deserialize_entity_key(key, KEY_VERSION)
    except ValueError:  # no entity's, such as the lock that is held meanwhile
        return False
    return any(
        name in names and str(getattr(one, one.WhichOneof("val"))) == value
        for name, one in zip(found.join_keys, found.entity_values, strict=True)
    )


def _redis(url: str, project: str) -> Found:
    import redis

    end = project.encode()
    with closing(redis.Redis.from_url(url)) as client:
        for name in client.scan_iter(match=f"*{project}", count=_AT_ONCE):
            yield name.removesuffix(end), lambda key: client.delete(key + end)


def _tables(url: str, project: str, views: Iterable[str]) -> Found:
    """Feast's tables, one a view."""
    with closing(_connected(url)) as connection:
        mark = "?" if isinstance(connection, sqlite3.Connection) else "%s"
        for view in views:
            table = f'"{project}_{view}"'
            if not _exists(connection, f"{project}_{view}", mark):
                continue
            keys = [bytes(row[0]) for row in connection.execute(f"SELECT DISTINCT entity_key FROM {table}").fetchall()]
            delete = partial(_delete, connection, f"DELETE FROM {table} WHERE entity_key = {mark}")
            yield from ((key, delete) for key in keys)


def _delete(connection: Any, statement: str, key: bytes) -> None:
    connection.execute(statement, (key,))


def _connected(url: str) -> Any:
    if url.startswith("sqlite"):
        connection = sqlite3.connect(sqlite_path(url), isolation_level=None, timeout=60)
        connection.execute("PRAGMA secure_delete = ON")  # or the bytes stay in the file's free pages
        return connection
    import psycopg

    return psycopg.connect(url, autocommit=True)


def _exists(connection: Any, table: str, mark: str) -> bool:
    where = "sqlite_master WHERE name" if mark == "?" else "information_schema.tables WHERE table_name"
    return bool(connection.execute(f"SELECT 1 FROM {where} = {mark}", (table,)).fetchone())
