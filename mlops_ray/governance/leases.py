"""Leases: which of several processes does what only one should, until it ends or falls silent.

They do not take the audit log's lock (`ControlStore.reporting`).
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import uuid6
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from mlops_ray.errors import ConflictError, MlopsRayError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.tables import leases

HELD_FOR = timedelta(minutes=1)
_LOOKS_EVERY_S = 2.0

_logger = logging.getLogger(__name__)


@contextmanager
def holding(store: ControlStore, name: str, waits: bool = False) -> Iterator[None]:
    """Hold a lease for as long as the work inside takes. A process that dies in it loses it within a minute.

    Raises ConflictError if it is another's; if `waits`, it is waited for.
    """
    holder = str(uuid6.uuid7())
    while left := hold(store, name, holder, HELD_FOR):
        if not waits:
            raise ConflictError(
                f"Another process is at work ({name}). Nothing was done; try again in {left.total_seconds():.0f} s."
            )
        time.sleep(_LOOKS_EVERY_S)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(store, name, holder, ended), name=f"hold {name}", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        try:
            release(store, name, holder)
        except MlopsRayError as error:
            _logger.warning("%s", error)


def hold(store: ControlStore, name: str, holder: str, for_: timedelta) -> timedelta:
    """Try to be the one who does what the lease `name` stands for: it is taken where it is free or over by the
    database's clock, and renewed when half has passed. Returns for how long it is another's yet; zero: it is ours."""
    this, ours = leases.c.name == name, timedelta()
    with store.reporting(write=False) as connection:
        row = connection.execute(select(leases.c.holder, leases.c.until).where(this)).first()
        now = database_now(connection)
    if row is not None and row.until > now:
        if row.holder != holder:
            left: timedelta = row.until - now
            return left
        if row.until - now > for_ / 2:
            return ours
    try:
        with store.reporting() as connection:
            now = database_now(connection)
            values = {"holder": holder, "until": now + for_}
            free = this & ((leases.c.holder == holder) | (leases.c.until <= now))
            if row is None:
                connection.execute(insert(leases).values(name=name, **values))
                return ours
            return ours if connection.execute(update(leases).where(free).values(values)).rowcount else for_
    except IntegrityError:  # somebody took it between the two
        return for_


def release(store: ControlStore, name: str, holder: str) -> None:
    """Give the lease back, so that nobody waits for its end."""
    with store.reporting() as connection:
        connection.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))


def _renew(store: ControlStore, name: str, holder: str, ended: threading.Event) -> None:
    while not ended.wait(HELD_FOR.total_seconds() / 3):
        try:
            hold(store, name, holder, HELD_FOR)
        except MlopsRayError as error:
            _logger.warning("%s", error)
