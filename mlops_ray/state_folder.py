"""The state folder: it is where its records say that it is, it can be written, and its databases are made once.

What lies in it names files by absolute paths (MLflow's runs, Feast's sources, the records of steps). So a copy would
write into the folder that it was copied from; `state.json` in it says where it belongs.
"""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mlops_ray.artifacts import partial_name
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError

FILE = "state.json"
HALF_RESTORED = "a restore that did not finish"
"""In the place of the folder, until a restore has finished."""
LEAST_FREE_MB = 200
_SQLITE = "sqlite:///"
_WAIT_S = 300.0


def keep_closed() -> None:
    """Let what this process writes from now on, and what those that it starts write, be this user's alone.

    MLflow, Feast and Ray make files of their own, with the mode that the process gives: snapshots and predictions hold
    what is personal, and MLflow's files what people typed.
    """
    os.umask(0o077)


@contextmanager
def closed() -> Iterator[None]:
    """As `keep_closed`, for as long as it lasts: in a process that also writes other people's files."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def claim(settings: Settings) -> None:
    """Write down where the state folder is, the first time; after that, make sure that it is still there.

    Where there is no folder yet, it is made for this user alone.

    Where all stores are elsewhere, it may be anywhere. Raises ConfigurationError if the folder was copied or moved,
    cannot be made or written, or a restore did not finish.
    """
    folder = Path(settings.state)
    stores = (settings.artifacts, settings.mlflow_uri, settings.feast_registry, settings.control_store)
    has_stores = any(settings.state in store for store in stores)
    file = folder / FILE
    try:
        if not file.exists():
            if not has_stores:
                return
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = folder / partial_name(FILE)
            partial.write_text(json.dumps({"state": settings.state}))
            partial.replace(file)  # by several at once: all say the same
        home = str(json.loads(file.read_text())["state"])
    except OSError as error:
        raise ConfigurationError(
            f"The state folder {folder} cannot be written: {error.strerror}. Give another with --state, or have it "
            f"made writable for you."
        ) from error
    except (ValueError, KeyError) as error:
        raise IntegrityError(
            f"{file} is damaged: {error!r}. It says where the folder belongs; see the backup."
        ) from error
    if home == HALF_RESTORED:
        raise ConfigurationError(
            f"{file} tells of a restore that did not finish: what it wrote is not whole. Empty the state folder, the "
            f"artifact root ({settings.artifacts}) and the databases, and repeat `mlops-ray backup restore`."
        )
    if has_stores:
        _expect_home(folder, home)


def expect_room(settings: Settings) -> None:
    """Raise ConfigurationError unless the state folder and the SQLite databases can be written and grow."""
    claim(settings)
    folder = Path(settings.state)
    free_mb = shutil.disk_usage(folder).free >> 20 if folder.is_dir() else LEAST_FREE_MB
    if free_mb < LEAST_FREE_MB:
        raise ConfigurationError(
            f"The disk of the state folder {folder} has {free_mb:,} MB left (needed: {LEAST_FREE_MB:,}). Make room, or "
            f"give another folder with --state."
        )
    for name in ("mlflow_uri", "feast_registry", "online_store", "control_store"):
        url = getattr(settings, name)
        if url.startswith(_SQLITE):
            _expect_writable(name, sqlite_path(url))


@contextmanager
def one_at_a_time(url: str) -> Iterator[None]:
    """Around what makes the tables of a database that nobody locks meanwhile: on SQLite other processes wait.

    A server's database is left to its operator. Raises UnavailableError after five minutes.
    """
    if not url.startswith(_SQLITE):
        yield
        return
    path = sqlite_path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_WAIT_S):
            yield
    except Timeout as error:
        raise UnavailableError(
            f"Another process has been preparing {path} for {_WAIT_S:g} s. Retry, and if it stays so, find that one."
        ) from error


def sqlite_path(url: str) -> Path:
    """The file of an sqlite:/// URL. SQLAlchemy, MLflow and Feast take the text as it is, up to a question mark."""
    return Path(url.removeprefix(_SQLITE).partition("?")[0])


def _expect_home(folder: Path, home: str) -> None:
    if str(folder) == home or (Path(home).is_dir() and folder.samefile(home)):
        return
    where = "was copied from there" if Path(home).is_dir() else "was moved"
    raise ConfigurationError(
        f"The state folder {folder} belongs at {home} and {where}, but what lies in it names files there. Use it there "
        f"(a link to it will do), or begin with an empty folder."
    )


def _expect_writable(name: str, path: Path) -> None:
    try:
        if path.exists():
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):  # who holds it can write, and so can we when it ends
            return
        why = getattr(error, "strerror", error)
        raise ConfigurationError(
            f"Setting {name!r}: the database {path} cannot be written: {why}. Have it made writable for you, or give "
            f"another."
        ) from error
