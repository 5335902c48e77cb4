"""A rehearsal: the whole round in simulated time, on an endpoint of our own, with each stage said."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import ray

from mlops_ray.artifacts import Artifacts
from mlops_ray.client import Client
from mlops_ray.config import Settings
from mlops_ray.governance.alarms import RAISED
from mlops_ray.governance.approvals import list_approvals
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.development_keys import development_key
from mlops_ray.governance.events import Event, read_events
from mlops_ray.governance.retrainings import FINISHED
from mlops_ray.monitoring.describe import example_words
from mlops_ray.monitoring.drift_actor import start_watching, stop_watching
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.registry.model_registry import MlflowRegistry
from mlops_ray.retraining.governor_actor import start_governor, stop_governor
from mlops_ray.retraining.policy import Decision
from mlops_ray.retraining.replay import Planted, Progress, Replay, questions, recorded_rows
from mlops_ray.serving.local import serve_use_case
from mlops_ray.use_case import UseCase

# In one request go the flights of a quarter of an hour: their features are recorded, so it changes no answer.
STEP = timedelta(minutes=15)
COUNTED_S, ALARM_S = 15.0, 20.0

Say = Callable[[str], Any]


@dataclass(frozen=True)
class Rehearsed:
    """How it ended. decision: the governor's last; finished: the event of its retraining, None where there was none."""

    progress: Progress
    decision: Decision
    finished: Event | None


def rehearse(
    use_case: UseCase,
    settings: Settings,
    feature_repo: Path,
    reference: str,
    start: datetime,
    end: datetime,
    say: Say,
    planted: Planted | None = None,
) -> Rehearsed:
    """Serve the champion, replay what was recorded from `start` to `end`, and let the governor act, in simulated time.

    Alarms alone ask for a retraining, whatever schedule the use case has besides. The replay ends when one is decided.
    What serves and watches is ended; versions, events and the request for approval stay in the state. reference: how
    `mlops-ray` names the use case. Ray must be running.
    """
    began_s = time.monotonic()
    if use_case.retraining is not None:
        use_case = replace(use_case, retraining=replace(use_case.retraining, every=None))

    def stage(text: str) -> None:
        say(f"[{time.monotonic() - began_s:4.0f} s] {text}")

    frame, features = recorded_rows(settings, use_case)
    frame = frame if planted is None else planted.into(frame)
    asked = questions(frame, start, end, STEP)
    stage(f"Serving the champion of {use_case.name} …")
    url = serve_use_case(settings, use_case.name)
    store = open_store(settings)
    try:
        watch = start_watching(settings, use_case.name, MlflowRegistry(settings))
        governor = start_governor(use_case, settings, feature_repo, reference, every_s=None)
        stage(f"Replaying what was recorded from {start:%Y-%m-%d} on, against {url}. Its labels follow.")
        if planted is not None:
            off = f"off by {planted.deviations:+g} standard deviations"
            stage(f"A fault is planted: from {planted.since:%Y-%m-%d} on {planted.feature} is {off}.")
        with Client(
            url.partition("/v2/")[0], api_key=os.environ.get("MLOPS_RAY_API_KEY") or development_key(store, settings)
        ) as client:
            counted = partial(_counted, Artifacts(settings.artifacts), use_case.name)
            player = _Player(store, use_case.name, watch, governor, counted, stage)
            progress = Replay(client, use_case.name, features, float("inf")).run(asked, player.tick)
        decision = player.wait_for_decision(progress)
        finished = player.wait_for_challenger(decision, progress)
        _say_what_waits(store, use_case.name, finished, stage)
        stage("Done. Ending what serves takes some seconds more.")
        return Rehearsed(progress, decision, finished)
    finally:
        stop_governor(use_case.name)
        stop_watching(use_case.name)


class _Player:
    """Tells the time to the drift actor and the governor, and says what they make of it."""

    def __init__(
        self, store: ControlStore, use_case: str, watch: Any, governor: Any, counted: Callable[[], int], stage: Say
    ):
        self._store, self._use_case, self._watch, self._governor = store, use_case, watch, governor
        self._counted, self._before, self._stage = counted, counted(), stage
        events = read_events(store, use_case=use_case, types=(RAISED, FINISHED), limit=100_000)
        self._seen = events[-1].seq if events else 0
        self._said: tuple[str, str] | None = None
        self._told: set[str] = set()

    def tick(self, progress: Progress) -> bool:
        """At the end of each simulated day; the replay goes on unless a retraining was decided."""
        if not progress.last:
            counts = f"{progress.predictions:,} predictions, {progress.labels:,} labels"
            self._stage(f"{progress.now:%Y-%m-%d}: {counts}")
        self._wait_until_counted(progress.predictions)
        return self._look(progress.now).action != "retrain"

    def _wait_until_counted(self, predictions: int) -> None:
        """The ledger is read a moment after predictions are answered; simulated time waits for it."""
        deadline_s = time.monotonic() + COUNTED_S
        while self._counted() - self._before < predictions and time.monotonic() < deadline_s:
            ray.get(self._watch.round.remote(self._use_case))
            time.sleep(0.2)

    def wait_for_decision(self, progress: Progress) -> Decision:
        """Labels are read a moment after they are told, so an alarm can come after the last prediction."""
        deadline_s = time.monotonic() + ALARM_S
        while True:
            decision = self._look(progress.now)
            if decision.action == "retrain" or decision.cause == "running" or time.monotonic() > deadline_s:
                return decision
            time.sleep(1)

    def wait_for_challenger(self, decision: Decision, progress: Progress) -> Event | None:
        """The event of its end; a retraining that takes too long is ended by the governor (`Retraining.time_limit`)."""
        if decision.action != "retrain" and decision.cause != "running":
            self._stage(f"No retraining: {decision.reason}")
            return None
        while decision.action == "retrain" or decision.cause == "running":
            time.sleep(1)
            decision = self._look(progress.now)
            found = read_events(self._store, self._seen, self._use_case, types=(FINISHED,))
            if found:
                return found[-1]
        return None

    def _look(self, now: datetime) -> Decision:
        ray.get(self._watch.round.remote(self._use_case))
        for event in read_events(self._store, self._seen, self._use_case, types=(RAISED,)):
            if event.id not in self._told:
                self._told.add(event.id)
                self._stage(f"ALARM ({event.severity}): {event.reason}")
                for example in event.payload["examples"]:
                    self._stage(f"    for example {example_words(example)}")
        decision: Decision = ray.get(self._governor.round.remote(now))
        if (decision.action, decision.cause) != self._said:
            self._said = (decision.action, decision.cause)
            self._stage(f"Governor: {decision.action} ({decision.cause}). {decision.reason}")
        return decision


def _counted(artifacts: Artifacts, use_case: str) -> int:
    return sum(read_state(artifacts, use_case).rows.values())


def _say_what_waits(store: ControlStore, use_case: str, finished: Event | None, stage: Say) -> None:
    if finished is not None:
        stage(f"Challenger {finished.subject}: {finished.payload['outcome']}. {finished.reason}")
    waiting = [one for one in list_approvals(store, use_case) if one.state == "requested"]
    for one in waiting:
        stage(
            f"Version {one.version} waits for approval until {one.expires_at:%Y-%m-%d}: "
            f"mlops-ray approvals approve {use_case} {one.version}"
        )
    if finished is not None and not waiting:
        stage("Nothing waits for approval; the champion stays.")
