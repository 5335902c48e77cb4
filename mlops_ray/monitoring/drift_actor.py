"""The drift actor: one for each endpoint, in the cluster. A thin shell around `DriftWatch`."""

import logging
import os
import shlex
import sys
import threading
import time
from datetime import datetime
from typing import Any

import ray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError, MlopsRayError, UnavailableError
from mlops_ray.governance.alarms import raise_alarm, resolve_alarm, worsen_alarm
from mlops_ray.governance.control_store import ControlStore, database_now, open_store
from mlops_ray.governance.monitoring_definitions import MonitoringRevision, definition_of
from mlops_ray.import_closure import code_digest
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.definition import Registry, find_sealed, versions_with_traffic, watched_by
from mlops_ray.monitoring.drift_watch import DriftWatch, Round
from mlops_ray.monitoring.foreign_model import WithForeign
from mlops_ray.monitoring.label_times import set_label_times
from mlops_ray.monitoring.ledger_upkeep import keep_up_if_due
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.state_folder import keep_closed

NAMESPACE = "mlops_ray"
ROUND_S = 5.0
UPKEEP_LOOK_S = 60.0
_ANSWER_S = 10.0
_INTERPRETERS = {"pip", "uv", "conda", "container", "image_uri", "py_executable"}

_logger = logging.getLogger(__name__)


def drift_actor_name(use_case: str) -> str:
    """The name of an endpoint's actor, in the namespace `mlops_ray`."""
    return f"drift-{use_case}"


def start_watching(settings: Settings, use_case: str, registry: Registry, round_s: float = ROUND_S) -> Any:
    """The actor that watches an endpoint, started if there is none; one with other code is replaced.

    It outlives who started it and is restarted wherever it dies; what it knew is in its commits. round_s: the pause
    between rounds. Raises UnavailableError if there is none after a while.
    """
    code = code_digest(__name__)
    options = {"name": drift_actor_name(use_case), "namespace": NAMESPACE, "lifetime": "detached"}
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, runtime_env=_giving_way())(DriftActor)
    for _ in range(10):
        handle = actor.options(get_if_exists=True, **options).remote(settings, use_case, registry, code, round_s)
        try:
            if ray.get(handle.code.remote(), timeout=6 * _ANSWER_S) == code:
                return handle
            _logger.info("The drift actor of %s has other code, and is replaced", use_case)
            ray.kill(handle)
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
    """End the actor of an endpoint, if there is one. The next goes on where it was."""
    try:
        ray.kill(ray.get_actor(drift_actor_name(use_case), namespace=NAMESPACE))
    except ValueError:
        return


def open_watch(settings: Settings, use_case: str, registry: Registry, store: ControlStore) -> DriftWatch:
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
    """What a version is judged by under a revision, or in words why it cannot be. Where it cannot be judged so, it is
    judged as it was sealed. Raises UnavailableError if the registry is down."""
    sealed = find_sealed(registry, use_case, version)
    if isinstance(sealed, str):
        return sealed
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


def _giving_way() -> dict[str, str]:
    """A runtime environment in which a process starts with the least claim on a CPU, and leaves it to replicas.

    Not where the environment brings an interpreter of its own.
    """
    own = dict(ray.get_runtime_context().runtime_env)
    return {} if own.keys() & _INTERPRETERS else {"py_executable": f"nice -n 19 {shlex.quote(sys.executable)}"}


class DriftActor:
    """Rounds at an interval, in a thread. A round that fails is repeated; one that was cut off begins anew.

    In another it looks after the ledger: what it has read can be moved.
    """

    def __init__(self, settings: Settings, use_case: str, registry: Registry, code: str, round_s: float):
        keep_closed()
        self._settings, self._use_case, self._registry = settings, use_case, registry
        self._code, self._round_s = code, round_s
        self._watch: DriftWatch | None = None
        self._store: ControlStore | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._follow, name="drift", daemon=True).start()
        if settings.ledger_upkeep_every_s:
            threading.Thread(target=self._keep_ledger, name="ledger upkeep", daemon=True).start()

    def code(self) -> str:
        """The digest of the code it runs."""
        return self._code

    def pid(self) -> int:
        return os.getpid()

    def round(self, now: datetime | None = None) -> Round:
        """One round, now. Raises what `DriftWatch.round` raises."""
        with self._lock:
            if self._store is None or self._watch is None:
                self._store = open_store(self._settings)
                self._watch = open_watch(self._settings, self._use_case, self._registry, self._store)
            self._define(self._store, self._watch)
            traffic = versions_with_traffic(self._store, self._use_case)
            with self._store.reading() as connection:
                clock = database_now(connection)
            return self._watch.round(now or clock, traffic)

    def _define(self, store: ControlStore, watch: DriftWatch) -> None:
        """Let the watch go by what was set for the use case, from the next window on."""
        revision = definition_of(store, self._use_case)
        number = 0 if revision is None else revision.revision
        if number != watch.revision:
            set_label_times(Artifacts(self._settings.artifacts), self._use_case, revision)
            watch.define(number)

    def _keep_ledger(self) -> None:
        store: ControlStore | None = None
        while True:
            time.sleep(min(UPKEEP_LOOK_S, self._settings.ledger_upkeep_every_s))
            try:
                store = store or open_store(self._settings)
                if done := keep_up_if_due(self._settings, store, self._use_case):
                    _logger.info("Looked after the ledger of %s: %s", self._use_case, done)
            except (MlopsRayError, OSError) as error:
                _logger.warning("The ledger of %s is not looked after, but later: %s", self._use_case, error)
            except Exception:
                _logger.exception("Looking after the ledger of %s failed", self._use_case)

    def _follow(self) -> None:
        while True:
            try:
                done = self.round()
                if done.rows or done.announced:
                    _logger.info("Watched %s: %s", self._use_case, done)
            except (UnavailableError, OSError) as error:
                _logger.warning("The watch of %s goes on later: %s", self._use_case, error)
            except DataError as error:  # what it knew is of another format: a person must act
                _logger.error("The watch of %s stands still: %s", self._use_case, error)
                time.sleep(UPKEEP_LOOK_S)
            except Exception:
                _logger.exception("A round of the watch of %s failed", self._use_case)
            time.sleep(self._round_s)
