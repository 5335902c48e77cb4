"""Rows that do not fit in memory are read a block at a time, and are the same rows in the same order."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.features import blocks
from mlops_ray.features.blocks import Rows, stored_rows
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.parts import Part
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.regression import Regression
from mlops_ray.training.encoded_rows import EncodedRows, labels_of
from mlops_ray.training.encoding import fit_encoder, fit_encoder_to
from mlops_ray.use_case import Feature

START, GB = datetime(2013, 1, 1, tzinfo=UTC), 1 << 30
FEATURES = (Feature("x", "number"), Feature("city", "category"))
ROWS = 1_000


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SLICE_ROWS", 130)
    monkeypatch.setattr(blocks, "_FEWEST_ROWS", 50)


def frame(label: pl.Series | None = None) -> pl.DataFrame:
    """Not in the order of time; the label of each fifth row is known late."""
    random = np.random.default_rng(2)
    moment = pl.Series(
        [START + timedelta(hours=int(hour)) for hour in random.permutation(ROWS)], dtype=pl.Datetime("us", "UTC")
    )
    known_after = pl.Series([timedelta(days=30 if n % 5 == 0 else 0, minutes=1) for n in range(ROWS)])
    columns = {
        PREDICTION_TIME: moment,
        "x": random.normal(size=ROWS),
        "city": [None if n % 31 == 0 else f"city {n % 7}" for n in range(ROWS)],
        LABEL: label if label is not None else pl.Series(random.random(ROWS) < 0.3),
        LABEL_KNOWN_AT: moment + known_after,
    }
    return pl.DataFrame(columns)


def written(folder: Path, rows: pl.DataFrame, parts: int) -> TrainingSet:
    artifacts, made = Artifacts(str(folder)), list[Part]()
    for number in range(parts):
        since, before = (START + timedelta(hours=ROWS * one // parts) for one in (number, number + 1))
        own = rows.filter(pl.col(PREDICTION_TIME).is_between(since, before, closed="left"))
        url = artifacts.write_table(own, "set", f"part-{number:05}.parquet")
        made.append(Part(url, own.height, own[PREDICTION_TIME].min(), own[PREDICTION_TIME].max()))  # type: ignore[arg-type]
    as_of = START + timedelta(hours=2 * ROWS)
    divided = tuple(made) if parts > 1 else ()
    url = artifacts.url("set") if divided else made[0].url
    return TrainingSet(url, "d", ROWS, as_of, "s", None, FEATURES, parts=divided)


@pytest.mark.parametrize("parts", [1, 4])
def test_blocks_are_the_rows_of_a_stretch_in_the_order_of_time(tmp_path: Path, parts: int) -> None:
    rows = frame()
    since, before = START + timedelta(hours=100), START + timedelta(hours=900)
    found = stored_rows(written(tmp_path, rows, parts), since, before, before, GB)
    inside = pl.col(PREDICTION_TIME).is_between(since, before, closed="left") & (pl.col(LABEL_KNOWN_AT) <= before)
    wanted = rows.filter(inside).sort(PREDICTION_TIME)
    assert found.whole().equals(wanted)
    assert len(found) == wanted.height
    assert len(found.blocks) >= 6
    assert max(block.rows for block in found.blocks) < 200
    for piece in (slice(0, 7), slice(95, 411), slice(None, -20), slice(-20, None), slice(5, 5)):
        cut = found[piece]
        assert len(cut) == wanted[piece].height
        assert not len(cut) or cut.whole().equals(wanted[piece])
    assert cut.blocks == ()


def test_an_encoder_and_the_matrix_are_the_same_from_blocks(tmp_path: Path) -> None:
    rows = frame().sort(PREDICTION_TIME)
    found = stored_rows(written(tmp_path, rows, 4), None, None, None, GB)
    encoder = fit_encoder_to(found, FEATURES)
    assert encoder == fit_encoder(rows, FEATURES)
    encoded = EncodedRows(encoder, found)
    assert np.array_equal(encoded.matrix(), encoder.encode(rows), equal_nan=True)
    assert sum(encoded.sizes) == ROWS == len(encoded)
    assert np.array_equal(labels_of(found, BINARY), rows[LABEL].to_numpy())


def test_what_is_learned_of_wide_categories_is_the_same_from_blocks_and_of_any_stretch(tmp_path: Path) -> None:
    rows = frame().sort(PREDICTION_TIME)
    found = stored_rows(written(tmp_path, rows, 4), None, None, None, GB)
    encoder = fit_encoder_to(found, FEATURES).with_level_tables(found.whole, BINARY, 3)
    whole = fit_encoder(rows, FEATURES, BINARY, 3)
    learned = whole.encode_fitted(rows, BINARY)
    assert list(encoder.levels) == ["city"]
    assert np.array_equal(encoder.encode(rows), whole.encode(rows), equal_nan=True)
    assert not np.array_equal(learned, whole.encode(rows), equal_nan=True), "Rows to learn from know less."
    encoded = EncodedRows(encoder, found, encoder.of_fitted(found.whole, BINARY))
    assert np.array_equal(encoded.matrix(), learned, equal_nan=True)
    for start, stop in ((0, 1), (129, 131), (250, 777), (999, 1_000)):
        assert np.array_equal(encoded[start:stop].matrix(), learned[start:stop], equal_nan=True)
        assert np.array_equal(encoded[start:][: stop - start].matrix(), learned[start:stop], equal_nan=True)


def test_a_sample_is_the_same_however_rows_are_divided(tmp_path: Path) -> None:
    rows = frame().sort(PREDICTION_TIME)
    found = [stored_rows(written(tmp_path / str(n), rows, n), None, None, None, GB).some(300, 7) for n in (1, 4)]
    assert found[0].equals(found[1])
    assert found[0].equals(Rows.of(rows).some(300, 7))
    assert 220 < found[0].height < 380
    assert Rows.of(rows).some(None, 7).equals(rows)


def test_a_file_that_vanishes_before_or_while_it_is_read_is_named(tmp_path: Path) -> None:
    divided = written(tmp_path, frame(), 4)
    found = stored_rows(divided, None, None, None, GB)
    Path(divided.parts[2].url).unlink()
    with pytest.raises(DataError, match=r"part-00002\.parquet cannot be read: .* Put it back, or run"):
        found.whole()
    with pytest.raises(DataError, match=r"part-00002\.parquet is gone .* Put it back, or run"):
        stored_rows(divided, None, None, None, GB)


def test_a_file_that_became_another_is_no_part_of_the_same_fit(tmp_path: Path) -> None:
    rows = frame()
    divided = written(tmp_path, rows, 4)
    found = stored_rows(divided, None, None, None, GB)
    written(tmp_path, rows.filter(pl.col("x") > 0), 4)
    with pytest.raises(DataError, match=r"part-00000\.parquet has \d+ rows .* had \d+ when the fit began"):
        found.whole()


def test_a_stretch_without_a_row_is_refused(tmp_path: Path) -> None:
    divided, later = written(tmp_path, frame(), 4), START + timedelta(hours=ROWS + 1)
    with pytest.raises(DataError, match="has no row from 2013-02-11 17:00:00"):
        stored_rows(divided, later, None, None, GB)
    with pytest.raises(DataError, match="has no row from its beginning to its end with a label known then"):
        stored_rows(divided, None, None, START - timedelta(days=1), GB)


def test_memory_too_small_for_a_batch_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"400 MB of memory are not enough for one batch .* at least 537 MB"):
        stored_rows(written(tmp_path, frame(), 1), None, None, None, 400_000_000)


def test_more_rows_of_one_moment_than_memory_holds_are_refused(tmp_path: Path) -> None:
    at_once = frame().with_columns(pl.lit(START, pl.Datetime("us", "UTC")).alias(PREDICTION_TIME))
    with pytest.raises(ConfigurationError, match=r"1,000 rows of .* enough for 130 rows at a time"):
        stored_rows(written(tmp_path, at_once, 1), None, None, None, GB)


def test_labels_that_are_no_number_are_told_with_their_time(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).normal(size=ROWS)
    rows = frame(pl.Series(labels)).sort(PREDICTION_TIME)
    rows = rows.with_columns(pl.when(pl.int_range(pl.len()) == 700).then(float("nan")).otherwise(LABEL).alias(LABEL))
    found = stored_rows(written(tmp_path, rows, 4), None, None, None, GB)
    with pytest.raises(
        DataError, match=r"Of the rows from 2013-01-\d\d .* to .*: 1 of \d+ labels are no finite number"
    ):
        labels_of(found, Regression())
