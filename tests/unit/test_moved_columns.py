"""The test that says whether what alarmed on flights has moved: calm columns pass it, moved ones do not."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

DAYS, PER_DAY = 210, 40


@pytest.fixture(scope="module")
def moved() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield import_module("drift.moved").moved


def rows_of(seed: int, shift: float = 0.0) -> tuple[pl.DataFrame, pl.Series]:
    """Days that resemble the day before; from day 140 on everything is `shift` higher."""
    random = np.random.default_rng(seed)
    means = np.zeros(DAYS)
    for day in range(1, DAYS):
        means[day] = 0.5 * means[day - 1] + random.normal(0, 0.15)
    day = np.repeat(np.arange(DAYS), PER_DAY)
    values = np.round(means[day] + shift * (day >= 140) + random.normal(size=len(day)), 2)
    time = pl.Series("time", [datetime(2025, 1, 1) + timedelta(days=int(one)) for one in day])
    gaps = pl.when(pl.int_range(len(day)) % 50 != 0).then(pl.Series(values))
    return pl.DataFrame([time]).with_columns(value=gaps), pl.Series(day >= 140)


def test_days_that_only_resemble_each_other_have_not_moved(moved: Any) -> None:
    chances = [moved(*_given(seed, 0.0), ways=200).chance for seed in range(40)]
    assert np.mean(np.array(chances) < 0.05) < 0.2, "1 in 20 is to be expected, and rows alone would say all"
    assert np.mean(np.array(chances) < 0.01) < 0.1


def test_a_small_shift_that_lasts_has_moved(moved: Any) -> None:
    found = moved(*_given(1, 0.3), ways=200)
    assert found.distance > found.largest
    assert found.chance < 0.01


def _given(seed: int, shift: float) -> tuple[pl.DataFrame, str, str, pl.Series]:
    rows, later = rows_of(seed, shift)
    return rows, "time", "value", later
