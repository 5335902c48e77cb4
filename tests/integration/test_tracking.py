"""A trial is one MLflow run with each step once, whichever call the search was killed in."""

from dataclasses import replace

import pytest
from mlflow import MlflowClient

from mlops_ray.config import Prices, Settings
from mlops_ray.errors import UseCaseError
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.training import tracking
from mlops_ray.training.budget import Budget
from mlops_ray.training.tracking import connect, missing_run, open_search
from mlops_ray.training.trial import Step, Trial
from mlops_ray.training.trial_ledger import TrialLedger
from tests.integration.search_setting import Steady, make_settings, make_training_set, make_use_case

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STEPS = (Step(0.25, 0.6, 1.0), Step(0.5, 0.7, 2.0), Step(1.0, 0.8, 3.0))


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = make_settings(tmp_path_factory.mktemp("tracking"))
    connect(settings)
    return settings


@pytest.fixture(scope="module")
def training_set(settings: Settings) -> TrainingSet:
    return make_training_set(settings, rows=50)


def to_run(ledger: TrialLedger) -> list[Trial]:
    """The only trial, unless it has ended."""
    return [] if ledger.ended_by() and not ledger.unfinished() else [Trial("steady", 0, {"skill": 0.5})]


def work(settings: Settings, training_set: TrainingSet, key: str) -> str:
    """What the search does with its only trial; returns the parent run."""
    runs = open_search(settings, "planes", "roc_auc", key, training_set, {})
    ledger = TrialLedger(runs, training_set, make_use_case((Steady(),), trials=1), Budget(1), None)
    for trial in to_run(ledger):
        ledger.update(ledger.trials.get(trial.trial_id, trial))
        for step in STEPS:
            trial = ledger.trials[trial.trial_id].with_step(step)
            ledger.update(trial)
        ledger.update(replace(ledger.trials[trial.trial_id], status="finished"))
    ledger.result()
    return runs.parent_run_id


@pytest.mark.parametrize("call", ["create_run", "log_inputs", "log_batch", "set_terminated"])
@pytest.mark.parametrize("time", range(1, 7))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_any_call(
    call: str,
    time: int,
    moment: str,
    settings: Settings,
    training_set: TrainingSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, calls, real = f"{call}-{time}-{moment}", 0, getattr(MlflowClient, call)

    def killed(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls != time:
            return real(*args, **kwargs)
        if moment == "after":
            real(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, killed)
        try:
            work(settings, training_set, key)
        except Killed:
            pass
        else:
            assert calls < time
            return
    parent = work(settings, training_set, key)
    client = MlflowClient(settings.mlflow_uri)
    experiment = client.get_experiment_by_name("planes").experiment_id
    assert len(client.search_runs([experiment], f"tags.`mlops_ray.search_key` = '{key}'")) == 1
    (run,) = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"candidate": "steady", "skill": "0.5"}
    points = client.get_metric_history(run.info.run_id, "validation_roc_auc")
    assert [(point.step, point.value) for point in points] == [(25, 0.6), (50, 0.7), (100, 0.8)]


def fail(settings: Settings, training_set: TrainingSet, key: str, retry_failed: bool = False) -> list[str]:
    """What the search does with its only trial, which fails; returns the trials that it ran."""
    runs = open_search(settings, "planes", "roc_auc", key, training_set, {})
    ledger = TrialLedger(runs, training_set, make_use_case((Steady(),), trials=1), Budget(1), None, retry_failed)
    unfinished = to_run(ledger)
    for trial in unfinished:
        ledger.update(trial)
        message = "ModuleNotFoundError: No module named 'xgboost'"
        ledger.update(replace(ledger.trials[trial.trial_id], status="failed", message=message))
    with pytest.raises(UseCaseError, match=r"No module named 'xgboost'.*install.*--retry-failed"):
        ledger.result()
    return [trial.trial_id for trial in unfinished]


def test_a_trial_that_failed_runs_again_when_asked_or_when_what_is_installed_has_changed(
    settings: Settings, training_set: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K3: it counted as ended for ever."""
    assert fail(settings, training_set, "k3") == ["steady-000"]
    assert fail(settings, training_set, "k3") == []
    assert fail(settings, training_set, "k3", retry_failed=True) == ["steady-000"]
    monkeypatch.setattr(tracking, "environment_digest", lambda: "another environment")
    assert fail(settings, training_set, "k3") == ["steady-000"]
    assert fail(settings, training_set, "k3") == []
    parent = open_search(settings, "planes", "roc_auc", "k3", training_set, {})
    assert [trial.status for trial in parent.trials()] == ["failed"]
    client = MlflowClient(settings.mlflow_uri)
    experiment = client.get_experiment_by_name("planes").experiment_id
    runs = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.parent_run_id}'")
    assert len(runs) == 3
    assert sum("mlops_ray.retired" in run.data.tags for run in runs) == 2


def test_a_search_whose_run_is_gone_is_not_unchanged(settings: Settings, training_set: TrainingSet) -> None:
    parent = work(settings, training_set, "gone")
    assert missing_run(settings, parent) is None
    assert missing_run(settings, "0" * 32) == f"MLflow's run {'0' * 32} of the search is not there"
    MlflowClient(settings.mlflow_uri).delete_run(parent)
    assert missing_run(settings, parent) == f"MLflow's run {parent} of the search is deleted"
    assert work(settings, training_set, "gone") != parent


@pytest.mark.parametrize(("first", "later"), [(2_000, 1_000), (2_000, None), (None, 1_000)])
def test_an_attempt_looks_at_the_rows_of_the_first_however_many_fit_in_memory_now(
    settings: Settings, training_set: TrainingSet, first: int | None, later: int | None
) -> None:
    key = f"rows {first} {later}"
    found = [open_search(settings, "planes", "roc_auc", key, training_set, {}, rows=rows) for rows in (first, later)]
    assert [one.rows for one in found] == [first, first]


def test_what_earlier_attempts_cost_counts_once_and_by_the_prices_of_their_days(
    settings: Settings, training_set: TrainingSet
) -> None:
    """Two attempts are killed: what their trials had used so far was paid for, and their trials begin anew."""

    def attempt(price: float, cpu_s: float, currency: str = "EUR") -> TrialLedger:
        runs = open_search(settings, "planes", "roc_auc", "cost", training_set, {})
        budget = Budget(3, cost=10.0, prices=Prices(currency=currency, cpu_hour=price * 3600))
        ledger = TrialLedger(runs, training_set, make_use_case((Steady(),), trials=3), budget, None)
        ledger.start_clock(0.0)
        if cpu_s:
            trial = ledger.trials.get("steady-000", Trial("steady", 0, {"skill": 0.5}))
            ledger.update(replace(trial, used={"cpu_s": cpu_s / 2}))
            ledger.update(replace(ledger.trials["steady-000"], used={"cpu_s": cpu_s}))
        return ledger

    assert attempt(1.0, 3.0).spent().cost == 3.0
    assert attempt(1.0, 0.0).spent().cost == 3.0
    again = attempt(0.5, 4.0)
    assert again.spent().cost == 5.0
    again.update(replace(again.trials["steady-000"], status="failed"))
    again.update(Trial("steady", 1, {"skill": 0.5}, used={"cpu_s": 2.0}))
    assert again.spent().cost == 6.0
    last = attempt(2.0, 0.0)
    assert last.spent().cost == 6.0, "what had ended was counted again"
    last.update(replace(last.trials["steady-001"], used={"cpu_s": 2.0}))
    assert last.spent().cost == 10.0
    assert last.ended_by() == "cost: its 10 EUR were spent"
    assert attempt(1.0, 0.0, "USD").spent().cost == 0.0, "currencies were added up"
