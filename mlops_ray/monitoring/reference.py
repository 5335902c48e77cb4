"""The reference: what a model was made from, and what is normal for windows of it. It is sealed with the model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import IntegrityError
from mlops_ray.monitoring.answers import EXPECTED, answer_in, watched_columns, watched_names
from mlops_ray.monitoring.calibration import Calibration
from mlops_ray.monitoring.churn import Churn
from mlops_ray.monitoring.detectors.domain_classifier import SAMPLE_ROWS
from mlops_ray.monitoring.error_estimation import ErrorEstimator
from mlops_ray.monitoring.error_stream import CalmErrors
from mlops_ray.monitoring.error_tree import foretold
from mlops_ray.monitoring.input_segments import InputSegment
from mlops_ray.monitoring.label_fit import LabelFit, label_fit
from mlops_ray.monitoring.performance_estimation import Estimator
from mlops_ray.monitoring.reliability import Reliability
from mlops_ray.monitoring.seasons import Seasonal
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch, sketch_from_bytes
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.stored import task_from_json, task_to_json
from mlops_ray.tasks.task import Task
from mlops_ray.use_case.window_spec import WindowSpec

_FORMAT = 3
EXAMPLE_ROWS = 200
# Of a column that tells of a person it is watched alone whether there is a value: this stands for all of them.
GIVEN = "(given)"
FILES = _JSON, _BIN = "reference.json", "reference.bin"


@dataclass(frozen=True)
class Monitored:
    """One kind of window with the thresholds of the three questions that are asked of it, for what it may cover.

    features: has the data changed (families "values" and "gaps")? prediction: have the answers? concept: are labels
    still as probable as the model says? The last two are empty without scored rows. See `coverage.rungs`.
    """

    spec: WindowSpec
    features: tuple[Calibration, ...]
    prediction: tuple[Calibration, ...] = ()
    concept: tuple[Calibration, ...] = ()

    @property
    def shortest(self) -> timedelta:
        """How much time a window must cover to be judged; shorter ones are judged together."""
        learned = [one.coverage.span_s for one in (*self.features, *self.prediction)]
        return timedelta(seconds=min(learned) if learned else 0.0)


@dataclass(frozen=True)
class Reference:
    """Sketches of every feature and of the prediction, labels by slice, and thresholds.

    start, end, rows: of the rows the features were learned from. seasonal: of the features that are compared with
    the same time of a season. reliability: of scored rows, by slice ("all", "carrier=AA"). windows: by `spec.name`.
    sample: rows [rows, features] as `row_sample.matrix` has them, where the domain classifier is wanted. errors: for
    the detectors that follow the errors. churn: of the features whose values are replaced by new ones. segments: by the
    names of their columns. task: the kind of label.
    """

    start: datetime
    end: datetime
    rows: int
    columns: Mapping[str, Sketch]
    windows: Mapping[str, Monitored]
    seasonal: Mapping[str, Seasonal] = field(default_factory=dict)
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    estimator: Estimator | ErrorEstimator | None = None
    sample: NDArray[np.float32] | None = None
    errors: CalmErrors = field(default_factory=CalmErrors)
    churn: Mapping[str, Churn] = field(default_factory=dict)
    segments: Mapping[str, InputSegment] = field(default_factory=dict)
    task: Task = BINARY

    @property
    def answers(self) -> tuple[str, ...]:
        """The columns that are made of answers, the ones that they are compared by first."""
        return tuple(name for name in (*watched_names(self.task), EXPECTED) if name in self.columns)

    @property
    def label_fit(self) -> LabelFit:
        return label_fit(self.task, self.estimator)

    @property
    def error_columns(self) -> tuple[str, ...]:
        """The features that say how wrong an answer may be, where answers themselves do not."""
        tree = self.estimator.tree if isinstance(self.estimator, ErrorEstimator) else None
        return () if tree is None else tuple(name for name in tree.columns if name not in self.answers)

    def with_answers(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of the ledger, with features by their names, with what is made of their answers as well: the columns
        that windows count, and `EXPECTED` where labels are held against it."""
        answer = answer_in(rows, self.task)
        made = watched_columns(answer, self.task)
        if isinstance(self.estimator, ErrorEstimator):
            made.append(pl.Series(EXPECTED, foretold(rows, answer, self.task, self.estimator.tree)))
        return rows.with_columns(made)

    @property
    def inputs(self) -> dict[str, Sketch]:
        """The features, without their segments and what is made of answers."""
        others = {*self.answers, *self.segments}
        return {name: sketch for name, sketch in self.columns.items() if name not in others}

    def shares(self, importance: Mapping[str, float] | None) -> dict[str, float]:
        """Of the model's importance, by column; that of a segment is its part of its feature's. Empty where importance
        is not known."""
        total = sum(abs(value) for value in (importance or {}).values())
        found = {name: abs(value) / total for name, value in (importance or {}).items()} if total else {}
        parts = {name: found.get(one.feature, 0.0) * one.share for name, one in self.segments.items()}
        return {**found, **parts} if found else {}

    @property
    def rates_only(self) -> frozenset[str]:
        """The columns that tell of persons."""
        texts = ((name, sketch) for name, sketch in self.columns.items() if isinstance(sketch, CategoricalSketch))
        return frozenset(name for name, sketch in texts if tuple(sketch.categories) == (GIVEN,))

    @property
    def sample_rows(self) -> int:
        """How many rows of each window are kept: examples for alarms, or what a classifier learns from."""
        return EXAMPLE_ROWS if self.sample is None else SAMPLE_ROWS

    def empty_columns(self) -> dict[str, Sketch]:
        """Sketches with the reference's bins for a new window."""
        return {name: sketch.empty() for name, sketch in self.columns.items()}

    def to_files(self) -> dict[str, bytes]:
        """reference.json for people, and reference.bin with sketches and season counts. No pickle.

        The same reference gives the same bytes: quantile sketches, which depend on chance, are left out, as windows
        are compared by their counts.
        """
        text = {
            "format": _FORMAT,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "rows": self.rows,
            "columns": list(self.columns),
            "windows": {name: _monitored_to_json(window) for name, window in self.windows.items()},
            "reliability": {name: part.to_json() for name, part in self.reliability.items()},
            "estimator": None if self.estimator is None else self.estimator.to_json(),
            "errors": asdict(self.errors),
            "churn": {name: asdict(churn) for name, churn in self.churn.items()},
            "segments": {name: asdict(segment) for name, segment in self.segments.items()},
        } | ({} if self.task == BINARY else {"task": task_to_json(self.task)})
        binary = {
            "columns": {name: _by_counts(sketch).to_bytes() for name, sketch in self.columns.items()},
            "seasonal": {
                name: [part.season, part.counts.shape, part.counts.astype("<i8").tobytes(), _sums(part)]
                for name, part in self.seasonal.items()
            },
            "sample": None if self.sample is None else [self.sample.shape, self.sample.astype("<f4").tobytes()],
        }
        content = json.dumps(text, indent=1, sort_keys=True, allow_nan=False).encode()
        return {_JSON: content, _BIN: msgspec.msgpack.encode(binary)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "Reference":
        """What `to_files` gave. Raises IntegrityError if a part is missing or not of this version."""
        try:
            text, binary = json.loads(files[_JSON]), msgspec.msgpack.decode(files[_BIN])
            if text["format"] != _FORMAT:
                raise ValueError(f"format {text['format']!r}")
            seasonal = {
                name: Seasonal(season, np.frombuffer(counts, "<i8").reshape(shape), sums and np.frombuffer(sums, "<f8"))
                for name, (season, shape, counts, sums) in binary["seasonal"].items()
            }
            return cls(
                start=datetime.fromisoformat(text["start"]),
                end=datetime.fromisoformat(text["end"]),
                rows=text["rows"],
                columns={name: sketch_from_bytes(binary["columns"][name]) for name in text["columns"]},
                windows={name: _monitored_from_json(window) for name, window in text["windows"].items()},
                seasonal=seasonal,
                reliability={name: Reliability.from_json(part) for name, part in text["reliability"].items()},
                estimator=_estimator_from_json(text["estimator"]),
                sample=None if binary["sample"] is None else _sample(*binary["sample"]),
                errors=CalmErrors(**text["errors"]),
                churn={name: Churn(**churn) for name, churn in text["churn"].items()},
                segments={name: InputSegment(**one) for name, one in text.get("segments", {}).items()},
                task=task_from_json(text.get("task")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"The drift reference does not fit this version: {error!r}.") from error


def without_values(rows: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    """The rows with `GIVEN` for each value of these columns; null and "" are missing."""
    there = [name for name in columns if name in rows.columns]
    given = (pl.col(name).cast(pl.String).fill_null("") != "" for name in there)
    return rows.with_columns(
        pl.when(one).then(pl.lit(GIVEN)).alias(name) for name, one in zip(there, given, strict=True)
    )


def _estimator_from_json(value: Mapping[str, Any] | None) -> Estimator | ErrorEstimator | None:
    """Which kind it is shows in what it has: of one that ranks there is no metric to name."""
    if value is None:
        return None
    return ErrorEstimator.from_json(value) if "metric" in value else Estimator.from_json(value)


def _sample(shape: Sequence[int], values: bytes) -> NDArray[np.float32]:
    return np.frombuffer(values, "<f4").reshape(shape)


def _sums(part: Seasonal) -> bytes | None:
    return None if part.sums is None else part.sums.astype("<f8").tobytes()


def _by_counts(sketch: Sketch) -> Sketch:
    return replace(sketch, quantiles=sketch.empty().quantiles) if isinstance(sketch, NumericSketch) else sketch


def to_datetime(moment: np.datetime64) -> datetime:
    return datetime.fromtimestamp(moment.astype("datetime64[us]").astype(np.int64) / 1e6, tz=UTC)


def _monitored_to_json(window: Monitored) -> dict[str, Any]:
    return {"spec": window.spec.to_json()} | {
        question: [one.to_json() for one in getattr(window, question)] for question in _QUESTIONS
    }


def _monitored_from_json(value: Mapping[str, Any]) -> Monitored:
    learned = (tuple(map(Calibration.from_json, value[question])) for question in _QUESTIONS)
    return Monitored(WindowSpec.from_json(value["spec"]), *learned)


_QUESTIONS = ("features", "prediction", "concept")
