"""A category with very many values is what labels of its value were: as known before a row's moment, and as ONNX."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import onnxruntime
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray.errors import DataError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task
from mlops_ray.training import level_table as level_tables
from mlops_ray.training.candidates import GradientBoosting, LightGBM, LogisticRegression
from mlops_ray.training.encoding import fit_encoder
from mlops_ray.training.footprint import footprint
from mlops_ray.training.level_table import History, known_before, level_table
from mlops_ray.training.proposal import middle
from mlops_ray.training.shared_data import trial_data
from mlops_ray.use_case import Candidate, Feature, Fit, FitData, FittedModel
from tests.small_flights import use_case
from tests.unit.test_encoding import first_column_as_probability

START = datetime(2024, 1, 1, tzinfo=UTC)
FEATURES = (Feature("a", "number"), Feature("shop", "category"), Feature("z", "number"), Feature("kind", "category"))
TASKS: tuple[Task, ...] = (BINARY, MultiClass(("early", "on time", "late")), Regression("minutes"))


def rows_of(task: Task, rows: int = 3_000, levels: int = 600, effect: float = 2.0, seed: int = 3) -> pl.DataFrame:
    """Each shop has an effect on its labels, which are known after one or ten days; three hours between rows."""
    random = np.random.default_rng(seed)
    shop, asked = random.integers(0, levels, rows), np.arange(rows) * 3
    score = effect * random.normal(size=levels)[shop] + random.logistic(size=rows)
    names = np.where(score < -1, "early", np.where(score < 1, "on time", "late"))
    labels = {"binary": pl.Series(score > 0), "multiclass": pl.Series(names), "regression": pl.Series(score)}
    known = asked + random.choice([24, 240], rows)
    frame = pl.DataFrame({"shop": [f"shop-{one}" for one in shop], LABEL: labels[task.kind]})
    numbers = {name: random.normal(size=rows) for name in ("a", "z")}
    moments = {name: [START + timedelta(hours=int(at)) for at in hours] for name, hours in
               ((PREDICTION_TIME, asked), (LABEL_KNOWN_AT, known))}  # fmt: skip
    texts = pl.when(pl.int_range(rows) % 50 == 0).then(None).otherwise("shop")
    return frame.with_columns(shop=texts, kind=pl.lit("one")).with_columns(
        **{name: pl.Series(values) for name, values in (numbers | moments).items()}
    )


def test_what_a_sealed_model_keeps_of_a_category_is_bounded_whatever_its_label_has_of_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(level_tables, "_MOST_BYTES", 20_000)
    texts, moments = pl.Series([f"customer-{at:05}" for at in range(5_000)]), np.arange(5_000)
    for classes in (1, 3, 20):
        labels = {str(at): np.zeros(5_000) for at in range(classes)}
        table = level_table(texts, History(labels, moments, moments))
        kept = sum(map(len, table.values)) + table.numbers[1:].nbytes + 8 * len(table.values)
        assert 10_000 < kept <= 20_000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.integers(-1, 6), st.floats(-9, 9)), min_size=1))
def test_what_a_row_learns_of_its_level_is_only_what_was_known_before_it(
    rows: list[tuple[str, int, int, float]],
) -> None:
    texts, asked, delay, labels = (list(values) for values in zip(*rows, strict=True))
    asked_at, label = np.array(asked), np.array(labels)
    known_at = asked_at + np.array(delay)
    found = known_before(pl.Series(texts), History({"": label}, asked_at, known_at))
    for at, text in enumerate(texts):
        before = [other for other, name in enumerate(texts) if name == text
                  and max(known_at[other], asked_at[other]) < asked_at[at]]  # fmt: skip
        expected = (label[before].sum() + 5 * label.mean()) / (len(before) + 5)
        assert found[at, 0] == pytest.approx(expected, abs=1e-5)


def test_a_table_knows_every_label_and_gives_all_other_values_the_mean() -> None:
    history = History({"": np.array([1.0, 0.0, 0.0, 1.0])}, np.arange(4), np.arange(4))
    table = level_table(pl.Series(["x", "x", "", "y"]), history)
    found = table.encode(pl.Series(["x", "", "y", "never seen", "\U0001f600"]))[:, 0]
    np.testing.assert_allclose(found, [3.5 / 7, 2.5 / 6, 3.5 / 6, 0.5, 0.5])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_onnx_looks_levels_up_as_the_encoder_does(task: Task) -> None:
    frame = rows_of(task)
    encoder = fit_encoder(frame, FEATURES, task, 100)
    asked = frame[:50].with_columns(shop=pl.Series(["shop-1", "new", None, "", "shop-2"] * 10), kind=pl.lit("two"))
    names = ["shop: on time", "shop: late"] if task.kind == "multiclass" else ["shop"]
    matrix = encoder.encode(asked)
    session = onnxruntime.InferenceSession(encoder.wrap_onnx(first_column_as_probability(matrix.shape[1])))
    np.testing.assert_array_equal(session.run(None, encoder.inputs(asked))[0], matrix)
    assert [column.name for column in encoder.columns] == ["a", *names, "z", "kind"]
    alone = fit_encoder(frame, FEATURES[1:2], task, 100)
    assert alone.encode_fitted(frame, task).shape == (frame.height, len(names))
    with pytest.raises(DataError, match="lack the features shop"):
        encoder.encode(asked.drop("shop"))
    assert encoder.encode(asked[:0]).shape == (0, matrix.shape[1])
    assert encoder.features[1].categories == ()  # nor is the sealed schema as large as the table


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("candidate", [LightGBM(), LogisticRegression()], ids=lambda one: one.name)
def test_models_on_levels_can_be_sealed_and_their_footprint_measured(candidate: Candidate, task: Task) -> None:
    if candidate.name == "logistic_regression" and not task.class_names:
        return
    frame = rows_of(task)
    encoder = fit_encoder(frame, FEATURES, task, 100)
    model = last(candidate, encoder.encode_fitted(frame, task), frame, task, encoder.columns)
    matrix = encoder.encode(frame)
    complete = onnxruntime.InferenceSession(encoder.wrap_onnx(model.to_onnx()))
    served = complete.run([task.output], encoder.inputs(frame))[0]
    assert task.apart(served, model.predict(matrix)).max() < 1e-5
    assert footprint(model, task.output, encoder, matrix).size_bytes < 2_000_000


def test_levels_that_say_nothing_teach_nothing_and_those_that_do_lift_the_auc() -> None:
    def auc(effect: float, most_levels: int | None) -> float:
        frame = rows_of(BINARY, 12_000, 1_500, effect)
        early, late = frame[:9_000], frame[9_000:]
        encoder = fit_encoder(early, FEATURES, BINARY, most_levels)
        model = last(GradientBoosting(), encoder.encode_fitted(early, BINARY), early, BINARY, encoder.columns)
        values = {"roc_auc"}, late[LABEL].to_numpy(), model.predict(encoder.encode(late))
        return float(BINARY.values(*values, np.zeros(late.height, dtype=np.intp), np.ones((1, 1)))["roc_auc"][0])

    assert abs(auc(0.0, 100) - 0.5) < 0.03
    assert auc(2.0, 100) > auc(2.0, None) + 0.1


def test_a_trial_learns_from_what_was_known_and_is_judged_on_all_that_was_known_then() -> None:
    frame = rows_of(BINARY)
    train, validation = frame[:2_000], frame[2_000:]
    data = trial_data(replace(use_case, fit=Fit(most_levels=100)), train, validation, FEATURES)
    encoder = fit_encoder(train, FEATURES, BINARY, 100)
    np.testing.assert_array_equal(data.train, encoder.encode_fitted(train, BINARY))
    np.testing.assert_array_equal(data.validation, encoder.encode(validation))
    mean = train[LABEL].mean()
    assert data.train[0, 1] == pytest.approx(mean), "Before the first row nothing was known."


def test_a_category_with_few_values_stays_a_code() -> None:
    frame = rows_of(BINARY)
    assert fit_encoder(frame, FEATURES, BINARY, 600) == fit_encoder(frame, FEATURES)
    assert fit_encoder(frame, FEATURES, BINARY, None) == fit_encoder(frame, FEATURES)


def test_a_table_is_bounded_whatever_the_texts_and_keeps_the_levels_with_most_rows() -> None:
    texts = pl.Series(["often"] * 3 + [f"{at}".rjust(2_000, "x") for at in range(20_000)])
    history = History({"": np.ones(len(texts))}, np.arange(len(texts)), np.arange(len(texts)))
    table = level_table(texts, history)
    assert sum(map(len, table.values)) < 20_000_000
    assert table.values[0] == "often"
    assert len(table.values) > 9_000


def last(
    candidate: Candidate, matrix: np.ndarray, frame: pl.DataFrame, task: Task, columns: tuple[Feature, ...]
) -> FittedModel:
    data = FitData(matrix, task.encoded(frame[LABEL]), columns, task, seed=1, threads=1)
    *_, (_, model) = candidate.fit(data, middle(candidate.space))
    return model
