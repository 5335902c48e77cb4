"""The drift actors: a few in the cluster, which share its endpoints. Thin shells around `watcher.Watcher`."""

import hashlib
import logging
import os
import shlex
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import ray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.cost.service import ServiceMeter
from mlops_ray.cost.work import Work
from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.giving_way import be_nice
from mlops_ray.governance.alarms import raise_alarm, resolve_alarm, worsen_alarm
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.monitoring_definitions import MonitoringRevision, definition_of
from mlops_ray.import_closure import code_digest
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.definition import Registry, find_sealed, watched_by
from mlops_ray.monitoring.drift_watch import DriftWatch, Round
from mlops_ray.monitoring.foreign_model import WithForeign
from mlops_ray.monitoring.sealed_reference import SealedReference
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.watch_metrics import WatchMetrics
from mlops_ray.monitoring.watcher import Watcher, assign, place_of
from mlops_ray.state_folder import keep_closed

NAMESPACE = "mlops_ray"
ROUND_S = 5.0
UPKEEP_LOOK_S = 60.0
ASSIGNED_LOOK_S = 30.0
_WATCHER = "watcher-"
_ANSWER_S = 10.0
_INTERPRETERS = {"pip", "uv", "conda", "container", "image_uri", "py_executable"}

_logger = logging.getLogger(__name__)


def start_watching(settings: Settings, use_case: str, registry: Registry, round_s: float = ROUND_S) -> Any:
    """The actor that watches an endpoint, started if there is none; one with other code leaves the endpoint to it.

    It is one of `settings.drift_watchers`, which share all endpoints. It outlives who started it and is restarted
    wherever it dies; what it knew is in its commits. registry: what `settings` name. round_s: the pause between its
    turns. Raises UnavailableError if there is none after a while.
    """
    pool, place = _pool(settings), place_of(use_case, settings.drift_watchers)
    name = f"{_WATCHER}{pool}-{place}"
    options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached"}
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, runtime_env=_giving_way())(DriftActor)
    assign(Artifacts(settings.artifacts), use_case, pool)
    _let_others_leave(use_case, f"{_WATCHER}{pool}-")
    for _ in range(10):
        handle = actor.options(get_if_exists=True, **options).remote(settings, registry, pool, place, round_s)
        try:
            ray.get(handle.watch.remote(use_case), timeout=6 * _ANSWER_S)
            return handle
        except ray.exceptions.RayError as error:
            _logger.warning("The drift actor of %s does not answer: %s", use_case, error)
        time.sleep(0.5)  # until its name is free
    raise UnavailableError(f"The drift actor of {use_case} could not be started. See Ray's logs.")


def keep_watching(settings: Settings, use_case: str, registry: Registry) -> threading.Thread:
    """`start_watching` in a thread, repeated until it works: who serves neither waits for it nor fails with it."""

    def start() -> None:
        while True:
            try:
                start_watching(settings, use_case, registry)
                return
            except Exception:
                _logger.exception("The drift actor of %s is not started yet", use_case)
                time.sleep(_ANSWER_S)

    thread = threading.Thread(target=start, name="start drift actor", daemon=True)
    thread.start()
    return thread


def stop_watching(use_case: str) -> None:
    """Let nobody watch an endpoint. Who does next goes on where it was."""
    _let_others_leave(use_case)


def open_watch(settings: Settings, registry: Registry, use_case: str, store: ControlStore) -> DriftWatch:
    """The watch of an endpoint, with references from the registry and alarms in the audit log."""
    artifacts = Artifacts(settings.artifacts)
    every = WithForeign(registry, store, artifacts)
    return DriftWatch(
        artifacts,
        use_case,
        lambda version: find_reference(every, use_case, version, definition_of(store, use_case)),
        lambda change: record_change(store, use_case, change),
    )


def find_reference(
    registry: Registry, use_case: str, version: str, revision: MonitoringRevision | None = None
) -> Watched | str:
    """What a version is judged by under a revision (see `reference_of`), or in words why it cannot be. Raises
    UnavailableError if the registry is down."""
    sealed = find_sealed(registry, use_case, version)
    return sealed if isinstance(sealed, str) else reference_of(sealed, version, revision)


def reference_of(sealed: SealedReference, version: str, revision: MonitoringRevision | None) -> Watched:
    """What was sealed, under a revision; as it was sealed where it cannot be judged so."""
    try:
        return watched_by(sealed, version, revision)
    except ConfigurationError as error:
        _logger.warning("%s It is watched as it was sealed.", error)
        return watched_by(sealed, version, None)


def record_change(store: ControlStore, use_case: str, change: AlarmChange) -> None:
    """Write an alarm's change to the audit log, unless it stands there."""
    version = int(change.version)
    if change.kind == "raised":
        new = raise_alarm(
            store, use_case, version, change.id, change.title, change.severity, change.since, change.payload
        )
    elif change.kind == "worsened":
        new = worsen_alarm(store, use_case, version, change.id, change.title, change.severity, change.payload)
    else:
        new = resolve_alarm(store, use_case, change.id, change.title, {**change.payload, "version": version})
    if new:
        _logger.info("Alarm %s of %s %s: %s", change.id, use_case, change.kind, change.title)


def _pool(settings: Settings) -> str:
    """The name of the actors that run this code with these settings."""
    return hashlib.sha256(f"{code_digest(__name__)} {settings.model_dump_json()}".encode()).hexdigest()[:12]


def _let_others_leave(use_case: str, ours: str = "-") -> None:
    """Let all actors leave an endpoint but those whose names begin with `ours`."""
    for one in ray.util.list_named_actors(all_namespaces=True):
        if one["namespace"] != NAMESPACE or not one["name"].startswith(_WATCHER) or one["name"].startswith(ours):
            continue
        try:
            leave = ray.get_actor(one["name"], namespace=NAMESPACE).leave.options(max_task_retries=0)
            ray.get(leave.remote(use_case), timeout=_ANSWER_S)
        except (ValueError, ray.exceptions.RayError) as error:  # it has ended, or sees what is assigned when it can
            _logger.info("The drift actor %s has left %s: %s", one["name"], use_case, type(error).__name__)
    with suppress(ValueError):  # of the release before, one for each endpoint
        ray.kill(ray.get_actor(f"drift-{use_case}", namespace=NAMESPACE))


def _giving_way() -> dict[str, str]:
    """A runtime environment in which a process starts with the least claim on a CPU, and leaves it to replicas.

    Not where the environment brings an interpreter of its own.
    """
    own = dict(ray.get_runtime_context().runtime_env)
    return {} if own.keys() & _INTERPRETERS else {"py_executable": f"nice -n 19 {shlex.quote(sys.executable)}"}


class DriftActor:
    """A watcher as an actor: turns at an interval in one thread, and in another it looks after the ledgers."""

    def __init__(self, settings: Settings, registry: Registry, pool: str, place: int, round_s: float):
        keep_closed()
        be_nice()
        self._metrics = WatchMetrics(Artifacts(settings.artifacts))
        self._watcher = Watcher(settings, pool, place, partial(open_watch, settings, registry), self._metrics.show)
        self._round_s = round_s
        cost = ServiceMeter(open_store(settings), settings, "drift", lambda: self._watcher.worked_s, Work())
        cost.begin()
        threading.Thread(target=self._follow, name="drift", daemon=True).start()
        if settings.ledger_upkeep_every_s:
            every_s = min(UPKEEP_LOOK_S, settings.ledger_upkeep_every_s)
            threading.Thread(target=self._keep_ledgers, args=(every_s,), name="ledger upkeep", daemon=True).start()

    def pid(self) -> int:
        return os.getpid()

    def watch(self, use_case: str) -> None:
        """Have this endpoint from now on."""
        self._watcher.take(use_case)

    def watched(self) -> tuple[str, ...]:
        return self._watcher.watched

    def leave(self, use_case: str) -> None:
        """Have it no more. The actor ends with its last endpoint."""
        self._watcher.drop(use_case)
        if not self._watcher.watched:
            ray.actor.exit_actor()

    def round(self, use_case: str, now: datetime | None = None) -> Round:
        """One round of an endpoint, now. Raises what `DriftWatch.round` raises."""
        return self._watcher.round(use_case, now)

    def _keep_ledgers(self, every_s: float) -> None:
        while True:
            time.sleep(every_s)
            self._watcher.keep_ledgers()

    def _follow(self) -> None:
        looked_s = -ASSIGNED_LOOK_S
        while True:
            if time.monotonic() - looked_s >= ASSIGNED_LOOK_S:
                try:
                    self._watcher.look()
                    looked_s = time.monotonic()
                except OSError as error:
                    _logger.warning("Which endpoints are to be watched cannot be read: %s", error)
            is_behind = self._watcher.turn()
            self._metrics.say_lags(self._watcher.watched)
            if not is_behind:
                time.sleep(self._round_s)
