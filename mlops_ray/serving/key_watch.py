"""Key watch: what a guard knows is kept as the control store and the OIDC provider have it."""

import logging
import threading
from collections.abc import Callable

from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.principals import active_keys
from mlops_ray.serving.auth import Guard, refreshed

KEYS_REFRESHED_S = 5.0
KEY_SET_REFRESHED_S = 300.0

_logger = logging.getLogger(__name__)


class KeyWatch:
    """Reads the API keys and the key set of OIDC again, each in a thread of its own: neither waits for the other.

    What cannot be read stays as it was known, whatever the reason.
    """

    def __init__(
        self,
        store: ControlStore,
        settings: Settings,
        guard: Guard,
        keys_every_s: float = KEYS_REFRESHED_S,
        key_set_every_s: float = KEY_SET_REFRESHED_S,
    ):
        self._store, self._settings, self._guard = store, settings, guard
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=given, name=given[0].__name__.strip("_"), daemon=True)
            for given in ((self._read_keys, keys_every_s), (self._read_key_set, key_set_every_s))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Without waiting: a thread may be waiting for a server that hangs."""
        self._stopping.set()

    def expect_alive(self) -> None:
        """Raise RuntimeError if a thread has ended, so that Serve replaces the replica: no revocation would arrive."""
        for thread in self._threads:
            if not thread.is_alive():
                raise RuntimeError(f"The thread {thread.name!r}, which watches keys, has ended.")

    def _repeat(self, read: Callable[[], None], every_s: float) -> None:
        while not self._stopping.wait(every_s):
            try:
                read()
            except MlopsRayError as error:
                _logger.warning("Going on with the keys that were known: %s", error)
            except Exception:
                _logger.exception("Going on with the keys that were known")

    def _read_keys(self) -> None:
        self._guard.keys = active_keys(self._store)

    def _read_key_set(self) -> None:
        self._guard.tokens = refreshed(self._guard.tokens, self._settings)
