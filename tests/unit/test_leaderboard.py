"""The leaderboard: quality beside what it costs, and which trials nothing else replaces."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.tasks.binary import BINARY
from mlops_ray.testing.example_lineage import example_lineage, register_example
from mlops_ray.training.candidates import GradientBoosting, LogisticRegression
from mlops_ray.training.encoding import Encoder
from mlops_ray.training.footprint import footprint
from mlops_ray.training.leaderboard import leaderboard, lines, table
from mlops_ray.training.proposal import middle
from mlops_ray.training.trial import Footprint, SearchResult, Step, Trial
from mlops_ray.training.weights import Weights
from mlops_ray.training.worker import TrialData, TrialWorker
from mlops_ray.use_case import Candidate, Feature, Fit, FitData

AUC, LOSS = BINARY.metrics["roc_auc"], BINARY.metrics["log_loss"]
FEATURES = (Feature("wind", "number"), Feature("origin", "category", ("JFK", "LGA")))


def trial(number: int, value: float, row_ms: float, size: int, status: str = "finished") -> Trial:
    costs = Footprint(size, row_ms, 100 * row_ms)
    return Trial("trees", number, {}, "run", status, "", (Step(1.0, value, 1.0),), costs)  # type: ignore[arg-type]


def test_a_trial_that_another_beats_in_all_is_not_on_the_front_and_the_best_comes_first() -> None:
    best, small, worse = trial(0, 0.8, 0.03, 9000), trial(1, 0.7, 0.01, 1000), trial(2, 0.6, 0.02, 2000)
    unexported = Trial("steady", 0, {}, "run", "finished", "", (Step(1.0, 0.9, 1.0),))
    trials = (worse, small, best, trial(3, 0.99, 0.001, 10, "stopped"), unexported)
    found = leaderboard(SearchResult("parent", "roc_auc", best, trials), AUC)
    assert [one.trial_id for one in found] == ["steady-000", "trees-000", "trees-001", "trees-002"]
    assert [one.pareto for one in found] == [False, True, True, False]
    assert [one.chosen for one in found] == [False, True, False, False]
    by_loss = leaderboard(SearchResult("parent", "log_loss", best, trials), LOSS)
    assert by_loss[0].trial_id == "trees-002"
    assert [len(row) for row in table(found)["data"]] == [len(table(found)["columns"])] * 4


def test_a_latency_within_the_noise_of_its_measurement_is_no_merit() -> None:
    best, alike = trial(0, 0.8, 0.0300, 1000), trial(1, 0.79, 0.0290, 1000)
    found = leaderboard(SearchResult("parent", "roc_auc", best, (best, alike)), AUC)
    assert [one.pareto for one in found] == [True, False]


def test_it_is_shown_as_a_table_with_what_could_not_be_measured() -> None:
    rows = leaderboard(
        SearchResult("parent", "roc_auc", trial(0, 0.8, 0.03, 2_500_000), (trial(0, 0.8, 0.03, 1),)), AUC
    )
    shown = lines([vars(rows[0]), vars(rows[0]) | {"size_bytes": None, "chosen": False}], "roc_auc")
    assert shown[0].split() == ["trial", "roc_auc", "row", "1,000", "rows", "size"]
    assert shown[1].startswith("*>  trees-000  0.8000   0.030 ms")
    assert "not exported" in shown[2]


@pytest.mark.parametrize("candidate", [LogisticRegression(), GradientBoosting()], ids=lambda one: one.name)
def test_a_finished_trial_knows_the_size_and_latency_of_the_file_to_be_sealed(candidate: Candidate) -> None:
    random = np.random.default_rng(2)
    matrix = np.stack([random.normal(size=80), random.integers(0, 4, 80)], axis=1).astype(np.float32)
    matrix[3, 0] = np.nan
    label = matrix[:, 1] > 1
    data = TrialData(Encoder(FEATURES), matrix, label, matrix, label, Weights(None, None), Fit())
    worker = TrialWorker(data, {candidate.name: candidate}, BINARY, "roc_auc", 1, {candidate.name: 1})
    worker.begin(candidate.name, middle(candidate.space))
    done = worker.step()
    while not done["done"]:
        assert done["footprint"] is None
        done = worker.step()
    costs = Footprint(**done["footprint"])
    assert 200 < costs.size_bytes < 5_000_000
    assert 0 < costs.row_ms < costs.batch_ms < 1000
    assert done["cpu_seconds"] > 0
    *_, (_, model) = candidate.fit(FitData(matrix, label, FEATURES, BINARY, 1, 1), middle(candidate.space))
    assert footprint(model, BINARY.output, Encoder(FEATURES), matrix).size_bytes == costs.size_bytes


def test_the_leaderboard_of_a_version_is_shown_and_given_as_json(tmp_path: Path, store: ControlStore) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path / "data"))
    best = trial(0, 0.8, 0.03, 2_500_000)
    rows = [asdict(one) for one in leaderboard(SearchResult("parent", "roc_auc", best, (best,)), AUC)]
    register_example(settings, store, example_lineage(search={"leaderboard": rows}), 1)
    register_example(settings, store, example_lineage(digest="e" * 64), 2)

    def asked(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["versions", "leaderboard", *arguments, "--state", settings.state])

    assert "*>  trees-000  0.8000   0.030 ms  3.0 ms      2.50 MB" in asked("flights@1").stdout
    assert json.loads(asked("flights@1", "--json").stdout) == rows
    assert "no leaderboard was recorded" in str(asked("flights@2").exception)
