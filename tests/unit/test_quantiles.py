"""Quantiles of a number: so many labels are below each, by rows that the model has not seen, and they never cross."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_pinball_loss

from mlops_ray.batch.scoring import _answer_names
from mlops_ray.client import Answer
from mlops_ray.client.predictions import answer_of
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.evaluation.comparison import compare
from mlops_ray.sdk.rows import with_answers
from mlops_ray.serving.inference_protocol import metadata
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.stored import metric_named, task_from_json, task_to_json
from mlops_ray.testing.example_model import example_schema

LEVELS = (0.05, 0.25, 0.5, 0.9)


def all_of(task: Regression, answer: np.ndarray) -> np.ndarray:
    return np.asarray(task.columns(answer.astype(np.float32))["quantiles"])


def test_over_many_draws_so_many_new_labels_are_below_each_quantile() -> None:
    random, below = np.random.default_rng(3), []
    for _ in range(400):
        labels = random.exponential(20, 599)
        answer = labels - random.exponential(10, 599)
        found = Regression(quantiles=LEVELS).decided(labels[:99], answer[:99], 1)
        below.append((labels[99:, None] <= all_of(found, answer[99:])).mean(axis=0))
    assert np.mean(below, axis=0) == pytest.approx(LEVELS, abs=0.012)


def test_the_pinball_loss_is_that_of_scikit_learn_and_of_equal_answers_the_empirical_quantile_has_the_least() -> None:
    random = np.random.default_rng(5)
    labels, constant = random.lognormal(2, 1, 4_000), np.full(4_000, 7.0)
    found = Regression("EUR", quantiles=LEVELS).decided(labels, constant, 10)
    block, one = np.zeros(4_000, dtype=np.intp), np.ones((1, 1))
    value = float(found.values({"pinball_loss"}, labels, constant, block, one)["pinball_loss"][0])
    quantiles = all_of(found, constant).astype(float)
    by_level = [mean_pinball_loss(labels, quantiles[:, at], alpha=level) for at, level in enumerate(LEVELS)]
    assert value == pytest.approx(np.mean(by_level), rel=1e-6)
    best = [mean_pinball_loss(labels, np.full(4_000, np.quantile(labels, one)), alpha=one) for one in LEVELS]
    assert by_level == pytest.approx(best, rel=1e-3)
    assert metric_named("pinball_loss").lower_is_better
    assert np.isnan(Regression(quantiles=LEVELS).values({"pinball_loss"}, labels, constant, block, one)["pinball_loss"])
    said = found.decisions(labels, constant, block)
    assert said["below"] == pytest.approx(dict(zip(map(str, LEVELS), LEVELS, strict=True)), abs=1e-3)
    assert found.decisions_described(said).startswith("Of the labels are below or at the answer's: 5.0 % of")


@given(
    seed=st.integers(0, 10**6),
    levels=st.sets(st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.7, 0.95]), min_size=1),
    coverage=st.sampled_from([None, 0.5, 0.9]),
    zeros=st.sampled_from([0.0, 0.6]),
)
@settings(max_examples=60, deadline=None)
def test_they_never_cross_also_after_newer_rows_moved_them(
    seed: int, levels: set[float], coverage: float | None, zeros: float
) -> None:
    """Bands differ in shape and width, and what moves them is found of other rows."""
    random, task = np.random.default_rng(seed), Regression(coverage=coverage, quantiles=tuple(sorted(levels)))
    answer = random.uniform(0, 10, 3_000)
    skewed = np.where(answer > 5, random.exponential(2, 3_000), -random.exponential(4, 3_000) * answer)
    labels = np.where(random.random(3_000) < zeros, 0.0, answer + skewed)
    found = task.decided(labels, answer, 7)
    newer = found.renewed(np.where(random.random(3_000) < zeros, 0.0, answer - 2 * skewed), answer)
    for one in (found, newer):
        quantiles = all_of(one, answer)
        assert (np.diff(quantiles, axis=1) >= 0).all()
        rows = one.rows(answer[:5].astype(np.float32))
        assert [list(row["quantiles"].values()) for row in rows] == quantiles[:5].tolist()
        assert ("low" in rows[0]) == (coverage is not None)
        assert task_from_json(json.loads(json.dumps(task_to_json(one)))) == one


def test_after_newer_rows_so_many_of_them_are_below_and_each_band_keeps_its_shape() -> None:
    """Of small answers the errors are skewed down, of large ones up; the newer rows are twice as spread."""
    random = np.random.default_rng(11)
    answer = random.uniform(0, 10, 20_000)
    noise = np.where(answer > 5, 1, -1) * random.exponential(3, 20_000)
    found = Regression(quantiles=(0.1, 0.9)).decided(answer + noise, answer, 7)
    newer = found.renewed(answer + 2 * noise, answer)
    below = (answer + 2 * noise)[:, None] <= all_of(newer, answer)
    assert below.mean(axis=0) == pytest.approx([0.1, 0.9], abs=0.005)
    assert found.renewed((answer + noise)[:100], answer[:100]) == found, "A hundred rows say too little."


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


def test_too_few_rows_for_an_extreme_quantile_are_refused_with_how_many_it_takes() -> None:
    task = Regression(quantiles=(0.5, 0.99))
    with pytest.raises(DataError, match=r"98 rows .* too few for quantiles 0\.5, 0\.99 \(at least 99 are needed\)"):
        task.decided(np.arange(98.0), np.zeros(98), 1)
    assert task.decided(np.arange(99.0), np.zeros(99), 1).margins is not None
    both = replace(task, coverage=0.999)
    with pytest.raises(DataError, match=r"an interval with 99\.9 % of the labels and quantiles .*at least 1999"):
        both.decided(np.arange(99.0), np.zeros(99), 1)


def test_a_champion_without_these_quantiles_is_compared_by_what_it_has() -> None:
    random = np.random.default_rng(1)
    labels, day = random.normal(0, 1, 2_000), np.repeat(np.arange(20), 100)
    ours = Regression(quantiles=(0.1, 0.9)).decided(labels, labels * 0.5, 20)
    theirs = ours.like(Regression(coverage=0.8).decided(labels, labels * 0.4, 20))
    assert theirs is not None
    found = compare((ours, theirs), labels, labels * 0.5, labels * 0.4, day, "mean_absolute_error")
    assert found.difference.value > 0
    with pytest.raises(DataError, match="The champion has no pinball_loss"):
        compare((ours, theirs), labels, labels * 0.5, labels * 0.4, day, "pinball_loss")
    assert ours.like(ours) == ours


def test_each_quantile_is_a_column_of_files_and_frames_and_part_of_one_tensor() -> None:
    task = Regression("minutes", quantiles=(0.1, 0.9), margins=(-3.0, 3.0, -2.0, 8.0))
    row = task.rows(np.array([1.5], dtype=np.float32))[0]
    assert row == {"prediction": 1.5, "quantiles": {"0.1": -0.5, "0.9": 9.5}}
    assert _answer_names(task) == ["prediction", "quantiles", "prediction", "quantiles.0.1", "quantiles.0.9"]
    content = {"model": "m", "version": "1", "request_id": "r", "as_of": datetime.now(UTC).isoformat()}
    answer: Answer = answer_of({**content, "predictions": [row]})
    frame = with_answers(pl.DataFrame({"key": ["a"]}), [answer])
    assert frame.select("prediction", "quantiles.0.1", "quantiles.0.9").row(0) == (1.5, -0.5, 9.5)
    outputs = metadata(replace(example_schema(), task=task), "m", "1")["outputs"]
    assert {"name": "quantiles", "datatype": "FP32", "shape": [-1, 2], "parameters": {"of": ["0.1", "0.9"]}} in outputs
    schema = task.row_schema["quantiles"]
    assert schema["required"] == ["0.1", "0.9"]
