"""An empty control store of each kind: SQLite, and PostgreSQL on a server that the tests start."""

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mlops_ray.governance.control_store import ControlStore


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    from tests.integration.test_online_store import postgresql  # with Feast, which takes seconds

    with postgresql() as url:
        _wait_until_it_takes_connections(url)
        yield url


def _wait_until_it_takes_connections(url: str) -> None:
    """Its port is open before it is."""
    for _ in range(300):
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/control_store.db"
    server: str = request.getfixturevalue("server")
    name = f"test_{time.monotonic_ns()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.rpartition("/")[0] + f"/{name}"


@pytest.fixture
def store(url: str) -> Iterator[ControlStore]:
    store = ControlStore(url)
    store.migrate()
    yield store
    store.close()
