"""The interleavings of `tests.rollout_machine` on PostgreSQL, and that reports wait for no writer there."""

import threading
import time
from datetime import timedelta

import psycopg
import pytest

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.leases import hold
from mlops_ray.governance.replicas import Replica, heard, report
from tests.unit.test_rollout_machine import run


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
def test_whatever_happens_in_whatever_order_the_history_is_one_that_may_be(on_postgresql: ControlStore) -> None:
    run(on_postgresql)
    on_postgresql.close()


def test_reports_and_leases_wait_for_no_writer_of_the_audit_log(store: ControlStore) -> None:
    report(store, "flights", Replica("a", "n", 1))
    with store.transaction():
        began_s = time.monotonic()
        report(store, "flights", Replica("a", "n", 2))
        assert heard(store, "flights").replicas[0].revision == 2
        assert not hold(store, "x", "a", timedelta(seconds=5))
        assert time.monotonic() - began_s < 10


def test_of_many_who_want_a_lease_at_once_one_holds_it(store: ControlStore) -> None:
    got: list[str] = []
    together = threading.Barrier(8)

    def take(holder: str) -> None:
        together.wait()
        if not hold(store, "x", holder, timedelta(seconds=60)):
            got.append(holder)

    threads = [threading.Thread(target=take, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
