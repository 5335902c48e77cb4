"""Quiet: what Ray would say that is for its developers stays out of terminals and notebooks."""

import logging
import os
import warnings

# Progress of Ray Data, usage statistics, and the end of Serve's controller, which is reported as a failed task. Ray
# reads them once, when it is imported.
QUIET = {
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "ServeController.graceful_shutdown failed",
}


def import_ray() -> None:
    """Import Ray for the first time, with its settings; in a notebook it would ask for a package of widgets."""
    os.environ |= QUIET | os.environ
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import ray  # noqa: F401
