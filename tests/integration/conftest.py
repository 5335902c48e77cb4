"""An empty control store of each kind, SQLite and PostgreSQL on a server that the tests start; and which tests share a
process: those that start Ray, as a machine has one; each file of the others."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from xdist.scheduler import LoadScopeScheduling

from mlops_ray.governance.control_store import ControlStore

WITHOUT_RAY = {
    "advisories", "approval_machine", "audit", "audit_roles", "backup", "candidates", "control_store", "events",
    "feast_sdk", "freshness", "governance", "many_replicas", "materialize_killed", "models", "network_together",
    "object_store_files", "online_store", "openapi", "rollout_machine", "scheduler_killed", "sealing", "sealing_large",
    "serve_configs", "table_sources", "tracking", "upgrade",
}  # fmt: skip


class _OneRay(LoadScopeScheduling):
    """What starts Ray in one process, after one another; each file of the others wherever there is room."""

    def _split_scope(self, nodeid: str) -> str:
        name = Path(nodeid.partition("::")[0]).stem.removeprefix("test_")
        return name if name in WITHOUT_RAY else "ray"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _OneRay:
    return _OneRay(config, log)


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
