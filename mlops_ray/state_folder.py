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
    file = folder / FILE
    try:
        if not file.exists() and _has_stores(settings):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = folder / partial_name(FILE)
            partial.write_text(json.dumps({"state": settings.state}))
            partial.replace(file)  # by several at once: all say the same
    except OSError as error:
        raise _not_written(folder, error) from error
    _expect_home(settings)


def is_claimed(settings: Settings) -> bool:
    """Whether the folder says that it belongs where it is, as it does once somebody meant to work in it."""
    try:
        return _is_here(Path(settings.state), _home_of(Path(settings.state, FILE)))
    except (OSError, IntegrityError):
        return False


def make_room(settings: Settings) -> None:
    """Claim the state folder, and make those of the SQLite databases; raises as `expect_room`, and nothing is made."""
    expect_room(settings)
    claim(settings)
    for _, path in _databases(settings):
        path.parent.mkdir(parents=True, exist_ok=True)


def expect_room(settings: Settings) -> None:
    """Raise ConfigurationError unless the state folder and the SQLite databases can be written and grow, here and not
    in a copy. Nothing is made or changed."""
    folder = Path(settings.state)
    _expect_home(settings)
    if _has_stores(settings):
        try:
            _try_to_write(folder)
        except OSError as error:
            raise _not_written(folder, error) from error
    free_mb = shutil.disk_usage(folder).free >> 20 if folder.is_dir() else LEAST_FREE_MB
    if free_mb < LEAST_FREE_MB:
        raise ConfigurationError(
            f"The disk of the state folder {folder} has {free_mb:,} MB left (needed: {LEAST_FREE_MB:,}). Make room, or "
            f"give another folder with --state."
        )
    for name, path in _databases(settings):
        _expect_writable(name, path)


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


def _has_stores(settings: Settings) -> bool:
    stores = (settings.artifacts, settings.mlflow_uri, settings.feast_registry, settings.control_store)
    return any(settings.state in store for store in stores)


def _databases(settings: Settings) -> Iterator[tuple[str, Path]]:
    for name in ("mlflow_uri", "feast_registry", "online_store", "control_store"):
        if (url := getattr(settings, name)).startswith(_SQLITE):
            yield name, sqlite_path(url)


def _home_of(file: Path) -> str:
    try:
        return str(json.loads(file.read_text())["state"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{file} is damaged: {error!r}. It says where the folder belongs; see the backup."
        ) from error


def _expect_home(settings: Settings) -> None:
    folder = Path(settings.state)
    file = folder / FILE
    try:
        if not file.exists():
            return
        home = _home_of(file)
    except OSError as error:
        raise _not_written(folder, error) from error
    if home == HALF_RESTORED:
        raise ConfigurationError(
            f"{file} tells of a restore that did not finish: what it wrote is not whole. Empty the state folder, the "
            f"artifact root ({settings.artifacts}) and the databases, and repeat `mlops-ray backup restore`."
        )
    if _is_here(folder, home) or not _has_stores(settings):
        return
    where = "was copied from there" if Path(home).is_dir() else "was moved"
    raise ConfigurationError(
        f"The state folder {folder} belongs at {home} and {where}, but what lies in it names files there. Use it there "
        f"(a link to it will do), or begin with an empty folder."
    )


def _is_here(folder: Path, home: str) -> bool:
    return str(folder) == home or (Path(home).is_dir() and folder.samefile(home))


def _not_written(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"The state folder {folder} cannot be written: {error.strerror}. Give another with --state, or have it "
        f"made writable for you."
    )


def _expect_writable(name: str, path: Path) -> None:
    try:
        if path.exists():
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
            return
        _try_to_write(path.parent)
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):  # who holds it can write, and so can we when it ends
            return
        why = getattr(error, "strerror", error)
        raise ConfigurationError(
            f"Setting {name!r}: the database {path} cannot be written: {why}. Have it made writable for you, or give "
            f"another."
        ) from error


def _try_to_write(folder: Path) -> None:
    """Raise OSError unless files can be made in a folder, or it can be made itself. None stays."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    tempfile.TemporaryFile(dir=there).close()
