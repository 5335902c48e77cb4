"""What is normal for the domain classifier: samples of the reference's windows against samples of its other rows."""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.calibration import Null
from mlops_ray.monitoring.detectors.domain_classifier import SAMPLE_ROWS, DomainClassifier
from mlops_ray.monitoring.null_windows import NullWindows
from mlops_ray.monitoring.row_sample import matrix
from mlops_ray.monitoring.sketches import Sketch

ALL_FEATURES = "all features"
JOINT = "joint"
# Learning takes a tenth of a second a window, and overlapping windows only repeat the same rows.
_MOST_WINDOWS = 100
_SEED = 0


def reference_sample(rows: pl.DataFrame, columns: Mapping[str, Sketch]) -> NDArray[np.float32]:
    """Rows of the reference to seal with the model, chosen at random, [at most 1,000, columns]."""
    return matrix(_some(rows, np.arange(len(rows)), np.random.default_rng(_SEED)), columns)


def joint_null(rows: pl.DataFrame, columns: Mapping[str, Sketch], windows: NullWindows) -> Null:
    """The statistic on some of the windows of `rows`, which are sorted by time; NaN on those between."""
    random, detector = np.random.default_rng(_SEED), DomainClassifier()
    starts = np.searchsorted(windows.step, np.arange(windows.steps + 1))
    values = np.full(len(windows.pairs), np.nan)
    every = max(-(-windows.overlap // 2), -(-len(values) // _MOST_WINDOWS))
    for at in range(0, len(values), every):
        pair = windows.pairs[at]
        inside = np.arange(starts[pair.first], starts[pair.last])
        low, high = (starts[step] for step in pair.without)
        outside = np.r_[0:low, high : len(rows)]
        old, new = (matrix(_some(rows, places, random), columns) for places in (outside, inside))
        values[at] = detector.statistic(old, new)
    return Null(ALL_FEATURES, detector.name, JOINT, 1 / SAMPLE_ROWS, values)


def _some(rows: pl.DataFrame, places: NDArray[np.intp], random: np.random.Generator) -> pl.DataFrame:
    chosen = random.choice(places, min(len(places), SAMPLE_ROWS), replace=False)
    return rows[np.sort(chosen)]
