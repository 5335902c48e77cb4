"""The replica that owns what is no model's."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.database_clock import DatabaseClock
from mlops_ray.governance.dispatcher import Dispatcher
from mlops_ray.governance.keys import active_keys
from mlops_ray.serving.auth import Guard, is_public, tokens_of
from mlops_ray.serving.credentials import with_persons
from mlops_ray.serving.duty import Duty
from mlops_ray.serving.environment import uses_haproxy
from mlops_ray.serving.front_ends import FRONT_END_LOOK_S, FrontEnds
from mlops_ray.serving.key_watch import KeyWatch
from mlops_ray.serving.overdue import LOOK_S, Overdue
from mlops_ray.serving.replica_process import CLOCK_LOOK_S, LOGGING, http_host, set_up_process
from mlops_ray.serving.site import Site

SERVER_APPLICATION = "server"
STATUS_AGE_S = 1.0


@serve.deployment(
    name="server", ray_actor_options={"num_cpus": 0}, graceful_shutdown_wait_loop_s=0.5, logging_config=LOGGING
)
@serve.ingress()
class ServerReplica:
    """`Site`, the dispatcher of notifications, what looks after the front ends, and metrics of what is overdue."""

    def __init__(self, settings: Settings) -> None:
        set_up_process()
        self._store = open_store(settings)
        self._settings = settings = with_persons(settings, self._store)
        public = is_public(settings, http_host())
        clock = DatabaseClock(self._store)
        clock.look()
        self._clock = Duty("clock", clock.look, CLOCK_LOOK_S)
        self._clock.start()
        self._guard = Guard(None, active_keys(self._store), tokens_of(settings), public, clock)
        self._key_watch = KeyWatch(self._store, settings, self._guard)
        self._key_watch.start()
        self._dispatcher = Dispatcher(self._store, settings)
        self._dispatcher.start()
        self._front_ends = Duty("front ends", FrontEnds().look, FRONT_END_LOOK_S)
        if uses_haproxy():
            self._front_ends.start()
        self._overdue = Duty("overdue", Overdue(settings, self._store).look, LOOK_S)
        self._overdue.start()
        # Of its own: Serve's controller may hang, probes come each second, and keys are revoked by the same process.
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="status")
        self._seen: tuple[float, dict[str, bool]] = (-STATUS_AGE_S, {})

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Site(self._settings, self._store, self._guard, self._running)

    async def check_health(self) -> None:
        self._key_watch.expect_alive()
        self._clock.expect_alive()

    def __del__(self) -> None:
        self._key_watch.stop()
        self._clock.stop()
        self._dispatcher.stop()
        self._front_ends.stop()
        self._overdue.stop()

    async def _running(self) -> dict[str, bool]:
        seen_at, running = self._seen
        if time.monotonic() - seen_at > STATUS_AGE_S:
            running = await asyncio.get_running_loop().run_in_executor(self._asking, _running_models)
            self._seen = (time.monotonic(), running)
        return running


def _running_models() -> dict[str, bool]:
    """Every other application of this Serve, and whether all its deployments take requests."""
    applications: dict[str, Any] = serve.status().applications
    return {name: a.status == "RUNNING" for name, a in applications.items() if name != SERVER_APPLICATION}
