"""Every field of a use case and of the settings, changed alone: exactly these steps run again, and no other.

What earlier steps gave stays as it was, as it does when their results turn out the same. A field that is added fails
here until the table says which steps it concerns.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mlops_ray.use_case as declared
from mlops_ray.artifacts import digest_json
from mlops_ray.config import Prices, Settings
from mlops_ray.features.definitions import Definitions
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.ingestion.sql_table import SqlTable
from mlops_ray.pipeline.pipeline import PIPELINE
from mlops_ray.pipeline.steps.step import Given, StepName
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.use_case import (
    Aggregation,
    Approval,
    BetterThanBaseline,
    BetterThanChampion,
    Binary,
    Choice,
    Column,
    DividedView,
    Expectations,
    Fairness,
    Fit,
    Gains,
    Integer,
    Label,
    LastKnown,
    Latency,
    Monitoring,
    NeverFalls,
    NoSliceWorse,
    NoVulnerability,
    OnnxParity,
    Plausible,
    References,
    Resources,
    Retraining,
    Schedule,
    Search,
    Serving,
    Source,
    Split,
    Tables,
    Threshold,
    Uniform,
    Unique,
    UseCase,
    Waiver,
    WindowedView,
    WindowSpec,
    windowed_views,
)

NONE: set[StepName] = set()
INGEST: set[StepName] = {"ingest"}
KNOWN: set[StepName] = {"ingest", "training_set"}  # in which what is known when is looked at
VIEWS: set[StepName] = {"features", "training_set"}
LEAKS: set[StepName] = {"training_set"}
COLUMNS: set[StepName] = {"ingest", "training_set", "evaluate"}
REQUEST: set[StepName] = {"training_set", "evaluate"}
SPLIT: set[StepName] = {"train", "evaluate", "register"}
CANDIDATE: set[StepName] = {"train", "evaluate"}
TRAIN: set[StepName] = {"train"}
KIND: set[StepName] = {"training_set", "train", "evaluate", "register"}
SEALED: set[StepName] = {"evaluate"}
ASKED: set[StepName] = {"evaluate", "register"}
DAYS: set[StepName] = {"evaluate", "register"}
VERSION: set[StepName] = {"register"}
ONLINE: set[StepName] = {"materialize"}
DEFINITIONS: set[StepName] = {"features", "training_set", "materialize"}
UNTIL = datetime(2030, 1, 1, tzinfo=UTC)


def view(tables: Tables) -> pl.DataFrame:
    return tables["orders"].select("customer", "event_timestamp")


def another_view(tables: Tables) -> pl.DataFrame:
    return tables["orders"].select("customer", "event_timestamp", "amount")


PEOPLE = Source("people.csv", (Column("customer", "text"), Column("name", "text")))
RECENT = windowed_views(
    "spent", "orders", ("customer",), [timedelta(days=1)], {"sum": Aggregation("sum", pl.col("amount"))}, pl.col("at")
)
CASE = UseCase(
    name="orders",
    owner="shop@example.org",
    sources={
        "orders": Source(
            "orders_*.csv",
            (
                Column("amount", "number", minimum=0, maximum=10, choices=()),
                Column("customer", "text"),
                Column("at", "timestamp"),
                Column("returned", "boolean", outcome=True),
                Column("note", "text", nullable=True, outcome=True),
                Column("memo", "text", nullable=True, outcome=True),
            ),
            key=("customer", "at"),
            last_known=(LastKnown("note", by=("customer",)),),
            derived={"late": pl.col("at").dt.offset_by("1d")},
            known_at=pl.col("at"),
            expects=Expectations(
                checks=(Unique(("amount",)), NeverFalls("at", "at"), References(("customer",), "people"))
            ),
        ),
        "people": PEOPLE,
        "others": PEOPLE,
    },
    entities=("customer",),
    event_time="at",
    label=Label("returned", pl.col("returned"), pl.col("at")),
    candidates=(
        GradientBoosting(space={"rate": Uniform(0.1, 1.0), "depth": Integer(2, 5), "kind": Choice(("a", "b"))}),
        LogisticRegression(),
    ),
    request_features={"amount": pl.col("amount"), "double": pl.col("amount") * 2},
    feature_views={"customer": view, "mine": DividedView(view, by=("customer",)), **RECENT},
    feature_service="orders",
    slices=("amount",),
    gates=(
        OnnxParity(),
        Threshold("roc_auc", 0.6),
        NoSliceWorse("roc_auc", 0.6),
        BetterThanChampion(),
        BetterThanBaseline(),
        Latency(10),
        Fairness("amount", 0.1),
        NoVulnerability(waivers=(Waiver("CVE-1", UNTIL, "looked at"),)),
        Plausible(),
    ),
    approval=Approval(),
    retraining=Retraining(),
    schedules={"features": Schedule("0 5 * * *")},
    monitoring=Monitoring(windows=(WindowSpec(rows=5_000, panes=2),)),
)

# Class and field: another value, and the steps that run again.
USE_CASE: dict[tuple[type, str], tuple[Any, set[StepName]]] = {
    (UseCase, "name"): ("others", {"ingest", "features", "training_set", "train", "evaluate", "register"}),
    (UseCase, "sources"): (
        {**CASE.sources, "more": Source("more.csv", (Column("a", "text"),))},
        KNOWN,
    ),
    (UseCase, "entities"): (("customer", "amount"), REQUEST),
    (UseCase, "event_time"): ("late", REQUEST),
    (UseCase, "label"): (Label("returned", ~pl.col("returned"), pl.col("at")), REQUEST),
    (UseCase, "candidates"): ((CASE.candidates[0],), TRAIN),
    (UseCase, "owner"): ("other@example.org", VERSION),
    (UseCase, "purpose"): ("Another purpose.", VERSION),
    (UseCase, "limits"): (("A limit.",), VERSION),
    (UseCase, "lead_time"): (timedelta(hours=1), REQUEST),
    (UseCase, "request_features"): ({"amount": pl.col("amount"), "twice": pl.col("amount") * 2}, REQUEST),
    (UseCase, "feature_views"): ({"customer": another_view}, VIEWS),
    (DividedView, "function"): (another_view, VIEWS),
    (DividedView, "by"): (("customer", "at"), VIEWS),
    (DividedView, "looks_back"): (timedelta(days=1), VIEWS),
    (WindowedView, "source"): ("people", VIEWS),
    (WindowedView, "keys"): (("amount",), VIEWS),
    (WindowedView, "window"): (timedelta(days=2), VIEWS),
    (WindowedView, "aggregations"): ({}, VIEWS),
    (Aggregation, "statistic"): ("max", VIEWS),
    (Aggregation, "of"): (pl.col("amount") * 2, VIEWS),
    (Aggregation, "known_at"): (pl.col("late"), VIEWS),
    (UseCase, "on_demand_features"): ({"square": pl.col("amount") ** 2}, REQUEST),
    (UseCase, "feature_service"): ("others", REQUEST),
    (UseCase, "metric"): ("average_precision", TRAIN),
    (UseCase, "split"): (Split(test=timedelta(days=9)), SPLIT),
    (UseCase, "search"): (Search(trials_per_candidate=9), TRAIN),
    (UseCase, "serving"): (Serving("missing"), SEALED),
    (UseCase, "slices"): (("amount", "customer"), SEALED),
    (UseCase, "time_zone"): ("America/New_York", DAYS),
    (UseCase, "gates"): ((OnnxParity(),), ASKED),
    (UseCase, "approval"): (None, VERSION),
    (UseCase, "monitoring"): (Monitoring(), SEALED),
    (UseCase, "retraining"): (None, NONE),
    (UseCase, "keep_predictions"): (timedelta(days=9), NONE),
    (UseCase, "leakage_waivers"): ({"amount": "known when it is ordered"}, LEAKS),
    (UseCase, "tier"): ("high", NONE),
    (UseCase, "review_every"): (timedelta(days=90), NONE),
    (UseCase, "schedules"): ({"ingest": Schedule("0 6 * * *")}, NONE),
    (Schedule, "cron"): ("0 7 * * *", NONE),
    (Schedule, "time_zone"): ("Europe/Berlin", NONE),
    (Schedule, "catch_up"): (True, NONE),
    (Schedule, "time_limit"): (timedelta(hours=1), NONE),
    (Source, "path"): ("orders_2025_*.csv", INGEST),
    (Source, "columns"): (CASE.sources["orders"].columns[::-1], COLUMNS),
    (Source, "key"): (("customer",), INGEST),
    (Source, "derived"): ({"late": pl.col("at").dt.offset_by("2d")}, KNOWN),
    (Source, "known_at"): (None, KNOWN),
    (Column, "name"): ("price", COLUMNS),
    (Column, "type"): ("integer", COLUMNS),
    (Column, "nullable"): (True, COLUMNS),
    (Column, "minimum"): (1.0, COLUMNS),
    (Column, "maximum"): (11.0, COLUMNS),
    (Column, "out_of_range"): ("null", COLUMNS),
    (Column, "choices"): (("a",), COLUMNS),
    (Column, "pattern"): ("a+", COLUMNS),
    (Column, "outcome"): (True, COLUMNS),
    (Column, "closed"): (True, COLUMNS),
    (Column, "personal"): ("omit", COLUMNS),
    (Column, "null_texts"): (("-",), COLUMNS),
    (Column, "format"): ("%d/%m/%Y", COLUMNS),
    (Column, "time_zone"): ("Europe/Berlin", COLUMNS),
    (Column, "clock_change"): ("earliest", COLUMNS),
    (Column, "unit"): ("ms", COLUMNS),
    (Column, "decimal_comma"): (True, COLUMNS),
    (Column, "thousands"): (".", COLUMNS),
    (Column, "text_form"): ("nfkc", COLUMNS),
    (Column, "replace"): ((("a", "b"),), COLUMNS),
    (Column, "default"): (2.0, COLUMNS),
    (Source, "delimiter"): (";", INGEST),
    (Source, "quote"): (None, INGEST),
    (Source, "encoding"): ("latin-1", INGEST),
    (Source, "header"): (False, INGEST),
    (Source, "keep"): ("last", INGEST),
    (Source, "keep_by"): ("at", INGEST),
    (Source, "reader"): (SqlTable("env:SHOP", "orders"), INGEST),
    (Source, "rules"): ({"paid": pl.col("amount") > 0}, INGEST),
    (Source, "expects"): (Expectations(min_rows=2), INGEST),
    (Source, "last_known"): ((), INGEST),
    (LastKnown, "column"): ("memo", INGEST),
    (LastKnown, "by"): (("customer", "amount"), INGEST),
    (LastKnown, "within"): (timedelta(days=1), INGEST),
    (Expectations, "max_age"): (timedelta(days=1), INGEST),
    (Expectations, "min_rows"): (3, INGEST),
    (Expectations, "max_change"): (0.5, INGEST),
    (Expectations, "max_quarantined"): (0.5, INGEST),
    (Expectations, "max_unreadable_files"): (1, INGEST),
    (Expectations, "checks"): ((Unique(("at",)),), INGEST),
    (Unique, "columns"): (("customer",), INGEST),
    (NeverFalls, "column"): ("amount", INGEST),
    (NeverFalls, "along"): ("amount", INGEST),
    (NeverFalls, "by"): (("customer",), INGEST),
    (References, "columns"): (("customer", "customer"), INGEST),
    (References, "source"): ("others", INGEST),
    (References, "of"): (("name",), INGEST),
    (Label, "name"): ("came_back", REQUEST),
    (Label, "value"): (pl.col("returned").not_(), REQUEST),
    (Label, "known_at"): (pl.col("at").dt.offset_by("1d"), REQUEST),
    (Label, "told"): ("people", REQUEST),
    (Label, "task"): (Binary(0.3), KIND),
    (Binary, "threshold"): (0.3, KIND),
    (Binary, "decision"): (Gains(true_positive=2.0, false_positive=-1.0), KIND),
    (Split, "test"): (timedelta(days=9), SPLIT),
    (Split, "gap"): (timedelta(days=9), SPLIT),
    (Split, "validation"): (timedelta(days=9), SPLIT),
    (Search, "trials_per_candidate"): (9, TRAIN),
    (Search, "reduction_factor"): (3.0, TRAIN),
    (Search, "seed"): (9, CANDIDATE),
    (Search, "rows"): (5_000, TRAIN),
    (Search, "seconds"): (60.0, TRAIN),
    (Search, "cpu_seconds"): (60.0, TRAIN),
    (Search, "cost"): (5.0, TRAIN),
    (Search, "trial_seconds"): (60.0, TRAIN),
    (Search, "last_fit_seconds"): (60.0, NONE),
    (Search, "resources"): (Resources(cpus=2), TRAIN),
    (Search, "ensemble"): (3, TRAIN),
    (Fit, "class_weights"): ("balanced", CANDIDATE),
    (Fit, "most_levels"): (50, CANDIDATE),
    (Fit, "half_life"): (timedelta(days=9), CANDIDATE),
    (Fit, "calibration"): ("platt", CANDIDATE),
    (Fit, "held_out"): (0.1, CANDIDATE),
    (Fit, "time_limit"): (timedelta(hours=1), CANDIDATE),
    (UseCase, "fit"): (Fit(held_out=0.2), CANDIDATE),
    (Resources, "cpus"): (2, TRAIN),
    (Resources, "gpus"): (1.0, TRAIN),
    (Resources, "memory_gb"): (2.0, TRAIN),
    (Uniform, "low"): (0.2, CANDIDATE),
    (Uniform, "high"): (2.0, CANDIDATE),
    (Uniform, "log"): (True, CANDIDATE),
    (Integer, "low"): (1, CANDIDATE),
    (Integer, "high"): (6, CANDIDATE),
    (Integer, "log"): (True, CANDIDATE),
    (Choice, "values"): (("a", "c"), CANDIDATE),
    (Serving, "store_down"): ("missing", SEALED),
    (Serving, "batch_wait_ms"): (1.0, SEALED),
    (Serving, "batch_rows"): (9, SEALED),
    (Monitoring, "windows"): ((WindowSpec(rows=6_000),), SEALED),
    (Monitoring, "seasonal"): ({"amount": "hour"}, SEALED),
    (Monitoring, "false_alarm_days"): (99, SEALED),
    (Monitoring, "slices"): (("customer",), SEALED),
    (Monitoring, "segments"): ({"customer": ("amount",)}, SEALED),
    (Monitoring, "number_detector"): ("psi", SEALED),
    (Monitoring, "category_detector"): ("psi", SEALED),
    (Monitoring, "domain_classifier"): (True, SEALED),
    (Monitoring, "error_detectors"): (("adwin",), SEALED),
    (Monitoring, "labels_count_for"): (timedelta(days=99), SEALED),
    (Monitoring, "labels_complete_after"): (timedelta(days=9), SEALED),
    (WindowSpec, "rows"): (6_000, SEALED),
    (WindowSpec, "length"): (timedelta(days=1), SEALED),
    (WindowSpec, "panes"): (4, SEALED),
    (WindowSpec, "minimum_rows"): (99, SEALED),
    **{(gate, "blocks"): (False, VERSION) for gate in (OnnxParity, Threshold, NoSliceWorse, BetterThanChampion)},
    (BetterThanBaseline, "blocks"): (False, ASKED),
    (BetterThanBaseline, "margin"): (0.1, ASKED),
    (BetterThanBaseline, "metric"): ("brier", ASKED),
    (BetterThanBaseline, "by"): (("amount",), ASKED),
    **{(gate, "blocks"): (False, VERSION) for gate in (Latency, Fairness, NoVulnerability, Plausible)},
    (OnnxParity, "limit"): (1e-6, VERSION),
    (Threshold, "metric"): ("average_precision", VERSION),
    (Threshold, "limit"): (0.7, VERSION),
    (NoSliceWorse, "metric"): ("average_precision", VERSION),
    (NoSliceWorse, "limit"): (0.7, VERSION),
    (BetterThanChampion, "margin"): (0.1, VERSION),
    (BetterThanChampion, "metric"): ("average_precision", VERSION),
    (Latency, "limit_ms"): (11.0, VERSION),
    (Fairness, "column"): ("amount ", VERSION),
    (Fairness, "limit"): (0.2, VERSION),
    (Fairness, "measure"): ("selection_rate", VERSION),
    (Plausible, "limit"): (0.8, VERSION),
    (Plausible, "jump"): (0.2, VERSION),
    (Plausible, "alone"): (0.8, VERSION),
    (Plausible, "metric"): ("average_precision", VERSION),
    (NoVulnerability, "environment_from"): ("high", VERSION),
    (NoVulnerability, "waivers"): ((), VERSION),
    (Waiver, "advisory"): ("CVE-2", VERSION),
    (Waiver, "until"): (datetime(2031, 1, 1, tzinfo=UTC), VERSION),
    (Waiver, "reason"): ("looked at twice", VERSION),
    (Approval, "role"): ("admin", VERSION),
    (Approval, "four_eyes"): (False, VERSION),
    (Approval, "expires_after"): (timedelta(days=9), VERSION),
    (Approval, "required"): (False, VERSION),
    (Approval, "broken_glass_escalates_after"): (timedelta(hours=3), VERSION),
    (Approval, "broken_glass_ends_after"): (timedelta(hours=9), VERSION),
    (Approval, "min_rollout_steps"): (2, VERSION),
    (Approval, "min_approvers"): (2, VERSION),
    (Approval, "min_rollout"): (timedelta(hours=1), VERSION),
    (Approval, "max_error_rate"): (0.1, VERSION),
    (Approval, "signed"): (True, VERSION),
    (Retraining, "alarms"): (("data",), NONE),
    (Retraining, "every"): (timedelta(days=9), NONE),
    (Retraining, "min_new_rows"): (9, NONE),
    (Retraining, "cool_down"): (timedelta(days=9), NONE),
    (Retraining, "max_per_week"): (9, NONE),
    (Retraining, "max_cpu_hours_per_week"): (9.0, NONE),
    (Retraining, "time_limit"): (timedelta(hours=9), NONE),
    (Retraining, "stop_after_losses"): (9, NONE),
    (Retraining, "split"): (Split(), NONE),
    (Retraining, "margin"): (0.1, NONE),
    (Retraining, "search"): (False, NONE),
    (Retraining, "promote"): (True, NONE),
}
# Another value needs another of the same object: two columns of an entity, a window of a time and not of rows.
TOGETHER: dict[tuple[type, str], dict[str, Any]] = {
    (WindowSpec, "length"): {"rows": None},
    (Fairness, "column"): {},
    (Source, "reader"): {"path": None},
}
# Classes that are not declared by a user.
# Of the other kinds of label, `test_other_tasks` tells.
NOT_DECLARED = {declared.Feature, declared.FitBlocks, declared.FitData, declared.MultiClass, declared.Regression}
NOT_DECLARED |= {declared.Capacity, declared.GainTable, declared.Gains}
CHECKED = [kind for kind in {kind for kind, _ in USE_CASE} if hasattr(kind, "__post_init__")]

SETTINGS: dict[str, tuple[Any, set[StepName]]] = {
    "state": ("/other", NONE),
    "data": ("/other/data", NONE),  # its files count by their content
    "artifacts": ("/other/artifacts", NONE),  # there are no records, so every step runs
    "mlflow_uri": ("sqlite:////other/mlflow.db", VERSION),  # train is verified: its run has to be there
    "feast_registry": ("sqlite:////other/registry.db", ONLINE),
    "online_store": ("redis://other", ONLINE),
    "control_store": ("sqlite:////other/control_store.db", VERSION),
    "advisories": ("pypi", VERSION),
    "audit_anchors": ("/other/anchors", NONE),
    "audit_second_place": ("/other/place", NONE),
    "audit_key": ("env:OTHER", NONE),
    "audit_public_key": ("/other/public.pem", NONE),
    "audit_time_stamp_url": ("https://other", NONE),
    "audit_time_stamp_roots": ("/other/roots.pem", NONE),
    "evidence_key": ("env:OTHER", NONE),
    "model_signing_key": ("env:OTHER", NONE),
    "model_signing_public_key": ("/other/public.pem", NONE),
    "evidence_public_key": ("/other/public.pem", NONE),
    "webhook_allowed_hosts": (("other",), NONE),
    "ledger_wal": ("/other/wal", NONE),
    "ledger_secret_file": ("/other/secret", NONE),
    "ledger_sync": (True, NONE),
    "ledger_upkeep_every_s": (9.0, NONE),
    "drift_watchers": (3, NONE),
    "ledger_rotate_s": (9.0, NONE),
    "oidc_issuer": ("https://other", NONE),
    "oidc_audience": ("other", NONE),
    "oidc_keys": ("/other/keys", NONE),
    "oidc_groups_claim": ("other", NONE),
    "oidc_groups": ({"ops": ("operate:all",)}, NONE),
    "oidc_people": ({"ann": "id"}, NONE),
    "oidc_client_id": ("other", NONE),
    "oidc_client_secret": ("env:OTHER", NONE),
    "console_url": ("https://other", NONE),
    "oidc_requests_per_s": (9.0, NONE),
    "online_cache_s": (9.0, NONE),
    "backups": ("/other/backups", NONE),
    "http_host": ("0.0.0.0", NONE),
    "http_port": (9000, NONE),
    "num_cpus": (9, NONE),
    "serving_cpus": (1, NONE),
    "stall_limit_s": (60.0, NONE),
    "object_store_mb": (900, NONE),
    "prices": (Prices(currency="EUR", cpu_hour=1.0), NONE),
}

TRIAL = {
    "candidate": "gradient_boosting",
    "number": 0,
    "parameters": {"rate": 0.5},
    "run_id": "r",
    "status": "finished",
}
TRIAL |= {"message": "", "steps": [{"fraction": 1.0, "value": 0.7, "seconds": 1.0}]}
TRAINING_SET = {
    "url": "/state/artifacts/t.parquet",
    "digest": "t" * 64,
    "rows": 9,
    "as_of": "2026-01-01T00:00:00+00:00",
}
TRAINING_SET |= {"snapshot": "s" * 64, "feature_service": "orders", "features": [{"name": "amount", "kind": "number"}]}
RESULTS: dict[StepName, dict[str, Any]] = {
    "ingest": {"digest": "s" * 64, "as_of": "2026-01-01T00:00:00+00:00"},
    "features": {"views": [{"view": "customer", "url": "/state/v.parquet", "digest": "v" * 64, "rows": 3}]},
    "training_set": TRAINING_SET,
    "train": {"parent_run_id": "p", "metric": "roc_auc", "best": TRIAL, "trials": [TRIAL], "environment": "e"},
    "evaluate": {"digest": "m" * 64, "files": {}, "evaluation": {}},
}


def definitions(digest: str) -> Definitions:
    return Definitions("orders", digest, (), {}, {"orders.py": "text"})


FILES = {"orders": [SourceFile("/data/orders_1.csv", "orders_1.csv", "f" * 64)]}
GIVEN = Given(
    CASE,
    Settings(state="/state", data="/data"),
    None,
    FILES,
    lambda: Definitions("orders", "d" * 64, (), {}, {"orders.py": "text"}),
    RESULTS,
)


def keys(given: Given) -> dict[StepName, str]:
    return {name: digest_json(step.depends_on(step.inputs(given))) for name, step in PIPELINE.items()}


@cache
def keys_before() -> dict[StepName, str]:
    return keys(GIVEN)


def run_again(given: Given) -> set[StepName]:
    before, after = keys_before(), keys(given)
    return {name for name in PIPELINE if before[name] != after[name]}


def changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The value with the first instance of `kind` in it replaced by `change` of it; the same object if it has none."""
    if type(value) is kind:
        return change(value)
    if isinstance(value, tuple | list):
        return _first_changed(dict(enumerate(value)), kind, change, lambda parts: type(value)(parts.values()), value)
    if isinstance(value, Mapping):
        return _first_changed(value, kind, change, dict, value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {one.name: getattr(value, one.name) for one in fields(value)}
        if type(value) is UseCase:  # its own split, and not that of retraining
            parts = {name: parts[name] for name in sorted(parts, key=lambda name: name == "retraining")}
        return _first_changed(parts, kind, change, lambda found: replace(value, **found), value)
    return value


def _first_changed(
    parts: Mapping[Any, Any], kind: type, change: Callable[[Any], Any], make: Callable[[Any], Any], whole: Any
) -> Any:
    for name, part in parts.items():
        other = changed(part, kind, change)
        if other is not part:
            return make({**parts, name: other})
    return whole


def test_every_field_of_the_declarations_has_its_entry() -> None:
    kinds = {one for one in vars(declared).values() if isinstance(one, type) and is_dataclass(one)} - NOT_DECLARED
    assert {(kind, one.name) for kind in kinds for one in fields(kind)} == set(USE_CASE)
    assert set(Settings.model_fields) == set(SETTINGS)


@pytest.mark.parametrize(("kind", "name"), USE_CASE, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_a_changed_declaration_runs_exactly_its_steps(kind: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, expected = USE_CASE[kind, name]
    for declaration in CHECKED:  # another value alone may contradict the rest
        monkeypatch.setattr(declaration, "__post_init__", lambda self: None)
    case = changed(CASE, kind, lambda one: replace(one, **{name: value}, **TOGETHER.get((kind, name), {})))
    assert case is not CASE
    assert run_again(replace(GIVEN, use_case=case)) == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_a_changed_setting_runs_exactly_its_steps(name: str) -> None:
    value, expected = SETTINGS[name]
    assert run_again(replace(GIVEN, settings=GIVEN.settings.model_copy(update={name: value}))) == expected


AS_OF = "2026-02-01T00:00:00+00:00"
AFTER: dict[str, tuple[StepName, dict[str, Any], set[StepName]]] = {
    "another snapshot": ("ingest", {"digest": "S" * 64}, {"features", "training_set"}),
    "another as_of of the data": ("ingest", {"as_of": AS_OF}, {"training_set", "materialize"}),
    "other feature rows": (
        "features",
        {"views": [{"view": "customer", "url": "/state/w.parquet", "digest": "w" * 64, "rows": 3}]},
        {"training_set", "materialize"},
    ),
    "the same feature rows elsewhere": (
        "features",
        {"views": [{"view": "customer", "url": "s3://bucket/v.parquet", "digest": "v" * 64, "rows": 3}]},
        NONE,
    ),
    "another training set": ("training_set", {"digest": "T" * 64}, SPLIT),
    "the same rows as of another moment": ("training_set", {"as_of": AS_OF}, SPLIT),
    "the same training set elsewhere": ("training_set", {"url": "s3://bucket/t.parquet"}, NONE),
    "other parameters": ("train", {"best": {**TRIAL, "parameters": {"rate": 0.6}}}, SEALED),
    "the same parameters by another run": ("train", {"best": {**TRIAL, "run_id": "R"}}, NONE),
    "another search": ("train", {"parent_run_id": "P"}, VERSION),
    "another model": ("evaluate", {"digest": "M" * 64}, VERSION),
}


@pytest.mark.parametrize("what", AFTER)
def test_what_a_step_gives_is_an_input_of_exactly_these(what: str) -> None:
    step, change, expected = AFTER[what]
    results = {**RESULTS, step: {**RESULTS[step], **change}}
    assert run_again(replace(GIVEN, results=results)) == expected


def test_what_is_given_beside_the_use_case_and_the_settings() -> None:
    moment = datetime(2026, 2, 1, tzinfo=UTC)
    assert run_again(replace(GIVEN, as_of=moment)) == INGEST
    other = {"orders": [SourceFile("/data/orders_1.csv", "orders_1.csv", "F" * 64)]}
    assert run_again(replace(GIVEN, files=other)) == INGEST
    moved = {"orders": [SourceFile("s3://bucket/orders_1.csv", "orders_1.csv", "f" * 64)]}
    assert run_again(replace(GIVEN, files=moved)) == NONE
    assert run_again(replace(GIVEN, definitions=lambda: definitions("D" * 64))) == DEFINITIONS
    unused = replace(definitions("d" * 64), files={"orders.py": "text", "others.py": "text"})
    assert run_again(replace(GIVEN, definitions=lambda: unused)) == NONE
    assert run_again(replace(GIVEN, challenger=True)) == VERSION


def test_a_use_case_without_features_does_not_depend_on_their_stores() -> None:
    case = replace(CASE, feature_views={}, feature_service=None)
    given = replace(GIVEN, use_case=case, definitions=lambda: None)
    before = keys(given)
    moved = GIVEN.settings.model_copy(update={"feast_registry": "sqlite:////other.db", "online_store": "redis://other"})
    assert keys(replace(given, settings=moved)) == before


def test_candidates_not_chosen_do_not_count_for_the_sealed_model() -> None:
    case = replace(CASE, candidates=(CASE.candidates[0], LogisticRegression(name="another")))
    assert run_again(replace(GIVEN, use_case=case)) == TRAIN


def test_the_same_in_another_process_is_the_same() -> None:
    code = "import json, tests.unit.test_perturbation as t; print(json.dumps(t.keys(t.GIVEN)))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    ours = json.loads(found.stdout)
    assert {name: ours[name] for name in PIPELINE} == keys(GIVEN)
