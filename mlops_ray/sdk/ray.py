"""Ray for a notebook: the one that is there, or one of its own that lives until the notebook's process ends."""

import atexit
import logging
import os
from collections.abc import Callable

from mlops_ray.config import Settings
from mlops_ray.operations.local_ray import ray_for
from mlops_ray.operations.preconditions import keep_loopback_from_proxies
from mlops_ray.quiet import import_ray


def quiet() -> None:
    """Keep what is for developers of Ray and MLflow out of a notebook; called before anything imports them."""
    keep_loopback_from_proxies(os.environ)
    import_ray()
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


def start_ray(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Nothing where this process has a Ray; else connect to that of RAY_ADDRESS, or start one on this machine.

    Raises ConfigurationError where none can be started, UnavailableError where that of RAY_ADDRESS does not answer.
    """
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    say(f"Connecting to Ray at {address} …" if address else _OWN.format(cpus=settings.num_cpus))
    running = ray_for(settings)
    running.__enter__()
    atexit.register(running.__exit__, None, None, None)


_OWN = "There is no Ray; starting one on this machine with {cpus} CPUs, which ends with this process …"
