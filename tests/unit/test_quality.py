from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.datasets import synth
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from mlops_ray.errors import DataError
from mlops_ray.monitoring.alarms import diagnose
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.judging import judge, judge_concept
from mlops_ray.monitoring.performance_estimation import Estimator, decision_rate, fit_estimator, isotonic
from mlops_ray.monitoring.quality import join_labels, latest_labels, quality_by_window
from mlops_ray.monitoring.reliability import Reliability, miscalibration, reliability_edges
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.monitoring.windows import WindowState, add
from mlops_ray.tasks.roc_auc import count_scores, roc_auc
from mlops_ray.use_case import Feature
from mlops_ray.use_case.window_spec import WindowSpec

START = datetime(2013, 6, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
EDGES = np.array([0.25, 0.5, 0.75])


def scored(rows: int, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    probability = random.random(rows)
    return pl.DataFrame(
        {
            "request_id": [f"{number:08}" for number in random.permutation(rows)],
            "row": np.zeros(rows, dtype=np.int64),
            "time": [START + 30 * WEEK / 10 * number / rows for number in range(rows)],
            "probability": probability,
            "carrier": random.choice(["AA", "UA"], rows),
            "truth": random.random(rows) < probability,
        }
    )


def labels_of(predictions: pl.DataFrame) -> pl.DataFrame:
    known = pl.col("time") + timedelta(hours=5)
    return predictions.select("request_id", "row", label="truth", known_at=known, received_at=known)


def test_late_repeated_corrected_and_reordered_labels_give_the_same_bits() -> None:
    predictions = scored(4000)
    clean = labels_of(predictions)
    wrong = clean.sample(400, seed=1).with_columns(~pl.col("label"), pl.col("known_at") - timedelta(hours=1))
    late = pl.col("received_at") + pl.when(pl.int_range(pl.len()) % 10 == 0).then(WEEK).otherwise(timedelta())
    messy = pl.concat([clean.with_columns(late), clean.sample(400, seed=2), wrong]).sample(
        fraction=1, shuffle=True, seed=3
    )
    found = [
        quality_by_window(join_labels(rows, labels), WEEK, EDGES, ["carrier"])
        for rows, labels in ((predictions, clean), (predictions.sample(fraction=1, shuffle=True, seed=4), messy))
    ]
    assert repr(found[0]) == repr(found[1])
    assert [quality.slice for quality in found[0][:3]] == ["all", "carrier=AA", "carrier=UA"]


@given(order=st.permutations(range(5)))
def test_the_last_correction_holds_and_null_withdraws(order: list[int]) -> None:
    hours = [(1, 1, True), (3, 3, False), (2, 9, True), (3, 4, True), (3, 3, True)]
    labels = pl.DataFrame(
        [
            ("r", 0, label, START + timedelta(hours=known), START + timedelta(hours=received))
            for known, received, label in hours
        ],
        schema=["request_id", "row", "label", "known_at", "received_at"],
        orient="row",
    )
    assert latest_labels(labels[list(order)])["label"].to_list() == [True]
    withdrawn = labels.with_columns(
        label=pl.when(pl.col("received_at") == START + timedelta(hours=4)).then(None).otherwise("label")
    )
    assert latest_labels(withdrawn[list(order)])["label"].to_list() == [None]


def test_labels_of_unknown_requests_are_passed_over_and_those_of_a_wrong_type_told() -> None:
    predictions = scored(10)
    strange = labels_of(predictions.head(1)).with_columns(request_id=pl.lit("nobody"))
    joined = join_labels(predictions, pl.concat([labels_of(predictions.head(4)), strange]))
    assert set(joined["request_id"]) == set(predictions["request_id"])
    assert joined["label"].null_count() == 6
    with pytest.raises(DataError, match="boolean"):
        latest_labels(labels_of(predictions).with_columns(label=pl.lit("late")))
    with pytest.raises(DataError, match="known_at"):
        latest_labels(labels_of(predictions).drop("known_at"))


def test_what_is_said_too_late_leaves_the_label_that_was_in_time() -> None:
    predictions = scored(3).sort("request_id")
    in_time = labels_of(predictions)
    late = in_time.with_columns(
        pl.Series("label", [not in_time["label"][0], in_time["label"][1], None]),
        known_at=predictions["time"] + timedelta(days=9),
    )
    joined = join_labels(predictions, pl.concat([in_time, late]), count_for=timedelta(days=8))
    assert joined["label"].to_list() == in_time["label"].to_list()
    assert join_labels(predictions, late, count_for=timedelta(days=8))["label"].null_count() == 3
    assert join_labels(predictions, pl.concat([in_time, late]))["label"].null_count() == 1


def test_metrics_equal_those_of_scikit_learn() -> None:
    predictions = scored(3000)
    whole = quality_by_window(join_labels(predictions, labels_of(predictions)), 52 * WEEK, EDGES)
    rows = sum(quality.rows for quality in whole)
    assert rows == 3000
    for quality in whole:
        part = predictions.filter(pl.col("time").is_between(quality.start, quality.end, closed="left"))
        truth, guess = part["truth"].to_numpy(), part["probability"].to_numpy()
        assert quality["roc_auc"].value == pytest.approx(roc_auc_score(truth, guess), abs=1e-12)
        assert quality["log_loss"].value == pytest.approx(log_loss(truth, guess), abs=1e-12)
        assert quality["brier"].value == pytest.approx(brier_score_loss(truth, guess), abs=1e-12)


def test_windows_without_labels_or_with_one_have_no_metric() -> None:
    predictions = scored(20)
    joined = join_labels(predictions, labels_of(predictions.head(1)))
    for quality in quality_by_window(joined, WEEK, EDGES):
        assert np.isnan(quality["roc_auc"].value)
        assert quality["roc_auc"].low is None
        assert quality.rows in (0, 1)


def delong_by_hand(truth: np.ndarray, guess: np.ndarray) -> tuple[float, float]:
    ups, downs = guess[truth], guess[~truth]
    psi = (ups[:, None] > downs) + 0.5 * (ups[:, None] == downs)
    return psi.mean(), psi.mean(1).var(ddof=1) / len(ups) + psi.mean(0).var(ddof=1) / len(downs)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=4, max_size=60))
def test_delong_equals_the_definition(rows: list[tuple[bool, int]]) -> None:
    truth = np.array([label for label, _ in rows] + [True, True, False, False])
    guess = np.array([score for _, score in rows] + [3, 5, 2, 4], dtype=np.float64)
    found = roc_auc(*count_scores(guess, truth))
    assert (found.value, found.variance) == pytest.approx(delong_by_hand(truth, guess), abs=1e-12)


def test_the_interval_of_the_auc_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        truth = random.random(400) < 0.3
        guess = random.normal(truth, 1)
        found = roc_auc(*count_scores(guess, truth))
        covered += abs(found.value - 0.760250) < 1.96 * np.sqrt(found.variance)
    assert covered >= 552


def estimator_of(seed: int, windows: int = 10) -> tuple[Estimator, NumericSketch]:
    random = np.random.default_rng(seed)
    guess = random.beta(2, 4, 20_000)
    label = random.random(20_000) < guess**1.5  # not calibrated
    sketch = NumericSketch.of(guess)
    cell = np.searchsorted(sketch.edges, guess.astype(np.float32))
    parts = [
        tuple(
            np.bincount(cell[rows][label[rows] == value], minlength=len(sketch.counts)).astype(float)
            for value in (1, 0)
        )
        for rows in np.array_split(np.arange(20_000), windows)
    ]
    ups, downs = (sum(part[side] for part in parts) for side in (0, 1))
    return fit_estimator(sketch.edges.astype(float), parts, ups, downs), sketch


def test_estimated_quality_is_near_the_truth_without_labels() -> None:
    estimator, like = estimator_of(1)
    assert Estimator.from_json(estimator.to_json()) == estimator
    random = np.random.default_rng(9)
    covered = 0
    for _ in range(40):
        guess = random.beta(2, 2, 2000)  # other inputs, the same concept
        label = random.random(2000) < guess**1.5
        window = like.empty()
        window.update(guess)
        estimated = estimator.estimate(window)
        true = roc_auc_score(label, guess)
        assert estimated.value == pytest.approx(true, abs=0.05)
        assert estimated.low is not None
        covered += estimated.low <= true <= estimated.high
        assert sum(estimated.confusion) == pytest.approx(2000)
        yes = guess > estimated.threshold
        counted = [(yes & label).sum(), (yes & ~label).sum(), (~yes & label).sum(), (~yes & ~label).sum()]
        assert estimated.confusion == pytest.approx(counted, abs=110)
    assert covered >= 34
    empty = estimator.estimate(like.empty())
    assert np.isnan(empty.value)
    assert empty.low is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_calibrated_probabilities_rise_and_keep_the_total(bins: list[tuple[int, int]]) -> None:
    ups, downs = (np.array(part, dtype=np.float64) for part in zip(*bins, strict=True))
    found = isotonic(ups, ups + downs)
    assert (np.diff(found) >= -1e-12).all()
    assert found @ (ups + downs) == pytest.approx(ups.sum())


def test_an_answer_below_all_that_were_is_as_probable_as_the_lowest() -> None:
    rows = np.array([0.0, 10, 0, 10])
    assert isotonic(np.array([0.0, 2, 0, 8]), rows).tolist() == [0.2, 0.2, 0.2, 0.8]
    assert isotonic(np.zeros(2), np.zeros(2)).tolist() == [0, 0]


def test_miscalibration_by_hand() -> None:
    old = Reliability.of([0.2] * 10 + [0.8] * 10, [1, 1] + [0] * 8 + [1] * 8 + [0] * 2, [0.5])
    new = Reliability.of([0.2] * 10 + [0.8] * 10, [1] * 6 + [0] * 4 + [1] * 8 + [0] * 2, [0.5])
    assert miscalibration(old, old) == 0
    assert miscalibration(old, new) == pytest.approx((6 - 2) ** 2 / (10 * 0.2 * 0.8) / 2)
    assert np.isnan(miscalibration(old, Reliability.of([], [], [0.5])))
    assert Reliability.from_json(old.to_json()).to_json() == old.to_json()
    assert len(reliability_edges([0.5] * 9)) == 1


def sea(variant: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    stream = synth.SEA(variant=variant, noise=0.1, seed=seed).take(rows)
    pairs = [(list(x.values()), y) for x, y in stream]
    return np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])


def with_times(inputs: np.ndarray, label: np.ndarray, model: LogisticRegression) -> pl.DataFrame:
    times = [START + timedelta(minutes=2 * number) for number in range(len(label))]
    frame = pl.DataFrame({f"x{i}": inputs[:, i] for i in range(3)})
    return frame.with_columns(time=pl.Series(times), probability=model.predict_proba(inputs)[:, 1], label=label)


def test_inputs_and_concept_that_drift_on_sea_are_told_apart() -> None:
    """Variants of SEA share P(X) and differ in P(Y|X); a chosen part of the rows has another P(X), the same P(Y|X)."""
    inputs, label = sea(0, 26_000, 1)
    model = LogisticRegression().fit(inputs[:6000], label[:6000])
    rows = with_times(inputs[6000:], label[6000:], model)
    spec = WindowSpec(rows=1000)
    features = [Feature(f"x{i}", "number") for i in range(3)]
    reference = build_reference(rows, "time", features, [spec], rows, false_alarm_days=20)
    same = sea(0, 1000, 2)
    other_concept = sea(2, 1000, 2)
    many = sea(0, 4000, 3)
    chosen = many[0][:, 2] > 4  # the third input does not matter to the label
    answers, words = {}, {}
    for name, (x, y) in (("same", same), ("concept", other_concept), ("inputs", (many[0][chosen], many[1][chosen]))):
        frame = with_times(x[:1000], y[:1000], model)
        moment = frame["time"].to_physical().to_numpy().astype("datetime64[us]")
        window = add(WindowState(spec, reference.empty_columns()), frame, moment, START + WEEK).finished[0]
        found = Reliability.of(frame["probability"], frame["label"], reference.reliability["all"].edges)
        data = judge(window, reference, spec.name)
        concept = judge_concept({"all": found}, window.start, window.end, reference, spec.name)
        answers[name], words[name] = (data.answer, concept.answer), diagnose(data, concept)
    assert answers == {
        "same": ("no drift", "no drift"),
        "concept": ("no drift", "drift"),
        "inputs": ("drift", "no drift"),
    }
    assert "concept drift" in words["concept"]
    assert "data drift without loss of quality" in words["inputs"]


@pytest.mark.parametrize("threshold", [number / 100 for number in range(1, 100)])
def test_an_answer_that_is_just_below_a_declared_threshold_is_no_yes(threshold: float) -> None:
    """Of bins with the threshold, as float32, at an end: the values at that end are of the bin below it."""
    edge = np.float32(threshold)
    sketch = NumericSketch.with_edges([edge])
    sketch.update(np.array([np.nextafter(edge, np.float32(0)), np.nextafter(edge, np.float32(1))], dtype=np.float32))
    assert decision_rate(sketch, threshold) == 0.5
