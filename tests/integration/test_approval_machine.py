"""The interleavings of `tests.approval_machine` on PostgreSQL."""

import time

import psycopg
import pytest

from mlops_ray.governance.control_store import ControlStore
from tests.unit.test_approval_machine import run


@pytest.fixture
def on_postgresql(server: str) -> ControlStore:
    name = f"test_{time.monotonic_ns()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    store = ControlStore(server.rpartition("/")[0] + f"/{name}")
    store.migrate()
    return store


@pytest.mark.timeout(900)
def test_whatever_people_do_nothing_is_live_that_the_rules_forbid(on_postgresql: ControlStore) -> None:
    run(on_postgresql)
    on_postgresql.close()
