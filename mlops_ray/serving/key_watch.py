"""Key watch: what a guard knows is kept as the control store and the OIDC provider have it."""

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.keys import active_keys
from mlops_ray.serving.auth import Guard, refreshed
from mlops_ray.serving.duty import Duty

KEYS_REFRESHED_S = 5.0
KEY_SET_REFRESHED_S = 300.0


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
        self._store, self._guard = store, guard
        self._duties = (
            Duty("keys", self._read_keys, keys_every_s),
            key_set_duty(settings, guard, key_set_every_s),
        )

    def start(self) -> None:
        for duty in self._duties:
            duty.start()

    def stop(self) -> None:
        """Without waiting: a thread may be waiting for a server that hangs."""
        for duty in self._duties:
            duty.stop()

    def expect_alive(self) -> None:
        """Raise RuntimeError if a thread has ended, so that Serve replaces the replica: no revocation would arrive."""
        for duty in self._duties:
            duty.expect_alive()

    def _read_keys(self) -> None:
        self._guard.keys = active_keys(self._store)


def key_set_duty(settings: Settings, guard: Guard, every_s: float = KEY_SET_REFRESHED_S) -> Duty:
    """Keeps the key set of OIDC by which `guard` knows tokens."""

    def read() -> None:
        guard.tokens = refreshed(guard.tokens, settings)

    return Duty("key set", read, every_s)
