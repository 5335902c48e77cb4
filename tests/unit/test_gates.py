"""Gates: what passes, what fails and with which numbers; slices and comparisons that they are judged by."""

import json
import math
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.evaluation.comparison import Comparison, compare
from mlops_ray.evaluation.fairness import GroupCounts
from mlops_ray.evaluation.gates import Finding, GateResult, Measured, judge
from mlops_ray.evaluation.metrics import evaluate
from mlops_ray.evaluation.slices import SliceEvaluation, evaluate_slices
from mlops_ray.tasks.binary import BINARY, Binary
from mlops_ray.tasks.estimate import Estimate, interval
from mlops_ray.use_case import (
    Approval,
    BetterThanChampion,
    Column,
    Fairness,
    Gate,
    Latency,
    NoSliceWorse,
    NoVulnerability,
    OnnxParity,
    Plausible,
    Source,
    Threshold,
    Waiver,
)
from tests.unit.test_governor import USE_CASE
from tests.unit.test_metrics import make_rows

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LABEL, PROBABILITY, DAY = make_rows(days=30, per_day=60)
EVALUATION = evaluate(BINARY, LABEL, PROBABILITY, DAY)
MEASURED = Measured(BINARY, EVALUATION)
CONTENT = Finding("ADV-1", "onnx 1.0", "high", "environment")
FILE = Finding("pickle", "model.pkl", "critical", "artifact")


def result(gate: Gate, measured: Measured = MEASURED) -> GateResult:
    (found,) = judge([gate], measured, NOW)
    assert found.blocks == gate.blocks
    return found


def a_slice(value: str, estimate: Estimate, metric: str = "roc_auc") -> SliceEvaluation:
    return SliceEvaluation("origin", value, replace(EVALUATION, metrics={**EVALUATION.metrics, metric: estimate}))


def sure(value: float, error: float) -> Estimate:
    """By 30 days."""
    return interval(value, error, 29.0, 0.0, 1.0)


def groups(*yes_of: tuple[int, int], days: int = 10, column: str = "origin") -> GroupCounts:
    """Groups a, b, …: on each of `days` days, (chosen, of) rows with the label, and no others."""
    names = tuple("abcdefgh"[: len(yes_of)])
    chosen, of = (tuple((one[place],) * days for one in yes_of) for place in (0, 1))
    return GroupCounts(column, 0.5, names, of, chosen, of, chosen)


def compared(low: float | None, high: float | None) -> Measured:
    comparison = Comparison("roc_auc", 0.8, 0.7, Estimate(0.1, low, high), 100, 9)
    return Measured(BINARY, EVALUATION, comparisons={"roc_auc": comparison})


def test_a_threshold_is_a_floor_or_where_lower_is_better_a_ceiling() -> None:
    value = EVALUATION["roc_auc"].value
    assert result(Threshold("roc_auc", value)).passed
    assert not result(Threshold("roc_auc", value + 1e-6)).passed
    assert result(Threshold("brier", EVALUATION["brier"].value)).passed
    failed = result(Threshold("brier", EVALUATION["brier"].value - 1e-6))
    assert (failed.passed, failed.value) == (False, EVALUATION["brier"].value)
    assert "at most" in failed.sentence


def test_a_slice_fails_only_if_chance_does_not_explain_it() -> None:
    bad_by_chance, surely_bad = a_slice("EWR", sure(0.5, 0.12)), a_slice("JFK", sure(0.55, 0.015))
    gate = NoSliceWorse("roc_auc", 0.6)
    assert result(gate, replace(MEASURED, slices=[bad_by_chance])).passed
    failed = result(gate, replace(MEASURED, slices=[bad_by_chance, surely_bad]))
    assert (failed.passed, failed.value) == (False, 0.55)
    assert "origin=JFK" in failed.sentence
    costly = a_slice("LGA", sure(0.3, 0.01), "brier")
    assert not result(NoSliceWorse("brier", 0.25), replace(MEASURED, slices=[costly])).passed
    assert result(NoSliceWorse("brier", 0.31), replace(MEASURED, slices=[costly])).passed


def test_among_many_slices_one_looks_bad_by_chance() -> None:
    """One in a hundred is as bad as this: alone it is at fault, among twenty it is to be expected."""
    bad = a_slice("JFK", sure(0.6 - 0.02 * 2.462, 0.02))  # the 1 % quantile of Student's t
    gate, others = NoSliceWorse("roc_auc", 0.6), [a_slice(str(number), sure(0.7, 0.02)) for number in range(19)]
    assert not result(gate, replace(MEASURED, slices=[bad])).passed
    found = result(gate, replace(MEASURED, slices=[bad, *others]))
    assert found.passed
    assert "origin=JFK" in found.sentence
    assert "20.0 % of sets" in found.sentence


def test_slices_of_too_few_days_are_not_judged_and_not_passed() -> None:
    gate, few_days = NoSliceWorse("roc_auc", 0.6), a_slice("LGA", Estimate(0.9))
    for measured in (MEASURED, replace(MEASURED, slices=[few_days], left_out=3)):
        found = result(gate, measured)
        assert (found.passed, found.value) == (False, None)
        assert found.sentence.startswith("Not measured")
    good = replace(MEASURED, slices=[few_days, a_slice("JFK", sure(0.7, 0.02))], left_out=3)
    assert result(gate, good).passed
    assert "4 others have too few rows or days" in result(gate, good).sentence


@pytest.mark.parametrize(
    ("measured", "margin", "passed"),
    [
        (MEASURED, 0.0, True),  # there is no champion
        (compared(0.01, 0.2), 0.0, True),
        (compared(-0.01, 0.2), 0.0, False),
        (compared(-0.01, 0.2), -0.02, True),
        (compared(None, None), -1.0, False),  # too few days
        (compared(math.nan, math.nan), -1.0, False),
        (replace(MEASURED, comparisons={}), 0.0, False),  # the champion could not be asked
    ],
)
def test_better_than_the_champion_means_with_certainty(measured: Measured, margin: float, passed: bool) -> None:
    assert result(BetterThanChampion(margin), measured).passed is passed


def test_a_champion_of_which_the_metric_cannot_be_measured_is_said_to_be_one() -> None:
    unlike = Comparison("roc_auc", 0.8, math.nan, Estimate(math.nan, None, None), 100, 9)
    found = result(BetterThanChampion(0.0), Measured(BINARY, EVALUATION, comparisons={"roc_auc": unlike}))
    assert (found.passed, found.value) == (False, None)
    assert (
        found.sentence == "The champion gives nothing that roc_auc is measured of. Compare by a metric that both have."
    )


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
    other = groups((0, 10), (10, 10), column="carrier")
    measured = replace(MEASURED, counts=[other, groups((3, 10), (6, 10), (4, 10))])
    failed = result(Fairness("origin", 0.1), measured)
    assert failed.value == pytest.approx(0.3)
    assert "origin=a" in failed.sentence
    assert "for b" in failed.sentence
    assert not failed.passed
    assert result(Fairness("origin", 0.3), measured).passed
    assert not result(Fairness("origin", 0.1, "selection_rate"), measured).passed


def test_a_difference_that_chance_explains_is_not_unfair() -> None:
    few = groups((1, 3), (2, 3))  # 10 of 30 and 20 of 30
    assert result(Fairness("origin", 0.1), replace(MEASURED, counts=[few])).passed
    assert not result(Fairness("origin", 0.1), replace(MEASURED, counts=[groups((10, 30), (20, 30))])).passed


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        (groups((0, 50), (0, 50)), "0 of 1,000 rows with the label are chosen"),  # at a threshold that nothing reaches
        (groups((50, 50), (50, 50)), "1,000 of 1,000"),
        (groups((1, 1), (5, 10), (5, 10), days=4), "days are too few"),
        (groups((5, 10), (1, 1)), "1 values of origin have 20"),
        (groups((0, 10), (5, 10), column="carrier"), "no value of origin"),
    ],
)
def test_fairness_that_cannot_be_measured_fails(counts: GroupCounts, why: str) -> None:
    found = result(Fairness("origin", 0.5), replace(MEASURED, counts=[counts]))
    assert (found.passed, found.value) == (False, None)
    assert found.sentence.startswith("Not measured")
    assert why in found.sentence


def test_a_model_of_rare_events_that_ranks_one_group_at_random_is_not_called_fair() -> None:
    """At a base rate of 5 % no probability reaches 0.5, and true positive rates of 0 are equal."""
    random, rows = np.random.default_rng(0), 20_000
    label = random.random(rows) < 0.05
    group = np.arange(rows) % 2
    score = np.where(group == 0, label + random.normal(size=rows), random.normal(size=rows))
    probability = 0.2 / (1 + np.exp(2 - score))
    frame = pl.DataFrame({"origin": np.where(group == 0, "ranked", "random")})
    found = evaluate_slices(BINARY, frame, ["origin"], label, probability, np.arange(rows) % 30)
    assert not result(Fairness("origin", 0.1), replace(MEASURED, counts=found.counts)).passed
    declared = evaluate_slices(Binary(0.05), frame, ["origin"], label, probability, np.arange(rows) % 30)
    failed = result(Fairness("origin", 0.1), replace(MEASURED, counts=declared.counts))
    assert not failed.passed
    assert failed.value is not None
    assert failed.value > 0.1


PLAIN = replace(MEASURED, alone={"distance": 0.6, "hour": 0.65}, importance={"hour": 0.1, "distance": 0.02})


def test_a_model_that_is_too_good_is_named_with_the_feature_it_comes_from() -> None:
    auc = EVALUATION["roc_auc"].value
    assert result(Plausible(), PLAIN).passed
    above = result(Plausible(limit=auc - 0.01), PLAIN)
    assert not above.passed
    assert "most comes from hour, distance" in above.sentence
    leaky = replace(PLAIN, alone={**PLAIN.alone, "dep_delay": 0.91})
    alone = result(Plausible(), leaky)
    assert not alone.passed
    assert "dep_delay alone ranks the rows with a ROC AUC of 0.9100" in alone.sentence
    jumped = replace(PLAIN, comparisons=compared(0.1, 0.2).comparisons)  # 0.8 against 0.7
    assert result(Plausible(jump=0.11), jumped).passed
    assert not result(Plausible(jump=0.09), jumped).passed
    assert not result(Plausible(), MEASURED).passed  # nothing is known of features
    assert not result(Plausible(), replace(PLAIN, comparisons={})).passed  # nor of a jump


def test_how_often_a_test_period_was_used_is_said_where_it_counts() -> None:
    often = replace(PLAIN, uses=4, latency_ms=1.0)
    assert result(Threshold("roc_auc", 0.5), often).sentence.endswith("Decision 4 on days of this test period.")
    for gate in (NoSliceWorse("roc_auc", 0.5), BetterThanChampion(), Fairness("origin", 0.1), Plausible()):
        assert "Decision 4" in result(gate, often).sentence
    assert "Decision" not in result(Latency(2), often).sentence
    assert "Decision" not in result(Threshold("roc_auc", 0.5), PLAIN).sentence


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
    found = evaluate_slices(BINARY, rows, ["origin", "rare"], LABEL, PROBABILITY, DAY)
    assert [(one.column, one.value) for one in found.judged] == [
        ("origin", ""), ("origin", "EWR"), ("origin", "JFK"), ("rare", "y"),
    ]  # fmt: skip
    assert found.left_out == (("rare=x", 10),)
    inside = names == "JFK"
    one = found.judged[2]
    assert one.evaluation.rows == inside.sum()
    assert one.evaluation["roc_auc"].value == pytest.approx(roc_auc_score(LABEL[inside], PROBABILITY[inside]))
    counts = found.counts[0]
    assert (counts.column, counts.groups) == ("origin", ("", "EWR", "JFK"))
    chosen = BINARY.threshold <= PROBABILITY
    for table, wanted in (
        (counts.rows, inside),
        (counts.chosen, inside & chosen),
        (counts.positives, inside & LABEL),
        (counts.chosen_positives, inside & chosen & LABEL),
    ):
        assert table[2] == tuple(np.bincount(DAY[wanted], minlength=30).tolist())
    back = msgspec.convert(json.loads(json.dumps(asdict(counts))), GroupCounts)
    assert back == counts


def test_a_slice_needs_rows_of_both_labels() -> None:
    label = np.zeros(600, dtype=bool)
    label[:19], label[300:340] = True, True
    rows = pl.DataFrame({"origin": ["EWR"] * 300 + ["JFK"] * 300})
    found = evaluate_slices(BINARY, rows, ["origin"], label, np.linspace(0, 1, 600), np.arange(600) % 10)
    assert [one.value for one in found.judged] == ["JFK"]
    assert found.left_out == (("origin=EWR", 300),)


def test_a_slice_that_is_no_column_is_named() -> None:
    with pytest.raises(UseCaseError, match="'nowhere' is neither"):
        evaluate_slices(BINARY, pl.DataFrame({"origin": ["x"]}), ["nowhere"], LABEL, PROBABILITY, DAY)


@pytest.mark.parametrize(
    ("margin", "low", "high", "word"),
    [
        (-0.01, 0.001, 0.02, ": better."),
        (-0.01, -0.005, 0.02, ": not worse, but no gain is shown."),
        (-0.01, -0.005, -0.001, ": not worse, but no gain is shown."),
        (-0.01, -0.03, -0.001, ": worse."),
        (-0.01, -0.03, 0.02, ": neither a gain nor a loss is shown."),
        (0.0, 0.001, 0.02, ": better."),
        (0.01, 0.001, 0.02, ": better, but by less than that."),
    ],
)
def test_a_version_that_is_not_worse_is_not_called_better(margin: float, low: float, high: float, word: str) -> None:
    found = result(BetterThanChampion(margin=margin), compared(low, high))
    assert found.sentence.endswith(word)
    assert found.passed == (low > margin)


def test_a_comparison_equals_the_difference_of_the_metrics() -> None:
    worse = np.random.default_rng(0).permutation(PROBABILITY)
    for metric, score in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        found = compare((BINARY, BINARY), LABEL, PROBABILITY, worse, DAY, metric)  # type: ignore[arg-type]
        assert found.difference.value == pytest.approx(score(LABEL, PROBABILITY) - score(LABEL, worse))
        assert found.difference.low is not None
        assert found.difference.low > 0
        turned = compare((BINARY, BINARY), LABEL, worse, PROBABILITY, DAY, metric)  # type: ignore[arg-type]
        assert turned.difference.value == pytest.approx(-found.difference.value)


def test_a_model_is_not_better_than_itself_however_hard_the_days() -> None:
    label, probability, day = make_rows(days=40, per_day=100, day_effect=3.0)
    found = compare((BINARY, BINARY), label, probability, probability, day, "roc_auc")
    assert (found.difference.value, found.difference.low, found.difference.high) == (0.0, 0.0, 0.0)
    # Paired: what a day does to both models cancels out, so a small true difference is seen.
    noisy = probability + np.random.default_rng(1).normal(0, 0.05, len(probability))
    difference = compare((BINARY, BINARY), label, probability, noisy, day, "roc_auc").difference
    alone = evaluate(BINARY, label, probability, day)["roc_auc"]
    assert difference.low is not None
    assert difference.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert difference.high - difference.low < (alone.high - alone.low) / 2


def test_the_error_is_delongs_where_rows_are_independent() -> None:
    """DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988: the variance of the difference from the placement values.

    An error by 50 blocks is itself uncertain by 1 / sqrt(2 * 49) = 10 %, the mean of 40 by 1.6 %.
    """
    random, rows, ratios = np.random.default_rng(7), 600, []
    for _ in range(40):
        label = random.random(rows) < 0.4
        ours, theirs = (label + random.normal(0, spread, rows) for spread in (1.0, 1.4))
        placed = [score[label][:, None] > score[~label][None, :] for score in (ours, theirs)]
        difference = placed[0].astype(float) - placed[1]
        of_late, of_others = difference.mean(axis=1), difference.mean(axis=0)
        error = np.sqrt(of_late.var(ddof=1) / len(of_late) + of_others.var(ddof=1) / len(of_others))
        found = compare(
            (BINARY, BINARY), label, ours, theirs, np.arange(rows), "roc_auc"
        ).difference  # a day for each row
        assert found.value == pytest.approx(difference.mean())
        assert found.error is not None
        ratios.append(found.error / error)
    assert np.mean(ratios) == pytest.approx(1, abs=0.06)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        compare((BINARY, BINARY), LABEL, PROBABILITY[1:], PROBABILITY, DAY, "roc_auc")
    with pytest.raises(DataError, match="1 of 2 label values to compare on"):
        compare((BINARY, BINARY), np.array([True]), np.array([0.5]), np.array([0.5]), np.zeros(1, dtype=int), "roc_auc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": ("origin", "origin")}, "twice"),
        ({"time_zone": "New York"}, "time_zone 'New York' is unknown"),
        (
            {"slices": ("train",), "gates": (NoSliceWorse("calibration_error", 0.1),)},  # type: ignore[arg-type]
            "calibration_error",
        ),
        ({"slices": (), "gates": (NoSliceWorse("roc_auc", 0.5),)}, "needs slices"),
        ({"gates": (Fairness("dest", 0.1),)}, "needs the slice 'dest'"),
        ({"gates": (Threshold("roc_auc", math.nan),)}, "not a number"),
        ({"gates": (NoVulnerability(waivers=(Waiver("A", NOW, " "),)),)}, "needs a reason"),
        ({"gates": (NoVulnerability(waivers=(Waiver("A", NOW.replace(tzinfo=None), "x"),)),)}, "time zone"),
        ({"approval": Approval(expires_after=timedelta(0))}, "expires_after is 0:00:00"),
        ({"approval": Approval(min_rollout=timedelta(0))}, "min_rollout is 0:00:00"),
        ({"approval": Approval(broken_glass_ends_after=timedelta(-1))}, "broken_glass_ends_after is -1 day"),
        ({"approval": Approval(broken_glass_ends_after=timedelta(days=3_000_000))}, "Give at most ten years"),
        ({"approval": Approval(expires_after=timedelta.max)}, "Give at most ten years"),
        ({"approval": Approval(max_error_rate=1.5)}, "max_error_rate is 1.5"),
        ({"approval": Approval(max_error_rate=math.nan)}, "max_error_rate is nan"),
        ({"approval": Approval(min_rollout_steps=0)}, "min_rollout_steps is 0"),
        ({"approval": Approval(min_approvers=0)}, "min_approvers is 0"),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UseCaseError, match=message):
        replace(USE_CASE, **change)


def test_days_begin_where_the_use_case_is() -> None:
    """As declared; else where the event time's column is, also where the event time is derived from it; else in UTC."""
    assert USE_CASE.zone() == "UTC"
    assert replace(USE_CASE, time_zone="Asia/Tokyo").zone() == "Asia/Tokyo"
    local = Source("*.csv", (Column("train", "text"), Column("time", "timestamp", time_zone="Europe/Berlin")))
    assert replace(USE_CASE, sources={"trains": local}).zone() == "Europe/Berlin"
    derived = replace(local, derived={"leaves": pl.col("time") + pl.duration(minutes=5)})
    assert replace(USE_CASE, sources={"trains": derived}, event_time="leaves").zone() == "Europe/Berlin"
