"""Starting a run exactly once: as a job of Ray's job API, or, where Ray has no dashboard, as a named actor."""

import logging
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.operations.carry_out import MAIN
from mlops_ray.operations.parent_death import ending_with_parent
from mlops_ray.operations.scheduler import RunLauncher, RunOrder
from mlops_ray.retraining.launcher import Phase
from mlops_ray.retraining.ray_jobs import RayJobs, dashboard_url

NAMESPACE = "mlops_ray"
BEGUN = "schedule_runs"
"""Below it in the artifacts stands which submissions have begun."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunJobs:
    """Ray's job API. address: of the dashboard. options: of `mlops-ray schedule run`, such as --state. sends_code: a
    job is sent the folder that this process was sent."""

    address: str
    options: tuple[str, ...]
    sends_code: bool

    def phase(self, submission: str) -> Phase:
        return RayJobs(self.address).phase(submission)

    def start(self, order: RunOrder) -> None:
        """A job that is sent the code finds the definitions in its own folder."""
        definitions = () if self.sends_code else ("--feature-repo", order.feature_repo)
        command = (*MAIN, *_command(order), *self.options, *definitions)
        RayJobs(self.address).submit(order.run.submission, command)


@dataclass(frozen=True)
class RunActors:
    """Detached actors, named by the submission, each with a process. A file that it writes first tells one that died
    from one that was never begun."""

    artifacts: str
    options: tuple[str, ...]

    def phase(self, submission: str) -> Phase:
        if _alive(submission):
            return "running"
        return "new" if Artifacts(self.artifacts).read_json(BEGUN, f"{submission}.json") is None else "ended"

    def start(self, order: RunOrder) -> None:
        submission = order.run.submission
        if self.phase(submission) != "new":
            return
        command = (*MAIN, *_command(order), *self.options, "--feature-repo", order.feature_repo)
        options = {"name": submission, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        actor = ray.remote(num_cpus=0, max_restarts=0)(_RunProcess).options(**options)
        actor.remote(self.artifacts, submission, command)
        _logger.info("Started actor %s", submission)


class _RunProcess:
    """Runs one command and ends. It begins by being made: whoever made it may be dead before it could ask for more."""

    def __init__(self, artifacts: str, submission: str, command: Sequence[str]) -> None:
        Artifacts(artifacts).write_json({}, BEGUN, f"{submission}.json")
        context = ray.get_runtime_context()
        itself, environment = context.current_actor, {**os.environ, "RAY_ADDRESS": context.gcs_address}

        def run() -> None:
            try:
                subprocess.run(list(command), env=environment, check=False, preexec_fn=ending_with_parent())
            finally:
                ray.kill(itself)

        threading.Thread(target=run, name="run", daemon=True).start()


def find_run_launcher(settings: Settings, config: str | None) -> RunLauncher:
    """The job API where this Ray has a dashboard, else actors."""
    options = ("--state", settings.state, "--data", settings.data, *(("--config", config) if config else ()))
    address = dashboard_url()
    if address is None:
        return RunActors(settings.artifacts, options)
    return RunJobs(address, options, "working_dir" in ray.get_runtime_context().runtime_env)


def _command(order: RunOrder) -> tuple[str, ...]:
    run = order.run
    due, ordered = ("--due", run.due_at.isoformat()), ("--ordered", run.submission)
    return "schedule", "run", order.reference, run.operation, *due, *ordered


def _alive(name: str) -> bool:
    try:
        return ray.get_actor(name, namespace=NAMESPACE) is not None
    except ValueError:
        return False
