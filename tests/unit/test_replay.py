"""Recorded rows come in their order, and no label before it is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.retraining import _fault, _span
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.predictions.labels import write_by_request
from mlops_ray.retraining.new_labels import NewLabels
from mlops_ray.retraining.replay import Planted, Progress, Replay, questions
from mlops_ray.use_case import Feature

START = datetime(2013, 12, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class Answer:
    request_id: str


@dataclass
class Recorder:
    """Notes in simulated time what comes."""

    now: datetime = START
    asked: list[tuple[datetime, list[Mapping[str, Any]]]] = field(default_factory=list)
    labels: list[Mapping[str, Any]] = field(default_factory=list)
    early: int = 0

    def predict(self, name: str, *, features: Any, as_of: datetime) -> Answer:
        assert as_of >= self.now
        self.now = as_of
        self.asked.append((as_of, features))
        return Answer(str(len(self.asked) - 1))

    def send_labels(self, name: str, labels: Sequence[Mapping[str, Any]]) -> int:
        self.early += sum(label["known_at"] > self.now for label in labels)
        self.labels += labels
        return len(labels)


def recorded(rows: int = 200) -> pl.DataFrame:
    """Every 20 minutes two rows; their labels take up to five hours."""
    moments = [START + timedelta(minutes=10 * (n // 2 * 2)) for n in range(rows)]
    frame = pl.DataFrame(
        {
            PREDICTION_TIME: pl.Series(moments, dtype=pl.Datetime("us", "UTC")),
            "x": list(range(rows)),
            LABEL: [n % 3 == 0 for n in range(rows)],
        }
    )
    return frame.with_columns((pl.col(PREDICTION_TIME) + HOUR * (1 + pl.col("x") % 5)).alias(LABEL_KNOWN_AT))


FRAME = recorded()
END = FRAME[PREDICTION_TIME][-1] + HOUR


def play(step: timedelta, **options: Any) -> tuple[Recorder, Progress]:
    endpoint = Recorder()
    replay = Replay(endpoint, "arrivals", [Feature("x", "number")], float("inf"))
    return endpoint, replay.run(questions(FRAME, START, END, step), **options)


@pytest.mark.parametrize("step", [timedelta(0), HOUR])
def test_every_row_is_asked_once_in_order_as_of_its_moment(step: timedelta) -> None:
    endpoint, done = play(step)
    assert [row["x"] for _, rows in endpoint.asked for row in rows] == list(range(200))
    assert done.predictions == 200
    moments = dict(FRAME.select("x", PREDICTION_TIME).iter_rows())
    for as_of, rows in endpoint.asked:
        assert all(timedelta(0) <= as_of - moments[row["x"]] <= step for row in rows)


def test_labels_follow_when_they_are_known_and_are_those_of_their_row() -> None:
    endpoint, done = play(timedelta(0))
    assert endpoint.early == 0
    known = FRAME.filter(pl.col(LABEL_KNOWN_AT) <= done.now)
    assert len(endpoint.labels) == done.labels == len(known) < 200
    for label in endpoint.labels:
        row = endpoint.asked[int(label["request_id"])][1][label["row"]]["x"]
        assert label["label"] is (row % 3 == 0)


def test_it_ends_when_it_is_told_to() -> None:
    seen: list[Progress] = []

    def tell(progress: Progress) -> bool:
        seen.append(progress)
        return len(seen) < 2

    endpoint, done = play(timedelta(0), tell=tell, every=2 * HOUR)
    assert done.predictions < 200
    assert done.last
    assert done == seen[-1]
    assert len(endpoint.asked) * 2 == done.predictions


def test_nothing_to_replay_is_said() -> None:
    with pytest.raises(DataError, match="nothing to replay"):
        next(questions(FRAME, END + HOUR, END + 2 * HOUR, HOUR))


def test_new_labels_are_counted_by_when_they_became_known(tmp_path: Any) -> None:
    settings = load_settings(state=str(tmp_path), data=str(tmp_path))
    count = NewLabels(settings, "arrivals")
    assert count(None, END) == 0
    for part in range(4):
        known = [START + (part * 10 + n) * HOUR for n in range(10)]
        rows = pl.DataFrame({"request_id": [f"r{part}-{n}" for n in range(10)], "row": [0] * 10})
        times = pl.Series(known, dtype=pl.Datetime("us", "UTC"))
        rows = rows.with_columns(
            label=pl.lit(True), known_at=times, received_at=times, row=pl.col("row").cast(pl.Int32)
        )
        write_by_request(Artifacts(settings.artifacts), "arrivals", f"s{part}", rows)
    assert count(None, START + 100 * HOUR) == 40
    assert count(START + 4 * HOUR, START + 100 * HOUR) == 35
    assert count(START + 4 * HOUR, START + 12 * HOUR) == 8
    assert count(START + 100 * HOUR, START + 200 * HOUR) == 0


def test_a_planted_fault_moves_one_feature_from_its_day_on() -> None:
    since = START + 10 * HOUR
    off = Planted("x", 2.0, since).into(FRAME)
    moved = (off["x"] - FRAME["x"]).to_numpy()
    assert set(moved[(FRAME[PREDICTION_TIME] < since).to_numpy()]) == {0.0}
    assert moved[-1] == pytest.approx(2 * float(FRAME["x"].std() or 0))  # type: ignore[arg-type]
    assert off.drop("x").equals(FRAME.drop("x"))
    with pytest.raises(ConfigurationError, match="no numeric feature"):
        Planted("y", 1.0, since).into(FRAME)
    assert _fault("hour=1@2013-12-11") == ("hour", 1.0, datetime(2013, 12, 11, tzinfo=UTC))
    for wrong in ("hour", "hour=x@2013-12-11", "hour=1@yesterday"):
        with pytest.raises(ConfigurationError):
            _fault(wrong)


def test_spans_are_days_or_months() -> None:
    assert _span("2013-02", "2013-12") == (datetime(2013, 2, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC))
    assert _span("2013-12-01", "2013-12-01") == (START, START + 24 * HOUR)
    for wrong in (("2013-13", "2014-01"), ("2013", "2014"), ("x", "y"), ("2013-03", "2013-02")):
        with pytest.raises(ConfigurationError):
            _span(*wrong)
