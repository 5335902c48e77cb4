"""Better, not worse and worse are three words: simulated challengers whose true difference is known."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from mlops_ray.evaluation.comparison import compare, unseen, verdict
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.estimate import Estimate

DAYS, PER_DAY, WORLDS = 28, 40, 120


def verdicts(better_by: float, margin: float) -> Counter[str]:
    """Of challengers that see the truth with so much less noise than a champion whose noise has deviation 1."""
    random, found = np.random.default_rng(5), Counter[str]()
    day = np.repeat(np.arange(DAYS), PER_DAY)
    for _ in range(WORLDS):
        signal = random.normal(size=DAYS * PER_DAY)
        label = signal + random.normal(size=signal.size) > 0
        ours, theirs = (signal + noise * random.normal(size=signal.size) for noise in (1 - better_by, 1.0))
        found[verdict(compare((BINARY, BINARY), label, ours, theirs, day, "roc_auc").difference, margin)] += 1
    return found


@pytest.mark.parametrize("margin", [-0.06, 0.0])
def test_of_two_equal_models_hardly_one_is_called_better_whatever_the_margin(margin: float) -> None:
    found = verdicts(0.0, margin)
    # 2.5 % of 120 are 3; with that chance more than 8 are seen in less than one of a hundred such tests.
    assert found["better"] <= 8
    assert found["worse"] <= 8
    assert (found["not worse"] > WORLDS * 0.8) == (margin < 0), "enough rows show that it is within the margin"


def test_a_model_that_is_better_or_worse_is_called_so() -> None:
    assert verdicts(0.45, -0.05)["better"] > WORLDS * 0.9
    assert verdicts(-0.9, -0.005)["worse"] > WORLDS * 0.9


@pytest.mark.parametrize(
    ("low", "high", "margin", "word"),
    [
        (0.001, 0.02, -0.005, "better"),
        (0.001, 0.02, 0.005, "not worse"),
        (-0.004, 0.02, -0.005, "not worse"),
        (-0.004, 0.02, 0.0, "undecided"),
        (-0.02, -0.001, -0.005, "worse"),
        (-0.004, -0.001, -0.005, "not worse"),
        (0.0, 0.02, 0.0, "undecided"),
        (None, None, -0.005, "undecided"),
    ],
)
def test_each_interval_has_one_word(low: float | None, high: float | None, margin: float, word: str) -> None:
    assert verdict(Estimate(0.0, low, high), margin) == word


def test_models_are_compared_only_on_rows_after_the_training_of_both() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = pl.DataFrame({PREDICTION_TIME: [start + timedelta(days=day) for day in range(10)]})
    ours, theirs = start + timedelta(days=3), start + timedelta(days=6)
    assert unseen(rows, ours, theirs)[PREDICTION_TIME].min() == theirs
    assert unseen(rows, theirs, ours).height == 4
