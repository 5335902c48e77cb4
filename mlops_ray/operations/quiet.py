"""What Ray would say that is for its developers, as settings of its environment."""

# What Ray says that is for its developers: progress of Ray Data, usage statistics, and the end of Serve's controller,
# which it reports as a failed task.
QUIET = {
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "ServeController.graceful_shutdown failed",
}
