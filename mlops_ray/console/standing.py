"""Standings: how the live version of each use case is asked and how good it is, as its watch knew at its last commit.

A commit takes milliseconds to read, and there may be a hundred endpoints, each with its own on shared storage. So they
are read beside the pages, in one thread, when somebody looks; what is not known yet a page shows at its next refresh.
"""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError

AGAIN_S, WAIT_S = 15.0, 0.05
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Standing:
    """predictions: by version, all that were counted. asked: requests within a day, None where none are reported.
    estimated, measured: what the newest windows of a version say, by version; each with the window's end. trouble: why
    nothing is known."""

    predictions: Mapping[str, int]
    asked: int | None
    estimated: Mapping[str, tuple[str, datetime]]
    measured: Mapping[str, tuple[str, datetime]]
    trouble: str = ""


class Standings:
    def __init__(self, settings: Settings):
        self._artifacts = Artifacts(settings.artifacts)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="standings")
        self._known: dict[str, Standing] = {}
        self._read_at: dict[str, float] = {}
        self._work: Future[None] | None = None

    def of(self, use_cases: Iterable[str]) -> dict[str, Standing]:
        """Of those that are known by now; who was never read is waited for a moment."""
        asked, now_s = list(use_cases), time.monotonic()
        due = [name for name in asked if now_s - self._read_at.get(name, float("-inf")) >= AGAIN_S]
        if due and (self._work is None or self._work.done()):
            self._work = self._threads.submit(self._read, due)
        if self._work is not None and any(name not in self._known for name in asked):
            with suppress(TimeoutError):
                self._work.result(WAIT_S)
        return {name: self._known[name] for name in asked if name in self._known}

    def _read(self, use_cases: Iterable[str]) -> None:
        for name in use_cases:
            self._known[name] = standing_of(self._artifacts, name, datetime.now(UTC))
            self._read_at[name] = time.monotonic()


def standing_of(artifacts: Artifacts, use_case: str, now: datetime) -> Standing:
    # Imported where it is needed: it takes half a second, and a page waits for none of it.
    from mlops_ray.monitoring.describe import estimated_words, measured_words
    from mlops_ray.monitoring.watch_state import read_state

    try:
        state = read_state(artifacts, use_case)
    except (MlopsRayError, OSError) as error:
        return Standing({}, None, {}, {}, f"What its watch knows cannot be read ({type(error).__name__}).")
    estimated, measured = dict[str, tuple[str, datetime]](), dict[str, tuple[str, datetime]]()
    for version, watch in state.watches.items():
        records = sorted((one for stream in watch.streams.values() for one in stream.records), key=lambda one: one.end)
        for record in records:
            if record.estimated is not None:
                estimated[version] = estimated_words(record), record.end
            if record.labelled:
                measured[version] = measured_words(record), record.end
    hours = state.requests.hours
    asked = sum(hour.requests.asked for hour in hours if hour.end > now - DAY) if hours else None
    return Standing(state.rows, asked, estimated, measured)
