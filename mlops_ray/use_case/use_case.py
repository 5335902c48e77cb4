"""UseCase: the only thing a user must write.

Plain declarations; the stages interpret them. Moments are timezone-aware UTC; expressions are polars expressions
over the columns of one source. What is declared is checked at once (see `checks`): any error is a UseCaseError.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import polars as pl

from mlops_ray.use_case.checks import check_use_case
from mlops_ray.use_case.fit import Fit
from mlops_ray.use_case.gates import Approval, Gate, OnnxParity
from mlops_ray.use_case.label import Label
from mlops_ray.use_case.monitoring import Monitoring
from mlops_ray.use_case.retraining import Retraining
from mlops_ray.use_case.schedule import Operation, Schedule
from mlops_ray.use_case.search import Candidate, Search
from mlops_ray.use_case.serving import Serving
from mlops_ray.use_case.source import Source, Tables
from mlops_ray.use_case.split import Split


@dataclass(frozen=True)
class UseCase:
    """A prediction that somebody needs, from raw files to the endpoint.

    sources: by name; the first one holds the things predicted about, one a row.
    entities: columns of the first source that identify such a thing to Feast and to a caller of the endpoint.
    event_time: the column with the moment the prediction is about; it is made `lead_time` before.
    request_features: what a model may see of the request itself, as expressions over entities and `event_time`.
        Default: every column of the first source that is neither entity, event time nor outcome.
    feature_views: for each Feast feature view that this use case fills, a function from the snapshot's tables to its
        rows: join keys, features, and `event_timestamp`, the moment the values became known. Statistics over windows of
        time are declared (`windowed_views`), and `DividedView` says how a function may be divided.
    on_demand_features: what a model sees beside request features and views, as expressions over these, entities and
        `event_time`: of the request and of what is known of it. Numbers among the features are Float64 there.
    feature_service: the Feast feature service a model reads; needed with `feature_views`.
    purpose, limits: what the predictions are for, and what they are not, in sentences for the model card.
    tier: how much depends on the predictions being right. review_every: how often somebody who approves looks at the
        use case as a whole, in whole days; the inventory says when, and that it is overdue.
    metric: of the label's task, by which trials are compared.
    fit: with which weights and limits all candidates are fitted, and whether their probabilities are calibrated.
    slices: request columns or features; the rows that share a value of one are also judged for themselves.
    time_zone: where a day begins, an IANA name; days are what chance is counted by when versions are judged. Default:
        the zone of the event time's column, or UTC.
    gates: what a version must pass before it goes live. approval: who must agree; None for nobody.
    leakage_waivers: features and feature views that are suspected to know the outcome (docs/exploration.md) and do not,
        by name with the reason why somebody found so; without it the pipeline ends before training.
    keep_predictions: how long the ledger keeps predictions, and labels since they came, in whole days; None for ever.
    monitoring: how predictions are watched. retraining: when to train again; None for when a person does.
    schedules: when an operation is due by the clock, by its name (see `use_case.schedule`).
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
    on_demand_features: Mapping[str, pl.Expr] = field(default_factory=dict)
    feature_service: str | None = None
    metric: str = "roc_auc"
    split: Split = Split()
    search: Search = Search()
    fit: Fit = Fit()
    serving: Serving = Serving()
    slices: tuple[str, ...] = ()
    time_zone: str | None = None
    gates: tuple[Gate, ...] = (OnnxParity(),)
    approval: Approval | None = None
    monitoring: Monitoring = field(default_factory=Monitoring)
    retraining: Retraining | None = None
    schedules: Mapping[Operation, Schedule] = field(default_factory=dict)
    keep_predictions: timedelta | None = None
    leakage_waivers: Mapping[str, str] = field(default_factory=dict)
    tier: Literal["low", "medium", "high"] | None = None
    review_every: timedelta | None = None

    def __post_init__(self) -> None:
        check_use_case(self)

    @property
    def main_source(self) -> str:
        return next(iter(self.sources))

    def zone(self) -> str:
        """The time zone that days are counted in, with the default applied."""
        if self.time_zone is not None:
            return self.time_zone
        source = self.sources[self.main_source]
        derived = source.derived.get(self.event_time)
        roots = derived.meta.root_names() if derived is not None else [self.event_time]
        zones = {column.time_zone for column in source.columns if column.name in roots} - {None}
        return zones.pop() or "UTC" if len(zones) == 1 else "UTC"

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
