"""What other processes do while a control store is upgraded. Imports little, because there are many of them."""

import os
import signal
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from sqlalchemy import Engine, event

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.operations.upgrade import upgrade

ROOT = Actor("root", ("admin",))


def upgrade_at_once(store: ControlStore, together: Barrier, settings: Settings) -> None:
    together.wait()
    upgrade(settings, lambda _: ROOT)


def upgrade_and_die(settings: Settings, at: int, statements: Connection) -> None:
    """Upgrade, and be killed before the statement with this number; the commit is the last of them.

    Without one of that number it succeeds, and their number is sent.
    """
    count = 0

    def before(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "commit", before)
    upgrade(settings, lambda _: ROOT)
    statements.send(count)
