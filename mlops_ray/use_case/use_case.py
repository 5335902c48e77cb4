"""UseCase and its parts: the only thing a user must write.

Plain declarations; the stages interpret them. Moments are timezone-aware UTC; expressions are polars expressions
over the columns of one source.
"""

import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import UseCaseError
from mlops_ray.window_spec import WindowSpec

ColumnType = Literal["text", "integer", "number", "boolean", "timestamp"]
FeatureKind = Literal["number", "category"]
Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Column:
    """One column of a source and what its values must satisfy.

    A value that cannot be read as `type`, is null without `nullable`, or breaks `choices` or `pattern`, puts its row
    into quarantine. A number outside `minimum..maximum` does too, unless `out_of_range="null"` repairs it.
    `outcome` marks what is known only after the fact: such a column can make labels and histories, but is never
    offered to a model as a feature of its own row. `closed` says that the values seen in training are all there are:
    the endpoint refuses any other. `personal` marks what tells of a person: the ledger of predictions leaves the
    column out, or keeps a keyed hash of it, by which equal values still join.
    """

    name: str
    type: ColumnType
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    out_of_range: Literal["quarantine", "null"] = "quarantine"
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    outcome: bool = False
    closed: bool = False
    personal: Literal["omit", "hash"] | None = None


@dataclass(frozen=True)
class Source:
    """Files of one kind, as the organisation has them.

    `path` is a glob below the data folder (CSV, Parquet or JSON lines, told by the ending). `key` names the columns
    that identify a row; of rows with the same key one is kept. `derived` adds columns computed from the accepted
    ones. `known_at` is the moment a row became known; rows known later than `as_of` stay out. Without it a row counts
    as known from the beginning.
    """

    path: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    derived: Mapping[str, pl.Expr] = field(default_factory=dict)
    known_at: pl.Expr | None = None

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True)
class Label:
    """What is predicted: a boolean expression over the first source, null where there is no label.

    `known_at` is the moment at which the label becomes known; a row whose label was not known yet is not trained on.
    """

    name: str
    value: pl.Expr
    known_at: pl.Expr


@dataclass(frozen=True)
class Split:
    """How time is divided, counted back from `as_of`: test, then gap, then validation, and all before is training."""

    test: timedelta = timedelta(days=30)
    gap: timedelta = timedelta(0)
    validation: timedelta = timedelta(days=30)


@dataclass(frozen=True)
class Uniform:
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Integer:
    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    values: tuple[str | float | int | bool, ...]


SearchSpace = Mapping[str, Uniform | Integer | Choice]
Parameters = Mapping[str, str | float | int | bool]


@dataclass(frozen=True)
class Feature:
    """One input of a model. A category has `categories`, in the order of their codes (see training.encoding)."""

    name: str
    kind: FeatureKind
    categories: tuple[str, ...] = ()


class Classifier(Protocol):
    """A fitted binary classifier over an encoded matrix (float32, rows x features; NaN is a missing number)."""

    def predict_probability(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of the label, one for each row."""
        ...

    def to_onnx(self) -> bytes:
        """The same function as ONNX: input `matrix` float32 [rows, features], output `probability` float32 [rows]."""
        ...


class Candidate(Protocol):
    """A family of models with the space in which its parameters are searched."""

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> SearchSpace: ...

    def fit(
        self,
        matrix: NDArray[np.float32],
        label: NDArray[np.bool_],
        features: Sequence[Feature],
        parameters: Parameters,
        seed: int,
        threads: int,
    ) -> Iterator[tuple[float, Classifier]]:
        """Fit step by step. Yields (fraction of the budget spent, model so far); the last fraction is 1.0."""
        ...


@dataclass(frozen=True)
class Search:
    """How long the search goes on: trials for each candidate, and how fast ASHA stops the worse ones."""

    trials_per_candidate: int = 4
    reduction_factor: float = 2.0
    seed: int = 13


@dataclass(frozen=True)
class Serving:
    """How the endpoint serves the models of a use case.

    store_down: what happens to requests by keys while the online store does not answer: `refuse` them (503), or
    answer as if its features were `missing`, marked as degraded. batch_wait_ms: how long a request may wait for
    others, so that a large model answers up to `batch_rows` rows at once; 0 asks it for each request.
    """

    store_down: Literal["refuse", "missing"] = "refuse"
    batch_wait_ms: float = 0.0
    batch_rows: int = 64


Metric = Literal["roc_auc", "average_precision", "log_loss", "brier", "calibration_error"]
LOWER_IS_BETTER: frozenset[str] = frozenset({"log_loss", "brier", "calibration_error"})
AdvisorySeverity = Literal["low", "medium", "high", "critical"]


@dataclass(frozen=True)
class Threshold:
    """Gate: the metric on the test period is at least `limit`; where lower is better (LOWER_IS_BETTER), at most.

    A gate that fails keeps the version from going live, or with `blocks=False` is only recorded.
    """

    metric: Metric
    limit: float
    blocks: bool = True


@dataclass(frozen=True)
class NoSliceWorse:
    """Gate: in no slice (see `UseCase.slices`) the metric is worse than `limit` with 95 % certainty.

    Slices with few rows are not judged.
    """

    metric: Metric
    limit: float
    blocks: bool = True


@dataclass(frozen=True)
class BetterThanChampion:
    """Gate: on the same test rows the metric is better than the champion's by more than `margin`, with 95 % certainty.

    A negative margin is what the version may be worse by. Passed where there is no champion yet.
    """

    margin: float = 0.0
    metric: Literal["roc_auc", "average_precision"] = "roc_auc"
    blocks: bool = True


@dataclass(frozen=True)
class OnnxParity:
    """Gate: the probabilities of the exported model differ from the trained model's by at most `limit`."""

    limit: float = 1e-5
    blocks: bool = True


@dataclass(frozen=True)
class Latency:
    """Gate: the model's median time for one row, in milliseconds, without features and HTTP, where it is registered."""

    limit_ms: float
    blocks: bool = True


@dataclass(frozen=True)
class Fairness:
    """Gate: between the values of `column`, one of the slices, `measure` differs by at most `limit`.

    selection_rate: the share of rows with a positive answer (demographic parity). true_positive_rate: that share among
    rows with the label (equal opportunity; Hardt, Price, Srebro, NeurIPS 2016).
    """

    column: str
    limit: float
    measure: Literal["selection_rate", "true_positive_rate"] = "true_positive_rate"
    blocks: bool = True


@dataclass(frozen=True)
class Waiver:
    """An advisory that does not count until a moment, because somebody looked at it."""

    advisory: str
    until: datetime
    reason: str


@dataclass(frozen=True)
class NoVulnerability:
    """Gate: a scan was made and found nothing in the artifact, nor, if given, in the environment from a severity on.

    An advisory in the environment whose severity is unknown counts as one of `environment_from`.
    """

    environment_from: AdvisorySeverity | None = None
    waivers: tuple[Waiver, ...] = ()
    blocks: bool = True


Gate = Threshold | NoSliceWorse | BetterThanChampion | OnnxParity | Latency | Fairness | NoVulnerability


@dataclass(frozen=True)
class Approval:
    """Who has to say yes before a version goes live: a principal with `role`, with `four_eyes` not its author.

    expires_after: how long a request waits for an answer, and how long an approval can be used.
    required: without it an approval can be asked for, but nothing depends on it.
    """

    role: Literal["approve", "operate", "admin"] = "approve"
    four_eyes: bool = True
    expires_after: timedelta = timedelta(days=30)
    required: bool = True


Question = Literal["data", "prediction", "concept"]
Season = Literal["hour", "weekday", "month"]
NumberDetector = Literal["kolmogorov_smirnov", "wasserstein", "jensen_shannon", "psi"]
CategoryDetector = Literal["jensen_shannon", "chi_squared", "psi"]
ErrorDetector = Literal["adwin", "page_hinkley"]


@dataclass(frozen=True)
class Monitoring:
    """How predictions are watched; sealed with each model, so that it belongs to the version that is serving.

    windows: the stretches of predictions that are judged; quality is estimated as the first kind has it. seasonal:
    features that are compared with the same hour of the day (UTC), day of the week or month of the reference.
    false_alarm_every: at most one false alarm in so many windows is wanted, over all features together. slices: request
    columns or features whose values are judged for themselves once labels come; None for the use case's `slices`.

    number_detector, category_detector: how far a window is from the reference. domain_classifier: also whether a
    classifier tells their rows apart, which shows features that go together in a new way; it makes sealing some
    seconds longer, and seals a sample of rows. error_detectors: also follow the errors as a stream, beyond windows.
    """

    windows: tuple[WindowSpec, ...] = (WindowSpec(rows=5_000), WindowSpec(length=timedelta(days=7)))
    seasonal: Mapping[str, Season] = field(default_factory=dict)
    false_alarm_every: int = 100
    slices: tuple[str, ...] | None = None
    number_detector: NumberDetector = "kolmogorov_smirnov"
    category_detector: CategoryDetector = "jensen_shannon"
    domain_classifier: bool = False
    error_detectors: tuple[ErrorDetector, ...] = ()

    def __post_init__(self) -> None:
        if not self.windows or len({spec.name for spec in self.windows}) != len(self.windows):
            raise UseCaseError("Monitoring needs at least one kind of window, and each kind once.")
        if self.false_alarm_every < 1:
            raise UseCaseError(f"Monitoring: false_alarm_every is {self.false_alarm_every}; it must be 1 or more.")
        for name, known, given in (
            ("number_detector", NumberDetector, (self.number_detector,)),
            ("category_detector", CategoryDetector, (self.category_detector,)),
            ("error_detectors", ErrorDetector, self.error_detectors),
        ):
            for wrong in set(given) - set(get_args(known)):
                raise UseCaseError(f"Monitoring: {name} has {wrong!r}; there are {', '.join(get_args(known))}.")


@dataclass(frozen=True)
class Retraining:
    """When the governor trains again, and what becomes of the result.

    alarms: open alarms on these questions of monitoring ask for it. every: so does this time since the last training;
    None for never. min_new_rows: labels that must have come since the last training. cool_down: from the end of one
    retraining to the next; each challenger that loses doubles it. max_per_week, max_cpu_hours_per_week: the budget of
    any seven days. time_limit: a retraining without a result after so long, waiting for resources included, is stopped
    and has failed. stop_after_losses: after so many challengers in a row that were not better, or runs that failed,
    none until the champion changes.

    split: how time is divided for it; on its test part, the recent window, the challenger is compared with the
    champion. margin: it wins if it is better, and by more than this with 95 % certainty (negative: what it may be
    worse by). search: try all candidates; without it the champion's is fitted again with its parameters. promote: a
    challenger that wins goes into a rollout by itself where nobody has to approve it; without it, and elsewhere, it is
    offered.
    """

    alarms: tuple[Question, ...] = ("data", "prediction", "concept")
    every: timedelta | None = None
    min_new_rows: int = 5_000
    cool_down: timedelta = timedelta(days=7)
    max_per_week: int = 2
    max_cpu_hours_per_week: float = 10.0
    time_limit: timedelta = timedelta(hours=12)
    stop_after_losses: int = 3
    split: Split = Split(test=timedelta(days=28), validation=timedelta(days=14))
    margin: float = -0.005
    search: bool = True
    promote: bool = False

    def __post_init__(self) -> None:
        if self.min_new_rows < 0 or self.max_per_week < 1 or self.stop_after_losses < 1:
            raise UseCaseError(
                f"Retraining with min_new_rows {self.min_new_rows}, max_per_week {self.max_per_week} and "
                f"stop_after_losses {self.stop_after_losses}: the first must be 0 or more, the others 1 or more."
            )
        if self.cool_down < timedelta(0) or (self.every is not None and self.every <= timedelta(0)):
            raise UseCaseError(
                f"Retraining every {self.every} with a cool-down of {self.cool_down}: give longer times."
            )
        if self.time_limit <= timedelta(0):
            raise UseCaseError(f"Retraining with time_limit {self.time_limit}: give a longer time.")
        if not self.max_cpu_hours_per_week > 0 or not math.isfinite(self.margin):
            raise UseCaseError(
                f"Retraining with max_cpu_hours_per_week {self.max_cpu_hours_per_week} and margin {self.margin}: the "
                f"first must be above 0, the second a number."
            )


@dataclass(frozen=True)
class UseCase:
    """A prediction that somebody needs, from raw files to the endpoint.

    sources: by name; the first one holds the things predicted about, one a row.
    entities: columns of the first source that identify such a thing to Feast and to a caller of the endpoint.
    event_time: the column with the moment the prediction is about; it is made `lead_time` before.
    request_features: what a model may see of the request itself, as expressions over entities and `event_time`.
        Default: every column of the first source that is neither entity, event time nor outcome.
    feature_views: for each Feast feature view that this use case fills, a function from the snapshot's tables to its
        rows: join keys, features, and `event_timestamp`, the moment the values became known.
    feature_service: the Feast feature service a model reads; needed with `feature_views`.
    purpose, limits: what the predictions are for, and what they are not, in sentences for the model card.
    slices: request columns or features; the rows that share a value of one are also judged for themselves.
    gates: what a version must pass before it goes live. approval: who must agree; None for nobody.
    monitoring: how predictions are watched. retraining: when to train again; None for when a person does.
    """

    name: str
    sources: Mapping[str, Source]
    entities: tuple[str, ...]
    event_time: str
    label: Label
    candidates: tuple[Candidate, ...]
    owner: str = ""
    purpose: str = ""
    limits: tuple[str, ...] = ()
    lead_time: timedelta = timedelta(0)
    request_features: Mapping[str, pl.Expr] | None = None
    feature_views: Mapping[str, Callable[[Tables], pl.DataFrame]] = field(default_factory=dict)
    feature_service: str | None = None
    metric: Literal["roc_auc", "average_precision"] = "roc_auc"
    split: Split = Split()
    search: Search = Search()
    serving: Serving = Serving()
    slices: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = (OnnxParity(),)
    approval: Approval | None = None
    monitoring: Monitoring = field(default_factory=Monitoring)
    retraining: Retraining | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", self.name):
            raise UseCaseError(f"Use case name {self.name!r}: use a-z, 0-9 and _, at most 63, beginning with a letter.")
        if not self.sources:
            raise UseCaseError(f"Use case {self.name}: sources is empty. Declare at least one source.")
        if not self.candidates:
            raise UseCaseError(f"Use case {self.name}: candidates is empty. Declare at least one candidate.")
        if bool(self.feature_views) != bool(self.feature_service):
            raise UseCaseError(
                f"Use case {self.name}: feature_views and feature_service go together; one of them is missing."
            )
        known = self.column_names
        for name in (*self.entities, self.event_time):
            if name not in known:
                raise UseCaseError(
                    f"Use case {self.name}: {name!r} is not a column of source {self.main_source!r} "
                    f"(it has {', '.join(sorted(known))})."
                )
        self._check_gates()
        for name, expression in (self.request_features or {}).items():
            if name in self.entities and not expression.meta.eq(pl.col(name)):
                raise UseCaseError(
                    f"Use case {self.name}: request feature {name!r} has the name of an entity but another value. "
                    f"Give it a name of its own."
                )

    def _check_gates(self) -> None:
        if self.slices and len(set(self.slices)) != len(self.slices):
            raise UseCaseError(f"Use case {self.name}: slices name a column twice.")
        for gate in self.gates:
            if isinstance(gate, NoSliceWorse) and not self.slices:
                raise UseCaseError(f"Use case {self.name}: gate {gate} needs slices. Declare them.")
            if isinstance(gate, Fairness) and gate.column not in self.slices:
                raise UseCaseError(
                    f"Use case {self.name}: gate {gate} needs the slice {gate.column!r}. Add it to slices."
                )
            if any(isinstance(value, float) and not math.isfinite(value) for value in vars(gate).values()):
                raise UseCaseError(f"Use case {self.name}: gate {gate} has a limit that is not a number.")
        for waiver in (w for gate in self.gates if isinstance(gate, NoVulnerability) for w in gate.waivers):
            if waiver.until.tzinfo is None or not waiver.reason.strip():
                raise UseCaseError(
                    f"Use case {self.name}: the waiver of {waiver.advisory} needs a reason and an end with a time zone."
                )
        if self.approval is not None and self.approval.expires_after <= timedelta(0):
            raise UseCaseError(
                f"Use case {self.name}: an approval that expires after {self.approval.expires_after} is never valid."
            )

    @property
    def main_source(self) -> str:
        return next(iter(self.sources))

    @property
    def column_names(self) -> set[str]:
        source = self.sources[self.main_source]
        return {column.name for column in source.columns} | set(source.derived)

    def features_of_request(self) -> dict[str, pl.Expr]:
        """The request features by name, with the default applied."""
        if self.request_features is not None:
            return dict(self.request_features)
        taken = {*self.entities, self.event_time, *self.label.value.meta.root_names()}
        columns = self.sources[self.main_source].columns
        return {
            column.name: pl.col(column.name)
            for column in columns
            if column.name not in taken and not column.outcome and column.type != "timestamp"
        }

    def request_columns(self) -> tuple[str, ...]:
        """What a caller sends for one prediction: entities, event time, and the roots of the request features."""
        roots = [root for expression in self.features_of_request().values() for root in expression.meta.root_names()]
        return tuple(dict.fromkeys((*self.entities, self.event_time, *roots)))


def load_use_case(reference: str) -> UseCase:
    """The use case in a Python file: `reference` is the file's path, or a name meaning `use_cases/<name>.py`.

    Its functions travel to workers by value, so workers need not find the file.
    Raises UseCaseError if the file does not exist, does not import, or does not hold exactly one UseCase.
    """
    file = Path(reference if reference.endswith(".py") else f"use_cases/{reference}.py").absolute()
    if not file.is_file():
        raise UseCaseError(f"There is no use case {reference!r}: {file} does not exist. Give the path of its file.")
    name = f"use_case_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UseCaseError:
        raise
    except Exception as error:
        raise UseCaseError(f"{file} does not import: {type(error).__name__}: {error}") from error
    from ray import cloudpickle  # Ray carries its own; importing it here keeps declarations free of Ray

    cloudpickle.register_pickle_by_value(module)
    found = [value for value in vars(module).values() if isinstance(value, UseCase)]
    if len(found) != 1:
        raise UseCaseError(f"{file} defines {len(found)} use cases; it must define exactly one.")
    return found[0]
