"""Building a reference from the rows a model was made from: what they look like, and how much their windows differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.monitoring.answers import EXPECTED, PREDICTION, answer_in, is_ranked, watched_columns
from mlops_ray.monitoring.calibration import Promise
from mlops_ray.monitoring.churn import Churn, learn_churn
from mlops_ray.monitoring.cycles import cycle_of
from mlops_ray.monitoring.detectors import Detector, JensenShannon, KolmogorovSmirnov, MissingRate, NewCategories
from mlops_ray.monitoring.error_estimation import ErrorEstimator, fit_errors
from mlops_ray.monitoring.error_stream import CalmErrors, calm_limits
from mlops_ray.monitoring.error_tree import ErrorTree
from mlops_ray.monitoring.input_segments import segmented
from mlops_ray.monitoring.joint_windows import joint_null, reference_sample
from mlops_ray.monitoring.label_fit import LabelFit, label_fit
from mlops_ray.monitoring.learn_normal import (
    Column,
    Learned,
    calibrations,
    column_nulls,
    concept_nulls,
    covering,
    families_of,
)
from mlops_ray.monitoring.null_windows import cells_of, null_windows
from mlops_ray.monitoring.performance_estimation import Estimator, fit_estimator
from mlops_ray.monitoring.reference import Monitored, Reference, to_datetime
from mlops_ray.monitoring.reliability import Reliability
from mlops_ray.monitoring.seasons import LENGTHS, Season, Seasonal, season_of
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch, edges_of
from mlops_ray.monitoring.slices import ALL_ROWS, slice_rows
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import ErrorDetector, Feature
from mlops_ray.use_case.window_spec import WindowSpec

_KOLMOGOROV_SMIRNOV, _JENSEN_SHANNON = KolmogorovSmirnov(), JensenShannon()


def build_reference(
    rows: pl.DataFrame,
    time: str,
    features: Sequence[Feature],
    windows: Sequence[WindowSpec],
    scored: pl.DataFrame | None = None,
    slices: Sequence[str] = (),
    detectors: Sequence[Detector] | None = None,
    seasonal: Mapping[str, Season] | None = None,
    false_alarm_days: float = 30,
    domain_classifier: bool = False,
    error_detectors: Sequence[ErrorDetector] = (),
    segments: Mapping[str, Sequence[str]] | None = None,
    task: Task = BINARY,
    tree: ErrorTree | None = None,
) -> Reference:
    """Learn the reference from `rows`, which have a column for each feature and their moment (UTC) in `time`.

    scored: rows that were held out of training, with `time`, the answer in the ledger's columns of `task`, "label"
    (null where not known), the columns of `slices`, and what `foretell` adds, with its `tree`. Answers to training rows
    are better than any later ones, so they must not be among them. false_alarm_days: at most one false alarm in so many
    days is wanted, over all questions, features and kinds of windows. seasonal: features that are compared with the
    same time of a season; in others a daily and a weekly cycle is found. domain_classifier: compare all features
    together as well. error_detectors: what follows the errors of `scored` as a stream. segments: by category the
    features that are compared for each of its values as well.

    Raises DataError if there are no rows or if a column is missing.
    """
    _require(rows, [time, *(feature.name for feature in features)])
    rows = rows.sort(time, maintain_order=True)
    moment = _moments(rows, time)
    columns = [_column(rows[feature.name], feature) for feature in features]
    numbers = {
        column.name: rows[column.name].cast(pl.Float64).to_numpy() for column in columns if column.kind == "number"
    }
    wanted = Wanted(
        tuple(windows), tuple(slices), tuple(detectors or chosen_detectors()), seasonal or {}, false_alarm_days,
        tuple(error_detectors), segments or {},
    )  # fmt: skip
    if scored is not None:
        _require(scored, [time, *task.ledger_types, "label", *([] if is_ranked(task) else [EXPECTED]), *slices])
    past, answers = Past(moment, columns, numbers), Scored(scored, task, tree)
    return learn(past, answers, time, wanted, rows if domain_classifier else None)


@dataclass(frozen=True)
class Past:
    """Rows in order of `moment` [rows], by the cells of their columns. numbers: of each column of numbers its values,
    or what stands for them, [rows]; sums by season are taken of them."""

    moment: NDArray[np.datetime64]
    columns: Sequence[Column]
    numbers: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Wanted:
    """How predictions are to be watched; see `build_reference`."""

    windows: tuple[WindowSpec, ...]
    slices: tuple[str, ...]
    detectors: tuple[Detector, ...]
    seasonal: Mapping[str, Season]
    false_alarm_days: float
    error_detectors: tuple[ErrorDetector, ...]
    segments: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Rows that were held out of training, None for none; the kind of their labels; and see `foretell`."""

    rows: pl.DataFrame | None
    task: Task = BINARY
    tree: ErrorTree | None = None


def learn(past: Past, scored: Scored, time: str, wanted: Wanted, joint: pl.DataFrame | None = None) -> Reference:
    """The reference that follows from the past. joint: its rows with their values, for the domain classifier."""
    windows, moment = wanted.windows, past.moment
    parts_of_it = segmented(past.columns, past.numbers, wanted.segments)
    numbers = {**past.numbers, **parts_of_it.numbers}
    columns = [
        _with_habits(column, moment, windows[0], wanted.seasonal.get(column.name))
        for column in (*past.columns, *parts_of_it.columns)
    ]
    sketches: dict[str, Sketch] = {column.name: column.sketch for column in columns}
    data = {spec.name: _learn_data(moment, spec, columns, wanted.detectors, joint) for spec in windows}
    parts: dict[str, Any] = {"segments": parts_of_it.segments, "task": scored.task}
    if joint is not None:
        parts["sample"] = reference_sample(joint, {column.name: column.sketch for column in past.columns})
    parts["seasonal"] = {
        column.name: _by_season(column, moment, column.season, numbers.get(column.name))
        for column in columns
        if column.season
    }
    parts["churn"] = {column.name: column.churn for column in columns if column.churn.expected(1) > 0}
    shares = sum(map(families_of, data.values())) + (
        2 * len(windows) + len(wanted.error_detectors) if scored.rows is not None else 0
    )
    promise = Promise(wanted.false_alarm_days, max(1, shares))
    monitored = {spec.name: Monitored(spec, calibrations(data[spec.name], spec, promise)) for spec in windows}
    if scored.rows is not None:
        answers = _Answers(scored.rows.sort(time, maintain_order=True), time, scored.task, scored.tree, wanted.slices)
        sketches |= answers.sketches
        estimator = answers.estimator(windows[0])
        fit = label_fit(scored.task, estimator)
        reliability = answers.reliability(fit)
        monitored = {
            name: answers.judged(one, wanted.detectors, promise, fit, reliability) for name, one in monitored.items()
        }
        errors = answers.errors(wanted.error_detectors, promise, fit, reliability[ALL_ROWS])
        parts |= {"reliability": reliability, "estimator": estimator, "errors": errors}
    return Reference(to_datetime(moment[0]), to_datetime(moment[-1]), len(moment), sketches, monitored, **parts)


@dataclass(frozen=True)
class _Answers:
    """Rows that were held out of training, by time, with what the model answered."""

    scored: pl.DataFrame
    time: str
    task: Task
    tree: ErrorTree | None
    slices: Sequence[str]

    @cached_property
    def watched(self) -> list[pl.Series]:
        return watched_columns(answer_in(self.scored, self.task), self.task)

    @cached_property
    def sketches(self) -> dict[str, Sketch]:
        found: dict[str, Sketch] = {one.name: _answer_sketch(one, self.task.threshold) for one in self.watched}
        if EXPECTED in self.scored.columns:
            found[EXPECTED] = NumericSketch.of(self.scored[EXPECTED].to_numpy())
        return found

    @cached_property
    def labelled(self) -> pl.DataFrame:
        return LabelFit(self.task).labelled(self.scored)

    def estimator(self, spec: WindowSpec) -> Estimator | ErrorEstimator | None:
        if not len(self.labelled):
            return None
        if is_ranked(self.task):
            return _estimator(self.labelled, self.time, self.sketches[PREDICTION], spec)
        sketch, windows = self.sketches[EXPECTED], null_windows(_moments(self.labelled, self.time), spec)
        assert isinstance(sketch, NumericSketch)
        return fit_errors(self.labelled, sketch, windows, self.task, self.tree)

    def reliability(self, fit: LabelFit) -> dict[str, Reliability]:
        """Of all rows, and of each slice, all with the same edges."""
        edges, sums = fit.edges(self.labelled), fit.sums(self.labelled)
        parts = slice_rows(self.labelled, self.slices).items()
        return {
            name: Reliability.of_sums({sum_: part[row] for sum_, part in sums.items()}, edges) for name, row in parts
        }

    def judged(
        self, monitored: Monitored, detectors: Sequence[Detector], promise: Promise, fit: LabelFit,
        reliability: Mapping[str, Reliability],
    ) -> Monitored:  # fmt: skip
        """With what is normal for the answers, and for the labels that follow them."""
        spec, labelled = monitored.spec, self.labelled
        moment, told = _moments(self.scored, self.time), _moments(labelled, self.time)
        columns = [
            Column(one.name, self.sketches[one.name], cells_of(one, self.sketches[one.name])) for one in self.watched
        ]
        kept = [detector for detector in detectors if detector.family == "values"]
        prediction = [
            Learned(rung, windows, tuple(column_nulls(windows, columns, kept, moment)))
            for rung, windows in covering(moment, spec)
        ]
        concept = [
            Learned(rung, windows, tuple(concept_nulls(windows, labelled, self.slices, reliability, fit)))
            for rung, windows in covering(told, spec)
            if rung.spec == spec  # labels come later than a short window has to be judged
        ]
        found = (calibrations(learned, spec, promise) for learned in (prediction, concept))
        return Monitored(spec, monitored.features, *found)

    def errors(
        self, error_detectors: Sequence[ErrorDetector], promise: Promise, fit: LabelFit, whole: Reliability
    ) -> CalmErrors:
        if not len(self.labelled):
            return CalmErrors()
        followed = fit.stream(self.labelled, whole)
        return calm_limits(error_detectors, followed, _moments(self.labelled, self.time), promise)


def _column(values: pl.Series, feature: Feature) -> Column:
    sketch = _sketch(values, feature)
    return Column(feature.name, sketch, cells_of(values, sketch), declared=bool(feature.categories))


def _with_habits(column: Column, moment: NDArray[np.datetime64], spec: WindowSpec, season: Season | None) -> Column:
    """With its season, found if none is given, and with how fast its values are replaced."""
    cell, cells, churn = column.cell, column.cells, Churn()
    if isinstance(column.sketch, CategoricalSketch):
        churn, _ = learn_churn(null_windows(moment, spec), cell, cells, column.declared)
    return replace(column, season=season or cycle_of(cell, cells, moment), churn=churn)


def _learn_data(
    moment: NDArray[np.datetime64],
    spec: WindowSpec,
    columns: Sequence[Column],
    detectors: Sequence[Detector],
    joint: pl.DataFrame | None,
) -> list[Learned]:
    """What windows of a kind differ by. The classifier, which is slow to learn, is asked of whole windows alone."""
    sketches = {column.name: column.sketch for column in columns if not column.is_segment}
    found = []
    for rung, windows in covering(moment, spec):
        nulls = column_nulls(windows, columns, detectors, moment)
        if joint is not None and len(windows.pairs) and rung.spec == spec and rung.one_in == 1:
            nulls.append(joint_null(joint, sketches, windows))
        found.append(Learned(rung, windows, tuple(nulls)))
    return found


def chosen_detectors(
    number: Detector = _KOLMOGOROV_SMIRNOV, category: Detector = _JENSEN_SHANNON
) -> tuple[Detector, ...]:
    """One detector for the values of numbers and one for categories, and those for gaps.

    Several that see the same change would only raise each other's threshold.
    """
    by_kind = {"number": number, "category": category}
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


def _answer_sketch(answers: pl.Series, threshold: float | None) -> Sketch:
    """With an edge at the threshold, if there is one, so that answers above and below it can be told apart."""
    values = answers.to_numpy()
    edges = edges_of(values)
    sketch = NumericSketch.with_edges(edges if threshold is None else np.union1d(edges, np.float32(threshold)))
    sketch.update(values)
    return sketch


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
    column: Column, moment: NDArray[np.datetime64], season: Season, values: NDArray[np.float64] | None
) -> Seasonal:
    times, at = LENGTHS[season], season_of(moment, season)
    counts = np.bincount(at * column.cells + column.cell, minlength=times * column.cells).reshape(times, column.cells)
    if values is None:
        return Seasonal(season, counts)
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32).astype(np.float64)
    sums = np.bincount(at, np.where(np.isfinite(numbers), numbers, 0.0), minlength=times)
    return Seasonal(season, counts, sums.astype(np.float64))
