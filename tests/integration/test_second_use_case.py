"""A second use case on the features of the first goes through its loop, and adds no feature code."""

import sys
from pathlib import Path

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.config import load_settings
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.pipeline.records import Records
from mlops_ray.use_case import load_use_case
from tests.pipeline_run import ROOT, pipeline_command, run, summary

ARRIVALS = ROOT / "use_cases" / "arrivals.py"
KEPT = 12  # one flight in so many: the year is needed, for the split, and not all of its flights


def write_thin_year(folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "use_cases"))
    from flights_raw_data import write_raw_data

    write_raw_data(folder)
    for file in folder.glob("flights_*.csv"):
        pl.read_csv(file, infer_schema=False).gather_every(KEPT).write_csv(file)


@pytest.mark.timeout(300)
def test_arrivals_is_trained_on_the_views_of_flights_and_registered(tmp_path: Path) -> None:
    write_thin_year(tmp_path / "data")
    done = run(pipeline_command(ARRIVALS, tmp_path, "2014-01-01T05:00:00Z"))
    assert done.returncode == 0, done.stdout + done.stderr
    told = summary(tmp_path)
    assert told["version"]
    assert told["trials"] == 4
    assert told["metrics"]["roc_auc"]["value"] > 0.5
    settings = load_settings(state=f"{tmp_path}/state", data=f"{tmp_path}/data")
    record = Records(Artifacts(settings.artifacts), "arrivals").last("training_set")
    assert record is not None
    assert record.result is not None
    training_set = TrainingSet.from_json(record.result)
    assert training_set.feature_service == "flights"
    first = load_use_case(str(ROOT / "use_cases" / "flights.py"))
    assert set(training_set.feature_rows) == set(first.feature_views)
    rows = read_parquet(training_set.url)
    assert rows.height == told["training_rows"] > 20_000
    assert [one.name for one in training_set.features if rows[one.name].null_count() == rows.height] == []
