"""Ray for a command: the cluster of RAY_ADDRESS, or one of our own that ends with the command."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.cost.processes import TAG
from mlops_ray.errors import UnavailableError
from mlops_ray.operations.preconditions import expect_can_serve, expect_can_work
from mlops_ray.serving.environment import serve_environment

_LOOK_EVERY_S = 1.0

# Replicas drain for 30 s, so that a load balancer in front can notice; before a Ray of our own there is none.
_NOTHING_IN_FRONT = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}


def prepare_ray(settings: Settings, serving: bool = False) -> bool:
    """Make sure that the work, and if wanted serving, is possible, and set what Ray reads from the environment when it
    is imported. Whether the Ray will be one of our own.

    Raises ConfigurationError where something is not possible.
    """
    expect_can_work(settings)
    if serving:
        expect_can_serve(settings)
    own = "RAY_ADDRESS" not in os.environ
    if own:
        os.environ |= serve_environment() | _NOTHING_IN_FRONT
    return own


@contextmanager
def ray_for(settings: Settings, serving: bool = False, runtime_env: dict[str, Any] | None = None) -> Iterator[bool]:
    """A Ray for the work inside: the cluster of RAY_ADDRESS, or one of our own, which ends with it (yields True).

    serving: an endpoint will be started. runtime_env: of what this process runs there. Raises as `prepare_ray`, and
    UnavailableError if the cluster does not answer.
    """
    with running_ray(settings, prepare_ray(settings, serving), runtime_env) as own:
        yield own


@contextmanager
def ray_on_demand(settings: Settings) -> Iterator[Callable[[], None]]:
    """What starts Ray, once, when it is called: small data needs none."""
    with ExitStack() as stack:
        started: list[Any] = []

        def start() -> None:
            if not started:
                started.append(stack.enter_context(ray_for(settings)))

        yield start


@contextmanager
def running_ray(settings: Settings, own: bool, runtime_env: dict[str, Any] | None = None) -> Iterator[bool]:
    """As `ray_for`, after `prepare_ray`; it may be entered in another thread than the main one."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": runtime_env}
    if not own and TAG in os.environ:  # workers of a Ray of our own have our environment
        variables = {**(runtime_env or {}).get("env_vars", {}), TAG: os.environ[TAG]}
        quiet["runtime_env"] = {**(runtime_env or {}), "env_vars": variables}
    if own:
        ray.init(
            address="local",
            num_cpus=settings.num_cpus,
            object_store_memory=settings.object_store_mb << 20,
            include_dashboard=False,
            **quiet,
        )
    else:
        try:
            ray.init(**quiet)
        except ConnectionError as error:
            raise UnavailableError(
                f"Ray at {os.environ['RAY_ADDRESS']} (RAY_ADDRESS) does not answer, or refuses this token. Is it "
                f"running? Without the variable a Ray of this command's own is started."
            ) from error
    try:
        yield own
    finally:
        if own and "mlops_ray.serving.local" in sys.modules:
            from mlops_ray.serving.local import end_proxies, stop

            # A Ray without its control service answers no call, so that Serve could not be shut down.
            end_proxies() if dead_parts() else stop()
        ray.shutdown()


def dead_parts() -> list[str]:
    """Which processes of the Ray that this command started have ended: all of it is of no use then."""
    from ray._private.worker import _global_node

    return [] if _global_node is None else [str(kind) for kind, _ in _global_node.dead_processes()]


def stay_while_ray_lives() -> None:
    """Wait until Ctrl-C. Raises UnavailableError when a process of this command's own Ray ends."""
    while not (dead := dead_parts()):
        time.sleep(_LOOK_EVERY_S)
    raise UnavailableError(
        f"Ray has ended: its {dead[0]} is gone, and nothing is served any more. What was answered is kept; start this "
        f"command again. See the logs in {_log_folder()}."
    )


def _log_folder() -> str:
    from ray._private.worker import _global_node

    return str(_global_node.get_logs_dir_path())
