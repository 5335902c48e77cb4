"""A gain table decides as a loop over rows and classes does, the same in batches, in metrics and at the endpoint."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.errors import IntegrityError, UseCaseError
from mlops_ray.evaluation.comparison import compare
from mlops_ray.evaluation.metrics import evaluate
from mlops_ray.pipeline.fingerprint import fingerprint
from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.decision import GAIN
from mlops_ray.tasks.evaluation import weights_without
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.probability import log_odds
from mlops_ray.tasks.stored import metric_named, task_from_json, task_to_json
from mlops_ray.testing.example_endpoint import example_endpoint
from mlops_ray.use_case import Gains, GainTable
from tests.task_models import VECTORS, sealed_as
from tests.unit.test_endpoint import predict

CLASSES = ("on time", "late", "cancelled")
PLAIN = MultiClass(CLASSES)
# To take a flight for cancelled that is late costs less than the other way round.
GAINS = {
    "on time": {"on time": 0, "late": -5, "cancelled": -20},
    "late": {"on time": -30, "late": 10, "cancelled": 4},
    "cancelled": {"on time": -200, "late": -80, "cancelled": 60},
}
TASK = MultiClass(CLASSES, GainTable(GAINS, "EUR"))
RANDOM = np.random.default_rng(8)
ROWS = 900
DAY = np.arange(ROWS) // 30
ANSWER = RANDOM.dirichlet([4, 2, 0.3], ROWS)
LABELS = np.array([RANDOM.choice(3, p=row) for row in ANSWER])

# Whole numbers, of which many expected gains are equal, and sizes at which the order of a sum changes it.
_ALL = st.one_of(st.integers(-9, 9), st.floats(-1e3, 1e3), st.sampled_from([-1e100, 1e-9, 0.1, 0.3, 1e16]))


@st.composite
def tasks(draw: st.DrawFn) -> MultiClass:
    classes = tuple("abcdefg"[: draw(st.integers(3, 7))])
    table = {label: {prediction: draw(_ALL) for prediction in classes} for label in classes}
    for label, row in table.items():
        most = max(row[prediction] for prediction in classes if prediction != label)
        row[label] = np.nextafter(most + abs(most), np.inf) + draw(st.sampled_from([0.0, 1.0, 1e3]))
    return MultiClass(classes, GainTable(table))


@st.composite
def tasks_and_answers(draw: st.DrawFn) -> tuple[MultiClass, np.ndarray]:
    """Answers as they come from a model: float32 or float64, with equal and certain ones among them."""
    task = draw(tasks())
    weights = st.lists(st.integers(0, 9), min_size=task.width, max_size=task.width).filter(any)
    rows = np.array(draw(st.lists(weights, min_size=1, max_size=12)), dtype=np.float64)
    return task, (rows / rows.sum(axis=1, keepdims=True)).astype(draw(st.sampled_from([np.float32, np.float64])))


def expected_gains(task: MultiClass, row: np.ndarray) -> list[float]:
    """Naive, of one row: for each prediction."""
    assert task.decision is not None
    found = []
    for prediction in task.classes:
        gain = 0.0
        for label, probability in zip(task.classes, row.astype(np.float32).tolist(), strict=True):
            gain += probability * task.decision.gains[label][prediction]
        found.append(gain)
    return found


def predictions(task: MultiClass, answer: np.ndarray) -> list[str]:
    """The same in every way to ask for them: columns of a batch, JSON, alone, and any other order of rows."""
    served = answer.astype(np.float32)
    found: list[str] = task.columns(served)["prediction"].tolist()
    assert found == [row["prediction"] for row in task.rows(served)]
    assert found == [task.rows(served[at : at + 1])[0]["prediction"] for at in range(len(served))]
    assert found == task.columns(np.asfortranarray(served[::-1]))["prediction"].tolist()[::-1]
    judged = task.confusion(np.zeros(len(answer), dtype=np.intp), answer)["rows"][0]
    assert judged == [found.count(name) for name in task.classes]
    return found


@given(tasks_and_answers())
def test_the_prediction_is_the_first_of_those_that_are_expected_to_bring_most(given: Any) -> None:
    task, answer = given
    for row, prediction in zip(answer, predictions(task, answer), strict=True):
        expected = expected_gains(task, row)
        assert task.classes.index(prediction) == expected.index(max(expected))


@given(tasks_and_answers())
def test_where_acting_right_brings_1_and_all_else_nothing_it_is_the_most_probable_class(given: Any) -> None:
    task, answer = given
    right = GainTable({label: {name: float(name == label) for name in task.classes} for label in task.classes})
    served = answer.astype(np.float32)
    assert predictions(MultiClass(task.classes, right), served) == predictions(MultiClass(task.classes), served)


@given(tasks())
def test_a_sure_answer_is_predicted(task: MultiClass) -> None:
    assert predictions(task, np.eye(task.width)) == list(task.classes)


@given(tasks(), st.data())
def test_without_a_model_the_best_prediction_for_all_rows_is_made(task: MultiClass, data: st.DataObject) -> None:
    assert task.decision is not None
    labels = np.array(data.draw(st.lists(st.integers(0, task.width - 1), min_size=1, max_size=30)))
    worth = {"gain": task.decision.of(task.classes), "accuracy": np.eye(task.width)}
    for metric, table in worth.items():
        (prediction,) = predictions(task, task.without_model(labels, metric)[np.newaxis])
        brought = [table[labels, at].mean() for at in range(task.width)]
        assert brought[task.classes.index(prediction)] == pytest.approx(max(brought), rel=1e-9)
    shares = MultiClass(task.classes).without_model(labels, "log_loss")
    assert task.without_model(labels, "log_loss").tolist() == shares.tolist()


def test_gain_and_accuracy_are_of_what_is_predicted_and_the_rest_of_the_probabilities() -> None:
    found = TASK.values(TASK.metrics, LABELS, ANSWER, DAY, weights_without(DAY))
    plain = PLAIN.values(PLAIN.metrics, LABELS, ANSWER, DAY, weights_without(DAY))
    predicted = predictions(TASK, ANSWER)
    assert predicted != predictions(PLAIN, ANSWER)
    names = [CLASSES[label] for label in LABELS]
    for at, kept in enumerate((DAY >= 0, DAY != 0, DAY != 1)):
        rows = [pair for pair, keeps in zip(zip(names, predicted, strict=True), kept, strict=True) if keeps]
        assert found["gain"][at] == pytest.approx(np.mean([GAINS[label][name] for label, name in rows]))
        assert found["accuracy"][at] == pytest.approx(np.mean([label == name for label, name in rows]))
    same = plain.keys() - {"accuracy"}
    assert all(found[name].tolist() == plain[name].tolist() for name in same)
    assert TASK.reliability(LABELS, ANSWER) == PLAIN.reliability(LABELS, ANSWER)
    assert TASK.observed(LABELS, ANSWER).tolist() == PLAIN.observed(LABELS, ANSWER).tolist()
    evaluation, measured = evaluate(TASK, LABELS, ANSWER, DAY), TASK.measured(LABELS, ANSWER, DAY)
    assert evaluation["gain"].value == measured["gain"].value == found["gain"][0]
    assert evaluation["gain"].low is not None


def test_there_is_a_gain_where_there_is_a_decision() -> None:
    assert list(TASK.metrics) == [*PLAIN.metrics, "gain"]
    assert metric_named("gain") == TASK.metrics["gain"] == GAIN
    with pytest.raises(KeyError):
        PLAIN.values({"gain"}, LABELS, ANSWER, DAY, weights_without(DAY))
    assert TASK.decided(LABELS, ANSWER, 1) is TASK


def test_calibrated_probabilities_bring_more_by_the_table_than_by_any_other_way() -> None:
    found = TASK.decisions(LABELS, ANSWER, DAY)
    ways = found["gain"]
    assert list(ways) == [
        *("by the table", "the most probable class", "always on time", "always late", "always cancelled")
    ]
    assert max(ways, key=ways.__getitem__) == "by the table"
    assert ways["by the table"] == pytest.approx(evaluate(TASK, LABELS, ANSWER, DAY)["gain"].value)
    assert sum(found["rows_a_day"].values()) == pytest.approx(30)


def test_what_deciding_brings_is_said_beside_the_most_probable_class_and_each_class_always() -> None:
    labels, answer = np.array([0, 1, 2, 0]), np.array([[0.8, 0.1, 0.1], [0.5, 0.5, 0], [0.2, 0.2, 0.6], [1, 0, 0]])
    found = TASK.decisions(labels, answer, np.array([3, 3, 5, 5]))
    assert TASK.decisions_described(json.loads(json.dumps(found))) == (
        "Acting by the gain table; rows a day: on time 0.5, late 0.5, cancelled 1; what a row brings: by the table "
        "12.5 EUR, the most probable class 7.5 EUR, always on time -57.5 EUR, always late -20 EUR, always cancelled "
        "6 EUR."
    )
    assert PLAIN.decisions(labels, answer, np.array([3, 3, 5, 5])) == {}


@given(tasks())
def test_a_table_survives_being_stored_and_sent(task: MultiClass) -> None:
    assert predictions(task, np.eye(task.width))
    for again in (task_from_json(json.loads(json.dumps(task_to_json(task)))), pickle.loads(pickle.dumps(task))):
        assert (again, hash(again), fingerprint(again)) == (task, hash(task), fingerprint(task))


def test_a_table_is_its_values_in_whatever_order_they_are_written() -> None:
    turned: dict[str, Any] = {label: dict(reversed(row.items())) for label, row in reversed(GAINS.items())}
    other = MultiClass(CLASSES, GainTable(turned, "EUR"))
    assert (other, hash(other), fingerprint(other)) == (TASK, hash(TASK), fingerprint(TASK))
    turned["late"]["late"] = 11
    assert other == TASK, "The table is its own, whatever becomes of what it was made of."
    for changed in (GainTable(turned, "EUR"), GainTable(GAINS, "USD")):
        assert changed != TASK.decision
        assert fingerprint(MultiClass(CLASSES, changed)) != fingerprint(TASK)


def test_what_was_stored_before_there_were_tables_has_none() -> None:
    stored = {"kind": "multiclass", "classes": list(CLASSES)}
    assert task_from_json(stored) == PLAIN
    assert task_to_json(PLAIN) == {"kind": "multiclass", "classes": CLASSES}
    with pytest.raises(IntegrityError, match="not known to this version"):
        task_from_json({**stored, "decision": {"gain_table": {"gains": {"late": {"late": 1.0}}}}})


def test_a_champion_with_another_table_is_judged_by_ours_and_one_of_other_classes_not_at_all() -> None:
    for other in (PLAIN, MultiClass(CLASSES, GainTable({**GAINS, "late": {**GAINS["late"], "late": 99}}))):
        assert TASK.like(other) == TASK
        assert other.like(TASK) == other
    assert TASK.like(MultiClass(CLASSES[::-1])) is None
    assert TASK.like(Binary()) is None
    ours, theirs = TASK.like(TASK), TASK.like(PLAIN)
    assert ours is not None
    assert theirs is not None
    worse = np.full_like(ANSWER, 1 / 3)
    found = compare((ours, theirs), LABELS, ANSWER, worse, DAY, "gain")
    assert found.champion == pytest.approx(evaluate(TASK, LABELS, worse, DAY)["gain"].value)
    assert found.difference.value > 0


def test_reasons_are_those_of_the_prediction() -> None:
    about = np.array([0.6, 0.38, 0.02])
    assert predictions(PLAIN, about[np.newaxis]) == ["on time"]
    (prediction,) = predictions(TASK, about[np.newaxis])
    assert prediction == "late"
    assert TASK.additive(ANSWER, about).tolist() == log_odds(ANSWER[:, 1]).tolist()


def test_an_endpoint_answers_as_the_table_says_and_gives_its_reasons(tmp_path: Path) -> None:
    cautious = {**GAINS, "cancelled": {"on time": -1e9, "late": -1e9, "cancelled": 0}}
    task = MultiClass(CLASSES, GainTable(cautious))
    with example_endpoint(tmp_path, seal=sealed_as(task)) as example:
        answered = predict(example, {"features": VECTORS, "explain": True}).json()["predictions"]
    probabilities = np.array([[row["probabilities"][name] for name in CLASSES] for row in answered])
    assert [row["prediction"] for row in answered] == predictions(task, probabilities)
    assert predictions(task, probabilities) != predictions(PLAIN, probabilities)
    for row in answered:
        share, reasons = row["probabilities"][row["prediction"]], row["reasons"]
        total = reasons["base"] + sum(reasons["contributions"].values())
        assert total == pytest.approx(np.log(share / (1 - share)), rel=1e-4, abs=1e-3)


def row_changed(label: str, **changes: Any) -> dict[str, Any]:
    return {**GAINS, label: {**GAINS[label], **changes}}


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        ([1, 2], r"gains is \[1, 2\]. Give {label: {prediction: gain}}"),
        (None, "gains is None"),
        ({1: {}}, "names of the classes as texts"),
        ({**GAINS, "late": 5}, "of the label 'late' what is given is 5. Give {prediction: gain}"),
        ({**GAINS, "late": {0: 5}}, "names of the classes as texts"),
        *(
            (
                row_changed("late", cancelled=value),
                "'late' and the prediction 'cancelled', the gain is .* without quotes",
            )
            for value in ("3", True, None, float("nan"), float("inf"), 1e101, -(10**400), np.float32(1))
        ),
        ({}, "the label 'on time' is missing"),
        ({"late": GAINS["late"], "on time": GAINS["on time"]}, "the label 'cancelled' is missing. Say what"),
        (
            {**GAINS, "late": {"late": 1, "cancelled": 0}},
            "label 'late' lacks the prediction 'on time'. Say what it brings to act as if the label were 'on time'",
        ),
        ({**GAINS, "late": {"on time": 0, "cancelled": 0}}, "label 'late' lacks the prediction 'late'"),
        (row_changed("late", canceled=-1), "'canceled' is no class of the label. Did you mean 'cancelled'?"),
        ({**GAINS, "diverted": {"on time": 0}}, "'diverted' is no class of the label. Known: cancelled, late, on time"),
        (row_changed("late", cancelled=11), "'late', acting as if it were 'cancelled' brings 11, and acting right 10"),
        (row_changed("late", cancelled=10), "Acting right must be worth more than any other for its label"),
        ({label: dict.fromkeys(CLASSES, 0) for label in CLASSES}, "costs are below 0"),
    ],
)
def test_a_table_that_cannot_be_is_refused(gains: Any, message: str) -> None:
    with pytest.raises(UseCaseError, match=f"^GainTable: .*{message}"):
        MultiClass(CLASSES, GainTable(gains))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GainTable(GAINS, unit=3), "GainTable: unit is 3. It must be a text"),
        (lambda: MultiClass(CLASSES, Gains(1, -1)), r"MultiClass: decision is Gains.* Give GainTable\(...\), or leave"),
        (lambda: MultiClass(CLASSES, GAINS), "MultiClass: decision is {'on time'"),
        (lambda: Binary(decision=GainTable(GAINS)), r"Binary: decision is GainTable.* Give Gains\(...\) or Capacity"),
    ],
)
def test_a_decision_of_another_kind_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UseCaseError, match=message):
        make()


def test_told_labels_are_read_as_before() -> None:
    assert TASK.told_as == PLAIN.told_as
    assert TASK.row_schema == PLAIN.row_schema
    assert TASK.encoded(pl.Series(["late", "on time"])).tolist() == [1, 0]
