"""A look into MLflow's database where that is a SQLite file: whether something is certainly there.

`import mlflow` takes 3 s of a core, which is a tenth of a run that finds nothing changed. False says nothing: the
database is another, or of another MLflow, and only MLflow's own client knows.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote


def has_run(uri: str, run_id: str) -> bool:
    """Whether the run is there, and not deleted."""
    return _found(uri, "SELECT 1 FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'", run_id)


def has_version(uri: str, name: str, version: int, tag: str, value: str) -> bool:
    """Whether the version of a registered model is there, not deleted, with this tag."""
    query = """
        SELECT 1 FROM model_versions JOIN model_version_tags USING (workspace, name, version)
        WHERE workspace = 'default' AND name = ? AND version = ? AND key = ? AND value = ?
        AND current_stage != 'Deleted_Internal'
    """
    return _found(uri, query, name, version, tag, value)


def has_alias(uri: str, name: str, alias: str, version: int) -> bool:
    """Whether the alias points to the version."""
    query = """
        SELECT 1 FROM registered_model_aliases
        WHERE workspace = 'default' AND name = ? AND alias = ? AND version = ?
    """
    return _found(uri, query, name, alias, version)


def _found(uri: str, query: str, *values: str | int) -> bool:
    scheme, _, path = uri.partition(":///")
    if scheme != "sqlite" or not Path(path).is_file():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchone() is not None
    except sqlite3.Error:
        return False
