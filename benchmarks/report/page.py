"""docs/measured.md, from benchmarks/results.json.

python benchmarks/report/page.py        # writes the page
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "measured.md", ROOT / "benchmarks" / "results.json"

# By heading, what is told of an area: figures without its name, each with what it says to who has not read the code.
SECTIONS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "Ingestion and exploration": {
        "ingestion": {
            "time_vs_polars_10m": "time to ingest 10 million flights by 12 rules, over that of a polars script that"
            " checks and writes the same",
            "extra_s_337k": "time more than that script takes, for a year of flights",
            "time_vs_pandera": "time over that of pandera, which checks alone",
            "time_vs_dataframely": "time over that of dataframely",
            "peak_mb_10m": "memory, 10 million rows",
            "peak_mb_50m": "memory, 50 million",
            "peak_mb_10m_polars": "memory of the script, 10 million",
            "cost_ratio_10x": "time of a row of 50 million over that of 5 million",
            "twelfth_month_vs_alone": "time of the twelfth month after eleven others, over that of its file alone",
        },
        "exploration": {
            "values_per_s": "profiling a table",
            "speedup_vs_ydata": "faster than ydata-profiling",
            "speedup_vs_ydata_minimal": "faster than its minimal report",
        },
    },
    "Features": {
        "features": {
            "speedup_vs_feast_duckdb": "point-in-time join of 300,000 rows: faster than Feast's DuckDB store",
            "time_vs_polars_asof": "its time over that of plain polars",
            "skew_ratio": "time with one key that has all events, over that of even keys",
            "row_cost_ratio_30m": "time of a row of 30 million over that of 3 million",
            "peak_mb_30m": "memory, 30 million rows",
            "incremental_transforms_ratio": "time of a new day's transforms after a year, over that of the day alone",
            "incremental_refresh_ratio": "the same, transforms and materialization together",
            "online_speedup_vs_feast": "all views of a row online: faster than Feast, in SQLite or Redis",
            "scoring_peak_mb": "memory of scoring 10 million rows",
        },
        "features_at_scale": {
            "rows": "from raw rows to a training set",
            "peak_mb_of_a_process": "memory",
            "rows_100m": "once more, larger",
            "peak_mb_of_a_process_100m": "memory",
        },
    },
    "Training": {
        "training": {
            "flights_roc_auc": "ROC AUC of `flights`, test period",
            "flights_roc_auc_lightgbm": "that of LightGBM by hand, default parameters",
            "flights_roc_auc_lightgbm_as_encoded": "the same, what is seldom missing as its median",
            "delay_mean_absolute_error": "mean absolute error of `delay`, minutes",
            "delay_mean_absolute_error_lightgbm": "that of LightGBM by hand",
            "delay_mean_absolute_error_lightgbm_as_encoded": "the same, what is seldom missing as its median",
            "delay_pinball_loss": "pinball loss of the quantiles 0.1, 0.5 and 0.9 of `delay`, minutes",
            "delay_pinball_loss_lightgbm": "that of three LightGBM by hand",
            "delay_coverage_percent": "labels of `delay` in the interval of their answer",
            "delay_coverage_weeks_within_3_points": "weeks whose share is within 3 points of 80 %",
            "outcome_log_loss": "log loss of `outcome`",
            "outcome_log_loss_lightgbm": "that of LightGBM by hand",
            "outcome_log_loss_lightgbm_as_encoded": "the same, what is seldom missing as its median",
            "delay_loss_where_a_feed_failed": "error of `delay` on the day without weather, minutes",
            "delay_loss_where_a_feed_failed_lightgbm": "that of LightGBM by hand",
            "delay_explain_p50_ms": "reasons of an answer of `delay`",
            "outcome_explain_p50_ms": "reasons of an answer of `outcome`, three classes",
            "wall_vs_optuna": "time of a search, over that of the same trials by plain Optuna and joblib",
            "best_of_30_auc_better_by": "ROC AUC of the best of 30 trials, more than that of Optuna's TPE",
            "best_of_30_test_auc_better_by": "the same on the test period, by which nothing is chosen",
            "auc_minus_flaml": "ROC AUC of `flights` with the CPU seconds that FLAML took, less FLAML's",
            "delay_mean_absolute_error_minus_flaml": "minutes of `delay` less, the same way",
            "outcome_log_loss_minus_flaml": "log loss of `outcome` less",
            "large_lightgbm_rows": "LightGBM fitted to rows of 45 features from files",
            "large_lightgbm_all_seconds": "time of that fit",
            "large_lightgbm_all_peak_mb_of_a_process": "memory of the process that took most",
            "large_lightgbm_auc_of_all_minus_of_a_tenth": "ROC AUC more than of a fit to a tenth of them",
            "large_quantiles_rows": "LightGBM of a number with three quantiles, fitted to rows from files",
            "large_quantiles_all_seconds": "time of that fit",
            "large_quantiles_all_peak_mb_of_a_process": "memory of the process that took most",
        },
        "training_levels": {
            "levels_gradient_boosting_roc_auc": "ROC AUC, 100,000 levels of which a tenth is new each week",
            "levels_gradient_boosting_as_codes_roc_auc": "that with codes for levels",
            "levels_logistic_regression_roc_auc": "that of `LogisticRegression`",
            "levels_gradient_boosting_model_mb": "size of the model",
            "levels_gradient_boosting_peak_mb": "memory of the fit",
        },
    },
    "Serving": {
        "serving": {
            "requests_per_s_ours": "answers to vectors, with ledger, validation and keys of callers",
            "vs_fastapi_sklearn": "requests/s over those of FastAPI with scikit-learn, as many processes",
            "vs_bentoml": "over those of BentoML",
            "vs_mlflow_server": "over those of MLflow's server",
            "vs_litserve": "over those of LitServe",
            "vs_mosec": "over those of mosec",
            "vs_fastapi_onnx": "over those of FastAPI with ONNX Runtime and nothing else",
            "vs_ray_haproxy": "over those of a bare Ray Serve application behind HAProxy",
            "keys_vs_fastapi_sklearn": "answers to keys: requests/s over those of FastAPI with scikit-learn",
            "p50_ms_1_client": "median of a vector, one client",
            "keys_p50_ms_1_client": "median of a key",
            "ledger_p50_percent": "what the ledger adds to the median",
            "shadow_p99_percent": "what a shadow adds to the 99th percentile",
        },
        "ledger": {
            "append_us": "appending a prediction",
            "append_sync_us": "with fsync",
            "compaction_rows_per_s": "compaction",
        },
        "registry": {"find_ms_100m": "finding one prediction among 100 million"},
        "replicas": {"rollback_p99_s": "a rollback reaches 1,000 replicas on one PostgreSQL, 99th percentile"},
    },
    "Monitoring and retraining": {
        "monitoring": {
            "values_per_s": "from segments on disk to windows",
            "speedup_vs_evidently": "faster than Evidently, references prepared before",
        },
        "watching": {
            "hour_predictions": "an hour of 50,000 predictions a second from 40 replicas",
            "hour_lag_s": "lag",
            "hour_peak_mb": "memory",
            "endpoints_processes": "100 endpoints on one host",
            "endpoints_cores": "CPU",
        },
        "retraining": {
            "gain_drift": "gain of retraining at alarms, over never",
            "gain_monthly": "gain of retraining monthly",
        },
    },
    "Console, cost, installation": {
        "console": {"first_byte_ms_p95": "first byte of a page, 10,000 versions, 100 endpoints, a million events"},
        "cluster": {
            "cost.measured_off": "CPU seconds of a run, off from the kernel's by",
            "hosts.search_efficiency": "a search over eight hosts, of the ideal",
            "hosts.transform_efficiency": "transforms over eight hosts",
        },
        "installation": {
            "size_serve_mb": "what a node that serves installs",
            "size_full_mb": "all extras",
            "replica_start_serve_s": "start of a replica there",
        },
    },
}
Results = Mapping[str, Mapping[str, Any]]


def measured() -> Results:
    """By area, its `figures` by name, and when and on what `machine` they were measured."""
    results: Results = json.loads(RESULTS.read_text())
    return results


def page(results: Results) -> str:
    machine = results["ingestion"]["machine"]
    lines = [
        "# Measured",
        "",
        f"On {machine['cpus']} cores and {machine['memory_gib']:.0f} GiB, Python {machine['python']}; who is compared",
        "was run in the same turn. `make bench ONLY=AREA` measures an area again, which a name begins with;",
        "`benchmarks/results.json` has all figures. Where another is faster, it says so. What drift detection promises",
        "and finds is in [monitoring.md](monitoring.md).",
    ]
    for heading, areas in SECTIONS.items():
        lines += ["", f"## {heading}", "", "| | measured | figure |", "| --- | --- | --- |", *_rows(areas, results)]
    return "\n".join(lines) + "\n"


def _rows(areas: Mapping[str, Mapping[str, str]], results: Results) -> Iterator[str]:
    for area, told in areas.items():
        figures = results[area]["figures"]
        for name, words in told.items():
            figure = figures.get(f"{area}.{name}")
            if figure is not None:
                measure = f"{_number(figure['value'])} {_unit(figure['unit'])}".strip()
                yield f"| {words} | {measure} | `{area}.{name}` |"


def _number(value: float) -> str:
    """Four digits, or all that stand before the point."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.3g} million"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _unit(told: str) -> str:
    """The unit alone, of what a figure tells behind it."""
    return told.partition(",")[0].replace("x", "times") if told.startswith("x") else told.partition(",")[0]


if __name__ == "__main__":
    PAGE.write_text(page(measured()))
