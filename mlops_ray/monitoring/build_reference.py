"""Building a reference from the rows a model was made from: what they look like, and how much their windows differ."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.monitoring.calibration import Calibration, Null, calibrate
from mlops_ray.monitoring.detectors import DETECTORS, Detector, MissingRate, NewCategories
from mlops_ray.monitoring.error_stream import calm_limit, excess_errors
from mlops_ray.monitoring.joint_windows import joint_null, reference_sample
from mlops_ray.monitoring.null_windows import NullWindows, cells_of, null_windows, seasonal_sums
from mlops_ray.monitoring.performance_estimation import Estimator, fit_estimator
from mlops_ray.monitoring.reference import PREDICTION, Monitored, Reference, to_datetime
from mlops_ray.monitoring.reliability import CONCEPT_STATISTICS, Reliability, reliability_edges
from mlops_ray.monitoring.seasons import LENGTHS, Season, Seasonal, cell_counts, season_of, with_cell_counts
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch, edges_of
from mlops_ray.monitoring.slices import ALL_ROWS, MINIMUM_SLICE_ROWS, slice_rows
from mlops_ray.use_case import CategoryDetector, ErrorDetector, Feature, NumberDetector
from mlops_ray.use_case.window_spec import WindowSpec

# A change of fewer rows than this is noise, however constant the column was.
_HANDFUL = 5


def build_reference(
    rows: pl.DataFrame,
    time: str,
    features: Sequence[Feature],
    windows: Sequence[WindowSpec],
    scored: pl.DataFrame | None = None,
    slices: Sequence[str] = (),
    detectors: Sequence[Detector] | None = None,
    seasonal: Mapping[str, Season] | None = None,
    false_alarm_every: int = 100,
    domain_classifier: bool = False,
    error_detectors: Sequence[ErrorDetector] = (),
) -> Reference:
    """Learn the reference from `rows`, which have a column for each feature and their moment (UTC) in `time`.

    scored: rows that were held out of training, with `time`, "probability", "label" (boolean, null where not known)
    and the columns of `slices`. Answers to training rows are better than any later ones, so they must not be among
    them. false_alarm_every: at most one false alarm in so many windows is wanted, for features, prediction and concept
    each. seasonal: features that are compared with the same time of a season. domain_classifier: compare all features
    together as well. error_detectors: what follows the errors of `scored` as a stream.

    Raises DataError if there are no rows or if a column is missing.
    """
    _require(rows, [time, *(feature.name for feature in features)])
    rows, detectors = rows.sort(time, maintain_order=True), detectors or chosen_detectors()
    moment = _moments(rows, time)
    columns: dict[str, Sketch] = {feature.name: _sketch(rows[feature.name], feature) for feature in features}
    inputs = dict(columns)
    cells = {name: cells_of(rows[name], sketch) for name, sketch in columns.items()}
    seasons = dict(seasonal or {})
    parts: dict[str, Any] = {"sample": reference_sample(rows, inputs)} if domain_classifier else {}
    if scored is not None:
        _require(scored, [time, "probability", "label", *slices])
        scored = scored.sort(time, maintain_order=True)
        columns[PREDICTION] = _prediction_sketch(scored["probability"])
        labelled = scored.drop_nulls(["label", "probability"])
        parts["reliability"] = _reliability(labelled, slices)
        if len(labelled):
            parts["estimator"] = _estimator(labelled, time, columns[PREDICTION], windows[0])
            errors = excess_errors(labelled, parts["reliability"][ALL_ROWS])
            parts["error_limits"] = {name: calm_limit(name, errors) for name in error_detectors}
    monitored = {}
    for spec in windows:
        nulls = null_windows(moment, spec)
        found = _nulls(nulls, inputs, cells, detectors, seasons, moment)
        if domain_classifier and len(nulls.pairs):
            found.append(joint_null(rows, inputs, nulls))
        others: list[Calibration | None] = [None, None]
        if scored is not None:
            others = [
                _calibrate_prediction(scored, time, spec, columns[PREDICTION], detectors, false_alarm_every),
                _calibrate_concept(
                    labelled, time, spec, slices, parts["reliability"], false_alarm_every, len(error_detectors)
                ),
            ]
        monitored[spec.name] = Monitored(spec, _calibrate(found, nulls, spec, false_alarm_every), *others)
    by_season = {
        name: Seasonal(season, _by_season(cells[name], len(cell_counts(columns[name])), moment, season))
        for name, season in seasons.items()
    }
    return Reference(
        to_datetime(moment[0]), to_datetime(moment[-1]), len(rows), columns, monitored, seasonal=by_season, **parts
    )


def chosen_detectors(
    number: NumberDetector = "kolmogorov_smirnov", category: CategoryDetector = "jensen_shannon"
) -> tuple[Detector, ...]:
    """One detector for the values of numbers and one for categories, and those for gaps.

    Several that see the same change would only raise each other's threshold.
    """
    by_name = {detector.name: detector for detector in DETECTORS}
    by_kind = {"number": by_name[number], "category": by_name[category]}
    found = [replace(detector, kinds=frozenset({kind})) for kind, detector in by_kind.items()]  # type: ignore[type-var]
    return (*found, MissingRate(), NewCategories())


def _require(rows: pl.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in rows.columns]
    if missing or not len(rows):
        raise DataError(
            f"The {len(rows)} rows for the drift reference lack {', '.join(missing) or 'everything'}. Build them with "
            f"the features of the model and their moments."
        )


def _moments(rows: pl.DataFrame, time: str) -> NDArray[np.datetime64]:
    """Microseconds of UTC. A time without zone counts as UTC."""
    micros = rows[time].cast(pl.Datetime("us")).to_physical().to_numpy()
    return micros.astype("datetime64[us]")


def _sketch(values: pl.Series, feature: Feature) -> Sketch:
    if feature.kind == "category":
        if not feature.categories:
            return CategoricalSketch.of(values)
        known = CategoricalSketch.with_categories(feature.categories)
        known.update(values)
        return known
    return NumericSketch.of(values.cast(pl.Float64).to_numpy())


def _prediction_sketch(probability: pl.Series) -> Sketch:
    """With an edge at 0.5, so that answers above and below it can be told apart."""
    values = probability.cast(pl.Float64).to_numpy()
    sketch = NumericSketch.with_edges(np.union1d(edges_of(values), np.float32(0.5)))
    sketch.update(values)
    return sketch


def _nulls(
    windows: NullWindows,
    columns: Mapping[str, Sketch],
    cells: Mapping[str, NDArray[np.int64]],
    detectors: Sequence[Detector],
    seasons: Mapping[str, Season],
    moment: NDArray[np.datetime64],
) -> list[Null]:
    """Every statistic of every column of `cells` on every window."""
    found = []
    for name, cell in cells.items():
        sketch = columns[name]
        kind = "number" if isinstance(sketch, NumericSketch) else "category"
        fitting = [detector for detector in detectors if kind in detector.kinds]
        values: list[list[float]] = [[] for _ in fitting]
        size = len(cell_counts(sketch))
        by_season = iter(seasonal_sums(windows, cell, size, moment, seasons[name])) if name in seasons else None
        rows = []
        for counts, rest in windows.sums(cell, size):
            window, reference = with_cell_counts(sketch, counts), with_cell_counts(sketch, rest)
            if by_season is not None:
                times, seasonal = next(by_season)
                reference = seasonal.expected(reference, times)
            rows.append(window.rows)
            for detector, into in zip(fitting, values, strict=True):
                into.append(detector.statistic(reference, window))
        usual = float(np.median(rows)) if rows else 1.0
        found += [
            Null(name, detector.name, detector.family, _floor(detector, sketch, usual), np.array(into))
            for detector, into in zip(fitting, values, strict=True)
        ]
    return found


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


def _calibrate(
    found: Sequence[Null], windows: NullWindows, spec: WindowSpec, wanted: int, besides: int = 0
) -> Calibration:
    return calibrate(found, spec.name, windows.independent, windows.overlap, wanted, besides)


def _calibrate_prediction(
    scored: pl.DataFrame, time: str, spec: WindowSpec, sketch: Sketch, detectors: Sequence[Detector], wanted: int
) -> Calibration:
    moment = _moments(scored, time)
    windows = null_windows(moment, spec)
    cells = {PREDICTION: cells_of(scored["probability"], sketch)}
    kept = [detector for detector in detectors if detector.family == "values"]
    return _calibrate(_nulls(windows, {PREDICTION: sketch}, cells, kept, {}, moment), windows, spec, wanted)


def _reliability(labelled: pl.DataFrame, slices: Sequence[str]) -> dict[str, Reliability]:
    """Of all rows, and of each slice, all with the same edges."""
    guess, label = labelled["probability"].to_numpy(), labelled["label"].to_numpy()
    edges = reliability_edges(guess)
    return {name: Reliability.of(guess[row], label[row], edges) for name, row in slice_rows(labelled, slices).items()}


def _calibrate_concept(
    labelled: pl.DataFrame,
    time: str,
    spec: WindowSpec,
    slices: Sequence[str],
    reliability: Mapping[str, Reliability],
    wanted: int,
    besides: int,
) -> Calibration:
    windows = null_windows(_moments(labelled, time), spec)
    found = []
    for name, row in slice_rows(labelled, slices).items():
        pairs = _reliability_pairs(windows, labelled, row, reliability[name].edges)
        if name != ALL_ROWS and any(window.rows.sum() < MINIMUM_SLICE_ROWS for _, window in pairs):
            continue
        for statistic, concept in CONCEPT_STATISTICS.items():
            values = np.array([concept.distance(rest, window) for rest, window in pairs], dtype=np.float64)
            found.append(Null(name, statistic, "concept", concept.floor, values))
    return _calibrate(found, windows, spec, wanted, besides)


def _reliability_pairs(
    windows: NullWindows, labelled: pl.DataFrame, row: NDArray[np.bool_], edges: NDArray[np.float64]
) -> list[tuple[Reliability, Reliability]]:
    """Of the rows of a slice: the reference without each window, and the window."""
    guess = labelled["probability"].cast(pl.Float64).to_numpy()
    label = labelled["label"].cast(pl.Float64).to_numpy()
    bins = len(edges) + 1
    cell = np.where(row, np.searchsorted(edges, guess), bins)
    sums = zip(*(windows.sums(cell, bins + 1, weight) for weight in (None, guess, label)), strict=True)
    pairs = (
        [Reliability(edges, *(part[side][:-1].astype(np.float64) for part in three)) for side in (1, 0)]
        for three in sums
    )
    return [(rest, window) for rest, window in pairs]


def _estimator(labelled: pl.DataFrame, time: str, sketch: Sketch, spec: WindowSpec) -> Estimator:
    assert isinstance(sketch, NumericSketch)
    windows = null_windows(_moments(labelled, time), spec)
    cell, bins = cells_of(labelled["probability"], sketch), len(sketch.counts)
    label = labelled["label"].cast(pl.Float64).to_numpy()
    both = [
        [counts[:bins].astype(float) for counts, _ in windows.sums(cell, bins + 1, weight)]
        for weight in (label, 1 - label)
    ]
    apart = list(zip(*both, strict=True))[:: windows.overlap]
    ups, downs = (np.bincount(cell, weight, bins).astype(np.float64) for weight in (label, 1 - label))
    return fit_estimator(sketch.edges.astype(np.float64), apart, ups, downs)


def _by_season(
    cell: NDArray[np.int64], cells: int, moment: NDArray[np.datetime64], season: Season
) -> NDArray[np.int64]:
    times = LENGTHS[season]
    return np.bincount(season_of(moment, season) * cells + cell, minlength=times * cells).reshape(times, cells)
