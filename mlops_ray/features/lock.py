"""One writer at a time for a project of the online store, by what the store itself has for that."""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

from filelock import FileLock

from mlops_ray.errors import UnavailableError

_HELD_S = 3600.0  # after which a lock in Redis falls, whose holder must have died


@contextmanager
def exclusive(online_store: str, project: str, file: str) -> Iterator[None]:
    """Hold the lock of a project, waiting for who holds it. A holder that dies loses it.

    online_store: its URL; `file`: where a store that is a file lies. Raises UnavailableError if it does not answer.
    """
    scheme = urlsplit(online_store).scheme
    if scheme == "sqlite":
        with FileLock(f"{file}.lock"):
            yield
        return
    with _redis(online_store, project) if scheme == "redis" else _postgresql(online_store, project):
        yield


@contextmanager
def _redis(url: str, project: str) -> Iterator[None]:
    import redis

    try:
        with closing(redis.Redis.from_url(url)) as client, client.lock(f"mlops_ray:{project}", timeout=_HELD_S):
            yield
    except redis.exceptions.ConnectionError as error:
        raise UnavailableError(f"The online store does not answer: {error}. Is it running?") from error


@contextmanager
def _postgresql(url: str, project: str) -> Iterator[None]:
    import psycopg

    number = int.from_bytes(hashlib.sha256(project.encode()).digest()[:8], signed=True)
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (number,))
            yield
    except psycopg.OperationalError as error:
        raise UnavailableError(f"The online store does not answer: {error}. Is it running?") from error
