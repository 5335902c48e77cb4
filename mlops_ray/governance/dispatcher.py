"""The dispatcher: what has to be done again and again beside the control store, by one process at a time.

It delivers what waits in the outbox, ends approvals whose time is over, says which reviews are overdue, and anchors and
checks the audit log.
"""

import logging
import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import uuid6

from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.approvals import expire
from mlops_ray.governance.audit import check
from mlops_ray.governance.broken_glass import follow_up
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.inventory import announce_overdue
from mlops_ray.governance.leases import hold, release
from mlops_ray.governance.notifications import Delivered, Send, deliver_once, forget_delivered

POLL_S = 1.0
LEASE = timedelta(seconds=60)
LEASE_NAME = "dispatcher"
EXPIRE_EVERY = timedelta(minutes=1)
ANCHOR_EVERY = timedelta(minutes=5)
FORGET_EVERY = timedelta(days=1)
CHECK_EVERY = timedelta(days=1)
REVIEWS_EVERY = timedelta(hours=1)

_logger = logging.getLogger(__name__)


class Dispatcher:
    """Works while it holds the lease; others wait, and one of them goes on a minute after the holder has died.

    send: how an event is delivered, by default through its channel.
    """

    def __init__(self, store: ControlStore, settings: Settings, send: Send | None = None):
        self._store, self._settings = store, settings
        self._send = send or Channels(settings.webhook_allowed_hosts).send
        self._holder = f"{os.uname().nodename} {os.getpid()} {uuid6.uuid7()}"
        self._last: dict[str, datetime] = {}
        self._stopping = threading.Event()

    def start(self) -> None:
        """Work in a thread, until `stop`."""
        threading.Thread(target=self.run, name="dispatcher", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Work until `stop` is called. What fails is logged, and tried again."""
        while not self._stopping.is_set():
            try:
                done = self.round(self._now())
            except Exception:
                _logger.exception("A round of the dispatcher failed")
                done = None
            if not done or not done.delivered:  # while something gets through there may be more
                self._stopping.wait(POLL_S)
        try:
            release(self._store, LEASE_NAME, self._holder)
        except MlopsRayError as error:
            _logger.warning("%s", error)

    def _now(self) -> datetime:
        """By the clock that all dispatchers share: else what one put off another would send at once, or never."""
        with self._store.reading() as connection:
            return database_now(connection)

    def round(self, now: datetime) -> Delivered | None:
        """One round of what is due at `now`, if the lease is ours by the database's clock: None if it is another's."""
        if hold(self._store, LEASE_NAME, self._holder, LEASE):
            return None
        self._every(EXPIRE_EVERY, "expire", now, lambda: expire(self._store, now))
        self._every(EXPIRE_EVERY, "follow up on broken glass", now, lambda: follow_up(self._store, now))
        self._every(ANCHOR_EVERY, "anchor", now, lambda: anchor(self._store, self._settings))
        self._every(REVIEWS_EVERY, "look for overdue reviews", now, lambda: announce_overdue(self._store, now))
        self._every(FORGET_EVERY, "forget", now, lambda: forget_delivered(self._store, now))
        if hold(self._store, LEASE_NAME, self._holder, LEASE):  # what came before took its time
            return None
        done = deliver_once(self._store, now, self._send)
        self._every(CHECK_EVERY, "check the audit log", now, self._check)  # longer than a lease
        return done

    def _check(self) -> None:
        """Not after an upgrade to the next release, whose events may say more than this one can check."""
        if self._store.schema().standing() != "newer":
            check(self._store, self._settings)

    def _every(self, interval: timedelta, name: str, now: datetime, work: Callable[[], object]) -> None:
        """Do it if it is time; a failure of one does not keep the others from being done."""
        last = self._last.get(name)
        if last is not None and now - last < interval:
            return
        self._last[name] = now
        try:
            work()
        except MlopsRayError as error:
            _logger.warning("Dispatcher could not %s, and tries again in %s: %s", name, interval, error)
        except Exception:
            _logger.exception("Dispatcher could not %s, and tries again in %s", name, interval)
