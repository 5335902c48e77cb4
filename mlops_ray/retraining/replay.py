"""Replay: recorded rows through a live endpoint in simulated time, and their labels once they are known."""

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import polars as pl

from mlops_ray.artifacts import read_parquet
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.retraining.recorded import recorded
from mlops_ray.use_case import Feature, UseCase

_MOST_ROWS = 500
# Labels are sent together that became known within so much simulated time.
_LABEL_PATIENCE = timedelta(hours=1)


class Endpoint(Protocol):
    """What is asked; `client.Client` does it."""

    def predict(self, name: str, *, features: Any, as_of: datetime) -> Any: ...

    def send_labels(self, name: str, labels: Sequence[Mapping[str, Any]]) -> Any: ...


@dataclass(frozen=True)
class Asked:
    """Rows to predict, all as of the moment at which they were predicted."""

    moment: datetime
    rows: pl.DataFrame


@dataclass(frozen=True)
class Planted:
    """A fault of the replay: from `since` on the number `feature` is off by so many of its standard deviations."""

    feature: str
    deviations: float
    since: datetime

    def into(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Raises ConfigurationError if the feature is no number of these rows."""
        if self.feature not in rows.columns or not rows.schema[self.feature].is_numeric():
            raise ConfigurationError(f"{self.feature!r} is no numeric feature of what was recorded.")
        value = pl.col(self.feature).cast(pl.Float64)
        off = value + self.deviations * value.std()
        return rows.with_columns(pl.when(pl.col(PREDICTION_TIME) >= self.since).then(off).otherwise(value))


@dataclass(frozen=True)
class Progress:
    """now: in simulated time. last: of the replay."""

    now: datetime
    predictions: int = 0
    labels: int = 0
    last: bool = False


def questions(frame: pl.DataFrame, start: datetime, end: datetime, step: timedelta) -> Iterator[Asked]:
    """The rows predicted in start <= moment < end, in order of time.

    step: rows whose moments lie in the same stretch of it go together, as of the last of them; 0 keeps each moment for
    itself. Their features are the recorded ones, so this changes only the moment that the ledger shows. Raises
    DataError if there are none.
    """
    moment = pl.col(PREDICTION_TIME)
    rows = frame.filter((moment >= start) & (moment < end)).sort(PREDICTION_TIME, maintain_order=True)
    if rows.is_empty():
        raise DataError(f"There is nothing to replay from {start.isoformat()} to {end.isoformat()}.")
    stretch = moment.dt.truncate(f"{max(1, step // timedelta(microseconds=1))}us").alias("__stretch")
    for part in rows.with_columns(stretch).partition_by("__stretch", maintain_order=True, include_key=False):
        for first in range(0, part.height, _MOST_ROWS):
            asked = part[first : first + _MOST_ROWS]
            yield Asked(asked[PREDICTION_TIME][-1], asked)


class Replay:
    """Sends what was recorded to `endpoint`, as fast as `speed` says: simulated seconds for each real one.

    A label follows as soon as simulated time has reached the moment at which it became known.
    """

    def __init__(self, endpoint: Endpoint, name: str, features: Sequence[Feature], speed: float):
        self._endpoint, self._name, self._speed = endpoint, name, speed
        self._features = [feature.name for feature in features]
        self._due: list[tuple[datetime, str, int, bool]] = []
        self._told = self._sent = 0

    def run(
        self,
        asked: Iterator[Asked],
        tell: Callable[[Progress], bool] = lambda progress: True,
        every: timedelta = timedelta(days=1),
    ) -> Progress:
        """Send everything. tell: called once in each simulated `every`, and ends the replay by returning False.

        At the end the labels that are known by then have been sent; the others are never told.
        """
        began_s, start, now, next_tell = time.monotonic(), None, None, None
        for question in asked:
            start = start or question.moment
            next_tell = next_tell or start + every
            now = question.moment
            self._pause(began_s, (now - start).total_seconds())
            self._ask(question)
            self._send_labels(now)
            if now >= next_tell:
                next_tell = now + every
                if not tell(Progress(now, self._sent, self._told)):
                    break
        if now is None:
            raise DataError("There is nothing to replay.")
        self._send_labels(now, timedelta(0))
        done = Progress(now, self._sent, self._told, last=True)
        tell(done)
        return done

    def _pause(self, began_s: float, simulated_s: float) -> None:
        ahead_s = simulated_s / self._speed - (time.monotonic() - began_s)
        if ahead_s > 0:
            time.sleep(ahead_s)

    def _ask(self, asked: Asked) -> None:
        rows = asked.rows.select(self._features).to_dicts()
        answer = self._endpoint.predict(self._name, features=rows, as_of=asked.moment)
        for row, (known_at, label) in enumerate(asked.rows.select(LABEL_KNOWN_AT, LABEL).iter_rows()):
            heapq.heappush(self._due, (known_at, answer.request_id, row, label))
        self._sent += len(rows)

    def _send_labels(self, now: datetime, waited: timedelta = _LABEL_PATIENCE) -> None:
        """Those that are known by `now`, once the oldest of them has waited so long."""
        if not self._due or self._due[0][0] > now - waited:
            return
        labels = []
        while self._due and self._due[0][0] <= now:
            known_at, request_id, row, label = heapq.heappop(self._due)
            labels.append({"request_id": request_id, "row": row, "label": label, "known_at": known_at})
        if labels:
            self._endpoint.send_labels(self._name, labels)
            self._told += len(labels)


def recorded_rows(settings: Settings, use_case: UseCase) -> tuple[pl.DataFrame, tuple[Feature, ...]]:
    """The champion's training set, with the features as they were known at each prediction, and those features."""
    found = recorded(settings, use_case)
    return read_parquet(found.url), found.features
