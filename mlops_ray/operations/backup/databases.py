"""Databases of others (MLflow's, Feast's registry and online store): copied as a whole, as they are at one moment.

SQLite by its backup API (sqlite.org/backup.html), which needs no gap between writers; PostgreSQL by `pg_dump`, in one
snapshot, and back by `pg_restore` in one transaction.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError
from mlops_ray.operations.backup.place import shown
from mlops_ray.state_folder import sqlite_path

if TYPE_CHECKING:
    import psycopg

# By the setting that says where it is. The online store last: it is made from what the others name.
SETTINGS = ("mlflow_uri", "feast_registry", "online_store")
_BUSY_S = 60.0
_DUMP = "pg_dump"


def kind_of(url: str) -> str:
    """sqlite, postgresql, or another scheme, of which no copy can be made from here."""
    scheme = url.partition(":")[0].partition("+")[0]
    return "postgresql" if scheme == "postgres" else scheme


def copied_databases(settings: Settings) -> Mapping[str, str]:
    """By setting the kind of each database that a backup has. Of an online store in PostgreSQL there is none: it is
    made again from the artifacts, and as large as they are."""
    kinds = {name: kind_of(getattr(settings, name)) for name in SETTINGS}
    can = {name: ("sqlite",) if name == "online_store" else ("sqlite", "postgresql") for name in SETTINGS}
    return {name: kind for name, kind in kinds.items() if kind in can[name]}


def expect_tools(settings: Settings) -> None:
    """Raise ConfigurationError if what copies a database of `settings` is not on this machine."""
    for name, kind in copied_databases(settings).items():
        if kind == "postgresql" and shutil.which(_DUMP) is None:
            raise _missing(name, _DUMP, getattr(settings, name))


def copy_database(name: str, url: str, to: Path) -> bool:
    """Write a copy to a file that is not there; False if there is no database yet.

    Raises ConfigurationError if the tool is missing, UnavailableError if the database does not answer, IntegrityError
    if the copy of a file is damaged.
    """
    if kind_of(url) == "sqlite":
        return _copy_sqlite(name, sqlite_path(url), to)
    _run(name, _DUMP, ["--format=custom", "--no-owner", "--no-privileges", f"--file={to}"], url)
    return True


def put_database(name: str, url: str, copy: Path) -> None:
    """Make the database anew from a copy of the same kind, all or nothing."""
    if kind_of(url) == "sqlite":
        path = sqlite_path(url)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(copy, path)
        return
    options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", str(copy)]
    _run(name, "pg_restore", options, url)


def expect_no_database(name: str, url: str) -> None:
    """Raise ConfigurationError unless there is nothing at a URL that a database could be made over."""
    if kind_of(url) == "sqlite":
        if sqlite_path(url).exists():
            raise ConfigurationError(f"Setting {name!r}: {sqlite_path(url)} exists. Restore into an empty place.")
        return
    with connected(name, url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()").fetchone()
    if found and found[0]:
        raise ConfigurationError(
            f"Setting {name!r}: the database {shown(url)} is not empty (it has {found[0]} tables). Give an empty one."
        )


def connected(name: str, url: str) -> "psycopg.Connection[tuple[object, ...]]":
    """A connection to a PostgreSQL database. Raises UnavailableError if there is none."""
    import psycopg

    try:
        return psycopg.connect(_without_driver(url), connect_timeout=10)
    except psycopg.OperationalError as error:
        said = str(error).strip().splitlines()[0]
        raise UnavailableError(f"Setting {name!r}: {shown(url)} does not answer: {said}") from None


def _copy_sqlite(name: str, file: Path, to: Path) -> bool:
    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(file, timeout=_BUSY_S)) as source, closing(sqlite3.connect(to)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, whichever it was
            (found,) = copy.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        raise UnavailableError(f"Setting {name!r}: {file} cannot be copied: {error}. Retry later.") from error
    if found != "ok":
        raise IntegrityError(f"Setting {name!r}: {file} is damaged: {found}. Nothing was backed up; see to it first.")
    return True


def _run(name: str, tool: str, options: Sequence[str], url: str) -> None:
    """The password is in the environment, since everybody on a machine sees what commands are given."""
    parts = urlsplit(_without_driver(url))
    account, _, host = parts.netloc.rpartition("@")
    user, _, password = account.partition(":")
    plain = urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host))
    environment = os.environ | ({"PGPASSWORD": unquote(password)} if password else {})
    try:
        done = subprocess.run([tool, f"--dbname={plain}", *options], env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        raise _missing(name, tool, url) from None
    if done.returncode:
        said = " ".join(done.stderr.split())[:500]
        raise UnavailableError(f"{tool} of {shown(url)} (setting {name!r}) failed: {said}")


def _missing(name: str, tool: str, url: str) -> ConfigurationError:
    return ConfigurationError(
        f"Setting {name!r} is {shown(url)}, and {tool} is not on this machine. Install PostgreSQL's client tools "
        f"(postgresql-client), of the server's version or newer."
    )


def _without_driver(url: str) -> str:
    """As PostgreSQL's own tools take it: SQLAlchemy's URLs may name a driver."""
    return f"postgresql://{url.partition('://')[2]}"
