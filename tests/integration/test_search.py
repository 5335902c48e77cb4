"""The search on a real Ray with a real MLflow: what it records, and that a kill costs nothing but time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
from mlflow import MlflowClient
from mlflow.entities import Run
from ray import cloudpickle

from mlops_ray.artifacts import Artifacts
from mlops_ray.code_version import CodeVersion
from mlops_ray.config import Prices, Settings
from mlops_ray.cost import meter as meter_module
from mlops_ray.cost.meter import Meter
from mlops_ray.cost.prices import digest_of, price
from mlops_ray.cost.usage import Usage
from mlops_ray.errors import BudgetError, ConfigurationError, UnavailableError, UseCaseError
from mlops_ray.governance.budgets import Budget, set_budget
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.usage import Part, month_of, now, write_usage
from mlops_ray.pipeline.fingerprint import Known
from mlops_ray.pipeline.steps.evaluate import EvaluateInputs, run_evaluate
from mlops_ray.pipeline.steps.step import Where
from mlops_ray.training.search import search
from mlops_ray.training.trial import SearchProgress, SearchResult, Trial
from mlops_ray.use_case import Resources
from tests.integration import search_setting
from tests.integration.search_setting import (
    Broken,
    Endless,
    Noted,
    Steady,
    Telling,
    make_settings,
    make_training_set,
    make_use_case,
    slow_use_case,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray of our own; yields its address."""
    # Workers get the candidates of search_setting by value: importing it takes as long as importing Feast and MLflow.
    cloudpickle.register_pickle_by_value(search_setting)
    context = ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=500_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(search_setting)


def children(settings: Settings, parent_run_id: str) -> list[Run]:
    client = MlflowClient(settings.mlflow_uri)
    experiment = client.get_experiment_by_name("planes")
    return list(client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent_run_id}'"))


def test_every_trial_is_a_child_run_with_its_parameters_and_steps(cluster: str, tmp_path: Path) -> None:
    settings, told = make_settings(tmp_path), list[SearchProgress]()
    result = search(
        make_use_case((Steady(), Broken()), trials=3), settings, make_training_set(settings), "key", told.append
    )
    client = MlflowClient(settings.mlflow_uri)
    runs = {run.info.run_id: run for run in children(settings, result.parent_run_id)}
    assert len(runs) == len(result.trials) == 6
    for trial in result.trials:
        run = runs[trial.run_id]
        assert run.data.params == {"candidate": trial.candidate, "skill": str(trial.parameters["skill"])}
        history = client.get_metric_history(trial.run_id, "validation_roc_auc")
        assert [(point.step, point.value) for point in history] == [
            (round(100 * step.fraction), step.value) for step in trial.steps
        ]
        assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 36
        assert run.info.status == {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[trial.status]
    parent = client.get_run(result.parent_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.info.artifact_uri.startswith(f"{settings.artifacts}/mlflow")
    assert parent.data.tags["mlops_ray.training_set"] == "d" * 64
    assert told[-1].done == told[-1].total == 6
    assert SearchResult.from_json(result.to_json()) == result


def test_trials_shorter_than_the_start_of_a_worker_run_beside_each_other(cluster: str, tmp_path: Path) -> None:
    settings, notes = make_settings(tmp_path), tmp_path / "notes"
    notes.mkdir()
    case = make_use_case((Noted(folder=str(notes), seconds_per_step=0.5),), trials=30)
    search(case, settings, make_training_set(settings), "key")
    assert (notes / "both").exists()


def test_a_candidate_that_raises_fails_alone_and_the_best_has_its_full_budget(cluster: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    case = make_use_case((Broken(), Steady()), trials=2)
    case = replace(case, search=replace(case.search, ensemble=2))
    result = search(case, settings, make_training_set(settings), "key")
    broken = [trial for trial in result.trials if trial.candidate == "broken"]
    assert [trial.status for trial in broken] == ["failed"], "it lost, and the other candidate has the rest"
    assert len(result.trials) == 4
    assert "the broken candidate broke" in broken[0].message
    assert result.best.candidate == "steady"
    assert result.best.fraction == 1.0
    assert not result.average["chosen"], "models with the same errors were averaged"
    assert sum(result.average["weights"].values()) == pytest.approx(1.0)
    assert search(case, settings, make_training_set(settings), "key") == result
    assert result.best.value == max(trial.value for trial in result.trials if trial.status == "finished")


def test_a_search_without_any_finished_trial_says_why(cluster: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with pytest.raises(UseCaseError, match=r"None of the 2 trials.*the broken candidate broke"):
        search(make_use_case((Broken(),), trials=2), settings, make_training_set(settings), "key")


def test_a_worker_imports_nothing_that_only_the_search_needs(cluster: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with pytest.raises(UseCaseError, match="imported: ") as failed:
        search(make_use_case((Telling(),), trials=1), settings, make_training_set(settings), "key")
    imported = str(failed.value).partition("imported: ")[2].split()
    assert "mlops_ray.training.worker" in imported
    assert not {"feast", "mlflow", "optuna", "mlops_ray.training.experiment"} & set(imported)


def test_killed_in_the_middle_it_goes_on_and_makes_no_second_run(cluster: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    kill_when(lambda line: line[0] in "234" and line.endswith(" running\n"), tmp_path, cluster)
    client = MlflowClient(settings.mlflow_uri)
    experiment = client.get_experiment_by_name("planes").experiment_id
    before = {run.info.run_id: run for run in client.search_runs([experiment], "tags.mlops_ray.trial LIKE '%'")}
    ended = {name for name, run in before.items() if run.info.status in ("FINISHED", "KILLED")}
    assert len(ended) >= 2
    assert len(before) > len(ended), "nothing was running when the search was killed"

    changed = set[str]()
    training_set = make_training_set(settings)
    result = search(slow_use_case(), settings, training_set, "key", lambda change: changed.add(change.trial.run_id))
    runs = {run.info.run_id: run for run in children(settings, result.parent_run_id)}
    assert len(runs) == len(result.trials) == 6
    assert set(before) <= set(runs)
    assert not changed & ended, "a trial that had ended was run again"
    assert all(run.info.status in ("FINISHED", "KILLED") for run in runs.values())
    for name in ended:
        assert runs[name].info.end_time == before[name].info.end_time
    for name in runs:
        steps = [point.step for point in client.get_metric_history(name, "validation_roc_auc")]
        assert len(steps) == len(set(steps))
    assert len(client.search_runs([experiment], "tags.`mlops_ray.search_key` = 'key'")) == 1

    started = time.monotonic()
    again = search(slow_use_case(), settings, training_set, "key")
    assert again == result
    assert time.monotonic() - started < 3, "a complete search ran again"


def test_a_search_that_spends_its_seconds_ends_with_the_best_found_and_says_so(cluster: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    case = make_use_case((Steady(seconds_per_step=0.2),), trials=500)
    case = replace(case, search=replace(case.search, seconds=20.0))
    started = time.monotonic()
    result = search(case, settings, make_training_set(settings), "key")
    assert time.monotonic() - started < 48
    assert result.ended_by == "seconds: its 20 seconds were over"
    assert 20 <= result.spent.seconds < 38
    assert all(trial.status in ("finished", "stopped") for trial in result.trials)
    cut = [trial for trial in result.trials if trial.message]
    assert all("its 20 seconds were over" in trial.message for trial in cut)
    runs = children(settings, result.parent_run_id)
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    assert len(runs) == len(result.trials)
    assert search(case, settings, make_training_set(settings), "key") == result, "what was spent before did not count"


def test_a_trial_that_never_ends_is_killed_and_the_others_go_on(cluster: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    case = make_use_case((Steady(), Steady("stuck", seconds_per_step=1000.0)), trials=3)
    case = replace(case, search=replace(case.search, trial_seconds=4.0))
    result = search(case, settings, make_training_set(settings), "key")
    stuck = [trial for trial in result.trials if trial.candidate == "stuck"]
    assert {trial.status for trial in stuck} == {"failed"}
    assert "took more than 4 seconds and was killed" in stuck[0].message
    assert result.best.candidate == "steady"
    assert len(result.trials) == 6
    assert len(children(settings, result.parent_run_id)) == 6, "a trial that was killed was begun again"


@pytest.mark.parametrize("sleeps", [True, False], ids=["sleeps", "computes in C"])
def test_a_last_fit_that_never_ends_is_killed_and_named(cluster: str, tmp_path: Path, sleeps: bool) -> None:
    """Its trial had ended. Run again, it is tried once more and no oftener, and the next step is as it was."""
    settings = make_settings(tmp_path)
    case = make_use_case((Endless(rows=1_700, sleeps=sleeps, folder=str(tmp_path)),), trials=1)
    training_set = make_training_set(settings)
    trial = Trial("endless", 0, {"skill": 0.5})
    inputs = EvaluateInputs(case, Known("t", training_set), Known("endless", trial))
    where = Where(settings, "key", lambda event: None, {}, CodeVersion("c", False), fit_limit_s=3.0)
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(
            UseCaseError, match=r"candidate endless .* more than 3 seconds.*Search\(last_fit_seconds="
        ) as it:
            run_evaluate(inputs, where)
        assert 3 < time.monotonic() - started < 60
        assert "No version is registered, and the search is kept" in str(it.value)
        process = int((tmp_path / "process").read_text())
        wait_until_gone(process)
    assert not Artifacts(settings.artifacts).entries("sealed_models", "planes")


def wait_until_gone(process: int) -> None:
    for _ in range(100):
        if not psutil.pid_exists(process):
            return
        time.sleep(0.1)
    pytest.fail(f"process {process} computes on")


def test_a_search_that_spends_its_money_ends_with_the_best_found_and_says_so(cluster: str, tmp_path: Path) -> None:
    prices = Prices(currency="EUR", cpu_hour=0.0, memory_gb_hour=3600.0)
    settings = make_settings(tmp_path).model_copy(update={"prices": prices})
    case = make_use_case((Steady(seconds_per_step=0.1),), trials=500)
    case = replace(case, search=replace(case.search, cost=1.0))
    result = search(case, settings, make_training_set(settings), "key")
    assert result.ended_by == "cost: its 1 EUR were spent"
    assert result.spent.cost is not None
    assert result.spent.cost >= 1.0
    used = Usage.sum_of(trial.used for trial in result.trials)
    assert result.spent.cost == pytest.approx(price(used, prices).amounts["EUR"], rel=1e-3)
    assert result.best.status == "finished"
    cut = [trial for trial in result.trials if trial.message]
    assert all("its 1 EUR were spent" in trial.message for trial in cut)
    assert search(case, settings, make_training_set(settings), "key") == result, "what was spent before did not count"
    with pytest.raises(ConfigurationError, match="the settings have no prices"):
        search(case, make_settings(tmp_path), make_training_set(settings), "key")


def test_resources_that_no_node_has_are_refused_before_anything_waits_for_them(cluster: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    case = make_use_case((Steady(),), trials=1)
    case = replace(case, search=replace(case.search, resources={"steady": Resources(cpus=2, gpus=1)}))
    with pytest.raises(ConfigurationError, match=r"steady asks for 2 CPUs, 1 GPUs.*no node.*Search\(resources"):
        search(case, settings, make_training_set(settings), "key")


def test_a_spent_budget_stops_a_search_that_goes_on_once_it_is_raised(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run of the use case spends it while two trials have ended."""
    monkeypatch.setattr(meter_module, "_BUDGET_EVERY_S", 0.1)
    prices = Prices(currency="EUR", cpu_hour=0.0, gpu_hour=3600.0)
    settings = make_settings(tmp_path).model_copy(update={"prices": prices})
    store, training_set = open_store(settings), make_training_set(settings)
    set_budget(store, SYSTEM, Budget("planes", "", 10.0, "EUR"), "")
    ended: dict[str, Trial] = {}

    def spend(change: SearchProgress) -> None:
        ended.update({change.trial.trial_id: change.trial} if change.trial.status == "finished" else {})
        if len(ended) == 2:
            other = Part("other", "step", "train", "planes", "", digest_of(prices))
            write_usage(store, other, month_of(now(store)), {"gpu_s": 11.0}, "running")

    with (
        pytest.raises(BudgetError, match="11 of 10 EUR"),
        Meter(store, settings, "planes") as meter,
        meter.step("train", "key"),
    ):
        search(slow_use_case(), settings, training_set, "key", spend)
    assert 2 <= len(ended) < 6
    set_budget(store, SYSTEM, Budget("planes", "", 20.0, "EUR"), "raised")
    changed = set[str]()
    with Meter(store, settings, "planes") as meter, meter.step("train", "key"):
        found = search(slow_use_case(), settings, training_set, "key", lambda one: changed.add(one.trial.trial_id))
    assert len(found.trials) == 6
    assert not changed & ended.keys(), "a trial that had ended was run again"
    measured = [trial.used for trial in found.trials]
    assert all(used["wall_s"] >= 0.3 and used["asked_cpus"] >= 1 for used in measured)
    logged = {run.info.run_id: run.data.metrics for run in children(settings, found.parent_run_id)}
    assert all(logged[trial.run_id]["used_wall_s"] == trial.used["wall_s"] for trial in found.trials)


def test_mlflow_away_is_one_sentence(cluster: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path).model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    with pytest.raises(UnavailableError, match=r"MLflow at http://127.0.0.1:9 does not answer"):
        search(make_use_case((Steady(),), trials=1), settings, make_training_set(settings), "key")


def kill_when(reached: object, folder: Path, address: str) -> None:
    """Start the search in another process and kill it with SIGKILL at the first line for which `reached` is true."""
    command = [sys.executable, search_setting.__file__, str(folder), "key", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if reached(line):
                os.kill(process.pid, signal.SIGKILL)
                return
    pytest.fail("the search ended before it could be killed")
