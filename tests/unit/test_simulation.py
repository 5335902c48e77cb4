"""A policy on the past: it learns from what is known by then, and answers a change of the world."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.governance.monitoring_definitions import MonitoringRevision
from mlops_ray.monitoring.definition import as_watched
from mlops_ray.retraining import simulation
from mlops_ray.retraining.simulation import Scenario, Simulated, simulate
from mlops_ray.training.encoding import fit_encoder
from mlops_ray.training.fit import Fitted
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Feature, Monitoring, Question, Retraining, Split, UseCase
from mlops_ray.use_case.window_spec import WindowSpec
from tests.unit.test_governor import USE_CASE

START = datetime(2020, 1, 1, tzinfo=UTC)
CHANGE = START + timedelta(days=60)
FEATURES = (Feature("x", "number"), Feature("y", "number"))
NEVER = Retraining(alarms=(), split=Split(test=timedelta(days=14)))
# With a schedule behind the alarms: a model that has half learned a new world is normal to its own reference.
DRIFT = replace(NEVER, alarms=("data", "prediction", "concept"), every=timedelta(days=20), min_new_rows=200)
CASE = replace(USE_CASE, monitoring=Monitoring((WindowSpec(rows=200, minimum_rows=200),), false_alarm_days=20))
SCENARIO = Scenario(CASE, FEATURES, Trial("line", 0, {}), START + timedelta(days=45), START + timedelta(days=160))


@dataclass
class Line:
    weights: NDArray[np.float64]

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-4 * (matrix @ self.weights)))


def fit_line(
    use_case: UseCase, frame: pl.DataFrame, as_of: datetime, features: Sequence[Feature], trial: Trial
) -> Fitted:
    """As `fit_chosen`, with least squares and no ONNX."""
    end = as_of - use_case.split.test
    rows = frame.filter((pl.col(PREDICTION_TIME) < end) & (pl.col(LABEL_KNOWN_AT) <= end))
    encoder = fit_encoder(rows, features)
    target = rows[LABEL].cast(pl.Float64).to_numpy() - 0.5
    weights = np.linalg.lstsq(encoder.encode(rows).astype(np.float64), target, rcond=None)[0]
    return Fitted(encoder, Line(weights), b"", len(rows), 1, use_case.label.task)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "fit_chosen", fit_line)


def world(seed: int = 1, per_day: int = 120) -> pl.DataFrame:
    """The label follows x, and from CHANGE on y. It is known two days later."""
    random = np.random.default_rng(seed)
    rows = 160 * per_day
    moment = [START + timedelta(days=n / per_day) for n in range(rows)]
    x, y = random.normal(size=(2, rows))
    ruling = np.where(np.array([m < CHANGE for m in moment]), x, y)
    return pl.DataFrame(
        {
            PREDICTION_TIME: pl.Series(moment, dtype=pl.Datetime("us", "UTC")),
            "x": x,
            "y": y,
            LABEL: ruling + random.normal(0, 0.5, rows) > 0,
        }
    ).with_columns((pl.col(PREDICTION_TIME) + timedelta(days=2)).alias(LABEL_KNOWN_AT))


WORLD = world()


def right(found: Simulated, after: datetime) -> float:
    moment = pl.col(PREDICTION_TIME)
    rows = WORLD.filter((moment >= SCENARIO.start) & (moment < SCENARIO.end))
    late = (rows[PREDICTION_TIME] >= after).to_numpy()
    return float(((found.answers > 0.5) == rows[LABEL].to_numpy())[late].mean())


def test_a_policy_that_listens_to_concept_drift_recovers_and_one_that_never_trains_does_not() -> None:
    never, drift = (simulate(WORLD, SCENARIO, name, policy) for name, policy in (("never", NEVER), ("drift", DRIFT)))
    assert never.retrainings == ()
    assert right(never, CHANGE + timedelta(days=80)) < 0.55
    assert right(drift, CHANGE + timedelta(days=80)) > 0.65
    questions: set[Question] = {alarm.question for alarm in never.alarms}
    assert "concept" in questions
    assert "data" not in questions, "x and y are as they were: P(X) is kept"
    answers = [one for one in drift.retrainings if one.at > CHANGE and one.cause == "alarm"]
    assert answers[0].at < CHANGE + timedelta(days=12)
    assert "oncept drift of version" in answers[0].reason
    assert answers[0].outcome != "better", "the new world does not lie before its recent window yet"
    assert drift.retrainings[-1].outcome == "better"


def test_a_policy_whose_alarms_cannot_be_says_so_and_following_the_errors_gives_it_them() -> None:
    """Windows of five days in a test part of 14: `drift` would be the same as its schedule, with nobody the wiser."""
    five_days = replace(CASE.monitoring, windows=(WindowSpec(rows=600, minimum_rows=600),))
    windows, errors = (
        simulate(WORLD, replace(SCENARIO, use_case=replace(CASE, monitoring=one)), "drift", DRIFT)
        for one in (five_days, replace(five_days, error_detectors=("page_hinkley",)))
    )
    assert {one.cause for one in windows.retrainings} == {"schedule"}
    assert {one.question for one in windows.blind} >= {"concept"}
    assert "There can be none on concept: The reference holds 2 windows" in windows.decisions[0][1].reason
    assert "concept" not in {one.question for one in errors.blind}
    answers = [one for one in errors.retrainings if one.cause == "alarm"]
    assert answers[0].at < CHANGE + timedelta(days=20)


def test_nothing_is_used_before_it_is_known() -> None:
    """Whatever becomes known after a day changes no prediction of it, nor of any day before."""
    today = CHANGE + timedelta(days=40)
    later = pl.col(LABEL_KNOWN_AT) > today
    changed = WORLD.with_columns(
        pl.when(later).then(~pl.col(LABEL)).otherwise(pl.col(LABEL)).alias(LABEL),
        pl.when(pl.col(PREDICTION_TIME) >= today).then(9.0).otherwise(pl.col("x")).alias("x"),
    )
    one, other = (simulate(frame, SCENARIO, "drift", DRIFT) for frame in (WORLD, changed))
    assert one.retrainings
    known = int((WORLD[PREDICTION_TIME].is_between(SCENARIO.start, today, closed="left")).sum())
    assert np.array_equal(one.answers[:known], other.answers[:known])
    assert not np.array_equal(one.answers, other.answers)


def test_labels_that_come_later_than_they_count_say_nothing_as_in_production() -> None:
    monitoring = replace(CASE.monitoring, labels_count_for=timedelta(days=1))
    short = replace(SCENARIO, end=CHANGE + timedelta(days=15))
    late = replace(short, use_case=replace(CASE, monitoring=monitoring))
    counted, too_late = (simulate(WORLD, one, "never", NEVER).alarms for one in (short, late))
    assert "concept" in {alarm.question for alarm in counted}
    assert "concept" not in {alarm.question for alarm in too_late}


def test_a_schedule_trains_by_the_clock() -> None:
    monthly = replace(NEVER, every=timedelta(days=30), min_new_rows=0, cool_down=timedelta(0), stop_after_losses=99)
    found = simulate(WORLD, SCENARIO, "monthly", monthly)
    assert [(one.at - SCENARIO.start).days for one in found.retrainings] == [30, 60, 90]
    assert {one.cause for one in found.retrainings} == {"schedule"}


def test_policies_have_names() -> None:
    from mlops_ray.retraining.policies import POLICIES, find_policy

    found: dict[str, Any] = {name: find_policy(CASE, name) for name in POLICIES}
    assert found["never"].every is None
    assert found["never"].alarms == ()
    assert found["monthly"].every == timedelta(days=30)
    assert found["drift"] == CASE.retraining
    assert found["concept"].alarms == ("concept",)
    with pytest.raises(ConfigurationError, match="'often' is unknown"):
        find_policy(CASE, "often")


def test_the_past_is_watched_as_the_use_case_is_now() -> None:
    """With a slice that was set beside the model and that the use case does not declare: night trains arrive late."""
    random = np.random.default_rng(2)
    rows = world(per_day=480)
    frame = rows.with_columns(pl.Series("train", random.choice(["day", "night"], len(rows))))
    turned = (pl.col("train") == "night") & (pl.col(PREDICTION_TIME) >= SCENARIO.start + timedelta(days=3))
    frame = frame.with_columns(pl.when(turned).then(~pl.col(LABEL)).otherwise(LABEL).alias(LABEL))
    wanted = replace(CASE.monitoring, slices=("train",), windows=(WindowSpec(rows=600, minimum_rows=600),))
    set_beside = MonitoringRevision(CASE.name, 2, wanted.to_json(), "d", "ann", None, START, "night trains are odd")
    scenario = replace(SCENARIO, use_case=as_watched(CASE, set_beside), end=SCENARIO.start + timedelta(days=10))
    found = simulate(frame, scenario, "never", NEVER)
    assert any("train=night" in one.title for one in found.alarms)
    assert as_watched(CASE, None) == CASE
    with pytest.raises(DataError, match="slices by train, which the training set does not have"):
        simulate(WORLD, scenario, "never", NEVER)
