"""What other processes do to a control store. Imports little, because there are many of them."""

import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier, Event

from sqlalchemy import insert

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, record
from mlops_ray.governance.principals import create_key, development_key
from mlops_ray.governance.tables import endpoints


def migrate(store: ControlStore, together: Barrier) -> None:
    together.wait()
    store.migrate()


def create_keys(store: ControlStore, together: Barrier, process: int, count: int) -> None:
    together.wait()
    for number in range(count):
        create_key(store, Actor(f"process {process}", ("admin",)), f"key {process}.{number}", ["predict"])


def make_development_key(store: ControlStore, together: Barrier, settings: Settings) -> None:
    together.wait()
    development_key(store, settings)


def hold_a_transaction(store: ControlStore, ready: Connection, release: Event) -> None:
    """Write the state and its event, say so, and commit when released."""
    with store.transaction() as connection:
        connection.execute(insert(endpoints).values(use_case="flights", revision=1, champion_since=datetime.now(UTC)))
        record(connection, "champion.set", SYSTEM, "flights@1")
        ready.send(time.time())
        release.wait(60)
