"""Learning what is normal: every statistic on every window of the reference period, and the thresholds that follow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.calibration import Calibration, Null, Promise, calibrate, moving_families
from mlops_ray.monitoring.churn import Churn, learn_churn
from mlops_ray.monitoring.coverage import Rung, rungs
from mlops_ray.monitoring.detectors import Detector, NewCategories
from mlops_ray.monitoring.detectors.contract import ManyWindows
from mlops_ray.monitoring.label_fit import LabelFit
from mlops_ray.monitoring.null_windows import NullWindows, null_windows, seasonal_sums
from mlops_ray.monitoring.reliability import CONCEPT_STATISTICS, Reliability, statistics_of
from mlops_ray.monitoring.seasons import Season, cell_counts, with_cell_counts
from mlops_ray.monitoring.sketches import NumericSketch, Sketch
from mlops_ray.monitoring.slices import ALL_ROWS, MINIMUM_SLICE_ROWS, slice_rows
from mlops_ray.use_case import FeatureKind
from mlops_ray.use_case.window_spec import WindowSpec

# A change of fewer rows than this is noise, however constant the column was.
_HANDFUL = 5


@dataclass(frozen=True)
class Column:
    """A column of the reference. cell: of each row (see `seasons.cell_counts`). declared: its categories are.

    churn: of its values, where they are replaced by new ones. is_segment: see `input_segments`.
    """

    name: str
    sketch: Sketch
    cell: NDArray[np.int64]
    season: Season | None = None
    declared: bool = False
    churn: Churn = field(default_factory=Churn)
    is_segment: bool = False

    @property
    def cells(self) -> int:
        return len(cell_counts(self.sketch))

    @property
    def kind(self) -> FeatureKind:
        return "number" if isinstance(self.sketch, NumericSketch) else "category"


@dataclass(frozen=True)
class Learned:
    """What one coverage shows: its windows, and each statistic on them."""

    rung: Rung
    windows: NullWindows
    nulls: tuple[Null, ...]

    def calibration(self, spec: WindowSpec, promise: Promise) -> Calibration:
        windows = self.windows
        coverage = self.rung.coverage
        return calibrate(self.nulls, spec.name, coverage, windows.independent, windows.overlap, promise)


def calibrations(learned: Sequence[Learned], spec: WindowSpec, promise: Promise) -> tuple[Calibration, ...]:
    return tuple(one.calibration(spec, promise) for one in learned)


def families_of(learned: Sequence[Learned]) -> int:
    return max((moving_families(one.nulls) for one in learned), default=0)


def covering(moment: NDArray[np.datetime64], spec: WindowSpec) -> Iterator[tuple[Rung, NullWindows]]:
    """Each coverage that windows of `spec` may have, and such windows of the rows at `moment`, sorted."""
    if not len(moment):
        return
    for rung in rungs(spec, len(moment), _with_traffic(moment)):
        yield rung, null_windows(moment, rung.spec, rung.one_in)


def _with_traffic(moment: NDArray[np.datetime64]) -> timedelta:
    """How long there was traffic: a reference may be of several stretches, with days between of which it has no row."""
    span = timedelta(microseconds=int((moment[-1] - moment[0]).astype(np.int64)))
    return min(span, timedelta(days=len(np.unique(moment.astype("datetime64[D]")))))


def column_nulls(
    windows: NullWindows, columns: Sequence[Column], detectors: Sequence[Detector], moment: NDArray[np.datetime64]
) -> list[Null]:
    """Every statistic of every column on every window."""
    return [null for column in columns for null in _nulls_of(windows, column, detectors, moment)]


def _nulls_of(
    windows: NullWindows, column: Column, detectors: Sequence[Detector], moment: NDArray[np.datetime64]
) -> Iterator[Null]:
    """Of one column. Where its values are replaced by new ones, the shares of single ones mean nothing. What is missing
    of a segment is mostly outside it."""
    sketch = column.sketch
    wanted = [detector for detector in detectors if column.kind in detector.kinds]
    wanted = [detector for detector in wanted if detector.family == "values" or not column.is_segment]
    fitting = [
        one for one in wanted
        if not isinstance(one, NewCategories) and not (one.family == "values" and column.churn.replaces)
    ]  # fmt: skip
    counts, rest = windows.counts(column.cell, column.cells)
    if column.season and len(counts):
        of_seasons = seasonal_sums(windows, column.cell, column.cells, moment, column.season)
        compared = (
            cell_counts(seasonal.expected(with_cell_counts(sketch, one), times))
            for one, (times, seasonal) in zip(rest, of_seasons, strict=True)
        )
        rest = np.array(list(compared))
    usual = float(np.median(counts.sum(axis=1))) if len(counts) else 1.0
    for detector in fitting:
        values = _statistics(detector, sketch, rest, counts)
        yield Null(column.name, detector.name, detector.family, _floor(detector, sketch, usual), values)
    for detector in wanted:
        if isinstance(detector, NewCategories):
            _, excess = learn_churn(windows, column.cell, column.cells, column.declared)
            yield Null(column.name, detector.name, detector.family, _floor(detector, sketch, usual), excess)


def _statistics(
    detector: Detector, sketch: Sketch, reference: NDArray[Any], windows: NDArray[Any]
) -> NDArray[np.float64]:
    if isinstance(detector, ManyWindows) and len(windows):
        return detector.statistics(reference, windows)
    pairs = zip(reference, windows, strict=True)
    both = (tuple(with_cell_counts(sketch, counts) for counts in pair) for pair in pairs)
    return np.array([detector.statistic(old, new) for old, new in both], dtype=np.float64)


def _floor(detector: Detector, reference: Sketch, rows: float) -> float:
    """What a handful of `rows` can make of the statistic, moved from the fullest cells to the emptiest, or missing."""
    if not reference.rows:
        return _HANDFUL / rows
    counts = cell_counts(reference) * (rows / reference.rows)
    fullest_first, emptiest = np.argsort(-counts, kind="stable"), int(np.argmin(counts[:-1]))
    taken = np.diff(np.minimum(np.cumsum(counts[fullest_first]), _HANDFUL), prepend=0.0)
    made = [_HANDFUL / rows * 1e-3]
    for target in (emptiest, len(counts) - 1):
        moved = counts.copy()
        moved[fullest_first] -= taken
        moved[target] += taken.sum()
        made.append(detector.statistic(reference, with_cell_counts(reference, moved)))
    return max(value for value in made if value == value)


def concept_nulls(
    windows: NullWindows,
    labelled: pl.DataFrame,
    slices: Sequence[str],
    reliability: Mapping[str, Reliability],
    fit: LabelFit,
) -> list[Null]:
    """How far labels of windows are from the answers, of all rows and of each slice that always has enough."""
    found, sums = [], fit.sums(labelled)
    for name, row in slice_rows(labelled, slices).items():
        pairs = _reliability_pairs(windows, sums, row, reliability[name].edges)
        if name != ALL_ROWS and min((window.rows.sum() for _, window in pairs), default=inf) < MINIMUM_SLICE_ROWS:
            continue
        for statistic in statistics_of(reliability[name]):
            concept = CONCEPT_STATISTICS[statistic]
            values = np.array([concept.distance(rest, window) for rest, window in pairs], dtype=np.float64)
            found.append(Null(name, statistic, "concept", concept.floor, values))
    return found


def _reliability_pairs(
    windows: NullWindows, sums: Mapping[str, NDArray[np.float64]], row: NDArray[np.bool_], edges: NDArray[np.float64]
) -> list[tuple[Reliability, Reliability]]:
    """Of the rows of a slice: the reference without each window, and the window. sums: see `LabelFit.sums`."""
    bins, weights = len(edges) + 1, {"rows": None, **sums}
    cell = np.where(row, np.searchsorted(edges, sums["predicted"]), bins)
    found = zip(*(windows.sums(cell, bins + 1, weight) for weight in weights.values()), strict=True)
    pairs = (
        [
            Reliability(
                edges, **{name: part[side][:-1].astype(np.float64) for name, part in zip(weights, parts, strict=True)}
            )
            for side in (1, 0)
        ]
        for parts in found
    )
    return [(rest, window) for rest, window in pairs]
