"""What is said of all fits reaches every candidate: weights, rows held out, a time limit."""

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.features.blocks import Rows
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.pipeline.calibration import find_on_validation
from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.link import Logistic
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.testing.candidates import check_weights_count, fit_data, make_sample
from mlops_ray.training.candidates import GradientBoosting, LightGBM, LogisticRegression, NeuralNetwork
from mlops_ray.training.candidates.graph import Graph
from mlops_ray.training.encoding import Encoder
from mlops_ray.training.fit import fit_trial
from mlops_ray.training.proposal import middle
from mlops_ray.training.scaled import scaled_steps
from mlops_ray.training.trial import Trial
from mlops_ray.training.weights import Weights, weigh
from mlops_ray.training.worker import TrialData, TrialWorker
from mlops_ray.use_case import Candidate, Feature, Fit, FitData, FittedModel, Parameters, SearchSpace
from tests.small_flights import use_case

CLASSES = MultiClass(("early", "on time", "late"))
TREES = {"learning_rate": 0.3, "iterations": 200}
GRADIENT = TREES | {"max_leaf_nodes": 31, "min_samples_leaf": 5, "l2_regularization": 0.01}
LIGHT = TREES | {"num_leaves": 31, "min_data_in_leaf": 5, "feature_fraction": 1.0, "lambda_l2": 0.01}
NETWORK = {"learning_rate": 0.02, "width": 128, "dropout": 0.0, "weight_decay": 1e-5, "epochs": 300}
LINEAR = {"l2": 1e-4, "iterations": 40}
GROWING = [
    (GradientBoosting(), GRADIENT),
    (LightGBM(), LIGHT),
    pytest.param(NeuralNetwork(), NETWORK, marks=pytest.mark.torch),
]
ALL = pytest.mark.parametrize(
    ("candidate", "parameters"), [*GROWING, (LogisticRegression(), LINEAR)], ids=lambda one: getattr(one, "name", "")
)
STOPPING = pytest.mark.parametrize(("candidate", "parameters"), GROWING, ids=lambda one: getattr(one, "name", ""))


def moments(rows: int) -> pl.Series:
    return pl.Series([datetime(2013, 1, 1, tzinfo=UTC) + timedelta(hours=at) for at in range(rows)])


def rare(rows: int = 60_000, share: float = 0.002) -> FitData:
    """Few of yes, and a feature that tells of them."""
    random = np.random.default_rng(3)
    matrix = random.normal(size=(rows, 2)).astype(np.float32)
    odds = np.log(share) - 1.2 + 1.5 * matrix[:, 0]
    label = random.random(rows) < 1 / (1 + np.exp(-odds))
    return FitData(matrix, label, (Feature("x", "number"), Feature("z", "number")), Binary(), seed=1, threads=1)


# Weights


def test_balanced_classes_weigh_the_same_together() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2])
    found = weigh(Fit(class_weights="balanced"), CLASSES, labels, moments(100)).rows
    assert found is not None
    assert np.bincount(labels, found) == pytest.approx([100 / 3] * 3)


def test_balanced_classes_weigh_the_same_also_where_one_is_older() -> None:
    labels, fit = np.arange(2_000) < 1_000, Fit(class_weights="balanced", half_life=timedelta(days=14))
    found = weigh(fit, Binary(), labels, moments(2_000))
    assert found.rows is not None
    assert found.correction is not None
    assert np.bincount(labels.astype(int), found.rows) == pytest.approx([1_000] * 2)
    assert found.rows[0] / found.rows[14 * 24] == pytest.approx(0.5)
    ages = weigh(Fit(half_life=timedelta(days=14)), Binary(), labels, moments(2_000)).rows
    assert ages is not None
    seen = np.bincount(labels.astype(int), ages)
    assert found.correction.shifts == pytest.approx([np.log(seen[1] / seen[0])])


def test_a_row_of_a_half_life_ago_counts_half() -> None:
    labels = np.zeros(49)
    found = weigh(Fit(half_life=timedelta(days=1)), Regression(), labels, moments(49))
    assert found.correction is None
    assert found.rows is not None
    assert found.rows.mean() == pytest.approx(1)
    assert found.rows[0] / found.rows[24] == pytest.approx(0.5)
    assert found.rows[24] / found.rows[48] == pytest.approx(0.5)


def test_a_half_life_that_leaves_few_numbers_to_learn_from_is_named() -> None:
    labels, fit = np.arange(1_000.0), Fit(half_life=timedelta(minutes=30))
    with pytest.raises(DataError, match=r"The weights of 1,000 rows leave .* than 1\.7 rows .*longer half_life"):
        weigh(fit, Regression(), labels, moments(1_000))
    assert weigh(Fit(half_life=timedelta(hours=6)), Regression(), labels, moments(1_000)).rows is not None
    assert weigh(Fit(half_life=timedelta(hours=6)), Regression(), labels[:4], moments(4)).rows is not None


def test_nothing_said_is_no_weights() -> None:
    assert weigh(Fit(), Binary(), np.array([True, False]), moments(2)).rows is None


def test_a_class_that_is_missing_in_training_is_named() -> None:
    with pytest.raises(DataError, match="none of the 3 rows to fit to has the class late"):
        weigh(Fit(class_weights="balanced"), CLASSES, np.array([0, 1, 1]), moments(3))
    with pytest.raises(DataError, match="has the class True"):
        weigh(Fit(class_weights="balanced"), Binary(), np.array([False, False]), moments(2))


@pytest.mark.parametrize(
    "fit",
    [
        Fit(half_life=timedelta(minutes=30)),
        Fit(half_life=timedelta(microseconds=1)),
        Fit(class_weights="balanced", half_life=timedelta(minutes=30)),
        Fit(class_weights="balanced", half_life=timedelta(microseconds=1)),
        Fit(class_weights={True: 1e-308, False: 1e308}),
        Fit(class_weights={True: 5e-324}),
    ],
    ids=str,
)
def test_a_class_whose_weights_vanish_is_named(fit: Fit) -> None:
    """The class True is in the older half alone."""
    with pytest.raises(DataError, match=r"The 1000 rows of the class True weigh .* together.* half_life"):
        weigh(fit, Binary(), np.arange(2_000) < 1_000, moments(2_000))


@pytest.mark.parametrize("weight", [1e308, 1.0, 1e-308])
def test_weights_are_as_far_apart_as_they_are_said_to_be_however_large(weight: float) -> None:
    found = weigh(Fit(class_weights={True: weight, False: weight / 4}), Binary(), np.arange(8) < 4, moments(8)).rows
    assert found == pytest.approx([1.6] * 4 + [0.4] * 4)


@pytest.mark.parametrize(
    ("said", "task", "sentence"),
    [
        ({"class_weights": {"lat": 2.0}}, CLASSES, "no class 'lat' .*Did you mean 'late'"),
        ({"class_weights": {"True": 3.0}}, Binary(), r"has False, True\). Write True without quotes\.$"),
        ({"class_weights": {"late": 2.0}}, Binary(), r"no class 'late' \(it has False, True\)"),
        ({"class_weights": "balanced"}, Regression(), "class_weights is for labels with classes"),
        ({"calibration": "platt"}, Regression(), "calibration is for labels with classes"),
    ],
)
def test_what_does_not_fit_the_label_is_refused(said: dict[str, Any], task: Any, sentence: str) -> None:
    with pytest.raises(UseCaseError, match=f"things: Fit: .*{sentence}"):
        Fit(**said).expect_task(task, "things")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"class_weights": {True: 0.0}}, "weight of class True is 0.0"),
        ({"class_weights": {True: float("nan")}}, "weight of class True is nan"),
        ({"class_weights": "balancd"}, "Did you mean 'balanced'"),
        ({"class_weights": {1: 2.0}}, "class_weights"),
        ({"half_life": timedelta(0)}, "half_life is 0:00:00"),
        ({"time_limit": timedelta(seconds=-1)}, "time_limit is"),
        ({"held_out": 0.9}, "held_out is 0.9"),
        ({"calibration": "isotonic"}, "calibration is 'isotonic'"),
    ],
)
def test_a_fit_that_makes_no_sense_is_refused(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UseCaseError, match=sentence):
        Fit(**said)


# With few of one class, what is learned by heart of them is bold beyond any weight that is taken out again.
CAREFUL: dict[str, Parameters] = {
    "gradient_boosting": GRADIENT | {"iterations": 30, "max_leaf_nodes": 7, "min_samples_leaf": 500},
    "lightgbm": LIGHT | {"iterations": 30, "num_leaves": 7, "min_data_in_leaf": 500},
    "neural_network": NETWORK | {"width": 32, "epochs": 4},
    "logistic_regression": LINEAR,
}


@ALL
def test_two_in_a_thousand_of_yes_are_learned_and_probabilities_stay_probabilities(
    candidate: Candidate, parameters: Parameters
) -> None:
    data, fit, careful = rare(), Fit(class_weights="balanced"), CAREFUL[candidate.name] | {"learning_rate": 0.1}
    weights = weigh(fit, data.task, data.label, moments(len(data.label)))
    assert judged(candidate, careful, data, fit, "roc_auc")["value"] > 0.8
    weighed = replace(data, weights=weights.rows)
    *_, (_, led_back) = scaled_steps(candidate.fit(weighed, careful), data.task, weights.correction)
    assert led_back.predict(data.matrix).mean() == pytest.approx(data.label.mean(), rel=0.35)
    as_fitted = last(candidate, weighed, careful)
    assert as_fitted.predict(data.matrix).mean() > 20 * data.label.mean()


def test_probabilities_of_a_class_that_was_learned_by_heart_are_led_back_to_the_truth_by_rows_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The truth is known: in two of a thousand rows it is yes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    random = np.random.default_rng(6)
    matrix = random.normal(size=(70_000, 4))
    truth = 1 / (1 + np.exp(-(np.log(0.002) - 1.2 + 1.5 * matrix[:, 0])))
    features = tuple(Feature(f"x{at}", "number") for at in range(4))
    frame = pl.DataFrame(matrix, schema=[one.name for one in features]).with_columns(
        pl.Series(LABEL, random.random(70_000) < truth),
        pl.Series(PREDICTION_TIME, moments(70_000)),
        pl.Series(LABEL_KNOWN_AT, moments(70_000)),
    )
    train, validation, test, asked = frame[:30_000], frame[30_000:50_000], frame[50_000:], truth[50_000:]
    case = replace(use_case, candidates=(GradientBoosting(),), fit=Fit(class_weights="balanced"))
    trial = Trial("gradient_boosting", 0, {**middle(GradientBoosting().space), "iterations": 60})
    found = find_on_validation(case, Rows.of(train), Rows.of(validation), features, trial)
    assert found.method == "platt"
    fitted = fit_trial(case, Rows.of(frame[:50_000]), features, trial, found.calibration)
    assert fitted.uncalibrated is not None
    matrix_asked = fitted.encoder.encode(test)

    def beyond_truth(answer: NDArray[np.float64]) -> float:
        answer = np.clip(answer, 1e-12, 1 - 1e-12)
        return float((asked * np.log(asked / answer) + (1 - asked) * np.log((1 - asked) / (1 - answer))).mean())

    before, after = fitted.uncalibrated.predict(matrix_asked), fitted.model.predict(matrix_asked)
    assert before.mean() < 0.5 * asked.mean()
    assert 0.5 * asked.mean() < after.mean() < 2.5 * asked.mean()
    assert beyond_truth(after) < 0.5 * beyond_truth(before)
    assert find_on_validation(case, Rows.of(train), Rows.of(validation[:1_000]), features, trial).method is None


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_a_calibration_of_a_few_rows_of_a_class_is_refused(method: Any) -> None:
    """Of so few it says more of chance, and made answers worse than they had been."""
    frame = pl.DataFrame(
        {"x0": np.random.default_rng(2).normal(size=300), LABEL: np.arange(300) % 3 == 0}
    ).with_columns(pl.Series(PREDICTION_TIME, moments(300)), pl.Series(LABEL_KNOWN_AT, moments(300)))
    case = replace(use_case, candidates=(GradientBoosting(),), fit=Fit(calibration=method))
    trial = Trial("gradient_boosting", 0, {**middle(GradientBoosting().space), "iterations": 2})
    train, features = Rows.of(frame), (Feature("x0", "number"),)
    message = f"19 rows of its rarest class, too few to calibrate by {method} .*at least 20 .*or leave calibration out"
    with pytest.raises(DataError, match=message):
        find_on_validation(case, train, Rows.of(frame[:57]), features, trial)
    assert find_on_validation(case, train, Rows.of(frame[:60]), features, trial).method == method


@dataclass(frozen=True)
class Heedless(GradientBoosting):
    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        yield from super().fit(replace(data, weights=None), parameters)


def test_a_candidate_that_passes_weights_over_is_found_out() -> None:
    parameters = {**GRADIENT, "iterations": 20, "min_samples_leaf": 20}
    check_weights_count(GradientBoosting(), parameters)
    with pytest.raises(AssertionError, match=r"does not heed FitData.weights"):
        check_weights_count(Heedless(), parameters)


# Ends


@STOPPING
def test_rows_held_out_end_a_fit_that_would_learn_by_heart(candidate: Candidate, parameters: Parameters) -> None:
    sample = make_sample(rows=1500)
    asked = make_sample(rows=4000, seed=8)
    matrix = sample.encoder.encode(asked.frame)
    losses = {
        held_out: asked.task.losses(
            asked.label, last(candidate, fit_data(sample, held_out=held_out), parameters).predict(matrix)
        ).mean()
        for held_out in (None, 0.25)
    }
    assert losses[0.25] < losses[None] - 0.01


@pytest.mark.parametrize(("candidate", "parameters"), GROWING[:2], ids=["gradient_boosting", "lightgbm"])
def test_trees_are_fitted_to_all_rows_with_as_many_as_were_best(candidate: Any, parameters: Parameters) -> None:
    sample = make_sample(rows=1500)
    steps = list(candidate.fit(fit_data(sample, held_out=0.25), parameters))
    trees = trees_of(steps[-1][1])
    assert 1 <= trees < 150
    again = last(candidate, fit_data(sample), {**parameters, "iterations": trees})
    assert np.array_equal(steps[-1][1].predict(sample.matrix), again.predict(sample.matrix))


def test_rows_held_out_without_a_class_are_not_held_out() -> None:
    data = replace(rare(400), held_out=0.1, label=np.arange(400) < 100)
    assert data.divided() is None
    assert replace(data, label=np.arange(400) % 2 == 0).divided() is not None


def test_both_parts_weigh_1_a_row_on_average_and_one_of_no_weight_is_none() -> None:
    data = replace(rare(400, 0.3), held_out=0.25)
    weights = weigh(Fit(half_life=timedelta(days=1)), data.task, data.label, moments(400)).rows
    assert weights is not None
    divided = replace(data, weights=weights).divided()
    assert divided is not None
    for part in divided:
        assert part.weights is not None
        assert part.weights.mean() == pytest.approx(1)
    assert divided[0].weights == pytest.approx(weights[:300] / weights[:300].mean())
    for silent in (np.arange(400) < 300, np.arange(400) >= 300):
        assert replace(data, weights=silent / silent.mean()).divided() is None


@ALL
def test_a_fit_ends_with_what_it_has_when_the_time_is_up(candidate: Candidate, parameters: Parameters) -> None:
    data = rare(40_000, 0.2)
    long = {**parameters, **{name: 100_000 for name in ("iterations", "epochs") if name in parameters}}
    started = time.monotonic()
    *_, (fraction, model) = candidate.fit(replace(data, ends_at=started + 0.3), long)
    assert time.monotonic() - started < 5
    assert fraction == 1.0
    assert data.task.wrong(model.predict(data.matrix)) is None


# Trials


def any_graph() -> bytes:
    """Something that can be exported: a trial fails without."""
    graph = Graph()
    mean = graph.add("ReduceMean", "matrix", graph.constant("axis", np.array([1])), keepdims=1)
    return graph.model(Logistic(), "probability", mean, np.float32)


@dataclass(frozen=True)
class Answers:
    """Answers that are given."""

    answer: NDArray[np.float64]

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.answer

    def to_onnx(self) -> bytes:
        return any_graph()


@dataclass(frozen=True)
class Odd:
    answer: NDArray[np.float64]
    name: str = "odd"
    space: SearchSpace = field(default_factory=dict)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, Answers]]:
        yield 1.0, Answers(self.answer)


@pytest.mark.parametrize("fit", [Fit(), Fit(class_weights="balanced")], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (np.full(1000, np.nan), "The model answered nan for row 0"),
        (np.full((1000, 2), 0.5), r"shape \(1000, 2\) instead of"),
        (np.full(999, 0.5), r"shape \(999,\) instead of"),
        (np.full(1000, 1.5), "The model answered 1.5 for row 0"),
        ([0.5] * 1000, "answered with a list, which is no NumPy array"),
        (None, "answered with a NoneType"),
        (pl.Series([0.5] * 1000), "answered with a Series"),
        (np.full(1000, "0.5"), "answered with <U3, which are no numbers"),
        (np.full(1000, 0.5, dtype=object), "answered with object"),
        (np.full(1000, 0.5 + 0j), "answered with complex128"),
    ],
    ids=["nan", "width", "rows", "above 1", "list", "none", "series", "text", "object", "complex"],
)
def test_answers_that_are_none_fail_the_trial_with_a_sentence(fit: Fit, answer: Any, sentence: str) -> None:
    message = judged(Odd(answer), {}, rare(1000, 0.2), fit, "roc_auc")["message"]
    assert re.search(f"{sentence}.* Repair the candidate's predict[.]$", message)


def test_a_candidate_whose_library_is_not_installed_fails_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "mlops_ray.training.candidates.network", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    step = judged(NeuralNetwork(), {}, rare(1000, 0.2), Fit(), "roc_auc")
    assert "pip install 'mlops_ray[torch]'" in step["message"]


def judged(candidate: Candidate, parameters: Parameters, data: FitData, fit: Fit, metric: str) -> dict[str, Any]:
    """The last step of a trial on data that are both parts."""
    weights = weigh(fit, data.task, data.label, moments(len(data.label)))
    both = TrialData(Encoder(data.features), data.matrix, data.label, data.matrix, data.label, weights, fit)
    worker = TrialWorker(both, {candidate.name: candidate}, data.task, metric, 1, {candidate.name: 1})
    worker.begin(candidate.name, parameters)
    while True:
        step = worker.step()
        if step["done"]:
            return step


def last(candidate: Candidate, data: FitData, parameters: Parameters) -> FittedModel:
    *_, (_, model) = candidate.fit(data, parameters)
    return model


def trees_of(model: Any) -> int:
    return int(model.booster.num_trees()) if hasattr(model, "booster") else len(model.model._predictors)


# Trials


@dataclass(frozen=True)
class Told:
    """A fit that yields these fractions, of models that answer so."""

    fractions: tuple[Any, ...] = (1.0,)
    answer: Any = None
    name: str = "told"
    space: SearchSpace = field(default_factory=dict)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        for fraction in self.fractions:
            yield fraction, self  # type: ignore[misc]

    def predict(self, matrix: NDArray[np.float32]) -> Any:
        return np.linspace(0, 1, len(matrix)) if self.answer is None else self.answer

    def to_onnx(self) -> bytes:
        return any_graph()


def test_a_trial_is_judged_on_fewer_rows_than_an_interval_needs() -> None:
    """As a search that looks at a sample has them: 38 of the 39 that 95 % take."""
    data = fit_data(make_sample(Regression(coverage=0.95), rows=38))
    step = judged(GradientBoosting(), GRADIENT, data, Fit(), "mean_absolute_error")
    assert "message" not in step
    assert step["value"] > 0


def working(candidate: Told, data: FitData) -> TrialWorker:
    both = TrialData(
        Encoder(data.features), data.matrix, data.label, data.matrix, data.label, Weights(None, None), Fit()
    )
    worker = TrialWorker(both, {candidate.name: candidate}, data.task, "log_loss", 1, {candidate.name: 1})
    worker.begin(candidate.name, {})
    return worker


@pytest.mark.parametrize(
    "wrong", [None, "1.0", float("nan"), float("inf"), 0.0, -1.0, 2.0, 0.25, True, 1j, np.array([0.5, 1.0])], ids=str
)
def test_a_fraction_that_is_none_fails_the_trial_with_a_sentence(wrong: Any) -> None:
    worker = working(Told((0.25, wrong, 1.0)), rare(300, 0.3))
    assert worker.step()["fraction"] == 0.25
    ended = worker.step()
    assert ended["done"]
    assert (
        f"fit yielded the fraction {wrong!r}. Give a number above the last one (0.25), at most 1." in ended["message"]
    )


@pytest.mark.parametrize("last_one", [1, np.float32(1), np.int64(1), np.nextafter(1, 2)])
def test_a_fraction_may_be_any_kind_of_number(last_one: Any) -> None:
    worker = working(Told((0.5, last_one)), rare(300, 0.3))
    assert [worker.step()["done"], worker.step()["done"]] == [False, True]
    worker.begin("told", {})
    assert worker.step()["fraction"] == 0.5


@pytest.mark.parametrize("kind", [np.bool_, np.int64, np.uint8, np.float32])
def test_answers_are_kept_and_judged_as_decimal_numbers(kind: type) -> None:
    data = rare(300, 0.3)
    worker = working(Told(answer=data.label.astype(kind)), data)
    exact = working(Told(answer=data.label.astype(np.float64)), data)
    assert worker.step()["value"] == exact.step()["value"]
    assert worker.answer.dtype == np.float64
