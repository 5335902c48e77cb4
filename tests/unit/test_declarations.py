"""A declaration that cannot be carried out is refused where it is made, in one line that says what to write instead."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.batch import scoring
from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.labelled import labelled_rows
from mlops_ray.sdk.rows import _ADDED, _PARTS
from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.use_case import (
    Approval,
    BetterThanBaseline,
    Choice,
    Column,
    Fairness,
    Integer,
    Label,
    Latency,
    Monitoring,
    NoVulnerability,
    Resources,
    Retraining,
    Search,
    Serving,
    Source,
    Split,
    Threshold,
    Uniform,
    UseCase,
    Waiver,
    WindowSpec,
)
from mlops_ray.use_case.checks import RESERVED

COLUMNS = (
    Column("customer", "text"),
    Column("order", "integer"),
    Column("placed", "timestamp"),
    Column("birth", "timestamp", nullable=True),
    Column("amount", "number"),
    Column("country", "text", nullable=True),
    Column("gift", "boolean"),
    Column("delay", "number", nullable=True, outcome=True),
    Column("delivered", "timestamp", nullable=True, outcome=True),
)
DERIVED = {"late_by": pl.col("delivered") - pl.col("placed"), "day": pl.col("placed").dt.truncate("1d")}
ORDERS = Source("*.csv", COLUMNS, derived=DERIVED)
CASE = UseCase(
    name="orders",
    sources={"orders": ORDERS},
    entities=("customer", "order"),
    event_time="placed",
    label=Label("late", pl.col("delay") > 3, pl.col("delivered")),
    candidates=(LogisticRegression(),),
    request_features={"amount": pl.col("amount"), "hour": pl.col("placed").dt.hour(), "country": pl.col("country")},
)


def test_a_column_of_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UseCaseError, match=r"'int'.*'integer'"):
        replace(CASE, sources={"orders": Source("*.csv", (*COLUMNS, Column("age", "int")))})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reserved:
    """A case in which `name` is a column, an entity or the event time, so that it must not be."""

    name: str

    def source(self, type_: Any) -> dict[str, Source]:
        return {"orders": Source("*.csv", (*COLUMNS, Column(self.name, type_)))}


def features(**given: pl.Expr) -> dict[str, Any]:
    return {"request_features": given}


def source(**changes: Any) -> dict[str, Any]:
    return {"sources": {"orders": replace(ORDERS, **changes)}}


def label(value: pl.Expr, known_at: pl.Expr = pl.col("delivered")) -> dict[str, Any]:  # noqa: B008
    return {"label": Label("late", value, known_at)}


class Awkward:
    """A candidate without a space."""

    name = "awkward"

    def fit(self, *arguments: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Spaced(LogisticRegression):
    """A candidate with one parameter."""

    name: str = "c"
    space: Any = None


def spaced(parameter: Any) -> Spaced:
    return Spaced(space={parameter: Uniform(0, 1)})


WRONG: list[tuple[dict[str, Any], str]] = [
    # Names that are not there
    (label(pl.col("delai") > 3), "label 'late': column 'delai' is not in source 'orders'. Did you mean 'delay'?"),
    (label(pl.col("delay") > 3, pl.col("deliverd")), "known_at: column 'deliverd' is not in .*'delivered'"),
    (source(known_at=pl.col("plcaed")), "source 'orders': known_at: column 'plcaed' is not in .*'placed'"),
    (source(derived={"x": pl.col("amuont")}), "derived column 'x': column 'amuont' is not in .*'amount'"),
    (
        source(derived={**DERIVED, "x": pl.col("day")}),
        "column 'day' is not in the source's contract",
    ),
    (features(x=pl.col("amont") * 2), "request feature 'x': column 'amont' is not in source 'orders'.*'amount'"),
    (features(x=pl.sum_horizontal("amount", "xyzzy")), "column 'xyzzy' is not in .*Known: amount"),
    ({"entities": ("custmer",)}, "entity 'custmer' is not a column of source 'orders'. Did you mean 'customer'?"),
    ({"event_time": "place"}, "event_time 'place' is not a column .*'placed'"),
    ({"slices": ("county",)}, "slice 'county' is not a request column or feature. Did you mean 'country'?"),
    ({"slices": ("delay",)}, "slice 'delay' is not a request column"),
    ({"monitoring": Monitoring(slices=("county",))}, "monitoring's slice 'county' is not .*'country'"),
    ({"monitoring": Monitoring(seasonal={"hours": "hour"})}, "seasonal 'hours' is not a feature. Did you mean 'hour'"),
    # What is known only after the fact
    (features(z=pl.col("delay")), "request feature 'z' uses 'delay', which is known only after the fact"),
    (features(z=pl.col("amount") + pl.col("delay").fill_null(0)), "'z' uses 'delay'"),
    (features(z=pl.col("late_by").dt.total_days()), "'z' uses 'late_by'"),
    ({"entities": ("customer", "delivered")}, "entity 'delivered' is known only after the fact"),
    ({"event_time": "delivered"}, "event_time 'delivered' is known only after the fact"),
    ({**label(pl.col("gift"), pl.col("placed")), **features(z=pl.col("gift"))}, "'z' uses 'gift'"),
    # Types
    (features(age=pl.col("placed") - pl.col("birth")), "'age' is of type Duration.*dt.total_days()"),
    (features(x=pl.col("placed").dt.date()), "'x' is of type Date.*dt.month()"),
    (features(x=pl.col("placed").dt.time()), "'x' is of type Time.*dt.hour()"),
    (features(x=pl.col("birth")), "'x' is of type Datetime.*dt.hour()"),
    (features(x=pl.col("country").str.split("-")), "'x' is of type List.*list.first()"),
    (features(x=pl.struct("country", "amount")), "'x' is of type Struct.*struct.field()"),
    (features(x=pl.col("country").cast(pl.Categorical)), "'x' is of type Categorical.*cast\\(pl.String\\)"),
    (features(x=pl.col("country").cast(pl.Enum(["a"]))), "'x' is of type Enum.*cast\\(pl.String\\)"),
    (features(x=pl.col("amount").cast(pl.Decimal(9, 2))), "'x' is of type Decimal.*cast\\(pl.Float64\\)"),
    (features(x=pl.col("country").cast(pl.Binary)), "'x' is of type Binary.*a number, a boolean or a text"),
    (features(x=pl.lit(None)), "'x' is of type Null.*leave it out"),
    (
        label(pl.col("delay")),
        "label 'late' is of type Float64, which is no label of the kind binary. .*pl.col\\(\"delay\"\\) >= 15",
    ),
    (label(pl.col("order")), "label 'late' is of type Int64"),
    (label(pl.col("country")), "label 'late' is of type String"),
    (label(pl.col("delay") > 3, pl.col("amount")), "known_at is of type Float64, not a moment"),
    (
        label(pl.col("delay") > 3, pl.col("delivered").dt.replace_time_zone(None)),
        "known_at is of type Datetime.*add|Add",
    ),
    (source(known_at=pl.col("placed").dt.date()), "known_at is of type Date, not a moment"),
    ({"event_time": "amount"}, "event_time 'amount' is of type Float64, not a moment .*\"timestamp\""),
    ({"entities": ("amount",)}, "entity 'amount' is of type Float64, which does not identify"),
    ({"entities": ("customer", "birth")}, "entity 'birth' is of type Datetime"),
    # What polars refuses, and the user's functions
    (label(pl.col("country") > 3), "label 'late': ComputeError: cannot compare string with numeric type"),
    (features(x=pl.col("country").dt.hour()), "'x': InvalidOperationError: `hour` operation"),
    (source(derived={"x": pl.col("amount").map_batches(lambda _: 1 / 0, return_dtype=pl.Int64)}), "division by zero"),
    # More than one row, or column
    (features(x=pl.col("amount") - pl.col("amount").mean()), "'x' depends on other rows, and a request has one alone"),
    (features(x=pl.col("amount") - pl.col("amount").shift()), "'x' depends on other rows"),
    (features(x=pl.col("amount").sum().over("country")), "'x' depends on other rows"),
    (features(x=pl.col("amount").filter(pl.col("gift"))), "'x' depends on other rows"),
    (features(x=pl.col("amount").map_elements(abs, return_dtype=pl.Float64)), "polars' own functions"),
    (features(x=pl.col("day").dt.weekday()), "use the derived column 'day', which callers would have to send"),
    (features(x=pl.all()), "'x' names several columns at once"),
    (features(x=pl.col("^a.*$")), "'x' names several columns at once"),
    (source(derived={"x": pl.col("amount").rank()}), "derived column 'x' depends on other rows, .*feature_views"),
    (source(known_at=pl.col("placed").max()), "known_at depends on other rows"),
    # Reserved names and names that stand twice
    *((features(**{name: pl.col("amount")}), f"request feature '{name}' has a name that") for name in RESERVED),
    *(
        ({"sources": Reserved(name).source("text"), "entities": (name,)}, f"entity '{name}' has a name that")
        for name in RESERVED
    ),
    *(
        ({"sources": Reserved(name).source("timestamp"), "event_time": name}, f"event_time '{name}' has a name that")
        for name in RESERVED
    ),
    ({"sources": Reserved("row").source("number"), **features(x=pl.col("row") + 1)}, "column 'row' has a name that"),
    ({"entities": ("customer", "placed")}, "'placed' is an entity and the event_time"),
    (features(placed=pl.col("amount")), "'placed' has the name of the event_time"),
    (features(customer=pl.col("customer").str.to_lowercase()), "'customer' has the name of an entity"),
    (
        {"candidates": (LogisticRegression(), LogisticRegression())},
        "candidates have .*'logistic_regression' twice",
    ),
    ({"candidates": (LogisticRegression(), GradientBoosting("logistic_regression"))}, "'logistic_regression' twice"),
    ({"entities": ("customer", "customer")}, "entities have the name 'customer' twice"),
    ({"slices": ("country", "country")}, "slices have the name 'country' twice"),
    # Values and types of arguments
    ({"name": "../orders"}, "a-z, 0-9"),
    ({"name": 3}, "a-z, 0-9"),
    ({"metric": "f1"}, "metric is 'f1'. Known: average_precision, brier, log_loss, roc_auc"),
    ({"metric": "roc-auc"}, "metric is 'roc-auc'. Did you mean 'roc_auc'?"),
    ({"entities": "customer"}, "entities is 'customer', which is no tuple. Write \\('customer',\\)"),
    ({"entities": ["customer"]}, "entities is .*no tuple. Write \\('customer',\\)"),
    ({"entities": ("customer", 3)}, "entities is .*item 1 of tuple .*must be of type tuple\\[str, ...\\]"),
    ({"entities": ()}, "entities is empty"),
    ({"slices": "country"}, "slices is 'country', which is no tuple"),
    ({"candidates": LogisticRegression()}, "candidates is LogisticRegression.*no tuple"),
    ({"candidates": ("logistic_regression",)}, "candidates is .*Candidate protocol .*no method named 'fit'"),
    ({"candidates": (Awkward(),)}, "candidate 'awkward' has the space None"),
    ({"candidates": (LogisticRegression(name="a/../b"),)}, "candidate 'a/../b' cannot be recorded. Take at most 100"),
    ({"candidates": (LogisticRegression(name="régression"),)}, "candidate 'régression' cannot be recorded"),
    ({"candidates": (LogisticRegression(name=" a"),)}, "candidate ' a' cannot be recorded"),
    ({"candidates": (spaced("depth (max)"),)}, r"candidate 'c': parameter 'depth \(max\)' cannot be recorded"),
    ({"candidates": (spaced("a:b"),)}, "parameter 'a:b' cannot be recorded"),
    ({"candidates": (spaced("x" * 101),)}, "cannot be recorded. Take at most 100"),
    ({"candidates": (spaced(3),)}, "parameter 3 cannot be recorded"),
    ({"candidates": (spaced("candidate"),)}, "parameter 'candidate' is recorded as the candidate's name. Rename it"),
    ({"candidates": ()}, "candidates is empty"),
    ({"sources": {}}, "sources is empty"),
    ({"sources": {"orders": COLUMNS}}, "sources is .*Source"),
    ({"lead_time": 2}, "lead_time is 2. It must be of type timedelta"),
    ({"lead_time": timedelta(hours=-2)}, "lead_time is .*made after 'placed'"),
    ({"request_features": {"x": "amount"}}, "request_features is .*Mapping\\[str, Expr\\]"),
    ({"label": pl.col("delay") > 3}, "label is .*must be of type Label"),
    ({"feature_views": {"a": lambda: None}, "feature_service": "x"}, "feature_views is .*too few arguments"),
    ({"feature_service": "x"}, "go together"),
    ({"split": 30}, "split is 30. It must be of type Split"),
    ({"gates": (Threshold("auc", 0.5),)}, "gate Threshold: metric is 'auc'. Did you mean 'roc_auc'?"),  # type: ignore[arg-type]
    ({"gates": (Threshold("roc_auc", float("nan")),)}, "not a number"),
    ({"gates": (Latency("10"),)}, "gate Latency: limit_ms is '10'. It must be of type float"),  # type: ignore[arg-type]
    ({"gates": (Fairness("country", 0.1),)}, "needs the slice 'country'"),
    ({"gates": (NoVulnerability("severe"),)}, "environment_from is 'severe'. Known: critical"),  # type: ignore[arg-type]
    ({"gates": (NoVulnerability(waivers=(Waiver("x", datetime(2030, 1, 1), "y"),)),)}, "a time zone"),
    ({"approval": Approval(role="boss")}, "approval: role is 'boss'. Known: admin"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_what_cannot_be_is_refused_where_it_is_declared(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UseCaseError, match=message) as caught:
        replace(CASE, **change)
    text = str(caught.value)
    assert text.startswith("Use case "), text
    assert "\n" not in text
    assert text[-1] in ".?" or "Error: " in text, text


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Search(trials_per_candidate=0), "trials_per_candidate is 0. Give 1 or more"),
        (lambda: Search(trials_per_candidate=2.5), "trials_per_candidate is 2.5. It must be of type int"),  # type: ignore[arg-type]
        (lambda: Search(reduction_factor=1), "reduction_factor is 1.*above 1"),
        (lambda: Search(reduction_factor=float("nan")), "reduction_factor is nan.*above 1"),
        (lambda: Search(seed=-1), "seed is -1"),
        (lambda: Search(seconds=0), "seconds is 0. Give a number above 0"),
        (lambda: Search(cpu_seconds=float("inf")), "cpu_seconds is inf. Give a number above 0"),
        (lambda: Search(trial_seconds=-1.0), "trial_seconds is -1.0"),
        (lambda: Search(cost=0), "cost is 0. Give a number above 0"),
        (lambda: Search(cost=-5.0), "cost is -5.0. Give a number above 0"),
        (lambda: Search(cost=float("nan")), "cost is nan. Give a number above 0"),
        (lambda: Search(cost=float("inf")), "cost is inf. Give a number above 0"),
        (lambda: Search(cost=True), "cost is True. Give a number above 0"),
        (lambda: Search(cost="5 EUR"), "cost is '5 EUR'. It must be of type float | None"),  # type: ignore[arg-type]
        (lambda: Search(last_fit_seconds=0), "last_fit_seconds is 0. Give a number above 0"),
        (lambda: Search(ensemble=11), "ensemble is 11.*1 .none. to 10"),
        (lambda: Search(resources={"trees": 2}), "resources is .*Resources"),  # type: ignore[dict-item]
        (lambda: Resources(cpus=0), "cpus is 0. Give 1 or more"),
        (lambda: Resources(gpus=1.5), "gpus is 1.5. Give a part of one"),
        (lambda: Resources(memory_gb=float("nan")), "memory_gb is nan. Give a number above 0"),
        (lambda: Split(test=timedelta(0)), "test is 0:00:00"),
        (lambda: Split(validation=timedelta(days=-1)), "validation is -1 day"),
        (lambda: Split(gap=timedelta(days=-1)), "gap is -1 day"),
        (lambda: Split(test=30), "test is 30. It must be of type timedelta"),  # type: ignore[arg-type]
        (lambda: Uniform(1, 1), "low is 1 and high is 1"),
        (lambda: Uniform(2.0, 1.0), "Uniform: low is 2.0 and high is 1.0"),
        (lambda: Uniform(0, 1, log=True), "low is 0, which has no logarithm"),
        (lambda: Uniform(0, float("inf")), "both finite"),
        (lambda: Integer(5, 4), "Integer: low is 5 and high is 4"),
        (lambda: Integer(-1, 4, log=True), "no logarithm"),
        (lambda: Integer(1, 2.5), "high is 2.5. It must be of type int"),  # type: ignore[arg-type]
        (lambda: Choice(()), "values is empty"),
        (lambda: Choice(("a", "a")), "each of them once"),
        (lambda: Choice((1, True)), r"each of them once \(1 and True are equal\)"),
        (lambda: Choice((float("nan"), 1.0)), "NaN is equal to nothing. Leave it out"),
        (lambda: Choice("abc"), "values is 'abc', which is no tuple"),  # type: ignore[arg-type]
        (lambda: Label("late", "delay > 3", pl.col("t")), "Label: value is 'delay > 3'. It must be of type Expr"),  # type: ignore[arg-type]
        (lambda: Serving(store_down="ignore"), "store_down is 'ignore'. Known: missing, refuse"),  # type: ignore[arg-type]
        (lambda: Serving(batch_rows=0), "batch_rows 0"),
        (lambda: Monitoring(number_detector="ks"), "number_detector is 'ks'. Known"),  # type: ignore[arg-type]
        (lambda: Monitoring(error_detectors=("adwine",)), "error_detectors is .*item 0"),  # type: ignore[arg-type]
        (lambda: Monitoring(seasonal={"hour": "day"}), "seasonal is .*'hour'"),  # type: ignore[dict-item]
        (lambda: WindowSpec(rows="5000"), "rows is '5000'"),  # type: ignore[arg-type]
        (lambda: Retraining(every=30), "every is 30"),  # type: ignore[arg-type]
    ],
)
def test_a_part_of_a_declaration_is_checked_where_it_is_made(declare: Callable[[], Any], message: str) -> None:
    with pytest.raises(UseCaseError, match=message) as caught:
        declare()
    assert "\n" not in str(caught.value)


RIGHT: list[dict[str, Any]] = [
    {"request_features": None},
    {"entities": ("gift", "order")},
    {"event_time": "day"},
    features(x=pl.lit(1), weekend=pl.col("placed").dt.weekday() > 5),
    features(customer=pl.col("customer")),
    features(x=pl.when(pl.col("gift")).then(pl.col("amount")).otherwise(0)),
    features(x=pl.col("country").is_in(["NA", "DE"]), y=pl.coalesce("country", pl.lit("none"))),
    features(
        x=pl.col("order").is_in(pl.Series([1, 2]).implode()),
        y=pl.col("placed").dt.convert_time_zone("Asia/Tokyo").dt.hour(),
    ),
    # Labels may look at other rows, such as a customer's next order: they are made over the whole snapshot.
    label((pl.col("delay").shift(-1).over("customer") > 3), pl.col("delivered").shift(-1).over("customer")),
    {"sources": {"orders": replace(ORDERS, columns=(*COLUMNS, Column("label", "boolean", outcome=True)))}},
    {"slices": ("country", "hour", "customer"), "monitoring": Monitoring(seasonal={"hour": "hour"})},
    # With a feature service its features are not known yet.
    {"slices": ("anything",), "feature_views": {"a": lambda tables: None}, "feature_service": "orders"},
    source(derived={**DERIVED, "x": pl.col("amount").map_elements(abs, return_dtype=pl.Float64)}),
]


@pytest.mark.parametrize("change", RIGHT, ids=lambda change: " ".join(change))
def test_what_can_be_is_accepted(change: dict[str, Any]) -> None:
    replace(CASE, **change)


def test_every_name_that_we_add_is_reserved() -> None:
    assert {LABEL, LABEL_KNOWN_AT, PREDICTION_TIME, scoring.AS_OF, *scoring._ADDED} <= set(RESERVED)
    parts = MultiClass(("early", "on time", "late"))
    tasks = (Binary(), parts, Regression(coverage=0.8, quantiles=(0.5,), margins=(-1.0, 1.0)))
    assert {name for task in tasks for name in task.output_types} | {*_PARTS, *_ADDED} <= set(RESERVED)
    for name in {*scoring._answer_names(parts)} - set(RESERVED):
        with pytest.raises(UseCaseError, match=f"request feature '{name}' has a name that answers use themselves"):
            replace(CASE, **features(**{name: pl.col("amount")}))


@pytest.mark.parametrize("name", ["high", "low", "reasons", "missing_features"])
def test_a_column_that_scoring_would_refuse_is_refused_where_it_is_declared(name: str) -> None:
    sources, given = Reserved(name).source("number"), features(amount=pl.col(name))
    with pytest.raises(UseCaseError, match=f"column '{name}' has a name that answers use themselves"):
        replace(CASE, sources=sources, **given)


DAYS = Label("days", pl.col("delay"), pl.col("delivered"), task=Regression("days", coverage=0.8))


def test_models_are_not_chosen_by_a_share_that_intervals_are_made_to_have() -> None:
    message = (
        "metric is 'coverage', which an interval is made to have, whatever the model. Take one that says how good it "
        "is: mean_absolute_error, root_mean_squared_error or r2."
    )
    with pytest.raises(UseCaseError, match=f"Use case orders: {re.escape(message)}$"):
        replace(CASE, label=DAYS, metric="coverage")
    with pytest.raises(UseCaseError, match=f"gate BetterThanBaseline: {re.escape(message)}$"):
        replace(CASE, label=DAYS, metric="r2", gates=(BetterThanBaseline("coverage"),))
    replace(CASE, label=DAYS, metric="r2", gates=(Threshold("coverage", 0.75),))


DTYPES = {
    pl.Duration: pl.col("placed") - pl.col("birth"),
    pl.Datetime: pl.col("birth"),
    pl.Int64: pl.col("order"),
    pl.Int8: pl.col("placed").dt.hour(),
    pl.Float64: pl.col("amount"),
    pl.String: pl.col("country"),
    pl.Boolean: pl.col("gift"),
}


@given(st.lists(st.sampled_from([pl.Duration, pl.Datetime, pl.Int64, pl.Int8, pl.Float64, pl.String, pl.Boolean])))
def test_only_numbers_booleans_and_texts_are_features(types: list[Any]) -> None:
    wanted = {f"x{number}": DTYPES[type_] for number, type_ in enumerate(types)}
    if {pl.Duration, pl.Datetime} & set(types):
        with pytest.raises(UseCaseError, match="a model takes numbers, booleans and texts"):
            replace(CASE, request_features=wanted)
    else:
        assert list(replace(CASE, request_features=wanted).features_of_request()) == list(wanted)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def rows(**columns: Any) -> pl.DataFrame:
    """Orders as a snapshot has them."""
    height = len(next(iter(columns.values())))
    given = {"customer": ["a"], "order": [1], "placed": [NOW], "amount": [1.0], "country": ["DE"], "delivered": [NOW]}
    return pl.DataFrame({name: value * height for name, value in given.items()} | columns, strict=False)


def test_a_label_that_is_no_boolean_over_the_data_is_refused_and_never_cast() -> None:
    """Whatever the contract said: 0, 12.5 and -3 are not false, true and true."""
    case = replace(CASE, label=Label("late", pl.col("gift"), pl.col("delivered")))
    with pytest.raises(UseCaseError, match=r"label 'late' gives a Float64 over these rows\. Write a"):
        labelled_rows(case, rows(gift=[0, 12.5, -3]), NOW)
    assert labelled_rows(case, rows(gift=[True, False, None]), NOW)[LABEL].to_list() == [True, False]


def test_a_label_that_fails_on_the_data_is_the_users() -> None:
    value = (pl.col("delay") > 3) & (pl.col("country").str.to_integer(strict=True) > 0)
    case = replace(CASE, label=Label("late", value, pl.col("delivered")))
    with pytest.raises(UseCaseError, match=r"^Use case orders: label 'late': .*strict integer parsing") as caught:
        labelled_rows(case, rows(delay=[1.0]), NOW)
    assert "\n" not in str(caught.value)


def test_a_constant_label_counts_for_every_row() -> None:
    case = replace(CASE, label=Label("late", pl.lit(True), pl.col("delivered")))
    assert labelled_rows(case, rows(delay=[1.0, 2.0]), NOW)[LABEL].to_list() == [True, True]


def test_resources_and_averages_go_by_the_names_of_candidates() -> None:
    with pytest.raises(UseCaseError, match=r"resources are for .logistic_regresion..*logistic_regression"):
        replace(CASE, search=Search(resources={"logistic_regresion": Resources(cpus=2)}))
    with pytest.raises(UseCaseError, match="a candidate is called 'ensemble'"):
        replace(CASE, candidates=(GradientBoosting(name="ensemble"),))
