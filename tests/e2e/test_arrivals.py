"""A second use case on the views of the first, which adds no feature code, goes the whole way to a champion."""

import json
from pathlib import Path

import pytest

from tests.pipeline_run import ROOT, SMALL_AS_OF, pipeline_command, run, summary, write_small_data

CASE = f"""
from dataclasses import replace
from datetime import timedelta
from mlops_ray import Search, Split
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import OnnxParity, Threshold, load_use_case
use_case = replace(
    load_use_case({str(ROOT / "use_cases" / "arrivals.py")!r}),
    search=Search(trials_per_candidate=1),
    candidates=(LogisticRegression(),),
    gates=(OnnxParity(), Threshold("roc_auc", 0.6)),
    split=Split(test=timedelta(days=8), gap=timedelta(days=2), validation=timedelta(days=8)),
)
"""


@pytest.mark.timeout(400)
def test_arrivals_becomes_champion_on_the_views_of_flights(tmp_path: Path) -> None:
    write_small_data(tmp_path / "data")
    case = tmp_path / "case.py"
    case.write_text(CASE)
    done = run(pipeline_command(case, tmp_path, SMALL_AS_OF), timeout_s=350)
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path)
    assert found["standing"] == "Version 1 is champion."
    assert 0.6 < found["metrics"]["roc_auc"]["value"] < 0.95
    assert {"origin_3h_late_share", "aircraft_24h_last_arrival_delay", "plane_year"} <= set(found["metrics"]["alone"])
    schema = next((tmp_path / "state").rglob("schema.json"))
    assert json.loads(schema.read_text())["feature_service"] == "flights"
