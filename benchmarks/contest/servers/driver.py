"""A driver that starts Ray, serves until it is told to stop, and leaves nothing behind."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def running_ray() -> Iterator[None]:
    """Ray as `mlops-ray serve` starts it; after the work inside it waits for SIGTERM, or the end of who started it."""
    from mlops_ray.serving import local

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ray.init(
        address="local", num_cpus=2, object_store_memory=300 << 20, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    try:
        yield
        sys.stdin.read()
    except KeyboardInterrupt:
        pass
    finally:
        local.stop()
        ray.shutdown()
