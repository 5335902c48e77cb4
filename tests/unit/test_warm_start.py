"""Where a search starts: the best of the last version that was registered, and of no later one."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.pipeline.warm_start import start_from
from mlops_ray.registry.lineage import Lineage, TrialRecord
from mlops_ray.testing.example_lineage import example_lineage, register_example
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.use_case import UseCase
from tests.unit.test_governor import USE_CASE

AS_OF = datetime(2014, 2, 1, tzinfo=UTC)
CASE: UseCase = replace(USE_CASE, name="flights", candidates=(GradientBoosting(), LogisticRegression()))


@pytest.fixture
def settings(tmp_path: Path, store: ControlStore) -> Settings:
    return Settings(state=str(tmp_path), data=str(tmp_path / "data"))


def lineage(depths: dict[int, float], **changed: Any) -> Lineage:
    trials = tuple(
        TrialRecord(f"gradient_boosting-{n:03d}", "gradient_boosting", {"depth": n}, "run", "finished", value)
        for n, value in depths.items()
    )
    stopped = TrialRecord("gradient_boosting-009", "gradient_boosting", {"depth": 9}, "run", "stopped", 0.99)
    return example_lineage(trials=(*trials, stopped), **changed)


def test_it_starts_from_the_best_finished_trial_of_each_candidate_of_the_last_version(
    settings: Settings, store: ControlStore
) -> None:
    assert start_from(CASE, settings, AS_OF) == {}
    register_example(settings, store, lineage({1: 0.9, 2: 0.8}), 1)
    register_example(settings, store, lineage({3: 0.7, 4: 0.75}, digest="e" * 64), 2)
    assert start_from(CASE, settings, AS_OF) == {"version": 2, "parameters": {"gradient_boosting": {"depth": 4}}}


def test_nothing_that_was_learned_later_or_by_another_metric_is_where_it_starts(
    settings: Settings, store: ControlStore
) -> None:
    register_example(settings, store, lineage({1: 0.9}), 1)
    register_example(settings, store, lineage({2: 0.9}, digest="e" * 64, as_of="2014-03-01T00:00:00+00:00"), 2)
    assert start_from(CASE, settings, AS_OF)["version"] == 1
    assert start_from(CASE, settings, datetime(2013, 1, 1, tzinfo=UTC)) == {}
    assert start_from(replace(CASE, metric="log_loss"), settings, AS_OF) == {}


def test_a_record_that_cannot_be_read_is_passed_over(settings: Settings, store: ControlStore, tmp_path: Path) -> None:
    register_example(settings, store, lineage({1: 0.9}), 1)
    register_example(settings, store, lineage({2: 0.9}, digest="e" * 64), 2)
    folder = tmp_path / "artifacts/lineage/flights"
    (newest,) = (file for file in folder.glob("*.json") if json.loads(file.read_text())["digest"] == "e" * 64)
    newest.write_text("{}")
    assert start_from(CASE, settings, AS_OF)["version"] == 1


def test_what_a_search_has_said_of_itself_is_in_the_record_and_older_records_stay_as_they_are() -> None:
    assert "search" not in example_lineage().to_json()
    made = example_lineage(search={"ended_by": "trials: all 9 trials were run", "started_from": {"version": 1}})
    assert Lineage.from_json(made.to_json()) == made
    assert Lineage.from_json(example_lineage().to_json()) == example_lineage()
