"""One writer at a time for a project of the online store, by what the store itself has for that."""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

from filelock import FileLock

from mlops_ray.errors import UnavailableError

_logger = logging.getLogger(__name__)
HELD_S = 15.0  # after which a lock in Redis falls, whose holder has died: it is renewed by who lives


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
        with (
            closing(redis.Redis.from_url(url)) as client,
            client.lock(f"mlops_ray:{project}", timeout=HELD_S, thread_local=False) as lock,
            _renewed(lock.reacquire),
        ):
            yield
    except redis.exceptions.ConnectionError as error:
        raise UnavailableError(f"The online store does not answer: {error}. Is it running?") from error
    except redis.exceptions.LockError as error:
        raise UnavailableError(
            f"The lock of feature project {project} was lost: the online store did not answer for {HELD_S:g} s. What "
            f"was written is there. Run the same again."
        ) from error


@contextmanager
def _renewed(renew: Callable[[], object]) -> Iterator[None]:
    """Call `renew` again and again, in a thread, until the work is done. Where it fails the work goes on: whether the
    lock is still there shows when it is given back."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(HELD_S / 3):
            try:
                renew()
            except Exception as error:
                _logger.warning("The lock of a feature project is not renewed: %s", error)

    thread = threading.Thread(target=work, name="hold feature project", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
