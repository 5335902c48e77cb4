"""Gates: what passes, what fails and with which numbers; slices and comparisons that they are judged by."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.evaluation.comparison import Comparison, compare
from mlops_ray.evaluation.gates import Finding, GateResult, Measured, judge
from mlops_ray.evaluation.metrics import Estimate, evaluate
from mlops_ray.evaluation.slices import SliceEvaluation, evaluate_slices
from mlops_ray.use_case import (
    Approval,
    BetterThanChampion,
    Fairness,
    Gate,
    Latency,
    NoSliceWorse,
    NoVulnerability,
    OnnxParity,
    Threshold,
    Waiver,
)
from tests.unit.test_governor import USE_CASE
from tests.unit.test_metrics import START, make_rows

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LABEL, PROBABILITY, MOMENT = make_rows(days=30, per_day=60)
EVALUATION = evaluate(LABEL, PROBABILITY, MOMENT, seed=0)
MEASURED = Measured(EVALUATION)
CONTENT = Finding("ADV-1", "onnx 1.0", "high", "environment")
FILE = Finding("pickle", "model.pkl", "critical", "artifact")


def result(gate: Gate, measured: Measured = MEASURED) -> GateResult:
    (found,) = judge([gate], measured, NOW)
    assert found.blocks == gate.blocks
    return found


def a_slice(value: str, rate: float = 0.5, **metrics: Estimate) -> SliceEvaluation:
    return SliceEvaluation("origin", value, replace(EVALUATION, **metrics), rate, rate)


def compared(low: float | None, high: float | None) -> Measured:
    comparison = Comparison("roc_auc", 0.8, 0.7, Estimate(0.1, low, high), 100, 9)
    return Measured(EVALUATION, comparisons={"roc_auc": comparison})


def test_a_threshold_is_a_floor_or_where_lower_is_better_a_ceiling() -> None:
    value = EVALUATION.roc_auc.value
    assert result(Threshold("roc_auc", value)).passed
    assert not result(Threshold("roc_auc", value + 1e-6)).passed
    assert result(Threshold("brier", EVALUATION.brier.value)).passed
    failed = result(Threshold("brier", EVALUATION.brier.value - 1e-6))
    assert (failed.passed, failed.value) == (False, EVALUATION.brier.value)
    assert "at most" in failed.sentence


def test_a_slice_fails_only_if_chance_does_not_explain_it() -> None:
    bad_by_chance = a_slice("EWR", roc_auc=Estimate(0.5, 0.3, 0.75))
    surely_bad = a_slice("JFK", roc_auc=Estimate(0.55, 0.5, 0.58))
    gate = NoSliceWorse("roc_auc", 0.6)
    assert result(gate, replace(MEASURED, slices=[bad_by_chance])).passed
    failed = result(gate, replace(MEASURED, slices=[bad_by_chance, surely_bad]))
    assert (failed.passed, failed.value) == (False, 0.55)
    assert "origin=JFK" in failed.sentence
    one_day = a_slice("LGA", brier=Estimate(0.3, None, None))
    assert not result(NoSliceWorse("brier", 0.25), replace(MEASURED, slices=[one_day])).passed
    assert not result(gate).passed  # no slice was large enough


@pytest.mark.parametrize(
    ("measured", "margin", "passed"),
    [
        (MEASURED, 0.0, True),  # there is no champion
        (compared(0.01, 0.2), 0.0, True),
        (compared(-0.01, 0.2), 0.0, False),
        (compared(-0.01, 0.2), -0.02, True),
        (compared(None, None), 0.0, False),
        (compared(math.nan, math.nan), -1.0, False),
        (replace(MEASURED, comparisons={}), 0.0, False),  # the champion could not be asked
    ],
)
def test_better_than_the_champion_means_with_certainty(measured: Measured, margin: float, passed: bool) -> None:
    assert result(BetterThanChampion(margin), measured).passed is passed


def test_what_was_not_measured_fails() -> None:
    gates = [OnnxParity(), Latency(1), NoVulnerability(), Fairness("origin", 0.1)]
    assert [found.passed for found in judge(gates, MEASURED, NOW)] == [False] * 4
    assert not result(OnnxParity(), replace(MEASURED, onnx_max_difference=math.nan)).passed


def test_parity_and_latency_have_limits() -> None:
    measured = replace(MEASURED, onnx_max_difference=1e-6, latency_ms=2.0)
    assert [found.passed for found in judge([OnnxParity(), Latency(2), Latency(1.9)], measured, NOW)] == [
        True, True, False,
    ]  # fmt: skip


def test_fairness_compares_the_extremes_of_one_column() -> None:
    other = replace(a_slice("AA", 0.0), column="carrier")
    measured = replace(MEASURED, slices=[a_slice("EWR", 0.4), a_slice("JFK", 0.5), a_slice("LGA", 0.45), other])
    assert result(Fairness("origin", 0.1001), measured).passed
    failed = result(Fairness("origin", 0.05, "selection_rate"), measured)
    assert failed.value == pytest.approx(0.1)
    assert "origin=EWR" in failed.sentence


@pytest.mark.parametrize(
    ("gate", "findings", "passed"),
    [
        (NoVulnerability(), [], True),
        (NoVulnerability(), [FILE], False),
        (NoVulnerability(), [CONTENT], True),  # the environment only warns
        (NoVulnerability("high"), [CONTENT], False),
        (NoVulnerability("critical"), [CONTENT], True),
        (NoVulnerability("critical"), [replace(CONTENT, severity="unknown")], False),
        (NoVulnerability("low", (Waiver("ADV-1", NOW + timedelta(1), "not reached"),)), [CONTENT], True),
        (NoVulnerability("low", (Waiver("ADV-1", NOW, "not reached"),)), [CONTENT], False),  # the waiver is over
        (NoVulnerability("low", (Waiver("ADV-2", NOW + timedelta(1), "other"),)), [CONTENT], False),
        (NoVulnerability(waivers=(Waiver("pickle", NOW + timedelta(1), "ours"),)), [FILE], True),
    ],
)
def test_vulnerabilities_count_as_the_gate_says(gate: NoVulnerability, findings: list[Finding], passed: bool) -> None:
    assert result(gate, replace(MEASURED, findings=findings)).passed is passed


def test_a_slice_is_judged_as_its_rows_alone() -> None:
    names = np.array(["EWR", "JFK", None])[np.arange(len(LABEL)) % 3]
    rows = pl.DataFrame({"origin": names, "rare": ["x"] * 10 + ["y"] * (len(LABEL) - 10)})
    found = evaluate_slices(rows, ["origin", "rare"], LABEL, PROBABILITY, MOMENT, seed=0)
    assert [(one.column, one.value) for one in found.judged] == [
        ("origin", ""), ("origin", "EWR"), ("origin", "JFK"), ("rare", "y"),
    ]  # fmt: skip
    assert found.left_out == (("rare=x", 10),)
    inside = names == "JFK"
    one = found.judged[2]
    assert one.evaluation.rows == inside.sum()
    assert one.evaluation.roc_auc.value == pytest.approx(roc_auc_score(LABEL[inside], PROBABILITY[inside]))
    chosen = PROBABILITY[inside] >= 0.5
    assert one.selection_rate == pytest.approx(chosen.mean())
    assert one.true_positive_rate == pytest.approx(chosen[LABEL[inside]].mean())


def test_a_slice_that_is_no_column_is_named() -> None:
    with pytest.raises(UseCaseError, match="'nowhere' is neither"):
        evaluate_slices(pl.DataFrame({"origin": ["x"]}), ["nowhere"], LABEL, PROBABILITY, MOMENT, seed=0)


def test_a_comparison_equals_the_difference_of_the_metrics() -> None:
    worse = np.random.default_rng(0).permutation(PROBABILITY)
    for metric, score in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        found = compare(LABEL, PROBABILITY, worse, MOMENT, metric, seed=0)  # type: ignore[arg-type]
        assert found.difference.value == pytest.approx(score(LABEL, PROBABILITY) - score(LABEL, worse))
        assert found.difference.low is not None
        assert found.difference.low > 0
        turned = compare(LABEL, worse, PROBABILITY, MOMENT, metric, seed=0)  # type: ignore[arg-type]
        assert turned.difference.value == pytest.approx(-found.difference.value)


def test_a_model_is_not_better_than_itself_however_hard_the_days() -> None:
    label, probability, moment = make_rows(days=40, per_day=100, day_effect=3.0)
    found = compare(label, probability, probability, moment, "roc_auc", seed=0)
    assert found.difference == Estimate(0.0, 0.0, 0.0)
    # Paired: what a day does to both models cancels out, so a small true difference is seen.
    noisy = probability + np.random.default_rng(1).normal(0, 0.05, len(probability))
    difference = compare(label, probability, noisy, moment, "roc_auc", seed=0).difference
    alone = evaluate(label, probability, moment, seed=0).roc_auc
    assert difference.low is not None
    assert difference.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert difference.high - difference.low < (alone.high - alone.low) / 2


def test_the_interval_is_delongs_where_rows_are_independent() -> None:
    """DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988: the variance of the difference from the placement values."""
    random, rows = np.random.default_rng(7), 600
    label = random.random(rows) < 0.4
    ours, theirs = (label + random.normal(0, spread, rows) for spread in (1.0, 1.4))
    moments = np.datetime64("2026-01-01", "us") + np.arange(rows) * np.timedelta64(1, "D")  # a day for each row
    placed = [score[label][:, None] > score[~label][None, :] for score in (ours, theirs)]
    difference = placed[0].astype(float) - placed[1]
    of_late, of_others = difference.mean(axis=1), difference.mean(axis=0)
    spread = np.sqrt(of_late.var(ddof=1) / len(of_late) + of_others.var(ddof=1) / len(of_others))
    found = compare(label, ours, theirs, moments, "roc_auc", seed=1).difference
    assert found.value == pytest.approx(difference.mean())
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / (2 * 1.96 * spread) == pytest.approx(1, abs=0.15)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        compare(LABEL, PROBABILITY[1:], PROBABILITY, MOMENT, "roc_auc", seed=0)
    with pytest.raises(DataError, match="only one of the two labels"):
        compare(np.array([True]), np.array([0.5]), np.array([0.5]), np.array([START]), "roc_auc", seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": ("origin", "origin")}, "twice"),
        ({"slices": (), "gates": (NoSliceWorse("roc_auc", 0.5),)}, "needs slices"),
        ({"gates": (Fairness("dest", 0.1),)}, "needs the slice 'dest'"),
        ({"gates": (Threshold("roc_auc", math.nan),)}, "not a number"),
        ({"gates": (NoVulnerability(waivers=(Waiver("A", NOW, " "),)),)}, "needs a reason"),
        ({"gates": (NoVulnerability(waivers=(Waiver("A", NOW.replace(tzinfo=None), "x"),)),)}, "time zone"),
        ({"approval": Approval(expires_after=timedelta(0))}, "never valid"),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UseCaseError, match=message):
        replace(USE_CASE, **change)
