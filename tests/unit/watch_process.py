"""A process that watches an endpoint until it is killed."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from multiprocessing.synchronize import Event

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring import drift_watch
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.version_watch import Watched

TOLD = "told"


def watch(root: str, use_case: str, reference: Mapping[str, bytes], now: datetime, ready: Event) -> None:
    drift_watch._LABELS_S = 60.0
    watched = Watched("7", Reference.from_files(reference), {"distance": 3.0, "hour": 1.0})
    found = open_watch(root, use_case, watched)
    ready.set()
    while True:
        with suppress(OSError):  # a folder that is made while it is listed
            found.round(now)


def open_watch(root: str, use_case: str, watched: Watched) -> DriftWatch:
    """Alarms are told by files, which are there or not, as the audit log knows what it was told."""
    artifacts = Artifacts(root)

    def announce(change: AlarmChange) -> None:
        artifacts.create_bytes(f"{change.kind} {change.question}".encode(), TOLD, change.id)

    return DriftWatch(artifacts, use_case, lambda version: watched, announce)
