"""Time divides the training set, and a label counts only once it was known."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops_ray import Label, Split
from mlops_ray.errors import DataError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, read_split, split_by_time
from mlops_ray.pipeline.periods import SOME_ROWS, periods_of
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.regression import Regression
from tests.small_flights import use_case

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


def durations() -> pl.DataFrame:
    """Of things that last three days in the middle, one in a hundred more than a month, and are known when they end."""
    random, days = np.random.default_rng(4), 200
    begun, asked = np.sort(random.uniform(0, days, 40_000)), random.normal(size=40_000)
    lasted = np.exp(np.log(3) + 0.3 * asked + random.normal(size=40_000))
    start = pl.lit(AS_OF - timedelta(days=days))
    frame = pl.DataFrame({"answer": 3 * np.exp(0.3 * asked), LABEL: lasted, "begun": begun})
    moment = start + pl.duration(microseconds=(pl.col("begun") * 86_400e6).cast(pl.Int64))
    known = moment + pl.duration(microseconds=(pl.col(LABEL) * 86_400e6).cast(pl.Int64))
    return frame.select("answer", LABEL, moment.alias(PREDICTION_TIME), known.alias(LABEL_KNOWN_AT))


@pytest.mark.parametrize("said_rows", [40_000, 10**9], ids=["whole", "blocks"])
@pytest.mark.parametrize("gap", [0, 5, 20, 50])
def test_labels_that_come_the_later_the_larger_they_are_leave_an_interval_its_coverage(
    tmp_path: Path, gap: int, said_rows: int
) -> None:
    split = Split(test=timedelta(days=30), gap=timedelta(days=gap), validation=timedelta(days=70))
    frame, file = durations(), tmp_path / "set.parquet"
    frame.filter(pl.col(LABEL_KNOWN_AT) <= AS_OF).write_parquet(file, row_group_size=2_000)
    training_set = TrainingSet(str(file), "d", said_rows, AS_OF, "s", None, ())
    task = Regression("days", "median", coverage=0.8)
    label = Label("delay", pl.col("arr_delay"), use_case.label.known_at, task=task)
    case = replace(use_case, split=split, label=label, gates=(), metric="mean_absolute_error")
    periods = periods_of(case, training_set, 8 << 30)
    assert periods.looked_at == (SOME_ROWS if said_rows > len(frame) else None)
    validation = periods.validation.whole()
    found = task.decided(validation[LABEL].to_numpy(), validation["answer"].to_numpy(), 70)
    if len(periods.gap):
        rows = periods.gap.whole()
        found = found.renewed(rows[LABEL].to_numpy(), rows["answer"].to_numpy())
    assert bool(len(periods.gap)) == (gap == 50)
    test = frame.filter(pl.col(PREDICTION_TIME) >= AS_OF - split.test)
    labels, answer = (test[one].to_numpy() for one in (LABEL, "answer"))
    one_block = np.zeros(len(labels), dtype=np.intp), np.ones((1, 1))
    assert found.values({"coverage"}, labels, answer, *one_block)["coverage"][0] == pytest.approx(0.8, abs=0.02)


def test_a_delay_that_all_labels_have_takes_no_row_away(tmp_path: Path) -> None:
    frame, file = rows(timedelta(hours=5)), tmp_path / "set.parquet"
    frame.write_parquet(file)
    training_set = TrainingSet(str(file), "d", frame.height, AS_OF, "s", None, ())
    periods = periods_of(replace(use_case, split=SPLIT, gates=()), training_set, 8 << 30)
    parts = split_by_time(frame, AS_OF, SPLIT, BINARY)
    assert periods.validation.whole().equals(parts.validation)
    assert len(periods.gap) == 2 * 24 - 4
