"""What a use case must say so that it can be carried out: all that can be known before any data is read.

Each error is one sentence with the use case, the place, the value, what is known, and the next step.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from mlops_ray.errors import UseCaseError, nearest
from mlops_ray.use_case.column import Column, unknown_time_zone
from mlops_ray.use_case.declared_types import expect_types
from mlops_ray.use_case.expectations import NeverFalls, References, Unique
from mlops_ray.use_case.expressions import COLUMN_DTYPES, calls_python, dtype_of, is_of_one_row
from mlops_ray.use_case.gates import (
    BetterThanBaseline,
    BetterThanChampion,
    Fairness,
    NoSliceWorse,
    NoVulnerability,
    Plausible,
    Threshold,
)
from mlops_ray.use_case.search import ENSEMBLE, Candidate, Choice, Integer, Uniform
from mlops_ray.use_case.source import Source
from mlops_ray.use_case.view_checks import check_views
from mlops_ray.use_case.windowed_view import WindowedView

if TYPE_CHECKING:
    from mlops_ray.use_case.use_case import UseCase

# What a training set, an answer, the ledger and scored rows have beside the columns and features of a use case.
RESERVED: Mapping[str, str] = {
    "label": "training sets",
    "label_known_at": "training sets",
    "event_timestamp": "training sets and feature rows",
    "as_of": "requests and rows to score",
    "request_id": "answers",
    "row": "answers",
    "version": "answers",
    "probability": "answers",
    "probabilities": "answers",
    "prediction": "answers",
    "low": "answers",
    "high": "answers",
    "quantiles": "answers",
    "reasons": "answers",
    "missing_features": "answers",
}
LONGEST = timedelta(days=3660)
"""Of what an approval demands; the control store adds it to moments."""
_DAY = timedelta(days=1)
# What MLflow takes as the name of a parameter and every store as that of a file. An average puts a colon between them.
_RECORDED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,99}")
_MOMENT = "a moment with a time zone"
_NEXT_STEP: Mapping[type[pl.DataType], str] = {
    pl.Duration: "Make it a number, such as .dt.total_days()",
    pl.Datetime: "Take a number out of it, such as .dt.hour() or .dt.weekday()",
    pl.Date: "Take a number out of it, such as .dt.month() or .dt.weekday()",
    pl.Time: "Take a number out of it, such as .dt.hour()",
    pl.Categorical: "Add .cast(pl.String)",
    pl.Enum: "Add .cast(pl.String)",
    pl.Decimal: "Add .cast(pl.Float64)",
    pl.List: "Take a value out of it, such as .list.first()",
    pl.Array: "Take a value out of it, such as .arr.first()",
    pl.Struct: "Take a value out of it with .struct.field()",
    pl.Null: "It is always null: leave it out",
}


def check_use_case(case: "UseCase") -> None:
    """Raise UseCaseError for the first thing in the declaration that contradicts another or cannot be."""
    expect_name(case.name)
    expect_types(case, f"Use case {case.name}")
    if case.time_zone is not None and (unknown := unknown_time_zone(case.time_zone)):
        raise _refusal(case, f"{unknown}.")
    if case.review_every is not None and (case.review_every < _DAY or case.review_every % _DAY):
        raise _refusal(case, f"review_every is {case.review_every}. Give whole days, such as timedelta(days=90).")
    _check_presence(case)
    for name, source in case.sources.items():
        _check_source(case, name, source)
    _check_keys(case)
    _check_label(case)
    _check_request_features(case)
    check_views(case, {name: column_types(case, name) for name in case.sources})
    _check_on_demand(case)
    if case.feature_service is None:
        features = [*case.features_of_request(), *case.on_demand_features]
        check_monitored(case, [*case.request_columns(), *features], features)
    _check_gates(case)
    if "retraining" in case.schedules and case.retraining is None:
        raise _refusal(case, "schedules has retraining, but it declares none. Add retraining=Retraining(...).")


def expect_name(name: object) -> None:
    """Raise UseCaseError unless a use case can be called so."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise UseCaseError(f"Use case name {name!r}: use a-z, 0-9 and _, at most 63, beginning with a letter.")
    if name == "all":
        raise UseCaseError("Use case name 'all': it stands for every use case in keys and tokens. Take another.")


def check_monitored(case: "UseCase", columns: Collection[str], features: Collection[str]) -> None:
    """Raise UseCaseError for a slice that is neither a request column nor a feature, or a season of no feature.

    columns: all that slices can be of. With a feature service they are known once a training set was made.
    """
    for place, names, known, kind in (
        ("slice", case.slices, columns, "a request column or feature"),
        ("baseline's column", _baseline_columns(case), columns, "a request column or feature"),
        ("monitoring's slice", case.monitoring.slices or (), columns, "a request column or feature"),
        ("monitoring's seasonal", case.monitoring.seasonal, features, "a feature"),
        ("monitoring's segment", _in_segments(case), features, "a feature"),
    ):
        for name in names:
            if name not in known:
                raise _refusal(case, f"{place} {name!r} is not {kind}. {nearest(name, known)}")


def _baseline_columns(case: "UseCase") -> tuple[str, ...]:
    return tuple(name for gate in case.gates if isinstance(gate, BetterThanBaseline) for name in gate.by)


def _in_segments(case: "UseCase") -> tuple[str, ...]:
    """The categories and the features that the segments of its monitoring name."""
    segments = case.monitoring.segments
    return (*segments, *(name for names in segments.values() for name in names))


def outcomes_of(case: "UseCase") -> set[str]:
    """Columns of the first source that are known only after the fact, and those derived from them.

    Where the label uses none that is declared so, its own columns count: a caller who knew them would not ask.
    """
    source, label = case.sources[case.main_source], set(case.label.value.meta.root_names())
    found = {column.name for column in source.columns if column.outcome}
    while (
        more := {
            name for name, expression in source.derived.items() if found.intersection(expression.meta.root_names())
        }
        - found
    ):
        found |= more
    return found if found & label else found | label - {*case.entities, case.event_time}


def column_types(case: "UseCase", source: str, place: str = "") -> dict[str, pl.DataType]:
    """The type of each column of a source, derived ones too. Raises UseCaseError as `dtype_of` does."""
    declared = case.sources[source]
    columns = {column.name: COLUMN_DTYPES[column.type] for column in declared.columns}
    where = place or f"Use case {case.name}: source {source!r}"
    derived = {
        name: dtype_of(expression, columns, f"{where}: derived column {name!r}", "the source's contract")
        for name, expression in declared.derived.items()
    }
    return columns | derived


def _refusal(case: "UseCase", text: str) -> UseCaseError:
    return UseCaseError(f"Use case {case.name}: {text}")


def _check_presence(case: "UseCase") -> None:
    if not case.sources:
        raise _refusal(case, "sources is empty. Declare at least one source.")
    if not case.candidates:
        raise _refusal(case, "candidates is empty. Declare at least one candidate.")
    for candidate in case.candidates:
        _check_candidate(case, candidate)
    case.fit.expect_task(case.label.task, f"Use case {case.name}")
    if not case.entities:
        raise _refusal(case, "entities is empty. Name the columns that identify what is predicted about.")
    if bool(case.feature_views) != bool(case.feature_service):
        raise _refusal(case, "feature_views and feature_service go together; one of them is missing.")
    keep = case.keep_predictions
    if keep is not None and (keep < timedelta(days=1) or keep % timedelta(days=1)):
        raise _refusal(case, f"keep_predictions is {keep}. Give whole days, at least one, or None for ever.")
    if case.lead_time < timedelta(0):
        raise _refusal(
            case,
            f"lead_time is {case.lead_time}, so predictions would be made after {case.event_time!r}. "
            f"Give the time before it, or declare a later event_time.",
        )
    for place, names in (
        ("entities", case.entities),
        ("slices", case.slices),
        ("monitoring's slices", case.monitoring.slices or ()),
        ("candidates", [candidate.name for candidate in case.candidates]),
    ):
        if twice := _twice(names):
            raise _refusal(case, f"{place} have the name {twice!r} twice. Leave one out, or rename it.")
    _check_search(case)


def _check_candidate(case: "UseCase", candidate: Candidate) -> None:
    """Its name and space; that it has `fit` is a matter of types, and typeguard sees no properties."""
    name, space = getattr(candidate, "name", None), getattr(candidate, "space", None)
    if not isinstance(name, str) or not name:
        raise _refusal(case, f"candidate {type(candidate).__name__} has the name {name!r}. Give it a text.")
    ranges = Uniform | Integer | Choice
    if not isinstance(space, Mapping) or not all(isinstance(part, ranges) for part in space.values()):
        raise _refusal(
            case,
            f"candidate {name!r} has the space {space!r:.100}. Give each parameter a Uniform, Integer or Choice.",
        )
    for what, text in (("candidate", name), *((f"candidate {name!r}: parameter", one) for one in space)):
        if not isinstance(text, str) or not _RECORDED.fullmatch(text):
            raise _refusal(
                case,
                f"{what} {text!r:.120} cannot be recorded. Take at most 100 of a-z, A-Z, 0-9, _, -, . and space, "
                f"beginning with one of the first four.",
            )
    if "candidate" in space:
        raise _refusal(
            case, f"candidate {name!r}: parameter 'candidate' is recorded as the candidate's name. Rename it."
        )


def _check_search(case: "UseCase") -> None:
    names = [candidate.name for candidate in case.candidates]
    if isinstance(case.search.resources, Mapping):
        for name in case.search.resources:
            if name not in names:
                raise _refusal(case, f"Search: resources are for {name!r}. {nearest(name, names)}")
    if ENSEMBLE in names:
        raise _refusal(case, f"a candidate is called {ENSEMBLE!r}, as the average of several is. Rename it.")


def _check_source(case: "UseCase", name: str, source: Source) -> None:
    """Derived columns and `known_at`. They are computed part by part of the data, so each of one row alone."""
    place = f"source {name!r}"
    expect_types(source, f"Use case {case.name}: {place}")
    for column in source.columns:
        expect_types(column, f"Use case {case.name}: {place}: column {column.name!r}")
    if not source.columns:
        raise _refusal(case, f"{place} has no columns. Declare those of its files that are used.")
    types = column_types(case, name)
    for derived, expression in source.derived.items():
        if not is_of_one_row(expression):
            raise _refusal(
                case,
                f"{place}: derived column {derived!r} depends on other rows, but a source is read in parts. "
                f"Compute it in a function of feature_views.",
            )
    _check_rules(case, place, source, types)
    _check_expectations(case, name, source)
    _check_last_known(case, name, source, types)
    if source.known_at is not None:
        _expect_moment(case, f"{place}: known_at", source.known_at, types, f"source {name!r}")
        if not is_of_one_row(source.known_at):
            raise _refusal(case, f"{place}: known_at depends on other rows, but a source is read in parts. Rewrite it.")


def _check_rules(case: "UseCase", place: str, source: Source, types: Mapping[str, pl.DataType]) -> None:
    for name, rule in source.rules.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise _refusal(case, f"{place}: rule {name!r}: use a-z, 0-9 and _, beginning with a letter.")
        given = dtype_of(rule, types, f"Use case {case.name}: {place}: rule {name!r}", place)
        if given != pl.Boolean:
            raise _refusal(case, f"{place}: rule {name!r} is of type {given}. Write what must hold, as a comparison.")
        if not is_of_one_row(rule):
            raise _refusal(
                case,
                f"{place}: rule {name!r} depends on other rows, but a source is read in parts. Expectations (expects) "
                f"are of rows together.",
            )


def _check_last_known(case: "UseCase", name: str, source: Source, types: Mapping[str, pl.DataType]) -> None:
    """What is filled in comes after the rows were judged one by one, and no request is filled in."""
    for asked in source.last_known:
        place, column = f"source {name!r}: last_known of {asked.column!r}", source.column(asked.column)
        expect_types(asked, f"Use case {case.name}: {place}")
        _expect_columns(case, place, (asked.column, *asked.by), types)
        if not asked.by:
            raise _refusal(case, f"{place}: by is empty. Name the columns that say of what a value is known.")
        if source.known_at is None:
            raise _refusal(case, f"{place}: what is known last is told by known_at. Give the source known_at.")
        if column is None or not column.nullable or asked.column in asked.by:
            raise _refusal(case, f"{place}: it must be a column of the files, nullable, and none of by.")
        if asked.within is not None and asked.within <= timedelta():
            raise _refusal(case, f"{place}: within is {asked.within}. Give a time above zero, or leave it out.")
        if used := _uses_before(source, asked.column):
            raise _refusal(
                case, f"{place}: {used} needs it before it is filled in. Take another, or make it a feature."
            )
        if name == case.main_source and asked.column in case.request_columns():
            raise _refusal(case, f"{place}: callers send it, and a request is not filled in. Make it a feature.")
    if len({asked.column for asked in source.last_known}) < len(source.last_known):
        raise _refusal(case, f"source {name!r}: last_known names a column twice. Say once what it is taken from.")


def _uses_before(source: Source, column: str) -> str:
    """What of a source is computed from a column when its rows are judged or counted; "" if nothing is."""
    expressions = {f"derived column {one!r}": expression for one, expression in source.derived.items()}
    expressions |= {f"rule {one!r}": rule for one, rule in source.rules.items()}
    if source.known_at is not None:
        expressions["known_at"] = source.known_at
    used = [what for what, expression in expressions.items() if column in expression.meta.root_names()]
    used += ["its key"] if column in source.key else []
    used += ["keep_by"] if column == source.keep_by else []
    return next(iter(used), "")


def _check_expectations(case: "UseCase", name: str, source: Source) -> None:
    place, types = f"source {name!r}: expects", column_types(case, name)
    expect_types(source.expects, f"Use case {case.name}: {place}")
    if source.expects.max_age is not None and source.known_at is None:
        raise _refusal(case, f"{place}: max_age asks when rows became known. Give the source known_at.")
    for check in source.expects.checks:
        expect_types(check, f"Use case {case.name}: {place}: {type(check).__name__}")
        match check:
            case Unique(columns):
                _expect_columns(case, place, columns, types)
            case NeverFalls(column, along, by):
                _expect_columns(case, place, (column, along, *by), types)
            case References(columns, other, of):
                if other not in case.sources or other == name:
                    others = [known for known in case.sources if known != name]
                    raise _refusal(case, f"{place}: {other!r} is no other source. {nearest(other, others)}")
                _expect_columns(case, place, columns, types)
                there = column_types(case, other)
                _expect_columns(case, f"{place}: source {other!r}", of or columns, there)
                pairs = list(zip(columns, of or columns, strict=False))
                if len(of or columns) != len(columns) or any(types[own] != there[its] for own, its in pairs):
                    raise _refusal(case, f"{place}: {check} must pair columns of the same types. Give `of` for each.")


def _expect_columns(case: "UseCase", place: str, columns: Collection[str], types: Mapping[str, pl.DataType]) -> None:
    if not columns:
        raise _refusal(case, f"{place}: a check names no columns. Name at least one.")
    for column in columns:
        if column not in types:
            raise _refusal(case, f"{place}: {column!r} is no column of it. {nearest(column, types)}")


def _check_keys(case: "UseCase") -> None:
    """Entities and event time: what a caller sends, so known before the fact, and told apart from what we add."""
    types, outcomes = column_types(case, case.main_source), outcomes_of(case)
    for what, name in (*(("entity", name) for name in case.entities), ("event_time", case.event_time)):
        if name not in types:
            raise _refusal(
                case, f"{what} {name!r} is not a column of source {case.main_source!r}. {nearest(name, types)}"
            )
        if name in outcomes:
            raise _refusal(
                case,
                f"{what} {name!r} is known only after the fact (outcome=True, or derived from such a column). "
                f"Use a column that a caller knows.",
            )
        _expect_not_reserved(case, what, name)
    for name in case.entities:
        if name == case.event_time:
            raise _refusal(case, f"{name!r} is an entity and the event_time. Leave it out of entities.")
        if not (types[name] == pl.String or types[name] == pl.Boolean or types[name].is_integer()):
            raise _refusal(
                case,
                f"entity {name!r} is of type {types[name]}, which does not identify things exactly. "
                f'Declare it as "text" or "integer".',
            )
    if not _is_moment(types[case.event_time]):
        raise _refusal(
            case,
            f"event_time {case.event_time!r} is of type {types[case.event_time]}, not {_MOMENT}. "
            f'Declare it as "timestamp", or derive one.',
        )


def _check_label(case: "UseCase") -> None:
    types, source = column_types(case, case.main_source), f"source {case.main_source!r}"
    given = dtype_of(case.label.value, types, f"Use case {case.name}: label {case.label.name!r}", source)
    if not case.label.task.reads(given):
        raise _refusal(
            case,
            f"label {case.label.name!r} is of type {given}, which is no label of the kind {case.label.task.kind}. "
            f"{case.label.task.advice} Or declare another task: Binary(), MultiClass(classes) or Regression().",
        )
    Column("label", **case.label.task.told_as)  # raises where what is told could never be read as a class
    _expect_metric(case, "metric", case.metric)
    _expect_choosing(case, "metric", case.metric)
    _expect_moment(case, f"label {case.label.name!r}: known_at", case.label.known_at, types, source)
    if case.label.told is not None:
        _check_told(case, case.label.told)


def _expect_metric(case: "UseCase", place: str, name: str, biased: bool = False) -> None:
    known = [metric for metric, one in case.label.task.metrics.items() if biased or not one.biased]
    if name not in known:
        raise _refusal(case, f"{place} is {name!r}. {nearest(name, known)}")


def _expect_choosing(case: "UseCase", place: str, name: str) -> None:
    metrics = case.label.task.metrics
    if not metrics[name].chooses:
        *others, last = (other for other, one in metrics.items() if one.chooses and not one.biased)
        raise _refusal(
            case,
            f"{place} is {name!r}, which an interval is made to have, whatever the model. Take one that says how good "
            f"it is: {', '.join(others)} or {last}.",
        )


def _check_told(case: "UseCase", name: str) -> None:
    keys = {*case.entities, case.event_time}
    if name not in case.sources or name == case.main_source:
        others = ", ".join(list(case.sources)[1:]) or "there is none"
        raise _refusal(
            case, f"label {case.label.name!r}: told is {name!r}, which is no source beside the first ({others})."
        )
    source = case.sources[name]
    if set(source.key) != keys or not {"label", "known_at"} <= set(column_types(case, name)):
        raise _refusal(
            case,
            f"label {case.label.name!r}: source {name!r} of what was told needs the key "
            f"{', '.join(sorted(keys))} and the columns label and known_at. Declare it with told_labels.",
        )
    told = column_types(case, name)["label"]
    if not case.label.task.reads(told):
        raise _refusal(
            case,
            f"label {case.label.name!r}: in source {name!r} of what was told it is of type {told}, which is no label "
            f"of the kind {case.label.task.kind}. Give told_labels the task of the label.",
        )


def _check_request_features(case: "UseCase") -> None:
    types, outcomes = column_types(case, case.main_source), outcomes_of(case)
    known = {name: type_ for name, type_ in types.items() if name not in outcomes}
    for name, expression in case.features_of_request().items():
        place = f"request feature {name!r}"
        _expect_not_reserved(case, "request feature", name)
        if leaks := [root for root in expression.meta.root_names() if root in outcomes]:
            raise _refusal(
                case,
                f"{place} uses {leaks[0]!r}, which is known only after the fact (outcome=True, or derived from such a "
                f"column). Take it out; its history can be a feature view.",
            )
        given = dtype_of(expression, known, f"Use case {case.name}: {place}", f"source {case.main_source!r}")
        if name in case.entities and not expression.meta.eq(pl.col(name)):
            raise _refusal(case, f"{place} has the name of an entity but another value. Give it a name of its own.")
        if name == case.event_time:
            raise _refusal(case, f"{place} has the name of the event_time. Give it a name of its own.")
        if not (given.is_integer() or given.is_float() or given in (pl.Boolean, pl.String)):
            step = _NEXT_STEP.get(given.base_type(), "Make it a number, a boolean or a text")
            raise _refusal(case, f"{place} is of type {given}, and a model takes numbers, booleans and texts. {step}.")
        _expect_servable(case, place, expression)
    derived, features = case.sources[case.main_source].derived, case.features_of_request()
    for column in case.request_columns():
        _expect_not_reserved(case, "column", column)
        if column in derived and column not in (*case.entities, case.event_time, *features):
            raise _refusal(
                case,
                f"request features use the derived column {column!r}, which callers would have to send. Write it out "
                f"over the contract's columns.",
            )


def _expect_servable(case: "UseCase", place: str, expression: pl.Expr) -> None:
    if calls_python(expression):
        raise _refusal(
            case,
            f"{place} calls a Python function, which a server does not run. Write it with polars' own functions over "
            f"one row, or compute it in a feature view.",
        )
    if not is_of_one_row(expression):
        raise _refusal(
            case,
            f"{place} depends on other rows, and a request has one alone. Write it over one row, or compute it in a "
            f"feature view.",
        )


def _check_on_demand(case: "UseCase") -> None:
    """Names and expressions; what functions of views give is known when the training set is made."""
    known = {*case.entities, case.event_time, *case.features_of_request()}
    windowed = [view for view in case.feature_views.values() if isinstance(view, WindowedView)]
    known |= {name for view in windowed for name in view.aggregations}
    for name, expression in case.on_demand_features.items():
        place = f"on-demand feature {name!r}"
        _expect_not_reserved(case, "on-demand feature", name)
        if name in known:
            raise _refusal(case, f"{place} has the name of an entity, event_time or feature. Give it one of its own.")
        unknown = [root for root in expression.meta.root_names() if root not in known]
        if unknown and len(windowed) == len(case.feature_views):
            raise _refusal(case, f"{place} uses {unknown[0]!r}, which is none of these. {nearest(unknown[0], known)}")
        _expect_servable(case, place, expression)


def _check_gates(case: "UseCase") -> None:
    for gate in case.gates:
        expect_types(gate, f"Use case {case.name}: gate {type(gate).__name__}")
        if isinstance(gate, Threshold | NoSliceWorse | BetterThanChampion | BetterThanBaseline | Plausible):
            place = f"gate {type(gate).__name__}: metric"
            _expect_metric(case, place, gate.metric, biased=isinstance(gate, Threshold))
            if isinstance(gate, BetterThanBaseline):
                _expect_choosing(case, place, gate.metric)
            lower = case.label.task.metrics[gate.metric].lower_is_better
            if isinstance(gate, Plausible) and lower:
                raise _refusal(case, f"gate {gate} needs a metric of which more is better.")
        if isinstance(gate, Fairness) and case.label.task.threshold is None:
            raise _refusal(case, f"gate {gate} needs a label of yes and no: with others nobody is chosen.")
        if isinstance(gate, NoSliceWorse) and not case.slices:
            raise _refusal(case, f"gate {gate} needs slices. Declare them.")
        if isinstance(gate, Fairness) and gate.column not in case.slices:
            raise _refusal(case, f"gate {gate} needs the slice {gate.column!r}. Add it to slices.")
        if any(isinstance(value, float) and not math.isfinite(value) for value in vars(gate).values()):
            raise _refusal(case, f"gate {gate} has a limit that is not a number. Give a finite one.")
    for waiver in (w for gate in case.gates if isinstance(gate, NoVulnerability) for w in gate.waivers):
        expect_types(waiver, f"Use case {case.name}: waiver")
        if waiver.until.tzinfo is None or not waiver.reason.strip():
            raise _refusal(case, f"the waiver of {waiver.advisory} needs a reason and an end with a time zone.")
    if case.approval is None:
        return
    expect_types(case.approval, f"Use case {case.name}: approval")
    for name in ("expires_after", "min_rollout", "broken_glass_escalates_after", "broken_glass_ends_after"):
        duration = getattr(case.approval, name)
        if duration is not None and duration <= timedelta(0):
            raise _refusal(case, f"approval: {name} is {duration}. Give a time above 0.")
        if duration is not None and duration > LONGEST:
            raise _refusal(case, f"approval: {name} is {duration}. Give at most ten years ({LONGEST.days} days).")
    rate, steps = case.approval.max_error_rate, case.approval.min_rollout_steps
    if rate is not None and not 0 <= rate <= 1:
        raise _refusal(case, f"approval: max_error_rate is {rate}. Give a share from 0 to 1.")
    if steps is not None and steps < 1:
        raise _refusal(case, f"approval: min_rollout_steps is {steps}. Give at least 1, or None for no such rule.")
    if case.approval.min_approvers < 1:
        raise _refusal(case, f"approval: min_approvers is {case.approval.min_approvers}. Give at least 1.")


def _expect_moment(
    case: "UseCase", place: str, expression: pl.Expr, types: Mapping[str, pl.DataType], what: str
) -> None:
    given = dtype_of(expression, types, f"Use case {case.name}: {place}", what)
    if not _is_moment(given):
        zoneless = isinstance(given, pl.Datetime)
        step = (
            'Add .dt.replace_time_zone("UTC"), or its zone' if zoneless else "Give a timestamp column or a sum of one"
        )
        raise _refusal(
            case,
            f"{place} is of type {given}, not {_MOMENT}. {step}.",
        )


def _is_moment(type_: pl.DataType) -> bool:
    return isinstance(type_, pl.Datetime) and type_.time_zone is not None


def _expect_not_reserved(case: "UseCase", what: str, name: str) -> None:
    # A column for each class and each quantile is called so, such as probabilities.late.
    parted = name.startswith(("probabilities.", "quantiles."))
    by = RESERVED["probabilities"] if parted else RESERVED.get(name)
    if by is not None:
        raise _refusal(case, f"{what} {name!r} has a name that {by} use themselves. Give it another.")


def _twice(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
