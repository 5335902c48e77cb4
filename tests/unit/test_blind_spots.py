"""A question that a reference is too short to answer is said to be one: no alarm about it means nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from mlops_ray.monitoring.blind_spots import blind_spots
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.quality import Measured
from mlops_ray.monitoring.reference import Reference
from mlops_ray.retraining.backtest import PolicyReport, Run
from mlops_ray.retraining.chart import blind_lines
from mlops_ray.retraining.policy import State, decide
from mlops_ray.retraining.simulation import BlindSpot
from mlops_ray.use_case import Feature, Retraining
from mlops_ray.use_case.window_spec import WindowSpec

START = datetime(2026, 1, 1, tzinfo=UTC)
PER_DAY = 150


def rows_of(days: int, follows: float = 3.0) -> pl.DataFrame:
    """Labels that follow the answers with a ROC AUC of about 0.9."""
    random = np.random.default_rng(3)
    count = days * PER_DAY
    x = random.normal(size=count)
    probability = 1 / (1 + np.exp(-follows * x))
    time = pl.Series([START + timedelta(days=row / PER_DAY) for row in range(count)], dtype=pl.Datetime("us", "UTC"))
    label = random.random(count) < probability
    return pl.DataFrame({"time": time, "x": x, "probability": probability, "label": label})


def reference(scored_days: int, rows: int, **more: object) -> Reference:
    spec = WindowSpec(rows=rows, minimum_rows=rows)
    past = rows_of(120)
    return build_reference(past, "time", [Feature("x", "number")], [spec], rows_of(scored_days), **more)  # type: ignore[arg-type]


def test_two_windows_of_labels_cannot_show_concept_drift_and_that_is_said() -> None:
    found = blind_spots(reference(14, 750))
    assert list(found) == ["prediction", "concept"]
    assert "holds 2 windows of" in found["concept"]
    assert "`error_detectors`" in found["concept"]


def test_thresholds_that_labels_without_any_relation_do_not_reach_are_a_blind_spot() -> None:
    """Twelve windows give thresholds, but such that the worst there is would be no alarm: in a promise of months."""
    short, long = reference(14, PER_DAY, false_alarm_days=60), reference(120, PER_DAY, false_alarm_days=60)
    assert short.windows["150 rows"].concept[-1].thresholds
    assert "labels that no longer follow the answers would be none" in blind_spots(short)["concept"]
    assert blind_spots(long) == {}


def test_what_follows_the_errors_needs_no_windows() -> None:
    assert list(blind_spots(reference(14, 750, error_detectors=["page_hinkley"]))) == ["prediction"]


def test_a_reference_without_answers_judges_its_features_alone() -> None:
    alone = build_reference(rows_of(120), "time", [Feature("x", "number")], [WindowSpec(rows=750)])
    assert set(blind_spots(alone)) == {"prediction", "concept"}
    assert "no scored rows" in blind_spots(alone)["concept"]


@pytest.mark.parametrize(("alarms", "said"), [(("data", "concept"), True), (("data",), False)])
def test_a_decision_to_wait_says_which_alarms_there_cannot_be(alarms: tuple[str, ...], said: bool) -> None:
    policy = replace(Retraining(), alarms=alarms)  # type: ignore[arg-type]
    decision = decide(policy, State(blind={"concept": "Two windows are too few."}), START)
    assert (decision.action, decision.cause) == ("wait", "calm")
    assert ("There can be none on concept: Two windows are too few." in decision.reason) is said


def test_a_backtest_says_below_its_table_what_could_not_alarm_and_why() -> None:
    spots = [BlindSpot(START + timedelta(days=day), str(day), "concept", f"Why {day}.") for day in (0, 30)]
    runs = [
        Run(seed, "roc_auc", Measured(0.7, None, None), None, (), (), (), (), 0.0, tuple(spots)) for seed in range(2)
    ]
    (line,) = blind_lines(PolicyReport("drift", Retraining(), tuple(runs), None))
    assert line == "drift: no alarm on concept was possible with 4 champions, the first of 2026-01-01. Why 0."
    assert blind_lines(PolicyReport("drift", Retraining(), (replace(runs[0], blind=()),), None)) == []
