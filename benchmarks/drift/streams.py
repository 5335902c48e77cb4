"""Streams whose truth is known: normal features, the mean of each moving a little from day to day."""

import numpy as np
import polars as pl

from mlops_ray.use_case import Feature

COLUMNS = 20
PER_DAY = 1000
FEATURES = [Feature(f"x{i}", "number") for i in range(COLUMNS)]
_PERSISTENCE = 0.5


def variance_of_mean(days: int) -> float:
    """Of the mean of so many daily means, where one has variance 1."""
    lags = range(1, days)
    return (1 + 2 * sum((1 - lag / days) * _PERSISTENCE**lag for lag in lags)) / days


def stream(days: int, day_deviation: float, seed: int) -> pl.DataFrame:
    """`days` * 1,000 rows of 20 features of deviation 1; daily means are autoregressive with this deviation."""
    random = np.random.default_rng(seed)
    means = np.zeros((days, COLUMNS))
    for day in range(1, days):
        pushed = random.normal(0, day_deviation * np.sqrt(1 - _PERSISTENCE**2), COLUMNS)
        means[day] = _PERSISTENCE * means[day - 1] + pushed
    values = random.standard_normal((days, PER_DAY, COLUMNS), dtype=np.float32) + means[:, None, :].astype(np.float32)
    micros = np.arange(days * PER_DAY) * (86_400_000_000 // PER_DAY)
    times = pl.Series("time", np.datetime64("2020-01-01", "us") + micros.astype("timedelta64[us]"))
    return pl.DataFrame(values.reshape(-1, COLUMNS), schema=[f.name for f in FEATURES]).with_columns(times)
