"""The runs of a search in MLflow: one parent, one child for each trial, found again by their tags.

MLflow owns what is known about trials: a search that was killed reads them back from here and goes on.
"""

import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Literal

import httpx
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID

from mlops_ray.artifacts import join
from mlops_ray.code_version import environment_digest
from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.state_folder import one_at_a_time
from mlops_ray.training.trial import Footprint, Step, Trial, TrialStatus

_KEY = "mlops_ray.search_key"
_TRIAL = "mlops_ray.trial"
_PARAMETERS = "mlops_ray.parameters"
_STATUS = "mlops_ray.status"
_MESSAGE = "mlops_ray.message"
_ENVIRONMENT = "mlops_ray.environment"
_RETIRED = "mlops_ray.retired"
_STARTED_FROM = "mlops_ray.started_from"
_ROWS, _ALL = "mlops_ray.search_rows", "all"
_ENDED_BY = "mlops_ray.ended_by"
_LEADERBOARD = "leaderboard.json"
_SECONDS, _COST = "search_seconds", "search_cost_"  # and the currency
_FOOTPRINT = ("size_bytes", "row_ms", "batch_ms")
_USED = "mlops_ray.used"
_USED_METRICS = ("cpu_s", "wall_s", "process_peak_bytes", "read_bytes", "written_bytes", "asked_cpus")
_HEALTH_TIMEOUT_S = 10.0
# MLflow's limits: a digest of a data set, a parameter or tag value.
_MAX_DIGEST = 36
_MAX_TEXT = 4000

# Codes of MLflow's errors that its operator must act on; the others are mistakes of ours.
_UNAVAILABLE = (
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
)

_RUN_STATUS: dict[TrialStatus, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def connect(settings: Settings) -> MlflowClient:
    """A client of `settings.mlflow_uri`, for runs and the registry; the process's own MLflow settings stay as they are.

    Raises UnavailableError if it does not answer.
    """
    uri = settings.mlflow_uri
    with mlflow_errors(settings):
        if uri.startswith("http"):
            # MLflow's own client retries for minutes before it says that a server is not there.
            httpx.get(f"{uri.rstrip('/')}/health", timeout=_HEALTH_TIMEOUT_S).raise_for_status()
        with one_at_a_time(uri), _quiet_first_use():
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    return client


@contextmanager
def _quiet_first_use() -> Iterator[None]:
    """MLflow's first look at a database tells of each table, and warns of a call of its own."""
    tables = logging.getLogger("mlflow.store.db.utils")
    level = tables.level
    tables.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
            yield
    finally:
        tables.setLevel(level)


@contextmanager
def mlflow_errors(settings: Settings) -> Iterator[None]:
    """Turn what MLflow raises when it cannot be reached, or cannot store, into UnavailableError."""
    try:
        yield
    except (MlflowException, httpx.HTTPError) as error:
        if isinstance(error, MlflowException) and error.error_code not in _UNAVAILABLE:
            raise
        raise UnavailableError(
            f"MLflow at {settings.mlflow_uri} does not answer: {str(error).splitlines()[0]} "
            f"Check that it runs and that mlflow_uri is right, then run the same again."
        ) from error


def experiment_id(client: MlflowClient, settings: Settings, use_case: str) -> str:
    """The use case's MLflow experiment, created if it does not exist, with its artifacts below our artifact root."""
    experiment = client.get_experiment_by_name(use_case)
    if experiment is None:
        try:
            created: str = client.create_experiment(use_case, artifact_location=join(settings.artifacts, "mlflow"))
        except MlflowException:
            # Another process was faster; if that is not why, the line after the block raises.
            experiment = client.get_experiment_by_name(use_case)
            if experiment is None:
                raise
        else:
            return created
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    found: str = experiment.experiment_id
    return found


class SearchRuns:
    """The parent run of one search and its children. Every method raises UnavailableError if MLflow is down."""

    def __init__(
        self,
        settings: Settings,
        client: MlflowClient,
        experiment: str,
        parent_run_id: str,
        metric: str,
        started_from: Mapping[str, Any],
        rows: int | None = None,
    ):
        """started_from, rows: see SearchResult, rows its looked_at; those of the first attempt, whatever has been
        registered since, and however much memory nodes have now."""
        self.started_from = started_from
        self.rows = rows
        self._settings = settings
        self._client = client
        self._experiment = experiment
        self._metric = f"validation_{metric}"
        self.parent_run_id = parent_run_id

    def trials(self, retry_failed: bool = False) -> list[Trial]:
        """What earlier attempts of this search recorded; a trial that had not ended is `running`.

        A trial that failed in another environment is left out and its run marked as retired, so that it runs again:
        what was missing may have been installed. With `retry_failed` every trial that failed is.
        """
        with mlflow_errors(self._settings):
            trials = []
            for run in self._children():
                trial = self._trial(run)
                elsewhere = run.data.tags.get(_ENVIRONMENT) != environment_digest()
                if trial.status == "failed" and (retry_failed or elsewhere):
                    self._client.set_tag(trial.run_id, _RETIRED, "true")
                else:
                    trials.append(trial)
            return trials

    def start(self, trial: Trial, data: TrainingSet) -> Trial:
        """The trial with its run: the one that it had before, or a new one."""
        with mlflow_errors(self._settings):
            if not trial.run_id:
                trial = replace(trial, run_id=self._create(trial))
            parameters = {"candidate": trial.candidate, **trial.parameters}
            texts = [Param(name, str(value)[:_MAX_TEXT]) for name, value in parameters.items()]
            self._client.log_batch(trial.run_id, params=texts)
            self._client.log_inputs(trial.run_id, [_dataset(data)])
            return trial

    def seconds(self) -> float:
        """How long earlier attempts took, up to what they wrote last."""
        return self._logged(_SECONDS)

    def cost(self, currency: str) -> float:
        """What the trials of earlier attempts cost, up to what they wrote last; 0 where nothing was counted in it."""
        return self._logged(f"{_COST}{currency}")

    def _logged(self, name: str) -> float:
        with mlflow_errors(self._settings):
            return float(self._client.get_run(self.parent_run_id).data.metrics.get(name, 0.0))

    def log_spent(self, seconds: float, cost: Mapping[str, float]) -> None:
        """Of the search as a whole, so that an attempt after a kill knows what this one took. cost: by currency."""
        values = {_SECONDS: seconds} | {f"{_COST}{currency}": amount for currency, amount in cost.items()}
        metrics = [Metric(name, value, _now_ms(), 0) for name, value in values.items()]
        with mlflow_errors(self._settings):
            self._client.log_batch(self.parent_run_id, metrics=metrics)

    def log_step(self, trial: Trial, step: Step) -> None:
        """One step's metrics in one batch, so that there are all of them or none."""
        values = {
            self._metric: step.value,
            "fraction": step.fraction,
            "seconds": step.seconds,
            "cpu_seconds": step.cpu_seconds,
        }
        metrics = [Metric(name, value, _now_ms(), round(100 * step.fraction)) for name, value in values.items()]
        with mlflow_errors(self._settings):
            self._client.log_batch(trial.run_id, metrics=metrics)

    def finish(self, trial: Trial) -> None:
        """Record how the trial ended; in MLflow's words a trial stopped early is KILLED."""
        with mlflow_errors(self._settings):
            tags = [RunTag(_STATUS, trial.status), RunTag(_MESSAGE, trial.message[:_MAX_TEXT])]
            tags.append(RunTag(_ENVIRONMENT, environment_digest()))
            tags.append(RunTag(_USED, json.dumps(dict(trial.used))))
            costs = asdict(trial.footprint) if trial.footprint else {}
            measured = {f"onnx_{name}": value for name, value in costs.items()}
            measured |= {f"used_{name}": float(trial.used[name]) for name in _USED_METRICS if name in trial.used}
            metrics = [Metric(name, value, _now_ms(), 0) for name, value in measured.items()]
            self._client.log_batch(trial.run_id, metrics=metrics, tags=tags)
            self._client.set_terminated(trial.run_id, _RUN_STATUS[trial.status])

    def log_leaderboard(self, table: Mapping[str, Any]) -> None:
        """table: its columns and rows, as MLflow shows one; it is written once, and the same again."""
        with mlflow_errors(self._settings):
            self._client.log_dict(self.parent_run_id, dict(table), _LEADERBOARD)
            made = json.dumps([{"path": _LEADERBOARD, "type": "table"}])
            self._client.set_tag(self.parent_run_id, MLFLOW_LOGGED_ARTIFACTS, made)

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"], best: Trial | None, ended_by: str = "") -> None:
        with mlflow_errors(self._settings):
            if ended_by:
                self._client.set_tag(self.parent_run_id, _ENDED_BY, ended_by)
            if best is not None and best.value is not None:
                self._client.log_batch(
                    self.parent_run_id,
                    metrics=[Metric(f"best_{self._metric}", best.value, _now_ms(), 0)],
                    tags=[RunTag("mlops_ray.best_trial", best.trial_id), RunTag("mlops_ray.best_run", best.run_id)],
                )
            self._client.set_terminated(self.parent_run_id, status)

    def _create(self, trial: Trial) -> str:
        # With its tags from the beginning: a run without them would be lost by a kill right after its creation.
        tags = {
            MLFLOW_PARENT_RUN_ID: self.parent_run_id,
            _TRIAL: trial.trial_id,
            _PARAMETERS: json.dumps(
                {"candidate": trial.candidate, "number": trial.number, "parameters": dict(trial.parameters)}
            ),
        }
        created = self._client.create_run(self._experiment, tags=tags, run_name=trial.trial_id)
        run_id: str = created.info.run_id
        return run_id

    def _children(self) -> Iterator[Run]:
        query, token = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.parent_run_id}'", None
        while True:
            page = self._client.search_runs(
                [self._experiment], query, ViewType.ACTIVE_ONLY, 1000, ["attributes.start_time ASC"], token
            )
            yield from (run for run in page if _TRIAL in run.data.tags and _RETIRED not in run.data.tags)
            token = page.token
            if not token:
                return

    def _trial(self, run: Run) -> Trial:
        status: dict[str, TrialStatus] = {status: ours for ours, status in _RUN_STATUS.items()}
        return Trial(
            **json.loads(run.data.tags[_PARAMETERS]),
            run_id=run.info.run_id,
            status=status.get(run.info.status, "running"),
            message=run.data.tags.get(_MESSAGE, ""),
            steps=self._steps(run),
            footprint=_footprint(run),
            used=json.loads(run.data.tags.get(_USED, "{}")),
        )

    def _steps(self, run: Run) -> tuple[Step, ...]:
        if self._metric not in run.data.metrics:
            return ()
        names = ("fraction", self._metric, "seconds", "cpu_seconds")
        columns = [
            {point.step: point.value for point in self._client.get_metric_history(run.info.run_id, name)}
            for name in names
        ]
        return tuple(Step(*(column.get(step, 0.0) for column in columns)) for step in sorted(columns[0]))


def open_search(
    settings: Settings,
    use_case: str,
    metric: str,
    key: str,
    data: TrainingSet,
    tags: Mapping[str, str],
    start_from: Mapping[str, Any] | None = None,
    rows: int | None = None,
) -> SearchRuns:
    """The runs of the search `key`: those of an earlier attempt, or a new parent with the digests of its data.

    start_from, rows: see SearchResult.started_from and looked_at; an earlier attempt's stand.

    Raises UnavailableError if MLflow does not answer.
    """
    client = connect(settings)
    with mlflow_errors(settings):
        experiment = experiment_id(client, settings, use_case)
        query = f"tags.`{_KEY}` = '{key}'"
        found = client.search_runs([experiment], query, order_by=["attributes.start_time ASC"], max_results=1)
        if found:
            parent: str = found[0].info.run_id
            started_from = json.loads(found[0].data.tags.get(_STARTED_FROM, "{}"))
            if said := found[0].data.tags.get(_ROWS):
                rows = None if said == _ALL else int(said)
            client.update_run(parent, status="RUNNING")
        else:
            digests = {"mlops_ray.training_set": data.digest, "mlops_ray.snapshot": data.snapshot}
            started_from = dict(start_from or {})
            tags = {**tags, _STARTED_FROM: json.dumps(started_from)} if started_from else tags
            tags = {**tags, _ROWS: str(rows or _ALL)}
            described = {_KEY: key, "mlops_ray.as_of": data.as_of.isoformat(), **digests, **tags}
            parent = client.create_run(experiment, tags=described, run_name=f"search {key[:12]}").info.run_id
        client.log_inputs(parent, [_dataset(data)])
    return SearchRuns(settings, client, experiment, parent, metric, started_from, rows)


def missing_run(settings: Settings, run_id: str) -> str | None:
    """A sentence if MLflow does not have the run, or has it only as deleted. Raises UnavailableError if it is down."""
    client = connect(settings)
    with mlflow_errors(settings):
        try:
            stage = client.get_run(run_id).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            stage = "not there"
    return None if stage == "active" else f"MLflow's run {run_id} of the search is {stage}"


def _footprint(run: Run) -> Footprint | None:
    values = [run.data.metrics.get(f"onnx_{name}") for name in _FOOTPRINT]
    return None if None in values else Footprint(int(values[0]), float(values[1]), float(values[2]))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _dataset(data: TrainingSet) -> DatasetInput:
    source = json.dumps({"uri": data.url, "digest": data.digest, "snapshot": data.snapshot})
    dataset = Dataset(
        "training_set", data.digest[:_MAX_DIGEST], "local", source, profile=json.dumps({"rows": data.rows})
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
