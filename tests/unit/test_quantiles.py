"""Quantiles of a number: a model of each, side by side with that of the number, in every way that answers are given."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from sklearn.metrics import mean_pinball_loss

from mlops_ray.batch.scoring import _answer_names
from mlops_ray.client.predictions import answer_of
from mlops_ray.config import Settings
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.evaluation.baseline import baseline
from mlops_ray.evaluation.comparison import compare
from mlops_ray.evaluation.dependence import partial_dependence
from mlops_ray.features.blocks import Held, Rows
from mlops_ray.features.columns import LABEL
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.monitoring.answers import answer_columns, answer_in, watched_columns
from mlops_ray.pipeline.declarations import _label
from mlops_ray.pipeline.fingerprint import fingerprint
from mlops_ray.pipeline.import_version import _differences
from mlops_ray.pipeline.steps.step import Given, StepName
from mlops_ray.pipeline.steps.train import TrainInputs, train_inputs
from mlops_ray.registry.card_features import feature_parts
from mlops_ray.registry.trace import Trace
from mlops_ray.registry.trace_tree import trace_text
from mlops_ray.retraining.chosen import choose
from mlops_ray.sdk.rows import rows_of, with_answers
from mlops_ray.serving.inference_protocol import metadata
from mlops_ray.tasks.decision import GainTable
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.stored import metric_named
from mlops_ray.testing.candidates import fit_data, make_sample
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.testing.example_model import example_schema
from mlops_ray.training.candidates import GradientBoosting, LightGBM, LinearRegression, NeuralNetwork
from mlops_ray.training.encoded_rows import EncodedRows
from mlops_ray.training.exported import exported
from mlops_ray.training.search import search
from mlops_ray.training.side_by_side import SideBySide, steps_of
from mlops_ray.use_case import Candidate, Feature, FitBlocks, FitData, FittedModel, Label, Parameters, Search
from tests.unit.test_governor import USE_CASE
from tests.unit.test_simulation import CASE, CHANGE, FEATURES, WORLD

LEVELS = (0.1, 0.5, 0.9)
SETTINGS = Settings(state="/nowhere", data="/nowhere")
TASK = Regression("minutes", quantiles=LEVELS)
TREES = {"learning_rate": 0.1, "iterations": 80}
ALL = pytest.mark.parametrize(
    ("candidate", "parameters"),
    [
        (LinearRegression(), {"l2": 1e-6, "iterations": 200}),
        (GradientBoosting(), TREES | {"max_leaf_nodes": 8, "min_samples_leaf": 30, "l2_regularization": 0.1}),
        (LightGBM(), TREES | {"num_leaves": 8, "min_data_in_leaf": 30, "feature_fraction": 1.0, "lambda_l2": 0.1}),
        pytest.param(
            NeuralNetwork(),
            {"learning_rate": 0.02, "width": 64, "dropout": 0.0, "weight_decay": 1e-5, "epochs": 60},
            marks=pytest.mark.torch,
        ),
    ],
    ids=lambda one: getattr(one, "name", ""),
)


def spread(rows: int, seed: int) -> FitData:
    """Labels whose spread, not their middle, goes with a feature, in the sample's columns."""
    sample, random = make_sample(Regression("minutes"), rows), np.random.default_rng(seed)
    hour = sample.frame["hour"].to_numpy()
    labels = 5 + (1 + hour) * random.normal(size=rows)
    return replace(fit_data(sample), label=labels, task=TASK)


def fitted(candidate: Candidate, parameters: Parameters, data: FitData) -> FittedModel:
    ((fraction, model),) = steps_of(data, candidate.name, lambda one: candidate.fit(one, parameters))
    assert fraction == 1.0
    return model


@ALL
def test_each_candidate_finds_the_quantiles_of_what_depends_on_a_feature(
    candidate: Candidate, parameters: Parameters
) -> None:
    data = spread(8_000, 1)
    answers = fitted(candidate, parameters, data).predict(data.matrix)
    assert answers.shape == (8_000, 4)
    assert (np.diff(answers[:, 1:], axis=1) >= 0).all()
    newer = spread(8_000, 2).label  # the same rows, other chance
    below = (newer[:, None] <= answers[:, 1:]).mean(axis=0)
    assert below == pytest.approx(LEVELS, abs=0.04)
    hour = make_sample(Regression("minutes"), 8_000).frame["hour"].to_numpy()
    for level, found, truth in ((0.1, answers[:, 1], -1.2816), (0.9, answers[:, 3], 1.2816)):
        wanted = 5 + truth * (1 + hour)
        assert np.corrcoef(found, wanted)[0, 1] > 0.9, level
        alike = mean_pinball_loss(newer, np.full(8_000, np.quantile(data.label, level)), alpha=level)
        best = mean_pinball_loss(newer, wanted, alpha=level)
        assert mean_pinball_loss(newer, found, alpha=level) < best + 0.3 * (alike - best)


@ALL
def test_the_onnx_file_answers_as_the_models_do_in_order_also_where_they_cross(
    candidate: Candidate, parameters: Parameters
) -> None:
    model = fitted(candidate, parameters, spread(2_000, 1))
    assert isinstance(model, SideBySide)
    number, low, middle, high = model.models
    crossing = SideBySide((number, high, low, middle), TASK.output)
    matrix = spread(2_000, 3).matrix
    for one in (model, crossing):
        session = onnxruntime.InferenceSession(exported(one, TASK.output).SerializeToString())
        answered, expected = session.run(None, {"matrix": matrix})[0], one.predict(matrix)
        assert answered.dtype == np.float32
        assert TASK.apart(answered, expected).max() < 1e-5
        assert (np.diff(answered[:, 1:], axis=1) >= 0).all()
    assert np.array_equal(crossing.predict(matrix), model.predict(matrix))
    assert session.run(None, {"matrix": matrix[:0]})[0].shape == (0, 4)


def test_from_blocks_they_are_those_of_the_matrix_and_no_fit_goes_on_from_what_another_left() -> None:
    light, places = LightGBM(), list[str]()
    parameters = TREES | {"num_leaves": 8, "min_data_in_leaf": 30, "feature_fraction": 1.0, "lambda_l2": 0.1}
    data, sample = spread(4_000, 1), make_sample(Regression("minutes"), 4_000)
    rows = Rows(tuple(Held(sample.frame[at : at + 900]) for at in range(0, 4_000, 900)))
    about = data.label, data.features, TASK, data.seed, data.threads
    blocks = FitBlocks(EncodedRows(sample.encoder, rows), *about, checkpoints="kept")

    def fit(one: FitBlocks) -> Iterator[tuple[float, FittedModel]]:
        places.append(one.checkpoints)
        yield from light.fit_blocks(one, parameters)

    ((_, model),) = steps_of(blocks, light.name, fit)
    assert np.array_equal(model.predict(data.matrix), fitted(light, parameters, data).predict(data.matrix))
    assert places == ["kept/0", "kept/1", "kept/2", "kept/3"]


@dataclass(frozen=True)
class Middle:
    """A candidate of a user who thinks of the middle alone, or of what it is asked for; slow, if it is to be."""

    heeds: bool = True
    seconds: float = 0.0
    name: str = "middle"
    space: dict[str, Any] = field(default_factory=dict)
    ends: list[float | None] = field(default_factory=list, compare=False)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        time.sleep(self.seconds)
        self.ends.append(None if data.ends_at is None else data.ends_at - time.monotonic())
        level = getattr(data.task, "level", None) if self.heeds else None
        yield 1.0, _Constant(float(np.mean(data.label) if level is None else np.quantile(data.label, level)))


@dataclass(frozen=True)
class _Constant:
    value: float

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return np.full(len(matrix), self.value)

    def to_onnx(self) -> bytes:
        raise NotImplementedError


def test_a_candidate_that_does_not_ask_which_quantile_is_named() -> None:
    data = spread(500, 1)
    with pytest.raises(UseCaseError, match=r"Candidate middle answers the same for the quantiles 0\.1 and 0\.5.*level"):
        fitted(Middle(heeds=False), {}, data)
    assert fitted(Middle(), {}, data).predict(data.matrix[:1])[0, 1:] == pytest.approx(np.quantile(data.label, LEVELS))
    nearly_all_zero = replace(data, label=np.where(np.arange(500) < 480, 0.0, data.label))
    fitted(Middle(), {}, nearly_all_zero)


def test_the_time_that_there_is_is_shared_by_all_fits() -> None:
    slow = Middle(seconds=0.1)
    model = fitted(slow, {}, replace(spread(500, 1), ends_at=time.monotonic() + 40))
    assert slow.ends == pytest.approx([9.9, 13.2, 19.8, 39.6], abs=1)
    assert isinstance(model, SideBySide)
    assert not model.is_cut_short
    late = fitted(slow, {}, replace(spread(500, 1), ends_at=time.monotonic()))
    assert isinstance(late, SideBySide)
    assert late.is_cut_short


def test_trials_fit_what_they_are_compared_by() -> None:
    assert TASK.searched_by("mean_absolute_error") == Regression("minutes")
    assert TASK.searched_by("pinball_loss") == TASK
    assert [task.level for task in TASK.fitted_as] == [None, *LEVELS]
    assert replace(TASK, estimand="median").fitted_as[0].level == 0.5


@pytest.mark.parametrize(("metric", "searches_again"), [("mean_absolute_error", False), ("pinball_loss", True)])
def test_a_search_is_given_what_its_trials_fit_and_is_another_one_by_that_alone(
    metric: str, searches_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = TrainingSet("url", "digest", 3, CHANGE, "snapshot", None, ())

    def inputs(task: Regression) -> TrainInputs:
        case = replace(USE_CASE, label=Label("late", pl.lit(1.0), pl.col("time"), task=task), metric=metric)
        results: dict[StepName, Any] = {"training_set": rows.to_json()}
        return train_inputs(Given(case, SETTINGS, None, {}, lambda: None, results))

    three, one = inputs(TASK), inputs(Regression("minutes", quantiles=(0.5,)))
    assert (fingerprint(three) != fingerprint(one)) == searches_again
    assert three.use_case.label.task == TASK.searched_by(metric)
    # What the step is given is only a part of the use case, of which nothing can be replaced.
    monkeypatch.setattr("mlops_ray.training.search.open_search", lambda *_: pytest.fail("begun", pytrace=False))
    with pytest.raises(pytest.fail.Exception, match="begun"):
        search(three.use_case, SETTINGS, rows, "key")


def an_answer(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, answers, and days."""
    random = np.random.default_rng(5)
    middle = random.uniform(0, 50, rows)
    answer = np.column_stack([middle, middle - 8, middle + 1, middle + 12])
    return middle + random.normal(0, 10, rows), answer, np.arange(rows) * 30 // rows


def test_the_pinball_loss_is_that_of_scikit_learn_and_other_metrics_are_of_the_number() -> None:
    labels, answer, day = an_answer(3_000)
    block, one = np.zeros(3_000, dtype=np.intp), np.ones((1, 1))
    found = TASK.values(TASK.metrics, labels, answer, block, one)
    by_level = [mean_pinball_loss(labels, answer[:, at], alpha=level) for at, level in enumerate(LEVELS, start=1)]
    assert found["pinball_loss"][0] == pytest.approx(np.mean(by_level))
    alone = Regression("minutes")
    for name, value in alone.values(alone.metrics, labels, answer[:, 0], block, one).items():
        assert found[name] == pytest.approx(value)
    assert metric_named("pinball_loss").lower_is_better
    assert set(TASK.measured(labels, answer, day)) == set(TASK.metrics)
    said = TASK.decisions(labels, answer, day)
    below = {str(level): float((labels <= answer[:, at]).mean()) for at, level in enumerate(LEVELS, start=1)}
    assert said == {"below": below}
    assert f"{below['0.9']:.1%}".replace("%", " %") + " below that of 0.9" in TASK.decisions_described(said)
    assert TASK.wrong(answer) is TASK.wrong(answer[:0]) is Regression().wrong(answer[:0, 0]) is None
    assert "no finite number for 1 of 3000" in str(TASK.wrong(np.where(answer == answer[7, 3], np.nan, answer)))


def test_a_baseline_has_the_quantiles_of_the_labels_of_its_group() -> None:
    random = np.random.default_rng(2)
    hour = random.integers(0, 3, 6_000).astype(float)
    labels = (1 + 10 * hour) * random.normal(size=6_000)
    seen = pl.DataFrame({"hour": hour, LABEL: labels})
    found = baseline(TASK, seen, pl.DataFrame({"hour": [0.0, 2.0, 9.0]}), ["hour"], "pinball_loss")
    for row, of_group in zip(found, (labels[hour == 0], labels[hour == 2], labels), strict=True):
        assert row == pytest.approx([of_group.mean(), *np.quantile(of_group, LEVELS)])


def test_a_champion_without_these_quantiles_is_compared_by_the_number_alone() -> None:
    labels, answer, day = an_answer(3_000)
    for theirs in (Regression("minutes"), Regression("minutes", quantiles=(0.1, 0.8))):
        judged = TASK.like(theirs)
        assert judged is not None
        given = answer[:, 0] if not theirs.quantiles else answer[:, :3]
        found = compare((TASK, judged), labels, answer, given, day, "mean_absolute_error")
        assert found.difference.value == 0
        with pytest.raises(DataError, match="The champion has no pinball_loss"):
            compare((TASK, judged), labels, answer, given, day, "pinball_loss")
    assert TASK.like(TASK) == TASK


def test_each_quantile_is_a_column_of_files_and_frames_part_of_one_tensor_and_a_place_in_the_ledger() -> None:
    task = Regression("minutes", quantiles=(0.1, 0.9))
    answer = np.array([[1.5, -0.5, 9.5]], dtype=np.float32)
    row = task.rows(answer)[0]
    assert row == {"prediction": 1.5, "quantiles": {"0.1": -0.5, "0.9": 9.5}}
    assert _answer_names(task) == ["prediction", "quantiles", "prediction", "quantiles.0.1", "quantiles.0.9"]
    content = {"model": "m", "version": "1", "request_id": "r", "as_of": datetime.now(UTC).isoformat()}
    frame = with_answers(pl.DataFrame({"key": ["a"]}), [answer_of({**content, "predictions": [row]})])
    assert frame.select("prediction", "quantiles.0.1", "quantiles.0.9").row(0) == (1.5, -0.5, 9.5)
    with pytest.raises(DataError, match=r"'quantiles\.0\.1', which an answer adds"):
        rows_of(frame.select("key", "quantiles.0.1"), ["key"], "m")
    outputs = metadata(replace(example_schema(), task=task), "m", "1")["outputs"]
    assert {"name": "quantiles", "datatype": "FP32", "shape": [-1, 2], "parameters": {"of": ["0.1", "0.9"]}} in outputs
    assert task.row_schema["quantiles"]["required"] == ["0.1", "0.9"]
    kept = pl.DataFrame(answer_columns(answer, task))
    assert answer_in(kept, task).tolist() == answer.tolist()
    assert [one.to_list() for one in watched_columns(answer_in(kept, task), task)] == [[1.5]]


def test_where_versions_answer_with_other_quantiles_a_frame_has_a_column_for_each() -> None:
    content = {"model": "m", "request_id": "r", "as_of": datetime.now(UTC).isoformat()}
    plain, parted = {"prediction": 1.5}, {"prediction": 2.5, "quantiles": {"0.9": 9.5}}
    answers = [
        answer_of({**content, "version": version, "predictions": [row]})
        for version, row in (("1", plain), ("2", parted))
    ]
    assert with_answers(pl.DataFrame({"key": ["a", "b"]}), answers)["quantiles.0.9"].to_list() == [None, 9.5]


def test_charts_and_traces_say_which_numbers_are_quantiles() -> None:
    rows, day = pl.DataFrame({"hour": np.arange(40.0)}), np.arange(40) // 4

    def ask(asked: pl.DataFrame) -> Any:
        hours: np.ndarray = asked["hour"].to_numpy()
        return hours[:, None] + np.array([0.0, -8.0, 1.0, 12.0])

    found = partial_dependence(TASK, ask, rows, day, [Feature("hour", "number")], 0)
    (part,) = feature_parts({"dependence": {name: one.to_json() for name, one in found.items()}})
    assert part.head[1::2] == ["prediction", "quantile 0.1", "quantile 0.5", "quantile 0.9"]
    given = {"time": datetime.now(UTC), "route": "champion", "prediction": [1.5], "quantiles": [[-0.5, 9.5]]}
    lineage = example_lineage("m", "d" * 64)
    traced = Trace("r", "m", 1, given, {}, (), (), (), "e" * 64, lineage)
    assert "prediction 1.5000 (-0.5000, 9.5000) at" in trace_text(traced)


def test_a_model_with_other_quantiles_than_are_declared_here_is_not_taken_in() -> None:
    schema = example_schema()
    label = Label("late", pl.lit(1.0), pl.col("time"), task=TASK)
    case = replace(USE_CASE, label=label, metric="pinball_loss")
    for there in (Regression("minutes"), Regression("minutes", quantiles=(0.1, 0.9))):
        other = {name: (sealed, here) for name, sealed, here in _differences(replace(schema, task=there), case)}
        assert other["the parts of an answer"] == (dict(there.output_parts), {"quantiles": ("0.1", "0.5", "0.9")})
    assert "the parts of an answer" not in [name for name, *_ in _differences(replace(schema, task=TASK), case)]


def test_what_a_label_does_not_say_of_quantiles_is_not_in_its_record() -> None:
    def said(task: Any) -> str:
        return json.dumps(_label(Label("x", pl.col("x"), pl.col("t"), task=task)))

    assert '"unit"' in said(Regression("minutes"))
    assert '"quantiles"' not in said(Regression("minutes"))
    assert '"quantiles"' in said(TASK)
    assert '"decision"' not in said(MultiClass(("a", "b", "c")))
    gains = {name: {other: float(other == name) for other in "abc"} for name in "abc"}
    assert '"decision"' in said(MultiClass(("a", "b", "c"), decision=GainTable(gains)))


def test_a_backtest_chooses_by_the_number_alone_as_a_search_does() -> None:
    asked = list[float | None]()

    class Counted(LinearRegression):
        def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, Any]]:
            asked.append(getattr(data.task, "level", None))
            yield from super().fit(data, parameters)

    numbers = WORLD.with_columns(pl.col("x").alias(LABEL))
    label = Label("late", pl.lit(1.0), pl.col("time"), task=TASK)
    one = Search(trials_per_candidate=1)
    case = replace(CASE, label=label, candidates=(Counted(),), search=one, gates=(), metric="pinball_loss")
    for metric, levels in (("mean_absolute_error", [None]), ("pinball_loss", [None, *LEVELS])):
        asked.clear()
        choose(numbers, replace(case, metric=metric), FEATURES, CHANGE)
        assert asked == levels


BAD: list[tuple[Any, str]] = [
    ([0.1, 0.9], "Give a tuple of shares"),
    (0.5, "Give a tuple of shares"),
    ((0.9, 0.1), "the lowest first"),
    ((0.5, 0.5), "each once"),
    ((0.0, 0.5), r"one of quantiles is 0\.0"),
    ((0.5, 1), "one of quantiles is 1"),
    ((10, 90), "one of quantiles is 10"),
    (("0.5",), r"one of quantiles is '0\.5'"),
    ((True,), "one of quantiles is True"),
    ((float("nan"),), "one of quantiles is nan"),
]


@pytest.mark.parametrize(("quantiles", "said"), BAD)
def test_what_are_no_quantiles_is_refused(quantiles: Any, said: str) -> None:
    with pytest.raises(UseCaseError, match=said):
        Regression(quantiles=quantiles)
