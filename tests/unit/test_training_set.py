"""Time divides the training set, and a label counts only once it was known."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from mlops_ray import Split
from mlops_ray.errors import DataError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, read_split, split_by_time
from mlops_ray.tasks.binary import BINARY

AS_OF = datetime(2020, 1, 31, tzinfo=UTC)
SPLIT = Split(test=timedelta(days=5), gap=timedelta(days=2), validation=timedelta(days=5))


def rows(label_delay: timedelta) -> pl.DataFrame:
    moments = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(30 * 24)]
    return pl.DataFrame(
        {
            PREDICTION_TIME: moments,
            LABEL: [hour % 2 == 0 for hour in range(len(moments))],
            LABEL_KNOWN_AT: [moment + label_delay for moment in moments],
        }
    )


def test_the_parts_follow_each_other_with_the_gap_between() -> None:
    parts = split_by_time(rows(timedelta(0)), AS_OF, SPLIT, BINARY)
    assert parts.train[PREDICTION_TIME].max() < parts.validation[PREDICTION_TIME].min()
    assert parts.test[PREDICTION_TIME].min() - parts.validation[PREDICTION_TIME].max() > SPLIT.gap
    assert parts.test[PREDICTION_TIME].max() < AS_OF


def test_a_label_known_after_its_part_ended_is_left_out() -> None:
    delay = timedelta(days=1)
    parts = split_by_time(rows(delay), AS_OF, SPLIT, BINARY)
    for part in (parts.train, parts.validation, parts.test):
        assert (part[LABEL_KNOWN_AT].max() - part[PREDICTION_TIME].max()) == delay
    assert parts.train[LABEL_KNOWN_AT].max() <= AS_OF - SPLIT.test - SPLIT.gap - SPLIT.validation


def test_an_empty_part_is_named() -> None:
    with pytest.raises(DataError, match="The train period of the split has 0 rows"):
        split_by_time(rows(timedelta(0)), datetime(2020, 1, 10, tzinfo=UTC), SPLIT, BINARY)


def test_a_sample_that_misses_a_rare_label_is_not_taken_for_the_data(tmp_path: Path) -> None:
    frame = rows(timedelta(0)).with_columns(pl.int_range(pl.len()).is_in([10, 440, 700]).alias(LABEL))
    frame.write_parquet(file := tmp_path / "set.parquet")
    training_set, names = TrainingSet(str(file), "d", frame.height, AS_OF, "s", None, ()), ("train", "validation")
    assert read_split(training_set, SPLIT, BINARY, names)["train"][LABEL].sum() == 1
    said = r"a sample of the 432 rows of the train period: \d+ rows with 1 .*Search\(rows=...\) more than 20"
    with pytest.raises(DataError, match=said):
        read_split(training_set, SPLIT, BINARY, names, rows=20)
    for name, moment in (("train", 10), ("validation", 440), ("test", 700)):
        frame.with_columns(pl.col(LABEL) & (pl.int_range(pl.len()) != moment)).write_parquet(file)
        with pytest.raises(DataError, match=f"The {name} period of the split has .* Give more data"):
            read_split(training_set, SPLIT, BINARY, names, rows=20)
