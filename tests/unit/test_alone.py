"""One feature by itself: 0.5 for what says nothing, near 1 for the outcome, either way round and as a category."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from mlops_ray.evaluation.alone import roc_auc_alone
from mlops_ray.tasks.binary import BINARY
from mlops_ray.use_case import Feature

ROWS = 3_000
RANDOM = np.random.default_rng(3)


def frame() -> pl.DataFrame:
    label = RANDOM.random(ROWS) < 0.3
    delay = 20.0 * label + RANDOM.normal(0, 10, ROWS)
    return pl.DataFrame(
        {
            "label": label,
            "noise": RANDOM.normal(size=ROWS),
            "delay": delay,
            "early": -delay,
            "partly": [value if number % 2 else None for number, value in enumerate(delay)],
            "nothing": pl.Series([None] * ROWS, dtype=pl.Float64),
            "status": np.where(label, "late", "on time"),
            "id": [f"{number}" for number in range(ROWS)],
            "place": RANDOM.choice(["a", "b", "c"], ROWS),
        }
    )


NUMBERS, TEXTS = ("noise", "delay", "early", "partly", "nothing"), ("status", "id", "place")
FEATURES = [Feature(name, "number") for name in NUMBERS] + [Feature(name, "category") for name in TEXTS]


def test_each_feature_ranks_as_it_does_alone() -> None:
    seen, rows = frame(), frame()
    found = roc_auc_alone(BINARY, seen, rows, FEATURES, "label", seed=0)
    label = rows["label"].to_numpy()
    assert found["delay"] == pytest.approx(roc_auc_score(label, rows["delay"].to_numpy()))
    assert found["early"] == pytest.approx(found["delay"])
    assert 0.5 < found["partly"] < found["delay"]
    assert found["nothing"] == 0.5
    assert found["status"] == 1.0
    for name in ("noise", "id", "place"):  # an id that was seen with its label says nothing of other rows
        assert found[name] == pytest.approx(0.5, abs=0.04)


def test_a_category_never_seen_before_counts_as_average() -> None:
    seen, rows = frame(), frame().with_columns(status=pl.lit("diverted"), place=pl.lit(None, pl.String))
    found = roc_auc_alone(BINARY, seen, rows, FEATURES, "label", seed=0)
    assert (found["status"], found["place"]) == (0.5, 0.5)


def test_of_a_rare_label_every_row_counts() -> None:
    label = np.arange(100_000) % 2_000 == 0  # fifty of them
    rows = pl.DataFrame({"label": label, "delay": 3.0 * label + RANDOM.normal(size=len(label))})
    found = roc_auc_alone(BINARY, rows, rows, [Feature("delay", "number")], "label", seed=0)
    assert found["delay"] == pytest.approx(roc_auc_score(label, rows["delay"].to_numpy()), abs=0.01)
